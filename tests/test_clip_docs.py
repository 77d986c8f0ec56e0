"""docs/clips.md runs as it is written: quickly with doubles, and (slow) with the models that ship inside."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from clip_helpers import Set, figure, puppets
from pose_helpers import bvh_text
from test_examples import ROOT, blocks

from engine.artifacts import over_white, save_png
from engine.cli import main
from engine.clips.encode import write_mp4
from engine.clips.formats import FORMATS, named
from engine.export.folder import changed_files, read_report
from engine.models.sets import model_set
from engine.toybox.motions import MOTIONS, pose

PAGE = ROOT / "docs" / "clips.md"
LINES = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.strip()]
DRAWN = ("--pipeline", "zorb", "a knight in red armour", "a green robot", "maquette run")
"""In lines for which networks draw a picture of words, which no double stands for."""


def files(folder: Path, real: bool) -> None:
    """What the page names: a hero, a dance as BVH, and a video of one."""
    hero, frames = figure(), [figure()] * 4
    if real:
        from engine.training.clip_data import render_clip, sample_clip
        clip = render_clip(sample_clip("held_out", 2), frames=8)
        hero, *frames = [over_white(f.astype(np.float32) / 255) for f in (clip["references"][0], *clip["rgba"])]
    save_png(folder / "hero.png", hero)
    write_mp4(folder / "dance.mp4", [np.round(f * 255).astype(np.uint8) for f in frames], 12)
    (folder / "dance.bvh").write_text(bvh_text([pose("dance", k / 24) for k in range(24)]))
    if real:
        zorb(folder / "zorb.safetensors")


def zorb(path: Path) -> None:
    """A LoRA of the built-in text to image, as `maquette train lora` writes it: small random updates."""
    import torch

    from engine.diffusion import lora_files
    from engine.diffusion.lora import Lora
    unet = model_set("builtin").load("text_to_image").unet
    draw = torch.Generator().manual_seed(0)
    layers = {name: m.weight.shape for name, m in unet.named_modules() if name.endswith(("attn1.to_q", "attn2.to_v"))}
    pairs = {name: (torch.randn(2, shape[1], generator=draw) / shape[1] ** 0.5,
                    0.01 * torch.randn(shape[0], 2, generator=draw)) for name, shape in layers.items()}
    lora_files.save(Lora(pairs, dict.fromkeys(pairs, 2.0), {"token": "zorb"}), path)


def run(line: str) -> Path:
    words = shlex.split(line, comments=True)
    assert words[0] == "maquette", line
    with pytest.raises(SystemExit) as caught:
        main([*words[1:], "--device", "cpu"])
    assert not caught.value.code, line
    return Path(words[words.index("--out") + 1])


def check(folder: Path, line: str) -> None:
    if "--until" in line:
        assert (folder / "candidates/02.png").exists() and not (folder / "report.json").exists()
        return
    report = read_report(folder)
    assert changed_files(folder, report) == [] and (folder / "frames/00000.png").exists()
    words = shlex.split(line)
    asked = words[words.index("--formats") + 1].split(",") if "--formats" in words else ["all"]
    for name in named(asked):
        assert (folder / FORMATS[name].file).exists(), (line, name)


@pytest.mark.parametrize("line", [line for line in LINES if not any(word in line for word in DRAWN)])
def test_lines_run_with_doubles(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    puppets(monkeypatch)
    monkeypatch.setattr("engine.models.sets.model_set", lambda *args, **kwargs: Set())
    monkeypatch.chdir(tmp_path)
    files(tmp_path, real=False)
    check(run(line), line)


def test_the_page_names_every_format_and_every_motion() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(about.file in text for about in FORMATS.values()) and all(motion in text for motion in MOTIONS)
    assert len(LINES) == 11


@pytest.mark.slow
def test_every_line_runs_on_the_built_in_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path, real=True)
    for line in LINES:
        check(run(line), line)


@pytest.mark.slow
def test_the_pages_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(PAGE, "python")
    exec(compile(block, str(PAGE), "exec"), {})
    assert len(list((tmp_path / "out/knight/frames").iterdir())) == 16
