"""What a worker does with a task, wherever it runs: make the asset, and say in plain data what became of it."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine import chunks
from engine.errors import BadInput, Cancelled, GateRefused, RunFailed
from engine.runs import files
from engine.runs.batch.executor import AssetResult, AssetTask, ErrorClass, Status

Said = Callable[[dict[str, Any]], None]
"""Called with each event's JSON."""
Stoppable = Callable[[Callable[[], None]], None]
"""Given what stops the run at its next word of progress."""
Maker = Callable[[AssetTask, Said, Stoppable], tuple[Status, dict[str, Any]]]


def maker_named(place: str) -> Maker:
    """The function that "module:function" names."""
    module, _, name = place.partition(":")
    found: Maker = getattr(importlib.import_module(module), name)
    return found


def work(task: AssetTask, said: Said = lambda event: None, stoppable: Stoppable = lambda stop: None) -> AssetResult:
    """Make one asset in this process. Whatever it raises becomes a result; only the process's end leaves none."""
    began = time.monotonic()
    clock = _Clock(task.seconds, stoppable)
    where: dict[str, Any] = {"id": task.id, "attempt": task.attempt, "worker": str(os.getpid())}

    def spent() -> dict[str, Any]:
        return {"seconds": round(time.monotonic() - began, 3), "peak_bytes": files.peak_memory()}
    try:
        make_room(task.smaller)
        status, summary = maker_named(task.maker)(task, said, clock.stoppable)
        return AssetResult(**where, **spent(), status=status, summary=summary, folder=task.folder)
    except Exception as error:
        kind, status = classified(error)
        result = AssetResult(**where, **spent(), status=status, error_class=kind, error=_line(error))
        if kind == "stopped" and clock.rang:
            result = replace(result, status="failed", error_class="time",
                             error=f"it took more than the {task.seconds:g} s that an asset may take")
    finally:
        clock.off()
    if result.error_class == "memory":
        make_room(task.smaller)  # the traceback that held the memory is gone by now
    return result


class _Clock:
    """Stops an asset whose time is up, as a user would."""

    def __init__(self, seconds: float | None, outer: Stoppable) -> None:
        self.rang = False
        self._outer, self._stops = outer, list[Callable[[], None]]()
        self._timer = None if seconds is None else threading.Timer(seconds, self._ring)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def stoppable(self, stop: Callable[[], None]) -> None:
        self._stops.append(stop)
        self._outer(stop)
        if self.rang:
            stop()

    def off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        for stop in self._stops:
            stop()


def classified(error: BaseException) -> tuple[ErrorClass, Status]:
    """What a retry is decided by. The cause counts where the error only wraps it."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and len(chain) < 8:
        chain.append(one)
        one = one.__cause__
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return "stopped", "stopped"
    if isinstance(error, GateRefused):
        return "refused", "refused"
    if any(files.disk_full(e) for e in chain) or "disk is full" in str(error):
        return "disk", "failed"
    if any(isinstance(e, MemoryError) or "out of memory" in str(e).lower() for e in chain) or (
            isinstance(error, RunFailed) and "ran out of memory" in str(error)):
        return "memory", "failed"
    if isinstance(error, BadInput):
        return "bad_input", "failed"
    return "failed", "failed"


def make_room(halvings: int) -> None:
    """Chunks halved so often in this process; where any are, models that nobody uses are forgotten too."""
    chunks.halve(halvings)
    if halvings == 0:
        return
    if (pool := sys.modules.get("engine.models.pool")) is not None:
        pool.POOL.clear()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, BadInput | RunFailed | Cancelled):
        text = f"{type(error).__name__}: {text}"
    return text[:1000]
