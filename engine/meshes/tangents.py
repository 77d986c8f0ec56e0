"""Tangents as MikkTSpace makes them, so that a normal map looks the same in Maquette, Blender and every engine.

Mikkelsen, "Simulation of Wrinkled Surfaces Revisited" (2008), chapter 3, and the behaviour of his mikktspace.c:
corners with equal position, normal and UV are one; around such a point the faces that keep, and those that mirror, the
texture's orientation form groups; a group's tangent is the sum of its faces' directions of growing u, each laid into
the plane across the normal, made unit, and weighted by the face's angle there. UVs have glTF's origin, so v is turned
over first: the bitangent, cross(normal, tangent) * sign, points to the picture's top.
"""

from __future__ import annotations

import numpy as np

from engine.meshes.measure import directed_edges


def corner_tangents(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """(f, 3, 4) float64: unit tangent and sign at each corner.

    vertices : (v, 3); faces : (f, 3); normals : (v, 3) unit; uvs : (v, 2), origin top left

    Faces of no area in space take their corners' tangents from faces that share the point; those of no area in the
    texture join the group of a neighbour. What has neither keeps (1, 0, 0) laid across its normal.
    """
    point = welded_corners(vertices, faces, normals, uvs)
    p, n = vertices[faces].astype(np.float64), normals[faces].astype(np.float64)
    t = uvs[faces].astype(np.float64) * [1.0, -1.0]
    flat = (point[:, 0] == point[:, 1]) | (point[:, 1] == point[:, 2]) | (point[:, 2] == point[:, 0])
    flat |= _equal_places(p)
    along, keeps, lost = _derivatives(p, t)
    lost = lost | flat
    keeps, pairs = _orient(point, keeps, lost, flat)
    group = _groups(point, keeps, pairs)
    total = _sums(p, n, along, group, lost)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    tangent = np.where(length > 0, total / np.maximum(length, 1e-300), 0.0)[group].reshape(-1, 3, 3)
    sign = np.where(keeps, 1.0, -1.0)[:, None].repeat(3, 1)
    tangent, sign = _borrow(point, flat, tangent, sign)
    tangent = _across(tangent, n)
    return np.concatenate([tangent, sign[..., None]], -1)


def with_tangents(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray
                  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One tangent a vertex: vertices where mirrored or parted groups meet are split.

    Returns source (w,) int64, the row each new vertex was; faces (f, 3) int32; tangents (w, 4) float32, unit and exact
    signs. Corners of one vertex whose tangents agree to 1e-5 stay one.
    """
    corner = corner_tangents(vertices, faces, normals, uvs).reshape(-1, 4)
    first_of = faces.reshape(-1).astype(np.int64)
    order = np.lexsort((*np.round(corner, 5).T, first_of))
    near = np.abs(np.diff(corner[order], axis=0)).max(1) < 2e-5 if len(order) > 1 else np.zeros(0, bool)
    new = np.r_[True, ~((np.diff(first_of[order]) == 0) & near)][:len(order)]
    name = np.empty(len(order), np.int64)
    name[order] = np.cumsum(new) - 1
    # Vertices that need no split keep their order: the first corner of each name, sorted by its vertex.
    first = order[new]
    rank = np.argsort(np.lexsort((name[first], first_of[first])))
    source = np.empty(len(first), np.int64)
    source[rank] = first_of[first]
    tangents = np.empty((len(first), 4))
    tangents[rank] = corner[first]
    tangents[:, :3] /= np.maximum(np.linalg.norm(tangents[:, :3], axis=1, keepdims=True), 1e-300)
    return source, rank[name].reshape(-1, 3).astype(np.int32), tangents.astype(np.float32)


def welded_corners(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """(f, 3) int64: equal where position, normal and UV are, bit by bit."""
    rows = np.ascontiguousarray(np.concatenate([vertices, normals, uvs], 1).astype(np.float32) + np.float32(0))
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    name = np.unique(keys, return_inverse=True)[1].reshape(-1)
    return np.asarray(name[faces], np.int64)


def _equal_places(p: np.ndarray) -> np.ndarray:
    """(f,) bool: two of a face's corners stand in one place."""
    return np.asarray((p == np.roll(p, 1, axis=1)).all(2).any(1))


def _derivatives(p: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each face: the unit direction of growing u (f, 3), whether the texture keeps its orientation, and whether it
    has no direction (no area in the texture). The magnitudes do not enter: only directions are summed."""
    d1, d2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    s, u = t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]
    area = s[:, 0] * u[:, 1] - s[:, 1] * u[:, 0]
    keeps = area > 0
    along = (u[:, 1, None] * d1 - s[:, 1, None] * d2) * np.where(keeps, 1.0, -1.0)[:, None]
    length = np.linalg.norm(along, axis=1, keepdims=True)
    across = np.linalg.norm(-u[:, 0, None] * d1 + s[:, 0, None] * d2, axis=1)
    tiny = np.finfo(np.float32).tiny
    lost = (np.abs(area) <= tiny) | (length[:, 0] <= tiny) | (across <= tiny)
    return along / np.maximum(length, 1e-300), keeps, lost


def _joined(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges that run along one edge in opposite directions: two (m,) rows of ``directed_edges``; where more
    than two faces meet, the first of each way are partners, then the second."""
    rows = directed_edges(point)
    low, high = rows.min(1), rows.max(1)
    forward = rows[:, 0] < rows[:, 1]
    name = low * (int(point.max(initial=0)) + 1) + high
    order = np.lexsort((np.arange(len(rows)), ~forward, name))
    key = name[order] * 2 + ~forward[order]
    start = np.r_[True, key[1:] != key[:-1]][:len(key)]
    rank = np.arange(len(key)) - np.maximum.accumulate(np.where(start, np.arange(len(key)), 0))
    place = np.empty(len(rows), np.int64)
    place[order] = rank
    full = name * len(rows) + place  # equal for partners, once each way
    f, b = np.flatnonzero(forward), np.flatnonzero(~forward & (low != high))
    _, i, j = np.intersect1d(full[f], full[b], assume_unique=True, return_indices=True)
    return f[i], b[j]


def _orient(point: np.ndarray, keeps: np.ndarray, lost: np.ndarray, flat: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
    """Faces without a direction take the orientation of the group that reaches them first, as mikktspace.c does: groups
    grow in the order of their first corner, around one point each. Walked through only at the points of such faces.

    Returns the orientations, and the partners (m, 2) that may join.
    """
    first, second = _joined(point)
    solid = ~flat[first // 3] & ~flat[second // 3]
    first, second = first[solid], second[solid]
    pairs = np.stack([first, second], 1)
    open_faces = lost & ~flat
    if not open_faces.any():
        return keeps, pairs
    after = np.roll(np.arange(point.size).reshape(-1, 3), -1, axis=1).reshape(-1)
    touched = np.isin(point.reshape(-1), point[open_faces])
    around: dict[int, list[int]] = {}
    for e, partner in (*pairs.tolist(), *pairs[:, ::-1].tolist()):
        for corner, mate in ((e, int(after[partner])), (int(after[e]), partner)):
            if touched[corner]:
                around.setdefault(corner, []).append(mate)
    turned: dict[int, bool] = {}
    grouped = np.zeros(point.size, bool)
    for start in np.flatnonzero(touched & ~np.repeat(lost | flat, 3)).tolist():
        waiting, way = [start], bool(keeps[start // 3])
        while waiting:
            corner = waiting.pop()
            if grouped[corner]:
                continue
            face = corner // 3
            if (turned.setdefault(face, way) if open_faces[face] else bool(keeps[face])) == way:
                grouped[corner] = True
                waiting += around.get(corner, [])
    keeps = keeps.copy()
    keeps[list(turned)] = list(turned.values())
    return keeps, pairs


def _groups(point: np.ndarray, keeps: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(3 f,) the group of each corner: walking round the point over shared edges between faces of one orientation."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    first, second = pairs[:, 0], pairs[:, 1]
    same = keeps[first // 3] == keeps[second // 3]
    first, second = first[same], second[same]
    corner = np.arange(point.size).reshape(-1, 3)
    start, end = corner.reshape(-1), np.roll(corner, -1, axis=1).reshape(-1)
    i, j = np.r_[start[first], end[first]], np.r_[end[second], start[second]]
    graph = coo_matrix((np.ones(len(i), bool), (i, j)), shape=(point.size, point.size))
    return np.asarray(connected_components(graph, directed=False)[1])


def _sums(p: np.ndarray, n: np.ndarray, along: np.ndarray, group: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """(groups, 3): the angle-weighted sum of each group's directions."""
    across = along[:, None] - n * (n * along[:, None]).sum(-1, keepdims=True)
    across = _unit(across)
    ahead, back = np.roll(p, -1, axis=1) - p, np.roll(p, 1, axis=1) - p
    ahead, back = (_unit(e - n * (n * e).sum(-1, keepdims=True)) for e in (ahead, back))
    angle = np.arccos(np.clip((ahead * back).sum(-1), -1, 1))
    weight = np.where(lost[:, None], 0.0, angle)
    values = (across * weight[..., None]).reshape(-1, 3)
    return np.stack([np.bincount(group, values[:, k], int(group.max(initial=-1)) + 1) for k in range(3)], -1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-30, vectors / np.maximum(length, 1e-300), 0.0)


def _borrow(point: np.ndarray, flat: np.ndarray, tangent: np.ndarray, sign: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
    """Faces of no area take each corner's tangent from the first whole face that shares the point."""
    if not flat.any():
        return tangent, sign
    whole = np.flatnonzero(np.repeat(~flat, 3))
    names, first = np.unique(point.reshape(-1)[whole], return_index=True)
    needing = np.flatnonzero(np.repeat(flat, 3))
    place = np.searchsorted(names, point.reshape(-1)[needing])
    place = np.minimum(place, max(len(names) - 1, 0))
    tangent, sign = tangent.reshape(-1, 3).copy(), sign.reshape(-1).copy()
    tangent[needing], sign[needing] = 0.0, 1.0
    if len(names):
        found = names[place] == point.reshape(-1)[needing]
        tangent[needing[found]] = tangent[whole[first[place[found]]]]
        sign[needing[found]] = sign[whole[first[place[found]]]]
    return tangent.reshape(-1, 3, 3), sign.reshape(-1, 3)


def _across(tangent: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Unit; where there is none, the axis that lies most across the normal, laid across it."""
    none = np.linalg.norm(tangent, axis=-1) < 1e-12
    axis = np.eye(3)[np.abs(n).argmin(-1)]
    return _unit(np.where(none[..., None], axis - n * (n * axis).sum(-1, keepdims=True), tangent))
