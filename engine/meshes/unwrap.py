"""One UV set without overlaps, by xatlas; and the figures that say how good it is.

UVs have glTF's origin: (0, 0) is the texture's top left corner, v grows downward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import RunFailed
from engine.meshes.measure import area


@dataclass(frozen=True)
class Unwrapped:
    """vertices : (v, 3) float32, split at seams; faces : (f, 3) int32, in the input's order
    uvs : (v, 2) float32 in [0, 1]; source : (v,) int64, the input's vertex that each came from; charts : islands
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    source: np.ndarray
    charts: int


def unwrap(vertices: np.ndarray, faces: np.ndarray, texture_size: int, padding: int = 4) -> Unwrapped:
    """Cut a mesh into charts and pack them into a square texture.

    texture_size : pixels; padding : pixels kept free between charts, and half of it along the border
    """
    import xatlas
    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(vertices, dtype=np.float32), np.ascontiguousarray(faces, dtype=np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    # The atlas comes out up to a third larger than asked for and is scaled down with its padding.
    packing.resolution, packing.padding, packing.bilinear = texture_size, int(np.ceil(padding * 1.35)), True
    atlas.generate(charts, packing)
    if atlas.atlas_count != 1:
        raise RunFailed(f"the unwrapping needs {atlas.atlas_count} textures of {texture_size} pixels",
                        "allow fewer triangles or a larger texture")
    source, corners, uvs = atlas[0]
    border = padding / 2
    scale = (texture_size - 2 * border) / max(atlas.width, atlas.height)
    pixels = np.asarray(uvs, dtype=np.float64) * [atlas.width, atlas.height] * scale + border
    source = np.asarray(source, dtype=np.int64)
    return Unwrapped(np.asarray(vertices, dtype=np.float32)[source], np.asarray(corners, dtype=np.int32),
                     np.clip(pixels / texture_size, 0, 1).astype(np.float32), source, int(atlas.chart_count))


def uv_clip(uvs: np.ndarray, depth: np.ndarray | None = None) -> torch.Tensor:
    """UVs (v, 2) as clip positions (v, 4), so that rasterising draws the texture: texel (row, column) = pixel."""
    z = np.zeros(len(uvs)) if depth is None else depth
    clip = np.stack([2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1], z, np.ones(len(uvs))], -1)
    return torch.from_numpy(clip.astype(np.float32))


@dataclass(frozen=True)
class UvFigures:
    """overlap : share of the used texels that two triangles claim; used : share of the texture that charts cover
    texels_per_unit : median over the surface, texels a unit of length; stretch : 95th over 5th percentile of that
    """

    overlap: float
    used: float
    texels_per_unit: float
    stretch: float


def uv_figures(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, texture_size: int) -> UvFigures:
    """Overlap, use and density of a UV set; overlap is sampled at twice the texture's resolution."""
    overlap, used = _coverage(faces, uvs, min(2 * texture_size, 4096))
    a, b, c = (uvs[faces[:, k]].astype(np.float64) * texture_size for k in range(3))
    ab, ac = b - a, c - a
    flat = np.abs(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    solid = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if area(vertices, faces) <= 0:
        return UvFigures(overlap, used, 0.0, 1.0)
    density = np.sqrt(flat / np.maximum(solid, 1e-30))
    order = np.argsort(density)
    weight = np.cumsum(solid[order]) / solid.sum()
    low, middle, high = (float(density[order][np.searchsorted(weight, q)]) for q in (0.05, 0.5, 0.95))
    return UvFigures(overlap, used, middle, high / max(low, 1e-12))


def _coverage(faces: np.ndarray, uvs: np.ndarray, size: int) -> tuple[float, float]:
    """Share of covered samples that two triangles cover, and share of all samples that are covered.

    Each triangle is drawn twice, flat, once nearer and once farther by its number: where triangles overlap, the two
    pictures show different ones. Samples on a triangle's very edge belong to both neighbours and are left out.
    """
    from engine.kernels.raster import rasterize
    count = len(faces)
    corners = torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)
    rank = np.repeat(np.linspace(-0.9, 0.9, count), 3)
    own = uvs[faces.reshape(-1)]
    front, front_weights, _ = rasterize(uv_clip(own, rank), corners, size, size)
    back, back_weights, _ = rasterize(uv_clip(own, -rank), corners, size, size)
    inner = (front_weights.amin(-1) > 1e-3) & (back_weights.amin(-1) > 1e-3)
    covered = int((front >= 0).sum())
    return int(((front != back) & inner).sum()) / max(covered, 1), covered / size ** 2
