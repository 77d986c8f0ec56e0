"""Exports lose nothing: what is written is read back by other libraries, bit by bit where the format can."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh
from export_helpers import PAPERS, small_asset, tube
from PIL import Image

from engine.errors import BadInput
from engine.export.bundle import Bundle, contents, place, profile_files, standing
from engine.export.glb import unpack
from engine.export.gltf import Content, glb, gltf_file, separate
from engine.export.pictures import Pictures, mask_map, shrunk
from engine.export.profiles import PROFILES, formats_of, profile
from engine.export.stl import printed
from engine.meshes.asset import GameAsset
from engine.meshes.gltf_document import open_gltf
from engine.meshes.gltf_scene import read_scene
from engine.meshes.measure import topology, volume


@pytest.fixture(scope="module")
def asset() -> GameAsset:
    return small_asset()


def nodes_of(data: bytes) -> dict[str, list[str]]:
    """Node -> its children's names, of a GLB."""
    document, _ = unpack(data)
    names = [node["name"] for node in document["nodes"]]
    return {node["name"]: [names[child] for child in node.get("children", [])] for node in document["nodes"]}


def test_every_array_comes_back_from_pygltflib(asset: GameAsset, tmp_path: Path) -> None:
    pygltflib = pytest.importorskip("pygltflib", reason="pygltflib is not installed")
    levels = [(f"Mug_LOD{i}", lod) for i, lod in enumerate(asset.lods)]
    path = tmp_path / "a.glb"
    path.write_bytes(glb(gltf_file(asset, Content("Mug", levels, [("UCX_Mug_00", asset.colliders[0])]), Pictures())))
    held = pygltflib.GLTF2().load(str(path))
    blob = held.binary_blob()

    def array(index: int) -> np.ndarray:
        accessor = held.accessors[index]
        view = held.bufferViews[accessor.bufferView]
        kind = {5126: "<f4", 5125: "<u4", 5123: "<u2"}[accessor.componentType]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor.type]
        return np.frombuffer(blob, kind, accessor.count * width, view.byteOffset).reshape(-1, width)

    for (name, lod), mesh in zip(levels, held.meshes, strict=False):
        one = mesh.primitives[0]
        assert mesh.name == name
        assert np.array_equal(array(one.attributes.POSITION), lod.vertices)
        assert np.array_equal(array(one.attributes.TEXCOORD_0), lod.uvs)
        assert np.array_equal(array(one.attributes.TEXCOORD_1), lod.lightmap_uvs)
        assert np.abs(array(one.attributes.NORMAL) - lod.normals).max() < 1e-6
        assert np.abs(array(one.attributes.TANGENT) - lod.tangents).max() < 1e-6
        assert np.array_equal(array(one.indices).reshape(-1, 3), lod.faces)
        assert held.bufferViews[held.accessors[one.indices].bufferView].target == 34963
        assert held.bufferViews[held.accessors[one.attributes.TANGENT].bufferView].target == 34962
    material = held.materials[0]
    assert material.pbrMetallicRoughness.metallicFactor == 0.9 and material.pbrMetallicRoughness.roughnessFactor == 0.8
    shared = material.pbrMetallicRoughness.metallicRoughnessTexture.index
    assert material.occlusionTexture.index == shared  # one picture for both
    assert material.emissiveFactor == [0.5, 0.5, 0.5]
    assert len(held.images) == 4 and len(held.materials) == 1  # four levels share them
    assert held.asset.extras == PAPERS
    for node in held.nodes:
        assert node.matrix is None and node.scale is None and node.translation is None and node.rotation is None
    collider = held.meshes[-1].primitives[0]
    assert collider.material is None
    assert np.array_equal(array(collider.attributes.POSITION), asset.colliders[0].vertices)


