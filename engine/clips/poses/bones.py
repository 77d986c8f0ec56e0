"""Which bone is which joint: the names that Mixamo, CMU, Rigify, Unreal, VRM, SMPL and their kin give, and a face made
from the head bone.

A joint is where its bone begins: the shoulder is the upper arm's head, the elbow the forearm's, the wrist the hand's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from engine.clips.poses.joints import AT, NAMES
from engine.errors import BadInput
from engine.runs.words import nearest

BASES: dict[str, tuple[str, ...]] = {
    "shoulder": ("upperarm", "uparm", "humerus", "arm", "shoulder"),
    "elbow": ("forearm", "lowerarm", "loarm", "elbow", "radius"),
    "wrist": ("hand", "wrist"),
    "hip": ("upleg", "upperleg", "thigh", "femur", "hip", "leg"),
    "knee": ("lowerleg", "loleg", "calf", "shin", "knee", "tibia", "leg"),
    "ankle": ("foot", "ankle"),
    "neck": ("neck", "lowerneck", "neckbase"),
    "head": ("head", "skull"),
}
"""Joint -> what its bone is called, side and separators left out; the first that a file has is taken. "shoulder" comes
last: beside an upper arm it is the collar bone."""
SIDED = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
WANTED = (*(f"{side}_{joint}" for side in "rl" for joint in SIDED), "neck", "head")
RIGIFY_SPINE = {"004": "neck", "006": "head"}
"""Rigify counts the neck and the head among the spine's bones."""
CONTROLS = ("mch", "wgt", "vis", "ctrl", "ik", "fk", "tweak", "org", "pole", "end", "nub", "top", "twist", "roll")
"""Words of bones that are not the figure's own; "end" and "top" are tips."""
NOISE = ("mixamorig", "bip", "biped", "def", "cc", "base", "j", "jnt", "bone", "character", "rig", "b")
SIDES = {"l": "l", "left": "l", "r": "r", "right": "r"}
NEEDED = ("r_shoulder", "l_shoulder", "r_hip", "l_hip")
"""Without these a figure has no shape."""

FACE = {"nose": (0.0, 0.32, 0.60), "r_eye": (-0.16, 0.50, 0.50), "l_eye": (0.16, 0.50, 0.50),
        "r_ear": (-0.38, 0.42, 0.06), "l_ear": (0.38, 0.42, 0.06)}
"""Points of a face in the head's frame (to the figure's left, up, forward), in head heights: from the head bone's
joint, at the base of the skull, to the crown. A grown person's proportions."""


