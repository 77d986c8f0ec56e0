"""Pictures as each network wants them, and back. Written once, for training and for use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""The public CLIP models' own normalisation, sRGB; the built-in one keeps it."""


def tensor_of(images: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """(b, h, w, 3) float in [0, 1] -> (b, 3, h, w) float32 on ``device``."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)).to(device)


def images_of(pictures: Tensor) -> np.ndarray:
    """(b, 3, h, w) -> (b, h, w, 3) float32, clamped to [0, 1], on the CPU."""
    return pictures.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def vae_input(pictures: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return pictures * 2 - 1


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents (b, 4, h/8, w/8) -> pictures (b, 3, h, w) in about [0, 1], unclamped."""
    return vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5


def clip_input(pictures: Tensor, size: int) -> Tensor:
    """(b, 3, h, w) in [0, 1], over white -> (b, 3, size, size), normalised as CLIP expects."""
    if pictures.shape[-2:] != (size, size):
        pictures = torch.nn.functional.interpolate(pictures, (size, size), mode="bicubic", antialias=True,
                                                   align_corners=False).clamp(0, 1)
    mean, std = (torch.tensor(v, device=pictures.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pictures - mean) / std
