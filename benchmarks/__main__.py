"""``make bench`` / ``python -m benchmarks [GROUP ...] [--json FILE]``: measure, print the table, write the JSON.

Run it on a quiet machine: figures taken while another job runs are not figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GROUPS = ("command", "toybox", "fields", "true_views", "models", "views", "guidance", "controls", "images",
          "clips", "motion", "recipes", "image_to_mesh", "distillation")
RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def machine() -> dict[str, Any]:
    """What the figures were taken on; no names of machines."""
    import torch
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                    if line.startswith("model name")), cpu)
    memory = Path("/proc/meminfo")
    total = int(memory.read_text().split()[1]) / 1e6 if memory.exists() else 0.0
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": round(total, 1), "system": platform.system(),
            "python": platform.python_version(), "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def group(name: str, objects: int) -> Callable[[], list[dict[str, Any]]]:
    from benchmarks import bench_pipeline
    if name == "fields":
        from benchmarks import bench_fields
        return bench_fields.rows
    if name == "models":
        from benchmarks import bench_models
        return bench_models.rows
    if name == "views":
        from benchmarks import bench_views
        return bench_views.rows
    if name == "guidance":
        from benchmarks import bench_guidance
        return bench_guidance.rows
    if name == "distillation":
        from benchmarks import bench_distill
        return lambda: bench_distill.rows(max(1, objects // 5))
    if name == "controls":
        from benchmarks import bench_controls
        return bench_controls.rows
    if name == "clips":
        from benchmarks import bench_clips
        return bench_clips.rows
    if name == "motion":
        from benchmarks import bench_motion
        return bench_motion.rows
    if name == "recipes":
        from benchmarks import bench_recipes
        return bench_recipes.rows
    if name == "finish":
        from benchmarks import bench_finish
        return bench_finish.rows
    if name == "images":
        from benchmarks import bench_images
        return bench_images.rows
    return {"command": bench_pipeline.command_rows, "toybox": bench_pipeline.toybox_rows,
            "true_views": bench_pipeline.true_views_rows,
            "image_to_mesh": lambda: bench_pipeline.image_to_mesh_rows(objects)}[name]


def verdict(row: dict[str, Any]) -> str:
    """"aim", "bar", "short" or "" by the row's own bars; smaller is better where the row says "less", or where the aim
    is below the first bar."""
    value, bar, aim = row["value"], row.get("first_bar"), row.get("aim")
    if not isinstance(bar, int | float):
        return ""
    smaller = row.get("less", isinstance(aim, int | float) and aim < bar)

    def reached(mark: float) -> bool:
        return value <= mark if smaller else value >= mark
    if isinstance(aim, int | float) and reached(aim):
        return "aim"
    return "bar" if reached(bar) else "SHORT"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| figure | measured | first bar | aim | reached | how |", "|---|---|---|---|---|---|"]
    for r in rows:
        bar, aim = ("" if r.get(k) is None else f"{r[k]}" for k in ("first_bar", "aim"))
        lines.append(f"| {r['figure']} | {r['value']:g} {r['unit']} | {bar} | {aim} | {verdict(r)} "
                     f"| {r.get('note', '')} |")
    return "\n".join(lines)


def page(known: dict[str, Any]) -> str:
    """docs/benchmarks.md: every group's table with its machine; words on short-falls stand in benchmarks/notes.md."""
    parts = ["# Benchmarks", "",
             "Written by `make bench` (`python -m benchmarks --page`); every figure is measured, none is typed in.",
             "\"SHORT\" means that the first bar is not reached; why, and what would, stands below.", ""]
    notes = Path(__file__).with_name("notes.md")
    for name, kept in known["groups"].items():
        m = kept["machine"]
        parts += [f"## {name.replace('_', ' ')}", "", f"{kept['date']}, {m['cores']} cores of {m['cpu']}, "
                  f"{m['memory_gb']} GB, Python {m['python']}, torch {m['torch']}, GPU: {m['gpu'] or 'none'}; "
                  f"took {kept['seconds']} s.", "", table(kept["rows"]), ""]
    return "\n".join(parts) + "\n" + (notes.read_text(encoding="utf-8") if notes.exists() else "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", default=[], help=f"of {', '.join(GROUPS)}; none: all")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--objects", type=int, default=50, help="held-out objects of image_to_mesh")
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, help="also write the page from the results")
    options = parser.parse_args()
    wrong = [g for g in options.groups if g not in GROUPS]
    if wrong:
        parser.error(f"unknown group {wrong[0]}: one of {', '.join(GROUPS)}")
    known = json.loads(options.json.read_text()) if options.json.exists() else {"groups": {}}
    for name in options.groups or GROUPS:
        began = time.perf_counter()
        rows = group(name, options.objects)()
        known["groups"][name] = {"rows": rows, "date": time.strftime("%Y-%m-%d"), "machine": machine(),
                                 "seconds": round(time.perf_counter() - began, 1)}
        options.json.write_text(json.dumps(known, indent=1) + "\n")
        print(f"\n{name} ({known['groups'][name]['seconds']} s)\n{table(rows)}", flush=True)
    if options.page:
        options.page.write_text(page(known), encoding="utf-8")
    print(f"\nwritten to {options.json.name}")


if __name__ == "__main__":
    main()
