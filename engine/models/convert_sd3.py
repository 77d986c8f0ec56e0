"""Stable Diffusion 3's transformer (Stability's ``joint_blocks``) -> diffusers' SD3Transformer2DModel.

Query, key and value are packed in one matrix; the last layers' shift and scale stand the other way round.
Source of the facts: Stability-AI/sd3.5 ``mmditx.py``, Esser et al. 2024 (figure 2).
"""

from __future__ import annotations

import re

from engine.models.moves import How, Move

_ENDS = {"pos_embed": "pos_embed.pos_embed", "x_embedder.proj": "pos_embed.proj",
         "context_embedder": "context_embedder",
         "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
         "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
         "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
         "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
         "final_layer.linear": "proj_out"}
_BLOCK = re.compile(r"joint_blocks\.(\d+)\.(x|context)_block\.(.+?)(?:\.(weight|bias))")
_INNER = {"x": {"adaLN_modulation.1": "norm1.linear", "attn.proj": "attn.to_out.0", "attn.ln_q": "attn.norm_q",
                "attn.ln_k": "attn.norm_k", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
                "attn2.proj": "attn2.to_out.0", "attn2.ln_q": "attn2.norm_q", "attn2.ln_k": "attn2.norm_k"},
          "context": {"adaLN_modulation.1": "norm1_context.linear", "attn.proj": "attn.to_add_out",
                      "attn.ln_q": "attn.norm_added_q", "attn.ln_k": "attn.norm_added_k",
                      "mlp.fc1": "ff_context.net.0.proj", "mlp.fc2": "ff_context.net.2"}}
_PACKED = {("x", "attn.qkv"): ("attn.to_q", "attn.to_k", "attn.to_v"),
           ("x", "attn2.qkv"): ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
           ("context", "attn.qkv"): ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")}
_THIRDS: tuple[How, How, How] = ("first third", "second third", "last third")


def sd3_moves(name: str, source: str, last: int) -> dict[str, Move] | None:
    """Where a tensor of the transformer goes; None when the name is not known. last : number of its last block, whose
    context ends in a norm of its own"""
    if name in _ENDS:
        return {_ENDS[name]: Move(source)}
    head, _, leaf = name.rpartition(".")
    if head in _ENDS and leaf in ("weight", "bias"):
        return {f"{_ENDS[head]}.{leaf}": Move(source)}
    if head == "final_layer.adaLN_modulation.1":
        return {f"norm_out.linear.{leaf}": Move(source, "halves swapped")}
    if not (found := _BLOCK.fullmatch(name)):
        return None
    place, side, inner, leaf = f"transformer_blocks.{found[1]}", found[2], found[3], found[4]
    if targets := _PACKED.get((side, inner)):
        return {f"{place}.{t}.{leaf}": Move(source, how) for t, how in zip(targets, _THIRDS, strict=True)}
    if inner not in _INNER[side]:
        return None
    swapped = side == "context" and inner == "adaLN_modulation.1" and int(found[1]) == last
    return {f"{place}.{_INNER[side][inner]}.{leaf}": Move(source, "halves swapped" if swapped else "as it is")}
