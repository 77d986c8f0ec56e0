"""Meshes with known faults, mended: what comes back is closed, manifold, outward, and keeps its texture's rows."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from mesh_helpers import ball

from engine.errors import BadInput
from engine.meshes.holes import close_holes, rims
from engine.meshes.measure import area, topology, volume
from engine.meshes.mend import mend


@pytest.fixture(scope="module")
def shape():
    return ball(12)


def sound(made, whole, volume_loss=1e-3):
    found = topology(made.place)
    assert found.watertight and found.manifold
    assert volume(made.points, made.place) == pytest.approx(whole, rel=volume_loss)


def test_a_sound_mesh_is_left_as_it_is(shape):
    vertices, faces = shape
    made = mend(vertices, faces)
    assert not any(made.told.values()) and np.array_equal(made.row, faces) and not made.filled
    np.testing.assert_array_equal(made.points[made.place], vertices.astype(np.float32)[faces])


def test_triangles_that_share_no_vertex_are_joined(shape):
    vertices, faces = shape
    made = mend(vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3))
    sound(made, volume(*shape), 1e-6)
    assert np.array_equal(made.row, np.arange(faces.size).reshape(-1, 3)) and len(made.points) == len(vertices)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_faces_that_look_inward_are_turned_with_their_rows(shape, share):
    vertices, faces = shape
    flip = np.random.default_rng(0).random(len(faces)) < share
    given = np.where(flip[:, None], faces[:, ::-1], faces)
    made = mend(vertices, given)
    sound(made, volume(*shape), 1e-6)
    assert made.told["flipped_faces"] == flip.sum()
    np.testing.assert_array_equal(made.points[made.place], vertices.astype(np.float32)[made.row])


def test_holes_are_closed_flat_and_wide_mouths_are_not(shape):
    vertices, faces = shape
    made = mend(vertices, np.delete(faces, [3, 4, 5, 100], 0))
    sound(made, volume(*shape))
    assert made.told["filled_holes"] >= 1 and made.filled and (made.row[-1] == -1).all()
    bowl = faces[vertices[faces].mean(1)[:, 1] < 0]
    made = mend(vertices, bowl)
    assert made.told["filled_holes"] == 0 and topology(made.place).open_edges > 0
    made = mend(vertices, bowl, largest_hole=1.0)
    assert made.told["filled_holes"] == 1
    sound(made, volume(*shape) / 2, 0.1)


def test_the_cover_of_least_area_is_found():
    """A bent rim: of the two ways to cover a skew quadrilateral the smaller; a flat L keeps its own area."""
    p = np.float32([[0, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0]])
    inner = np.float32([0.5, 0.5, -1])
    cone = np.array([[b, a, 6] for a, b in zip(range(6), [1, 2, 3, 4, 5, 0], strict=True)])
    (vertices, faces), closed = close_holes(np.vstack([p, inner]), cone)
    assert closed == 1 and len(vertices) == 7 and area(vertices, faces[6:]) == pytest.approx(3.0, abs=1e-6)
    assert topology(faces).watertight and [len(r) for r in rims(cone)] == [6]


def test_cubes_that_touch_along_an_edge_part(shape):
    a, b = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((1, 1, 1))
    b.apply_translation((1, 1, 0))
    made = mend(np.concatenate([a.vertices, b.vertices]), np.concatenate([a.faces, b.faces + 8]))
    found = topology(made.place)
    assert found.watertight and found.manifold and found.components == 2 and made.told["parted_vertices"] == 2
    assert topology(mend(made.points, made.place).place).components == 2  # and stay apart when read again


def test_copies_degenerate_faces_and_crumbs_go(shape):
    vertices, faces = shape
    thin = np.array([[0, 0, 1], [2, 3, 3]])
    made = mend(vertices, np.concatenate([faces, faces[:7], thin]))
    sound(made, volume(*shape), 1e-6)
    assert made.told["degenerate_faces"] == 9
    crumbs = mend(np.concatenate([vertices, vertices * 0.05 + 2]), np.concatenate([faces, faces + len(vertices)]), 0.01)
    assert crumbs.told["dropped_parts"] == 1 and len(crumbs.place) == len(faces)


@pytest.mark.parametrize(("change", "said"), [
    (lambda v, f: (np.where(np.arange(len(v))[:, None] == 3, np.nan, v), f), "are not finite"),
    (lambda v, f: (v, np.r_[f, [[0, 1, len(v)]]]), "names a vertex that is not there"),
    (lambda v, f: (v, f[:0]), "has no faces"),
    (lambda v, f: (v * 0, f), "lie in one point"),
    (lambda v, f: (v, np.stack([f[:, 0], f[:, 0], f[:, 1]], 1)), "no area")])
def test_what_no_repair_helps_is_refused(shape, change, said):
    with pytest.raises(BadInput, match=said):
        mend(*change(*shape))
