"""Captions of toybox props, in the closed vocabulary, with as much said as a user might say."""

from __future__ import annotations

import random
from typing import Any

PATTERN_PHRASES = {"dots": ("with {c} dots", "{c} dotted"), "stripes": ("with {c} stripes", "{c} striped"),
                   "bands": ("with {c} bands", "{c} banded"), "checks": ("with {c} checks", "{c} checkered")}


def view_phrase(azimuth_deg: float, elevation_deg: float) -> str:
    """The words for a view: top from 45 degrees up, else the nearest of front, side and back, "" between them."""
    if elevation_deg >= 45:
        return "top view"
    a = (azimuth_deg + 180) % 360 - 180
    if abs(a) <= 25:
        return "front view"
    if abs(abs(a) - 90) <= 25:
        return "side view"
    if abs(a) >= 155:
        return "back view"
    return ""


def caption(spec: dict[str, Any], azimuth_deg: float, elevation_deg: float, rng: random.Random,
            view_words: bool = True) -> str:
    """One caption of ``spec`` (see :class:`engine.toybox.scene.Spec`; a character's spec carries its own "caption").

    Kind and colour are always named; the other attributes mostly, so that the model learns what happens when a prompt
    is silent. Views that no word names get none; so do views near the front, half of the time.
    """
    if spec.get("caption"):
        text = str(spec["caption"])
    else:
        words = []
        if spec["size"] and rng.random() < .8:
            words.append(spec["size"])
        if (spec["style"] != "realistic" and rng.random() < .9) or rng.random() < .08:
            words.append(spec["style"])
        words.append(spec["color"])
        if rng.random() < .6:
            words.append(spec["material"])
        words.append(spec["kind"])
        text = " ".join(words)
        if spec["pattern"] != "plain":
            text += " " + PATTERN_PHRASES[spec["pattern"]][0].format(c=spec["color2"])
        if rng.random() < .85:
            text = ("an " if text[0] in "aeiou" else "a ") + text
    view = view_phrase(azimuth_deg, elevation_deg) if view_words else ""
    if view and not (view == "front view" and rng.random() < .5):
        text += ", " + view
    return text
