"""Zero-1-to-3: how a novel-view network is told what it looks at and from where.

The network is Stable Diffusion's U-Net with 8 input channels. It sees
- one context token, ``cc_projection([image embedding, T])``, where the image embedding is CLIP's *projected* one,
  not normalised, and T is the camera's move (:func:`camera_vector`);
- the condition picture's latents beside the noisy ones: the mean (mode) of the VAE's posterior, *not* multiplied by
  the VAE's scaling factor.
Unconditional means zeros for both, the token after the projection.
Source: Liu et al. 2023 and cvlab-columbia/zero123 (``ldm/models/diffusion/ddpm.py``), read for its facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

CAMERA_NUMBERS = 4
CameraVectors = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(elevation from, elevation to, azimuth step (degrees), radius step), each (b,) -> (b, 4)"""


def camera_vector(elevation_from_deg: float, elevation_to_deg: float, azimuth_step_deg: float,
                  radius_step: float = 0.0) -> list[float]:
    """T = [polar_to - polar_from (radians), sin(azimuth step), cos(azimuth step), radius_to - radius_from].

    Elevations are ours (degrees, up positive); the polar angle is 90 - elevation, so moving up is negative.
    azimuth_step_deg : target minus condition, positive to the viewer's right
    radius_step : in units of the object's longest side
    """
    step = math.radians(azimuth_step_deg)
    return [math.radians(elevation_from_deg - elevation_to_deg), math.sin(step), math.cos(step), radius_step]


def camera_vectors(elevation_from_deg: Tensor, elevation_to_deg: Tensor, azimuth_step_deg: Tensor,
                   radius_step: Tensor) -> Tensor:
    """:func:`camera_vector` of (b,) tensors -> (b, 4)."""
    step = torch.deg2rad(azimuth_step_deg)
    return torch.stack([torch.deg2rad(elevation_from_deg - elevation_to_deg), torch.sin(step), torch.cos(step),
                        radius_step], -1)


def stable_camera_vectors(elevation_from_deg: Tensor, elevation_to_deg: Tensor, azimuth_step_deg: Tensor,
                          radius_step: Tensor) -> Tensor:
    """T as Stable Zero123 takes it: its last number is the condition's polar angle (radians) and not the radius' step,
    which that network never saw change. (b,) tensors, as :func:`camera_vectors` -> (b, 4)

    Source: threestudio's ``stable_zero123_guidance.py``, read for this fact.
    """
    told = camera_vectors(elevation_from_deg, elevation_to_deg, azimuth_step_deg, radius_step)
    return torch.cat([told[..., :3], torch.deg2rad(90 - elevation_from_deg)[..., None].to(told)], -1)


CAMERAS: dict[str, CameraVectors] = {"zero123": camera_vectors, "stable_zero123": stable_camera_vectors}
"""How each family's network is told where it looks from."""


class CCProjection(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The linear map from [image embedding, T] to one context token (``projection.weight``, ``projection.bias``).

    It starts as the identity on the embedding, as Zero-1-to-3's does, so that a U-Net trained on CLIP tokens begins
    with something it knows.
    """

    @register_to_config
    def __init__(self, in_channel: int = 768 + CAMERA_NUMBERS, out_channel: int = 768) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)
        nn.init.eye_(self.projection.weight[:, :out_channel])
        # Four camera numbers beside hundreds of features: begun at the usual scale they weigh a tenth of them, and a
        # small network then takes most of its training to notice the camera at all.
        nn.init.normal_(self.projection.weight[:, in_channel - CAMERA_NUMBERS:], std=0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, embedding_and_camera: Tensor) -> Tensor:
        """(..., in_channel) -> (..., out_channel)"""
        return self.projection(embedding_and_camera)


def context(projection: CCProjection, image_embeds: Tensor, cameras: Tensor) -> Tensor:
    """image_embeds : (b, d), cameras : (b, 4) -> (b, 1, d), the only token that cross-attention sees."""
    return projection(torch.cat([image_embeds, cameras.to(image_embeds)], -1))[:, None]


def condition_latents(vae: nn.Module, pictures: Tensor) -> Tensor:
    """pictures : (b, 3, h, w) in [-1, 1], over white -> (b, 4, h/8, w/8), the posterior's mode, unscaled."""
    return vae.encode(pictures).latent_dist.mode()  # type: ignore[operator]


def unet_input(noisy: Tensor, condition: Tensor) -> Tensor:
    """(b, 4, h, w) twice -> (b, 8, h, w): the noisy latents first."""
    return torch.cat([noisy, condition], 1)


def drop_conditions(tokens: Tensor, latents: Tensor, drop: Tensor | Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Zeros in both conditions where ``drop`` (b,) is true: the unconditional samples of training and of guidance."""
    keep = (~torch.as_tensor(drop, dtype=torch.bool, device=tokens.device)).to(tokens.dtype)
    return tokens * keep[:, None, None], latents * keep[:, None, None, None].to(latents.dtype)
