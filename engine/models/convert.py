"""Any file's tensors -> the parts that it is made of, each in diffusers' or transformers' own names.

``plan`` looks at names alone and says where every tensor goes (:class:`engine.models.moves.Plan`): into a part, aside
because nothing needs it, or that nobody knows it. Single files name their parts by prefix (``model.diffusion_model.``,
``first_stage_model.``, ...); a file of one part is known by the names inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from engine.models import convert_clip, convert_motion, convert_sd3, convert_unet, convert_vae
from engine.models.moves import Move, Plan

SCHEDULE = re.compile(r"(model\.)?(betas|alphas_cumprod|alphas_cumprod_prev|sqrt_alphas_cumprod|"
                      r"sqrt_one_minus_alphas_cumprod|log_one_minus_alphas_cumprod|sqrt_recip_alphas_cumprod|"
                      r"sqrt_recipm1_alphas_cumprod|posterior_variance|posterior_log_variance_clipped|"
                      r"posterior_mean_coef[12]|logvar|lvlb_weights|scale_factor|denoiser\.sigmas|"
                      r"model_sampling\.sigmas|low_scale_model\..+|denoiser\.log_sigmas)")
"""Tables that follow from a scheduler's settings, and the training's own counters."""
PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders.",
            "control_model.", "text_encoders.", "cc_projection.", "model_ema.")
"""Each marks a single file of several parts; so does ``vae.`` beside one of them."""


def plan(names: Iterable[str], part: str = "", averaged: bool = False) -> Plan:
    """Where every tensor of a file goes.

    names : as the file has them; part : what the file holds, where its folder says so ("unet", "vae", ...)
    averaged : take the running average of the U-Net's weights where the file has both
    """
    whole = unwrapped(list(names))
    if any(name.startswith(PREFIXES) for name in whole):
        return _several_parts(whole, averaged)
    return _one_part(whole, part)


def unwrapped(names: list[str]) -> dict[str, str]:
    """Name without what data-parallel training or torch.compile put before all of them -> name in the file."""
    before = ""
    for wrapper in ("module.", "_orig_mod.", "state_dict."):
        if names and all(name.startswith(before + wrapper) for name in names):
            before += wrapper
    return {name[len(before):]: name for name in names}


# -- single files of several parts -------------------------------------------------------------------------------------


def _several_parts(whole: Mapping[str, str], averaged: bool) -> Plan:
    made = Plan()
    inner = {name.removeprefix("model.diffusion_model."): name for name in whole
             if name.startswith("model.diffusion_model.")}
    unet = _network(inner)
    control = _network({n.removeprefix("control_model."): n for n in whole if n.startswith("control_model.")})
    levels = convert_vae.levels(whole)
    sees = any(".visual." in name for name in whole)
    for name, source in whole.items():
        if name.startswith("model.diffusion_model."):
            bare = name.removeprefix("model.diffusion_model.")
            if averaged and (kept := convert_unet.averaged_name(f"diffusion_model.{bare}")) in whole:
                made.spare[source] = "the weights before averaging"
                source = whole[kept]
            _put(made, *unet(bare, source), source)
        elif name.startswith("control_model."):
            _put(made, *control(name.removeprefix("control_model."), source), source)
        elif name.startswith(("first_stage_model.", "vae.")):
            _autoencoder(made, name.partition(".")[2], source, levels)
        elif name.startswith(("cond_stage_model.", "conditioner.embedders.", "text_encoders.")):
            _conditioner(made, name, source, sees)
        elif name.startswith("cc_projection."):
            made.put("cc_projection", name.replace("cc_projection", "projection"), Move(source))
        elif name.startswith("model_ema."):
            _average(made, name, source, whole, averaged)
        elif SCHEDULE.fullmatch(name):
            made.spare[source] = "schedule"
        else:
            made.strange.append(source)
    return made


Route = Callable[[str, str], tuple[str, dict[str, Move] | None]]
"""(name without prefix, name in the file) -> part, {name in the part: move}; None when the name is not known."""


def _network(inner: Mapping[str, str]) -> Route:
    """How the names of a denoising network (or a ControlNet) are to be read."""
    if any(name.startswith("joint_blocks.") for name in inner):
        last = max(int(name.split(".")[1]) for name in inner if name.startswith("joint_blocks."))
        return lambda name, source: ("transformer", convert_sd3.sd3_moves(name, source, last))
    layers = convert_unet.layers_a_level(inner)
    part = "controlnet" if any(name.startswith("input_hint_block.") for name in inner) else "unet"
    # One embedding beside time: SDXL's has 2816 or 2560 numbers and other neighbours; unCLIP's says nothing of them.
    wide = any(re.search(r"transformer_blocks\.[1-9]\.", name) for name in inner)
    label = "add_embedding" if wide else "class_embedding"

    def route(name: str, source: str) -> tuple[str, dict[str, Move] | None]:
        found = convert_unet.unet_name(name, layers, label)
        return part, None if found is None else {found: Move(source)}
    return route


def _put(made: Plan, part: str, moves: Mapping[str, Move] | None, source: str) -> None:
    if moves is None:
        made.strange.append(source)
    for name, move in (moves or {}).items():
        made.put(part, name, move)


def _autoencoder(made: Plan, name: str, source: str, levels: int) -> None:
    if name.startswith(("loss.", "model_ema.")):
        made.spare[source] = "the autoencoder's training"
    elif (found := convert_vae.vae_name(name, levels)) is not None:
        made.put("vae", found, Move(source))
    else:
        _put(made, "vae", {convert_vae.todays_name(name): Move(source)}, source)


def _average(made: Plan, name: str, source: str, whole: Mapping[str, str], averaged: bool) -> None:
    if name in ("model_ema.decay", "model_ema.num_updates"):
        made.spare[source] = "the running average's counters"
    elif name.startswith("model_ema.diffusion_model"):
        if not averaged:
            made.spare[source] = "the running average of the weights"
    else:
        made.spare[source] = "the running average of other weights"


def _conditioner(made: Plan, name: str, source: str, sees: bool) -> None:
    """What the network is conditioned by: CLIP's text tower in one of four places, CLIP's image tower, or T5."""
    if found := re.fullmatch(r"text_encoders\.(clip_l|clip_g|t5xxl)\.(?:transformer\.)?(.+)", name):
        part = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"}[found[1]]
        if found[2] in ("logit_scale", "spiece_model") or found[2].endswith("position_ids"):
            made.spare[source] = "counted, not learned"
        else:
            made.put(part, found[2], Move(source))
        return
    second = name.startswith(("conditioner.embedders.1.model.", "conditioner.embedders.0.model."))
    part = "text_encoder_2" if second else "text_encoder"
    inner = re.sub(r"^(cond_stage_model|conditioner\.embedders\.\d)\.", "", name)
    if inner.startswith("transformer."):
        if inner.endswith("position_ids"):
            made.spare[source] = "counted, not learned"
        else:
            made.put(part, inner.removeprefix("transformer."), Move(source))
    elif inner == "logit_scale":
        made.spare[source] = "counted, not learned"
    elif not inner.startswith("model."):
        made.strange.append(source)
    elif inner.startswith("model.visual."):
        _put(made, "image_encoder", convert_clip.vision_moves(inner.removeprefix("model.visual."), source), source)
    elif sees:
        made.spare[source] = "CLIP's text tower, which nothing asks"
    else:
        moves = convert_clip.text_moves(inner.removeprefix("model."), source)
        if moves == {}:
            made.spare[source] = "counted, not learned"
        _put(made, part, moves, source)


# -- files of one part -------------------------------------------------------------------------------------------------

SIGNS: tuple[tuple[str, str], ...] = (
    (r"controlnet_(cond_embedding|down_blocks|mid_block)\.", "controlnet"),
    (r"transformer_blocks\.\d+\.|adaln_single\.", "transformer"),
    (r"encoder\.(down_blocks|mid_block)\.|decoder\.(up_blocks|mid_block)\.", "vae"),
    (r"encoder\.block\.\d+\.layer\.", "text_encoder"),
    (r"(vision_model\.)?embeddings\.(class|patch)_embedding|vision_model\.", "image_encoder"),
    (r"text_model\.|embeddings\.token_embedding\.|encoder\.layers\.\d+\.self_attn\.", "text_encoder"),
    (r"(down_blocks|up_blocks|mid_block)\.", "unet"),
    (r"blocks\.\d\.(weight|bias)", "pose_guider"),
    (r"(projection|proj)\.weight", "cc_projection"),
)
"""How names of a file of one part begin, in the order in which to look; any will do, so that one may be missing."""


def part_in(names: Iterable[str]) -> str:
    """Which part a file without prefixes holds, by its names; "" when none is known."""
    held = set(names)
    if all(".motion_modules." in name for name in held):
        return "motion_adapter" if held else ""
    if {name.partition(".")[0] for name in held} >= {"text_model", "vision_model"}:
        return "clip"
    return next((part for sign, part in SIGNS if any(re.match(sign, name) for name in held)), "")


def _one_part(whole: Mapping[str, str], part: str) -> Plan:
    names, made = list(whole), Plan()
    if any(name.startswith(("input_blocks.", "joint_blocks.")) for name in names):
        route = _network(whole)
        for name, source in whole.items():
            _put(made, *route(name, source), source)
    elif any(re.match(r"(encoder\.down|decoder\.up)\.\d+\.", name) for name in names):
        count = convert_vae.levels(names)
        for name, source in whole.items():
            _autoencoder(made, name, source, count)
    elif any(name.startswith(("visual.", "transformer.resblocks.")) for name in names):
        _openclip(made, whole)
    else:
        found = part_in(names)
        for name, source in whole.items():
            _own_name(made, part or found, found, name, source)
    return made


def _openclip(made: Plan, whole: Mapping[str, str]) -> None:
    for name, source in whole.items():
        if name.startswith("visual."):
            _put(made, "image_encoder", convert_clip.vision_moves(name.removeprefix("visual."), source), source)
        else:
            moves = convert_clip.text_moves(name, source)
            if moves == {}:
                made.spare[source] = "counted, not learned"
            _put(made, "text_encoder", moves, source)


def _own_name(made: Plan, part: str, kind: str, name: str, source: str) -> None:
    """A name that is diffusers' or transformers' own already, or was in an earlier version.

    part : where it is put; kind : what its names say it is
    """
    if not part:
        made.strange.append(source)
    elif convert_motion.is_second_table(name):
        made.spare[source] = "the same table of positions again"
    elif name.endswith("position_ids"):
        made.spare[source] = "counted, not learned"
    elif ".motion_modules." in name:
        found = convert_motion.motion_name(name)
        _put(made, part, None if found is None else {found: Move(source)}, source)
    elif kind == "vae":
        made.put(part, convert_vae.todays_name(name), Move(source))
    elif kind == "cc_projection":
        made.put(part, re.sub(r"^proj\.", "projection.", name), Move(source))
    else:
        made.put(part, name, Move(source))
