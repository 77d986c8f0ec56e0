"""Is a mesh its own mirror image, and how to make it so.

A plane is judged by how far the mirrored surface lies from the surface itself: the root mean square over points spread
evenly, as a share of the longest side. Given or found, the better kept half is cut out, mirrored and joined along the
plane, so that the result is symmetric to the last bit and as closed as the mesh was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine.meshes.measure import area, sample_surface

SAMPLES = 4000
ON_PLANE = 1e-4
"""Vertices nearer to the plane than this share of the longest side are laid onto it."""


@dataclass(frozen=True)
class Plane:
    """Points p with normal . p = offset; error : how unlike its mirror image the mesh is, as a share of its size."""

    normal: np.ndarray
    offset: float
    error: float


def mirrored(points: np.ndarray, plane: Plane) -> np.ndarray:
    """(n, 3) points behind the looking glass."""
    away = points @ plane.normal - plane.offset
    return np.asarray(points - 2 * away[:, None] * plane.normal)


def measured(vertices: np.ndarray, faces: np.ndarray, normal: np.ndarray, offset: float | None = None,
             refine: bool = False) -> Plane:
    """The error of mirroring at a plane; offset None: through the surface's centre of mass.

    refine : turn and shift the plane to where the error is least nearby (Nelder and Mead 1965)
    """
    from scipy.optimize import minimize

    from engine.kernels.projection import Surface
    points = sample_surface(vertices, faces, SAMPLES)
    longest = float(np.ptp(vertices, axis=0).max())
    surface = Surface(torch.from_numpy(np.ascontiguousarray(vertices, np.float32)),
                      torch.from_numpy(np.ascontiguousarray(faces, np.int32)))
    unit = np.asarray(normal, np.float64) / np.linalg.norm(normal)
    centre = points.mean(0)
    start = float(unit @ centre) if offset is None else offset

    def error(n: np.ndarray, d: float) -> float:
        seen = mirrored(points, Plane(n, d, 0.0)).astype(np.float32)
        far = surface.nearest(torch.from_numpy(seen))[2].double().numpy()
        return float(np.sqrt((far ** 2).mean()) / longest)

    if not refine:
        return Plane(unit, start, error(unit, start))
    x = np.cross(unit, np.eye(3)[np.abs(unit).argmin()])
    x /= np.linalg.norm(x)
    y = np.cross(unit, x)

    def turned(q: np.ndarray) -> tuple[np.ndarray, float]:
        n = unit + q[0] * x + q[1] * y
        n /= np.linalg.norm(n)
        return n, float(n @ centre + q[2] * longest + (start - unit @ centre))

    simplex = np.array([[0, 0, 0], [0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.02]])
    best = minimize(lambda q: error(*turned(q)), np.zeros(3), method="Nelder-Mead",
                    options={"maxfev": 120, "initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-7})
    n, d = turned(best.x)
    return Plane(n, d, float(best.fun))


def found(vertices: np.ndarray, faces: np.ndarray) -> Plane:
    """The best upright plane: across x, across z, or across a principal direction of the surface that lies about level.
    Of planes that fit about equally well the one across x is taken: the asset's left is its right."""
    points = sample_surface(vertices, faces, SAMPLES)
    own = np.linalg.eigh(np.cov(points.T))[1].T
    axes = [np.eye(3)[0], np.eye(3)[2], *(axis for axis in own if abs(axis[1]) < 0.7)]
    rough = [measured(vertices, faces, axis) for axis in axes]
    order = np.argsort([plane.error + 1e-3 * k for k, plane in enumerate(rough)])[:2]
    fine = [measured(vertices, faces, rough[k].normal, rough[k].offset, refine=True) for k in sorted(order)]
    best = min(fine, key=lambda plane: plane.error)
    first = next(plane for plane in fine if plane.error <= 1.1 * best.error + 1e-4)
    forward = first.normal[np.abs(first.normal).argmax()] > 0
    return first if forward else Plane(-first.normal, -first.offset, first.error)


def symmetric(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, plane: Plane
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The half with more surface, cut at the plane, and its mirror image: vertices, faces, uvs (of the kept half).

    vertices : (v, 3), split at seams or not; points on the plane are shared by place, the halves keep their own rows
    """
    longest = float(np.ptp(vertices, axis=0).max())
    away = vertices.astype(np.float64) @ plane.normal - plane.offset
    middle = away[faces].mean(1)
    front, back = (area(vertices, faces[way]) if way.any() else 0.0 for way in (middle > 0, middle < 0))
    if back > 1.001 * front:
        plane = Plane(-plane.normal, -plane.offset, plane.error)
        away = -away
    near = np.abs(away) < ON_PLANE * longest
    points = vertices.astype(np.float64) - np.where(near, away, 0.0)[:, None] * plane.normal
    away[near] = 0.0
    points, faces, uvs, away = _clipped(points, faces, uvs.astype(np.float64), away)
    on = away == 0
    points[on] -= (points[on] @ plane.normal - plane.offset)[:, None] * plane.normal
    image = mirrored(points, plane)
    image[on] = points[on]
    both = np.concatenate([points, image]).astype(np.float32)
    return both, np.concatenate([faces, faces[:, ::-1] + len(points)]).astype(np.int32), \
        np.concatenate([uvs, uvs]).astype(np.float32)


def _clipped(points: np.ndarray, faces: np.ndarray, uvs: np.ndarray, away: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What lies in front of the plane (away > 0); faces in the plane go. Cut points are shared along edges."""
    side = np.sign(away)
    kept = faces[(side[faces] >= 0).all(1) & (side[faces] > 0).any(1)]
    crossing = faces[(side[faces] > 0).any(1) & (side[faces] < 0).any(1)]
    rows, cut = [kept], {}
    new_points, new_uvs, count = [], [], len(points)
    for face in crossing.tolist():
        ring: list[int] = []
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            if side[a] >= 0:
                ring.append(a)
            if side[a] * side[b] < 0:
                low, high = min(a, b), max(a, b)
                if (low, high) not in cut:
                    share = away[low] / (away[low] - away[high])
                    new_points.append(points[low] + share * (points[high] - points[low]))
                    new_uvs.append(uvs[low] + share * (uvs[high] - uvs[low]))
                    cut[low, high] = count
                    count += 1
                ring.append(cut[low, high])
        rows.append(np.array([[ring[0], ring[k], ring[k + 1]] for k in range(1, len(ring) - 1)]))
    points = np.concatenate([points, np.array(new_points).reshape(-1, 3)])
    uvs = np.concatenate([uvs, np.array(new_uvs).reshape(-1, 2)])
    away = np.concatenate([away, np.zeros(len(new_points))])
    used, faces = np.unique(np.concatenate(rows), return_inverse=True)
    return points[used], faces.reshape(-1, 3), uvs[used], away[used]
