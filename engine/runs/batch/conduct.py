"""The conductor: hands assets to an executor, tries again by class, keeps the budgets, and writes the journal.

It decides who runs and when to stop, never what comes out: a budget ends a run, it changes no result.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import MaquetteError
from engine.runs.batch.executor import AssetResult, AssetTask, Executor
from engine.runs.batch.journal import Journal

ALIKE = 3
"""So many first assets that all fail with the same words end a run: the others would too."""
WENT_WELL = ("done", "cached")


@dataclass(frozen=True)
class Policy:
    """When to try again and when to stop. None: no bound.

    max_failures : stop when so many assets failed; fail_fast : the same as 1
    lost_retries : after a worker that was killed or hung, for each asset
    memory_retries : after a run out of memory, each with chunks half as large
    seconds : wall time of this run; memory_bytes : of all workers together; disk_bytes : written by this run
    """

    fail_fast: bool = False
    max_failures: int | None = None
    lost_retries: int = 2
    memory_retries: int = 2
    alike: int = ALIKE
    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None

    @property
    def allowed(self) -> int | None:
        return 1 if self.fail_fast else self.max_failures


@dataclass
class Conducted:
    """How a run ended. ``stopped``: one line on why it ended early; "" where every asset had its turn."""

    results: dict[str, AssetResult] = field(default_factory=dict)
    stopped: str = ""
    by_user: bool = False
    seconds: float = 0.0
    retried: int = 0

    @property
    def failures(self) -> list[AssetResult]:
        return [r for r in self.results.values() if r.status not in (*WENT_WELL, "stopped")]


Seen = Callable[[AssetResult, "Conducted"], None]
"""Told of each asset's end, after the journal has it."""


class Conductor:
    """One run of a batch. ``cancel`` is for the user's Ctrl-C."""

    def __init__(self, executor: Executor, journal: Journal, policy: Policy, seen: Seen = lambda result, so_far: None
                 ) -> None:
        self.executor, self.journal, self.policy, self._seen = executor, journal, policy, seen
        self.outcome = Conducted()
        self._began = time.monotonic()
        self._written = 0
        self._lost: dict[str, int] = {}
        self._first_words: list[str] = []
        executor.tick = self._keep_budgets

    def run(self, tasks: Iterable[AssetTask]) -> Conducted:
        """Every task to its end. What the journal cannot take (a full disk) is raised after the workers were let go."""
        under_way = {}
        self._began = time.monotonic()
        for task in tasks:
            under_way[task.id] = task
            self.executor.submit(task)
        try:
            for result in self.executor.results():
                self._take(under_way, result)
        except MaquetteError:
            self.executor.cancel()
            self.executor.cancel()
            raise
        self.outcome.seconds = time.monotonic() - self._began
        if self.outcome.stopped:
            self.journal.write("stop", reason=self.outcome.stopped)
        return self.outcome

    def cancel(self) -> None:
        """The user's wish: stop at the next word of progress; a second time: at once."""
        self.outcome.by_user = True
        self._stop("stopped by the user")

    def _take(self, under_way: dict[str, AssetTask], result: AssetResult) -> None:
        task = under_way[result.id]
        again = None if self.outcome.stopped else self._again(task, result)
        self.journal.write("ended", **record(result, self.journal), retry=again is not None)
        self._written += int(result.summary.get("written_bytes", 0))
        if again is not None:
            self.outcome.retried += 1
            under_way[result.id] = again
            self.executor.submit(again)
            return
        if result.error_class in ("worker", "hung"):
            tries = self._lost.get(result.id, 1)
            result = dataclasses.replace(result, status="lost", error=f"{result.error}; tried {tries} times")
        self.outcome.results[result.id] = result
        self._seen(result, self.outcome)
        self._judge(result)

    def _again(self, task: AssetTask, result: AssetResult) -> AssetTask | None:
        """The next attempt, where the class of the failure allows one. Bad input and refused gates: never."""
        if result.error_class in ("worker", "hung"):
            count = self._lost[task.id] = self._lost.get(task.id, 0) + 1
            # A worker that is killed without a word was often the machine's lack of memory: the next is more modest.
            smaller = task.smaller + (1 if "SIGKILL" in result.error else 0)
            if count <= self.policy.lost_retries:
                return dataclasses.replace(task, attempt=task.attempt + 1, smaller=smaller)
        elif result.error_class == "memory" and task.smaller < self.policy.memory_retries:
            return dataclasses.replace(task, attempt=task.attempt + 1, smaller=task.smaller + 1)
        return None

    def _judge(self, result: AssetResult) -> None:
        """Whether the run goes on after this asset."""
        if result.status == "stopped":
            return
        failed = len(self.outcome.failures)
        allowed = self.policy.allowed
        if result.error_class == "disk":
            self._stop(f"the disk is full: {result.error}")
        elif allowed is not None and failed >= allowed and result.status not in WENT_WELL:
            self._stop("stopped at the first failure (--fail-fast)" if self.policy.fail_fast else
                       f"stopped after {failed} failure{'s' if failed > 1 else ''} (max_failures is {allowed})")
        if len(self._first_words) < self.policy.alike:
            self._first_words.append("" if result.status in WENT_WELL else _alike(result))
            if (len(self._first_words) == self.policy.alike and self._first_words[0]
                    and len(set(self._first_words)) == 1 and not self.outcome.stopped):
                self._stop(f"the first {self.policy.alike} assets all failed alike: {result.error}")
        self._keep_budgets()

    def _keep_budgets(self) -> None:
        if self.outcome.stopped:
            return
        policy = self.policy
        spent = time.monotonic() - self._began
        if policy.seconds is not None and spent > policy.seconds:
            self._stop(f"the budget of {policy.seconds:g} s is spent")
        elif policy.disk_bytes is not None and self._written > policy.disk_bytes:
            self._stop(f"the disk budget of {policy.disk_bytes} bytes is spent ({self._written} written)")
        elif policy.memory_bytes is not None and (held := self.executor.memory()) > policy.memory_bytes:
            self._stop(f"the workers hold {held} bytes of memory, the budget is {policy.memory_bytes}")

    def _stop(self, why: str) -> None:
        self.outcome.stopped = self.outcome.stopped or why
        self.executor.cancel()


def record(result: AssetResult, journal: Journal) -> dict[str, Any]:
    """A result as a line of the journal: what many assets share stands there by its digest, files with their stamps."""
    line = {name: value for name, value in dataclasses.asdict(result).items() if name != "summary"}
    summary = dict(result.summary)
    summary["stages"] = [
        {**{name: value for name, value in stage.items() if name != "parts"},
         "parts": {name: journal.part(value) for name, value in stage.get("parts", {}).items()}}
        for stage in summary.get("stages", [])]
    summary["files"] = [{**about, "stamp": stamp(Path(result.folder) / about["path"])}
                        for about in summary.get("files", [])] if result.folder else []
    home, place = journal.path.parent.absolute(), Path(result.folder).absolute()
    if result.folder and place.is_relative_to(home):
        line["folder"] = place.relative_to(home).as_posix()  # the run's folder may be moved
    return {**line, "summary": summary}


def stamp(path: Path) -> list[int]:
    """[bytes, time of the last change in ns]: while it is the same, a file need not be read to be known. [] if gone."""
    try:
        about = path.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


def _alike(result: AssetResult) -> str:
    """A failure's words without what differs from asset to asset: numbers, names in quotes, paths."""
    text = result.error.replace(result.id, "<id>")
    return f"{result.error_class}: {re.sub(r'[0-9a-f]{8,}|[0-9.]+|/[^ ]+', '#', text)}"
