"""AnimateDiff's three trainings on tiny networks and real, small renderings: what learns, what stays, what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_set

from engine.diffusion import lora, lora_files
from engine.models import motion as roles
from engine.models.cards import verify
from engine.models.loading import load_unet
from engine.training import clip_latents, motion, motion_lora
from engine.training.clip_data import write_shard
from engine.training.domain_adapter import DomainAdapter, caption_of
from engine.training.loop import Draw, Settings, State, train
from engine.training.motion import Motion
from engine.training.motion_lora import MotionLora

CPU, SIZE, FRAMES = torch.device("cpu"), 64, 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    looked_at, motion.LOOKED_AT, motion_lora.LOOKED_AT = motion.LOOKED_AT, 4, 4
    yield
    motion.LOOKED_AT = motion_lora.LOOKED_AT = looked_at
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny weights, and clips of a few figures with their latents; the domain adapter of a training of two steps."""
    folder = tmp_path_factory.mktemp("motion")
    make_tiny_set(folder / "weights")
    for split, count in (("train", 8), ("held_out", 2)):
        write_shard(folder / "clips" / split / "shard_00000", split, 0, count, FRAMES, SIZE)
    clip_latents.follow(folder / "clips", folder / "work", 0.0, root=folder / "weights")
    task = adapter_task(folder)
    state = train(task, settings(folder / "adapter", 2))
    task.export(state, folder / "adapter")
    return folder


def settings(folder: Path, steps: int) -> Settings:
    return Settings(folder, steps=steps, lr=1e-2, warmup=1, quiet=True, threads=1, evaluate_s=1e9, log_s=1e9)


def draw(seed: int = 0) -> Draw:
    return Draw(seed, 0.0, np.random.default_rng(seed), torch.Generator().manual_seed(seed), CPU)


def unseen(task: Any) -> Any:
    """Without its sheet: drawing takes most of a short training's time."""
    task.sheet = lambda model: None
    return task


def adapter_task(house: Path) -> DomainAdapter:
    return unseen(DomainAdapter(house / "clips", 4, house / "work", house / "weights", rank=2))


def motion_task(house: Path) -> Motion:
    return unseen(Motion(house / "clips", 1, house / "work", house / "weights"))


