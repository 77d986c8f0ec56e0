"""Batches from Python: what an asset of a batch is planned and made by; ``maquette run`` does it through workers.

This is the one place where the mechanism of batches (``engine.runs.batch``, which knows no pipeline) meets the
pipelines. ``make_asset`` is what every worker calls, on this machine or on another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.recipes.recipe import CLIPS, DRAWN, Recipe, make_recipe, recipe_digest
from engine.runs.batch.executor import AssetTask, Status
from engine.runs.batch.shapes import Planned, Words
from engine.runs.words import unknown

if TYPE_CHECKING:
    from engine.api import AssetPlan
    from engine.clip_api import ClipPlan
    from engine.recipes.batch import BatchAsset


def plan_any(recipe: Recipe, *, store: str | Path | None = None, device: str = "auto", until: str | None = None,
             commercial_only: bool = False, allow_pickle: bool = False
             ) -> tuple[AssetPlan | ClipPlan, tuple[Any, ...]]:
    """(the plan of a mesh or a clip, the handles that make it complete). BadInput as of ``plan_asset``."""
    options: dict[str, Any] = {"store": store, "device": device, "until": until, "commercial_only": commercial_only,
                               "allow_pickle": allow_pickle}
    if recipe.pipeline in CLIPS:
        from engine.clip_api import plan_clip
        clip = plan_clip(recipe, **options)
        return clip, (clip.files,)
    from engine.api import plan_asset
    mesh = plan_asset(recipe, **options)
    return mesh, mesh.goals


def make_asset(task: AssetTask, said: Callable[[dict[str, Any]], None],
               stoppable: Callable[[Callable[[], None]], None]) -> tuple[Status, dict[str, Any]]:
    """Make what a task asks for, through the store, and write its folder -> (status, summary) for ``AssetResult``.

    Raises BadInput, RunFailed, Cancelled; ``engine.runs.batch.work`` turns them into results.
    """
    plan, goals = plan_any(make_recipe(**task.recipe), store=task.store, device=task.device, until=task.until,
                           commercial_only=task.commercial_only, allow_pickle=task.allow_pickle)
    stoppable(plan.run.cancel)
    plan.run.listeners.append(lambda event: said(event.to_json()))
    made = plan.execute()
    folder = Path(task.folder) if task.folder else None
    if folder is not None:
        made.save(folder, task.papers)
    from engine.runs.batch.summary import summarised
    summary = summarised(plan.run, made.outcomes, made.report, folder, [goal.label for goal in goals])
    return ("cached" if all(o.accepted.cached for o in made.outcomes) else "done"), summary


class Planner:
    """How a batch's assets are planned for ``engine.runs.batch.planning``; nothing heavy is imported before
    :meth:`plan` has to.

    store : a folder or a URL; device : a torch device string
    """

    VARIES = ("prompt", "seed", "seed_id", "name", "image")
    """What may differ between assets of one shape: their keys are reckoned from the shape's."""
    FILES = ("mesh", "folder", "poses", "driving_video")

    def __init__(self, store: str | Path, device: str, until: str | None = None, commercial_only: bool = False,
                 allow_pickle: bool = False) -> None:
        self.options: dict[str, Any] = {"store": store, "device": device, "until": until,
                                        "commercial_only": commercial_only, "allow_pickle": allow_pickle}
        self._told = (device, until, commercial_only, allow_pickle)
        self._tables: dict[int, tuple[Any, str]] = {}
        self._grounds: dict[tuple[str, str], tuple[Any, ...]] = {}

    def plan(self, recipe: Recipe) -> Planned:
        """The slow and sure way."""
        plan, goals = plan_any(recipe, **self.options)
        return Planned(plan.run, goals)

    def shape_of(self, recipe: Recipe) -> Hashable:
        """What assets with the same stages, parameters and models have in common."""
        values = tuple([(name, value if isinstance(value, str | int | float | None) else self._spelled(value))
                        for name, value in recipe.__dict__.items() if name not in self.VARIES])
        ground = self._models(recipe.models, self._spelled(recipe.roles)), (
            writable() if recipe.pipeline in CLIPS else ())
        return values, self._told, bool(recipe.prompt), bool(recipe.image), said_by(recipe.prompt), ground

    def _models(self, name: str, roles: str) -> tuple[Any, ...]:
        """What a set's name stands for here and now, and what its networks compute in."""
        if (name, roles) not in self._grounds:
            from engine.models.sets import model_set
            models = model_set(name, json.loads(roles), commercial_only=self.options["commercial_only"],
                               allow_pickle=self.options["allow_pickle"])
            self._grounds[name, roles] = (*sorted(models.choices.items()), models.computes_in(self.options["device"]))
        return self._grounds[name, roles]

    def _spelled(self, value: Any) -> str:
        """A table as a text; assets share most of theirs, and one object is spelled once."""
        kept = self._tables.get(id(value))
        if kept is None:
            kept = self._tables[id(value)] = (value, json.dumps(value, sort_keys=True))  # holds it, so its id stays
        return kept[1]

    def words_of(self, recipe: Recipe) -> Words:
        """What parameters take from the words that vary. Functions are called where a shape asks for them."""
        return {"prompt": lambda: recipe.prompt, "seed": lambda: recipe.seed, "seed_text": lambda: str(recipe.seed),
                "title": lambda: recipe.title, "frame_name": lambda: _frame_name(recipe),
                "image_digest": lambda: _picture_digest(recipe.image), "recipe_digest": lambda: recipe_digest(recipe)}

    def twin_of(self, recipe: Recipe, scratch: Path) -> Recipe:
        """A recipe of the same shape that differs in all that varies, by words that occur nowhere else. Its name is not
        ASCII, so that a title and a frames' name, which are made from it, are told apart."""
        changes: dict[str, Any] = {"seed": (recipe.seed + 918_273_645_546_372_819) % 2**63, "name": "qxzvtwinnamé"}
        if recipe.prompt:
            changes["prompt"] = f"{recipe.prompt[:900]} qxzvtwinprompt"
        if recipe.image:
            changes["image"] = str(_other_picture(scratch))
        return recipe.model_copy(update=changes)

    def may_be_kept(self, recipe: Recipe) -> bool:
        """Whether a shape may be kept on the disk: nothing in it comes from the user's files. What comes from this
        machine's programs and models is in :meth:`shape_of`."""
        return (not any(getattr(recipe, name) for name in self.FILES)
                and not any(name in told for told in recipe.stages.values() for name in ("lora", "embedding")))

    def weights(self, recipe: Recipe, roles: Iterable[str]) -> dict[str, str]:
        """role -> digest, as a plan would ask for them now."""
        from engine.models.sets import model_set
        models = model_set(recipe.models, recipe.roles, commercial_only=self.options["commercial_only"],
                           allow_pickle=self.options["allow_pickle"])
        return {role: models.digest(role) for role in roles}


