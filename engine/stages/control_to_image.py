"""Maps and words -> a picture that follows both (ControlNet, Zhang et al. 2023)."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator

from engine.artifacts import ControlMaps, Face, Picture
from engine.diffusion import control_maps, drawing, giving, pictures
from engine.diffusion.canvas import Fit, canvas_for
from engine.diffusion.drawing import Drawing
from engine.job import Job, stage


class ControlToImage(Drawing):
    """Parameters of ``control_to_image``."""

    fit: Fit = Field("framed", description="framed: the whole map inside the model's own square; resized: as many "
                                           "pixels as that square in nearly the map's own shape.")

    @model_validator(mode="after")
    def _some_control(self) -> ControlToImage:
        if not self.controls:
            raise ValueError(f"no control is named; give one of {', '.join(control_maps.KINDS)}")
        return self


@stage(version=1, roles=drawing.roles_of)
def control_to_image(maps: ControlMaps, like: Picture | None, face: Face | None, p: ControlToImage, job: Job
                     ) -> Picture:
    """Draw a picture from pure noise that follows the maps and the words; as large as the maps stand on the canvas.

    Metric ``edge_f1`` where edges are followed: how well the result's own agree with them, within 2 pixels. Raises
    BadInput for a ControlNet of another family.
    """
    model = job.model("text_to_image")
    canvas = canvas_for(maps.images[0], model.size, model.multiple, p.fit)
    if canvas.said:
        job.warn(canvas.said.replace("the picture", "the map", 1))
    given = giving.given(p, canvas, maps, like, face)
    drawn = giving.image_of(drawing.draw(model, p, job, (canvas.rows, canvas.columns), given))
    made = canvas.take(drawn)
    job.progress(1.0, made)
    if "edges" in p.controls:
        wanted = canvas.take(pictures.images_of(given.maps[p.controls.index("edges")])[0])
        found, asked = (torch.from_numpy(x.transpose(2, 0, 1).copy())[None] for x in (made, wanted))
        job.metric("edge_f1", float(control_maps.agreement(control_maps.edges(found), asked, 2)[0]),
                   against="the edges it was to follow, within 2 px")
    return Picture(made, p.prompt, meta=giving.meta(p, job))
