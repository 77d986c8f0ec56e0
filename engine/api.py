"""Making an asset from Python; the command does the same through the same functions.

    plan = plan_asset(make_recipe(pipeline="text_to_mesh", prompt="a red mug"))
    asset = plan.execute()
    asset.save("mug")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import pipelines
from engine.errors import BadInput, RunFailed
from engine.made import Made, performed
from engine.recipes.recipe import CLIPS, Recipe, default_pipeline, load_recipe, make_recipe
from engine.runs.events import Listener
from engine.runs.report import Report
from engine.runs.run import Handle, Outcome, Run
from engine.runs.store import Store

if TYPE_CHECKING:
    from engine.artifacts import TexturedMesh


@dataclass
class AssetPlan:
    """A recipe with its whole plan; nothing ran yet. ``goals`` are the handles that make it complete."""

    recipe: Recipe
    run: Run
    mesh: Handle[TexturedMesh]
    goals: tuple[Handle[Any], ...]

    def execute(self) -> Asset:
        """Run what the store does not have. Cancelled, RunFailed or BadInput leave the store as far as it came."""
        outcomes, seconds = performed(self.run, self.recipe, *self.goals)
        return Asset(self.recipe, self.run, outcomes, self.mesh, seconds)


@dataclass
class Asset(Made):
    """What was made: its mesh and its papers, in the store; ``save`` writes plain copies."""

    recipe: Recipe
    run: Run
    outcomes: list[Outcome]
    _mesh: Handle[TexturedMesh]
    seconds: float
    _papers: Report | None = field(default=None, repr=False)

    @property
    def mesh(self) -> TexturedMesh:
        """The textured mesh in field coordinates; its ``frame`` leads to metres."""
        if self._mesh.label not in self.run.outcomes:
            raise RunFailed(f"the run stopped at {self.run.until}, before there was a mesh", "Leave until out")
        return self.run.load(self._mesh)


def plan_asset(recipe: Recipe, *, store: str | Path | None = None, device: str = "auto", until: str | None = None,
               listeners: Iterable[Listener] = (), commercial_only: bool = False, allow_pickle: bool = False
               ) -> AssetPlan:
    """The whole plan of a recipe for a mesh, checked: BadInput for anything that can be known before running.

    A clip's is ``engine.clip_api.plan_clip``.

    commercial_only : refuse models that may not be used commercially by everybody
    allow_pickle : read weights that are kept as pickles (tensors only, nothing in them is run)
    """
    from engine.models.sets import model_set
    if recipe.pipeline in CLIPS:
        raise BadInput(f"{recipe.pipeline} makes a clip, no mesh", "maquette clip makes it; maquette run its recipe")
    models = model_set(recipe.models, recipe.roles, commercial_only=commercial_only, allow_pickle=allow_pickle)
    run = Run(Store.open(store), models, seed=recipe.seed, asset=recipe.seed_id, quality=recipe.quality,
              overrides=recipe.stages, gates=recipe.gates, device=device, until=until, listeners=listeners)
    mesh = _mesh(run, recipe)
    # A user's own mesh goes back to where it stood, unless it is asked to be of another height.
    keeps = recipe.keep_coordinates or (bool(recipe.mesh) and recipe.height_m is None)
    goals = pipelines.publish(run, mesh, about=recipe.prompt, height_m=recipe.height_m, keep_coordinates=keeps,
                              papers=_papers(recipe))
    run.check()
    if any(node.label == "render_turntable" for node in run.needed(goals)):
        from engine.clips.encode import ffmpeg_path
        ffmpeg_path()  # its lack is known now, not after the mesh was made
    return AssetPlan(recipe, run, mesh, goals)


def _mesh(run: Run, recipe: Recipe) -> Handle[TexturedMesh]:
    """The recipe's pipeline, planned."""
    words: dict[str, Any] = {"negative": recipe.negative}
    picture: dict[str, Any] = {"elevation_deg": recipe.elevation_deg}
    match recipe.pipeline:
        case "text_to_mesh":
            return pipelines.text_to_mesh(run, recipe.prompt, **words, pick=recipe.pick, **picture)
        case "views_to_mesh":
            return pipelines.views_to_mesh(run, Path(recipe.folder), up=recipe.up, bounds=recipe.bounds)
        case "dreamfusion":
            return pipelines.dreamfusion(run, recipe.prompt, **words)
        case "magic3d":
            return pipelines.magic3d(run, recipe.prompt, **words)
        case "retexture":
            mesh = pipelines.open_mesh(run, Path(recipe.mesh), up=recipe.up, uvs="make" if recipe.unwrap else "keep")
            return pipelines.retexture(run, mesh, recipe.prompt, **words)
        case "refine":
            mesh = pipelines.open_mesh(run, Path(recipe.mesh), up=recipe.up, uvs="any")
            shown = pipelines.open_picture(run, Path(recipe.image)) if recipe.image else None
            return pipelines.refine(run, mesh, recipe.prompt, **words, image=shown, **picture)
    image = (pipelines.open_picture(run, Path(recipe.image)) if recipe.image
             else pipelines.draw_picture(run, recipe.prompt, **words, pick=recipe.pick))
    match recipe.pipeline:
        case "zero123":
            return pipelines.zero123(run, image, about=recipe.prompt, **picture)
        case "one2345":
            return pipelines.one2345(run, image, about=recipe.prompt, **picture)
        case "dreamcraft3d":
            return pipelines.dreamcraft3d(run, image, recipe.prompt, **words, **picture)
    return pipelines.image_to_mesh(run, image, about=recipe.prompt, **picture)


