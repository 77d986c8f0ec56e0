"""Drawing a clip of words, and of a picture to begin with: what the stages of AnimateDiff share.

One network sees a window of frames at a time, whatever the clip's length; latents of all frames are small, and frames
are decoded a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from engine.clip_artifacts import Clip
from engine.clips.kept import KeptFrames
from engine.diffusion import adapters, image_prompt, inpainting, motion, pictures, prompt, sampling, sparse_control
from engine.diffusion.adapters import Adapted
from engine.diffusion.motion_windows import in_phase, rescheduled, windows
from engine.errors import BadInput
from engine.job import Job
from engine.models import memory
from engine.runs.words import unknown

MOST_FRAMES = 10_000
DECODED_AT_ONCE = 8


class ClipDrawing(Adapted):
    """What every stage that draws clips can be told. Numbers that are None are as the motion model itself is used."""

    prompt: str = Field(description="What to show, 1 to 1,000 characters.")
    negative: str = Field("", description="What the frames should not show, at most 1,000 characters.")
    motion: str = Field("", description="A motion by name (walk, wave, ...), said behind the prompt in the words that "
                                        "the model knows; empty: as the prompt says.")
    frames: int = Field(16, ge=1, le=MOST_FRAMES, description="How many frames, 1 to 10,000.")
    fps: float = Field(12.0, gt=0, le=240, description="Frames a second, more than 0, at most 240.")
    loop: bool = Field(False, description="The last frame is followed by the first.")
    steps: int | None = Field(None, ge=1, le=250, description="Sampling steps from pure noise, 1 to 250; none: the "
                                                              "model's own number, times pace.")
    pace: float = Field(1.0, gt=0, le=4, description="How many of the model's own number of steps are taken, as a "
                                                     "share; more than 0, at most 4.")
    guidance: float | None = Field(None, ge=0, le=30, description="How much the words count, 0 to 30; 0 and 1: no "
                                                                    "classifier-free guidance.")
    sampler: sampling.Sampler | None = Field(None, description="own, ddim, dpm, euler, euler_a or lcm.")
    window: int | None = Field(None, ge=1, le=128, description="Frames that go through the network at once, 1 to 128; "
                                                               "none: as many as the motion model was trained with.")
    overlap: int | None = Field(None, ge=0, le=127, description="Frames that neighbouring windows share, fewer than "
                                                                "the window.")
    noise: Literal["own", "free"] = Field("own", description="Of clips longer than a window. own: each frame has its "
                                          "own; free: the first window's in other orders (FreeNoise), which keeps "
                                          "what is far apart alike.")
    motion_lora: bool = Field(False, description="Move by the set's motion LoRA too (role motion_lora).")
    motion_lora_scale: float = Field(1.0, ge=-2, le=2, description="How much it counts, -2 to 2; 1 as trained, below 0 "
                                                                   "the other way round.")
    adapter_scale: float = Field(1.0, ge=0, le=2, description="How much the motion's domain adapter counts, 0 (left "
                                                              "out) to 2; 1 as trained.")

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: str) -> str:
        return prompt.check(value)

    @field_validator("negative")
    @classmethod
    def _negative(cls, value: str) -> str:
        return prompt.check(value, "the negative prompt") if value.strip() else ""

    @model_validator(mode="after")
    def _windows(self) -> ClipDrawing:
        if self.window is not None and self.overlap is not None and self.overlap >= self.window:
            raise ValueError(f"an overlap of {self.overlap} frames is no less than the window of {self.window}")
        return self


def roles_of(p: ClipDrawing) -> tuple[str, ...]:
    """The models that a stage with these parameters asks for."""
    return ("text_to_image", "motion", *(("motion_lora",) if p.motion_lora else ()))


@dataclass(frozen=True)
class Beginning:
    """The picture that a clip begins with.

    picture : (1, 3, h, w) in [0, 1], of the drawn size
    hold : "blend": the first frame's latents are the picture's at every level of noise, and the network sees them
        beside the others'; "sparse": SparseCtrl is shown it, and the first frame is drawn as the others are
    strength : below 1 every frame begins from the picture's latents, noised that far
    like_scale : how much the picture counts as an image prompt; 0: it is none
    """

    picture: Tensor
    hold: Literal["blend", "sparse"] = "blend"
    strength: float = 1.0
    like_scale: float = 0.0
    sparse_scale: float = 1.0


def draw_clip(p: ClipDrawing, job: Job, size: tuple[int, int] | None = None, begin: Beginning | None = None,
              take: Callable[[np.ndarray], np.ndarray] = lambda frame: frame) -> Clip:
    """Draw a clip; every frame opaque. Of all frames only latents are held; pictures are written as they come, and a
    stopped run finds those again that it had written.

    size : (h, w), pixels; None: the model's own; take : what of each drawn picture (h, w, 3) is kept
    Metrics: ``frame_step``, the mean difference of neighbouring frames in 0..1, and for a loop ``seam_step``, that of
    its last and first. Raises BadInput for what does not fit together, before anything is drawn.
    """
    base, mover = job.model("text_to_image"), job.model("motion")
    extra = job.model("motion_lora") if p.motion_lora else None
    if base.upscalers:
        raise BadInput(f"{base.name} draws in a cascade of sizes and cannot be moved", "give another --models")
    text = said(p, mover, extra)
    window, overlap = window_of(p, mover)
    model, on_top = adapters.adapted(base, p)
    tokens: list[tuple[Tensor, Tensor]] = []
    if begin is not None and begin.like_scale:
        adapter = job.model("image_prompt")
        tokens = [image_prompt.tokens(adapter, begin.picture.to(model.device))]
        model = image_prompt.apply(model, [adapter], [begin.like_scale])
    steering = job.model("sparse_control") if begin is not None and begin.hold == "sparse" else None
    model = motion.assembled(model, mover, p.adapter_scale, extra, p.motion_lora_scale)
    warn_of_words(model, mover, p, text, on_top, job)

    height, width = size or (model.size, model.size)
    own = mover.defaults
    steps = p.steps or max(1, round(own.steps * p.pace))
    guidance = own.guidance if p.guidance is None else p.guidance
    together = min(window, p.frames)
    room = memory.work(model, height, width, together, 1 + (guidance > 1))
    if room.rows is not None and room.rows < together:
        raise BadInput(f"{together} frames of {width} x {height} pixels do not fit into the memory of {model.device} "
                       f"at once; {room.rows} do", f"give window={max(1, room.rows)}, or a smaller size")
    with torch.inference_mode():
        shape = model.shape(height, width)
        noise = noise_of(job.generator(0), p.frames, shape, window, overlap, mover.noise_shared, p.noise
                         ).to(model.device)
        wanted, unwanted = model.pair(on_top.spelled(text), on_top.spelled(p.negative), height, width)
        start, after, more = _begun(model, begin, steering, noise, p.frames)
        denoise = motion.denoiser(model, wanted, unwanted, guidance, together=room.rows is None, more=more,
                                  image_embeds=tokens)
        latents = motion.sample(
            model.scheduler, denoise, noise, steps, p.sampler or own.sampler,
            lambda step: in_phase(windows(p.frames, window, overlap, p.loop, step), mover.period),
            settings=model.sampling_settings(shape), draw=_drawn_at(job.seed(0)), start=start,
            strength=1.0 if begin is None else begin.strength, after=after, watch=_watch(model, job),
            state=job.resume(), keep=job.checkpoint)
        kept, look = KeptFrames(job, p.frames), Look(p.loop)
        for i, frame in enumerate(kept.all(lambda missing: decoded(model, latents, missing, room, take))):
            look.add(frame[..., :3])
            job.progress(0.9 + 0.1 * (i + 1) / p.frames)
    counted = len(windows(p.frames, window, overlap, p.loop))
    look.tell(job)
    return Clip(kept.frames(), p.fps, p.loop, {
        "method": "AnimateDiff", "prompt_as_drawn": text, "negative": p.negative, "seed": job.seed(0),
        "drawn_by": base.family, "motion_model": mover.name, "windows": counted, "window": together,
        **({"motion_lora": {"name": extra.name, "scale": p.motion_lora_scale}} if extra is not None else {}),
        **on_top.papers})


def said(p: ClipDrawing, mover: Any, extra: Any = None) -> str:
    """The prompt with its motion's words. Raises BadInput that names the nearest for a motion that nobody taught."""
    if not p.motion:
        return p.prompt
    known = [*mover.motions, *([extra.motion] if extra is not None and extra.motion else [])]
    name = p.motion.strip().lower()
    if mover.motions and name not in known:
        raise unknown("motion", p.motion, known)
    word = name
    if mover.family == "builtin":
        from engine.toybox.motions import MOTION_WORDS
        word = MOTION_WORDS.get(name, name)
    return p.prompt if word in prompt.words(p.prompt) else f"{p.prompt}, {word}"


