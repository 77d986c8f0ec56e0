"""Making a clip from Python; ``maquette clip`` does the same through the same functions.

    made = clip("a knight in red armour", motion="walk", frames=16, seed=7)
    made.clip             # engine.clip_artifacts.Clip: frames with alpha, fps, loop
    made.report           # measured quality, seeds, weights, licences
    made.save("knight")   # frames/, clip.mp4, clip_vp9.webm, ..., sheet.png, sheet.json, report, recipe
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import clip_pipelines
from engine.errors import BadInput, RunFailed
from engine.made import Made, performed
from engine.made import told_of as papers
from engine.recipes.recipe import CLIPS, Recipe, default_clip_pipeline, make_recipe
from engine.runs.events import Listener
from engine.runs.report import Report
from engine.runs.run import Handle, Outcome, Run
from engine.runs.store import Store

if TYPE_CHECKING:
    from engine.artifacts import Files
    from engine.clip_artifacts import Clip


@dataclass
class ClipPlan:
    """A recipe with its whole plan; nothing ran yet.

    lacking : format -> one line, for what was asked for and this machine cannot write
    """

    recipe: Recipe
    run: Run
    clip: Handle[Clip]
    files: Handle[Files]
    lacking: dict[str, str]

    def execute(self) -> MadeClip:
        """Run what the store does not have. Cancelled, RunFailed or BadInput leave the store as far as it came."""
        outcomes, seconds = performed(self.run, self.recipe, self.files)
        return MadeClip(self.recipe, self.run, outcomes, self.clip, self.files, self.lacking, seconds)


@dataclass
class MadeClip(Made):
    """What was made: the clip and its papers, in the store; ``save`` writes plain copies."""

    recipe: Recipe
    run: Run
    outcomes: list[Outcome]
    _clip: Handle[Clip]
    _files: Handle[Files]
    _lacking: dict[str, str]
    seconds: float
    _papers: Report | None = field(default=None, repr=False)

    @property
    def clip(self) -> Clip:
        """The frames with alpha; they are read from the store one by one as they are looked at."""
        if self._clip.label not in self.run.outcomes:
            raise RunFailed(f"the run stopped at {self.run.until}, before there was a clip", "Leave until out")
        return self.run.load(self._clip)

    @property
    def not_written(self) -> dict[str, str]:
        """Format -> one line on why it is missing and what mends it; {} where all that was asked for is there."""
        if not self.complete:
            return {}
        return {**self._lacking, **self.run.load(self._files).meta["not_written"]}

    @property
    def warnings(self) -> list[str]:
        return list(self._lacking.values())


def plan_clip(recipe: Recipe, *, store: str | Path | None = None, device: str = "auto", until: str | None = None,
              listeners: Iterable[Listener] = (), commercial_only: bool = False, allow_pickle: bool = False
              ) -> ClipPlan:
    """The whole plan of a recipe for a clip, checked: BadInput for anything that can be known before running."""
    from engine.clips import formats
    from engine.models.sets import model_set
    if recipe.pipeline not in CLIPS:
        raise BadInput(f"{recipe.pipeline} makes a mesh, no clip", "maquette make makes it; maquette run its recipe")
    models = model_set(recipe.models, recipe.roles, commercial_only=commercial_only, allow_pickle=allow_pickle)
    run = Run(Store.open(store), models, seed=recipe.seed, asset=recipe.seed_id, quality=recipe.quality,
              overrides=recipe.stages, gates=recipe.gates, device=device, until=until, listeners=listeners)
    clip = _clip(run, recipe)
    # What cannot be written here is left out of the plan, so that the same request writes it where it can be.
    wanted = recipe.stages.get("export_clip", {}).get("formats")
    asked = formats.named(wanted if wanted is not None else recipe.formats if recipe.formats is not None else ["all"])
    writable, lacking = formats.sorted_out(asked)
    if wanted is not None:
        run.overrides["export_clip"]["formats"] = writable
    files = clip_pipelines.publish(run, clip, name=frame_name(recipe), formats=writable, papers=papers(recipe))
    run.check()
    return ClipPlan(recipe, run, clip, files, lacking)


def _clip(run: Run, recipe: Recipe) -> Handle[Clip]:
    """The recipe's pipeline, planned."""
    if recipe.pipeline == "character_to_clip":
        poses = _poses(run, recipe)  # an unknown motion is named before anything else is looked for
        picture = (clip_pipelines.open_picture(run, Path(recipe.image)) if recipe.image else
                   clip_pipelines.draw_character(run, recipe.prompt, negative=recipe.negative, pick=recipe.pick))
        return clip_pipelines.character_to_clip(run, picture, poses)
    told: dict[str, Any] = {name: getattr(recipe, name) for name in ("frames", "fps", "loop")
                            if getattr(recipe, name) is not None}
    told |= {"negative": recipe.negative, "motion": recipe.motion}
    if recipe.pipeline == "text_to_clip":
        return clip_pipelines.text_to_clip(run, recipe.prompt, **told)
    return clip_pipelines.image_to_clip(run, clip_pipelines.open_picture(run, Path(recipe.image)), recipe.prompt,
                                        **told)


