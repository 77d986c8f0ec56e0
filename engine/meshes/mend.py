"""A textured mesh made sound: what is degenerate goes, sheets that were glued part, faces look out, holes close.

Works on the surface with vertices of one place joined, while every corner keeps the row of the input that it came from,
and with it its UVs. Each step says how much it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.errors import BadInput
from engine.meshes.holes import close_holes
from engine.meshes.measure import directed_edges, face_components, face_normals, paired_edges, topology
from engine.meshes.repair import fix_winding
from engine.meshes.simplify import sheets, uncancelled

SAME = 1e-6
"""Vertices nearer than this share of the longest side are one."""
PULL = 0.02
"""Share of the way to their neighbours by which parted sheets draw back, so that nobody welds them again."""


@dataclass
class Mended:
    """points : (p, 3) float32, one a place; place : (f, 3) int64, each corner's point; row : (f, 3) int64, the input's
    vertex at each corner, -1 on faces that fill holes; told : what was done, name -> how often
    """

    points: np.ndarray
    place: np.ndarray
    row: np.ndarray
    told: dict[str, int] = field(default_factory=dict)

    @property
    def filled(self) -> bool:
        """Whether there are faces that no texture knows."""
        return bool((self.row < 0).any())


def check(vertices: np.ndarray, faces: np.ndarray) -> None:
    """BadInput for what no repair can make a surface of."""
    if len(faces) == 0 or len(vertices) == 0:
        raise BadInput("the mesh has no faces: there is no surface to finish", "give a mesh with triangles")
    bad = int((~np.isfinite(vertices)).any(1).sum())
    if bad:
        raise BadInput(f"{bad:,} of the mesh's {len(vertices):,} vertices are not finite numbers",
                       "export it again; Blender's Mesh > Clean Up finds what is wrong")
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        raise BadInput("a face of the mesh names a vertex that is not there", "export it again")
    if not float(np.ptp(vertices, axis=0).max()) > 1e-30:
        raise BadInput("all vertices of the mesh lie in one point", "give a mesh with a surface")


def mend(vertices: np.ndarray, faces: np.ndarray, smallest_part: float = 0.0, largest_hole: float = 0.1,
         repair: bool = True) -> Mended:
    """Join, and where ``repair`` says so, mend a mesh. Raises BadInput, see :func:`check`, and where nothing is left.

    vertices : (v, 3); faces : (f, 3); smallest_part : pieces of less surface than this share of the largest one's go
    largest_hole : holes are closed whose cover has at most this share of the surface; 0: none
    """
    check(vertices, faces)
    place, points = welded(vertices)
    corners, row = place[faces], faces.astype(np.int64)
    told: dict[str, int] = {}
    whole = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 2] != corners[:, 0])
    if repair:
        whole &= uncancelled(corners) & _first_of_copies(corners)
    told["degenerate_faces"] = int((~whole).sum())
    corners, row = corners[whole], row[whole]
    if not len(corners):
        raise BadInput("every face of the mesh has no area", "give a mesh with a surface")
    if repair:
        points, corners, row = _mended(points, corners, row, smallest_part, largest_hole, told)
    used, corners = np.unique(corners, return_inverse=True)
    return Mended(points[used], corners.reshape(-1, 3).astype(np.int64), row, told)


def _mended(points: np.ndarray, corners: np.ndarray, row: np.ndarray, smallest_part: float, largest_hole: float,
            told: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keep, told["dropped_parts"] = large_parts(points, corners, smallest_part)
    corners, row = corners[keep], row[keep]
    before = topology(corners)
    told["flipped_faces"] = 0
    if before.flipped_edges or _inward(points, corners).any():
        turned = _outward(points, corners)
        told["flipped_faces"] = int(turned.sum())
        corners = np.where(turned[:, None], corners[:, ::-1], corners)
        row = np.where(turned[:, None], row[:, ::-1], row)
    told["parted_vertices"] = 0
    if before.crowded_edges or before.pinched_vertices or topology(corners).flipped_edges:
        count = len(points)
        corners, source = sheets(points, corners)
        points = _drawn_back(points, corners, source)
        told["parted_vertices"] = len(source) - min(count, len(np.unique(source)))
    told["filled_holes"] = 0
    if largest_hole and topology(corners).open_edges:
        (points, filled), told["filled_holes"] = close_holes(points, corners, largest_hole)
        added = len(filled) - len(corners)
        corners, row = filled.astype(np.int64), np.concatenate([row, np.full((added, 3), -1)])
        told["filled_faces"] = added
        if _inward(points, corners).any():  # a bowl turned inside out could not be told from a dome before
            turned = _outward(points, corners)
            told["flipped_faces"] += int(turned.sum())
            corners, row = (np.where(turned[:, None], a[:, ::-1], a) for a in (corners, row))
    return points, corners, row


def welded(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each vertex's place (v,) int64 and the places' points (p, 3) float32; what lies within SAME is one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree
    order = np.lexsort(vertices.T)
    same = (vertices[order[1:]] == vertices[order[:-1]]).all(1)
    place = np.empty(len(vertices), np.int64)
    place[order] = np.cumsum(np.r_[True, ~same]) - 1
    points = np.empty((int(place.max()) + 1, 3))
    points[place] = vertices
    reach = SAME * float(np.ptp(points, axis=0).max())
    pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
    if len(pairs):
        graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2)
        count, name = connected_components(graph, directed=False)
        place = name[place].astype(np.int64)
        points = np.empty((count, 3))
        points[place] = vertices
    return place, points.astype(np.float32)


def _first_of_copies(corners: np.ndarray) -> np.ndarray:
    """(f,) bool: all but second copies of a face that look the same way."""
    start = corners.argmin(1)
    turned = np.stack([corners[np.arange(len(corners)), (start + k) % 3] for k in range(3)], 1)
    _, first = np.unique(turned, axis=0, return_index=True)
    keep = np.zeros(len(corners), bool)
    keep[first] = True
    return keep


def large_parts(points: np.ndarray, corners: np.ndarray, share: float) -> tuple[np.ndarray, int]:
    """(f,) bool, the faces of pieces with at least ``share`` of the largest one's surface; and how many pieces go."""
    count, piece = face_components(corners)
    areas = np.bincount(piece, np.linalg.norm(face_normals(points, corners), axis=1), count)
    keep = areas >= share * areas.max()
    return keep[piece], int(count - keep.sum())


