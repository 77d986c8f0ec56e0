"""Files of unknown origin: what is wrong with them is refused or mended, always in words, and never believed."""

from __future__ import annotations

import copy
import io
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import PAPERS, small_asset, tube
from PIL import Image

from engine.check.files import check_file
from engine.check.report import CheckReport
from engine.errors import BadInput
from engine.export.glb import pack, unpack
from engine.export.gltf import Content, glb, gltf_file, separate
from engine.export.pictures import Pictures
from engine.meshes.foreign import companions, open_foreign

Change = Callable[[dict[str, Any], bytearray], None]


@pytest.fixture(scope="module")
def good() -> tuple[dict[str, Any], bytes]:
    """A sound GLB as (document, binary): one level, no collider."""
    asset = small_asset(levels=1, colliders=0)
    return unpack(glb(gltf_file(asset, Content("Mug", [("Mug", asset.lods[0])]), Pictures())))


def written(path: Path, good: tuple[dict[str, Any], bytes], change: Change | None = None) -> Path:
    document, binary = copy.deepcopy(good[0]), bytearray(good[1])
    if change is not None:
        change(document, binary)
    path.write_bytes(pack(document, bytes(binary)))
    return path


def position(document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The positions' accessor, and where their bytes begin."""
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    return accessor, document["bufferViews"][accessor["bufferView"]]["byteOffset"]


def codes(report: CheckReport, severity: str = "error") -> set[str]:
    return {one.code for one in report.findings if one.severity == severity and one.source == "maquette"}


def not_finite(document: dict[str, Any], binary: bytearray) -> None:
    _, begin = position(document)
    struct.pack_into("<3f", binary, begin + 12 * 5, float("nan"), float("inf"), 0.0)


def far_index(document: dict[str, Any], binary: bytearray) -> None:
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["indices"]]
    view = document["bufferViews"][accessor["bufferView"]]
    struct.pack_into("<H", binary, view["byteOffset"], 60_000)


def lying_count(document: dict[str, Any], binary: bytearray) -> None:
    position(document)[0]["count"] = 300_000


def lying_view(document: dict[str, Any], binary: bytearray) -> None:
    document["bufferViews"][0]["byteLength"] = 10 ** 9


def lying_buffer(document: dict[str, Any], binary: bytearray) -> None:
    document["buffers"][0]["byteLength"] = 4 * 10 ** 9


def own_child(document: dict[str, Any], binary: bytearray) -> None:
    document["nodes"][0]["children"] = [0]


def circle(document: dict[str, Any], binary: bytearray) -> None:
    document["nodes"] += [{"children": [2]}, {"children": [1]}]


def two_parents(document: dict[str, Any], binary: bytearray) -> None:
    document["nodes"] += [{"children": [0]}, {"children": [0]}]
    document["scenes"][0]["nodes"] = [1, 2]


def named(uri: str) -> Change:
    def change(document: dict[str, Any], binary: bytearray) -> None:
        document["buffers"].append({"byteLength": 8, "uri": uri})
        document["bufferViews"].append({"buffer": 1, "byteLength": 8})
        position(document)[0]["bufferView"] = len(document["bufferViews"]) - 1
    return change


def short_stride(document: dict[str, Any], binary: bytearray) -> None:
    accessor, _ = position(document)
    document["bufferViews"][accessor["bufferView"]]["byteStride"] = 4


def strange(document: dict[str, Any], binary: bytearray) -> None:
    document["extensionsRequired"] = document["extensionsUsed"] = ["EXT_nobody_knows"]


def not_a_list(document: dict[str, Any], binary: bytearray) -> None:
    document["nodes"] = {"0": {}}


def wrong_kinds(document: dict[str, Any], binary: bytearray) -> None:
    document["accessors"][0]["bufferView"] = "first"
    position(document)[0]["componentType"] = 7


def flat_rotation(document: dict[str, Any], binary: bytearray) -> None:
    document["nodes"][0]["rotation"] = [0, 0, 0, 0]


