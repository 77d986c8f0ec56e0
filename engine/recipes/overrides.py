"""What wins over what: engine default < recipe < matrix < asset < --set. Tables are merged name by name, all else is
replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.recipes.document import FIELDS, check_plain, parse_document
from engine.recipes.recipe import ADAPTERS, FORMAT, PATHS, TABLES, literal, placed

HEADS = ("vars", "matrix", "stages", "gates", "roles", "budget", "export")
"""Tables of the file that a --set may begin with; ``stages.`` is implied where there are two names and neither is one
of these."""
FORM = ("Write a field (quality=draft), LABEL.parameter=VALUE, vars.NAME=VALUE, gates.LABEL.METRIC.minimum=VALUE, "
        "budget.NAME=VALUE or export.NAME=VALUE")


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``under``, table by table; neither is changed."""
    if not over:
        return dict(under)
    result = dict(under)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``PATH=VALUE`` words as a part of a recipe file's values, later ones over earlier ones.

    Files are taken from the current folder, as everywhere on a command line. BadInput for a path that no recipe has
    (its name, type and range are checked as the file's own are).
    """
    told: dict[str, Any] = {}
    for text in settings:
        path, equals, words = text.partition("=")
        parts = [part.strip() for part in path.strip().split(".")]
        if not equals or not all(parts):
            raise BadInput(f"--set {text!r} is not of the form PATH=VALUE", FORM)
        if parts[0] in ("format", "asset", "seed_id"):
            raise BadInput(f"--set {text!r}: {parts[0]} cannot be set", FORM)
        if len(parts) == 2 and parts[0] not in HEADS:
            parts = ["stages", *parts]
        value = literal(words.strip())
        if parts[-1] in ADAPTERS and parts[0] == "stages":
            value = placed(value, Path.cwd())
        elif parts[0] in PATHS and isinstance(value, str) and value:
            value = str(Path.cwd() / value)
        tree: Any = value
        for part in reversed(parts):
            tree = {part: tree}
        told = merged(told, tree)
    check_plain(told, "--set ")
    parse_document({"format": FORMAT, **told}, "--set ")
    return told


def told_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a table of the file says about assets, as it is written; what it does not say comes from below."""
    return {name: values[name] for name in FIELDS if name in values}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted path -> value. Empty tables have no path."""
    paths: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping) and (prefix or name in (*TABLES, "vars")):
            paths |= flat(value, path)
        else:
            paths[path] = value
    return paths
