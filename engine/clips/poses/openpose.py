"""OpenPose's JSON: people with pose_keypoints_2d, in one file a frame or many frames in one.

Read: OpenPose's own output (a file a frame, a folder of numbered files), lists of such frames, {"frames": [...]}, and
what control nets' annotators write (canvas_width, canvas_height beside the people; places in pixels or in shares of the
canvas). Joints come by 18 (OpenPose), 25 (BODY_25) or 17 (COCO), as x, y, confidence, or x, y alone. What OpenPose did
not find, it writes as 0, 0, 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engine.clip_artifacts import JOINTS, Poses
from engine.clips.poses.framing import framed, warned
from engine.clips.poses.joints import from_layout
from engine.errors import BadInput

HINT = 'a frame is {"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}]}'
KEYS = ("pose_keypoints_2d", "pose_keypoints", "keypoints")
MAX_BYTES = 400_000_000
LARGEST = 1e6
"""Of a place in a picture, pixels."""
BARE = (512, 512)
"""Size (h, w) of the picture that joints without a canvas are framed into."""
NUMBERS = {n * k: (n, k) for n in (17, 18, 25) for k in (2, 3)}


@dataclass(frozen=True)
class Frame:
    """people : each (18, 3), x, y, confidence; canvas : (h, w) or None; where : for messages"""

    people: list[np.ndarray]
    canvas: tuple[int, int] | None
    where: str


def read_openpose(path: Path, *, person: int | None = None, least: float = 0.1, fps: float = 12.0,
                  size: tuple[int, int] | None = None) -> Poses:
    """A file, or a folder of numbered files, -> poses; joints below the confidence ``least`` are NaN.

    person : which one, counted from 0, where several are seen. A frame without that person has no joints.
    size : (h, w) of the pictures, where the files do not tell; without it the figure is framed, and said so
    Raises BadInput: files that are no such JSON, of different canvases, with several people and none chosen, with
    nobody in any frame.
    """
    frames = _frames(path)
    most = max(len(frame.people) for frame in frames)
    if most == 0:
        raise BadInput(f"nobody is in any of the {len(frames)} frames of {path}", "give frames with one figure")
    if most > 1 and person is None:
        crowded = [i for i, frame in enumerate(frames) if len(frame.people) > 1]
        raise BadInput(f"{path} shows {most} people (first in frame {crowded[0]})",
                       f"choose one, counted from 0: --person 0 to --person {most - 1}")
    chosen = person or 0
    if not 0 <= chosen < most:
        raise BadInput(f"{path} shows {most} people; there is no person {chosen}", f"--person 0 to {most - 1}")
    joints = np.full((len(frames), JOINTS, 2), np.nan)
    for i, frame in enumerate(frames):
        if chosen < len(frame.people):
            table = frame.people[chosen]
            joints[i] = np.where((table[:, 2] >= least)[:, None], table[:, :2], np.nan)
    if not np.isfinite(joints).all(-1).any():
        told = any(np.isfinite(table[:, :2]).all(-1).any() for frame in frames for table in frame.people)
        raise BadInput(f"no joint of {path} is known" + (f" with a confidence of {least:g}" if told else
                                                         ": all are missing, or no numbers"),
                       "lower it with --set load_poses.min_confidence=0" if told else HINT)
    return _in_picture(joints, frames, path, fps, size)


def _in_picture(joints: np.ndarray, frames: list[Frame], path: Path, fps: float, size: tuple[int, int] | None) -> Poses:
    meta: dict[str, Any] = {"source": f"OpenPose JSON, {len(frames)} frames"}
    canvases = {frame.canvas for frame in frames if frame.canvas is not None}
    if len(canvases) > 1:
        sizes = ", ".join(f"{w} x {h}" for h, w in sorted(canvases))
        raise BadInput(f"the frames of {path} are of pictures of different sizes: {sizes}", "give frames of one video")
    canvas = next(iter(canvases), None) or size
    # Annotators of control nets write shares of the canvas; no figure is one pixel large.
    if np.nanmax(np.abs(joints)) <= 1.5 and canvas is not None:
        joints = joints * np.array([canvas[1], canvas[0]])
    if canvas is None:
        meta = warned(meta, f"{path.name} does not say how large its pictures are: the figure is framed to "
                            "three quarters of the picture (pose_width and pose_height tell it)")
        return Poses(framed(joints, BARE).astype(np.float32), BARE, fps, False, meta)
    return Poses(joints.astype(np.float32), canvas, fps, False, meta)


# -- files -------------------------------------------------------------------------------------------------------------

def numbered(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """A folder's files with these endings, by the last number in their names, then by name. BadInput for a number
    that stands twice."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")]

    def number(path: Path) -> int:
        told = re.findall(r"\d+", path.stem)
        return int(told[-1]) if told else -1
    ordered = sorted(found, key=lambda p: (number(p), p.name))
    for one, other in pairwise(ordered):
        if number(one) == number(other) >= 0:
            raise BadInput(f"{folder} holds two frames number {number(one)}: {one.name} and {other.name}",
                           "keep the frames of one clip in a folder")
    return ordered


