"""AnimateDiff's published files, in their real names and shapes: every tensor finds its place, none is left over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import motion_helpers as helpers
import numpy as np
import pytest
import real_files
import tiny_families as tiny
import torch

from engine.diffusion import lora, motion
from engine.errors import BadInput
from engine.models import blueprints, catalogue, local
from engine.models import motion as roles
from engine.models.catalogue import Model
from engine.models.local import Located
from engine.models.sets import model_set


def located(id: str, role: str, *files: Path, family: str = "sd15", needs: tuple[Located, ...] = ()) -> Located:
    form = "single_file" if len(files) == 1 and files[0].suffix == ".ckpt" else "diffusers"
    return Located(Model(id, role, family=family, format=form), files[0].parent, {f.name: f for f in files},
                   "your own", needs)


def loaded(here: Located) -> Any:
    source = next(iter(here.weights.values())) if here.model.format == "single_file" else here.folder
    return roles.public(here, here.model.role, source, torch.float32, lambda _: lambda part, load: load(), True)


def sd15_unet() -> Any:
    """Stable Diffusion 1.5's U-Net in its real size, on the meta device."""
    return blueprints.blueprint("sd15", "unet").build()


# -- motion modules ----------------------------------------------------------------------------------------------------

ORIGINALS = {"animatediff-mm_sd_v15_v2": ("mm_sd_v15_v2.ckpt", 32, True),
             "animatediff-v3_sd15_mm": ("v3_sd15_mm.ckpt", 32, False),
             "moore-animateanyone-motion_module": ("motion_module.pth.ckpt", 32, True)}
"""Manifest -> (file, longest clip, whether it moves the middle block)."""


@pytest.mark.parametrize("name", ORIGINALS)
def test_original_motion_modules_make_a_whole_video_network(name: str, tmp_path: Path) -> None:
    file, longest, middle = ORIGINALS[name]
    shapes = real_files.shapes_of(name)
    tensors = real_files.marked(shapes)
    real_files.write(tmp_path / file, tensors)
    made = loaded(located("guoyww/animatediff/x", "motion", tmp_path / file))
    assert made.longest == longest and (made.adapter.mid_block is not None) == middle
    assert (made.window, made.period, made.noise_shared, made.domain, made.defaults.steps) == (16, 0, 0.0, None, 25)
    assert made.scheduler.config.beta_schedule == "linear" and not made.scheduler.config.clip_sample
    # every value of the file is somewhere, apart from the second tables of positions
    held = {float(real_files.constant(v)) for v in made.adapter.state_dict().values()}
    expected = {float(real_files.constant(v)) for k, v in tensors.items()
                if not k.endswith("attention_blocks.1.pos_encoder.pe")}
    assert held == expected
    unet = sd15_unet()
    net = motion.moving(unet, made.adapter)
    own, moves = unet.state_dict(), made.adapter.state_dict()
    assert set(net.state_dict()) == set(own) | set(moves) and not set(own) & set(moves)
    assert len(own) == 686 and len(moves) == len(expected)
    name = "up_blocks.3.motion_modules.2.transformer_blocks.0.attn2.to_q.weight"
    source = next(k for k in tensors if k.endswith(
        "up_blocks.3.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_q.weight"))
    assert real_files.constant(net.state_dict()[name]) == real_files.constant(tensors[source])


@pytest.mark.parametrize("wrapped", [False, True])
def test_v1_in_its_original_layout(wrapped: bool, tmp_path: Path) -> None:
    """mm_sd_v15.ckpt: v3's names (no middle block) with tables of 24 positions, bare or as a training left it."""
    shapes = {name: (1, 24, shape[2]) if name.endswith("pos_encoder.pe") else shape
              for name, shape in real_files.shapes_of("animatediff-v3_sd15_mm").items()}
    assert sum(name.endswith("pos_encoder.pe") for name in shapes) == 40
    bare = {name.removeprefix("module."): shape for name, shape in shapes.items()}
    tensors = real_files.marked({f"module.{name}" if wrapped else name: shape for name, shape in bare.items()})
    real_files.write(tmp_path / "mm_sd_v15.ckpt", tensors, "state_dict" if wrapped else "")
    made = loaded(located("guoyww/animatediff/v1", "motion", tmp_path / "mm_sd_v15.ckpt"))
    assert made.longest == 24 and made.adapter.mid_block is None
    blueprint = blueprints.blueprint("sd15", "motion_adapter_v1").shapes
    assert {k: tuple(v.shape) for k, v in made.adapter.state_dict().items()} == dict(blueprint)
    held = {float(real_files.constant(v)) for v in made.adapter.state_dict().values()}
    assert held == {float(real_files.constant(v)) for k, v in tensors.items()
                    if not k.endswith("attention_blocks.1.pos_encoder.pe")}
    for change, told in (({"odd.motion_modules.0.weight": torch.zeros(1)}, "1 unexpected"), ({}, "1 missing")):
        changed = {**tensors, **change}
        if not change:
            del changed[next(k for k in tensors if k.endswith(".proj_in.weight"))]
        real_files.write(tmp_path / "mm_sd_v15.ckpt", changed)
        with pytest.raises(BadInput, match=told):
            loaded(located("guoyww/animatediff/v1", "motion", tmp_path / "mm_sd_v15.ckpt"))


