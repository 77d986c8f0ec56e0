"""A fake maker for batches: three small stages whose faults a recipe orders, and a planner of the same; no torch.

A fake's recipe is a plain dict: {"prompt", "seed", "seed_id", "fault"}. Each run of a stage appends its asset and label
to the file that MAQUETTE_TEST_CALLS names, so that "nothing ran twice" can be counted over processes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from engine.artifacts import Picture
from engine.job import Gate, Job, Params, stage
from engine.runs import files
from engine.runs.batch.conduct import Policy
from engine.runs.batch.executor import AssetTask, Status
from engine.runs.batch.runner import Order
from engine.runs.batch.shapes import Planned, Words
from engine.runs.batch.summary import summarised
from engine.runs.report import FileRecord, build_report
from engine.runs.run import Run
from engine.runs.store import Store

LABELS = ["draw", "shape", "export"]
MAKER = "tests.batch_fakes:make_fake"


class Fake(dict[str, Any]):
    """A recipe whose keys are attributes too."""

    @property
    def seed(self) -> int:
        return int(self["seed"])

    @property
    def seed_id(self) -> str:
        return str(self["seed_id"])


class FakeAsset:
    def __init__(self, id: str, seed: int = 7, fault: str = "", prompt: str = "", size: int = 4) -> None:
        self.id = id
        self.recipe = Fake(prompt=prompt or f"a {id}", seed=seed, seed_id=id, fault=fault, size=size)


class Draw(Params):
    prompt: str = ""
    size: int = Field(4, ge=1, le=64, description="1 to 64")
    fault: str = Field("", exclude=True)


def _called(job: Job, prompt: str) -> None:
    if path := os.environ.get("MAQUETTE_TEST_CALLS"):
        with Path(path).open("a") as file:
            file.write(f"{prompt}|{job.label}\n")


@stage(version=1)
def draw(p: Draw, job: Job) -> Picture:
    """Noise; or the fault that the recipe orders: "once:" faults strike only while a marker file is absent."""
    fault, marker = p.fault, os.environ.get("MAQUETTE_TEST_MARKS", "")
    if fault.startswith("once:"):
        mark = Path(marker) / f"{p.prompt}.mark".replace(" ", "_")
        fault = "" if mark.exists() else fault.removeprefix("once:")
        mark.touch()
    match fault.split(":"):
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["exit"]:
            os._exit(3)
        case ["hang"]:
            time.sleep(600)
        case ["memory"]:
            raise MemoryError("no room for the test")
        case ["memory_until", halvings]:
            from engine import chunks
            if chunks.at_once(1 << 20) > (1 << 20) >> int(halvings):
                raise MemoryError("no room for chunks so large")
        case ["hog", megabytes]:
            held = np.ones(int(megabytes) << 17)
            for step in range(200):
                job.progress(step / 200)
                time.sleep(0.05)
            del held
        case ["slow", seconds]:
            for step in range(int(float(seconds) * 20)):
                job.progress(step / (float(seconds) * 20))
                time.sleep(0.05)
        case ["error", words]:
            raise ValueError(f"{words} of {p.prompt}")
        case ["full"]:
            raise OSError(28, "No space left on device")
    rng = np.random.default_rng(job.seed())
    image = rng.random((p.size, p.size, 3)).astype(np.float32)
    job.metric("mean", -1.0 if fault == "refuse" else float(image.mean()))
    _called(job, p.prompt)
    return Picture(image, p.prompt)


class Shape(Params):
    factor: float = 0.5


@stage(version=1, gates=(Gate("mean", minimum=0.0, explain="too dark"),), attempts=2)
def shape(picture: Picture, p: Shape, job: Job) -> Picture:
    refused = "dark" in picture.caption or ("dusky" in picture.caption and job.seed() % 2 == 1)
    job.metric("mean", -1.0 if refused else float(picture.image.mean()))
    _called(job, picture.caption)
    return Picture(picture.image * p.factor, picture.caption)


class Export(Params):
    papers: dict[str, Any] = Field(default_factory=dict)


@stage(version=1)
def export(picture: Picture, p: Export, job: Job) -> Picture:
    _called(job, picture.caption)
    return Picture(1 - picture.image, picture.caption, meta={"papers": p.papers})


def plan_fake(recipe: dict[str, Any], store: Path, until: str | None = None) -> Planned:
    run = Run(Store(store), seed=recipe["seed"], asset=recipe["seed_id"], device="cpu", until=until,
              checkpoint_seconds=0.0)
    picture = run(draw, prompt=recipe["prompt"], fault=recipe["fault"], size=recipe["size"])
    papers = {"prompt": recipe["prompt"], "seed": recipe["seed"]}
    return Planned(run, (run(export, run(shape, picture), papers=papers),))


def make_fake(task: AssetTask, said: Callable[[dict[str, Any]], None],
              stoppable: Callable[[Callable[[], None]], None]) -> tuple[Status, dict[str, Any]]:
    planned = plan_fake(task.recipe, Path(task.store), task.until)
    stoppable(planned.run.cancel)
    planned.run.listeners.append(lambda event: said(event.to_json()))
    outcomes = planned.run.perform(*planned.goals)
    folder = Path(task.folder)
    picture = outcomes[-1].accepted.entry.folder / "files" / "picture.png"
    files.copy_file(picture, folder / "asset.png")
    sha = files.file_digest(folder / "asset.png")
    report = build_report(planned.run, outcomes, asset=task.id, pipeline="fake",
                          files=[FileRecord(path="asset.png", role="picture", sha256=sha)])
    files.write_file(folder / "report.json", json.dumps(report.to_json()))
    summary = summarised(planned.run, outcomes, report, folder, [goal.label for goal in planned.goals])
    return ("cached" if all(o.accepted.cached for o in outcomes) else "done"), summary


class FakePlanner:
    def __init__(self, store: Path, until: str | None = None) -> None:
        self.store, self.until = store, until

    def plan(self, recipe: Any) -> Planned:
        return plan_fake(recipe, self.store, self.until)

    def shape_of(self, recipe: Any) -> str:
        return f"{recipe['size']} {recipe['fault']}"

    def words_of(self, recipe: Any) -> Words:
        return {"prompt": lambda: recipe["prompt"], "seed": lambda: recipe["seed"]}

    def twin_of(self, recipe: Any, scratch: Path) -> Any:
        return Fake({**recipe, "prompt": "qzxv twin", "seed": recipe["seed"] + 918_273})

    def may_be_kept(self, recipe: Any) -> bool:
        return True

    def weights(self, recipe: Any, roles: Iterable[str]) -> dict[str, str]:
        return {}


def order_for(folder: Path, store: Path, policy: Policy | None = None, digest: str = "d", stall: float | None = None,
              **changes: Any) -> Order:
    def task(asset: Any, place: Path) -> AssetTask:
        return AssetTask(asset.id, dict(asset.recipe), str(store), str(place), maker=MAKER, stall_seconds=stall)
    return Order("fakes", digest, "fakes.toml", folder, store, task, policy or Policy(), **changes)
