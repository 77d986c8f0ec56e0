"""Few convex shapes that stand for a mesh in a physics engine: a box or a capsule where that is enough, else hulls.

How much of space a shape fills is measured by one set of points that are spread evenly through the mesh's box, inside
or outside by the winding number, so that open and overlapping parts of a mesh count as one solid. Hulls are CoACD's
(Wei et al., "Approximate convex decomposition for 3D meshes with collision-aware concavity and tree search", 2022),
given the mesh simplified first: its time grows with the triangles, and a collider needs few. Where it finds more parts
than are wanted, engine.meshes.hull_merge joins them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import BadInput
from engine.meshes.asset import Collider
from engine.meshes.collapse import Collapser
from engine.meshes.hull_merge import merge_hulls
from engine.meshes.measure import topology, volume

POINTS = 30_000
TRIANGLES = 1000
"""Of the mesh that is taken apart."""
MEASURED = 8000
"""Of the mesh that volumes are measured on: within a thousandth of the whole one's."""
CONCAVITY = 0.05
"""CoACD's threshold: how deep a dent a hull may bridge, as a share of the size."""
CORNERS = 64
"""Most vertices of a hull; engines stop at 255, and fewer are faster."""
AXES = ("x", "y", "z")


def box_collider(vertices: np.ndarray) -> Collider:
    """The smallest box along the axes around (v, 3) points."""
    low, high = vertices.min(0).astype(np.float64), vertices.max(0).astype(np.float64)
    size = np.maximum(high - low, 1e-6 * max(float((high - low).max()), 1e-9))
    centre = (low + high) / 2
    corner = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    faces = _hull_faces(corner)
    return Collider("box", (centre + corner * size).astype(np.float32), faces,
                    {"centre": centre.tolist(), "size": size.tolist()})


def capsule_collider(vertices: np.ndarray) -> Collider:
    """The smallest capsule around (v, 3) points of those along an axis through their box's middle."""
    centre = ((vertices.min(0) + vertices.max(0)) / 2).astype(np.float64)
    away = _outermost(vertices) - centre
    best: tuple[float, int, float, float] | None = None
    for axis in range(3):
        side = np.linalg.norm(np.delete(away, axis, 1), axis=1)
        # A point off the axis by r is inside while it is no higher than half + sqrt(R^2 - r^2): a little more radius
        # may save much length.
        for radius in max(float(side.max()), 1e-9) * np.linspace(1, 1.2, 41):
            half = max(0.0, float((np.abs(away[:, axis]) - np.sqrt(np.maximum(radius ** 2 - side ** 2, 0))).max()))
            size = float(np.pi * radius ** 2 * (2 * half + 4 / 3 * radius))
            if best is None or size < best[0]:
                best = (size, axis, float(radius), half)
    assert best is not None
    _, axis, radius, half = best
    ring = _capsule_points(radius, half)
    turned = np.roll(ring, axis - 1, axis=1)
    return Collider("capsule", (centre + turned).astype(np.float32), _hull_faces(turned),
                    {"centre": centre.tolist(), "radius": radius, "height": 2 * (half + radius), "axis": AXES[axis]})


def hull_collider(vertices: np.ndarray) -> Collider:
    """The convex hull of (v, 3) points; flat ones are given a little thickness."""
    points = np.asarray(vertices, np.float64)
    try:
        faces = _hull_faces(points)
    except ValueError:
        spread = 1e-3 * max(float(np.ptp(points, axis=0).max()), 1e-9)
        corner = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
        points = (points[:, None] + spread * corner).reshape(-1, 3)
        faces = _hull_faces(points)
    used, faces = np.unique(faces, return_inverse=True)
    return Collider("hull", points[used].astype(np.float32), faces.reshape(-1, 3).astype(np.int32))


