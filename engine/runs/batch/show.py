"""A batch on the terminal: one bar for all of it with the time left, a line for each asset that ends, the sum."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from engine.runs.batch.conduct import WENT_WELL, Conducted
from engine.runs.batch.executor import AssetResult
from engine.runs.batch.planning import BatchPlan
from engine.runs.batch.runner import Ended, Watcher

STYLES = {"done": "green", "cached": "cyan", "stopped": "yellow"}
LISTED = 20
"""Failures that are told at the end one by one."""


class BatchTerminal(Watcher):
    """On stderr; use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._counts: Counter[str] = Counter()
        self._todo, self._began = 0, time.monotonic()
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                                  TextColumn("{task.fields[state]}"), console=self.console,
                                  disable=not self.console.is_terminal)
        self._bar = self._progress.add_task("assets", total=None, state="")

    def __enter__(self) -> BatchTerminal:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._progress.stop()

    def planned(self, plan: BatchPlan) -> None:
        finished = len(plan.of("finished"))
        self._todo, self._began = len(plan.assets) - finished, time.monotonic()
        self._progress.update(self._bar, total=self._todo)
        kept = f", {finished} finished before" if finished else ""
        plural = "" if len(plan.assets) == 1 else "s"
        self.console.print(Text(f"{len(plan.assets)} asset{plural}: {self._todo} to make{kept}"))

    def event(self, asset: str, event: dict[str, Any]) -> None:
        if event["kind"] in ("started", "progress"):
            self._progress.update(self._bar, state=f"{self._sum()}  {asset}: {event['label']} "
                                                   f"{event.get('fraction', 0.0):.0%}{self._left()}")

    def ended(self, result: AssetResult, so_far: Conducted) -> None:
        self._counts[result.status] += 1
        self._progress.update(self._bar, advance=1, state=self._sum() + self._left())
        if result.status == "stopped":
            return
        said = f"{result.status} {result.id} ({result.seconds:.1f} s)" + (f": {result.error}" if result.error else "")
        done = "" if self.console.is_terminal else f"[{sum(self._counts.values())}/{self._todo}] "
        self.console.print(Text(done + said, style=STYLES.get(result.status, "red")))

    def _sum(self) -> str:
        return ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))

    def _left(self) -> str:
        done = sum(self._counts.values())
        if not done or done >= self._todo:
            return ""
        return f", {span((time.monotonic() - self._began) / done * (self._todo - done))} left"


def show_ended(ended: Ended, console: Console | None = None) -> None:
    """The sum, what failed and why, and what must be said."""
    console = console or Console(stderr=True)
    counts = ended.manifest["counts"]
    console.print(Text(", ".join(f"{count} {status}" for status, count in counts.items())
                       + (f"; {span(ended.conducted.seconds)}" if ended.conducted.seconds else "")))
    failed = [asset for asset in ended.manifest["assets"] if asset["status"] not in (*WENT_WELL, "stopped", "waiting")]
    for asset in failed[:LISTED]:
        console.print(Text(f"  {asset['id']}: {asset['status']}: {asset['error']}", style="red"))
    if len(failed) > LISTED:
        console.print(Text(f"  and {len(failed) - LISTED} more; all are in manifest.json", style="red"))
    for note in ended.notes:
        console.print(Text(note, style="yellow"))


def span(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes as people say them: 1 GB is 10^9."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count:.0f} bytes"
