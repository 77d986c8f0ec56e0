"""A stage's output may change only with its version number; see tests/golden.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.artifacts import Candidates
from engine.errors import BadInput
from engine.stages.choose_candidate import ChooseCandidate, choose_candidate
from tests.golden import FILE, TOLERANCE, cases, compare, disc, output_of, picture, quiet_job, sketch


@pytest.mark.parametrize("name", sorted(cases()))
def test_output_and_version_agree_with_the_kept_ones(name: str) -> None:
    case = cases()[name]
    told = compare(json.loads(FILE.read_text(encoding="utf-8")), name, case.version, output_of(case), case.tolerance)
    assert not told, told


def test_every_stage_has_a_case() -> None:
    folder = Path(engine.__file__).parent / "stages"
    assert {path.stem for path in folder.glob("[a-z]*.py")} == set(cases())


def test_a_changed_output_with_the_old_version_is_found() -> None:
    kept = {"x": {"version": 1, "digest": "a"}}
    assert compare(kept, "x", 1, "a") == ""
    assert "raise it in @stage(version=...)" in compare(kept, "x", 1, "b")
    assert "now version 2" in compare(kept, "x", 2, "b") and "no golden output" in compare(kept, "y", 1, "a")


def test_a_sketch_forgives_last_bits_and_nothing_more() -> None:
    made = disc()
    kept = {"x": {"version": 1, "sketch": sketch(made)}}
    made.image = made.image + np.float32(1e-6)
    assert compare(kept, "x", 1, sketch(made), TOLERANCE) == ""
    made.image[:32] *= 0.9
    assert "raise it" in compare(kept, "x", 1, sketch(made), TOLERANCE)
    other = disc()
    other.caption = "another"
    assert "raise it" in compare(kept, "x", 1, sketch(other), TOLERANCE)


def test_choose_candidate_takes_the_pick_else_the_best() -> None:
    candidates = Candidates([picture(i) for i in range(3)], [0.1, 0.7, 0.4], 1)
    job = quiet_job("choose_candidate")
    best = choose_candidate(candidates, ChooseCandidate(), job)
    assert best.caption == "picture 1" and best.meta["candidate"] == 1
    assert {m["name"]: m["value"] for m in job.metrics} == {"best": 1, "score": 0.7}
    picked = choose_candidate(candidates, ChooseCandidate(index=0), job)
    assert picked.caption == "picture 0" and (picked.image == picture(0).image).all()
    with pytest.raises(BadInput, match="there is no candidate 3; there are 3, numbered 0 to 2"):
        choose_candidate(candidates, ChooseCandidate(index=3), job)
