"""Diffusion models that enlarge a picture: the picture, a little noised, stands beside what they denoise, and they are
told how much noise it was given (Ho et al. 2022, cascaded diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.models.families.base import TextToImage


@dataclass(frozen=True)
class Upscaler(TextToImage):
    """Stable Diffusion's x4 upscaler: latents of the small picture's size, whose VAE enlarges them by 4.

    low_scheduler : the schedule that the small picture is noised by; noise_level : its step where the user says none
    """

    low_scheduler: Any = None
    noise_level: int = 20
    family: str = "sd_x4_upscaler"

    @property
    def enlarges(self) -> int:
        """How many times larger the result is."""
        return self.factor

    @property
    def multiple(self) -> int:
        """Of the result's sides."""
        return 8 * self.enlarges

    def start(self, images: Tensor, generators: Sequence[torch.Generator], noise_level: int | None = None
              ) -> tuple[Tensor, Tensor, Tensor]:
        """(b, 3, h, w) in [0, 1] -> the noise to begin with (b, c, h', w'), what stands beside it (b, 3, h', w'), and
        the noise levels (b,) to tell the network.

        Raises BadInput for a noise level out of range and for sizes that the network cannot draw.
        """
        level = self.noise_level if noise_level is None else noise_level
        shape = self.shape(*(side * self.enlarges for side in images.shape[-2:]))
        small = images.to(self.device) * 2 - 1
        beside = self.noised(small, self.drawn(generators, tuple(small.shape[1:])), level)
        return self.drawn(generators, shape), beside, self.levels(level, len(images))

    def noised(self, pictures: Tensor, noise: Tensor, level: int) -> Tensor:
        """Pictures (b, 3, h, w) in [-1, 1] at a step of the noising schedule."""
        steps = len(self.low_scheduler.alphas_cumprod)
        if not 0 <= level < steps:
            raise BadInput(f"a noise level of {level} is out of range", f"give 0 to {steps - 1}")
        return self.low_scheduler.add_noise(pictures, noise, self.levels(level, len(pictures)))

    def levels(self, level: int, n: int) -> Tensor:
        return torch.full((n,), level, device=self.device)

    def drawn(self, generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)
