"""Prompt -> candidate pictures, scored by CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from engine.artifacts import Candidates, Picture
from engine.diffusion import lora, lora_files, pictures, prompt, sampling
from engine.diffusion.lora import Lora
from engine.errors import BadInput
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
    lora: str = Field("", exclude=True, description="A LoRA's .safetensors file, as `maquette train lora` writes it; "
                                                    "its digest stands for it in keys.")
    lora_digest: str = Field("", description="SHA-256 of the LoRA's file; taken from the file where it is not given.")
    lora_scale: float = Field(1.0, ge=-2, le=2, description="How much the LoRA counts, -2 to 2; 1 as trained.")

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

    @model_validator(mode="before")
    @classmethod
    def _digest(cls, values: Any) -> Any:
        """The LoRA's file is known, and found to be one, before anything runs."""
        if not isinstance(values, Mapping):
            return values
        file, known = values.get("lora"), values.get("lora_digest")
        if not file and (known or values.get("lora_scale", 1) != 1):
            raise ValueError("lora_digest and lora_scale have no meaning without lora")
        if isinstance(file, str) and file and not known:
            return {**values, "lora_digest": lora_files.digest(file)}
        return values

    @model_serializer(mode="wrap")
    def _without_absent_lora(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a LoRA its parameters are no part of keys: those of before there were any stay valid."""
        values: dict[str, Any] = handler(self)
        if not self.lora:
            del values["lora_digest"], values["lora_scale"]
        return values


@stage(version=1, roles=("text_to_image", "image_text"))
def text_to_image(p: TextToImage, job: Job) -> Candidates:
    """Draw ``p.candidates`` pictures of the prompt; the one that CLIP finds nearest to it is the best.

    Raises BadInput for prompts out of limits and files that are no LoRA (with the parameters, before anything runs),
    for missing weights, and for a LoRA of another base or family.
    """
    model, scorer = job.model("text_to_image"), job.model("image_text")
    view = prompt.view_of(p.prompt)
    text = p.prompt if view.said or not p.view else f"{p.prompt}, {p.view}"
    view = prompt.view_of(text)
    learned = _lora(p)
    # On a twin: the network itself is shared with other stages, and a LoRA is of this one alone.
    if learned is not None:
        model = model.changed(unet=lora.apply(lora.twin(model.unet), learned, p.lora_scale))
    _warn(text, p.negative, model, learned, job)

    with torch.inference_mode():
        # The unconditional half is guided away from: the empty prompt, or what the user does not want.
        wanted, unwanted = model.pair(text, p.negative)

        def watch(step: int, guess: torch.Tensor) -> None:
            show = step % 5 == 0 and step < p.steps
            job.progress(0.9 * step / p.steps, pictures.images_of(model.preview(guess[:1]))[0] if show else None)

        generators = [job.generator(i) for i in range(p.candidates)]
        noise = sampling.initial_noise(generators, model.shape(), job.device)
        latents = sampling.sample(model.scheduler, sampling.denoiser(model, wanted, unwanted, p.guidance), noise,
                                  p.steps, p.sampler, watch, generators=generators)
        drawn = model.decode(latents).clamp(0, 1)
        scores = _scores(scorer, drawn, text)
    images = pictures.images_of(drawn)
    best = int(np.argmax(scores))
    job.progress(1.0, images[best])
    job.metric("clip_score", scores[best], against="prompt")
    papers = {} if learned is None else {"lora": {"sha256": p.lora_digest, "scale": p.lora_scale, **learned.card}}
    return Candidates([Picture(image, p.prompt, view.azimuth_deg, view.elevation_deg,
                               {"clip_score": score, "seed": job.seed(i), "prompt_as_drawn": text, **papers})
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


def _lora(p: TextToImage) -> Lora | None:
    """The LoRA that the parameters name, as it was when they were resolved; None where they name none."""
    if not p.lora:
        return None
    found = lora_files.digest(p.lora)
    if found != p.lora_digest:
        raise BadInput(f"{p.lora} changed since the run was planned: sha256 expected {p.lora_digest}, found {found}",
                       "start again")
    return lora_files.read(Path(p.lora))


def _warn(text: str, negative: str, model: Any, learned: Lora | None, job: Job) -> None:
    """Say what of the prompts the models cannot know or see, and what drew beside them."""
    from engine.toybox.seen import caption_words
    known = {*(model.words or caption_words()), *prompt.EMPTY_WORDS}
    if learned is not None:
        known |= set(prompt.words(learned.token))
        papers = f"licence {learned.card.get('licence') or 'unknown'}" if learned.card else "no papers: licence unknown"
        job.warn(f"drawn with the LoRA {learned.name} ({papers})")
        if learned.left_out:
            job.warn(f"{learned.name} also changes {', '.join(learned.left_out)}; only its U-Net part is used")
        if learned.token and learned.token not in prompt.words(text):
            job.warn(f"the prompt does not hold {learned.token!r}, the word that {learned.name} was taught")
    unknown = prompt.unknown_words(f"{text} {negative}", known)
    if unknown:
        job.warn(prompt.unknown_words_warning(unknown))
    for what, words in (("prompt", text), ("negative prompt", negative)):
        lost = prompt.cut_off(model.tokenizer, words)
        if lost:
            job.warn(f"the {what} is longer than the {model.tokenizer.model_max_length} tokens that the model reads; "
                     f"not seen: {lost!r}")
