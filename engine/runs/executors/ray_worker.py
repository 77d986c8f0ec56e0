"""What runs inside a Ray actor: one worker with its own model pool, asked for its news while it works.

It imports nothing of Ray's, and nothing heavy before its threads are set.
"""

from __future__ import annotations

import importlib
import os
import platform
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from engine.runs.batch.executor import AssetResult, AssetTask

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Worker:
    """Makes one asset at a time in one thread while another answers. Ray calls it from two threads, never more."""

    def __init__(self, threads: int) -> None:
        """threads : of its CPU work, set before torch is imported; 0: as Ray says"""
        if threads:
            os.environ.update({name: str(threads) for name in THREAD_VARIABLES})
        self._news: deque[dict[str, Any]] = deque()
        self._stops: list[Callable[[], None]] = []
        self._asked = threading.Event()

    def greet(self, device_class: str, probes: tuple[str, ...]) -> dict[str, Any]:
        """Who it is, and whether its machine can do the work.

        device_class : "cpu", "cuda" or "mps"; probes : files that the driver wrote, folders or URLs
        -> {"pid", "host", "version", "lacks": [one line each]}
        """
        from engine import __version__
        from engine.errors import MaquetteError
        from engine.runs.devices import resolve_device
        from engine.runs.remote import there
        lacks = [f"{probe} cannot be seen there" for probe in probes if not there(probe)]
        try:
            resolve_device(device_class)
        except MaquetteError as error:
            lacks.append(error.what)
        return {"pid": os.getpid(), "host": platform.node(), "version": __version__, "lacks": lacks}

    def make(self, task: AssetTask) -> AssetResult:
        """One asset, as the local workers make it."""
        work = importlib.import_module("engine.runs.batch.work").work
        self._stops.clear()
        result: AssetResult = work(task, self._news.append, self._stoppable)
        return result

    def news(self, stop: bool) -> tuple[list[dict[str, Any]], int]:
        """(events since the last call, bytes held in main memory). stop : ask the asset under way to stop"""
        if stop and not self._asked.is_set():
            self._asked.set()
            for one in list(self._stops):
                one()
        from engine.runs import files
        told = [self._news.popleft() for _ in range(len(self._news))]
        return told, files.resident_memory(os.getpid())

    def _stoppable(self, stop: Callable[[], None]) -> None:
        self._stops.append(stop)
        if self._asked.is_set():
            stop()
