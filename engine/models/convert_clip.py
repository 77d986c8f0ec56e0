"""CLIP's towers in OpenAI's and OpenCLIP's layout, and transformers' own with and without its prefix -> transformers'.

OpenAI's packs query, key and value in one ``in_proj`` and keeps both projections as matrices that are multiplied from
the right, so they are transposed here. transformers 5 knows CLIPTextModel without the prefix ``text_model.`` that every
published file has; the classes with projections keep theirs.
Source of the facts: openai/CLIP ``clip/model.py``, mlfoundations/open_clip, transformers ``models/clip``.
"""

from __future__ import annotations

import re

from engine.models.moves import Move

_LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
          "attn.out_proj": "self_attn.out_proj"}
_TEXT = {"token_embedding.weight": "embeddings.token_embedding.weight",
         "positional_embedding": "embeddings.position_embedding.weight",
         "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias"}
_VISION = {"class_embedding": "embeddings.class_embedding", "conv1.weight": "embeddings.patch_embedding.weight",
           "positional_embedding": "embeddings.position_embedding.weight",
           "ln_pre.weight": "pre_layrnorm.weight", "ln_pre.bias": "pre_layrnorm.bias",
           "ln_post.weight": "post_layernorm.weight", "ln_post.bias": "post_layernorm.bias"}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_PACKED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")


def text_moves(name: str, source: str) -> dict[str, Move] | None:
    """Where a tensor of OpenCLIP's text tower goes, by name in the flat text model; {} for what is not needed
    (``logit_scale``, the attention mask), None when the name is not known. source : its full name in the file"""
    if name in _TEXT:
        return {_TEXT[name]: Move(source)}
    if name == "text_projection":
        return {"text_projection.weight": Move(source, "transposed")}
    if name in ("logit_scale", "attn_mask"):
        return {}
    return _block_moves(name, source)


def vision_moves(name: str, source: str) -> dict[str, Move] | None:
    """As :func:`text_moves`, of the image tower (``visual.`` taken off)."""
    if name in _VISION:
        return {_VISION[name]: Move(source)}
    if name == "proj":
        return {"visual_projection.weight": Move(source, "transposed")}
    return _block_moves(name, source)


def _block_moves(name: str, source: str) -> dict[str, Move] | None:
    if found := _PACKED.fullmatch(name):
        place = f"encoder.layers.{found[1]}.self_attn"
        return {f"{place}.q_proj.{found[2]}": Move(source, "first third"),
                f"{place}.k_proj.{found[2]}": Move(source, "second third"),
                f"{place}.v_proj.{found[2]}": Move(source, "last third")}
    if (found := _BLOCK.fullmatch(name)) and found[2] in _LAYER:
        return {f"encoder.layers.{found[1]}.{_LAYER[found[2]]}.{found[3]}": Move(source)}
    return None


def layer_number(name: str) -> int | None:
    """Which layer of a tower a name belongs to; None outside of them."""
    found = re.search(r"(?:resblocks|encoder\.layers)\.(\d+)\.", name)
    return int(found[1]) if found else None
