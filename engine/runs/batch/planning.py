"""What a run would do: each asset's keys, what the store and the run's folder have of it, and why it would run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import engine
from engine.collector import uncollected
from engine.errors import BadInput
from engine.runs import files
from engine.runs.batch.conduct import stamp
from engine.runs.batch.journal import Known
from engine.runs.batch.shapes import SHAPE_SCHEMA, Irregular, Planned, Shape, StageKeys, Words, learn, slow_keys
from engine.runs.store import Store

CHANGED = "was changed in its folder"
State = Literal["finished", "cached", "refused", "run"]


class Asset(Protocol):
    """What planning needs of ``engine.recipes.batch.BatchAsset``."""

    @property
    def id(self) -> str: ...

    @property
    def recipe(self) -> Any: ...


class Planner(Protocol):
    """``engine.batch_api.Planner``, or a test's."""

    def plan(self, recipe: Any) -> Planned: ...

    def shape_of(self, recipe: Any) -> Hashable: ...

    def words_of(self, recipe: Any) -> Words: ...

    def twin_of(self, recipe: Any, scratch: Path) -> Any: ...

    def may_be_kept(self, recipe: Any) -> bool: ...

    def weights(self, recipe: Any, roles: Iterable[str]) -> dict[str, str]: ...


@dataclass
class AssetPlan:
    """One asset's part of a plan.

    state : "finished": its files lie in the run's folder; "cached": all of it is in the store, files are only copied;
        "refused": gates refused all attempts that lie in the store, and would again; "run": something is missing
    why : one line
    goals : label -> request key of what makes it complete
    shape : number of its shape, for estimates; -1 for an asset that was planned by itself
    """

    id: str
    state: State
    why: str
    stages: list[StageKeys]
    goals: dict[str, str]
    shape: int = -1

    @property
    def missing(self) -> list[str]:
        return [stage.label for stage in self.stages if stage.found == "missing"]


@dataclass
class BatchPlan:
    """All assets, in the recipe's order, and the shapes that they have."""

    assets: list[AssetPlan] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    slow: int = 0
    """How many assets had to be planned one by one."""

    def of(self, state: State) -> list[AssetPlan]:
        return [asset for asset in self.assets if asset.state == state]


def plan_batch(assets: Iterable[Asset], planner: Planner, store: Store, known: Known, folder: Path | None,
               scratch: Path, kept_shapes: bool = True, where: str = "") -> BatchPlan:
    """The plan of every asset. BadInput names the asset that cannot be made as it was put, behind ``where`` (the file).

    known : the journal of ``folder``, where the run's files are or will be; None: nothing was made yet
    scratch : an empty folder that may go afterwards; kept_shapes : shapes on the disk may be used
    """
    plan = BatchPlan()
    look = _Look(store)
    shapes: dict[Hashable, int | None] = {}
    with uncollected():
        for asset in assets:
            try:
                keys, shape = _keys(asset.recipe, planner, store, look, shapes, plan, scratch, kept_shapes,
                                    _whole(known.finished.get(asset.id), folder))
            except BadInput as error:
                raise BadInput(f"{where}asset {asset.id}: {error.what}", error.fix) from error
            plan.assets.append(_judged(asset.id, keys[0], keys[1], shape, known, folder))
    return plan


def _whole(before: dict[str, Any] | None, folder: Path | None) -> dict[str, Any] | None:
    """What the journal tells of an asset whose files lie in the run's folder as it left them."""
    return before if before is not None and folder is not None and not changed_file(before, folder) else None


def _keys(recipe: Any, planner: Planner, store: Store, look: _Look, shapes: dict[Hashable, int | None], plan: BatchPlan,
          scratch: Path, kept_shapes: bool, whole: dict[str, Any] | None
          ) -> tuple[tuple[list[StageKeys], list[str]], int]:
    name = planner.shape_of(recipe)
    if name not in shapes:
        shape = _shape(name, recipe, planner, store, scratch, kept_shapes)
        shapes[name] = None if shape is None else len(plan.shapes)
        if shape is not None:
            plan.shapes.append(shape)
    number = shapes[name]
    if number is not None:
        shape = plan.shapes[number]
        found = shape.keys(recipe.seed, recipe.seed_id, planner.words_of(recipe), look.metrics)
        if found is None and whole is not None:
            # Gates refused attempts, so the slow way would have to reckon the next ones'. What was asked is the same
            # whatever they said, and the journal knows which attempts an unchanged request came to.
            asked = shape.requests(recipe.seed, recipe.seed_id, planner.words_of(recipe))
            if whole["summary"].get("goals") == {label: asked[label] for label in shape.goals}:
                found = [StageKeys(stage["label"], stage["stage"], stage["request"], stage["key"], "kept")
                         for stage in whole["summary"]["stages"]]
        if found is not None:
            return (found, shape.goals), number
    planned = planner.plan(recipe)
    plan.slow += 1
    goals = [planned.run.until] if planned.run.until else [handle.label for handle in planned.goals]
    return (slow_keys(planned, look.metrics), goals), -1 if number is None else number


