"""The same numbers through every layout: small networks with the real names, written as each of them, loaded and run.

The names of single files are checked against the libraries' converters in test_real_loading.py; here what flows through
the loaded networks is compared, and CLIP's packed layouts are held against attention and projections written by hand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.diffusion import novel_view
from engine.errors import BadInput
from engine.models import blueprints, convert
from engine.models.blueprints import blueprint
from engine.models.fitting import settle
from engine.models.open_checkpoint import load_part, load_scheduler, load_tokenizer, missing_components, open_layout

WIDTH = 24
TINY: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": [16, 32, 48, 48], "norm_num_groups": 16, "cross_attention_dim": WIDTH,
             "attention_head_dim": 2, "sample_size": 8},
    "vae": {"block_out_channels": [16, 32, 48, 48], "norm_num_groups": 16, "sample_size": 64},
    "image_encoder": {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "projection_dim": WIDTH, "image_size": 32, "patch_size": 8},
    "text_encoder": {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "vocab_size": 50},
    "cc_projection": {"in_channel": WIDTH + 4, "out_channel": WIDTH},
}
FULL: dict[str, dict[str, Any]] = {part: {} for part in TINY}
PARTS = {"zero123": ("unet", "vae", "image_encoder", "cc_projection"), "sd15": ("unet", "vae", "text_encoder")}
Weights = dict[str, dict[str, Tensor]]


def configs(family: str, sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {part: {**blueprint(family, part).config, **sizes[part]} for part in PARTS[family]}


def filled(family: str, sizes: Mapping[str, Mapping[str, Any]], dtype: torch.dtype) -> Weights:
    """Random weights of every part, by the networks' own names; of a size at which numbers stay tame."""
    made: Weights = {}
    for part, config in configs(family, sizes).items():
        made[part] = {}
        for i, (name, shape) in enumerate(blueprints.of_config(config).shapes.items()):
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * len(part) + i))
            scale = 0.7 / max(1.0, (prod(shape[1:]) if len(shape) > 1 else 100.0)) ** 0.5
            made[part][name] = (noise * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0)).to(dtype)
    return made


# -- the layouts -------------------------------------------------------------------------------------------------------