@lru_cache(maxsize=1)
def writable() -> tuple[str, ...]:
    """The formats of clips that this machine's ffmpeg writes: plans leave the others out."""
    from engine.clips import formats
    return formats.sorted_out(tuple(formats.FORMATS))[0]


@lru_cache(maxsize=65_536)
def said_by(prompt: str) -> tuple[str, str]:
    """What pipelines read in a prompt beside the prompt itself: the kind, for its height, and the material."""
    from engine.export.heights import kind_in
    from engine.export.materials import material_in
    return kind_in(prompt) or "", material_in(prompt) or ""


def with_picks(assets: Iterable[BatchAsset], picks: Mapping[str, int | bool], where: str) -> list[BatchAsset]:
    """The assets with the candidates that were picked; those that were turned down (false) are left out.

    BadInput names the id that the batch does not have, or that no picture is drawn for.
    """
    listed = {asset.id: asset for asset in assets}
    for id in picks:
        if id not in listed:
            raise unknown("asset", id, listed, where)
    chosen = []
    for id, asset in listed.items():
        pick = picks.get(id)
        if pick is None:
            chosen.append(asset)
        elif pick is not False:
            if asset.recipe.pipeline not in DRAWN or asset.recipe.image:
                raise BadInput(f"{where}: {id} has no candidates to pick from", "Take that line out")
            values = {**asset.recipe.model_dump(mode="json", exclude_none=True), "pick": pick}
            chosen.append(replace(asset, recipe=make_recipe(**values)))
    return chosen


def _frame_name(recipe: Recipe) -> str:
    from engine.clip_api import frame_name
    return frame_name(recipe)


def _picture_digest(path: str) -> str:
    from engine.stages.load_picture import picture_digest
    return picture_digest(path) if path else ""


def _other_picture(scratch: Path) -> Path:
    """A picture that is no user's."""
    import numpy as np

    from engine.artifacts import save_png
    path = scratch / "twin.png"
    if not path.exists():
        save_png(path, np.linspace(0, 1, 64 * 64 * 3, dtype=np.float32).reshape(64, 64, 3))
    return path
