"""Words -> candidate pictures of one figure, standing, for reference animation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine.artifacts import Candidates, Picture
from engine.diffusion import adapters, lora, pictures, prompt
from engine.job import Job, stage
from engine.stages.text_to_image import TextToImage, draw, tell_unknown


class DrawCharacter(TextToImage):
    """Parameters of ``draw_character``: those of ``text_to_image``, and these."""

    view: str = Field("", description="View words for a prompt that says none; empty: leave it as it is.")
    pose: str = Field("standing", max_length=200, description="Said behind the prompt where it names no motion: how "
                                                              "the figure shall stand. Empty: nothing.")
    adapter_scale: float = Field(1.0, ge=0, le=2, description="How much the set's domain adapter counts, which taught "
                                                              "the text-to-image model its characters, 0 (left out) "
                                                              "to 2; 1 as trained.")

    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"candidates": 2, "pace": 0.6},
                                                    "high": {"candidates": 8, "pace": 2.0}}


def _roles(p: DrawCharacter) -> tuple[str, ...]:
    return ("text_to_image", "pose_estimation", *(("domain_adapter",) if p.adapter_scale else ()))


@stage(version=1, roles=_roles)
def draw_character(p: DrawCharacter, job: Job) -> Candidates:
    """Draw ``p.candidates`` pictures of a figure; the one in which the pose estimator is surest of a body is the best.

    Raises BadInput as ``text_to_image`` does.
    """
    from engine.clips.poses.joints import BODY
    from engine.toybox.seen import caption_words
    base = job.model("text_to_image")
    if p.adapter_scale:
        domain = job.model("domain_adapter")
        known = tuple(dict.fromkeys((*(base.words or caption_words()), *domain.words))) if domain.words else base.words
        base = base.changed(unet=lora.merged(base.unet, domain.lora, p.adapter_scale), words=known)
    model, on_top = adapters.adapted(base, p)
    text = spoken(p)
    tell_unknown(text, p.negative, model, on_top, job)
    images = pictures.images_of(draw(model, p, job, on_top.spelled(text), on_top.spelled(p.negative)).clamp(0, 1))
    found = job.model("pose_estimation")(list(images))
    scores = [round(float(c), 6) for c in found.confidence[:, list(BODY)].mean(1)]
    best = int(np.argmax(scores))
    job.progress(1.0, images[best])
    job.metric("figure_confidence", scores[best], against="joints of the body, the best picture")
    return Candidates([Picture(image, p.prompt, 0.0, None, {
        "figure_confidence": score, "seed": job.seed(i), "prompt_as_drawn": text, **on_top.papers})
        for i, (image, score) in enumerate(zip(images, scores, strict=True))], scores, best)


def spoken(p: DrawCharacter) -> str:
    """The prompt as it is drawn: how the figure stands is said where no motion is."""
    from engine.toybox.motions import MOTION_WORDS, MOTIONS
    said = set(prompt.words(p.prompt)) & {*MOTIONS, *MOTION_WORDS.values()}
    return ", ".join(part for part in (p.prompt, "" if said else p.pose, p.view) if part)
