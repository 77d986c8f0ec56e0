"""The small interface behind which assets are made: by processes of this machine, or by Ray on several.

An executor makes what it is given and says what became of it. It never tries again by itself, decides nothing about
budgets and keeps no record: the conductor (``engine.runs.batch.conduct``) does, in the journal, which is the truth.
Tasks and results are plain data (they pickle, and they are JSON but for tuples): paths and digests travel, no meshes.

    executor.submit(task)
    for result in executor.results():    # ends when every submitted task was answered
        if try_again(result):
            executor.submit(again)       # allowed while the results are read
    executor.close()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["done", "cached", "refused", "failed", "lost", "stopped"]
"""done: made; cached: all of it was in the store; refused: by a gate, after all its attempts; failed: see ``error``;
lost: the worker went away (killed, hung) and nobody knows more; stopped: by the user or a budget."""
ErrorClass = Literal["", "bad_input", "refused", "memory", "disk", "worker", "hung", "time", "stopped", "failed"]
"""What a retry is decided by: memory and worker and hung may be tried again, within the conductor's caps."""
MAKER = "engine.batch_api:make_asset"
"""Who makes an asset: "module:function", called as ``function(task, told, stop)`` (``engine.runs.batch.work``)."""


@dataclass(frozen=True)
class AssetTask:
    """One asset to be made. Whoever takes it calls ``engine.runs.batch.work.work(task, told, stop)``.

    id : the asset's id, unique in the batch
    recipe : ``Recipe.model_dump(mode="json")``; paths in it are absolute
    store : the store's place, a folder or a URL; every worker must reach it
    folder : where the asset's files go, a folder or a URL; "" leaves them in the store only
    device : a torch device string whose class was fixed before the plan ("cpu", "cuda", "cuda:1", "mps")
    until : label of the stage to stop after; None: all
    attempt : 0 at first, one more each time the conductor hands it out again; in no key
    smaller : how often chunks are to be halved, after a run out of memory; in no key, changes no result
    threads : of each worker's CPU work; 0: as the system says
    seconds : wall time that the asset may take; it is then stopped and counts as failed (class "time"); None: any
    stall_seconds : without a word of progress for so long, a worker counts as hung and is killed; None: never
    """

    id: str
    recipe: dict[str, Any]
    store: str
    folder: str
    device: str = "cpu"
    until: str | None = None
    attempt: int = 0
    smaller: int = 0
    threads: int = 0
    seconds: float | None = None
    stall_seconds: float | None = None
    commercial_only: bool = False
    allow_pickle: bool = False
    papers: dict[str, Any] = field(default_factory=dict)
    """What the asset's files say of the batch: name, digest."""
    maker: str = MAKER


@dataclass(frozen=True)
class AssetResult:
    """What became of one task.

    error : one line for the user, with what to do; "" where it went well
    error_class : what a retry is decided by
    seconds : wall time in the worker; peak_bytes : the most it held in main memory
    summary : JSON: {"stages": [{label, stage, version, request, key, seed, params, weights, inputs, gates, cached,
        seconds, peak_bytes, bytes, attempts}], "files": [{path, role, sha256, bytes}], "metrics": [...],
        "models": [...], "warnings": [...], "complete": bool, "written_bytes": int}; {} where nothing is known
    folder : where the asset's files lie now; "" where there are none
    attempt : the task's
    """

    id: str
    status: Status
    error_class: ErrorClass = ""
    error: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    attempt: int = 0
    worker: str = ""
    """Who made it, for the record only ("1234" for a process)."""


Told = Callable[[str, dict[str, Any]], None]
"""Called with an asset's id and an event's JSON (``engine.runs.events.Event.to_json``), from the thread that reads
``results()``. {"kind": "taken", "worker": "1234"} comes first: a worker has begun with the asset."""


class Executor(Protocol):
    """What makes assets. Constructed with ``told: Told``, where its events go."""

    @property
    def width(self) -> int:
        """How many assets are made at the same time."""

    def submit(self, task: AssetTask) -> None:
        """Hand out a task. Never blocks for its result; may be called between two results."""

    def results(self) -> Iterator[AssetResult]:
        """What became of each task, in the order in which they end; exactly one result a task, whatever happens.

        Ends when every submitted task was answered. ``tick()`` (below) is called at least every second meanwhile.
        """

    def cancel(self) -> None:
        """Stop as soon as can be: tasks that wait are answered "stopped" at once, those under way keep a checkpoint
        and are answered "stopped" too. Safe from a signal handler; a second call does not wait for checkpoints."""

    def memory(self) -> int:
        """Bytes of main memory that all workers hold together now; 0 where unknown."""

    def close(self) -> None:
        """Let the workers go. No process and no file of theirs is left."""

    tick: Callable[[], None]
    """Set by the conductor: looks at the budgets, and may call :meth:`cancel`."""
