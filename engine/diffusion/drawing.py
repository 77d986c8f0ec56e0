"""Drawing a picture from words and whatever else is given: a picture to begin from, a part to repaint, maps to follow,
a picture that says what it shall be like. The image stages differ in what they give; the way is this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from engine.diffusion import adapters, control, image_prompt, inpainting, pictures, prompt, sampling
from engine.diffusion.adapters import Adapted
from engine.diffusion.control import Hint
from engine.diffusion.control_maps import Kind
from engine.diffusion.sampling import Sampler
from engine.errors import BadInput
from engine.job import Job
from engine.models import memory


class Drawing(Adapted):
    """What every image stage can be told. Numbers that are None are as the model itself is used."""

    prompt: str = Field(description="What to draw, 1 to 1,000 characters.")
    negative: str = Field("", description="What the picture should not show, at most 1,000 characters.")
    steps: int | None = Field(None, ge=1, le=250, description="Sampling steps from pure noise, 1 to 250.")
    guidance: float | None = Field(None, ge=0, le=30, description="How much the words count, 0 to 30; 0 and 1: no "
                                                                    "classifier-free guidance.")
    sampler: Sampler | None = Field(None, description="own, ddim, dpm, euler, euler_a or lcm.")
    controls: tuple[Kind, ...] = Field((), max_length=8, description="What the maps show, in their order: edges, "
                                       "scribble, depth, normals, pose, parts, segments.")
    control_scales: tuple[float, ...] = Field((), description="How much each map counts, 0 to 2; none: 1 each.")
    control_starts: tuple[float, ...] = Field((), description="From which share of the steps on, 0 to 1; none: 0.")
    control_ends: tuple[float, ...] = Field((), description="Up to which share of the steps, 0 to 1; none: 1.")
    like_scale: float = Field(0.0, ge=0, le=2, description="How much the picture counts that says what it shall be "
                                                           "like, 0 (none is given) to 2; 1 as trained.")
    face_scale: float = Field(0.0, ge=0, le=2, description="How much the given face counts, 0 (none is given) to 2; "
                                                           "1 as trained.")

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: str) -> str:
        return prompt.check(value)

    @field_validator("negative")
    @classmethod
    def _negative(cls, value: str) -> str:
        return prompt.check(value, "the negative prompt") if value.strip() else ""

    @model_validator(mode="after")
    def _one_number_a_map(self) -> Drawing:
        for name, least, most in (("control_scales", 0, 2), ("control_starts", 0, 1), ("control_ends", 0, 1)):
            values = getattr(self, name)
            if values and len(values) != len(self.controls):
                raise ValueError(f"{name} holds {len(values)} numbers for {len(self.controls)} controls")
            if any(not least <= v <= most for v in values):
                raise ValueError(f"{name} must lie between {least} and {most}")
        if len(set(self.controls)) < len(self.controls):
            raise ValueError("each kind of control can be given once")
        for i in range(len(self.controls)):
            if not self.share(i)[0] < self.share(i)[1]:
                raise ValueError("a control must end after it starts")
        return self

    def scale(self, i: int) -> float:
        return self.control_scales[i] if self.control_scales else 1.0

    def share(self, i: int) -> tuple[float, float]:
        """(start, end) of map i, as shares of the steps."""
        return (self.control_starts[i] if self.control_starts else 0.0,
                self.control_ends[i] if self.control_ends else 1.0)


def roles_of(p: Drawing, model: str = "text_to_image") -> tuple[str, ...]:
    """The models that a stage with these parameters asks for. model : role of the one that draws"""
    return (model, *(f"control.{kind}" for kind in p.controls), *(("image_prompt",) if p.like_scale else ()),
            *(("face_prompt",) if p.face_scale else ()))


@dataclass(frozen=True)
class Given:
    """What a drawing has beside its words, all of the drawn picture's size and on any device.

    maps : (1, 3, h, w) in [0, 1], in the order of ``controls``
    like : (1, 3, h, w), over white, any size; what the picture shall be like
    face : (1, 512) identity vector; face_map : (1, 3, h, w), where its points shall stand
    start : (1, 3, h, w) in [0, 1] to begin from; strength : how much of it may change, 0 to 1
    mask : (h, w) bool, what of ``start`` is repainted; None: all of it
    rounds : how often each step of a repainting is taken (``inpainting.repaint``)
    """

    maps: Sequence[Tensor] = field(default_factory=tuple)
    like: Tensor | None = None
    face: Tensor | None = None
    face_map: Tensor | None = None
    start: Tensor | None = None
    strength: float = 1.0
    mask: np.ndarray | None = None
    rounds: int = 1


def draw(model: Any, p: Drawing, job: Job, size: tuple[int, int], given: Given | None = None) -> Tensor:
    """-> one picture (1, 3, h, w), about [0, 1], unclamped.

    model : ``engine.models.families``'s; size : (h, w), pixels, as the model can draw them
    Raises BadInput for sizes, maps, LoRAs and adapters that do not fit the model, and for cascades, which have no
    latents to begin from.
    """
    given = given or Given()
    if model.upscalers:
        raise BadInput(f"{model.name} draws in a cascade of sizes and cannot work on pictures",
                       "give another --models, for instance sd15 or builtin")
    steps = model.defaults.steps if p.steps is None else p.steps
    guidance = model.defaults.guidance if p.guidance is None else p.guidance
    model, on_top = adapters.adapted(model, p)
    warn_of_words(model, p, on_top, job)
    room = memory.work(model, *size, 1, 1 + (guidance > 1))
    if room.said:
        job.warn(room.said)
    generators = [job.generator(0)]
    # Models are loaded outside of inference mode: they are kept for others, who may want gradients through them.
    model, tokens, hints = _adapted(model, p, job, given)
    with torch.inference_mode():
        wanted, unwanted = model.pair(on_top.spelled(p.prompt), on_top.spelled(p.negative), *size)
        noise = sampling.initial_noise(generators, model.shape(*size), model.device)
        start, cells, beside = _begun(model, given, noise)
        rounds = 1 if cells is None else given.rounds
        sampler, settings = _rule(model, p, rounds), model.sampling_settings(noise.shape)
        kept = start if given.strength < 1 else None
        plan = sampling.Steps(sampling.scheduler_for(model.scheduler, sampler), steps, noise.device, settings=settings,
                              first=0 if kept is None else sampling.begun_at(steps, given.strength))
        extras = _extras(control.steered(model, hints, plan.timesteps), tokens, beside)
        denoise = sampling.denoiser(model, wanted, unwanted, guidance, extras=extras, rows=room.rows)
        watch = _watch(model, job, len(plan))
        if start is not None and cells is not None and rounds > 1:
            latents = inpainting.repaint(model.scheduler, denoise, noise, start, cells, steps, rounds, generators,
                                         sampler=sampler, strength=given.strength, watch=watch, settings=settings)
        else:
            after = None if start is None or cells is None else inpainting.keep_known(start, noise, cells)
            latents = sampling.sample(model.scheduler, denoise, noise, steps, sampler, watch, generators=generators,
                                      start=kept, strength=given.strength, after=after, settings=settings)
        return model.decode(latents, room.pictures, room.tiles)


def _begun(model: Any, given: Given, noise: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Clean latents to begin from, cells to blend (None: all are drawn), channels beside the latents; each or None."""
    if given.start is None:
        return None, None, None
    picture = given.start.to(model.device)
    latents = model.encode(picture).to(noise)
    if given.mask is None:
        return latents, None, None
    if inpainting.takes_masks(model):
        return latents, None, inpainting.masked_channels(model, picture, given.mask)
    return latents, inpainting.touched_cells(given.mask, *noise.shape[-2:]).to(noise), None


