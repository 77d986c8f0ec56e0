"""Simplification that keeps the texture: budget, topology, seams, and the quadrics against slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from mesh_helpers import ball, box, grid, torus

from engine.meshes.collapse import Collapser, _quadrics, edge_kinds
from engine.meshes.extract import extract_surface
from engine.meshes.measure import closeness, directed_edges, edge_groups, face_normals, topology, volume
from engine.meshes.unwrap import unwrap, uv_figures


def joined(level):
    return level.place[level.faces]


def sheet(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A flat square of n x n cells in the plane z = 0, [0, 1]^2."""
    x, y = np.meshgrid(np.arange(n + 1) / n, np.arange(n + 1) / n)
    vertices = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    a = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).reshape(-1)
    return vertices, np.concatenate([np.stack([a, a + 1, a + n + 2], 1), np.stack([a, a + n + 2, a + n + 1], 1)])


def test_a_closed_mesh_stays_closed_with_its_handle_at_every_budget():
    vertices, faces = extract_surface(grid(torus, 40), 0.0)
    whole = volume(vertices, faces)
    collapser = Collapser(vertices, faces)
    for triangles, lost in ((6000, 0.002), (3000, 0.005), (800, 0.03)):
        level = collapser.to(triangles)
        assert triangles - 1 <= len(level.faces) <= triangles
        found = topology(joined(level))
        assert found.watertight and found.manifold and found.euler == 0 and found.components == 1
        assert volume(level.vertices, level.faces) == pytest.approx(whole, rel=lost)
    assert closeness((level.vertices, level.faces), (vertices, faces), 0.05, 4000).f_score > 0.999


def test_a_finely_cut_box_becomes_twelve_triangles_without_any_error():
    import trimesh
    mesh = trimesh.creation.box((1.2, 0.8, 0.6)).subdivide().subdivide().subdivide()
    level = Collapser(mesh.vertices, mesh.faces).to(12)
    assert len(level.faces) == 12 and level.cost < 1e-4
    assert volume(level.vertices, level.faces) == pytest.approx(1.2 * 0.8 * 0.6, abs=1e-5)
    np.testing.assert_allclose(np.abs(level.vertices), np.broadcast_to([0.6, 0.4, 0.3], (8, 3)), atol=2e-5)
    assert Collapser(mesh.vertices, mesh.faces).to(4).faces.shape[0] >= 4  # a tetrahedron is the end


def test_rims_and_an_even_texture_are_exact_on_a_flat_sheet():
    vertices, faces = sheet()
    uvs = vertices[:, :2] @ np.array([[0.5, 0.1], [-0.2, 0.6]]) + 0.2
    level = Collapser(vertices, faces, uvs).to(2)
    assert len(level.faces) == 2 and topology(joined(level)).open_edges == 4
    assert {tuple(v) for v in level.vertices.round(4).tolist()} == {(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)}
    expected = level.vertices[:, :2] @ np.array([[0.5, 0.1], [-0.2, 0.6]]) + 0.2
    np.testing.assert_allclose(level.uvs, expected, atol=1e-5)


def test_a_texture_that_bends_is_kept_where_the_shape_alone_would_not():
    vertices, faces = sheet(16)
    uvs = np.stack([vertices[:, 0] ** 3, vertices[:, 1]], 1)

    def slip(level):
        return np.abs(level.uvs[:, 0] - level.vertices[:, 0].astype(float) ** 3).max()
    kept = Collapser(vertices, faces, uvs).to(40)
    assert slip(kept) < 0.02
    # Along x the texture needs vertices where it bends most, near x = 1.
    inner = kept.vertices[(kept.vertices[:, 0] > 0.02) & (kept.vertices[:, 0] < 0.98), 0]
    assert (inner > 0.5).sum() > (inner < 0.5).sum()


@pytest.fixture(scope="module")
def textured():
    vertices, faces = ball(20)
    flat = unwrap(vertices, faces, 256)
    return flat, flat.source


