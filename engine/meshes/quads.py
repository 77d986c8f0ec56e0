"""Even quadrilaterals along a mesh's own directions, by Instant Meshes (Jakob et al. 2015), where it is installed."""

from __future__ import annotations

import numpy as np

from engine.errors import BadInput, RunFailed

TRIES = 4


def quad_mesh(vertices: np.ndarray, faces: np.ndarray, quads: int) -> tuple[np.ndarray, np.ndarray]:
    """About ``quads`` quadrilaterals: vertices (w, 3) float32, corners (q, 4) int64, counter-clockwise from outside.

    vertices : (v, 3), faces : (f, 3) with places joined. The library's own count is a wish that it misses by factors,
    so it is asked again with the wish corrected. BadInput where it is not installed, RunFailed where it finds nothing.
    """
    try:
        import pynanoinstantmeshes as instant
    except ImportError as error:
        raise BadInput("quadrilaterals need Instant Meshes, which is not installed",
                       "pip install pynanoinstantmeshes, or --set finish_mesh.quads=false") from error
    wish, best = float(quads) / 4, None
    for _ in range(TRIES):
        points, corners = instant.remesh(np.ascontiguousarray(vertices, np.float32),
                                         np.ascontiguousarray(faces, np.uint32), max(8, round(wish)), rosy=4, posy=4,
                                         creaseAngle=30.0, align_to_boundaries=True, deterministic=True)
        corners = np.asarray(corners, np.int64)
        if not len(corners):
            break
        if best is None or abs(np.log(len(corners) / quads)) < abs(np.log(len(best[1]) / quads)):
            best = (np.asarray(points, np.float32), corners)
        if 0.9 < len(corners) / quads < 1.1:
            break
        wish *= quads / len(corners)
    if best is None:
        raise RunFailed("no quadrilaterals could be laid over the mesh", "--set finish_mesh.quads=false")
    return best


def halves(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(2 q, 3) int32 triangles, two a quadrilateral one after the other, cut along the shorter diagonal."""
    a, b, c, d = corners.T
    short = np.linalg.norm(points[a] - points[c], axis=1) <= np.linalg.norm(points[b] - points[d], axis=1)
    first = np.where(short[:, None], np.stack([a, b, c], 1), np.stack([a, b, d], 1))
    second = np.where(short[:, None], np.stack([a, c, d], 1), np.stack([b, c, d], 1))
    return np.stack([first, second], 1).reshape(-1, 3).astype(np.int32)
