"""Plain torch twins of the Warp kernels: slow, obvious, differentiated by torch itself."""

from __future__ import annotations

import math

import torch

from engine.kernels.hash_grid import HashGridShape
from engine.kernels.march import Samples
from engine.kernels.occupancy import QUANTUM


def encode(points: torch.Tensor, table: torch.Tensor, shape: HashGridShape) -> torch.Tensor:
    """Twin of engine.kernels.hash_grid.encode."""
    p = points.clamp(0, 1)
    offsets, features = shape.offsets(), []
    for level, (scale, n) in enumerate(zip(shape.scales(), shape.resolutions(), strict=True)):
        start, size = offsets[level], offsets[level + 1] - offsets[level]
        q = p * scale + 0.5
        low = q.detach().floor().clamp(max=n - 2)
        f = q - low
        value = torch.zeros(len(p), 2, device=p.device)
        for corner in range(8):
            bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=p.device)
            x, y, z = (low.long() + bits).unbind(1)
            if n**3 <= size:
                row = x + n * (y + n * z)
            else:
                row = (x ^ (y * 2654435761) ^ (z * 805459861)) % size  # size is a power of two: int64 is wide enough
            weight = torch.where(bits == 1, f, 1 - f).prod(1, keepdim=True)
            value = value + weight * table[start + row]
        features.append(value)
    return torch.cat(features, 1) if features else p.new_zeros(len(p), 0)


def update(values: torch.Tensor, cells: torch.Tensor, fresh: torch.Tensor, decay: float) -> torch.Tensor:
    """Twin of engine.kernels.occupancy.update, not in place."""
    result = (values * decay).flatten()
    for cell, density in zip(cells.tolist(), fresh.tolist(), strict=True):
        result[cell] = max(float(result[cell]), density)
    return result.view_as(values)


def classify(values: torch.Tensor, allowed: torch.Tensor, threshold: float) -> torch.Tensor:
    """Twin of engine.kernels.occupancy.classify."""
    padded = torch.nn.functional.pad(values[None, None], (1,) * 6, mode="replicate")
    least = -torch.nn.functional.max_pool3d(-padded, 3, 1)[0, 0]
    state = 1 + (least / QUANTUM).long().clamp(max=254)
    return torch.where((allowed != 0) & (values > threshold), state, 0).to(torch.uint8)


def march(origins: torch.Tensor, directions: torch.Tensor, states: torch.Tensor, step: float, jitter: torch.Tensor,
          spent: float = math.inf) -> list[list[float]]:
    """Twin of engine.kernels.march.march without leaps: each ray's sample midpoints."""
    n, rays = len(states), []
    for o, d, shift in zip(origins.double(), directions.double(), jitter.tolist(), strict=True):
        with_zero = torch.where(d.abs() < 1e-9, 1e-9, d)
        a, b = (-1 - o) / with_zero, (1 - o) / with_zero
        near, far = max(0.0, float(torch.minimum(a, b).max())), float(torch.maximum(a, b).min())
        mids, optical, k = [], 0.0, 0
        while (t := near + (k + shift) * step) < far and optical < spent:
            x, y, z = (((o + t * d) + 1) * 0.5 * n).long().clamp(0, n - 1).tolist()
            if state := int(states[z, y, x]):
                mids.append(t)
                optical += (state - 1) * QUANTUM * step
            k += 1
        rays.append(mids)
    return rays


def composite(samples: Samples, rgb: torch.Tensor, values: torch.Tensor, is_density: bool
              ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Twin of engine.kernels.composite.composite: colour, opacity, depth, weights."""
    alpha = 1 - torch.exp(-values * (samples.t_end - samples.t_start)) if is_density else values
    colours, opacities, depths, weights = [], [], [], []
    for begin, count in samples.packed_info.tolist():
        through, ray = torch.ones((), device=rgb.device), []
        for i in range(begin, begin + count):
            ray.append(through * alpha[i])
            through = through * (1 - alpha[i])
        w = torch.stack(ray) if ray else rgb.new_zeros(0)
        part = slice(begin, begin + count)
        colours.append((w[:, None] * rgb[part]).sum(0))
        opacities.append(w.sum())
        depths.append((w * samples.t_mid[part]).sum())
        weights.append(w)
    if not colours:
        return rgb.new_zeros(0, 3), rgb.new_zeros(0), rgb.new_zeros(0), rgb.new_zeros(0)
    return torch.stack(colours), torch.stack(opacities), torch.stack(depths), torch.cat(weights)
