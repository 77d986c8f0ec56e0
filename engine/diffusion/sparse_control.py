"""SparseCtrl (Guo et al. 2023, arXiv 2311.16933): a ControlNet of clips that is shown some frames and told which.

Where no frame is shown, the network sees zeros and a mask of zeros, and its own motion modules carry what it knows
along time. It never sees the noisy latents. RGB networks take VAE latents, scribble networks pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.motion import More
from engine.errors import BadInput


def takes_latents(net: Any) -> bool:
    """Whether it is shown latents (RGB) and not pixels (scribbles)."""
    return bool(net.config.use_simplified_condition_embedding)


def shown_to(model: Any, control: Any, pictures: Tensor) -> Tensor:
    """Pictures (k, 3, h, w) in [0, 1] -> as the control takes them. Raises BadInput where it fits another model."""
    if tuple(control.net.config.block_out_channels) != tuple(model.unet.config.block_out_channels):
        raise BadInput(f"{control.name} is made for another family than {model.name}",
                       "see which fit: maquette models list --role sparse_control")
    return model.encode(pictures) if takes_latents(control.net) else pictures


def steered(control: Any, shown: Tensor, at: Sequence[int], scale: float = 1.0) -> More:
    """What the motion U-Net is told at each call (``motion.denoiser``'s ``more``).

    control : ``engine.models.motion.SparseControl``; shown : (k, c, h, w) of :func:`shown_to`; at : their k frames
    scale : how much it counts, 0 to 2
    """
    places = {frame: k for k, frame in enumerate(at)}

    def more(clips: Tensor, t: Tensor, frames: Sequence[int], context: Tensor) -> Mapping[str, Any]:
        kind = next(control.net.parameters()).dtype
        hint = torch.zeros(1, len(frames), *shown.shape[1:], dtype=kind, device=clips.device)
        mask = hint.new_zeros(1, len(frames), 1, *shown.shape[2:])
        for place, frame in enumerate(frames):
            if frame in places:
                hint[:, place], mask[:, place] = shown[places[frame]].to(hint), 1
        down, mid = control.net(
            clips.transpose(1, 2).to(kind), t,
            encoder_hidden_states=context.to(kind).repeat_interleave(len(frames), 0),
            controlnet_cond=hint.transpose(1, 2), conditioning_mask=mask.transpose(1, 2), conditioning_scale=scale,
            return_dict=False)
        return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}
    return more
