"""Training a LoRA: it learns, keeps its base, resumes bit for bit, draws in text_to_image, refuses in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.artifacts import save_png
from engine.cli import main
from engine.diffusion import lora, lora_files, prompt
from engine.errors import BadInput, Cancelled
from engine.models.sets import ModelSet
from engine.runs.keys import params_json
from engine.stages.text_to_image import TextToImage, text_to_image
from engine.training import lora as trainer
from engine.training.lora import Base, LoraSettings, train_lora
from tests.lora_helpers import KeepingJob, flat_pictures, same, spelling_set, weights
from tests.tiny_models import ListJob

QUICK = LoraSettings("zorb", "mug", steps=5, batch=2, rank=2, learning_rate=5e-3)
WITH_PRIOR = LoraSettings("zorb", "mug", steps=5, batch=2, rank=2, prior_pictures=3, prior_steps=2, prior_weight=0.5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelSet:
    return spelling_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def made(models: ModelSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the tiny set, trained on three flat pictures."""
    path = tmp_path_factory.mktemp("lora") / "z.safetensors"
    info = models.info("text_to_image")
    base = Base("builtin", info.id, info.revision, info.sha256, info.licence, info.commercial)
    lora_files.save(train_lora(flat_pictures(), QUICK, ListJob(models), base), path)
    return path


# -- learning --------------------------------------------------------------------------------------------------------

def test_three_flat_pictures_are_learned_and_the_base_stays(models: ModelSet) -> None:
    base = models.load("text_to_image")
    parts = {name: getattr(base, name) for name in ("unet", "vae", "text_encoder")}
    kept = {name: weights(part) for name, part in parts.items()}
    job = ListJob(models)
    s = LoraSettings("zorb", "mug", steps=20, batch=3, rank=4, learning_rate=1e-2, seed=3)
    found = train_lora(flat_pictures(), s, job)
    assert job.metrics["loss_after"] < 0.95 * job.metrics["loss_before"] and job.warnings == []
    assert all(same(weights(part), kept[name]) for name, part in parts.items()) and lora.adapters(base.unet) == []
    assert job.fractions[-1] == 1.0 and job.fractions == sorted(job.fractions)
    assert found.card["prompt"] == "a zorb mug" and found.card["steps"] == 20 and found.card["prior"] is None
    assert found.card["base"]["unet_sha256"] == lora.base_digest(base.unet)


def test_the_seed_decides(models: ModelSet) -> None:
    again, same_seed, other = (train_lora(flat_pictures(), s, ListJob(models)).pairs
                               for s in (QUICK, QUICK, LoraSettings(**{**vars(QUICK), "seed": 1})))
    name = next(iter(again))
    assert all(torch.equal(a, b) for m in again for a, b in zip(again[m], same_seed[m], strict=True))
    assert not torch.equal(again[name][1], other[name][1])


def test_resumed_equals_uninterrupted_bit_for_bit(models: ModelSet, tmp_path: Path) -> None:
    whole = train_lora(flat_pictures(), WITH_PRIOR, ListJob(models))
    with pytest.raises(Cancelled):
        train_lora(flat_pictures(), WITH_PRIOR, KeepingJob(models, tmp_path, die_at=3))
    job = KeepingJob(models, tmp_path)
    resumed = train_lora(flat_pictures(), WITH_PRIOR, job)
    assert job.asked == WITH_PRIOR.steps - 2  # two steps were kept
    assert resumed.card == whole.card and resumed.card["prior"] == {"prompt": "a mug", "pictures": 3, "weight": 0.5}
    assert all(torch.equal(a, b) for m in whole.pairs for a, b in zip(whole.pairs[m], resumed.pairs[m], strict=True))


def test_the_class_term_of_a_step_is_the_one_of_the_paper(models: ModelSet) -> None:
    """L = E |eps - eps_hat(x, "a zorb mug")|^2 + 0.5 E |eps' - eps_hat(x', "a mug")|^2, both in this network's v."""
    from engine.diffusion import adapting
    job, s = ListJob(models), WITH_PRIOR
    base = job.model("text_to_image")
    adapter = adapting.Adapter(base.unet, adapting.Adapting(2))
    course = trainer._prepare(flat_pictures(), s, base, job)
    course.prior = trainer.class_latents(base, s, job)
    found = float(trainer._loss(adapter, course, s, 4).detach())

    g = trainer._generator(s.seed, trainer.OWN, 4)
    total = 0.0
    with torch.no_grad():
        for latents, spread, text, weight in ((course.mean, course.spread, "a zorb mug", 1.0),
                                              (course.prior, None, "a mug", 0.5)):
            rows = torch.randint(3, (2,), generator=g)
            clean = latents[rows]
            if spread is not None:
                clean = clean + spread[rows] * torch.randn(clean.shape, generator=g)
            t = ((torch.arange(2) + torch.rand(2, generator=g)) / 2 * 1000).long()
            noise = torch.randn(clean.shape, generator=g)
            a = base.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            context = prompt.encode(base.text_encoder, base.tokenizer, [text, text])
            said = base.unet(a.sqrt() * clean + (1 - a).sqrt() * noise, t, context).sample
            error = (said - (a.sqrt() * noise - (1 - a).sqrt() * clean)).square().mean((1, 2, 3))
            total += weight * float((error * (5 * (1 - a)).clamp(max=1).flatten()).mean())
    assert found == pytest.approx(total, rel=1e-5)


