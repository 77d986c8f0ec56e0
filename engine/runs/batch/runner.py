"""One run of a batch, from its plan to its manifest: what ``maquette run`` does, for any maker and any executor."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.runs import files
from engine.runs.batch.conduct import Conducted, Conductor, Policy
from engine.runs.batch.executor import AssetResult, AssetTask, Executor, Told
from engine.runs.batch.journal import Journal, locked
from engine.runs.batch.manifest import build_manifest, read_manifest, write_manifest
from engine.runs.batch.planning import CHANGED, AssetPlan, BatchPlan, Planner, plan_batch
from engine.runs.keys import digest
from engine.runs.store import Store

MANIFEST_SECONDS = 30.0


@dataclass(frozen=True)
class Order:
    """What a run is to do, beside its assets.

    name, digest, path : of the recipe; digest_now : gives the digest of the file as it is now, "" where unknown
    task : an asset's plan and its folder -> the task for it
    about : further entries for the manifest: maquette, models, device, threads, until
    overwrite : replace another run's files, and another recipe's folder
    """

    name: str
    digest: str
    path: str
    folder: Path
    store: str | Path
    task: Callable[[Any, Path], AssetTask]
    policy: Policy = field(default_factory=Policy)
    about: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    digest_now: Callable[[], str] = lambda: ""


@dataclass
class Ended:
    """How a run ended: what it planned, what became of it, and what must be said of it."""

    plan: BatchPlan
    conducted: Conducted
    manifest: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    unchanged: bool = False
    """Whether all was finished before: nothing was written."""


class Watcher:
    """Told what goes on; the terminal's is in ``engine.runs.batch.show``."""

    def planned(self, plan: BatchPlan) -> None: ...

    def event(self, asset: str, event: dict[str, Any]) -> None: ...

    def ended(self, result: AssetResult, so_far: Conducted) -> None: ...


def run_batch(assets: Sequence[Any], planner: Planner, order: Order, executor: Callable[[Told], Executor],
              watcher: Watcher | None = None, stoppable: Callable[[Conductor], Any] | None = None) -> Ended:
    """Make what is missing. BadInput before anything ran: a bad asset, a folder of another recipe, another run in it.

    stoppable : a context manager around the work, given the conductor (``engine.runs.stopping.stoppable``)
    """
    watcher = watcher or Watcher()
    files.ensure_writable(order.folder, "the run", "--out")
    with locked(order.folder) as dead:
        _own(order)
        journal = Journal(order.folder)
        store = Store.open(order.store)
        with contextlib.closing(journal), tempfile.TemporaryDirectory(prefix="maquette-plan-") as scratch:
            plan = plan_batch(assets, planner, store, journal.known, order.folder, Path(scratch),
                              where=f"{order.path}: ")
            watcher.planned(plan)
            todo = [(asset, planned) for asset, planned in zip(assets, plan.assets, strict=True)
                    if planned.state != "finished"]
            notes = _notes(journal, dead)
            about = {"name": order.name, "recipe": {"file": order.path, "digest": order.digest}, **order.about}
            if not todo and (told := read_manifest(order.folder)) is not None and told["state"] == "finished" \
                    and told["recipe"]["digest"] == order.digest:
                return Ended(plan, Conducted(), told, notes, unchanged=True)
            journal.write("run", **about, pid=os.getpid(), assets=len(assets), todo=len(todo))
            write_manifest(order.folder, build_manifest(about, assets, journal.known, "running"))
            conducted = _conducted(todo, order, journal, executor, watcher, stoppable, lambda: write_manifest(
                order.folder, build_manifest(about, assets, journal.known, "running"))) if todo else Conducted()
            if (now := order.digest_now()) and now != order.digest:
                notes.append(f"{order.path} was edited during the run: what it said at the start was made. "
                             f"The same command makes what it says now")
            manifest = build_manifest(about, assets, journal.known, "stopped" if conducted.stopped else "finished",
                                      conducted.stopped, conducted.seconds)
            write_manifest(order.folder, manifest)
            store.add_root(f"batch-{order.digest[:16]}", {"name": order.name, "time": round(time.time()),
                                                          "keys": sorted(_keys(manifest))})
            journal.write("over", counts=manifest["counts"], stopped=conducted.stopped)
            return Ended(plan, conducted, manifest, notes)