def _papers(recipe: Recipe) -> dict[str, Any]:
    """What the GLB says of its own making."""
    told = {"name": recipe.title, "pipeline": recipe.pipeline, "prompt": recipe.prompt, "negative": recipe.negative,
            "seed": recipe.seed, "models": recipe.models, "quality": recipe.quality}
    return {name: value for name, value in told.items() if value != ""}


def make(prompt: str = "", *, image: str | Path | None = None, pipeline: str | None = None, negative: str = "",
         seed: int = 0,
         models: str = "builtin", quality: str = "standard", height_m: float | None = None,
         elevation_deg: float | None = None, pick: int | None = None, until: str | None = None,
         stages: Mapping[str, Mapping[str, Any]] | None = None, gates: Mapping[str, Mapping[str, Any]] | None = None,
         roles: Mapping[str, str] | None = None, commercial_only: bool = False, allow_pickle: bool = False,
         name: str = "", store: str | Path | None = None, device: str = "auto",
         listeners: Iterable[Listener] = ()) -> Asset:
    """Make a textured mesh from a prompt, or from a picture of one object.

    prompt : what to make; with ``image`` it only names the asset
    image : PNG or JPEG, with or without alpha
    pipeline : "dreamfusion", "magic3d", "zero123", "one2345", "dreamcraft3d" (docs/pipelines.md); None: direct fitting
    quality : "draft", "standard" or "high"
    height_m : the asset's height in metres; None: the kind's usual one
    elevation_deg : where the picture was taken from, degrees
    pick : the candidate that goes on, counted from 0; None: the best
    until : label of the stage to stop after
    stages, gates : {label: {parameter: value}}, as a recipe's [stages.*] and [gates.*]
    roles : {role: model} in the place of the set's own choices (``maquette models list``)
    commercial_only : refuse models that may not be used commercially by everybody
    allow_pickle : read weights that are kept as pickles (tensors only, nothing in them is run)
    store : folder of kept results; None: MAQUETTE_STORE, else the user's cache
    listeners : called with every ``engine.runs.events.Event``

    Raises BadInput, RunFailed, Cancelled (all ``engine.errors.MaquetteError``), one clear line each.
    """
    recipe = make_recipe(pipeline=pipeline or default_pipeline(image is not None), prompt=prompt,
                         image=str(image) if image is not None else "", negative=negative, seed=seed, models=models,
                         quality=quality, height_m=height_m, elevation_deg=elevation_deg, pick=pick, name=name,
                         roles=dict(roles or {}), stages={k: dict(v) for k, v in (stages or {}).items()},
                         gates={k: dict(v) for k, v in (gates or {}).items()})
    return plan_asset(recipe, store=store, device=device, until=until, listeners=listeners,
                      commercial_only=commercial_only, allow_pickle=allow_pickle).execute()


