"""Base colour into a texture: from the field's colour and from pictures, blended in linear light.

Every texel that a chart covers knows its point on the surface. A picture speaks for the points that its camera sees,
the louder the more squarely it looks at them; the field speaks, softly, for all, and alone where no camera looked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from engine.artifacts import Views
from engine.meshes.unwrap import uv_clip

Color = Callable[[np.ndarray], np.ndarray]
"""Points (n, 3) in field coordinates -> sRGB colours (n, 3) in [0, 1]."""

GRAZING = 0.15
"""Cosine below which a picture says nothing about a point: its pixels there are stretched and half of them wrong."""
DEPTH_TOLERANCE = 0.02
"""Field units by which a point may lie behind the depth picture and still be seen; about a pixel at 128."""


def linear_from_srgb(srgb: torch.Tensor) -> torch.Tensor:
    """IEC 61966-2-1, any shape, [0, 1]."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055).clamp_min(0) ** 2.4)


def srgb_from_linear(linear: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`linear_from_srgb`."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0) ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class Texels:
    """index : (n,) int64 flat rows of the texture that charts cover; points, normals : (n, 3) float32 there"""

    size: int
    index: torch.Tensor
    points: torch.Tensor
    normals: torch.Tensor


def surface_texels(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray, size: int,
                   device: str = "cpu") -> Texels:
    """The texels whose centre a chart covers. Arrays as in TexturedMesh; ``size`` pixels a side."""
    from engine.kernels.raster import rasterize
    corners = torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int32)).to(device)
    triangle, weights, _ = rasterize(uv_clip(uvs).to(device), corners, size, size)
    index = (triangle.reshape(-1) >= 0).nonzero()[:, 0]
    corner = corners.long()[triangle.reshape(-1)[index].long()]
    w = weights.reshape(-1, 3)[index][..., None]
    points = (torch.from_numpy(np.asarray(vertices, np.float32)).to(device)[corner] * w).sum(1)
    directions = (torch.from_numpy(np.asarray(normals, np.float32)).to(device)[corner] * w).sum(1)
    return Texels(size, index, points, functional.normalize(directions, dim=-1))


@dataclass(frozen=True)
class Baked:
    """base_color : (size, size, 3) float32 sRGB, every texel filled
    seen : share of the covered texels that at least one picture speaks for
    disagreement : root mean square sRGB difference between the pictures and the blend, 0 where one picture speaks
    """

    base_color: np.ndarray
    seen: float
    disagreement: float


def bake(texels: Texels, vertices: np.ndarray, faces: np.ndarray, color: Color | None, views: Views | None,
         sharpness: float = 4.0, field_weight: float = 0.02) -> Baked:
    """Blend field and pictures at every texel and fill the rest of the texture.

    color : the field's colour, or None; views : pictures with cameras in field coordinates, held-out ones unused
    sharpness : power of the cosine between the normal and the way to the camera; more lets the best picture win
    field_weight : the field's say beside a picture that looks squarely and has weight 1
    """
    device = texels.points.device
    total = torch.zeros(len(texels.index), device=device)
    linear = torch.zeros(len(texels.index), 3, device=device)
    square = torch.zeros(len(texels.index), device=device)
    if views is not None:
        for row, weight, srgb in _spoken(texels, vertices, faces, views, sharpness):
            total.index_add_(0, row, weight)
            linear.index_add_(0, row, weight[:, None] * linear_from_srgb(srgb))
            square.index_add_(0, row, weight * (srgb ** 2).sum(1))
    seen = float((total > 0.01).float().mean()) if len(total) else 0.0
    pictures = srgb_from_linear(linear / total.clamp_min(1e-12)[:, None])
    spread = (square / total.clamp_min(1e-12) - (pictures ** 2).sum(1)).clamp_min(0) / 3
    disagreement = float(spread[total > 0.01].mean().sqrt()) if seen > 0 else 0.0
    if color is not None:
        base = torch.from_numpy(np.asarray(color(texels.points.cpu().numpy()), np.float32)).to(device)
        say = max(field_weight, 1e-6)
        linear, total = linear + say * linear_from_srgb(base.clamp(0, 1)), total + say
    known = total > 0
    srgb = srgb_from_linear(linear / total.clamp_min(1e-12)[:, None]).clamp(0, 1)
    picture = np.zeros((texels.size ** 2, 3), dtype=np.float32)
    filled = np.zeros(texels.size ** 2, dtype=bool)
    picture[texels.index[known].cpu().numpy()] = srgb[known].cpu().numpy()
    filled[texels.index[known].cpu().numpy()] = True
    shape = (texels.size, texels.size)
    return Baked(pad_seams(picture.reshape(*shape, 3), filled.reshape(shape)), seen, disagreement)


