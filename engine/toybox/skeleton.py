"""The toybox figures' skeleton: joints, poses as joint angles, forward kinematics, OpenPose's 18 keypoints.

Body units: the sole is at height 0, the crown of a bare head near 1.28. The figure faces +Z and its right is -X. A big
head and short, thick limbs keep the figure readable at 128 pixels.

A pose holds three angles a joint, in degrees:
- pelvis, chest, head: (pitch forward, yaw to the figure's left, roll to its right);
- limbs: (forward, out, inward). ``forward`` swings a hanging limb toward +Z, ``out`` lifts it away from the body,
  ``inward`` turns a limb that points forward across the body. Left and right share signs: a mirrored pose swaps names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.space import Cameras

Vector = tuple[float, float, float]

BONES: dict[str, tuple[str, Vector]] = {
    "pelvis": ("", (0, .42, 0)),
    "chest": ("pelvis", (0, .04, 0)),
    "head": ("chest", (0, .34, 0)),
    "r_upper_arm": ("chest", (-.20, .29, 0)), "r_forearm": ("r_upper_arm", (0, -.17, 0)),
    "r_hand": ("r_forearm", (0, -.15, 0)),
    "l_upper_arm": ("chest", (.20, .29, 0)), "l_forearm": ("l_upper_arm", (0, -.17, 0)),
    "l_hand": ("l_forearm", (0, -.15, 0)),
    "r_thigh": ("pelvis", (-.10, 0, 0)), "r_shin": ("r_thigh", (0, -.17, 0)), "r_foot": ("r_shin", (0, -.17, 0)),
    "l_thigh": ("pelvis", (.10, 0, 0)), "l_shin": ("l_thigh", (0, -.17, 0)), "l_foot": ("l_shin", (0, -.17, 0)),
}
"""Bone -> (parent, joint's place in the parent's frame at rest); parents come first."""
SOLE = .08
"""From the ankle down to the ground."""

KEYPOINTS: dict[str, tuple[str, Vector]] = {
    "nose": ("head", (0, .19, .235)), "neck": ("head", (0, 0, 0)),
    "r_shoulder": ("r_upper_arm", (0, 0, 0)), "r_elbow": ("r_forearm", (0, 0, 0)), "r_wrist": ("r_hand", (0, 0, 0)),
    "l_shoulder": ("l_upper_arm", (0, 0, 0)), "l_elbow": ("l_forearm", (0, 0, 0)), "l_wrist": ("l_hand", (0, 0, 0)),
    "r_hip": ("r_thigh", (0, 0, 0)), "r_knee": ("r_shin", (0, 0, 0)), "r_ankle": ("r_foot", (0, 0, 0)),
    "l_hip": ("l_thigh", (0, 0, 0)), "l_knee": ("l_shin", (0, 0, 0)), "l_ankle": ("l_foot", (0, 0, 0)),
    "r_eye": ("head", (-.09, .25, .21)), "l_eye": ("head", (.09, .25, .21)),
    "r_ear": ("head", (-.24, .22, 0)), "l_ear": ("head", (.24, .22, 0)),
}
"""OpenPose's 18, in its order: (bone, place in the bone's frame)."""
KEYPOINT_NAMES = tuple(KEYPOINTS)


@dataclass(frozen=True)
class Pose:
    """angles : joint -> three degrees (see the module); joints left out are at rest.

    root : offset of the whole figure in body units; its y is the clearance under the lower foot (0 stands).
    """

    angles: Mapping[str, Vector] = field(default_factory=dict)
    root: Vector = (0.0, 0.0, 0.0)


STANDING = Pose({"r_upper_arm": (0, 16, 0), "l_upper_arm": (0, 16, 0), "r_forearm": (12, 0, 0),
                 "l_forearm": (12, 0, 0)})


def _about(axis: int, degrees: float) -> np.ndarray:
    """Right-handed rotation (3, 3) about a coordinate axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    r = np.eye(3)
    r[i, i], r[i, j], r[j, i], r[j, j] = c, -s, s, c
    return r


def rotation(joint: str, angles: Vector) -> np.ndarray:
    """The joint's rotation (3, 3) relative to its parent."""
    a, b, c = angles
    if joint[:2] in ("r_", "l_"):
        side = -1 if joint[0] == "r" else 1
        return _about(1, -side * c) @ _about(0, -a) @ _about(2, side * b)
    return _about(1, b) @ _about(0, a) @ _about(2, -c)


Frames = dict[str, tuple[np.ndarray, np.ndarray]]
"""Bone -> (rotation (3, 3), joint's place (3,)): world = rotation @ local + place."""


def frames(pose: Pose, across: float = 1.0, up: float = 1.0) -> Frames:
    """Forward kinematics. ``across`` and ``up`` stretch every bone in its own frame (up is along limbs).

    The lower foot is set on the ground, whatever the legs do, and ``pose.root`` is added to that.
    """
    stretch = np.array([across, up, across])
    out: Frames = {}
    for bone, (parent, offset) in BONES.items():
        turn = rotation(bone, pose.angles.get(bone, (0.0, 0.0, 0.0)))
        place = np.asarray(offset, dtype=float) * stretch
        if parent:
            r, t = out[parent]
            out[bone] = r @ turn, r @ place + t
        else:
            out[bone] = turn, place
    sole = np.array([0.0, -SOLE * up, 0.0])
    lowest = min(float((r @ sole + t)[1]) for r, t in (out["r_foot"], out["l_foot"]))
    shift = np.asarray(pose.root, dtype=float) * stretch - np.array([0.0, lowest, 0.0])
    return {bone: (r, t + shift) for bone, (r, t) in out.items()}


def keypoints(posed: Frames, across: float = 1.0, up: float = 1.0) -> np.ndarray:
    """OpenPose's joints (18, 3) in body units; give the stretch that ``posed`` was made with."""
    stretch = np.array([across, up, across])
    return np.stack([posed[bone][0] @ (np.asarray(place) * stretch) + posed[bone][1]
                     for bone, place in KEYPOINTS.values()])


def project(points: np.ndarray, cameras: Cameras) -> np.ndarray:
    """points (k, 3) -> (n, k, 3): column and row in pixels (the first pixel's centre is 0.5, 0.5), depth along the
    view axis in scene units (negative behind the camera)."""
    world = np.c_[points, np.ones(len(points))]
    local = np.einsum("nij,kj->nki", np.linalg.inv(cameras.camera_to_world.astype(np.float64)), world)
    depth = -local[..., 2]
    x = cameras.cx[:, None] + cameras.fx[:, None] * local[..., 0] / depth
    y = cameras.cy[:, None] - cameras.fy[:, None] * local[..., 1] / depth
    return np.stack([x, y, depth], -1)
