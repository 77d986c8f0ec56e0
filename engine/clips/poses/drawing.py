"""Skeleton drawings of whole clips, as ``engine.diffusion.skeleton_drawing`` draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.clip_artifacts import Poses
from engine.clips.poses.framing import fit
from engine.diffusion.skeleton_drawing import draw_skeleton

if TYPE_CHECKING:
    from torch import Tensor


KEPT = 256_000_000
"""Bytes of drawings that are kept; others are drawn anew at each look."""


class Skeletons:
    """A clip's skeletons as AnimateAnyone takes them, (n, 3, h, w) float32 in [0, 1]: drawn when they are asked for.

    It answers ``len``, ``shape`` and an index of frames, as the tensor of all of them would; those that were drawn
    first stay, as far as ``keep`` bytes reach.
    """

    def __init__(self, poses: Poses, keep: int = KEPT) -> None:
        self.poses = poses
        self.shape = (len(poses), 3, *poses.size)
        self._most = keep // (12 * poses.size[0] * poses.size[1])
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, frames: Sequence[int] | slice) -> Tensor:
        import torch
        return torch.stack([self._one(i) for i in (range(len(self))[frames] if isinstance(frames, slice) else frames)])

    def _one(self, i: int) -> Tensor:
        import torch
        drawn = self._kept.get(i)
        if drawn is None:
            picture = draw_skeleton(self.poses.joints[i][None], self.poses.size)
            drawn = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
            if len(self._kept) < self._most:
                self._kept[i] = drawn
        return drawn


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