def seams(faces: np.ndarray, place: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Edges between two places -> the wedges at their ends, once a side, where the sides differ."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for a, b in directed_edges(faces).tolist():
        p, q = int(place[a]), int(place[b])
        found.setdefault((min(p, q), max(p, q)), []).append((a, b) if p < q else (b, a))
    return {edge: sides for edge, sides in found.items() if len(set(sides)) > 1}


def flat_area(uvs: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (uvs[faces[:, k]].astype(float) for k in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def test_both_sides_of_a_seam_stay_together_and_charts_stay_apart(textured):
    from engine.meshes.lightmap import charts_of
    flat, place = textured
    chart = charts_of(flat.faces, flat.uvs, place)
    collapser = Collapser(flat.vertices, flat.faces, flat.uvs, place)
    before = np.unique(chart)
    for share in (0.5, 0.25):
        level = collapser.to(int(len(flat.faces) * share))
        found = topology(joined(level))
        assert found.watertight and found.manifold and found.euler == 2
        # Wedges of one place lie in one point, so nothing gapes.
        for k in range(3):
            most, least = np.full(level.place.max() + 1, -np.inf), np.full(level.place.max() + 1, np.inf)
            np.maximum.at(most, level.place, level.vertices[:, k])
            np.minimum.at(least, level.place, level.vertices[:, k])
            assert (most == least).all()
        # Every face is of one chart, and all charts are still there.
        of = chart[level.source][level.faces]
        assert (of == of[:, :1]).all() and np.array_equal(np.unique(of), before)
        # A seam edge has exactly two sides, and both keep their own wedges at both ends.
        assert all(len(sides) == 2 for sides in seams(level.faces, level.place).values())
        figures = uv_figures(level.vertices, level.faces, level.uvs, 256)
        assert figures.overlap < 2e-3 and figures.stretch < 3
    # No triangle is turned over in the texture; xatlas lays some charts down mirrored.
    ways = np.sign(flat_area(flat.uvs, flat.faces))
    of_chart = np.zeros(chart.max() + 1)
    of_chart[chart[flat.faces[:, 0]]] = ways
    assert (ways == of_chart[chart[flat.faces[:, 0]]]).all()
    assert (np.sign(flat_area(level.uvs, level.faces)) == of_chart[of[:, 0]]).all()


def test_the_texture_slips_little_on_a_simplified_ball(textured):
    """Each point of the coarse surface finds, by its UV, a point of the fine one that is near it."""
    import torch

    from engine.meshes.detail import at_sites, sites
    flat, place = textured
    level = Collapser(flat.vertices, flat.faces, flat.uvs, place).to(len(flat.faces) // 4)
    fine, coarse = sites(flat.faces, flat.uvs, 256), sites(level.faces, level.uvs, 256)
    there = torch.full((256 * 256, 3), torch.nan)
    there[fine.index] = at_sites(flat.vertices, flat.faces, fine)
    here = at_sites(level.vertices, level.faces, coarse)
    off = (there[coarse.index] - here).norm(dim=1)
    assert off.isnan().float().mean() < 0.02  # charts hardly reach beyond their old borders
    assert float(off[~off.isnan()].quantile(0.99)) < 0.02  # of a diameter of 1.4


def test_kinds_of_vertices_worked_by_hand():
    """Two squares side by side, the right one with a wedge of its own along the shared edge."""
    corners = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]])
    ends, kinds = edge_kinds(corners, corners, 6)
    assert len(ends) == 9 and kinds.tolist() == [1] * 6  # all on the rim, no seam
    wedges = corners.copy()
    wedges[2:][corners[2:] == 1], wedges[2:][corners[2:] == 4] = 6, 7
    assert edge_kinds(corners, wedges, 6)[1].tolist() == [1, 2, 1, 1, 2, 1]  # a seam that ends at the rim is fixed
    fan = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1]])
    assert edge_kinds(fan, fan, 5)[1].tolist() == [0, 1, 1, 1, 1]
    crowded = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    assert edge_kinds(crowded, crowded, 5)[1][:2].tolist() == [2, 2]


