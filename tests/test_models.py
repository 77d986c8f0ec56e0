"""Model sets: found, checked, loaded, shared; and refused by name and hash when anything is not as their cards say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import DOMAIN_WORDS, rewrite_card, tiny_set

from engine.errors import BadInput
from engine.models import cards
from engine.models.pool import POOL, Pool
from engine.models.sets import CORE, ModelSet, model_set

OF_MOTION = ("domain_adapter", "motion", "motion_lora")
"""Roles that the built-in set may lack: their tiny parts are there whether it names them or not."""


@pytest.fixture
def tiny() -> ModelSet:
    return tiny_set()


@pytest.fixture
def copy(tiny: ModelSet, tmp_path: Path) -> ModelSet:
    shutil.copytree(tiny.folder, tmp_path / "set")
    return ModelSet("builtin", tmp_path / "set")


def test_unknown_set_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"no model set 'bultin'.*did you mean 'builtin'"):
        model_set("bultin")
    with pytest.raises(BadInput, match="no model for the role 'face_prompt'"):
        model_set("builtin").digest("face_prompt")


def test_roles_of_the_built_in_set() -> None:
    roles = model_set("builtin").roles
    assert len(set(roles)) == len(roles) and roles[:len(CORE)] == CORE
    always = {*CORE, "pose_estimation", "reference_animation", "control.edges", "control.depth", "control.pose",
              "control.parts", "image_prompt"}
    assert always <= set(roles) <= {*always, *OF_MOTION}


def test_looking_at_a_set_loads_no_torch() -> None:
    code = ("import sys; from engine.models.sets import model_set; model_set('builtin').roles; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_role_loads_in_single_precision_and_parts_are_shared(tiny: ModelSet) -> None:
    t2i, views, clip, matting = (tiny.load(r) for r in ("text_to_image", "novel_view", "image_text", "matting"))
    assert t2i.vae is views.vae and t2i.text_encoder is clip.clip.text_model and t2i.tokenizer is clip.tokenizer
    assert tiny.load("text_to_image").unet is t2i.unet
    assert (t2i.size, views.size, matting.size) == (64, 64, 64)
    for network in (t2i.unet, t2i.vae, views.unet, views.cc_projection, clip.clip, matting.unet):
        assert not network.training
        for p in network.parameters():
            assert p.dtype == torch.float32 and not p.requires_grad and p.device.type == "cpu"


@pytest.mark.parametrize("role", model_set("builtin").roles)
def test_every_role_of_the_set_has_its_tiny_part_and_loads(tiny: ModelSet, role: str) -> None:
    own = "clip" if role == "image_text" else role.replace(".", "_")
    assert next(iter(tiny.cards(role))) == own
    networks = [part for part in vars(tiny.load(role)).values() if isinstance(part, torch.nn.Module)]
    assert networks or role in ("domain_adapter", "motion_lora")  # tensors alone: looked at below
    for network in networks:
        assert not any(module.training for module in network.modules() if isinstance(module, torch.nn.Dropout))
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


def test_reference_animation_shares_what_it_stands_on(tiny: ModelSet) -> None:
    model = tiny.load("reference_animation")
    assert model.vae is tiny.load("text_to_image").vae and model.size == 64
    assert (model.window, model.overlap, model.guidance, model.steps) == (8, 2, 1.0, 2)
    assert float(model.guider(torch.rand(1, 3, 64, 64)).abs().max()) > 0  # nothing in the tiny set is left at zero


@pytest.mark.parametrize("role", OF_MOTION)
def test_roles_of_motion_are_what_their_cards_and_files_say(tiny: ModelSet, role: str) -> None:
    from safetensors.torch import load_file

    from engine.models import motion
    found = {part: cards.verify(tiny.folder / part) for part in OF_MOTION}
    assert all(found[other].sha256 == digest for card in found.values() for other, digest in card.trained_on.items()
               if other in found)
    model = motion.builtin(tiny.folder, role, found, lambda part, load: load(), "cpu")
    assert model.family == "builtin"
    if role == "motion":
        assert (model.window, model.period, model.defaults.steps, model.motions) == (8, 8, 2, ("walk", "wave"))
        assert model.domain_words == tuple(DOMAIN_WORDS) and model.domain.pairs
        kept = load_file(tiny.folder / "motion/diffusion_pytorch_model.safetensors")
        made = model.adapter.state_dict()
        assert kept.keys() == made.keys() and all(torch.equal(kept[k].float(), made[k]) for k in kept)
        return
    kept = load_file(next((tiny.folder / role).glob("*.safetensors")))
    assert {f"unet.{name}.lora_{side}.weight" for name in model.lora.pairs for side in "AB"} == set(kept)
    assert all(torch.equal(a, kept[f"unet.{name}.lora_A.weight"]) and torch.equal(b, kept[f"unet.{name}.lora_B.weight"])
               for name, (a, b) in model.lora.pairs.items())
    assert role != "motion_lora" or model.motion == "spin"
    assert role != "domain_adapter" or model.words == tuple(DOMAIN_WORDS)


def test_what_is_loaded_is_what_was_saved(tiny: ModelSet) -> None:
    from safetensors.torch import load_file
    kept = load_file(tiny.folder / "novel_view/unet/diffusion_pytorch_model.safetensors")
    found = tiny.load("novel_view").unet.state_dict()
    assert set(kept) == set(found) and all(torch.equal(kept[k].float(), found[k]) for k in kept)
    from transformers import CLIPModel
    theirs = CLIPModel.from_pretrained(tiny.folder / "clip", dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(tiny.load("novel_view").image_encoder(pixels),
                                   theirs.get_image_features(pixel_values=pixels).pooler_output)


def test_digests_tell_weights_and_settings_apart(tiny: ModelSet, copy: ModelSet) -> None:
    assert len({tiny.digest(r) for r in tiny.roles}) == len(tiny.roles)
    assert tiny.digest("matting") == copy.digest("matting")
    settings = copy.folder / "text_to_image/scheduler/scheduler_config.json"
    settings.write_text(settings.read_text().replace("v_prediction", "epsilon"))
    assert copy.digest("text_to_image") != tiny.digest("text_to_image")
    assert copy.digest("novel_view") == tiny.digest("novel_view")


def test_info_names_id_licence_and_parts(tiny: ModelSet) -> None:
    info = tiny.info("novel_view")
    assert (info.role, info.id, info.licence, info.commercial) == (
        "novel_view", "maquette/builtin-novel-view", "Apache-2.0", "yes")
    assert list(info.parts) == ["novel_view", "vae", "clip"] and info.sha256 == tiny.digest("novel_view")


@pytest.mark.parametrize("role, victim", [
    ("text_to_image", "text_to_image/unet/diffusion_pytorch_model.safetensors"),
    ("novel_view", "novel_view/cc_projection/diffusion_pytorch_model.safetensors"),
    ("image_text", "clip/model.safetensors"), ("text_to_image", "tokenizer/tokenizer.json")])
def test_a_changed_file_is_named_with_both_hashes(copy: ModelSet, role: str, victim: str) -> None:
    path = copy.folder / victim
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    for ask in (copy.digest, copy.load):
        with pytest.raises(BadInput, match=r"sha256 expected [0-9a-f]{64}, found [0-9a-f]{64}") as error:
            ask(role)
        assert str(copy.folder / victim.split("/")[0]) in str(error.value) and path.name in str(error.value)


def test_missing_weights_are_named(copy: ModelSet) -> None:
    (copy.folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"weights are missing.*vae"):
        copy.load("novel_view")
    shutil.rmtree(copy.folder / "matting")
    with pytest.raises(BadInput, match=r"weights are missing: no folder .*matting"):
        copy.digest("matting")
    (copy.folder / "clip/card.json").write_text("{")
    with pytest.raises(BadInput, match=r"card .*clip.*cannot be read"):
        copy.info("image_text")


def test_weights_trained_on_other_parts_are_refused(copy: ModelSet) -> None:
    rewrite_card(copy.folder / "novel_view", trained_on={"vae": "0" * 64})
    with pytest.raises(BadInput, match=r"novel_view were trained on another vae: sha256 expected 0{64}, found"):
        copy.load("novel_view")
    copy.load("text_to_image")


def test_keys_that_do_not_fit_are_named_not_passed_over(copy: ModelSet) -> None:
    from safetensors.torch import load_file, save_file

    from engine.models.cards import part_digest
    path = copy.folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["encoder.surprise"] = tensors.pop("encoder.conv_in.bias")
    save_file(tensors, path)
    rewrite_card(copy.folder / "vae", sha256=part_digest(copy.folder / "vae"))
    for part in ("text_to_image", "novel_view"):
        rewrite_card(copy.folder / part, trained_on={})
    with pytest.raises(BadInput, match=r"do not fit.*encoder\.conv_in\.bias"):
        copy.load("text_to_image")


def test_pool_forgets(tiny: ModelSet) -> None:
    pool = Pool()
    first = pool.get(tiny, "matting", "cpu")
    pool.clear()
    assert pool.get(tiny, "matting", "cpu") is not first and POOL.get(tiny, "matting", "cpu") is not first