def single_names(family: str, sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the family's single file in the sizes of a test."""
    import ldm_files as ldm
    full = sizes is FULL
    net: dict[str, Any] = {} if full else {"ch": 16, "mult": (1, 2, 3, 3), "context": WIDTH}
    made = ldm.prefixed("model.diffusion_model.", ldm.unet(ins=8 if family == "zero123" else 4, **net))
    made |= ldm.prefixed("first_stage_model.", ldm.vae(**({} if full else {"ch": 16, "mult": (1, 2, 3, 3)})))
    if family == "sd15":
        text = ldm.clip_text(768, 12) if full else ldm.clip_text(WIDTH, 2, words=50)
        return {**made, **ldm.prefixed("cond_stage_model.transformer.", text)}
    tower = ldm.open_clip_vision(1024, 24, 768) if full else ldm.open_clip_vision(32, 2, WIDTH, 8, 32)
    width = 768 if full else WIDTH
    return {**made, **ldm.prefixed("cond_stage_model.model.visual.", tower), "cc_projection.weight": (width, width + 4),
            "cc_projection.bias": (width,)}


def single(family: str, weights: Weights, sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """A single file's tensors, made from the parts': the way of loading, backwards."""
    names = single_names(family, sizes)
    plan = convert.plan(names)
    pieces: dict[str, dict[str, Tensor]] = {}
    for part, config in configs(family, sizes).items():
        moves, _ = settle(plan.parts[part], blueprints.of_config(config))
        for name, move in moves.items():
            pieces.setdefault(move.source, {})[move.how] = weights[part][name]
    made = {}
    for name, held in pieces.items():
        thirds = [held[how] for how in ("first third", "second third", "last third") if how in held]
        whole = torch.cat(thirds) if thirds else held["transposed"].T if "transposed" in held else held["as it is"]
        made[name] = whole.reshape(names[name]).contiguous()
    assert made.keys() == names.keys()
    return made


def write_single(folder: Path, family: str, weights: Weights, sizes: Any) -> Path:
    save_file(single(family, weights, sizes), folder / "single.safetensors")
    return folder / "single.safetensors"


def write_lightning(folder: Path, family: str, weights: Weights, sizes: Any) -> Path:
    tensors = single(family, weights, sizes)
    average = {f"model_ema.diffusion_model{name.removeprefix('model.diffusion_model').replace('.', '')}": value + 1
               for name, value in tensors.items() if name.startswith("model.diffusion_model.")}
    state = {**{f"{name}": value for name, value in tensors.items()}, "betas": torch.linspace(0.1, 0.2, 1000),
             **(average if sizes is TINY else {}), "model_ema.decay": torch.tensor(0.9999)}
    torch.save({"state_dict": state, "epoch": 1, "callbacks": {nn.Identity: {"x": 1}}, "hyper": {"lr": 1e-4},
                "optimizer_states": [{"state": {}, "param_groups": []}]}, folder / "single.ckpt")
    return folder / "single.ckpt"


def write_folders(folder: Path, family: str, weights: Weights, sizes: Any, *, variant: str = "", old: bool = False
                  ) -> Path:
    """diffusers' folders; old : ashawkey's names, the VAE's before 0.17, and torch files for safetensors"""
    root = folder / "port"
    for part, tensors in weights.items():
        name = "clip_camera_projection" if old and part == "cc_projection" else part
        (root / name).mkdir(parents=True, exist_ok=True)
        config = configs(family, sizes)[part]
        if name == "clip_camera_projection":
            config = {"_class_name": "CLIPCameraProjection", "embedding_dim": config["out_channel"],
                      "additional_embeddings": 4}
        (root / name / "config.json").write_text(json.dumps(config))
        keys = dict(tensors)
        if part == "text_encoder":
            keys = {f"text_model.{k}": v for k, v in keys.items()}
        if old and part == "cc_projection":
            keys = {k.replace("projection.", "proj."): v for k, v in keys.items()}
        if old and part == "vae":
            names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
            for now, before in names.items():
                keys = {k.replace(f"attentions.0.{now}.", f"attentions.0.{before}."): v for k, v in keys.items()}
        stem = "model" if part.endswith("encoder") else "diffusion_pytorch_model"
        if old:
            torch.save(keys, root / name / f"{'pytorch_model' if stem == 'model' else stem}.bin")
        else:
            save_file({k: v.contiguous() for k, v in keys.items()},
                      root / name / f"{stem}{'.' + variant if variant else ''}.safetensors")
    (root / "model_index.json").write_text(json.dumps({"_class_name": "Zero1to3StableDiffusionPipeline"}))
    return root


def write_variant(folder: Path, family: str, weights: Weights, sizes: Any) -> Path:
    return write_folders(folder, family, weights, sizes, variant="fp16")


def write_old(folder: Path, family: str, weights: Weights, sizes: Any) -> Path:
    return write_folders(folder, family, weights, sizes, old=True)


def write_shards(folder: Path, family: str, weights: Weights, sizes: Any) -> Path:
    """Folders whose U-Net lies in two files with an index."""
    root = write_folders(folder, family, weights, sizes)
    unet = root / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names, places = list(weights["unet"]), {}
    for i, part in enumerate((names[:300], names[300:]), start=1):
        file = f"diffusion_pytorch_model-{i:05d}-of-00002.safetensors"
        save_file({k: weights["unet"][k].contiguous() for k in part}, unet / file)
        places |= dict.fromkeys(part, file)
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return root


LAYOUTS: tuple[Callable[..., Path], ...] = (write_single, write_lightning, write_folders, write_variant, write_old,
                                            write_shards)


# -- one step ----------------------------------------------------------------------------------------------------------


def load_all(source: Path, family: str, sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every part, in single precision. Single files of other sizes than the real ones need to be told them."""
    told: dict[str, Any] = {p: c if source.is_file() and sizes is TINY else None
                            for p, c in configs(family, sizes).items()}
    return {part: load_part(source, family, part, allow_pickle=True, dtype=torch.float32, config=told[part])
            for part in PARTS[family]}


def zero123_step(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """One guided step as Zero-1-to-3 takes it, and what went into it."""
    draw = torch.Generator().manual_seed(7)
    size = parts["image_encoder"].config.image_size
    seen = torch.rand((1, 3, size, size), generator=draw)
    picture = torch.rand((1, 3, 64, 64), generator=draw) * 2 - 1
    noisy = torch.randn((1, 4, 8, 8), generator=draw)
    with torch.inference_mode():
        embeds = parts["image_encoder"](pixel_values=seen).image_embeds
        camera = torch.tensor([novel_view.camera_vector(10, 40, 90, 0.2)])
        token = novel_view.context(parts["cc_projection"], embeds, camera)
        latents = novel_view.condition_latents(parts["vae"], picture)
        said = parts["unet"](novel_view.unet_input(noisy, latents), 500, encoder_hidden_states=token).sample
        return {"embeds": embeds, "token": token, "condition": latents, "said": said,
                "decoded": parts["vae"].decode(said / parts["vae"].config.scaling_factor).sample}


def sd15_step(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    ids = torch.arange(8)[None] % parts["text_encoder"].config.vocab_size
    noisy = torch.randn((1, 4, 8, 8), generator=draw)
    with torch.inference_mode():
        context = parts["text_encoder"](input_ids=ids).last_hidden_state
        said = parts["unet"](noisy, 500, encoder_hidden_states=context).sample
        return {"context": context, "said": said,
                "decoded": parts["vae"].decode(said / parts["vae"].config.scaling_factor).sample}


STEPS: dict[str, Callable[[Mapping[str, Any]], dict[str, Tensor]]] = {"zero123": zero123_step, "sd15": sd15_step}


def by_hand(family: str, weights: Weights, sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The step of networks made by their own classes and filled by hand, without a file."""
    parts = {}
    for part, config in configs(family, sizes).items():
        from importlib import import_module
        kind = getattr(import_module(blueprints.CLASSES[config.get("_class_name") or config["architectures"][0]]),
                       config.get("_class_name") or config["architectures"][0])
        given = {k: v for k, v in config.items() if k not in ("_class_name", "architectures", "model_type")}
        made = kind(kind.config_class(**given)) if "architectures" in config else kind(**given)
        made.load_state_dict({k: v.float() for k, v in weights[part].items()}, strict=True)
        parts[part] = made.eval()
    return STEPS[family](parts)


@pytest.mark.parametrize("family", ["zero123", "sd15"])
def test_small_networks_say_the_same_through_every_layout(tmp_path: Path, family: str) -> None:
    weights = filled(family, TINY, torch.float16)
    expected = by_hand(family, weights, TINY)
    assert all(torch.isfinite(value).all() and value.std() > 1e-3 for value in expected.values())
    for write in LAYOUTS if family == "zero123" else (write_single, write_variant, write_old):
        folder = tmp_path / write.__name__
        folder.mkdir()
        found = STEPS[family](load_all(write(folder, family, weights, TINY), family, TINY))
        for name, value in expected.items():
            assert torch.equal(found[name], value), (write.__name__, name)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["zero123", "sd15"])
def test_full_size_networks_say_the_same_through_every_layout(tmp_path: Path, family: str) -> None:
    """Zero-1-to-3 and SD 1.5 in their real sizes, random in half precision, one step in single precision.

    About 10 GB of memory and 3 GB of disk at a time.
    """
    weights = filled(family, FULL, torch.float16)
    sources = []
    for write in (write_single, write_lightning, write_folders, write_old):
        folder = tmp_path / write.__name__
        folder.mkdir()
        sources.append(write(folder, family, weights, FULL))
    del weights
    expected: dict[str, Tensor] | None = None
    for source in sources:
        found = STEPS[family](load_all(source, family, FULL))
        assert all(torch.isfinite(value).all() and value.std() > 1e-3 for value in found.values())
        if expected is not None:
            assert all(torch.equal(found[name], value) for name, value in expected.items()), source
        expected = found
        shutil.rmtree(source.parent) if source.is_file() else shutil.rmtree(source)


# -- what folders can lack ---------------------------------------------------------------------------------------------


def test_a_folder_that_lacks_a_component_is_named(tmp_path: Path) -> None:
    root = write_folders(tmp_path, "zero123", filled("zero123", TINY, torch.float16), TINY)
    assert missing_components(root, PARTS["zero123"]) == []
    shutil.rmtree(root / "image_encoder")
    assert missing_components(root, PARTS["zero123"]) == ["image_encoder"]
    with pytest.raises(BadInput, match=r"lacks the component 'image_encoder' \(no folder image_encoder or "
                                       r"vision_encoder\); it has cc_projection, unet, vae"):
        load_part(root, "zero123", "image_encoder")
    (root / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInput, match="no file of weights"):
        load_part(root, "zero123", "unet")
    with pytest.raises(BadInput, match="has no tokenizer.*single files carry no words"):
        load_tokenizer(root)


def test_a_folder_of_another_family_is_named(tmp_path: Path) -> None:
    root = write_folders(tmp_path, "zero123", filled("zero123", TINY, torch.float16), TINY)
    with pytest.raises(BadInput, match=r"unet is no unet of sd15: it is (sd15_pix2pix|zero123)'s"):
        load_part(root, "sd15", "unet")
    config = root / "unet" / "config.json"
    config.write_text(config.read_text().replace("UNet2DConditionModel", "CommunityUNet"))
    with pytest.raises(BadInput, match="names the class 'CommunityUNet', which Maquette does not load"):
        load_part(root, "zero123", "unet")


def test_a_part_s_own_folder_and_a_single_file_in_a_folder_are_found(tmp_path: Path) -> None:
    weights = filled("sd15", TINY, torch.float16)
    root = write_folders(tmp_path, "sd15", weights, TINY)
    kept = load_part(root / "vae", "sd15", "vae").state_dict()
    assert all(torch.equal(kept[k], v) for k, v in weights["vae"].items())  # in the file's own precision
    (tmp_path / "alone").mkdir()
    write_single(tmp_path / "alone", "sd15", weights, TINY)
    again = load_part(tmp_path / "alone", "sd15", "vae", config=configs("sd15", TINY)["vae"]).state_dict()
    assert all(torch.equal(again[k], v) for k, v in kept.items())


def test_schedules_are_the_folder_s_own_else_the_family_s(tmp_path: Path) -> None:
    root = tmp_path
    assert load_scheduler(root, "zero123").config.beta_schedule == "scaled_linear"
    (root / "scheduler").mkdir()
    path = root / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "EulerDiscreteScheduler", "beta_start": 0.5}))
    assert load_scheduler(root, "zero123").config.beta_start == 0.5
    path.write_text(json.dumps({"_class_name": "DiffusionPipeline"}))
    with pytest.raises(BadInput, match="DiffusionPipeline is no scheduler"):
        load_scheduler(root, "zero123")


