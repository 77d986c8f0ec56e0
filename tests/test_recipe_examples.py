"""The recipes that we ship: each is read, says what its heading promises, and is planned; the smallest is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.batch_api import plan_any
from engine.recipes.batch import Batch, load_batch
from engine.recipes.schema import LINE

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
BATCHES = {"forest_props": 8, "dungeon_kit": 18, "colour_variants": 9, "pictures_to_meshes": 3, "walk_cycles": 12,
           "smoke": 2}
"""Recipe -> how many assets it asks for."""


def loaded(name: str) -> Batch:
    return load_batch(RECIPES / f"{name}.toml")


def test_every_example_is_among_these() -> None:
    found = {path.stem for path in RECIPES.glob("*.toml") if not load_batch(path).single}
    assert found == set(BATCHES)


@pytest.mark.parametrize("name", BATCHES)
def test_it_is_read(name: str) -> None:
    batch = loaded(name)
    assert len(batch.assets) == BATCHES[name] == len({asset.id for asset in batch.assets})
    text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith(f"{LINE}\n# "), "editors complete by the first line, people read the second"
    for asset in batch.assets:
        for place in (asset.recipe.image, asset.recipe.mesh, asset.recipe.poses):
            assert not place or Path(place).is_file()


@pytest.mark.parametrize("name", BATCHES)
def test_it_is_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the slow and sure way, with small models in the place of the built-in ones."""
    from tiny_models import tiny_set

    import engine.models.sets
    monkeypatch.setattr(engine.models.sets, "BUILTIN_FOLDER", tiny_set().folder)
    batch, last = loaded(name), []
    some = batch.assets if len(batch.assets) < 4 else [batch.assets[0], batch.assets[len(batch.assets) // 2],
                                                       batch.assets[-1]]
    for asset in some:
        plan, goals = plan_any(asset.recipe, device="cpu")
        last.append([node.label for node in plan.run.needed(goals)][-1])
    assert set(last) == {"export_clip" if name == "walk_cycles" else "render_turntable"}


def test_the_kit_is_the_same_things_in_three_styles() -> None:
    batch = loaded("dungeon_kit")
    assert Counter(asset.cell["style"] for asset in batch.assets) == {"medieval": 6, "cartoon": 6, "lowpoly": 6}
    by_id = {asset.id: asset for asset in batch.assets}
    chests = [asset for id, asset in by_id.items() if id.startswith("chest")]
    assert {asset.recipe.prompt for asset in chests} == {
        "a medieval wooden chest", "a cartoon wooden chest", "a lowpoly wooden chest"}
    assert len({asset.seed_id for asset in batch.assets}) == 18, "each style has a shape of its own"
    assert {asset.export_name for asset in chests} == {
        f"dungeon_{style}_chest_v{{version}}" for style in ("medieval", "cartoon", "lowpoly")}
    assert batch.budget.seconds == 8 * 3600 and batch.budget.max_failures == 6


def test_colour_variants_share_their_seed() -> None:
    batch = loaded("colour_variants")
    assert len({(asset.recipe.seed, asset.seed_id) for asset in batch.assets}) == 1
    assert {asset.id for asset in batch.assets} >= {"mug_red_dots", "mug_blue_stripes"}
    assert not any("white" in asset.id for asset in batch.assets)


def test_a_new_picture_changes_no_other(tmp_path: Path) -> None:
    import shutil
    shutil.copytree(RECIPES, tmp_path / "recipes")
    before = {asset.id: (asset.seed_id, asset.recipe.seed) for asset in
              load_batch(tmp_path / "recipes/pictures_to_meshes.toml").assets}
    shutil.copy(RECIPES / "duck.png", tmp_path / "recipes/pictures/another.png")
    after = {asset.id: (asset.seed_id, asset.recipe.seed) for asset in
             load_batch(tmp_path / "recipes/pictures_to_meshes.toml").assets}
    assert set(after) - set(before) == {"another"} and before.items() <= after.items()


def test_a_character_keeps_its_seed_in_all_its_motions() -> None:
    batch = loaded("walk_cycles")
    seeds: dict[str, set[str]] = {}
    for asset in batch.assets:
        seeds.setdefault(asset.recipe.prompt, set()).add(asset.seed_id)
    assert len(seeds) == 3 and all(len(ids) == 1 for ids in seeds.values())
    assert Counter(asset.recipe.motion for asset in batch.assets) == {"idle": 3, "walk": 3, "run": 3, "wave": 3}


def test_one_asset_of_the_forest_has_a_seed_of_its_own() -> None:
    by_id = {asset.id: asset for asset in loaded("forest_props").assets}
    assert (by_id["pebble"].recipe.seed, by_id["pebble"].seed_id) == (40, "")
    moved = load_batch(RECIPES / "forest_props.toml", ["seed=12"])
    assert {a.id: a.recipe.prompt for a in moved.assets} == {id: a.recipe.prompt for id, a in by_id.items()}


@pytest.mark.slow
def test_the_smallest_is_made(tmp_path: Path) -> None:
    """maquette run of recipes/smoke.toml with the built-in models: every result is there, and again is nothing."""
    def run() -> subprocess.CompletedProcess[str]:
        words = ["run", str(RECIPES / "smoke.toml"), "--out", str(tmp_path / "out"), "--device", "cpu"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "MAQUETTE_STORE": str(tmp_path / "store")}
        return subprocess.run([sys.executable, "-m", "engine.cli", *words], env=env, capture_output=True, text=True,
                              timeout=1800, check=False)
    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"] == {"done": 2} and manifest["state"] == "finished"
    for asset in manifest["assets"]:
        assert {"asset.glb", "turntable.mp4", "sheet.png"} <= {file["path"] for file in asset["files"]}
        assert all(model["licence"] for model in asset["models"]) and asset["models"]
        from engine.export.glb import unpack
        extras = unpack((out / asset["folder"] / "asset.glb").read_bytes())[0]["asset"]["extras"]
        assert extras["seed"] == asset["seed"] and len(extras["recipe"]) == 64 and extras["licences"]
    assert (out / "gallery/index.html").is_file() and (out / "sheets/page_001.png").is_file()
    before = {path: path.stat().st_mtime_ns for path in (out / "assets").rglob("*") if path.is_file()}
    again = run()
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in (out / "assets").rglob("*") if path.is_file()} == before
