"""Real checkpoints, key for key: every file of the manifests is built with its real shapes (one number a tensor) and
loaded through the code that users run; every number must have arrived where the libraries' own converters put it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ldm_files as ldm
import pytest
import torch
from real_files import constant, marked, shapes_of, write
from torch import Tensor, nn

from engine.errors import BadInput
from engine.models import blueprints
from engine.models.blueprints import blueprint
from engine.models.open_checkpoint import Part, load_part, load_scheduler

LDM_CONVERTERS = "diffusers.loaders.single_file_utils"


def arrived(model: nn.Module) -> dict[str, float]:
    """Name -> the one number that the parameter is full of."""
    return {name: float(constant(value)) for name, value in model.state_dict().items()}


def numbers(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value.flatten()[0]) for name, value in tensors.items()}


def by_diffusers(converter: str, tensors: Mapping[str, Tensor], family: str, part: str) -> dict[str, float]:
    """What diffusers' own converter for single files makes of the tensors (the reference; read by nobody but tests)."""
    from importlib import import_module
    made = getattr(import_module(LDM_CONVERTERS), converter)(dict(tensors), config=dict(blueprint(family, part).config))
    return numbers(made)


def expect(made: Any, expected: Mapping[str, float]) -> None:
    found = arrived(made)
    assert found.keys() == expected.keys()
    assert found == dict(expected)
    assert not made.training and not any(p.requires_grad for p in made.parameters())
    assert not any(t.is_meta for t in (*made.parameters(), *made.buffers()))
    for name, shape in {n: tuple(t.shape) for n, t in made.state_dict().items()}.items():
        assert min(shape, default=1) > 0, name


