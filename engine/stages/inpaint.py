"""A picture, a mask and words -> the picture with what is masked painted anew."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from engine.artifacts import ControlMaps, Face, Picture, over_white
from engine.diffusion import drawing, giving, inpainting
from engine.diffusion.canvas import Fit, canvas_for, resize
from engine.diffusion.drawing import Drawing
from engine.errors import BadInput
from engine.job import Gate, Job, stage

SEAM = 1.5
"""A seam's gradient may be this many times the mean of its surroundings."""


class Inpaint(Drawing):
    """Parameters of ``inpaint``."""

    strength: float = Field(1.0, gt=0, le=1, description="How much of what is masked may change, above 0 to 1 (all: it "
                                                         "begins from pure noise).")
    feather: float = Field(0.03, ge=0, le=0.25, description="Width of the band outside of the mask over which old and "
                           "new are mixed, as a share of the longer side, 0 (none) to 0.25.")
    rounds: int = Field(3, ge=1, le=20, description="How often each step is taken, 1 to 20, so that the new part comes "
                        "to terms with the old one. At 1 the sampler decides; networks for inpainting need no more.")
    network: Literal["text_to_image", "inpaint"] = Field("text_to_image", description="Role of the model that paints: "
                                                         "text_to_image, or inpaint where the set has one.")
    fit: Fit = Field("framed", description="framed: the whole picture inside the model's own square; resized: as many "
                                           "pixels as that square in nearly the picture's own shape.")


def roles(p: Inpaint) -> tuple[str, ...]:
    return drawing.roles_of(p, p.network)


SEAM_GATE = Gate("seam_gradient", maximum=SEAM, remedy=(("rounds", 6),),
                 explain="the seam shows; --feather widens it, --seam takes more")


@stage(version=1, roles=roles, gates=(SEAM_GATE,), attempts=3)
def inpaint(picture: Picture, mask: Picture, maps: ControlMaps | None, like: Picture | None, face: Face | None,
            p: Inpaint, job: Job) -> Picture:
    """Paint what is white in ``mask`` anew, as the words say. The result has the picture's own size: what is black in
    the mask and farther from the white than the feather is the picture's, byte for byte. Alpha is drawn over white.

    Metrics: ``seam_gradient`` (``inpainting.seam_gradient``), ``masked_share``, ``kept_share`` (pixels that are byte
    for byte the picture's). Raises BadInput for a mask of another size, or all of one colour.
    """
    image = over_white(picture.image)
    if mask.image.shape[:2] != image.shape[:2]:
        raise BadInput(f"the mask is {size_of(mask.image)} pixels, the picture {size_of(image)}",
                       "give a mask of the picture's size")
    return repainted(picture, image, inpainting.binary(mask.image), maps, like, face, p, job)


def repainted(picture: Picture, image: np.ndarray, mask: np.ndarray, maps: ControlMaps | None, like: Picture | None,
              face: Face | None, p: Inpaint, job: Job, **more: Any) -> Picture:
    """``image`` (h, w, 3) with ``mask`` (h, w) bool painted anew, pasted back, and its figures told.

    more : goes into the picture's papers
    """
    model = job.model(p.network)
    canvas = canvas_for(image, model.size, model.multiple, p.fit)
    if canvas.said:
        job.warn(canvas.said)
    on_canvas = canvas.put(mask.astype(np.float32), around=0.0) > 1e-3  # any touch of a cell counts
    given = giving.given(p, canvas, maps, like, face, start=canvas.put(image), strength=p.strength, mask=on_canvas,
                         rounds=p.rounds)
    drawn = giving.image_of(drawing.draw(model, p, job, (canvas.rows, canvas.columns), given))
    weights = inpainting.feathered(mask, p.feather * max(image.shape[:2]))
    made = inpainting.paste(image, canvas.take(drawn, back=True), weights)
    made = np.where(weights[..., None] > 0, np.round(made * 255) / 255, made).astype(np.float32)
    job.progress(1.0, resize(made, canvas.inner_rows, canvas.inner_columns))
    job.metric("seam_gradient", inpainting.seam_gradient(made, weights, image), against="the mean around it")
    job.metric("masked_share", float(mask.mean()), against="picture")
    job.metric("kept_share", float((made == image).all(-1).mean()), against="picture, byte for byte")
    return Picture(made, p.prompt, picture.azimuth_deg, picture.elevation_deg, {**giving.meta(p, job), **more})


def size_of(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
