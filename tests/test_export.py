from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import trimesh
from mesh_helpers import Notes, ball

from engine.artifacts import Mesh, TexturedMesh
from engine.export.glb import glb_bytes, pack, unpack
from engine.export.heights import kind_in, usual_height_m
from engine.export.obj import write_obj
from engine.export.ply import write_ply
from engine.export.viewer import write_report_html
from engine.space import Frame
from engine.stages.export_mesh import ExportMesh, export_mesh, source_coordinates
from engine.stages.texture_mesh import TextureMesh, texture_of


@pytest.fixture(scope="module")
def mesh() -> TexturedMesh:
    vertices, faces = ball(16)
    return texture_of(Mesh(vertices * np.float32([1, 0.5, 1]), faces), lambda p: (p + 1) / 2, None,
                      TextureMesh(texture_size=64), Notes())


def read(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    document, binary = unpack(data)
    primitive = document["meshes"][0]["primitives"][0]
    kinds = {5126: "<f4", 5125: "<u4", 5123: "<u2"}
    arrays = {}
    for name, index in {**primitive["attributes"], "indices": primitive["indices"]}.items():
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        array = np.frombuffer(binary, kinds[accessor["componentType"]], accessor["count"] * width, view["byteOffset"])
        arrays[name] = array.reshape(-1, width)
        assert view["byteOffset"] % 4 == 0 and view["target"] == (34963 if name == "indices" else 34962)
        if "min" in accessor:
            assert accessor["min"] == arrays[name].min(0).tolist() and accessor["max"] == arrays[name].max(0).tolist()
    return document, arrays


def test_glb_says_what_it_was_given(mesh):
    data = glb_bytes(mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, mesh.base_color, 0.0, 0.7, "cup", {"seed": 7})
    document, arrays = read(data)
    assert np.array_equal(arrays["POSITION"], mesh.vertices) and np.array_equal(arrays["TEXCOORD_0"], mesh.uvs)
    assert np.array_equal(arrays["indices"].reshape(-1, 3), mesh.faces)
    assert np.allclose(arrays["NORMAL"], mesh.normals, atol=1e-6)
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0.0 and material["roughnessFactor"] == 0.7
    assert document["asset"]["extras"] == {"seed": 7} and document["asset"]["generator"] == "Maquette"
    assert "scale" not in document["nodes"][0] and "matrix" not in document["nodes"][0]


def test_trimesh_reads_the_glb_as_closed(mesh, tmp_path):
    path = tmp_path / "a.glb"
    path.write_bytes(glb_bytes(mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, mesh.base_color, 0.25, 0.5))
    loaded = trimesh.load(path, force="mesh")
    assert len(loaded.faces) == len(mesh.faces)
    assert (loaded.visual.material.metallicFactor, loaded.visual.material.roughnessFactor) == (0.25, 0.5)
    picture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"), dtype=float) / 255
    assert np.abs(picture - mesh.base_color).max() <= 0.5 / 255 + 1e-6
    welded = trimesh.Trimesh(loaded.vertices, loaded.faces)
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    assert welded.is_watertight and welded.is_winding_consistent and welded.volume > 0


def test_many_vertices_take_wide_indices():
    count = 65536
    points = np.random.default_rng(0).random((count, 3)).astype(np.float32)
    faces = np.stack([np.arange(count - 2), np.arange(1, count - 1), np.arange(2, count)], -1)
    _, arrays = read(glb_bytes(points, faces, points, points[:, :2], np.zeros((2, 2, 3)), 0, 1))
    assert arrays["indices"].dtype == np.dtype("<u4") and int(arrays["indices"].max()) == 65535
    _, arrays = read(glb_bytes(points[:-1], faces[:-1], points[:-1], points[:-1, :2], np.zeros((2, 2, 3)), 0, 1))
    assert arrays["indices"].dtype == np.dtype("<u2")


def test_bad_meshes_and_bad_files_are_refused(mesh):
    good = {"vertices": mesh.vertices, "faces": mesh.faces, "normals": mesh.normals, "uvs": mesh.uvs,
            "base_color": mesh.base_color, "metallic": 0.0, "roughness": 1.0}
    with pytest.raises(ValueError, match="without triangles"):
        glb_bytes(**{**good, "faces": mesh.faces[:0]})
    with pytest.raises(ValueError, match="names a vertex"):
        glb_bytes(**{**good, "faces": mesh.faces + len(mesh.vertices)})
    with pytest.raises(ValueError, match="vertices hold values that are not finite"):
        glb_bytes(**{**good, "vertices": mesh.vertices * np.float32(np.nan)})
    whole = pack({"asset": {"version": "2.0"}}, b"12345")
    assert unpack(whole) == ({"asset": {"version": "2.0"}}, b"12345\0\0\0")
    for broken in (whole[:10], whole[:-4], b"abcd" + whole[4:],
                   whole[:12] + struct.pack("<I", 10 ** 6) + whole[16:]):
        with pytest.raises(ValueError):
            unpack(broken)


def test_exported_assets_stand_on_the_origin_in_metres(mesh, tmp_path):
    job = Notes()
    files = export_mesh(mesh, ExportMesh(name="cup", height_m=0.3, formats=("glb", "obj", "ply")), job)
    assert set(files.roles) == {"cup.glb", "cup.obj", "cup.mtl", "cup.png", "cup.ply"}
    assert files.roles["cup.glb"] == "mesh" and files.roles["cup.png"] == "texture"
    _, arrays = read((files.folder / "cup.glb").read_bytes())
    low, high = arrays["POSITION"].min(0), arrays["POSITION"].max(0)
    assert np.allclose([low[1], high[1], low[0] + high[0], low[2] + high[2]], [0, 0.3, 0, 0], atol=1e-5)
    assert job.metrics["height_m"] == pytest.approx(0.3) and job.metrics["width_m"] == pytest.approx(0.6, rel=0.01)
    files.save(tmp_path)
    folder = files.folder
    del files
    assert not folder.exists() and (tmp_path / "cup.glb").stat().st_size > 1000
    mug = export_mesh(mesh, ExportMesh(kind="mug"), Notes())
    assert mug.meta["height_m"] == pytest.approx(usual_height_m("mug")) and usual_height_m("mug") == 0.1
    assert usual_height_m(None) == usual_height_m("gizmo") == 1.0


def test_kept_coordinates_are_the_frames_inverse():
    field = np.random.default_rng(0).random((5, 3))
    frame = Frame(2.0, (1.0, 2.0, 3.0), "z")
    source, normals = source_coordinates(field, field, frame)
    # Undo by hand: z-up (x, y, z) stood as (x, z, -y), and world = field * 2 + offset.
    turned = np.stack([source[:, 0], source[:, 2], -source[:, 1]], -1)
    assert np.allclose((turned - [1, 2, 3]) / 2, field, atol=1e-6)
    assert np.allclose(np.stack([normals[:, 0], normals[:, 2], -normals[:, 1]], -1), field, atol=1e-6)


def test_kinds_in_prompts():
    assert [kind_in(t) for t in ("a red car", "a mug made of wood", "a table lamp", "a lamp on a table", "a zorg")] == [
        "car", "mug", "lamp", "lamp", None]


def test_obj_and_ply_read_back(mesh, tmp_path):
    write_obj(tmp_path / "a.obj", mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, mesh.base_color)
    loaded = trimesh.load(tmp_path / "a.obj", process=False, maintain_order=True)
    assert np.allclose(loaded.triangles, mesh.vertices[mesh.faces], atol=1e-5)
    assert np.allclose(loaded.visual.uv[loaded.faces][..., 1], 1 - mesh.uvs[mesh.faces][..., 1], atol=1e-5)
    assert "Tr" not in (tmp_path / "a.mtl").read_text()
    write_ply(tmp_path / "a.ply", mesh.vertices, mesh.faces, mesh.normals, (mesh.normals + 1) / 2)
    loaded = trimesh.load(tmp_path / "a.ply", process=False)
    assert np.allclose(loaded.vertices, mesh.vertices) and np.array_equal(loaded.faces, mesh.faces)
    assert np.abs(loaded.visual.vertex_colors[:, :3] - (mesh.normals + 1) / 2 * 255).max() <= 0.51


def test_report_page_holds_the_mesh_and_no_foreign_markup(mesh, tmp_path):
    data = glb_bytes(mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, mesh.base_color, 0, 1)
    (tmp_path / "asset.glb").write_bytes(data)
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "000.png").write_bytes(b"")
    evil = "</script><script>alert(1)</script>&<img src=x onerror=alert(1)>\u2028"
    report = {"schema": 1, "asset": evil, "pipeline": "text_to_mesh", "quality": "draft", "seed": 1, "models": [],
              "stages": [], "metrics": [{"name": evil, "value": None, "unit": evil, "against": ""}], "gates": [],
              "files": [{"path": "../../etc/passwd.glb", "role": "mesh", "sha256": ""}], "warnings": [evil]}
    write_report_html(tmp_path, report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "alert(1)</" not in page and "onerror=alert(1)>" not in page
    held = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert held["report"] == report and held["views"][0]["path"] == "views/000.png"
    import base64
    assert base64.b64decode(held["glb"]) == data
    assert "http" not in page.replace("http-equiv", ""), "the page must not need the network"
