"""Names that a user may mistype: the nearest known ones for the message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from engine.errors import BadInput


def nearest(word: str, known: Iterable[str]) -> str:
    """'Did you mean X?' where something is near, else the list of what is known (the first twelve)."""
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if not near:  # a prefix or a part is near too, however long the rest
        near = [name for name in names if word and (word in name or name in word)][:1]
    if near:
        return f"Did you mean {near[0]}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"Known: {shown}" if names else "There are none here"


def unknown(kind: str, word: str, known: Iterable[str], where: str = "") -> BadInput:
    """The error for a name that is not there: BadInput that names the nearest known one."""
    place = f" in {where}" if where else ""
    return BadInput(f"unknown {kind} '{word}'{place}", nearest(word, known))
