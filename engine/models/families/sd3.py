"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a transformer on a rectified flow, read to by three text encoders.

Both CLIPs' penultimate layers side by side, filled up with zeros to T5's width, stand before T5's tokens; their pooled
embeddings together are told beside the time step. Latents have 16 channels and are shifted before they are scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.families.base import Conditions, TextToImage, refuse
from engine.models.families.texts import clip_penultimate, cut_off, t5_states


@dataclass(frozen=True)
class StableDiffusion3(TextToImage):
    """unet : SD3Transformer2DModel; text_encoder, text_encoder_2 : CLIP L and bigG with projections

    text_encoder_3, tokenizer_3 : T5 XXL; None: its tokens are zeros, as the model was trained to bear
    t5_tokens : how many of T5's tokens are attended to
    """

    text_encoder_2: Any = None
    tokenizer_2: Any = None
    text_encoder_3: Any = None
    tokenizer_3: Any = None
    t5_tokens: int = 256
    family: str = "sd3"

    @property
    def text_encoders(self) -> tuple[tuple[Any, Any], ...]:
        return ((self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2))

    def unseen(self, text: str) -> tuple[str, int]:
        """T5 reads on where the CLIPs end; without it, theirs is the limit."""
        if self.text_encoder_3 is None:
            return super().unseen(text)
        lost = cut_off(self.tokenizer_3, text, self.t5_tokens)
        return lost, self.t5_tokens if lost else 0

    def condition(self, texts: Sequence[str], *, negative: bool = False, height: int | None = None,
                  width: int | None = None) -> Conditions:
        length = int(self.tokenizer.model_max_length)
        read = [clip_penultimate(self.use(encoder), tokenizer, texts, self.device, length) for encoder, tokenizer
                in ((self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2))]
        clip = torch.cat([states for states, _ in read], -1)
        wide = int(self.unet.config.joint_attention_dim)
        if self.text_encoder_3 is None:
            t5 = torch.zeros(len(texts), self.t5_tokens, wide, device=clip.device, dtype=clip.dtype)
        else:
            t5, _ = t5_states(self.use(self.text_encoder_3), self.tokenizer_3, texts, self.device, self.t5_tokens,
                              masked=False)
        clip = torch.nn.functional.pad(clip, (0, wide - clip.shape[-1]))
        return Conditions({"context": torch.cat([clip, t5.to(clip.dtype)], 1),
                           "pooled": torch.cat([pooled for _, pooled in read], -1)})

    def predict(self, latents: Tensor, t: Tensor, conditions: Conditions, *, beside: Tensor | None = None,
                down: Sequence[Tensor] | None = None, mid: Tensor | None = None,
                image_embeds: Sequence[Tensor] | None = None, guidance: float | None = None) -> Tensor:
        """As ``TextToImage.predict``; what is predicted is the flow. down : residuals of an SD3 ControlNet's blocks"""
        refuse(self, beside=beside, mid=mid, image_embeds=image_embeds)
        kind, n = self.dtype, len(latents)
        told = {} if down is None else {"block_controlnet_hidden_states": [r.to(kind) for r in down]}
        said = self.use(self.unet)(hidden_states=latents.to(kind), timestep=t.expand(n),
                                   encoder_hidden_states=conditions.tensors["context"].to(kind),
                                   pooled_projections=conditions.tensors["pooled"].to(kind), **told).sample
        return said.to(latents.dtype)

    def sampling_settings(self, shape: Sequence[int]) -> dict[str, Any]:
        """Where the schedule moves with the picture's size: mu, linear in the patches (SD3, section 5.3.2)."""
        config = self.scheduler.config
        if not config.get("use_dynamic_shifting", False):
            return {}
        patch = int(self.unet.config.patch_size)
        patches = (shape[-2] // patch) * (shape[-1] // patch)
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
        return {"mu": least + (most - least) * (patches - few) / (many - few)}

    def _scaled(self, latents: Tensor) -> Tensor:
        return (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    def _unscaled(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor + self.vae.config.shift_factor

