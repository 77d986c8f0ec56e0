"""Names of latent diffusion's U-Net and ControlNet (CompVis, Stability) -> diffusers'.

A level of the encoder is ``layers`` residual blocks and a downsampler, numbered through: input_blocks.0 is the first
convolution, then come layers + 1 blocks a level. The decoder has layers + 1 residual blocks a level, the last of each
with an upsampler in the same block. Inside a block, 0 is the residual network, 1 the attention.
Source of the facts: CompVis/latent-diffusion ``openaimodel.py``, lllyasviel/ControlNet ``cldm.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_RESNET = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
           "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
_ENDS = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
         "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
         "out.0": "conv_norm_out", "out.2": "conv_out", "middle_block_out.0": "controlnet_mid_block"}
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}


def layers_a_level(names: Iterable[str]) -> int:
    """How many residual blocks a level of the encoder has; where downsamplers stand tells. 2 where none is there."""
    at = [int(m[1]) for n in names if (m := re.search(r"(?:^|\.)input_blocks\.(\d+)\.0\.op\.", n))]
    return min(at) - 1 if at else 2


def unet_name(name: str, layers: int = 2, label: str = "add_embedding") -> str | None:
    """``input_blocks.1.0.in_layers.0.weight`` -> ``down_blocks.0.resnets.0.norm1.weight``; None when it is not known.

    label : what ``label_emb`` is there: add_embedding (SDXL) or class_embedding (unCLIP, the x4 upscaler)
    """
    head, _, leaf = name.rpartition(".")
    if head in _ENDS:
        return f"{_ENDS[head]}.{leaf}".replace("add_embedding", label)
    if name == "label_emb.weight":
        return "class_embedding.weight"
    if name.startswith("input_blocks.0.0."):
        return f"conv_in.{leaf}" if head == "input_blocks.0.0" else None
    if name.startswith("middle_block."):
        number, _, inner = name.removeprefix("middle_block.").partition(".")
        return _inner(_MIDDLE[number], inner) if number in _MIDDLE else None
    if found := re.fullmatch(r"zero_convs\.(\d+)\.0\.(weight|bias)", name):
        return f"controlnet_down_blocks.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"input_hint_block\.(\d+)\.(weight|bias)", name):
        return _hint(int(found[1]), found[2])
    if not (found := _BLOCK.fullmatch(name)):
        return None
    side, sub, inner = found[1], found[3], found[4]
    level, layer = divmod(int(found[2]) - (side == "input"), layers + 1)
    if side == "input":
        if inner.startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{inner[3:]}"
        return _inner(f"down_blocks.{level}.{'resnets' if sub == '0' else 'attentions'}.{layer}", inner)
    if re.fullmatch(r"conv\.(weight|bias)", inner):
        return f"up_blocks.{level}.upsamplers.0.{inner}"
    return _inner(f"up_blocks.{level}.{'resnets' if sub == '0' else 'attentions'}.{layer}", inner)


def _inner(place: str, inner: str) -> str | None:
    if "resnets" not in place:
        return f"{place}.{inner}"
    head, _, leaf = inner.rpartition(".")
    return f"{place}.{_RESNET[head]}.{leaf}" if head in _RESNET else None


def _hint(number: int, leaf: str) -> str | None:
    """The hint's convolutions stand at even numbers, with their activations between: 0, 2, ..., 14."""
    if number % 2 or number > 14:
        return None
    place = {0: "conv_in", 14: "conv_out"}.get(number, f"blocks.{number // 2 - 1}")
    return f"controlnet_cond_embedding.{place}.{leaf}"


def averaged_name(name: str) -> str:
    """Where the running average of ``model.<name>`` lies: latent diffusion takes the dots out.

    >>> averaged_name("diffusion_model.out.2.bias")
    'model_ema.diffusion_modelout2bias'
    """
    return "model_ema." + name.removeprefix("model.").replace(".", "") if not name.startswith("diffusion_model.") \
        else "model_ema.diffusion_model" + name.removeprefix("diffusion_model").replace(".", "")
