"""Stable Diffusion XL (Podell et al. 2023) and its Turbo (Sauer et al. 2023): two text encoders, and sizes told.

The network attends to both encoders' penultimate layers side by side and is told, beside the time step, the pooled text
and six numbers: the original picture's height and width, the crop's top and left, the wanted height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.families.base import Conditions, TextToImage
from engine.models.families.texts import clip_penultimate


@dataclass(frozen=True)
class StableDiffusionXL(TextToImage):
    """text_encoder_2, tokenizer_2 : OpenCLIP's bigG with its projection, and its tokenizer

    zeros_for_empty : whether zeros stand for an empty negative prompt (``force_zeros_for_empty_prompt``)
    """

    text_encoder_2: Any = None
    tokenizer_2: Any = None
    zeros_for_empty: bool = True
    family: str = "sdxl"

    @property
    def text_encoders(self) -> tuple[tuple[Any, Any], ...]:
        return ((self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2))

    def condition(self, texts: Sequence[str], *, negative: bool = False, height: int | None = None,
                  width: int | None = None) -> Conditions:
        read = [clip_penultimate(self.use(encoder), tokenizer, texts, self.device)
                for encoder, tokenizer in self.text_encoders]
        context, pooled = torch.cat([states for states, _ in read], -1), read[-1][1]
        if negative and self.zeros_for_empty:
            said = torch.tensor([bool(text.strip()) for text in texts], device=context.device)
            context, pooled = context * said[:, None, None], pooled * said[:, None]
        height, width = height or self.size, width or self.size
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=context.device)
        return Conditions({"context": context, "pooled": pooled, "sizes": sizes.expand(len(texts), -1)})

    def pair(self, text: str, negative: str = "", height: int | None = None, width: int | None = None
             ) -> tuple[Conditions, Conditions]:
        return (self.condition([text], height=height, width=width),
                self.condition([negative], negative=True, height=height, width=width))

    def _added(self, conditions: Conditions) -> dict[str, Any]:
        return {"text_embeds": conditions.tensors["pooled"].to(self.dtype),
                "time_ids": conditions.tensors["sizes"].to(self.dtype)}

    def _scaled(self, latents: Tensor) -> Tensor:
        mean, spread = self._statistics(latents)
        return (latents - mean) / spread

    def _unscaled(self, latents: Tensor) -> Tensor:
        mean, spread = self._statistics(latents)
        return latents * spread + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread, (1, c, 1, 1), that the VAE's latents are brought to 0 and 1 with: 1 / scaling factor, or
        what its configuration says channel by channel (Playground, Cosmos-like VAEs)."""
        config = self.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            mean, std = [0.0], [1.0]
        shape = (1, -1, 1, 1)
        return (torch.tensor(mean).view(shape).to(like),
                torch.tensor(std).view(shape).to(like) / self.vae.config.scaling_factor)
