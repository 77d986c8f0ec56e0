"""Biovision's BVH: a hierarchy of joints and their channels, then a row of numbers a frame.

Channels come in any order, three or six a joint or any other number; rotations are about the joint's own axes in the
order in which they are listed. Positions that a joint has channels for stand in place of its OFFSET, as Blender and
MotionBuilder write them. Units do not matter: the figure is framed by its own height.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.clips.poses.bones import assembled, face_points, facing, mapped
from engine.clips.poses.joints import AT
from engine.clips.poses.view import Moving
from engine.conventions.blender import points_to_house
from engine.errors import BadInput

AGAIN = "export it again"
MAX_BYTES = 400_000_000
LARGEST = 1e9
"""Of a file's numbers, degrees or any unit of length: beyond it there are only damaged ones."""
CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")


@dataclass
class Joint:
    """parent : index, -1 of a root; offset : (3,); channels : names; first : its first column; tip : it is an End Site
    """

    name: str
    parent: int
    offset: np.ndarray
    channels: tuple[str, ...] = ()
    first: int = 0
    tip: bool = False


@dataclass
class Bvh:
    """joints : parents come first; motion : (n, channels) as in the file; frame_s : seconds a frame"""

    joints: list[Joint]
    motion: np.ndarray
    frame_s: float
    warnings: list[str] = field(default_factory=list)

    def roots(self) -> list[int]:
        return [i for i, joint in enumerate(self.joints) if joint.parent < 0]


# -- reading -----------------------------------------------------------------------------------------------------------

def parse_bvh(text: str, name: str = "the BVH file") -> Bvh:
    """Text of a file -> hierarchy and motion. BadInput names the file, the line and what is wrong with it."""
    lines = _lines(text)
    joints, width = _hierarchy(lines, name)
    frames, frame_s = _heading(lines, name)
    return _rows(lines, joints, width, frames, frame_s, name)


Line = tuple[int, str]


def _lines(text: str) -> Iterator[Line]:
    """(number, text) of every line that says something; braces stand on lines of their own."""
    for number, line in enumerate(text.splitlines(), start=1):
        for part in line.replace("{", "\n{\n").replace("}", "\n}\n").split("\n"):
            if part.strip():
                yield number, part.strip()


def _bad(name: str, number: int, what: str, fix: str = AGAIN) -> BadInput:
    return BadInput(f"{name}, line {number}: {what}", fix)


def _hierarchy(lines: Iterator[Line], name: str) -> tuple[list[Joint], int]:
    number, line = next(lines, (0, ""))
    if line.upper() != "HIERARCHY":
        raise BadInput(f"{name} is no BVH file" + (f": it begins with {line[:40]!r}" if line else ": it is empty"),
                       "a BVH file begins with the word HIERARCHY")
    joints: list[Joint] = []
    open_joints: list[int] = []
    awaited: tuple[str, bool] | None = None
    width = 0
    for number, line in lines:
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        kind = word.upper()
        if kind == "MOTION":
            if open_joints or awaited:
                raise _bad(name, number, f"the hierarchy ends while {len(open_joints)} joints are open")
            if not joints:
                raise _bad(name, number, "the hierarchy holds no joint")
            return joints, width
        if kind in ("ROOT", "JOINT", "END"):
            if (kind == "ROOT") != (not open_joints):
                raise _bad(name, number, f"{word} where {'a JOINT' if open_joints else 'a ROOT'} belongs")
            tip = kind == "END"
            awaited = (f"{joints[open_joints[-1]].name} (end)" if tip else rest or f"joint {len(joints)}", tip)
        elif kind == "{":
            if awaited is None:
                raise _bad(name, number, "a brace without a joint")
            joints.append(Joint(awaited[0], open_joints[-1] if open_joints else -1, np.zeros(3), tip=awaited[1]))
            open_joints.append(len(joints) - 1)
            awaited = None
        elif kind == "}":
            if not open_joints:
                raise _bad(name, number, "a closing brace too many")
            open_joints.pop()
        elif kind == "OFFSET" and open_joints:
            joints[open_joints[-1]].offset = _numbers(rest, 3, name, number, "OFFSET")
        elif kind == "CHANNELS" and open_joints:
            joint = joints[open_joints[-1]]
            joint.channels, joint.first = _channels(rest, name, number), width
            width += len(joint.channels)
        else:
            raise _bad(name, number, f"{line[:40]!r} has no place in a hierarchy")
    raise BadInput(f"{name} ends at line {number}, inside its hierarchy: there is no MOTION", f"it is cut off; {AGAIN}")


def _numbers(text: str, count: int, name: str, number: int, what: str) -> np.ndarray:
    words = text.split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise _bad(name, number, f"{what} is followed by {text[:40]!r}, no numbers") from None
    if len(values) != count or not np.isfinite(values).all():
        raise _bad(name, number, f"{what} needs {count} finite numbers, not {text[:40]!r}")
    if what == "OFFSET" and (np.abs(values) > LARGEST).any():
        raise _bad(name, number, f"OFFSET {text[:40]!r} is no place of a joint")
    return values


