"""Where each value of an asset comes from, for ``maquette show`` and for whoever asks why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from engine.recipes.overrides import flat
from engine.recipes.recipe import Recipe

Source = Literal["engine default", "recipe", "matrix", "asset", "--set"]
"""In rising order: the later one wins."""
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True)
class Origin:
    """A value and who said it. where : "forest.toml: [[asset]] 3", "" for the engine's own"""

    value: Any
    source: Source
    where: str = ""


@dataclass(frozen=True)
class Layer:
    """What one source says, as nested tables of a recipe file."""

    source: Source
    where: str
    values: Mapping[str, Any]


def origins_of(recipe: Recipe, variables: Mapping[str, Any], layers: Iterable[Layer]) -> dict[str, Origin]:
    """Dotted path -> the value as the recipe has it (words in braces replaced) and the highest layer that says it.

    The format, the name and the seed's id, which follow from the file and the asset's id, are left out.

    layers : in rising order; variables : what names in braces stand for, under ``vars.``
    """
    values = {**recipe.model_dump(mode="json", exclude={"format", "name", "seed_id"}), "vars": dict(variables)}
    said: dict[str, Layer] = {}
    for layer in layers:
        for path in flat(layer.values):
            for hidden in [other for other in said if other.startswith(f"{path}.") or path.startswith(f"{other}.")]:
                del said[hidden]  # a gate dropped by `false`, or a table in its place
            said[path] = layer
    return {path: Origin(value, said[path].source, said[path].where) if path in said
            else Origin(value, "engine default") for path, value in flat(values).items()}
