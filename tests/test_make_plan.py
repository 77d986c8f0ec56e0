"""`maquette make`: the plans of prompt and picture, and the first stages really run, around tiny random networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_set

import engine.models.sets
from engine.api import AssetPlan, make, plan_asset
from engine.artifacts import save_png
from engine.errors import BadInput
from engine.recipes.recipe import make_recipe

TO_MESH = ["cut_out", "image_to_views", "fit_field", "extract_mesh", "texture_mesh", "export_mesh", "render_turntable"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.models.sets, "model_set", lambda name, *rest, **options: tiny_set())


def plan(**values: Any) -> AssetPlan:
    return plan_asset(make_recipe(**{"pipeline": "text_to_mesh", "prompt": "a metal mug", **values}), device="cpu")


def params(planned: AssetPlan, label: str) -> Any:
    return planned.run.planned[label].params


def test_a_prompt_is_planned_as_a_whole() -> None:
    planned = plan(negative="blue", pick=2, elevation_deg=30, height_m=0.1)
    assert list(planned.run.planned) == ["text_to_image", "choose_candidate", *TO_MESH]
    assert params(planned, "text_to_image").prompt == "a metal mug"
    assert params(planned, "text_to_image").negative == "blue"
    assert params(planned, "choose_candidate").index == 2
    assert params(planned, "image_to_views").elevation_deg == 30
    assert params(planned, "texture_mesh").material == "metal"
    assert (params(planned, "export_mesh").kind, params(planned, "export_mesh").height_m) == ("mug", 0.1)
    assert list(planned.run.store.keys()) == [] and planned.run.needed(planned.goals)[-1].label == "render_turntable"


def test_a_picture_is_planned_as_a_whole(tmp_path: Path) -> None:
    save_png(tmp_path / "Red Mug.png", np.zeros((32, 32, 3), np.float32))
    planned = plan(pipeline="image_to_mesh", prompt="", image=str(tmp_path / "Red Mug.png"))
    assert list(planned.run.planned) == ["load_picture", *TO_MESH] and planned.recipe.title == "red_mug"
    moved = (tmp_path / "Red Mug.png").rename(tmp_path / "x.png")
    again = plan(pipeline="image_to_mesh", prompt="", name="Red Mug", image=str(moved))
    assert again.mesh.key == planned.mesh.key  # the path is in no key


def test_pick_changes_what_follows_and_nothing_before() -> None:
    a, b = plan().run.planned, plan(pick=1).run.planned
    assert [label for label in a if a[label].handle.key != b[label].handle.key] == ["choose_candidate", *TO_MESH]


def test_one_parameter_changes_what_follows_and_nothing_before() -> None:
    a, b = plan().run.planned, plan(stages={"extract_mesh": {"triangles": 500}}).run.planned
    assert [label for label in a if a[label].handle.key != b[label].handle.key] == TO_MESH[3:]


@pytest.mark.parametrize(("values", "words"), [
    ({"stages": {"texture": {}}}, "unknown label 'texture'.*Did you mean texture_mesh"),
    ({"stages": {"text_to_image": {"candidats": 3}}}, "Did you mean candidates"),
    ({"stages": {"text_to_image": {"candidates": 0}}}, "text_to_image.candidates: .*1 to 32"),
    ({"gates": {"fit": {}}}, "unknown label 'fit'.*Did you mean fit_field"),
    ({"elevation_deg": 85}, "image_to_views.elevation_deg"),
])
def test_mistakes_are_found_while_planning(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        plan(**values)


def test_make_until_then_pick(tmp_path: Path) -> None:
    quick = {"text_to_image": {"candidates": 3, "steps": 1}}
    first = make("a metal mug", until="text_to_image", stages=quick, device="cpu", store=tmp_path / "store")
    assert not first.complete and len(first.artifact("text_to_image").pictures) == 3
    first.save(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "candidates").iterdir()) == ["00.png", "01.png", "02.png"]
    picked = make("a metal mug", until="choose_candidate", pick=1, stages=quick, device="cpu", store=tmp_path / "store")
    assert [o.accepted.cached for o in picked.outcomes] == [True, False]
    assert np.array_equal(picked.artifact("choose_candidate").image, first.artifact("text_to_image").pictures[1].image)
    with pytest.raises(BadInput, match="there is no candidate 7; there are 3"):
        make("a metal mug", until="choose_candidate", pick=7, stages=quick, device="cpu", store=tmp_path / "store")
