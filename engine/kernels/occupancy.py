"""The occupancy grid: how dense each cell of the cube [-1, 1]^3 was lately, and what that means for a ray.

Müller et al. 2022, appendix E.2: values decay and take the maximum with fresh samples of the field. Our grid of
bytes says more than theirs of bits: 0 is a cell to leap over, s > 0 one to sample, whose density is at least
(s - 1) * QUANTUM; so a ray knows, without asking the field, when it is spent.
"""

from __future__ import annotations

import torch
import warp as wp

from engine.kernels.launch import array, launch

wp.set_module_options({"enable_backward": False})

EMPTY = 0
"""State of a cell that holds nothing."""
QUANTUM = 2.0
"""Density, per field unit, that one more in a cell's state stands for."""


@wp.kernel
def _update(first: int, values: wp.array(dtype=float), cells: wp.array(dtype=int), fresh: wp.array(dtype=float)):
    i = first + wp.tid()
    wp.atomic_max(values, cells[i], fresh[i])


@wp.func
def _at(values: wp.array3d(dtype=float), z: int, y: int, x: int) -> float:
    """Beyond the border the border's own value goes on."""
    last = values.shape[0] - 1
    return values[wp.clamp(z, 0, last), wp.clamp(y, 0, last), wp.clamp(x, 0, last)]


@wp.kernel
def _classify(first: int, values: wp.array3d(dtype=float), allowed: wp.array3d(dtype=wp.uint8), threshold: float,
              quantum: float, states: wp.array3d(dtype=wp.uint8)):
    n = values.shape[0]
    i = first + wp.tid()
    z = i // (n * n)
    y = (i // n) % n
    x = i % n
    state = wp.uint8(0)
    least = values[z, y, x]
    if allowed[z, y, x] != wp.uint8(0) and least > threshold:
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    least = wp.min(least, _at(values, z + dz, y + dy, x + dx))
        state = wp.uint8(1 + wp.min(int(least / quantum), 254))
    states[z, y, x] = state


def update(values: torch.Tensor, cells: torch.Tensor, fresh: torch.Tensor, decay: float = 0.95) -> None:
    """In place: every value decays, then the named cells take the maximum with fresh densities.

    values : (r, r, r) float32, z, y, x order; cells : (m,) int32 flat indices, repeats allowed; fresh : (m,) >= 0
    """
    values.mul_(decay)
    # Repeats make cells shared between items, so the CPU runs it in one chunk.
    launch(_update, len(cells), [array(values.view(-1)), array(cells.int()), array(fresh.float().contiguous())],
           values.device, chunk=len(cells))


def classify(values: torch.Tensor, allowed: torch.Tensor, threshold: float) -> torch.Tensor:
    """States of all cells: (r, r, r) uint8, see the head of this file.

    allowed : (r, r, r) uint8; where 0 the cell is EMPTY whatever its density (outside the visual hull)
    threshold : density above which a cell is sampled
    A cell's state goes by the least dense of the cell and its 26 neighbours: a value is one sample of a cell, and
    what lies beside it may be the object's surface.
    """
    states = torch.empty_like(allowed)
    launch(_classify, values.numel(), [array(values), array(allowed), float(threshold), QUANTUM, array(states)],
           values.device)
    return states
