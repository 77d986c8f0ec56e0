"""Keys of thousands of assets: each distinct shape is planned once, what differs is put into its keys.

Assets of one shape run the same stages with the same parameters but for words that vary: prompt, seed, name, picture.
Where those words stand in the parameters is learned from two plans of the shape, the asset's own and a twin's whose
words occur nowhere else. A parameter that differs between the two and is none of the twin's words makes the shape
irregular: its assets are planned one by one. What comes out equals the slow way's keys, which tests prove.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from engine.job import Gate
from engine.runs.keys import KEY_SCHEMA, attempt_key, canonical_json, params_json, seed_of
from engine.runs.plan import Handle, Node, refusals, remedied
from engine.runs.run import Run

SHAPE_SCHEMA = 1
Words = dict[str, Callable[[], Any]]
"""Name -> what gives its value, called only where a shape needs it."""
_MARK = "\0"
_SLOT = re.compile(r'"\\u0000([a-z_0-9:]+)\\u0000"')
Metrics = Callable[[str, bool], list[dict[str, Any]] | None]
"""(key, whether a gate asks) -> the figures kept with it, [] where no gate asks; None: the store has no such result."""


@dataclass(frozen=True)
class Planned:
    """A plan of one asset, made the slow way."""

    run: Run
    goals: tuple[Handle[Any], ...]

    @property
    def nodes(self) -> list[Node]:
        return self.run.needed(self.goals)


class StageKeys(NamedTuple):
    """A stage of one asset: its request, and the key of the attempt that is or would be first to be accepted. A plan of
    10,000 assets has 90,000 of them, and a tuple is made in a third of the time that a dataclass takes.

    found : "kept" in the store, "missing", or "refused" where all attempts lie there and no gate let one pass
    """

    label: str
    stage: str
    request: str
    attempt: str
    found: str


class Irregular(Exception):
    """The shape's assets must be planned one by one."""


def learn(own: Planned, own_words: Words, twin: Planned, twin_words: Words) -> dict[str, Any]:
    """A shape as JSON. Irregular where what differs between the two plans is not understood."""
    ours, theirs = {n: give() for n, give in own_words.items()}, {n: give() for n, give in twin_words.items()}
    if [n.label for n in own.nodes] != [n.label for n in twin.nodes]:
        raise Irregular("other stages")
    stages = []
    for a, b in zip(own.nodes, twin.nodes, strict=True):
        facts = [_facts(node) for node in (a, b)]
        if facts[0] != facts[1]:
            raise Irregular(a.label)
        stages.append({**facts[0], "params": _slots(params_json(a.params), params_json(b.params), ours, theirs)})
    return {"schema": SHAPE_SCHEMA, "ground": asdict(own.run.ground), "stages": stages,
            "goals": [own.run.until] if own.run.until else [handle.label for handle in own.goals]}


def _facts(node: Node) -> dict[str, Any]:
    return {"label": node.label, "stage": node.spec.name, "version": node.spec.version,
            "inputs": [handle.label if handle else None for handle in node.inputs], "weights": node.weights,
            "gates": json.loads(canonical_json([asdict(gate) for gate in node.gates])), "attempts": node.attempts}


def _slots(a: Any, b: Any, ours: dict[str, Any], theirs: dict[str, Any]) -> Any:
    """The parameters with a mark in place of each word that varies."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {name: _slots(a[name], b[name], ours, theirs) for name in a}
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [_slots(x, y, ours, theirs) for x, y in zip(a, b, strict=True)]
    if type(a) is type(b) and a == b:
        if isinstance(a, str) and _MARK in a:
            raise Irregular("a mark in a parameter")
        return a
    names = [n for n, value in theirs.items() if type(value) is type(b) and value == b
             and type(ours[n]) is type(a) and ours[n] == a]
    if len(names) != 1:
        raise Irregular(f"{a!r} became {b!r}")
    return f"{_MARK}{names[0]}{_MARK}"


class Shape:
    """Reckons the keys of any asset of one shape."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.goals: list[str] = data["goals"]
        self._stages = [_Stage(stage, data["ground"]) for stage in data["stages"]]
        self.slots = sorted({slot for stage in self._stages for slot in stage.slots})

    @property
    def roles(self) -> dict[str, str]:
        """role -> digest of the weights that the keys were learned with."""
        return {role: sha for stage in self.data["stages"] for role, sha in stage["weights"].items()}

    def requests(self, seed: int, seed_id: str, words: Words) -> dict[str, str]:
        """label -> request key: what was asked, whatever gates made of it."""
        known = self.keys(seed, seed_id, words, lambda key, gated: None)
        assert known is not None  # nothing is refused where nothing is kept
        return {stage.label: stage.request for stage in known}

    def keys(self, seed: int, seed_id: str, words: Words, metrics: Metrics) -> list[StageKeys] | None:
        """None where a gate refused a kept attempt: what the next one's parameters are, the slow way knows."""
        texts = {name: _spelled(words[name]()) for name in self.slots}
        asset = _spelled(seed_id)
        requests: dict[str | None, str] = {None: "null"}
        attempts: dict[str | None, str] = {None: "null"}
        made = []
        for stage in self._stages:
            own = f'["seed",{KEY_SCHEMA},{seed},{asset},{stage.label_text},0,0]'
            texts["seed:own"] = str(int(hashlib.sha256(own.encode()).hexdigest()[:16], 16) >> 1)
            request = stage.request(texts, requests)
            attempt = stage.attempt(texts, attempts)
            figures = metrics(attempt, bool(stage.gates))
            if figures is not None and stage.gates and not all(ok for _, _, ok in refusals(stage.gates, figures)):
                return None
            requests[stage.label], attempts[stage.label] = f'"{request}"', f'"{attempt}"'
            made.append(StageKeys(stage.label, stage.name, request, attempt,
                                  "missing" if figures is None else "kept"))
        return made