def fit(folder: str | Path, *, up: str | None = None, bounds: str | None = None, keep_coordinates: bool = False,
        quality: str = "standard", seed: int = 0, stages: Mapping[str, Mapping[str, Any]] | None = None,
        store: str | Path | None = None, device: str = "auto", until: str | None = None,
        listeners: Iterable[Listener] = ()) -> Asset:
    """Make a textured mesh from pictures with known cameras (``transforms.json`` in ``folder``).

    up : "y" or "z", the axis that points up in the poses; bounds : "auto" or "x0,y0,z0,x1,y1,z1" in their units
    keep_coordinates : the mesh stays in the scene's own coordinates
    """
    recipe = make_recipe(pipeline="views_to_mesh", folder=str(folder), up=up, bounds=bounds, quality=quality,
                         keep_coordinates=keep_coordinates, seed=seed,
                         stages={k: dict(v) for k, v in (stages or {}).items()})
    return plan_asset(recipe, store=store, device=device, until=until, listeners=listeners).execute()


def retexture(mesh: str | Path, prompt: str, *, negative: str = "", unwrap: bool = False, up: str | None = None,
              seed: int = 0, models: str = "builtin", quality: str = "standard", height_m: float | None = None,
              stages: Mapping[str, Mapping[str, Any]] | None = None, store: str | Path | None = None,
              device: str = "auto", until: str | None = None, listeners: Iterable[Listener] = (),
              roles: Mapping[str, str] | None = None, commercial_only: bool = False, allow_pickle: bool = False
              ) -> Asset:
    """Paint a user's mesh as the prompt says; its surface stays as it is, vertex for vertex.

    mesh : GLB, OBJ, PLY or STL; unwrap : make new UVs; without, the file's own are kept, and a file without any is
    refused; up : "y" or "z", the axis that points up in the file
    """
    recipe = make_recipe(pipeline="retexture", mesh=str(mesh), prompt=prompt, negative=negative, unwrap=unwrap, up=up,
                         seed=seed, models=models, roles=dict(roles or {}), quality=quality, height_m=height_m,
                         stages={k: dict(v) for k, v in (stages or {}).items()})
    return plan_asset(recipe, store=store, device=device, until=until, listeners=listeners,
                      commercial_only=commercial_only, allow_pickle=allow_pickle).execute()


def refine(source: str | Path, prompt: str = "", *, image: str | Path | None = None, negative: str = "",
           elevation_deg: float | None = None, up: str | None = None, seed: int = 0, models: str = "builtin",
           quality: str = "standard", height_m: float | None = None,
           stages: Mapping[str, Mapping[str, Any]] | None = None, store: str | Path | None = None,
           device: str = "auto", until: str | None = None, listeners: Iterable[Listener] = (),
           roles: Mapping[str, str] | None = None, commercial_only: bool = False, allow_pickle: bool = False
           ) -> Asset:
    """Go on with a mesh, or with an asset's folder, under guidance: geometry and texture change.

    source : a mesh file, or a folder that ``make`` wrote (its words and picture are taken from its recipe)
    prompt, image : what guides; one of them at least, where the folder brings none
    """
    recipe = refine_recipe(source, prompt, image=image, negative=negative, elevation_deg=elevation_deg, up=up,
                           seed=seed, models=models, roles=dict(roles or {}), quality=quality, height_m=height_m,
                           stages={k: dict(v) for k, v in (stages or {}).items()})
    return plan_asset(recipe, store=store, device=device, until=until, listeners=listeners,
                      commercial_only=commercial_only, allow_pickle=allow_pickle).execute()


def refine_recipe(source: str | Path, prompt: str = "", *, image: str | Path | None = None, **values: Any) -> Recipe:
    """The recipe that goes on with a mesh file or with an asset's folder. BadInput where the folder is none."""
    source = Path(source)
    told: dict[str, Any] = {"prompt": prompt, "image": str(image) if image is not None else ""}
    if source.is_dir():
        if not (source / "asset.glb").exists() or not (source / "recipe.toml").exists():
            raise BadInput(f"{source} holds no finished asset: asset.glb or recipe.toml is missing",
                           "Give a folder that `maquette make --out` wrote, or a mesh file")
        before = load_recipe(source / "recipe.toml")
        told = {"prompt": prompt or before.prompt, "image": told["image"] or before.image}
        if not values.get("negative"):
            values["negative"] = before.negative
        if values.get("elevation_deg") is None and before.image and not image:
            values["elevation_deg"] = before.elevation_deg
        values.setdefault("name", before.name)
        source = source / "asset.glb"
    return make_recipe(pipeline="refine", mesh=str(source), **told, **values)
