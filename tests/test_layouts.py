"""What a file is, by its names and shapes alone: layouts of real checkpoints, others built from how networks are made,
damaged ones, and files that are none of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ldm_files as ldm
import pytest
from real_files import manifest, shapes_of

from engine.models import blueprints, moves
from engine.models.blueprints import blueprint
from engine.models.layouts import Layout, recognise
from engine.models.reader import Entry, Header

Shapes = Mapping[str, tuple[int, ...]]


def header(shapes: Shapes, path: str = "file.safetensors") -> Header:
    return Header(Path(path), "safetensors", {name: Entry(tuple(shape), "float16") for name, shape in shapes.items()})


def clean(layout: Layout) -> tuple[str, str, str, tuple[str, ...]]:
    assert (layout.missing, layout.unexpected, layout.wrong) == ((), (), ()), layout
    assert layout.whole
    return layout.family, layout.role, layout.layout, layout.parts


# -- the real files ----------------------------------------------------------------------------------------------------

REAL = {
    "zero123-xl": ("zero123", "novel_view", "ldm", ("unet", "cc_projection", "image_encoder", "vae")),
    "sd-v1-5-pruned-emaonly": ("sd15", "text_to_image", "ldm", ("unet", "text_encoder", "vae")),
    "sdxl-base-1.0": ("sdxl", "text_to_image", "ldm", ("unet", "text_encoder", "text_encoder_2", "vae")),
    "animatediff-mm_sd_v15_v2": ("sd15", "motion", "animatediff", ("motion_adapter",)),
    "animatediff-v3_sd15_mm": ("sd15", "motion", "animatediff", ("motion_adapter",)),
    "animatediff-v2_lora_ZoomIn": ("sd15", "motion_lora", "animatediff", ("motion_adapter",)),
    "ip-adapter_sd15": ("sd15", "image_prompt", "ip_adapter", ("image_proj", "ip_adapter")),
    "instantid-ip-adapter": ("sdxl", "image_prompt", "ip_adapter", ("image_proj", "ip_adapter")),
    "lcm-lora-sdv1-5": ("sd15", "lora", "kohya", ("unet",)),
    "moore-animateanyone-reference_unet": ("animate_anyone", "reference_animation", "diffusers", ("reference_unet",)),
    "moore-animateanyone-denoising_unet": ("sd15", "text_to_image", "diffusers", ("unet",)),
    "moore-animateanyone-motion_module": ("sd15", "motion", "animatediff", ("motion_adapter",)),
    "moore-animateanyone-pose_guider": ("animate_anyone", "reference_animation", "diffusers", ("pose_guider",)),
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_file_is_known_whole(name: str) -> None:
    assert clean(recognise(header(shapes_of(name)))) == REAL[name]


def test_a_port_in_folders_is_known_whole() -> None:
    components: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes_of("zero123-diffusers-kxic").items():
        part, _, inner = name.partition("/")
        components.setdefault(part, {})[inner] = shape
    found = recognise({part: header(shapes) for part, shapes in components.items()})
    assert clean(found) == ("zero123", "novel_view", "diffusers", ("unet", "cc_projection", "image_encoder", "vae"))
    # ashawkey's names for the same; and the files alone, without their folders' names
    components["clip_camera_projection"] = {k.replace("projection.", "proj."): v for k, v in
                                            components.pop("cc_projection").items()}
    again = recognise([header(shapes) for shapes in components.values()])
    assert again == recognise({p: header(s) for p, s in components.items()}) == found
    assert "stable_zero123" in found.note


def test_what_is_left_unused_is_counted_by_reason() -> None:
    spare = recognise(header(shapes_of("zero123-xl"))).spare
    assert spare == {"schedule": 12, "the running average of the weights": 686, "the running average's counters": 2,
                     "CLIP's text tower, which nothing asks": 6}
    assert 1938 - 686 - 12 - 2 - 6 == 686 + 248 + 296 + 2  # U-Net, VAE, image tower, projection: nothing else


def test_the_helpers_describe_the_real_files() -> None:
    """The shapes that the tests below build are the manifests', where those hold them."""
    beside = ("model_ema.", "betas", "alphas", "sqrt", "log_one", "posterior")
    for made, name in ((ldm.sd1(), "sd-v1-5-pruned-emaonly"), (ldm.sdxl(), "sdxl-base-1.0"),
                       (ldm.zero123(), "zero123-xl")):
        real = {k: v for k, v in shapes_of(name).items() if not k.startswith(beside) and not k.endswith("position_ids")}
        if name == "zero123-xl":
            real = {k: v for k, v in real.items() if not k.startswith("cond_stage") or ".visual." in k}
        assert made == real


