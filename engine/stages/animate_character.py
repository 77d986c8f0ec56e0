"""A figure and poses -> the figure in these poses, frame by frame (AnimateAnyone, Hu et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from engine.artifacts import Picture, over_white
from engine.clip_artifacts import Clip, Poses
from engine.clips.kept import KeptFrames
from engine.clips.measure import keypoint_error
from engine.diffusion import framing, pictures
from engine.errors import BadInput
from engine.job import Job, Params, stage

MOST_FRAMES = 10_000
LOOKED = 16
"""Frames that the pose estimator is shown at once."""


class AnimateCharacter(Params):
    """Parameters of ``animate_character``. Numbers that are None are as the model itself is used."""

    steps: int | None = Field(None, ge=1, le=250, description="Sampling steps, 1 to 250; none: the model's own number, "
                                                              "times pace.")
    pace: float = Field(1.0, gt=0, le=4, description="How many of the model's own number of steps are taken, as a "
                                                     "share; more than 0, at most 4.")
    guidance: float | None = Field(None, ge=0, le=30, description="Of the reference picture, 0 to 30 (0 and 1: none); "
                                                                  "none: the model's own.")
    size: int | None = Field(None, ge=64, le=1024, multiple_of=8, description="Side of the frames, 64 to 1,024 pixels, "
                                                                              "divisible by 8; none: the model's own.")
    window: int | None = Field(None, ge=1, le=64, description="Frames that the network sees together, 1 to 64; none: "
                                                              "the model's own.")
    overlap: int | None = Field(None, ge=0, le=63, description="Frames that neighbouring windows share; none: the "
                                                               "model's own.")
    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"pace": 0.5}, "high": {"pace": 2.0}}


@stage(version=2, roles=("reference_animation", "pose_estimation"))
def animate_character(picture: Picture, poses: Poses, p: AnimateCharacter, job: Job) -> Clip:
    """Draw the figure of ``picture`` (as ``frame_character`` frames it) in every pose (as ``retarget_poses`` puts them
    on it). Opaque frames, over white.

    Skeletons are drawn a window at a time and frames decoded and written one by one, so that memory is that of the
    latents whatever the length. Latents are kept at each minute and frames as they come: a stopped run goes on from its
    last denoising step, or its last frame.

    Metric ``keypoint_error``: how far the drawn figure's joints, as the set's pose estimator finds them, are from the
    poses. Raises BadInput: more than 10,000 frames, sizes that make no latents.
    """
    from engine.clips.poses.drawing import Skeletons
    from engine.clips.poses.framing import fit
    from engine.diffusion.reference_animation import decoded, denoised, windows
    model = job.model("reference_animation")
    if len(poses) > MOST_FRAMES:
        raise BadInput(f"the clip has {len(poses):,} frames; {MOST_FRAMES:,} is the most", "make it in several parts")
    size = p.size or model.size
    moved = fit(poses, (size, size))
    for said in moved.meta.get("warnings", [])[len(poses.meta.get("warnings", [])):]:
        job.warn(said)  # what reading the poses had to say was said there
    figure = pictures.tensor_of(_shown(picture, size)[None])[0]
    drawn = Skeletons(moved)
    steps = p.steps or max(1, round(model.steps * p.pace))
    factor = 2 ** (len(model.vae.config.block_out_channels) - 1)
    shape = (int(model.vae.config.latent_channels), size // factor, size // factor)

    def noise(frame: int) -> torch.Tensor:
        return torch.randn(shape, generator=job.generator(frame))

    latents = denoised(model, figure, drawn, steps=steps,
                       guidance=model.guidance if p.guidance is None else p.guidance, noise=noise, loop=poses.loop,
                       window=p.window, overlap=p.overlap, progress=lambda part: job.progress(0.85 * part),
                       state=job.resume(), keep=_keeper(model, steps, job))
    look, kept = _Look(job, moved, float(picture.meta.get("figure_height", 0.75)) * size), KeptFrames(job, len(poses))

    def made(missing: list[int]) -> Iterator[np.ndarray]:
        for frame in decoded(model, latents[missing]):
            yield np.concatenate([frame.permute(1, 2, 0).numpy(), np.ones((size, size, 1), np.float32)], -1)

    for i, frame in enumerate(kept.all(made)):
        look.add(frame[..., :3])
        job.progress(0.85 + 0.15 * (i + 1) / len(poses), frame[..., :3] if i % 4 == 0 else None)
    look.tell()
    parts = windows(len(poses), p.window or model.window, model.overlap if p.overlap is None else p.overlap, poses.loop)
    job.metric("windows", len(parts), "", f"of up to {p.window or model.window} frames, {steps} steps")
    return Clip(kept.frames(), poses.fps, poses.loop, {
        "method": "reference animation", "drawn_by": model.family, "motion": poses.meta.get("source", ""),
        "windows": len(parts)})


def _shown(picture: Picture, size: int) -> np.ndarray:
    """The figure over white, (size, size, 3)."""
    image = picture.image
    if image.shape[-1] == 3:
        image = np.concatenate([image, np.ones_like(image[..., :1])], -1)
    height, width = image.shape[:2]
    side = max(height, width)
    square = framing.Square((width - side) / 2, (height - side) / 2, side)
    return over_white(framing.crop_square(image, square, size))


def _keeper(model: Any, steps: int, job: Job) -> Callable[[dict[str, Any]], None]:
    """After each step: the state for a checkpoint, and now and then a look at the first frame."""
    often = max(2, -(-steps // 5))

    def keep(state: dict[str, Any]) -> None:
        job.checkpoint(lambda: state)
        step = int(state["step"])
        if step % often == 0 and step < steps:
            from engine.diffusion.reference_animation import decoded
            frame = next(iter(decoded(model, state["latents"][:1])))
            job.progress(0.85 * step / steps, frame.permute(1, 2, 0).numpy())
    return keep


class _Look:
    """The drawn figure's joints against the poses', a few frames at a time."""

    def __init__(self, job: Job, poses: Poses, height: float) -> None:
        self.job, self.poses, self.height = job, poses, height
        self.estimate = job.model("pose_estimation")
        self._waiting: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    def add(self, image: np.ndarray) -> None:
        self._waiting.append(image)
        if len(self._waiting) == LOOKED:
            self._empty()

    def _empty(self) -> None:
        if self._waiting:
            seen = self.estimate(self._waiting)
            self._found.append(np.where((seen.people > 0)[:, None, None], seen.joints, np.nan))
            self._waiting = []

    def tell(self) -> None:
        self._empty()
        found = np.concatenate(self._found)
        lost = int((~np.isfinite(found).all(-1).any(-1)).sum())
        self.job.metric("keypoint_error", keypoint_error(found, self.poses.joints, self.height), "%",
                        "of the figure's height, against the poses")
        if lost:
            self.job.warn(f"in {lost} of {len(found)} frames the pose estimator finds no figure")

