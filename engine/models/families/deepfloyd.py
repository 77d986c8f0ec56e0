"""DeepFloyd IF: a cascade in pixels (after Imagen, Saharia et al. 2022).

A U-Net draws 64 pixels of a text that T5 read; a second one makes 256 of them, told how much noise the small picture
was given; Stable Diffusion's x4 upscaler may make 1,024. IF's two learned their variance beside the noise, and the
published scheduler (DDPM) uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from engine.models.families.base import Conditions, TextToImage
from engine.models.families.texts import cut_off, plain, t5_states
from engine.models.families.upscaling import Upscaler

TOKENS = 77
"""What the cascade was trained with; T5 could read more."""


@dataclass(frozen=True)
class DeepFloyd(TextToImage):
    """unet : UNet2DConditionModel in pixels; vae : None; text_encoder : T5 XXL; size : of the whole cascade's pictures

    upscalers : the cascade's further steps (``Upscaler``), in order
    """

    family: str = "deepfloyd_1"

    @property
    def enlarges(self) -> int:
        """How many times larger the cascade's pictures are than what the first network draws."""
        return prod(up.enlarges for up in self.upscalers)

    @property
    def multiple(self) -> int:
        return 8 * self.enlarges

    @property
    def text_encoders(self) -> tuple[tuple[Any, Any], ...]:
        return ()

    def unseen(self, text: str) -> tuple[str, int]:
        lost = cut_off(self.tokenizer, text, TOKENS)
        return lost, TOKENS if lost else 0

    def shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """Of what the first network draws, for pictures of ``height`` x ``width`` pixels after the whole cascade."""
        channels, rows, columns = super().shape(height, width)
        return channels, rows // self.enlarges, columns // self.enlarges

    def condition(self, texts: Sequence[str], *, negative: bool = False, height: int | None = None,
                  width: int | None = None) -> Conditions:
        states, _ = t5_states(self.use(self.text_encoder), self.tokenizer, plain(texts), self.device, TOKENS)
        return Conditions({"context": states})

    def _wanted_channels(self, said: Tensor, latents: Tensor) -> Tensor:
        """The variance stays behind the noise: schedulers that do not ask for it leave it out."""
        return said


@dataclass(frozen=True)
class DeepFloydUpscaler(Upscaler, DeepFloyd):
    """The cascade's second network: three channels of the enlarged, noised picture stand beside the noisy ones."""

    family: str = "deepfloyd_2"
    noise_level: int = 250

    @property
    def channels(self) -> int:
        return int(self.unet.config.in_channels) // 2

    @property
    def enlarges(self) -> int:
        """4: from the first network's 64 pixels to its own 256."""
        return 4

    def shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        return TextToImage.shape(self, height, width)

    def start(self, images: Tensor, generators: Sequence[torch.Generator], noise_level: int | None = None
              ) -> tuple[Tensor, Tensor, Tensor]:
        level = self.noise_level if noise_level is None else noise_level
        height, width = (side * self.enlarges for side in images.shape[-2:])
        shape = self.shape(height, width)
        noise = self.drawn(generators, shape)
        large = torch.nn.functional.interpolate(images.to(self.device) * 2 - 1, shape[1:], mode="bilinear",
                                                align_corners=True)
        return noise, self.noised(large, self.drawn(generators, shape), level), self.levels(level, len(images))
