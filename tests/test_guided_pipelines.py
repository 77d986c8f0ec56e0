"""The pipelines under guidance: planned at every quality, run to the finished folder around tiny random networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from distilling import quad_ball
from tiny_models import tiny_set

import engine.models.sets
from engine.api import AssetPlan, plan_asset, refine_recipe
from engine.artifacts import save_png
from engine.cli import main
from engine.distillation_pipelines import STEPS
from engine.errors import BadInput
from engine.export.glb import write_glb
from engine.recipes.recipe import CLIPS, NEEDS, PIPELINES, load_recipe, make_recipe

DIRECT = ["cut_out", "estimate_elevation", "image_to_views", "fit_field"]
PUBLISHED = ["export_mesh", "render_turntable"]
LABELS = {
    "dreamfusion": ["dream", "extract_mesh", "texture_mesh"], "magic3d": ["coarse", "refine_mesh"],
    "zero123": ["load_picture", *DIRECT, "sharpen", "refine_mesh"],
    "one2345": ["load_picture", *DIRECT[:3], "carve_mesh", "paint_mesh"],
    "dreamcraft3d": ["load_picture", *DIRECT, "coarse", "surface", "geometry", "texture"],
    "retexture": ["load_mesh", "retexture"], "refine": ["load_mesh", "refine_mesh"]}
FIELD = {"steps": 2, "sizes": [[0, 16, 1]], "levels": 3, "finest": 32, "log2_table": 10, "hidden": 8, "occupancy": 16,
         "reference_rays": 64, "lessons": 2}
MESH = {"steps": 2, "resolution": 8, "size": 16, "texture_size": 64, "triangles": 200, "lessons": 2}
TINY: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("dream", "coarse", "sharpen", "surface"), FIELD), "refine_mesh": MESH, "geometry": MESH,
    "retexture": {"steps": 2, "size": 16, "texture_size": 64},
    "texture": {"steps": 2, "size": 16, "texture_size": 64, "text_lessons": 1, "text_class_pictures": 0,
                "text_points": [0.0], "lessons": 2},
    "image_to_views": {"azimuths": 2, "steps": 1}, "carve_mesh": {"resolution": 16}, "paint_mesh": {"texture_size": 64},
    "fit_field": {"steps": 5, "samples": 256, "levels": 3, "finest": 32, "occupancy": 16},
    "extract_mesh": {"resolution": 16, "triangles": 200}, "texture_mesh": {"texture_size": 64},
    "render_turntable": {"frames": 2, "size": 64, "gif_size": 32, "sheet_size": 32}}
LOOSE = {"filled", "opaque_share", "coverage", "janus", "triangles", "loose_share", "extent", "contrast", "watertight",
         "uv_overlap"}
"""What random networks make is judged by no gate."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine.models.sets, "model_set", lambda name, *rest, **options: tiny_set())
    monkeypatch.chdir(tmp_path)
    image = np.ones((64, 64, 3), np.float32)
    image[16:48, 20:44] = 0.8, 0.2, 0.1
    save_png(Path("picture.png"), image)
    ball = quad_ball()
    write_glb(Path("ball.glb"), ball.vertices, ball.faces, ball.normals, ball.uvs, ball.base_color, 0.0, 0.5)


def asked(name: str) -> dict[str, Any]:
    given = {"prompt": "a red mug"} if name != "zero123" else {}
    if name in ("zero123", "one2345", "dreamcraft3d"):
        given["image"] = "picture.png"
    if name in ("retexture", "refine"):
        given["mesh"] = "ball.glb"
    return given


def plan(name: str, **values: Any) -> AssetPlan:
    return plan_asset(make_recipe(**{"pipeline": name, **asked(name), **values}), store="store", device="cpu")


def tiny_plan(name: str) -> AssetPlan:
    first = plan(name).run.planned
    gates = {label: {gate.metric: False for gate in node.gates if gate.metric in LOOSE}
             for label, node in first.items() if node.gates}
    return plan(name, stages={label: TINY[label] for label in first if label in TINY}, gates=gates)


@pytest.mark.parametrize("quality", ["draft", "standard", "high"])
@pytest.mark.parametrize("name", LABELS)
def test_every_pipeline_is_planned_at_every_quality(name: str, quality: str) -> None:
    planned = plan(name, quality=quality).run
    assert list(planned.planned) == [*LABELS[name], *PUBLISHED]  # labels are unique: they are the dict's keys
    assert list(planned.store.keys()) == []
    for label in set(planned.planned) & set(STEPS):
        table = STEPS["sharpen" if (name, label) == ("dreamcraft3d", "coarse") else label][quality]
        assert planned.planned[label].params.steps == table["steps"]  # type: ignore[attr-defined]


