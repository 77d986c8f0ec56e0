"""maquette run, plan, why, gc and verify as commands, with real pipelines: plans, and as a slow test a draft batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import main

FOREST = """format = 1
name = "forest"
id = "{asset}_{colour}"
pipeline = "text_to_mesh"
quality = "draft"
seed = 3
prompt = "a {colour} {thing}"
[matrix]
colour = ["red", "wooden"]
[[asset]]
id = "mug"
vars = { thing = "mug" }
[[asset]]
id = "thing"
vars = { thing = "qwertz" }
[[asset]]
id = "shown"
pipeline = "image_to_mesh"
image = "duck.png"
prompt = ""
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    import numpy as np

    from engine.artifacts import save_png
    save_png(tmp_path / "duck.png", np.random.default_rng(0).random((64, 64, 3)).astype(np.float32))
    path = tmp_path / "forest.toml"
    path.write_text(FOREST)
    return path


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_plan_says_what_would_run_with_the_slow_ways_keys(recipe: Path, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    from engine.batch_api import plan_any
    from engine.recipes.batch import load_batch
    store = tmp_path / "store"
    assert command("plan", recipe, "--store", store, "--device", "cpu", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["counts"], told["assets"]) == ({"run": 6}, 6) and told["stages_to_run"] == 2 * 9 + 2 * 9 + 2 * 8
    assert told["planned_one_by_one"] == 0, "keys by shape must serve the real pipelines, or plans are slow"
    assert {"text_to_image", "fit_field"} <= set(told["never_timed"])
    for asset, each in zip(load_batch(recipe).assets, told["each"], strict=True):
        _, goals = plan_any(asset.recipe, store=store, device="cpu")
        assert each["id"] == asset.id and each["goals"] == {goal.label: goal.key for goal in goals}
    assert not list((store / "artifacts").glob("*/*"))
    assert command("plan", recipe, "--store", store, "--until", "text_to_imagee") == 2
    assert f"{recipe}: asset mug_red: unknown label 'text_to_imagee'" in capsys.readouterr().err
    assert command("why", recipe, "mug_rde", "--store", store) == 2
    assert "Did you mean mug_red?" in capsys.readouterr().err
    picks = tmp_path / "picks.toml"
    picks.write_text("format = 1\n[picks]\nshown_red = 1\n")
    assert command("plan", recipe, "--store", store, "--picks", picks) == 2
    assert "shown_red has no candidates to pick from" in capsys.readouterr().err


@pytest.mark.parametrize("assets", ["", "[[asset]]\nid = 'mug'\n"])
@pytest.mark.parametrize(("told", "words"), [
    ("[stages.fit_field]\nstepz = 3", "unknown parameter fit_field.stepz. Did you mean steps?"),
    ("[stages.fit_feld]\nsteps = 3", "unknown label 'fit_feld' in --set or [stages.*]. Did you mean fit_field?"),
    ("[gates.fit_feld.psnr]\nminimum = 3", "Did you mean fit_field?"),
])
def test_a_bad_stage_is_told_with_the_file_before_anything_runs(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str, words: str, assets: str) -> None:
    path, store = tmp_path / "r.toml", tmp_path / "store"
    path.write_text(f"format = 1\npipeline = 'text_to_mesh'\nprompt = 'a mug'\n{told}\n{assets}")
    for verb in (["plan", path], ["run", path, "--out", tmp_path / "out"]):
        assert command(*verb, "--store", store, "--device", "cpu") == 2
        said = capsys.readouterr().err.replace("\n", " ")
        assert f"{path.name}: " in said and words in said
    assert not list((tmp_path / "out").glob("assets/*")) and not list(store.glob("artifacts/*/*"))


CLIPS = """format = 1
pipeline = "character_to_clip"
quality = "draft"
frames = 4
[matrix]
motion = ["idle", "walk"]
[[asset]]
id = "knight"
prompt = "a knight"
"""


def test_clips_are_planned_by_kept_shapes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a finished recipe of them is asked again: nothing heavy is planned, unless this machine writes other files."""
    from engine import batch_api
    from engine.recipes.batch import load_batch
    from engine.runs.batch.journal import Known
    from engine.runs.batch.planning import BatchPlan, plan_batch
    from engine.runs.store import Store
    (tmp_path / "r.toml").write_text(CLIPS)
    batch = load_batch(tmp_path / "r.toml")

    def planned() -> BatchPlan:
        planner = batch_api.Planner(tmp_path / "store", "cpu")
        return plan_batch(batch.assets, planner, Store(tmp_path / "store"), Known(), None, tmp_path)
    first = planned()
    assert first.slow == 0
    for asset, own in zip(batch.assets, first.assets, strict=True):
        _, goals = batch_api.plan_any(asset.recipe, store=tmp_path / "store", device="cpu")
        assert own.goals == {goal.label: goal.key for goal in goals}
    with monkeypatch.context() as patch:
        patch.setattr(batch_api, "plan_any", None)
        assert planned().assets == first.assets
        patch.setattr(batch_api, "writable", lambda: ("gif",))
        with pytest.raises(TypeError):  # it must be planned anew: another ffmpeg, other files
            planned()


def test_gc_and_verify_say_before_they_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from batch_fakes import FakeAsset, order_for

    from engine.runs.batch.work import work
    from engine.runs.store import Store
    store = Store(tmp_path / "store")
    order = order_for(tmp_path / "out", store.root)
    stages = work(order.task(FakeAsset("a"), tmp_path / "out" / "assets" / "a")).summary["stages"]
    path = store.folder_of(stages[0]["key"]) / "files" / "picture.png"
    path.write_bytes(path.read_bytes()[:-1])
    assert command("verify", "--store", store.root) == 1
    told = capsys.readouterr()
    assert f"{stages[0]['key']}: picture.png was changed" in told.out and "--mend" in told.err
    assert command("verify", "--store", store.root, "--mend") == 0
    assert command("verify", "--store", store.root) == 0 and "2 of 2 results" in capsys.readouterr().out
    store.add_root("kept", {"keys": [stages[1]["key"]]})
    assert command("gc", "--store", store.root) == 0
    told = capsys.readouterr()
    assert "1 results that no run keeps" in told.out and "\n  export: 1, " in told.out and len(list(store.keys())) == 2
    assert command("gc", "--store", store.root, "--yes") == 0
    assert list(store.keys()) == [stages[1]["key"]]
    assert command("gc", "--store", store.root, "--forget", "k*", "--yes") == 0
    assert list(store.keys()) == []


@pytest.mark.slow
def test_a_draft_batch_from_concept_to_mesh(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates first, then picks, two workers, again with nothing to do, then a change and its reason."""
    common = ["--store", tmp_path / "store", "--device", "cpu", "--set", "fit_field.steps=20", "--set",
              "render_turntable.frames=8"]
    out = tmp_path / "out"
    words = ["run", recipe, "--out", out, *common]
    recipe.write_text(FOREST.partition('[[asset]]\nid = "thing')[0])
    assert command(*words, "--until", "text_to_image") == 0
    assert len(list(out.glob("assets/mug_red/candidates/*.png"))) == 2 and not list(out.glob("assets/*/asset.glb"))
    picks = out / "picks.toml"
    picks.write_text("format = 1\n[picks]\nmug_red = 1\nmug_wooden = false\n")
    assert command(*words, "--picks", picks) == 0
    made = json.loads((out / "manifest.json").read_text())
    assert [(a["id"], a["status"]) for a in made["assets"]] == [("mug_red", "done")]
    glb = (out / "assets" / "mug_red" / "asset.glb").read_bytes()
    assert [s["label"] for s in made["assets"][0]["stages"] if s["cached"]] == ["text_to_image"]
    before = (out / "journal.jsonl").read_bytes()
    assert command(*words, "--picks", picks) == 0
    assert (out / "journal.jsonl").read_bytes() == before, "nothing was left to do"
    assert command(*words, "--workers", 2) == 0  # now both, by their best candidates
    told = {a["id"]: a for a in json.loads((out / "manifest.json").read_text())["assets"]}
    assert set(told) == {"mug_red", "mug_wooden"} and all(a["status"] in ("done", "cached") for a in told.values())
    assert (out / "assets" / "mug_red" / "asset.glb").read_bytes() == glb, "another run's files were overwritten"
    capsys.readouterr()
    assert command("why", recipe, "mug_red", "--out", out, *common, "--set", "fit_field.samples=4096") == 0
    assert "fit_field: samples: 8192 -> 4096" in capsys.readouterr().out
