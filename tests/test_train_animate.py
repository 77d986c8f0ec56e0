"""Clips of toybox figures as data, and reference animation's two trainings on tiny networks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_set

from engine.diffusion.reference_animation import ReferenceAnimation, animate
from engine.models.cards import part_digest, read_card, verify
from engine.models.loading import load_matting
from engine.models.sets import ModelSet
from engine.toybox import motions
from engine.training import clip_data, clip_latents
from engine.training.animate import DROPOUT, AnimateFrames, AnimateMotion, Networks, _colour_kept, _Same, with_motion
from engine.training.animate_data import FACE, Figures
from engine.training.data import Shards
from engine.training.drawn_alpha import DrawnAlpha, build, logits
from engine.training.loop import Draw, Settings, State, train

CPU, SIZE, FRAMES = torch.device("cpu"), 64, 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny weights, clips with latents, and a first step of two steps."""
    folder = tmp_path_factory.mktemp("animate")
    make_tiny_set(folder / "weights")
    for split, count in (("train", 5), ("held_out", 2)):
        clip_data.write_shard(folder / "clips" / split / "shard_00000", split, 0, count, FRAMES, SIZE)
    clip_latents.follow(folder / "clips", folder / "work", 0.0, root=folder / "weights")
    train(frames_task(folder), settings(folder / "work" / "animate_frames", 2))
    return folder


def settings(folder: Path, steps: int) -> Settings:
    return Settings(folder, steps=steps, lr=1e-2, warmup=1, quiet=True, threads=1, evaluate_s=1e9, log_s=1e9)


def draw(seed: int = 0) -> Draw:
    return Draw(seed, 0.0, np.random.default_rng(seed), torch.Generator().manual_seed(seed), CPU)


def unseen(task: Any) -> Any:
    """Without figures and sheet: drawing takes most of a short training's time."""
    task.sheet, task.evaluate = lambda model: None, lambda model: {}
    return task


def frames_task(house: Path) -> Any:
    return unseen(AnimateFrames(house / "clips", 4, house / "work", house / "weights"))


def motion_task(house: Path) -> Any:
    return unseen(AnimateMotion(house / "clips", 8, house / "work", house / "weights"))


# -- data --------------------------------------------------------------------------------------------------------------


def test_clips_are_the_same_wherever_they_are_made(house: Path, tmp_path: Path) -> None:
    kept = house / "clips" / "train" / "shard_00000"
    clip_data.write_shard(tmp_path / "shard_00000", "train", 0, 2, FRAMES, SIZE)
    for name in ("rgba", "references", "joints", "reference_joints", "cameras"):
        again = np.load(tmp_path / "shard_00000" / f"{name}.npy")
        np.testing.assert_array_equal(again, np.load(kept / f"{name}.npy")[:2])
    specs = json.loads((kept / "specs.json").read_text())
    assert specs[:2] == json.loads((tmp_path / "shard_00000" / "specs.json").read_text())
    rgba = np.load(kept / "rgba.npy")
    assert rgba.shape == (5, FRAMES, SIZE, SIZE, 4) and rgba.dtype == np.uint8
    assert np.load(kept / "references.npy").shape == (5, 2, SIZE, SIZE, 4)
    assert np.load(kept / "joints.npy").shape == (5, FRAMES, 18, 2) and np.load(kept / "cameras.npy").shape == (5, 3, 4)
    held = json.loads((house / "clips" / "held_out" / "shard_00000" / "specs.json").read_text())
    assert {s["seed"] for s in held}.isdisjoint({s["seed"] for s in specs})


def test_clips_are_as_the_page_says() -> None:
    clips = [clip_data.sample_clip("train", i) for i in range(300)]
    counts = {motion: sum(c.motion == motion for c in clips) for motion in motions.MOTIONS}
    assert min(counts.values()) > 8 and max(counts.values()) < 50  # 25 each on average
    assert all(0.7 <= c.amplitude <= 1.2 and c.speed in (1, 2) for c in clips)
    assert 10 < sum(c.speed == 2 for c in clips) < 60
    cameras = np.stack([c.cameras for c in clips])
    assert np.abs(cameras[..., 0]).max() <= 60 and np.abs(cameras[:, 1, 0]).max() <= 30
    assert cameras[..., 1].min() >= 0 and cameras[..., 1].max() <= 15
    assert cameras[..., 3].min() >= 30 and cameras[..., 3].max() <= 50
    assert all(c.to_json()["motion"] == c.motion and c.to_json()["caption"] for c in clips[:20])
    still = clip_data.ClipSpec(clips[0].figure, "idle", 1.0, 1, (0.0, 0.5), clips[0].cameras)
    made = clip_data.render_clip(still, 4, 128)
    rows = np.flatnonzero((made["references"][0, ..., 3] > 127).any(1))
    assert 0.66 < (rows[-1] - rows[0] + 1) / 128 < 0.84
    # Joints lie on the figure: the nose, the neck and the hips of the standing one.
    for place in made["reference_joints"][0, [0, 1, 8, 11]]:
        assert made["references"][0, int(place[1]), int(place[0]), 3] > 127


