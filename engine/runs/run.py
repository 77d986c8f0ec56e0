"""The run context: a pipeline calls it to plan, it executes what the store does not have yet.

    run = Run(Store(Store.place()), models=model_set("builtin"), seed=7)
    mesh = image_to_mesh(run, picture)      # plans: handles only
    textured = run.execute(mesh)            # runs what is missing, loads the artifact
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.errors import Cancelled, GateRefused, MaquetteError, RunFailed
from engine.job import Gate, Params, Spec
from engine.runs import devices, files
from engine.runs.devices import resolve_device
from engine.runs.events import Event, Listener
from engine.runs.job import CHECKPOINT_SECONDS, Models, StageJob
from engine.runs.keys import Ground, attempt_key, params_json, request_key, seed_of
from engine.runs.plan import (
    QUALITIES,
    Handle,
    Node,
    check_inputs,
    refusals,
    remedied,
    resolve_gates,
    resolve_params,
)
from engine.runs.store import Entry, Store
from engine.runs.words import nearest, unknown

T = TypeVar("T")

__all__ = ["Attempt", "Handle", "Outcome", "Run"]


@dataclass(frozen=True)
class Attempt:
    """One computation of a stage: accepted or refused, and by which gates."""

    key: str
    seed: int
    params: dict[str, Any]
    gates: list[tuple[Gate, float | None, bool]]
    cached: bool
    entry: Entry

    @property
    def accepted(self) -> bool:
        return all(passed for _, _, passed in self.gates)


@dataclass
class Outcome:
    """What became of one planned stage: its attempts; the last one is the accepted one when ``done``."""

    node: Node
    attempts: list[Attempt] = field(default_factory=list)
    done: bool = False
    seconds: float = 0.0
    """Wall time that this run spent on it; what the computation itself took is in the entry's timing."""

    @property
    def accepted(self) -> Attempt:
        if not self.done:
            raise LookupError(f"{self.node.label} was not executed")
        return self.attempts[-1]


