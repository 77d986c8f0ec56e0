"""The words that captions of the training split can hold: what built-in models know where their cards do not say."""

from __future__ import annotations

from functools import cache

from engine.toybox import scene
from engine.toybox.captions import PATTERN_PHRASES, view_phrase
from engine.toybox.props import TRAINED_KINDS


@cache
def caption_words() -> frozenset[str]:
    """Every word of :func:`engine.toybox.captions.caption` for trained kinds, with its articles."""
    phrases = [*TRAINED_KINDS, *scene.RGB, *scene.MATERIALS, *scene.SIZES, *scene.STYLES, "a", "an"]
    phrases += [PATTERN_PHRASES[name][0].format(c="") for name in scene.PATTERNS if name != "plain"]
    phrases += [view_phrase(azimuth, 0.0) for azimuth in (0, 90, 180)] + [view_phrase(0.0, 90.0)]
    return frozenset(word for phrase in phrases for word in phrase.split())
