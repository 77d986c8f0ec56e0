"""A picture and words -> the picture on a larger canvas, what is new painted to go with it."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from engine.artifacts import ControlMaps, Face, Picture, over_white
from engine.diffusion import inpainting
from engine.errors import BadInput
from engine.job import Job, stage
from engine.stages.inpaint import SEAM_GATE, Inpaint, repainted, roles, size_of


class Outpaint(Inpaint):
    """Parameters of ``outpaint``: those of ``inpaint``, and how much is added on each side."""

    left: int = Field(0, ge=0, le=8192, description="Pixels added on the left, 0 to 8192.")
    right: int = Field(0, ge=0, le=8192, description="Pixels added on the right, 0 to 8192.")
    top: int = Field(0, ge=0, le=8192, description="Pixels added on top, 0 to 8192.")
    bottom: int = Field(0, ge=0, le=8192, description="Pixels added at the bottom, 0 to 8192.")

    @model_validator(mode="after")
    def _some_side(self) -> Outpaint:
        if not (self.left or self.right or self.top or self.bottom):
            raise ValueError("nothing is added on any side: give left, right, top or bottom, in pixels")
        return self


@stage(version=1, roles=roles, gates=(SEAM_GATE,), attempts=3)
def outpaint(picture: Picture, maps: ControlMaps | None, like: Picture | None, face: Face | None, p: Outpaint,
             job: Job) -> Picture:
    """Extend ``picture`` by whole pixels on any side. What was there stays byte for byte, but for the feather inside of
    its new borders. Maps and the result have the extended size.

    Metrics: as ``inpaint``'s. Raises BadInput where more than 15 parts of 16 would be new.
    """
    image = over_white(picture.image)
    margins = [(p.top, p.bottom), (p.left, p.right)]
    mask = np.pad(np.zeros(image.shape[:2], bool), margins, constant_values=True)
    if mask.mean() > 15 / 16:
        raise BadInput(f"of {mask.shape[1]} x {mask.shape[0]} pixels only {size_of(image)} are the picture's",
                       "extend it in several steps, at most fourfold each")
    # Where the new part begins from the old one (strength below 1), the border's colours carried on are the least odd.
    extended = np.pad(image, [*margins, (0, 0)], mode="edge")
    return repainted(picture, extended, inpainting.binary(mask.astype(np.float32)), maps, like, face, p, job,
                     extended_px={"left": p.left, "right": p.right, "top": p.top, "bottom": p.bottom})
