"""Recipes out of plain values, quickly: of many that differ in words, paths and seeds only, one is checked by pydantic
and the others are copies of it. What may differ in a copy is checked here by the same rules."""

from __future__ import annotations

import json
from typing import Any

from engine.diffusion.prompt import MAX_CHARACTERS, check
from engine.errors import BadInput
from engine.recipes.recipe import PATHS, TABLES, Recipe, checked

FREE = frozenset(("prompt", "negative", "name", "seed_id", *PATHS))
"""Texts of which only whether they are there matters to the rest."""
CHECKED_BEFORE = ("seed",)
"""Of the right type and in range by the models of the file, and without meaning for the rest."""


class Shapes:
    """Makes recipes; remembers each shape it has checked."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Recipe] = {}
        self._tables: dict[int, tuple[Any, str]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def recipe(self, values: dict[str, Any], where: str) -> Recipe:
        """``make_recipe(**values)``, and the same errors, which begin with ``where``.

        values : as the models of the file have checked them; equal tables are best given as one object
        """
        rest = values.copy()
        changes = {name: rest.pop(name) for name in _FREE_OR_CHECKED if name in rest}
        for name in _NESTED:
            if name in rest:
                rest[name] = self._spelled(rest[name])
        shape = (*rest.items(), *[(name, _presence(changes[name])) for name in changes if name in FREE])
        known = self._known.get(shape)
        if known is None:
            known = self._known[shape] = checked(values, where)
            return known
        if prompt := changes.get("prompt"):
            try:
                changes["prompt"] = check(prompt)
            except BadInput as error:
                raise BadInput(where + error.what, error.fix) from None
        if len(changes.get("negative", "")) > MAX_CHARACTERS:
            checked(values, where)  # says so in its own words
        recipe = known.__copy__()
        recipe.__dict__.update(changes)
        return recipe

    def _spelled(self, value: Any) -> str:
        """A table or a list as a text; the same object is spelled once."""
        kept = self._tables.get(id(value))
        if kept is None:
            kept = self._tables[id(value)] = (value, json.dumps(value, sort_keys=True))  # holds it, so its id stays
        return kept[1]


_NESTED = (*TABLES, "formats")
_FREE_OR_CHECKED = (*sorted(FREE), *CHECKED_BEFORE)


def _presence(text: str) -> int:
    """0 for no text, 1 for white space, 2 for words."""
    return bool(text) + bool(text.strip())
