"""One asset, mesh or clip, as a TOML file (format 1): read strictly, written back, with the words of ``--set`` on top.

    format = 1
    name = "red_mug"
    pipeline = "text_to_mesh"
    prompt = "a red mug"
    seed = 7

    [stages.fit_field]
    steps = 600

    [gates.fit_field.psnr]
    minimum = 20
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.diffusion.prompt import MAX_CHARACTERS, check
from engine.errors import BadInput
from engine.runs.words import nearest

FORMAT = 1
Pipeline = Literal["text_to_mesh", "image_to_mesh", "views_to_mesh", "dreamfusion", "magic3d", "zero123", "one2345",
                   "dreamcraft3d", "retexture", "refine", "text_to_clip", "character_to_clip", "image_to_clip"]
PIPELINES: tuple[str, ...] = get_args(Pipeline)
NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "text_to_mesh": (("prompt",),), "image_to_mesh": (("image",),), "views_to_mesh": (("folder",),),
    "dreamfusion": (("prompt",),), "magic3d": (("prompt",),), "zero123": (("image",), ("prompt",)),
    "one2345": (("image",), ("prompt",)), "dreamcraft3d": (("prompt",),), "retexture": (("mesh",), ("prompt",)),
    "refine": (("mesh",), ("prompt", "image")), "text_to_clip": (("prompt",),),
    "character_to_clip": (("image",), ("prompt",)), "image_to_clip": (("image",), ("prompt",))}
"""What each pipeline must be given. Of those in EITHER: an image, or a prompt that one is drawn from."""
EITHER = ("zero123", "one2345", "character_to_clip")
CLIPS = ("text_to_clip", "character_to_clip", "image_to_clip")
MOVED = ("motion", "poses", "driving_video")
"""What tells a character how to move: one of them."""
DRAWN = ("text_to_mesh", "zero123", "one2345", "dreamcraft3d", "character_to_clip")
"""Pipelines that draw a picture of the prompt where none is given."""
PICTURED = ("image_to_mesh", "zero123", "one2345", "dreamcraft3d", "refine")
WORDED = ("dreamfusion", "magic3d", "dreamcraft3d", "retexture", "refine", "text_to_clip", "image_to_clip")
"""Pipelines in which words guide."""


class Recipe(BaseModel):
    """What was asked for. Fields that are None follow from the rest."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    format: Literal[1] = 1
    name: str = Field("", max_length=80, pattern=r"^[\w\-. ]*$", description="the asset's name; from the prompt")
    pipeline: Pipeline
    prompt: str = Field("", description=f"1 to {MAX_CHARACTERS} characters")
    negative: str = Field("", max_length=MAX_CHARACTERS, description="what the picture must not show")
    image: str = Field("", description="PNG or JPEG; relative to the recipe's folder")
    folder: str = Field("", description="folder with transforms.json; relative to the recipe's folder")
    mesh: str = Field("", description="GLB, OBJ, PLY or STL; relative to the recipe's folder")
    models: str = Field("builtin", description="a model set")
    roles: dict[str, str] = Field(default_factory=dict, description="role = model, in the place of the set's own")
    quality: Literal["draft", "standard", "high"] = "standard"
    seed: int = Field(0, ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")
    seed_id: str = Field("", description="of an asset that a batch made: enters its seeds beside seed")
    height_m: float | None = Field(None, gt=0, le=1000, description="metres, more than 0, at most 1000")
    elevation_deg: float | None = Field(None, ge=-90, le=90, description="degrees, -90 to 90; the picture's camera")
    pick: int | None = Field(None, ge=0, le=999, description="the candidate that goes on, counted from 0")
    up: Literal["auto", "y", "z"] | None = Field(None, description="auto, y or z; the axis pointing up in the poses, "
                                                           "or in the mesh's file")
    bounds: str | None = Field(None, description="auto, x0,y0,z0,x1,y1,z1 in the scene's own coordinates, or a number "
                                                  "s for the cube [-s, s]^3")
    keep_coordinates: bool = Field(False, description="keep the mesh in the scene's own coordinates")
    unwrap: bool = Field(False, description="make new UVs for the mesh")
    motion: str = Field("", max_length=64, description="of a clip: walk, run, wave, ...")
    poses: str = Field("", description="OpenPose JSON, BVH, an armature's JSON, ...; relative to the recipe's folder")
    driving_video: str = Field("", description="a video whose figure is followed; relative to the recipe's folder")
    person: int | None = Field(None, ge=0, le=999, description="which figure of the poses, counted from 0")
    frames: int | None = Field(None, ge=1, le=10_000, description="1 to 10,000; of poses: at most so many")
    fps: float | None = Field(None, gt=0, le=240, description="frames a second, more than 0, at most 240")
    loop: bool | None = Field(None, description="the last frame is followed by the first; none: as the motion says")
    formats: tuple[str, ...] | None = Field(None, description="of a clip's files beside its PNG frames; none: all")
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict, description="parameters by label")
    gates: dict[str, dict[str, Any]] = Field(default_factory=dict, description="gates by label")

    @field_validator("prompt")
    @classmethod
    def _prompt_within_limits(cls, prompt: str) -> str:
        return check(prompt) if prompt else ""

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, formats: tuple[str, ...] | None) -> tuple[str, ...] | None:
        from engine.clips.formats import named
        return None if formats is None else named(formats)

    @model_validator(mode="after")
    def _one_source(self) -> Recipe:
        lacking = [needs for needs in NEEDS[self.pipeline] if not any(getattr(self, name).strip() for name in needs)]
        if self.pipeline in EITHER and len(lacking) < len(NEEDS[self.pipeline]):
            lacking = []
        if lacking and lacking[0] == ("prompt",):
            check(self.prompt)  # an empty one too is answered in its words
        elif lacking:
            alternatives = NEEDS[self.pipeline] if self.pipeline in EITHER else lacking[:1]
            raise ValueError(f"{self.pipeline} needs {' or '.join(name for names in alternatives for name in names)}")
        meshes = ("retexture", "refine")
        only: dict[str, tuple[str, ...]] = {
            "pick": DRAWN, "negative": (*DRAWN, *WORDED), "image": (*PICTURED, *CLIPS[1:]),
            "folder": ("views_to_mesh",), "mesh": meshes, "unwrap": ("retexture",),
            "elevation_deg": tuple(name for name in (*DRAWN, *PICTURED) if name not in CLIPS),
            "motion": CLIPS, "poses": CLIPS[1:2], "driving_video": CLIPS[1:2], "person": CLIPS[1:2], "frames": CLIPS,
            "fps": CLIPS, "loop": CLIPS, "formats": CLIPS,
            "up": ("views_to_mesh", *meshes), "bounds": ("views_to_mesh",),
            "keep_coordinates": ("views_to_mesh", *meshes)}
        for name, pipelines in only.items():
            if self.pipeline not in pipelines and getattr(self, name) not in (None, "", False):
                several = list(dict.fromkeys(pipelines))
                raise ValueError(f"{name} has no meaning in {self.pipeline}; it belongs to {_and(several)}")
        if self.image and self.pick is not None:
            raise ValueError("pick has no meaning beside an image: nothing is drawn")
        if self.height_m is not None and self.pipeline in CLIPS:
            raise ValueError(f"height_m has no meaning in {self.pipeline}; it belongs to meshes")
        moved = [name for name in MOVED if getattr(self, name)]
        if self.pipeline == "character_to_clip" and len(moved) != 1:
            raise BadInput(f"character_to_clip needs one of motion, poses and driving_video; "
                           f"{' and '.join(moved) or 'none'} is given",
                           "give --motion walk (or another), --poses FILE or --driving-video FILE")
        return self

    @property
    def title(self) -> str:
        """The asset's name: given, or from the prompt or the file's stem; letters, digits and underscores."""
        words = self.name or self.prompt or Path(self.image or self.mesh or self.folder).stem
        return re.sub(r"\W+", "_", words.lower()).strip("_")[:60].strip("_") or "asset"