# -- other layouts -----------------------------------------------------------------------------------------------------

SD3 = ldm.prefixed("model.diffusion_model.", ldm.sd3())
SINGLE = {
    "sd15": (ldm.sd1(), "sd15", "text_to_image"),
    "sd15 without its text encoder": ({k: v for k, v in ldm.sd1().items() if "cond_stage" not in k}, "sd15",
                                      "text_to_image"),
    "sd15 as ComfyUI saves it": ({**ldm.sd1(), "cond_stage_model.logit_scale": (), "model_sampling.sigmas": (1000,),
                                  "cond_stage_model.transformer.text_projection.weight": (768, 768)}, "sd15",
                                 "text_to_image"),
    "sd15 for inpainting": (ldm.sd1(9), "sd15_inpaint", "inpaint"),
    "InstructPix2Pix": (ldm.sd1(8), "sd15_pix2pix", "edit"),
    "sd21": (ldm.sd2(), "sd21", "text_to_image"),
    "sd21 for inpainting": (ldm.sd2(9), "sd21_inpaint", "inpaint"),
    "sd21 with depth": (ldm.sd2(5), "sd21_depth", "text_to_image"),
    "sdxl": (ldm.sdxl(), "sdxl", "text_to_image"),
    "sdxl with its sigmas": ({**ldm.sdxl(), "denoiser.sigmas": (1000,)}, "sdxl", "text_to_image"),
    "sdxl for inpainting": (ldm.sdxl(9), "sdxl_inpaint", "inpaint"),
    "sdxl refiner": (ldm.sdxl_refiner(), "sdxl_refiner", "refine"),
    "zero123": (ldm.zero123(), "zero123", "novel_view"),
    "zero123 in data-parallel's wrapper": (ldm.prefixed("module.", ldm.zero123()), "zero123", "novel_view"),
    "x4 upscaler": ({**ldm.prefixed("model.diffusion_model.", ldm.unet(
        ch=256, mult=(1, 2, 2, 4), depth=(0, 1, 1, 1), context=1024, ins=7, linear=True, classes=1000,
        cross=(True, True, True, False))),
        **ldm.prefixed("first_stage_model.", ldm.vae(mult=(1, 2, 4))),
        **ldm.prefixed("cond_stage_model.model.", ldm.open_clip_text(1024, 24)),
        "low_scale_model.betas": (1000,)}, "sd_x4_upscaler", "upscale"),
    "sd3": ({**SD3, **ldm.prefixed("first_stage_model.", ldm.vae(z=16, quant=False))}, "sd3", "text_to_image"),
    "sd3.5 medium": (ldm.prefixed("model.diffusion_model.", ldm.sd3(24, 13, True, 384)), "sd35_medium",
                     "text_to_image"),
    "sd3.5 large": (ldm.prefixed("model.diffusion_model.", ldm.sd3(38, 0, True)), "sd35_large", "text_to_image"),
    "a VAE": (ldm.prefixed("first_stage_model.", ldm.vae()), "sd15", "vae"),
    "a VAE without prefix": (ldm.vae(), "sd15", "vae"),
    "a VAE with its discriminator": (
        {**ldm.vae(), "loss.logvar": (), "loss.discriminator.main.0.weight": (64, 3, 4, 4)}, "sd15", "vae"),
    "a U-Net without prefix": (ldm.unet(), "sd15", "text_to_image"),
    "a ControlNet": (ldm.prefixed("control_model.", ldm.controlnet()), "sd15", "control"),
    "a ControlNet without prefix": (ldm.controlnet(), "sd15", "control"),
    "a ControlNet for sd21": (ldm.controlnet(context=1024, linear=True), "sd21", "control"),
}


@pytest.mark.parametrize("what", SINGLE)
def test_single_files_of_other_families(what: str) -> None:
    shapes, family, role = SINGLE[what]
    assert clean(recognise(header(shapes)))[:3] == (family, role, "ldm")


