"""maquette show: each value with its origin, of one asset and of many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.recipes.batch import load_batch
from tests.test_recipes_batch import FOREST, written


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["show", *words])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_one_asset_with_the_origin_of_each_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, FOREST))
    shown = told([path, "mug-red-triangles_500-texture_size_64", "--set", "quality=high"], capsys)
    rows = {line.split()[0]: line for line in shown.splitlines() if line.startswith("  ")}
    for row, value, source in (("quality", '"high"', "--set"), ("seed", " 7 ", "recipe: forest.toml"),
                               ("vars.kind", '"mug"', "asset: forest.toml: [[asset]] 1"),
                               ("vars.colour", '"red"', "matrix: forest.toml: [matrix]"),
                               ("stages.extract_mesh.triangles", " 700 ", "recipe: forest.toml"),
                               ("stages.texture_mesh.texture_size", " 64 ", "matrix: forest.toml: [matrix]"),
                               ("models", '"builtin"', "engine default"),
                               ("prompt", '"a red mug, low poly"', "recipe: forest.toml")):
        assert value in rows[row] and rows[row].endswith(source), rows[row]
    assert "height_m" not in rows and "drawn as mug|triangles=500" in shown


def test_many_assets_say_what_they_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, FOREST))
    shown = told([path], capsys)
    assert shown.startswith("forest: 7 assets") and "axis colour: \"red\", \"green\"" in shown
    assert "3 values" in next(line for line in shown.splitlines() if line.startswith("  prompt "))
    as_json: dict[str, Any] = json.loads(told([path, "--json"], capsys))
    assert as_json["values"]["quality"] == {"value": "draft", "source": "recipe", "where": "forest.toml"}
    assert len(as_json["assets"]) == as_json["count"] == 7


def test_a_prompt_cannot_paint_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, {"prompt": "a \x1b[31mred\x1b]0;x\x07 mug", "negative": "a\nb"})
    shown = told([str(path)], capsys)
    assert "\x1b" not in shown and "\x07" not in shown and "a\\nb" in shown


def test_every_parameter_of_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAQUETTE_STORE", str(tmp_path / "store"))
    path = str(written(tmp_path, FOREST))
    words = [path, "mug-red-triangles_500-texture_size_64", "--stages", "--json"]
    values: dict[str, Any] = json.loads(told(words, capsys))["values"]
    assert values["stages.extract_mesh.triangles"]["value"] == 700
    steps = values["stages.fit_field.steps"]
    assert steps["value"] > 0 and (steps["source"], steps["where"]) == ("engine default", "text_to_mesh, draft")
    assert {path.split(".")[1] for path in values if path.startswith("stages.")} >= {
        "text_to_image", "cut_out", "image_to_views", "fit_field", "extract_mesh", "texture_mesh", "export_mesh"}


def test_the_recipe_of_the_docs_is_what_they_say(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    batch = load_batch(written(tmp_path, page.partition("```toml\n")[2].partition("```")[0]))
    assert len(batch.assets) == 6 and batch.assets[0].id == "mushroom-red-triangles_500"
    assert [asset.recipe.prompt for asset in batch.assets[-2:]] == ["a grey tree, low poly"] * 2
