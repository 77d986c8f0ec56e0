"""Prompt -> candidate pictures, scored by CLIP."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from engine.artifacts import Candidates, Picture
from engine.diffusion import pictures, prompt, sampling
from engine.job import Job, Params, stage


class TextToImage(Params):
    """Parameters of ``text_to_image``."""

    prompt: str = Field(description="What to make, 1 to 1,000 characters.")
    negative: str = Field("", description="What the pictures should not show, at most 1,000 characters.")
    view: str = Field("front view", description="View words for a prompt that says none; empty: leave it as it is.")
    candidates: int = Field(4, ge=1, le=32, description="How many pictures to draw, 1 to 32.")
    steps: int = Field(20, ge=1, le=250, description="Sampling steps, 1 to 250.")
    guidance: float = Field(3.0, ge=1, le=20, description="Classifier-free guidance, 1 (none) to 20.")
    sampler: Literal["ddim", "dpm"] = Field("ddim", description="Update rule: ddim or dpm (DPM-Solver++ 2M).")

    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"candidates": 2, "steps": 12},
                                                    "high": {"candidates": 8, "steps": 40}}

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: str) -> str:
        return prompt.check(value)

    @field_validator("negative")
    @classmethod
    def _negative(cls, value: str) -> str:
        return prompt.check(value, "the negative prompt") if value.strip() else ""


@stage(version=1, roles=("text_to_image", "image_text"))
def text_to_image(p: TextToImage, job: Job) -> Candidates:
    """Draw ``p.candidates`` pictures of the prompt; the one that CLIP finds nearest to it is the best.

    Raises BadInput for prompts out of limits (with the parameters, before anything runs) and for missing weights.
    """
    model, scorer = job.model("text_to_image"), job.model("image_text")
    view = prompt.view_of(p.prompt)
    text = p.prompt if view.said or not p.view else f"{p.prompt}, {p.view}"
    view = prompt.view_of(text)
    _warn(text, p.negative, model, job)

    device = job.device
    with torch.inference_mode():
        # The unconditional half is guided away from: the empty prompt, or what the user does not want.
        wanted, unwanted = prompt.encode(model.text_encoder, model.tokenizer, [text, p.negative], device)

        def predict(latents: torch.Tensor, t: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
            context = torch.where(conditional.to(device)[:, None, None], wanted, unwanted)
            return model.unet(latents, t, encoder_hidden_states=context).sample

        def watch(step: int, guess: torch.Tensor) -> None:
            show = step % 5 == 0 and step < p.steps
            preview = pictures.images_of(pictures.decode(model.vae, guess[:1]))[0] if show else None
            job.progress(0.9 * step / p.steps, preview)

        cells = model.unet.config.sample_size
        noise = sampling.initial_noise([job.generator(i) for i in range(p.candidates)],
                                       (model.unet.config.in_channels, cells, cells), device)
        latents = sampling.sample(model.scheduler, sampling.guided(predict, p.guidance), noise, p.steps, p.sampler,
                                  watch)
        drawn = pictures.decode(model.vae, latents).clamp(0, 1)
        scores = _scores(scorer, drawn, text)
    images = pictures.images_of(drawn)
    best = int(np.argmax(scores))
    job.progress(1.0, images[best])
    job.metric("clip_score", scores[best], against="prompt")
    return Candidates([Picture(image, p.prompt, view.azimuth_deg, view.elevation_deg,
                               {"clip_score": score, "seed": job.seed(i), "prompt_as_drawn": text})
                       for i, (image, score) in enumerate(zip(images, scores, strict=True))], scores, best)


def _scores(scorer: Any, drawn: torch.Tensor, text: str) -> list[float]:
    """CLIP's cosine between each picture and the text, in [-1, 1]."""
    clip = scorer.clip
    pixels = pictures.clip_input(drawn, clip.config.vision_config.image_size)
    image = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    ids = prompt.token_ids(scorer.tokenizer, [text], drawn.device)
    words = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    cosine = torch.nn.functional.cosine_similarity(image, words)
    return [round(float(c), 6) for c in cosine]


def _warn(text: str, negative: str, model: Any, job: Job) -> None:
    """Say what of the prompts the models cannot know or see."""
    from engine.toybox.seen import caption_words
    known = {*(model.words or caption_words()), *prompt.EMPTY_WORDS}
    unknown = prompt.unknown_words(f"{text} {negative}", known)
    if unknown:
        job.warn(prompt.unknown_words_warning(unknown))
    for what, words in (("prompt", text), ("negative prompt", negative)):
        lost = prompt.cut_off(model.tokenizer, words)
        if lost:
            job.warn(f"the {what} is longer than the {model.tokenizer.model_max_length} tokens that the model reads; "
                     f"not seen: {lost!r}")
