"""Names of latent diffusion's autoencoder (CompVis ``first_stage_model``) -> diffusers' AutoencoderKL.

Levels of the encoder count from the picture down; those of the decoder too, where diffusers counts from the latents up.
Attention is a 1 x 1 convolution there and a linear layer here: the same numbers.
Source of the facts: CompVis/latent-diffusion ``ldm/modules/diffusionmodules/model.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(block\.(\d+)|downsample|upsample)\.(.+)")
_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(block_1|block_2|attn_1)\.(.+)")


def levels(names: Iterable[str]) -> int:
    """How many levels the decoder has (4 in Stable Diffusion)."""
    return 1 + max((int(m[1]) for n in names if (m := re.search(r"decoder\.up\.(\d+)\.", n))), default=3)


def vae_name(name: str, count: int = 4) -> str | None:
    """``decoder.up.3.block.0.nin_shortcut.weight`` -> ``decoder.up_blocks.0.resnets.0.conv_shortcut.weight`` with
    ``count`` 4 levels; None when the name is not known."""
    if found := _BLOCK.fullmatch(name):
        side, level, what, layer, inner = found[1], int(found[2]), found[3], found[4], found[5]
        place = f"encoder.down_blocks.{level}" if side == "encoder" else f"decoder.up_blocks.{count - 1 - level}"
        if layer is None:
            return f"{place}.{what}rs.0.{inner}" if inner.startswith("conv.") else None
        return f"{place}.resnets.{layer}.{inner.replace('nin_shortcut', 'conv_shortcut')}"
    if found := _MIDDLE.fullmatch(name):
        side, what, inner = found[1], found[2], found[3]
        if what == "attn_1":
            head, _, leaf = inner.rpartition(".")
            return f"{side}.mid_block.attentions.0.{_ATTENTION[head]}.{leaf}" if head in _ATTENTION else None
        return f"{side}.mid_block.resnets.{int(what[-1]) - 1}.{inner}"
    if re.fullmatch(r"(encoder|decoder)\.(conv_in|conv_out|norm_out)\.(weight|bias)", name):
        return name.replace(".norm_out.", ".conv_norm_out.")
    if re.fullmatch(r"(post_)?quant_conv\.(weight|bias)", name):
        return name
    return None


def todays_name(name: str) -> str:
    """diffusers' own names of before 0.17 (query, key, value, proj_attn in the VAE's attention) -> today's."""
    before, _, leaf = name.rpartition(".")
    place, _, what = before.rpartition(".")
    if what in _OLD_ATTENTION and place.endswith("mid_block.attentions.0"):
        return f"{place}.{_OLD_ATTENTION[what]}.{leaf}"
    return name