def told_apart(bone: str) -> tuple[str, str, str]:
    """A bone's name -> (side "r", "l" or "", what it is in plain letters, its number).

    "mixamorig:LeftForeArm" -> ("l", "forearm", ""); "DEF-upper_arm.R.001" -> ("r", "upperarm", "001")
    """
    plain = bone.rpartition(":")[2]
    plain = re.sub(r"^mixamorig\d*", "", plain)
    words = [w.lower() for w in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", plain)]
    side, number, kept = "", "", []
    for i, word in enumerate(words):
        if word in SIDES and not side:
            side = SIDES[word]
        elif word.isdigit():
            number = word if i and words[i - 1] not in NOISE else number
        elif word not in NOISE:
            kept.append(word)
    base = "".join(kept)
    every = {name for names in BASES.values() for name in names}
    if not side and base[:1] in ("l", "r") and base[1:] in every and base not in every:  # CMU's own: lhumerus
        side, base = base[0], base[1:]
    return side, base, number


def mapped(bones: Sequence[str], chosen: Mapping[str, str] | None = None, where: str = "the skeleton",
           remedy: str = "name them: bones = {r_shoulder = \"...\", ...}") -> dict[str, int]:
    """Joint (OpenPose's names, and "head") -> index of its bone. Joints whose bone is not there are left out.

    chosen : joint -> bone, in place of what the names say
    Raises BadInput for names that are not there, and where shoulders or hips cannot be found.
    """
    at = {bone: i for i, bone in reversed(list(enumerate(bones)))}
    found: dict[str, int] = {}
    for joint, bone in (chosen or {}).items():
        if joint not in WANTED:
            raise BadInput(f"there is no joint {joint!r} to choose a bone for", nearest(joint, WANTED))
        if bone not in at:
            raise BadInput(f"{where} has no bone {bone!r} (chosen for {joint})", nearest(bone, at))
        found[joint] = at[bone]
    told = [(i, *told_apart(bone)) for i, bone in enumerate(bones)]
    for joint in WANTED:
        if joint not in found:
            side, _, kind = joint.rpartition("_")
            best = _best(told, bones, side, kind)
            if best is not None:
                found[joint] = best
    for side in "rl":  # "leg" is the shin, but for files where nothing else can be the thigh
        if found.get(f"{side}_hip") is not None and found.get(f"{side}_hip") == found.get(f"{side}_knee"):
            del found[f"{side}_hip"]
    lacking = [joint for joint in NEEDED if joint not in found]
    if lacking:
        shown = ", ".join(bones[:12]) + (f" and {len(bones) - 12} more" if len(bones) > 12 else "")
        raise BadInput(f"{where} has no bones known as {', '.join(lacking)}; it has {shown}", remedy)
    return found


def _best(told: Iterable[tuple[int, str, str, str]], bones: Sequence[str], side: str, kind: str) -> int | None:
    candidates = []
    for i, of_side, base, number in told:
        words = set(re.findall(r"[a-z]+", bones[i].lower()))
        if kind in ("neck", "head") and base == "spine" and number in RIGIFY_SPINE:
            if RIGIFY_SPINE[number] == kind and not of_side:
                candidates.append((len(BASES[kind]), bool(words & set(CONTROLS)), number, i))
        elif of_side == side and base in BASES[kind]:
            candidates.append((BASES[kind].index(base), bool(words & set(CONTROLS)), number, i))
    return min(candidates)[3] if candidates else None


def face_points(head: np.ndarray, up: np.ndarray, forward: np.ndarray) -> dict[str, np.ndarray]:
    """Nose, eyes and ears of a head.

    head : (n, 3) the head bone's joint; up : (n, 3) from there to the crown, its length is the head's height
    forward : (n, 3) where the face looks, any length; what of it is along ``up`` is left out
    """
    height = np.linalg.norm(up, axis=-1, keepdims=True)
    y = up / np.maximum(height, 1e-12)
    z = forward - (forward * y).sum(-1, keepdims=True) * y
    z = z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
    x = np.cross(y, z)  # to the figure's left: it faces +Z and its right is -X
    return {name: head + height * (a * x + b * y + c * z) for name, (a, b, c) in FACE.items()}


def assembled(places: Mapping[str, np.ndarray], frames: int) -> np.ndarray:
    """Joint -> (n, 3) places -> (n, 18, 3), NaN where a joint is not there. A missing neck is the middle of the
    shoulders."""
    out = np.full((frames, len(NAMES), 3), np.nan)
    for name, place in places.items():
        if name in AT:
            out[:, AT[name]] = place
    if "neck" not in places:
        out[:, AT["neck"]] = (out[:, AT["r_shoulder"]] + out[:, AT["l_shoulder"]]) / 2
    return out


def facing(joints: np.ndarray, up: np.ndarray | None = None) -> np.ndarray:
    """Where a figure looks: (..., 18, 3) -> (..., 3) unit, from its shoulders and hips, level with ``up`` (+Y)."""
    y = np.array([0.0, 1.0, 0.0]) if up is None else up
    across = (joints[..., AT["l_shoulder"], :] - joints[..., AT["r_shoulder"], :]
              + joints[..., AT["l_hip"], :] - joints[..., AT["r_hip"], :])
    front = np.cross(across, y)
    return np.asarray(front / np.maximum(np.linalg.norm(front, axis=-1, keepdims=True), 1e-12))
