"""The benchmark of motion on a personalised base: its measures by hand, and (slow) itself with the built-in models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_motion as bench

COLOURS = {"taught": bench.UPPER, "base": (0.1, 0.2, 0.9)}


def moving(colour: tuple[float, float, float], speed: int, frames: int = 16) -> np.ndarray:
    """A square of a colour on white that goes round, (f, 64, 64, 3)."""
    made = np.ones((frames, 64, 64, 3), np.float32)
    for k in range(frames):
        column = 8 + int(20 * (1 + np.sin(2 * np.pi * speed * k / frames)))
        made[k, 20:40, column:column + 12] = colour
    return made


def test_the_character_is_painted_above_and_below_its_middle() -> None:
    rgba = np.zeros((8, 4, 4))
    rgba[2:6, 1:3] = (0.5, 0.5, 0.5, 1.0)
    made = bench.painted(rgba)
    assert np.allclose(made[2:4, 1:3, :3], np.array(bench.UPPER) * 0.675)
    assert np.allclose(made[4:6, 1:3, :3], np.array(bench.LOWER) * 0.675)
    assert np.array_equal(made[..., 3], rgba[..., 3])


def test_colours_overlap_as_far_as_they_are_the_same() -> None:
    red, green = (np.ones((1, 8, 8, 3), np.float32) for _ in range(2))
    red[0, 2:6, 2:6], green[0, 2:6, 2:6] = (0.9, 0.1, 0.1), (0.1, 0.9, 0.1)
    assert bench.overlap(red, red) == pytest.approx(1) and bench.overlap(red, green) == 0
    half = red.copy()
    half[0, 2:6, 4:6] = (0.1, 0.9, 0.1)
    assert bench.overlap(half, red) == pytest.approx(0.5 ** 0.5), "the root of one half times one"
    assert bench.hues(half).sum() == pytest.approx(1)


def test_what_moves_alike_goes_together_whatever_its_colour() -> None:
    one, other, faster = moving((0.1, 0.1, 0.1), 1), moving((0.6, 0.0, 0.0), 1), moving((0.1, 0.1, 0.1), 2)
    assert bench.together([one], [other]) == pytest.approx(1, abs=1e-6)
    assert abs(bench.together([one], [faster])) < 0.3
    assert bench.together([one, one], [one, faster]) == pytest.approx((1 + bench.together([one], [faster])) / 2)


def test_the_table_tells_a_kept_look_and_a_motion_that_carries_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "nearer", lambda frames, own, others: float(
        np.abs(frames.mean((0, 1, 2)) - own.mean((0, 1, 2))).sum() < np.abs(frames.mean((0, 1, 2)) - others.mean(
            (0, 1, 2))).sum()))
    from engine.training.motion_figures import changes, unit
    known = {"walk": unit(changes(moving((0, 0, 0), 1))), "wave": unit(changes(moving((0, 0, 0), 2))),
             "spin": unit(changes(moving((0, 0, 0), 3)))}
    clips: dict[str, Any] = {}
    for who, colour in COLOURS.items():
        clips |= {f"{who} walk": [moving(colour, 1)], f"{who} wave": [moving(colour, 2)],
                  f"{who} spin without": [moving(colour, 1)], f"{who} spin with": [moving(colour, 3)],
                  f"{who} unmoved": [moving(colour, 0)]}
    stills = {who: moving(colour, 0, 2) for who, colour in COLOURS.items()}
    told = {one["figure"]: one for one in bench.table(stills["taught"], stills, clips, known)}
    values = [one["value"] for one in told.values()]
    assert values[0] == pytest.approx(1) and values[1] == 100
    assert "clips of the base 0.000" in next(iter(told.values()))["note"]
    assert told["a taught figure moves as the base's does from the same noise"]["value"] == pytest.approx(1, abs=1e-6)
    assert told["a taught figure goes along with walking"]["value"] == pytest.approx(1, abs=1e-6)
    assert told["MotionLoRA: clips of a taught figure that spin"]["value"] == 100
    assert told["MotionLoRA: a taught figure goes along with spinning"]["value"] == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_a_personalised_base_keeps_its_look_and_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, drawn and measured with the models that ship inside: the look stays, and the base's movement with it."""
    monkeypatch.setattr(bench, "SCRATCH", tmp_path)
    monkeypatch.setattr(bench, "FIGURES", 1)
    bench.character(tmp_path / "pictures")
    told = {one["figure"]: one for one in bench.rows(bench.STEPS, (1,))}
    look = told["a taught look in clips: colours shared with the taught pictures"]
    assert look["value"] > 0.15 and "clips of the base 0.0" in look["note"]
    assert told["a taught look in clips: frames nearer to stills with the LoRA than to the base's"]["value"] >= 90
    assert 0.5 < told["motion of a taught figure over the base's"]["value"] < 2
    assert told["a taught figure moves as the base's does from the same noise"]["value"] > 0
    assert (tmp_path / "sheet.png").exists()