def stopped_and_resumed(make: Any, folder: Path) -> tuple[State, State]:
    """A training of 4 steps at once, and one that is stopped after 2 and goes on from its folder."""
    whole = train(make(), settings(folder / "whole", 4))
    first = settings(folder / "parts", 4)

    task = make()
    inner, calls = task.loss, [0]

    def loss(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            import os
            import signal
            os.kill(os.getpid(), signal.SIGINT)  # as a user stops it: the step under way is finished
        return inner(*args)

    task.loss = loss
    assert not train(task, first).finished
    return whole, train(make(), first)


def same(a: Any, b: Any) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- data --------------------------------------------------------------------------------------------------------------

def test_latents_are_kept_once_and_read_back(house: Path) -> None:
    clips = clip_latents.Clips(house / "clips", "train", house / "work", house / "weights")
    assert len(clips) == 8 and clips.frames == FRAMES and clips.moments.shape == (8, FRAMES, 8, SIZE // 8, SIZE // 8)
    assert clips.rgba(3).shape == (FRAMES, SIZE, SIZE, 4) and clips.cameras.shape == (8, 3, 4)
    assert clip_latents.update(house / "clips", "train", house / "work", root=house / "weights") == 0
    some = clip_latents.Clips(house / "clips", "train", house / "work", house / "weights",
                              lambda spec: spec["kind"] == "knight")
    assert [s["kind"] for s in some.specs] == ["knight"] * len(some) and len(some) == 1
    before = len(clips)
    clips.refresh()
    assert len(clips) == before


def test_captions_name_the_motion(house: Path) -> None:
    specs = json.loads((house / "clips" / "train" / "shard_00000" / "specs.json").read_text())
    from engine.toybox.motions import MOTION_WORDS
    for spec in specs:
        texts = {caption_of(spec, np.random.default_rng(k)) for k in range(20)}
        word = MOTION_WORDS.get(spec["motion"], spec["motion"])
        assert all(spec["kind"] in t for t in texts)
        assert sum(t.endswith(word) for t in texts) >= (1 if spec["motion"] == "idle" else len(texts))


def test_figures_of_movement_by_hand() -> None:
    """A bar that goes right, cell by cell, is the bar's own pattern, against the one that goes left; it steps by two of
    its three columns, and its colour stays."""
    from engine.training import motion_figures as figures

    def bar(direction: int) -> np.ndarray:
        frames = np.ones((8, 64, 64, 3), np.float32)
        for k in range(8):
            at = 12 + 4 * (k if direction > 0 else 7 - k)  # of cells of 4 pixels
            frames[k, 16:48, at:at + 4] = (0.2, 0.4, 0.6)
        return frames

    right, left = bar(1), bar(-1)
    found = figures.ink(right)
    assert found.shape == (8, 16, 16) and found[0, 4, 3] == pytest.approx(0.8) and found[0].sum() == pytest.approx(6.4)
    known = {"right": figures.unit(figures.changes(right)), "left": figures.unit(figures.changes(left))}
    assert figures.along(right, known)["right"] == pytest.approx(1.0)
    # each frame's bar overlaps the other's in none of 8 moments: cosine -1/7 of what the means leave
    assert figures.along(right, known)["left"] == pytest.approx(-1 / 7)
    told = figures.figures([right, left], ["right", "right"], known)
    assert told["shown"] == 0.5 and told["drift"] == pytest.approx(0, abs=1e-6)
    assert told["magnitude"] == pytest.approx(0.6, abs=1e-6)  # every pixel of either bar changes by 0.8, 0.6, 0.4
    assert figures.magnitude(np.ones((4, 64, 64, 3))) == 0.0 and figures.magnitude(right[:1]) == 0.0


# -- the domain adapter ------------------------------------------------------------------------------------------------

def test_the_domain_adapter_learns_and_the_base_stays(house: Path, tmp_path: Path) -> None:
    whole, resumed = stopped_and_resumed(lambda: adapter_task(house), tmp_path)
    assert resumed.finished and same(whole.model, resumed.model) and same(whole.ema, resumed.ema)
    base = load_unet(house / "weights" / "text_to_image" / "unet", "cpu").state_dict()
    own = {k.replace(".base_layer.", "."): v for k, v in whole.model.state_dict().items() if ".lora_" not in k}
    assert all(torch.equal(own[k], v) for k, v in base.items())
    still = [k for k, v in whole.model.state_dict().items() if ".lora_B." in k and not v.any()]
    assert all(".attn1.to_q." in k or ".attn1.to_k." in k for k in still)  # of one cell, which has itself to look at


def test_the_exported_domain_adapter_is_the_average_in_half_precision(house: Path) -> None:
    """Its file, merged into the base, is the trained network; its card names the base, which others are refused by."""
    verify(house / "weights" / "domain_adapter")
    task = adapter_task(house)
    task.load_committed()
    kept = lora_files.read(house / "weights" / "domain_adapter" / roles.DOMAIN_FILE)
    merged = lora.merged(task.base, kept)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(300)
    context = task.context(["a knight", "a king"], CPU)
    with torch.no_grad():
        a, b = (net(x, t, context).sample for net in (task.model, merged))
    assert torch.allclose(a, b, atol=1e-5) and all(v.dtype == torch.float16 for pair in kept.pairs.values()
                                                   for v in pair)
    other = load_unet(house / "weights" / "text_to_image" / "unet", "cpu")
    with torch.no_grad():
        other.conv_in.bias.add_(1)
    with pytest.raises(Exception, match="was trained on another base, maquette/builtin-text-to-image"):
        lora.merged(other, kept)


# -- motion ------------------------------------------------------------------------------------------------------------

def test_motion_starts_as_the_still_network_and_alone_learns(house: Path, tmp_path: Path) -> None:
    """At first its loss is that of frames on their own; after a few steps only the motion modules have moved."""
    task = motion_task(house)
    assert {s["motion"] for s in task.train.specs}.isdisjoint({motion.HELD_OUT}) and len(task.train)
    figures = task.evaluate(task.model)
    assert figures["held_out_loss"] == pytest.approx(figures["still_loss"], rel=1e-6)
    before = {k: v.clone() for k, v in task.base.state_dict().items()}
    start = {k: v.clone() for k, v in task.model.state_dict().items()}
    whole, resumed = stopped_and_resumed(lambda: motion_task(house), tmp_path)
    assert resumed.finished and same(whole.model, resumed.model) and same(whole.ema, resumed.ema)
    assert all(torch.equal(v, task.base.state_dict()[k]) for k, v in before.items())
    assert any(not torch.equal(v, whole.model.state_dict()[k]) for k, v in start.items() if "proj_out" in k)


def test_a_place_in_time_is_a_moment_of_the_motion(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole clips are learned from their beginning, shards of fewer frames than a window go round; of more clips at
    once a few moments, the same ones of all, in their order."""
    from engine.training import denoise
    task = motion_task(house)
    seen: list[np.ndarray] = []
    inner = denoise.clean_latents
    monkeypatch.setattr(denoise, "clean_latents", lambda moments, scale, d: (seen.append(moments),
                                                                             inner(moments, scale, d))[1])
    for k in (1, 3):
        assert task.loss(task.model, draw(k))[2] == motion.WINDOW
    for moments in seen:
        assert any(np.array_equal(np.concatenate([clip] * (motion.WINDOW // FRAMES)), moments)
                   for clip in task.train.moments)
    assert task.loss(task.model, draw(2))[2] == motion.WINDOW and len(seen) == 3
    few = seen[2].reshape(-1, motion.FEW, *seen[2].shape[1:])
    assert len(few) == motion.WINDOW // motion.FEW
    orders = [{tuple(k for k in order) for clip in task.train.moments for order in np.ndindex(*[FRAMES] * motion.FEW)
               if all(np.array_equal(clip[k], row) for k, row in zip(order, rows, strict=True))} for rows in few]
    assert set.intersection(*orders)


def test_few_frames_stand_at_their_own_moments() -> None:
    """The table's rows 1, 5 and 6 for three frames; the first three where nothing is chosen."""
    from motion_helpers import adapter
    made, chosen = adapter(), [None]
    motion.see_moments(made, chosen)  # type: ignore[arg-type]
    table = made.down_blocks[0].motion_modules[0].transformer_blocks[0].pos_embed
    x = torch.zeros(2, 3, 8)
    assert torch.equal(table(x), table.pe[:, :3].expand(2, -1, -1))
    chosen[0] = torch.tensor([1, 5, 6])  # type: ignore[call-overload]
    assert torch.allclose(table(x), table.pe[:, [1, 5, 6]].expand(2, -1, -1), atol=1e-6)


def test_exported_motion_and_its_lora_play_their_roles(house: Path, tmp_path: Path) -> None:
    """From two short trainings to the role's dataclasses, through cards; the motion LoRA learns the held-out motion."""
    from engine.training.clip_data import sample_clip
    task = motion_task(house)
    state = train(task, settings(tmp_path / "motion", 2))
    task.export(state, tmp_path / "motion")
    spins = next(i for i in range(200) if sample_clip("train", i).motion == motion.HELD_OUT)
    data = tmp_path / "clips"
    for split in ("train", "held_out"):
        write_shard(data / split / "shard_00000", "train", spins, 1, FRAMES, SIZE)
    clip_latents.follow(data, tmp_path / "work", 0.0, root=house / "weights")
    learned = unseen(MotionLora(data, 1, tmp_path / "work", house / "weights", rank=2))
    assert [s["motion"] for s in learned.train.specs] == [motion.HELD_OUT]
    after = train(learned, settings(tmp_path / "lora", 2))
    assert same(learned.still, roles.load_adapter(house / "weights" / "motion"))
    learned.export(after, tmp_path / "lora")
    cards = {part: verify(house / "weights" / part) for part in ("motion", "domain_adapter", "motion_lora")}
    made = {role: roles.builtin(house / "weights", role, cards, lambda part, load: load(), "cpu")
            for role in ("motion", "motion_lora", "domain_adapter")}
    assert (made["motion"].window, made["motion"].noise_shared) == (motion.WINDOW, motion.SHARED)
    assert "knight" in made["motion"].domain_words and motion.HELD_OUT not in made["motion"].motions
    assert made["motion_lora"].motion == motion.HELD_OUT
    update = lora.merged(made["motion"].adapter, made["motion_lora"].lora)
    name = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight"
    assert not torch.equal(update.state_dict()[name], made["motion"].adapter.state_dict()[name])
    again = MotionLora(data, 1, tmp_path / "work", house / "weights", rank=2)
    again.load_committed()
    a, b = after.ema.state_dict(), again.model.state_dict()
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a if ".lora_" in k)
    assert learned.clips(after.ema, ["a knight"], steps=1).shape == (1, motion.WINDOW, SIZE, SIZE, 3)


def test_sheets_show_truth_and_drawings(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of eight pictures: prompts, true figures and theirs; of motion two true clips and one of each prompt."""
    monkeypatch.setattr(DomainAdapter, "pictures", lambda self, model, prompts, **_: np.ones(
        (len(prompts), SIZE, SIZE, 3)))
    task = DomainAdapter(house / "clips", 4, house / "work", house / "weights", rank=2)
    shown = task.sheet(task.model)
    assert shown is not None and shown.size == (8 * SIZE, 4 * SIZE)
    monkeypatch.setattr(motion, "PROMPTS", ("a knight",))
    moving = Motion(house / "clips", 1, house / "work", house / "weights")
    monkeypatch.setattr(moving, "clips", lambda model, prompts, steps: np.zeros(
        (len(prompts), motion.WINDOW, SIZE, SIZE, 3)))
    shown = moving.sheet(moving.model)
    assert shown is not None and shown.size == (8 * SIZE, 3 * SIZE)
    below = np.asarray(shown)[2 * SIZE:]
    assert not below.any() and np.asarray(shown)[:2 * SIZE].any()
