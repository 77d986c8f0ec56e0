"""The folder a user takes away, its report, and the manifest that keeps it in the store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.api import Asset
from engine.artifacts import Candidates, Files, Picture
from engine.errors import BadInput
from engine.export.folder import changed_files, read_report, write_folder
from engine.job import Job, Params, stage
from engine.recipes.recipe import Recipe, load_recipe, make_recipe
from engine.runs.files import file_digest
from engine.runs.manifest import build_manifest
from engine.runs.run import Run
from engine.runs.store import Store
from tests.fake_stages import CALLS, FakeModels, Paint, dim, paint, pick


class Named(Params):
    folder: str = ""


@stage(version=1, roles=("painter",))
def text_to_image(p: Paint, job: Job) -> Candidates:
    return paint(p, job)


@stage(version=1)
def export_mesh(picture: Picture, p: Named, job: Job) -> Files:
    folder = Path(p.folder)
    folder.mkdir(exist_ok=True)
    (folder / "asset.glb").write_bytes(picture.image.tobytes()[:64])
    job.metric("infinite", float("inf"), "dB")
    return Files(folder, {"asset.glb": "mesh"})


@pytest.fixture(autouse=True)
def viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path, report: dict[str, Any]) -> None:
        (folder / "report.html").write_text(report["asset"])
    monkeypatch.setitem(sys.modules, "engine.export.viewer", SimpleNamespace(write_report_html=write))


def make_asset(tmp_path: Path, recipe: Recipe | None = None, until: str | None = None, **kwargs: Any) -> Asset:
    recipe = recipe or make_recipe(pipeline="text_to_mesh", prompt="a red mug", seed=5)
    run = Run(Store(tmp_path / "store"), FakeModels(), device="cpu", seed=recipe.seed, until=until, **kwargs)
    candidates = run(text_to_image, label="paint")
    mesh = run(dim, run(pick, candidates))
    goal = run(export_mesh, mesh, folder=str(tmp_path / "scratch"))
    outcomes = run.perform(goal)
    return Asset(recipe, run, outcomes, mesh, 1.25)


def test_all_files_are_there_and_the_report_lists_them(tmp_path: Path) -> None:
    asset, out = make_asset(tmp_path), tmp_path / "out"
    assert asset.save(out) == out
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert names == ["asset.glb", "candidates/00.png", "candidates/01.png", "candidates/02.png", "recipe.toml",
                     "report.html", "report.json"]
    report = read_report(out)
    assert report == asset.report and changed_files(out, report) == []
    assert {f.path: f.role for f in report.files} == {
        "asset.glb": "mesh", "candidates/00.png": "candidate", "candidates/01.png": "candidate",
        "candidates/02.png": "candidate", "recipe.toml": "recipe"}
    assert all(f.sha256 == file_digest(out / f.path) for f in report.files)
    assert (report.asset, report.pipeline, report.seed) == ("a_red_mug", "text_to_mesh", 5)
    assert [s.label for s in report.stages] == ["paint", "pick", "dim", "export_mesh"]
    assert [m.model_dump() for m in report.models] == [
        {"role": "painter", "id": "fake", "revision": "1", "sha256": "painter-1", "licence": "Apache-2.0",
         "commercial": "yes"}]
    assert report.figure("dim.mean") == report.figure("mean") and report.figure("infinite") is None
    assert report.figure("run.seconds") == 1.25 and report.warnings == ["dim: dimmed"]
    assert [(g.metric, g.threshold, g.passed) for g in report.gates] == [("dim.mean", 0.2, True)]
    assert json.loads((out / "report.json").read_text())["schema"] == 1


def test_every_attempt_is_reported(tmp_path: Path) -> None:
    asset = make_asset(tmp_path, overrides={"dim": {"factor": 0.1}})
    assert [(g.passed, g.remedy) for g in asset.report.gates] == [(False, "factor=0.9"), (True, "factor=0.9")]
    assert {s.label: s.attempts for s in asset.report.stages}["dim"] == 2
    manifest = build_manifest(asset.run, asset.outcomes, asset="x", pipeline="p")
    (record,) = [s for s in manifest.stages if s.label == "dim"]
    assert [(a.accepted, a.refused) for a in record.attempts] == [(False, ["mean"]), (True, [])]
    asset.run.store.add_root(manifest.name, manifest.to_json())
    assert asset.run.store.gc() == [] and len(manifest.keys) == 5


def test_what_changed_is_seen(tmp_path: Path) -> None:
    out = make_asset(tmp_path).save(tmp_path / "out")
    (out / "asset.glb").write_bytes(b"other")
    (out / "candidates" / "01.png").unlink()
    assert changed_files(out, read_report(out)) == ["asset.glb was changed", "candidates/01.png is missing"]
    (out / "report.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be read as a report"):
        read_report(out)


def test_until_leaves_no_report_that_looks_finished(tmp_path: Path) -> None:
    asset, out = make_asset(tmp_path, until="paint"), tmp_path / "out"
    asset.save(out)
    assert not asset.complete and (out / "candidates" / "00.png").exists() and (out / "recipe.toml").exists()
    assert not (out / "report.json").exists() and not (out / "asset.glb").exists()
    with pytest.raises(BadInput, match="no finished asset"):
        read_report(out)


def test_until_a_picture_shows_it(tmp_path: Path) -> None:
    make_asset(tmp_path, until="dim").save(tmp_path / "out")
    assert (tmp_path / "out" / "dim.png").exists()


def test_a_second_asset_in_the_folder_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    out = make_asset(tmp_path, overrides={"paint": {"count": 5}}).save(tmp_path / "out")
    (out / "mine.txt").write_text("kept")
    make_asset(tmp_path, overrides={"paint": {"count": 2}}).save(out)
    assert sorted(p.name for p in (out / "candidates").iterdir()) == ["00.png", "01.png"]
    assert (out / "mine.txt").read_text() == "kept"


def test_an_interrupted_save_is_never_taken_for_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_asset(tmp_path).save(tmp_path / "out")
    from engine.runs import files
    for name in ("copy_file", "write_file"):
        monkeypatch.setattr(files, name, lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_asset(tmp_path).save(out)
    assert not (out / "report.json").exists()


def test_the_picture_travels_with_the_recipe(tmp_path: Path) -> None:
    source = tmp_path / "My Mug.PNG"
    source.write_bytes(b"picture")
    recipe = make_recipe(pipeline="image_to_mesh", image=str(source))
    out = make_asset(tmp_path, recipe).save(tmp_path / "out")
    again = load_recipe(out / "recipe.toml")
    assert Path(again.image).read_bytes() == b"picture" and again.title == recipe.title == "my_mug"
    assert write_folder(make_asset(tmp_path, again), out).asset == "my_mug"  # in place, over itself


def test_a_manifest_an_attacker_wrote_removes_nothing_outside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("x")
    (out / "report.json").write_text(json.dumps({"files": [{"path": "../precious"}, {"path": "/etc/hostname"}]}))
    make_asset(tmp_path).save(out)
    assert (tmp_path / "precious").exists()


def test_mesh_and_artifacts_from_python(tmp_path: Path) -> None:
    asset = make_asset(tmp_path)
    assert isinstance(asset.mesh, Picture)  # the fake pipeline's
    assert len(asset.artifact("paint").pictures) == 3
    CALLS.clear()
    again = make_asset(tmp_path)
    assert np.array_equal(again.mesh.image, asset.mesh.image) and CALLS == []  # type: ignore[attr-defined]
