"""finish_mesh from end to end on small shapes, and its parts with known answers: colliders, light maps, symmetry."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import trimesh
from mesh_helpers import Notes, ball
from pydantic import ValidationError

from engine.artifacts import Mesh, TexturedMesh
from engine.errors import BadInput
from engine.meshes import colliders as shapes
from engine.meshes import symmetry
from engine.meshes.asset import GameAsset
from engine.meshes.finish import ground, lack_of_uvs
from engine.meshes.lightmap import charts_of, moved, packed_again
from engine.meshes.measure import topology, volume
from engine.meshes.mend import mend, welded
from engine.meshes.tangents import corner_tangents
from engine.meshes.textures import bytes_of, glow, resized, size_for
from engine.meshes.unwrap import uv_figures
from engine.stages.finish_mesh import FinishMesh, finish_mesh
from engine.stages.texture_mesh import TextureMesh, texture_of

SMALL = {"texture_size": 128, "occlusion_rays": 16}


def halves(points: np.ndarray) -> np.ndarray:
    return np.where(points[:, :1] > 0, [0.8, 0.2, 0.2], [0.2, 0.2, 0.8]).astype(np.float32)


@pytest.fixture(scope="module")
def textured() -> TexturedMesh:
    vertices, faces = ball(18)
    vertices = vertices * np.float32([1, 1.2, 0.8])
    return texture_of(Mesh(vertices, faces), halves, None, TextureMesh(texture_size=128, material="gold"), Notes())


@pytest.fixture(scope="module")
def finished(textured: TexturedMesh) -> tuple[GameAsset, Notes]:
    job = Notes()
    p = FinishMesh(**SMALL, triangles=1200, height_m=2.0, lightmap=True, lightmap_size=128, lightmap_padding=2,
                   papers={"seed": 3})
    return finish_mesh(textured, p, job), job


def test_levels_stand_in_metres_closed_and_share_the_first_one_s_texture(finished):
    asset, job = finished
    counts = [lod.triangles for lod in asset.lods]
    assert [round(c / 1200, 1) for c in counts] == [1.0, 0.5, 0.2, 0.1] and counts[0] <= 1200
    sizes = [lod.screen_size for lod in asset.lods]
    assert sizes[0] == 1 and all(a > b > 0 for a, b in pairwise(sizes))
    first = asset.lods[0]
    low, high = first.vertices.min(0), first.vertices.max(0)
    np.testing.assert_allclose([high[1] - low[1], low[1], (low[0] + high[0]) / 2, asset.height_m], [2, 0, 0, 2],
                               atol=5e-3)
    for lod in asset.lods:
        place = welded(lod.vertices)[0]
        found = topology(place[lod.faces])
        assert found.watertight and found.manifold and found.components == 1
        assert volume(lod.vertices, lod.faces) == pytest.approx(volume(first.vertices, first.faces), rel=0.06)
        assert lod.faces.dtype == np.int32 and lod.vertices.dtype == lod.tangents.dtype == np.float32
        assert lod.uvs.min() >= 0 and lod.uvs.max() <= 1
        np.testing.assert_allclose(np.linalg.norm(lod.normals, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(corner_tangents(lod.vertices, lod.faces, lod.normals, lod.uvs),
                                   lod.tangents[lod.faces], atol=1e-4)
    shared = [lod for lod in asset.lods[1:] if lod.base_color is None]
    assert len(shared) >= 2 and all(lod.normal is not None and lod.orm is None for lod in shared)
    assert job.metrics["lod3_error"] < 0.05 and asset.papers == {"seed": 3}


def test_materials_words_and_the_bytes_of_all_pictures(finished, textured):
    asset, _ = finished
    m = asset.material
    assert m.base_color.shape == m.orm.shape == (128, 128, 3) and m.emissive is None
    assert (m.orm[..., 2] == 1).all() and m.orm[0, 0, 1] == pytest.approx(0.3, abs=1 / 255)  # gold, from texture_mesh
    assert m.flat_metallic == 1 and m.flat_roughness == pytest.approx(0.3, abs=1 / 255)
    assert m.orm[..., 0].mean() > 0.97  # a ball hides nothing from the sky
    for picture in (m.base_color, m.orm, *(lod.normal for lod in asset.lods[1:])):
        np.testing.assert_array_equal(picture, bytes_of(picture))
    wood = finish_mesh(textured, FinishMesh(**SMALL, material="wood", roughness=0.5, lods=(1.0,), colliders="none"),
                       Notes())
    assert wood.material.flat_metallic == 0 and wood.material.flat_roughness == pytest.approx(0.5, abs=1 / 255)
    assert len(wood.lods) == 1 and wood.colliders == ()


def test_a_second_uv_set_without_overlaps_that_levels_follow(finished):
    asset, job = finished
    for lod in asset.lods:
        assert lod.lightmap_uvs is not None and lod.lightmap_uvs.shape == lod.uvs.shape
        figures = uv_figures(lod.vertices, lod.faces, lod.lightmap_uvs, 128)
        assert figures.overlap < 5e-3 and figures.used > 0.2 and figures.stretch < 3
    assert job.metrics["lightmap_overlap"] < 1e-3


def test_it_comes_back_from_its_folder_as_it_was(finished, tmp_path):
    asset, _ = finished
    asset.save(tmp_path)
    again = GameAsset.load(tmp_path)
    for a, b in zip(asset.lods, again.lods, strict=True):
        for name in ("vertices", "faces", "normals", "uvs", "tangents", "lightmap_uvs", "normal", "base_color", "orm"):
            one, two = getattr(a, name), getattr(b, name)
            assert (one is None) == (two is None) and (one is None or np.array_equal(one, two)), name
        assert (a.ratio, a.screen_size) == (b.ratio, b.screen_size)
    assert np.array_equal(asset.material.base_color, again.material.base_color)
    none = {"base_color": 0, "orm": 0, "normal": 0}
    assert replace(asset.material, **none) == replace(again.material, **none)
    assert again.colliders[0].parameters == asset.colliders[0].parameters and again.meta == dict(asset.meta)
    (tmp_path / "asset.json").unlink()  # what comes last is missing: not finished
    with pytest.raises(BadInput, match="no finished asset"):
        GameAsset.load(tmp_path)
    (tmp_path / "asset.json").write_text('{"format": 99}')
    with pytest.raises(BadInput, match="has format 99"):
        GameAsset.load(tmp_path)
    (tmp_path / "asset.json").write_text('{"format": 1}')
    with pytest.raises(BadInput, match="is damaged"):
        GameAsset.load(tmp_path)


def test_a_texture_that_cannot_be_kept_is_made_anew_with_its_colours(textured):
    broken = replace(textured, faces=np.delete(textured.faces, [5, 6, 7], 0))
    job = Notes()
    asset = finish_mesh(broken, FinishMesh(**SMALL, triangles=600, lods=(1.0, 0.5)), job)
    assert any("holes were closed" in w for w in job.warnings) and any("made anew" in w for w in job.warnings)
    first = asset.lods[0]
    assert topology(welded(first.vertices)[0][first.faces]).watertight and asset.material.normal is not None
    row, column = (first.uvs[:, ::-1] * 128).astype(int).clip(0, 127).T
    off = np.abs(first.vertices[:, 0]) > 0.08
    red = asset.material.base_color[row, column, 0] > 0.5
    assert (red[off] == (first.vertices[off, 0] > 0)).mean() > 0.98
    with pytest.raises(BadInput, match="cannot be kept: holes were filled"):
        finish_mesh(broken, FinishMesh(**SMALL, uvs="keep"), Notes())


def test_levels_by_the_screen_and_a_shared_normal_map(textured):
    p = FinishMesh(**SMALL, lods=(1.0, 0.3, 0.1), lods_by="screen", lod_normals="shared", colliders="none")
    asset = finish_mesh(textured, p, Notes())
    assert [lod.screen_size for lod in asset.lods] == [1.0, 0.3, 0.1]
    assert asset.lods[0].triangles > asset.lods[1].triangles > asset.lods[2].triangles
    assert all(lod.normal is None for lod in asset.lods if lod.base_color is None)


@pytest.mark.parametrize("wrong", [{"lods": (1.0, 1.0)}, {"lods": (0.5,)}, {"texture_size": 300}, {"material": "jelly"},
                                   {"texture_size": 8192}, {"name": "../x"}, {"lods": (1.0, 0.5, 0.0)}])
def test_wrong_wishes_are_refused(wrong):
    with pytest.raises(ValidationError):
        FinishMesh(**wrong)


@pytest.mark.parametrize(("change", "said"), [
    ({"uvs": np.zeros((3, 2), np.float32)}, "has no UVs"), ({"faces": np.zeros((0, 3), np.int32)}, "has no faces")])
def test_bad_meshes_are_refused_in_one_line(textured, change, said):
    with pytest.raises(BadInput, match=said):
        finish_mesh(replace(textured, **change), FinishMesh(**SMALL), Notes())


# -- colliders ---------------------------------------------------------------------------------------------------------

def closed(solid) -> bool:
    return topology(solid.faces).watertight and volume(solid.vertices, solid.faces) > 0


def test_a_crate_is_a_box_and_a_pill_a_capsule():
    crate = trimesh.creation.box((1, 2, 0.5))
    (box,), figures, _ = shapes.colliders(crate.vertices, crate.faces)
    assert box.kind == "box" and box.parameters == {"centre": [0, 0, 0], "size": [1, 2, 0.5]} and closed(box)
    assert figures["solid_volume"] == pytest.approx(1.0, rel=0.03) and figures["collider_iou"] > 0.99
    pill = trimesh.creation.capsule(height=1.0, radius=0.3)  # along z
    (capsule,), figures, _ = shapes.colliders(pill.vertices, pill.faces)
    assert capsule.kind == "capsule" and capsule.parameters["axis"] == "z" and closed(capsule)
    assert capsule.parameters["radius"] == pytest.approx(0.3, rel=0.01)
    assert capsule.parameters["height"] == pytest.approx(1.6, rel=0.01)
    assert volume(capsule.vertices, capsule.faces) == pytest.approx(np.pi * 0.09 * (1 + 0.4), rel=0.1)
    ball_, *_ = shapes.colliders(*ball(16), "capsule")[0]
    assert ball_.parameters["height"] == pytest.approx(1.4, rel=0.03)  # no longer than it is wide


def test_a_cone_is_one_hull_and_what_is_flat_gets_thickness():
    cone = trimesh.creation.cone(0.5, 1.0)
    (hull,), figures, warning = shapes.colliders(cone.vertices, cone.faces)
    assert hull.kind == "hull" and closed(hull) and figures["collider_iou"] > 0.97 and not warning
    flat = shapes.hull_collider(np.float32([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]]))
    assert closed(flat) and 0 < volume(flat.vertices, flat.faces) < 0.01


def table() -> tuple[trimesh.Trimesh, float]:
    """A top and four legs that touch it: five convex parts of a known volume."""
    parts = [trimesh.creation.box((1.6, 0.1, 1.0))]
    for x in (-0.7, 0.7):
        for z in (-0.4, 0.4):
            leg = trimesh.creation.box((0.12, 0.8, 0.12))
            leg.apply_translation((x, -0.45, z))
            parts.append(leg)
    return trimesh.util.concatenate(parts), 1.6 * 0.1 + 4 * 0.12 * 0.8 * 0.12


def test_a_table_comes_apart_into_few_hulls_of_its_own_volume():
    pytest.importorskip("coacd", reason="coacd is not installed")
    mesh, truth = table()
    solids, figures, _ = shapes.colliders(mesh.vertices, mesh.faces)
    assert 5 <= len(solids) <= 16 and all(s.kind == "hull" and closed(s) for s in solids)
    assert figures["collider_volume"] == pytest.approx(truth, rel=0.1)
    assert all(len(s.vertices) <= shapes.CORNERS for s in solids)


def test_without_coacd_one_hull_stands_in_and_says_so(monkeypatch):
    monkeypatch.setattr(shapes, "has_coacd", lambda: False)
    mesh, _ = table()
    (hull,), _, warning = shapes.colliders(mesh.vertices, mesh.faces)
    assert hull.kind == "hull" and "CoACD is not installed" in warning
    with pytest.raises(BadInput, match="convex hulls need CoACD"):
        shapes.colliders(mesh.vertices, mesh.faces, "hulls")


# -- light maps, symmetry, textures ------------------------------------------------------------------------------------

def test_charts_are_packed_apart_at_one_density():
    """Two squares, one drawn twice as dense: after packing both have the same density and keep their distance."""
    square = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    vertices = np.r_[square, square + np.float32([0, 0, 1])]
    faces = np.int32([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    uvs = np.r_[square[:, :2] * 0.3, square[:, :2] * 0.6 + np.float32(0.35)].astype(np.float32)
    chart = charts_of(faces, uvs, np.arange(8))
    assert chart.tolist() == [0] * 4 + [1] * 4
    moves = packed_again(vertices, faces, uvs, chart, 64, 3)
    assert moves is not None
    made = moved(uvs, chart, moves) * 64
    side = [np.linalg.norm(made[1 + k] - made[k]) for k in (0, 4)]
    assert side[0] == pytest.approx(side[1], rel=0.02) and side[0] > 20
    gap = np.max([made[4:].min(0) - made[:4].max(0), made[:4].min(0) - made[4:].max(0)])
    assert gap >= 2.0  # pixels
    twice = np.r_[faces, faces[:, ::-1]]
    assert packed_again(vertices, twice, uvs, chart, 64, 3) is None  # a chart that lies on itself


def test_the_mirror_plane_of_a_turned_box_is_found_and_its_error_measured():
    mesh = trimesh.creation.box((1.4, 0.8, 0.5)).subdivide().subdivide()
    turn = trimesh.transformations.rotation_matrix(np.radians(7), (0, 1, 0))
    mesh.apply_transform(turn)
    plane = symmetry.found(mesh.vertices, mesh.faces)
    assert plane.error < 2e-3 and max(abs(plane.normal @ turn[:3, 0]), abs(plane.normal @ turn[:3, 2])) > 0.9999
    skew = symmetry.measured(mesh.vertices, mesh.faces, np.array([1.0, 1.0, 0.0]))
    assert skew.error > 0.02


def test_a_lopsided_mesh_becomes_its_own_mirror_image(textured):
    bent = replace(textured, vertices=(textured.vertices * np.where(textured.vertices[:, :1] > 0, [1.3, 1, 1], 1)
                                       ).astype(np.float32))
    job = Notes()
    asset = finish_mesh(bent, FinishMesh(**SMALL, triangles=5000, symmetry="x", lods=(1.0,), colliders="none"), job)
    assert job.metrics["asymmetry"] > 0.005
    v = asset.lods[0].vertices
    place = welded(v)[0]
    found = topology(place[asset.lods[0].faces])
    assert found.watertight and found.manifold
    mirrored = symmetry.measured(v, asset.lods[0].faces, np.eye(3)[0], 0.0)
    assert mirrored.error < 5e-4


def test_halves_of_a_cut_mesh_meet_on_the_plane():
    vertices, faces = ball(12)
    plane = symmetry.Plane(np.array([0.6, 0.0, 0.8]), 0.1, 0.0)
    points, corners, _ = symmetry.symmetric(vertices, faces, vertices[:, :2], plane)
    made = mend(points, corners, repair=False)
    assert topology(made.place).watertight
    image = symmetry.mirrored(made.points.astype(float), plane)
    from scipy.spatial import cKDTree
    assert cKDTree(made.points).query(image)[0].max() < 1e-6


def test_sizes_follow_the_density_and_glowing_parts_are_found():
    assert [size_for(512, s, 0.5) for s in (0.01, 0.5, 2.0, 1e4)] == [512, 512, 1024, 4096]
    base = np.zeros((8, 8, 3), np.float32)
    base[:4] = [0.98, 0.86, 0.2]
    lit = glow(base, "yellow")
    assert (lit[:4] == base[:4]).all() and not lit[4:].any()
    with pytest.raises(BadInput, match="no colour that can glow"):
        glow(base, "loud")
    half = resized(np.stack([np.zeros((4, 4)), np.ones((4, 4)), np.full((4, 4), 0.5)], -1).astype(np.float32), 8)
    np.testing.assert_allclose(half, np.broadcast_to([0, 1, 0.5], (8, 8, 3)), atol=1e-6)


def test_why_a_texture_cannot_be_kept(textured):
    base = ground(textured, mend(textured.vertices, textured.faces), 50.0, True)
    assert lack_of_uvs(base) == ""
    base.uvs = base.uvs * 0.5 + 0.7
    assert "leave the texture" in lack_of_uvs(base)
    base.uvs = base.uvs * 0 + 0.5
    assert "almost nothing" in lack_of_uvs(base)


@pytest.mark.slow
def test_quadrilaterals_where_the_library_is():
    pytest.importorskip("pynanoinstantmeshes", reason="pynanoinstantmeshes is not installed")
    from engine.meshes.quads import halves as cut
    from engine.meshes.quads import quad_mesh
    points, quads = quad_mesh(*ball(20), 400)
    assert quads.shape[1] == 4 and 200 < len(quads) < 800
    faces = cut(points, quads)
    assert len(faces) == 2 * len(quads) and topology(faces).manifold
    assert abs(volume(points, faces)) == pytest.approx(volume(*ball(20)), rel=0.05)