# -- CLIP's packed layouts, by hand ------------------------------------------------------------------------------------


def packed_blocks(tensors: Mapping[str, Tensor], x: Tensor, layers: int, heads: int, act: Callable[[Tensor], Tensor],
                  mask: Tensor | None = None) -> Tensor:
    """OpenAI's residual attention blocks on (1, tokens, width), with torch's own multi-head attention."""
    for i in range(layers):
        place = f"transformer.resblocks.{i}"

        def norm(name: str, y: Tensor, place: str = place) -> Tensor:
            return nn.functional.layer_norm(y, y.shape[-1:], tensors[f"{place}.{name}.weight"],
                                            tensors[f"{place}.{name}.bias"])
        h = norm("ln_1", x)
        width = x.shape[-1]
        said, _ = nn.functional.multi_head_attention_forward(
            h.transpose(0, 1), h.transpose(0, 1), h.transpose(0, 1), width, heads,
            tensors[f"{place}.attn.in_proj_weight"], tensors[f"{place}.attn.in_proj_bias"], None, None, False, 0.0,
            tensors[f"{place}.attn.out_proj.weight"], tensors[f"{place}.attn.out_proj.bias"], training=False,
            need_weights=False, attn_mask=mask)
        x = x + said.transpose(0, 1)
        h = act(nn.functional.linear(norm("ln_2", x), tensors[f"{place}.mlp.c_fc.weight"],
                                     tensors[f"{place}.mlp.c_fc.bias"]))
        x = x + nn.functional.linear(h, tensors[f"{place}.mlp.c_proj.weight"], tensors[f"{place}.mlp.c_proj.bias"])
    return x


