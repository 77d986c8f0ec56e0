"""Ray marching through an occupancy grid to packed samples.

All rays take steps of one length inside the cube [-1, 1]^3, leap over empty cells, and end where the grid's own
densities leave no light. Samples of all rays lie one after another ("packed"), so no ray pays for another's length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import warp as wp

from engine.kernels.launch import array, launch
from engine.kernels.occupancy import QUANTUM

wp.set_module_options({"enable_backward": False})


@dataclass
class Samples:
    """Packed samples of n rays, m in all, in order of rays and then of distance.

    ray_indices : (m,) int64
    t_start, t_end : (m,) float32, distances along the ray; the sample itself is in the middle
    packed_info : (n, 2) int32, first sample and number of samples of each ray
    """

    ray_indices: torch.Tensor
    t_start: torch.Tensor
    t_end: torch.Tensor
    packed_info: torch.Tensor

    def __len__(self) -> int:
        return len(self.t_start)

    @property
    def t_mid(self) -> torch.Tensor:
        return 0.5 * (self.t_start + self.t_end)

    def points(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """(m, 3) positions of the samples of these rays (n, 3), (n, 3)."""
        return origins[self.ray_indices] + self.t_mid[:, None] * directions[self.ray_indices]

    def kept(self, keep: torch.Tensor) -> Samples:
        """The samples where keep (m,) bool is set."""
        counts = torch.bincount(self.ray_indices[keep], minlength=len(self.packed_info)).int()
        packed = torch.stack([torch.cumsum(counts, 0, dtype=torch.int32) - counts, counts], 1)
        return Samples(self.ray_indices[keep], self.t_start[keep], self.t_end[keep], packed)


@wp.func
def _inverse(x: float) -> float:
    """1 / x, and something huge of the right sign for a ray along the axis's planes."""
    if wp.abs(x) < 1.0e-9:
        return wp.where(x < 0.0, float(-1.0e9), float(1.0e9))
    return 1.0 / x


@wp.kernel
def _cube_spans(first: int, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3), near: float,
                spans: wp.array(dtype=wp.vec2)):
    i = first + wp.tid()
    o = origins[i]
    d = directions[i]
    low = near
    high = float(1.0e10)
    for axis in range(3):
        if wp.abs(d[axis]) < 1.0e-9:
            if wp.abs(o[axis]) > 1.0:
                high = float(-1.0)
        else:
            a = (-1.0 - o[axis]) / d[axis]
            b = (1.0 - o[axis]) / d[axis]
            low = wp.max(low, wp.min(a, b))
            high = wp.min(high, wp.max(a, b))
    spans[i] = wp.vec2(low, high)


@wp.func
def _cell_of(x: float, n: int) -> int:
    return wp.clamp(int((x + 1.0) * 0.5 * float(n)), 0, n - 1)


@wp.func
def _to_border(p: float, inverse: float, cell: int, size: float) -> float:
    """Distance along the ray to the border of the cell on one axis."""
    return (size * float(cell + wp.where(inverse > 0.0, 1, 0)) - 1.0 - p) * inverse


@wp.kernel
def _march(first: int, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3),
           spans: wp.array(dtype=wp.vec2), jitter: wp.array(dtype=float), states: wp.array3d(dtype=wp.uint8),
           step: float, quantum: float, spent: float, limit: int, write: int, packed: wp.array2d(dtype=int),
           ray_indices: wp.array(dtype=wp.int64), t_start: wp.array(dtype=float), t_end: wp.array(dtype=float)):
    """Once to count (write = 0) and, when the counts have been summed, once more to write."""
    ray = first + wp.tid()
    o = origins[ray]
    d = directions[ray]
    inverse = wp.vec3(_inverse(d[0]), _inverse(d[1]), _inverse(d[2]))
    n = states.shape[0]
    size = 2.0 / float(n)
    near = spans[ray][0]
    far = spans[ray][1]
    shift = jitter[ray]
    k = wp.int32(0)
    count = wp.int32(0)
    optical = float(0.0)
    begin = wp.int32(0)
    if write == 1:
        begin = packed[ray, 0]
    t = near + shift * step
    while t < far and optical < spent and count < limit:
        p = o + t * d
        x = _cell_of(p[0], n)
        y = _cell_of(p[1], n)
        z = _cell_of(p[2], n)
        state = int(states[z, y, x])
        if state == 0:
            leap = wp.min(_to_border(p[0], inverse[0], x, size),
                          wp.min(_to_border(p[1], inverse[1], y, size), _to_border(p[2], inverse[2], z, size)))
            k = wp.max(k + 1, int(wp.ceil((t + leap - near) / step - shift)))
        else:
            if write == 1:
                ray_indices[begin + count] = wp.int64(ray)
                t_start[begin + count] = t - 0.5 * step
                t_end[begin + count] = t + 0.5 * step
            count += 1
            k += 1
            optical += float(state - 1) * quantum * step
        t = near + (float(k) + shift) * step
    if write == 0:
        packed[ray, 1] = count


def cube_spans(origins: torch.Tensor, directions: torch.Tensor, near: float = 0.0) -> torch.Tensor:
    """Where rays (n, 3), (n, 3) are inside the cube: (n, 2) entry and exit, entry >= near, entry > exit for a miss."""
    spans = torch.empty((len(origins), 2), device=origins.device)
    launch(_cube_spans, len(origins), [array(origins.contiguous(), wp.vec3), array(directions.contiguous(), wp.vec3),
                                       float(near), array(spans, wp.vec2)], origins.device)
    return spans


def march(origins: torch.Tensor, directions: torch.Tensor, states: torch.Tensor, step: float,
          jitter: torch.Tensor | None = None, spans: torch.Tensor | None = None, spent: float = math.inf,
          limit: int = 1 << 14) -> Samples:
    """Samples of rays in all cells that are not EMPTY.

    origins, directions : (n, 3) float32, unit directions, field coordinates
    states : (r, r, r) uint8 of engine.kernels.occupancy, z, y, x order
    step : length of a step, field units, > 0
    jitter : (n,) float32 in [0, 1), where in its first step a ray's first sample lies; default the middle
    spans : (n, 2) float32, the part of each ray to walk, inside the cube; default all of that
    spent : optical depth, by the grid's densities, at which a ray ends; exp(-spent) of its light would go on
    limit : most samples a ray
    Not differentiable.
    """
    if not step > 0:
        raise ValueError(f"step must be positive, is {step}")
    device, n = origins.device, len(origins)
    if jitter is None:
        jitter = torch.full((n,), 0.5, device=device)
    if spans is None:
        spans = cube_spans(origins, directions)
    packed = torch.zeros((n, 2), dtype=torch.int32, device=device)
    empty = torch.empty(0, device=device)
    fixed = [array(origins.contiguous(), wp.vec3), array(directions.contiguous(), wp.vec3),
             array(spans.contiguous(), wp.vec2), array(jitter), array(states), float(step), QUANTUM,
             min(spent, 1e9), limit]
    launch(_march, n, [*fixed, 0, array(packed), array(empty.long()), array(empty), array(empty)], device)
    ends = torch.cumsum(packed[:, 1], 0, dtype=torch.int32)
    packed[:, 0] = ends - packed[:, 1]
    total = int(ends[-1]) if n else 0
    ray_indices = torch.empty(total, dtype=torch.int64, device=device)
    t_start, t_end = torch.empty(total, device=device), torch.empty(total, device=device)
    if total:
        launch(_march, n, [*fixed, 1, array(packed), array(ray_indices), array(t_start), array(t_end)], device)
    return Samples(ray_indices, t_start, t_end, packed)
