"""Figures that say how well a picture does what its control asked, all exact: no estimator, the toybox knows."""

from __future__ import annotations

import numpy as np
import torch

from engine.diffusion import control_maps
from engine.training.control_data import NONE
from engine.training.data import to_tensor

WHITE = 0.06
"""A pixel shows something where some channel is more than this below 1."""
FEWEST = 12
"""Parts of fewer pixels say nothing."""
BODY = tuple(range(1, 14))
"""OpenPose's joints from the neck to the ankles."""
ENDS = (4, 7, 10, 13)
"""Wrists and ankles: what a pose moves most, and what a blob in the middle hides least."""


def shown(pictures: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) over white -> (n, h, w) bool: where there is something."""
    return pictures.min(-1) < 1 - WHITE


def mask_iou(pictures: np.ndarray, masks: np.ndarray) -> float:
    """Mean overlap of what pictures (n, h, w, 3) show with masks (n, h, w) bool, in [0, 1]."""
    seen = shown(pictures)
    both, either = (seen & masks).sum((1, 2)), (seen | masks).sum((1, 2))
    return float(np.mean(both / np.maximum(either, 1)))


def edges_of(pictures: np.ndarray) -> torch.Tensor:
    """(n, h, w, 3) in [0, 1] -> (n, 3, h, w), 0 or 1."""
    return control_maps.edges(to_tensor(pictures, low=0.0))


def found_near(edges: torch.Tensor, wanted: torch.Tensor, tolerance_px: int = 2) -> torch.Tensor:
    """Share of ``wanted``'s edge pixels (n, 3, h, w) within ``tolerance_px`` (a square) of one of ``edges``' -> (n,);
    1 where nothing is wanted."""
    near = torch.nn.functional.max_pool2d(edges[:, :1], 2 * tolerance_px + 1, 1, tolerance_px)
    count = wanted[:, :1].sum((1, 2, 3))
    return torch.where(count > 0, (wanted[:, :1] * near).sum((1, 2, 3)) / count.clamp(min=1), torch.ones_like(count))


def edge_figures(pictures: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    """Agreement of the pictures' edges with edge maps (n, h, w, 3): F1 within 1 and 2 px, precision and recall."""
    asked, made = to_tensor(maps, low=0.0), edges_of(pictures)
    return {"edge_f1_2px": float(control_maps.agreement(made, asked, 2).mean()),
            "edge_f1_1px": float(control_maps.agreement(made, asked, 1).mean()),
            "precision_2px": float(found_near(asked, made).mean()), "recall_2px": float(found_near(made, asked).mean())}


def map_edges_found(pictures: np.ndarray, maps: np.ndarray, tolerance_px: int = 2) -> float:
    """Share of a map's own edges (steps in depth, seams of parts) near which the pictures have one, in [0, 1]."""
    return float(found_near(edges_of(pictures), edges_of(maps), tolerance_px).mean())


def part_color_error(pictures: np.ndarray, true: np.ndarray, parts: np.ndarray) -> float:
    """Mean over parts of how far their mean colour is from the true one: mean of the three channels, in [0, 1].

    pictures, true : (n, h, w, 3); parts : (n, h, w) uint8, NONE where there is none
    """
    errors = []
    for picture, truth, part in zip(pictures, true, parts, strict=True):
        for number in np.unique(part[part != NONE]):
            inside = part == number
            if inside.sum() >= FEWEST:
                errors.append(np.abs(picture[inside].mean(0, np.float64) - truth[inside].mean(0, np.float64)).mean())
    return float(np.mean(errors)) if errors else 0.0


def joints_shown(pictures: np.ndarray, joints: np.ndarray, tolerance_px: int = 2, which: tuple[int, ...] = BODY
                 ) -> float:
    """Share of the joints ``which`` that lie on what is drawn, or within ``tolerance_px`` of it.

    joints : (n, 18, 3) column, row, 1 where visible. A joint outside the picture is left out.
    """
    seen = torch.from_numpy(shown(pictures)[:, None].astype(np.float32))
    near = torch.nn.functional.max_pool2d(seen, 2 * tolerance_px + 1, 1, tolerance_px)[:, 0].numpy() > 0
    height, width = near.shape[1:]
    hits = []
    for picture, table in zip(near, joints, strict=True):
        for x, y, flag in table[list(which)]:
            if flag and 0 <= x < width and 0 <= y < height:
                hits.append(bool(picture[int(y), int(x)]))
    return float(np.mean(hits)) if hits else 0.0


def joints_clear(pictures: np.ndarray, joints: np.ndarray, reach_px: int = 12) -> float:
    """How much of what is drawn lies within ``reach_px`` of the skeleton's joints: a blob that fills the picture would
    show every joint. The share of shown pixels, in [0, 1]."""
    height, width = pictures.shape[1:3]
    yy, xx = np.mgrid[:height, :width] + 0.5
    shares = []
    for picture, table in zip(shown(pictures), joints, strict=True):
        if picture.any():
            nearest = np.min([(xx - x) ** 2 + (yy - y) ** 2 for x, y, _ in table], axis=0)
            shares.append(float((nearest[picture] <= reach_px ** 2).mean()))
    return float(np.mean(shares)) if shares else 0.0
