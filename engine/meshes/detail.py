"""What a coarse mesh's textures remember of a fine one: its normals, its colours, and how little sky its hollows see.

Every texel that a chart covers is a point of the coarse surface. The fine surface answers there either through shared
UVs (a simplified mesh that kept them) or through the nearest face along the coarse normal that looks the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from engine.kernels.projection import Surface, interpolated
from engine.kernels.raster import rasterize
from engine.meshes.bake import linear_from_srgb, pad_seams, srgb_from_linear
from engine.meshes.unwrap import uv_clip

REACH = 0.04
"""How far to either side the fine surface is looked for, as a share of the longest side."""
FLAT = (0.5, 0.5, 1.0)
"""A normal map's colour where the mesh's own normal is right."""


@dataclass(frozen=True)
class Sites:
    """Texels covered by charts: index (n,) int64 into size * size; face (n,) int64; weights (n, 3) of its corners."""

    size: int
    index: torch.Tensor
    face: torch.Tensor
    weights: torch.Tensor


def sites(faces: np.ndarray, uvs: np.ndarray, size: int, device: str = "cpu") -> Sites:
    """The texels whose centre a face's texture covers. faces : (f, 3); uvs : (v, 2), origin top left"""
    corners = torch.from_numpy(np.ascontiguousarray(faces, np.int32)).to(device)
    triangle, weights, _ = rasterize(uv_clip(uvs).to(device), corners, size, size)
    index = (triangle.reshape(-1) >= 0).nonzero()[:, 0]
    return Sites(size, index, triangle.reshape(-1)[index].long(), weights.reshape(-1, 3)[index])


def at_sites(values: np.ndarray, faces: np.ndarray, where: Sites) -> torch.Tensor:
    """Vertex values (v, c) at the sites, linear in each face: (n, c) float32."""
    attribute = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(where.index.device)
    return interpolated(attribute, torch.from_numpy(np.ascontiguousarray(faces, np.int64)).to(where.index.device),
                        where.face, where.weights)


@dataclass(frozen=True)
class Fine:
    """The fine mesh, ready to be asked. uvs, base_color : None where it has no texture"""

    surface: Surface
    normals: torch.Tensor
    uvs: torch.Tensor | None
    base_color: torch.Tensor | None
    longest: float

    @staticmethod
    def of(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray | None = None,
           base_color: np.ndarray | None = None, device: str = "cpu") -> Fine:
        """Arrays as in TexturedMesh."""
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
        corners = torch.from_numpy(np.ascontiguousarray(faces, np.int32)).to(device)
        return Fine(Surface(tensor(vertices), corners), tensor(normals), None if uvs is None else tensor(uvs),
                    None if base_color is None else tensor(base_color), float(np.ptp(vertices, axis=0).max()))


@dataclass(frozen=True)
class Match:
    """Where sites lie on the fine surface: face (n,) int32, weights (n, 3), and the share found along the normal."""

    face: torch.Tensor
    weights: torch.Tensor
    along: float


def match(fine: Fine, points: torch.Tensor, normals: torch.Tensor, reach: float = REACH) -> Match:
    """The fine surface's point for each point (n, 3) with unit normal (n, 3): along it, else the nearest."""
    face, weights, _ = fine.surface.along_normals(points, normals, reach * fine.longest)
    lost = (face < 0).nonzero()[:, 0]
    if len(lost):
        near, shares, _ = fine.surface.nearest(points[lost])
        face[lost], weights[lost] = near, shares
    return Match(face, weights, 1 - len(lost) / max(1, len(points)))


def fine_normals(fine: Fine, found: Match) -> torch.Tensor:
    """(n, 3) unit."""
    return functional.normalize(interpolated(fine.normals, fine.surface.faces, found.face, found.weights), dim=1)


def fine_colors(fine: Fine, found: Match) -> torch.Tensor:
    """(n, 3) sRGB: the fine texture, read bilinearly in linear light. ValueError where it has none."""
    if fine.uvs is None or fine.base_color is None:
        raise ValueError("the fine mesh has no texture")
    uv = interpolated(fine.uvs, fine.surface.faces, found.face, found.weights)
    picture = linear_from_srgb(fine.base_color[..., :3]).permute(2, 0, 1)[None]
    value = functional.grid_sample(picture, (uv * 2 - 1)[None, None], mode="bilinear", padding_mode="border",
                                   align_corners=False)[0, :, 0].T
    return srgb_from_linear(value).clamp(0, 1)


