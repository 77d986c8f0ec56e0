"""A small textured object with exact pictures, ray-cast in numpy: what the fields are fitted to in tests.

An ellipsoid with stripes stands on a chequered box, with a ball on a slab beside them: a concave outline, thin parts
and texture of several sizes; its longest side is 1.5, centred in the cube.
"""

from __future__ import annotations

import numpy as np

from engine.artifacts import Views
from engine.space import Cameras

BOXES = [((0.0, -0.55, 0.0), (0.6, 0.2, 0.45)), ((0.45, 0.05, 0.0), (0.08, 0.4, 0.3))]
ELLIPSOIDS = [((-0.15, 0.1, 0.0), (0.4, 0.5, 0.35)), ((0.45, 0.57, 0.0), (0.18, 0.18, 0.18))]


def inside(points: np.ndarray) -> np.ndarray:
    """points : (n, 3) -> (n,) bool, whether they are in the object."""
    result = np.zeros(len(points), dtype=bool)
    for centre, half in BOXES:
        result |= (np.abs(points - np.array(centre)) <= half).all(-1)
    for centre, radii in ELLIPSOIDS:
        result |= (((points - np.array(centre)) / radii)**2).sum(-1) <= 1
    return result


def _colour(part: int, p: np.ndarray) -> np.ndarray:
    x, y, z = p.T
    if part == 0:
        dark = (np.floor(x * 5 + 0.3) + np.floor(y * 5) + np.floor(z * 5)) % 2 == 0
        return np.where(dark[:, None], (0.2, 0.25, 0.6), (0.9, 0.85, 0.7))
    if part == 1:
        return np.stack([0.3 + 0 * x, 0.45 + 0.4 * y, 0.3 + 0.3 * z], -1)
    if part == 2:
        return np.where((np.sin(18 * y) > 0)[:, None], (0.85, 0.25, 0.2), (0.95, 0.75, 0.3))
    return np.stack([0.9 + 0 * x, 0.5 + 0.8 * z, 0.8 + 0 * x], -1)


def trace(origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest hits of rays (n, 3), (n, 3): distance (n,) (infinite for none), colour (n, 3), hit (n,) bool."""
    nearest, part = np.full(len(origins), np.inf), np.full(len(origins), -1)
    for k, (centre, half) in enumerate(BOXES):
        with np.errstate(divide="ignore"):
            a = (np.array(centre) - half - origins) / directions
            b = (np.array(centre) + half - origins) / directions
        near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
        closer = (near < far) & (near > 0) & (near < nearest)
        nearest[closer], part[closer] = near[closer], k
    for k, (centre, radii) in enumerate(ELLIPSOIDS):
        o, d = (origins - centre) / np.array(radii), directions / np.array(radii)
        a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
        square = b * b - a * c
        t = (-b - np.sqrt(np.maximum(square, 0))) / a
        closer = (square > 0) & (t > 0) & (t < nearest)
        nearest[closer], part[closer] = t[closer], len(BOXES) + k
    colour = np.zeros_like(origins)
    for k in range(len(BOXES) + len(ELLIPSOIDS)):
        mine = part == k
        colour[mine] = _colour(k, origins[mine] + nearest[mine, None] * directions[mine])
    return nearest, colour, part >= 0


def pictures(cameras: Cameras, samples: int = 3) -> np.ndarray:
    """(n, h, w, 4) float32, straight alpha, sRGB; samples x samples rays a pixel."""
    fine = cameras.resized(cameras.width * samples, cameras.height * samples)
    result = []
    for i in range(len(cameras)):
        origins, directions = (v.reshape(-1, 3).astype(np.float64) for v in fine[i].rays())
        _, colour, hit = trace(origins, directions)
        shape = (cameras.height, samples, cameras.width, samples)
        alpha = hit.reshape(shape).mean((1, 3))
        rgb = (colour * hit[:, None]).reshape(*shape, 3).mean((1, 3)) / np.maximum(alpha, 1e-9)[..., None]
        result.append(np.concatenate([rgb, alpha[..., None]], -1))
    return np.stack(result).astype(np.float32)


def views(count: int = 24, held_out: int = 6, size: int = 128, samples: int = 3) -> Views:
    """Orbit views at elevations of -10 to 55 degrees; the held-out ones lie between the fitted ones."""
    def ring(n: int, phase: float) -> tuple[np.ndarray, np.ndarray]:
        k = np.arange(n)
        return (k + phase) * 360 * 0.381966, -10 + 65 * ((k + 0.5) / n)  # the golden angle spreads them evenly

    (a, e), (b, f) = ring(count, 0.0), ring(held_out, 0.37)
    cameras = Cameras.orbit(np.concatenate([a, b]), np.concatenate([e, f]), 2.6, 45.0, size)
    return Views(pictures(cameras, samples), cameras, np.arange(count + held_out) >= count)
