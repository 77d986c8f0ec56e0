"""Doubles for the tests of clips: models that need no weights, and a small network with random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mesh_helpers import Notes
from PIL import Image
from torch import Tensor, nn

from engine.artifacts import Picture
from engine.clip_artifacts import Poses
from engine.clips.poses.estimate import Estimated

STANDING = np.array([  # OpenPose's 18 of a standing figure, in shares of its box
    (.5, .22), (.5, .35), (.3, .36), (.22, .5), (.2, .62), (.7, .36), (.78, .5), (.8, .62), (.38, .62), (.38, .78),
    (.38, .95), (.62, .62), (.62, .78), (.62, .95), (.45, .18), (.55, .18), (.38, .2), (.62, .2)], np.float32)


class Joints:
    """A pose estimator that sees a standing figure in whatever is higher than wide on white, and nothing else."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pictures: Any, person: int | None = None) -> Estimated:
        self.asked += len(pictures)
        joints, sure = np.full((len(pictures), 18, 2), np.nan, np.float32), np.zeros((len(pictures), 18), np.float32)
        people = np.zeros(len(pictures), int)
        for i, picture in enumerate(pictures):
            rows, columns = np.nonzero(picture.min(-1) < 0.9)
            if len(rows) and np.ptp(rows) > 1.2 * np.ptp(columns):
                low, size = (columns.min(), rows.min()), (np.ptp(columns) + 1, np.ptp(rows) + 1)
                joints[i], sure[i], people[i] = STANDING * size + low, 0.9, 1
        return Estimated(joints, sure, people)

    name = "the double"


class Puppet(SimpleNamespace):
    """A reference animation that paints the reference's mean colour where the skeleton is; see ``puppets``."""


def puppet() -> Puppet:
    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1,) * 4, latent_channels=4))
    return Puppet(vae=vae, size=64, window=8, overlap=2, steps=4, guidance=2.0, done=[], family="builtin")


def puppets(monkeypatch: Any) -> None:
    """Put doubles in the place of AnimateAnyone's denoising and decoding."""
    def denoised(model: Puppet, reference: Tensor, poses: Tensor, *, steps: int, guidance: float,
                 noise: Callable[[int], Tensor], loop: bool = False, window: int | None = None,
                 overlap: int | None = None, progress: Callable[[float], None], state: dict[str, Any] | None,
                 keep: Callable[[dict[str, Any]], None]) -> Tensor:
        model.poses, model.loop = poses, loop
        model.colour = reference.flatten(1)[:, reference.mean(0).flatten() < 0.9].mean(1)
        latents = torch.stack([noise(i) for i in range(len(poses))]) if state is None else state["latents"]
        for step in range(0 if state is None else state["step"], steps):
            model.done.append(step)
            latents = latents + 1
            progress((step + 1) / steps)
            keep({"step": step + 1, "latents": latents})
        return latents

    def decoded(model: Puppet, latents: Tensor) -> Iterator[Tensor]:
        for drawing in model.poses[:len(latents)]:
            there = (drawing.amax(0, keepdim=True) > 0.1).float()
            yield there * model.colour[:, None, None] + 1 - there

    monkeypatch.setattr("engine.diffusion.reference_animation.denoised", denoised)
    monkeypatch.setattr("engine.diffusion.reference_animation.decoded", decoded)


def matting() -> SimpleNamespace:
    """A matting network that takes everything that is not nearly white for covered."""
    def unet(x: Tensor, t: int) -> SimpleNamespace:
        return SimpleNamespace(sample=80 * ((1 - x).amax(1, keepdim=True) / 2 - 0.3))
    return SimpleNamespace(unet=unet, size=64, drawn=unet)


class Set:
    """A model set of doubles. models : role -> what a stage gets"""

    name = "doubles"

    def __init__(self, **models: Any) -> None:
        self.models = {"pose_estimation": Joints(), "reference_animation": puppet(), "matting": matting(),
                       "image_text": SimpleNamespace(known=None), **models}

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.models)

    def digest(self, role: str) -> str:
        return f"{role}-1"

    def info(self, role: str) -> Any:
        return {"role": role, "id": f"doubles/{role}", "revision": "1", "sha256": self.digest(role),
                "licence": "Apache-2.0", "commercial": "yes"}

    def load(self, role: str, device: str) -> Any:
        return self.models[role]


