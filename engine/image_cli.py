"""``maquette image``: change, repaint, extend, follow, imitate and enlarge pictures. Thin: one function a verb, which
hands its arguments on by their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.image_api import ControlWish, ImageRequest

image = typer.Typer(no_args_is_help=True, help="Pictures from words and pictures: edit, inpaint, outpaint, control, "
                                               "prompt, upscale.")

PictureFile = Annotated[Path, typer.Argument(metavar="PICTURE", help="PNG, JPEG or WebP.", show_default=False)]
Words = Annotated[str, typer.Argument(metavar="PROMPT", help="What it shall show: \"a blue mug\".", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="A .png file, or a folder: picture.png, maps/, report.json.",
                                   show_default=False)]
Negative = Annotated[str, typer.Option(help="What the picture must not show.")]
Controls = Annotated[list[str] | None, typer.Option("--control", metavar="KIND[=FILE]", help="Follow a map made from "
                                                    "FILE, else from the picture: edges, scribble, ...; may be given "
                                                    "often.")]
Maps = Annotated[list[str] | None, typer.Option("--map", metavar="KIND=FILE", help="Follow a map that you have: depth, "
                                                "normals, pose, parts, segments, ...; may be given often.")]
Scales = Annotated[list[float] | None, typer.Option("--scale", help="How much a control counts, 0 to 2, in their "
                                                    "order: those of --control, then those of --map.")]
Toybox = Annotated[str, typer.Option(metavar="SPLIT:INDEX", help="Follow exact maps of a thing of the toybox: "
                                                                    "held_out:12.")]
Like = Annotated[Path | None, typer.Option(help="A picture that says what it shall be like.")]
Face = Annotated[Path | None, typer.Option(help="A face: .npy or .json with its 512 numbers, or a picture.")]
Steps = Annotated[int | None, typer.Option(help="Sampling steps; without: the model's own.")]
Fit = Annotated[str | None, typer.Option(help="framed (inside the model's square) or resized (in its own shape).")]
Seam = Annotated[float, typer.Option(help="How much the seam may show, 1 as its surroundings; else another seed is "
                                         "tried, three in all. 0: any.")]
Count = Annotated[int, typer.Option(min=1, max=99, help="Pictures, with seeds SEED, SEED + 1, ...")]
Seed = Annotated[int, typer.Option(help="Another number makes another picture from the same words.")]
Models = Annotated[str, typer.Option(help="The model set.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="LABEL.PARAM=VALUE",
                                                    help="Change a stage's parameter; may be given often.")]
StorePlace = Annotated[str | None, typer.Option("--store", help="Where results are kept between runs.",
                                                envvar="MAQUETTE_STORE", show_default=False)]
Chosen = Annotated[list[str] | None, typer.Option("--model", metavar="ROLE=ID",
                                                  help="Another model for a role than the set's; may be given often.")]
CommercialOnly = Annotated[bool, typer.Option("--commercial-only", help="Refuse models that may not be used "
                                              "commercially by everybody.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read weights kept as pickles: tensors only, nothing "
                                           "in them is run.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


@image.command()
def edit(picture: PictureFile, prompt: Words, out: Out,
         strength: Annotated[float | None, typer.Option(help="How much may change: 0 nothing, 1 everything; 0.6.")
                             ] = None,
         negative: Negative = "", control: Controls = None, maps: Maps = None, scale: Scales = None, like: Like = None,
         face: Face = None, fit: Fit = None, steps: Steps = None, count: Count = 1, seed: Seed = 0,
         models: Models = "builtin", settings: Settings = None, model: Chosen = None,
         commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
         device: Device = "auto") -> None:
    """Change a picture as the words say."""
    _make("edit", locals(), "strength", "fit", "steps")


@image.command()
def inpaint(picture: PictureFile, prompt: Words, out: Out,
            mask: Annotated[Path, typer.Option(help="A picture of the same size: white is painted anew.",
                                               show_default=False)],
            strength: Annotated[float | None, typer.Option(help="How much of that may change, to 1 (all).")] = None,
            feather: Annotated[float | None, typer.Option(help="Band over which old and new mix, as a share of the "
                                                               "longer side.")] = None,
            seam: Seam = 1.5, negative: Negative = "", control: Controls = None, maps: Maps = None,
            scale: Scales = None, like: Like = None, face: Face = None, fit: Fit = None, steps: Steps = None,
            count: Count = 1, seed: Seed = 0, models: Models = "builtin", settings: Settings = None,
            model: Chosen = None, commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False,
            store: StorePlace = None, device: Device = "auto") -> None:
    """Paint a part of a picture anew; the rest stays, byte for byte."""
    _make("inpaint", locals(), "strength", "feather", "fit", "steps")


@image.command()
def outpaint(picture: PictureFile, prompt: Words, out: Out,
             left: Annotated[int, typer.Option(help="Pixels added on the left.")] = 0,
             right: Annotated[int, typer.Option(help="Pixels added on the right.")] = 0,
             top: Annotated[int, typer.Option(help="Pixels added on top.")] = 0,
             bottom: Annotated[int, typer.Option(help="Pixels added at the bottom.")] = 0,
             feather: Annotated[float | None, typer.Option(help="Band over which old and new mix, as a share of the "
                                                                "longer side.")] = None,
             seam: Seam = 1.5, negative: Negative = "", maps: Maps = None, scale: Scales = None, like: Like = None,
             face: Face = None, fit: Fit = None, steps: Steps = None, count: Count = 1, seed: Seed = 0,
             models: Models = "builtin", settings: Settings = None, model: Chosen = None,
             commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
             device: Device = "auto") -> None:
    """Extend a picture on any side; what was there stays, byte for byte."""
    _make("outpaint", locals(), "left", "right", "top", "bottom", "feather", "fit", "steps")


@image.command()
def control(prompt: Words, out: Out,
            picture: Annotated[Path | None, typer.Option("--image", help="What the maps are made from.")] = None,
            control: Controls = None, maps: Maps = None, scale: Scales = None, toybox: Toybox = "", like: Like = None,
            face: Face = None, negative: Negative = "", fit: Fit = None, steps: Steps = None, count: Count = 1,
            seed: Seed = 0, models: Models = "builtin", settings: Settings = None, model: Chosen = None,
            commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
            device: Device = "auto") -> None:
    """Draw a new picture that follows edges, depth, a pose, ... and the words."""
    _make("control", locals(), "fit", "steps")


@image.command("prompt")
def image_prompt(out: Out,
                 picture: Annotated[Path | None, typer.Argument(metavar="PICTURE", show_default=False,
                                                                help="What the new one shall be like.")] = None,
                 prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What else it shall show.")] = "",
                 like_scale: Annotated[float | None, typer.Option(help="How much the picture counts, to 2; 1.")] = None,
                 face: Face = None, negative: Negative = "", control: Controls = None, maps: Maps = None,
                 scale: Scales = None, steps: Steps = None, count: Count = 1, seed: Seed = 0,
                 models: Models = "builtin", settings: Settings = None, model: Chosen = None,
                 commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
                 device: Device = "auto") -> None:
    """Draw a new picture that is like another one, or shows a face."""
    _make("prompt", locals(), "like_scale", "steps")


@image.command()
def upscale(picture: PictureFile, out: Out,
            prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What it shows; only for a model.")] = "",
            factor: Annotated[int | None, typer.Option(help="How many times larger, 2 to 8; 4.")] = None,
            negative: Negative = "", steps: Steps = None, seed: Seed = 0, models: Models = "builtin",
            settings: Settings = None, model: Chosen = None,
            commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
            device: Device = "auto") -> None:
    """Enlarge a picture: by the set's upscaler, or (built-in) by a filter that invents nothing."""
    _make("upscale", locals(), "factor", "steps")


