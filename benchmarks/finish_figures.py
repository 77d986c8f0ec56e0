"""How like the full model its coarser levels look: outlines, and lit pictures with normal maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from engine.artifacts import TexturedMesh
from engine.meshes.asset import GameAsset, Lod
from engine.meshes.render import Stage, render, set_stage, turntable_cameras
from engine.space import Cameras

PIXELS = 384
AZIMUTHS = (20.0, 110.0, 200.0, 290.0)
ELEVATION = 20.0


def stage_of(asset: GameAsset, lod: Lod, with_normals: bool = True) -> Stage:
    """One level as the renderer takes it, with the pictures that it would be drawn with."""
    m = asset.material
    colors = m.base_color if lod.base_color is None else lod.base_color
    normal = (m.normal if lod.normal is None else lod.normal) if with_normals else None
    mesh = TexturedMesh(lod.vertices, lod.faces, lod.uvs, lod.normals, colors[..., :3], m.flat_metallic,
                        m.flat_roughness)
    return set_stage(mesh, normal_map=normal, tangents=None if normal is None else lod.tangents)


def silhouette(lod: Lod, camera: Cameras, radius: float) -> np.ndarray:
    """(h, w) bool."""
    from engine.kernels.raster import rasterize
    matrix = torch.from_numpy(camera.clip_from_world(radius * 0.1, radius * 40)[0])
    solid = torch.nn.functional.pad(torch.from_numpy(lod.vertices), (0, 1), value=1.0)
    return (rasterize(solid @ matrix.T, torch.from_numpy(lod.faces), camera.height, camera.width)[0] >= 0).numpy()


def ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(h, w) structural similarity of the grey pictures (Wang et al. 2004: 11 pixel window, sigma 1.5)."""
    from scipy.ndimage import gaussian_filter
    grey = [(np.asarray(x, np.float64) / 255) @ [0.299, 0.587, 0.114] for x in (a, b)]

    def blur(x: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(x, 1.5, truncate=3.5))
    mean = [blur(g) for g in grey]
    var = [blur(g * g) - m * m for g, m in zip(grey, mean, strict=True)]
    both = blur(grey[0] * grey[1]) - mean[0] * mean[1]
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    return np.asarray((2 * mean[0] * mean[1] + c1) * (2 * both + c2)
                      / ((mean[0] ** 2 + mean[1] ** 2 + c1) * (var[0] + var[1] + c2)))


def compare(asset: GameAsset, level: int, with_normals: bool = True) -> dict[str, Any]:
    """Means over four sides of level against level 0: iou of the outlines; ssim of the whole pictures, tightly framed;
    ssim_inside over the pixels that either shows; and the last side's pictures."""
    full, coarse = asset.lods[0], asset.lods[level]
    stages = [stage_of(asset, full), stage_of(asset, coarse, with_normals)]
    cameras = turntable_cameras(stages[0], np.array(AZIMUTHS), ELEVATION, PIXELS)
    ious, whole, inside, shown = [], [], [], []
    for i in range(len(cameras)):
        masks = [silhouette(lod, cameras[[i]], stages[0].radius) for lod in (full, coarse)]
        ious.append((masks[0] & masks[1]).sum() / max(1, (masks[0] | masks[1]).sum()))
        shown = [render(stage, cameras[[i]]) for stage in stages]
        alike = ssim_map(*shown)
        whole.append(alike.mean())
        inside.append(alike[masks[0] | masks[1]].mean())
    return {"iou": float(np.mean(ious)), "ssim": float(np.mean(whole)), "ssim_inside": float(np.mean(inside)),
            "pictures": shown}