DIFFUSERS = [("sd15", "unet", "text_to_image"), ("sdxl", "unet", "text_to_image"), ("sd15", "vae", "vae"),
             ("sd15", "controlnet", "control"), ("sdxl", "controlnet", "control"), ("sd15", "text_encoder",
                                                                                 "text_encoder"),
             ("sd21", "text_encoder", "text_encoder"), ("sdxl", "text_encoder_2", "text_encoder"),
             ("sd3", "text_encoder_3", "text_encoder"), ("sd3", "transformer", "text_to_image"),
             ("pixart_sigma", "transformer", "text_to_image"), ("pixart_alpha", "transformer", "text_to_image"),
             ("dit", "transformer", "class_to_image"), ("zero123", "image_encoder", "image_encoder"),
             ("sd15", "image_encoder", "image_encoder"), ("sd3", "vae", "vae"),
             ("deepfloyd_1", "unet", "text_to_image")]


@pytest.mark.parametrize("family, part, role", DIFFUSERS)
def test_parts_in_diffusers_and_transformers_own_names(family: str, part: str, role: str) -> None:
    found = clean(recognise(header(blueprint(family, part).shapes)))
    assert found[1] == role and found[2] in ("diffusers", "transformers")
    alike = [f for f in blueprints.families() if (p := blueprints.config_folder(f, part)) and
             blueprints.of_config(blueprints.read_config(p)).shapes == blueprint(family, part).shapes]
    assert found[0] in (*alike, "sd15")  # several families share a part to the last shape


def test_transformers_prefix_position_ids_and_old_attention_names_are_known() -> None:
    text = {f"text_model.{k}": v for k, v in blueprint("sd15", "text_encoder").shapes.items()}
    text["text_model.embeddings.position_ids"] = (1, 77)
    assert clean(recognise(header(text)))[:2] == ("sd15", "text_encoder")
    vae = {k: v for k, v in blueprint("sd15", "vae").shapes.items() if "mid_block.attentions" not in k}
    for side in ("encoder", "decoder"):
        place = f"{side}.mid_block.attentions.0"
        vae |= {f"{place}.group_norm.weight": (512,), f"{place}.group_norm.bias": (512,)}
        for k in ("query", "key", "value", "proj_attn"):
            vae |= {f"{place}.{k}.weight": (512, 512), f"{place}.{k}.bias": (512,)}
    assert clean(recognise(header(vae)))[:2] == ("sd15", "vae")
    t5 = {k: v for k, v in blueprint("sd3", "text_encoder_3").shapes.items() if k != "encoder.embed_tokens.weight"}
    assert clean(recognise(header({**t5, "decoder.final_layer_norm.weight": (4096,)})))[:2] == ("sd3", "text_encoder")
    clip = {**ldm.prefixed("visual.", ldm.open_clip_vision(1280, 32, 1024)), **ldm.open_clip_text(1024, 24)}
    assert recognise(header(clip)).layout == "open_clip"


def test_zero123plus_is_told_by_its_image_encoder() -> None:
    parts = {"unet": blueprint("sd21", "unet"), "vae": blueprint("sd15", "vae"),
             "text_encoder": blueprint("sd21", "text_encoder")}
    headers = {name: header(part.shapes) for name, part in parts.items()}
    assert clean(recognise(headers))[0] == "sd21"
    headers["vision_encoder"] = header(blueprint("zero123plus", "image_encoder").shapes)
    headers["safety_checker"] = header({"anything": (1,)})
    assert clean(recognise(headers))[:2] == ("zero123plus", "novel_view")


