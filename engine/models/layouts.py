"""What a file of weights is: its family, its role, its layout, and what of it is missing or left over.

Names and shapes decide, never the file's name. What does not fit is listed, and a file that fits none of the shipped
descriptions nearly is of the family "unknown", with the nearest one named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.models import adapter_layouts, blueprints, convert
from engine.models.fitting import settle
from engine.models.moves import Account, Move, Plan, Shape, account

if TYPE_CHECKING:
    from engine.models.reader import Header

UNKNOWN = "unknown"
ROLES: dict[str, str] = {
    "zero123": "novel_view", "stable_zero123": "novel_view", "zero123plus": "novel_view",
    "sd15_inpaint": "inpaint", "sd21_inpaint": "inpaint", "sdxl_inpaint": "inpaint", "sd_x4_upscaler": "upscale",
    "deepfloyd_2": "upscale", "sdxl_refiner": "refine", "sd15_pix2pix": "edit", "animate_anyone": "reference_animation",
    "dit": "class_to_image",
}
"""What a family is used for, where that is not text to image."""
PART_ROLES: dict[str, str] = {
    "controlnet": "control", "motion_adapter": "motion", "vae": "vae", "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder", "text_encoder_3": "text_encoder", "image_encoder": "image_encoder",
    "pose_guider": "reference_animation", "cc_projection": "novel_view", "clip": "image_text",
}
"""What a file is used for that holds one part and no denoising network."""
FOLDER_NAMES: dict[str, tuple[str, ...]] = {
    "cc_projection": ("cc_projection", "clip_camera_projection"), "image_encoder": ("image_encoder", "vision_encoder"),
    "transformer": ("transformer",), "controlnet": ("controlnet", "ControlNetModel"),
}
"""Folders in which a part may lie, where they are not called as the part is."""
NEVER_NEEDED = ("safety_checker",)
MAIN = ("unet", "transformer", "reference_unet", "controlnet", "motion_adapter", "pose_guider", "cc_projection",
        "clip", "image_encoder", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
"""Parts, the one that says most about the family first."""
STRANGE = 0.1
"""Share of missing and strange names above which a file is none of a family that it resembles."""
HEADLESS = ("conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias")


@dataclass(frozen=True)
class Layout:
    """What lies in a file or in a folder's files.

    family : "sd15", "sdxl", "zero123", ...; "unknown" where nothing fits
    role : "text_to_image", "novel_view", "control", "lora", ...; "" when unknown
    layout : "ldm" (single file with prefixes), "diffusers", "transformers", "open_clip", "animatediff", "kohya", ...
    parts : what it holds, by diffusers' names; missing : "part/name" that a part lacks
    unexpected : names of the file that nothing known takes; wrong : tensors of other shapes than they must have
    spare : what is left unused and known : reason -> how many tensors
    nearest : of an unknown file, the family that it is most like; note : one line on what names cannot tell
    """

    family: str
    role: str
    layout: str
    parts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    spare: Mapping[str, int] = field(default_factory=dict)
    nearest: str = ""
    note: str = ""

    @property
    def whole(self) -> bool:
        """Whether every name and shape is accounted for."""
        return self.family != UNKNOWN and not (self.missing or self.unexpected or self.wrong)


@dataclass(frozen=True)
class Found:
    """A part and the shipped (or its own) description that fits it best."""

    part: str
    families: tuple[str, ...]
    account: Account
    spare: Mapping[str, str]
    moves: int


def recognise(headers: Header | Sequence[Header] | Mapping[str, Header]) -> Layout:
    """What one file is, or several together (a folder's components: name -> header, or just their headers)."""
    if isinstance(headers, Mapping):
        named = dict(headers)
    elif isinstance(headers, Sequence):
        named = {f"{i}": header for i, header in enumerate(headers)}
    else:
        named = {"": headers}
    named = {name: header for name, header in named.items() if name not in NEVER_NEEDED}
    if len(named) == 1:
        (name, header), = named.items()
        if (adapter := adapter_layouts.recognise(shapes_of(header))) is not None:
            return Layout(**adapter)
        return _of_plan(*_plan(header, part_of_folder(name)))
    return _together([_of_plan(*_plan(header, part_of_folder(name))) for name, header in named.items()])


def shapes_of(header: Header) -> dict[str, Shape]:
    """Name -> shape of a header's tensors."""
    return {name: entry.shape for name, entry in header.tensors.items()}


def part_of_folder(name: str) -> str:
    """``clip_camera_projection`` -> ``cc_projection``; "" for names that say nothing."""
    known = next((part for part, names in FOLDER_NAMES.items() if name in names), name)
    return known if known in MAIN else ""


def _plan(header: Header, part: str) -> tuple[Plan, dict[str, Shape], dict[str, Any] | None, str]:
    shapes = shapes_of(header)
    parent = header.path.parent
    part = part or part_of_folder(parent.name)
    made = convert.plan(shapes, part)
    config = None
    if len(made.parts) == 1 and (parent / "config.json").is_file() and _layout_of(shapes) in ("diffusers",
                                                                                           "transformers"):
        config = blueprints.read_config(parent)
    return made, shapes, config, _layout_of(shapes)


def _layout_of(names: Iterable[str]) -> str:
    held = list(convert.unwrapped(list(names)))
    if any(n.startswith(convert.PREFIXES) for n in held):
        return "ldm"
    if any(n.startswith(("input_blocks.", "encoder.down.", "joint_blocks.")) for n in held):
        return "ldm"
    if any("temporal_transformer" in n for n in held):
        return "animatediff"
    if any(n.startswith(("visual.", "transformer.resblocks.")) for n in held):
        return "open_clip"
    if any(n.startswith(("text_model.", "vision_model.", "embeddings.", "encoder.block.", "shared.")) for n in held):
        return "transformers"
    return "diffusers"


def _of_plan(made: Plan, shapes: Mapping[str, Shape], config: dict[str, Any] | None, layout: str) -> Layout:
    found = [fit_part(part, moves, shapes, config) for part, moves in made.parts.items()]
    found.sort(key=lambda f: MAIN.index(f.part) if f.part in MAIN else len(MAIN))
    if not found:
        what = adapter_layouts.what_else(shapes)
        return Layout(UNKNOWN, "", "", unexpected=tuple(shapes), nearest=what,
                      note=f"it looks like {what}" if what else "")
    spare: dict[str, int] = {}
    for why in [*made.spare.values(), *(w for f in found for w in f.spare.values())]:
        spare[why] = spare.get(why, 0) + 1
    parts = tuple(f.part for f in found)
    missing = tuple(f"{f.part}/{name}" for f in found for name in f.account.missing)
    unexpected = (*(n for f in found for n in f.account.unexpected), *made.strange)
    wrong = tuple(line for f in found for line in f.account.wrong)
    family, note = _family(found)
    nearest = ""
    if len(missing) + len(unexpected) + len(wrong) > STRANGE * sum(f.moves for f in found):
        nearest = adapter_layouts.what_else(shapes) or family
        family, note = UNKNOWN, f"it is most like {nearest}"
    return Layout(family, role_of(family, parts), layout, parts, missing, unexpected, wrong, spare, nearest, note)


def role_of(family: str, parts: Sequence[str]) -> str:
    """What a file of these parts is used for; the first part says most."""
    if not parts:
        return ""
    if "controlnet" in parts:  # its first files came with all of Stable Diffusion
        return "control"
    if parts[0] in ("unet", "transformer", "reference_unet"):
        return ROLES.get(family, "text_to_image")
    return PART_ROLES.get(parts[0], "")


# -- parts and families ------------------------------------------------------------------------------------------------


def fit_part(part: str, moves: Mapping[str, Move], shapes: Mapping[str, Shape], config: Mapping[str, Any] | None
             ) -> Found:
    """The description that fits a part best: its own config's where it has one, else of those that ship."""
    if config is not None:
        blueprint = blueprints.of_config(config, part)
        kept, spare = settle(moves, blueprint)
        return Found(part, kin(part, config), account(kept, shapes, blueprint.shapes), spare, len(moves))
    best: list[tuple[int, str, Account, dict[str, str]]] = []
    for family, name in _candidates(part, moves, shapes):
        blueprint = blueprints.blueprint(family, name)
        kept, spare = settle(moves, blueprint)
        held = account(kept, shapes, blueprint.shapes)
        best.append((len(held.missing) + len(held.unexpected) + len(held.wrong), family, held, spare))
    if not best:
        return Found(part, (), Account(unexpected=tuple(m.source for m in moves.values())), {}, len(moves))
    least = min(n for n, *_ in best)
    first = next(b for b in best if b[0] == least)
    if part == "unet" and not (first[2].unexpected or first[2].wrong) and set(first[2].missing) == set(HEADLESS):
        return Found("reference_unet", ("animate_anyone",), Account(), first[3], len(moves))
    return Found(part, tuple(family for n, family, *_ in best if n == least), first[2], first[3], len(moves))


def _candidates(part: str, moves: Mapping[str, Move], shapes: Mapping[str, Shape]) -> list[tuple[str, str]]:
    """(family, name of its description) of all that could be this part; networks by the facts that shapes show."""
    all_of = [(folder.parent.name, folder.name) for folder in sorted(blueprints.CONFIGS.glob("*/*"))
              if folder.name == part or folder.name.startswith(f"{part}_v")
              or (part == "text_encoder" and folder.name.startswith(part))]
    if part not in ("unet", "transformer", "controlnet"):
        return all_of
    seen = sketch_shapes({name: move.shape(shapes[move.source]) for name, move in moves.items()})
    scored = []
    for family, name in all_of:
        told = sketch_config(blueprints.read_config(blueprints.CONFIGS / family / name))
        if told.get("kind") == seen.get("kind"):
            scored.append((sum(seen.get(k) == v for k, v in told.items()), family, name))
    most = max((n for n, *_ in scored), default=0)
    return [(family, name) for n, family, name in scored if n == most]


def sketch_shapes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The facts that tell denoising networks apart, from names and shapes of one in diffusers' layout."""
    if "conv_in.weight" not in shapes and any(name.startswith("transformer_blocks.") for name in shapes):
        layers = 1 + max(int(n.split(".")[1]) for n in shapes if n.startswith("transformer_blocks."))
        kind = ("SD3Transformer2DModel" if any(".add_q_proj." in n or "norm1_context" in n for n in shapes) else
                "PixArtTransformer2DModel" if "adaln_single.linear.weight" in shapes else "DiTTransformer2DModel")
        return {"kind": kind, "layers": layers, "sizes": any("resolution_embedder" in n for n in shapes),
                "dual": any(".attn2.to_q." in n for n in shapes) if kind.startswith("SD3") else False,
                "normed": any(".attn.norm_q." in n for n in shapes)}
    first, last = shapes.get("conv_in.weight", ()), shapes.get("conv_out.weight", ())
    context = next((s[-1] for n, s in shapes.items() if n.endswith("attn2.to_k.weight") and s), None)
    projection = next((s for n, s in shapes.items() if n.endswith(".proj_in.weight")), ())
    return {"kind": "ControlNetModel" if any(n.startswith("controlnet_") for n in shapes) else "UNet2DConditionModel",
            "in": first[1] if len(first) > 1 else None, "out": last[0] if last else None, "context": context,
            "width": first[0] if first else None,
            "levels": 1 + max((int(n.split(".")[1]) for n in shapes if n.startswith("down_blocks.")), default=-1),
            "added": any(n.startswith("add_embedding.") for n in shapes),
            "classes": any(n.startswith("class_embedding.") for n in shapes),
            "told": "time_embedding.cond_proj.weight" in shapes,
            "linear": len(projection) == 2 if projection else None}


def sketch_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts, from a configuration."""
    kind = blueprints.class_of(config)
    if "Transformer2D" in kind:
        return {"kind": kind, "layers": config.get("num_layers"),
                "sizes": bool(config.get("use_additional_conditions", kind.startswith("PixArt")
                                         and config.get("sample_size") == 128)),
                "dual": bool(config.get("dual_attention_layers")), "normed": bool(config.get("qk_norm"))}
    widths = config.get("block_out_channels", (320, 640, 1280, 1280))
    return {"kind": kind, "in": config.get("in_channels", 4),
            "out": config.get("out_channels", 4) if kind != "ControlNetModel" else None,
            "context": config.get("cross_attention_dim", 1280), "width": widths[0], "levels": len(widths),
            "added": bool(config.get("addition_embed_type")),
            "classes": bool(config.get("class_embed_type") or config.get("num_class_embeds")),
            "told": bool(config.get("time_cond_proj_dim")), "linear": bool(config.get("use_linear_projection"))}


FREE = ("context", "width", "layers", "told")
"""Facts in which a network of the same family may differ: sizes, and whether it is told its guidance (LCM)."""
CASCADE = {"in": 6, "out": 6, "added": True, "classes": True}
"""DeepFloyd IF's second network, by its facts: its folder always brings its configuration."""


def kin(part: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Families whose networks are built as this configuration says, sizes aside; the nearest in size first."""
    told = sketch_config(config) if part in ("unet", "transformer", "controlnet") else {}
    found = []
    for folder in sorted([*blueprints.CONFIGS.glob(f"*/{part}"), *blueprints.CONFIGS.glob(f"*/{part}_v?")]):
        theirs = blueprints.read_config(folder)
        if blueprints.class_of(theirs, part) != blueprints.class_of(config, part):
            continue
        if part == "motion_adapter" and _levels(theirs) != _levels(config):
            continue
        facts = sketch_config(theirs) if told else {}
        if all(told[k] == v for k, v in facts.items() if k not in FREE):
            keys = ("hidden_size", "latent_channels", "cross_attention_dim", "sample_size")
            near = sum(theirs.get(k) == config.get(k) for k in keys) + (facts.get("told") == told.get("told"))
            found.append((-near, folder.parent.name))
    if told and told.items() >= CASCADE.items():
        found.append((0, "deepfloyd_2"))
    return tuple(dict.fromkeys(family for _, family in sorted(found)))


def _levels(config: Mapping[str, Any]) -> int:
    return len(config.get("block_out_channels", ()))


def _family(found: Sequence[Found]) -> tuple[str, str]:
    """(family, what names cannot tell) of a file, from its parts; the first of them says most."""
    main, others = found[0], {f.part for f in found[1:]}
    names = main.families
    if not names:
        return UNKNOWN, ""
    if main.part == "unet":
        return of_unet(names, others)
    if main.part in ("vae", "image_encoder", "text_encoder") and len(names) > 1:
        return names[0], f"as {', '.join(names[1:])} have it too"
    return names[0], ""


def of_unet(names: Sequence[str], others: Iterable[str]) -> tuple[str, str]:
    """A U-Net's family among those of equal shapes, by the parts that lie beside it."""
    beside = set(others)
    if "zero123" in names:
        if beside & {"cc_projection", "image_encoder"}:
            return "zero123", "Stable Zero123 has the same names and shapes; load it as the family stable_zero123"
        if "text_encoder" in beside:
            return "sd15_pix2pix", ""
        return "zero123", "InstructPix2Pix's U-Net has the same names and shapes"
    if "zero123plus" in names and "image_encoder" in beside:
        return "zero123plus", ""
    if "sd21" in names:
        return "sd21", "names do not tell v-prediction (768 pixels) from epsilon (512 pixels, sd21_base)"
    return names[0], ""


def _together(several: Sequence[Layout]) -> Layout:
    """One layout of several files' (a folder's components)."""
    ranked = sorted(several, key=lambda one: min((MAIN.index(p) for p in one.parts if p in MAIN), default=len(MAIN)))
    main = ranked[0]
    parts = tuple(dict.fromkeys(part for one in ranked for part in one.parts))
    family, note = main.family, main.note
    beside = set(parts[1:])
    if family in ("zero123", "sd15_pix2pix"):
        family, note = of_unet(("sd15_pix2pix", "zero123"), beside)
    elif family in ("sd21", "sd21_base", "zero123plus"):
        family, note = of_unet(("sd21", "sd21_base", "zero123plus"), beside)
    elif {"reference_unet", "pose_guider"} & set(parts):
        family, note = "animate_anyone", ""
    spare: dict[str, int] = {}
    for one in ranked:
        for why, count in one.spare.items():
            spare[why] = spare.get(why, 0) + count
    missing, unexpected, wrong = (tuple(line for one in ranked for line in getattr(one, what))
                                  for what in ("missing", "unexpected", "wrong"))
    return Layout(family, role_of(family, parts), main.layout, parts, missing, unexpected, wrong, spare, main.nearest,
                  note)
