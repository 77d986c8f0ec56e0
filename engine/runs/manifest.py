"""The record of one run in the store: every label's request, every attempt, accepted or refused; a root for ``gc``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.runs.run import Outcome, Run


class AttemptRecord(BaseModel):
    """One computation and what its gates said. ``refused``: the metrics that did not pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    seed: int
    params: dict[str, Any]
    accepted: bool
    refused: list[str] = Field(default_factory=list)
    cached: bool = False


class StageManifest(BaseModel):
    """One label of the plan. ``request`` is its handle's key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    label: str
    stage: str
    version: int
    request: str
    attempts: list[AttemptRecord]


class Manifest(BaseModel):
    """A run: enough to find all of its results again. ``keys`` are what ``gc`` must keep."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    schema_: Literal[1] = Field(1, alias="schema")
    asset: str
    pipeline: str
    quality: str
    seed: int
    models: str
    device: str
    stages: list[StageManifest]
    keys: list[str]

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @property
    def name(self) -> str:
        """Name among the store's roots: the asset's and the last request's, so that equal runs share one."""
        return f"{self.asset}-{self.stages[-1].request[:12]}" if self.stages else self.asset


def build_manifest(run: Run, outcomes: list[Outcome], *, asset: str, pipeline: str) -> Manifest:
    """Record an executed run."""
    stages = [StageManifest(
        label=o.node.label, stage=o.node.spec.name, version=o.node.spec.version, request=o.node.handle.key,
        attempts=[AttemptRecord(key=a.key, seed=a.seed, params=a.params, accepted=a.accepted, cached=a.cached,
                                refused=[gate.metric for gate, _, passed in a.gates if not passed])
                  for a in o.attempts]) for o in outcomes]
    return Manifest(schema=1, asset=asset, pipeline=pipeline, quality=run.quality, seed=run.seed,
                    models=run.models.name if run.models else "", device=run.device, stages=stages,
                    keys=sorted({a.key for o in outcomes for a in o.attempts}))
