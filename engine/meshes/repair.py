"""Small repairs, each a function from (vertices (v, 3) float, faces (f, 3) int) to the same."""

from __future__ import annotations

import numpy as np

from engine.meshes.measure import directed_edges, edge_groups, face_components, face_normals, paired_edges, volume

Surface = tuple[np.ndarray, np.ndarray]


def drop_unused_vertices(vertices: np.ndarray, faces: np.ndarray) -> Surface:
    """Without the vertices that no face names; the others keep their order."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces.reshape(-1)] = True
    number = np.cumsum(used) - 1
    return vertices[used], number[faces].astype(np.int32)


def drop_degenerate_faces(vertices: np.ndarray, faces: np.ndarray) -> Surface:
    """Without faces that name a vertex twice, and without a face's second copy.

    Faces of no area but three different corners stay: taking them out would tear a closed mesh.
    """
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return drop_unused_vertices(vertices, faces[np.sort(first)])


def drop_small_components(vertices: np.ndarray, faces: np.ndarray, share: float = 0.02) -> tuple[Surface, int]:
    """Without the pieces whose surface area is below ``share`` of the largest piece's.

    Pieces that look inward (a cavity's wall) go whatever their size. Returns the surface and how many pieces went.
    """
    count, piece = face_components(faces)
    if count <= 1:
        return (vertices, faces), 0
    areas = np.bincount(piece, np.linalg.norm(face_normals(vertices, faces), axis=1), count)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    volumes = np.bincount(piece, np.einsum("ij,ij->i", a, np.cross(b, c)), count)
    keep = (areas >= share * areas.max()) & (volumes >= 0)
    keep[areas.argmax()] = True
    return drop_unused_vertices(vertices, faces[keep[piece]]), int(count - keep.sum())


def fix_winding(vertices: np.ndarray, faces: np.ndarray) -> Surface:
    """Neighbours agree on their direction, and every closed piece looks outward. Needs a manifold, orientable mesh."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order
    rows = directed_edges(faces)
    first, second = paired_edges(faces)
    odd = rows[first, 0] == rows[second, 0]
    i, j = first // 3, second // 3
    size = len(faces)
    graph = coo_matrix((np.ones(2 * len(i), dtype=np.int8), (np.r_[i, j], np.r_[j, i])), shape=(size, size)).tocsr()
    disagree = coo_matrix((np.r_[odd, odd].astype(np.int8), (np.r_[i, j], np.r_[j, i])), shape=(size, size)).tocsr()
    count, piece = face_components(faces)
    flip = np.zeros(size, dtype=bool)
    for root in np.unique(piece, return_index=True)[1]:
        order, parent = breadth_first_order(graph, root, directed=False)
        crossed = np.asarray(disagree[parent[order[1:]], order[1:]]).reshape(-1) > 0
        for face, change in zip(order[1:].tolist(), crossed.tolist(), strict=True):
            flip[face] = flip[parent[face]] ^ change
    faces = np.where(flip[:, None], faces[:, ::-1], faces)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    volumes = np.bincount(piece, np.einsum("ij,ij->i", a, np.cross(b, c)), count)
    return vertices, np.where((volumes < 0)[piece][:, None], faces[:, ::-1], faces).astype(np.int32)


def fill_holes(vertices: np.ndarray, faces: np.ndarray, largest: int = 200) -> tuple[Surface, int]:
    """Close each hole that has at most ``largest`` edges with a fan around the middle of its rim.

    Returns the surface and how many holes were closed. Rims that cross themselves are left open.
    """
    _, member, count = edge_groups(faces)
    rim = directed_edges(faces)[count[member] == 1]
    after: dict[int, int] = {}
    for a, b in rim.tolist():
        after[a] = -1 if a in after else b
    new_vertices, new_faces, closed = [vertices], [faces], 0
    while after:
        start, at = next(iter(after.items()))
        loop = [start]
        while at != start and at in after and after[at] >= 0 and len(loop) <= len(rim):
            loop.append(at)
            at = after[at]
        for vertex in loop:
            after.pop(vertex, None)
        if at != start or not 3 <= len(loop) <= largest:
            continue
        middle = len(vertices) + closed
        new_vertices.append(vertices[loop].mean(0, keepdims=True))
        new_faces.append(np.array([[b, a, middle] for a, b in zip(loop, loop[1:] + loop[:1], strict=True)]))
        closed += 1
    return (np.concatenate(new_vertices).astype(vertices.dtype), np.concatenate(new_faces).astype(np.int32)), closed


def smooth(vertices: np.ndarray, faces: np.ndarray, rounds: int = 10, inward: float = 0.5, outward: float = -0.53
           ) -> Surface:
    """Taubin's smoothing: each round takes the vertices toward their neighbours' mean and back out.

    The volume stays within a few thousandths where one-way smoothing would shrink it; a closed mesh's remaining
    change is scaled away. Source: Taubin, "A signal processing approach to fair surface design", 1995.
    """
    from scipy.sparse import coo_matrix
    if rounds == 0:
        return vertices, faces
    ends = edge_groups(faces)[0]
    i, j = np.r_[ends[:, 0], ends[:, 1]], np.r_[ends[:, 1], ends[:, 0]]
    size = len(vertices)
    mean = coo_matrix((1 / np.maximum(np.bincount(i, minlength=size), 1)[i], (i, j)), shape=(size, size)).tocsr()
    moved = vertices.astype(np.float64)
    for _ in range(rounds):
        for step in (inward, outward):
            moved = moved + step * (mean @ moved - moved)
    before, after = volume(vertices, faces), volume(moved, faces)
    if before > 0 and 0.5 < after / before < 2:
        middle = moved.mean(0)
        moved = middle + (moved - middle) * (before / after) ** (1 / 3)
    return moved.astype(np.float32), faces
