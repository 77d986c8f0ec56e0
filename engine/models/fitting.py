"""A part's tensors and the network they are for: what is named otherwise there, and what a file may hold beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.models import convert_clip
from engine.models.blueprints import Blueprint
from engine.models.moves import Move

BESIDE: tuple[tuple[str, str, str], ...] = (
    (r"CLIPText\w+", r"vision_model\..+|visual_projection\..+", "CLIP's image tower, which nothing asks"),
    (r"CLIPVision\w+", r"text_model\..+|text_projection\..+", "CLIP's text tower, which nothing asks"),
    (r"CLIP\w+", r"(.*\.)?position_ids|logit_scale", "counted, not learned"),
    (r"CLIPTextModel", r"text_projection\.weight", "a projection that the network is not given"),
    (r"CLIPVisionModel", r"visual_projection\.weight", "a projection that the network is not given"),
    (r"T5EncoderModel", r"decoder\..+|lm_head\..+", "T5's decoder, which nothing asks"),
    (r"AutoencoderKL", r"loss\..+|model_ema\..+", "the autoencoder's training"),
    (r"PixArtTransformer2DModel|DiTTransformer2DModel", r"pos_embed(\.pos_embed)?", "computed, not learned"),
)
"""(class, name in the part, why nothing needs it): what may lie beside the weights of a network and is known."""


def settle(moves: Mapping[str, Move], blueprint: Blueprint) -> tuple[dict[str, Move], dict[str, str]]:
    """-> (moves under the names that the network has, source -> why it is left).

    Names that are neither the network's nor known to lie beside it stay, to be found unexpected.
    """
    wanted, cls = blueprint.shapes, blueprint.cls
    kept: dict[str, Move] = {}
    spare: dict[str, str] = {}
    layers = max((n for name in wanted if (n := convert_clip.layer_number(name)) is not None), default=0)
    for name, move in moves.items():
        found = name if name in wanted else _prefixed(name, wanted)
        if found in wanted:
            kept[found] = move
        elif why := next((why for kind, names, why in BESIDE if re.fullmatch(kind, cls) and re.fullmatch(names, name)),
                         ""):
            spare[move.source] = why
        elif cls == "CLIPTextModel" and (convert_clip.layer_number(name) or 0) == layers + 1:
            spare[move.source] = "the text tower's last layer, which the network is not given"  # Stable Diffusion 2
        else:
            kept[name] = move
    for name, twin in blueprint.copies.items():
        if name not in kept and twin in kept:
            kept[name] = kept[twin]
    return kept, spare


def _prefixed(name: str, wanted: Mapping[str, object]) -> str:
    """The name with or without transformers' prefix, whichever the network has."""
    for prefix in ("text_model.", "vision_model."):
        if name.startswith(prefix) and name.removeprefix(prefix) in wanted:
            return name.removeprefix(prefix)
        if prefix + name in wanted:
            return prefix + name
    return name
