"""Which part of an asset's keys changed since the journal's last run, in words."""

from __future__ import annotations

import json
from typing import Any

from engine.runs.batch.journal import Known
from engine.runs.batch.shapes import Planned
from engine.runs.batch.summary import parts_of
from engine.runs.keys import canonical_json, seed_of

_GONE = object()


def changes(planned: Planned, known: Known, id: str) -> list[tuple[str, str]]:
    """[(label, what changed)] in the plan's order, [] where nothing did.

    A stage whose own parts are all the same and that changed because of what goes into it says so; stages that follow
    from a changed one only are left to it. LookupError where the journal knows no finished run of the asset.
    """
    line = known.finished.get(id)
    if line is None:
        raise LookupError(id)
    before = {stage["label"]: stage for stage in line["summary"]["stages"]}
    told: list[tuple[str, str]] = []
    run = planned.run
    for node in planned.nodes:
        old = before.pop(node.label, None)
        if old is None:
            told.append((node.label, "this stage is new in the plan"))
            continue
        if old["request"] == node.handle.key:
            continue
        own = [f"{what} {was} -> {now}" for what, was, now in (
            ("stage", old["stage"], node.spec.name), ("version", old["version"], node.spec.version)) if was != now]
        parts = {name: known.parts.get(sha, {}) for name, sha in old["parts"].items()}
        for name, now in parts_of(node, run).items():
            own += _differences(parts.get(name, {}), _plain(now), "" if name == "params" else name)
        seed = seed_of(run.seed, run.asset, node.label)
        refused = len(old.get("refused", []))
        was = old["seed"] if not refused else None  # the record has the accepted attempt's seed, no first one's
        if was is not None and was != seed:
            own.append("the seed (the recipe's seed, or the asset's id)")
        inputs = [handle.label if handle else None for handle in node.inputs]
        if inputs != old["inputs"]:
            own.append(f"its inputs {_names(old['inputs'])} -> {_names(inputs)}")
        told.append((node.label, "; ".join(own) if own else f"follows from {_names(inputs)}"))
    told += [(label, "this stage is no longer in the plan") for label in before]
    return told


def _differences(was: Any, now: Any, path: str) -> list[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        return [one for name in dict.fromkeys([*was, *now])
                for one in _differences(was.get(name, _GONE), now.get(name, _GONE), f"{path}.{name}" if path else name)]
    if was == now and type(was) is type(now):
        return []
    return [f"{path}: {_short(was)} -> {_short(now)}"]


def _plain(value: Any) -> Any:
    """As it stands in the journal: tuples are lists there."""
    return json.loads(canonical_json(value))


def _short(value: Any) -> str:
    if value is _GONE:
        return "absent"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _names(labels: list[str | None]) -> str:
    return ", ".join(label for label in labels if label) or "nothing"
