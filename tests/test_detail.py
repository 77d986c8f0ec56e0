"""Baking from fine to coarse: rays against a twin that tries every triangle, normal maps, colours, occlusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mesh_helpers import ball

from engine.kernels.projection import Surface, interpolated
from engine.meshes.detail import (
    FLAT,
    Fine,
    at_sites,
    fine_colors,
    fine_normals,
    hemisphere,
    match,
    normal_map,
    occlusion,
    picture_of,
    sites,
)
from engine.meshes.finish import unwrapped
from engine.meshes.normals import corner_normals


def tensors(vertices: np.ndarray, faces: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces.astype(np.int32))


def first_along(p, n, vertices, faces, reach):
    """The twin: signed distance of the nearest crossing with a face that looks n's way, each triangle tried."""
    a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
    e1, e2 = b - a, c - a
    h = np.cross(n, e2)
    det = (e1 * h).sum(1)
    s = p - a
    u = (s * h).sum(1) / det
    q = np.cross(s, e1)
    v, t = (q @ n) / det, (e2 * q).sum(1) / det
    ok = (np.abs(det) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (np.abs(t) <= reach) & (np.cross(e1, e2) @ n > 0)
    return t[ok][np.abs(t[ok]).argmin()] if ok.any() else None


def test_rays_along_normals_find_what_the_twin_finds():
    vertices, faces = ball(10)
    rng = np.random.default_rng(2)
    n = rng.normal(size=(200, 3))
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    p = n * 0.7 + rng.normal(scale=0.05, size=n.shape)
    surface = Surface(*tensors(vertices, faces))
    face, weights, far = surface.along_normals(*(torch.from_numpy(x.astype(np.float32)) for x in (p, n)), 0.12)
    for k in range(len(p)):
        expected = first_along(p[k], n[k], vertices, faces, 0.12)
        if expected is None or abs(abs(expected) - 0.12) < 1e-4:
            continue
        assert face[k] >= 0 and float(far[k]) == pytest.approx(expected, abs=2e-5)
    at = interpolated(surface.vertices, surface.faces, face, weights)[face >= 0]
    np.testing.assert_allclose(at, (p + n * far.numpy()[:, None])[face.numpy() >= 0], atol=1e-5)


def test_a_sheet_that_looks_the_other_way_is_passed():
    square = np.float32([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    up, down = np.int32([[0, 2, 1], [0, 3, 2]]), np.int32([[4, 5, 6], [4, 6, 7]])
    # A thin slot whose walls face each other.
    surface = Surface(*tensors(np.r_[square, square + np.float32([0, 0.1, 0])], np.r_[up, down]))
    p, n = torch.tensor([[0.2, 0.2, 0.1]]), torch.tensor([[0.0, -1.0, 0.0]])
    face, _, far = surface.along_normals(p, n, 0.5)
    assert int(face[0]) in (2, 3) and float(far[0]) == pytest.approx(0.1, abs=1e-6)
    assert surface.along_normals(p, n, 0.05)[0][0] == -1 and surface.nearest(p)[2][0] == pytest.approx(0.1, abs=1e-6)


@pytest.fixture(scope="module")
def fine():
    """A ball whose normals are the true sphere's, painted with its position."""
    vertices, faces = ball(24)
    unit = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    fine = Fine.of(vertices, faces, unit)
    return vertices, faces, fine


@pytest.fixture(scope="module")
def coarse(fine):
    from engine.meshes.finish import simplified
    points, corners = simplified(fine[0].astype(np.float32), fine[1], 300)
    return unwrapped(points, corners, 128, 4, 180.0)


def test_a_coarse_ball_with_its_normal_map_has_the_sphere_s_normals(fine, coarse):
    where = sites(coarse.faces, coarse.uvs, 128)
    way = torch.nn.functional.normalize(at_sites(coarse.normals, coarse.faces, where), dim=1)
    points = at_sites(coarse.vertices, coarse.faces, where)
    found = match(fine[2], points, way)
    assert found.along > 0.98
    world = fine_normals(fine[2], found)
    picture = np.round(normal_map(world, coarse.normals, coarse.tangents, coarse.faces, where) * 255) / 255
    # Decoded as a shader does it.
    local = torch.from_numpy(picture.reshape(-1, 3)[where.index].astype(np.float32)) * 2 - 1
    t = at_sites(coarse.tangents, coarse.faces, where)
    n = torch.nn.functional.normalize(at_sites(coarse.normals, coarse.faces, where), dim=1)
    b = at_sites(np.cross(coarse.normals, coarse.tangents[:, :3]) * coarse.tangents[:, 3:], coarse.faces, where)
    t, b = (torch.nn.functional.normalize(x, dim=1) for x in (t[:, :3], b))
    shaded = torch.nn.functional.normalize(local[:, :1] * t + local[:, 1:2] * b + local[:, 2:] * n, dim=1)
    sphere = torch.nn.functional.normalize(points, dim=1)
    with_map, without = (torch.rad2deg(torch.acos((x * sphere).sum(1).clamp(-1, 1))) for x in (shaded, n))
    assert float(with_map.quantile(0.99)) < 2.0 and float(with_map.mean()) < 0.6
    assert float(without.mean()) > 3 * float(with_map.mean())


def test_a_mesh_baked_from_itself_has_a_flat_map(coarse):
    where = sites(coarse.faces, coarse.uvs, 64)
    own = torch.nn.functional.normalize(at_sites(coarse.normals, coarse.faces, where), dim=1)
    picture = normal_map(own, coarse.normals, coarse.tangents, coarse.faces, where)
    np.testing.assert_allclose(picture, np.broadcast_to(FLAT, picture.shape), atol=1e-4)


def test_colours_come_over_from_a_texture():
    square = np.float32([[0, 0, 0], [1, 0, 0], [1, 0, -1], [0, 0, -1]])
    faces, uvs = np.int32([[0, 1, 2], [0, 2, 3]]), np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])
    up = np.float32([[0, 1, 0]] * 4)
    column = np.where(np.arange(64) < 32, 0.2, 0.8)
    base = np.broadcast_to(column[None, :, None], (64, 64, 3)).astype(np.float32)
    flat = Fine.of(square, faces, up, uvs, base)
    points = torch.tensor([[0.1, 0.01, -0.5], [0.9, -0.01, -0.5], [0.25, 0.0, -0.1]])
    got = fine_colors(flat, match(flat, points, torch.tensor([[0.0, 1, 0]] * 3)))
    np.testing.assert_allclose(got, [[0.2] * 3, [0.8] * 3, [0.2] * 3], atol=1e-5)


def test_occlusion_of_a_plane_and_of_the_foot_of_a_wall():
    """Before an endless wall a point on the ground loses the half of the sky that the cosine weighs: 1/2."""
    ground = np.float32([[-9, 0, 9], [9, 0, 9], [9, 0, 0], [-9, 0, 0]])
    faces, up = np.int32([[0, 1, 2], [0, 2, 3]]), np.float32([[0, 1, 0]] * 4)
    uvs = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])
    alone = Fine.of(ground, faces, up)
    assert (occlusion(alone, faces, ground, up, uvs, 256, 64, 1.0) == 1).all()
    wall = np.float32([[-9, 0, 0], [9, 0, 0], [9, 30, 0], [-9, 30, 0]])
    both = Fine.of(np.r_[ground, wall], np.r_[faces, faces + 4], np.r_[up, np.float32([[0, 0, 1]] * 4)])
    shade = occlusion(both, faces, ground, up, uvs, 256, 128, 2.0)
    assert shade[4, 128] == pytest.approx(0.5, abs=0.04)  # at the wall's foot
    near, far = shade[40, 128], shade[250, 128]
    assert shade[4, 128] < near < far
    # Before a wall of height h and endless width at distance d the share lost is (1 - d / sqrt(d^2 + h^2)) / 2.
    d = 9 * 40.5 / 256
    width = np.arctan2(9, d) / (np.pi / 2)
    assert near == pytest.approx(1 - (1 - d / np.hypot(d, 30)) / 2 * width, abs=0.06)


def test_the_hemisphere_s_directions_weigh_by_the_cosine():
    d = hemisphere(4096).astype(float)
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), 1, atol=1e-6)
    # Density cos / pi: the mean of z is 2/3, of x 0, of x^2 1/4.
    np.testing.assert_allclose([d[:, 2].mean(), d[:, 0].mean(), (d[:, 0] ** 2).mean()], [2 / 3, 0, 0.25], atol=2e-3)


def test_pictures_are_padded_with_the_nearest_texel():
    where = sites(np.int32([[0, 1, 2]]), np.float32([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]]), 16)
    made = picture_of(torch.full((len(where.index), 1), 0.3), where, (0.9,))
    assert (made == np.float32(0.3)).all()
    assert (picture_of(torch.zeros(0, 1), sites(np.zeros((0, 3), np.int32), np.zeros((0, 2), np.float32), 8), (0.9,))
            == np.float32(0.9)).all()


def test_normals_of_corners_are_those_that_levels_use(coarse):
    normals, group = corner_normals(coarse.vertices, coarse.faces, 180.0)
    assert np.isfinite(normals[group]).all()
    np.testing.assert_allclose(np.linalg.norm(coarse.normals, axis=1), 1, atol=1e-5)