def pad_seams(picture: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Every empty texel takes the colour of the nearest filled one, so that no filter ever reads an empty texel."""
    from scipy.ndimage import distance_transform_edt
    if filled.all() or not filled.any():
        return picture
    rows, columns = distance_transform_edt(~filled, return_distances=False, return_indices=True)
    return np.ascontiguousarray(picture[rows, columns])


def _spoken(texels: Texels, vertices: np.ndarray, faces: np.ndarray, views: Views, sharpness: float
            ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each picture that may be used: rows of the texels it speaks for, its weights there, its sRGB there."""
    from engine.kernels.raster import rasterize
    device = texels.points.device
    corners = torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int32)).to(device)
    solid = functional.pad(torch.from_numpy(np.asarray(vertices, np.float32)).to(device), (0, 1), value=1.0)
    trust = np.ones(len(views)) if views.weights is None else np.asarray(views.weights, dtype=float)
    scale = max(1, round(512 / max(views.cameras.width, views.cameras.height)))
    height, width = views.cameras.height * scale, views.cameras.width * scale
    matrices = torch.from_numpy(views.cameras.clip_from_world()).to(device)
    found = []
    for i in range(len(views)):
        if views.held_out[i] or trust[i] <= 0:
            continue
        eye = torch.from_numpy(np.asarray(views.cameras.camera_to_world[i, :3, 3], np.float32)).to(device)
        toward = functional.normalize(eye - texels.points, dim=-1)
        cosine = (toward * texels.normals).sum(-1)
        row = (cosine > GRAZING).nonzero()[:, 0]
        clip = functional.pad(texels.points[row], (0, 1), value=1.0) @ matrices[i].T
        grid = clip[:, :2] / clip[:, 3:].clamp_min(1e-6) * clip.new_tensor([1.0, -1.0])
        _, _, depth = rasterize(solid @ matrices[i].T, corners, height, width)
        visible = (clip[:, 3] > 0) & (grid.abs() < 1).all(1)
        visible &= clip[:, 3] <= _nearby_depth(depth, grid) + DEPTH_TOLERANCE
        row, grid = row[visible], grid[visible]
        image = torch.from_numpy(np.asarray(views.images[i], np.float32)).to(device)
        sure, srgb = _sample_picture(image, grid)
        weight = trust[i] * sure * ((cosine[row] - GRAZING) / (1 - GRAZING)) ** sharpness
        found.append((row, weight, srgb))
    return found


def _nearby_depth(depth: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The farthest of the four depths (h, w) around each position; -1 where any of them shows no surface.

    The farthest, because on a slope the point lies between its neighbours; none, because next to the outline a
    pixel of the picture holds background.
    """
    h, w = depth.shape
    x, y = (grid[:, 0] + 1) / 2 * w - 0.5, (grid[:, 1] + 1) / 2 * h - 0.5
    column, line = x.floor().long(), y.floor().long()
    flat, corners = depth.reshape(-1), []
    for dy in (0, 1):
        for dx in (0, 1):
            corners.append(flat[(line + dy).clamp(0, h - 1) * w + (column + dx).clamp(0, w - 1)])
    four = torch.stack(corners)
    return torch.where((four > 0).all(0), four.amax(0), torch.full_like(x, -1.0))


def _sample_picture(image: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bilinear colour of a picture (h, w, 3 or 4) at grid positions, and how sure it is that no background is in it.

    Colour is averaged premultiplied in linear light, so that what lies under zero alpha never shows; sureness is the
    least alpha of the surrounding 3 x 3 pixels.
    """
    alpha = image[..., 3] if image.shape[-1] == 4 else torch.ones(image.shape[:2], device=image.device)
    least = -functional.max_pool2d(-alpha[None, None], 3, stride=1, padding=1)[0, 0]
    layers = torch.cat([linear_from_srgb(image[..., :3]) * alpha[..., None], alpha[..., None], least[..., None]], -1)
    values = functional.grid_sample(layers.permute(2, 0, 1)[None], grid[None, None], mode="bilinear",
                                    padding_mode="border", align_corners=False)[0, :, 0].T
    color = srgb_from_linear((values[:, :3] / values[:, 3:4].clamp_min(1e-6)).clamp(0, 1))
    return values[:, 4].clamp(0, 1), color
