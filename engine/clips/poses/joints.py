"""OpenPose's 18 joints: names, sides, the tree of limbs, and the layouts that other programs number them in."""

from __future__ import annotations

import numpy as np

from engine.clip_artifacts import JOINTS

NAMES = ("nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "r_hip", "r_knee",
         "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear")
"""In OpenPose's order. "r" is the figure's own right: it is on the viewer's left when the figure is seen from the
front."""
AT = {name: i for i, name in enumerate(NAMES)}
HEAD = tuple(AT[name] for name in ("nose", "r_eye", "l_eye", "r_ear", "l_ear"))
BODY = tuple(i for i in range(JOINTS) if i not in HEAD)
ANKLES = (AT["r_ankle"], AT["l_ankle"])
HIPS = (AT["r_hip"], AT["l_hip"])


def _twin(name: str) -> str:
    return {"r": "l", "l": "r"}[name[0]] + name[1:] if name[:2] in ("r_", "l_") else name


MIRROR = tuple(AT[_twin(name)] for name in NAMES)
"""Joint -> the same joint of the other side: what a mirrored picture shows there."""

PELVIS = JOINTS
"""The middle of the hips, which OpenPose-18 lacks: :func:`with_pelvis` adds it."""
BONES: dict[str, tuple[int, int]] = {
    "trunk": (AT["neck"], PELVIS),
    **{f"{side}_{name}": (PELVIS if first == "pelvis" else AT[first if first in AT else f"{side}_{first}"],
                          AT[f"{side}_{second}"])
       for name, first, second in (("collar", "neck", "shoulder"), ("upper_arm", "shoulder", "elbow"),
                                   ("forearm", "elbow", "wrist"), ("pelvis", "pelvis", "hip"), ("thigh", "hip", "knee"),
                                   ("shin", "knee", "ankle")) for side in "rl"},
    "nose": (AT["neck"], AT["nose"]),
    **{f"{side}_{name}": (AT[first if first in AT else f"{side}_{first}"], AT[f"{side}_{second}"])
       for name, first, second in (("eye", "nose", "eye"), ("ear", "eye", "ear")) for side in "rl"},
}
"""Bone -> (parent joint, child joint): a tree that begins at the neck; parents come first."""

BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
"""Where each of the 18 stands among OpenPose's 25 (8 is the middle of the hips, from 19 on there are feet)."""
COCO_17 = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""Where each of the 18 stands among COCO's 17 (nose; left before right: eye, ear, shoulder, elbow, wrist, hip, knee,
ankle); -1 is the neck, which COCO lacks: the middle of the shoulders, as OpenPose's own training data has it."""


def from_layout(joints: np.ndarray) -> np.ndarray:
    """(..., 17, 18 or 25, c) of COCO, OpenPose-18 or BODY_25 -> (..., 18, c); c is 2, or 3 with the confidence.

    COCO's neck has the lower of the shoulders' confidences. ValueError for another number of joints.
    """
    count = joints.shape[-2]
    if count == JOINTS:
        return joints
    if count == 25:
        return joints[..., list(BODY_25), :]
    if count == 17:
        out = joints[..., list(COCO_17), :].copy()
        shoulders = out[..., [AT["r_shoulder"], AT["l_shoulder"]], :]
        out[..., AT["neck"], :] = shoulders.mean(-2)
        out[..., AT["neck"], 2:] = shoulders[..., 2:].min(-2)
        return out
    raise ValueError(f"{count} joints are no known layout: 17 (COCO), 18 (OpenPose) and 25 (BODY_25) are")


def seen(joints: np.ndarray) -> np.ndarray:
    """(..., 18, 2) -> (..., 18) bool: the joints that are known."""
    return np.isfinite(joints).all(-1)


def with_pelvis(joints: np.ndarray) -> np.ndarray:
    """(..., 18, d) -> (..., 19, d): the middle of the hips is added, or the one hip that is known."""
    hips = joints[..., list(HIPS), :]
    known = np.isfinite(hips).all(-1, keepdims=True)
    count = known.sum(-2)
    middle = np.where(known, hips, 0).sum(-2) / np.where(count, count, np.nan)
    return np.concatenate([joints, middle[..., None, :]], -2)
