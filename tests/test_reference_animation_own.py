"""Reference animation from a user's own folder: diffusers' layout whole by itself, Moore's files beside each other with
what they borrow, and what is wrong with a folder in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_helpers import Job, Set, cut_figure, small_animation, walking
from real_files import marked, shapes_of, write

from engine.errors import BadInput
from engine.models import catalogue, inspection, local
from engine.models.pool import Pool
from engine.models.sets import model_set
from engine.stages.animate_character import AnimateCharacter, animate_character

CARD = {"window": 4, "overlap": 2, "guidance": 2.0, "sampling_steps": 2, "noise_shared": 0.25}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small networks in a folder each, with an autoencoder, an image encoder and papers."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    model, folder = small_animation(), tmp_path / "puppeteer"
    for part, name in ((model.denoising, "denoising_unet"), (model.reference, "reference_unet"),
                       (model.guider, "pose_guider"), (model.vae, "vae")):
        part.save_pretrained(folder / name)
    torch.manual_seed(1)
    CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=12)).eval().save_pretrained(folder / "image_encoder")
    (folder / "card.json").write_text(json.dumps({**CARD, "about": "a test"}))
    return folder


def loaded(id: str) -> Any:
    return Pool().get(model_set("builtin", {"reference_animation": id}), "reference_animation", "cpu")


def test_a_folder_of_diffusers_layout_is_added_and_draws(own: Path) -> None:
    from transformers import CLIPVisionModelWithProjection

    from engine.diffusion.reference_animation import ReferenceAnimation
    seen = inspection.examine(own)
    assert (seen.family, seen.role) == ("animate_anyone", "reference_animation")
    added = local.add(own, "reference_animation")
    assert added.id == "local/puppeteer" and added.needs == (), "all that it needs is in it"
    assert catalogue.model(added.id) == added, "kept in the list of the user's own"
    model = loaded(added.id)
    assert (model.size, model.window, model.overlap, model.guidance, model.steps, model.noise_shared, model.image_size
            ) == (32, 4, 2, 2.0, 2, 0.25, 32)
    assert (model.name, model.family) == ("local/puppeteer", "animate_anyone")
    small = small_animation()
    for ours, theirs in ((model.denoising, small.denoising), (model.reference, small.reference),
                         (model.guider, small.guider), (model.vae, small.vae)):
        a, b = ours.state_dict(), theirs.state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[name].float(), b[name].float()) for name in b)
    # The very clip that the same networks draw when they are put together by hand.
    eyes = CLIPVisionModelWithProjection.from_pretrained(own / "image_encoder").eval()
    by_hand = ReferenceAnimation(small.denoising, small.reference, small.guider, eyes, 32, small.vae, model.scheduler,
                                 32, 4, 2, 2.0, 2, 0.25)
    clips = [animate_character(cut_figure(32), walking(5, 32), AnimateCharacter(),
                               Job(Set(reference_animation=one))) for one in (model, by_hand)]
    assert np.array_equal(clips[0].frames, clips[1].frames) and clips[0].meta["windows"] == 3


def test_the_card_may_be_missing_and_must_make_sense(own: Path) -> None:
    added = local.add(own, "reference_animation")
    (own / "card.json").unlink()
    model = loaded(added.id)
    assert (model.window, model.overlap, model.guidance, model.steps, model.noise_shared) == (24, 4, 3.5, 30, 0.0)
    for text, told in (("no json", "card.json cannot be read"), ("[]", "card.json cannot be read"),
                       ('{"window": "many"}', "card.json cannot be read"), ('{"guidance": 99}', "guidance is 99. ")):
        (own / "card.json").write_text(text)
        with pytest.raises(BadInput) as caught:
            loaded(added.id)
        assert told in f"{caught.value.what}. {caught.value.fix}" and "\n" not in str(caught.value)


@pytest.mark.parametrize(("lost", "told"), [
    ("pose_guider", "local/puppeteer lacks pose_guider"), ("reference_unet", "lacks reference_unet"),
    ("denoising_unet", "local/puppeteer lacks denoising_unet"),
])
def test_a_network_that_is_missing_is_named(lost: str, told: str, own: Path) -> None:
    shutil.rmtree(own / lost)
    added = local.add(own, "reference_animation", family="animate_anyone" if lost == "reference_unet" else "")
    if added.needs:  # without a whole denoising U-Net it is taken for Moore's, which stand on Stable Diffusion 1.5
        assert added.needs == ("stable-diffusion-v1-5/stable-diffusion-v1-5",)
        return
    with pytest.raises(BadInput, match=told):
        loaded(added.id)


def test_moore_s_files_side_by_side_borrow_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tuned"
    folder.mkdir()
    for name in ("denoising_unet", "motion_module", "reference_unet", "pose_guider"):
        write(folder / f"{name}.pth", marked(shapes_of(f"moore-animateanyone-{name}")))
    seen = inspection.examine(folder)
    assert (seen.family, seen.role, seen.unexpected, seen.wrong) == ("animate_anyone", "reference_animation", (), ())
    added = local.add(folder, "reference_animation", licence="Apache-2.0", commercial="yes")
    published = catalogue.model("patrolli/AnimateAnyone")
    assert added.needs == published.needs and catalogue.model(added.id) == added
    with pytest.raises(BadInput, match=r"the weights of stable-diffusion-v1-5/stable-diffusion-v1-5, stabilityai/"
                                       r"sd-vae-ft-mse, .* are not here") as caught:
        model_set("sd15", {"reference_animation": added.id}, allow_pickle=True).located("reference_animation")
    assert caught.value.fix == "Run: maquette models pull " + " ".join(published.needs)
    (folder / "vae").mkdir()
    (folder / "notes.txt").write_text("mine")
    again = local.add(folder, "reference_animation", id="local/with-vae")
    assert again.needs == (published.needs[0], published.needs[2]), "a vae of its own is not borrowed"
