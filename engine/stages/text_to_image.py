"""Prompt -> candidate pictures, scored by CLIP. One stage draws with every family of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator

from engine.artifacts import Candidates, Picture
from engine.diffusion import adapters, pictures, prompt, sampling, upscaling
from engine.diffusion.adapters import Adapted, OnTop
from engine.job import Job, stage
from engine.models import memory


class TextToImage(Adapted):
    """Parameters of ``text_to_image``. Numbers that are None are as the model itself is used."""

    prompt: str = Field(description="What to make, 1 to 1,000 characters.")
    negative: str = Field("", description="What the pictures should not show, at most 1,000 characters.")
    view: str = Field("front view", description="View words for a prompt that says none; empty: leave it as it is.")
    candidates: int = Field(4, ge=1, le=32, description="How many pictures to draw, 1 to 32.")
    width: int | None = Field(None, ge=64, le=2048, description="Of the pictures, 64 to 2,048 pixels, divisible by 8 "
                                                                "(by 16 for transformers); none: the model's own.")
    height: int | None = Field(None, ge=64, le=2048, description="Of the pictures, as width.")
    steps: int | None = Field(None, ge=1, le=250, description="Sampling steps, 1 to 250; none: the model's own number, "
                                                              "times pace.")
    pace: float = Field(1.0, gt=0, le=4, description="How many of the model's own number of steps are taken, as a "
                                                     "share; more than 0, at most 4.")
    guidance: float | None = Field(None, ge=0, le=30, description="Classifier-free guidance, 0 to 30 (0 and 1: none); "
                                                                  "none: the model's own.")
    sampler: sampling.Sampler | None = Field(None, description="Update rule: ddim, dpm (DPM-Solver++ 2M), euler, "
                                             "euler_a, lcm, or own: the model's as published; none: what suits it.")

    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"candidates": 2, "pace": 0.6},
                                                    "high": {"candidates": 8, "pace": 2.0}}

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: str) -> str:
        return prompt.check(value)

    @field_validator("negative")
    @classmethod
    def _negative(cls, value: str) -> str:
        return prompt.check(value, "the negative prompt") if value.strip() else ""

    @field_validator("width", "height")
    @classmethod
    def _eights(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError(f"{value} pixels are not divisible by 8; {value // 8 * 8} and {value // 8 * 8 + 8} are")
        return value


@stage(version=1, roles=("text_to_image", "image_text"))
def text_to_image(p: TextToImage, job: Job) -> Candidates:
    """Draw ``p.candidates`` pictures of the prompt; the one that CLIP finds nearest to it is the best.

    Raises BadInput for prompts out of limits and files that are no LoRA (with the parameters, before anything runs),
    for missing weights, for sizes that the model cannot draw, and for a LoRA of another base or family.
    """
    model, scorer = job.model("text_to_image"), job.model("image_text")
    model, on_top = adapters.adapted(model, p)
    view = prompt.view_of(p.prompt)
    text = p.prompt if view.said or not p.view else f"{p.prompt}, {p.view}"
    view = prompt.view_of(text)
    tell_unknown(text, p.negative, model, on_top, job)
    drawn = draw(model, p, job, on_top.spelled(text), on_top.spelled(p.negative)).clamp(0, 1)
    with torch.inference_mode():
        scores = _scores(scorer, drawn, text)
    images = pictures.images_of(drawn)
    best = int(np.argmax(scores))
    job.progress(1.0, images[best])
    job.metric("clip_score", scores[best], against="prompt")
    return Candidates([Picture(image, p.prompt, view.azimuth_deg, view.elevation_deg,
                               {"clip_score": score, "seed": job.seed(i), "prompt_as_drawn": text, **on_top.papers})
                       for i, (image, score) in enumerate(zip(images, scores, strict=True))], scores, best)


def draw(model: Any, p: TextToImage, job: Job, text: str, negative: str) -> torch.Tensor:
    """-> (candidates, 3, h, w) in about [0, 1], unclamped: sampled, decoded, and enlarged where it is a cascade.

    One generator a candidate, for its noise and for all that its sampler draws later: no batch changes a picture.
    """
    own = model.defaults
    steps = p.steps or max(1, round(own.steps * p.pace))
    guidance = own.guidance if p.guidance is None else p.guidance
    shape = model.shape(p.height, p.width)
    room = memory.work(model, p.height or model.size, p.width or model.size, p.candidates,
                       1 + (guidance > 1))
    if room.said:
        job.warn(room.said)
    share = 1 / (1 + len(model.upscalers))
    with torch.inference_mode():
        # The unconditional half is guided away from: the empty prompt, or what the user does not want.
        wanted, unwanted = model.pair(text, negative, p.height, p.width)
        generators = [job.generator(i) for i in range(p.candidates)]
        noise = sampling.initial_noise(generators, shape, model.device)
        denoise = sampling.denoiser(model, wanted, unwanted, guidance, rows=room.rows)
        latents = sampling.sample(model.scheduler, denoise, noise, steps, p.sampler or own.sampler,
                                  _watch(model, job, steps, 0.0, share), generators=generators,
                                  settings=model.sampling_settings(shape))
        drawn = model.decode(latents, room.pictures, room.tiles)
        for i, upscaler in enumerate(model.upscalers, start=1):
            if upscaler.text_encoder is not model.text_encoder:
                wanted, unwanted = upscaler.pair(text, negative)
            taken = max(1, round(upscaler.defaults.steps * p.pace))
            drawn = upscaling.enlarge(upscaler, drawn, wanted, unwanted, generators, steps=taken, rows=room.rows,
                                      watch=_watch(upscaler, job, taken, i * share, share))
    return drawn


def _watch(model: Any, job: Job, steps: int, begun: float, share: float) -> Callable[[int, torch.Tensor], None]:
    """Progress with, now and then, a small picture of the first candidate: at most a few, so that looking is cheap."""
    often = max(5, -(-steps // 3))

    def watch(step: int, guess: torch.Tensor) -> None:
        show = step % often == 0 and step < steps
        job.progress(0.9 * (begun + share * step / steps),
                     pictures.images_of(model.preview(guess[:1]))[0] if show else None)
    return watch


def _scores(scorer: Any, drawn: torch.Tensor, text: str) -> list[float]:
    """CLIP's cosine between each picture and the text, in [-1, 1]."""
    clip = scorer.clip
    like = next(clip.parameters())
    pixels = pictures.clip_input(drawn.to(like), clip.config.vision_config.image_size)
    image = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    ids = prompt.token_ids(scorer.tokenizer, [text], like.device)
    words = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    cosine = torch.nn.functional.cosine_similarity(image, words)
    return [round(float(c), 6) for c in cosine]


def tell_unknown(text: str, negative: str, model: Any, on_top: OnTop, job: Job) -> None:
    """Say what of the prompts the model cannot know or see, how it was loaded, and what drew beside it."""
    from engine.toybox.seen import caption_words
    for note in model.notes:
        job.warn(note)
    on_top.warn(text, job)
    if not model.open_vocabulary:
        known = {*(model.words or caption_words()), *prompt.EMPTY_WORDS, *on_top.words}
        unknown = prompt.unknown_words(f"{text} {negative}", known)
        if unknown:
            job.warn(prompt.unknown_words_warning(unknown))
    for what, words in (("prompt", text), ("negative prompt", negative)):
        lost, read = model.unseen(words)
        if lost:
            job.warn(f"the {what} is longer than the {read} tokens that the model reads; not seen: {lost!r}")
