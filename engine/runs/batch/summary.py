"""What is told of an executed asset: plain data for the journal, the manifest and ``maquette why``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.runs.keys import params_json
from engine.runs.plan import Node
from engine.runs.report import Report
from engine.runs.run import Outcome, Run


def parts_of(node: Node, run: Run) -> dict[str, Any]:
    """All that enters a node's key, beside its inputs' keys and its seed: what ``why`` compares."""
    return {"params": params_json(node.params), "weights": node.weights, "ground": asdict(run.ground),
            "gates": {"gates": [asdict(gate) for gate in node.gates], "attempts": node.attempts}}


def summarised(run: Run, outcomes: list[Outcome], report: Report, folder: Path | None, goals: list[str]
               ) -> dict[str, Any]:
    """``AssetResult.summary``.

    written_bytes : of what was computed now, and of the copies in ``folder``
    """
    stages, written = [], 0
    for outcome in outcomes:
        accepted, node = outcome.accepted, outcome.node
        size = sum(int(about["bytes"]) for about in accepted.entry.manifest["files"].values())
        written += 0 if accepted.cached else size
        stages.append({"label": node.label, "stage": node.spec.name, "version": node.spec.version,
                       "request": node.handle.key, "key": accepted.key, "seed": accepted.seed,
                       "inputs": [handle.label if handle else None for handle in node.inputs],
                       "parts": parts_of(node, run), "cached": accepted.cached,
                       "refused": [a.key for a in outcome.attempts[:-1]],
                       "seconds": round(float(accepted.entry.timing.get("seconds", 0.0)), 3),
                       "peak_bytes": int(accepted.entry.timing.get("peak_bytes", 0)), "bytes": size})
    told = report.to_json()
    files = [{**about, "bytes": (folder / about["path"]).stat().st_size} for about in told["files"]] if folder else []
    labels = [outcome.node.label for outcome in outcomes]
    return {"stages": stages, "files": files, "metrics": told["metrics"], "models": told["models"],
            "gates": told["gates"], "warnings": told["warnings"], "complete": len(outcomes) == len(run.planned),
            "goals": {label: run.planned[label].handle.key for label in (
                [run.until] if run.until else goals) if label in labels},
            "written_bytes": written + sum(about["bytes"] for about in files)}
