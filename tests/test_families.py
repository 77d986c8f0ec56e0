"""The same stage with every family: its pictures are those of diffusers' bare pipeline, from the same noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families as tiny
import torch
from tiny_models import ListJob, tiny_set

from engine.diffusion import sampling
from engine.errors import BadInput
from engine.models.families import base, build
from engine.stages.text_to_image import TextToImage, text_to_image

TOLERANCE = 1e-5
"""Of pictures in [0, 1], in float32: batches of another size sum in another order."""
TEXT, NEGATIVE = "a red mug", "not ugly"


class FamilyJob(ListJob):
    """A job whose text-to-image model is the one given."""

    def __init__(self, model: Any) -> None:
        super().__init__(tiny_set())
        self._drawing = model

    def model(self, role: str) -> Any:
        return self._drawing if role == "text_to_image" else super().model(role)


def drawn(model: Any, **params: Any) -> np.ndarray:
    """(2, h, w, 3) by the stage."""
    job = FamilyJob(model)
    made = text_to_image(TextToImage(**{"prompt": TEXT, "view": "", "candidates": 2, "sampler": "own", **params}), job)
    return np.stack([picture.image for picture in made.pictures])


def generators() -> list[torch.Generator]:
    """As the job gives them: one a candidate."""
    return [torch.Generator().manual_seed(i) for i in range(2)]


def bare(pipe: Any, negative: str = "", **told: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    made = pipe(prompt=[TEXT] * 2, negative_prompt=[negative] * 2 if negative else None, generator=generators(),
                output_type="pt", **told).images
    return made.permute(0, 2, 3, 1).clamp(0, 1).numpy()


FAMILIES: dict[str, tuple[Callable[[], tiny.Twin], int, float]] = {
    "sd15": (tiny.sd15, 3, 7.5), "sd21": (tiny.sd21, 3, 7.5), "sd_turbo": (tiny.sd_turbo, 2, 0.0),
    "lcm": (tiny.lcm, 3, 8.5), "sdxl": (tiny.sdxl_, 3, 5.0), "sdxl_turbo": (tiny.sdxl_turbo, 1, 0.0),
    "sd3": (tiny.sd3_, 3, 7.0), "sd3 without t5": (lambda: tiny.sd3_(False), 2, 7.0),
    "sdxl, words for none": (lambda: tiny.sdxl_(zeros=False), 2, 5.0)}


@pytest.mark.parametrize("name, negative", [(name, NEGATIVE) for name in FAMILIES] + [
    (name, "") for name in ("sd15", "sdxl", "sdxl, words for none")])
def test_pictures_equal_the_bare_pipelines(name: str, negative: str) -> None:
    make, steps, guidance = FAMILIES[name]
    twin = make()
    theirs = bare(twin.bare, negative, num_inference_steps=steps, guidance_scale=guidance)
    ours = drawn(twin.ours, negative=negative, steps=steps, guidance=guidance)
    assert ours.std() > 0.01 and ours.shape == (2, tiny.SIZE, tiny.SIZE, 3)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sampler, scheduler", [
    ("ddim", "DDIMScheduler"), ("euler", "EulerDiscreteScheduler"), ("dpm", "DPMSolverMultistepScheduler")])
def test_any_sampler_equals_the_pipeline_with_that_scheduler(sampler: str, scheduler: str) -> None:
    import diffusers
    twin = tiny.sd15()
    twin.bare.scheduler = getattr(diffusers, scheduler).from_config(twin.bare.scheduler.config)
    np.testing.assert_allclose(drawn(twin.ours, steps=4, guidance=3.0, sampler=sampler),
                               bare(twin.bare, num_inference_steps=4, guidance_scale=3.0), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("alpha", [True, False])
def test_pixart(alpha: bool) -> None:
    """Alpha is told the size, and not of squares alone; Sigma reads more tokens."""
    twin = tiny.pixart_(alpha)
    size = {"height": 64, "width": 96}
    theirs = bare(twin.bare, NEGATIVE, num_inference_steps=3, guidance_scale=4.5, use_resolution_binning=False,
                  clean_caption=False, **size)
    ours = drawn(twin.ours, negative=NEGATIVE, steps=3, guidance=4.5, **size)
    assert ours.shape == (2, 64, 96, 3) and twin.ours.told_sizes is alpha
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def test_dit_draws_the_class_that_the_words_name() -> None:
    twin = tiny.dit_()
    twin.bare.set_progress_bar_config(disable=True)
    theirs = twin.bare([504, 504], generator=generators(), num_inference_steps=3, guidance_scale=4.0,
                       output_type="pt").images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(drawn(twin.ours, prompt="A coffee mug", steps=3, guidance=4.0), theirs,
                               atol=TOLERANCE, rtol=0)
    assert [twin.ours.class_of(t) for t in ("rocker", "a rocking chair, front view", "Barber Chair")] == [765, 765, 423]
    with pytest.raises(BadInput, match=r"draws ImageNet's classes.*'a coffee mugg'.*coffee mug"):
        twin.ours.class_of("a coffee mugg")
    with pytest.raises(BadInput, match="takes no negative prompt"):
        drawn(twin.ours, prompt="a coffee mug", negative="ugly", steps=1)


def test_the_cascade_of_deepfloyd() -> None:
    """Both networks one after the other, from one generator a picture; the variance that they learned is used."""
    first, second = tiny.deepfloyd_()
    drawing = generators()
    told = {"prompt": [TEXT] * 2, "negative_prompt": [NEGATIVE] * 2, "num_inference_steps": 4, "generator": drawing,
            "output_type": "pt"}
    for twin in (first, second):
        twin.bare.set_progress_bar_config(disable=True)
    small = first.bare(**told, guidance_scale=7.0).images
    large = second.bare(**told, image=small, guidance_scale=4.0, noise_level=250).images
    up = second.ours.changed(defaults=base.Defaults(4, 4.0))
    cascade = build.cascade(first.ours, [up])
    assert cascade.size == 64 and cascade.shape() == (3, 16, 16) and cascade.shape(128, 64) == (3, 32, 16)
    ours = drawn(cascade, negative=NEGATIVE, steps=4, guidance=7.0)
    np.testing.assert_allclose(ours, (large / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), atol=2 * TOLERANCE, rtol=0)
    with pytest.raises(BadInput, match=r"height of 72 pixels is not divisible by 32.*64 or 96"):
        drawn(cascade, height=72, steps=1)


def test_the_x4_upscaler() -> None:
    from engine.diffusion.upscaling import enlarge
    twin = tiny.x4_upscaler()
    twin.bare.set_progress_bar_config(disable=True)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    theirs = twin.bare(prompt=[TEXT] * 2, negative_prompt=[NEGATIVE] * 2, image=image, num_inference_steps=3,
                       generator=generators(), guidance_scale=9.0, output_type="pt").images
    wanted, unwanted = twin.ours.pair(TEXT, NEGATIVE)
    with torch.inference_mode():
        ours = enlarge(twin.ours, image, wanted, unwanted, generators(), steps=3)
        parts = enlarge(twin.ours, image, wanted, unwanted, generators(), steps=3, rows=3)
    torch.testing.assert_close(ours.clamp(0, 1), theirs, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(parts, ours, atol=TOLERANCE, rtol=0)
    with pytest.raises(BadInput, match="noise level of 1000 is out of range.*0 to 999"):
        twin.ours.start(image, generators(), 1000)


# -- what every family can be asked ------------------------------------------------------------------------------------

EVERY: dict[str, Callable[[], Any]] = {
    "sd15": lambda: tiny.sd15().ours, "sdxl": lambda: tiny.sdxl_().ours, "sd3": lambda: tiny.sd3_().ours,
    "pixart_alpha": lambda: tiny.pixart_().ours, "dit": lambda: tiny.dit_().ours,
    "deepfloyd_1": lambda: tiny.deepfloyd_()[0].ours.changed(upscalers=())}


@pytest.mark.parametrize("family", EVERY)
def test_the_interface(family: str) -> None:
    """Conditions are rows; a call in parts is the whole call; pictures go to latents and back by the VAE's own scale;
    sides that cannot be drawn are named."""
    model = EVERY[family]()
    text = "coffee mug" if family == "dit" else TEXT
    size = model.multiple * 2
    wanted, unwanted = model.pair(text, "", size, size)
    assert len(wanted) == len(unwanted) == 1 and len(wanted.expand(3)) == 3
    both = base.Conditions.cat([wanted, unwanted])
    assert len(both) == 2 and all(torch.equal(both[1:].tensors[k], v) for k, v in unwanted.tensors.items())
    c, h, w = model.shape(size, size)
    x = torch.randn(3, c, h, w, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(500)
    with torch.inference_mode():
        whole = sampling.denoiser(model, wanted, unwanted, 3.0)(x, t)
        for rows in (1, 4):
            parts = sampling.denoiser(model, wanted, unwanted, 3.0, rows=rows)(x, t)
            torch.testing.assert_close(parts, whole, atol=2e-5, rtol=1e-5)
        alone = model.predict(x, t, wanted.expand(3))
        torch.testing.assert_close(sampling.denoiser(model, wanted, unwanted, 0)(x, t), alone, atol=2e-5, rtol=1e-5)
        assert alone.shape == x.shape or family == "deepfloyd_1"
        seen = model.decode(x)
        assert seen.shape == (3, 3, size, size) and model.encode(seen.clamp(0, 1)).shape == x.shape
        torch.testing.assert_close(model.decode(x, at_once=2), seen, atol=1e-5, rtol=1e-5)
    with pytest.raises(BadInput, match=rf"width of {size + 8 if model.multiple > 8 else size + 1} pixels is not "
                                       rf"divisible by {model.multiple}"):
        model.shape(size, size + 8 if model.multiple > 8 else size + 1)


def test_latents_of_a_picture_are_those_of_diffusers() -> None:
    """Scaled, and with SD3 shifted first; drawn from the posterior with one generator a picture."""
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for twin, shift in ((tiny.sd15(), 0.0), (tiny.sd3_(), 0.0609)):
        posterior = twin.bare.vae.encode(image * 2 - 1).latent_dist
        scale = twin.bare.vae.config.scaling_factor
        torch.testing.assert_close(twin.ours.encode(image), (posterior.mode() - shift) * scale)
        one = torch.cat([twin.bare.vae.encode(image[i:i + 1] * 2 - 1).latent_dist.sample(g)
                         for i, g in enumerate(generators())])
        torch.testing.assert_close(twin.ours.encode(image, generators()), (one - shift) * scale)


def test_a_consistency_model_is_told_its_guidance() -> None:
    twin = tiny.lcm()
    for scale in (1.0, 8.5):
        theirs = twin.bare.get_guidance_scale_embedding(torch.tensor([scale - 1]), embedding_dim=8)
        torch.testing.assert_close(base.guidance_embedding(scale, 1, 8), theirs)
    rows = []
    model = twin.ours

    class Counted:
        embeds_guidance = True

        def predict(self, latents: torch.Tensor, t: torch.Tensor, conditions: Any, **more: Any) -> torch.Tensor:
            rows.append((len(latents), more["guidance"]))
            return model.predict(latents, t, conditions, **more)
    with torch.inference_mode():
        sampling.denoiser(Counted(), *model.pair(TEXT), 8.5)(torch.zeros(2, 4, 8, 8), torch.tensor(9))
    assert rows == [(2, 8.5)]  # one half, which knows its scale


def test_what_a_family_has_no_place_for_is_refused() -> None:
    for model in (tiny.sd3_().ours, tiny.pixart_().ours, tiny.dit_().ours):
        c, h, w = model.shape(64, 64)
        x = torch.zeros(1, c, h, w)
        wanted, _ = model.pair("coffee mug")
        with pytest.raises(BadInput, match=rf"{model.family}.*cannot take an image prompt.*sd15, sd21 or sdxl"):
            model.predict(x, torch.tensor(1), wanted, image_embeds=[x])
    with pytest.raises(BadInput, match=r"sampler 'ddim' removes noise, and this model is a flow.*sampler=euler"):
        drawn(tiny.sd3_().ours, sampler="ddim", steps=1)


def test_sizes_not_divisible_by_8_are_named_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="500 pixels are not divisible by 8; 496 and 504 are"):
        TextToImage(prompt="a mug", width=500)
    with pytest.raises(BadInput, match=r"height of 72 pixels is not divisible by 16.*64 or 80"):
        drawn(tiny.sd3_().ours, height=72, steps=1)


def test_words_beyond_what_is_read_are_told_by_each_family() -> None:
    long = " ".join(["red"] * 13)  # the tiny CLIPs read 12 tokens, two of them start and end
    assert tiny.sd15().ours.unseen(long) == ("red red red", 12)
    assert tiny.sd3_().ours.unseen(long) == ("", 0)  # T5 reads on
    assert tiny.sd3_(False).ours.unseen(long)[1] == 12
    assert tiny.pixart_().ours.unseen(" ".join(["red"] * 121)) == ("red red", 120)
    job = FamilyJob(tiny.sd15().ours)
    text_to_image(TextToImage(prompt=long, view="", candidates=1, steps=1), job)
    assert job.warnings == ["the prompt is longer than the 12 tokens that the model reads; not seen: 'red red red'"]


# -- from files --------------------------------------------------------------------------------------------------------

def saved(twin: tiny.Twin, folder: Path, **index: Any) -> Path:
    """A folder as the hub has it; index : beside what diffusers writes into model_index.json"""
    twin.bare.save_pretrained(folder)
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **index}))
    return folder


@pytest.mark.parametrize("family, make, defaults", [
    ("sd15_lcm", tiny.lcm, (4, 8.5, "own")), ("sd21_base", tiny.sd_turbo, (4, 1.0, "own")),
    ("sdxl", lambda: tiny.sdxl_(zeros=False), (30, 5.0, "own")), ("sd3", tiny.sd3_, (28, 7.0, "own")),
    ("pixart_sigma", lambda: tiny.pixart_(False), (20, 4.5, "own")), ("dit", tiny.dit_, (50, 4.0, "own")),
    ("deepfloyd_2", lambda: tiny.deepfloyd_()[1], (50, 4.0, "own")),
    ("sd_x4_upscaler", tiny.x4_upscaler, (50, 9.0, "own"))])
def test_a_folder_becomes_the_model_that_was_saved(family: str, make: Callable[[], tiny.Twin],
                                                   defaults: tuple[int, float, str], tmp_path: Path) -> None:
    twin = make()
    if family == "sd21_base":  # sd-turbo's projections are linear
        twin = tiny.sd21()
        twin.bare.scheduler = make().bare.scheduler
    folder = saved(twin, tmp_path / "m", **({"id2label": {"504": "coffee mug"}} if family == "dit" else {}))
    model = build.build(build.Checkpoint(folder, family, name="own/model"))
    assert type(model) is type(twin.ours) and model.defaults == base.Defaults(*defaults)
    assert model.family == {"sd15_lcm": "sd15", "sd21_base": "sd21"}.get(family, family)  # whose adapters fit it
    assert model.size == twin.ours.size and type(model.scheduler) is type(twin.bare.scheduler)
    for name, part in model.parts.items():
        theirs = getattr(twin.ours, name).state_dict()
        found = part.state_dict()
        assert found.keys() == theirs.keys() and all(torch.equal(found[k], theirs[k]) for k in theirs), name
    if family == "sdxl":
        assert model.zeros_for_empty is False
    if family == "dit":
        assert model.labels == {504: "coffee mug"}
    if family == "deepfloyd_2":
        assert model.low_scheduler.config.variance_type == "fixed_small"


def test_a_folder_that_lacks_a_part(tmp_path: Path) -> None:
    """T5 of SD3 may be left out, and is told; anything else is refused by name."""
    import shutil
    folder = saved(tiny.sd3_(), tmp_path / "sd3")
    shutil.rmtree(folder / "text_encoder_3")
    model = build.build(build.Checkpoint(folder, "sd3", name="own/sd3"))
    assert model.text_encoder_3 is None
    assert model.notes == ("own/sd3 is used without text_encoder_3 (T5), which its folder lacks: it reads prompts less "
                           "well",)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(BadInput, match=rf"{folder} lacks the component 'text_encoder_2'"):
        build.build(build.Checkpoint(folder, "sd3"))
    with pytest.raises(BadInput, match="family 'zero123plus' draws no pictures of words"):
        build.build(build.Checkpoint(folder, "zero123plus"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny Stable Diffusion of the user's own, added by the command -> its id."""
    from engine.cli import main
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    folder = saved(tiny.sd15(), tmp_path / "tiny-sd")
    with pytest.raises(SystemExit) as ended:
        main(["models", "add", str(folder), "--role", "text_to_image"])
    assert ended.value.code == 0
    return "local/tiny-sd"


