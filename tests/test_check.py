"""``check_file``: what it says of sound and unsound files, by profile, and what it never does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import small_asset, tube
from test_foreign import OBJ

from engine.check import khronos
from engine.check.files import check_file
from engine.check.report import CheckReport
from engine.check.surface import surface_figures, uv_set
from engine.errors import BadInput
from engine.export.bundle import place, profile_files
from engine.export.glb import pack, unpack
from engine.export.gltf import Content, glb, gltf_file
from engine.export.pictures import Pictures
from engine.export.profiles import profile
from engine.meshes.asset import Collider, GameAsset, Lod


def codes(report: CheckReport, *severities: str) -> set[str]:
    return {one.code for one in report.findings if one.severity in severities}


def saved(path: Path, asset: GameAsset, colliders: tuple[tuple[str, Collider], ...] = (), name: str = "Mug") -> Path:
    path.write_bytes(glb(gltf_file(asset, Content(name, [(name, asset.lods[0])], colliders), Pictures())))
    return path


def test_a_sound_file_has_no_errors_and_its_figures_are_exact(tmp_path: Path) -> None:
    place(profile_files(small_asset(size=512), profile("unity"), ("glb",)), tmp_path)
    report = check_file(tmp_path / "Mug.glb", "unity", tools=False)
    assert report.findings == [] and report.exit_code(strict=True) == 0
    figures = report.figures
    assert (figures["triangles"], figures["vertices"], figures["lods"]) == (576, 363, 4)
    assert (figures["lod1_triangles"], figures["lod2_triangles"], figures["lod3_triangles"]) == (160, 48, 16)
    assert figures["height_m"] == 1.0 and figures["width_m"] == pytest.approx(0.6)
    assert figures["watertight"] and figures["manifold"] and figures["components"] == 1 and figures["open_edges"] == 0
    assert figures["textures"] == 4 and figures["largest_texture"] == 512 and figures["materials"] == 1
    assert figures["uv_overlap"] == 0 and figures["uv2_overlap"] == 0 and figures["licences"] == "Apache-2.0"
    # Around the tube 2 pi 0.3 m (a 32-gon's 1.8820 m) take 0.98 of 512 texels, along it 1 m takes 0.48 of them: the
    # density is the root of the two.
    assert figures["texels_per_m"] == pytest.approx(512 * np.sqrt(0.98 * 0.48 / 1.8820), rel=0.01)
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["passed"] and told["counts"] == {"error": 0, "warning": 0, "hint": 0, "info": 0} and told["schema"] == 1


def test_holes_flips_and_crowds_are_counted(tmp_path: Path) -> None:
    asset = small_asset(levels=1, colliders=0, lightmap=False, size=512)
    lod = asset.lods[0]
    many = np.concatenate([lod.faces[:-3], lod.faces[:1]])  # a hole of three triangles, and one triangle twice
    many[10] = many[10][::-1]
    broken = GameAsset("Mug", (Lod(lod.vertices, many, lod.normals, lod.uvs, lod.tangents),), asset.material, (), 1.0,
                       asset.papers)
    report = check_file(saved(tmp_path / "a.glb", broken), tools=False)
    assert {"open_edges"} <= codes(report, "hint") and {"not_manifold", "flipped"} <= codes(report, "warning")
    assert report.figures["open_edges"] == 5 and report.figures["crowded_edges"] == 3
    assert report.exit_code() == 0 and report.exit_code(strict=True) == 1
    assert "open_edges" in codes(check_file(tmp_path / "a.glb", "print", tools=False), "warning")
    inward = GameAsset("Mug", (Lod(lod.vertices, lod.faces[:, ::-1], lod.normals, lod.uvs, lod.tangents),),
                       asset.material, (), 1.0, asset.papers)
    assert "inside_out" in codes(check_file(saved(tmp_path / "b.glb", inward), tools=False), "warning")


def test_uvs_that_overlap_or_leave_their_picture(tmp_path: Path) -> None:
    asset = small_asset(levels=1, colliders=0, size=512)
    lod = asset.lods[0]
    mirrored = lod.uvs.copy()
    mirrored[:, 0] = 0.5 - np.abs(mirrored[:, 0] - 0.5)  # both halves of everything on one
    for uvs, second, code, figure in ((mirrored, lod.lightmap_uvs, "uv_overlap", "uv_overlap"),
                                      (lod.uvs, mirrored, "lightmap_overlap", "uv2_overlap")):
        level = Lod(lod.vertices, lod.faces, lod.normals, uvs, lod.tangents, second)
        shown = GameAsset("Mug", (level,), asset.material)
        report = check_file(saved(tmp_path / "a.glb", shown), tools=False)
        assert code in codes(report, "warning") and 0.3 < report.figures[figure] <= 1
    tiled = GameAsset("Mug", (Lod(lod.vertices, lod.faces, lod.normals, lod.uvs * 3, lod.tangents),), asset.material)
    assert "uv_outside" in codes(check_file(saved(tmp_path / "b.glb", tiled), tools=False), "hint")
    none = GameAsset("Mug", (Lod(lod.vertices, lod.faces, lod.normals, lod.uvs * 0, lod.tangents),), asset.material)
    assert "uv_flat" in codes(check_file(saved(tmp_path / "c.glb", none), tools=False), "warning")


def test_budgets_are_the_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from engine.export import profiles
    path = saved(tmp_path / "a.glb", small_asset(levels=1, colliders=0, size=512))
    tight = replace(profile("web"), triangles=500, vertices=300, texture=256, bytes=1000)
    monkeypatch.setitem(profiles.PROFILES, "web", tight)
    budgets = {"budget_triangles", "budget_vertices", "budget_largest_texture", "budget_bytes"}
    assert budgets <= codes(check_file(path, "web", tools=False), "warning")
    assert not budgets & codes(check_file(path, "unity", tools=False), "warning")
    odd = small_asset(levels=1, colliders=0, size=100)
    assert "texture_size" in codes(check_file(saved(tmp_path / "b.glb", odd), tools=False), "warning")


def test_names_go_by_the_engine(tmp_path: Path) -> None:
    asset = small_asset(levels=1, size=512)
    hull = asset.colliders[0]
    unreal = saved(tmp_path / "a.glb", asset, (("UCX_Mug_00", hull),))
    godot = saved(tmp_path / "b.glb", asset, (("Mug-convcolonly", hull),))
    lost = saved(tmp_path / "c.glb", asset, (("UCX_Cup_00", hull),))
    assert codes(check_file(unreal, "unreal", tools=False), "warning") == set()
    assert codes(check_file(godot, "godot", tools=False), "warning") == set()
    assert "foreign_collider" in codes(check_file(unreal, "godot", tools=False), "warning")
    assert "foreign_collider" in codes(check_file(godot, "unreal", tools=False), "warning")
    assert "lost_collider" in codes(check_file(lost, "unreal", tools=False), "warning")
    twice = saved(tmp_path / "d.glb", asset, (("Müg", hull), ("Müg", hull)))
    assert {"repeated_name", "strange_name"} <= codes(check_file(twice, tools=False), "hint")


def test_colliders_are_closed_and_convex(tmp_path: Path) -> None:
    asset = small_asset(levels=1, size=512)
    solid = asset.colliders[0]
    opened = Collider("hull", solid.vertices, solid.faces[:-1])
    dented = solid.vertices.copy()
    dented[0] += [0.2, 0.1, 0.2]
    for collider, words in ((opened, "not closed"), (Collider("hull", dented, solid.faces), "not convex")):
        report = check_file(saved(tmp_path / "a.glb", asset, (("UCX_Mug_00", collider),)), tools=False)
        assert [one.text for one in report.findings if one.code == "bad_collider"] == [
            f"collider 'UCX_Mug_00' is {words}"]


def test_size_and_levels_and_licences(tmp_path: Path) -> None:
    asset = small_asset(levels=1, colliders=0, size=512)
    lod = asset.lods[0]
    for factor in (1e-3, 1e4):
        level = Lod(lod.vertices * np.float32(factor), lod.faces, lod.normals, lod.uvs, lod.tangents)
        giant = GameAsset("Mug", (level,), asset.material)
        report = check_file(saved(tmp_path / "a.glb", giant), tools=False)
        assert "scale" in codes(report, "warning") and "no_licence" in codes(report, "hint")
    bad = {**asset.papers, "licences": [{"role": "a", "model": "sd3", "licence": "other", "commercial": "no"}]}
    closed = GameAsset("Mug", asset.lods, asset.material, (), 1.0, bad)
    told = check_file(saved(tmp_path / "b.glb", closed), tools=False)
    assert [one.text for one in told.findings if one.code == "licence"] == [
        "it was made with sd3 (other): commercial use: no"]
    wrong = small_asset(size=512)
    path = tmp_path / "c.glb"
    levels = [("Mug_LOD0", wrong.lods[1]), ("Mug_LOD1", wrong.lods[0])]
    path.write_bytes(glb(gltf_file(wrong, Content("Mug", levels), Pictures())))
    assert "lod_order" in codes(check_file(path, tools=False), "warning")


def test_other_kinds_of_file(tmp_path: Path) -> None:
    place(profile_files(small_asset(size=512), profile("godot"), ("obj", "ply")), tmp_path)
    report = check_file(tmp_path / "Mug.obj", tools=False)
    assert codes(report, "error", "warning") == set() and report.figures["triangles"] == 576
    assert report.figures["watertight"] and report.figures["textures"] == 5 and report.figures["uv_overlap"] == 0
    assert check_file(tmp_path / "Mug.ply", tools=False).figures["triangles"] == 576
    place(profile_files(small_asset(), profile("print"), ("stl",)), tmp_path / "print")
    report = check_file(tmp_path / "print" / "Mug.stl", "print", tools=False)
    assert report.figures["height_m"] == pytest.approx(1.0) and report.figures["depth_m"] == pytest.approx(0.6)
    assert report.exit_code(strict=True) == 0 and "no_units" in codes(report, "info")
    (tmp_path / "x.obj").write_text(OBJ, encoding="ascii")
    assert "missing_file" in codes(check_file(tmp_path / "x.obj", tools=False), "warning")
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "no.glb", "no file"),
                        (tmp_path / "Mug.mtl", "cannot be")):
        with pytest.raises(BadInput, match=words):
            check_file(path)
    with pytest.raises(BadInput, match="unknown export profile"):
        check_file(tmp_path / "Mug.obj", "unitty")


def test_usd_files(tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="usd-core is not installed")
    from pxr import Sdf, Usd, UsdGeom
    place(profile_files(small_asset(size=512), profile("blender"), ("usdc", "usdz")), tmp_path)
    for name in ("Mug.usdc", "Mug.usdz"):
        report = check_file(tmp_path / name)
        assert codes(report, "error", "warning") == set(), report.findings
        assert report.figures["triangles"] == 576 and report.figures["lods"] == 4 and report.figures["colliders"] == 2
        assert report.figures["watertight"] and report.figures["uv_overlap"] == 0
        assert "validators" in report.tools["usd"]
        assert report.figures["licences"] == "Apache-2.0" and report.figures["largest_texture"] == 512
    stage = Usd.Stage.CreateNew(str(tmp_path / "bad.usda"))
    mesh = UsdGeom.Mesh.Define(stage, "/Thing")
    mesh.CreatePointsAttr([(0, 0, 0), (1, 0, 0), (0, 1, 0)])
    mesh.CreateFaceVertexCountsAttr([3])
    mesh.CreateFaceVertexIndicesAttr([0, 1, 7])
    stage.GetRootLayer().Save()
    report = check_file(tmp_path / "bad.usda")
    assert "index_out_of_range" in codes(report, "error") and "scale" in codes(report, "warning")
    assert len([one for one in report.findings if one.code not in ("index_out_of_range", "scale")]) > 2  # USD's own
    layer = Sdf.Layer.CreateNew(str(tmp_path / "out.usda"))
    layer.subLayerPaths.append("../other.usda")
    layer.Save()
    assert codes(check_file(Path(layer.realPath)), "error") == {"external_uri"}
    import zipfile
    with zipfile.ZipFile(tmp_path / "bomb.usdz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.usdc", bytes(10 ** 7))
    assert {"packed", "lying_length"} <= codes(check_file(tmp_path / "bomb.usdz"), "error")
    (tmp_path / "no.usdc").write_bytes(b"PXR-USDC" + bytes(100))
    assert codes(check_file(tmp_path / "no.usdc"), "error") == {"unreadable"}


def test_the_validators_lack_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.glb", small_asset(levels=1, colliders=0, size=512))
    monkeypatch.setattr(khronos.shutil, "which", lambda name: None)
    report = check_file(path)
    assert report.tools["khronos"].startswith("not run: Node is missing; install Node") and report.exit_code() == 0
    assert "no_validator" in codes(report, "info")


def test_its_words_become_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {"validatorVersion": "9", "info": {}, "issues": {"messages": [
        {"severity": 0, "code": "A", "message": "a", "pointer": "/x"}, {"severity": 1, "code": "B", "message": "b"},
        {"severity": 2, "code": "C", "message": "c"}, {"severity": 3, "code": "D", "message": "d"}]}}

    class Done:
        stdout = json.dumps(said)

    monkeypatch.setattr(khronos.shutil, "which", lambda name: "/usr/bin/node")
    monkeypatch.setattr(khronos, "node_modules", lambda package: tmp_path)
    monkeypatch.setattr(khronos.subprocess, "run", lambda *a, **k: Done())
    path = saved(tmp_path / "a.glb", small_asset(levels=1, colliders=0, size=512))
    report = check_file(path)
    assert [(one.severity, one.code) for one in report.findings if one.source == "khronos"] == [
        ("error", "A"), ("warning", "B"), ("info", "C"), ("hint", "D")]
    assert report.exit_code() == 1 and report.tools["khronos"] == "gltf-validator 9"


def test_no_hints_at_what_a_file_need_not_have(tmp_path: Path) -> None:
    asset = small_asset(levels=1, size=512)
    alone = GameAsset("Mug", asset.lods, asset.material, asset.colliders)
    for name, data in profile_files(alone, profile("unity"), ("glb",)).files.items():
        if name.endswith("_colliders.glb"):
            (tmp_path / "a.glb").write_bytes(data)
    report = check_file(tmp_path / "a.glb", tools=False)
    assert report.figures["colliders"] == 2 and not {"no_normals", "no_uvs"} & codes(report, "hint")
    (tmp_path / "c.stl").write_bytes(profile_files(asset, profile("print"), ("stl",)).files["Mug.stl"])
    report = check_file(tmp_path / "c.stl", tools=False)
    assert report.figures["height_m"] == pytest.approx(1.0) and not report.count("hint")


def test_texels_are_too_dense_only_where_no_screen_shows_them() -> None:
    square, faces = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]]), np.array([[0, 1, 2], [0, 2, 3]])
    for side, texture, said in ((0.1, 1024, False), (1.0, 8192, True), (1.0, 2048, False), (40.0, 2048, True)):
        report = CheckReport(Path("a.glb"), "glb", "")
        surface_figures(report, square * side, faces)
        uv_set(report, "uv", square * side, faces, square[:, :2], texture)
        assert report.figures["texels_per_m"] == pytest.approx(texture / side)
        assert ("texel_density" in codes(report, "hint")) == said, (side, texture)


def test_more_vertices_than_16_bits_count_are_said_by_export_and_check(tmp_path: Path) -> None:
    asset = small_asset(levels=1, colliders=0, size=512)
    lod = asset.lods[0]
    more = 65_536 - len(lod.vertices)
    for spare, said in ((more - 1, 0), (more, 1)):
        grown = [np.concatenate([rows, np.repeat(rows[-1:], spare, 0)]) for rows in
                 (lod.vertices, lod.normals, lod.uvs, lod.tangents)]
        large = GameAsset("Mug", (Lod(grown[0], lod.faces, *grown[1:]),), asset.material)
        for name in ("unity", "unreal", "godot", "web"):
            notes = profile_files(large, profile(name), ("gltf",), compression="none").notes
            assert sum("65,535" in text for text in notes) == said, name
        assert not profile_files(large, profile("blender"), ("gltf",)).notes
        report = check_file(saved(tmp_path / "a.glb", large), "unity", tools=False)
        assert ("budget_vertices" in codes(report, "warning")) == bool(said)


def test_a_node_that_scales_is_hinted_at(tmp_path: Path) -> None:
    document, binary = unpack(saved(tmp_path / "a.glb", small_asset(levels=1, colliders=0, size=512)).read_bytes())
    document["nodes"][0]["scale"] = [2, 2, 2]
    (tmp_path / "a.glb").write_bytes(pack(document, binary))
    report = check_file(tmp_path / "a.glb", tools=False)
    assert "node_scale" in codes(report, "hint") and report.figures["height_m"] == 2.0
    assert tube(8, 2).triangles == 48
