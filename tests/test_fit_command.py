"""`maquette fit` from end to end with every real stage, small: the folder, the report, resuming, --until."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.artifacts import save_png
from engine.cli import main
from engine.export.folder import changed_files, read_report
from tests import scenes

QUICK = ["fit_field.steps=40", "fit_field.samples=4096", "extract_mesh.resolution=32", "extract_mesh.triangles=400",
         "texture_mesh.texture_size=64", "render_turntable.frames=2", "render_turntable.size=64",
         "render_turntable.gif_size=32", "render_turntable.sheet_size=32"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NeRF-style folder of twelve pictures, three of them held out."""
    folder = tmp_path_factory.mktemp("scene")
    views = scenes.views(9, 3, size=48, samples=1)
    for name, held_out in (("transforms_train.json", False), ("transforms_test.json", True)):
        frames = []
        for i in (views.held_out == held_out).nonzero()[0].tolist():
            save_png(folder / f"{i:02d}.png", views.images[i])
            frames.append({"file_path": f"./{i:02d}", "transform_matrix": views.cameras.camera_to_world[i].tolist()})
        numbers = {"fl_x": float(views.cameras.fx[0]), "fl_y": float(views.cameras.fy[0]), "w": 48, "h": 48,
                   "cx": float(views.cameras.cx[0]), "cy": float(views.cameras.cy[0])}
        (folder / name).write_text(json.dumps({**numbers, "frames": frames}))
    return folder


def run(words: list[str], settings: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--device", "cpu", *(part for text in settings for part in ("--set", text))])
    return int(caught.value.code or 0)


def test_fit_makes_an_asset_and_makes_it_again_from_the_store(scene: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    words = ["fit", str(scene), "--out", str(out), "--store", str(store), "--height", "0.5", "--up", "y"]
    assert run([*words, "--until", "load_views"], QUICK) == 0
    assert not (out / "report.json").exists() and len(list((out / "views").glob("*.png"))) == 12
    assert "stopped after load_views" in capsys.readouterr().out

    assert run(words, QUICK) == 0
    told = capsys.readouterr()
    shown = told.out.replace("\n", "")  # a narrow terminal folds long paths
    assert "asset.glb" in shown and "kept from before" in told.err
    report = read_report(out)
    assert changed_files(out, report) == []
    roles = {record.path: record.role for record in report.files}
    assert {"asset.glb", "turntable.mp4", "turntable.gif", "sheet.png", "recipe.toml"} <= set(roles)
    assert (out / "asset.glb").read_bytes()[:4] == b"glTF" and (out / "report.html").stat().st_size > 1000
    assert [s.label for s in report.stages] == ["load_views", "fit_field", "extract_mesh", "texture_mesh",
                                                "export_mesh", "render_turntable"]
    assert [s.cached for s in report.stages] == [True] + [False] * 5
    assert report.figure("export_mesh.height_m") == pytest.approx(0.5, abs=1e-4)
    assert report.figure("extract_mesh.watertight") == 1 and report.figure("views") == 9
    psnr = report.figure("fit_field.held_out_psnr")
    assert psnr is not None and psnr > 10

    # The recipe in the folder makes the same bytes, all of it from the store.
    assert run(["run", str(out / "recipe.toml"), "--out", str(tmp_path / "again"), "--store", str(store)], []) == 0
    again = read_report(tmp_path / "again")
    assert all(s.cached for s in again.stages) and [s.key for s in again.stages] == [s.key for s in report.stages]
    assert (tmp_path / "again" / "asset.glb").read_bytes() == (out / "asset.glb").read_bytes()

    capsys.readouterr()
    assert run_report(out) == 0 and "fit_field.held_out_psnr" in capsys.readouterr().out
    (out / "asset.glb").write_bytes(b"other")
    assert run_report(out) == 1 and "asset.glb was changed" in capsys.readouterr().err


def run_report(folder: Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["report", str(folder)])
    return int(caught.value.code or 0)


@pytest.mark.parametrize(("settings", "line"), [
    (["fit_feild.steps=40"], "unknown label 'fit_feild' in --set or [stages.*]. Did you mean fit_field?"),
    (["fit_field.stepz=40"], "unknown parameter fit_field.stepz. Did you mean steps?"),
    (["fit_field.steps=0"], "fit_field.steps: Input should be greater than or equal to 1 (got 0)"),
    (["fit_field.steps=many"], "fit_field.steps: Input should be a valid integer"),
])
def test_mistakes_are_found_before_anything_runs(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                 settings: list[str], line: str) -> None:
    assert run(["fit", str(scene), "--out", str(tmp_path / "out")], settings) == 2
    told = capsys.readouterr().err
    assert line in told and len(told.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
