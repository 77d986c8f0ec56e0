"""What the documents tell people to type works: every command and option exists; the slow test really runs them."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from engine.api import plan_asset
from engine.errors import BadInput
from engine.recipes.recipe import load_recipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.toml"))
           if not {"asset", "matrix"} & set(tomllib.loads(path.read_text(encoding="utf-8")))]
"""Of one asset; those of many have tests of their own (test_recipe_examples.py)."""


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a document in ``language``."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_lines(path: Path) -> list[str]:
    """Commands of the document's sh blocks, without comments, and of its inline code that begins with maquette."""
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(code.split()) for code in re.findall(r"`(maquette [^`]*)`", prose)]
    return [line for line in [*(shlex.join(shlex.split(text, comments=True)) for text in lines), *inline] if line]


def of_program(name: str) -> list[Any]:
    return [pytest.param(line, id=f"{path.name}: {line[:60]}") for path in DOCUMENTS for line in shell_lines(path)
            if line.split()[0] == name]


def parsed(words: list[str]) -> Any:
    """The command's own parser over ``words``: raises where a verb or an option does not exist. Nothing is run."""
    from typer.main import get_command

    from engine.cli import app
    command: Any = get_command(app)
    context = command.make_context("maquette", list(words), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("line", of_program("maquette"))
def test_every_command_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    if "..." in words or words in ([], ["--help"]) or len(words) == 1:
        return
    makes = words[0] in ("make", "clip", "fit", "run", "retexture", "refine") or words[:2] == ["toybox", "sheet"]
    if makes and "--out" not in words:
        words += ["--out", "out"]  # prose may leave it out
    parsed(words)


def test_the_parser_does_refuse() -> None:
    for words in (["make", "x", "--out", "y", "--sede", "1"], ["mkae"], ["make", "x"]):
        with pytest.raises(Exception, match="No such|Missing"):
            parsed(words)


@pytest.mark.parametrize("line", of_program("make"))
def test_every_make_target_exists(line: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert next(word for word in shlex.split(line)[1:] if "=" not in word) in targets


@pytest.mark.parametrize("line", of_program("python"))
def test_every_module_exists(line: str) -> None:
    words = shlex.split(line)
    assert words[1] == "-m" or (ROOT / words[1]).exists()
    place = ROOT / words[2].replace(".", "/")
    assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), words[2]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_examples_are_python_and_use_names_that_exist(path: Path) -> None:
    import engine
    for code in blocks(path, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "engine":
                assert hasattr(engine, node.attr), f"{path.name}: engine.{node.attr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_linked_file_is_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_are_accepted_and_planned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_models import tiny_set

    import engine.models.sets
    monkeypatch.setattr(engine.models.sets, "BUILTIN_FOLDER", tiny_set().folder)
    recipe = load_recipe(path)
    plan = plan_asset(recipe, device="cpu")
    assert [node.label for node in plan.run.needed(plan.goals)][-1] == "render_turntable"
    with pytest.raises(BadInput):
        plan_asset(recipe.model_copy(update={"stages": {"no_such_stage": {}}}), device="cpu")


def test_there_are_recipes_for_words_and_for_a_picture() -> None:
    assert {load_recipe(path).pipeline for path in RECIPES} >= {"text_to_mesh", "image_to_mesh"}


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_make_assets(path: Path, tmp_path: Path) -> None:
    command(["run", str(path), "--out", str(tmp_path / "out"), "--set", "fit_field.steps=200"], tmp_path)
    command(["report", str(tmp_path / "out")], tmp_path)


@pytest.mark.slow
def test_the_readmes_examples_run(tmp_path: Path) -> None:
    """Every maquette line of README.md in order, in one folder, with a picture and captures where it names its own."""
    from engine.artifacts import save_png
    from tests import scenes
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    views = scenes.views(16, 0, size=64)
    save_png(tmp_path / "my_mug.png", views.images[0])
    (tmp_path / "captures").mkdir()
    frames = []
    for i, image in enumerate(views.images):
        save_png(tmp_path / "captures" / f"{i}.png", image)
        frames.append({"file_path": f"{i}.png", "transform_matrix": views.cameras.camera_to_world[i].tolist()})
    import json
    (tmp_path / "captures" / "transforms.json").write_text(
        json.dumps({"fl_x": float(views.cameras.fx[0]), "frames": frames}))
    for block in blocks(ROOT / "README.md", "sh"):
        for text in block.splitlines():
            words = shlex.split(text, comments=True)
            if words and words[0] == "maquette":
                command(words[1:], tmp_path)
    for code in blocks(ROOT / "README.md", "python"):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), check=True, timeout=1800)
    assert (tmp_path / "out" / "mushroom" / "report.json").exists()


def environment(folder: Path) -> dict[str, str]:
    import os
    return {**os.environ, "PYTHONPATH": str(ROOT), "MAQUETTE_STORE": str(folder / "store")}


def command(words: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "engine.cli", *words], cwd=folder, env=environment(folder),
                          capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