def tangent_space(world: torch.Tensor, normals: torch.Tensor, tangents: torch.Tensor, faces: np.ndarray, where: Sites
                  ) -> torch.Tensor:
    """Unit normals (n, 3) of the world in each site's own frame, as a shader will undo it.

    normals : (v, 3), tangents : (v, 4) of the coarse mesh, float32. The frame's three axes are interpolated, made unit
    one by one and not squared up again, as engines do; so its inverse is taken, not its transpose.
    """
    corner = torch.from_numpy(np.ascontiguousarray(faces, np.int64)).to(where.index.device)
    axes = []
    bitangents = torch.cross(normals, tangents[:, :3], dim=1) * tangents[:, 3:]
    for values in (tangents[:, :3], bitangents, normals):
        axes.append(functional.normalize(interpolated(values, corner, where.face, where.weights), dim=1))
    t, b, n = axes
    # Cramer's rule for [t b n] x = world.
    bn, nt, tb = torch.cross(b, n, dim=1), torch.cross(n, t, dim=1), torch.cross(t, b, dim=1)
    whole = (t * bn).sum(1, keepdim=True)
    local = torch.stack([(world * bn).sum(1), (world * nt).sum(1), (world * tb).sum(1)], 1)
    local = torch.where(whole.abs() > 1e-4, local / torch.where(whole.abs() > 1e-4, whole, 1.0),
                        local.new_tensor([0.0, 0.0, 1.0]))
    local = torch.where(local[:, 2:] > 0.02, local, torch.cat([local[:, :2], torch.full_like(local[:, 2:], 0.02)], 1))
    return functional.normalize(local, dim=1)


def normal_map(world: torch.Tensor, normals: np.ndarray, tangents: np.ndarray, faces: np.ndarray, where: Sites
               ) -> np.ndarray:
    """(size, size, 3) float32 in [0, 1], padded: the fine normals ``world`` (n, 3) for a mesh of these tangents."""
    device = where.index.device
    local = tangent_space(world, torch.from_numpy(np.ascontiguousarray(normals, np.float32)).to(device),
                          torch.from_numpy(np.ascontiguousarray(tangents, np.float32)).to(device), faces, where)
    return picture_of(local * 0.5 + 0.5, where, FLAT)


def picture_of(values: torch.Tensor, where: Sites, empty: tuple[float, ...]) -> np.ndarray:
    """(size, size, c) float32: values (n, c) at their texels, every other one as its nearest; ``empty`` without any."""
    shape = (where.size, where.size)
    picture = np.empty((where.size ** 2, values.shape[1]), np.float32)
    picture[:] = empty
    filled = np.zeros(where.size ** 2, bool)
    index = where.index.cpu().numpy()
    picture[index], filled[index] = values.cpu().numpy(), True
    return pad_seams(picture.reshape(*shape, -1), filled.reshape(shape))


def hemisphere(rays: int) -> np.ndarray:
    """(rays, 3) float32 directions around +z, as many as their cosine says, spread evenly (a Fibonacci spiral)."""
    k = np.arange(rays) + 0.5
    r, turn = np.sqrt(k / rays), k * np.pi * (3 - np.sqrt(5))
    return np.stack([r * np.cos(turn), r * np.sin(turn), np.sqrt(1 - r ** 2)], 1).astype(np.float32)


def occlusion(fine: Fine, faces: np.ndarray, vertices: np.ndarray, normals: np.ndarray, uvs: np.ndarray, size: int,
              rays: int = 48, reach: float = 0.3) -> np.ndarray:
    """(size, size) float32: the cosine-weighted share of the sky that each texel's point sees.

    faces, vertices, normals, uvs : the coarse mesh; reach : how far walls count, as a share of the longest side.
    Rays are cast at a quarter of the size, where 16 texels share them, turned from texel to texel and then averaged
    over neighbours; 0 rays: all is open; light in hollows is smooth, so the eye does not miss what lies between.
    """
    small = max(64, size // 4)
    where = sites(faces, uvs, small, str(fine.normals.device))
    if not len(where.index) or not rays:
        return np.ones((size, size), np.float32)
    points = at_sites(vertices, faces, where)
    way = functional.normalize(at_sites(normals, faces, where), dim=1)
    found = match(fine, points, way)
    onto = interpolated(fine.surface.vertices, fine.surface.faces, found.face, found.weights)
    row, column = where.index // small, where.index % small
    turns = ((row * 0.7548776662 + column * 0.5698402910) % 1.0 * 2 * np.pi).float()
    free = fine.surface.open_sky(onto, fine_normals(fine, found), torch.from_numpy(hemisphere(rays)).to(onto.device),
                                 turns, reach * fine.longest, 2e-3 * fine.longest)
    value, known = torch.zeros(small * small, device=onto.device), torch.zeros(small * small, device=onto.device)
    value[where.index], known[where.index] = free, 1.0
    layers = torch.stack([value, known]).view(1, 2, small, small)
    spread = functional.avg_pool2d(layers, 3, stride=1, padding=1)[0]
    smooth = (spread[0] / spread[1].clamp_min(1e-6)).reshape(-1)[where.index]
    picture = torch.from_numpy(picture_of(smooth[:, None], where, (1.0,)))[None].permute(0, 3, 1, 2)
    large = functional.interpolate(picture, (size, size), mode="bilinear", align_corners=False)
    return np.ascontiguousarray(large[0, 0].clamp(0, 1).numpy())
