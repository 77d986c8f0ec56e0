"""AnimateDiff's motion modules and motion LoRAs (guoyww/AnimateDiff, Moore-AnimateAnyone) -> diffusers' MotionAdapter.

Each attention of a block keeps its own table of positions; both are computed, the same, and diffusers keeps one.
Source of the facts: guoyww/AnimateDiff ``animatediff/models/motion_module.py`` and its LoRA converter.
"""

from __future__ import annotations

import re

_NORMS = {"norms.0": "norm1", "norms.1": "norm2", "ff_norm": "norm3"}
_LORA = re.compile(r"(.+)\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight")


def motion_name(name: str) -> str | None:
    """``...motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_q.weight`` ->
    ``...motion_modules.0.transformer_blocks.0.attn2.to_q.weight``; None when the name is not known."""
    name = name.removeprefix("module.")
    if ".motion_modules." not in name:
        return None
    name = name.replace(".temporal_transformer.", ".")
    if found := re.fullmatch(r"(.+\.transformer_blocks\.\d+)\.attention_blocks\.([01])\.(.+)", name):
        if found[3] == "pos_encoder.pe":
            return f"{found[1]}.pos_embed.pe" if found[2] == "0" else None
        return f"{found[1]}.attn{int(found[2]) + 1}.{found[3]}"
    if (found := re.fullmatch(r"(.+\.transformer_blocks\.\d+)\.(norms\.[01]|ff_norm)\.(weight|bias)", name)):
        return f"{found[1]}.{_NORMS[found[2]]}.{found[3]}"
    return name


def is_second_table(name: str) -> bool:
    """The table of positions of a block's second attention: a copy of the first's."""
    return name.endswith(".attention_blocks.1.pos_encoder.pe")


def motion_lora_name(name: str) -> tuple[str, str] | None:
    """A motion LoRA's tensor -> (module of a U-Net with motion modules, "A" or "B"); None when it is none.

    >>> motion_lora_name("mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
    ...                  ".processor.to_out_lora.up.weight")
    ('mid_block.motion_modules.0.transformer_blocks.0.attn1.to_out.0', 'B')
    """
    if not (found := _LORA.fullmatch(name.removeprefix("module."))):
        return None
    layer = "to_out.0" if found[2] == "out" else f"to_{found[2]}"
    if (module := motion_name(f"{found[1]}.{layer}.weight")) is None:
        return None
    return module.removesuffix(".weight"), "A" if found[3] == "down" else "B"