def default_pipeline(has_image: bool) -> str:
    """The pipeline of a request that names none."""
    return "image_to_mesh" if has_image else "text_to_mesh"


def default_clip_pipeline(has_image: bool, moved: bool) -> str:
    """The pipeline of a clip that names none: who is told how to move is a character."""
    return "character_to_clip" if moved else "image_to_clip" if has_image else "text_to_clip"


def make_recipe(**values: Any) -> Recipe:
    """A checked recipe; BadInput in one line where a value does not fit."""
    return checked(values, "")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. BadInput names the file, the place in it and the nearest known name.

    Relative paths in it are taken from the file's folder.
    """
    from engine.recipes.document import BATCH_KEYS, read_document
    values = read_document(path)
    if many := [name for name in BATCH_KEYS if name in values]:
        raise BadInput(f"{path} asks for many assets by its '{many[0]}'",
                       "maquette run makes them; here a recipe of one asset is meant")
    for name in PATHS:
        if isinstance(values.get(name), str) and values[name]:
            values[name] = str(path.parent / values[name])
    stages = values.get("stages")
    for told in stages.values() if isinstance(stages, dict) else ():
        for name in ADAPTERS:
            if isinstance(told, dict) and name in told:
                told[name] = placed(told[name], path.parent)
    return checked(values, f"{path}: ")


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML; what follows from the rest is left out."""
    import tomli_w
    values = recipe.model_dump(mode="json", exclude_none=True)
    absent: tuple[Any, ...] = ("", {}, False)
    kept = {name: value for name, value in values.items()
            if name in ("format", "pipeline", "seed", "models", "quality", "pick", "person", "loop")
            or value not in absent}
    return "# maquette run recipe.toml --out DIR\n" + tomli_w.dumps(kept)


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of what was asked for: the same wherever the recipe and its files lie, another where a file's bytes are.

    Files stand in it by their own digests, LoRAs and embeddings by their names.
    """
    from engine.clips.poses.sources import pose_source
    from engine.runs.files import file_digest
    values = {**recipe.model_dump(mode="json", exclude_none=True), "name": recipe.title}
    if not recipe.seed_id:  # of one asset by itself: as it was before there were batches
        del values["seed_id"]
    for name in ("image", "mesh"):
        if values[name]:
            values[name] = file_digest(Path(values[name]))
    for name in ("poses", "driving_video"):
        if values[name]:
            values[name] = pose_source(values[name])["digest"]
    for told in values["stages"].values():
        for name in ADAPTERS:
            if name in told:
                told[name] = [Path(one).name for one in (told[name] if isinstance(told[name], list) else [told[name]])]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def parse_setting(text: str) -> tuple[str, str, Any]:
    """``LABEL.param=VALUE`` (or ``stages.LABEL.param=VALUE``) -> (label, parameter, value).

    VALUE is a TOML literal, else a string.
    """
    path, equals, value = text.partition("=")
    parts = [part.strip() for part in path.strip().removeprefix("stages.").split(".")]
    if not equals or len(parts) != 2 or not all(parts):
        raise BadInput(f"--set {text!r} is not of the form LABEL.parameter=VALUE", "Example: --set fit_field.steps=600")
    return parts[0], parts[1], literal(value.strip())


def parse_roles(choices: list[str]) -> dict[str, str]:
    """``ROLE=ID`` words -> {role: id}; later ones win."""
    roles = {}
    for text in choices:
        role, equals, id = text.partition("=")
        if not (equals and role.strip() and id.strip()):
            raise BadInput(f"--model {text!r} is not of the form ROLE=ID",
                           "Example: --model text_to_image=stabilityai/sd-turbo")
        roles[role.strip()] = id.strip()
    return roles


def parse_loras(given: list[str]) -> dict[str, Any]:
    """``FILE[:SCALE]`` words of ``--lora`` -> the stage's parameters ``lora`` and ``lora_scale``."""
    files, scales = [], []
    for text in given:
        name, colon, scale = text.rpartition(":")
        number = literal(scale) if colon and name else None
        if isinstance(number, int | float) and not isinstance(number, bool):
            text = name
        else:
            number = 1.0
        files.append(placed(text, Path.cwd()))
        scales.append(float(number))
    if not files:
        return {}
    one = len(files) == 1
    return {"lora": files[0] if one else files, **({} if set(scales) == {1.0} else {
        "lora_scale": scales[0] if one else scales})}