class _Stage:
    """One stage's keys as texts with gaps."""

    def __init__(self, told: dict[str, Any], ground: dict[str, Any]) -> None:
        self.label: str = told["label"]
        self.name: str = told["stage"]
        self.label_text = json.dumps(self.label, ensure_ascii=False)
        self.gates = tuple(Gate(**{**gate, "remedy": tuple(map(tuple, gate["remedy"]))}) for gate in told["gates"])
        self._inputs: list[str | None] = told["inputs"]
        common = {"schema": KEY_SCHEMA, "stage": told["stage"], "version": told["version"], "label": told["label"],
                  "params": told["params"], "weights": told["weights"], "ground": ground,
                  "inputs": [f"{_MARK}in:{place}{_MARK}" for place in range(len(self._inputs))],
                  "seed": f"{_MARK}seed:own{_MARK}"}
        self._request = self._gapped({**common, "kind": "request", "gates": told["gates"],
                                      "attempts": told["attempts"]})
        self._attempt = self._gapped({**common, "kind": "attempt"})
        self.slots = {name for name, _ in self._request[1] if name and ":" not in name}

    def request(self, texts: dict[str, str], before: dict[str | None, str]) -> str:
        return _filled(self._request, texts, before)

    def attempt(self, texts: dict[str, str], before: dict[str | None, str]) -> str:
        return _filled(self._attempt, texts, before)

    def _gapped(self, data: dict[str, Any]) -> _Gapped:
        parts = _SLOT.split(canonical_json(data).decode())
        gaps = [("", self._inputs[int(name[3:])]) if name.startswith("in:") else (name, None) for name in parts[1::2]]
        return "%s".join(part.replace("%", "%%") for part in parts[::2]), gaps


_Gapped = tuple[str, list[tuple[str, str | None]]]
"""A text with a %s for each gap, and what fills each: (word, None), or ("", label of an input)."""


def _filled(gapped: _Gapped, texts: dict[str, str], before: dict[str | None, str]) -> str:
    text, gaps = gapped
    whole = text % tuple([texts[name] if name else before[label] for name, label in gaps])
    return hashlib.sha256(whole.encode()).hexdigest()


def _spelled(value: Any) -> str:
    """As canonical JSON spells it; texts and whole numbers, which are most, without a detour."""
    if type(value) is str:
        return encode_basestring(value)
    return str(value) if type(value) is int else canonical_json(value).decode()


def slow_keys(planned: Planned, metrics: Metrics) -> list[StageKeys]:
    """The same from a plan itself, attempts and remedies included: what a run would find in the store."""
    accepted: dict[str, str] = {}
    made = []
    for node in planned.nodes:
        attempt, params, found = "", node.params, "refused"
        for number in range(node.attempts):
            attempt = attempt_key(
                stage=node.spec.name, version=node.spec.version, label=node.label, params=params_json(params),
                inputs=[accepted[handle.label] if handle else None for handle in node.inputs],
                seed=seed_of(planned.run.seed, planned.run.asset, node.label, 0, number), weights=node.weights,
                ground=planned.run.ground)
            figures = metrics(attempt, bool(node.gates))
            if figures is None:
                found = "missing"
                break
            refused = [gate for gate, _, ok in refusals(node.gates, figures) if not ok]
            if not refused:
                found = "kept"
                break
            params = remedied(params, node.label, refused)
        accepted[node.label] = attempt
        made.append(StageKeys(node.label, node.spec.name, node.handle.key, attempt, found))
    return made


def roles_of(shapes: Iterable[Shape]) -> set[str]:
    return {role for shape in shapes for role in shape.roles}