def _conducted(todo: list[tuple[Any, AssetPlan]], order: Order, journal: Journal, executor: Callable[[Told], Executor],
               watcher: Watcher, stoppable: Callable[[Conductor], Any] | None, manifest: Callable[[], None]
               ) -> Conducted:
    written, places = time.monotonic(), _places(todo, order, journal)

    def seen(result: AssetResult, so_far: Conducted) -> None:
        nonlocal written
        watcher.ended(result, so_far)
        if time.monotonic() - written > MANIFEST_SECONDS:
            manifest()
            written = time.monotonic()

    with _events(order.folder) as log:
        def told(id: str, event: dict[str, Any]) -> None:
            if event["kind"] == "taken":
                journal.write("taken", id=id, worker=event.get("worker", ""))
            log(id, event)
            watcher.event(id, event)
        hands = executor(told)
        try:
            conductor = Conductor(hands, journal, order.policy, seen)
            with stoppable(conductor) if stoppable else contextlib.nullcontext():
                return conductor.run(order.task(asset, places[asset.id]) for asset, _ in todo)
        finally:
            hands.close()


def _own(order: Order) -> None:
    """BadInput where the folder belongs to another recipe."""
    told = read_manifest(order.folder)
    if told is not None and told["name"] != order.name and not order.overwrite:
        raise BadInput(f"{order.folder} holds the run of another recipe, {told['name']!r}",
                       "Choose another folder with --out, or say --overwrite")


def _notes(journal: Journal, dead: int) -> list[str]:
    notes = [f"the run before (process {dead}) ended without a word; going on from what it finished"] if dead else []
    if journal.known.torn:
        notes.append(f"{journal.known.torn} torn line(s) in journal.jsonl were skipped")
    return notes


def _places(todo: list[tuple[Any, AssetPlan]], order: Order, journal: Journal) -> dict[str, Path]:
    """id -> where its files go: its own folder, the one it was given before for the same request, or a new version
    where another run's finished files are. In the journal before anything is written there."""
    places, lines = {}, {}
    for _, planned in todo:
        own, wanted = order.folder / "assets" / planned.id, digest(planned.goals)[:16]
        given, before = journal.known.placed.get(planned.id), journal.known.finished.get(planned.id)
        if order.overwrite:
            place = own
        elif given is not None and given[1] == wanted and not (before and planned.why.endswith(CHANGED)):
            place = order.folder / given[0]
        else:
            place, version = own, 1
            while (place / "report.json").exists():
                version += 1
                place = own.with_name(f"{planned.id}~{version}")  # ~ is in no id
        places[planned.id] = place
        lines[planned.id] = [place.relative_to(order.folder).as_posix(), wanted]
    journal.write("placed", assets=lines)
    return places


def _keys(manifest: dict[str, Any]) -> set[str]:
    return {key for asset in manifest["assets"] for key in asset["keys"].values()}


@contextlib.contextmanager
def _events(folder: Path) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """events.jsonl: each event with its asset; progress at most twice a second for each stage. It never fails a run."""
    told: dict[tuple[str, str], float] = {}
    with files.one_line_errors("events.jsonl", folder, "--out"):
        file = (folder / "events.jsonl").open("a", encoding="utf-8")

    def write(asset: str, event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            place, now = (asset, str(event.get("label"))), time.monotonic()
            if now - told.get(place, 0.0) < 0.5:
                return
            told[place] = now
        with contextlib.suppress(OSError):
            file.write(json.dumps({"asset": asset, **event}, ensure_ascii=False) + "\n")
            file.flush()
    try:
        yield write
    finally:
        with contextlib.suppress(OSError):
            file.close()