def window_of(p: ClipDrawing, mover: Any) -> tuple[int, int]:
    """(window, overlap) in frames. Raises BadInput for windows that the motion modules cannot number."""
    window = mover.window if p.window is None else p.window
    overlap = min(mover.overlap, window - 1) if p.overlap is None else p.overlap
    if overlap >= window:
        raise BadInput(f"an overlap of {overlap} frames is no less than {mover.name}'s window of {window}",
                       f"give overlap={mover.overlap}")
    if min(window, p.frames) > mover.longest:
        raise BadInput(f"{mover.name} numbers {mover.longest} frames at most, not a window of {window}",
                       f"give window={mover.window}: longer clips are drawn in windows that overlap")
    return window, overlap


def noise_of(generator: torch.Generator, frames: int, shape: Sequence[int], window: int, overlap: int, shared: float,
             kind: str = "own") -> Tensor:
    """Unit noise of a clip, (frames, c, h, w), drawn on the CPU. The beginning of a longer clip has the same numbers.

    shared : share of the variance that all frames have in common; kind : see ``ClipDrawing.noise``
    """
    common = torch.randn(1, *shape, generator=generator) if shared else None
    if kind == "free" and frames > window:
        own = rescheduled(torch.randn(window, *shape, generator=generator), frames, window, overlap, generator)
    else:
        own = torch.randn(frames, *shape, generator=generator)
    return own if common is None else motion.mixed_noise(own, common, shared)


