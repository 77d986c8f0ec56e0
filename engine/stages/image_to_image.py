"""A picture and words -> the picture changed (SDEdit, Meng et al. 2022): noised part of the way, then drawn on."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from engine.artifacts import ControlMaps, Face, Picture, over_white
from engine.diffusion import drawing, giving
from engine.diffusion.canvas import Fit, canvas_for
from engine.diffusion.drawing import Drawing
from engine.job import Job, stage


class ImageToImage(Drawing):
    """Parameters of ``image_to_image``."""

    strength: float = Field(0.6, ge=0, le=1, description="How much may change, 0 (nothing: the picture as the model's "
                            "VAE shows it) to 1 (everything: it begins from pure noise).")
    fit: Fit = Field("framed", description="framed: the whole picture inside the model's own square; resized: as many "
                                           "pixels as that square in nearly the picture's own shape.")


@stage(version=1, roles=drawing.roles_of)
def image_to_image(picture: Picture, maps: ControlMaps | None, like: Picture | None, face: Face | None,
                   p: ImageToImage, job: Job) -> Picture:
    """Change ``picture`` as the words say. The result has the size it was drawn at: the picture's own where that is the
    model's, else as large as it stands on the model's canvas (a warning says so). Alpha is drawn over white.

    Metric ``likeness_db``: PSNR between the result and the picture at that size; at strength 0 the VAE's own error.
    Raises BadInput for pictures too small or too long, and for controls and adapters that do not fit the model.
    """
    model = job.model("text_to_image")
    image = over_white(picture.image)
    canvas = canvas_for(image, model.size, model.multiple, p.fit)
    if canvas.said:
        job.warn(canvas.said)
    shown = canvas.put(image)
    given = giving.given(p, canvas, maps, like, face, start=shown, strength=p.strength)
    drawn = giving.image_of(drawing.draw(model, p, job, (canvas.rows, canvas.columns), given))
    made = canvas.take(drawn)
    job.progress(1.0, made)
    job.metric("likeness_db", psnr(made, canvas.take(shown)), "dB", against="the picture it began from")
    return Picture(made, p.prompt, picture.azimuth_deg, picture.elevation_deg, giving.meta(p, job))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise of pictures in [0, 1], dB; equal ones give 99."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 99.0 if error == 0 else min(99.0, -10 * math.log10(error))
