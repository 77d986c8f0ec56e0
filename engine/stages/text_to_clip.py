"""Words -> a moving picture, by a text-to-image model and motion modules (AnimateDiff, Guo et al. 2023)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from engine.clip_artifacts import Clip
from engine.diffusion import clip_drawing
from engine.diffusion.clip_drawing import ClipDrawing
from engine.job import Job, stage


class TextToClip(ClipDrawing):
    """Parameters of ``text_to_clip``."""

    width: int | None = Field(None, ge=64, le=2048, description="Of the frames, 64 to 2,048 pixels, divisible by 8; "
                                                                "none: the model's own.")
    height: int | None = Field(None, ge=64, le=2048, description="Of the frames, as width.")

    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"pace": 0.5}, "high": {"pace": 2.0}}

    @field_validator("width", "height")
    @classmethod
    def _eights(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError(f"{value} pixels are not divisible by 8; {value // 8 * 8} and {value // 8 * 8 + 8} are")
        return value


@stage(version=2, roles=clip_drawing.roles_of)
def text_to_clip(p: TextToClip, job: Job) -> Clip:
    """Draw a clip of the prompt; every frame is opaque.

    Metrics ``frame_step`` and, of a loop, ``seam_step`` (``clip_drawing.Look``). Raises BadInput for prompts and
    numbers out of limits (with the parameters, before anything runs), for a motion that the model does not know, with
    the nearest one, and for parts of different families.
    """
    size = None if p.height is None and p.width is None else job.model("text_to_image").size
    return clip_drawing.draw_clip(p, job, None if size is None else (p.height or size, p.width or size))