def _poses(run: Run, recipe: Recipe) -> Handle[Any]:
    told: dict[str, Any] = {name: getattr(recipe, name) for name in ("frames", "fps", "person")
                            if getattr(recipe, name) is not None}
    if recipe.loop is not None:
        told["loop"] = "close" if recipe.loop else "no"
    if recipe.motion:
        return clip_pipelines.motion(run, recipe.motion, **told)
    if recipe.poses:
        return clip_pipelines.open_poses(run, Path(recipe.poses), **told)
    return clip_pipelines.open_driving_video(run, Path(recipe.driving_video), **told)


def frame_name(recipe: Recipe) -> str:
    """What the sheet's frames are called: the asset's name and its motion's."""
    name = f"{recipe.title}_{recipe.motion}" if recipe.motion else recipe.title
    plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_.-") else "_" for sign in name)
    return plain[:64].strip("_.-") or "clip"


def clip(prompt: str = "", *, image: str | Path | None = None, motion: str = "", poses: str | Path | None = None,
         driving_video: str | Path | None = None, person: int | None = None, pipeline: str | None = None,
         negative: str = "", frames: int | None = None, fps: float | None = None, loop: bool | None = None,
         formats: Iterable[str] | None = None, seed: int = 0, models: str = "builtin", quality: str = "standard",
         pick: int | None = None, until: str | None = None, stages: Mapping[str, Mapping[str, Any]] | None = None,
         gates: Mapping[str, Mapping[str, Any]] | None = None, roles: Mapping[str, str] | None = None,
         commercial_only: bool = False, allow_pickle: bool = False, name: str = "", store: str | Path | None = None,
         device: str = "auto", listeners: Iterable[Listener] = ()) -> MadeClip:
    """Make a clip of a character in motion, or of what words or a picture say.

    prompt : what to show; with ``image`` and a motion it only names the asset
    image : PNG, JPEG or WebP: of the character, or what the clip begins with
    motion : walk, run, wave, jump, ... (``engine.toybox.motions``); poses : OpenPose JSON, BVH, an armature's JSON,
        a video; driving_video : a video whose figure is followed; person : which of several figures in them, from 0
    pipeline : "character_to_clip" (the usual one with a motion or poses), "text_to_clip", "image_to_clip"
    frames, fps, loop : None: 16, 12 and as the motion says; of poses from a file: their own
    formats : of ``engine.clips.formats.FORMATS``, beside the PNG frames; None: all
    other arguments : as of ``engine.make``

    Raises BadInput, RunFailed, Cancelled (all ``engine.errors.MaquetteError``), one clear line each.
    """
    moved = bool(motion or poses or driving_video)
    recipe = make_recipe(
        pipeline=pipeline or default_clip_pipeline(image is not None, moved), prompt=prompt, image=str(image or ""),
        motion=motion, poses=str(poses or ""), driving_video=str(driving_video or ""), person=person,
        negative=negative, frames=frames, fps=fps, loop=loop, formats=None if formats is None else tuple(formats),
        seed=seed, models=models, quality=quality, pick=pick, name=name, roles=dict(roles or {}),
        stages={k: dict(v) for k, v in (stages or {}).items()}, gates={k: dict(v) for k, v in (gates or {}).items()})
    return plan_clip(recipe, store=store, device=device, until=until, listeners=listeners,
                     commercial_only=commercial_only, allow_pickle=allow_pickle).execute()