class Run:
    """Plans stages when called, executes handles when told to.

    store : where results are kept
    models : the model set; None where no stage asks for a role
    seed : the recipe's seed, any whole number; asset : the asset's id, "" for ``make``
    quality : "draft", "standard" or "high"
    overrides : {label: {parameter: value}}, from the recipe's [stages.*] and --set; they win over the pipeline's call
    gates : {label: table}, from the recipe's [gates.*]; see ``resolve_gates``
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    listeners : called with every event
    """

    def __init__(self, store: Store, models: Models | None = None, *, seed: int = 0, asset: str = "",
                 quality: str = "standard", overrides: Mapping[str, Mapping[str, Any]] | None = None,
                 gates: Mapping[str, Mapping[str, Any]] | None = None, device: str = "auto",
                 precision: str = "", backend: str = "warp", until: str | None = None,
                 listeners: Iterable[Listener] = (), checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
        if quality not in QUALITIES:
            raise unknown("quality", quality, QUALITIES)
        self.store, self.models = store, models
        self.seed, self.asset, self.quality, self.until = seed, asset, quality, until
        self.device = resolve_device(device)
        told = getattr(models, "computes_in", None)  # what networks compute in, where the models decide it
        self.ground = Ground(self.device.partition(":")[0], precision or (told(self.device) if told else "float32"),
                             backend)
        self.overrides = {label: dict(values) for label, values in (overrides or {}).items()}
        self.gates = {label: dict(values) for label, values in (gates or {}).items()}
        self.listeners = list(listeners)
        self.checkpoint_seconds = checkpoint_seconds
        self.planned: dict[str, Node] = {}
        """label -> node, in the order the pipeline asked for them."""
        self.outcomes: dict[str, Outcome] = {}
        self._stop = threading.Event()
        self._told_waiting: set[str] = set()

    # -- planning ---------------------------------------------------------------------------------------------------

    def __call__(self, stage: Callable[..., T], *handles: Handle[Any] | None, label: str | None = None,
                 **params: Any) -> Handle[T]:
        """Plan ``stage`` on ``handles``; the answer is a promise. Nothing runs.

        TypeError: artifacts of the wrong type, a label used twice. BadInput: unknown or impossible parameters.
        """
        spec: Spec = stage.spec  # type: ignore[attr-defined]
        label = label or spec.name
        if label in self.planned:
            raise TypeError(f"the label {label} is used twice in this pipeline; give one of the calls its own label")
        for handle in handles:
            if handle is not None and self.planned.get(handle.label, None) is None:
                raise TypeError(f"{label}: the handle of {handle.label} belongs to another run")
        check_inputs(spec, label, handles)
        resolved = resolve_params(spec, label, self.quality, params, self.overrides.get(label, {}))
        gates, attempts = resolve_gates(spec, label, self.gates.get(label, {}))
        remedied(resolved, label, gates)  # an impossible remedy is found now, not in the night
        weights = {role: self._models().digest(role) for role in spec.roles_for(resolved)}
        key = request_key(stage=spec.name, version=spec.version, label=label, params=params_json(resolved),
                          inputs=[handle.key if handle else None for handle in handles],
                          seed=seed_of(self.seed, self.asset, label), weights=weights, ground=self.ground,
                          gates=gates, attempts=attempts)
        promise: Handle[T] = Handle(key, label, spec.output)
        self.planned[label] = Node(promise, stage, spec, resolved, handles, weights, gates, attempts)
        return promise

    def check(self) -> None:
        """BadInput for labels that no stage of the whole plan has: overrides, gates, until."""
        for what, labels in (("--set or [stages.*]", self.overrides), ("[gates.*]", self.gates),
                             ("--until", [self.until] if self.until else [])):
            for label in labels:
                if label not in self.planned:
                    raise unknown("label", label, self.planned, what)

    def needed(self, handles: Iterable[Handle[Any]]) -> list[Node]:
        """The nodes that ``handles`` stand on, themselves included, in the pipeline's order; cut at ``until``."""
        wanted: set[str] = set()
        waiting = [self.planned[self.until].handle] if self.until else list(handles)
        while waiting:
            handle = waiting.pop()
            if handle.label not in wanted:
                wanted.add(handle.label)
                waiting += [source for source in self.planned[handle.label].inputs if source is not None]
        return [node for label, node in self.planned.items() if label in wanted]

    def _models(self) -> Models:
        if self.models is None:
            raise TypeError("this pipeline needs a model set: Run(store, models=...)")
        return self.models

    # -- executing --------------------------------------------------------------------------------------------------

    def execute(self, handle: Handle[T]) -> T:
        """Run what ``handle`` stands on and is missing, and load its artifact.

        With ``until`` set the plan stops there: ``perform`` and ``load`` serve that case.
        """
        self.perform(handle)
        return self.load(handle)

    def perform(self, *handles: Handle[Any]) -> list[Outcome]:
        """Run what is missing of all that ``handles`` stand on, in the pipeline's order, in this process."""
        self.check()
        nodes = self.needed(handles)
        self.emit(Event("planned", labels=tuple(node.label for node in nodes)))
        for node in nodes:
            if not (node.label in self.outcomes and self.outcomes[node.label].done):
                self._execute(node)
        return [self.outcomes[node.label] for node in nodes]

    def load(self, handle: Handle[T]) -> T:
        """The artifact of an executed handle, fresh from the store. LookupError where it was not executed."""
        if handle.label not in self.outcomes:
            raise LookupError(f"{handle.label} was not executed")
        kind: Any = handle.type
        artifact: T = self.store.load(self.outcomes[handle.label].accepted.entry, kind)
        return artifact

    def cancel(self) -> None:
        """Stop at the next word of progress. Safe from a signal handler or another thread."""
        self._stop.set()

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _execute(self, node: Node) -> None:
        """Attempts until one passes its gates. What the store has is judged by the figures kept with it."""
        outcome = self.outcomes[node.label] = Outcome(node)
        params, began = node.params, time.monotonic()
        for number in range(node.attempts):
            attempt = self._attempt(node, params, number)
            outcome.attempts.append(attempt)
            outcome.seconds = time.monotonic() - began
            if attempt.accepted:
                outcome.done = True
                kind = "cached" if attempt.cached else "done"
                self.emit(Event(kind, node.label, attempt.key, number, 1.0, outcome.seconds))  # type: ignore[arg-type]
                return
            refused = [(gate, value) for gate, value, passed in attempt.gates if not passed]
            measured = [one["name"] for one in attempt.entry.metrics]
            reason = "; ".join(_explain(gate, value, measured) for gate, value in refused)
            self.emit(Event("refused", node.label, attempt.key, number, 1.0, outcome.seconds, reason))
            params = remedied(params, node.label, (gate for gate, _ in refused))
        self.emit(Event("failed", node.label, node.handle.key, node.attempts - 1, 1.0, outcome.seconds, reason))
        tries = "one attempt" if node.attempts == 1 else f"{node.attempts} attempts"
        raise GateRefused(f"{node.label} was refused after {tries}: {reason}",
                          f"Try another --seed, or loosen [gates.{node.label}] in the recipe")

    def _attempt(self, node: Node, params: Params, number: int) -> Attempt:
        about: dict[str, Any] = {
            "stage": node.spec.name, "version": node.spec.version, "label": node.label,
            "params": params_json(params), "weights": node.weights,
            "inputs": [self.outcomes[handle.label].accepted.key if handle else None for handle in node.inputs],
            "seed": seed_of(self.seed, self.asset, node.label, 0, number)}
        key = attempt_key(**about, ground=self.ground)
        try:
            self._stop_if_cancelled(node)
            with self.store.lock(key, lambda seconds: self._waiting(node, key, seconds)):
                entry = self.store.find(key, lambda reason: self.emit(Event(
                    "warning", node.label, key, number,
                    message=f"the kept result of {node.label} was damaged ({reason}); making it again")))
                cached = entry is not None
                if entry is None:
                    entry = self._compute(node, params, number, key, about)
        except KeyboardInterrupt:
            self.emit(Event("failed", node.label, key, number, message="stopped"))
            raise Cancelled(f"stopped in {node.label}", "The same command goes on from what is finished") from None
        except MaquetteError as error:
            self.emit(Event("failed", node.label, key, number, message=str(error)))
            raise
        except Exception as error:
            failure = _one_line(node.label, error)
            self.emit(Event("failed", node.label, key, number, message=str(failure)))
            raise failure from error
        return Attempt(key, about["seed"], about["params"], refusals(node.gates, entry.metrics), cached, entry)

    def _compute(self, node: Node, params: Params, number: int, key: str, about: dict[str, Any]) -> Entry:
        job = StageJob(label=node.label, device=self.device, key=key, seed=(self.seed, self.asset), attempt=number,
                       roles=tuple(node.weights), models=self.models, emit=self.emit, cancelled=self._stop.is_set,
                       checkpoints=self.store.root / "checkpoints" / key, trash=self.store.root / "tmp",
                       checkpoint_seconds=self.checkpoint_seconds)
        self.emit(Event("started", node.label, key, number))
        inputs = [self.load(handle) if handle else None for handle in node.inputs]
        files.reset_peak_memory()
        devices.reset_peak_memory(self.device)
        began = time.monotonic()
        artifact = node.function(*inputs, params, job)
        timing = {"seconds": time.monotonic() - began, "peak_bytes": files.peak_memory(), "device": self.device,
                  "device_peak_bytes": devices.peak_memory(self.device)}
        entry = self.store.put(key, artifact, {**about, "ground": vars(self.ground), "metrics": job.metrics,
                                               "warnings": job.warnings}, timing)
        with contextlib.suppress(OSError):  # only space is at stake
            job.forget_checkpoints()
        return entry

    def _waiting(self, node: Node, key: str, seconds: float) -> None:
        """Another process makes this very result: say so once, and take it when it is there."""
        self._stop_if_cancelled(node)
        if seconds > 2.0 and key not in self._told_waiting:
            self._told_waiting.add(key)
            self.emit(Event("warning", node.label, key, message="another process is making this; waiting for it"))

    def _stop_if_cancelled(self, node: Node) -> None:
        if self._stop.is_set():
            raise Cancelled(f"stopped before {node.label}", "The same command goes on from what is finished")


def _explain(gate: Gate, value: float | None, measured: Iterable[str]) -> str:
    if value is None:
        return f"{gate.metric} was not measured ({nearest(gate.metric, measured).rstrip('.')})"
    bound = (f"below {gate.minimum:g}" if gate.minimum is not None and not value >= gate.minimum
             else f"above {gate.maximum:g}")
    return f"{gate.metric} {value:.4g} is {bound}" + (f" ({gate.explain})" if gate.explain else "")


def _one_line(label: str, error: Exception) -> RunFailed:
    """Any error of a stage as one line that says what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return RunFailed(f"{label} ran out of memory", "Use --quality draft, or --device cpu where a GPU is too small")
    if files.disk_full(error):
        return RunFailed(f"the disk is full ({label})", "Free some space; finished stages are kept")
    return RunFailed(f"{label} failed: {type(error).__name__}: {text[:300]}",
                     "Run it again with --debug to see where; if it stays, that output belongs in a bug report")