@pytest.mark.parametrize("words", [["--models", "local/tiny-sd"], ["--model", "text_to_image=local/tiny-sd"]])
def test_a_folder_of_ones_own_draws_by_the_command(own: str, words: list[str], tmp_path: Path) -> None:
    from engine.artifacts import load_png
    from engine.cli import main
    told = ("candidates=1", "steps=2", "guidance=5.0", "view=", "sampler=own")
    with pytest.raises(SystemExit) as ended:
        main(["make", TEXT, *words, "--out", str(tmp_path / "out"), "--until", "text_to_image", "--seed", "3",
              *(f"--set=text_to_image.{p}" for p in told)])
    assert ended.value.code == 0
    (found,) = sorted((tmp_path / "out" / "candidates").glob("*.png"))
    from engine.runs.keys import seed_of
    pipe = tiny.sd15().bare
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(seed_of(3, "", "text_to_image"))
    theirs = pipe(TEXT, num_inference_steps=2, guidance_scale=5.0, generator=seed, output_type="np").images[0]
    np.testing.assert_allclose(load_png(found)[..., :3], theirs, atol=1 / 255)


def test_a_set_of_ones_own_model_knows_what_it_is(own: str) -> None:
    from engine.models.pool import Pool
    from engine.models.sets import model_set
    models, pool = model_set(own), Pool()
    model = pool.get(models, "text_to_image", "cpu")
    assert (model.family, model.name, model.size) == ("sd15", own, tiny.SIZE) and model.open_vocabulary
    assert pool.get(models, "text_to_image", "cpu").unet is model.unet
    assert models.info("text_to_image").id == own and len(models.digest("text_to_image")) == 64
    with pytest.raises(BadInput, match="no model for the role 'control.edges'|is of the family"):
        models.load("control.edges")
    with pytest.raises(BadInput, match="there is no model set 'local/tiny-sf'. did you mean 'local/tiny-sd'"):
        model_set("local/tiny-sf")


