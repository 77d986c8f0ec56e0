"""Skeleton drawings of whole clips, as ``engine.diffusion.skeleton_drawing`` draws them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.clip_artifacts import Poses
from engine.clips.poses.framing import fit
from engine.diffusion.skeleton_drawing import draw_skeleton


def draw(poses: Poses, size: tuple[int, int] | None = None) -> np.ndarray:
    """Every frame's skeleton, (n, h, w, 3) float32 in [0, 1] on black, as ControlNets and AnimateAnyone know them.

    size : (h, w); poses of another size are fitted into it (:func:`engine.clips.poses.framing.fit`)
    """
    out = np.empty((len(poses), *(size or poses.size), 3), np.float32)
    for i, frame in enumerate(drawings(poses, size)):
        out[i] = frame
    return out


def drawings(poses: Poses, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """The same, frame by frame, for clips that would not fit into memory: (h, w, 3) each."""
    fitted = fit(poses, size or poses.size)
    for joints in fitted.joints:
        yield draw_skeleton(joints[None], fitted.size)
