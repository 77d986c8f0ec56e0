"""What a stage gets beside its inputs and parameters: the one implementation of ``engine.job.Job``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import Cancelled
from engine.runs import files
from engine.runs.checkpoints import load_state, save_state
from engine.runs.events import Event
from engine.runs.keys import seed_of

if TYPE_CHECKING:
    import numpy as np
    import torch

CHECKPOINT_SECONDS = 60.0


class Models(Protocol):
    """What a run needs of a model set; ``engine.models.sets`` has the real ones."""

    @property
    def name(self) -> str: ...

    def digest(self, role: str) -> str: ...

    def info(self, role: str) -> Any: ...

    def load(self, role: str, device: str) -> Any: ...


class StageJob:
    """One attempt at one stage: its seeds, its models, its figures, its checkpoints."""

    def __init__(self, *, label: str, device: str, key: str, seed: tuple[int, str], attempt: int,
                 roles: tuple[str, ...], models: Models | None, emit: Callable[[Event], None],
                 cancelled: Callable[[], bool], checkpoints: Path, trash: Path,
                 checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
        self.label = label
        self.device = device
        self.key = key
        self.metrics: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._seed, self._attempt = seed, attempt
        self._roles, self._models = roles, models
        self._emit, self._cancelled = emit, cancelled
        self._checkpoints, self._trash = checkpoints, trash
        self._checkpoint_seconds = checkpoint_seconds
        self._began = self._kept = time.monotonic()

    def seed(self, candidate: int = 0) -> int:
        recipe_seed, asset = self._seed
        return seed_of(recipe_seed, asset, self.label, candidate, self._attempt)

    def generator(self, candidate: int = 0) -> torch.Generator:
        import torch
        return torch.Generator("cpu").manual_seed(self.seed(candidate))

    def model(self, role: str) -> Any:
        if role not in self._roles:
            raise LookupError(f"stage {self.label} asked for the role {role}, which it did not declare; "
                              f"its weights would be missing from the key")
        assert self._models is not None
        return self._models.load(role, self.device)

    def progress(self, fraction: float, preview: np.ndarray | None = None) -> None:
        self._stop_if_cancelled()
        self._emit(Event("progress", self.label, self.key, self._attempt, min(max(float(fraction), 0.0), 1.0),
                         time.monotonic() - self._began, preview=preview))

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """See ``engine.job.Job``; a stopped run keeps its state here at once and then raises Cancelled."""
        stopping = self._cancelled()
        if stopping or time.monotonic() - self._kept >= self._checkpoint_seconds:
            with files.one_line_errors("a checkpoint", self._checkpoints, "--store"):
                save_state(self._checkpoints, self._trash, state())
            self._kept = time.monotonic()
        self._stop_if_cancelled()

    def resume(self) -> dict[str, Any] | None:
        return load_state(self._checkpoints)

    def folder(self) -> Path:
        path = self._checkpoints / "files"
        with files.one_line_errors("files on their way", self._checkpoints, "--store"):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            self._emit(Event("warning", self.label, self.key, self._attempt, message=text))

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None:
        """A later figure of the same name and ``against`` replaces the earlier one; NaN and infinity become None."""
        self.metrics = [m for m in self.metrics if (m["name"], m["against"]) != (name, against)]
        kept = float(value) if math.isfinite(value) else None
        self.metrics.append({"name": name, "value": kept, "unit": unit, "against": against})

    def forget_checkpoints(self) -> None:
        """The attempt is finished: its result is kept, so its states may go."""
        files.remove_folder(self._checkpoints, self._trash)

    def _stop_if_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled(f"stopped in {self.label}", "The same command goes on from what is finished")
