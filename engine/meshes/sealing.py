"""Which cells of a density grid no light reaches: the inside of the object, whatever the field says of it.

No camera looks into an object, so a fit leaves foam there, behind a skin that may have pinholes. Cutting the field at
a density would expose the foam. Seen from outside the skin is dark all the same: almost no direction passes it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

SLOPES = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
"""Sideways steps a step forward: 49 directions from each face of the cube, dense enough to look into a mug."""
PASSING = 0.5
"""Share of the light that must be left for a direction to count."""
FEWEST = 3
"""Directions that must reach a cell for it to be outside; fewer are pinholes."""


def reached_directions(density: np.ndarray) -> np.ndarray:
    """From how many of the 6 * 49 directions each cell's centre is lit: (r, r, r) int32.

    density : (r, r, r) float, per field unit, over [-1, 1]^3. Light walks from slice to slice; where a slope is not
    a whole number, it steps sideways on some slices and not on others.
    """
    r, n = len(density), len(SLOPES)
    count = np.zeros((r, r, r), dtype=np.int32)
    length = np.sqrt(1 + np.add.outer(np.square(SLOPES), np.square(SLOPES))) * (2 / r)
    for axis in range(3):
        for sign in (1, -1):
            slices = np.moveaxis(density, axis, 0)[::sign].astype(np.float32)
            lit = np.moveaxis(count, axis, 0)[::sign]
            light = np.ones((n, n, r, r), dtype=np.float32)
            for k in range(r):
                if k:
                    moves = [round(k * s) - round((k - 1) * s) for s in SLOPES]
                    light = np.stack([_shifted(light[i], move, 1) for i, move in enumerate(moves)])
                    light = np.stack([_shifted(light[:, i], move, 2) for i, move in enumerate(moves)], 1)
                if not slices[k].any():
                    lit[k] += (light > PASSING).sum((0, 1), dtype=np.int32)
                    continue
                half = np.exp(-0.5 * length[..., None, None].astype(np.float32) * slices[k])
                light *= half
                lit[k] += (light > PASSING).sum((0, 1), dtype=np.int32)
                light *= half
    return count


def _shifted(light: np.ndarray, move: int, axis: int) -> np.ndarray:
    """``light`` (n, r, r) moved by -1, 0 or 1 cells along ``axis``; full light comes in from outside."""
    if move == 0:
        return light
    light = np.roll(light, move, axis)
    edge = [slice(None)] * 3
    edge[axis] = slice(0, 1) if move > 0 else slice(-1, None)
    light[tuple(edge)] = 1.0
    return light


def dark_cells(density: np.ndarray, coarse: int = 64) -> np.ndarray:
    """(r, r, r) bool, true inside. Worked out on a grid of about ``coarse`` cells a side, then refined smoothly."""
    grid = torch.from_numpy(np.ascontiguousarray(density, dtype=np.float32))[None, None]
    size = min(coarse, len(density))
    # Means keep the optical depth of what the coarse cell holds.
    small = functional.adaptive_avg_pool3d(grid, size)[0, 0].numpy()
    reached = np.minimum(reached_directions(small), 2 * FEWEST).astype(np.float32)
    fine = functional.interpolate(torch.from_numpy(reached)[None, None], size=tuple(density.shape), mode="trilinear",
                                  align_corners=False)[0, 0]
    # Low in the ramp between dark and lit, so that the mask stays within the skin.
    return (fine < 0.75 * FEWEST).numpy()
