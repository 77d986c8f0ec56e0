"""How tall things usually are, so that an asset stands at a believable size when nobody says."""

from __future__ import annotations

from engine.toybox.vocabulary import USUAL_HEIGHT_M as TOYBOX

USUAL_HEIGHT_M: dict[str, float] = {
    **TOYBOX,
    "apple": 0.08, "armchair": 0.95, "backpack": 0.5, "bird": 0.2, "book": 0.25, "bookshelf": 1.8, "box": 0.4,
    "bus": 3.0, "castle": 12.0, "cat": 0.3, "character": 1.75, "clock": 0.3, "coin": 0.03, "crown": 0.12, "cup": 0.1,
    "desk": 0.75, "dice": 0.02, "dog": 0.55, "door": 2.0, "drum": 0.5, "fence": 1.0, "fish": 0.2, "flower": 0.4,
    "gem": 0.05, "girl": 1.2, "guitar": 1.0, "hat": 0.2, "helmet": 0.28, "hydrant": 0.8, "jar": 0.2, "knight": 1.8,
    "ladder": 2.5, "lantern": 0.35, "lighthouse": 20.0, "log": 0.4, "man": 1.75, "person": 1.75, "piano": 1.2,
    "pillar": 3.0, "plane": 3.0, "plant": 0.6, "pot": 0.25, "pumpkin": 0.3, "robot": 1.7, "shelf": 1.8, "ship": 8.0,
    "shoe": 0.12, "sign": 2.0, "skull": 0.2, "sofa": 0.85, "spaceship": 5.0, "tent": 1.5, "torch": 0.5, "truck": 2.8,
    "trumpet": 0.5, "well": 2.0, "wizard": 1.75, "woman": 1.65,
}

PREPOSITIONS = frozenset(
    ("with", "of", "on", "in", "made", "from", "at", "under", "over", "by", "near", "beside", "behind", "and", "for",
     "seen"))


def usual_height_m(kind: str | None) -> float:
    """Metres for a kind's name (lower case, one word); 1 m where it is not known."""
    return USUAL_HEIGHT_M.get((kind or "").strip().lower(), 1.0)


def kind_in(text: str) -> str | None:
    """What ``text`` is about, if its usual height is known: the last known word before the first preposition.

    "a red car" -> car; "a mug made of wood" -> mug; "a table lamp" -> lamp; "a lamp on a table" -> lamp.
    """
    words = ["".join(c for c in word if c.isalpha()) for word in text.lower().split()]
    cut = next((i for i, w in enumerate(words) if w in PREPOSITIONS), len(words))
    for part in (words[:cut], words[cut:]):
        known = [w for w in part if w in USUAL_HEIGHT_M]
        if known:
            return known[-1]
    return None