def test_a_quadric_is_the_squared_distance_to_the_planes_and_slips_of_its_faces():
    vertices, faces = ball(6)
    rng = np.random.default_rng(3)
    uv = rng.random((len(vertices), 2))
    total = _quadrics(vertices.astype(float), faces.astype(np.int64), uv, faces.astype(np.int64), True)
    wedge, p, s = 17, rng.normal(size=3), rng.normal(size=2)
    expected = 0.0
    for face in faces[(faces == wedge).any(1)]:
        a, b, c = vertices[face].astype(float)
        cross = np.cross(b - a, c - a)
        area, normal = np.linalg.norm(cross) / 2, cross / np.linalg.norm(cross)
        expected += area / 3 * float(normal @ (p - a)) ** 2
        for k in range(2):
            # u continued over space, constant along the normal: u(a), u(b), u(c) at the corners.
            weights = np.linalg.solve(np.stack([b - a, c - a, normal], 1), p - a)
            u = uv[face, k]
            expected += area / 3 * (u[0] + weights[0] * (u[1] - u[0]) + weights[1] * (u[2] - u[0]) - s[k]) ** 2
    x = np.r_[p, s]
    upper = np.zeros((5, 5))
    upper[np.triu_indices(5)] = total[wedge, :15]
    matrix = upper + upper.T - np.diag(np.diag(upper))
    assert x @ matrix @ x + 2 * total[wedge, 15:20] @ x + total[wedge, 20] == pytest.approx(expected, rel=1e-9)


def test_the_first_collapse_is_the_cheapest_of_all_allowed_edges():
    """Against a slow twin: each edge's best place by least squares in float64, without the compiled code."""
    vertices, faces = ball(8)
    vertices = vertices + 0.01 * np.random.default_rng(1).normal(size=vertices.shape)
    collapser = Collapser(vertices, faces)
    points = (vertices - collapser.origin) / collapser.scale
    quadrics = _quadrics(points, faces.astype(np.int64), np.zeros((len(points), 2)), faces.astype(np.int64), False)
    costs = {}
    for a, b in edge_groups(faces)[0].tolist():
        q = quadrics[a] + quadrics[b]
        m = np.array([[q[0], q[1], q[2]], [q[1], q[5], q[6]], [q[2], q[6], q[9]]])
        pull, middle = 1e-6 * np.trace(m), (points[a] + points[b]) / 2
        p = np.linalg.solve(m + pull * np.eye(3), pull * middle - q[15:18])
        if np.linalg.norm(p - middle) > 2 * np.linalg.norm(points[a] - points[b]):
            p = middle
        error = p @ m @ p + 2 * q[15:18] @ p + q[20]
        costs[a, b] = (max(error, 0) + 1e-10 * np.trace(m) * ((points[a] - points[b]) ** 2).sum(), p)
    level = collapser.to(len(faces) - 2)
    gone = set(map(tuple, vertices.astype(np.float32).tolist())) - set(map(tuple, level.vertices.tolist()))
    new = set(map(tuple, level.vertices.tolist())) - set(map(tuple, vertices.astype(np.float32).tolist()))
    assert len(gone) == 2 and len(new) == 1
    edge = min(costs, key=lambda e: costs[e][0])
    assert {tuple(vertices[v].astype(np.float32).tolist()) for v in edge} == gone
    place = costs[edge][1] * collapser.scale + collapser.origin
    np.testing.assert_allclose(next(iter(new)), place, atol=1e-6)
    assert level.cost == pytest.approx(np.sqrt(costs[edge][0]) * collapser.scale ** 2, rel=1e-6)


def test_no_face_turns_over():
    vertices, faces = extract_surface(grid(box, 24), 0.0)
    level = Collapser(vertices, faces).to(60)
    outward = (face_normals(level.vertices, level.faces) * level.vertices[level.faces].mean(1)).sum(1)
    assert (outward > 0).all()


def test_equal_calls_make_equal_bits_and_a_limit_on_the_cost_stops_it():
    vertices, faces = ball(16)
    a, b = Collapser(vertices, faces).to(500), Collapser(vertices, faces).to(500)
    assert np.array_equal(a.vertices, b.vertices) and np.array_equal(a.faces, b.faces)
    stopped = Collapser(vertices, faces).to(4, dearest=a.cost * (1 + 1e-9))
    assert 4 < len(stopped.faces) <= 500 and stopped.cost <= a.cost * (1 + 1e-9)
    assert len(Collapser(vertices, faces).to(10 ** 6).faces) == len(faces)
    collapser = Collapser(vertices, faces)
    collapser._room = 64  # the heap runs over and is begun again
    collapser._heap()
    full = collapser.to(500)
    assert len(full.faces) <= 500 and topology(joined(full)).watertight
