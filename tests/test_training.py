"""The trainers, end to end, on fake shards with tiny networks: what matters is that the machinery holds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from engine.errors import BadInput
from engine.models.cards import part_digest, read_card, verify
from engine.models.loading import load_clip, load_matting, load_projection, load_unet, load_vae
from engine.training import clip, denoise, judge, matting, text_to_image, vae
from engine.training.data import Shards, bounding_box, crop_on_object, fake_shards, flat_backgrounds, over
from engine.training.latents import Latents, cache_folder, encoder_digest, update
from engine.training.loop import Draw, Settings, State, load_average, train
from engine.training.novel_view import NovelView, union_psnr, widened
from engine.training.tokenizer import export_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toybox(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toybox")
    fake_shards(folder / "train", objects=12, views=4, shards=2, seed=1)
    fake_shards(folder / "held_out", objects=6, views=4, seed=2)
    return folder


def splits(toybox: Path) -> tuple[Shards, Shards]:
    return Shards(toybox / "train"), Shards(toybox / "held_out")


def draw(step: int = 0, progress: float = 0.0) -> Draw:
    return Draw(step, progress, np.random.default_rng(step), torch.Generator().manual_seed(step), CPU)


def tiny_vae():
    torch.manual_seed(0)
    return vae.build((8, 8, 8, 16), 4)


def settings(folder: Path, steps: int, **more) -> Settings:
    return Settings(folder, steps=steps, quiet=True, log_s=0.0, **{"warmup": 2, "ema": 0.9, **more})


def caption(spec, camera, rng, view_words) -> str:
    return f"a {spec['color']} {spec['kind']}"


# Shards

def test_shards_grow_and_half_written_ones_wait(toybox: Path, tmp_path: Path) -> None:
    root = tmp_path / "train"
    shutil.copytree(toybox / "train" / "shard_00000", root / "shard_00000")
    shards = Shards(root)
    assert len(shards) == 12 and shards.views == 4
    shutil.copytree(toybox / "train" / "shard_00001", root / "shard_00001.partial")
    assert shards.refresh() == 0
    (root / "shard_00001.partial").rename(root / "shard_00001")
    pictures = root / "shard_00001" / "rgba.npy"
    whole = pictures.read_bytes()
    pictures.write_bytes(whole[:len(whole) // 2])
    assert shards.refresh() == 0
    pictures.write_bytes(whole)
    assert shards.refresh() == 1 and len(shards) == len(shards.specs) == 24
    np.testing.assert_array_equal(shards.rgba([3, 20], [1, 2])[1], np.load(pictures)[8, 2])


def test_compositing_and_crops() -> None:
    rgba = np.zeros((1, 8, 8, 4), np.uint8)
    rgba[0, 2:5, 3:7] = (255, 0, 0, 255)
    rgba[0, 0, 0] = (0, 0, 0, 51)
    white = over(rgba)
    np.testing.assert_allclose(white[0, 0, 0], 0.8, atol=1e-6)
    np.testing.assert_allclose(white[0, 3, 4], (1, 0, 0), atol=1e-6)
    assert bounding_box(rgba[0, ..., 3], 60) == (2, 3, 5, 7)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert crop_on_object(rgba, 4, rng)[0, ..., 3].max() == 255
    colours = flat_backgrounds(rng, 2000, 0.25)
    assert 0.2 < (colours == 1).all((1, 2, 3)).mean() < 0.3


# The loop

def test_a_resumed_run_equals_an_uninterrupted_one(toybox: Path, tmp_path: Path) -> None:
    def run(folder: Path, steps: int) -> State:
        return train(vae.Vae(*splits(toybox), batch=2, model=tiny_vae()), settings(folder, steps, lr=2e-3))

    whole = run(tmp_path / "whole", 6)
    assert (tmp_path / "whole" / "curve.png").exists() and (tmp_path / "whole" / "sheet.png").exists()
    assert whole.finished and whole.metrics["mask_psnr_db"] > 0

    # The same budget, but the process dies after three steps.
    class Dies(vae.Vae):
        def loss(self, model, d):
            if d.step == 3:
                raise KeyboardInterrupt
            return super().loss(model, d)

    task = Dies(*splits(toybox), batch=2, model=tiny_vae())
    with pytest.raises(KeyboardInterrupt):
        train(task, settings(tmp_path / "parts", 6, lr=2e-3, checkpoint_s=0.0))
    parts = run(tmp_path / "parts", 6)
    assert parts.step == whole.step == 6
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.ema.parameters(), parts.ema.parameters(), strict=True):
        assert torch.equal(a, b)
    again = load_average(vae.Vae(*splits(toybox), batch=2, model=tiny_vae()), tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(again.ema.parameters(), parts.ema.parameters(), strict=True))


def test_minutes_can_be_cut_while_it_trains(toybox: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "minutes").write_text("0")
    state = train(vae.Vae(*splits(toybox), batch=2, model=tiny_vae()), Settings(folder, minutes=60.0, quiet=True))
    assert state.finished and state.step == 0


# From pictures to shipped weights

@pytest.fixture(scope="module")
def root(toybox: Path, tmp_path_factory) -> Path:
    """A folder of weights: tokenizer, VAE and CLIP of two steps each, with the latents they make in root/work."""
    folder = tmp_path_factory.mktemp("builtin")
    export_tokenizer(folder)
    first = vae.Vae(*splits(toybox), batch=2, model=tiny_vae(), root=folder)
    first.export(train(first, settings(folder / "work" / "vae", 2)), folder / "work" / "vae")
    second = clip.Clip(*splits(toybox), batch=6, caption=caption, root=folder,
                       model=clip.build(700, width=48, text_layers=1, vision_layers=1))
    second.export(train(second, settings(folder / "work" / "clip", 2)), folder / "work" / "clip")
    return folder


def test_exported_parts_load_and_stand_on_each_other(root: Path) -> None:
    model = load_vae(root / "vae", "cpu")
    assert 0 < model.config.scaling_factor < 1e4
    assert next(iter(__import__("safetensors.torch", fromlist=["_"]).load_file(
        root / "vae" / "diffusion_pytorch_model.safetensors").values())).dtype == torch.float16
    assert load_clip(root / "clip", "cpu").config.projection_dim == 48
    assert verify(root / "clip").trained_on == {"tokenizer": part_digest(root / "tokenizer")}
    assert read_card(root / "vae").fields["steps"] == 2 and "SHA-256" in (root / "vae" / "card.md").read_text()
    weights = root / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInput, match="sha256 expected"):
        verify(root / "vae")
    weights.write_bytes(whole)


def test_captions_that_fit_by_accident_are_no_counter_examples() -> None:
    mug = {"kind": "mug", "color": "red", "color2": "white", "pattern": "dots", "material": "metal"}
    plain = {**mug, "pattern": "plain"}
    inverse = {**mug, "color": "white", "color2": "red"}
    said = ["a red mug", "a red mug, side view", "a red metal mug with white dots", "a white mug with red dots"]
    true = clip.also_true(said, [plain, plain, mug, inverse])
    assert true.tolist() == [[False, True, True, False], [False, False, False, False],
                             [False, False, False, False], [False, False, False, False]]


def test_latents_are_cached_once_and_hold_the_encoders_answer(toybox: Path, root: Path) -> None:
    shards, held_out = splits(toybox)
    work = root / "work" / "latents"
    assert update(shards, work, groups=("conditions",), root=root) == 48
    assert len(Latents(shards, work, targets=False, root=root)) == 24
    assert len(Latents(shards, work, targets=True, root=root)) == 0
    assert update(shards, work, root=root) == 48 and update(shards, work, root=root) == 0
    update(held_out, work, root=root)
    cached = Latents(shards, work, targets=True, root=root)
    assert cached.conditions.shape == (24, 2, 8, 16, 16) and cached.targets.shape == (24, 2, 8, 16, 16)
    model = load_vae(root / "vae", "cpu")
    x = torch.from_numpy(over(shards.rgba(20, 3))).permute(0, 3, 1, 2) * 2 - 1
    mode = model.encode(x).latent_dist.mode()[0].detach().numpy()
    np.testing.assert_allclose(cached.targets[20, 1, :4], mode, atol=5e-3 * max(1, abs(mode).max()))
    pixels = torch.from_numpy(over(shards.rgba(20, 1))).permute(0, 3, 1, 2)
    embeds = clip.encode_pictures(load_clip(root / "clip", "cpu"), pixels).detach().numpy()
    np.testing.assert_allclose(cached.embeds[20, 1], embeds[0], atol=1e-4)
    assert cache_folder(work, root).name.startswith(encoder_digest(root / "vae")[:12])


def tiny_unet(channels: int = 4) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return denoise.build(channels, (16, 16, 16, 16), 48, 16, 4)


def test_text_to_image_then_novel_view_learn_export_and_load(toybox: Path, root: Path, monkeypatch) -> None:
    work = root / "work"
    monkeypatch.setattr(text_to_image, "PROMPTS", ("a red ball", "a blue box"))
    for split in splits(toybox):
        update(split, work / "latents", root=root)
    task = text_to_image.TextToImage(*splits(toybox), batch=4, work=work, model=tiny_unet(), root=root, caption=caption)
    before = task.evaluate(task.model)["held_out_loss"]
    state = train(task, settings(work / "text_to_image", 12, lr=3e-3, ema=0.5))
    assert state.metrics["held_out_loss"] < before
    task.export(state, work / "text_to_image")
    unet = load_unet(root / "text_to_image" / "unet", "cpu")
    x, t, c = torch.randn(2, 4, 16, 16), torch.tensor([5, 900]), torch.randn(2, 32, 48)
    np.testing.assert_allclose(unet(x, t, c).sample.detach(), state.ema(x, t, c).sample.detach(), atol=2e-2)
    assert set(verify(root / "text_to_image").trained_on) == {"tokenizer", "clip", "vae"}

    second = NovelView(*splits(toybox), batch=4, work=work, root=root)
    wide = second.model.unet(torch.cat([x, 9 * torch.ones_like(x)], 1), t, c).sample
    np.testing.assert_allclose(wide.detach(), unet(x, t, c).sample.detach(), atol=1e-5)
    figures = train(second, settings(work / "novel_view", 3))
    assert np.isfinite(list(figures.metrics.values())).all()
    second.export(figures, work / "novel_view")
    shipped = load_unet(root / "novel_view" / "unet", "cpu")
    assert shipped.config.in_channels == 8 and tuple(shipped.conv_in.weight.shape[:2]) == (16, 8)
    assert load_projection(root / "novel_view" / "cc_projection", "cpu").projection.weight.shape == (48, 52)
    verify(root / "novel_view")


def test_a_wider_network_begins_as_the_old_one() -> None:
    unet = tiny_unet()
    x, beside, c = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16), torch.randn(1, 1, 48)
    old, new = unet(x, 10, c).sample, widened(unet)(torch.cat([x, beside], 1), 10, c).sample
    torch.testing.assert_close(old, new)


class Oracle(torch.nn.Module):
    """Knows the clean latents and answers with the exact v."""

    def __init__(self, clean: torch.Tensor, alphas: torch.Tensor) -> None:
        super().__init__()
        self.clean, self.alphas = clean, alphas
        self.config = type("Config", (), {"sample_size": clean.shape[-1]})()

    def forward(self, x, t, context):
        a = self.alphas[torch.as_tensor(t).reshape(-1)].view(-1, 1, 1, 1)
        clean = self.clean.repeat(len(x) // len(self.clean), 1, 1, 1)
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return type("Out", (), {"sample": a.sqrt() * noise - (1 - a).sqrt() * clean})()


def test_the_right_answer_has_no_loss_and_samples_to_itself() -> None:
    alphas = denoise.scheduler().alphas_cumprod
    assert float(alphas[-1]) == pytest.approx(0, abs=1e-6), "the last step must be pure noise"
    clean = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    oracle = Oracle(clean, alphas)
    c = torch.zeros(3, 1, 4)
    assert float(denoise.loss(oracle, clean, c, draw(), alphas)) < 1e-4
    torch.testing.assert_close(denoise.sample(oracle, c, c, steps=8), clean, atol=1e-3, rtol=1e-3)


def test_union_psnr_counts_what_either_shows() -> None:
    true = np.zeros((1, 8, 8, 4), np.uint8)
    true[0, :4, :4] = (0, 0, 0, 255)
    perfect, empty = over(true), np.ones((1, 8, 8, 3), np.float32)
    assert union_psnr(perfect, true)[0] == pytest.approx(100)
    assert union_psnr(empty, true)[0] == pytest.approx(0)
    beside = empty.copy()
    beside[0, 4:, 4:] = 0
    assert union_psnr(beside, true)[0] == pytest.approx(0), "an object at the wrong place is wrong twice"


# Matting and the judge

def test_matting_and_judge_learn_and_export(toybox: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = matting.Matting(*splits(toybox), batch=2, model=matting.build((8, 8, 8), groups=4), root=tmp_path)
    state = train(first, settings(tmp_path / "work", 16, lr=1e-2, ema=0.5))
    rows = [json.loads(line) for line in (tmp_path / "work" / "log.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in rows if "loss" in r]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    first.export(state, tmp_path / "work")
    assert load_matting(tmp_path / "matting", "cpu").size == first.model.config.sample_size

    second = judge.Judge(*splits(toybox), batch=12, root=tmp_path, model=None)
    assert second.classes["kind"] == ["ball", "box"]
    second = judge.Judge(*splits(toybox), batch=12, root=tmp_path, model=judge.JudgeNet(second.classes, (8, 16)))
    state = train(second, settings(tmp_path / "judging", 20, lr=1e-2, ema=0.5))
    second.export(state, tmp_path / "judging")
    net = judge.load_judge(tmp_path / "judge")
    pictures = over(second.held_out.rgba(np.arange(6), 0))
    said = judge.verdicts(net, pictures)
    assert said["color"] == judge.verdicts(state.ema.cpu(), pictures)["color"]
    assert state.metrics["color"] > 0.4, "four colours, flat: better than chance at once"


def test_matting_pictures_are_composed_exactly(toybox: Path) -> None:
    shards, _ = splits(toybox)
    picture, alpha = matting.compose(shards, np.random.default_rng(0), 4, "flat")
    outside = picture.permute(0, 2, 3, 1)[alpha[:, 0] == 0].view(-1, 3)
    assert picture.shape == (4, 3, 128, 128) and alpha.min() == 0 and alpha.max() > 0.99
    assert len(outside) > 1000 and float(picture.abs().max()) <= 1


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_the_stages_samplers_fit_the_schedule_that_is_trained(sampler) -> None:
    from engine.diffusion import sampling
    plan = denoise.scheduler()
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    oracle = Oracle(clean, plan.alphas_cumprod)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    made = sampling.sample(plan, lambda x, t: oracle(x, t, None).sample, noise, 12, sampler)
    torch.testing.assert_close(made, clean, atol=0.02, rtol=0.02)


def test_a_decoder_trained_on_leaves_latents_and_those_who_stand_on_them(toybox: Path, root: Path) -> None:
    before, encoder = verify(root / "vae"), encoder_digest(root / "vae")
    scale = load_vae(root / "vae", "cpu").config.scaling_factor
    card = root / "clip" / "card.json"
    kept = card.read_text()
    card.write_text(json.dumps({**json.loads(kept), "trained_on": {"vae": before.sha256}}))
    task = vae.Vae(*splits(toybox), batch=2, model=tiny_vae(), root=root, decoder_only=True)
    task.export(train(task, settings(root / "work" / "vae_decoder", 2, ema=0.1)), root / "work" / "vae_decoder")
    after = verify(root / "vae")
    assert after.sha256 != before.sha256 and encoder_digest(root / "vae") == encoder
    assert load_vae(root / "vae", "cpu").config.scaling_factor == scale
    assert read_card(root / "clip").trained_on == {"vae": after.sha256}
    assert read_card(root / "clip").fields["since"][0]["was"] == before.sha256
    card.write_text(kept)