def _begun(model: Any, begin: Beginning | None, steering: Any, noise: Tensor, frames: int
           ) -> tuple[Tensor | None, Callable[[sampling.Steps, int, Tensor], Tensor] | None, motion.More | None]:
    """(clean latents that all frames begin from, what holds the first frame, what SparseCtrl says); each or None."""
    if begin is None:
        return None, None, None
    picture = begin.picture.to(model.device)
    known = model.encode(picture).to(noise).expand(frames, -1, -1, -1)
    start = known if begin.strength < 1 else None
    if steering is not None:
        shown = sparse_control.shown_to(model, steering, picture)
        return start, None, sparse_control.steered(steering, shown, (0,), begin.sparse_scale)
    cells = torch.ones(frames, 1, 1, 1, dtype=noise.dtype, device=noise.device)
    cells[0] = 0
    return start, inpainting.keep_known(known, noise, cells), None


def _drawn_at(seed: int) -> Callable[[int], torch.Generator]:
    return lambda step: torch.Generator().manual_seed((seed + 1 + step) % (1 << 63))


def _watch(model: Any, job: Job) -> Callable[[int, int, Tensor], None]:
    def watch(done: int, count: int, guess: Tensor) -> None:
        show = done % max(5, -(-count // 3)) == 0 and done < count
        job.progress(0.9 * done / count, pictures.images_of(model.preview(guess[:1]))[0] if show else None)
    return watch


def decoded(model: Any, latents: Tensor, numbers: Sequence[int], room: memory.Arrangement,
            take: Callable[[np.ndarray], np.ndarray] = lambda frame: frame) -> Iterator[np.ndarray]:
    """The frames of these numbers one by one, (h, w, 4) float32, opaque; a few go through the decoder together.

    latents : (f, c, h, w) of all frames; take : what of a drawn picture (h, w, 3) is kept
    """
    at_once = min(DECODED_AT_ONCE, room.pictures or DECODED_AT_ONCE)
    for i in range(0, len(numbers), at_once):
        for picture in pictures.images_of(model.decode(latents[list(numbers[i:i + at_once])], at_once, room.tiles)):
            frame = take(picture)
            yield np.concatenate([frame, np.ones_like(frame[..., :1])], -1)


class Look:
    """How much moves, and how well a loop closes: shown the frames (h, w, 3) one by one."""

    def __init__(self, loop: bool) -> None:
        self.loop = loop
        self.first: np.ndarray | None = None
        self._before: np.ndarray | None = None
        self._steps: list[float] = []

    def add(self, frame: np.ndarray) -> None:
        if self._before is None:
            self.first = frame
        else:
            self._steps.append(float(np.abs(frame - self._before).mean()))
        self._before = frame

    def tell(self, job: Job) -> None:
        if self._steps and self.first is not None and self._before is not None:
            job.metric("frame_step", float(np.mean(self._steps)), against="the frame before, 0 to 1")
            if self.loop:
                job.metric("seam_step", float(np.abs(self.first - self._before).mean()),
                           against="the last frame, 0 to 1")


def warn_of_words(model: Any, mover: Any, p: ClipDrawing, text: str, on_top: adapters.OnTop, job: Job) -> None:
    """Say what of the prompts the models never saw or cannot read, and what drew along."""
    for note in model.notes:
        job.warn(note)
    on_top.warn(text, job)
    if p.loop and mover.period and p.frames % mover.period:
        job.warn(f"{mover.name} knows motions of {mover.period} frames: a loop of {p.frames} does not close as well as "
                 f"one of {max(1, round(p.frames / mover.period)) * mover.period}")
    if model.words or mover.domain_words:
        taught = mover.domain_words if p.adapter_scale else ()
        known = {*model.words, *taught, *on_top.words, *prompt.EMPTY_WORDS, *prompt.words(p.motion)}
        if missing := prompt.unknown_words(f"{text} {p.negative}", known):
            job.warn(prompt.unknown_words_warning(missing))
    for what, words in (("prompt", text), ("negative prompt", p.negative)):
        lost, read = model.unseen(words)
        if lost:
            job.warn(f"the {what} is longer than the {read} tokens that the model reads; not seen: {lost!r}")
