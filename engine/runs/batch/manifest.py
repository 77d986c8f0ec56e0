"""manifest.json of a batch: what became of every asset, put together from the journal. Schema 1.

{"schema": 1, "name", "recipe": {"file", "digest"}, "maquette", "models", "device", "threads", "until", "store",
 "state": "running" | "finished" | "stopped", "stopped": why, "counts": {status: number}, "seconds",
 "assets": [{"id", "status", "error", "pipeline", "prompt", "seed", "seed_id", "cell", "folder", "keys": {label: key},
             "stages": [{label, key, cached, seconds, peak_bytes}], "files": [{path, role, sha256, bytes}],
             "metrics", "gates", "models", "warnings", "seconds", "peak_bytes", "attempts"}]}
status : as of ``executor.AssetResult``, or "waiting" where no run has come to it yet; folder is relative to the run's
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.runs import files
from engine.runs.batch.journal import Known

MANIFEST_SCHEMA = 1
_OF_RECIPE = ("pipeline", "prompt", "seed", "seed_id")


def build_manifest(about: dict[str, Any], assets: Iterable[Any], known: Known, state: str, stopped: str = "",
                   seconds: float = 0.0) -> dict[str, Any]:
    """``about``: name, recipe, maquette, models, device, threads, until, store, as they stand above."""
    listed = [_asset(asset, known) for asset in assets]
    return {"schema": MANIFEST_SCHEMA, **about, "state": state, "stopped": stopped,
            "counts": dict(sorted(Counter(one["status"] for one in listed).items())), "seconds": round(seconds, 3),
            "assets": listed}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """As one act."""
    with files.one_line_errors("the manifest", folder, "--out"):
        files.write_file(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """None where there is none that can be read: the journal makes it again."""
    try:
        told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and told.get("schema") == MANIFEST_SCHEMA else None


def _asset(asset: Any, known: Known) -> dict[str, Any]:
    told = {name: _value(asset.recipe, name) for name in _OF_RECIPE}
    line = known.ended.get(asset.id)
    if line is None:
        return {"id": asset.id, "status": "waiting", "error": "", **told, "cell": dict(getattr(asset, "cell", {})),
                "folder": "", "keys": {}, "stages": [], "files": [], "metrics": [], "gates": [], "models": [],
                "warnings": [], "seconds": 0.0, "peak_bytes": 0, "attempts": 0}
    summary = line["summary"]
    stages = summary.get("stages", [])
    return {"id": asset.id, "status": line["status"], "error": line["error"], **told,
            "cell": dict(getattr(asset, "cell", {})), "folder": line["folder"],
            "keys": {stage["label"]: stage["key"] for stage in stages},
            "stages": [{name: stage[name] for name in ("label", "key", "cached", "seconds", "peak_bytes")}
                       for stage in stages],
            "files": [{name: value for name, value in one.items() if name != "stamp"}
                      for one in summary.get("files", [])],
            **{name: summary.get(name, []) for name in ("metrics", "gates", "models", "warnings")},
            "seconds": line["seconds"], "peak_bytes": line["peak_bytes"], "attempts": line["attempt"] + 1}


def _value(recipe: Any, name: str) -> Any:
    return recipe.get(name, "") if isinstance(recipe, dict) else getattr(recipe, name, "")