def test_tables_name_every_quality_and_grow() -> None:
    assert set(PIPELINES[3:]) - set(CLIPS) == set(LABELS) and set(NEEDS) == set(PIPELINES)
    for label, table in STEPS.items():
        assert list(table) == ["draft", "standard", "high"], label
        assert table["draft"]["steps"] < table["standard"]["steps"] < table["high"]["steps"]


def test_only_models_that_guide_are_in_the_keys() -> None:
    nodes = plan("zero123").run.planned
    assert set(nodes["sharpen"].weights) == {"novel_view", "view_judge"}
    assert set(plan("retexture").run.planned["retexture"].weights) == {"text_to_image"}


def test_without_a_picture_one_is_drawn() -> None:
    planned = plan("dreamcraft3d", image="", pick=1).run.planned
    assert list(planned)[:3] == ["text_to_image", "choose_candidate", "cut_out"]
    assert planned["choose_candidate"].params.index == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(("values", "line"), [
    ({"pipeline": "magic3"}, "no pipeline 'magic3'. Did you mean magic3d\\? Known: text_to_mesh, .*refine"),
    ({"pipeline": "dreamfusion", "image": "picture.png", "prompt": "x"}, "image has no meaning in dreamfusion"),
    ({"pipeline": "zero123"}, "zero123 needs image or prompt"), ({"pipeline": "dreamcraft3d"}, "the prompt is empty"),
    ({"pipeline": "retexture", "prompt": "x"}, "retexture needs mesh"),
    ({"pipeline": "retexture", "mesh": "ball.glb"}, "the prompt is empty"),
    ({"pipeline": "refine", "mesh": "ball.glb"}, "refine needs prompt or image"),
    ({"pipeline": "zero123", "image": "picture.png", "pick": 1}, "pick has no meaning beside an image"),
    ({"pipeline": "text_to_mesh", "prompt": "x", "mesh": "ball.glb"}, "mesh has no meaning in text_to_mesh"),
])
def test_wrong_requests_are_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        make_recipe(**values)


@pytest.mark.parametrize(("words", "line"), [
    (["make", "a mug", "--pipeline", "dreamfuson", "--out", "x"], "Did you mean dreamfusion?"),
    (["retexture", "none.glb", "a mug", "--out", "x"], "there is no file none.glb"),
    (["retexture", "ball.glb", "", "--out", "x"], "the prompt is empty"),
    (["refine", ".", "--out", "x"], "holds no finished asset"),
])
def test_the_command_answers_in_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and line in told and len(told.strip().splitlines()) == 1


def run_whole(name: str) -> dict[str, Any]:
    asset = tiny_plan(name).execute()
    asset.save("out")
    report = json.loads(Path("out/report.json").read_text())
    assert [stage["label"] for stage in report["stages"]] == [*LABELS[name], *PUBLISHED]
    assert report["pipeline"] == name
    assert len(trimesh.load("out/asset.glb", force="mesh").faces) == len(asset.mesh.faces)
    assert load_recipe(Path("out/recipe.toml")).pipeline == name
    return dict(report)


@pytest.mark.parametrize("name", ["dreamfusion", "magic3d", "one2345"])
def test_a_pipeline_runs_to_the_finished_folder(name: str) -> None:
    report = run_whole(name)
    assert "view_judge" in {model["role"] for model in report["models"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero123", "dreamcraft3d", "refine"])
def test_a_long_pipeline_runs_to_the_finished_folder(name: str) -> None:
    run_whole(name)


def test_retexture_keeps_the_surface_and_its_place_and_can_be_made_again() -> None:
    run_whole("retexture")
    before, after = (trimesh.load(path, force="mesh", process=False) for path in ("ball.glb", "out/asset.glb"))
    assert np.allclose(before.vertices, after.vertices, atol=1e-5) and np.array_equal(before.faces, after.faces)
    assert np.allclose(before.visual.uv, after.visual.uv, atol=1e-6)
    recipe = load_recipe(Path("out/recipe.toml"))
    assert recipe.mesh == "out/input/ball.glb" and Path(recipe.mesh).read_bytes() == Path("ball.glb").read_bytes()
    folder = refine_recipe("out")
    assert (folder.pipeline, folder.mesh, folder.prompt) == ("refine", "out/asset.glb", "a red mug")
