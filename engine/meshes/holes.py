"""Holes: their rims, and triangles across them.

The rim's triangulation of least area among all (Barequet and Sharir, "Filling gaps in the boundary of a polyhedron",
1995), which keeps flat rims flat and spans bent ones tightly; a fan around the middle where there is none.
"""

from __future__ import annotations

import numpy as np

from engine.meshes.measure import area, directed_edges, edge_groups
from engine.meshes.repair import Surface

LARGEST_EXACT = 160
"""Rim edges up to which every triangulation is weighed; the work grows with the cube."""


def rims(faces: np.ndarray) -> list[np.ndarray]:
    """Vertices around each hole, in the order in which a face that fills it runs. Rims that touch themselves in a point
    are cut there."""
    _, member, count = edge_groups(faces)
    edge = directed_edges(faces)[count[member] == 1][:, ::-1]
    after: dict[int, list[int]] = {}
    for a, b in edge.tolist():
        after.setdefault(a, []).append(b)
    found = []
    while after:
        walk: list[int] = []
        at = next(iter(after))
        place: dict[int, int] = {}
        while at in after:
            if at in place:
                loop = walk[place[at]:]
                found.append(np.array(loop))
                for vertex in loop:
                    del place[vertex]
                walk = walk[:-len(loop)]
            place[at] = len(walk)
            walk.append(at)
            onward = after[at].pop()
            if not after[at]:
                del after[at]
            at = onward
        if at in place:
            found.append(np.array(walk[place[at]:]))
    return [loop for loop in found if len(loop) >= 3]


def close_holes(vertices: np.ndarray, faces: np.ndarray, largest: float = 1.0) -> tuple[Surface, int]:
    """Close each hole whose cover has at most ``largest`` of the mesh's own area: the mouth of a bowl is no hole.

    Returns the surface, new faces last, and how many were closed. A fan adds its middle to the vertices; the others
    add none.
    """
    most = largest * area(vertices, faces)
    ends = edge_groups(faces)[0]
    known = {(int(a), int(b)) for a, b in ends}
    points, corners, closed, count = [vertices], [faces], 0, len(vertices)
    for rim in rims(faces):
        cover = _least_area(vertices[rim].astype(np.float64), rim, known) if len(rim) <= LARGEST_EXACT else None
        middle = vertices[rim].mean(0, keepdims=True)
        if cover is None:
            spokes = np.cross(vertices[rim] - middle, np.roll(vertices[rim], -1, 0) - middle)
            if np.linalg.norm(spokes, axis=1).sum() / 2 > most:
                continue
            points.append(middle)
            cover = np.stack([rim, np.roll(rim, -1), np.full(len(rim), count)], 1)
            count += 1
        elif area(vertices, cover) > most:
            continue
        else:
            known |= {(min(a, b), max(a, b)) for t in cover.tolist() for a, b in zip(t, t[1:] + t[:1], strict=True)}
        corners.append(cover)
        closed += 1
    return (np.concatenate(points).astype(vertices.dtype), np.concatenate(corners).astype(np.int32)), closed


def _least_area(p: np.ndarray, rim: np.ndarray, known: set[tuple[int, int]]) -> np.ndarray | None:
    """(n - 2, 3) faces over a rim, p : (n, 3) its points; None where each needs an edge that is taken already."""
    n = len(p)
    taken = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(i + 2, n):
            if (i, j) != (0, n - 1):
                taken[i, j] = (min(rim[i], rim[j]), max(rim[i], rim[j])) in known
    if n == 3:
        return rim[None]
    cost = np.full((n, n), np.inf)
    best = np.zeros((n, n), np.int64)
    cost[np.arange(n - 1), np.arange(1, n)] = 0
    for span in range(2, n):
        for i in range(n - span):
            j = i + span
            if taken[i, j]:
                continue
            m = np.arange(i + 1, j)
            area = np.linalg.norm(np.cross(p[m] - p[i], p[j] - p[i]), axis=1) / 2
            total = cost[i, m] + cost[m, j] + area
            best[i, j] = m[total.argmin()]
            cost[i, j] = total.min()
    if not np.isfinite(cost[0, n - 1]):
        return None
    made: list[list[int]] = []
    waiting = [(0, n - 1)]
    while waiting:
        low, high = waiting.pop()
        if high - low >= 2:
            middle = int(best[low, high])
            made.append([int(rim[low]), int(rim[middle]), int(rim[high])])
            waiting += [(low, middle), (middle, high)]
    return np.array(made)
