"""A picture of one subject -> the subject alone, framed as every network of the house expects it."""

from __future__ import annotations

from collections.abc import Sequence
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


@stage(version=1, roles=("matting", "image_text"))
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
    """Warn when CLIP finds the subject far from everything that the built-in models were trained on.

    A set that did not measure its bound makes no such claim (``engine.models.known``).
    """
    model = job.model("image_text")
    bound, kinds = model.known.far_similarity, model.known.kinds
    if bound is None or not kinds:
        return
    kind, similarity = nearest_kind(model, framed, kinds, job.device)
    job.metric("toybox_similarity", similarity, against=kind)
    if similarity < bound:
        job.warn(f"the picture is far from what the built-in models know (nearest: {kind}, CLIP {similarity:.2f}, "
                 f"expected {bound:.2f} or more): expect a poor likeness")


def nearest_kind(model: Any, framed: np.ndarray, kinds: Sequence[str], device: str) -> tuple[str, float]:
    """The kind whose name CLIP finds nearest to a framed RGBA picture, and the cosine in [-1, 1]."""
    import torch

    from engine.diffusion import pictures, prompt
    clip = model.clip
    with torch.inference_mode():
        pixels = pictures.clip_input(pictures.tensor_of(over_white(framed)[None], device),
                                     clip.config.vision_config.image_size)
        image = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        ids = prompt.token_ids(model.tokenizer, [f"a {kind}" for kind in kinds], device)
        texts = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
        cosine = torch.nn.functional.cosine_similarity(image, texts)
    best = int(cosine.argmax())
    return kinds[best], float(cosine[best])
