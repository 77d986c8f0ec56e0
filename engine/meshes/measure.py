"""Figures of a mesh: is it closed, manifold, in one piece, free of self-intersections; and how near to another.

Every function takes vertices (v, 3) float and faces (f, 3) int.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Topology:
    """watertight : every edge has two faces that run along it in opposite directions (so winding agrees too)
    manifold : no edge has more than two faces, and the faces around each vertex form one fan
    open_edges, crowded_edges : edges with one face, with more than two
    flipped_edges : edges whose two faces run along them in the same direction
    pinched_vertices : vertices with more than one fan
    components : pieces joined through edges
    euler : vertices - edges + faces; 2 for one closed piece without handles
    """

    watertight: bool
    manifold: bool
    open_edges: int
    crowded_edges: int
    flipped_edges: int
    pinched_vertices: int
    components: int
    euler: int
    triangles: int


def directed_edges(faces: np.ndarray) -> np.ndarray:
    """(3 f, 2): edge k of face i is row 3 i + k and runs from corner k to corner k + 1."""
    return np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2)


def edge_groups(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undirected edges: (e, 2) sorted ends, (3 f,) which of them each directed edge is, (e,) faces at each."""
    edges = np.sort(directed_edges(faces).astype(np.int64), axis=1)
    span = int(faces.max(initial=0)) + 1
    names, member, count = np.unique(edges[:, 0] * span + edges[:, 1], return_inverse=True, return_counts=True)
    return np.stack(np.divmod(names, span), -1), member, count


