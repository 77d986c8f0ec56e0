"""The image pipelines on one page: words and pictures in, a picture out. Calling one plans it; nothing is executed.

    run = Run(Store(Store.place()), model_set("builtin"), seed=7)
    photo = open_picture(run, Path("mug.png"))
    maps = follow(run, [Wish("edges", photo)])
    picture = run.execute(edit(run, photo, "a blue mug", maps=maps, strength=0.8))

Each takes beside its own: ``maps`` to follow (ControlNet), a picture to be ``like`` (IP-Adapter), a ``face``
(InstantID), and any parameter of its stage by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.runs.run import Handle, Run

if TYPE_CHECKING:
    from engine.artifacts import ControlMaps, Face, Picture

LARGEST_SIDE = 4096
"""Pixels. Results hold the given picture's own bytes, so it is never scaled down unasked."""


@dataclass(frozen=True)
class Wish:
    """One map to follow. picture : what it is made from, or (``is_map``) the map itself; None: of the toybox's thing

    scale : how much it counts; start, end : during which share of the steps
    """

    kind: str
    picture: Handle[Picture] | None = None
    is_map: bool = False
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Followed:
    """Maps in the making, and how a drawing shall follow them."""

    handle: Handle[ControlMaps]
    wishes: tuple[Wish, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        names = {"controls": "kind", "control_scales": "scale", "control_starts": "start", "control_ends": "end"}
        return {name: tuple(getattr(wish, field) for wish in self.wishes) for name, field in names.items()}


# -- what is given -----------------------------------------------------------------------------------------------------

def open_picture(run: Run, path: Path, label: str = "picture") -> Handle[Picture]:
    """A user's picture; its digest stands for it in keys. BadInput where it is larger than 4096 pixels a side."""
    from engine.stages.load_picture import load_picture, picture_digest, picture_size
    digest = picture_digest(path)
    width, height = picture_size(path)
    if max(width, height) > LARGEST_SIDE:
        raise BadInput(f"{path} is {width} x {height} pixels; {LARGEST_SIDE} a side is the most", "scale it down")
    return run(load_picture, path=str(path), digest=digest, max_side=LARGEST_SIDE, label=label)


def open_mask(run: Run, path: Path, picture: Path) -> Handle[Picture]:
    """The mask of a picture: white is painted anew. BadInput, before anything runs, where it is of another size or all
    of one colour."""
    from engine.diffusion.inpainting import binary
    from engine.stages.load_picture import picture_size, read_picture
    handle = open_picture(run, path, "mask")
    (width, height), (wide, high) = picture_size(path), picture_size(picture)
    if (width, height) != (wide, high):
        raise BadInput(f"the mask {path} is {width} x {height} pixels, the picture {picture} {wide} x {high}",
                       "give a mask of the picture's size")
    try:
        binary(read_picture(path))
    except BadInput as error:
        raise BadInput(f"{path}: {error.what}", error.fix) from None
    return handle


def open_face(run: Run, path: Path) -> Handle[Face]:
    """A face: its identity vector in a .npy or .json file, or a picture in which the set's model ``face`` finds it."""
    from engine.stages.find_face import find_face
    from engine.stages.load_face import face_digest, load_face
    if path.suffix.lower() in (".npy", ".json"):
        return run(load_face, path=str(path), digest=face_digest(path))
    if not _has_role(run, "face"):
        raise BadInput(f"no model of this set finds faces, so {path} cannot be read as one (role face)",
                       "give a .npy or .json file with the face's 512 numbers")
    return run(find_face, open_picture(run, path, "face_picture"))


def follow(run: Run, wishes: Sequence[Wish], *, toybox: str = "", **told: Any) -> Followed:
    """The maps of ``wishes``; of those without a picture, the toybox's thing ``toybox`` ("held_out:12").

    BadInput, before anything runs, for kinds that neither a picture nor a model of the set gives.
    """
    from engine.diffusion.control_maps import FROM_PICTURE
    from engine.stages.control_image import MOST, control_image
    if len(wishes) > MOST:
        raise BadInput(f"{len(wishes)} maps are asked for; {MOST} is the most", "leave some out")
    sources = ["map" if w.is_map else "picture" if w.picture is not None else "toybox" for w in wishes]
    for wish, source in zip(wishes, sources, strict=True):
        if source == "picture" and wish.kind not in FROM_PICTURE and not _has_role(run, f"estimate.{wish.kind}"):
            raise BadInput(f"no model of this set makes a map of {wish.kind} from a picture (role "
                           f"estimate.{wish.kind})", f"give the map itself: --map {wish.kind}=FILE")
        if source == "toybox" and not toybox:
            raise BadInput(f"there is no picture to make the map of {wish.kind} from",
                           f"give one: --control {wish.kind}=FILE, or the map itself: --map {wish.kind}=FILE")
    pictures: list[Handle[Picture] | None] = [w.picture for w in wishes]
    pictures += [None] * (MOST - len(pictures))
    named = {"toybox": toybox} if "toybox" in sources else {}
    handle = run(control_image, *pictures, kinds=tuple(w.kind for w in wishes), sources=tuple(sources), **named, **told)
    return Followed(handle, tuple(wishes))


# -- what is made ------------------------------------------------------------------------------------------------------

def edit(run: Run, picture: Handle[Picture], prompt: str, *, maps: Followed | None = None,
         like: Handle[Picture] | None = None, face: Handle[Face] | None = None, **told: Any) -> Handle[Picture]:
    """A picture, changed as the words say. strength : how much may change, 0 to 1"""
    from engine.stages.image_to_image import image_to_image
    return run(image_to_image, picture, _handle(maps), like, face, prompt=prompt, **_given(maps, like, face), **told)


def inpaint(run: Run, picture: Handle[Picture], mask: Handle[Picture], prompt: str, *, maps: Followed | None = None,
            like: Handle[Picture] | None = None, face: Handle[Face] | None = None, **told: Any) -> Handle[Picture]:
    """A picture, with what is masked painted anew; by the set's network for inpainting where it has one."""
    from engine.stages.inpaint import inpaint as paint
    return run(paint, picture, mask, _handle(maps), like, face, prompt=prompt, **_painter(run),
               **_given(maps, like, face), **told)


def outpaint(run: Run, picture: Handle[Picture], prompt: str, *, maps: Followed | None = None,
             like: Handle[Picture] | None = None, face: Handle[Face] | None = None, **told: Any) -> Handle[Picture]:
    """A picture on a larger canvas. left, right, top, bottom : pixels that are added"""
    from engine.stages.outpaint import outpaint as extend
    return run(extend, picture, _handle(maps), like, face, prompt=prompt, **_painter(run),
               **_given(maps, like, face), **told)


def control(run: Run, maps: Followed, prompt: str, *, like: Handle[Picture] | None = None,
            face: Handle[Face] | None = None, **told: Any) -> Handle[Picture]:
    """A new picture that follows maps and words."""
    from engine.stages.control_to_image import control_to_image
    return run(control_to_image, maps.handle, like, face, prompt=prompt, **_given(maps, like, face), **told)


def image_prompt(run: Run, like: Handle[Picture] | None, prompt: str = "", *, maps: Followed | None = None,
                 face: Handle[Face] | None = None, **told: Any) -> Handle[Picture]:
    """A new picture that is like another one, or shows a face."""
    from engine.stages.image_prompt import image_prompt as draw
    words = {"prompt": prompt} if prompt else {}
    return run(draw, like, _handle(maps), face, **words, **_given(maps, like, face), **told)


def upscale(run: Run, picture: Handle[Picture], **told: Any) -> Handle[Picture]:
    """A larger picture: by the set's upscaler where it has one, else by a filter that invents nothing."""
    from engine.stages.upscale import upscale as enlarge
    return run(enlarge, picture, **{"method": "model" if _has_role(run, "upscale") else "lanczos", **told})


# -- helpers -----------------------------------------------------------------------------------------------------------

def _handle(maps: Followed | None) -> Handle[ControlMaps] | None:
    return None if maps is None else maps.handle


def _given(maps: Followed | None, like: Handle[Picture] | None, face: Handle[Face] | None) -> dict[str, Any]:
    """The parameters that say what is given; how much it counts can still be set by label."""
    return {**({} if maps is None else maps.parameters), **({} if like is None else {"like_scale": 1.0}),
            **({} if face is None else {"face_scale": 0.8})}


def _painter(run: Run) -> dict[str, str]:
    return {"network": "inpaint"} if _has_role(run, "inpaint") else {}


def _has_role(run: Run, role: str) -> bool:
    return role in getattr(run.models, "roles", ())

