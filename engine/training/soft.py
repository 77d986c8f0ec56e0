"""Pictures as drawn clips show them: through the built-in VAE, from latents that are noisy or blurred.

A network that is to read what the built-in models draw learns from truth that looks like it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

NOISE = 0.2
"""At most, of the latents, in shares of their spread."""


def through(vae: Any, pictures: Tensor, rng: np.random.Generator, noise: float = NOISE, blur: bool = True) -> Tensor:
    """As the VAE shows them. (b, 3, h, w) in [0, 1] -> the same shape.

    noise : at most so much is added, in shares of the latents' spread; each picture draws its own level
    blur : latents of half of the pictures are mixed with the mean of their 3 x 3 neighbours, as those of a network are
        that answers with the mean of what may be
    """
    with torch.no_grad():
        latents = vae.encode(pictures * 2 - 1).latent_dist.mode()
        level, share = (torch.from_numpy(rng.random((len(latents), 1, 1, 1), dtype=np.float32)) for _ in range(2))
        grain = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        latents = latents + noise * latents.std() * level * grain
        if blur:
            near = F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, 1)
            latents = torch.lerp(latents, near, (2 * share - 1).clamp(min=0))
        return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