def colliders(vertices: np.ndarray, faces: np.ndarray, kind: str = "auto", most: int = 16, tolerance: float = 0.1
              ) -> tuple[tuple[Collider, ...], dict[str, float], str]:
    """Shapes for a mesh: (v, 3) vertices, (f, 3) faces with places joined.

    kind : "box", "capsule", "hulls", "none", or "auto": of box, capsule, one hull and several the first whose volume
        is within ``tolerance`` of the mesh's
    Returns them; figures: solid volume, the shapes' union's, both in the mesh's unit cubed, and their overlap with the
    solid (intersection over union); and a warning or "". Without CoACD "hulls" raises BadInput, and "auto" takes one
    hull and says so.
    """
    if kind == "none":
        return (), {}, ""
    plain = simplified(vertices, faces, MEASURED)
    points, inside, cell = solid_points(*plain)
    solid = cell * float(inside.sum())

    def told(shapes: tuple[Collider, ...]) -> dict[str, float]:
        covered = covered_by(shapes, points)
        either = float((covered | inside).sum())
        return {"solid_volume": solid, "collider_volume": cell * float(covered.sum()),
                "collider_iou": float((covered & inside).sum()) / max(either, 1.0), "colliders": float(len(shapes))}

    simple = {"box": box_collider, "capsule": capsule_collider}
    if kind in simple:
        shapes: tuple[Collider, ...] = (simple[kind](vertices),)
        return shapes, told(shapes), ""
    warning = ""
    if kind == "auto":
        for make in (box_collider, capsule_collider, hull_collider):
            shapes = (make(vertices),)
            figures = told(shapes)
            if solid > 0 and figures["collider_volume"] <= (1 + tolerance) * solid:
                return shapes, figures, ""
        if not has_coacd():
            warning = "CoACD is not installed: one convex hull stands for the whole mesh (pip install coacd)"
            return shapes, figures, warning
    shapes = hulls(*plain, most)
    return shapes, told(shapes), warning


def has_coacd() -> bool:
    from importlib.util import find_spec
    return find_spec("coacd") is not None


def hulls(vertices: np.ndarray, faces: np.ndarray, most: int = 16, triangles: int = TRIANGLES,
          concavity: float = CONCAVITY, **settings: Any) -> tuple[Collider, ...]:
    """Convex parts of a mesh, at most ``most``; -1: as many as CoACD finds. BadInput without CoACD."""
    if not has_coacd():
        raise BadInput("convex hulls need CoACD, which is not installed", "pip install coacd, or --set "
                       "finish_mesh.colliders=box")
    import coacd
    coacd.set_log_level("error")
    points, corners = simplified(vertices, faces, triangles)
    size = float(np.ptp(points, axis=0).max())
    low = points.min(0)
    found = topology(corners)
    # Its own remeshing thickens what is thin and takes most of the time: only where the surface is not sound.
    mode = "off" if found.watertight and found.manifold else "on"
    chosen: dict[str, Any] = {"preprocess_mode": mode, "preprocess_resolution": 60, "resolution": 500,
                              "mcts_nodes": 10, "mcts_iterations": 30, "mcts_max_depth": 2, "max_ch_vertex": CORNERS,
                              "decimate": True, "seed": 0}
    # Without CoACD's own limit: it joins parts by the depth of dents, which fills a ring; merge_hulls adds less.
    parts = coacd.run_coacd(coacd.Mesh((points - low) / size, corners), threshold=concavity,
                            max_convex_hull=-1, **{**chosen, **settings})
    made = tuple(hull_collider(np.asarray(v) * size + low) for v, _ in parts if len(v) >= 4)
    if most < 0 or len(made) <= most:
        return made
    return tuple(hull_collider(part) for part in merge_hulls([one.vertices for one in made], most, CORNERS))


def simplified(vertices: np.ndarray, faces: np.ndarray, triangles: int) -> tuple[np.ndarray, np.ndarray]:
    """A mesh of at most about so many triangles: (v, 3) float64, (f, 3), places joined; as it is where it is small."""
    if len(faces) <= triangles:
        return np.asarray(vertices, np.float64), np.asarray(faces)
    small = Collapser(vertices, faces).to(triangles)
    points = np.zeros((int(small.place.max()) + 1, 3))
    points[small.place] = small.vertices
    return points, small.place[small.faces]


