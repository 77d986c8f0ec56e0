"""Making pictures from Python; ``maquette image`` does the same through the same functions.

    made = make_image("edit", "a blue mug", picture="mug.png", strength=0.8, seed=7)
    made.picture          # engine.artifacts.Picture
    made.save("blue.png") # one file with its papers inside, or a folder with everything
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine import image_pipelines
from engine.errors import BadInput
from engine.image_pipelines import Followed, Wish
from engine.runs import files
from engine.runs.events import JsonLines, Listener
from engine.runs.manifest import build_manifest
from engine.runs.report import FileRecord, Report, build_report
from engine.runs.run import Handle, Outcome, Run
from engine.runs.store import Store

if TYPE_CHECKING:
    from engine.artifacts import ControlMaps, Picture

Verb = Literal["edit", "inpaint", "outpaint", "control", "prompt", "upscale", "maps"]
STAGES = {"edit": "image_to_image", "inpaint": "inpaint", "outpaint": "outpaint", "control": "control_to_image",
          "prompt": "image_prompt", "upscale": "upscale", "maps": "control_image"}
"""Verb -> label of the stage that draws."""


@dataclass(frozen=True)
class ControlWish:
    """A control as a user says it. file : None: the picture that is worked on; is_map : the file is the map itself"""

    kind: str
    file: Path | None = None
    is_map: bool = False
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class ImageRequest:
    """What was asked for. stages : {label: {parameter: value}}; told : parameters of the verb's own stage

    seam : how much the seam of a repainting may show (``inpainting.seam_gradient``), else another seed is tried, three
        in all; 0: any. Without a feather any seam is taken.
    roles : {role: model} in the place of the set's own choices; commercial_only, allow_pickle : of the model set
    toybox : a thing of the toybox, "held_out:12", for controls without a picture
    """

    verb: Verb
    prompt: str = ""
    negative: str = ""
    picture: Path | None = None
    mask: Path | None = None
    like: Path | None = None
    face: Path | None = None
    controls: tuple[ControlWish, ...] = ()
    toybox: str = ""
    models: str = "builtin"
    seed: int = 0
    told: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    commercial_only: bool = False
    allow_pickle: bool = False
    seam: float = 1.5

    @property
    def gates(self) -> dict[str, dict[str, Any]]:
        """As a recipe's [gates.*]."""
        label = STAGES.get(self.verb, "")
        if label not in ("inpaint", "outpaint"):
            return {}
        feather = self.stages.get(label, {}).get("feather", self.told.get("feather"))
        return {label: {"seam_gradient": {"maximum": self.seam} if self.seam > 0 and feather != 0 else False}}


@dataclass
class ImagePlan:
    """A request with its whole plan; nothing ran yet."""

    request: ImageRequest
    run: Run
    goal: Handle[Any]

    def execute(self) -> MadeImage:
        """Run what the store does not have. Cancelled, RunFailed or BadInput leave the store as far as it came."""
        began = time.monotonic()
        with self.run.store.log() as path:
            with files.one_line_errors("the log", path.parent, "--store"):
                log = JsonLines(path)
            self.run.listeners.append(log)
            with closing(log):
                outcomes = self.run.perform(self.goal)
            self.run.listeners.remove(log)
        manifest = build_manifest(self.run, outcomes, asset=_title(self.request), pipeline=f"image_{self.request.verb}")
        self.run.store.add_root(manifest.name, manifest.to_json())
        return MadeImage(self.request, self.run, self.goal, outcomes, time.monotonic() - began)


