"""Triangle rasteriser in Warp: triangle ids, perspective-correct barycentrics and depth, for a batch of pictures.

Two launches: one thread a triangle writes the nearest (depth, id) key of each pixel it covers; one thread a pixel then
recomputes the winner's barycentrics. The key is one 64-bit integer, so the nearest triangle wins by an atomic minimum
and ties go to the lower id: the result does not depend on the order of threads, on the CPU or on CUDA.
Conventions are OpenGL's: clip = (x, y, z, w), NDC +Y is the picture's top, pixel (row i, column j) is sampled at its
centre. A pixel centre exactly on an edge belongs to every triangle that touches it (the lower id wins), so neighbours
leave no crack. Triangles with a vertex behind the near plane (w <= 0) are dropped, not clipped: keep objects in front.
"""

from __future__ import annotations

import torch
import warp as wp

import engine.kernels.launch  # noqa: F401  (starts Warp, quietly)

EMPTY = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))


@wp.func
def edge(a: wp.vec2, b: wp.vec2, p: wp.vec2) -> float:
    """Twice the signed area of (a, b, p)."""
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


@wp.func
def to_pixels(c: wp.vec4, width: int, height: int) -> wp.vec2:
    return wp.vec2((c[0] / c[3] * 0.5 + 0.5) * float(width), (0.5 - c[1] / c[3] * 0.5) * float(height))


@wp.kernel
def nearest_triangle(clip: wp.array2d(dtype=wp.vec4), faces: wp.array(dtype=wp.vec3i), picture: wp.array(dtype=int),
                     width: int, height: int, keys: wp.array3d(dtype=wp.int64)):
    t = wp.tid()
    b = picture[t]
    f = faces[t]
    c0 = clip[b, f[0]]
    c1 = clip[b, f[1]]
    c2 = clip[b, f[2]]
    if c0[3] <= 0.0 or c1[3] <= 0.0 or c2[3] <= 0.0:
        return
    p0 = to_pixels(c0, width, height)
    p1 = to_pixels(c1, width, height)
    p2 = to_pixels(c2, width, height)
    area = edge(p0, p1, p2)
    if area == 0.0:
        return
    inv = 1.0 / area
    z0 = c0[2] / c0[3]
    z1 = c1[2] / c1[3]
    z2 = c2[2] / c2[3]
    x_lo = wp.max(0, int(wp.ceil(wp.min(p0[0], wp.min(p1[0], p2[0])) - 0.5)))
    x_hi = wp.min(width - 1, int(wp.floor(wp.max(p0[0], wp.max(p1[0], p2[0])) - 0.5)))
    y_lo = wp.max(0, int(wp.ceil(wp.min(p0[1], wp.min(p1[1], p2[1])) - 0.5)))
    y_hi = wp.min(height - 1, int(wp.floor(wp.max(p0[1], wp.max(p1[1], p2[1])) - 0.5)))
    for y in range(y_lo, y_hi + 1):
        for x in range(x_lo, x_hi + 1):
            p = wp.vec2(float(x) + 0.5, float(y) + 0.5)
            w0 = edge(p1, p2, p) * inv
            w1 = edge(p2, p0, p) * inv
            w2 = edge(p0, p1, p) * inv
            if w0 >= 0.0 and w1 >= 0.0 and w2 >= 0.0:
                z = w0 * z0 + w1 * z1 + w2 * z2
                if z >= -1.0 and z <= 1.0:
                    depth = wp.int64(wp.float64(z * 0.5 + 0.5) * wp.float64(1073741824.0))
                    wp.atomic_min(keys, b, y, x, wp.lshift(depth, wp.int64(32)) | wp.int64(t))