def _rule(model: Any, p: Drawing, rounds: int) -> Sampler:
    """Repainting in rounds takes its steps itself, as DDIM does, in the levels of the model's schedule."""
    asked: Sampler = model.defaults.sampler if p.sampler is None else p.sampler
    if rounds == 1:
        return asked
    return "own" if sampling.is_flow(model.scheduler) else "ddim"


def _adapted(model: Any, p: Drawing, job: Job, given: Given
             ) -> tuple[Any, list[tuple[Tensor, Tensor]], list[Hint]]:
    """The model with its image prompts in, their tokens, and its controls."""
    found, scales, shown = [], [], []
    if p.like_scale and given.like is not None:
        found.append(job.model("image_prompt"))
        scales.append(p.like_scale)
        shown.append(given.like)
    if p.face_scale and given.face is not None:
        found.append(job.model("face_prompt"))
        scales.append(p.face_scale)
        shown.append(given.face)
    tokens = [image_prompt.tokens(adapter, what.to(model.device))
              for adapter, what in zip(found, shown, strict=True)]
    hints = [Hint(job.model(f"control.{kind}"), image, p.scale(i), *p.share(i))
             for i, (kind, image) in enumerate(zip(p.controls, given.maps, strict=True))]
    if p.face_scale and given.face is not None and given.face_map is not None:
        steering = found[-1].control
        if steering is not None:  # InstantID's own, which sees the face's tokens where others see the text's
            wanted, unwanted = (pair[:, 0] for pair in tokens[-1])
            hints.append(Hint(steering, given.face_map, p.face_scale, tokens=(wanted, unwanted)))
    return (image_prompt.apply(model, found, scales) if found else model), tokens, hints


def _extras(steer: sampling.Extras, tokens: list[tuple[Tensor, Tensor]], beside: Tensor | None) -> sampling.Extras:
    def extras(latents: Tensor, t: Tensor, conditions: Any, conditional: Tensor) -> Mapping[str, Any]:
        told = dict(steer(latents, t, conditions, conditional))
        if tokens:
            told["image_embeds"] = [image_prompt.rows(pair, conditional) for pair in tokens]
        if beside is not None:
            told["beside"] = beside.expand(len(latents), -1, -1, -1)
        return told
    return extras


def _watch(model: Any, job: Job, steps: int) -> Callable[[int, Tensor], None]:
    def watch(step: int, guess: Tensor) -> None:
        show = step % 5 == 0 and step < steps
        job.progress(0.95 * step / max(steps, 1), pictures.images_of(model.preview(guess[:1]))[0] if show else None)
    return watch


def warn_of_words(model: Any, p: Drawing, on_top: adapters.OnTop, job: Job) -> None:
    """Say what of the prompts the model never saw, where that is known, or cannot read, and what drew along."""
    on_top.warn(p.prompt, job)
    if model.words:
        unknown = prompt.unknown_words(f"{p.prompt} {p.negative}", {*model.words, *on_top.words, *prompt.EMPTY_WORDS})
        if unknown:
            job.warn(prompt.unknown_words_warning(unknown))
    for what, words in (("prompt", p.prompt), ("negative prompt", p.negative)):
        lost = prompt.cut_off(model.tokenizer, words) if model.tokenizer is not None else ""
        if lost:
            job.warn(f"the {what} is longer than the {model.tokenizer.model_max_length} tokens that the model reads; "
                     f"not seen: {lost!r}")