def paired_edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of :func:`directed_edges` that share an edge with exactly two faces: two (m,) arrays of partners."""
    _, member, count = edge_groups(faces)
    order = np.argsort(member, kind="stable")
    order = order[count[member[order]] == 2]
    return order[0::2], order[1::2]


def _label(size: int, a: np.ndarray, b: np.ndarray) -> tuple[int, np.ndarray]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    graph = coo_matrix((np.ones(len(a), dtype=bool), (a, b)), shape=(size, size))
    count, labels = connected_components(graph, directed=False)
    return int(count), labels


def face_components(faces: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of pieces joined through edges, and each face's piece (f,)."""
    _, member, _ = edge_groups(faces)
    order = np.argsort(member, kind="stable")
    same = member[order[1:]] == member[order[:-1]]
    return _label(len(faces), order[:-1][same] // 3, order[1:][same] // 3)


def topology(faces: np.ndarray) -> Topology:
    """Everything about a mesh that does not depend on where its vertices are."""
    ends, _, count = edge_groups(faces)
    first, second = paired_edges(faces)
    rows = directed_edges(faces)
    flipped = rows[first, 0] == rows[second, 0]
    # Corners of one vertex are joined across each shared edge; a vertex with several groups of corners is pinched.
    ahead = np.arange(3 * len(faces)).reshape(-1, 3)
    start, end = ahead.reshape(-1), np.roll(ahead, -1, axis=1).reshape(-1)
    a = np.concatenate([start[first], end[first]])
    b = np.concatenate([np.where(flipped, start[second], end[second]), np.where(flipped, end[second], start[second])])
    fans, fan = _label(3 * len(faces), a, b)
    vertex_of_fan = np.zeros(fans, dtype=np.int64)
    vertex_of_fan[fan] = faces.reshape(-1)
    used, fans_at = np.unique(vertex_of_fan, return_counts=True)
    open_edges, crowded = int((count == 1).sum()), int((count > 2).sum())
    pinched, backward = int((fans_at > 1).sum()), int(flipped.sum())
    closed = len(faces) > 0 and open_edges == 0 and crowded == 0 and backward == 0
    return Topology(closed, len(faces) > 0 and crowded == 0 and pinched == 0, open_edges, crowded, backward, pinched,
                    face_components(faces)[0], len(used) - len(ends) + len(faces), len(faces))


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(f, 3) normals as long as twice the triangles' areas."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.cross(b - a, c - a)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Enclosed volume of a closed mesh; negative when the faces look inward."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def area(vertices: np.ndarray, faces: np.ndarray) -> float:
    return float(np.linalg.norm(face_normals(vertices, faces), axis=1).sum() / 2)


def edge_lengths(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(e,) lengths of the undirected edges."""
    ends = edge_groups(faces)[0]
    return np.linalg.norm(vertices[ends[:, 0]].astype(np.float64) - vertices[ends[:, 1]], axis=1)


@dataclass(frozen=True)
class Closeness:
    """precision : share of a's surface within the threshold of b; recall : the reverse; f_score : harmonic mean
    chamfer : mean distance a to b plus mean distance b to a
    """

    precision: float
    recall: float
    f_score: float
    chamfer: float


def sample_surface(vertices: np.ndarray, faces: np.ndarray, samples: int, seed: int = 0) -> np.ndarray:
    """(samples, 3) float64 points, uniform over the area, equal for equal seeds."""
    rng = np.random.default_rng(seed)
    areas = np.linalg.norm(face_normals(vertices, faces), axis=1)
    cumulative = np.cumsum(areas)
    # Stratified over the area: half the variance of independent draws at no cost.
    u = (np.arange(samples) + rng.random(samples)) / samples * cumulative[-1]
    face = np.minimum(np.searchsorted(cumulative, u), len(faces) - 1)
    r, s = np.sqrt(rng.random(samples)), rng.random(samples)
    weights = np.stack([1 - r, r * (1 - s), r * s], -1)
    return np.einsum("nk,nkd->nd", weights, vertices[faces[face]].astype(np.float64))


Shape = tuple[np.ndarray, np.ndarray] | np.ndarray
"""A mesh (vertices, faces), or points (n, 3) that already lie evenly on a surface."""


def closeness(a: Shape, b: Shape, threshold: float, samples: int = 30_000, seed: int = 0) -> Closeness:
    """F-score and chamfer distance of two shapes by sampled points.

    threshold : in the shapes' own unit. Two equal meshes score 1 once the threshold is well above the samples'
    spacing, sqrt(area / samples).
    """
    from scipy.spatial import cKDTree
    points_a = a if isinstance(a, np.ndarray) else sample_surface(*a, samples, seed)
    points_b = b if isinstance(b, np.ndarray) else sample_surface(*b, samples, seed + 1)
    to_b = cKDTree(points_b).query(points_a, workers=-1)[0]
    to_a = cKDTree(points_a).query(points_b, workers=-1)[0]
    precision, recall = float((to_b <= threshold).mean()), float((to_a <= threshold).mean())
    f = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return Closeness(precision, recall, f, float(to_b.mean() + to_a.mean()))


def f_score(a: Shape, b: Shape, threshold: float, samples: int = 30_000, seed: int = 0) -> float:
    """The F-score alone; see :func:`closeness`."""
    return closeness(a, b, threshold, samples, seed).f_score


def self_intersections(vertices: np.ndarray, faces: np.ndarray, limit: int = 20_000_000) -> int:
    """Pairs of triangles that cut through each other.

    Counted: an edge of one passes through the inside of the other. Not counted: pairs that share an edge, and
    triangles that overlap in one plane. Returns -1 ("not known") when more than ``limit`` pairs would be tested.
    """
    corners = vertices[faces].astype(np.float64)
    pairs = _near_pairs(corners, limit)
    if pairs is None:
        return -1
    hit = np.zeros(len(pairs), dtype=bool)
    for begin in range(0, len(pairs), 200_000):
        part = slice(begin, begin + 200_000)
        i, j = pairs[part, 0], pairs[part, 1]
        shared = (faces[i][:, :, None] == faces[j][:, None, :]).sum((1, 2))
        hit[part] = (shared < 2) & (_edges_pierce(corners[i], corners[j]) | _edges_pierce(corners[j], corners[i]))
    return int(hit.sum())


def _near_pairs(corners: np.ndarray, limit: int) -> np.ndarray | None:
    """(n, 2) pairs of triangles whose boxes overlap, each once, by a uniform grid; None when too many."""
    low, high = corners.min(1), corners.max(1)
    cell = max(float(np.median((high - low).max(1))) * 1.5, float((high.max(0) - low.min(0)).max()) / 500, 1e-12)
    first = np.floor((low - low.min(0)) / cell).astype(np.int64)
    extent = np.floor((high - low.min(0)) / cell).astype(np.int64) - first + 1
    cells = extent.prod(1)
    if cells.sum() > limit:
        return None
    owner = np.repeat(np.arange(len(corners)), cells)
    inner = np.arange(len(owner)) - np.repeat(np.cumsum(cells) - cells, cells)
    ex = extent[owner]
    at = first[owner] + np.stack([inner // (ex[:, 1] * ex[:, 2]), inner // ex[:, 2] % ex[:, 1], inner % ex[:, 2]], -1)
    span = at.max(0) + 1
    name = (at[:, 0] * span[1] + at[:, 1]) * span[2] + at[:, 2]
    order = np.argsort(name, kind="stable")
    owner, name = owner[order], name[order]
    size = np.unique(name, return_counts=True)[1]
    if (size.astype(float) ** 2).sum() / 2 > limit:
        return None
    # Entry k of a cell pairs with the entries after it in that cell.
    rank = np.arange(len(name)) - np.repeat(np.cumsum(size) - size, size)
    later = np.repeat(size, size) - 1 - rank
    i = np.repeat(np.arange(len(name)), later)
    j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(later) - later, later)
    a, b = owner[i], owner[j]
    near = (low[a] <= high[b]).all(1) & (low[b] <= high[a]).all(1)
    a, b = np.minimum(a[near], b[near]), np.maximum(a[near], b[near])
    unique = np.unique(a * len(corners) + b)
    return np.stack(np.divmod(unique, len(corners)), -1)


def _edges_pierce(a: np.ndarray, b: np.ndarray, margin: float = 1e-6) -> np.ndarray:
    """(n, 3, 3) pairs of triangles: does any edge of a pass through the inside of b? (Moeller and Trumbore 1997.)"""
    origin, direction = a, np.roll(a, -1, axis=1) - a
    e1, e2 = (b[:, 1] - b[:, 0])[:, None], (b[:, 2] - b[:, 0])[:, None]
    p = np.cross(direction, e2)
    det = (e1 * p).sum(-1)
    scale = np.linalg.norm(direction, axis=-1) * np.linalg.norm(np.cross(e1, e2), axis=-1)
    level = np.abs(det) > 1e-9 * scale
    inverse = 1 / np.where(level, det, 1.0)
    s = origin - b[:, None, 0]
    u = (s * p).sum(-1) * inverse
    q = np.cross(s, e1)
    v, t = (direction * q).sum(-1) * inverse, (e2 * q).sum(-1) * inverse
    inside = (u > margin) & (v > margin) & (u + v < 1 - margin) & (t > margin) & (t < 1 - margin)
    return np.asarray((level & inside).any(1))