REFUSED: dict[str, tuple[Change, str, str]] = {
    "not finite": (not_finite, "not_finite", r"1 of 363 vertices are not finite"),
    "an index out of range": (far_index, "index_out_of_range",
                              r"1 faces name a vertex that is not there \(60,000 of 363"),
    "a count that is not there": (lying_count, "lying_length", "says 300,000 values"),
    "a view beyond its buffer": (lying_view, "lying_length", r"ends at byte 1,000,000,000 of"),
    "a buffer beyond the file": (lying_buffer, "lying_length", r"says 4,000,000,000 bytes and has"),
    "its own child": (own_child, "cycle", "node 0 is its own child"),
    "a circle of nodes": (circle, "cycle", "above itself"),
    "two parents": (two_parents, "cycle", "has two parents"),
    "a server": (named("http://example.com/a.bin"), "external_uri", "nothing is fetched"),
    "a file's address": (named("file:///etc/passwd"), "external_uri", "not beside it"),
    "the folder above": (named("../secret.bin"), "external_uri", "out of its folder"),
    "the folder above, hidden": (named("a/%2e%2e/%2e%2e/secret.bin"), "external_uri", "out of its folder"),
    "a whole path": (named("/etc/passwd"), "external_uri", "not beside it"),
    "values that overlap": (short_stride, "lying_length", "4 bytes apart"),
    "an unknown extension": (strange, "unknown_extension", "EXT_nobody_knows"),
    "nodes that are no list": (not_a_list, "not_gltf", "nodes is no list"),
    "an unknown type": (wrong_kinds, "not_gltf", "unknown type"),
    "no rotation": (flat_rotation, "not_gltf", "no rotation"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_mended_is_refused(what: str, good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    change, code, words = REFUSED[what]
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    (tmp_path / "in").mkdir()
    path = written(tmp_path / "in" / "a.glb", good, change)
    with pytest.raises(BadInput, match=words) as refusal:
        open_foreign(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)
    report = check_file(path, tools=False)
    assert code in codes(report) and report.exit_code() == 1


def test_what_is_declared_is_compared_before_memory_is_taken(good: tuple[dict[str, Any], bytes], tmp_path: Path
                                                             ) -> None:
    """A hundred million faces in a few kilobytes, and one mesh that twenty thousand nodes show."""
    def many(document: dict[str, Any], binary: bytearray) -> None:
        document["accessors"][document["meshes"][0]["primitives"][0]["indices"]]["count"] = 3 * 10 ** 8

    def no_bytes(document: dict[str, Any], binary: bytearray) -> None:
        accessor, _ = position(document)
        del accessor["bufferView"]
        accessor["count"] = 7_000_000

    def forest(document: dict[str, Any], binary: bytearray) -> None:
        document["nodes"] = [{"mesh": 0} for _ in range(20_000)]
        document["scenes"][0]["nodes"] = list(range(20_000))

    for change, words in ((many, "declares 100,000,000 triangles"),
                          (no_bytes, "says 7,000,000 values and has no bytes"),
                          (forest, "declares 11,520,000 triangles")):
        path = written(tmp_path / "a.glb", good, change)
        tracemalloc.start()
        try:
            with pytest.raises(BadInput, match=words):
                open_foreign(path)
            assert tracemalloc.get_traced_memory()[1] < 150_000_000  # of which the forest's JSON takes most
        finally:
            tracemalloc.stop()
        assert check_file(path, tools=False).exit_code() == 1
    header = (b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
              b"property float z\nelement face %d\nproperty list uchar int vertex_indices\nend_header\n")
    (tmp_path / "a.ply").write_bytes(header % 10 ** 8)
    with pytest.raises(BadInput, match="declares 100,000,000 triangles"):
        open_foreign(tmp_path / "a.ply")
    (tmp_path / "b.ply").write_bytes(header % 10 ** 6)
    with pytest.raises(BadInput, match="has only"):
        open_foreign(tmp_path / "b.ply")


def test_files_that_are_cut_off_or_something_else(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    whole = written(tmp_path / "a.glb", good).read_bytes()
    for data, words in ((whole[:-100], "cut off"), (whole[:8], "no GLB"),
                        (b"PK\x03\x04" + whole, "does not begin with glTF"),
                        (whole[:12] + struct.pack("<I", 10 ** 6) + whole[16:], "first part is not its JSON"),
                        (whole[:4] + struct.pack("<I", 1) + whole[8:], "version 2"), (b"", "does not begin")):
        path = tmp_path / "b.glb"
        path.write_bytes(data)
        with pytest.raises(BadInput, match=words):
            open_foreign(path)
        report = check_file(path, tools=False)
        assert codes(report) == {"unreadable"} and report.exit_code() == 1
    for text, words in (("{", "no glTF"), ("[]", "no glTF 2"),
                        ('{"asset": {"version": "1.0"}}', "asset.version is '1.0'"),
                        ("[" * 200_000, "nests without end|no glTF"), ('{"a": NaN}', "NaN"),
                        ('{"asset": {"version": "2.0"}, "nodes": [1]}', "is no object"),
                        ('{"asset": {"version": "2.0"}}', "shows no mesh")):
        path = tmp_path / "c.gltf"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=words):
            open_foreign(path)
    (tmp_path / "d.glb").write_bytes(whole + b"tail")
    found = open_foreign(tmp_path / "d.glb")
    assert [one.text for one in found.findings] == ["4 bytes behind its declared end are not looked at"]


def test_a_mirrored_node_is_turned_and_said(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    from engine.meshes.measure import volume

    def mirrored(document: dict[str, Any], binary: bytearray) -> None:
        document["nodes"][0] |= {"scale": [-2, 1, 1], "translation": [5, 0, 0]}

    plain = open_foreign(written(tmp_path / "a.glb", good))
    found = open_foreign(written(tmp_path / "b.glb", good, mirrored))
    assert [one.code for one in found.findings] == ["negative_scale"] and found.findings[0].severity == "warning"
    held = volume(plain.file.vertices, plain.file.faces)
    assert held > 0 and volume(found.file.vertices, found.file.faces) == pytest.approx(2 * held)
    assert np.allclose(found.file.vertices[:, 0], 5 - 2 * plain.file.vertices[:, 0])
    assert plain.file.normals is not None and found.file.normals is not None and plain.tangents is not None
    side = np.abs(plain.file.normals[:, 1]) < 0.5
    outward = (found.file.normals[side] * (found.file.vertices[side] - [5, 0, 0])).sum(1)
    assert (outward > 0).all() and np.allclose(np.linalg.norm(found.file.normals, axis=1), 1)
    # The bitangent points to the picture's top before and after: turned with the mesh.
    assert found.tangents is not None and (found.tangents[:, 3] == -plain.tangents[:, 3]).all()


def test_trees_of_nodes_are_multiplied_out(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    turn = [0, np.sin(np.pi / 4), 0, np.cos(np.pi / 4)]  # a quarter about +Y: z -> x, x -> -z

    def tree(document: dict[str, Any], binary: bytearray) -> None:
        document["nodes"] = [{"children": [1], "rotation": turn, "name": "above"},
                             {"mesh": 0, "matrix": [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 3, 1], "name": "Mug"}]

    plain = open_foreign(written(tmp_path / "a.glb", good)).file.vertices
    found = open_foreign(written(tmp_path / "b.glb", good, tree)).file.vertices
    assert np.allclose(found, np.stack([plain[:, 2] + 3, 2 * plain[:, 1], -plain[:, 0]], -1), atol=1e-9)


def test_missing_and_damaged_pictures_are_done_without(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    def missing(document: dict[str, Any], binary: bytearray) -> None:
        document["images"][0] = {"uri": "gone.png"}

    def damaged(document: dict[str, Any], binary: bytearray) -> None:
        view = document["bufferViews"][document["images"][0]["bufferView"]]
        binary[view["byteOffset"]:view["byteOffset"] + 30] = bytes(30)

    def bomb(document: dict[str, Any], binary: bytearray) -> None:
        memory = io.BytesIO()
        Image.new("1", (9000, 9000)).save(memory, "png")  # 10 kB that unpack to a GB of floats
        document["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(memory.getvalue())})
        binary += memory.getvalue()
        document["buffers"][0]["byteLength"] = len(binary)
        document["images"][0] = {"mimeType": "image/png", "bufferView": len(document["bufferViews"]) - 1}

    for change, code, words in ((missing, "missing_texture", "not there"), (damaged, "bad_image", "cannot be read"),
                                (bomb, "too_large", "9,000 x 9,000")):
        path = written(tmp_path / "a.glb", good, change)
        found = open_foreign(path)
        said = [one for one in found.findings if one.code == code]
        assert said and words in said[0].text and said[0].severity == "warning"
        # White where the picture was, everything else as it is.
        assert found.file.texture is not None and (found.file.texture == 1).all() and "normal" in found.pictures
    report = check_file(path, tools=False)
    assert codes(report) == {"too_large"} and report.exit_code() == 1


def test_one_material_keeps_its_pictures_and_factors(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    asset = small_asset(levels=1, colliders=0)
    found = open_foreign(written(tmp_path / "a.glb", good))
    lod, material = asset.lods[0], asset.material
    assert np.array_equal(found.file.vertices, lod.vertices) and np.array_equal(found.file.uvs, lod.uvs)
    assert np.array_equal(found.uvs2, lod.lightmap_uvs) and np.array_equal(found.file.texture, material.base_color)
    assert np.array_equal(found.pictures["orm"], material.orm)
    assert np.array_equal(found.pictures["normal"], material.normal)
    assert (found.metallic_factor, found.roughness_factor) == (0.9, 0.8) and found.papers == PAPERS
    assert found.metallic == pytest.approx(0.9 * material.orm[..., 2].mean(), abs=1e-6) and found.findings == []


def test_several_materials_become_one(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    def two(document: dict[str, Any], binary: bytearray) -> None:
        document["materials"].append({"name": "red", "pbrMetallicRoughness": {
            "baseColorFactor": [1, 0, 0, 1], "metallicFactor": 0.0, "roughnessFactor": 0.25}})
        part = copy.deepcopy(document["meshes"][0]["primitives"][0])
        part["material"] = 1
        document["meshes"][0]["primitives"].append(part)

    found = open_foreign(written(tmp_path / "a.glb", good, two))
    assert {one.code for one in found.findings} == {"joined"} and found.file.materials == 2
    texture, uvs, half = found.file.texture, found.file.uvs, len(found.file.vertices) // 2
    assert texture is not None and uvs is not None and found.pictures["orm"].shape == texture.shape
    at = np.minimum((uvs * texture.shape[0]).astype(int), texture.shape[0] - 1)
    assert np.allclose(texture[at[half:, 1], at[half:, 0]], [1, 0, 0])
    assert np.allclose(found.pictures["orm"][at[half:, 1], at[half:, 0]], [1, 0.25, 0], atol=1 / 255)
    assert np.allclose(found.pictures["normal"][at[half:, 1], at[half:, 0]], [0.5, 0.5, 1], atol=1 / 255)
    # The first one's factors (0.9 metallic, 0.8 roughness) are in its picture now.
    shown = found.pictures["orm"][at[:half, 1], at[:half, 0]]
    assert found.metallic_factor == 1.0 and shown[:, 2].max() == pytest.approx(0.9, abs=0.01)


def test_what_a_material_does_not_say_is_not_metal(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    from engine.export.as_is import as_is

    def silent(document: dict[str, Any], binary: bytearray) -> None:
        document["materials"][0] = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}

    path = written(tmp_path / "a.glb", good, silent)
    found = open_foreign(path)
    assert found.metallic is None and {one.code for one in found.findings} == {"unsaid_shine"}
    plain, golden = as_is(found, "Mug"), as_is(open_foreign(path), "Mug", "a golden mug")
    assert (plain.material.metallic, plain.material.roughness) == (0.0, 0.7)
    assert (golden.material.metallic, golden.material.roughness) == (1.0, 0.3)
    assert "default_metal" in codes(check_file(path, tools=False), "hint")


def test_strips_fans_and_quantized_values(tmp_path: Path) -> None:
    from engine.export.glb import Buffer
    points = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [100, 100, 0], [0, 127, 0]], np.int8)
    buffer = Buffer()
    place = buffer.add_array(np.pad(points, ((0, 0), (0, 1))), "VEC3", 5120, 34962)
    buffer.accessors[place] |= {"normalized": True}
    buffer.views[0]["byteStride"] = 4
    for mode, wanted in ((5, [[0, 1, 2], [3, 2, 1], [2, 3, 4]]), (6, [[0, 1, 2], [0, 2, 3], [0, 3, 4]])):
        document = {"asset": {"version": "2.0"}, "nodes": [{"mesh": 0}], "bufferViews": buffer.views,
                    "accessors": buffer.accessors, "buffers": [{"byteLength": len(buffer.data)}],
                    "extensionsRequired": ["KHR_mesh_quantization"], "extensionsUsed": ["KHR_mesh_quantization"],
                    "meshes": [{"primitives": [{"attributes": {"POSITION": place}, "mode": mode}]}]}
        path = tmp_path / "a.glb"
        path.write_bytes(pack(document, bytes(buffer.data)))
        found = open_foreign(path)
        assert found.file.faces.tolist() == wanted and found.file.uvs is None
        assert np.allclose(found.file.vertices, points / 127)


def test_sparse_values_are_put_in_place(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    def sparse(where: int) -> Change:
        def change(document: dict[str, Any], binary: bytearray) -> None:
            begin = len(binary)
            binary += struct.pack("<HH", where, 0) + struct.pack("<3f", 7, 8, 9)
            document["buffers"][0]["byteLength"] = len(binary)
            document["bufferViews"] += [{"buffer": 0, "byteOffset": begin, "byteLength": 2},
                                        {"buffer": 0, "byteOffset": begin + 4, "byteLength": 12}]
            count = len(document["bufferViews"])
            position(document)[0]["sparse"] = {"count": 1, "indices": {"bufferView": count - 2, "componentType": 5123},
                                               "values": {"bufferView": count - 1}}
        return change

    found = open_foreign(written(tmp_path / "a.glb", good, sparse(3)))
    assert found.file.vertices[3].tolist() == [7, 8, 9]
    with pytest.raises(BadInput, match="value that is not there"):
        open_foreign(written(tmp_path / "b.glb", good, sparse(9999)))


def test_compressed_files_are_named(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    def packed(document: dict[str, Any], binary: bytearray) -> None:
        document["extensionsUsed"] = document["extensionsRequired"] = ["EXT_meshopt_compression"]

    with pytest.raises(BadInput, match=r"compressed \(meshopt\). Unpack it first"):
        open_foreign(written(tmp_path / "a.glb", good, packed))


OBJ = "mtllib a.mtl\no Thing\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"


@pytest.mark.parametrize(("text", "words"), [
    (OBJ.replace("v 0 1 0", "v 0 nan 0"), "not finite"), (OBJ.replace("3/3", "4/3"), "1 faces name a vertex"),
    (OBJ.replace("3/3", "0/3"), "1 faces name a vertex"), (OBJ.replace("3/3", "-9/3"), "1 faces name a vertex"),
    (OBJ.replace("3/3", "x"), "1 faces name a vertex"), (OBJ.replace(" 2/2 3/3", ""), "fewer than three corners"),
    (OBJ.replace("a.mtl", "../a.mtl"), "out of its folder"),
    (OBJ.replace("a.mtl", "http://a/b.mtl"), "nothing is fetched"),
    (OBJ.replace("a.mtl", "/etc/passwd"), "not beside it"), ("v 0 0 0\n", "no faces"), ("", "no faces")])
def test_objects_files_are_looked_through(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.obj"
    path.write_text(text, encoding="ascii")
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd x.png\n", encoding="ascii")
    with pytest.raises(BadInput, match=words):
        open_foreign(path)
    assert check_file(path, tools=False).exit_code() == 1


def test_an_objs_materials_reach_no_other_folder(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "secret.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.obj").write_text(OBJ, encoding="ascii")
    for line in ("map_Kd ../secret.png", f"map_Kd {tmp_path / 'secret.png'}", "map_Kd file:///etc/passwd"):
        (tmp_path / "in" / "a.mtl").write_text(f"newmtl m\n{line}\n", encoding="ascii")
        with pytest.raises(BadInput, match="out of its folder|not beside it"):
            open_foreign(tmp_path / "in" / "a.obj")
        from engine.meshes.read import read_mesh
        assert read_mesh(tmp_path / "in" / "a.obj").texture is None  # nor does the reader behind it
    (tmp_path / "in" / "a.mtl").write_text("newmtl m\nPm 0.25\nPr 0.5\nmap_Kd gone.png\n", encoding="ascii")
    found = open_foreign(tmp_path / "in" / "a.obj")
    assert [(one.severity, one.code) for one in found.findings] == [("warning", "missing_texture")]
    assert (found.metallic, found.roughness) == (0.25, 0.5)
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "in" / "gone.png")
    assert [path.name for path in companions(tmp_path / "in" / "a.obj")] == ["a.obj", "a.mtl", "gone.png"]


def test_gltf_with_its_files_beside_it(tmp_path: Path) -> None:
    asset = small_asset(levels=1, colliders=0)
    for path, data in separate(gltf_file(asset, Content("Mug", [("Mug", asset.lods[0])]), Pictures()), "Mug").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    found = open_foreign(tmp_path / "Mug.gltf")
    assert found.findings == [] and np.array_equal(found.file.texture, asset.material.base_color)
    assert {path.name for path in companions(tmp_path / "Mug.gltf")} == {
        "Mug.gltf", "Mug.bin", *(f"Mug_{kind}.png" for kind in ("base_color", "orm", "normal", "emissive"))}
    document = json.loads((tmp_path / "Mug.gltf").read_text(encoding="utf-8"))
    (tmp_path / "outside").mkdir()
    link = tmp_path / "outside" / "Mug.bin"
    link.symlink_to(tmp_path / "Mug.bin")  # a link that leads out of the folder is no file of it
    (tmp_path / "outside" / "Mug.gltf").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BadInput, match="out of its folder"):
        open_foreign(tmp_path / "outside" / "Mug.gltf")


def test_colliders_and_lower_levels_are_left_out_by_name(tmp_path: Path) -> None:
    asset = small_asset()
    levels = [(f"Mug_LOD{i}", lod) for i, lod in enumerate(asset.lods)]
    for names in (("UCX_Mug_00", "UCX_Mug_01"), ("Mug_col00-convcolonly", "Mug_col01-convcolonly"),
                  ("Mug_col00", "Mug_col01")):
        path = tmp_path / "a.glb"
        content = Content("Mug", levels, list(zip(names, asset.colliders, strict=True)))
        path.write_bytes(glb(gltf_file(asset, content, Pictures())))
        found = open_foreign(path)
        assert len(found.file.faces) == 576 and [one.code for one in found.findings] == ["left_out"]
    lone = small_asset(levels=1, colliders=0)
    path.write_bytes(glb(gltf_file(lone, Content("x", [("UCX_only_LOD2", lone.lods[0])]), Pictures())))
    assert len(open_foreign(path).file.faces) == 576  # where there is nothing else, it is what was meant


def test_random_bytes_never_lead_anywhere_else(good: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    """Two hundred damaged copies: each is read, or refused in words; nothing else is raised."""
    whole = bytearray(written(tmp_path / "a.glb", good).read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for k in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, len(data) if k % 2 else 4000, rng.integers(1, 12)):
            data[int(at)] = int(rng.integers(256))
        path = tmp_path / "b.glb"
        path.write_bytes(bytes(data[:int(rng.integers(20, len(data)))] if k % 10 == 0 else data))
        try:
            found = open_foreign(path)
            assert np.isfinite(found.file.vertices).all() and int(found.file.faces.max()) < len(found.file.vertices)
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error)
    assert 50 < refused < 200


def test_the_tube_is_what_it_says() -> None:
    from engine.meshes.measure import volume
    lod = tube(16, 4)
    assert len(lod.faces) == 2 * 16 * 4 + 2 * 16
    assert volume(lod.vertices, lod.faces) == pytest.approx(8 * 0.09 * np.sin(np.pi / 8), rel=1e-5)
