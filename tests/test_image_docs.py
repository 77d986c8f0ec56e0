"""docs/images.md runs as it is written: quickly with tiny networks, and (slow) with the models that ship inside."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from test_examples import ROOT, blocks

from engine.artifacts import save_png
from engine.cli import main

LINES = [line for block in blocks(ROOT / "docs" / "images.md", "sh") for line in block.splitlines() if line.strip()]


def files(folder: Path) -> None:
    """The pictures that the page names: a held-out mug of the toybox, and a mask over its handle."""
    from engine.artifacts import over_white
    from engine.toybox.generate import framed, scene_of
    from engine.toybox.render import render
    scene = scene_of("held_out", 0)
    rgba = render([scene], [framed(scene, 30, 20, 40, 0.7, 128)], 128).rgba[0]
    save_png(folder / "mug.png", over_white(rgba))
    mask = np.zeros((128, 128), np.float32)
    mask[30:110, 80:] = 1
    save_png(folder / "handle.png", mask)


def run(line: str, folder: Path, *more: str) -> Path:
    """Run one line of the page; -> what it wrote."""
    words = shlex.split(line, comments=True)
    assert words[:2] == ["maquette", "image"], line
    with pytest.raises(SystemExit) as caught:
        main([*words[1:], *more, "--device", "cpu"])
    assert not caught.value.code, line
    return folder / words[words.index("--out") + 1]


def test_every_line_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_models import tiny_set

    import engine.models.sets
    monkeypatch.setattr(engine.models.sets, "BUILTIN_FOLDER", tiny_set().folder)
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    assert len(LINES) >= 7 and {shlex.split(line)[2] for line in LINES} == {
        "edit", "inpaint", "outpaint", "control", "prompt", "maps", "upscale"}
    for line in LINES:
        verb = shlex.split(line)[2]
        quick = {"inpaint": ["--seam", "0", "--steps", "2"], "outpaint": ["--seam", "0", "--steps", "2"],
                 "maps": [], "upscale": []}.get(verb, ["--steps", "2"])
        made = run(line, tmp_path, *quick)
        assert made.exists() and (made.is_file() or any(made.rglob("*.png")))


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_every_line_runs_on_the_built_in_models(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    assert run(line, tmp_path).exists()