def merge_settings(stages: dict[str, dict[str, Any]], settings: list[str]) -> dict[str, dict[str, Any]]:
    """``stages`` with the ``--set`` words on top; later ones win. Files of adapters are from the current folder."""
    merged = {label: dict(values) for label, values in stages.items()}
    for text in settings:
        label, name, value = parse_setting(text)
        merged.setdefault(label, {})[name] = placed(value, Path.cwd()) if name in ADAPTERS else value
    return merged


PATHS = ("image", "folder", "mesh", "poses", "driving_video")
"""Fields that name files."""
TABLES = ("roles", "stages", "gates")
"""Fields that are tables."""
ADAPTERS = ("lora", "embedding")
"""Stage parameters that name files, one or a list, or models of the user's own by id."""
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def placed(value: Any, folder: Path) -> Any:
    """Names of files as whole paths, so that a recipe finds them wherever it lies; ids of models as they are."""
    if isinstance(value, list):
        return [placed(one, folder) for one in value]
    return str(folder / value) if isinstance(value, str) and value.lower().endswith(_SUFFIXES) else value


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def literal(text: str) -> Any:
    """A TOML literal's value, else the text itself."""
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if list(values) == ["value"] else text


def checked(values: dict[str, Any], where: str) -> Recipe:
    """The values as a recipe; BadInput in one line that begins with ``where``."""
    try:
        return Recipe.model_validate(values)
    except BadInput as error:
        raise BadInput(where + error.what, error.fix) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise BadInput(f"{where}unknown key '{name}'", nearest(name, Recipe.model_fields)) from error
        if name == "pipeline" and first["type"] == "missing":
            raise BadInput(f"{where}the pipeline is missing",
                           f'Write pipeline = "text_to_mesh"; known: {", ".join(PIPELINES)}') from error
        if name == "pipeline" and first["type"] == "literal_error":
            near = nearest(str(first["input"]), PIPELINES)
            known = f"Known: {', '.join(PIPELINES)}"
            raise BadInput(f"{where}there is no pipeline {first['input']!r}",
                           near if near.startswith("Known") else f"{near} {known}") from error
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise BadInput(f"{where}{message}") from error
        field = Recipe.model_fields.get(name)
        given = "" if first["type"] == "missing" else f" (got {first['input']!r})"
        raise BadInput(f"{where}{name}: {message}{given}",
                       f"{name}: {field.description}" if field and field.description else "") from error