def test_class_pictures_are_the_untouched_models_own(models: ModelSet) -> None:
    job = ListJob(models)
    base = job.model("text_to_image")
    drawn = trainer.class_latents(base, WITH_PRIOR, job)
    few = trainer.class_latents(base, LoraSettings(**{**vars(WITH_PRIOR), "prior_pictures": 1}), job)
    assert drawn.shape == (3, 4, 8, 8) and not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn[:1], few, rtol=1e-4, atol=1e-4)  # one seed a picture, whatever the batch


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    rates = [trainer._rate(p / 100, 0.1) for p in range(101)]
    assert rates[0] < 0.02 and max(rates) == rates[10] and rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[50] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_tokens_that_cannot_be_are_refused(models: ModelSet) -> None:
    base = models.load("text_to_image")
    trainer.check_token("zorb", base)
    for token in ("mug", "red", "robot", "the"):
        with pytest.raises(BadInput, match="knows already.*'zorb'"):
            trainer.check_token(token, base)
    from tests.tiny_models import tiny_set
    with pytest.raises(BadInput, match="cannot spell the token 'zorb'"):  # its words are a closed list, without bytes
        trainer.check_token("zorb", tiny_set().load("text_to_image"))
    with pytest.raises(BadInput, match="longer than the 32 tokens"):
        trainer.check_prompt("a zorb " + "mug " * 40, base)


def test_the_kind_is_guessed_among_those_that_are_known(models: ModelSet) -> None:
    assert trainer.likely_kind(flat_pictures(), models.load("image_text"), "cpu") in ("mug", "chair")
    assert trainer.unknown_kind("chiar", ["chair", "mug"]) == \
        "the model never saw the kind 'chiar' (nearest known: chair)"
    assert trainer.unknown_kind("mug", ["mug"]) == ""


# -- text_to_image uses it -------------------------------------------------------------------------------------------

def test_keys_without_a_lora_are_what_they_were(made: Path) -> None:
    plain = TextToImage(prompt="a mug")
    assert set(params_json(plain)) == {"prompt", "negative", "view", "candidates", "width", "height", "steps", "pace",
                                       "guidance", "sampler"}
    used = params_json(TextToImage(prompt="a mug", lora=str(made)))
    assert used["lora_digest"] == lora_files.digest(made) and used["lora_scale"] == 1.0 and "lora" not in used
    moved = shutil.copyfile(made, made.with_name("moved.safetensors"))
    assert params_json(TextToImage(prompt="a mug", lora=str(moved))) == used


def test_pictures_are_drawn_with_it_and_the_network_is_left_alone(models: ModelSet, made: Path, tmp_path: Path) -> None:
    def draw(**more: Any) -> tuple[np.ndarray, ListJob]:
        job = ListJob(models)
        return text_to_image(TextToImage(prompt="a zorb mug", candidates=1, steps=2, **more), job).pictures[0], job
    (without, _), (with_, job), (none, _) = draw(), draw(lora=str(made)), draw(lora=str(made), lora_scale=0)
    assert np.abs(with_.image - without.image).max() > 1e-4  # type: ignore[attr-defined]
    np.testing.assert_array_equal(none.image, without.image)  # type: ignore[attr-defined]
    assert with_.meta["lora"]["token"] == "zorb" and with_.meta["lora"]["scale"] == 1  # type: ignore[attr-defined]
    assert job.warnings == ["drawn with the LoRA z.safetensors (licence Apache-2.0)"]
    assert lora.adapters(models.load("text_to_image").unet) == []
    job = ListJob(models)
    changed = tmp_path / "c.safetensors"
    p = TextToImage(prompt="a mug", steps=1, candidates=1, lora=str(shutil.copyfile(made, changed)))
    text_to_image(p, job)
    assert any("does not hold 'zorb'" in w for w in job.warnings)
    found = lora_files.read(changed)
    found.card["base"]["unet_sha256"] = "0" * 64
    lora_files.save(found, changed)
    with pytest.raises(BadInput, match="changed since the run was planned"):
        text_to_image(p, job)
    with pytest.raises(BadInput, match="another base"):
        text_to_image(TextToImage(prompt="a mug", steps=1, candidates=1, lora=str(changed)), job)


