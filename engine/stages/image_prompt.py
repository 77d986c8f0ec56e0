"""A picture, or a face, and words -> a new picture that is like it (IP-Adapter, InstantID)."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from engine.artifacts import ControlMaps, Face, Picture
from engine.diffusion import drawing, giving
from engine.diffusion.canvas import canvas_for
from engine.diffusion.drawing import Drawing
from engine.job import Job, stage


class ImagePrompt(Drawing):
    """Parameters of ``image_prompt``."""

    prompt: str = Field("one object", description="What to draw, 1 to 1,000 characters; the picture says the rest.")

    @model_validator(mode="after")
    def _something_to_follow(self) -> ImagePrompt:
        if not (self.like_scale or self.face_scale):
            raise ValueError("neither a picture nor a face counts: give like_scale or face_scale above 0")
        return self


@stage(version=1, roles=drawing.roles_of)
def image_prompt(like: Picture | None, maps: ControlMaps | None, face: Face | None, p: ImagePrompt, job: Job
                 ) -> Picture:
    """Draw a picture of the model's own size from pure noise that is like ``like``, or shows ``face``.

    Raises BadInput for an image prompt of another family.
    """
    model = job.model("text_to_image")
    canvas = canvas_for(maps.images[0] if maps else np.empty((model.size, model.size)), model.size, model.multiple)
    given = giving.given(p, canvas, maps, like, face)
    made = canvas.take(giving.image_of(drawing.draw(model, p, job, (canvas.rows, canvas.columns), given)))
    job.progress(1.0, made)
    return Picture(made, p.prompt, meta=giving.meta(p, job))
