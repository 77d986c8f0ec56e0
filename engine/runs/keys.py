"""Keys: the SHA-256 of all that a result depends on, and the seeds that follow from names.

A request key names what was asked for, gates and remedies included; a handle is one. An attempt key names one
computation: the same without gates, with attempt n's seed and parameters. Never in a key: time, path, source text,
worker. A parameter that must stay out of keys (a path beside its file's digest) is declared ``Field(exclude=True)``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from engine.job import Gate, Params

KEY_SCHEMA = 1


def canonical_json(data: Any) -> bytes:
    """One spelling for equal data: sorted names, no spaces, UTF-8; NaN and infinity are refused (ValueError)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
                      ).encode("utf-8")


def digest(data: Any) -> str:
    """SHA-256 of data's canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


def seed_of(recipe_seed: int, asset: str, label: str, candidate: int = 0, attempt: int = 0) -> int:
    """63-bit seed of one sample: names decide, so that adding an asset or a stage changes no other's."""
    words = digest(["seed", KEY_SCHEMA, recipe_seed, asset, label, candidate, attempt])
    return int(words[:16], 16) >> 1


def params_json(params: Params) -> dict[str, Any]:
    """Resolved parameters as they enter keys and records; fields declared ``exclude=True`` stay out."""
    return params.model_dump(mode="json")


@dataclass(frozen=True)
class Ground:
    """What every key of a run has in common: where and how numbers are made."""

    device: str
    """Class of the device: "cpu", "cuda", "mps"."""
    precision: str = "float32"
    backend: str = "warp"


def request_key(*, stage: str, version: int, label: str, params: dict[str, Any], inputs: list[str | None],
                seed: int, weights: dict[str, str], ground: Ground, gates: tuple[Gate, ...], attempts: int) -> str:
    """Key of what was asked for; ``inputs`` are request keys, ``seed`` is the first attempt's."""
    return digest({"schema": KEY_SCHEMA, "kind": "request", "stage": stage, "version": version, "label": label,
                   "params": params, "inputs": inputs, "seed": seed, "weights": weights, "ground": asdict(ground),
                   "gates": [asdict(gate) for gate in gates], "attempts": attempts})


def attempt_key(*, stage: str, version: int, label: str, params: dict[str, Any], inputs: list[str | None],
                seed: int, weights: dict[str, str], ground: Ground) -> str:
    """Key of one computation; ``inputs`` are the attempt keys of the artifacts that go in.

    Gates upstream are left out for the same reason as this stage's own: loosening one must not redo what follows
    from an artifact that is accepted either way.
    """
    return digest({"schema": KEY_SCHEMA, "kind": "attempt", "stage": stage, "version": version, "label": label,
                   "params": params, "inputs": inputs, "seed": seed, "weights": weights, "ground": asdict(ground)})