@pytest.mark.parametrize("kind", ["motion_adapter_v1", "motion_adapter_v2", "motion_adapter_v3"])
def test_diffusers_folders_of_all_three(kind: str, tmp_path: Path) -> None:
    shapes = blueprints.blueprint("sd15", kind).shapes
    tensors = real_files.marked(shapes)
    real_files.write(tmp_path / "diffusion_pytorch_model.bin", tensors)
    shutil.copy(blueprints.CONFIGS / "sd15" / kind / "config.json", tmp_path)
    made = loaded(located("guoyww/animatediff-motion-adapter", "motion", tmp_path / "diffusion_pytorch_model.bin"))
    assert {k: real_files.constant(v) for k, v in made.adapter.state_dict().items()} == {
        k: real_files.constant(v) for k, v in tensors.items()}
    assert made.longest == (24 if kind.endswith("v1") else 32)
    motion.moving(sd15_unet(), made.adapter)


def test_an_sdxl_adapter_on_sd15_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the catalogue before anything is loaded, and by its widths where the two meet."""
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    tensors = real_files.marked(blueprints.blueprint("sdxl", "motion_adapter").shapes)
    real_files.write(tmp_path / "mm_sdxl.ckpt", tensors)
    added = local.add(tmp_path / "mm_sdxl.ckpt", "motion")
    assert added.family == "sdxl"
    with pytest.raises(BadInput, match=r"local/mm_sdxl \(motion\) is of the family sdxl, and stable-diffusion-v1-5/"
                                       r"stable-diffusion-v1-5, which it must fit, of sd15"):
        model_set("sd15", {"motion": added.id}).entry("motion")
    wide = loaded(located("mm_sdxl", "motion", tmp_path / "mm_sdxl.ckpt", family="sdxl"))
    with pytest.raises(BadInput, match="widths 320, 640, 1280 with 2, 2, 2 layers a block; the text-to-image model has "
                                       "320, 640, 1280, 1280"):
        motion.check_fits(sd15_unet(), wide.adapter)


def test_animate_lcm_brings_its_lora(tmp_path: Path) -> None:
    """Six steps of its own sampler, and its LoRA at 0.8."""
    kind = blueprints.CONFIGS / "sd15" / "motion_adapter_v2"
    real_files.write(tmp_path / "lcm" / "diffusion_pytorch_model.bin",
                     real_files.marked(blueprints.blueprint("sd15", "motion_adapter_v2").shapes))
    shutil.copy(kind / "config.json", tmp_path / "lcm")
    tensors = real_files.marked(real_files.shapes_of("lcm-lora-sdv1-5"))
    alphas = {k: torch.tensor(8.0) for k in tensors if k.endswith(".alpha")}
    real_files.write(tmp_path / "lora" / "AnimateLCM_sd15_t2v_lora.ckpt", tensors | alphas)
    beside = located("wangfuyun/AnimateLCM/lora", "domain_adapter", tmp_path / "lora" / "AnimateLCM_sd15_t2v_lora.ckpt")
    made = loaded(located("wangfuyun/AnimateLCM", "motion", tmp_path / "lcm" / "diffusion_pytorch_model.bin",
                          needs=(beside,)))
    assert (made.defaults.steps, made.defaults.guidance, made.defaults.sampler) == (6, 2.0, "lcm")
    assert made.domain is not None and set(made.domain.alphas.values()) == {6.4}
    assert len(lora.named(sd15_unet(), made.domain).pairs) == len(alphas)


# -- what changes them -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_motion_loras_of_both_layouts(layout: str, tmp_path: Path) -> None:
    """v2_lora_ZoomIn: every pair at its layer of the v2 motion modules, A the down half and B the up half."""
    from engine.models.convert_motion import motion_lora_name
    shapes = real_files.shapes_of("animatediff-v2_lora_ZoomIn")
    tensors = real_files.marked(shapes)
    if layout == "diffusers":
        for old, new in ((".attention_blocks.0", ".attn1"), (".attention_blocks.1", ".attn2"),
                         (".temporal_transformer", ""), ("module.", "")):
            tensors = {k.replace(old, new): v for k, v in tensors.items()}
        tensors = {f"unet.{k}": v for k, v in tensors.items()}
    real_files.write(tmp_path / "lora.ckpt", tensors)
    made = loaded(located("zoom-in", "motion_lora", tmp_path / "lora.ckpt"))
    adapter = blueprints.blueprint("sd15", "motion_adapter_v2").build()
    fitted = lora.named(adapter, made.lora)
    assert 2 * len(fitted.pairs) == len(shapes)
    original = real_files.marked(shapes)
    for name, tensor in original.items():
        module, side = motion_lora_name(name) or ("", "")
        found = fitted.pairs[module][0 if side == "A" else 1]
        assert real_files.constant(found) == real_files.constant(tensor)
        layer = adapter.get_submodule(module).weight
        assert found.shape[1 if side == "A" else 0] == layer.shape[1 if side == "A" else 0]


def test_the_domain_adapter_of_v3_has_no_prefix(tmp_path: Path) -> None:
    """v3_sd15_adapter.ckpt: old processors' names of the U-Net's attention, bare. All of them find their layer."""
    unet = sd15_unet()
    names = [n.removesuffix(".processor") for n in unet.attn_processors]
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        for layer in ("to_q", "to_k", "to_v", "to_out"):
            weight = unet.get_submodule(name + "." + ("to_out.0" if layer == "to_out" else layer)).weight
            shapes[f"{name}.processor.{layer}_lora.down.weight"] = (4, weight.shape[1])
            shapes[f"{name}.processor.{layer}_lora.up.weight"] = (weight.shape[0], 4)
    tensors = real_files.marked(shapes)
    for wrapper in ("", "state_dict"):
        real_files.write(tmp_path / "v3_sd15_adapter.ckpt", tensors, wrapper)
        made = loaded(located("v3-adapter", "domain_adapter", tmp_path / "v3_sd15_adapter.ckpt"))
        fitted = lora.named(unet, made.lora)
        assert len(fitted.pairs) == 4 * len(names) == 128
        a, b = fitted.pairs["mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"]
        place = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora"
        assert real_files.constant(a) == real_files.constant(tensors[place + ".down.weight"])
        assert real_files.constant(b) == real_files.constant(tensors[place + ".up.weight"])


def test_what_is_no_lora_is_named(tmp_path: Path) -> None:
    real_files.write(tmp_path / "x.ckpt", {"a.weight": torch.zeros(2, 2)})
    with pytest.raises(BadInput, match=r"x\.ckpt holds 1 tensors that belong to no layer of a LoRA: a\.weight"):
        loaded(located("x", "motion_lora", tmp_path / "x.ckpt"))
    (tmp_path / "y").mkdir()
    here = Located(Model("y", "motion_lora", family="sd15", format="lora"), tmp_path / "y", {}, "your own")
    with pytest.raises(BadInput, match="y must hold one file of weights; it holds none"):
        loaded(here)


def test_sparse_control_from_its_folder(tmp_path: Path) -> None:
    from diffusers import SparseControlNetModel
    net = tiny.seeded(lambda: SparseControlNetModel(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=tiny.WIDTH,
        attention_head_dim=2, num_attention_heads=2, motion_num_attention_heads=2), 3)
    net.save_pretrained(tmp_path / "rgb")
    files = sorted(f for f in (tmp_path / "rgb").iterdir())
    made = loaded(located("guoyww/animatediff-sparsectrl-rgb", "sparse_control", *files))
    a, b = made.net.state_dict(), net.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)
    config = json.loads((tmp_path / "rgb" / "config.json").read_text())
    (tmp_path / "rgb" / "config.json").write_text(json.dumps({**config, "block_out_channels": [8, 8, 16, 24]}))
    with pytest.raises(BadInput, match="does not fit sd15's sparse_controlnet"):
        loaded(located("guoyww/animatediff-sparsectrl-rgb", "sparse_control", *files))


# -- the catalogue -----------------------------------------------------------------------------------------------------

def test_every_entry_of_animatediff_can_be_loaded() -> None:
    held = [m for m in catalogue.shipped().values() if m.role in roles.ROLES and not m.builtin]
    assert len(held) == 17 and all(m.loads and m.family == "sd15" for m in held)
    assert catalogue.model("guoyww/animatediff/v3").needs == ("guoyww/animatediff/v3-adapter",)
    assert {m.id for m in held if m.role == "sparse_control"} == {"guoyww/animatediff-sparsectrl-rgb",
                                                                 "guoyww/animatediff-sparsectrl-scribble"}
    for name in ("sd15", "sd15_lcm"):
        assert model_set(name).entry("motion").id == "guoyww/animatediff-motion-adapter-v1-5-3"
        assert model_set(name).entry("sparse_control").id == "guoyww/animatediff-sparsectrl-rgb"


def test_a_role_from_the_users_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From ``models add`` to a drawn clip: a tiny base and a tiny motion adapter in diffusers' folders."""
    from engine.models.pool import Pool
    from engine.stages.text_to_clip import TextToClip, text_to_clip
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    helpers.base().bare.save_pretrained(tmp_path / "base")
    helpers.adapter().save_pretrained(tmp_path / "mover")
    local.add(tmp_path / "base", "text_to_image")
    local.add(tmp_path / "mover", "motion", family="sd15")
    models = model_set("builtin", {"text_to_image": "local/base", "motion": "local/mover"})
    pool = Pool()
    job = helpers.Job({role: pool.get(models, role, "cpu") for role in ("text_to_image", "motion")})
    clip = text_to_clip(TextToClip(prompt="a red mug", frames=3, steps=2), job)
    same = helpers.Job({"text_to_image": helpers.base().ours, "motion": helpers.motion(
        window=16, overlap=4, defaults=roles.ANIMATEDIFF)})
    again = text_to_clip(TextToClip(prompt="a red mug", frames=3, steps=2), same)
    assert np.abs(clip.frames - again.frames).max() < 1.01 / 255  # kept to 8 bits; last bits of sums may differ
