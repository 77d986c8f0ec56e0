"""``maquette clip``: a character in motion, or what words or a picture say, as game-ready frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def clip(out: Annotated[Path, typer.Option("--out", help="Folder for the finished files.", show_default=False)],
         prompt: Annotated[str, typer.Argument(help="What to show: \"a knight in red armour\".")] = "",
         image: Annotated[Path | None, typer.Option(help="A picture: of the character, or of what the clip begins "
                                                         "with.")] = None,
         motion: Annotated[str, typer.Option(help="How it moves: walk, run, wave, jump, dance, ...", metavar="NAME")
                           ] = "",
         poses: Annotated[Path | None, typer.Option(help="Poses: OpenPose JSON (file or folder), BVH, an armature's "
                                                         "JSON, a video.")] = None,
         driving_video: Annotated[Path | None, typer.Option(help="A video whose figure is followed.")] = None,
         person: Annotated[int | None, typer.Option(help="Which figure, counted from 0, where poses or a video show "
                                                         "several.", metavar="N")] = None,
         pipeline: Annotated[str | None, typer.Option(help="character_to_clip (without: with a motion or poses), "
                                                           "text_to_clip or image_to_clip.", metavar="NAME")] = None,
         frames: Annotated[int | None, typer.Option(help="How many; without: 16, or as many as the poses have.")
                           ] = None,
         fps: Annotated[float | None, typer.Option(help="Frames a second; without: 12, or as the poses say.")] = None,
         loop: Annotated[bool | None, typer.Option("--loop/--no-loop", help="The last frame is followed by the first; "
                                                                            "without: as the motion says.")] = None,
         formats: Annotated[str | None, typer.Option(help="Beside the PNG frames: mp4, vp9, vp8, prores, gif, apng, "
                                                          "webp, ogv, sheet, with commas; png: none; without: all.",
                                                     metavar="LIST")] = None,
         negative: Annotated[str, typer.Option(help="What it must not show.")] = "",
         seed: Annotated[int, typer.Option(help="Another number makes another clip from the same words.")] = 0,
         models: Annotated[str, typer.Option(help="The model set.")] = "builtin",
         quality: Annotated[str, typer.Option(help="draft, standard or high.")] = "standard",
         until: Annotated[str | None, typer.Option(help="Stop after this stage and show what it made.",
                                                   metavar="LABEL")] = None,
         pick: Annotated[int | None, typer.Option(help="Go on from this picture of the character, counted from 0.",
                                                  metavar="N")] = None,
         settings: Annotated[list[str] | None, typer.Option("--set", metavar="LABEL.PARAM=VALUE",
                                                            help="Change a stage's parameter; may be given often.")
                             ] = None,
         model: Annotated[list[str] | None, typer.Option("--model", metavar="ROLE=ID", help="Another model for a role "
                                                         "than the set's; may be given often.")] = None,
         commercial_only: Annotated[bool, typer.Option("--commercial-only", help="Refuse models that may not be used "
                                                       "commercially by everybody.")] = False,
         allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read weights kept as pickles: tensors "
                                                    "only, nothing in them is run.")] = False,
         store: Annotated[str | None, typer.Option("--store", help="Where results are kept between runs.",
                                                   envvar="MAQUETTE_STORE", show_default=False)] = None,
         device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto") -> None:
    """Make a clip: PNG frames with alpha, videos, a sprite sheet, the papers."""
    from engine import making_cli
    from engine.recipes.recipe import default_clip_pipeline, make_recipe, merge_settings, parse_roles
    moved = bool(motion or poses or driving_video)
    recipe = make_recipe(
        pipeline=pipeline or default_clip_pipeline(image is not None, moved), prompt=prompt,
        image=str(image) if image else "", motion=motion, poses=str(poses) if poses else "",
        driving_video=str(driving_video) if driving_video else "", person=person, frames=frames, fps=fps, loop=loop,
        formats=None if formats is None else tuple(formats.split(",")), negative=negative, seed=seed, models=models,
        roles=parse_roles(model or []), quality=quality, pick=pick, stages=merge_settings({}, settings or []))
    making_cli.make(recipe, out, store, device, until, commercial_only, allow_pickle)