@pytest.fixture
def zero123(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """zero123-xl.ckpt as Lightning saved it: its wrapper, the trainer's state, and a class as a key."""
    tensors = marked(shapes_of("zero123-xl"))
    return write(tmp_path / "zero123-xl.ckpt", tensors, "state_dict", epoch=5, global_step=105_000,
                 callbacks={nn.Identity: {"best": "x"}}, lr_schedulers=[{"last_epoch": 3}],
                 optimizer_states=[{"state": {0: {"step": 4, "exp_avg": torch.zeros(3)}}}]), tensors


# -- Zero-1-to-3 -------------------------------------------------------------------------------------------------------


def image_tower(prefix: str, layers: int) -> dict[str, str]:
    """transformers' name -> OpenAI's name of everything in CLIP's image tower, written out by hand."""
    made = {"vision_model.embeddings.class_embedding": "class_embedding",
            "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
            "vision_model.embeddings.position_embedding.weight": "positional_embedding",
            "visual_projection.weight": "proj"}
    for leaf in ("weight", "bias"):
        made |= {f"vision_model.pre_layrnorm.{leaf}": f"ln_pre.{leaf}",
                 f"vision_model.post_layernorm.{leaf}": f"ln_post.{leaf}"}
        for i in range(layers):
            ours, theirs = f"vision_model.encoder.layers.{i}", f"transformer.resblocks.{i}"
            made |= {f"{ours}.self_attn.{k}_proj.{leaf}": f"{theirs}.attn.in_proj_{leaf}" for k in "qkv"}
            made |= {f"{ours}.self_attn.out_proj.{leaf}": f"{theirs}.attn.out_proj.{leaf}",
                     f"{ours}.layer_norm1.{leaf}": f"{theirs}.ln_1.{leaf}",
                     f"{ours}.layer_norm2.{leaf}": f"{theirs}.ln_2.{leaf}",
                     f"{ours}.mlp.fc1.{leaf}": f"{theirs}.mlp.c_fc.{leaf}",
                     f"{ours}.mlp.fc2.{leaf}": f"{theirs}.mlp.c_proj.{leaf}"}
    return {ours: prefix + theirs for ours, theirs in made.items()}


def test_zero123_xl_as_its_authors_published_it(zero123: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = zero123
    told = numbers(tensors)

    def part(name: str, **how: Any) -> Any:
        return load_part(path, "zero123", name, allow_pickle=True, **how)

    expect(part("unet"), by_diffusers("convert_ldm_unet_checkpoint", tensors, "zero123", "unet"))
    expect(part("vae"), by_diffusers("convert_ldm_vae_checkpoint", tensors, "zero123", "vae"))
    expect(part("cc_projection"), {"projection.weight": told["cc_projection.weight"],
                                   "projection.bias": told["cc_projection.bias"]})
    tower = image_tower("cond_stage_model.model.visual.", 24)
    expect(part("image_encoder"), {ours: told[theirs] for ours, theirs in tower.items()})
    # Every key is in one part or left for a reason; together they are all 1938.
    found = [Part.find(path, "zero123", name) for name in ("unet", "vae", "image_encoder", "cc_projection")]
    assert not any(one.account for one in found)
    taken = [{move.source for move in one.moves.values()} for one in found]
    assert sum(map(len, taken)) == 686 + 248 + 296 + 2
    assert set().union(*taken, *(one.spare for one in found)) == set(tensors)


def test_the_running_average_is_taken_where_it_is_asked_for(zero123: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = zero123
    flat = {key.removeprefix("model.").replace(".", ""): key for key in tensors if key.startswith("model.diff")}
    averaged = {flat[key.removeprefix("model_ema.").replace(".", "")]: value for key, value in tensors.items()
                if key.startswith("model_ema.diff")}
    assert len(averaged) == 686
    made = load_part(path, "zero123", "unet", allow_pickle=True, averaged=True)
    expect(made, by_diffusers("convert_ldm_unet_checkpoint", averaged, "zero123", "unet"))


@pytest.mark.parametrize("projection, leaf", [("cc_projection", "projection"), ("clip_camera_projection", "proj")])
def test_zero123_ported_to_folders(tmp_path: Path, projection: str, leaf: str) -> None:
    """kxic's port and ashawkey's; the VAE's attention under the names that diffusers had before 0.17 too."""
    tensors = marked(shapes_of("zero123-diffusers-kxic"))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, inner = name.partition("/")
        if part == "cc_projection":
            part, inner = projection, inner.replace("projection.", f"{leaf}.")
        parts.setdefault(part, {})[inner] = value
    expected = {part: numbers({k: v for k, v in held.items() if "position_ids" not in k})
                for part, held in parts.items()}
    if leaf == "proj":
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        parts["vae"] = {re.sub(r"attentions\.0\.(to_q|to_k|to_v|to_out\.0)\.", lambda m: f"attentions.0.{old[m[1]]}.",
                               name): value for name, value in parts["vae"].items()}
        assert "encoder.mid_block.attentions.0.query.weight" in parts["vae"]
    for part, held in parts.items():
        write(tmp_path / part / ("pytorch_model.bin" if part == "image_encoder" else "diffusion_pytorch_model.bin"),
              held)
    (tmp_path / "model_index.json").write_text("{}")
    for part in ("unet", "vae", "image_encoder"):
        expect(load_part(tmp_path, "zero123", part, allow_pickle=True), expected[part])
    made = load_part(tmp_path, "zero123", "cc_projection", allow_pickle=True)
    expect(made, {f"projection.{k}": expected[projection][f"{leaf}.{k}"] for k in ("weight", "bias")})


def test_stable_zero123_is_the_same_file(zero123: tuple[Path, dict[str, Tensor]]) -> None:
    path, _ = zero123
    ours, theirs = (Part.find(path, family, "unet") for family in ("stable_zero123", "zero123"))
    assert not ours.account and ours.moves == theirs.moves
    config = ours.blueprint.build().config
    assert config.in_channels == 8 and config.sample_size == 32


def test_zero123plus_in_its_folder(tmp_path: Path) -> None:
    expected = {}
    for folder, part in (("unet", "unet"), ("vae", "vae"), ("vision_encoder", "image_encoder"),
                         ("text_encoder", "text_encoder")):
        tensors = marked(blueprint("zero123plus", part).shapes)
        write(tmp_path / folder / "diffusion_pytorch_model.bin", tensors)
        expected[part] = numbers(tensors)
    for part, told in expected.items():
        expect(load_part(tmp_path, "zero123plus", part, allow_pickle=True), told)


# -- Stable Diffusion --------------------------------------------------------------------------------------------------


def published_text(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, float]:
    """CLIP's text tower without prefix: transformers' own names since 5.6."""
    return numbers({name.removeprefix(prefix): value for name, value in tensors.items()
                    if name.startswith(prefix) and not name.endswith("position_ids")})


def open_clip_text(tensors: Mapping[str, Tensor], prefix: str, layers: int, projected: bool) -> dict[str, float]:
    told = numbers(tensors)
    made = {ours.replace("vision_model.", ""): theirs.replace(".visual.", ".") for ours, theirs in
            image_tower(prefix, layers).items() if "encoder.layers" in ours}
    for leaf in ("weight", "bias"):
        made[f"final_layer_norm.{leaf}"] = f"{prefix}ln_final.{leaf}"
    made |= {"embeddings.token_embedding.weight": f"{prefix}token_embedding.weight",
             "embeddings.position_embedding.weight": f"{prefix}positional_embedding"}
    if projected:
        made = {f"text_model.{ours}": theirs for ours, theirs in made.items()}
        made["text_projection.weight"] = f"{prefix}text_projection"
    return {ours: told[theirs] for ours, theirs in made.items()}


def test_sd_v1_5_in_one_file(tmp_path: Path) -> None:
    tensors = marked(shapes_of("sd-v1-5-pruned-emaonly"))
    path = write(tmp_path / "v1-5-pruned-emaonly.ckpt", tensors, "state_dict")
    flat = write(tmp_path / "flat.ckpt", tensors)
    assert Part.find(flat, "sd15", "unet").moves == Part.find(path, "sd15", "unet").moves
    found = {part: load_part(path, "sd15", part, allow_pickle=True) for part in ("unet", "vae", "text_encoder")}
    expect(found["unet"], by_diffusers("convert_ldm_unet_checkpoint", tensors, "sd15", "unet"))
    expect(found["vae"], by_diffusers("convert_ldm_vae_checkpoint", tensors, "sd15", "vae"))
    expect(found["text_encoder"], published_text(tensors, "cond_stage_model.transformer.text_model."))
    assert found["text_encoder"].embeddings.position_ids.tolist() == [list(range(77))]


def test_sdxl_base_in_one_file(tmp_path: Path) -> None:
    tensors = marked(shapes_of("sdxl-base-1.0"), torch.float16)
    path = write(tmp_path / "sd_xl_base_1.0.ckpt", tensors)
    found = {part: load_part(path, "sdxl", part, allow_pickle=True)
             for part in ("unet", "vae", "text_encoder", "text_encoder_2")}
    expect(found["unet"], by_diffusers("convert_ldm_unet_checkpoint", tensors, "sdxl", "unet"))
    expect(found["vae"], by_diffusers("convert_ldm_vae_checkpoint", tensors, "sdxl", "vae"))
    expect(found["text_encoder"], published_text(tensors, "conditioner.embedders.0.transformer.text_model."))
    expect(found["text_encoder_2"], open_clip_text(tensors, "conditioner.embedders.1.model.", 32, True))
    assert {p.dtype for model in found.values() for p in model.parameters()} == {torch.float16}


def test_sd21_in_one_file(tmp_path: Path) -> None:
    tensors = marked(ldm.sd2())
    path = write(tmp_path / "v2-1_768-ema-pruned.ckpt", tensors, "state_dict")
    expect(load_part(path, "sd21", "unet", allow_pickle=True),
           by_diffusers("convert_ldm_unet_checkpoint", tensors, "sd21", "unet"))
    text = open_clip_text(tensors, "cond_stage_model.model.", 23, False)  # 23 of 24 layers: the last but one is read
    expect(load_part(path, "sd21", "text_encoder", allow_pickle=True), text)
    # v-prediction of the 768-pixel model, noise of the 512-pixel one
    assert load_scheduler(path, "sd21").config.prediction_type == "v_prediction"
    assert load_scheduler(None, "sd21_base").config.prediction_type == "epsilon"


def test_sd3_in_one_file(tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers as reference
    shapes = ldm.prefixed("model.diffusion_model.", ldm.sd3())
    tensors = marked(shapes)
    path = write(tmp_path / "sd3_medium.ckpt", {**tensors, **marked(ldm.prefixed("first_stage_model.", ldm.vae(
        z=16, quant=False)))})
    expect(load_part(path, "sd3", "transformer", allow_pickle=True), numbers(reference(dict(tensors))))
    assert load_part(path, "sd3", "vae", allow_pickle=True).config.shift_factor == 0.0609


@pytest.mark.parametrize("prefix", ["control_model.", ""])
@pytest.mark.parametrize("family, settings", [("sd15", {}), ("sd21", {"context": 1024, "linear": True})])
def test_controlnets_as_their_author_published_them(tmp_path: Path, prefix: str, family: str, settings: dict[str, int]
                                                    ) -> None:
    tensors = marked(ldm.prefixed(prefix, ldm.controlnet(**settings)))
    path = write(tmp_path / "control_v11p_sd15_canny.pth", tensors)
    made = load_part(path, family, "controlnet", allow_pickle=True)
    expect(made, by_diffusers("convert_controlnet_checkpoint", tensors, family, "controlnet"))


# -- motion, reference animation ---------------------------------------------------------------------------------------


def motion(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """diffusers' converter, and the table of positions that it leaves to be computed."""
    from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers as reference
    tables = {name.replace("temporal_transformer.", "").replace("attention_blocks.0.pos_encoder.pe", "pos_embed.pe"):
              value for name, value in tensors.items() if name.endswith("attention_blocks.0.pos_encoder.pe")}
    return numbers({**reference(dict(tensors)), **tables})


@pytest.mark.parametrize("name, wrapper, middle", [
    ("animatediff-mm_sd_v15_v2", "", True), ("animatediff-v3_sd15_mm", "state_dict", False),
    ("moore-animateanyone-motion_module", "", True)])
def test_motion_modules(tmp_path: Path, name: str, wrapper: str, middle: bool) -> None:
    tensors = marked(shapes_of(name))
    path = write(tmp_path / "mm.ckpt", tensors, wrapper)
    made = load_part(path, "animatediff", "motion_adapter", allow_pickle=True)
    expect(made, motion(tensors))
    assert made.config.use_motion_mid_block is middle and made.config.motion_max_seq_length == 32


def test_motion_modules_of_version_1_have_24_positions(tmp_path: Path) -> None:
    tensors = {name: value[:, :24] if name.endswith(".pe") else value for name, value in
               marked(shapes_of("animatediff-v3_sd15_mm")).items()}
    path = write(tmp_path / "mm_sd_v15.ckpt", {f"module.{name}": value for name, value in tensors.items()})
    made = load_part(path, "sd15", "motion_adapter", allow_pickle=True)
    expect(made, motion(tensors))
    assert made.config.motion_max_seq_length == 24


def test_motion_loras_name_modules_of_the_motion_adapter(tmp_path: Path) -> None:
    from engine.models.convert_motion import motion_lora_name
    shapes = shapes_of("animatediff-v2_lora_ZoomIn")
    modules = blueprint("sd15", "motion_adapter_v2").shapes
    found = {motion_lora_name(name): shape for name, shape in shapes.items()}
    assert None not in found and len(found) == 336
    for (module, side), shape in ((k, v) for k, v in found.items() if k is not None):
        layer = modules[f"{module}.weight"]
        assert shape == ((64, layer[1]) if side == "A" else (layer[0], 64))
    place = "up_blocks.1.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor"
    assert motion_lora_name(f"{place}.to_v_lora.up.weight") == (
        "up_blocks.1.motion_modules.2.transformer_blocks.0.attn2.to_v", "B")
    assert motion_lora_name(place) is None


def test_animate_anyone_s_four_files(tmp_path: Path) -> None:
    files = {name: write(tmp_path / f"{name}.pth", marked(shapes_of(f"moore-animateanyone-{name}")))
             for name in ("denoising_unet", "motion_module", "reference_unet", "pose_guider")}
    told = {name: marked(shapes_of(f"moore-animateanyone-{name}")) for name in files}

    def part(source: Any, name: str) -> Any:
        return load_part(source, "animate_anyone", name, allow_pickle=True)

    expect(part(files["reference_unet"], "reference_unet"), numbers(told["reference_unet"]))
    expect(part(files["pose_guider"], "pose_guider"), numbers(told["pose_guider"]))
    video = part([files["denoising_unet"], files["motion_module"]], "denoising_unet")
    expect(video, {**numbers(told["denoising_unet"]), **motion(told["motion_module"])})
    assert type(video).__name__ == "UNetMotionModel" and video.config.motion_max_seq_length == 32
    with pytest.raises(BadInput, match=r"567 missing.*motion_modules"):
        part(files["denoising_unet"], "denoising_unet")
    schedule = load_scheduler(None, "animate_anyone").config
    assert (schedule.prediction_type, schedule.beta_schedule, schedule.rescale_betas_zero_snr,
            schedule.timestep_spacing) == ("v_prediction", "linear", True, "trailing")


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, family, kind", [("ip-adapter_sd15", "sd15", "base"),
                                                ("instantid-ip-adapter", "sdxl", "face")])
def test_ip_adapters(tmp_path: Path, name: str, family: str, kind: str) -> None:
    from engine.models.ip_adapter_files import read_ip_adapter
    tensors = marked(shapes_of(name))
    nested: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, inner = key.partition("/")
        nested.setdefault(part, {})[inner] = value
    path = tmp_path / "ip-adapter.bin"
    torch.save(nested, path)
    found, of, parts = read_ip_adapter(path, family, allow_pickle=True)
    assert (found, of) == (family, kind)
    assert {part: numbers(held) for part, held in parts.items()} == {p: numbers(h) for p, h in nested.items()}
    with pytest.raises(BadInput, match=f"for {family}, not for"):
        read_ip_adapter(path, "sd15" if family == "sdxl" else "sdxl", allow_pickle=True)
    with pytest.raises(BadInput, match="allow-pickle"):
        read_ip_adapter(path, family)
    del nested["ip_adapter"]["1.to_k_ip.weight"]
    torch.save(nested, path)
    with pytest.raises(BadInput, match=r"1 missing.*ip_adapter/1\.to_k_ip\.weight"):
        read_ip_adapter(path, family, allow_pickle=True)


def test_ip_adapter_s_numbers_are_the_u_net_s_attentions() -> None:
    """The order that diffusers' own processors have, on a small U-Net of the same build."""
    from diffusers import UNet2DConditionModel

    from engine.models import ip_adapter_files
    unet = UNet2DConditionModel(**{**blueprint("sd15", "unet").config, "block_out_channels": (16, 32, 48, 48),
                                   "norm_num_groups": 16, "cross_attention_dim": 24, "attention_head_dim": 2})
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    wanted = {}
    for number, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            wanted[f"{number}.to_k_ip.weight"] = shapes[name.replace("processor", "to_k.weight")]
            wanted[f"{number}.to_v_ip.weight"] = shapes[name.replace("processor", "to_k.weight")]
    places = [name for name in shapes if name.endswith((".attn1.to_k.weight", ".attn2.to_k.weight"))]
    assert ip_adapter_files._numbered(places, shapes) == wanted and len(wanted) == 32


def test_lcm_lora_fits_every_layer_that_it_names(tmp_path: Path) -> None:
    """All 278 modules of the U-Net's, its 1 x 1 and 3 x 3 convolutions included."""
    from safetensors.torch import save_file

    from engine.diffusion import lora, lora_files
    tensors = {k: v.contiguous() for k, v in marked(shapes_of("lcm-lora-sdv1-5"), torch.float16).items()}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path)
    found = lora.named(blueprint("sd15", "unet").build(), lora_files.read(path))
    flat = {name.removesuffix(".weight").replace(".", "_"): (name.removesuffix(".weight"), shape)
            for name, shape in blueprint("sd15", "unet").shapes.items()}
    assert len(found.pairs) == 278
    for key in {name.partition(".")[0] for name in tensors}:
        module, layer = flat[key.removeprefix("lora_unet_")]
        down, up = found.pairs[module]
        assert torch.equal(down.half(), tensors[f"{key}.lora_down.weight"])
        assert torch.equal(up.half(), tensors[f"{key}.lora_up.weight"])
        assert found.alphas[module] == float(tensors[f"{key}.alpha"])
        assert (up.shape[0], *down.shape[1:]) == layer


# -- what must be refused ----------------------------------------------------------------------------------------------


def changed(shapes: Mapping[str, tuple[int, ...]], change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    tensors = marked(shapes)
    change(tensors)
    return tensors


@pytest.mark.parametrize("change, said", [
    (lambda t: t.pop("model.diffusion_model.out.2.bias"), r"\(1 missing; conv_out\.bias\)"),
    (lambda t: t.update({"model.diffusion_model.extra.weight": torch.ones(1)}), r"1 unexpected; model\.diff.*extra"),
    (lambda t: t.update({"elsewhere": torch.ones(1)}), r"1 unexpected; elsewhere"),
    (lambda t: t.update({"model.diffusion_model.out.2.bias": torch.ones(5)}), r"out\.2\.bias is 5, not 4")])
def test_what_is_not_accounted_for_is_listed_and_refused(tmp_path: Path, change: Callable[[dict[str, Tensor]], object],
                                                         said: str) -> None:
    path = write(tmp_path / "x.ckpt", changed(ldm.sd1(), change))
    with pytest.raises(BadInput, match=said):
        load_part(path, "sd15", "unet", allow_pickle=True)


def test_a_file_of_another_family_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "sdxl.ckpt", marked(ldm.sdxl(), torch.float16))
    with pytest.raises(BadInput, match=r"does not fit sd15's unet: it is sdxl's"):
        load_part(path, "sd15", "unet", allow_pickle=True)
    with pytest.raises(BadInput, match=r"has no image_encoder of zero123: it holds unet, vae, text_encoder"):
        load_part(write(tmp_path / "sd.ckpt", marked(ldm.sd1())), "zero123", "image_encoder", allow_pickle=True)


def test_a_pickle_needs_permission_and_two_files_must_not_say_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ckpt", marked(ldm.vae()))
    with pytest.raises(BadInput, match="is a pickle.*allow-pickle"):
        load_part(path, "sd15", "vae")
    with pytest.raises(BadInput, match=r"both hold decoder\.conv_in\.bias"):
        load_part([path, write(tmp_path / "y.ckpt", marked(ldm.vae()))], "sd15", "vae", allow_pickle=True)


def test_a_part_that_no_family_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no configuration of 'vae'"):
        load_part(write(tmp_path / "x.ckpt", marked(ldm.vae())), "dit_without", "vae", allow_pickle=True)
    with pytest.raises(BadInput, match="no schedule of the family"):
        load_scheduler(None, "nobody")
    assert "text_encoder" not in blueprints.parts_of("zero123") and "unet" in blueprints.parts_of("stable_zero123")
