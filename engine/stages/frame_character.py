"""A picture of a figure, cut out -> the same figure as reference animation expects it."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from engine.artifacts import Picture, over_white
from engine.diffusion import framing
from engine.errors import BadInput
from engine.job import Gate, Job, Params, stage

SURE = 0.5
"""Mean confidence of the body's joints from which a picture shows a figure (``engine.clips.poses.estimate``)."""
KNOWN = 0.3
"""Confidence from which a joint is taken as it was found."""
WIDEST = 0.95
"""Share of the picture's width that a figure with its arms out takes at most."""


class FrameCharacter(Params):
    """Parameters of ``frame_character``."""

    fill: float = Field(0.75, gt=0.1, le=1, description="Share of the picture's height that the figure takes, more "
                                                        "than 0.1, at most 1; 0.75 as in training.")
    max_size: int = Field(1024, ge=128, le=4096, description="Largest side of the framed picture, pixels.")


@stage(version=1, roles=("pose_estimation",), gates=(
    Gate("figure_confidence", minimum=SURE, explain="the picture shows no figure: give one whole standing figure"),
    Gate("figures", maximum=1, explain="the picture shows several figures: crop it to one")))
def frame_character(picture: Picture, p: FrameCharacter, job: Job) -> Picture:
    """Frame a cut-out figure: RGBA, square, the figure ``fill`` of its height, its hips in the middle.

    The gates refuse what shows no figure, or several. Raises BadInput where the picture has no alpha or shows nothing.
    """
    if picture.image.shape[-1] != 4:
        raise BadInput("the picture still has its background", "run cut_out on it first")
    box = framing.bounding_box(picture.image[..., 3])
    found = job.model("pose_estimation")([over_white(picture.image)])
    confidence, joints = found.confidence[0], np.array(found.joints[0], dtype=np.float64)
    from engine.clips.poses.joints import BODY, HIPS
    job.metric("figure_confidence", float(confidence[list(BODY)].mean()), against="joints of the body")
    job.metric("figures", float(max(int(found.people[0]), 0)))
    joints[~np.isfinite(joints).all(-1) | (confidence < KNOWN)] = np.nan
    square = _square(box, joints[list(HIPS)], p.fill)
    side = min(max(round(square.side), 128), p.max_size)
    framed = framing.crop_square(picture.image, square, side)
    height = (box[3] - box[1]) / square.side
    job.metric("figure_height", height, "of the picture's")
    job.progress(1.0, over_white(framed))
    meta = {**picture.meta, "figure_height": height}
    return Picture(framed, picture.caption, picture.azimuth_deg, picture.elevation_deg, meta)


def _square(box: tuple[int, int, int, int], hips: np.ndarray, fill: float) -> framing.Square:
    """The figure's box in the middle of the height; sideways its hips are, where they are known: what it holds out to
    one side does not push it to the other."""
    left, top, right, bottom = box
    middle = float(hips[:, 0].mean()) if np.isfinite(hips).all() else (left + right) / 2
    reach = 2 * max(right - middle, middle - left)
    side = max((bottom - top) / fill, reach / WIDEST)
    return framing.Square(middle - side / 2, (top + bottom) / 2 - side / 2, side)
