"""IP-Adapter's files (Ye et al. 2023): a projection of the picture's embedding to tokens, and for each cross-attention
of the U-Net a key and a value matrix of its own.

The matrices are numbered by the U-Net's attentions in the order down, up, middle; self-attentions have the even
numbers, so the file has odd ones only. Kinds: "base" (one linear map to 4 tokens), "plus" (a resampler over CLIP's
patches, Alayrac et al. 2022), "full" (a token a patch), "face" (InstantID's resampler over a face's 512 numbers).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.models import blueprints
from engine.models.moves import Shape, said

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("sd15", "sdxl", "sd21")
FACE_NUMBERS = 512
PARTS = ("image_proj", "ip_adapter")


def split(name: str) -> tuple[str, str] | None:
    """``ip_adapter.1.to_k_ip.weight`` (or with "/") -> ("ip_adapter", "1.to_k_ip.weight"); None for other names."""
    found = re.fullmatch(r"(image_proj|ip_adapter)[./](.+)", name)
    return (found[1], found[2]) if found else None


@cache
def attention_shapes(family: str) -> dict[str, Shape]:
    """``1.to_k_ip.weight`` -> shape, of every cross-attention of a family's U-Net."""
    places = [name for name in blueprints.blueprint(family, "unet").shapes if name.endswith((".attn1.to_k.weight",
                                                                                             ".attn2.to_k.weight"))]
    return _numbered(places, blueprints.blueprint(family, "unet").shapes)


