"""``maquette export`` and ``maquette check`` as commands: a mesh finished and written, a clip by its profile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_helpers import PAPERS, small_asset
from PIL import Image
from test_foreign import OBJ

from engine.cli import main
from engine.errors import BadInput
from engine.export.bundle import place, profile_files
from engine.export.profiles import profile
from engine.export_api import Wishes, export, file_name, find_source, measured_height
from engine.meshes.foreign import open_foreign


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as make leaves it: asset.glb in metres, its recipe."""
    folder = tmp_path_factory.mktemp("made")
    place(profile_files(small_asset("asset", levels=1, colliders=0, size=128), profile("godot"), ("glb",)), folder)
    (folder / "asset.manifest.json").unlink()
    (folder / "recipe.toml").write_text('format = 1\nprompt = "a red mug"\n', encoding="utf-8")
    return folder


def test_a_made_folder_is_finished_and_written(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, words = tmp_path / "game", ("--profile", "unreal", "--name", "Mug", "--store", tmp_path / "store", "--device",
                                     "cpu", "--triangles", 300, "--texture-size", 128, "--set",
                                     "finish_mesh.occlusion_rays=4", "--set", "finish_mesh.lods=[1, 0.5]")
    assert run("export", made, "--out", out, *words) == 0
    told = json.loads((out / "Mug.manifest.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in told["lods"]] == ["Mug", "Mug_LOD1"] and told["lods"][0]["triangles"] <= 300
    assert told["papers"] == PAPERS and told["height_m"] == pytest.approx(1.0, rel=0.01)
    assert told["colliders"] and all(one["name"].startswith("UCX_Mug_") for one in told["colliders"])
    assert {"Mug.glb", "Mug_LOD1.glb", "Mug.manifest.json"} == {path.name for path in out.iterdir()}
    found = open_foreign(out / "Mug.glb")  # metallic and roughness came through: the pictures' means times the factors
    source = small_asset(size=128).material
    assert found.metallic == pytest.approx(source.flat_metallic, abs=0.01)
    assert found.roughness == pytest.approx(source.flat_roughness, abs=0.01) and found.papers == PAPERS
    capsys.readouterr()
    assert run("export", made, "--out", out, *words) == 0 and "there already" in capsys.readouterr().out
    assert run("export", made, "--out", out, *words, "--zip") == 0 and (out / "Mug_unreal.zip").is_file()
    assert run("export", made, "--out", out, *words[:-2]) == 2 and "--overwrite" in capsys.readouterr().err
    assert run("check", out / "Mug.glb", "--profile", "unreal", "--no-tools", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["counts"]["error"] == 0 and report["figures"]["watertight"] is True


def test_as_it_is_nothing_changes(tmp_path: Path) -> None:
    asset = small_asset(levels=1, colliders=0)
    place(profile_files(asset, profile("blender"), ("glb",)), tmp_path / "a")
    done = export(tmp_path / "a" / "Mug.glb", tmp_path / "b", "blender", Wishes(as_is=True, formats=["glb", "obj"]))
    assert done.manifest["papers"] == PAPERS and not done.there_already
    first, again = open_foreign(tmp_path / "a" / "Mug.glb"), open_foreign(tmp_path / "b" / "Mug.glb")
    for name in ("vertices", "faces", "uvs", "texture"):
        assert np.array_equal(getattr(first.file, name), getattr(again.file, name)), name
    for one, other in ((first.file.normals, again.file.normals), (first.tangents, again.tangents),
                       (first.uvs2, again.uvs2)):
        assert one is not None and other is not None and np.abs(one - other).max() < 1e-6
    for name in ("orm", "normal", "emissive"):
        assert np.array_equal(first.pictures[name], again.pictures[name]), name
    assert (again.metallic_factor, again.roughness_factor, again.emissive_factor) == (0.9, 0.8, (0.5, 0.5, 0.5))
    assert export(tmp_path / "a" / "Mug.glb", tmp_path / "b", "blender",
                  Wishes(as_is=True, formats=["glb", "obj"])).there_already
    tall = export(tmp_path / "a" / "Mug.glb", tmp_path / "c", "godot", Wishes(as_is=True, height_m=0.25))
    assert tall.manifest["height_m"] == pytest.approx(0.25)
    from_obj = export(tmp_path / "b" / "Mug.obj", tmp_path / "d", "godot", Wishes(as_is=True))
    assert open_foreign(tmp_path / "d" / "Mug.glb").file.vertices.max() == 1.0 and from_obj.manifest["papers"]["source"]


def clip(folder: Path, frames: int = 6) -> Path:
    (folder / "frames").mkdir(parents=True)
    from engine.export.papers import png_with_text
    for k in range(frames):
        image = np.zeros((32, 24, 4), np.uint8)
        image[4 + k:20 + k, 6:18] = [200, 30 * k, 40, 255]
        Image.fromarray(image).save(folder / "frames" / f"{k:05d}.png")
        path = folder / "frames" / f"{k:05d}.png"
        path.write_bytes(png_with_text(path.read_bytes(), {"seed": "7", "prompt": "a knight"}))
    (folder / "sheet.json").write_text(json.dumps({"meta": {"fps": 12.0, "loop": True}}), encoding="utf-8")
    (folder / "sheet.png").write_bytes(b"kept as it is")
    return folder


def test_a_clip_is_written_as_its_engine_plays_it(tmp_path: Path) -> None:
    source = clip(tmp_path / "knight")
    for name, files in (("unreal", {"sheet.png", "sheet.json"}), ("godot", {"sheet.png", "sheet.json", "clip.ogv"}),
                        ("unity", {"sheet.png", "sheet.json", "clip_vp8.webm"})):
        done = export(source, tmp_path / name, name, pack=name == "unity")
        beside = {path.name for path in (tmp_path / name).iterdir() if path.is_file()} - {"Knight_unity.zip"}
        assert beside == files | {"Knight.manifest.json"}
        assert (done.manifest["frames"], done.manifest["fps"], done.manifest["loop"]) == (6, 12.0, True)
        assert done.manifest["rig"] is None and "no rig is made" in done.manifest["note"]
        assert done.manifest["papers"] == {"seed": "7", "prompt": "a knight"}
        assert (tmp_path / name / "sheet.png").read_bytes() == b"kept as it is"
        assert len(list((tmp_path / name / "frames").iterdir())) == 6
    from engine.clips.video import decoded
    assert len(list(decoded(tmp_path / "unity" / "clip_vp8.webm", (32, 24), "vp8"))) == 6
    with pytest.raises(BadInput, match="print takes no clips"):
        export(source, tmp_path / "no", "print")
    (source / "sheet.json").unlink()
    with pytest.raises(BadInput, match="how fast the clip runs"):
        export(source, tmp_path / "no", "godot")
    (source / "frames" / "00002.png").unlink()
    with pytest.raises(BadInput, match="frames are missing"):
        export(source, tmp_path / "no", "godot")


def test_what_cannot_be_exported_is_said_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.obj").write_text(OBJ.replace("mtllib a.mtl\n", ""), encoding="ascii")
    (tmp_path / "empty").mkdir()
    cases = [(("nowhere", "--profile", "godot"), "no file or folder"), ((tmp_path / "empty", "--profile", "godot"),
              "no asset in"), ((tmp_path / "a.obj", "--profile", "godto"), "Did you mean godot"),
             ((tmp_path / "a.obj", "--profile", "godot", "--formats", "gbl"), "Did you mean"),
             ((tmp_path / "a.obj", "--profile", "godot", "--name", "my mug"), "My_Mug"),
             ((tmp_path / "a.obj", "--profile", "godot", "--set", "fit_field.steps=3"), "fit_field"),
             ((tmp_path / "a.obj", "--profile", "godot", "--up", "x"), "--up is x")]
    for words, said in cases:
        assert run("export", *words, "--out", tmp_path / "out") == 2
        told = capsys.readouterr().err
        assert said in told and len(told.strip().splitlines()) == 1, told
    assert run("export", tmp_path / "a.obj", "--profile", "godot", "--out", tmp_path) == 2
    assert "folder of the source" in capsys.readouterr().err
    flat = "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n"
    (tmp_path / "flat.obj").write_text(flat, encoding="ascii")
    with pytest.raises(BadInput, match="no size in metres. Say how tall"):
        measured_height(tmp_path / "flat.obj")
    (tmp_path / "bad.glb").write_bytes(b"glTF")
    assert run("check", tmp_path / "bad.glb", "--json") == 1
    assert "unreadable" in {one["code"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert run("check", tmp_path / "gone.glb") == 2 and not (tmp_path / "out" / "a.glb").exists()


def test_names_that_every_engine_takes(tmp_path: Path) -> None:
    for title, name in (("a red mug", "Red_Mug"), ("chair-col", "Chair"), ("UCX_rock_00", "Rock_00"),
                        ("42", "Asset_42"), ("Schöne Tür", "Schone_Tur"), ("mug_LOD0", "Mug"), ("", "Asset"),
                        ("x" * 99, "X" + "x" * 47)):
        assert file_name(title) == name
    (tmp_path / "one.glb").write_bytes(b"")
    assert find_source(tmp_path).path == tmp_path / "one.glb"
    (tmp_path / "two.glb").write_bytes(b"")
    with pytest.raises(BadInput, match="holds many assets"):
        find_source(tmp_path)


def test_a_run_of_many_is_written_for_its_engines(made: Path, tmp_path: Path) -> None:
    import shutil

    from engine.export_api import export_run
    from engine.recipes.batch import load_batch
    (tmp_path / "kit.toml").write_text('format = 1\npipeline = "text_to_mesh"\nprompt = "a mug"\n[export]\nprofiles = '
                                       '["godot", "blender", "godot"]\n[[asset]]\nid = "a"\n', encoding="utf-8")
    assert load_batch(tmp_path / "kit.toml").export.profiles == ("godot", "blender")
    (tmp_path / "kit.toml").write_text('format = 1\n[export]\nprofiles = ["gadot"]\n', encoding="utf-8")
    with pytest.raises(BadInput, match=r"export.profiles\[1\]"):
        load_batch(tmp_path / "kit.toml")
    run_folder = tmp_path / "run"
    clip(run_folder / "assets" / "knight")
    shutil.copytree(run_folder / "assets" / "knight", run_folder / "assets" / "torn")
    (run_folder / "assets" / "torn" / "frames" / "00003.png").unlink()
    manifest = {"assets": [{"id": name, "status": status, "folder": f"assets/{name}", "files": []}
                           for name, status in (("knight", "done"), ("torn", "cached"), ("late", "waiting"))]}
    said = export_run(run_folder, manifest, ("godot",), store=tmp_path / "store", device="cpu")
    assert said[0] == f"for godot: 1 assets in {run_folder / 'exports' / 'godot'}" and len(said) == 2
    assert said[1].startswith("torn was not exported for godot: frames are missing")
    assert (run_folder / "exports/godot/knight/Knight.manifest.json").is_file()
