"""ControlNets (Zhang et al. 2023): copies of a U-Net's encoder that see a map and add to the U-Net's skips and middle.

    hints = [Hint(job.model("control.edges"), edges), Hint(job.model("control.depth"), depth, scale=0.5, end=0.6)]
    extras = steered(model, hints, timesteps)
    sampling.sample(..., sampling.denoiser(model, wanted, unwanted, 7.5, extras=extras), ...)

Residuals of several ControlNets are summed, each times its scale while its share of the steps lasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.sampling import Extras
from engine.errors import BadInput


@dataclass(frozen=True)
class Hint:
    """One ControlNet and what it is shown.

    control : ``engine.models.loading.Control``; image : (1, 3, h, w) in [0, 1], of the drawn picture's size
    scale : its residuals count so many times; start, end : shares of the steps during which they count
    tokens : (wanted, unwanted), (1, n, d) each, that it sees instead of the text (InstantID's face tokens)
    """

    control: Any
    image: Tensor
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    tokens: tuple[Tensor, Tensor] | None = None


def check(model: Any, control: Any) -> None:
    """BadInput in one line where a ControlNet cannot steer a model: another family, or another shape."""
    net, unet = control.net, model.unet
    remedy = f"give a ControlNet of {model.name}'s family ({model.family}), or another --models"
    if not hasattr(unet, "down_blocks"):
        raise BadInput(f"{control.name} is for U-Nets; {model.name} ({model.family}) is none", "give another --models")
    if control.family and model.family and control.family != model.family:
        raise BadInput(f"{control.name} is for {control.family}, and {model.name} is of the family {model.family}",
                       remedy)
    for what in ("block_out_channels", "cross_attention_dim", "layers_per_block", "addition_embed_type"):
        theirs, ours = net.config.get(what), unet.config.get(what)
        if _plain(theirs) != _plain(ours):
            raise BadInput(f"{control.name} is for another family: its {what} is {theirs}, that of {model.name} is "
                           f"{ours}", remedy)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def counts(hint: Hint, i: int, steps: int) -> bool:
    """Whether a hint counts at step i of ``steps``: the step lies wholly inside its share (diffusers' rule)."""
    return not (i / steps < hint.start or (i + 1) / steps > hint.end)


def steered(model: Any, hints: Sequence[Hint], timesteps: Tensor) -> Extras:
    """Residuals of ``hints`` for ``sampling.denoiser``'s extras.

    timesteps : those of the schedule, in order, by which a step knows its share. Raises BadInput where a ControlNet is
    of another family or its map is not as large as the picture.
    """
    for hint in hints:
        check(model, hint.control)
    places = {float(t): i for i, t in reversed(list(enumerate(timesteps)))}

    def extras(latents: Tensor, t: Tensor, conditions: Any, conditional: Tensor) -> Mapping[str, Any]:
        i = places[float(t.reshape(-1)[0])]
        active = [hint for hint in hints if hint.scale and counts(hint, i, len(timesteps))]
        if not active:
            return {}
        sums = [_residuals(model, hint, latents, t, conditions, conditional) for hint in active]
        down = [_sum(skips) for skips in zip(*(skips for skips, _ in sums), strict=True)]
        return {"down": down, "mid": _sum([middle for _, middle in sums])}
    return extras


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _residuals(model: Any, hint: Hint, latents: Tensor, t: Tensor, conditions: Any, conditional: Tensor
               ) -> tuple[list[Tensor], Tensor]:
    """(residuals of the skips, residual of the middle) of one ControlNet, times its scale."""
    net = model.use(hint.control.net)
    kind = next(net.parameters()).dtype
    wanted_size = tuple(side * model.factor for side in latents.shape[-2:])
    if tuple(hint.image.shape[-2:]) != wanted_size:
        raise BadInput(f"the map for {hint.control.name} is {hint.image.shape[-1]} x {hint.image.shape[-2]} pixels, "
                       f"the picture {wanted_size[1]} x {wanted_size[0]}", "give both one size")
    context = conditions.tensors["context"]
    if hint.tokens is not None:
        wanted, unwanted = hint.tokens
        context = torch.where(conditional.to(wanted.device)[:, None, None], wanted, unwanted)
    added = model._added(conditions)
    down, mid = net(latents.to(kind), t, encoder_hidden_states=context.to(kind),
                    controlnet_cond=hint.image.to(latents.device, kind).expand(len(latents), -1, -1, -1),
                    conditioning_scale=hint.scale, added_cond_kwargs=added or None, return_dict=False)
    return list(down), mid
