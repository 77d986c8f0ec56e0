"""Multi-resolution hash-grid encoding (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3).

Each of L levels is a grid over the unit cube with two features a vertex, interpolated trilinearly. A level whose
vertices fit the table is stored densely; a finer one shares 2^T entries by the paper's spatial hash. Level sizes,
half-cell offset and hash are those of tiny-cuda-nn, so that tables can be exchanged with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import warp as wp

from engine.kernels.launch import array, in_parallel, launch, load

wp.set_module_options({"enable_backward": False})

FEATURES = 2
"""Features a vertex."""


@dataclass(frozen=True)
class HashGridShape:
    """levels : L; log2_table : T; base, finest : vertices a side of the coarsest and of the finest level."""

    levels: int = 8
    log2_table: int = 15
    base: int = 16
    finest: int = 256

    @property
    def growth(self) -> float:
        """b, the factor from level to level (equation 3)."""
        return 1.0 if self.levels == 1 else math.exp(math.log(self.finest / self.base) / (self.levels - 1))

    def scales(self) -> list[float]:
        """Cells a side of each level: base * b^l - 1."""
        return [self.base * self.growth**level - 1.0 for level in range(self.levels)]

    def resolutions(self) -> list[int]:
        """Vertices a side of each level."""
        return [math.ceil(scale - 1e-6) + 1 for scale in self.scales()]

    def offsets(self) -> list[int]:
        """First row of each level in the table, and the number of rows at the end: levels + 1 numbers."""
        rows = [0]
        for resolution in self.resolutions():
            dense = -(-resolution**3 // 8) * 8
            rows.append(rows[-1] + min(dense, 1 << self.log2_table))
        return rows

    @property
    def rows(self) -> int:
        return self.offsets()[-1]


PRIME_Y = wp.constant(wp.int32(2654435761 - 2**32))
PRIME_Z = wp.constant(wp.int32(805459861))
vec8i = wp.types.vector(8, wp.int32)
vec8 = wp.types.vector(8, wp.float32)


@wp.struct
class Cell:
    """The grid cell around a point on one level.

    rows : the eight vertices' rows in the whole table, vertex i at bits (x, y, z) = (i & 1, i >> 1 & 1, i >> 2)
    """

    rows: vec8i
    fx: float
    fy: float
    fz: float


@wp.func
def _clamp01(p: wp.vec3) -> wp.vec3:
    return wp.vec3(wp.clamp(p[0], 0.0, 1.0), wp.clamp(p[1], 0.0, 1.0), wp.clamp(p[2], 0.0, 1.0))


@wp.func
def _cell(p: wp.vec3, scale: float, resolution: int, start: int, size: int) -> Cell:
    """Dense rows where the level fits its table, else the spatial hash x ^ y * PRIME_Y ^ z * PRIME_Z."""
    qx = p[0] * scale + 0.5
    qy = p[1] * scale + 0.5
    qz = p[2] * scale + 0.5
    # The half-cell offset can reach the last vertex; its neighbour then has weight 0 but must exist.
    x = wp.min(int(qx), resolution - 2)
    y = wp.min(int(qy), resolution - 2)
    z = wp.min(int(qz), resolution - 2)
    cell = Cell()
    cell.fx = qx - float(x)
    cell.fy = qy - float(y)
    cell.fz = qz - float(z)
    if resolution * resolution * resolution <= size:
        y0 = start + resolution * (y + resolution * z) + x
        y1 = y0 + resolution
        z0 = y0 + resolution * resolution
        z1 = z0 + resolution
        cell.rows = vec8i(y0, y0 + 1, y1, y1 + 1, z0, z0 + 1, z1, z1 + 1)
    else:
        mask = size - 1
        y0 = y * PRIME_Y
        y1 = y0 + PRIME_Y
        z0 = z * PRIME_Z
        z1 = z0 + PRIME_Z
        cell.rows = vec8i(start + ((x ^ y0 ^ z0) & mask), start + (((x + 1) ^ y0 ^ z0) & mask),
                          start + ((x ^ y1 ^ z0) & mask), start + (((x + 1) ^ y1 ^ z0) & mask),
                          start + ((x ^ y0 ^ z1) & mask), start + (((x + 1) ^ y0 ^ z1) & mask),
                          start + ((x ^ y1 ^ z1) & mask), start + (((x + 1) ^ y1 ^ z1) & mask))
    return cell


@wp.func
def _weights(cell: Cell) -> vec8:
    """Trilinear weights of the eight vertices."""
    gx = 1.0 - cell.fx
    gy = 1.0 - cell.fy
    gz = 1.0 - cell.fz
    a = gy * gz
    b = cell.fy * gz
    c = gy * cell.fz
    d = cell.fy * cell.fz
    return vec8(gx * a, cell.fx * a, gx * b, cell.fx * b, gx * c, cell.fx * c, gx * d, cell.fx * d)


@wp.kernel
def _encode(first: int, points: wp.array(dtype=wp.vec3), table: wp.array(dtype=wp.vec2),
            scales: wp.array(dtype=float), resolutions: wp.array(dtype=int), offsets: wp.array(dtype=int),
            levels: int, out: wp.array2d(dtype=wp.vec2)):
    i = first + wp.tid()
    p = _clamp01(points[i])
    for level in range(levels):
        start = offsets[level]
        cell = _cell(p, scales[level], resolutions[level], start, offsets[level + 1] - start)
        w = _weights(cell)
        value = wp.vec2(0.0, 0.0)
        for corner in range(8):
            value += w[corner] * table[cell.rows[corner]]
        out[i, level] = value


@wp.func
def _scatter(p: wp.vec3, gradient: wp.vec2, scale: float, resolution: int, start: int, size: int,
             grad_table: wp.array(dtype=wp.vec2)):
    """Add one point's share of one level's gradient to its eight vertices."""
    cell = _cell(p, scale, resolution, start, size)
    w = _weights(cell)
    for corner in range(8):
        wp.atomic_add(grad_table, cell.rows[corner], w[corner] * gradient)


@wp.kernel
def _backward_level(first: int, points: wp.array(dtype=wp.vec3), gradient: wp.array2d(dtype=wp.vec2),
                    scales: wp.array(dtype=float), resolutions: wp.array(dtype=int), offsets: wp.array(dtype=int),
                    count: int, grad_table: wp.array(dtype=wp.vec2)):
    """One item is a whole level: levels own their rows, so nothing is shared and the order of sums is fixed."""
    level = first + wp.tid()
    scale = scales[level]
    resolution = resolutions[level]
    start = offsets[level]
    size = offsets[level + 1] - start
    for i in range(count):
        g = gradient[i, level]
        if g[0] != 0.0 or g[1] != 0.0:
            _scatter(_clamp01(points[i]), g, scale, resolution, start, size, grad_table)


@wp.kernel
def _backward_atomic(first: int, points: wp.array(dtype=wp.vec3), gradient: wp.array2d(dtype=wp.vec2),
                     scales: wp.array(dtype=float), resolutions: wp.array(dtype=int), offsets: wp.array(dtype=int),
                     count: int, grad_table: wp.array(dtype=wp.vec2)):
    """One item is one point of one level; different points add into the same rows."""
    item = first + wp.tid()
    level = item // count
    i = item - level * count
    start = offsets[level]
    g = gradient[i, level]
    if g[0] != 0.0 or g[1] != 0.0:
        _scatter(_clamp01(points[i]), g, scales[level], resolutions[level], start, offsets[level + 1] - start,
                 grad_table)


@wp.kernel
def _backward_points(first: int, points: wp.array(dtype=wp.vec3), table: wp.array(dtype=wp.vec2),
                     gradient: wp.array2d(dtype=wp.vec2), scales: wp.array(dtype=float),
                     resolutions: wp.array(dtype=int), offsets: wp.array(dtype=int), levels: int,
                     grad_points: wp.array(dtype=wp.vec3)):
    i = first + wp.tid()
    raw = points[i]
    p = _clamp01(raw)
    total = wp.vec3(0.0, 0.0, 0.0)
    for level in range(levels):
        start = offsets[level]
        cell = _cell(p, scales[level], resolutions[level], start, offsets[level + 1] - start)
        for corner in range(8):
            bx = corner & 1
            by = (corner >> 1) & 1
            bz = corner >> 2
            wx = wp.where(bx == 1, cell.fx, 1.0 - cell.fx)
            wy = wp.where(by == 1, cell.fy, 1.0 - cell.fy)
            wz = wp.where(bz == 1, cell.fz, 1.0 - cell.fz)
            v = scales[level] * wp.dot(gradient[i, level], table[cell.rows[corner]])
            total += v * wp.vec3(wp.where(bx == 1, wy * wz, -wy * wz), wp.where(by == 1, wx * wz, -wx * wz),
                                 wp.where(bz == 1, wx * wy, -wx * wy))
    for axis in range(3):  # outside the cube the encoding is constant along that axis
        if raw[axis] != p[axis]:
            total[axis] = 0.0
    grad_points[i] = total


@cache
def _tables(shape: HashGridShape, device: str) -> tuple[Any, Any, Any]:
    """Scales, resolutions and offsets as Warp arrays on the device."""
    return (wp.array(shape.scales(), dtype=float, device=device),
            wp.array(shape.resolutions(), dtype=int, device=device),
            wp.array(shape.offsets(), dtype=int, device=device))


class _HashGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: torch.Tensor, table: torch.Tensor, shape: HashGridShape,
                atomic: bool | None) -> torch.Tensor:
        points, table = points.contiguous(), table.contiguous()
        out = torch.empty((len(points), shape.levels, FEATURES), device=points.device)
        launch(_encode, len(points), [array(points, wp.vec3), array(table, wp.vec2),
                                      *_tables(shape, str(points.device)), shape.levels, array(out, wp.vec2)],
               points.device)
        ctx.save_for_backward(points, table)
        ctx.shape, ctx.atomic = shape, atomic
        return out.view(len(points), shape.levels * FEATURES)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        points, table = ctx.saved_tensors
        shape, count, device = ctx.shape, len(points), points.device
        gradient = gradients[0].contiguous().view(count, shape.levels, FEATURES)
        grad_points = grad_table = None
        levels = _tables(shape, str(device))
        if ctx.needs_input_grad[1]:
            grad_table = torch.zeros_like(table)
            inputs = [array(points, wp.vec3), array(gradient, wp.vec2), *levels, count, array(grad_table, wp.vec2)]
            if device.type == "cuda" if ctx.atomic is None else ctx.atomic:
                items = count * shape.levels
                launch(_backward_atomic, items, inputs, device, chunk=items)
            else:
                _by_level(inputs, shape.levels, count, device)
        if ctx.needs_input_grad[0]:
            grad_points = torch.empty_like(points)
            launch(_backward_points, count, [array(points, wp.vec3), array(table, wp.vec2), array(gradient, wp.vec2),
                                             *levels, shape.levels, array(grad_points, wp.vec3)], device)
        return grad_points, grad_table, None, None


def _by_level(inputs: list[Any], levels: int, count: int, device: torch.device) -> None:
    if device.type != "cpu":
        launch(_backward_level, levels, inputs, device)
        return
    load(_backward_level, "cpu")
    if count:  # finest first: they take longest (hashing, cache misses)
        in_parallel((lambda level=level: wp.launch(_backward_level, dim=1, inputs=[level, *inputs], device="cpu"))
                    for level in reversed(range(levels)))


def encode(points: torch.Tensor, table: torch.Tensor, shape: HashGridShape, atomic: bool | None = None
           ) -> torch.Tensor:
    """Hash-grid features of points.

    points : (n, 3) float32 in the unit cube; points outside take the value of the nearest point of the cube
    table : (shape.rows, 2) float32
    atomic : how the table's gradient is summed: atomics over points, or a launch a level that needs none and whose
        order of sums is fixed; default: atomics on CUDA, levels on the CPU
    -> (n, 2 * levels) float32, level-major. Differentiable once in ``table`` and ``points``.
    """
    if table.shape != (shape.rows, FEATURES):
        raise ValueError(f"table has shape {tuple(table.shape)}, expected {(shape.rows, FEATURES)}")
    return _HashGrid.apply(points, table, shape, atomic)
