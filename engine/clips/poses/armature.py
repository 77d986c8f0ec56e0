"""A posed armature as JSON: what the Blender add-on writes, and any other program can.

    {
      "schema": "maquette.armature", "version": 1,
      "up": "z",                        the axis that points up, "z" (Blender's, the default) or "y"
      "fps": 24.0, "loop": false,
      "bones": ["hips", "upper_arm.L", ...],
      "heads": [[[x, y, z], ...], ...], one list a frame, in it one place a bone, in the world, any unit
      "tails": [[[x, y, z], ...], ...], the same for the bones' ends; may be left out
      "forward": [[x, y, z], ...],      optional: where the face looks, one direction a frame
      "map": {"r_shoulder": "upper_arm.R", ...},    optional, where the names do not say it: OpenPose's joints (and
                                        "head") -> the bone that begins there
      "camera": {                       optional; without it the poses are seen as the user asks
        "matrix_world": 4 rows of 4,    the camera's, as Blender has it: it looks along its own -Z, +Y is up in the
                                        picture; one for the whole clip, or one a frame
        "width": 1024, "height": 1024,  of the picture, pixels
        "lens_mm": 50.0,                on a 36 mm sensor, along the picture's longer side
        "ortho_scale": 2.0              instead of lens_mm: what the longer side shows
      }
    }

null in a place of "heads" means that the bone is not there in that frame. Joints are where bones begin, see
``engine.clips.poses.bones``; wrists and ankles may be the tails of forearms and shins. Nose, eyes and ears are made
from the head bone: from its head to its tail is up, "forward" (else the body's own front) is where it looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.clip_artifacts import Poses
from engine.clips.poses.bones import assembled, face_points, facing, mapped
from engine.clips.poses.framing import outside, warned
from engine.clips.poses.joints import AT
from engine.clips.poses.proportions import of_space
from engine.clips.poses.view import Moving
from engine.conventions import blender
from engine.errors import BadInput

SCHEMA = "maquette.armature"
VERSION = 1
HINT = "write it again with the Blender add-on of this version, or see engine/clips/poses/armature.py"
MAX_BYTES = 400_000_000
LARGEST = 1e9
"""Of a place, any unit: beyond it there are only damaged ones."""
KEYS = ("schema", "version", "up", "fps", "loop", "bones", "heads", "tails", "forward", "map", "camera")
CAMERA_KEYS = ("matrix_world", "width", "height", "lens_mm", "ortho_scale")


def read_json(path: Path) -> dict[str, Any]:
    """The file's object. BadInput where it cannot be read or is of another kind."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size / 1e6:,.0f} MB: no motion is that long", "cut it")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read the armature {path}: {error.strerror or error}", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON: {' '.join(str(error).split())[:120]}", HINT) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise BadInput(f"{path} is no armature: its schema is not {SCHEMA!r}", HINT)
    if data.get("version") != VERSION:
        raise BadInput(f"{path} has version {data.get('version')!r}; this Maquette reads version {VERSION}", HINT)
    for key in data:
        if key not in KEYS:
            raise BadInput(f"{path}: unknown key {key!r}", f"known: {', '.join(KEYS)}")
    return data


def moving(data: Mapping[str, Any], name: str = "the armature", bones: Mapping[str, str] | None = None) -> Moving:
    """The armature's joints in space, +Y up. bones : joint -> bone, over what the file and the names say."""
    names = data.get("bones")
    if not isinstance(names, list) or not names or not all(isinstance(bone, str) for bone in names):
        raise BadInput(f"{name}: bones is no list of names", HINT)
    if len(set(names)) != len(names):
        raise BadInput(f"{name} names the bone {next(b for b in names if names.count(b) > 1)!r} twice", HINT)
    up = data.get("up", "z")
    if up not in ("y", "z"):
        raise BadInput(f"{name}: up is {up!r}", "write \"z\" or \"y\"")
    fps = data.get("fps", 24.0)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000:
        raise BadInput(f"{name}: fps is {fps!r}", "write the frames a second")
    heads = _places(data.get("heads"), "heads", name, len(names))
    tails = _places(data["tails"], "tails", name, len(names)) if data.get("tails") is not None else heads * np.nan
    if len(heads) != len(tails):
        raise BadInput(f"{name} has {len(heads)} frames of heads and {len(tails)} of tails", HINT)
    if up == "z":
        heads, tails = blender.points_to_house(heads), blender.points_to_house(tails)
    found = mapped(names, {**_map(data, name), **(bones or {})}, name)
    told = {joint: heads[:, i] for joint, i in found.items()}
    for side in "rl":
        for joint, before in (("wrist", "elbow"), ("ankle", "knee")):
            if f"{side}_{joint}" not in told and f"{side}_{before}" in found:
                told[f"{side}_{joint}"] = tails[:, found[f"{side}_{before}"]]
    meta: dict[str, Any] = {"source": f"armature of {len(names)} bones"}
    if "head" in found:
        crown = tails[:, found["head"]] - told["head"]
        if np.isfinite(crown).all() and (np.linalg.norm(crown, axis=-1) > 1e-9).all():
            told |= face_points(told["head"], crown, _forward(data, name, told, len(heads), up))
        else:
            meta = warned(meta, f"{name} does not tell where its head bone ends: there is no face to draw")
    else:
        meta = warned(meta, f"{name} has no bone known as the head: there is no face to draw")
    return Moving(assembled(told, len(heads)), float(fps), bool(data.get("loop", False)), meta=meta)


