"""Fewer triangles with the texture still on them: edge collapses under quadric errors that know UVs and their seams.

Garland and Heckbert, "Surface simplification using quadric error metrics" (1997), with the attribute terms of Hoppe,
"New quadric metric for simplifying meshes with appearance attributes" (1999): each face asks how far a point lies off
its plane *and* how far the texture would slip there, so flat and evenly painted parts go first. A vertex has one
position and, at a seam, one *wedge* a side, each with UVs of its own; a collapse along a seam merges both sides at
once, a vertex beside a seam may fall onto it, and charts never grow together. Where three seams meet nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.meshes.measure import directed_edges, edge_groups, face_normals

TEXTURE_WEIGHT = 0.5
"""What a slip of the texture by some length counts beside a surface off its place by the same length."""
RIM_WEIGHT = 10.0
"""Of holes' rims: nothing else holds them."""
SEAM_WEIGHT = 0.3
"""Of seams in space; in the texture their line is held by RIM_WEIGHT, or charts would reach into their gutters."""
FLATTEST = 0.2
"""Least cosine between a face's normal before and after one collapse."""


@dataclass(frozen=True)
class Level:
    """A simplified mesh. vertices : (w, 3) float32, one a wedge; faces : (f, 3) int32; uvs : (w, 2) float32
    place : (w,) int64, equal for wedges that are one point of the surface; source : (w,) int64, the row of the input
        vertices whose chart the wedge belongs to; cost : root of the dearest collapse's quadric error, which weighs by
        area: to compare levels with, no distance
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    place: np.ndarray
    source: np.ndarray
    cost: float


class Collapser:
    """A mesh on its way down. Each :meth:`to` goes on from where the last one stopped."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray | None = None,
                 place: np.ndarray | None = None) -> None:
        """vertices : (v, 3) finite; faces : (f, 3) int; uvs : (v, 2) or None: the shape alone counts
        place : (v,) int, equal where vertices are one point; None: where their positions are equal
        """
        if place is None:
            place = np.unique(vertices, axis=0, return_inverse=True)[1]
        place = place.reshape(-1).astype(np.int64)
        flat = np.zeros((len(vertices), 2)) if uvs is None else np.asarray(uvs, np.float64)
        order = np.lexsort((flat[:, 1], flat[:, 0], place))
        same = (place[order[1:]] == place[order[:-1]]) & (flat[order[1:]] == flat[order[:-1]]).all(1)
        new = np.r_[True, ~same][:len(order)]
        first, wedge = order[new], np.empty(len(order), np.int64)
        wedge[order] = np.cumsum(new) - 1
        corners, wedges = place[faces], wedge[faces]
        whole = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 2] != corners[:, 0])
        corners, wedges = corners[whole], wedges[whole]
        self.origin = vertices.min(0).astype(np.float64) if len(vertices) else np.zeros(3)
        self.scale = float(np.ptp(vertices, axis=0).max()) if len(vertices) else 1.0
        self.scale = self.scale or 1.0
        points = np.zeros((int(place.max(initial=-1)) + 1, 3))
        points[place] = (vertices - self.origin) / self.scale
        self.source = first
        self.stretch = _texture_length(points, corners, flat[first], wedges) * np.sqrt(TEXTURE_WEIGHT)
        scaled = flat[first] * self.stretch
        errors = _quadrics(points, corners, scaled, wedges, uvs is not None)
        self._start(points, corners, scaled, wedges, errors)

    def _start(self, points: np.ndarray, corners: np.ndarray, scaled: np.ndarray, wedges: np.ndarray,
               errors: np.ndarray) -> None:
        import warp as wp

        from engine.kernels.collapse import FACES, Net, quadric
        ends, kinds = edge_kinds(corners, wedges, len(points))
        order = np.argsort(corners.reshape(-1), kind="stable")
        at = corners.reshape(-1)[order]
        last = np.r_[at[1:] != at[:-1], True] if len(at) else np.zeros(0, bool)
        following = np.full(corners.size, -1, np.int32)
        following[order[:-1]] = np.where(last[:-1], -1, order[1:]) if len(order) else 0
        head = np.full(len(points), -1, np.int32)
        head[at[::-1]] = order[::-1]
        self._arrays = {
            "place": points, "corner_vertex": corners.reshape(-1).astype(np.int32),
            "corner_wedge": wedges.reshape(-1).astype(np.int32), "alive": np.ones(len(corners), np.int32),
            "uv": np.ascontiguousarray(scaled), "error": errors, "kind": kinds, "head": head, "following": following,
            "stamp": np.zeros(len(points), np.int32), "mark": np.zeros(len(points), np.int32),
            "state": np.zeros(8, np.int32), "spent": np.zeros(1)}
        self._arrays["state"][FACES] = len(corners)
        kinds_of = {"place": wp.vec3d, "uv": wp.vec2d, "error": quadric}
        self._net = Net()
        self._views = {name: wp.array(np.ascontiguousarray(array), dtype=kinds_of.get(
            name, wp.float64 if array.dtype == np.float64 else wp.int32), device="cpu", copy=True)
            for name, array in self._arrays.items()}
        for name, view in self._views.items():
            setattr(self._net, name, view)
        self._edges: np.ndarray | None = ends
        self._room = max(64, 4 * len(ends))
        self._heap()

    def _heap(self) -> None:
        import warp as wp
        self._net.cost = wp.zeros(self._room, dtype=wp.float64, device="cpu")
        self._net.ends = wp.zeros(self._room, dtype=wp.vec4i, device="cpu")

    @property
    def triangles(self) -> int:
        """How many there are now."""
        from engine.kernels.collapse import FACES
        return int(self._views["state"].numpy()[FACES])

    def to(self, triangles: int, dearest: float = np.inf) -> Level:
        """Collapse until at most ``triangles`` are left, or as few as can be, or the next would cost over ``dearest``
        (as :attr:`Level.cost`)."""
        import warp as wp

        from engine.kernels.collapse import COLLAPSED, FULL, HEAP, collapse
        from engine.kernels.launch import load
        load(collapse, "cpu")
        state = self._views["state"].numpy()
        limit = float((dearest / self.scale ** 2) ** 2) if np.isfinite(dearest) else 1e300
        while self.triangles > triangles:
            edges = self._edges if self._edges is not None else np.zeros((0, 2), np.int32)
            before = int(state[COLLAPSED])
            state[FULL] = 0
            wp.launch(collapse, dim=1, device="cpu", inputs=[
                self._net, wp.array(np.ascontiguousarray(edges), dtype=wp.vec2i, device="cpu"), int(triangles), limit,
                FLATTEST])
            full = bool(state[FULL])
            if self.triangles <= triangles or (not full and state[HEAP] > 0):
                self._edges = None
                break
            if not full and state[COLLAPSED] == before and self._edges is not None:
                break  # every edge there is was offered, and none may go
            # The heap ran over, or out: what was refused once may go now that its surroundings have changed.
            state[HEAP] = state[FULL] = 0
            corners = self._views["corner_vertex"].numpy().reshape(-1, 3)[self._views["alive"].numpy() > 0]
            self._edges = edge_groups(corners)[0].astype(np.int32)
            if full:
                self._room *= 2
                self._heap()
        return self._level()

    def _level(self) -> Level:
        alive = self._views["alive"].numpy() > 0
        corners = self._views["corner_vertex"].numpy().reshape(-1, 3)[alive].astype(np.int64)
        wedges = self._views["corner_wedge"].numpy().reshape(-1, 3)[alive].astype(np.int64)
        used, first, faces = np.unique(wedges.reshape(-1), return_index=True, return_inverse=True)
        place = corners.reshape(-1)[first]
        points = self._views["place"].numpy()[place] * self.scale + self.origin
        uvs = self._views["uv"].numpy()[used] / self.stretch
        spent = float(np.sqrt(self._views["spent"].numpy()[0])) * self.scale ** 2
        return Level(points.astype(np.float32), faces.reshape(-1, 3).astype(np.int32), uvs.astype(np.float32),
                     np.unique(place, return_inverse=True)[1].reshape(-1), self.source[used], spent)


