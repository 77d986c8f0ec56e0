"""Prompts: limits, unknown words, views."""

import pytest

from engine.diffusion import prompt
from engine.errors import BadInput
from engine.toybox.vocabulary import WORDS


@pytest.mark.parametrize("text, line", [("", "empty"), (" \n\t ", "empty"), ("?! ...", "no word"),
                                        ("mug " * 2500, r"10,000 characters; the limit is 1,000")])
def test_bad_prompts_are_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(BadInput, match=line) as error:
        prompt.check(text)
    assert "\n" not in str(error.value) and error.value.exit_code == 2 and len(str(error.value)) < 200


def test_white_space_is_made_plain_and_the_limit_itself_passes() -> None:
    assert prompt.check("  a\n red\t mug ") == "a red mug"
    assert len(prompt.check("m" * 1000)) == 1000


def test_unknown_words_are_named_once_with_the_nearest() -> None:
    found = prompt.unknown_words("A crimson mugg, a mugg and a RED Chair", WORDS)
    assert [u.word for u in found] == ["crimson", "mugg"]
    assert found[1].nearest[0] == "mug"
    warning = prompt.unknown_words_warning(found)
    assert "'crimson'" in warning and "'mugg' (nearest known: mug" in warning
    assert prompt.unknown_words("a red-wooden chair, 3d!", WORDS) == []


@pytest.mark.parametrize("text, azimuth, elevation, said", [
    ("a red mug", 0, 20, False), ("a red mug, front view", 0, 20, True), ("a car, side view", 90, 20, True),
    ("a chair, back view", 180, 20, True), ("a chair from behind", 180, 20, True), ("a car, top view", 0, 55, True),
    ("a car seen from above", 0, 55, True), ("a front door", 0, 20, False), ("a car, left side view", 270, 20, True)])
def test_view_words(text: str, azimuth: float, elevation: float, said: bool) -> None:
    assert prompt.view_of(text) == prompt.View(azimuth, elevation, said)
