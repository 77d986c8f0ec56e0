"""Pictures -> joints, by the built-in network; and what every estimator answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engine.clip_artifacts import JOINTS
from engine.clips.poses.joints import BODY, MIRROR

if TYPE_CHECKING:
    from torch import Tensor

SURE = 0.5
"""From this mean confidence of the body's joints on, a picture holds a figure."""
BATCH = 16
FILL = 0.62
"""Share of the second look's square that the joints' bounding box takes: as in the pictures that were learned from."""
WORTH = 0.75
"""The second look is taken where its square is smaller than this share of the first."""


@dataclass(frozen=True)
class Estimated:
    """What an estimator says of n pictures.

    joints : (n, 18, 2) float32 pixels of each picture, of its first (most certain, largest) figure
    confidence : (n, 18) float32 in [0, 1]; people : (n,) int, how many figures were seen (0 where there is none)
    """

    joints: np.ndarray
    confidence: np.ndarray
    people: np.ndarray


class Estimator(Protocol):
    """What ``job.model("pose_estimation")`` is."""

    name: str

    def __call__(self, pictures: Sequence[np.ndarray], person: int | None = None) -> Estimated:
        """n pictures (h, w, 3) float32 in [0, 1], of any sizes; person : which one from the left, else the largest."""


def has_figure(confidence: np.ndarray) -> np.ndarray:
    """(n, 18) in [0, 1] -> (n,) bool."""
    return np.asarray(confidence[:, list(BODY)].mean(1) >= SURE)


def look(net: Any, pictures: Sequence[np.ndarray], device: str = "cpu") -> Estimated:
    """The built-in network's answers.

    pictures : n of (h, w, 3), sRGB in [0, 1]. Each is put into a square, its edges repeated; where the figure turns out
    to be small, the square around it is looked at again. Every look is taken twice, once mirrored, and averaged.
    """
    parts = [_look(net, pictures[i:i + BATCH], device) for i in range(0, len(pictures), BATCH)]
    if not parts:
        return Estimated(np.zeros((0, JOINTS, 2), np.float32), np.zeros((0, JOINTS), np.float32), np.zeros(0, int))
    joints, confidence = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Estimated(joints, confidence, has_figure(confidence).astype(int))


def _look(net: Any, pictures: Sequence[np.ndarray], device: str) -> tuple[np.ndarray, np.ndarray]:
    whole = [((p.shape[1] - max(p.shape[:2])) // 2, (p.shape[0] - max(p.shape[:2])) // 2, max(p.shape[:2]))
             for p in pictures]
    joints, confidence = _answers(net, pictures, whole, device)
    squares = [_square(j) for j in joints]
    again = [i for i, (left, top, side) in enumerate(squares) if side < WORTH * whole[i][2]
             and confidence[i].mean() > SURE / 2]
    if again:
        found = _answers(net, [pictures[i] for i in again], [squares[i] for i in again], device)
        for i, j, c in zip(again, *found, strict=True):
            if c.mean() >= confidence[i].mean() / 2:  # a second look that sees nothing looked at the wrong place
                joints[i], confidence[i] = j, c
    return joints, confidence


def _square(joints: np.ndarray) -> tuple[int, int, int]:
    low, high = joints.min(0), joints.max(0)
    side = max(8.0, float((high - low).max()) / FILL)
    left, top = (low + high) / 2 - side / 2
    return round(float(left)), round(float(top)), round(side)


def _answers(net: Any, pictures: Sequence[np.ndarray], squares: Sequence[tuple[int, int, int]], device: str
             ) -> tuple[np.ndarray, np.ndarray]:
    """One look at a square (left, top, side) of each picture -> joints in the pictures' pixels, confidences."""
    import torch

    from engine.clips.poses.network import expected
    with torch.inference_mode():
        x = torch.cat([_cropped(p, *square, device) for p, square in zip(pictures, squares, strict=True)])
        heat, seen = net(x)
        turned_heat, turned_seen = net(x.flip(-1))
        turned = expected(turned_heat.float())[:, list(MIRROR)]
        turned = torch.stack([1 - turned[..., 0], turned[..., 1]], -1)
        places = ((expected(heat.float()) + turned) / 2).cpu().numpy()
        confidence = ((seen.sigmoid() + turned_seen.sigmoid()[:, list(MIRROR)]) / 2).float().cpu().numpy()
    corner = np.array([s[:2] for s in squares], np.float32)[:, None]
    side = np.array([s[2] for s in squares], np.float32)[:, None, None]
    return (places * side + corner).astype(np.float32), confidence


def _cropped(picture: np.ndarray, left: int, top: int, side: int, device: str) -> Tensor:
    """A square of a picture, which may reach over its edges, at the network's size: (1, 3, 128, 128)."""
    import torch

    from engine.clips.poses.network import SIZE
    rows = np.clip(np.arange(top, top + side), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, picture.shape[1] - 1)
    square = np.ascontiguousarray(picture[rows][:, columns].transpose(2, 0, 1)[None], dtype=np.float32)
    x = torch.from_numpy(square).to(device)
    if side == SIZE:
        return x
    mode: Any = {"mode": "bilinear", "antialias": True} if side > SIZE else {"mode": "bicubic"}
    return torch.nn.functional.interpolate(x, (SIZE, SIZE), align_corners=False, **mode).clamp(0, 1)