def _volumes(points: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each face's piece (f,), and of each piece its volume and whether it is closed."""
    count, piece = face_components(corners)
    a, b, c = (points[corners[:, k]].astype(np.float64) for k in range(3))
    volumes = np.bincount(piece, np.einsum("ij,ij->i", a, np.cross(b, c)), count)
    first, second = paired_edges(corners)
    paired = np.zeros(3 * len(corners), bool)
    paired[np.r_[first, second]] = True
    lonely = np.bincount(np.flatnonzero(~paired) // 3, minlength=len(corners)) > 0
    return piece, volumes, np.bincount(piece, lonely, count) == 0


def _inward(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(pieces,) bool: closed, and looking inward."""
    _, volumes, closed = _volumes(points, corners)
    return closed & (volumes < 0)


def _outward(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(f,) bool, the faces to turn: neighbours agree, closed pieces look out, open ones the way most of them did."""
    _, fixed = fix_winding(points, corners)
    turned = (fixed != corners).any(1)
    piece, _, closed = _volumes(points, fixed)
    area = np.linalg.norm(face_normals(points, corners), axis=1)
    most = np.bincount(piece, area * turned, len(closed)) > np.bincount(piece, area, len(closed)) / 2
    return np.where(~closed[piece] & most[piece], ~turned, turned)


def _drawn_back(points: np.ndarray, corners: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The sheets' vertices, parted ones a little toward their own neighbours."""
    made = points[source].astype(np.float64)
    parted = np.bincount(source, minlength=len(points))[source] > 1
    if parted.any():
        ends = directed_edges(corners)
        weight = np.bincount(ends.reshape(-1), minlength=len(made))
        middle = np.stack([np.bincount(ends.reshape(-1), made[ends[:, ::-1].reshape(-1), k], len(made))
                           for k in range(3)], 1) / np.maximum(weight, 1)[:, None]
        made[parted] += PULL * (middle - made)[parted]
    return made.astype(np.float32)
