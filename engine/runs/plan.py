"""Planning: a stage, its handles and its parameters become one node with one request key. Nothing runs here."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from engine.errors import BadInput
from engine.job import Gate, Params, Spec
from engine.runs.words import nearest, unknown

T = TypeVar("T")

QUALITIES = ("draft", "standard", "high")


@dataclass(frozen=True)
class Handle(Generic[T]):
    """A promise of an artifact: its request key. Two handles with one key stand for the same result."""

    key: str
    label: str
    type: type[T]


@dataclass(frozen=True)
class Node:
    """All that is known of one stage of a plan before anything runs."""

    handle: Handle[Any]
    function: Callable[..., Any]
    spec: Spec
    params: Params
    inputs: tuple[Handle[Any] | None, ...]
    weights: dict[str, str]
    gates: tuple[Gate, ...]
    attempts: int

    @property
    def label(self) -> str:
        return self.handle.label


def resolve_params(spec: Spec, label: str, quality: str, call: Mapping[str, Any],
                   overrides: Mapping[str, Any]) -> Params:
    """Defaults < quality's table < the pipeline's own call < recipe and --set. BadInput names what is wrong."""
    known = list(spec.params.model_fields)
    for name in overrides:
        if name not in known:
            raise BadInput(f"unknown parameter {label}.{name}", nearest(name, known))
    values = {**spec.params.QUALITY.get(quality, {}), **call, **overrides}
    return checked_params(spec.params, label, values)


def checked_params(model: type[Params], label: str, values: Mapping[str, Any]) -> Params:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise BadInput(f"unknown parameter {label}.{name}", nearest(name, model.model_fields)) from error
        given = "" if first["type"] == "missing" else f" (got {_short(first['input'])})"
        where = f"{label}.{name}" if name else label
        raise BadInput(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}", _range(model, name)) from error


def remedied(params: Params, label: str, gates: typing.Iterable[Gate]) -> Params:
    """Parameters of the next attempt: this one's with the remedies of the gates that refused it, checked."""
    changes = {name: value for gate in gates for name, value in gate.remedy}
    if not changes:
        return params
    unseen = {name: getattr(params, name) for name in type(params).model_fields}
    return checked_params(type(params), label, {**unseen, **changes})


def resolve_gates(spec: Spec, label: str, config: Mapping[str, Any]) -> tuple[tuple[Gate, ...], int]:
    """A stage's gates and attempts with a recipe's ``[gates.LABEL]`` applied.

    config : {"attempts": 3, "<metric>": {"minimum", "maximum", "remedy", "explain"} or false to drop the gate}
    """
    gates, attempts = {gate.metric: gate for gate in spec.gates}, spec.attempts
    for name, value in config.items():
        if name == "attempts":
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100:
                raise BadInput(f"gates.{label}.attempts is {_short(value)}", "Give a whole number from 1 to 100")
            attempts = value
        elif value is False:
            gates.pop(name, None)
        elif isinstance(value, Mapping):
            for word in value:
                if word not in ("minimum", "maximum", "remedy", "explain"):
                    raise unknown("key", word, ("minimum", "maximum", "remedy", "explain"), f"gates.{label}.{name}")
            changes = dict(value)
            if "remedy" in changes:
                changes["remedy"] = tuple(sorted(dict(changes["remedy"]).items()))
            gates[name] = replace(gates.get(name, Gate(name)), **changes)
        else:
            raise BadInput(f"gates.{label}.{name} is {_short(value)}",
                           "Give a table with minimum, maximum or remedy, or false to drop the gate")
    return tuple(gates.values()), attempts


def check_inputs(spec: Spec, label: str, handles: tuple[Handle[Any] | None, ...]) -> None:
    """TypeError where a pipeline hands a stage what it does not take."""
    if len(handles) != len(spec.inputs):
        raise TypeError(f"{label}: {spec.name} takes {len(spec.inputs)} artifacts, got {len(handles)}")
    for place, (handle, wanted) in enumerate(zip(handles, spec.inputs, strict=True), start=1):
        got = type(None) if handle is None else handle.type
        if not _fits(got, wanted):
            source = "nothing" if handle is None else f"{got.__name__} of {handle.label}"
            raise TypeError(f"{label}: artifact {place} of {spec.name} is {_name(wanted)}, got {source}")


def refusals(gates: tuple[Gate, ...], metrics: list[dict[str, Any]]) -> list[tuple[Gate, float | None, bool]]:
    """Each gate with its figure and whether it passed; a figure that was never told does not pass."""
    # A metric may be told against several things; the first one told is the gate's.
    values: dict[str, float] = {}
    for metric in metrics:
        values.setdefault(metric["name"], metric["value"])
    results = []
    for gate in gates:
        value = values.get(gate.metric)
        passed = value is not None and not (
            (gate.minimum is not None and not value >= gate.minimum)
            or (gate.maximum is not None and not value <= gate.maximum))
        results.append((gate, value, passed))
    return results


def _fits(got: Any, wanted: Any) -> bool:
    if wanted is Any:
        return True
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return any(_fits(got, choice) for choice in typing.get_args(wanted))
    if wanted is None:
        return got is type(None)
    return isinstance(wanted, type) and issubclass(got, wanted)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _range(model: type[Params], name: str) -> str:
    """What may be given, from the field's own description."""
    field = model.model_fields.get(name.split(".")[0])
    if field is None or not field.description:
        return ""
    return " ".join(field.description.split())