def test_a_folder_s_own_configuration_says_what_must_be_in_it(tmp_path: Path) -> None:
    """Networks of other sizes: the same family when they are built alike, held against their own config.json."""
    tiny = {**blueprint("zero123", "unet").config, "block_out_channels": [16, 32, 48, 48], "norm_num_groups": 16,
            "cross_attention_dim": 24}
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(tiny))
    shapes = dict(blueprints.of_config(tiny).shapes)
    path = str(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert clean(recognise(header(shapes, path)))[:2] == ("zero123", "novel_view")
    del shapes["conv_in.bias"]
    assert recognise(header(shapes, path)).missing == ("unet/conv_in.bias",)


# -- adapters ----------------------------------------------------------------------------------------------------------


def lora(family: str, style: str, only: str = "attn2") -> Shapes:
    """A LoRA of rank 4 on a U-Net's attention, in the naming of several trainers."""
    made: dict[str, tuple[int, ...]] = {}
    for name, shape in blueprint(family, "unet").shapes.items():
        module = name.removesuffix(".weight")
        if only not in name or not name.endswith(".weight") or len(shape) != 2 or "to_" not in name:
            continue
        down, up = (4, shape[1]), (shape[0], 4)
        if style == "kohya":
            flat = "lora_unet_" + module.replace(".", "_")
            made |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": ()}
        elif style == "diffusers":
            made |= {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up}
        elif style == "peft":
            made |= {f"base_model.model.{module}.lora_A.weight": down, f"base_model.model.{module}.lora_B.weight": up}
        elif style == "dotted":
            made |= {f"unet.{module}.lora.down.weight": down, f"unet.{module}.lora.up.weight": up}
        else:
            place, _, layer = module.removesuffix(".0").rpartition(".")
            made |= {f"{place}.processor.{layer}_lora.down.weight": down,
                     f"{place}.processor.{layer}_lora.up.weight": up}
    return made


@pytest.mark.parametrize("style", ["kohya", "diffusers", "peft", "dotted", "old"])
@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd21"])
def test_loras_of_every_naming(family: str, style: str) -> None:
    layout = {"old": "diffusers, old", "dotted": "diffusers, old"}.get(style, style)
    assert clean(recognise(header(lora(family, style)))) == (family, "lora", layout, ("unet",))


def test_loras_with_text_encoders_in_latent_diffusion_s_numbering_and_without_cross_attention() -> None:
    text = {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 768),
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": (768, 4)}
    assert clean(recognise(header({**lora("sd15", "kohya"), **text})))[3] == ("unet", "text_encoder")
    place = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    second = "lora_te2_text_model_encoder_layers_31_mlp_fc1"
    xl = {f"{place}.lora_down.weight": (8, 2048), f"{place}.lora_up.weight": (640, 8), f"{place}.alpha": (),
          f"{second}.lora_down.weight": (8, 1280), f"{second}.lora_up.weight": (5120, 8),
          "lora_unet_output_blocks_0_0_in_layers_2.lora_down.weight": (8, 2560, 3, 3),
          "lora_unet_output_blocks_0_0_in_layers_2.lora_up.weight": (1280, 8, 1, 1)}
    assert clean(recognise(header(xl))) == ("sdxl", "lora", "kohya", ("unet", "text_encoder_2"))
    assert clean(recognise(header(lora("sd15", "kohya", "down_blocks.0.attentions.0.transformer_blocks.0.attn1"))))[0] \
        == "sd15"


def test_loras_of_transformers_and_of_motion_in_diffusers_names() -> None:
    made = {}
    for name, shape in blueprint("sd3", "transformer").shapes.items():
        if name.endswith((".attn.to_q.weight", ".attn.add_k_proj.weight")):
            module = f"transformer.{name.removesuffix('.weight')}"
            made |= {f"{module}.lora_A.weight": (4, shape[1]), f"{module}.lora_B.weight": (shape[0], 4)}
    assert clean(recognise(header(made))) == ("sd3", "lora", "diffusers", ("transformer",))
    place = "unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_k"
    motion = {f"{place}.lora_A.weight": (64, 320), f"{place}.lora_B.weight": (320, 64)}
    assert clean(recognise(header(motion)))[:3] == ("sd15", "motion_lora", "diffusers")


def test_networks_of_latent_consistency_and_whole_clips_are_known() -> None:
    told = {**blueprint("sd15", "unet").shapes, "time_embedding.cond_proj.weight": (320, 256)}
    assert clean(recognise(header(told)))[:2] == ("sd15_lcm", "text_to_image")
    clip = {**blueprint("clip", "clip").shapes, "text_model.embeddings.position_ids": (1, 77)}
    assert clean(recognise(header(clip)))[:2] == ("clip", "image_text")
    first = {**ldm.prefixed("control_model.", ldm.controlnet()), **ldm.sd1()}
    assert clean(recognise(header(first)))[:2] == ("sd15", "control")


def test_damaged_loras_are_named() -> None:
    shapes = dict(lora("sd15", "diffusers"))
    first = next(iter(shapes))
    del shapes[first]
    assert recognise(header(shapes)).missing == ("unet/" + first.removeprefix("unet.").removesuffix(".weight"),)
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    wrong = recognise(header({**lora("sd15", "diffusers"), f"{place}.lora_A.weight": (4, 700)}))
    assert len(wrong.wrong) == 1 and "mid_block" in wrong.wrong[0]
    strange = recognise(header({**lora("sd15", "diffusers"), "unet.down_blocks.9.to_k.lora_A.weight": (4, 768)}))
    assert strange.unexpected == ("unet.down_blocks.9.to_k.lora_A.weight",) and strange.family == "sd15"


def test_ip_adapters_base_and_plus_in_both_separators() -> None:
    from engine.models.ip_adapter_files import attention_shapes
    assert {k: v for k, v in attention_shapes("sd15").items() if k.startswith(("1.", "31."))} == {
        "1.to_k_ip.weight": (320, 768), "1.to_v_ip.weight": (320, 768), "31.to_k_ip.weight": (1280, 768),
        "31.to_v_ip.weight": (1280, 768)}
    plus = {"image_proj.latents": (1, 16, 768), "image_proj.proj_in.weight": (768, 1280),
            "image_proj.proj_in.bias": (768,), "image_proj.proj_out.weight": (768, 768),
            "image_proj.proj_out.bias": (768,), "image_proj.norm_out.weight": (768,),
            "image_proj.norm_out.bias": (768,)}
    for i in range(4):
        plus |= {f"image_proj.layers.{i}.0.{n}.{w}": (768,) for n in ("norm1", "norm2") for w in ("weight", "bias")}
        plus |= {f"image_proj.layers.{i}.0.to_q.weight": (768, 768),
                 f"image_proj.layers.{i}.0.to_kv.weight": (1536, 768),
                 f"image_proj.layers.{i}.0.to_out.weight": (768, 768), f"image_proj.layers.{i}.1.0.weight": (768,),
                 f"image_proj.layers.{i}.1.0.bias": (768,), f"image_proj.layers.{i}.1.1.weight": (3072, 768),
                 f"image_proj.layers.{i}.1.3.weight": (768, 3072)}
    plus |= {f"ip_adapter.{k}": v for k, v in attention_shapes("sd15").items()}
    found = recognise(header(plus))
    assert clean(found)[:2] == ("sd15", "image_prompt") and found.note == "kind: plus"
    del plus["image_proj.layers.2.1.3.weight"]
    assert recognise(header(plus)).missing == ("image_proj/layers.2.1.3.weight",)


@pytest.mark.parametrize("shapes, family, layout", [
    ({"<zorb>": (768,)}, "sd15", "diffusers"), ({"<zorb>": (4, 1024)}, "sd21", "diffusers"),
    ({"emb_params": (8, 768)}, "sd15", "a1111"), ({"string_to_param.*": (1, 768)}, "sd15", "a1111"),
    ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "sdxl", "kohya")])
