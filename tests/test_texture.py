from __future__ import annotations

import numpy as np
import pytest
from mesh_helpers import Notes, ball
from pydantic import ValidationError

from engine.artifacts import Mesh, Views
from engine.meshes.bake import bake, linear_from_srgb, pad_seams, srgb_from_linear, surface_texels
from engine.meshes.unwrap import unwrap, uv_figures
from engine.space import Cameras
from engine.stages.texture_mesh import TextureMesh, material_in, texture_of

RED, BLUE = np.array([0.9, 0.1, 0.1]), np.array([0.1, 0.2, 0.8])


def halves(points: np.ndarray) -> np.ndarray:
    return np.where(points[:, :1] > 0, RED, BLUE).astype(np.float32)


def pictures_of_ball(azimuths: tuple[float, ...], size: int = 64, radius: float = 0.7) -> Views:
    """Exact pictures of a sphere that is red where x > 0, else blue; green under alpha 0."""
    cameras = Cameras.orbit(azimuths, 0.0, 3.0, 40.0, size)
    origin, direction = cameras.rays()
    along = -(origin * direction).sum(-1)
    inside = radius ** 2 - ((origin ** 2).sum(-1) - along ** 2)
    hit = origin + direction * (along - np.sqrt(np.maximum(inside, 0)))[..., None]
    color = np.where(inside[..., None] > 0, np.where(hit[..., :1] > 0, RED, BLUE), [0, 1, 0])
    images = np.concatenate([color, (inside > 0)[..., None]], -1).astype(np.float32)
    return Views(images, cameras, np.zeros(len(cameras), dtype=bool))


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return Mesh(*ball(16))


def test_uvs_lie_inside_do_not_overlap_and_name_the_same_triangles(mesh):
    flat = unwrap(mesh.vertices, mesh.faces, 128)
    assert flat.uvs.min() > 1 / 128 and flat.uvs.max() < 1 - 1 / 128
    assert np.array_equal(flat.source[flat.faces], mesh.faces)
    figures = uv_figures(flat.vertices, flat.faces, flat.uvs, 128)
    assert figures.overlap == 0 and 0.3 < figures.used < 1 and figures.stretch < 2
    # Area in texels over area of the surface is the density's square.
    assert figures.texels_per_unit ** 2 * 4 * np.pi * 0.49 == pytest.approx(figures.used * 128 ** 2, rel=0.15)


def test_overlap_is_seen():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float32)
    vertices = np.concatenate([square, square + np.float32([0, 0, 1])])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    apart = np.concatenate([square[:, :2] * 0.4, square[:, :2] * 0.4 + 0.5])
    assert uv_figures(vertices, faces, apart, 64).overlap == 0
    half = np.concatenate([square[:, :2] * 0.4, square[:, :2] * 0.4 + [0.2, 0]])
    assert uv_figures(vertices, faces, half, 64).overlap == pytest.approx(1 / 3, abs=0.03)


def test_linear_light_there_and_back():
    import torch
    levels = torch.linspace(0, 1, 256)
    assert torch.allclose(srgb_from_linear(linear_from_srgb(levels)), levels, atol=1e-6)
    assert float(linear_from_srgb(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-4)


def test_field_colour_arrives_in_every_texel(mesh):
    job = Notes()
    made = texture_of(mesh, halves, None, TextureMesh(texture_size=128), job)
    assert job.metrics["uv_overlap"] == 0 and job.metrics["texels_seen"] == 0
    texels = surface_texels(made.vertices, made.faces, made.normals, made.uvs, 128)
    baked = made.base_color.reshape(-1, 3)[texels.index.numpy()]
    assert np.allclose(baked, halves(texels.points.numpy()), atol=1e-5)
    # Nothing but the two colours anywhere: the space between charts is filled from the charts.
    distance = np.minimum(np.abs(made.base_color - RED).max(-1), np.abs(made.base_color - BLUE).max(-1))
    assert distance.max() < 1e-5
    assert (made.metallic, made.roughness) == (0.0, 0.7)
    assert np.allclose(np.linalg.norm(made.normals, axis=1), 1, atol=1e-5)


def test_pictures_arrive_where_they_look_and_nowhere_else(mesh):
    flat = unwrap(mesh.vertices, mesh.faces, 128)
    normals = flat.vertices / np.linalg.norm(flat.vertices, axis=1, keepdims=True)
    texels = surface_texels(flat.vertices, flat.faces, normals, flat.uvs, 128)
    points = texels.points.numpy()
    made = bake(texels, flat.vertices, flat.faces, lambda p: np.full((len(p), 3), 0.5, np.float32),
                pictures_of_ball((0.0, 60.0, 300.0)), field_weight=1e-6)
    color = made.base_color.reshape(-1, 3)[texels.index.numpy()]
    front = (points[:, 2] > 0.5) & (np.abs(points[:, 0]) > 0.05)
    assert np.abs(color[front] - halves(points[front])).max() < 0.06
    assert np.abs(color[points[:, 2] < -0.6] - 0.5).max() < 1e-5
    assert 0.4 < made.seen < 0.9 and made.disagreement < 0.06
    assert color[:, 1].max() < 0.51, "the green under alpha 0 must not leak in"


def test_what_stands_before_hides_what_stands_behind():
    """Two squares, one before the other: the camera paints the front one only."""
    square = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], dtype=np.float32)
    vertices = np.concatenate([square + np.float32([0, 0, 0.4]), square * 0.6 + np.float32([0, 0, -0.4])])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], dtype=np.int32)
    uvs = np.concatenate([(square[:, :2] + 0.5) * 0.4 + 0.05, (square[:, :2] + 0.5) * 0.4 + 0.55]).astype(np.float32)
    normals = np.tile(np.array([[0, 0, 1]], dtype=np.float32), (8, 1))
    texels = surface_texels(vertices, faces, normals, uvs, 64)
    red = np.ones((1, 64, 64, 4), np.float32) * np.float32([1, 0, 0, 1])
    views = Views(red, Cameras.orbit(0.0, 0.0, 3.0, 40.0, 64), np.zeros(1, bool))
    gray = bake(texels, vertices, faces, lambda p: np.full((len(p), 3), 0.5, np.float32), views, field_weight=1e-4)
    color = gray.base_color.reshape(-1, 3)[texels.index.numpy()]
    behind = texels.points[:, 2].numpy() < 0
    assert np.allclose(color[behind], 0.5, atol=1e-5)
    inner = ~behind & (np.abs(texels.points[:, :2].numpy()).max(1) < 0.45)
    assert np.abs(color[inner] - [1, 0, 0]).max() < 0.01
    views.held_out[:] = True
    assert bake(texels, vertices, faces, halves, views).seen == 0


def test_empty_texels_take_the_nearest_colour():
    picture, filled = np.zeros((4, 6, 3), np.float32), np.zeros((4, 6), bool)
    picture[1, 0], picture[1, 5] = 0.2, 0.8
    filled[1, 0] = filled[1, 5] = True
    padded = pad_seams(picture, filled)
    assert np.allclose(padded[:, :3], 0.2) and np.allclose(padded[:, 3:], 0.8)


def test_materials_and_sizes():
    assert material_in("a shiny metal kettle") == "metal" and material_in("a kettle") is None
    with pytest.raises(ValidationError, match="power of two"):
        TextureMesh(texture_size=1000)
