"""Small files that change a network rather than being one: LoRA, motion LoRA, IP-Adapter, textual inversion.

Each is recognised by its names and held against the network that it says it is for. What Maquette does not load is
named here too, so that a user learns what the file is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.models import blueprints, convert_motion, convert_unet, ip_adapter_files
from engine.models.moves import Shape

CONTEXT = {768: "sd15", 1024: "sd21", 2048: "sdxl", 1280: "sdxl_refiner"}
"""Width of the text that a U-Net's cross-attention reads -> its family."""
TRANSFORMERS = {1536: "sd3", 2432: "sd35_large", 1152: "pixart_sigma"}
"""Width of a transformer without a U-Net around it -> its family."""
_LORA = re.compile(r"(?P<module>.+?)\.(?P<side>lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up|"
                   r"lora_linear_layer\.down|lora_linear_layer\.up)(?:\.default)?\.weight")
_OLD = re.compile(r"(?P<module>.+?)\.processor\.(?P<layer>to_q|to_k|to_v|to_out)_lora\.(?P<side>down|up)\.weight")
_SIDES = {"lora_down": "A", "lora_A": "A", "lora.down": "A", "lora_linear_layer.down": "A", "down": "A"}
_PARTS = (("lora_te1_", "te_"), ("lora_te2_", "te2_"), ("lora_te_", "te_"), ("text_encoder_2_", "te2_"),
          ("text_encoder_", "te_"), ("lora_unet_", "unet_"), ("unet_", "unet_"),
          ("transformer_transformer_", "unet_transformer_"), ("transformer_pos_embed_", "unet_pos_embed_"),
          ("transformer_proj_out", "unet_proj_out"))
"""What stands before a module's name in any layout -> the part in short."""
ALPHAS = (".alpha", ".lora_alpha", ".network_alpha")
_NO_PLAIN_LORA = ("hada_", "lokr_", "oft_", "glora", ".diff", "dora_scale", "boft")
OTHERS: tuple[tuple[str, str], ...] = (
    (r"double_blocks\.0\.img_attn|lora_unet_double_blocks|transformer\.single_transformer_blocks", "FLUX"),
    (r"camera_embed\.0|\.camera_embed\.", "MVDream or ImageDream"),
    (r"model\.diffusion_model\.input_blocks\.\d+\.\d+\.time_stack", "Stable Video Diffusion or SV3D"),
    (r"^(encoder|decoder)\.layers\.\d+\.(weight|conv\.)", "a tiny autoencoder (TAESD)"),
    (r"(controlnet_cond_embedding|input_hint_block).*", "SparseCtrl, or a ControlNet of a kind that is not known"),
    (r"clip_txt_mapper|down_blocks\.1\.0\.channelwise", "Stable Cascade"),
    (r"head\.modulation|blocks\.0\.cross_attn\.norm_k", "Wan"),
    (r"patchify_proj|scale_shift_table.*ltx", "LTX-Video"),
    (r"txt_in\.individual_token_refiner", "HunyuanVideo"),
    (r"transformer_blocks\.0\.norm1\.linear.*cogvideo|patch_embed\.text_proj", "CogVideoX"),
    (r"^t_block\.1\.(weight|bias)|^y_embedder\.y_embedding",
     "PixArt in its original layout: give its diffusers folder"),
    (r"^blocks\.0\.adaLN_modulation\.1\.", "DiT in its original layout: give its diffusers folder"),
    (r"(^|\.)adapter\.body\.0|^body\.0\.block1", "a T2I-Adapter"),
    (r"position_net\.|\.fuser\.", "GLIGEN"),
    (r"conv_body|RRDB_trunk|body\.0\.rdb1", "an ESRGAN upscaler"),
    (r"image_encoder\.blocks\.0\.attn\.rel_pos", "Segment Anything"),
    (r"^(bb|squeeze_module)\.|decoder\.decoder_block4", "BiRefNet"),
    (r"to_[kv]_ip|image_proj", "an IP-Adapter of a kind that is not known"),
    (r"lokr_|hada_|oft_|boft", "LyCORIS (LoHa, LoKr, OFT)"),
    (r"diffusion_model\.", "a latent-diffusion checkpoint of a kind that is not known"),
)
"""(a name's pattern, what such a file is): files that Maquette knows of and does not load."""


def what_else(names: Iterable[str]) -> str:
    """What a file is that Maquette does not load; "" when nobody knows."""
    held = list(names)
    return next((what for sign, what in OTHERS if any(re.search(sign, n) for n in held)), "")


