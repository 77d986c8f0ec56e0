"""A figure's proportions: the full lengths of its bones as they are seen from its front.

What is told of one picture of a standing figure and what is told of a whole motion must mean the same, so both go
through here. Limbs and trunk are their lengths; widths and the face are half the distance between left and right, so
that a figure turned aside (which shows one side longer and the other shorter) tells them too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.clips.poses.bones import facing
from engine.clips.poses.joints import AT, BONES, with_pelvis

FULL = 0.95
"""Of a bone's lengths over a clip, this quantile is taken for its full length."""
OBLIQUE = 0.4
"""Widths are told from a side view down to this cosine of its azimuth."""
LIMBS = ("trunk", *(f"{side}_{name}" for name in ("upper_arm", "forearm", "thigh", "shin") for side in "rl"))
PAIRS = {"collar": ("shoulder", "neck"), "pelvis": ("hip", "pelvis"), "eye": ("eye", "nose"), "ear": ("ear", "eye")}
"""Bone across the figure -> (the joint at its end, the one it begins at)."""
Lengths = dict[str, float]
"""Bone (keys of ``joints.BONES``) -> pixels, or any other unit; left and right have one length."""


def frontal(joints: np.ndarray, azimuth_deg: float = 0.0) -> dict[str, np.ndarray]:
    """Joints (n, 18, 2), x to the right and y up or down -> bone -> (n,) lengths, NaN where they are not known.

    azimuth_deg : from where they were seen; widths are undone for it
    """
    full = with_pelvis(np.asarray(joints, dtype=np.float64))
    wide = max(abs(np.cos(np.radians(azimuth_deg))), OBLIQUE)
    out: dict[str, np.ndarray] = {}
    for name in LIMBS:
        parent, child = BONES[name]
        out[name] = np.linalg.norm(full[:, child] - full[:, parent], axis=-1)
    # An upright head: what the nose stands in front of the neck shows sideways where the figure is turned.
    out["nose"] = np.abs(full[:, AT["nose"], 1] - full[:, AT["neck"], 1])
    for name, (end, begin) in PAIRS.items():
        half, height = _pair(full, end)
        if f"r_{begin}" in AT:
            begins, level = _pair(full, begin)
        else:
            begins, level = np.zeros(len(full)), full[:, BONES[f"r_{name}"][0], 1]  # on the figure's middle line
        out[f"r_{name}"] = out[f"l_{name}"] = np.hypot((half - begins) / wide, height - level)
    return out


def _pair(full: np.ndarray, joint: str) -> tuple[np.ndarray, np.ndarray]:
    """Half the width between a joint's two sides, (n,), and their mean height."""
    right, left = full[:, AT[f"r_{joint}"]], full[:, AT[f"l_{joint}"]]
    return np.abs(left[:, 0] - right[:, 0]) / 2, (left[:, 1] + right[:, 1]) / 2


def both_sides(lengths: Mapping[str, float]) -> Lengths:
    """Left and right take their mean, or what is known of one; bones without extent are left out."""
    out = {}
    for name in BONES:
        twin = {"r_": "l_", "l_": "r_"}.get(name[:2], name[:2]) + name[2:]
        known = [lengths[key] for key in (name, twin) if np.isfinite(lengths.get(key, np.nan)) and lengths[key] > 1e-6]
        if known:
            out[name] = float(np.mean(known))
    return out


def of_figure(joints: np.ndarray, azimuth_deg: float = 0.0) -> Lengths:
    """Of one standing figure (18, 2), seen from ``azimuth_deg``."""
    return both_sides({name: float(value[0]) for name, value in frontal(joints[None], azimuth_deg).items()})


def of_motion(joints: np.ndarray) -> Lengths:
    """Of a motion (n, 18, 2) in pictures: each bone as it is where it is least foreshortened."""
    return both_sides({name: float(np.nanquantile(value, FULL)) for name, value in frontal(joints).items()
                       if np.isfinite(value).any()})


def of_space(joints: np.ndarray) -> Lengths:
    """Of a motion (n, 18, 3) in space, +Y up: limbs are rigid, the rest is looked at from where the figure faces."""
    front = facing(joints)
    across = np.cross(np.array([0.0, 1.0, 0.0]), front)[:, None]  # to the figure's left
    flat = np.stack([(joints * across).sum(-1), joints[..., 1]], -1)
    out = {name: float(np.nanquantile(value, FULL)) for name, value in frontal(flat).items()
           if np.isfinite(value).any()}
    full = with_pelvis(joints)
    for name in LIMBS:
        parent, child = BONES[name]
        length = np.linalg.norm(full[:, child] - full[:, parent], axis=-1)
        if np.isfinite(length).any():
            out[name] = float(np.nanmedian(length))
    return both_sides(out)
