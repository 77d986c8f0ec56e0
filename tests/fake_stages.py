"""Small real stages over real artifacts, and a model set that loads nothing: for the tests of the mechanism."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Param

from engine.artifacts import Candidates, Picture
from engine.job import Gate, Job, Params, stage

CALLS: list[str] = []
"""Labels of the stages that really ran, in order."""


class FakeModels:
    """digest and load by role; ``version`` changes the digests."""

    name = "fake"

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.loaded: list[tuple[str, str]] = []

    def digest(self, role: str) -> str:
        return f"{role}-{self.version}"

    def info(self, role: str) -> Any:
        return {"role": role, "id": "fake", "revision": self.version, "sha256": self.digest(role),
                "licence": "Apache-2.0", "commercial": "yes"}

    def load(self, role: str, device: str) -> Any:
        self.loaded.append((role, device))
        return lambda x: x


class Paint(Params):
    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"size": 4}, "high": {"size": 16}}
    size: int = Param(8, ge=1, le=64, description="side in pixels, 1 to 64")
    count: int = Param(3, ge=1, le=9, description="candidates, 1 to 9")
    prompt: str = "x"
    source: Path | None = Param(None, exclude=True)


@stage(version=1, roles=("painter",))
def paint(p: Paint, job: Job) -> Candidates:
    """Noise pictures, one seed a candidate."""
    CALLS.append(job.label)
    job.model("painter")
    pictures = []
    for i in range(p.count):
        job.progress(i / p.count)
        rng = np.random.default_rng(job.seed(i))
        pictures.append(Picture(rng.random((p.size, p.size, 3)).astype(np.float32), p.prompt))
    job.metric("contrast", float(pictures[0].image.std()))
    return Candidates(pictures, [float(q.image.mean()) for q in pictures], 0)


class Pick(Params):
    index: int | None = None


@stage(version=1)
def pick(candidates: Candidates, p: Pick, job: Job) -> Picture:
    CALLS.append(job.label)
    return candidates.pictures[candidates.best if p.index is None else p.index]


class Dim(Params):
    factor: float = Param(0.5, ge=0, le=1, description="0 to 1")


@stage(version=1, gates=(Gate("mean", minimum=0.2, remedy=(("factor", 0.9),), explain="too dark"),), attempts=2)
def dim(picture: Picture, p: Dim, job: Job) -> Picture:
    CALLS.append(job.label)
    image = picture.image * p.factor
    job.metric("mean", float(image.mean()), "", "white")
    job.warn("dimmed")
    return Picture(image, picture.caption)


class Count(Params):
    steps: int = 10


STOP_AT: list[int] = []
"""Steps at which ``count`` raises RuntimeError once, to be resumed."""


@stage(version=1)
def count(picture: Picture, p: Count, job: Job) -> Picture:
    """A long stage that keeps its state."""
    CALLS.append(job.label)
    state = job.resume() or {"step": 0, "total": np.zeros(3, np.float64)}
    for step in range(state["step"], p.steps):
        state = {"step": step + 1, "total": state["total"] + picture.image.reshape(-1, 3).mean(0)}
        job.checkpoint(lambda kept=state: kept)
        job.progress((step + 1) / p.steps)
        if STOP_AT and STOP_AT[0] == step + 1:
            STOP_AT.pop()
            raise RuntimeError("interrupted for the test")
    job.metric("steps_here", p.steps)
    return Picture(np.full((2, 2, 3), state["total"].mean() / p.steps, np.float32), meta={"steps": state["step"]})


def pipeline(run: Any, index: int | None = None) -> Any:
    """paint -> pick -> dim -> count."""
    candidates = run(paint)
    picture = run(pick, candidates, index=index)
    return run(count, run(dim, picture))