def test_pictures_come_back_to_the_last_bit(asset: GameAsset, tmp_path: Path) -> None:
    path = tmp_path / "a.glb"
    path.write_bytes(glb(gltf_file(asset, Content("Mug", [("Mug", asset.lods[0])]), Pictures())))
    loaded = trimesh.load(path, force="mesh", process=False)
    assert np.array_equal(loaded.vertices.astype(np.float32), asset.lods[0].vertices)
    material = loaded.visual.material
    for name, picture in (("baseColorTexture", asset.material.base_color), ("normalTexture", asset.material.normal),
                          ("metallicRoughnessTexture", asset.material.orm),
                          ("emissiveTexture", asset.material.emissive)):
        assert np.array_equal(np.asarray(getattr(material, name).convert("RGB")), np.round(picture * 255)), name


def test_levels_and_colliders_have_each_engines_names(asset: GameAsset) -> None:
    made = {name: profile_files(asset, wanted, ("glb",), compression="none").files for name, wanted in PROFILES.items()
            if name != "print"}
    levels = [f"Mug_LOD{i}" for i in range(4)]
    assert nodes_of(made["unity"]["Mug.glb"]) == {**{name: [] for name in levels}, "Mug": levels}
    assert set(nodes_of(made["unity"]["Mug_colliders.glb"])) == {"Mug_col00", "Mug_col01"}
    assert set(nodes_of(made["unreal"]["Mug.glb"])) == {"Mug", "UCX_Mug_00", "UCX_Mug_01"}
    assert set(nodes_of(made["godot"]["Mug.glb"])) == {"Mug", "Mug_col00-convcolonly", "Mug_col01-convcolonly"}
    assert set(nodes_of(made["web"]["Mug.glb"])) == {"Mug"}
    assert set(nodes_of(made["blender"]["Mug.glb"])) == {*levels, "Mug_col00", "Mug_col01"}
    for name in ("unreal", "godot", "web"):
        assert {path for path in made[name] if path.endswith(".glb")} == {"Mug.glb", *(f"{n}.glb" for n in levels[1:])}
        assert set(nodes_of(made[name]["Mug_LOD2.glb"])) == {"Mug_LOD2"}
    one = small_asset(levels=1, colliders=1)
    assert [c.lods[0][0] for _, c in contents(one, profile("unity")) if c.lods] == ["Mug"]
    # A collider of one level of several belongs to the level's own name where the engine goes by it.
    files = profile_files(asset, profile("unreal"), ("glb",), msft_lod=True).files
    document, _ = unpack(files["Mug.glb"])
    assert document["extensionsUsed"] == ["MSFT_lod"]
    assert document["nodes"][0]["extensions"]["MSFT_lod"]["ids"] == [1, 2, 3]
    assert document["nodes"][0]["extras"]["MSFT_screencoverage"] == [0.5, 0.25, 0.125, 0.0]
    assert document["scenes"][0]["nodes"] == [0, 4, 5]


def test_the_manifest_says_what_files_cannot_hold(asset: GameAsset, tmp_path: Path) -> None:
    bundle = profile_files(asset, profile("unity"), ("glb", "obj", "ply"), key="k", notes=["mended"])
    written = place(bundle, tmp_path)
    told = json.loads((tmp_path / "Mug.manifest.json").read_text(encoding="utf-8"))
    assert written[-1].name == "Mug.manifest.json" and told == bundle.manifest
    assert [(one["name"], one["triangles"], one["screen_size"]) for one in told["lods"]] == [
        ("Mug_LOD0", 576, 1.0), ("Mug_LOD1", 160, 0.5), ("Mug_LOD2", 48, 0.25), ("Mug_LOD3", 16, 0.125)]
    assert told["colliders"][1]["kind"] == "box" and told["colliders"][1]["centre"] == pytest.approx([0, 0.75, 0])
    assert told["papers"] == PAPERS and told["rig"] is None and told["notes"] == ["mended"]
    assert told["units"] == "metres" and told["material"]["metallic"] == 0.9
    assert "colliders" in told["cannot_hold"]["obj"]
    for one in told["files"]:
        assert "\\" not in one["path"] and not one["path"].startswith("/") and (tmp_path / one["path"]).is_file()
    mask = np.asarray(Image.open(tmp_path / "textures/Mug_mask_map.png"), np.float32) / 255
    wanted = np.stack([asset.material.orm[..., 2] * 0.9, asset.material.orm[..., 0], 0 * mask[..., 0],
                       1 - asset.material.orm[..., 1] * 0.8], -1)
    assert np.abs(mask - wanted).max() <= 0.51 / 255
    assert standing(tmp_path, "Mug", "k") == told and standing(tmp_path, "Mug", "other") is None
    (tmp_path / "Mug.glb").write_bytes(b"changed")
    assert standing(tmp_path, "Mug", "k") is None


