"""PixArt alpha and Sigma (Chen et al. 2023, 2024): a diffusion transformer that attends to T5's tokens.

The alpha models of 1,024 pixels are told the picture's height, width and aspect ratio. The network learned its
variance beside the noise; samplers leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.families.base import Conditions, TextToImage, refuse
from engine.models.families.texts import cut_off, plain, t5_states


@dataclass(frozen=True)
class PixArt(TextToImage):
    """unet : PixArtTransformer2DModel; text_encoder : T5 XXL; tokens : 120 (alpha) or 300 (Sigma)"""

    tokens: int = 120
    family: str = "pixart_sigma"

    @property
    def told_sizes(self) -> bool:
        """Whether the network has a place for the picture's size."""
        return bool(self.unet.use_additional_conditions)

    @property
    def text_encoders(self) -> tuple[tuple[Any, Any], ...]:
        return ()

    def unseen(self, text: str) -> tuple[str, int]:
        lost = cut_off(self.tokenizer, text, self.tokens)
        return lost, self.tokens if lost else 0

    def condition(self, texts: Sequence[str], *, negative: bool = False, height: int | None = None,
                  width: int | None = None) -> Conditions:
        context, mask = t5_states(self.use(self.text_encoder), self.tokenizer, plain(texts), self.device, self.tokens)
        told = {"context": context, "mask": mask}
        if self.told_sizes:
            height, width = height or self.size, width or self.size
            told["resolution"] = torch.tensor([[float(height), float(width)]] * len(texts), device=context.device)
            told["aspect_ratio"] = torch.tensor([[height / width]] * len(texts), device=context.device)
        return Conditions(told)

    def predict(self, latents: Tensor, t: Tensor, conditions: Conditions, *, beside: Tensor | None = None,
                down: Sequence[Tensor] | None = None, mid: Tensor | None = None,
                image_embeds: Sequence[Tensor] | None = None, guidance: float | None = None) -> Tensor:
        """As ``TextToImage.predict``."""
        refuse(self, beside=beside, down=down, mid=mid, image_embeds=image_embeds)
        kind, n, told = self.dtype, len(latents), conditions.tensors
        added = {name: told[name].to(kind) if name in told else None for name in ("resolution", "aspect_ratio")}
        said = self.use(self.unet)(latents.to(kind), encoder_hidden_states=told["context"].to(kind),
                                   encoder_attention_mask=told["mask"], timestep=t.expand(n),
                                   added_cond_kwargs=added).sample
        return self._wanted_channels(said, latents).to(latents.dtype)