def _shape(name: Hashable, recipe: Any, planner: Planner, store: Store, scratch: Path, kept_shapes: bool
           ) -> Shape | None:
    """The shape as kept from before, where it is still true; else learned now. None: there is none."""
    may_be_kept = kept_shapes and planner.may_be_kept(recipe)
    place = store.root / "plans" / f"{hashlib.sha256(f'{_code()} {name!r}'.encode()).hexdigest()}.json"
    if may_be_kept and (data := _read(place)) is not None:
        shape = Shape(data)
        if planner.weights(recipe, shape.roles) == shape.roles:
            return shape
    own = planner.plan(recipe)
    try:
        twin_recipe = planner.twin_of(recipe, scratch)
        twin = planner.plan(twin_recipe)
        shape = Shape(learn(own, planner.words_of(recipe), twin, planner.words_of(twin_recipe)))
    except (Irregular, BadInput):  # the twin's words were too long, for instance: no fault of the recipe's
        return None
    # What is reckoned must be what was planned, or it is not used at all.
    if [keys.request for keys in shape.keys(recipe.seed, recipe.seed_id, planner.words_of(recipe), _nothing) or []] != [
            node.handle.key for node in own.nodes]:
        return None
    if may_be_kept:
        with files.one_line_errors("a plan", store.root, "--store"):
            files.write_file(place, json.dumps(shape.data))
    return shape


def _judged(id: str, keys: list[StageKeys], goals: list[str], shape: int, known: Known, folder: Path | None
            ) -> AssetPlan:
    requests = {stage.label: stage.request for stage in keys}
    wanted = {label: requests[label] for label in goals}
    missing = [stage.label for stage in keys if stage.found == "missing"]
    plan = AssetPlan(id, "run", "", keys, wanted, shape)
    before = known.finished.get(id)
    if before is not None and folder is not None and before["summary"].get("goals") == wanted:
        changed = changed_file(before, folder)
        if not changed:
            plan.state, plan.why = "finished", "made before, and its files are as they were"
            return plan
        plan.state, plan.why = "cached" if not missing else "run", changed
        return plan
    if any(stage.found == "refused" for stage in keys):
        label = next(stage.label for stage in keys if stage.found == "refused")
        plan.state, plan.why = "refused", f"every kept attempt at {label} was refused by its gates"
    elif not missing:
        plan.state, plan.why = "cached", "all of it is in the store; its files are copied"
    else:
        plan.why = _why(id, missing, keys, known)
    return plan


def _why(id: str, missing: list[str], keys: list[StageKeys], known: Known) -> str:
    before, last = known.finished.get(id), known.ended.get(id)
    if last is not None and last["status"] not in ("done", "cached"):
        return f"{last['status']} the last time: {last['error']}"
    if before is not None:
        changed = [stage.label for stage in keys
                   if stage.request != _requests(before).get(stage.label, stage.request)]
        if changed:
            return f"{changed[0]} is not what it was (maquette why says what changed)"
    begun = "" if len(missing) == len(keys) else f"{len(keys) - len(missing)} of {len(keys)} stages are in the store; "
    return f"{begun}{missing[0]} was not made yet" if len(missing) > 1 else f"{begun}{missing[0]} is missing"


def _requests(line: dict[str, Any]) -> dict[str, str]:
    return {stage["label"]: stage["request"] for stage in line["summary"].get("stages", [])}


def changed_file(line: dict[str, Any], folder: Path) -> str:
    """What of an asset's files is not as its line in the journal says, in one line; "" where all is.

    A file with the size and time that the journal knows is taken for the same; any other is read.
    """
    for about in line["summary"].get("files", []):
        path = folder / line["folder"] / about["path"]
        now = stamp(path)
        if not now:
            return f"{about['path']} is missing in its folder"
        if now != about["stamp"] and (now[0] != about["bytes"] or files.file_digest(path) != about["sha256"]):
            return f"{about['path']} {CHANGED}"
    return ""


class _Look:
    """What the store has, asked thousands of times: its keys are listed once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = frozenset(store.keys())
        self._read = cache(self._figures)

    def metrics(self, key: str, gated: bool) -> list[dict[str, Any]] | None:
        if key not in self._keys:
            return None
        return self._read(key) if gated else []

    def _figures(self, key: str) -> list[dict[str, Any]] | None:
        try:  # unproven here: a run reads its hashes before it uses it
            told = json.loads((self._store.folder_of(key) / "manifest.json").read_text(encoding="utf-8"))
            return list(told["metrics"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _nothing(key: str, gated: bool) -> None:
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return data if data.get("schema") == SHAPE_SCHEMA else None
    except (OSError, ValueError, AttributeError):
        return None


@cache
def _code() -> str:
    """Digest of this Maquette's own source: a shape that another one kept is not taken. It enters no key."""
    root = Path(engine.__file__).parent
    whole = hashlib.sha256()
    for path in _sources(root):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def _sources(root: Path) -> Iterator[Path]:
    return iter(sorted((*root.rglob("*.py"), *root.rglob("*.toml"))))