def _places(data: Any, key: str, name: str, bones: int) -> np.ndarray:
    if not isinstance(data, list) or not data:
        raise BadInput(f"{name}: {key} is no list of frames", HINT)
    out = np.full((len(data), bones, 3), np.nan)
    for i, frame in enumerate(data):
        if not isinstance(frame, list) or len(frame) != bones:
            held = len(frame) if isinstance(frame, list) else 0
            raise BadInput(f"{name}: frame {i} of {key} has {held} places for {bones} bones", HINT)
        for k, place in enumerate(frame):
            if place is not None:
                out[i, k] = _vector(place, f"{name}: {key}, frame {i}, bone {k}")
    return out


def _vector(data: Any, where: str) -> np.ndarray:
    if (not isinstance(data, list) or len(data) != 3 or any(isinstance(v, bool) or not isinstance(v, int | float)
                                                            or not abs(v) <= LARGEST for v in data)):
        raise BadInput(f"{where} is {str(data)[:60]}, not three finite numbers of a place", HINT)
    return np.asarray(data, dtype=np.float64)


def _map(data: Mapping[str, Any], name: str) -> dict[str, str]:
    told = data.get("map") or {}
    if not isinstance(told, dict) or not all(isinstance(bone, str) for bone in told.values()):
        raise BadInput(f"{name}: map is no table of joints and bones", HINT)
    return {str(joint): bone for joint, bone in told.items()}


def _forward(data: Mapping[str, Any], name: str, told: Mapping[str, np.ndarray], frames: int, up: str) -> np.ndarray:
    rows = data.get("forward")
    if rows is None:
        return facing(assembled(told, frames))
    if not isinstance(rows, list) or len(rows) != frames:
        raise BadInput(f"{name}: forward is not one direction for each of {frames} frames", HINT)
    out = np.stack([_vector(row, f"{name}: forward, frame {i}") for i, row in enumerate(rows)])
    return blender.points_to_house(out) if up == "z" else out


def through_camera(data: Mapping[str, Any], figure: Moving, name: str = "the armature") -> Poses | None:
    """The figure as the file's own camera sees it; None where it brings none."""
    camera = data.get("camera")
    if camera is None:
        return None
    if not isinstance(camera, dict):
        raise BadInput(f"{name}: camera is no table", HINT)
    for key in camera:
        if key not in CAMERA_KEYS:
            raise BadInput(f"{name}: unknown key {key!r} of the camera", f"known: {', '.join(CAMERA_KEYS)}")
    width, height = (camera.get(key) for key in ("width", "height"))
    if not all(isinstance(v, int) and not isinstance(v, bool) and 16 <= v <= 16384 for v in (width, height)):
        raise BadInput(f"{name}: the camera's picture is {width} x {height}", "write width and height in pixels")
    assert isinstance(width, int) and isinstance(height, int)
    try:
        world = np.asarray(camera.get("matrix_world"), dtype=np.float64)
    except (TypeError, ValueError):
        world = np.zeros(0)
    n = len(figure.joints)
    if world.shape not in ((4, 4), (n, 4, 4)) or not np.isfinite(world).all() or \
            (np.abs(np.linalg.det(world[..., :3, :3])) < 1e-9).any():
        raise BadInput(f"{name}: the camera's matrix_world is not 4 rows of 4 numbers", HINT)
    if data.get("up", "z") == "z":
        world = blender.poses_to_house(world)
    local = _local(figure.joints, np.broadcast_to(world, (n, 4, 4)))
    lens, ortho = camera.get("lens_mm"), camera.get("ortho_scale")
    given = [v for v in (lens, ortho) if v is not None]
    if len(given) != 1 or isinstance(given[0], bool) or not isinstance(given[0], int | float) or not given[0] > 0:
        raise BadInput(f"{name}: the camera needs lens_mm or ortho_scale, one of them", HINT)
    depth = -local[..., 2]
    if lens is not None:
        if np.nanmin(depth) <= 0:
            raise BadInput(f"{name}: part of the figure is behind its camera", "move the camera, or leave it out")
        focal = float(blender.focal_pixels(np.array(lens), width, height))
        per_unit = focal / depth
    else:
        per_unit = np.full_like(depth, max(width, height) / float(given[0]))
    places = np.stack([width / 2 + per_unit * local[..., 0], height / 2 - per_unit * local[..., 1]], -1)
    scale = float(np.nanmedian(per_unit[:, AT["neck"]]))
    meta = {**figure.meta, "bones": {bone: length * scale for bone, length in of_space(figure.joints).items()}}
    poses = Poses(places.astype(np.float32), (height, width), figure.fps, figure.loop, meta)
    if (share := outside(poses)) > 0.01:
        poses.meta = warned(meta, f"{share:.0%} of the joints lie outside of the camera's picture")
    return poses


def _local(joints: np.ndarray, world: np.ndarray) -> np.ndarray:
    """(n, k, 3) in the world -> in the camera's own axes; a camera's scale has no meaning and is taken out."""
    turn = world[:, :3, :3] / np.linalg.norm(world[:, :3, :3], axis=1, keepdims=True)
    return np.einsum("nji,nkj->nki", turn, joints - world[:, None, :3, 3])