class Job(Notes):
    """Notes with models, a seed a frame, and checkpoints in memory. stop_at : raise at the n-th checkpoint"""

    def __init__(self, models: Set, kept: dict[str, Any] | None = None, stop_at: int = 0) -> None:
        super().__init__()
        self.models, self.kept, self.stop_at, self.count = models, kept, stop_at, 0
        self.previews: list[tuple[float, np.ndarray]] = []

    def model(self, role: str) -> Any:
        return self.models.load(role, "cpu")

    def generator(self, candidate: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(7 + candidate)

    def progress(self, fraction: float, preview: Any = None) -> None:
        assert 0 <= fraction <= 1
        if preview is not None:
            self.previews.append((fraction, preview))

    def resume(self) -> dict[str, Any] | None:
        return self.kept

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        self.count += 1
        self.kept = state()
        if self.count == self.stop_at:
            raise InterruptedError


def figure(path: Path | None = None, height: int = 96, width: int = 96, wide: bool = False) -> np.ndarray:
    """A red standing figure on white, (h, w, 3) in [0, 1]; wide : a lying one, that is none. Saved where a path is."""
    image = np.ones((height, width, 3), np.float32)
    rows, columns = slice(int(.1 * height), int(.9 * height)), slice(int(.35 * width), int(.65 * width))
    if wide:
        rows, columns = slice(int(.6 * height), int(.8 * height)), slice(int(.1 * width), int(.9 * width))
    image[rows, columns] = (0.8, 0.2, 0.1)
    if path is not None:
        Image.fromarray(np.round(image * 255).astype(np.uint8)).save(path)
    return image


def cut_figure(size: int = 96) -> Picture:
    """The same, cut out."""
    image = figure(height=size, width=size)
    alpha = (image.min(-1, keepdims=True) < 0.9).astype(np.float32)
    return Picture(np.concatenate([image, alpha], -1))


def walking(frames: int = 6, size: int = 64, loop: bool = True) -> Poses:
    """A figure whose wrists and ankles swing."""
    joints = np.repeat((STANDING * (0.4, 0.75) * size + np.array((0.3, 0.125)) * size)[None], frames, 0)
    swing = 0.08 * size * np.sin(2 * np.pi * np.arange(frames) / frames)
    for k, sign in ((4, 1), (7, -1), (10, -1), (13, 1)):
        joints[:, k, 0] += sign * swing
    return Poses(joints.astype(np.float32), (size, size), 12.0, loop, {"source": "a test"})


# -- a small network ---------------------------------------------------------------------------------------------------

class Eyes(nn.Module):
    """An image encoder that tells the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 12)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(image_embeds=self.project(pixel_values.mean((2, 3))))


@cache
def small_animation() -> Any:
    """AnimateAnyone's networks with random weights, 32 pixels, windows of four frames that share two."""
    from diffusers import AutoencoderKL, UNetMotionModel

    from engine.diffusion.animate_networks import PoseGuider, ReferenceUNet
    from engine.diffusion.reference_animation import ReferenceAnimation, norm_frames
    from engine.models.open_checkpoint import load_scheduler
    torch.manual_seed(0)
    shared = {"sample_size": 4, "block_out_channels": (8, 8, 16, 16), "cross_attention_dim": 12, "norm_num_groups": 4,
              "layers_per_block": 1}
    denoising = norm_frames(UNetMotionModel(**shared, num_attention_heads=2, motion_num_attention_heads=4,
                                            motion_max_seq_length=32))
    guider = PoseGuider(3, (4, 6, 8, 10), 8)
    nn.init.normal_(guider.conv_out.weight, std=0.3)
    parts = (denoising, ReferenceUNet(**shared, attention_head_dim=2), guider, Eyes(),
             AutoencoderKL(block_out_channels=(4,) * 4, norm_num_groups=2, layers_per_block=1,
                           down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4))
    for part in parts:
        part.eval().requires_grad_(False)
    return ReferenceAnimation(*parts[:4], 16, parts[4], load_scheduler(None, "animate_anyone"), 32, 4, 2, 2.0, 2)
