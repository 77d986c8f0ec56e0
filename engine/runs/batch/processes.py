"""The usual executor: processes of this machine, started afresh (spawn), each with a model pool of its own.

A worker talks through one pipe. Where the pipe ends, the other side is gone: the executor answers "lost" for a worker
that was killed, and a worker whose executor was killed ends itself at once, in the midst of whatever it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from engine.runs import files
from engine.runs.batch.executor import AssetResult, AssetTask, Told

TICK_SECONDS = 0.25
START_SECONDS = 600.0
"""A worker that has not said its first word after so long has failed to start."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Processes:
    """``workers`` processes; each is started when there is work for it. See ``executor.Executor``.

    threads : of each worker's CPU work, set before it imports anything; 0: the environment's own
    """

    def __init__(self, workers: int, told: Told, threads: int = 0) -> None:
        self._width, self._told, self._threads = max(1, workers), told, threads
        self._waiting: deque[AssetTask] = deque()
        self._workers: list[_Worker] = []
        self._stopped: list[AssetTask] = []
        self._stopping = False
        self.tick: Callable[[], None] = lambda: None

    @property
    def width(self) -> int:
        return self._width

    def submit(self, task: AssetTask) -> None:
        (self._stopped if self._stopping else self._waiting).append(task)

    def results(self) -> Iterator[AssetResult]:
        ticked = time.monotonic()
        while True:
            while self._stopped:
                yield _stopped(self._stopped.pop(0))
            self._hand_out()
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                if self._waiting or self._stopped:
                    continue
                return
            wait([worker.pipe for worker in busy], timeout=TICK_SECONDS)
            for worker in busy:
                result = self._heard(worker)
                if result is not None:
                    yield result
            if time.monotonic() - ticked >= TICK_SECONDS:
                ticked = time.monotonic()
                self.tick()

    def cancel(self) -> None:
        again, self._stopping = self._stopping, True
        self._stopped += self._waiting
        self._waiting.clear()
        for worker in list(self._workers):
            if again:
                worker.kill()
            else:
                worker.send(None)

    def memory(self) -> int:
        return sum(files.resident_memory(worker.pid) for worker in self._workers)

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _hand_out(self) -> None:
        """A waiting task to each idle worker; new workers up to the width."""
        while self._waiting:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None and len(self._workers) < self._width:
                idle = _Worker(self._threads)
                self._workers.append(idle)
            if idle is None:
                return
            idle.take(self._waiting.popleft())

    def _heard(self, worker: _Worker) -> AssetResult | None:
        """All that a worker has said since; its result, where it gave one or can give none any more."""
        task = worker.task
        assert task is not None
        try:
            while worker.pipe.poll():
                said = worker.pipe.recv()
                worker.last_word, worker.spoke = time.monotonic(), True
                if isinstance(said, AssetResult):
                    worker.task = None
                    return said
                self._told(task.id, said)
        except (EOFError, OSError):
            return self._lost(worker, task, "worker", worker.epitaph())
        silent = time.monotonic() - worker.last_word
        patience = task.stall_seconds if worker.spoke else max(START_SECONDS, task.stall_seconds or 0.0)
        if patience is not None and silent > patience:
            worker.kill()
            return self._lost(worker, task, "hung", f"its worker said nothing for {silent:.0f} s and was killed")
        return None

    def _lost(self, worker: _Worker, task: AssetTask, kind: Any, why: str) -> AssetResult:
        worker.kill()
        self._workers.remove(worker)
        if self._stopping:
            return dataclasses.replace(_stopped(task), worker=str(worker.pid), seconds=worker.spent())
        return AssetResult(task.id, "lost", kind, why, seconds=worker.spent(), attempt=task.attempt,
                           worker=str(worker.pid))


class _Worker:
    """One process as the executor sees it."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.task: AssetTask | None = None
        self.spoke = False
        self.last_word = self._began = time.monotonic()
        self._process = context.Process(target=_serve, args=(theirs,), name="maquette-worker", daemon=True)
        with _environment({name: str(threads) for name in THREAD_VARIABLES} if threads else {}):
            self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0

    def take(self, task: AssetTask) -> None:
        self.task, self.last_word, self._began = task, time.monotonic(), time.monotonic()
        self.send(task)

    def send(self, what: AssetTask | None) -> None:
        with contextlib.suppress(OSError):  # a worker that is gone is found where its words are awaited
            self.pipe.send(what)

    def spent(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def epitaph(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"its worker was killed ({signal.Signals(-code).name})"
        return f"its worker ended by itself (exit code {code})"

    def kill(self) -> None:
        self._process.kill()
        self._process.join(10)
        self.pipe.close()

    def end(self) -> None:
        """Its pipe's end is its own end."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(10)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Variables that a process started within sees from its first import on."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _stopped(task: AssetTask) -> AssetResult:
    return AssetResult(task.id, "stopped", "stopped", "stopped before it was finished", attempt=task.attempt)


def _serve(pipe: Connection) -> None:
    """A worker's life: tasks one after another, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the executor says when to stop
    tasks: deque[AssetTask] = deque()
    stops: list[Callable[[], None]] = []
    come, asked = threading.Condition(), threading.Event()
    speaking = threading.Lock()

    def listen() -> None:
        while True:
            try:
                said = pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # nobody is there any more to hear of a result
            if said is None:
                asked.set()
                for stop in list(stops):
                    stop()
                continue
            with come:
                tasks.append(said)
                come.notify()

    def say(what: Any) -> None:
        with speaking:
            pipe.send(what)

    def stoppable(stop: Callable[[], None]) -> None:
        stops.append(stop)
        if asked.is_set():
            stop()

    threading.Thread(target=listen, daemon=True).start()
    from engine.runs.batch.work import maker_named, work
    while True:
        with come:
            come.wait_for(lambda: bool(tasks))
            task = tasks.popleft()
        stops.clear()
        with contextlib.suppress(Exception):  # work() says what is wrong with it
            maker_named(task.maker)  # what it imports is no silence of the asset's
        try:
            say({"kind": "taken", "worker": str(os.getpid())})
            say(work(task, say, stoppable))
        except OSError:
            os._exit(0)
