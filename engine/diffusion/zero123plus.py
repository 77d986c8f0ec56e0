"""Zero123++ (Shi et al. 2023): six views of a picture's subject at once, three rows of two in one grid.

Stable Diffusion 2's U-Net, in v-prediction, is told of the picture in two ways:
- by reference attention: at each step the picture's latents, noised to that step, go through the network first and
  every self-attention of the grid's pass reads what it read then. The unconditional half reads those of a grey picture
  (zeros), with noise of its own;
- by CLIP's image embedding, added to the tokens of the empty prompt, each with a weight (the ramp) that is published
  with the network.
The grid's latents and its pixels are scaled beside the VAE's own factor: (x - 0.22) 0.75 and 0.5 / 0.8.
Source: SUDO-AI-3D/zero123plus, ``diffusers-support/pipeline.py``, read for its facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import lora, prompt, reference_attention, sampling
from engine.errors import BadInput, RunFailed

ROWS, COLUMNS = 3, 2
AZIMUTHS_DEG = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)
"""Steps from the picture's own azimuth; row by row of the grid."""
ELEVATIONS_DEG = (20.0, -10.0, 20.0, -10.0, 20.0, -10.0)
"""Above the ground, whatever the picture's own elevation is (version 1.2)."""
FOV_DEG = 30.0
DISTANCE = 3.0
"""Of the cameras, in field units, where the subject's longest side is 1.5.

What is published says a normalised size and no distance; InstantMesh (Xu et al. 2024), which reads these views, takes
4 for subjects within [-1, 1], and 3 is that at our scale.
"""
GREY = 0.5
"""What a picture without background is put over, and what the views are drawn over."""
LATENT_SHIFT, LATENT_SCALE = 0.22, 0.75
PIXEL_SCALE = 0.5 / 0.8


@dataclass(frozen=True)
class Eyes:
    """How a network's eye wants pictures: resized to ``size`` pixels, then (x - mean) / std."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @staticmethod
    def of(config: Mapping[str, Any], where: str) -> Eyes:
        """From a preprocessor_config.json. Raises BadInput where it says no size."""
        told: Any = config.get("crop_size") if config.get("do_center_crop") else None
        told = told or config.get("size")
        if isinstance(told, Mapping):
            told = told.get("height") or told.get("shortest_edge")
        if not isinstance(told, int) or len(config.get("image_mean", ())) != 3 or len(config.get("image_std", ())) != 3:
            raise BadInput(f"{where} does not say the size, mean and spread of its pictures", "pull the model again")
        return Eyes(told, tuple(config["image_mean"]), tuple(config["image_std"]))

    def __call__(self, pictures: Tensor) -> Tensor:
        """(b, 3, s, s) in [0, 1] -> (b, 3, size, size)"""
        x = pictures
        if x.shape[-2:] != (self.size, self.size):
            x = torch.nn.functional.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True,
                                                align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


@dataclass(frozen=True)
class SixViews:
    """unet : UNet2DConditionModel of Stable Diffusion 2's build; vae : AutoencoderKL; scheduler : as published

    text_encoder, tokenizer : for the empty prompt's tokens; image_encoder : CLIPVisionModelWithProjection
    ramp : one weight a token, on the image's embedding; eye_vae, eye_clip : how both encoders want the picture
    size : pixels of a view's side; steps, guidance : how it is used where the user says nothing
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    image_encoder: Any
    scheduler: Any
    ramp: tuple[float, ...]
    eye_vae: Eyes
    eye_clip: Eyes
    size: int = 320
    steps: int = 28
    guidance: float = 4.0


def context(model: SixViews, picture: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 3, s, s) in [0, 1] -> (wanted, unwanted) tokens, each (1, tokens, d): with the image's embedding, without."""
    words = prompt.encode(model.text_encoder, model.tokenizer, [""], picture.device)
    seen = model.image_encoder(pixel_values=model.eye_clip(picture)).image_embeds[:, None]
    ramp = torch.tensor(model.ramp, device=words.device, dtype=words.dtype)[None, :, None]
    if ramp.shape[1] != words.shape[1]:
        raise BadInput(f"the ramp has {ramp.shape[1]} weights, the prompt {words.shape[1]} tokens",
                       "pull the model again")
    return words + seen * ramp, words


def scaled(latents: Tensor) -> Tensor:
    """Of the VAE's scaled latents -> as the network draws them."""
    return (latents - LATENT_SHIFT) * LATENT_SCALE


def unscaled(latents: Tensor) -> Tensor:
    """Inverse of :func:`scaled`."""
    return latents / LATENT_SCALE + LATENT_SHIFT


def draw(model: SixViews, picture: Tensor, generator: torch.Generator, steps: int | None = None,
         guidance: float | None = None, watch: Callable[[int], None] | None = None) -> Tensor:
    """Six views of the subject. Every draw comes from ``generator``, on the CPU, in this order: the picture's posterior
    (grey's, then its own), the grid's noise, then at each step the reference's noise and the sampler's.

    picture : (1, 3, s, s) in [0, 1], over grey -> (6, 3, size, size) in about [0, 1], in the order of AZIMUTHS_DEG
    watch : called after each step with its number, from 1. Raises RunFailed when the numbers run away.
    """
    steps, scale = steps or model.steps, model.guidance if guidance is None else guidance
    device, kind = picture.device, picture.dtype

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=kind).to(device)

    with torch.inference_mode():
        unet = lora.twin(model.unet)
        bank = reference_attention.attach(unet)
        wanted, unwanted = context(model, picture)
        shown = model.eye_vae(picture)
        posterior = model.vae.encode(torch.cat([torch.zeros_like(shown), shown])).latent_dist
        reference = posterior.mean + posterior.std * noise(*posterior.mean.shape)
        tokens = torch.cat([unwanted, wanted])
        if scale <= 1:
            reference, tokens = reference[1:], wanted

        plan = sampling.Steps(sampling.scheduler_for(model.scheduler, "own"), steps, device)
        cells = model.size // int(2 ** (len(model.vae.config.block_out_channels) - 1))
        latents = plan.begin(noise(1, int(model.vae.config.latent_channels), ROWS * cells, COLUMNS * cells))
        for i, t in enumerate(plan.timesteps):
            bank.mode = "write"
            unet(plan.scaled(plan.noised(reference, noise(*reference.shape), i), i), t, encoder_hidden_states=tokens)
            bank.mode = "read"
            x = plan.scaled(latents, i)
            said = unet(x.expand(len(tokens), -1, -1, -1), t, encoder_hidden_states=tokens).sample
            if scale > 1:
                said = sampling.guide(said[1:], said[:1], scale)
            latents = plan.step(said, latents, i, [generator])
            if watch is not None:
                watch(i + 1)
        if not torch.isfinite(latents).all():
            raise RunFailed("the sampler made numbers that are not finite", "lower the guidance, or check the weights")
        made = model.vae.decode(unscaled(latents) / model.vae.config.scaling_factor).sample / PIXEL_SCALE / 2 + 0.5
    return cut_grid(made).clone()


def cut_grid(grid: Tensor) -> Tensor:
    """(1, 3, 3 s, 2 s) -> (6, 3, s, s), row by row."""
    _, c, h, w = grid.shape
    side = h // ROWS
    if h != ROWS * side or w != COLUMNS * side:
        raise ValueError(f"a grid of {h} x {w} is not three rows of two squares")
    return grid.reshape(c, ROWS, side, COLUMNS, side).permute(1, 3, 0, 2, 4).reshape(ROWS * COLUMNS, c, side, side)
