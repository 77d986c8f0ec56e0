"""A clip -> the same clip without its background, and what its frames measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from engine.artifacts import over_white
from engine.clip_artifacts import Clip
from engine.clips import alpha
from engine.clips.kept import KeptFrames
from engine.clips.measure import Measure
from engine.diffusion import mattes
from engine.errors import BadInput, RunFailed
from engine.job import Job, Params, stage

WHITE = 0.92
"""From this value of its darkest channel on, a border counts as white."""
PLAIN_BORDER = 0.75
"""From this share of border pixels of one colour on, a frame's background counts as plain, as in ``cut_out``."""
WORDS = {"own": "the clip's own", "plain": "by the plain background's colour", "model": "by the matting network",
         "both": "mean of the matting network's and the plain background's",
         "drawn": "by the network that knows what the built-in models draw",
         "none": "none: the whole picture stays"}


class ClipAlpha(Params):
    """Parameters of ``clip_alpha``."""

    method: Literal["auto", "own", "drawn", "both", "plain", "model", "none"] = Field(
        "auto", description="own: the clip's alpha as it is; drawn: the network that learned what the built-in models "
                            "draw over white; plain: by the background's colour; model: the matting network; both: the "
                            "mean of these two; none: nothing is cut out. auto: own where there is any, drawn where "
                            "the built-in models drew before white, both before another plain background, else model.")
    calm: float = Field(alpha.TOLERANCE, ge=0, le=1, description="Colours that change by less from frame to frame "
                                                                 "(sRGB, 0 to 1) count as still: there the matte is "
                                                                 "the median of three frames'. 0: no calming.")


def _roles(p: ClipAlpha) -> tuple[str, ...]:
    return ("matting",) if p.method in ("auto", "drawn", "both", "model") else ()


@stage(version=2, roles=_roles)
def clip_alpha(clip: Clip, p: ClipAlpha, job: Job) -> Clip:
    """Free what moves from its background: straight alpha, edge colours without the old background, mattes calmed over
    time (``engine.clips.alpha``). One frame is looked at at a time.

    Raises RunFailed where nothing is left in any frame.
    """
    method = _method(clip, p, job)
    background = "" if method in ("own", "none") else WORDS[method] + (", calmed over time" if p.calm else "")
    how = background or WORDS[method]
    kept, measure, covered, empty = KeptFrames(job, len(clip)), Measure(clip.loop), 0.0, 0
    for i, frame in enumerate(kept.all(lambda missing: _freed(clip, method, p, job, missing))):
        measure.add(frame)
        covered += float(frame[..., 3].mean()) / len(clip)
        empty += not (frame[..., 3] >= 0.5).any()
        job.progress((i + 1) / len(clip), over_white(frame) if i % 8 == 0 else None)
    if empty == len(clip):
        raise RunFailed("nothing of the clip is left once its background is gone",
                        "keep the background with --set clip_alpha.method=none, or try another seed")
    if empty:
        job.warn(f"in {empty} of {len(clip)} frames nothing is left once the background is gone")
    _report(measure, clip, how, covered, job)
    return Clip(kept.frames(), clip.fps, clip.loop, {**clip.meta, "alpha": how})


def _method(clip: Clip, p: ClipAlpha, job: Job) -> str:
    if p.method == "drawn" and job.model("matting").drawn is None:
        raise BadInput("the chosen matting model has no network for what the built-in models draw",
                       "give --set clip_alpha.method=auto")
    if p.method != "auto":
        return p.method
    looked = [clip.frames[i] for i in sorted({0, len(clip) // 2, len(clip) - 1})]
    if any((frame[..., 3] < 0.5).mean() > 0.005 for frame in looked):
        return "own"
    borders = [mattes.border_colour(frame[..., :3]) for frame in looked]
    if min(share for _, share in borders) < PLAIN_BORDER:
        return "model"
    white = min(float(colour.min()) for colour, _ in borders) >= WHITE
    known = clip.meta.get("drawn_by") == "builtin" and job.model("matting").drawn is not None
    return "drawn" if white and known else "both"


class _Opaque:
    """A clip's frames over white, (h, w, 3) each, read one by one."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, i: int) -> np.ndarray:
        return over_white(self.clip.frames[i])


def _freed(clip: Clip, method: str, p: ClipAlpha, job: Job, only: list[int]) -> Iterator[np.ndarray]:
    """The frames of these numbers, one by one."""
    if method in ("none", "own"):
        frames = (clip.frames[i] for i in only)
        if method == "own":
            return (alpha.spread(frame) for frame in frames)
        return (np.concatenate([over_white(f), np.ones_like(f[..., 3:])], -1) for f in frames)
    if method == "plain":
        matte = alpha.plain()
    else:
        by = {"both": alpha.both, "drawn": alpha.drawn, "model": alpha.by_model}[method]
        matte = by(job.model("matting"), job.device)
    return alpha.calmed(_Opaque(clip), matte, clip.loop, p.calm, only)


def _report(measure: Measure, clip: Clip, how: str, covered: float, job: Job) -> None:
    found, levels = measure.figures(), "levels of 255"
    job.metric("frames", len(clip), "", f"{clip.fps:g} frames a second")
    job.metric("covered", covered, "", f"share of the picture; alpha {how}")
    job.metric("alpha_flicker", found.alpha_flicker, "", "mean |second difference| over the figure's area")
    job.metric("colour_flicker", found.colour_flicker, levels, "mean |second difference| inside the figure")
    job.metric("frame_step", found.frame_step, levels, "mean difference of neighbouring frames")
    if clip.loop and len(clip) > 1:
        job.metric("seam", found.seam, levels, "difference of the last frame and the first")
        job.metric("seam_over_step", found.seam_over_step, "", "the loop's seam; a step like others up to 1")