def _channels(text: str, name: str, number: int) -> tuple[str, ...]:
    words = text.split()
    known = {channel.lower(): channel for channel in CHANNELS}
    if not words or not words[0].isdigit() or int(words[0]) != len(words) - 1:
        raise _bad(name, number, f"CHANNELS announces {words[0] if words else 'nothing'} and names "
                                 f"{max(len(words) - 1, 0)}")
    for word in words[1:]:
        if word.lower() not in known:
            raise _bad(name, number, f"there is no channel {word!r}", f"known: {', '.join(CHANNELS)}")
    return tuple(known[word.lower()] for word in words[1:])


def _heading(lines: Iterator[Line], name: str) -> tuple[int, float]:
    told: dict[str, float] = {}
    for key in ("Frames:", "Frame Time:"):
        number, line = next(lines, (0, ""))
        if not line.lower().startswith(key.lower()):
            raise BadInput(f"{name} has no {key!r} after MOTION" + (f" (line {number})" if number else ""), AGAIN)
        told[key] = float(_numbers(line[len(key):].strip(), 1, name, number, key)[0])
    frames, frame_s = told["Frames:"], told["Frame Time:"]
    if frames < 1 or frames != int(frames) or frames > LARGEST:
        raise BadInput(f"{name} announces {frames:g} frames", "a motion has one frame or more; write how many it has")
    if frame_s <= 0:
        raise BadInput(f"{name} has a frame time of {frame_s:g} s", "write the seconds a frame, for instance 0.0333333")
    return int(frames), frame_s


def _rows(lines: Iterator[Line], joints: list[Joint], width: int, frames: int, frame_s: float, name: str) -> Bvh:
    # Rows are gathered, not put into a table of the announced size: what a file announces may be any number.
    rows: list[np.ndarray] = []
    for number, line in lines:
        row = len(rows)
        if row == frames:
            return Bvh(joints, np.stack(rows), frame_s, [f"{name} announces {frames} frames and holds more, from line "
                                                         f"{number} on: those are left out"])
        words = line.split()
        if len(words) != width:
            cut = f": the file is cut off there, {frames} frames are announced" if next(lines, None) is None else ""
            raise _bad(name, number, f"frame {row} has {len(words)} numbers, the hierarchy's channels need {width}"
                                     + cut)
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            wrong = next(i for i, word in enumerate(words) if not _is_number(word))
            raise _bad(name, number, f"{words[wrong]!r} ({_channel_at(joints, wrong)}) is no number") from None
        if not (np.abs(values) <= LARGEST).all():
            wrong = int(np.flatnonzero(~(np.abs(values) <= LARGEST))[0])
            what = "is no finite number" if not np.isfinite(values[wrong]) else "is no place or turn of a figure"
            raise _bad(name, number, f"{words[wrong]} ({_channel_at(joints, wrong)}) {what}",
                       "repair that frame, or export it again")
        rows.append(values)
    if len(rows) < frames:
        raise BadInput(f"{name} announces {frames:,} frames and holds {len(rows):,}: its motion is cut off",
                       AGAIN + (f", or write {len(rows)} after Frames: to use what is there" if rows else ""))
    return Bvh(joints, np.stack(rows), frame_s)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _channel_at(joints: list[Joint], column: int) -> str:
    joint = next(j for j in joints if j.first <= column < j.first + len(j.channels))
    return f"{joint.channels[column - joint.first]} of {joint.name}"


# -- to places ---------------------------------------------------------------------------------------------------------

def world(bvh: Bvh) -> tuple[np.ndarray, np.ndarray]:
    """Forward kinematics -> places (n, j, 3) and turns (n, j, 3, 3) of every joint, in the file's axes and units."""
    n, count = len(bvh.motion), len(bvh.joints)
    places, turns = np.zeros((n, count, 3)), np.zeros((n, count, 3, 3))
    for i, joint in enumerate(bvh.joints):
        local = np.broadcast_to(joint.offset, (n, 3)).copy()
        turn: np.ndarray = np.broadcast_to(np.eye(3), (n, 3, 3))
        for k, channel in enumerate(joint.channels):
            values, axis = bvh.motion[:, joint.first + k], "XYZ".index(channel[0])
            if channel.endswith("position"):
                local[:, axis] = values
            else:
                turn = turn @ _about(axis, values)
        if joint.parent < 0:
            places[:, i], turns[:, i] = local, turn
        else:
            up = turns[:, joint.parent]
            places[:, i] = places[:, joint.parent] + (up @ local[..., None])[..., 0]
            turns[:, i] = up @ turn
    return places, turns