@dataclass
class MadeImage:
    """A picture (of the verb ``maps``: maps) and its papers, in the store; ``save`` writes plain copies."""

    request: ImageRequest
    run: Run
    goal: Handle[Any]
    outcomes: list[Outcome]
    seconds: float

    @property
    def picture(self) -> Picture:
        return self.run.load(self.goal)

    @property
    def maps(self) -> ControlMaps | None:
        """The maps that were followed; None where there are none."""
        return self.run.load(self.run.planned["control_image"].handle) if "control_image" in self.run.outcomes else None

    def report(self, listed: Sequence[FileRecord] = ()) -> Report:
        return build_report(self.run, self.outcomes, asset=_title(self.request), pipeline=f"image_{self.request.verb}",
                            files=list(listed), seconds=self.seconds)

    def papers(self) -> dict[str, str]:
        """What a PNG says of its own making: prompt, negative, seed, models with their licences, and the recipe."""
        from engine import __version__
        models = [{"role": m.role, "id": m.id, "sha256": m.sha256, "licence": m.licence, "commercial": m.commercial}
                  for m in self.report().models]
        stages = {o.node.label: {"stage": o.node.spec.name, "version": o.node.spec.version,
                                 "params": o.accepted.params, "seed": o.accepted.seed} for o in self.outcomes}
        recipe = {"maquette": __version__, "image": self.request.verb, "seed": self.run.seed,
                  "models": self.request.models, "roles": dict(self.request.roles), "stages": stages}
        told = {"prompt": self.request.prompt, "negative": self.request.negative, "seed": str(self.run.seed),
                "recipe": json.dumps(recipe, ensure_ascii=False, sort_keys=True),
                "models": json.dumps(models, ensure_ascii=False), "Software": f"Maquette {__version__}"}
        return {name: text for name, text in told.items() if text}

    def save(self, out: str | Path) -> Path:
        """Write one PNG, or a folder with picture.png, maps/ and report.json. -> the picture (of ``maps``: the folder).

        BadInput for other formats: they cannot hold the papers.
        """
        out = Path(out)
        if is_file_name(out):
            if self.request.verb == "maps":
                raise BadInput(f"--out {out} is one file, and there may be several maps", "give a folder")
            with files.one_line_errors("the picture", out, "--out"):
                files.write_file(out, png_bytes(self.picture.image, self.papers()))
            return out
        files.ensure_writable(out, "the picture", "--out")
        with files.one_line_errors("the picture", out, "--out"):
            (out / "report.json").unlink(missing_ok=True)
            written: dict[str, str] = {}
            if self.request.verb != "maps":
                files.write_file(out / "picture.png", png_bytes(self.picture.image, self.papers()))
                written["picture.png"] = "picture"
            maps = self.maps
            for kind, image in zip(maps.kinds if maps else (), maps.images if maps else (), strict=True):
                files.write_file(out / "maps" / f"{kind}.png", png_bytes(image, {}))
                written[f"maps/{kind}.png"] = "map"
            listed = [FileRecord(path=name, role=role, sha256=files.file_digest(out / name))
                      for name, role in sorted(written.items())]
            files.write_file(out / "report.json", json.dumps(self.report(listed).to_json(), indent=1,
                                                             ensure_ascii=False) + "\n")
        return out / "picture.png" if "picture.png" in written else out


def is_file_name(out: Path) -> bool:
    """Whether --out names a PNG file rather than a folder. BadInput for other kinds of pictures."""
    if out.is_dir():
        return False
    if out.suffix.lower() == ".png":
        return True
    if out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise BadInput(f"--out {out}: pictures are written as PNG, which holds their papers",
                       "give a name that ends in .png, or a folder")
    return False


def plan_image(request: ImageRequest, *, store: str | Path | None = None, device: str = "auto",
               listeners: Iterable[Listener] = ()) -> ImagePlan:
    """Check and plan a request; nothing is executed. BadInput says in one line what does not fit."""
    from engine.models.sets import model_set
    if not 0 <= request.seed < 2**63:
        raise BadInput(f"the seed is {request.seed}", "give a whole number from 0 to 2^63 - 1")
    models = model_set(request.models, request.roles, commercial_only=request.commercial_only,
                       allow_pickle=request.allow_pickle)
    if not 0 <= request.seam < math.inf:
        raise BadInput(f"the seam may show {request.seam} times", "give a number from 0 (any) on; 1.5 is usual")
    run = Run(Store(Store.place(store)), models, seed=request.seed, overrides=request.stages,
              gates=request.gates, device=device, listeners=listeners)
    goal = _planned(run, request)
    run.check()
    return ImagePlan(request, run, goal)


def make_image(verb: Verb, prompt: str = "", *, picture: str | Path | None = None, mask: str | Path | None = None,
               like: str | Path | None = None, face: str | Path | None = None, controls: Sequence[ControlWish] = (),
               negative: str = "", toybox: str = "", models: str = "builtin", seed: int = 0,
               stages: Mapping[str, Mapping[str, Any]] | None = None, roles: Mapping[str, str] | None = None,
               commercial_only: bool = False, allow_pickle: bool = False, seam: float = 1.5,
               store: str | Path | None = None, device: str = "auto", listeners: Iterable[Listener] = (), **told: Any
               ) -> MadeImage:
    """Make a picture. verb : "edit", "inpaint", "outpaint", "control", "prompt", "upscale" or "maps"

    told : parameters of the verb's stage: strength, feather, left, factor, ... (docs/images.md)
    """
    paths = {name: None if value is None else Path(value)
             for name, value in (("picture", picture), ("mask", mask), ("like", like), ("face", face))}
    request = ImageRequest(verb, prompt, negative, **paths, controls=tuple(controls), toybox=toybox, models=models,
                           seed=seed, told=told, stages=stages or {}, roles=roles or {},
                           commercial_only=commercial_only, allow_pickle=allow_pickle, seam=seam)
    return plan_image(request, store=store, device=device, listeners=listeners).execute()


