"""A clip -> the files that an artist and a game engine take."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from engine.artifacts import Files
from engine.clip_artifacts import Clip
from engine.clips import formats, timing
from engine.clips.formats import FORMATS, Clock, Look
from engine.clips.sheet import Layout, save, write_sheet
from engine.errors import BadInput
from engine.export.scratch import scratch_files, scratch_until_made
from engine.job import Job, Params, stage

FRAMES = "frames"


class ExportClip(Params):
    """Parameters of ``export_clip``."""

    name: str = Field("clip", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
                      description="what the sheet's frames are called: NAME_00000, ...")
    formats: tuple[str, ...] = Field(tuple(FORMATS), description=f"beside the PNG frames: {', '.join(FORMATS)}")
    background: str = Field("white", description="colour behind the figure where a format has no alpha: #rrggbb or a "
                                                 "name")
    sheet: Literal["grid", "packed"] = Field("grid", description="grid: equal cells; packed: every frame trimmed on "
                                                                 "its own")
    padding: int = Field(2, ge=0, le=64, description="clear pixels between the sheet's frames")
    power_of_two: bool = Field(False, description="the sheet's sides are powers of two")
    papers: dict[str, str] = Field(default_factory=dict, description="written into the files: seed, prompt, recipe, "
                                                                     "...")

    @field_validator("formats")
    @classmethod
    def _formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return formats.named(value)

    @field_validator("background")
    @classmethod
    def _colour(cls, value: str) -> str:
        formats.colour(value)
        return value


@stage(version=1)
def export_clip(clip: Clip, p: ExportClip, job: Job) -> Files:
    """frames/00000.png, ... with alpha, which are the master; from them, one frame in memory at a time, the encodings
    and the sheet with its JSON.

    A format that cannot be written (an encoder that is missing, a rate or size that it does not hold) is named in a
    warning, with what mends it, and under meta["not_written"]; the other files are there.
    """
    clock = Clock(len(clip), timing.rate(clip.fps), clip.loop)
    look = Look(formats.colour(p.background), p.papers)
    writable, lacking = formats.sorted_out(p.formats)
    with scratch_until_made() as folder:
        roles = _frames(clip, folder, p.papers, job)

        def told(kind: str) -> Iterator[np.ndarray]:
            from PIL import Image
            for i in range(clock.count):
                with Image.open(folder / FRAMES / f"{i:05d}.png") as file:
                    yield np.asarray(file)
                if i % 16 == 0:
                    job.progress(0.3 + 0.7 * (writable.index(kind) + i / clock.count) / len(writable))

        for kind in writable:
            try:
                if kind == "sheet":
                    layout = Layout(p.sheet, p.padding, p.power_of_two)
                    write_sheet(folder, partial(told, kind), clock, layout, p.name, p.papers)
                    roles |= {"sheet.png": "sheet", "sheet.json": "sheet"}
                else:
                    for said in formats.write(kind, folder, partial(told, kind), clock, look):
                        job.warn(said)
                    roles[FORMATS[kind].file] = "clip"
            except BadInput as error:
                (folder / FORMATS[kind].file).unlink(missing_ok=True)
                lacking[kind] = f"{FORMATS[kind].file} was not written: {error}"
        for said in lacking.values():
            job.warn(said)
        return _files(folder, roles, clip, clock, lacking, job)


def _frames(clip: Clip, folder: Path, papers: dict[str, str], job: Job) -> dict[str, str]:
    """Write the master. -> name -> role"""
    (folder / FRAMES).mkdir()
    roles: dict[str, str] = {}
    for i, frame in enumerate(clip.frames):
        name = f"{FRAMES}/{i:05d}.png"
        save(folder / name, np.round(np.clip(frame, 0, 1) * 255).astype(np.uint8), papers)
        roles[name] = "frame"
        job.progress(0.3 * (i + 1) / len(clip))
    return roles


def _files(folder: Path, roles: dict[str, str], clip: Clip, clock: Clock, lacking: dict[str, str], job: Job) -> Files:
    job.metric("seconds", float(clock.count / clock.fps), "s", f"{clock.count} frames, {clip.fps:g} a second")
    job.metric("files", len(roles) - clock.count, "", "beside the frames")
    job.metric("not_written", len(lacking), "", "formats")
    job.metric("bytes", sum((folder / name).stat().st_size for name in roles), "B")
    job.progress(1.0)
    return scratch_files(folder, roles, {"frames": clock.count, "fps": clip.fps, "loop": clip.loop,
                                         "alpha": clip.meta.get("alpha", ""), "not_written": lacking})