def _about(axis: int, degrees: np.ndarray) -> np.ndarray:
    """Right-handed rotations (n, 3, 3) about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((len(degrees), 3, 3))
    out[:, axis, axis] = 1
    out[:, i, i], out[:, i, j], out[:, j, i], out[:, j, j] = c, -s, s, c
    return out


def moving(bvh: Bvh, *, person: int | None = None, bones: Mapping[str, str] | None = None, up: str = "auto",
           name: str = "the BVH file") -> Moving:
    """A figure's joints in space, +Y up.

    person : which skeleton, counted from 0, where there are several; bones : joint -> bone, where the names say nothing
    up : "y" or "z" of the file; "auto" takes the axis along which the resting figure is longest from hips to neck
    Raises BadInput: several skeletons and none chosen, bones that are not known.
    """
    roots = bvh.roots()
    if person is None and len(roots) > 1:
        names = ", ".join(f"{i}: {bvh.joints[r].name}" for i, r in enumerate(roots))
        raise BadInput(f"{name} holds {len(roots)} skeletons ({names})", "choose one: --person N")
    if not 0 <= (person or 0) < len(roots):
        raise BadInput(f"{name} holds {len(roots)} skeletons; there is no number {person}",
                       f"--person 0 to {len(roots) - 1}")
    chosen = _subtree(bvh.joints, roots[person or 0])
    own = [i for i in chosen if not bvh.joints[i].tip]
    found = {joint: own[k] for joint, k in mapped([bvh.joints[i].name for i in own], bones, name).items()}
    places, turns = world(bvh)
    rest = _rest(bvh.joints)
    for side in "rl":  # a skeleton may end at the forearm or the shin: then their tips are wrists and ankles
        for joint, before in (("wrist", "elbow"), ("ankle", "knee")):
            tips = [i for i in chosen if bvh.joints[i].parent == found.get(f"{side}_{before}")]
            if f"{side}_{joint}" not in found and tips:
                found[f"{side}_{joint}"] = tips[0]
    at_rest = assembled({joint: rest[None, i] for joint, i in found.items()}, 1)[0]
    basis = _house_basis(at_rest, up)
    told = {joint: places[:, i] @ basis.T for joint, i in found.items()}
    if "head" in found:
        head = found["head"]
        crown = _crown(bvh.joints, rest, found, at_rest)
        # In the resting pose all joints are unturned: what is up and in front there turns with the head.
        turn = basis @ turns[:, head]
        front = basis.T @ facing(at_rest @ basis.T)
        told |= face_points(told["head"], turn @ crown, turn @ front)
    return Moving(assembled(told, len(places)), 1 / bvh.frame_s,
                  meta={"warnings": list(bvh.warnings)} if bvh.warnings else {})


def _subtree(joints: list[Joint], root: int) -> list[int]:
    kept = {root}
    for i, joint in enumerate(joints):
        if joint.parent in kept:
            kept.add(i)
    return sorted(kept)


def _rest(joints: list[Joint]) -> np.ndarray:
    """(j, 3) places of the joints when nothing is turned."""
    out = np.zeros((len(joints), 3))
    for i, joint in enumerate(joints):
        out[i] = joint.offset + (out[joint.parent] if joint.parent >= 0 else 0)
    return out


def _house_basis(at_rest: np.ndarray, up: str) -> np.ndarray:
    """(3, 3): the file's axes -> +Y up."""
    if up == "auto":
        trunk = np.abs(at_rest[AT["neck"]] - (at_rest[AT["r_hip"]] + at_rest[AT["l_hip"]]) / 2)
        up = "z" if trunk[2] > trunk[1] else "y"
    return points_to_house(np.eye(3)).T if up == "z" else np.eye(3)


def _crown(joints: list[Joint], rest: np.ndarray, found: Mapping[str, int], at_rest: np.ndarray) -> np.ndarray:
    """From the head's joint to the crown, at rest (3,): to the end site if there is one, else a third of the trunk."""
    head = found["head"]
    tips = [i for i, joint in enumerate(joints) if joint.parent == head and np.linalg.norm(joint.offset) > 1e-6]
    trunk = at_rest[AT["neck"]] - (at_rest[AT["r_hip"]] + at_rest[AT["l_hip"]]) / 2
    along = [rest[i] - rest[head] for i in tips if np.dot(rest[i] - rest[head], trunk) > 0]
    # Eyes and jaws hang at the head too; the crown is what lies farthest along the trunk.
    best = max(along, key=lambda v: float(np.dot(v, trunk)), default=None)
    if best is None or np.linalg.norm(best) < 0.15 * np.linalg.norm(trunk):
        return np.asarray(trunk / 3)
    return np.asarray(best)


def read_bvh(path: Path) -> Bvh:
    """A file -> hierarchy and motion. BadInput where it cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size / 1e6:,.0f} MB: no motion is that long", "cut it")
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the motion {path}: {error.strerror or error}", "check the path") from error
    if b"\0" in data[:4096]:
        raise BadInput(f"{path} is no BVH file: it is not text", "a BVH file begins with the word HIERARCHY")
    return parse_bvh(data.decode("utf-8", errors="replace"), str(path))
