"""A picture of one subject -> the subject alone, framed as every network of the house expects it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from engine.artifacts import Picture, over_white
from engine.diffusion import framing, mattes
from engine.errors import BadInput
from engine.job import Job, Params, stage

LEAST_SIZE = 128
PLAIN_BORDER = 0.75
"""From this share of border pixels of one colour on, a background counts as plain."""


class CutOut(Params):
    """Parameters of ``cut_out``."""

    method: Literal["auto", "alpha", "plain", "model"] = Field(
        "auto", description="alpha: the picture's own; plain: by the background's colour; model: the matting network; "
                            "auto: the first of these that fits.")
    max_size: int = Field(1024, ge=LEAST_SIZE, le=4096, description="Largest side of the framed picture, pixels.")


@stage(version=2, roles=("matting", "image_text"))
def cut_out(picture: Picture, p: CutOut, job: Job) -> Picture:
    """Free the subject from its background and frame it: RGBA, square, the subject's bounding box centred, its longest
    side 0.7 of the frame; as large as the picture allows, 128 to ``max_size`` pixels.

    Raises BadInput when nothing of the picture is subject, or when the method asked for cannot be used.
    """
    image = picture.image
    method = _method(image, p)
    if method == "alpha":
        rgba = image
    elif method == "plain":
        colour, _ = mattes.border_colour(image[..., :3])
        rgba = mattes.soft_edge(image[..., :3], mattes.plain_mask(image[..., :3], colour), colour)
    else:
        rgb = over_white(image)
        rgba = mattes.freed_colour(rgb, mattes.model_alpha(job.model("matting"), rgb, job.device))
    job.progress(0.6)

    box = framing.bounding_box(rgba[..., 3])
    left, top, right, bottom = box
    height, width = rgba.shape[:2]
    if method != "alpha" and (left == 0 or top == 0 or right == width or bottom == height):
        job.warn("the subject touches the picture's edge: what lies outside is not known")
    if max(right - left, bottom - top) < 48:
        job.warn(f"the subject is only {max(right - left, bottom - top)} pixels large: expect little detail")
    square = framing.square_around(box)
    framed = framing.crop_square(rgba, square, min(max(round(square.side), LEAST_SIZE), p.max_size))
    job.metric("subject_share", float((rgba[..., 3] >= framing.SOLID).mean()), against="picture")
    _compare_with_toybox(framed, job)
    job.progress(1.0, over_white(framed))
    meta = {**picture.meta, "cut_out": method, "square": square.to_json()}
    return Picture(framed, picture.caption, picture.azimuth_deg, picture.elevation_deg, meta)


def _method(image: np.ndarray, p: CutOut) -> str:
    has_alpha = image.shape[-1] == 4 and bool((image[..., 3] < 0.5).mean() > 0.005)
    if p.method == "alpha" and not has_alpha:
        raise BadInput("cut_out.method is alpha, but the picture has no transparent pixels", "use auto, plain or model")
    if p.method != "auto":
        return p.method
    if has_alpha:
        return "alpha"
    return "plain" if mattes.border_colour(image[..., :3])[1] >= PLAIN_BORDER else "model"


def _compare_with_toybox(framed: np.ndarray, job: Job) -> None:
    """Warn when CLIP finds the picture far from all that the models were trained on (``engine.models.known``)."""
    model = job.model("image_text")
    if model.known is None:
        return
    distance = model.known.distance(clip_features(model, framed, job.device))
    job.metric("toybox_distance", distance, against=f"far from {model.known.far:.1f}")
    if distance > model.known.far:
        job.warn(f"the picture is far from what the built-in models know (CLIP distance {distance:.1f}; toybox "
                 f"pictures stay below {model.known.far:.1f}): expect a poor likeness")


def clip_features(model: Any, framed: np.ndarray, device: str) -> np.ndarray:
    """Mean of CLIP's last patch features of a framed RGBA picture over white -> (d,) float32.

    They still tell textures apart that the projected embedding, trained to match words, no longer does.
    """
    import torch

    from engine.diffusion import pictures
    with torch.inference_mode():
        pixels = pictures.clip_input(pictures.tensor_of(over_white(framed)[None], device),
                                     model.clip.config.vision_config.image_size)
        patches = model.clip.vision_model(pixel_values=pixels).last_hidden_state[0, 1:]
    return patches.mean(0).float().cpu().numpy()
