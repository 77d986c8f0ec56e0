"""Vertex normals: smooth where the surface is smooth, split where it has a crease."""

from __future__ import annotations

import numpy as np

from engine.meshes.measure import directed_edges, face_normals, paired_edges


def corner_angles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(f, 3) angles in radians."""
    corners = vertices[faces].astype(np.float64)
    ahead, back = np.roll(corners, -1, 1) - corners, np.roll(corners, 1, 1) - corners
    cross = np.linalg.norm(np.cross(ahead, back), axis=-1)
    return np.asarray(np.arctan2(cross, (ahead * back).sum(-1)))


def corner_normals(vertices: np.ndarray, faces: np.ndarray, crease_deg: float = 180.0
                   ) -> tuple[np.ndarray, np.ndarray]:
    """Normals of groups of corners, and each corner's group.

    Corners at one vertex belong together when one can walk between their faces without crossing an edge that bends
    by more than ``crease_deg``. A group's normal is the mean of its faces', weighted by area times corner angle
    (modellers' "weighted normals"): a large flat face stays flat next to a narrow bevel.

    Returns (g, 3) float32 unit normals and (f, 3) int64 rows of them.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    scaled = face_normals(vertices, faces)
    flat = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-30)
    first, second = paired_edges(faces)
    rows = directed_edges(faces)
    smooth = (flat[first // 3] * flat[second // 3]).sum(1) >= np.cos(np.radians(min(crease_deg, 180.0))) - 1e-9
    smooth &= rows[first, 0] == rows[second, 1]
    first, second = first[smooth], second[smooth]
    corner = np.arange(3 * len(faces)).reshape(-1, 3)
    start, end = corner.reshape(-1), np.roll(corner, -1, axis=1).reshape(-1)
    i, j = np.r_[start[first], end[first]], np.r_[end[second], start[second]]
    graph = coo_matrix((np.ones(len(i), dtype=bool), (i, j)), shape=(corner.size, corner.size))
    count, group = connected_components(graph, directed=False)
    weighted = scaled[:, None] * corner_angles(vertices, faces)[..., None]
    total = np.stack([np.bincount(group, weighted[..., axis].reshape(-1), count) for axis in range(3)], -1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    normals = np.where(length > 1e-20, total / np.maximum(length, 1e-30), [0.0, 1.0, 0.0])
    return normals.astype(np.float32), group.reshape(-1, 3).astype(np.int64)


def split_vertices(*corner_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One vertex for each different combination of keys (each (f, 3) int) at the corners.

    Returns first (v,), the flat corner that each vertex was first seen at, and faces (f, 3) int32.
    """
    name = np.zeros(corner_keys[0].size, dtype=np.int64)
    for key in corner_keys:
        _, rank = np.unique(key.reshape(-1), return_inverse=True)
        name = name * (int(rank.max(initial=0)) + 1) + rank.reshape(-1)
        name = np.unique(name, return_inverse=True)[1].reshape(-1)
    _, first, faces = np.unique(name, return_index=True, return_inverse=True)
    return first, faces.reshape(-1, 3).astype(np.int32)