@image.command("maps")
def control_maps(out: Annotated[Path, typer.Option("--out", help="Folder for the maps.", show_default=False)],
                 picture: Annotated[Path | None, typer.Argument(metavar="PICTURE", help="What they are made from.",
                                                                show_default=False)] = None,
                 control: Controls = None, toybox: Toybox = "", models: Models = "builtin",
                 settings: Settings = None, model: Chosen = None,
                 commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
                 device: Device = "auto") -> None:
    """Make the maps that control follows, and nothing else."""
    _make("maps", locals())


def _wishes(controls: list[str] | None, maps: list[str] | None, scales: list[float] | None) -> tuple[ControlWish, ...]:
    """``KIND[=FILE]`` and ``KIND=FILE`` as the API takes them."""
    from engine.errors import BadInput
    from engine.image_api import ControlWish
    found = []
    for words, is_map in ((controls or [], False), (maps or [], True)):
        for word in words:
            kind, equals, file = word.partition("=")
            if (equals and not file) or (is_map and not equals):
                raise BadInput(f"{'--map' if is_map else '--control'} {word!r} names no file",
                               f"give {'--map' if is_map else '--control'} {kind or 'edges'}=FILE")
            found.append(ControlWish(kind, Path(file) if file else None, is_map))
    if scales and len(scales) != len(found):
        raise BadInput(f"--scale is given {len(scales)} times for {len(found)} controls",
                       "give one for each, in their order, or none")
    return tuple(ControlWish(w.kind, w.file, w.is_map, scale)
                 for w, scale in zip(found, scales or [1.0] * len(found), strict=True))


def _make(verb: Any, given: dict[str, Any], *told: str) -> None:
    """Plan, run under the terminal's bars, write, show where it is. Several pictures go into folders 00, 01, ...

    given : a verb's own arguments by name; told : which of them are parameters of its stage
    """
    from engine.errors import BadInput
    from engine.image_api import ImageRequest, is_file_name
    from engine.recipes.recipe import merge_settings, parse_roles
    out, count = given["out"], given.get("count", 1)
    if is_file_name(out) and count > 1:
        raise BadInput(f"--out {out} is one file, and {count} pictures are asked for", "give a folder")
    named = ("prompt", "negative", "picture", "mask", "like", "face", "toybox", "models", "commercial_only",
             "allow_pickle", "seam")
    request = ImageRequest(
        verb, **{name: given[name] for name in named if name in given},
        controls=_wishes(given.get("control"), given.get("maps"), given.get("scale")),
        roles=parse_roles(given["model"] or []), stages=merge_settings({}, given["settings"] or []),
        told={name: given[name] for name in told if given[name] is not None})
    for i in range(count):
        _make_one(request, given.get("seed", 0) + i, out / f"{i:02d}" if count > 1 else out, given["store"],
                  given["device"])


def _make_one(request: ImageRequest, seed: int, out: Path, store: str | None, device: str) -> None:
    from dataclasses import replace

    from engine.image_api import is_file_name, plan_image
    from engine.runs import files
    from engine.runs.stopping import stoppable
    from engine.runs.terminal import Terminal
    from engine.show import show_picture
    plan = plan_image(replace(request, seed=seed), store=store, device=device)
    files.ensure_writable(out.parent if is_file_name(out) else out, "the picture", "--out")
    with Terminal() as terminal, stoppable(plan.run):
        plan.run.listeners.append(terminal)
        made = plan.execute()
    show_picture(made.report(), made.save(out))