def edge_kinds(corners: np.ndarray, wedges: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """The undirected edges (e, 2) int32, and each vertex's kind (v,) int32: interior, on a line, or fixed.

    An edge is sharp where it has not two faces that run along it opposite ways with the same wedges. A vertex with no
    sharp edge is interior; one with two, and as many wedges as their kind has sides, lies on a line; others are fixed.
    """
    from engine.kernels.collapse import CORNER, INTERIOR, LINE
    ends, member, count = edge_groups(corners)
    order = np.argsort(member, kind="stable")
    start = np.cumsum(count) - count
    two = count == 2
    i, j = order[start[two]], order[start[two] + 1]
    rows, sides = directed_edges(corners), directed_edges(wedges)
    joined = (rows[i] == rows[j][:, ::-1]).all(1) & (sides[i] == sides[j][:, ::-1]).all(1)
    sharp = np.ones(len(ends), bool)
    sharp[np.flatnonzero(two)[joined]] = False
    wild = count > 2
    wild[np.flatnonzero(two)[~(rows[i] == rows[j][:, ::-1]).all(1)]] = True
    lines = np.bincount(ends[sharp].reshape(-1), minlength=vertices)
    rims = np.bincount(ends[count == 1].reshape(-1), minlength=vertices)
    span = int(wedges.max(initial=0)) + 1
    pair = np.unique(corners.reshape(-1).astype(np.int64) * span + wedges.reshape(-1))
    sides_at = np.bincount(pair // span, minlength=vertices)
    kinds = np.full(vertices, CORNER, np.int32)
    kinds[(lines == 0) & (sides_at == 1)] = INTERIOR
    kinds[(lines == 2) & (rims == 0) & (sides_at == 2)] = LINE
    kinds[(lines == 2) & (rims == 2) & (sides_at == 1)] = LINE
    kinds[ends[wild].reshape(-1)] = CORNER
    return ends.astype(np.int32), kinds


def _texture_length(points: np.ndarray, corners: np.ndarray, uv: np.ndarray, wedges: np.ndarray) -> float:
    """Units of length a unit of UV: the root of the areas' ratio; 1 without UVs."""
    solid = np.linalg.norm(face_normals(points, corners), axis=1).sum()
    a, b, c = (uv[wedges[:, k]] for k in range(3))
    flat = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum()
    return float(np.sqrt(solid / flat)) if flat > 1e-12 and solid > 0 else 1.0


def _quadrics(points: np.ndarray, corners: np.ndarray, uv: np.ndarray, wedges: np.ndarray, textured: bool
              ) -> np.ndarray:
    """(w, 21) float64: what each wedge's faces and sharp edges ask of a point and its UVs (scaled to lengths)."""
    total = np.zeros((len(uv), 21))
    scaled = face_normals(points, corners)
    area = np.linalg.norm(scaled, axis=1) / 2
    normal = scaled / np.maximum(2 * area, 1e-300)[:, None]
    a = points[corners[:, 0]]
    none = np.zeros((len(corners), 2))
    forms = [(np.concatenate([normal, none], 1), -(normal * a).sum(1))]
    if textured:
        forms += _slips(points, corners, uv, wedges, normal)
    for row, offset in forms:
        square = _square(row, offset) * (area / 3)[:, None]
        for k in range(3):
            _add(total, wedges[:, k], square)
    _hold_lines(total, points, corners, uv, wedges, normal, textured)
    return total


def _slips(points: np.ndarray, corners: np.ndarray, uv: np.ndarray, wedges: np.ndarray, normal: np.ndarray
           ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Hoppe's terms: for each of u and v the linear form g . p + d - u, zero on the face's own texture."""
    a, b, c = (points[corners[:, k]] for k in range(3))
    system = np.stack([b - a, c - a, normal], 1)
    good = np.abs(np.linalg.det(system)) > 1e-14
    system[~good] = np.eye(3)
    inverse = np.linalg.inv(system)
    forms = []
    for k in range(2):
        u = uv[wedges][..., k]
        rise = np.stack([u[:, 1] - u[:, 0], u[:, 2] - u[:, 0], np.zeros(len(u))], 1)
        gradient = np.einsum("nij,nj->ni", inverse, rise)
        row = np.zeros((len(u), 5))
        row[:, :3], row[:, 3 + k] = gradient, -1
        row[~good] = 0
        forms.append((row, np.where(good, u[:, 0] - (gradient * a).sum(1), 0.0)))
    return forms


def _hold_lines(total: np.ndarray, points: np.ndarray, corners: np.ndarray, uv: np.ndarray, wedges: np.ndarray,
                normal: np.ndarray, textured: bool) -> None:
    """Add to each sharp edge's wedges: stay in the plane through the edge that stands on its face, and on its line in
    the texture."""
    ends, member, count = edge_groups(corners)
    rows, sides = directed_edges(corners), directed_edges(wedges)
    low = np.where(rows[:, 0] < rows[:, 1], sides[:, 0], sides[:, 1])
    high = np.where(rows[:, 0] < rows[:, 1], sides[:, 1], sides[:, 0])
    different = np.zeros(len(ends), bool)
    for wedge in (low, high):
        least, most = np.full(len(ends), np.iinfo(np.int64).max), np.full(len(ends), -1)
        np.minimum.at(least, member, wedge)
        np.maximum.at(most, member, wedge)
        different |= least != most
    held = (different | (count != 2))[member]
    i = np.flatnonzero(held)
    along = points[rows[i, 1]] - points[rows[i, 0]]
    length = np.linalg.norm(along, axis=1)
    across = np.cross(along, normal[i // 3])
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-300)
    weight = np.where(count[member[i]] == 1, RIM_WEIGHT, SEAM_WEIGHT) * length ** 2
    row = np.concatenate([across, np.zeros((len(i), 2))], 1)
    square = _square(row, -(across * points[rows[i, 0]]).sum(1)) * weight[:, None]
    for k in range(2):
        _add(total, sides[i, k], square)
    if textured:
        step = uv[sides[i, 1]] - uv[sides[i, 0]]
        size = np.linalg.norm(step, axis=1)
        aside = np.stack([step[:, 1], -step[:, 0]], 1) / np.maximum(size, 1e-300)[:, None]
        row = np.concatenate([np.zeros((len(i), 3)), aside], 1)
        square = _square(row, -(aside * uv[sides[i, 0]]).sum(1)) * (RIM_WEIGHT * size ** 2)[:, None]
        for k in range(2):
            _add(total, sides[i, k], square)


UPPER = np.triu_indices(5)


def _square(row: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The quadrics (n, 21) of the squares of linear forms row . x + offset."""
    return np.concatenate([row[:, UPPER[0]] * row[:, UPPER[1]], row * offset[:, None], offset[:, None] ** 2], 1)


def _add(total: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
    for k in range(values.shape[1]):
        total[:, k] += np.bincount(index, values[:, k], len(total))
