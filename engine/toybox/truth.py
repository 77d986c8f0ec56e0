"""Exact ground truth of a toybox scene: points on its visible surface, and true views for fitting."""

from __future__ import annotations

import numpy as np
import torch

from engine.artifacts import Views
from engine.kernels.raster import rasterize
from engine.space import Cameras
from engine.toybox.render import render
from engine.toybox.scene import Scene


def sphere_cameras(count: int, distance: float, fov_deg: float, size: int) -> Cameras:
    """Cameras spread over the whole sphere by a Fibonacci spiral, all looking at the origin."""
    k = np.arange(count) + 0.5
    elevation = np.degrees(np.arcsin(1 - 2 * k / count))
    azimuth = (k * 360 * (np.sqrt(5) - 1) / 2) % 360
    return Cameras.orbit(azimuth, elevation, distance, fov_deg, size)


def surface_points(scene: Scene, count: int, seed: int = 0) -> np.ndarray:
    """``count`` points, uniform by area over what can be seen of the surface from outside, (count, 3) float32.

    The solids of a prop overlap; a point counts as surface if at least one of 60 cameras all around sees it (within
    0.012 of its depth buffer, about two pixels' slope), so joints inside other solids do not count.
    """
    rng = np.random.default_rng(seed)
    v = scene.vertices[scene.faces]
    area = np.linalg.norm(np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0]), axis=1)
    n = count * 4
    face = rng.choice(len(v), n, p=area / area.sum())
    a, b = rng.random((2, n, 1))
    a, b = np.where(a + b > 1, 1 - a, a), np.where(a + b > 1, 1 - b, b)
    points = (v[face, 0] + a * (v[face, 1] - v[face, 0]) + b * (v[face, 2] - v[face, 0])).astype(np.float32)
    size = 256
    cameras = sphere_cameras(60, 4.0, 30, size)
    matrix = cameras.clip_from_world()
    h = np.c_[scene.vertices, np.ones(len(scene.vertices), np.float32)]
    seen = np.zeros(n, dtype=bool)
    q = np.c_[points, np.ones(n, np.float32)]
    faces = torch.from_numpy(scene.faces)
    for start in range(0, len(matrix), 12):
        part = matrix[start:start + 12]
        clip = torch.from_numpy(np.einsum("nij,vj->nvi", part, h).astype(np.float32))
        depth = rasterize(clip, faces, size, size)[2].numpy()
        for k, m in enumerate(part):
            c = q @ m.T
            x = ((c[:, 0] / c[:, 3] * .5 + .5) * size).astype(int).clip(0, size - 1)
            y = ((.5 - c[:, 1] / c[:, 3] * .5) * size).astype(int).clip(0, size - 1)
            d = depth[k, y, x]
            seen |= (d > 0) & (c[:, 3] <= d + 0.012)
    kept = points[seen]
    if len(kept) < count:
        kept = np.concatenate([kept] * -(-count // max(len(kept), 1)))
    return kept[:count]


def true_views(scene: Scene, cameras: Cameras, size: int, held_out: int = 0) -> Views:
    """Exact pictures from ``cameras`` as an artifact; the last ``held_out`` of them are scored, not fitted."""
    images = render([scene], [cameras], size).rgba
    flags = np.zeros(len(cameras), dtype=bool)
    if held_out:
        flags[-held_out:] = True
    return Views(images, cameras.resized(size, size), flags)