def random_tower(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) * 0.3 for name, shape in shapes.items()}


def test_clip_s_image_tower_in_openai_s_layout_by_hand(tmp_path: Path) -> None:
    import ldm_files as ldm
    t = random_tower(ldm.open_clip_vision(32, 2, WIDTH, 8, 32))
    save_file({f"visual.{k}": v for k, v in t.items()}, tmp_path / "clip.safetensors")
    made = load_part(tmp_path / "clip.safetensors", "zero123", "image_encoder",
                     config={**blueprint("zero123", "image_encoder").config, **TINY["image_encoder"]})
    pixels = torch.randn((1, 3, 32, 32), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    patches = nn.functional.conv2d(pixels, t["conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([t["class_embedding"].expand(1, 1, -1), patches], 1) + t["positional_embedding"]
    x = nn.functional.layer_norm(x, (32,), t["ln_pre.weight"], t["ln_pre.bias"])
    x = packed_blocks(t, x, 2, 4, lambda y: y * torch.sigmoid(1.702 * y))
    x = nn.functional.layer_norm(x[:, 0], (32,), t["ln_post.weight"], t["ln_post.bias"])
    with torch.no_grad():
        torch.testing.assert_close(made(pixel_values=pixels).image_embeds, x @ t["proj"], atol=1e-10, rtol=1e-10)


def test_clip_s_text_tower_in_open_clip_s_layout_by_hand(tmp_path: Path) -> None:
    import ldm_files as ldm
    t = random_tower(ldm.open_clip_text(WIDTH, 2, words=50))
    save_file({f"conditioner.embedders.1.model.{k}": v for k, v in t.items()}, tmp_path / "x.safetensors")
    made = load_part(tmp_path / "x.safetensors", "sdxl", "text_encoder_2",
                     config={**blueprint("sdxl", "text_encoder_2").config, **TINY["text_encoder"],
                             "projection_dim": WIDTH})
    ids = torch.tensor([[3, 9, 17, 49, 49, 49]])  # the end token has the highest number; the first of them is read
    x = t["token_embedding.weight"][ids] + t["positional_embedding"][:6]
    mask = torch.full((6, 6), -torch.inf, dtype=torch.float64).triu(1)
    x = packed_blocks(t, x, 2, 4, nn.functional.gelu, mask)
    x = nn.functional.layer_norm(x, (WIDTH,), t["ln_final.weight"], t["ln_final.bias"])
    with torch.no_grad():
        out = made(input_ids=ids)
    torch.testing.assert_close(out.last_hidden_state, x, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(out.text_embeds, x[:, 3] @ t["text_projection"], atol=1e-10, rtol=1e-10)


def test_tables_that_files_do_not_hold_are_computed(tmp_path: Path) -> None:
    """PixArt's and DiT's positions: equal to those of a network that was built for real."""
    from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
    small: dict[str, Any] = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 16}
    for family, kind, more in (("pixart_sigma", PixArtTransformer2DModel, {"caption_channels": 12,
                                                                          "cross_attention_dim": 16}),
                               ("dit", DiTTransformer2DModel, {})):
        config = {**blueprint(family, "transformer").config, **small, **more}
        real = kind(**{k: v for k, v in config.items() if k != "_class_name"})
        folder = tmp_path / family / "transformer"
        real.save_pretrained(folder)
        made = load_part(folder.parent, family, "transformer")
        assert torch.equal(made.pos_embed.pos_embed, real.pos_embed.pos_embed)
        assert all(torch.equal(made.state_dict()[k], v) for k, v in real.state_dict().items())


def test_both_networks_of_a_cascade_are_told_apart(tmp_path: Path) -> None:
    """DeepFloyd IF's: the second takes the smaller picture beside its own and how noisy it was made."""
    from diffusers import UNet2DConditionModel
    config = {**blueprint("deepfloyd_1", "unet").config, "block_out_channels": [16, 32, 32, 32], "layers_per_block": 1,
              "attention_head_dim": 8, "cross_attention_dim": 32, "encoder_hid_dim": 24, "norm_num_groups": 8,
              "addition_embed_type_num_heads": 4}
    second = {**config, "in_channels": 6, "class_embed_type": "timestep"}
    for family, told in (("deepfloyd_1", config), ("deepfloyd_2", second)):
        real = UNet2DConditionModel(**{k: v for k, v in told.items() if k != "_class_name"})
        real.save_pretrained(tmp_path / family / "unet")
        made = load_part(tmp_path / family, family, "unet")
        assert all(torch.equal(made.state_dict()[k], v) for k, v in real.state_dict().items())
        (tmp_path / family / "model_index.json").write_text("{}")
        assert open_layout(tmp_path / family).family == family
    with pytest.raises(BadInput, match="no unet of deepfloyd_1: it is deepfloyd_2's"):
        load_part(tmp_path / "deepfloyd_2", "deepfloyd_1", "unet")


def test_t5_keeps_its_words_once(tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel
    config = {**blueprint("sd3", "text_encoder_3").config, "vocab_size": 40, "d_model": 16, "d_ff": 32, "num_layers": 2,
              "num_heads": 2, "d_kv": 8}
    real = T5EncoderModel(T5Config(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")}))
    real.save_pretrained(tmp_path / "text_encoder_3")
    made = load_part(tmp_path, "sd3", "text_encoder_3")
    assert made.shared.weight is made.encoder.embed_tokens.weight
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(made(input_ids=ids).last_hidden_state, real.eval()(input_ids=ids).last_hidden_state)
