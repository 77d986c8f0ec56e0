"""Alpha compositing of packed samples, forward and backward (Max 1995; NeRF's equation 3).

With a_i the sample's opacity and T_i = prod_{j<i} (1 - a_j): w_i = T_i a_i, colour = sum w_i c_i, opacity =
sum w_i, depth = sum w_i t_i. Backward walks each ray from its end with R_i, what lies behind sample i as seen from
it: dL/da_i = T_i (g_i - R_i), R_{i-1} = a_i g_i + (1 - a_i) R_i, where g_i = dL/dw_i. No division, so a_i = 1 is fine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp

from engine.kernels.launch import array, launch
from engine.kernels.march import Samples

wp.set_module_options({"enable_backward": False})


class Composite(NamedTuple):
    """colour (n, 3), opacity (n,), depth (n,) (not divided by opacity), weights (m,); all float32."""

    colour: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    weights: torch.Tensor


@wp.func
def _alpha(value: float, length: float, is_density: int) -> float:
    if is_density == 1:
        return 1.0 - wp.exp(-value * length)
    return value


@wp.kernel
def _forward(first: int, packed: wp.array2d(dtype=int), t_start: wp.array(dtype=float), t_end: wp.array(dtype=float),
             values: wp.array(dtype=float), is_density: int, rgb: wp.array(dtype=wp.vec3),
             colour: wp.array(dtype=wp.vec3), opacity: wp.array(dtype=float), depth: wp.array(dtype=float),
             weights: wp.array(dtype=float), transmittance: wp.array(dtype=float)):
    ray = first + wp.tid()
    begin = packed[ray, 0]
    through = float(1.0)
    c = wp.vec3(0.0, 0.0, 0.0)
    o = float(0.0)
    z = float(0.0)
    for i in range(begin, begin + packed[ray, 1]):
        a = _alpha(values[i], t_end[i] - t_start[i], is_density)
        w = through * a
        weights[i] = w
        transmittance[i] = through
        c += w * rgb[i]
        o += w
        z += w * 0.5 * (t_start[i] + t_end[i])
        through = through * (1.0 - a)
    colour[ray] = c
    opacity[ray] = o
    depth[ray] = z


@wp.kernel
def _backward(first: int, packed: wp.array2d(dtype=int), t_start: wp.array(dtype=float), t_end: wp.array(dtype=float),
              values: wp.array(dtype=float), is_density: int, rgb: wp.array(dtype=wp.vec3),
              transmittance: wp.array(dtype=float), grad_colour: wp.array(dtype=wp.vec3),
              grad_opacity: wp.array(dtype=float), grad_depth: wp.array(dtype=float),
              grad_weights: wp.array(dtype=float), grad_values: wp.array(dtype=float),
              grad_rgb: wp.array(dtype=wp.vec3)):
    ray = first + wp.tid()
    begin = packed[ray, 0]
    count = packed[ray, 1]
    gc = grad_colour[ray]
    behind = float(0.0)
    for j in range(count):
        i = begin + count - 1 - j
        length = t_end[i] - t_start[i]
        a = _alpha(values[i], length, is_density)
        through = transmittance[i]
        g = wp.dot(gc, rgb[i]) + grad_opacity[ray] + grad_depth[ray] * 0.5 * (t_start[i] + t_end[i]) + grad_weights[i]
        slope = float(1.0)
        if is_density == 1:
            slope = length * (1.0 - a)
        grad_values[i] = through * (g - behind) * slope
        grad_rgb[i] = through * a * gc
        behind = a * g + (1.0 - a) * behind


class _CompositeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rgb: torch.Tensor, samples: Samples, is_density: bool) -> Any:
        values, rgb = values.contiguous(), rgb.contiguous()
        n, m, device = len(samples.packed_info), len(values), values.device
        colour, opacity, depth = (torch.empty(shape, device=device) for shape in ((n, 3), (n,), (n,)))
        weights, transmittance = torch.empty(m, device=device), torch.empty(m, device=device)
        launch(_forward, n, [array(samples.packed_info), array(samples.t_start), array(samples.t_end), array(values),
                             int(is_density), array(rgb, wp.vec3), array(colour, wp.vec3), array(opacity),
                             array(depth), array(weights), array(transmittance)], device)
        ctx.save_for_backward(values, rgb, transmittance)
        ctx.samples, ctx.is_density = samples, is_density
        return colour, opacity, depth, weights

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        values, rgb, transmittance = ctx.saved_tensors
        samples = ctx.samples
        grad_colour, grad_opacity, grad_depth, grad_weights = (g.contiguous() for g in gradients)
        grad_values, grad_rgb = torch.empty_like(values), torch.empty_like(rgb)
        launch(_backward, len(samples.packed_info),
               [array(samples.packed_info), array(samples.t_start), array(samples.t_end), array(values),
                int(ctx.is_density), array(rgb, wp.vec3), array(transmittance), array(grad_colour, wp.vec3),
                array(grad_opacity), array(grad_depth), array(grad_weights), array(grad_values),
                array(grad_rgb, wp.vec3)], values.device)
        return grad_values, grad_rgb, None, None


def composite(samples: Samples, rgb: torch.Tensor, density: torch.Tensor | None = None,
              alpha: torch.Tensor | None = None) -> Composite:
    """Composite packed samples front to back over nothing.

    rgb : (m, 3); exactly one of density : (m,) >= 0 per field unit, alpha : (m,) in [0, 1]
    Differentiable in rgb and in density or alpha, through all four results.
    """
    if (density is None) == (alpha is None):
        raise ValueError("give either density or alpha")
    values = density if density is not None else alpha
    return Composite(*_CompositeFunction.apply(values, rgb, samples, density is not None))