def _numbered(places: Sequence[str], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    made = {}
    # A U-Net lists its parts as down, up, middle; the numbers count attentions of both kinds.
    for number, place in enumerate(sorted(places, key=_part_order)):
        if ".attn2." in place:
            made[f"{number}.to_k_ip.weight"] = made[f"{number}.to_v_ip.weight"] = shapes[place]
    return made


def _part_order(place: str) -> int:
    return ("down_blocks", "up_blocks", "mid_block").index(place.partition(".")[0])


def projection_shapes(held: Mapping[str, Shape], context: int) -> tuple[str, dict[str, Shape]]:
    """(kind, name -> shape) that a projection of the kind in ``held`` must have; ("", {}) when the kind is not known.

    context : width of the U-Net's cross-attention
    """
    matrices = ("proj.weight", "proj.0.weight", "proj_in.weight", "layers.0.0.to_q.weight")
    if any(len(held[name]) != 2 for name in matrices if name in held):
        return "", {}
    if "proj.weight" in held:
        tokens, width = held["proj.weight"][0] // context, held["proj.weight"][-1]
        return "base", {"proj.weight": (tokens * context, width), "proj.bias": (tokens * context,),
                        "norm.weight": (context,), "norm.bias": (context,)}
    if "proj.3.weight" in held and "proj.0.weight" in held:
        width = held["proj.0.weight"][-1]
        return "full", {"proj.0.weight": (width, width), "proj.0.bias": (width,), "proj.2.weight": (context, width),
                        "proj.2.bias": (context,), "proj.3.weight": (context,), "proj.3.bias": (context,)}
    if "latents" in held and "proj_in.weight" in held and len(held["latents"]) == 3:
        return _resampler(held, context)
    return "", {}


def _resampler(held: Mapping[str, Shape], context: int) -> tuple[str, dict[str, Shape]]:
    _, queries, width = held["latents"]
    seen = held["proj_in.weight"][-1]
    inner = held.get("layers.0.0.to_q.weight", (width,))[0]  # heads x 64; the output comes back to the width
    depth = 1 + max((int(n.split(".")[1]) for n in held if n.startswith("layers.")), default=-1)
    wanted: dict[str, Shape] = {
        "latents": (1, queries, width), "proj_in.weight": (width, seen), "proj_in.bias": (width,),
        "proj_out.weight": (context, width), "proj_out.bias": (context,), "norm_out.weight": (context,),
        "norm_out.bias": (context,)}
    for i in range(depth):
        wanted |= {f"layers.{i}.0.norm1.weight": (width,), f"layers.{i}.0.norm1.bias": (width,),
                   f"layers.{i}.0.norm2.weight": (width,), f"layers.{i}.0.norm2.bias": (width,),
                   f"layers.{i}.0.to_q.weight": (inner, width), f"layers.{i}.0.to_kv.weight": (2 * inner, width),
                   f"layers.{i}.0.to_out.weight": (width, inner), f"layers.{i}.1.0.weight": (width,),
                   f"layers.{i}.1.0.bias": (width,), f"layers.{i}.1.1.weight": (4 * width, width),
                   f"layers.{i}.1.3.weight": (width, 4 * width)}
    return ("face" if seen == FACE_NUMBERS else "plus"), wanted


def examine(shapes: Mapping[str, Shape]) -> tuple[str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """-> (family, kind, missing, unexpected, wrong) of a file's names; family "unknown" where no matrix fits."""
    held: dict[str, dict[str, Shape]] = {part: {} for part in PARTS}
    unexpected = []
    for name, shape in shapes.items():
        if (place := split(name)) is None:
            unexpected.append(name)
        else:
            held[place[0]][place[1]] = shape
    widths = {shape[-1] for shape in held["ip_adapter"].values() if len(shape) == 2}
    family = next((f for f in FAMILIES if {s[-1] for s in attention_shapes(f).values()} == widths), "unknown")
    if family == "unknown":
        return family, "", (), tuple(shapes), ()
    context = widths.pop()
    kind, wanted = projection_shapes(held["image_proj"], context)
    missing, wrong = [], []
    for part, needs in (("image_proj", wanted), ("ip_adapter", attention_shapes(family))):
        missing += [f"{part}/{name}" for name in needs if name not in held[part]]
        unexpected += [f"{part}.{name}" for name in held[part] if name not in needs]
        wrong += [f"{part}.{name} is {said(held[part][name])}, not {said(shape)}" for name, shape in needs.items()
                  if held[part].get(name, shape) != shape]
    return family, kind, tuple(missing), tuple(unexpected), tuple(wrong)


def recognise(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The fields of a :class:`engine.models.layouts.Layout`."""
    family, kind, missing, unexpected, wrong = examine(shapes)
    note = f"kind: {kind}" if kind else "its projection is of a kind that is not known (face-ID adapters are not)"
    return {"family": family, "role": "image_prompt", "layout": "ip_adapter", "parts": PARTS, "missing": missing,
            "unexpected": unexpected, "wrong": wrong, "note": note}


def read_ip_adapter(path: Path, family: str = "", *, allow_pickle: bool = False
                    ) -> tuple[str, str, dict[str, dict[str, Tensor]]]:
    """-> (family, kind, {"image_proj": ..., "ip_adapter": ...}), as published and as diffusers' U-Nets take them.

    family : the one it must be for; "" : any. Raises BadInput for another family, and for any name or shape that is
    not accounted for.
    """
    from engine.models.reader import read_header, read_tensors
    header = read_header(path)
    found, kind, missing, unexpected, wrong = examine({n: e.shape for n, e in header.tensors.items()})
    if found == "unknown" or not kind:
        raise BadInput(f"{path} is no IP-Adapter of a known kind", "give one of base, plus, full or InstantID's")
    if family and found != family:
        raise BadInput(f"{path} is an IP-Adapter for {found}, not for {family}", f"give one for {family}")
    if missing or unexpected or wrong:
        first = (*missing, *unexpected, *wrong)[0]
        raise BadInput(f"{path} is not a whole IP-Adapter for {found}: {len(missing)} missing, {len(unexpected)} "
                       f"unexpected, {len(wrong)} of wrong shape, first {first}", "pull it again")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in read_tensors(path, allow_pickle=allow_pickle).items():
        part, inner = split(name) or ("", "")
        parts[part][inner] = tensor
    return found, kind, parts