def test_textual_inversions(shapes: Shapes, family: str, layout: str) -> None:
    assert clean(recognise(header(shapes)))[:3] == (family, "textual_inversion", layout)


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_one_name_missing_one_too_many_one_of_another_shape_are_each_named() -> None:
    shapes = dict(ldm.sd1())
    del shapes["model.diffusion_model.output_blocks.5.2.conv.bias"]
    shapes["model.diffusion_model.surprise.weight"] = (3,)
    shapes["somewhere.else"] = (4,)
    shapes["first_stage_model.quant_conv.weight"] = (8, 9, 1, 1)
    found = recognise(header(shapes))
    assert not found.whole and found.family == "sd15" and found.role == "text_to_image"
    assert found.missing == ("unet/up_blocks.1.upsamplers.0.conv.bias",)
    assert found.unexpected == ("model.diffusion_model.surprise.weight", "somewhere.else")
    assert found.wrong == ("first_stage_model.quant_conv.weight is 8 x 9 x 1 x 1, not 8 x 8 x 1 x 1",)


@pytest.mark.parametrize("shapes, said", [
    ({"double_blocks.0.img_attn.qkv.weight": (9216, 3072), "img_in.weight": (3072, 64)}, "FLUX"),
    ({"blocks.0.adaLN_modulation.1.weight": (6912, 1152), "x_embedder.proj.weight": (1152, 4, 2, 2)}, "DiT"),
    ({"model.0.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)}, "ESRGAN"),
    ({"lora_unet_x.hada_w1_a": (4, 4)}, "LyCORIS"),
    ({"encoder.layers.0.weight": (64, 3, 3, 3), "encoder.layers.1.conv.0.weight": (64, 64, 3, 3)}, "TAESD"),
    ({"model.diffusion_model.camera_embed.0.weight": (1280, 16), **ldm.prefixed("model.diffusion_model.", {
        k: v for k, v in ldm.unet(context=1024, linear=True).items() if "attn1" not in k})}, "MVDream")])
def test_files_of_others_are_named(shapes: Shapes, said: str) -> None:
    found = recognise(header(shapes))
    assert found.family == "unknown" and not found.whole and said in found.nearest
    assert found.unexpected


def test_files_of_nobody_are_unknown() -> None:
    for shapes in ({"a": (2, 3)}, {"layer.weight": (5, 5), "layer.bias": (5,)}, {"fc.weight": (10, 768)}):
        found = recognise(header(shapes))
        assert (found.family, found.role, found.parts) == ("unknown", "", ()) and found.unexpected == tuple(shapes)


def test_a_half_of_a_network_is_unknown_with_the_nearest_named() -> None:
    half = {k: v for i, (k, v) in enumerate(blueprint("sdxl", "unet").shapes.items()) if i % 2}
    found = recognise(header(half))
    assert found.family == "unknown" and found.nearest == "sdxl" and len(found.missing) == 840


def test_any_names_and_shapes_get_an_answer() -> None:
    """Parts of real adapters with shapes of anything: never an error, and nothing unknown without a word about it."""
    import random

    from engine.models.ip_adapter_files import attention_shapes
    draw = random.Random(0)
    adapters = [dict(lora("sd15", style)) for style in ("kohya", "diffusers", "old")]
    adapters += [{f"ip_adapter.{k}": v for k, v in attention_shapes("sd15").items()} | {
        "image_proj.proj.weight": (3072, 1024), "image_proj.proj.bias": (3072,), "image_proj.norm.weight": (768,),
        "image_proj.latents": (1, 16, 768), "image_proj.proj_in.weight": (768, 1280),
        "image_proj.layers.0.0.to_q.weight": (768, 768)}, {"emb_params": (3, 768)}, {"clip_l": (2, 768)}]
    for _ in range(600):
        shapes = dict(draw.choice(adapters))
        for name in draw.sample(list(shapes), draw.randint(0, len(shapes) - 1)):
            if draw.random() < 0.7:
                del shapes[name]
            else:
                shapes[name] = tuple(draw.choice([0, 1, 2, 7, 768]) for _ in range(draw.randint(0, 5)))
        found = recognise(header(shapes))
        assert found.family != "unknown" or found.unexpected or found.missing or found.wrong


# -- the ground it stands on -------------------------------------------------------------------------------------------


def test_moves_by_hand() -> None:
    import torch
    packed = torch.arange(12.0).reshape(6, 2)
    assert moves.Move("x", "second third").carry_out(packed).tolist() == [[4, 5], [6, 7]]
    assert moves.Move("x", "halves swapped").carry_out(packed)[:, 0].tolist() == [6, 8, 10, 0, 2, 4]
    turned = moves.Move("x", "transposed")
    assert turned.carry_out(packed).shape == turned.shape((6, 2)) == (2, 6)
    assert moves.Move("x", "first third").shape((7, 2))[0] == -1  # cannot be done, and fits nothing
    assert moves.fits((512, 512, 1, 1), (512, 512)) and moves.fits((4, 4), (4, 4, 1, 1))
    assert not moves.fits((512, 512, 3, 3), (512, 512)) and not moves.fits((2, 8), (4, 4)) and not moves.fits((), (1,))
    assert not moves.fits((4, 1, 4, 1), (4, 4))


def test_a_configuration_may_not_choose_code(tmp_path: Path) -> None:
    from engine.errors import BadInput
    for named in ({"_class_name": "os.system"}, {"architectures": ["AutoModel"]}, {}):
        with pytest.raises(BadInput, match="does not load"):
            blueprints.of_config(named)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(BadInput, match="no configuration"):
        blueprints.read_config(tmp_path)
    with pytest.raises(BadInput, match="cannot be built|can be built"):
        blueprints.of_config({"_class_name": "UNet2DConditionModel", "down_block_types": ["Nonsense"]})


def test_published_sizes() -> None:
    """Numbers of weights that the model cards state: the shipped configurations build these networks and no others."""
    from math import prod
    for family, part, count in (("sd15", "unet", 859_520_964), ("sd15", "vae", 83_653_863),
                                ("sd15", "text_encoder", 123_060_480), ("sd21", "unet", 865_910_724),
                                ("sd21", "text_encoder", 340_387_840), ("sdxl", "unet", 2_567_463_684),
                                ("sdxl", "text_encoder_2", 694_659_840), ("sd15", "controlnet", 361_279_120),
                                ("zero123plus", "image_encoder", 632_076_800), ("sd_x4_upscaler", "unet", 473_398_020)):
        assert sum(prod(s) for s in blueprint(family, part).shapes.values()) == count, (family, part)


def test_manifests_say_what_they_are() -> None:
    assert manifest("zero123-xl")["n_keys"] == len(shapes_of("zero123-xl")) == 1938
