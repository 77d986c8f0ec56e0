"""Texts with names in braces: ``"a {colour} mug"``.

A name that is known stands for its value. A plain name that is not known is a mistake and refused with the nearest one.
Everything else in braces (``{x.__class__}``, ``{0}``, ``{a!r}``, a brace alone) stays as it is written: nothing is
looked up, nothing is called. ``{{`` and ``}}`` are braces. A value goes in as it is: braces in it mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from engine.errors import BadInput
from engine.runs.words import nearest

_PART = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]{0,63})\}")
Parts = tuple[tuple[str, str], ...]
"""(literal text, name that follows it or "")"""


@lru_cache(maxsize=65_536)
def parts(text: str) -> Parts:
    """A template taken apart. It is a pure function of the text, so that 10,000 equal ones cost one."""
    found, literal, last = [], "", 0
    for match in _PART.finditer(text):
        literal += text[last:match.start()]
        last = match.end()
        if match[1] is None:
            literal += match[0][0]
        else:
            found.append((literal, match[1]))
            literal = ""
    return (*found, (literal + text[last:], ""))


def names_in(text: str) -> list[str]:
    """The names that a template asks for, in order."""
    return [name for _, name in parts(text) if name]


def render(text: str, known: Mapping[str, Any], spelled: Callable[[Any], str] | None = None) -> str:
    """The template with its names replaced; all of them must be in ``known`` (``check_names``).

    spelled : value -> text; None: ``spell``
    """
    if "{" not in text and "}" not in text:
        return text
    spelled = spelled or spell
    return "".join(literal + spelled(known[name]) if name else literal for literal, name in parts(text))


def check_names(text: str, known: Collection[str], where: str) -> None:
    """BadInput for a name in braces that is not known.

    where : begins the message, for instance "forest.toml: prompt"
    """
    for name in names_in(text):
        if name not in known:
            raise BadInput(f"{where}: nothing is called {{{name}}}", f"{nearest(name, known)} "
                           f"Define it in [vars] or [matrix], or write {{{{{name}}}}} for the word in braces")


def spell(value: Any) -> str:
    """A variable's value as a text: true and false as TOML has them, numbers as Python's shortest."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