def solid_points(vertices: np.ndarray, faces: np.ndarray, count: int = POINTS) -> tuple[np.ndarray, np.ndarray, float]:
    """Evenly spread points (n, 3) in the mesh's box, a little enlarged; which are inside (n,) bool; volume a point."""
    import torch

    from engine.kernels.distance import signed_distance
    low, high = vertices.min(0).astype(np.float64), vertices.max(0).astype(np.float64)
    size = np.maximum(high - low, 1e-3 * float((high - low).max()))
    low, size = (low + high) / 2 - 0.55 * size, 1.1 * size
    # Powers of the plastic number's cousin (Roberts 2018): even, and aligned with no side of a box, as a grid would be.
    step = 1.22074408460575947536 ** -np.arange(1.0, 4.0)
    points = low + size * ((0.5 + np.arange(1, count + 1)[:, None] * step) % 1.0)
    distance = signed_distance(torch.from_numpy(points.astype(np.float32)),
                               torch.from_numpy(np.ascontiguousarray(vertices, np.float32)),
                               torch.from_numpy(np.ascontiguousarray(faces, np.int32)))
    return points, distance.numpy() < 0, float(size.prod() / count)


def covered_by(shapes: tuple[Collider, ...], points: np.ndarray) -> np.ndarray:
    """(n,) bool: points (n, 3) in any of the shapes."""
    covered = np.zeros(len(points), bool)
    for shape in shapes:
        if shape.kind == "capsule":
            axis = AXES.index(shape.parameters["axis"])
            away = points - np.asarray(shape.parameters["centre"])
            half = shape.parameters["height"] / 2 - shape.parameters["radius"]
            away[:, axis] -= np.clip(away[:, axis], -half, half)
            covered |= (away ** 2).sum(1) <= shape.parameters["radius"] ** 2
            continue
        v = shape.vertices.astype(np.float64)
        a, b, c = (v[shape.faces[:, k]] for k in range(3))
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal, axis=1)
        normal, a = normal[length > 1e-30] / length[length > 1e-30, None], a[length > 1e-30]
        left = np.flatnonzero(~covered & ((points >= v.min(0)) & (points <= v.max(0))).all(1))
        far = (normal * a).sum(1) + 1e-9
        for k in range(0, len(normal), 64):  # a block of planes at a time: most points are out after the first ones
            left = left[(points[left] @ normal[k:k + 64].T <= far[k:k + 64]).all(1)]
        covered[left] = True
    return covered


def _outermost(points: np.ndarray) -> np.ndarray:
    """Those of (v, 3) points that a convex shape must hold to hold all; all of them where they lie in a plane."""
    from scipy.spatial import ConvexHull, QhullError
    try:
        return np.asarray(points, np.float64)[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        return np.asarray(points, np.float64)


def _hull_faces(points: np.ndarray) -> np.ndarray:
    """(f, 3) int32 of the convex hull, looking out. ValueError where the points lie in a plane."""
    from scipy.spatial import ConvexHull, QhullError
    try:
        hull = ConvexHull(points)
    except QhullError as error:
        raise ValueError("the points lie in a plane") from error
    faces = hull.simplices.astype(np.int64)
    a, b, c = (points[faces[:, k]] for k in range(3))
    inward = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(1) < 0
    faces[inward] = faces[inward][:, ::-1]
    if volume(points, faces) <= 0:
        raise ValueError("the points lie in a plane")
    return faces.astype(np.int32)


def _capsule_points(radius: float, half: float, around: int = 16, rings: int = 4) -> np.ndarray:
    """(n, 3) points of a capsule along y."""
    turn = np.arange(around) * 2 * np.pi / around
    circle = np.stack([np.cos(turn), np.zeros(around), np.sin(turn)], 1)
    made = [np.array([[0, half + radius, 0], [0, -half - radius, 0]])]
    for k in range(rings):
        tilt = k * np.pi / (2 * rings)
        for way in (1, -1):
            made.append(circle * radius * np.cos(tilt) + [0, way * (half + radius * np.sin(tilt)), 0])
    return np.unique(np.concatenate(made).round(12), axis=0)
