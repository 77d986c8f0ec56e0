"""Fewer triangles, still closed and manifold.

The collapses are fast-simplification's (quadric errors, Garland and Heckbert 1997). It does not test whether a
collapse glues two sheets together, so its result is checked, and where sheets were glued they are parted again.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from engine.meshes.measure import directed_edges, edge_groups, topology
from engine.meshes.repair import Surface, drop_unused_vertices

GREED = (4.0, 5.0, 6.0, 7.0)
"""How fast the library lets its error bound grow. The slowest that reaches the budget keeps the best shape."""


def simplify(vertices: np.ndarray, faces: np.ndarray, triangles: int) -> tuple[Surface, bool]:
    """At most about ``triangles`` faces; a mesh that is already within them comes back as it is.

    Returns the surface and whether it is as closed and manifold as the input was. Where no attempt is, the one that
    comes nearest is returned with False: the caller says so, nothing is hidden.
    """
    import fast_simplification
    if triangles < 4:
        raise ValueError("a closed mesh has at least 4 triangles")
    if len(faces) <= triangles:
        return (vertices, faces), True
    wanted = topology(faces)
    best: Surface = (vertices, faces)
    for greed in GREED:
        points, corners = fast_simplification.simplify(vertices.astype(np.float32), faces.astype(np.int32),
                                                       target_count=triangles, agg=greed)
        surface = split_double_edges(*part_glued_sheets(np.asarray(points), np.asarray(corners, dtype=np.int32)))
        found = topology(surface[1])
        sound = (found.watertight or not wanted.watertight) and (found.manifold or not wanted.manifold)
        if sound and len(surface[1]) <= 1.02 * triangles:
            return surface, True
        if sound or best[1] is faces:
            best = surface
    found = topology(best[1])
    return best, (found.watertight or not wanted.watertight) and (found.manifold or not wanted.manifold)


def part_glued_sheets(vertices: np.ndarray, faces: np.ndarray, pull: float = 0.05) -> Surface:
    """Give every sheet that meets at an edge of four faces, or in one point, its own vertices.

    Around a crowded edge each face that runs along it is paired with the face that runs against it and lies next to
    it through the solid. Parted vertices move by ``pull`` of the way to their own neighbours' middle, so that a
    program that welds vertices by position does not glue them again. Faces that cancel (one over the other, looking
    opposite ways) are dropped first.
    """
    faces = faces[uncancelled(faces)]
    if len(faces) == 0:
        return vertices[:0], faces
    corners, source = sheets(vertices, faces)
    fan, fans = corners.reshape(-1), len(source)
    parted = np.bincount(source, minlength=len(vertices))[source] > 1
    new_vertices, new_faces = vertices[source].copy(), fan.reshape(-1, 3).astype(np.int32)
    if parted.any():
        middle = np.zeros((fans, 3))
        neighbour = vertices[faces].astype(np.float64)
        pair = ((np.roll(neighbour, -1, 1) + np.roll(neighbour, 1, 1)) / 2).reshape(-1, 3)
        for axis in range(3):
            middle[:, axis] = np.bincount(fan, pair[:, axis], fans) / np.bincount(fan, minlength=fans)
        new_vertices[parted] += (pull * (middle - new_vertices)[parted]).astype(new_vertices.dtype)
    return drop_unused_vertices(new_vertices, new_faces)


def sheets(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One vertex for each sheet that meets at an edge of more than two faces, or in one point: faces (f, 3) int64 that
    name them, and source (w,) int64, the vertex that each was. Faces must not cancel (:func:`uncancelled`)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    rows = directed_edges(faces)
    _, member, count = edge_groups(faces)
    order = np.argsort(member, kind="stable")
    plain = order[count[member[order]] == 2]
    first, second = plain[0::2], plain[1::2]
    same_way = rows[first, 0] == rows[second, 0]
    partner = [np.stack([first[~same_way], second[~same_way]], -1)]
    partner += [np.array(pairs).reshape(-1, 2) for pairs in _crowded_pairs(vertices, faces)]
    a, b = np.concatenate(partner).T
    corner = np.arange(3 * len(faces)).reshape(-1, 3)
    start, end = corner.reshape(-1), np.roll(corner, -1, axis=1).reshape(-1)
    i, j = np.r_[start[a], end[a]], np.r_[end[b], start[b]]
    graph = coo_matrix((np.ones(len(i), dtype=bool), (i, j)), shape=(corner.size, corner.size))
    fans, fan = connected_components(graph, directed=False)
    source = np.zeros(fans, dtype=np.int64)
    source[fan] = faces.reshape(-1)
    return fan.reshape(-1, 3).astype(np.int64), source


def split_double_edges(vertices: np.ndarray, faces: np.ndarray, pull: float = 0.05, rounds: int = 10) -> Surface:
    """Put a vertex into every edge but one of those that join the same two vertices of one sheet.

    Two such edges bound a thin ring, which is a proper surface but names four faces by one pair of vertices. The new
    vertex lies in the middle, ``pull`` of the way toward its faces' other corners.
    """
    for _ in range(rounds):
        groups = _crowded_pairs(vertices, faces)
        if not groups:
            break
        touched: set[int] = set()
        points, corners = [vertices], faces.tolist()
        for pairs in groups:
            for one, other in pairs[1:]:
                f, g = one // 3, other // 3
                if f in touched or g in touched:
                    continue  # next round
                touched |= {f, g}
                a, b, c = (int(faces[f, (one % 3 + k) % 3]) for k in range(3))
                d = int(faces[g, (other % 3 + 2) % 3])
                new = len(vertices) + len(points) - 1
                middle = (1 - pull) * (vertices[a] + vertices[b]) / 2 + pull * (vertices[c] + vertices[d]) / 2
                points.append(middle[None].astype(vertices.dtype))
                corners[f], corners[g] = [a, new, c], [b, new, d]
                corners += [[new, b, c], [new, a, d]]
        vertices, faces = np.concatenate(points), np.array(corners, dtype=np.int32)
    return vertices, faces


def _crowded_pairs(vertices: np.ndarray, faces: np.ndarray) -> list[list[tuple[int, int]]]:
    """For each edge of more than two faces: pairs of its directed edges that bound one wedge of the solid each."""
    rows = directed_edges(faces)
    _, member, count = edge_groups(faces)
    groups: dict[int, list[int]] = defaultdict(list)
    for edge in np.nonzero(count[member] > 2)[0].tolist():
        groups[int(member[edge])].append(edge)
    return [_pair_around(vertices, faces, rows, edges) for edges in groups.values()]


def uncancelled(faces: np.ndarray) -> np.ndarray:
    """(f,) bool: all but faces of two equal corners, and pairs of the same corners that look opposite ways."""
    a, b, c = faces.T
    whole = (a != b) & (b != c) & (c != a)
    faces = faces[whole]
    order = np.argsort(faces, axis=1)
    even = ((order[:, 0] + 1) % 3 == order[:, 1])
    _, group = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    crowd = np.bincount(group)
    if (crowd == 1).all():
        return np.asarray(whole)
    surplus = np.bincount(group, np.where(even, 1, -1))
    rank = np.zeros(len(faces), dtype=np.int64)
    for way in (True, False):
        seen: dict[int, int] = defaultdict(int)
        for i in np.nonzero((even == way) & (crowd[group] > 1))[0].tolist():
            rank[i] = seen[int(group[i])]
            seen[int(group[i])] += 1
    keep = np.where(even, rank < surplus[group], rank < -surplus[group])
    whole[whole] = keep | (crowd[group] == 1)
    return np.asarray(whole)


def _pair_around(vertices: np.ndarray, faces: np.ndarray, rows: np.ndarray, edges: list[int]) -> list[tuple[int, int]]:
    """Pair directed edges that run opposite ways along one crowded edge, so that each pair bounds one solid wedge."""
    low, high = sorted(rows[edges[0]].tolist())
    axis = (vertices[high] - vertices[low]).astype(np.float64)
    axis /= max(float(np.linalg.norm(axis)), 1e-30)
    helper = np.eye(3)[np.abs(axis).argmin()]
    x = np.cross(axis, helper)
    x /= np.linalg.norm(x)
    y = np.cross(axis, x)
    angle = {}
    for edge in edges:
        apex = vertices[faces[edge // 3, (edge % 3 + 2) % 3]].astype(np.float64) - vertices[low]
        angle[edge] = float(np.arctan2(apex @ y, apex @ x))
    forward = [e for e in edges if rows[e, 0] == low]
    backward = [e for e in edges if rows[e, 0] == high]
    pairs = []
    # Seen along the edge, a face that runs forward has the solid on its clockwise side.
    for e in sorted(forward, key=lambda e: angle[e]):
        if not backward:
            break
        mate = min(backward, key=lambda m: (angle[e] - angle[m]) % (2 * np.pi))
        backward.remove(mate)
        pairs.append((e, mate))
    return pairs
