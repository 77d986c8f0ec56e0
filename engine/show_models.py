"""Tables and bars of ``maquette models``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table
from rich.text import Text

from engine.models import download
from engine.models.inspection import Inspection
from engine.models.verify import Check

GOOD = {"yes": "green", "in turns": "yellow", "no": "red", "unknown": "yellow", "conditions": "yellow", "ok": "green",
        "changed": "red", "missing": "red", "not pinned": "yellow"}


def _word(text: str) -> Text:
    return Text(text, style=GOOD.get(text, ""))


def _wide(console: Console | None) -> Console:
    """The terminal as it is; a file or a pipe gets lines as long as they are."""
    out = console or Console()
    return out if console or out.is_terminal else Console(width=200)


def show_models(rows: list[dict[str, Any]], console: Console | None = None) -> None:
    """One line a model, ordered as the catalogue is."""
    out = _wide(console)
    table = Table(Column("model", overflow="fold"), "role", "family", Column("licence", overflow="fold"), "commercial",
                  Column("GB", justify="right"), "fits", "here", box=None, pad_edge=False)
    for row in rows:
        here = row["here"] or ("gated" if row["gated"] else "")
        table.add_row(Text(row["id"]), row["role"], row["family"], Text(row["licence"] or "unknown"),
                      _word(row["commercial"]), f"{row['memory_bytes'] / 1e9:.1f}", _word(row["fits"]),
                      Text(here if row["loads"] else f"{here} (not loaded yet)".strip()))
    out.print(table)


def show_sets(rows: list[dict[str, Any]], console: Console | None = None) -> None:
    """One line a set: does it fit, what is lacking, and what of it is not commercial."""
    out = _wide(console)
    table = Table("set", Column("what", overflow="fold"), Column("GB", justify="right"), "fits",
                  Column("weights", overflow="fold"), Column("not for commercial use", overflow="fold"), box=None,
                  pad_edge=False)
    for row in rows:
        weights = f"maquette models pull {row['set']}" if row["lacking"] else "here"
        table.add_row(row["set"], row["title"], f"{row['memory_bytes'] / 1e9:.1f}", _word(row["fits"]), weights,
                      Text(", ".join(line.partition(":")[0] for line in row["not_commercial"])))
    out.print()
    out.print(table)


@contextmanager
def pulling(console: Console | None = None) -> Iterator[Callable[[download.Progress], None]]:
    """One bar a model; without a live screen a line a file."""
    out = console or Console(stderr=True)
    if not out.is_terminal:
        seen: set[tuple[str, str]] = set()

        def tell(step: download.Progress) -> None:
            if (step.id, step.name) not in seen:
                seen.add((step.id, step.name))
                out.print(Text(f"{step.id}: {step.name} ({step.total / 1e6:,.0f} MB in all)"), soft_wrap=True)
        yield tell
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                  TimeRemainingColumn(), console=out) as bars:
        tasks: dict[str, Any] = {}

        def draw(step: download.Progress) -> None:
            if step.id not in tasks:
                tasks[step.id] = bars.add_task(step.id, total=step.total)
            bars.update(tasks[step.id], completed=step.done, description=f"{step.id} {step.name.rpartition('/')[2]}")
        yield draw


def show_pulled(done: Sequence[download.Pulled], console: Console | None = None) -> None:
    """What became of each model, with notes."""
    out = console or Console()
    for one in done:
        size = f" ({one.bytes / 1e9:.2f} GB)" if one.bytes else ""
        out.print(Text(f"{one.model.id}: {one.state}{size}" + (f"  {one.folder}" if one.folder else "")),
                  soft_wrap=True)
        for note in one.notes:
            out.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def show_checks(checks: Sequence[Check], console: Console | None = None) -> None:
    """One line a file."""
    out = _wide(console)
    table = Table("", Column("model", overflow="fold"), Column("file", overflow="fold"), Column("", overflow="fold"),
                  box=None, pad_edge=False, show_header=False)
    for line in checks:
        table.add_row(_word(line.state), Text(line.id), Text(line.name), Text(line.text))
    out.print(table)


def show_inspection(seen: Inspection, console: Console | None = None) -> None:
    """What a file is; long lists are cut after ten."""
    out = console or Console()
    table = Table(Column("", no_wrap=True), Column("", overflow="fold"), box=None, pad_edge=False, show_header=False)
    types = ", ".join(f"{kind} {count:,}" for kind, count in seen.dtypes.items())
    rows = {
        "file": seen.path, "family": seen.family + (f" (nearest: {seen.nearest})" if seen.nearest else ""),
        "serves also": ", ".join(seen.families), "role": seen.role or "unknown", "layout": seen.layout or "unknown",
        "parts": ", ".join(seen.parts), "format": seen.format + (f", under {seen.wrapper!r}" if seen.wrapper else ""),
        "precision": seen.precision, "numbers": f"{seen.elements:,} in {seen.tensors:,} tensors ({types})",
        "note": seen.note, "missing": _some(seen.missing), "unexpected": _some(seen.unexpected),
        "wrong shape": _some(seen.wrong),
        "left unused": "; ".join(f"{count} tensors: {why}" for why, count in seen.spare.items())}
    for name, text in rows.items():
        if text or name in ("missing", "unexpected"):
            table.add_row(name, Text(text or "none"))
    out.print(table)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
