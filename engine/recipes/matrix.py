"""The matrix: axes of values, their combinations (cells), what is left out, and what a cell adds to ids and seeds.

An axis is a variable ("colour"), a field of an asset ("motion", "seed") or a stage's parameter
("stages.fit_field.steps"). Axes vary in the order in which they are written, the last one fastest.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import BadInput
from engine.recipes.document import AXIS_FIELDS, FIELDS, RESERVED, AssetTable, MatrixTable
from engine.recipes.names import slug
from engine.recipes.templates import spell
from engine.runs.words import nearest, unknown


@dataclass(frozen=True)
class Cell:
    """One combination.

    values : axis -> value; words : those that names in braces may ask for; fields : what it sets of the asset
    stages : label -> parameter -> value, of its own
    slugs : its part of the asset's id; reseed : its part of the seed's id, "" where the seed does not follow it
    """

    values: dict[str, Any]
    words: dict[str, Any]
    fields: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    slugs: tuple[str, ...]
    reseed: str


@dataclass(frozen=True)
class Matrix:
    """Checked axes. ``Matrix()`` has none: one empty cell."""

    axes: dict[str, tuple[Any, ...]]
    reseed: tuple[str, ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()

    def count(self, fixed: Collection[str] = ()) -> int:
        """How many cells there are before any is left out, without the axes that are fixed."""
        return math.prod(len(values) for axis, values in self.axes.items() if axis not in fixed)

    def cells(self, fixed: Mapping[str, Any]) -> Iterator[Cell]:
        """The cells in order. fixed : axis -> value, for axes that the asset or --set fixes: they do not vary."""
        axes = {axis: values for axis, values in self.axes.items() if axis not in fixed}
        slugs = [_slugs(axis, values) for axis, values in axes.items()]
        reseed = sorted(axis for axis in self.reseed if axis in axes)
        words, fields = [axis for axis in axes if "." not in axis], [axis for axis in axes if axis in FIELDS]
        parameters = [(axis, *axis.split(".", 2)[1:]) for axis in axes if axis.startswith("stages.")]
        for chosen, called in zip(itertools.product(*axes.values()), itertools.product(*slugs), strict=True):
            values = dict(zip(axes, chosen, strict=True))
            if self.exclude and self._left_out({**fixed, **values}):
                continue
            stages: dict[str, dict[str, Any]] = {}
            for axis, label, name in parameters:
                stages.setdefault(label, {})[name] = values[axis]
            yield Cell(values, {axis: values[axis] for axis in words}, {axis: values[axis] for axis in fields}, stages,
                       called, "".join([f"|{axis}={json.dumps(values[axis], ensure_ascii=False)}" for axis in reseed]))

    def _left_out(self, values: Mapping[str, Any]) -> bool:
        return any(all(axis in values and _same(values[axis], value) for axis, value in left.items())
                   for left in self.exclude)


def read_matrix(table: MatrixTable | None, where: str) -> Matrix:
    """A [matrix] as it is written -> checked axes. BadInput names the dotted path.

    where : begins the message, for instance "forest.toml: "
    """
    if table is None:
        return Matrix({})
    axes: dict[str, tuple[Any, ...]] = {}
    for axis, listed in (table.__pydantic_extra__ or {}).items():
        if axis in FIELDS and axis not in AXIS_FIELDS:
            raise BadInput(f"{where}matrix.{axis} cannot be an axis", "Write stages.LABEL.parameter = [...] for one "
                           "of a stage's parameters")
        if axis in (*RESERVED, "id"):
            raise BadInput(f"{where}matrix.{axis}: the name is taken", "Give the axis another name")
        axes[axis] = tuple(listed)
        if axis in FIELDS:
            for number, value in enumerate(listed, start=1):
                _check_field(axis, value, f"{where}matrix.{axis}[{number}]")
    for label, parameters in table.stages.items():
        for name, listed in parameters.items():
            axes[f"stages.{label}.{name}"] = tuple(listed)
    for axis, values in axes.items():
        for number, value in enumerate(values):
            if any(_same(value, other) for other in values[:number]):
                raise BadInput(f"{where}matrix.{axis} has {value!r} twice", "Take one of them out")
    for axis in table.reseed:
        if axis not in axes:
            raise unknown("axis", axis, axes, f"{where}matrix.reseed")
    excluded = tuple(_excluded(given, axes, f"{where}matrix.exclude[{number}]")
                     for number, given in enumerate(table.exclude, start=1))
    return Matrix(axes, tuple(table.reseed), excluded)


def _check_field(axis: str, value: Any, where: str) -> None:
    from pydantic import ValidationError
    try:
        AssetTable.model_validate({axis: value})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = AssetTable.model_fields[axis]
        raise BadInput(f"{where}: {first['msg']} (got {value!r})", f"{axis}: {field.description}"
                       if field.description else "") from None


def _excluded(given: dict[str, Any], axes: dict[str, tuple[Any, ...]], where: str) -> dict[str, Any]:
    """One combination that is left out, flat, with its axes and values checked."""
    flat = dict(given)
    for label, parameters in dict(flat.pop("stages", {}) if isinstance(flat.get("stages"), dict) else {}).items():
        for name, value in parameters.items() if isinstance(parameters, dict) else ():
            flat[f"stages.{label}.{name}"] = value
    if not flat:
        raise BadInput(f"{where} names no axis", "Write { axis = value }")
    for axis, value in flat.items():
        if axis not in axes:
            raise BadInput(f"{where}: there is no axis '{axis}'", nearest(axis, axes))
        if not any(_same(value, known) for known in axes[axis]):
            raise BadInput(f"{where}: {axis} is never {value!r}",
                           f"Its values: {', '.join(spell(one) for one in axes[axis][:12])}")
    return flat


def _same(one: Any, other: Any) -> bool:
    """Equal, and not as true is equal to 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _slugs(axis: str, values: tuple[Any, ...]) -> list[str]:
    """What each value is called in ids: its own words, or its place where it has none."""
    short = axis.rpartition(".")[2]
    found = []
    for number, value in enumerate(values, start=1):
        if isinstance(value, bool):
            found.append(short if value else f"no_{short}")
        elif isinstance(value, int | float):
            found.append(f"{short}_{spell(value)}".replace("-", "m").replace("+", ""))
        else:
            found.append((slug(value) if isinstance(value, str) else "") or f"{short}_{number}")
    return found