def test_nothing_is_overwritten_unless_told(asset: GameAsset, tmp_path: Path) -> None:
    bundle = profile_files(asset, profile("godot"), ("glb",))
    (tmp_path / "Mug_LOD3.glb").write_bytes(b"somebody's")
    with pytest.raises(BadInput, match="there already"):
        place(bundle, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Mug_LOD3.glb"]  # nothing was touched
    place(bundle, tmp_path, overwrite=True, pack=True)
    again = place(bundle, tmp_path, pack=True)  # the same bytes are the same files
    assert (tmp_path / "Mug_LOD3.glb").read_bytes() == bundle.files["Mug_LOD3.glb"]
    with zipfile.ZipFile(tmp_path / "Mug_godot.zip") as packed:
        assert {*packed.namelist()} == {p.relative_to(tmp_path).as_posix() for p in again} - {"Mug_godot.zip"}
        assert packed.read("Mug.glb") == bundle.files["Mug.glb"]
    fewer = profile_files(small_asset(levels=2), profile("godot"), ("glb",))
    place(fewer, tmp_path, overwrite=True)  # what the first one wrote and this one has not is gone
    assert sorted(p.name for p in tmp_path.glob("*.glb")) == ["Mug.glb", "Mug_LOD1.glb"]
    with pytest.raises(ValueError, match="two different files"):
        Bundle("Mug", profile("godot"), {"a": b"1"}).add({"a": b"2"})


def test_a_killed_export_leaves_no_manifest(asset: GameAsset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.runs import files as disk
    bundle = profile_files(asset, profile("godot"), ("glb",), key="k")
    place(bundle, tmp_path)
    other = profile_files(small_asset(size=32), profile("godot"), ("glb",), key="k2")
    count = 0

    def dies(path: Path, content: bytes | str) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    monkeypatch.setattr(disk, "write_file", dies)
    with pytest.raises(KeyboardInterrupt):
        place(other, tmp_path, overwrite=True)
    assert not (tmp_path / "Mug.manifest.json").exists() and standing(tmp_path, "Mug", "k") is None


def test_gltf_beside_its_pictures_by_relative_paths(asset: GameAsset, tmp_path: Path) -> None:
    made = gltf_file(asset, Content("Mug", [("Mug", asset.lods[0])]), Pictures())
    for path, data in separate(made, "My mug").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    document = json.loads((tmp_path / "My mug.gltf").read_text(encoding="utf-8"))
    assert document["buffers"][0]["uri"] == "My%20mug.bin"
    assert {image["uri"] for image in document["images"]} == {f"textures/Mug_{kind}.png" for kind in (
        "base_color", "orm", "normal", "emissive")}
    scene = read_scene(open_gltf(tmp_path / "My mug.gltf"), 1000)
    assert not scene.findings and np.array_equal(scene.parts[0].vertices.astype(np.float32), asset.lods[0].vertices)


def test_obj_comes_back_bit_by_bit(asset: GameAsset, tmp_path: Path) -> None:
    place(profile_files(asset, profile("unreal"), ("obj",)), tmp_path)
    lod = asset.lods[0]
    loaded = trimesh.load(tmp_path / "Mug.obj", process=False, maintain_order=True)
    assert np.array_equal(loaded.vertices[loaded.faces].astype(np.float32), lod.vertices[lod.faces])
    uv = np.stack([loaded.visual.uv[:, 0], 1 - loaded.visual.uv[:, 1]], -1)
    assert np.abs(uv[loaded.faces] - lod.uvs[lod.faces]).max() < 1e-7
    assert np.abs(loaded.vertex_normals[loaded.faces] - lod.normals[lod.faces]).max() < 1e-6
    lines = (tmp_path / "Mug.mtl").read_text().splitlines()
    assert {"map_Kd textures/Mug_base_color.png", "norm textures/Mug_normal_dx.png",
            "map_Bump -bm 1 textures/Mug_normal_dx.png"} <= set(lines)
    assert not any(line.startswith("Tr ") for line in lines)
    with Image.open(tmp_path / "textures/Mug_normal_dx.png") as turned:  # DirectX's green for Unreal
        green = np.asarray(turned, np.float32)[..., 1]
    assert np.array_equal(green, 255 - np.round(asset.material.normal[..., 1] * 255))
    flat = small_asset(normal=False, emissive=False)
    flat.material.orm[...] = [1, 0.5019608, 0.2509804]
    text = profile_files(flat, profile("godot"), ("obj",)).files["Mug.mtl"].decode()
    assert f"Pm {0.2509804 * 0.9:.6g}"[:8] in text and "map_Pr" not in text and "map_Ke" not in text


def test_ply_carries_colours_and_uvs(asset: GameAsset, tmp_path: Path) -> None:
    place(profile_files(asset, profile("godot"), ("ply",)), tmp_path)
    lod = asset.lods[0]
    loaded = trimesh.load(tmp_path / "Mug.ply", process=False)
    assert np.array_equal(loaded.vertices.astype(np.float32), lod.vertices) and np.array_equal(loaded.faces, lod.faces)
    held = loaded.metadata["_ply_raw"]["vertex"]["data"]
    assert np.array_equal(held["s"].reshape(-1), lod.uvs[:, 0])
    assert np.array_equal(held["t"].reshape(-1), (1 - lod.uvs[:, 1]).astype(np.float32))
    # The base colour's red grows with u, its green with v.
    red = held["red"].reshape(-1) / 255
    assert np.abs(red - lod.uvs[:, 0]).max() < 1.5 / 64


def test_prints_are_closed_and_in_millimetres(asset: GameAsset, tmp_path: Path) -> None:
    bundle = profile_files(asset, profile("print"), ("stl", "3mf"))
    place(bundle, tmp_path)
    assert bundle.notes == [] and bundle.manifest["units"] == "millimetres" and bundle.manifest["lods"][0]["level"] == 0
    solid = trimesh.load(tmp_path / "Mug.stl")
    assert solid.is_watertight and solid.is_winding_consistent
    # 32 sides: the prism's base is 16 r^2 sin(2 pi / 32).
    assert solid.volume == pytest.approx(16 * 300 ** 2 * np.sin(np.pi / 16) * 1000, rel=1e-5)
    assert np.allclose(solid.bounds, [[-300, -300, 0], [300, 300, 1000]], atol=0.01)  # Z up
    with zipfile.ZipFile(io.BytesIO(bundle.files["Mug.3mf"])) as packed:
        root = ElementTree.fromstring(packed.read("3D/3dmodel.model"))
    space = {"m": "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"}
    assert root.get("unit") == "millimeter"
    points = np.array([[float(v.get(axis) or "") for axis in "xyz"] for v in root.iterfind(".//m:vertex", space)])
    faces = np.array([[int(t.get(f"v{k}") or "") for k in (1, 2, 3)] for t in root.iterfind(".//m:triangle", space)])
    assert topology(faces).watertight and volume(points, faces) == pytest.approx(solid.volume, rel=1e-6)
    papers = json.loads(next(m.text or "" for m in root.iterfind("m:metadata", space)
                             if "papers" in str(m.get("name"))))
    assert papers == PAPERS
    # The front, +Z here, looks along -Y there; up, +Y here, is +Z there.
    turned = printed(np.float32([[0, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 1, 2]]))
    assert {tuple(v) for v in turned.vertices.round(6).tolist()} == {(0, 0, 0), (0, 0, 1000), (0, -1000, 0)}


def test_what_is_not_closed_is_said() -> None:
    open_one = small_asset(levels=1)
    lod = open_one.lods[0]
    holed = GameAsset("Mug", (type(lod)(lod.vertices, lod.faces[:-3], lod.normals, lod.uvs, lod.tangents),),
                      open_one.material)
    bundle = profile_files(holed, profile("print"), ("stl", "3mf"))
    assert bundle.notes == ["it is not closed, a printer cannot tell its inside: 5 open edges"]
    inward = printed(lod.vertices, lod.faces[:, ::-1])
    assert inward.lack == "its faces look inward" and printed(lod.vertices, lod.faces).lack == ""
    twice = printed(lod.vertices, np.concatenate([lod.faces, lod.faces[:1, [0, 0, 1]]]))
    assert twice.dropped == 1 and twice.lack == ""


def test_usd_comes_back_with_its_variants(asset: GameAsset, tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="usd-core is not installed")
    from pxr import Usd, UsdGeom, UsdShade
    for format in ("usdc", "usdz"):
        place(profile_files(asset, profile("blender"), (format,)), tmp_path / format)
        stage = Usd.Stage.Open(str(tmp_path / format / f"Mug.{format}"))
        root = stage.GetDefaultPrim()
        assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0 and UsdGeom.GetStageUpAxis(stage) == "Y"
        lods = root.GetVariantSets().GetVariantSet("LOD")
        assert lods.GetVariantNames() == ["LOD0", "LOD1", "LOD2", "LOD3"] and lods.GetVariantSelection() == "LOD0"
        for i, lod in enumerate(asset.lods):
            lods.SetVariantSelection(f"LOD{i}")
            mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Mug/Geometry/Mug"))
            assert np.array_equal(np.asarray(mesh.GetPointsAttr().Get()), lod.vertices)
            assert np.array_equal(np.asarray(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3), lod.faces)
            assert np.array_equal(np.asarray(mesh.GetNormalsAttr().Get()), lod.normals)
            st = np.asarray(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get())
            assert np.array_equal(st, np.stack([lod.uvs[:, 0], 1 - lod.uvs[:, 1]], -1))
        told = root.GetCustomDataByKey("maquette")
        assert told["prompt"] == "a red mug" and json.loads(told["licences"]) == PAPERS["licences"]
        material, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
        packed = UsdShade.Shader(stage.GetPrimAtPath(f"{material.GetPath()}/Orm"))
        assert np.allclose(packed.GetInput("scale").Get(), [1, 0.8, 0.9, 1])
        assert packed.GetInput("file").Get().path.lstrip("./") == "textures/Mug_orm.png"
        boxes = [prim for prim in stage.Traverse() if prim.GetPath().HasPrefix("/Mug/Colliders")
                 and prim.IsA(UsdGeom.Mesh)]
        assert len(boxes) == 2 and all(UsdGeom.Mesh(b).ComputePurpose() == "guide" for b in boxes)


@pytest.mark.parametrize(("way", "library"), [("draco", "DracoPy"), ("none", "")])
def test_the_web_profile(way: str, library: str) -> None:
    made = small_asset(lightmap=False)
    if library:
        pytest.importorskip(library, reason="DracoPy is not installed")
    bundle = profile_files(made, profile("web"), ("glb",), compression=way)
    document, binary = unpack(bundle.files["Mug.glb"])
    assert "EXT_texture_webp" in document["extensionsRequired"]
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    begin = view.get("byteOffset", 0)
    with Image.open(io.BytesIO(binary[begin:begin + view["byteLength"]])) as picture:
        assert picture.format == "WEBP" and picture.size == (64, 64)
        assert np.abs(np.asarray(picture.convert("RGB"), float) / 255 - made.material.base_color).mean() < 0.02
    part = document["meshes"][0]["primitives"][0]
    if way == "none":
        assert "KHR_draco_mesh_compression" not in document["extensionsUsed"]
        return
    import DracoPy
    told = part["extensions"]["KHR_draco_mesh_compression"]
    view = document["bufferViews"][told["bufferView"]]
    back = DracoPy.decode(binary[view["byteOffset"]:view["byteOffset"] + view["byteLength"]])
    lod = made.lods[0]
    by_id = {one["unique_id"]: np.asarray(one["data"]) for one in back.attributes}
    points, uvs = by_id[told["attributes"]["POSITION"]], by_id[told["attributes"]["TEXCOORD_0"]]
    assert len(points) == document["accessors"][part["attributes"]["POSITION"]]["count"]
    assert "bufferView" not in document["accessors"][part["attributes"]["POSITION"]]

    def corners(vertices: np.ndarray, uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
        every = np.concatenate([vertices[faces.reshape(-1)], uv[faces.reshape(-1)]], -1)
        return np.asarray(every[np.lexsort(np.round(every, 3).T)])

    assert np.asarray(back.faces).shape == lod.faces.shape
    assert np.abs(corners(points, uvs, np.asarray(back.faces)) - corners(lod.vertices, lod.uvs, lod.faces)).max() < 2e-3


def test_what_is_missing_is_named(asset: GameAsset, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    from engine.export import compress, fbx, usd
    monkeypatch.setattr(compress, "_has_draco", lambda: False)
    monkeypatch.setattr(compress, "_transform", lambda: None)
    with pytest.raises(BadInput, match="DracoPy or gltf-transform, which is not installed. npm install"):
        compress.way_of("auto")
    assert compress.way_of("none") == "none"
    with pytest.raises(BadInput, match="unknown compression 'zip'"):
        compress.way_of("zip")
    monkeypatch.delenv("MAQUETTE_BPY", raising=False)
    monkeypatch.setattr(fbx.shutil, "which", lambda name: None)
    monkeypatch.setattr(fbx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="bpy, which is not installed. install Blender"):
        fbx.blender_command()
    monkeypatch.setenv("MAQUETTE_BPY", "/nowhere/python")
    with pytest.raises(BadInput, match="MAQUETTE_BPY names /nowhere/python"):
        fbx.blender_command()
    usual = builtins.__import__

    def without_pxr(name: str, *rest: object, **named: object) -> object:
        if name == "pxr":
            raise ImportError(name)
        return usual(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_pxr)
    with pytest.raises(BadInput, match="USD needs usd-core, which is not installed. pip install usd-core"):
        usd.pxr()


def test_profiles_and_formats_by_name() -> None:
    assert set(PROFILES) == {"unity", "unreal", "godot", "web", "blender", "print"}
    assert formats_of(profile("godot"), None) == ("glb",)
    assert formats_of(profile("unity"), ["obj", " .GLB"]) == ("glb", "obj")
    for wrong, call in (("gadot", lambda: profile("gadot")), ("gbl", lambda: formats_of(profile("web"), ["gbl"]))):
        with pytest.raises(BadInput, match=f"{wrong}'.*Did you mean"):
            call()
    with pytest.raises(BadInput, match="names no format"):
        formats_of(profile("web"), [""])


def test_pictures_shrink_as_what_they_are() -> None:
    checks = np.indices((8, 8)).sum(0) % 2 * np.ones((3, 1, 1), np.float32)
    board = np.moveaxis(checks, 0, -1).astype(np.float32)
    # Half of the light, not half of the number: sRGB of 0.5 is 0.7354.
    assert np.abs(shrunk(board, 4, "base_color") - 0.735357).max() < 1e-3
    assert np.abs(shrunk(board, 4, "orm") - 0.5).max() < 1e-6
    tilted = np.where(board[..., :1] > 0, [0.6, 0, 0.8], [-0.6, 0, 0.8]) * 0.5 + 0.5
    assert np.abs(shrunk(tilted.astype(np.float32), 4, "normal") - [0.5, 0.5, 1.0]).max() < 1e-6
    assert shrunk(board, 8, "orm") is board
    assert np.allclose(mask_map(np.float32([[[0.2, 0.3, 1.0]]]), 0.5, 0.5), [[[0.5, 0.2, 0, 0.85]]])


def test_arrays_that_no_file_may_hold_are_refused(asset: GameAsset) -> None:
    lod = tube(4, 1)
    for wrong, words in ((lod.vertices * np.float32(np.nan), "not finite"), (lod.vertices[:3], "names a vertex")):
        broken = type(lod)(wrong, lod.faces, lod.normals, lod.uvs, lod.tangents)
        with pytest.raises(ValueError, match=words):
            gltf_file(asset, Content("x", [("x", broken)]), Pictures())
    with pytest.raises(ValueError, match="without meshes"):
        gltf_file(asset, Content("x", []), Pictures())