def test_a_clip_is_one_loop() -> None:
    spec = clip_data.sample_clip("train", 3)
    eight, four = clip_data.render_clip(spec, 8, 32), clip_data.render_clip(spec, 4, 32)
    np.testing.assert_array_equal(eight["rgba"][::2], four["rgba"])  # frame k is phase k / f: after the last, the first
    np.testing.assert_array_equal(eight["references"], four["references"])


def test_shards_appear_whole_and_none_is_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clip_data.plan(250, 100, 100) == [
        ("train", 0, 0, 100), ("held_out", 0, 0, 100), ("train", 1, 100, 100), ("train", 2, 200, 50)]
    made = clip_data.render_clip
    calls: list[int] = []

    def stops(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(*args)

    monkeypatch.setattr(clip_data, "render_clip", stops)
    arguments = ["clip_data", "--out", str(tmp_path), "--train", "4", "--held-out", "0", "--per-shard", "2", "--frames",
                 "2", "--size", "32"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        clip_data.main()
    assert [p.name for p in sorted((tmp_path / "train").iterdir())] == ["shard_00000"]
    before = (tmp_path / "train" / "shard_00000" / "rgba.npy").stat().st_mtime_ns
    clip_data.main()
    assert [p.name for p in sorted((tmp_path / "train").iterdir())] == ["shard_00000", "shard_00001"]
    assert (tmp_path / "train" / "shard_00000" / "rgba.npy").stat().st_mtime_ns == before


def test_figures_take_in_what_has_come_and_leave_the_new_motion_out(house: Path) -> None:
    everything = Figures(house / "clips", "train", house / "work", house / "weights", without=())
    assert len(everything) == 5 and everything.frames.shape == (5, FRAMES, 8, SIZE // 8, SIZE // 8)
    assert everything.references.shape == (5, 2, 8, SIZE // 8, SIZE // 8) and everything.embeds.shape[:2] == (5, 2)
    motion = everything.specs[1]["motion"]
    without = Figures(house / "clips", "train", house / "work", house / "weights", without=(motion,))
    left = [i for i in range(5) if everything.specs[i]["motion"] != motion]
    assert [s["seed"] for s in without.specs] == [everything.specs[i]["seed"] for i in left]
    np.testing.assert_array_equal(without.pictures(len(left) - 1, 2), everything.pictures(left[-1], 2))
    np.testing.assert_array_equal(without.frames, everything.frames[left])
    drawn = everything.skeletons([1, 1], [0, 0])
    assert drawn.shape == (2, 3, SIZE, SIZE) and torch.equal(drawn[0], drawn[1]) and float(drawn.max()) == 1.0
    lacking = [everything.skeletons([1], [0], np.random.default_rng(k), 1.0) for k in range(20)]
    assert sum(not torch.equal(one[0], drawn[0]) for one in lacking) == 20
    assert max(FACE) < 18


# -- the first step ----------------------------------------------------------------------------------------------------


def test_all_three_networks_learn_and_begin_as_text_to_image(house: Path) -> None:
    task = frames_task(house)
    net = task.model
    base = net.denoising.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in net.reference.state_dict().items())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train(task, settings(house / "learn", 2))
    moved = {name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"reference", "denoising", "guider"}
    assert net.bank.kept == {} and net.bank.mode == "off"


def test_a_batch_may_see_no_reference_at_all(house: Path) -> None:
    task = frames_task(house)
    seed = next(s for s in range(10_000) if _told(s) == 0)
    loss = task._loss(task.model, task.train, draw(seed), np.array([0, 1, 2]), np.array([[0]] * 3))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is None for p in task.model.reference.parameters())


def test_what_was_dropped_is_not_seen(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples without their reference do not change with it; the others do."""
    task = frames_task(house)
    source, clips, frames = task.train, np.array([0, 1, 2]), np.array([[0, 1]] * 3)
    torch.manual_seed(1)
    torch.nn.init.normal_(task.model.guider.conv_out.weight)
    answers: list[torch.Tensor] = []
    predict = Networks.predict

    def watched(self: Networks, *args: Any, **more: Any) -> torch.Tensor:
        answers.append(predict(self, *args, **more))
        return answers[-1]

    monkeypatch.setattr(Networks, "predict", watched)
    seed = next(s for s in range(100) if _told(s) == 2)
    task._loss(task.model, source, draw(seed), clips, frames)
    for other in (source.references, source.embeds):
        other += 1
        task._loss(task.model, source, draw(seed), clips, frames)
        other -= 1
    first, *changed = answers
    assert torch.equal(changed[0][4:], first[4:]) and torch.equal(changed[1][4:], first[4:])
    for one in changed:
        assert float((one[:4] - first[:4]).detach().abs().amin(0).max()) > 0


def _told(seed: int) -> int:
    rng = np.random.default_rng(seed)
    rng.random(3)
    return int((rng.random(3) >= DROPOUT).sum())


def test_a_stopped_training_goes_on_as_if_it_had_not(house: Path, tmp_path: Path) -> None:
    whole = train(frames_task(house), settings(tmp_path / "whole", 2))
    task = frames_task(house)
    inner, calls = task.loss, [0]

    def loss(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(*args)

    task.loss = loss
    assert not train(task, settings(tmp_path / "parts", 2)).finished
    again = train(frames_task(house), settings(tmp_path / "parts", 2))
    assert calls == [1] and again.step == whole.step == 2
    kept = again.ema.state_dict()
    for name, value in whole.ema.state_dict().items():
        assert torch.equal(value, kept[name]), name


# -- the second step ---------------------------------------------------------------------------------------------------


def test_motion_modules_alone_learn_over_what_the_first_step_left(house: Path, tmp_path: Path) -> None:
    task = motion_task(house)
    kept = torch.load(house / "work" / "animate_frames" / "state.pt", weights_only=True)["ema"]
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    assert all(torch.equal(before[name], value) for name, value in kept.items())
    assert task.before["steps"] == 2
    state = train(task, settings(tmp_path, 1))
    moved = [name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved and all("motion_modules" in name for name in moved)


def test_motion_begins_by_changing_nothing(house: Path) -> None:
    first = frames_task(house)
    both = [first.model, Networks(first.model.reference, with_motion(first.model.denoising), first.model.guider)]
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    feature = first.model.guider(first.train.skeletons([0, 0, 1, 1], [0, 1, 2, 3]))
    answers = []
    with torch.no_grad():
        for net in both:
            latents, token = first._seen(first.train, np.array([0, 1]), np.array([0, 0]), CPU)
            net.look(latents, token)
            answers.append(net.predict(x, torch.full((4,), 500), token.repeat_interleave(2, 0), feature, 2))
    assert torch.allclose(*answers, atol=1e-5)


def test_runs_wrap_round_and_share_their_noise(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = motion_task(house), []
    monkeypatch.setattr(task, "_loss", lambda net, source, draw, clips, frames: seen.append((frames, draw)) or 0)
    for k in range(20):
        task.loss(task.model, draw(k))
    assert {frames.shape[1] for frames, _ in seen} == {8, 12, 16}
    for frames, _ in seen:
        np.testing.assert_array_equal(np.diff(frames, axis=1) % FRAMES, 1)  # the first follows the last
    same = next(d for _, d in seen if isinstance(d, _Same))
    noise = same.normal(2 * same.frames, 4, 2, 2)
    assert torch.equal(noise[0], noise[same.frames - 1]) and not torch.equal(noise[0], noise[same.frames])


# -- what is exported --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [frames_task, motion_task], ids=["frames", "motion"])
def test_what_is_exported_is_loaded_and_draws(house: Path, tmp_path: Path, make: Any) -> None:
    task = make(house)
    state = State(task.model, task.model, step=7, elapsed_s=120.0)
    folder = task.export(state, tmp_path)
    verify(folder)
    card = read_card(folder)
    second = make is motion_task
    assert card.fields["made_by"] == ["animate_frames", "animate_motion"][:1 + second]
    assert card.fields["steps"] == (9 if second else 7)
    assert "`python -m engine.training animate_frames`" in (folder / "card.md").read_text()
    model = ModelSet("builtin", house / "weights").load("reference_animation")
    assert isinstance(model, ReferenceAnimation) and (model.size, model.window, model.overlap) == (SIZE, 16, 4)
    assert (model.steps, model.guidance, model.noise_shared) == (2, 1.0, 1.0)
    for mine, theirs in ((task.model.reference, model.reference), (task.model.guider, model.guider),
                         (task.model.denoising, model.denoising)):
        told = theirs.state_dict()
        assert all(torch.allclose(told[name], value, atol=1e-3) for name, value in mine.state_dict().items())
    reference = torch.from_numpy(task.train.pictures(0, 0, "references")[0, ..., :3].astype(np.float32) / 255)
    poses = task.train.skeletons([0, 0, 0], [0, 1, 2])

    def noise(frame: int) -> torch.Tensor:
        return torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(frame))

    frames = animate(model, reference.permute(2, 0, 1), poses, steps=2, guidance=2.0, noise=noise, loop=True)
    assert frames.shape == (3, 3, SIZE, SIZE) and bool(torch.isfinite(frames).all())
    task.load_committed()
    assert torch.allclose(task.model.guider.conv_in.weight, model.guider.conv_in.weight, atol=1e-3)


def test_figures_and_the_sheet(house: Path) -> None:
    task = AnimateMotion(house / "clips", 8, house / "work", house / "weights")
    told = task.measured(task.model, 1, 2, steps=1, together=True)
    assert told.keys() == {"union_psnr_db", "over_frozen_db", "ssim", "colour_kept", "step_of_true"}
    assert np.isfinite(list(told.values())).all()
    assert task.sheet(task.model).size[0] == 7 * SIZE  # type: ignore[union-attr]
    true = np.full((4, 4, 4), 255, np.uint8)
    true[..., 0] = 51
    near = np.ones((4, 4, 3), np.float32) * (0.25, 1.0, 1.0)
    assert _colour_kept(near, true) and not _colour_kept(near + 0.05, true)


# -- the alpha of what is drawn ----------------------------------------------------------------------------------------

def alpha_task(house: Path, work: Path, clips: int = 2) -> DrawnAlpha:
    none = Shards(house / "none")
    return DrawnAlpha(house / "clips", none, none, 4, work, house / "weights", build((8, 8), groups=4), clips)


def test_clips_are_animated_once_beside_their_true_alpha(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = alpha_task(house, house / "work")
    pictures, alphas = task.animated["train"]
    source = Figures(house / "clips", "train", house / "work", house / "weights")
    chosen = np.linspace(0, len(source) - 1, 2).astype(int)
    assert pictures.shape == (2 * FRAMES, SIZE, SIZE, 3) and pictures.dtype == np.uint8
    for k, clip in enumerate(chosen):
        assert np.array_equal(alphas[k * FRAMES:(k + 1) * FRAMES],
                              source.pictures(clip, np.arange(FRAMES))[..., 3])
    monkeypatch.setattr("engine.training.drawn_alpha._animated", None)  # a second time nothing is drawn
    assert np.array_equal(alpha_task(house, house / "work").animated["train"][0], pictures)


def test_alpha_is_learned_and_exported(house: Path, tmp_path: Path) -> None:
    task = alpha_task(house, house / "work")
    found = task.evaluate(task.model)
    assert set(found) == {"figures_iou", "animated_iou"} and all(0 <= v <= 1 for v in found.values())
    state = train(unseen(alpha_task(house, house / "work")), settings(tmp_path / "run", 3))
    assert state.finished and state.step == 3
    make_tiny_set(tmp_path / "weights")
    task.root = tmp_path / "weights"
    folder = task.export(state, tmp_path / "run")
    assert verify(folder).trained_on == {"vae": part_digest(tmp_path / "weights" / "vae")}
    x = torch.rand(2, 3, SIZE, SIZE)
    loaded = load_matting(tmp_path / "weights" / "matting", "cpu", folder).drawn
    with torch.no_grad():
        assert torch.allclose(logits(loaded, x), logits(state.ema, x), atol=2e-2)


def test_true_figures_are_seen_as_the_vae_shows_them(house: Path, tmp_path: Path) -> None:
    """Without animated clips and props every batch holds true figures, with their own alpha."""
    task = alpha_task(house, tmp_path, clips=0)
    shown: list[torch.Tensor] = []
    task.__dict__["vae"] = _Plain(shown)
    pictures, alpha = task.compose(np.random.default_rng(2))
    assert alpha.shape == (4, 1, SIZE, SIZE) and len(shown) == 1
    background = alpha == 0
    assert background.any() and pictures[background.expand(-1, 3, -1, -1)].min() > 0.99, "alpha lies where it was"
    assert torch.equal(pictures, shown[0] / 2 + 0.5) or torch.equal(pictures.flip(-1), shown[0] / 2 + 0.5)


class _Plain:
    """A VAE whose latents are the picture itself, and which decodes what it was given to encode."""

    def __init__(self, shown: list[torch.Tensor]) -> None:
        self.shown = shown

    def encode(self, x: torch.Tensor) -> Any:
        self.shown.append(x)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: x))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=self.shown[-1])
