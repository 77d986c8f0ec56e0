"""How long a plan would take and how much disk, from what the store keeps of stages that were made before."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.runs.batch.planning import AssetPlan, BatchPlan
from engine.runs.store import Store

LOOKED_AT = 600
"""Results of the store that are read at most; keys are hashes, so that the first ones are a fair sample."""
ENOUGH = 8


@dataclass(frozen=True)
class Estimate:
    """seconds : of one worker's work; bytes : of results, the copies in the run's folder aside

    timed : of the stages, how many have a time
    unknown : labels of stages that were never made here with such settings; they count as nothing
    """

    seconds: float
    bytes: int
    stages: int
    timed: int
    unknown: tuple[str, ...]


def estimate(plan: BatchPlan, assets: Iterable[AssetPlan], store: Store, device: str) -> Estimate:
    """Of the stages that ``assets`` miss. device : results made on another class of device tell nothing."""
    wanted: dict[tuple[int, str, str], int] = defaultdict(int)
    for asset in assets:
        for stage in asset.stages:
            if stage.found == "missing":
                wanted[asset.shape, stage.label, stage.stage] += 1
    kept = _kept(store, {stage for _, _, stage in wanted}, device.partition(":")[0])
    settings = {(number, stage["label"]): stage["params"] for number, shape in enumerate(plan.shapes)
                for stage in shape.data["stages"]}
    seconds, size, timed, unknown = 0.0, 0.0, 0, []
    for (shape, label, name), count in wanted.items():
        found = _nearest(kept.get(name, []), settings.get((shape, label), {}))
        if not found:
            unknown.append(label)
            continue
        timed += count
        seconds += count * statistics.median(one["seconds"] for one in found)
        size += count * statistics.median(one["bytes"] for one in found)
    return Estimate(seconds, int(size), sum(wanted.values()), timed, tuple(dict.fromkeys(unknown)))


def _kept(store: Store, stages: set[str], device: str) -> dict[str, list[dict[str, Any]]]:
    """stage -> [{"seconds", "bytes", "params"}] of kept results."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, key in enumerate(store.keys() if stages else ()):
        if number >= LOOKED_AT or all(len(found[stage]) >= ENOUGH for stage in stages):
            break
        folder = store.folder_of(key)
        try:
            told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if told["stage"] not in stages or told["ground"]["device"] != device:
                continue
            timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
            found[told["stage"]].append({"seconds": float(timing["seconds"]), "params": told["params"],
                                         "bytes": sum(about["bytes"] for about in told["files"].values())})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _nearest(kept: list[dict[str, Any]], params: dict[str, Any]) -> list[dict[str, Any]]:
    """Those whose numbers and choices agree with ``params`` most; texts are words, and cost nothing."""
    def agreement(one: dict[str, Any]) -> int:
        return sum(one["params"].get(name) == value for name, value in params.items())
    most = max(map(agreement, kept), default=0)
    return [one for one in kept if agreement(one) == most]
