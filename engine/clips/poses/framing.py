"""Poses in a picture: into one of another size, and where their figure stands in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.clip_artifacts import Poses
from engine.errors import BadInput

SAME_SHAPE = 0.01
"""Aspects that differ by less are the same."""


def warned(meta: dict[str, Any], *texts: str) -> dict[str, Any]:
    """A copy of an artifact's ``meta`` with further warnings."""
    return {**meta, "warnings": [*meta.get("warnings", []), *texts]}


def fit(poses: Poses, size: tuple[int, int], other_shape: str = "letterbox") -> Poses:
    """The same figure in a picture of ``size`` (h, w): scaled as a whole, centred.

    other_shape : of a picture with another aspect: "letterbox" leaves empty bars at two sides and says so; "refuse"
        raises BadInput
    """
    (height, width), (tall, wide) = poses.size, size
    if (height, width) == (tall, wide):
        return poses
    scale = min(tall / height, wide / width)
    offset = np.array([(wide - width * scale) / 2, (tall - height * scale) / 2])
    meta = dict(poses.meta)
    if "bones" in meta:
        meta["bones"] = {name: length * scale for name, length in meta["bones"].items()}
    if "stands" in meta:
        meta["stands"] = (np.asarray(meta["stands"]) * scale + offset).tolist()
    if abs(width / height / (wide / tall) - 1) > SAME_SHAPE:
        what = f"the poses are of pictures of {width} x {height} pixels, the clip of {wide} x {tall}"
        if other_shape == "refuse":
            raise BadInput(f"{what}: another shape", "give a size of the poses' shape, or letterbox them")
        bars = "left and right" if offset[0] > offset[1] else "above and below"
        meta = warned(meta, f"{what}: they are scaled by {scale:.3g} and centred, with empty bars {bars}")
    joints = (poses.joints.astype(np.float64) * scale + offset).astype(np.float32)
    return Poses(joints, size, poses.fps, poses.loop, meta)


def box_of(joints: np.ndarray) -> tuple[float, float, float, float]:
    """(..., 2) -> left, top, right, bottom of the known joints. BadInput where none is known."""
    if not np.isfinite(joints).all(-1).any():
        raise BadInput("no joint is known in any frame", "give poses of at least one figure")
    low, high = (f(joints.reshape(-1, 2), axis=0) for f in (np.nanmin, np.nanmax))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def framed(joints: np.ndarray, size: tuple[int, int], fill: float = 0.75) -> np.ndarray:
    """Joints (n, k, 2) of any unit -> pixels of a picture of ``size`` (h, w): centred, all frames' bounding box taking
    ``fill`` of the side that it first reaches."""
    left, top, right, bottom = box_of(joints)
    scale = fill * min(size[1] / max(right - left, 1e-9), size[0] / max(bottom - top, 1e-9))
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    return (joints - middle) * scale + np.array([size[1] / 2, size[0] / 2])


def outside(poses: Poses) -> float:
    """Share of the known joints that lie outside of their picture."""
    known = np.isfinite(poses.joints).all(-1)
    x, y = poses.joints[..., 0], poses.joints[..., 1]
    out = known & ((x < 0) | (y < 0) | (x > poses.size[1]) | (y > poses.size[0]))
    return float(out.sum() / max(int(known.sum()), 1))
