"""MikkTSpace: worked by hand, and against the tangents that Mikkelsen's own algorithm gave.

tests/mikktspace.json holds five small meshes with the output of the npm package mikktspace 1.1.1 (mikktspace.c by way
of Rust and WebAssembly), its last number turned over as glTF's upside-down v demands.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.meshes.tangents import corner_tangents, with_tangents

KEPT = json.loads((Path(__file__).parent / "mikktspace.json").read_text(encoding="utf-8"))
SQUARE = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
FACES = np.int32([[0, 1, 2], [0, 2, 3]])
TOWARD = np.float32([[0, 0, 1]] * 4)


def arrays(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    case = KEPT[name]
    return (np.float32(case["vertices"]), np.int32(case["faces"]), np.float32(case["normals"]),
            np.float32(case["uvs"]), np.array(case["tangents"]).reshape(-1, 3, 4))


def test_an_upright_picture_on_a_square_has_its_right_to_the_right_and_its_top_up() -> None:
    uvs = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])  # glTF: v grows downward
    made = corner_tangents(SQUARE, FACES, TOWARD, uvs)
    np.testing.assert_array_equal(made, np.broadcast_to([1.0, 0, 0, 1], made.shape))
    bitangent = np.cross(TOWARD[0], made[0, 0, :3]) * made[0, 0, 3]
    np.testing.assert_array_equal(bitangent, [0, 1, 0])


def test_a_mirrored_and_a_turned_picture() -> None:
    mirrored = np.float32([[1, 1], [0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(corner_tangents(SQUARE, FACES, TOWARD, mirrored)[0, 0], [-1, 0, 0, -1])
    turned = np.float32([[0, 0], [0, 1], [1, 1], [1, 0]])  # u grows up, the picture's top lies to the left
    np.testing.assert_array_equal(corner_tangents(SQUARE, FACES, TOWARD, turned)[0, 0], [0, 1, 0, 1])


def test_the_weight_of_a_face_is_its_angle() -> None:
    """At the origin: a face of 90 degrees whose u grows along (1, 0), one of 45 degrees whose u grows along (1, 1)."""
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 1, 0]])
    faces = np.int32([[0, 1, 2], [0, 2, 3]])
    uvs = np.float32([[0, 0], [1, 0], [0, -1], [-1, -2]])
    made = corner_tangents(vertices, faces, TOWARD, uvs)
    expected = np.pi / 2 * np.array([1, 0, 0]) + np.pi / 4 * np.array([1, 1, 0]) / np.sqrt(2)
    np.testing.assert_allclose(made[0, 0], [*(expected / np.linalg.norm(expected)), 1], atol=1e-9)
    np.testing.assert_allclose(made[1, 0], made[0, 0], atol=1e-12)  # one group
    np.testing.assert_allclose(made[0, 1], [1, 0, 0, 1], atol=1e-9)  # a corner of the first face alone
    np.testing.assert_allclose(made[1, 2, :3], np.array([1, 1, 0]) / np.sqrt(2), atol=1e-9)


@pytest.mark.parametrize("name", ["smooth", "random"])
def test_equal_to_the_reference_at_every_corner(name: str) -> None:
    *mesh, expected = arrays(name)
    np.testing.assert_allclose(corner_tangents(*mesh), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["mirrored", "flat texture", "creased"])
def test_faces_without_texture_area_follow_the_group_that_reaches_them_first(name: str) -> None:
    """Corners that no group reaches keep (1, 0, 0) in the reference; ours lie across the normal, as glTF demands."""
    vertices, faces, normals, uvs, expected = arrays(name)
    corners = uvs[faces].astype(float)
    d, e = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    lost = np.abs(d[:, 0] * e[:, 1] - d[:, 1] * e[:, 0]) < 1e-12
    assert lost.any()
    unreached = lost[:, None] & (np.abs(expected[..., :3] - [1, 0, 0]).max(-1) < 1e-6)
    made = corner_tangents(vertices, faces, normals, uvs)
    np.testing.assert_allclose(made[~unreached], expected[~unreached], atol=2e-5)
    assert name == "creased" or (~unreached & lost[:, None]).any()
    across = (made[..., :3] * normals[faces]).sum(-1)
    assert np.abs(across).max() < 1e-3 and np.abs(np.linalg.norm(made[..., :3], axis=-1) - 1).max() < 1e-6


def test_vertices_are_split_only_where_the_texture_is_mirrored() -> None:
    vertices = np.float32([[-1, 0, 0], [0, 0, 0], [1, 0, 0], [-1, 1, 0], [0, 1, 0], [1, 1, 0]])
    faces = np.int32([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]])
    normals = np.float32([[0, 0, 1]] * 6)
    plain = np.stack([vertices[:, 0] / 2 + 0.5, 1 - vertices[:, 1]], 1)
    source, made, tangents = with_tangents(vertices, faces, normals, plain)
    assert np.array_equal(source, np.arange(6)) and np.array_equal(made, faces)
    folded = np.stack([np.abs(vertices[:, 0]), 1 - vertices[:, 1]], 1)
    source, made, tangents = with_tangents(vertices, faces, normals, folded)
    assert sorted(source.tolist()) == [0, 1, 1, 2, 3, 4, 4, 5]  # the two on the fold
    assert np.array_equal(source[made], faces) and set(tangents[:, 3].tolist()) == {-1.0, 1.0}
    np.testing.assert_allclose(tangents[made], corner_tangents(vertices, faces, normals, folded), atol=1e-6)


def test_degenerate_faces_and_meshes_without_texture_still_have_unit_tangents() -> None:
    vertices, faces, normals, uvs, _ = arrays("smooth")
    for t in (np.zeros_like(uvs), uvs):
        collapsed = vertices.copy()
        collapsed[faces[0, 1]] = collapsed[faces[0, 0]]
        made = corner_tangents(collapsed, faces, normals, t)
        assert np.isfinite(made).all() and np.abs(np.linalg.norm(made[..., :3], axis=-1) - 1).max() < 1e-6
        assert (np.abs(made[..., 3]) == 1).all()
