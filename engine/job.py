"""What a stage may have from outside (Job), and what the run mechanism may know of a stage (Spec)."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import torch

F = TypeVar("F", bound=Callable[..., Any])


class Params(BaseModel):
    """Base of every stage's parameters: unknown names are refused, values are checked, numbers must be finite.

    The defaults are the standard quality; ``QUALITY`` holds what draft and high change.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {}


class Job(Protocol):
    """All that a stage may have beside its inputs and parameters."""

    label: str
    device: str
    """Torch device string of the run ("cpu", "cuda", "mps")."""

    def seed(self, candidate: int = 0) -> int:
        """63-bit seed from hash(recipe seed, asset id, label, candidate, attempt)."""

    def generator(self, candidate: int = 0) -> torch.Generator:
        """A fresh CPU generator with :meth:`seed`; one a sample, so that batch size changes no draw."""

    def model(self, role: str) -> Any:
        """The loaded model of a role the stage declared."""

    def progress(self, fraction: float, preview: np.ndarray | None = None) -> None:
        """Tell how far (0..1) and show a picture (h, w, 3). Raises ``Cancelled`` when the user has stopped the run."""

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep ``state()`` (tensors, arrays, numbers, strings) when a minute has passed since the last one."""

    def resume(self) -> dict[str, Any] | None:
        """The last state kept by an interrupted run of this very attempt, or None."""

    def folder(self) -> Path:
        """Where this very attempt may keep files on their way: what an interrupted run wrote there is there again, and
        all of it goes once the result is kept. Under its own name a file must be whole: write it beside, then rename.
        """

    def warn(self, text: str) -> None:
        """One line for the terminal and the report."""

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None:
        """One figure for the report; gates read it by name."""


@dataclass(frozen=True)
class Gate:
    """A check on a stage's metrics: refuses when ``metric`` is below ``minimum`` or above ``maximum``.

    remedy : parameter changes for the next attempt, beside its new seed; explain : one line for the report
    """

    metric: str
    minimum: float | None = None
    maximum: float | None = None
    remedy: tuple[tuple[str, Any], ...] = ()
    explain: str = ""


@dataclass(frozen=True)
class Spec:
    name: str
    version: int
    params: type[Params]
    inputs: tuple[Any, ...]
    output: Any
    roles: tuple[str, ...] | Callable[[Any], tuple[str, ...]]
    gates: tuple[Gate, ...]
    attempts: int

    def roles_for(self, params: Params) -> tuple[str, ...]:
        """The roles that the stage may ask for with these parameters."""
        return self.roles(params) if callable(self.roles) else self.roles


def stage(version: int, roles: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = (), gates: tuple[Gate, ...] = (),
          attempts: int = 1) -> Callable[[F], F]:
    """Mark ``def name(artifact, ..., p: Params, job: Job) -> Artifact`` as a stage.

    version : raise it whenever the output changes for equal inputs
    roles : models it may ask the job for; a function of the parameters where they decide, so that no key and no
        report names weights that were never asked
    """

    def mark(function: F) -> F:
        hints = typing.get_type_hints(function, include_extras=False)
        names = list(inspect.signature(function).parameters)
        if names[-2:] != ["p", "job"]:
            raise TypeError(f"stage {function.__name__} must end its parameters with (p, job)")
        spec = Spec(function.__name__, version, hints["p"], tuple(hints[n] for n in names[:-2]), hints["return"],
                    roles, gates, attempts)
        function.spec = spec  # type: ignore[attr-defined]
        return function

    return mark