def _planned(run: Run, request: ImageRequest) -> Handle[Any]:
    """The request's pipeline, planned."""
    verb = request.verb
    if verb not in STAGES:
        raise BadInput(f"there is no image verb {verb!r}", f"give one of {', '.join(STAGES)}")
    needs = {"edit": "picture", "inpaint": "picture", "outpaint": "picture", "upscale": "picture"}
    if verb in needs and request.picture is None:
        raise BadInput(f"image {verb} needs a picture", "give a PNG, JPEG or WebP file")
    picture = image_pipelines.open_picture(run, request.picture) if request.picture and verb != "prompt" else None
    if verb == "upscale":
        words = {"prompt": request.prompt, "negative": request.negative}
        return image_pipelines.upscale(run, _sure(picture), **{k: v for k, v in words.items() if v}, **request.told)
    maps = _followed(run, request, picture)
    if verb == "maps":
        if maps is None:
            raise BadInput("no map is asked for", "give --control edges, --control scribble, ...")
        return maps.handle
    shown = request.picture if verb == "prompt" else request.like
    given: dict[str, Any] = {
        "like": image_pipelines.open_picture(run, shown, "like") if shown else None,
        "face": image_pipelines.open_face(run, request.face) if request.face else None}
    told = {"negative": request.negative, **request.told}
    if verb == "control":
        if maps is None:
            raise BadInput("no control is given", "give --control edges=FILE, or a map: --map depth=FILE")
        return image_pipelines.control(run, maps, request.prompt, **given, **told)
    if verb == "prompt":
        if given["like"] is None and given["face"] is None:
            raise BadInput("there is nothing to be like", "give a picture, or a face: --face FILE")
        return image_pipelines.image_prompt(run, given["like"], request.prompt, maps=maps, face=given["face"], **told)
    if verb == "inpaint":
        if request.mask is None or request.picture is None:
            raise BadInput("image inpaint needs a mask", "give --mask FILE: white is painted anew")
        mask = image_pipelines.open_mask(run, request.mask, request.picture)
        return image_pipelines.inpaint(run, _sure(picture), mask, request.prompt, maps=maps, **given, **told)
    make = image_pipelines.edit if verb == "edit" else image_pipelines.outpaint
    return make(run, _sure(picture), request.prompt, maps=maps, **given, **told)


def _followed(run: Run, request: ImageRequest, picture: Handle[Picture] | None) -> Followed | None:
    """The maps that the request names. Files that several controls name are opened once."""
    from engine.diffusion.control_maps import kind_named
    if not request.controls:
        return None
    opened: dict[Path, Handle[Picture]] = {}
    wishes = []
    for wish in request.controls:
        kind = kind_named(wish.kind)
        source = picture
        if wish.file is not None:
            if wish.file not in opened:
                opened[wish.file] = image_pipelines.open_picture(run, wish.file, f"for_{kind}")
            source = opened[wish.file]
        if source is picture and request.verb == "outpaint" and picture is not None:
            raise BadInput(f"the picture has another size than what outpaint makes of it, so its {kind} cannot be "
                           f"followed", f"give a map of the extended picture: --map {kind}=FILE")
        if request.toybox and wish.file is None:
            source = None
        wishes.append(Wish(kind, source, wish.is_map, wish.scale, wish.start, wish.end))
    return image_pipelines.follow(run, wishes, toybox=request.toybox)


def _sure(picture: Handle[Picture] | None) -> Handle[Picture]:
    assert picture is not None  # _planned refused a request without one
    return picture


def _title(request: ImageRequest) -> str:
    import re
    words = request.prompt or (request.picture.stem if request.picture else request.verb)
    return re.sub(r"\W+", "_", words.lower()).strip("_")[:60] or request.verb


def png_bytes(image: Any, papers: Mapping[str, str]) -> bytes:
    """(h, w, 3 or 4) float in [0, 1] -> a PNG with ``papers`` as its text: latin-1 chunks, UTF-8 ones where needed."""
    import io

    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo()
    for name, text in papers.items():
        if text.isascii():
            info.add_text(name, text)
        else:
            info.add_itxt(name, text)
    out = io.BytesIO()
    Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()