def _frames(path: Path) -> list[Frame]:
    if path.is_dir():
        files = numbered(path, (".json",))
        if not files:
            raise BadInput(f"{path} holds no .json files", "give a folder of OpenPose's files, one a frame")
        out = []
        for file in files:
            inside = _frames_in(_json(file), str(file))
            if len(inside) != 1:
                raise BadInput(f"{file} holds {len(inside)} frames, in a folder of one file a frame",
                               "give that file alone")
            out += inside
        return out
    return _frames_in(_json(path), str(path))


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size / 1e6:,.0f} MB: no poses are that long", "cut it")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read the poses {path}: {error.strerror or error}", "check the path") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no JSON: it is not text", HINT) from error
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}", HINT) from error
    except RecursionError as error:
        raise BadInput(f"{path} is no JSON of poses: it is nested too deeply", HINT) from error
    except ValueError as error:  # a number of thousands of digits
        raise BadInput(f"{path} is no JSON of poses: {' '.join(str(error).split())[:80]}", HINT) from error


def _frames_in(data: Any, where: str) -> list[Frame]:
    if isinstance(data, dict) and isinstance(data.get("frames"), list):
        outer = data
        data = [{**{k: outer[k] for k in ("canvas_width", "canvas_height") if k in outer}, **f}
                if isinstance(f, dict) else f for f in data["frames"]]
    if isinstance(data, dict):
        return [_frame(data, where)]
    if isinstance(data, list) and data:
        return [_frame(frame, f"{where}, frame {i}") for i, frame in enumerate(data)]
    raise BadInput(f"{where} holds no frames", HINT)


def _frame(data: Any, where: str) -> Frame:
    people = data.get("people") if isinstance(data, dict) else None
    if not isinstance(people, list):
        raise BadInput(f"{where} has no list of people", HINT)
    width, height = data.get("canvas_width"), data.get("canvas_height")
    canvas = None
    if width is not None or height is not None:
        if not all(isinstance(v, int | float) and 1 <= v <= 65536 for v in (width, height)):
            raise BadInput(f"{where}: a canvas of {width} x {height}", "write canvas_width and canvas_height in pixels")
        canvas = (round(height), round(width))
    return Frame([_person(one, f"{where}, person {i}") for i, one in enumerate(people)], canvas, where)


def _person(data: Any, where: str) -> np.ndarray:
    key = next((k for k in KEYS if isinstance(data, dict) and data.get(k) is not None), None)
    values = data[key] if key else None
    if not isinstance(values, list):
        raise BadInput(f"{where} has no pose_keypoints_2d", HINT)
    if values and all(isinstance(v, list) for v in values):
        values = [number for row in values for number in row]
    if not values:  # seen, but nothing of the body
        return np.zeros((JOINTS, 3))
    if len(values) not in NUMBERS:
        raise BadInput(f"{where} has {len(values)} numbers", "18 joints (OpenPose), 25 (BODY_25) or 17 (COCO) of x, y, "
                                                             "confidence are known: 54, 75 or 51 numbers")
    if not {type(value) for value in values} <= {int, float, type(None)}:
        i = next(i for i, value in enumerate(values) if type(value) not in (int, float, type(None)))
        raise BadInput(f"{where}: number {i} is {values[i]!r}", HINT)
    large = next((i for i, v in enumerate(values) if v is not None and LARGEST < abs(v) != math.inf), None)
    if large is not None:
        raise BadInput(f"{where}: number {large} is {str(values[large])[:12]}, no place in a picture",
                       "places are in pixels")
    count, columns = NUMBERS[len(values)]
    table = np.array(values, dtype=np.float64).reshape(count, columns)  # null becomes NaN
    if columns == 2:
        table = np.c_[table, np.ones(count)]
    absent = ~np.isfinite(table).all(-1) | ((table[:, :2] == 0).all(-1))
    table[absent] = np.nan, np.nan, 0.0
    return from_layout(table)


def write_openpose(poses: Poses, path: Path) -> int:
    """Write poses as OpenPose does: to a ``.json`` file as one list of frames, else into a folder of numbered files.
    Unknown joints are 0, 0, 0; known ones have the confidence 1. -> number of files
    """
    frames = []
    for joints in np.asarray(poses.joints, dtype=float):
        known = np.isfinite(joints).all(-1)
        table = np.c_[np.where(known[:, None], joints, 0), known]
        people = [{"person_id": [-1], "pose_keypoints_2d": np.round(table, 4).ravel().tolist()}]
        frames.append({"version": 1.3, "people": people if known.any() else [], "canvas_width": poses.size[1],
                       "canvas_height": poses.size[0]})
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps(frames) + "\n", encoding="utf-8")
        return 1
    path.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        (path / f"{i:012d}_keypoints.json").write_text(json.dumps(frame) + "\n", encoding="utf-8")
    return len(frames)
