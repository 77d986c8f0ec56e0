"""An asset's papers: what it is, how it was made, what was measured. Schema 1."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.runs.run import Outcome, Run


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Record):
    """A model that the asset was made with."""

    role: str
    id: str
    revision: str
    sha256: str
    licence: str
    commercial: str


class StageRecord(_Record):
    """One stage. seconds and peak_bytes are of the computation, also where this run found it done (``cached``).

    peak_bytes : the most that the process held in main memory; device_peak_bytes : that torch held on a GPU, 0 without
    """

    label: str
    key: str
    seconds: float
    peak_bytes: int
    device_peak_bytes: int = 0
    cached: bool
    attempts: int


class Metric(_Record):
    """One figure; ``name`` is label.figure, ``against`` says what it was measured against."""

    name: str
    value: float | None
    unit: str = ""
    against: str = ""


class GateRecord(_Record):
    """One check of one attempt. ``threshold`` is a lower bound, or an upper one where the metric says at most."""

    metric: str
    threshold: float | None
    value: float | None
    passed: bool
    remedy: str = ""


class FileRecord(_Record):
    """A file of the asset; path is relative to the report's folder."""

    path: str
    role: str
    sha256: str


class Report(_Record):
    """What ``report.json`` holds."""

    schema_: Literal[1] = Field(1, alias="schema")
    asset: str
    pipeline: str
    quality: str
    seed: int
    models: list[ModelRecord] = Field(default_factory=list)
    stages: list[StageRecord] = Field(default_factory=list)
    metrics: list[Metric] = Field(default_factory=list)
    gates: list[GateRecord] = Field(default_factory=list)
    files: list[FileRecord] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def figure(self, name: str) -> float | None:
        """The value of the metric ``label.figure``, or of the only figure of that bare name. KeyError where absent."""
        found = [m.value for m in self.metrics if m.name == name or m.name.partition(".")[2] == name]
        if not found:
            raise KeyError(name)
        return found[0]


def build_report(run: Run, outcomes: list[Outcome], *, asset: str, pipeline: str, files: list[FileRecord],
                 seconds: float | None = None, warnings: list[str] | None = None) -> Report:
    """Put together what an executed run knows. ``seconds``: wall time of this run as the user felt it."""
    stages, metrics, gates, said = [], [], [], list(warnings or [])
    for outcome in outcomes:
        label, accepted = outcome.node.label, outcome.accepted
        timing = accepted.entry.timing
        stages.append(StageRecord(label=label, key=accepted.key, seconds=round(float(timing.get("seconds", 0.0)), 3),
                                  peak_bytes=int(timing.get("peak_bytes", 0)),
                                  device_peak_bytes=int(timing.get("device_peak_bytes", 0)), cached=accepted.cached,
                                  attempts=len(outcome.attempts)))
        metrics += [Metric(name=f"{label}.{m['name']}", value=_finite(m["value"]), unit=m["unit"],
                           against=m["against"]) for m in accepted.entry.metrics]
        for attempt in outcome.attempts:
            for gate, value, passed in attempt.gates:
                bounds = [(gate.minimum, ""), (gate.maximum, " at most")]
                for threshold, word in bounds:
                    if threshold is not None:
                        gates.append(GateRecord(
                            metric=f"{label}.{gate.metric}{word}", threshold=threshold, value=_finite(value),
                            passed=passed, remedy=", ".join(f"{name}={v}" for name, v in gate.remedy)))
        said += [f"{label}: {text}" for text in accepted.entry.warnings]
    if seconds is not None:
        metrics.append(Metric(name="run.seconds", value=round(seconds, 3), unit="s", against="this run, wall clock"))
        peak = max((stage.peak_bytes for stage in stages), default=0)
        metrics.append(Metric(name="run.peak_bytes", value=peak, unit="byte", against="the largest stage"))
        if device_peak := max((stage.device_peak_bytes for stage in stages), default=0):
            metrics.append(Metric(name="run.device_peak_bytes", value=device_peak, unit="byte",
                                  against="the largest stage, on the GPU"))
    return Report(schema=1, asset=asset, pipeline=pipeline, quality=run.quality, seed=run.seed,
                  models=models_used(run, outcomes), stages=stages, metrics=metrics, gates=gates, files=files,
                  warnings=list(dict.fromkeys(said)))


def models_used(run: Run, outcomes: list[Outcome]) -> list[ModelRecord]:
    """Every model that a stage asked for, once, with its licence."""
    if run.models is None:
        return []
    records = []
    for role in dict.fromkeys(role for outcome in outcomes for role in outcome.node.weights):
        info = run.models.info(role)
        records.append(ModelRecord(**{name: str(_read(info, name)) for name in ModelRecord.model_fields}))
    return records


def _read(info: Any, name: str) -> Any:
    return info[name] if isinstance(info, dict) else getattr(info, name)


def _finite(value: float | None) -> float | None:
    """JSON has no NaN: a figure that came out infinite is null, and stands there all the same."""
    return value if value is not None and math.isfinite(value) else None
