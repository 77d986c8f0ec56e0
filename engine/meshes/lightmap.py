"""A second UV set for light maps: every point of the surface has a texel of its own, and charts keep their distance.

Where the first set's charts do not overlap themselves they are only scaled to one density and packed anew, with room
for a light map's large texels; each chart is moved as a whole, so coarser levels, which have the same charts, follow by
the same move. Else the surface is unwrapped anew.
"""

from __future__ import annotations

import numpy as np

from engine.errors import RunFailed
from engine.meshes.measure import face_normals
from engine.meshes.unwrap import unwrap, uv_figures


def moved(uvs: np.ndarray, chart: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """(v, 2) float32: UVs (v, 2) of the first set in the second. chart : (v,) rows of moves (charts, 2, 3)"""
    move = moves[chart]
    made = np.einsum("nij,nj->ni", move[:, :, :2], uvs.astype(np.float64)) + move[:, :, 2]
    return made.clip(0, 1).astype(np.float32)


def charts_of(faces: np.ndarray, uvs: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Each vertex's chart (v,) int64: faces joined through edges whose ends have one place and one UV.

    place : (v,) int, equal where vertices are one point
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    order = np.lexsort((uvs[:, 1], uvs[:, 0], place))
    same = (place[order[1:]] == place[order[:-1]]) & (uvs[order[1:]] == uvs[order[:-1]]).all(1)
    wedge = np.empty(len(uvs), np.int64)
    wedge[order] = np.cumsum(np.r_[True, ~same][:len(order)]) - 1
    corners = wedge[faces]
    size = int(wedge.max(initial=-1)) + 1
    i, j = np.r_[corners[:, 0], corners[:, 1]], np.r_[corners[:, 1], corners[:, 2]]
    _, name = connected_components(coo_matrix((np.ones(len(i), bool), (i, j)), shape=(size, size)), directed=False)
    return np.asarray(name[wedge], np.int64)


def packed_again(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, chart: np.ndarray, size: int, padding: int
                 ) -> np.ndarray | None:
    """Charts scaled to one density and packed into a light map of ``size`` pixels with ``padding`` pixels between them:
    moves (charts, 2, 3) float64, uv2 = moves[chart] @ (u, v, 1).

    chart : (v,) each vertex's. None where a chart overlaps itself or cannot be moved as a whole.
    """
    import xatlas
    used, chart = np.unique(chart, return_inverse=True)
    face_chart, count = chart[faces[:, 0]], len(used)
    solid = np.bincount(face_chart, np.linalg.norm(face_normals(vertices, faces), axis=1), count)
    a, b, c = (uvs[faces[:, k]].astype(np.float64) for k in range(3))
    flat = np.bincount(face_chart, np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]), count)
    scale = np.sqrt(solid / np.maximum(flat, 1e-300))
    if (flat <= 1e-12 * flat.sum()).any():
        return None
    # Apart from each other, so that no two charts touch in what the packer is given.
    low = np.full((count, 2), np.inf)
    np.minimum.at(low, chart, uvs.astype(np.float64))
    side = float(np.ptp(vertices, axis=0).max())
    given = (uvs - low[chart]) * scale[chart, None] / side
    atlas = xatlas.Atlas()
    atlas.add_uv_mesh(np.ascontiguousarray(given, np.float32), np.ascontiguousarray(faces, np.uint32),
                      np.ascontiguousarray(face_chart[:, None], np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = size, int(np.ceil(padding * 1.35)), True
    atlas.generate(xatlas.ChartOptions(), options)
    if atlas.atlas_count != 1:
        return None
    source, _, found = atlas[0]
    border = padding / 2
    factor = (size - 2 * border) / max(atlas.width, atlas.height)
    target = (np.asarray(found, np.float64) * [atlas.width, atlas.height] * factor + border) / size
    moves = np.zeros((int(used.max()) + 1, 2, 3))
    source = np.asarray(source, np.int64)
    order = np.argsort(chart[source], kind="stable")
    bounds = np.searchsorted(chart[source][order], np.arange(count + 1))
    for k in range(count):
        rows = order[bounds[k]:bounds[k + 1]]
        if len(rows) < 3:
            return None
        here = np.concatenate([uvs[source[rows]].astype(np.float64), np.ones((len(rows), 1))], 1)
        move = moves[used[k]] = np.linalg.lstsq(here, target[rows], rcond=None)[0].T
        if np.abs(here @ move.T - target[rows]).max() > 0.2 / size:
            return None
    # The samples along charts' edges are left out; what overlaps for real is far above this.
    overlap = uv_figures(vertices, faces, moved(uvs, used[chart], moves), size).overlap
    return moves if overlap < 1e-4 else None


def unwrapped_again(vertices: np.ndarray, faces: np.ndarray, size: int, padding: int
                    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For one level, new charts: source (w,) rows of the vertices, split at new seams; faces; uvs (w, 2)."""
    for larger in (1, 2, 4):
        try:
            flat = unwrap(vertices, faces, size * larger, padding * larger)
            return flat.source, flat.faces, flat.uvs
        except RunFailed:
            continue
    raise RunFailed("the light map's charts do not fit into one picture", "finish_mesh.lightmap = false, or fewer "
                    "triangles")
