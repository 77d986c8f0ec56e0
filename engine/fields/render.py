"""Volume rendering of a field through its occupancy grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from engine.fields.occupancy import Occupancy
from engine.fields.radiance import RadianceField
from engine.kernels.composite import composite
from engine.kernels.march import Samples, march
from engine.space import Cameras

STEP = 2 * math.sqrt(3) / 256
"""Default length of a step: the cube's diagonal in 256."""
SPENT = 6.0
"""Optical depth, by the grid's densities, at which a ray ends. They are the least of a neighbourhood, on a fitted
field about a fourth of the densities met."""
DARK = 1e-3
"""Light left at a sample below which a fit leaves it out."""


@dataclass
class Rays:
    """origins, directions : (n, 3) float32, unit directions; spans : (n, 2) part to walk, or None for all."""

    origins: torch.Tensor
    directions: torch.Tensor
    spans: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: torch.Tensor | slice) -> Rays:
        return Rays(self.origins[index], self.directions[index], None if self.spans is None else self.spans[index])

    @staticmethod
    def of(cameras: Cameras, device: str | torch.device = "cpu") -> Rays:
        """All pixels of all cameras: n * height * width rays."""
        origins, directions = cameras.rays()
        return Rays(torch.from_numpy(origins.reshape(-1, 3).copy()).to(device),
                    torch.from_numpy(directions.reshape(-1, 3).copy()).to(device))


@dataclass
class Rendered:
    """rgb : (n, 3) over the background; opacity, depth : (n,); depth is sum(w t), along the ray, field units."""

    rgb: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    weights: torch.Tensor
    samples: Samples


def render(field: RadianceField, occupancy: Occupancy, rays: Rays, background: torch.Tensor | float = 1.0,
           step: float = STEP, jitter: torch.Tensor | None = None, lit_only: bool = False) -> Rendered:
    """Colour, opacity and depth of rays. Differentiable in the field's parameters.

    background : (3,), (n, 3) or one number, sRGB; jitter : (n,) in [0, 1), see engine.kernels.march
    lit_only : ask first for densities alone and leave out the samples that no light reaches; pays where gradients
        are wanted, which cost three times as much as a density
    """
    samples = march(rays.origins, rays.directions, occupancy.states, step, jitter, rays.spans, SPENT)
    if lit_only and len(samples):
        samples = samples.kept(_lit(field, rays, samples))
    directions = rays.directions[samples.ray_indices] if field.config.view_directions else None
    density, rgb = field(samples.points(rays.origins, rays.directions), directions)
    result = composite(samples, rgb, density=density)
    over = result.colour + (1 - result.opacity)[:, None] * background
    return Rendered(over, result.opacity, result.depth, result.weights, samples)


@torch.no_grad()
def _lit(field: RadianceField, rays: Rays, samples: Samples) -> torch.Tensor:
    """(m,) bool: more than DARK of the light is left where the sample begins."""
    depth = field.density(samples.points(rays.origins, rays.directions)) * (samples.t_end - samples.t_start)
    before = torch.cumsum(depth.double(), 0) - depth  # double: one sum runs over all rays
    start = before[samples.packed_info[:, 0].long().clamp(max=len(before) - 1)]
    return before - start[samples.ray_indices] < -math.log(DARK)


@torch.no_grad()
def render_image(field: RadianceField, occupancy: Occupancy, camera: Cameras, background: float = 1.0,
                 step: float = STEP, chunk: int = 1 << 14) -> np.ndarray:
    """One camera's picture: (h, w, 5) float32, sRGB over the background, opacity, depth."""
    rays = Rays.of(camera[0], occupancy.states.device)
    parts = []
    for i in range(0, len(rays), chunk):
        part = render(field, occupancy, rays[slice(i, i + chunk)], background, step)
        parts.append(torch.cat([part.rgb, part.opacity[:, None], part.depth[:, None]], 1))
    return torch.cat(parts).view(camera.height, camera.width, 5).cpu().numpy()