def test_an_lcm_lora_is_a_model_of_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set sd15_lcm from the places where pull puts its files: the base with the LoRA merged in."""
    from safetensors.torch import save_file
    from test_adapters import ATTENTION, kohya, update

    from engine.diffusion import lora, lora_files
    from engine.models.pool import Pool
    from engine.models.sets import model_set
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path))
    twin = tiny.sd15()
    saved(twin, tmp_path / "hub" / "stable-diffusion-v1-5--stable-diffusion-v1-5")
    place = tmp_path / "hub" / "latent-consistency--lcm-lora-sdv1-5" / "pytorch_lora_weights.safetensors"
    place.parent.mkdir()
    save_file(kohya(update(twin.ours.unet, ATTENTION, 1)), place)
    pool = Pool()
    model = pool.get(model_set("sd15_lcm"), "text_to_image", "cpu")
    base_ = pool.get(model_set("sd15"), "text_to_image", "cpu")
    assert model.defaults == base.Defaults(4, 1.0, "lcm") and model.family == "sd15"
    assert model.vae is base_.vae and model.text_encoder is base_.text_encoder and model.unet is not base_.unet
    wanted = lora.merged(twin.ours.unet, lora_files.read(place)).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.unet.state_dict().items())
    assert all(torch.equal(v, twin.ours.unet.state_dict()[k]) for k, v in base_.unet.state_dict().items())


def test_a_cascade_from_the_places_where_pull_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.models.pool import Pool
    from engine.models.sets import model_set
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path))
    first, second = tiny.deepfloyd_()
    saved(first, tmp_path / "hub" / "DeepFloyd--IF-I-XL-v1.0")
    folder = saved(second, tmp_path / "hub" / "DeepFloyd--IF-II-L-v1.0")
    with pytest.raises(BadInput, match="weights of stabilityai/stable-diffusion-x4-upscaler are not here.*models pull"):
        model_set("deepfloyd").load("text_to_image")
    import shutil
    for part in ("text_encoder", "tokenizer"):  # the second network's repository has T5 too; it is not pulled
        shutil.rmtree(folder / part)
    saved(tiny.x4_upscaler(), tmp_path / "hub" / "stabilityai--stable-diffusion-x4-upscaler")
    model = Pool().get(model_set("deepfloyd"), "text_to_image", "cpu")
    two, three = model.upscalers
    assert two.text_encoder is model.text_encoder and three.text_encoder is not model.text_encoder
    assert (two.enlarges, three.enlarges, model.size) == (4, 4, 16 * 16)
    assert drawn(model, steps=1, pace=0.02, guidance=1, candidates=1).shape == (1, 256, 256, 3)


def test_the_benchmark_compares_equal_pictures() -> None:
    from benchmarks import bench_images
    over, seconds = bench_images.overhead_rows(
        "tiny", tiny.sd15().ours, tiny_set().load("image_text"), "cpu", candidates=2, steps=2, guidance=3.0,
        sampler="dpm", repeats=1)
    assert (over["unit"], over["first_bar"], over["aim"], seconds["unit"]) == ("%", 3.0, 1.0, "s")
    assert float(over["note"].rpartition(" ")[2]) <= TOLERANCE
