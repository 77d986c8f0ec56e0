"""What the two diffusion trainers share: network, noise schedule, loss, and a quick sampler for looking."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from engine.training.loop import Draw

CHANNELS = (64, 80, 96, 96)
LAYERS = 1
"""Residual blocks a level. One, not Stable Diffusion's two: on a CPU a wider network learns more in an hour."""
HEADS = 4
GAMMA = 5.0
"""No step may count for more than this many times its weight in clean latents (min-SNR, Hang et al. 2023)."""
GUIDANCE = 3.0
STEPS = 20


def build(in_channels: int = 4, channels: tuple[int, ...] = CHANNELS, context: int = 192, size: int = 16,
          groups: int = 16) -> UNet2DConditionModel:
    """A fresh U-Net with Stable Diffusion 1.5's blocks, one residual layer in each: 1.7 times faster than two."""
    return UNet2DConditionModel(
        sample_size=size, in_channels=in_channels, out_channels=4, block_out_channels=channels, layers_per_block=1,
        cross_attention_dim=context, attention_head_dim=HEADS, norm_num_groups=groups)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled so that the last step is pure noise: otherwise a training leaks the white
    background into its noisiest latents and samples, which start from pure noise, come out grey (Lin et al. 2023)."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
        set_alpha_to_one=True)


def loss(unet: nn.Module, clean: Tensor, context: Tensor, draw: Draw, alphas: Tensor, beside: Tensor | None = None,
         late: float = 1.0, blind: float = 0.0, frames: int = 1) -> Tensor:
    """v-prediction loss of clean scaled latents (b, 4, h, w), each at its own random step.

    alphas : (1000,) cumulative products; beside : (b, 4, h, w) condition latents or None
    late : steps are drawn with a density that grows as step ** (late - 1): above 1, noisy ones come more often
    blind : share of the samples at the last step, pure noise, where the answer is the mean of all that fits
    frames : so many samples in a row are frames of one clip, at one step

    v = sqrt(a) noise - sqrt(1 - a) clean. In v the weight 1 is SNR + 1 on the clean latents; it is cut at GAMMA, so
    that the nearly clean steps do not crowd out those where shape and colour are decided.
    """
    b = len(clean)
    # Stratified steps: every batch sees all noise levels, which halves the variance of the gradient.
    c = b // frames
    u = (torch.arange(c) + torch.rand(c, generator=draw.generator)) / c
    t = (u ** (1 / late) * len(alphas)).long().clamp(max=len(alphas) - 1).to(clean.device)
    if blind:
        t[torch.rand(c, generator=draw.generator).to(t.device) < blind] = len(alphas) - 1
    t = t.repeat_interleave(frames)
    a = alphas.to(clean.device)[t].view(b, 1, 1, 1)
    noise = draw.normal(*clean.shape)
    noisy, v = a.sqrt() * clean + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * clean
    x = noisy if beside is None else torch.cat([noisy, beside], 1)
    predicted = unet(x.contiguous(memory_format=torch.channels_last), t, context).sample.float()
    weight = (GAMMA * (1 - a)).clamp(max=1.0).view(b)  # 1 / (1 - a) = SNR + 1
    return ((predicted - v).square().mean((1, 2, 3)) * weight).mean()


@torch.no_grad()
def sample(unet: nn.Module, context: Tensor, unconditional: Tensor, seed: int = 0, steps: int = STEPS,
           guidance: float = GUIDANCE, beside: Tensor | None = None, batch: int = 32) -> Tensor:
    """DDIM with classifier-free guidance: context and unconditional (n, tokens, d) -> scaled latents (n, 4, h, w).

    beside : (n, 4, h, w) condition latents; zeros beside the unconditional half
    """
    size, device = int(unet.config.sample_size), context.device  # type: ignore[union-attr,arg-type]
    out = []
    for i in range(0, len(context), batch):
        c, u = context[i:i + batch], unconditional[i:i + batch]
        x = torch.stack([torch.randn(4, size, size, generator=torch.Generator().manual_seed(seed * 100_003 + i + k))
                         for k in range(len(c))]).to(device)
        plan = scheduler()
        plan.set_timesteps(steps)
        for t in plan.timesteps:
            both = torch.cat([x, x])
            if beside is not None:
                held = beside[i:i + batch]
                both = torch.cat([both, torch.cat([torch.zeros_like(held), held])], 1)
            without, with_ = unet(both, t, torch.cat([u, c])).sample.float().chunk(2)
            x = plan.step(without + guidance * (with_ - without), t, x).prev_sample
        out.append(x)
    return torch.cat(out)


@torch.no_grad()
def decode(vae: Any, latents: Tensor, batch: int = 16) -> np.ndarray:
    """Scaled latents -> (n, h, w, 3) float32 in [0, 1]."""
    from engine.diffusion import pictures
    return np.concatenate([pictures.images_of(pictures.decode(vae, z)) for z in latents.split(batch)])


def clean_latents(moments: np.ndarray, scale: float, draw: Draw) -> Tensor:
    """(b, 8, h, w) float16 mean and log variance, unscaled -> a sample of the latents, scaled, (b, 4, h, w)."""
    mean, log_variance = torch.from_numpy(moments.astype(np.float32)).to(draw.device).chunk(2, 1)
    return (mean + (0.5 * log_variance.clamp(-30, 20)).exp() * draw.normal(*mean.shape)) * scale


def grid(pictures: np.ndarray, columns: int) -> np.ndarray:
    """(n, h, w, 3) in [0, 1] -> (rows * h, columns * w, 3) uint8; missing ones are white."""
    n, h, w, _ = pictures.shape
    rows = -(-n // columns)
    full = np.ones((rows * columns, h, w, 3), np.float32)
    full[:n] = pictures
    return np.round(full.reshape(rows, columns, h, w, 3).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, 3)
                    * 255).astype(np.uint8)