def test_a_file_that_is_none_is_refused_with_the_parameters(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(BadInput, match="no safetensors"):
        TextToImage(prompt="a mug", lora=str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="no meaning without lora"):
        TextToImage(prompt="a mug", lora_scale=0.5)


# -- the command -----------------------------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pics"
    place.mkdir()
    for i, image in enumerate(flat_pictures(size=40)):
        save_png(place / f"{i}.png", image)
    return place


def call(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(words)
    told = capsys.readouterr()
    return int(caught.value.code or 0), told.err if caught.value.code else told.out


@pytest.mark.parametrize(("change", "line"), [
    (["--images", "none"], "there is no folder none"),
    (["--images", "pics/0.png"], "is a file"),
    (["--images", "empty"], "holds no pictures"),
    (["--images", "few"], "holds 2 pictures; 3 are the least"),
    (["--images", "alike"], "only 1 of the 3 pictures"),
    (["--images", "broken"], "2.png is no picture that can be read"),
    (["--images", "cut"], "2.png is damaged or truncated"),
    (["--token", "mug"], "'mug' is a word that the model knows already"),
    (["--token", "two words"], "not one word"),
    (["--token", "x"], "not one word"),
    (["--steps", "0"], "--steps is 0"),
    (["--rank", "1000"], "--rank is 1000"),
    (["--out", "z.bin"], "does not end in .safetensors"),
    (["--out", "pics/0.png/z.safetensors"], "cannot write the LoRA"),
    (["--models", "bultin"], "there is no model set 'bultin'"),
    (["--device", "gpu"], "device"),
])
def test_bad_input_is_one_line_and_exit_code_2(change: list[str], line: str, folder: Path, models: ModelSet,
                                               monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr("engine.models.sets.BUILTIN_FOLDER", models.folder)
    for name, files in {"empty": [], "few": [0, 1], "alike": [0, 0, 0], "broken": [0, 1], "cut": [0, 1]}.items():
        Path(name).mkdir()
        for i, source in enumerate(files):
            shutil.copyfile(folder / f"{source}.png", Path(name) / f"{i}.png")
    Path("empty/notes.txt").write_text("no picture")
    Path("broken/2.png").write_bytes(b"no picture")
    Path("cut/2.png").write_bytes((folder / "2.png").read_bytes()[:70])
    words = {"--images": "pics", "--token": "zorb", "--out": "z.safetensors", **dict([change])}
    code, told = call(["train", "lora", *[w for pair in words.items() for w in pair]], capsys)
    assert code == 2 and line in told and len(told.strip().splitlines()) == 1 and "Traceback" not in told
    assert not Path("z.safetensors").exists()


def test_the_command_makes_a_lora_that_the_next_command_uses(folder: Path, models: ModelSet,
                                                             monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr("engine.models.sets.BUILTIN_FOLDER", models.folder)
    code, told = call(["train", "lora", "--images", "pics", "--token", "Zorb", "--kind", "mug", "--steps", "2",
                       "--batch", "1"], capsys)
    assert code == 0 and 'maquette make "a zorb mug" --lora zorb.safetensors' in told
    card = json.loads(Path("zorb.json").read_text())
    assert card["token"] == "zorb" and card["steps"] == 2 and card["licence"] == "Apache-2.0"
    assert card["base"]["id"] == "maquette/builtin-text-to-image" and len(card["base"]["sha256"]) == 64
    code, _ = call(["make", "a zorb mug", "--lora", "zorb.safetensors", "--until", "text_to_image", "--quality",
                    "draft", "--set", "text_to_image.steps=1", "--out", "out"], capsys)
    assert code == 0 and len(list(Path("out/candidates").glob("*.png"))) == 2
    from engine.recipes.recipe import load_recipe
    kept = Path(load_recipe(Path("out/recipe.toml")).stages["text_to_image"]["lora"])  # the folder alone makes it again
    assert kept == Path("out/lora.safetensors") and kept.read_bytes() == Path("zorb.safetensors").read_bytes()
    code, told = call(["make", "a zorb mug", "--lora", "none.safetensors", "--out", "out2"], capsys)
    assert code == 2 and "there is no LoRA" in told


def test_pictures_are_cut_as_they_are_meant(tmp_path: Path) -> None:
    from engine.training.lora_command import read_pictures
    photo = np.zeros((32, 64, 3), np.float32)
    photo[:, 16:48] = [1, 0, 0]
    cut_out = np.zeros((32, 64, 4), np.float32)
    cut_out[:, :32] = [0, 0, 1, 1]
    save_png(tmp_path / "a.png", photo)
    save_png(tmp_path / "b.png", cut_out)
    a, b = read_pictures([tmp_path / "a.png", tmp_path / "b.png"], 32)
    np.testing.assert_allclose(a, np.broadcast_to([1, 0, 0], (32, 32, 3)), atol=1e-6)
    np.testing.assert_allclose(b[16, 4], [0, 0, 1], atol=0.02)
    np.testing.assert_allclose([b[2, 4], b[16, 28]], 1, atol=0.02)
