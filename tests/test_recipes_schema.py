"""The JSON Schema and the loader: documents are generated, and what one takes the other takes.

The schema knows types, ranges and names. What only the loader knows (which field belongs to which pipeline, names in
braces, ids, files) is kept out of the documents here and tested in test_recipes_bad.py.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from jsonschema import Draft202012Validator, validators

from engine.cli import main
from engine.errors import BadInput
from engine.recipes.batch import load_batch
from engine.recipes.schema import LINE, recipe_schema, schema_text

RECIPES = Path(__file__).parents[1] / "recipes"
# TOML tells 1 from 1.0, as the loader does and as editors do; JSON Schema alone does not.
TOML_TYPES = Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool))
TomlValidator: Any = validators.extend(Draft202012Validator, type_checker=TOML_TYPES)


@pytest.fixture(scope="module")
def schema() -> Any:
    return TomlValidator(recipe_schema())


def test_the_schema_is_one(schema: Any) -> None:
    Draft202012Validator.check_schema(schema.schema)


# field -> (values that may stand there, values that may not), of a recipe whose pipeline is text_to_mesh
ASKED: dict[str, tuple[list[Any], list[Any]]] = {
    "prompt": (["a mug", "x" * 900], [3, True, ["a"]]), "negative": (["blue", ""], [3, "x" * 1001]),
    "models": (["builtin"], [1, False]), "quality": (["draft", "high"], ["hgih", 1, ""]),
    "seed": ([0, 7, 2**63 - 1], [-1, 2**63, 7.0, "7", True]), "height_m": ([1, 0.1, 1000], [0, -1, 1000.5, "1", True]),
    "elevation_deg": ([-90, 20.5], [91, "0"]), "pick": ([0, 999], [-1, 1000, 1.5]),
    "roles": ([{}, {"motion": "x"}], [{"motion": 3}, ["x"], "x"]),
    "gates": ([{"fit_field": {"psnr": {"minimum": 3}, "attempts": 2}}], [{"fit_field": 3}, [1]]),
    "vars": ([{"kind": "mug", "n": 3, "yes": True, "x": 0.5}, {}],
             [{"kind": ["a"]}, {"a b": 1}, {"name": "x"}, {"motion": "x"}, {"kind": {}}, {"x" * 65: 1}, 3]),
}
TOP: dict[str, tuple[list[Any], list[Any]]] = {
    **ASKED, "name": (["forest", "A b-c. 2", "größe"], ["a/b", 3, "x" * 81, "a\nb"]),
    "budget": ([{}, {"seconds": 3, "memory_gb": 0.5}, {"max_failures": 1, "disk_gb": 2, "asset_seconds": 1.5}],
               [{"seconds": 0}, {"secnds": 1}, {"max_failures": 0}, {"max_failures": 1.5}, {"memory_gb": "1"}, 3]),
    "export": ([{}, {"overwrite": True, "gallery": False, "sheets": True}, {"name": "{id}_v{version}"}],
               [{"name": ""}, {"name": 3}, {"gallery": 1}, {"galery": True}]),
    "matrix": ([{"colour": ["red", "blue"]}, {"n": [1, 2.5], "yes": [True, False], "reseed": ["n"]},
                {"quality": ["draft", "high"], "exclude": [{"quality": "high"}]}, {"seed": [1, 2]},
                {"stages": {"fit_field": {"steps": [10, 20]}}}],
               [{"colour": []}, {"colour": "red"}, {"colour": [["a"]]}, {"colour": ["a", "a"]}, {"quality": ["hgih"]},
                {"seed": [-1]}, {"seed": ["1"]}, {"a.b": [1]}, {"id": ["a"]}, {"formats": ["gif"]}, {"gates": ["a"]},
                {"reseed": "n"}, {"exclude": [3]}, {"stages": {"fit_field": {"steps": []}}},
                {"stages": {"fit_field": {"steps": 3}}}, {"stages": {"fit_field": [1]}}, {"x" * 65: [1]}, [1]]),
    "asset": ([[{"id": "mug"}, {"id": "cup", "seed": 3}], [{"prompt": "a tree", "vars": {"kind": "x"}}]],
              [{"id": "a"}, [{"id": 3}], [{"id": ""}], [{"ident": "a"}], [{"matrix": {}}], [{"name": "a"}], ["a"],
               [{"id": "a", "seed": "3"}], [{"id": "a", "vars": {"id": 3}}], [{"id": "x" * 201}]]),
    "id": (["{asset}_x"], [3, "", "x" * 201]), "unknown": ([], [3, {}]), "pipline": ([], ["text_to_mesh"]),
    "format": ([1], [2, True, 1.0, "1"]), "pipeline": (["text_to_mesh"], ["text_to_mehs", 3, ""]),
}


def document(draws: random.Random, wrong: int) -> dict[str, Any]:
    """A recipe with fields drawn at random, ``wrong`` of them with a value that may not stand there."""
    told: dict[str, Any] = {"format": 1, "pipeline": "text_to_mesh", "prompt": "a mug"}
    for name, (good, _) in TOP.items():
        if good and draws.random() < 0.3 and not (name == "id" and "matrix" in told):
            told[name] = draws.choice(good)
    if "matrix" in told:
        told.pop("id", None)
    for name in draws.sample(sorted(TOP), wrong):
        told[name] = draws.choice(TOP[name][1]) if TOP[name][1] else told.get(name)
        if told[name] is None:
            del told[name]
    return told


def test_what_one_takes_the_other_takes(tmp_path: Path, schema: Any) -> None:
    """600 documents through TOML; half of them with one or two mistakes."""
    draws, path, taken = random.Random(66), tmp_path / "r.toml", 0
    for number in range(600):
        told = document(draws, wrong=(0, 1, 0, 2)[number % 4])
        text = tomli_w.dumps(told)
        path.write_text(text, encoding="utf-8")
        faults = [error.message for error in schema.iter_errors(tomllib.loads(text))]
        try:
            load_batch(path)
            refused = ""
        except BadInput as error:
            refused = str(error)
        if "two assets have the id" in refused and not faults:  # ids are the loader's; see above
            continue
        assert bool(faults) == bool(refused), (text, faults, refused)
        taken += not refused
    assert 250 < taken < 450


@pytest.mark.parametrize("name", sorted(TOP))
def test_every_value_by_itself(name: str, tmp_path: Path, schema: Any) -> None:
    """One value at a time: a mistake cannot hide behind another."""
    path = tmp_path / "r.toml"
    for good, values in ((True, TOP[name][0]), (False, TOP[name][1])):
        for value in values:
            told = {"format": 1, "pipeline": "text_to_mesh", "prompt": "a mug", name: value}
            path.write_text(tomli_w.dumps(told), encoding="utf-8")
            assert schema.is_valid(tomllib.loads(tomli_w.dumps(told))) == good, (name, value)
            if good:
                load_batch(path)
            else:
                with pytest.raises(BadInput):
                    load_batch(path)


def test_parameters_of_stages_are_those_that_the_plan_takes(schema: Any) -> None:
    """Defaults, limits and unknown names of every stage's numbers, by the schema and by the plan's own check."""
    from engine.recipes.schema import _stages
    from engine.runs.plan import resolve_params
    seen = 0
    for spec in _stages():
        needed = {name: 0 for name, field in spec.params.model_fields.items() if field.is_required()}
        for name, field in spec.params.model_fields.items():
            limits = {type(limit).__name__: limit for limit in field.metadata}
            if field.annotation not in (int, float) or needed:
                continue
            kind = field.annotation
            least = limits["Ge"].ge if "Ge" in limits else None
            values = [field.default, "Q", True, [1]] + ([kind(least), kind(least) - 1] if least is not None else [])
            for value in values:
                told = {"format": 1, "pipeline": "text_to_mesh", "stages": {spec.name: {name: value}}}
                try:
                    resolve_params(spec, spec.name, "standard", {}, {name: value})
                    planned = not isinstance(value, bool)  # pydantic takes True for 1 where the plan is asked
                except BadInput:
                    planned = False
                assert not planned or schema.is_valid(told), (spec.name, name, value)
                if isinstance(value, str | list | bool) or (least is not None and value == kind(least) - 1):
                    assert not schema.is_valid(told), (spec.name, name, value)
                seen += 1
            assert not schema.is_valid({"format": 1, "stages": {spec.name: {name + "_x": 1}}})
            assert schema.is_valid({"format": 1, "stages": {spec.name: {name: "{steps}"}}})  # from the matrix
    assert seen > 200


def test_the_file_beside_the_examples_is_the_engines_own() -> None:
    kept = (RECIPES / "recipe.schema.json").read_text(encoding="utf-8")
    assert kept == schema_text(), "maquette schema --out recipes/recipe.schema.json"


@pytest.mark.parametrize("example", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_editors_complete_the_examples(example: Path, schema: Any) -> None:
    text = example.read_text(encoding="utf-8")
    assert text.startswith(f"{LINE}\n")
    assert (example.parent / LINE.partition(" ")[2]).is_file()
    assert [error.message for error in schema.iter_errors(tomllib.loads(text))] == []


def test_the_verb_prints_it_or_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--out", str(tmp_path / "new" / "s.json")]):
        with pytest.raises(SystemExit) as caught:
            main(["schema", *words])
        assert caught.value.code == 0
        told = capsys.readouterr().out if not words else (tmp_path / "new" / "s.json").read_text(encoding="utf-8")
        assert told == schema_text()


def test_reading_a_recipe_is_light() -> None:
    """No torch, no stages: a recipe of 10,000 assets is looked at without waiting for them."""
    words = ("import sys; from pathlib import Path; from engine.recipes.batch import load_batch; "
             "load_batch(Path(sys.argv[1])); print([name for name in ('torch', 'warp', 'PIL', 'engine.stages') "
             "if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", words, str(RECIPES / "red_mug.toml")], capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == "[]"