@wp.kernel
def resolve(clip: wp.array2d(dtype=wp.vec4), faces: wp.array(dtype=wp.vec3i), width: int, height: int,
            keys: wp.array3d(dtype=wp.int64), triangle: wp.array3d(dtype=int), bary: wp.array3d(dtype=wp.vec3),
            depth: wp.array3d(dtype=float)):
    b, y, x = wp.tid()
    key = keys[b, y, x]
    if key == EMPTY:
        triangle[b, y, x] = -1
        return
    t = int(key & wp.int64(0xFFFFFFFF))
    f = faces[t]
    c0 = clip[b, f[0]]
    c1 = clip[b, f[1]]
    c2 = clip[b, f[2]]
    p0 = to_pixels(c0, width, height)
    p1 = to_pixels(c1, width, height)
    p2 = to_pixels(c2, width, height)
    p = wp.vec2(float(x) + 0.5, float(y) + 0.5)
    # perspective-correct: screen-space weights over w, renormalised
    w0 = edge(p1, p2, p) / c0[3]
    w1 = edge(p2, p0, p) / c1[3]
    w2 = edge(p0, p1, p) / c2[3]
    total = 1.0 / (w0 + w1 + w2)
    w0 = w0 * total
    w1 = w1 * total
    w2 = w2 * total
    triangle[b, y, x] = t
    bary[b, y, x] = wp.vec3(w0, w1, w2)
    depth[b, y, x] = w0 * c0[3] + w1 * c1[3] + w2 * c2[3]


def rasterize(clip: torch.Tensor, faces: torch.Tensor, height: int, width: int, picture: torch.Tensor | None = None
              ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rasterise triangles into b pictures.

    clip : (b, v, 4) or (v, 4) float32 clip-space positions
    faces : (f, 3) int32; every picture draws all of them, unless ``picture`` names one picture a face
    picture : (f,) int32 or None, which of the b pictures each face is drawn into (meshes of a batch in one launch)

    Returns triangle (b, h, w) int32, row of ``faces`` or -1; barycentrics (b, h, w, 3) float32 perspective-correct,
    zeros where empty; depth (b, h, w) float32, the clip w (distance along the view axis, scene units), 0 where empty.
    Without a batch axis in ``clip`` the results have none. Not differentiable.
    """
    single = clip.dim() == 2
    clip = (clip[None] if single else clip).to(torch.float32).contiguous()
    b = clip.shape[0]
    faces = faces.to(device=clip.device, dtype=torch.int32).contiguous()
    f = faces.shape[0]
    if picture is None:
        picture = torch.arange(b, dtype=torch.int32, device=clip.device).repeat_interleave(f)
        drawn = faces.repeat(b, 1) if b > 1 else faces
    else:
        picture, drawn = picture.to(device=clip.device, dtype=torch.int32).contiguous(), faces
    device = "cpu" if clip.device.type == "cpu" else str(clip.device)
    triangle = torch.full((b, height, width), -1, dtype=torch.int32, device=clip.device)
    bary = torch.zeros((b, height, width, 3), dtype=torch.float32, device=clip.device)
    depth = torch.zeros((b, height, width), dtype=torch.float32, device=clip.device)
    if f and b and clip.shape[1]:
        keys = torch.full((b, height, width), 0x7FFFFFFFFFFFFFFF, dtype=torch.int64, device=clip.device)
        clip_w = wp.from_torch(clip, dtype=wp.vec4)
        faces_w = wp.from_torch(drawn, dtype=wp.vec3i)
        keys_w = wp.from_torch(keys)
        wp.launch(nearest_triangle, len(drawn), device=device,
                  inputs=[clip_w, faces_w, wp.from_torch(picture), width, height, keys_w])
        wp.launch(resolve, (b, height, width), device=device,
                  inputs=[clip_w, faces_w, width, height, keys_w, wp.from_torch(triangle),
                          wp.from_torch(bary, dtype=wp.vec3), wp.from_torch(depth)])
        if picture is not None and len(drawn) != f:
            triangle = torch.where(triangle >= 0, triangle % f, triangle)
    return (triangle[0], bary[0], depth[0]) if single else (triangle, bary, depth)


def interpolate(attributes: torch.Tensor, faces: torch.Tensor, triangle: torch.Tensor, bary: torch.Tensor
                ) -> torch.Tensor:
    """Per-vertex attributes (v, c) at each pixel -> (..., c); zeros where empty. Differentiable in the attributes."""
    corner = faces.long()[triangle.clamp_min(0).long()]
    value = (attributes[corner] * bary[..., None]).sum(-2)
    return torch.where((triangle >= 0)[..., None], value, torch.zeros_like(value))