def recognise(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """The fields of a :class:`engine.models.layouts.Layout`, for an adapter; None for anything else."""
    names = list(shapes)
    if any(n.startswith(("image_proj", "ip_adapter")) for n in names):
        return ip_adapter_files.recognise(shapes)
    if any(".motion_modules." in n and (convert_motion.motion_lora_name(n) or lora_tensor(n)) for n in names):
        return _motion_lora(shapes)
    if any(_LORA.fullmatch(n) or _OLD.fullmatch(n) for n in names) or any(n.startswith(("lora_unet_", "lora_te"))
                                                                           for n in names):
        return _lora(shapes)
    return _embedding(shapes)


# -- textual inversion -------------------------------------------------------------------------------------------------


def _embedding(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """A few rows of token embeddings, and nothing else in the file."""
    rows = {n: s for n, s in shapes.items() if len(s) in (1, 2) and s[-1] in CONTEXT and (len(s) == 1 or s[0] <= 128)}
    if not rows or len(shapes) > 4 or len(rows) < len(shapes):
        return None
    names = set(rows)
    if names == {"clip_l", "clip_g"}:
        return {"family": "sdxl", "role": "textual_inversion", "layout": "kohya", "parts": ("embedding",)}
    if any(n.endswith((".weight", ".bias")) for n in names):  # of a network, not of words
        return None
    layout = ("a1111" if any(n == "emb_params" or n.startswith("string_to_param") for n in names) else "diffusers")
    widths = {s[-1] for s in rows.values()}
    if len(widths) != 1:
        return {"family": "unknown", "role": "textual_inversion", "layout": layout, "parts": ("embedding",),
                "unexpected": tuple(rows), "note": "rows of several widths"}
    return {"family": CONTEXT[widths.pop()], "role": "textual_inversion", "layout": layout, "parts": ("embedding",)}


# -- LoRA --------------------------------------------------------------------------------------------------------------


def _motion_lora(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    modules = blueprints.blueprint("sd15", "motion_adapter_v2").shapes
    sides: dict[str, dict[str, Shape]] = {}
    unexpected = []
    for name, shape in shapes.items():
        found = convert_motion.motion_lora_name(name)
        if found is None and (side := lora_tensor(name)):
            found = side[0].removeprefix("unet."), side[1]
        if found is None or f"{found[0]}.weight" not in modules:
            unexpected.append(name)
        else:
            sides.setdefault(found[0], {})[found[1]] = shape
    missing, wrong = _halves(sides, {m: modules[f"{m}.weight"] for m in sides})
    layout = "animatediff" if any("temporal_transformer" in n for n in shapes) else "diffusers"
    return {"family": "sd15", "role": "motion_lora", "layout": layout, "parts": ("motion_adapter",),
            "missing": missing, "unexpected": tuple(unexpected), "wrong": wrong}


def _halves(sides: Mapping[str, Mapping[str, Shape]], layers: Mapping[str, Shape]
            ) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(halves that are missing, pairs that do not fit their layer) of a LoRA's modules."""
    missing = tuple(f"{module}.lora_{side}" for module, held in sides.items() for side in "AB" if side not in held)
    wrong = []
    for module, held in sides.items():
        if len(held) == 2:
            down, up, layer = held["A"], held["B"], layers[module]
            made = (up[0], *down[1:]) if up and down and up[1:2] == down[:1] else ()
            if made != layer and made[:2] != layer[:2]:
                wrong.append(f"{module}: {made or (up, down)}, not {layer}")
    return missing, tuple(wrong)


def _lora(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    sides: dict[str, dict[str, Shape]] = {}
    unexpected = []
    for name, shape in shapes.items():
        if found := lora_tensor(name):
            sides.setdefault(found[0], {})[found[1]] = shape
        elif not name.endswith(ALPHAS):
            unexpected.append(name)
    layout = ("kohya" if any(m.startswith("lora_") for m in sides) else
              "diffusers, old" if any(".processor." in n or "lora.down" in n or "lora_linear" in n for n in shapes) else
              "peft" if any(m.startswith("base_model.") for m in sides) else "diffusers")
    family = _family(sides)
    base = {"role": "lora", "layout": layout}
    if odd := next((kind for kind in _NO_PLAIN_LORA if any(kind in n for n in unexpected)), ""):
        base["note"] = f"no plain LoRA: it holds {odd.strip('._')}"
    if family == "unknown":
        what = what_else(shapes)
        return {**base, "family": "unknown", "unexpected": tuple(shapes), "nearest": what,
                "note": base.get("note") or f"a LoRA of {what or 'no known family'}"}
    parts, matched, layers = [], {}, {}
    known = _modules(family)
    for module, held in sides.items():
        found_in = known.get(flat(module))
        if found_in is None:
            unexpected += [n for n in shapes if n.startswith(f"{module}.")]
            continue
        part, name, layer = found_in
        parts.append(part)
        matched[f"{part}/{name}"], layers[f"{part}/{name}"] = held, layer
    missing, wrong = _halves(matched, layers)
    return {**base, "family": family, "parts": tuple(dict.fromkeys(parts)), "missing": missing,
            "unexpected": tuple(unexpected), "wrong": wrong}


def _family(sides: Mapping[str, Mapping[str, Shape]]) -> str:
    """By the width that cross-attention reads; else by the blocks that have attention, and their widths."""
    unets = {m: h for m, h in sides.items() if not _is_text(m)}
    for module, held in unets.items():
        if re.search(r"attn2[._]to_k$", module) and "A" in held and len(held["A"]) > 1:
            return CONTEXT.get(held["A"][1], "unknown")
    for module, held in unets.items():
        if re.search(r"transformer_blocks[._]\d+[._]attn1?[._]to_q$", module) and "_blocks_" not in _plain(module):
            return TRANSFORMERS.get(held["A"][1] if len(held.get("A", ())) > 1 else 0, "unknown")
    if any(re.search(r"transformer_blocks[._][2-9]", m) for m in unets if "single_" not in m):
        return "sdxl"
    if any(re.search(r"(down_blocks[._]\d|mid_block|up_blocks[._]\d)", m) for m in unets):
        return "sd15"
    texts = {h["A"][1] for m, h in sides.items() if "A" in h and len(h["A"]) > 1 and "fc1" in m}
    if not unets and texts:
        return "sdxl" if any("te2" in m or "text_encoder_2" in m for m in sides) else (
            CONTEXT.get(texts.pop(), "unknown") if len(texts) == 1 else "unknown")
    return "unknown"


def _plain(module: str) -> str:
    """What stands before a module's transformer blocks, flat."""
    return "_" + module.replace(".", "_").partition("transformer_blocks")[0]


def _is_text(module: str) -> bool:
    return module.startswith(("lora_te", "text_encoder", "lora_te1_", "lora_te2_"))


def lora_tensor(name: str) -> tuple[str, str] | None:
    """A tensor's name in a LoRA of any layout -> (module as the file names it, "A" or "B"); None for other names."""
    if found := _LORA.fullmatch(name):
        return found["module"], _SIDES.get(found["side"], "B")
    if found := _OLD.fullmatch(name):
        layer = "to_out.0" if found["layer"] == "to_out" else found["layer"]
        return f"{found['module']}.{layer}", _SIDES.get(found["side"], "B")
    return None


def flat(module: str) -> str:
    """A LoRA's module under kohya's flat name, diffusers' numbering: ``unet_down_blocks_0_...`` or ``te_...``."""
    name = module.removeprefix("base_model.model.").replace(".", "_")
    for before, short in _PARTS:
        if name.startswith(before):
            name = short + name.removeprefix(before)
            break
    else:
        name = f"unet_{name}"
    name = name.replace("_text_model_", "_").replace("_processor_", "_")
    if found := re.fullmatch(r"unet_(input|output)_blocks_(\d+)_(\d+)_(.+)", name):
        return "unet_" + _from_ldm(f"{found[1]}_blocks.{found[2]}.{found[3]}", found[4])
    if found := re.fullmatch(r"unet_middle_block_(\d)_(.+)", name):
        return "unet_" + _from_ldm(f"middle_block.{found[1]}", found[2])
    return name


def _from_ldm(place: str, inner: str) -> str:
    """Latent diffusion's numbering (kohya's LoRAs of SDXL) -> diffusers', flat."""
    dotted = re.sub(r"^(in_layers|emb_layers|out_layers)_(\d)$", r"\1.\2", inner)
    name = convert_unet.unet_name(f"{place}.{dotted}.weight") or f"{place}.{inner}.weight"
    return name.removesuffix(".weight").replace(".", "_")


def _modules(family: str) -> dict[str, tuple[str, str, Shape]]:
    """Flat name -> (part, module, shape of its weight) of everything that a LoRA of the family may change."""
    found = {}
    for part, short in (("unet", "unet"), ("transformer", "unet"), ("text_encoder", "te"), ("text_encoder_2", "te2")):
        if blueprints.config_folder(family, part):
            for name, shape in blueprints.blueprint(family, part).shapes.items():
                if name.endswith(".weight") and len(shape) > 1:
                    module = name.removesuffix(".weight").removeprefix("text_model.")
                    found[f"{short}_{module.replace('.', '_')}"] = (part, module, shape)
    return found
