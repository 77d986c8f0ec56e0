"""Clips without their background: the formula by hand, edges without a fringe, truth of the toybox, and the stage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clip_helpers import Job, Set, matting
from mesh_helpers import Notes

from engine.artifacts import over_white
from engine.clip_artifacts import Clip, FrameFiles
from engine.clips import alpha
from engine.clips.measure import keypoint_error, measured
from engine.diffusion import mattes
from engine.errors import BadInput, RunFailed
from engine.stages.clip_alpha import ClipAlpha, clip_alpha
from engine.training.clip_data import render_clip, sample_clip


def discs(count: int = 6, size: int = 48, radius: float = 12.0) -> np.ndarray:
    """A red disc with soft edges that rolls right by two pixels a frame, and back: (n, h, w, 4) straight."""
    y, x = np.mgrid[:size, :size] + 0.5
    frames = np.zeros((count, size, size, 4), np.float32)
    frames[..., :3] = (0.8, 0.2, 0.1)
    for i in range(count):
        middle = 18 + 2 * min(i, count - i)
        frames[i, ..., 3] = np.clip(radius + 0.5 - np.hypot(x - middle, y - 24), 0, 1)
    return frames


# -- the formula -------------------------------------------------------------------------------------------------------

def test_the_median_acts_where_nothing_moves_and_nowhere_else():
    grey = np.full((1, 4, 3), 0.5, np.float32)
    moved = grey.copy()
    moved[0, 1] += (0, 0, 0.07)  # beyond the tolerance in one channel alone
    alphas = [np.array([row], np.float32) for row in ((1, 1, 0.2, 0.9), (0, 0, 0.6, 0.9), (1, 1, 0.4, 0.1))]
    told = alpha.calm((grey, grey, moved), (alphas[0], alphas[1], alphas[2]), 0.06)
    assert told.tolist() == [[1, 0, pytest.approx(0.4), pytest.approx(0.9)]]


def stacked(images: np.ndarray, mattes: np.ndarray, loop: bool, tolerance: float = 0.06) -> np.ndarray:
    """The straight-line twin of ``calmed``: every frame at once."""
    n = len(images)
    out = mattes.copy()
    for t in range(n):
        if not loop and t in (0, n - 1):
            continue
        b, a = (t - 1) % n, (t + 1) % n
        away = [np.abs(images[other] - images[t]).max(-1) for other in (b, a)]
        still = (away[0] <= tolerance) & (away[1] <= tolerance)
        out[t][still] = np.median(mattes[[b, t, a]], 0)[still]
    return out


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_frame_by_frame_equals_all_at_once(loop, count):
    rng = np.random.default_rng(count)
    images = (0.5 + rng.uniform(-0.04, 0.04, (count, 9, 11, 3))).astype(np.float32)
    mattes = rng.uniform(0.3, 1, (count, 9, 11)).astype(np.float32)
    looked = iter(range(100))

    def matte(image: np.ndarray) -> np.ndarray:
        next(looked)
        i = next(i for i in range(count) if np.array_equal(images[i], image))
        return np.concatenate([image, mattes[i][..., None]], -1)
    found = np.stack(list(alpha.calmed(images, matte, loop)))
    assert np.array_equal(found[..., 3], stacked(images, mattes, loop and count > 2))
    assert next(looked) <= count + 1, "each frame is looked at once, a loop's last one twice"


def test_clear_pixels_take_the_nearest_colour_and_nothing_far_away():
    rgba = np.zeros((1, 24, 4), np.float32)
    rgba[0, :, :3] = 1
    rgba[0, 4] = (0.2, 0.4, 0.6, 1)
    rgba[0, 5] = (0.9, 0.4, 0.6, 0.5)
    told = alpha.spread(rgba)
    assert np.allclose(told[0, 0], (0.2, 0.4, 0.6, 0)) and np.allclose(told[0, 6], (0.9, 0.4, 0.6, 0))
    assert np.allclose(told[0, 5 + alpha.SPREAD, :3], (0.9, 0.4, 0.6)) and (told[0, 6 + alpha.SPREAD] == 0).all()
    assert np.array_equal(told[..., 3], rgba[..., 3])
    assert (alpha.spread(np.zeros((2, 2, 4), np.float32)) == 0).all()


# -- against truth -----------------------------------------------------------------------------------------------------

def test_a_disc_before_white_comes_back_with_its_own_colour_to_the_rim():
    truth = discs()
    found = np.stack(list(alpha.calmed(over_white(truth), alpha.plain(), True)))
    assert np.abs(found[..., 3] - truth[..., 3]).max() < 0.12
    seen = found[..., 3] > 0.02
    assert np.abs(found[..., :3] - truth[..., :3])[seen].max() < 0.02, "no white fringe"
    assert np.abs(over_white(found) - over_white(truth)).max() < 0.12


def test_both_is_the_mean_of_two_alphas_with_colours_of_covered_pixels():
    picture = over_white(discs(1))[0]
    network = matting()
    colour = mattes.border_colour(picture)[0]
    alphas = (mattes.model_alpha(network, picture, "cpu"),
              mattes.mean_edge(picture, mattes.plain_mask(picture, colour), colour)[..., 3])
    found = alpha.both(network, "cpu")(picture)
    assert np.array_equal(found[..., 3], (alphas[0] + alphas[1]) / 2) and np.abs(alphas[0] - alphas[1]).max() > 0.05
    assert np.abs(found[found[..., 3] > 0.05][:, :3] - (0.8, 0.2, 0.1)).max() < 0.02


def test_drawn_asks_the_second_network_as_large_as_it_was_drawn():
    """Its logit is 10 where a channel is below 0.6, else -10; colours of half covered pixels are the covered ones'."""
    asked: list[tuple[int, ...]] = []

    def net(x: torch.Tensor, t: int) -> SimpleNamespace:
        asked.append(tuple(x.shape))
        assert t == 0 and float(x.min()) >= -1 and float(x.max()) == 1
        return SimpleNamespace(sample=torch.where(x.amin(1, keepdim=True) < 0.2, 10.0, -10.0))
    picture = np.ones((40, 64, 3), np.float32)
    picture[8:32, 8:32] = (0.8, 0.2, 0.1)
    picture[20, 40] = 0  # a speck
    found = alpha.drawn(SimpleNamespace(drawn=net), "cpu")(picture)
    covered = np.zeros((40, 64), bool)
    covered[8:32, 8:32] = True
    assert asked == [(1, 3, 40, 64)] and np.array_equal(found[..., 3] > 0.5, covered)
    assert np.allclose(found[covered], (0.8, 0.2, 0.1, 1), atol=1e-3) and (found[~covered][:, 3] == 0).all()


def test_a_dark_outline_is_no_mix():
    """A row: background, a pixel that is half red, red, red, red; and one whose rim is black."""
    red, white = np.float32((0.8, 0.2, 0.1)), np.ones(3, np.float32)
    row = np.stack([white, (red + white) / 2, *[red] * 7, np.zeros(3, np.float32), white])[None].repeat(5, 0)
    shape = np.float32([0, 0.5, *[1] * 8, 0])[None].repeat(5, 0)
    found = alpha.freed(row, shape, white)
    assert np.allclose(found[2, 1], (*red, 0.5)) and np.allclose(found[2, 9], (0, 0, 0, 1))
    assert np.array_equal(found[..., 3], shape) and np.allclose(found[:, 2:9, :3], red)


def test_what_is_wrong_for_one_frame_goes():
    """A hole that opens in one matte while the picture stands still is closed; flicker falls to the truth's."""
    still = np.repeat(discs(1), 5, 0)
    calls = iter(range(100))

    def blinking(image: np.ndarray) -> np.ndarray:
        out = alpha.plain()(image)
        if next(calls) == 2:
            out[20:24, 16:20, 3] = 0
        return out
    raw = measured(np.stack(list(alpha.calmed(over_white(still), blinking, False, 0.0))), False)
    calls = iter(range(100))
    calm = measured(np.stack(list(alpha.calmed(over_white(still), blinking, False))), False)
    assert raw.alpha_flicker > 0.01 and calm.alpha_flicker == 0


def test_the_toybox_is_cut_out_as_the_truth_says():
    truth = render_clip(sample_clip("held_out", 1), frames=3)["rgba"].astype(np.float32) / 255
    found = np.stack(list(alpha.calmed(over_white(truth), alpha.plain(), False)))
    both, either = ((op(found[..., 3] >= 0.5, truth[..., 3] >= 0.5)).sum() for op in (np.logical_and, np.logical_or))
    assert both / either > 0.97


# -- the stage ---------------------------------------------------------------------------------------------------------

def test_the_stage_says_how_and_keeps_frames_in_files():
    truth, job = discs(), Job(Set())
    opaque = np.concatenate([over_white(truth), np.ones((*truth.shape[:3], 1), np.float32)], -1)
    made = clip_alpha(Clip(opaque, 10.0, True, {"windows": 1}), ClipAlpha(), job)
    assert made.meta == {"windows": 1, "alpha": "mean of the matting network's and the plain background's, calmed over "
                                                 "time"}
    assert isinstance(made.frames, FrameFiles) and (made.fps, made.loop, len(made)) == (10.0, True, 6)
    assert np.abs(np.asarray(made.frames)[..., 3] - truth[..., 3]).mean() < 0.01
    seen = np.asarray(made.frames)[..., 3] > 0.05
    assert np.abs(np.asarray(made.frames)[..., :3] - truth[..., :3])[seen].max() < 0.02, "no white fringe"
    figures = measured(np.asarray(made.frames), True)
    assert job.metrics["alpha_flicker"] == figures.alpha_flicker and job.metrics["seam"] == figures.seam
    assert job.metrics["seam_over_step"] == figures.seam / figures.frame_step


def test_who_drew_the_clip_decides_whose_word_is_taken():
    truth = discs(3)
    opaque = np.concatenate([over_white(truth), np.ones((*truth.shape[:3], 1), np.float32)], -1)

    def how(meta: dict[str, str], frames: np.ndarray = opaque, **models: Any) -> str:
        return clip_alpha(Clip(frames, 10.0, False, meta), ClipAlpha(calm=0), Job(Set(**models))).meta["alpha"]
    assert how({"drawn_by": "builtin"}) == "by the network that knows what the built-in models draw"
    assert how({"drawn_by": "sd15"}) == how({}) == "mean of the matting network's and the plain background's"
    grey = opaque.copy()
    grey[..., :3] = truth[..., :3] * truth[..., 3:] + 0.7 * (1 - truth[..., 3:])
    assert how({"drawn_by": "builtin"}, grey) == "mean of the matting network's and the plain background's"
    alone = SimpleNamespace(unet=matting().unet, size=64, drawn=None)
    assert how({"drawn_by": "builtin"}, matting=alone) == "mean of the matting network's and the plain background's"
    with pytest.raises(BadInput, match=r"has no network for what the built-in models draw.*clip_alpha\.method=auto"):
        clip_alpha(Clip(opaque), ClipAlpha(method="drawn"), Job(Set(matting=alone)))


def test_alpha_that_is_there_stays():
    truth, job = discs(), Notes()
    made = clip_alpha(Clip(truth, 10.0, False), ClipAlpha(), job)
    assert made.meta["alpha"] == "the clip's own"
    assert np.abs(np.asarray(made.frames)[..., 3] - truth[..., 3]).max() <= 0.5 / 255 + 1e-6
    whole = clip_alpha(Clip(truth, 10.0, False), ClipAlpha(method="none"), job)
    assert (np.asarray(whole.frames)[..., 3] == 1).all() and "seam" not in job.metrics
    assert np.abs(np.asarray(whole.frames)[..., :3] - over_white(truth)).max() <= 0.5 / 255 + 1e-6


def test_a_clip_of_nothing_is_named():
    white = np.ones((3, 32, 32, 4), np.float32)
    with pytest.raises(RunFailed, match="nothing of the clip is left once its background is gone"):
        clip_alpha(Clip(white), ClipAlpha(), Job(Set()))
    some, job = discs(4), Job(Set())
    some[1, ..., 3] = 0
    clip_alpha(Clip(some), ClipAlpha(), job)
    assert job.warnings == ["in 1 of 4 frames nothing is left once the background is gone"]


# -- figures -----------------------------------------------------------------------------------------------------------

def test_figures_by_hand():
    """One pixel of four is there and blinks: alpha 1, 0, 1, over white 0.2, 1, 0.2."""
    frames = np.zeros((3, 2, 2, 4), np.float32)
    frames[..., :3] = 0.2
    frames[[0, 2], 0, 0, 3] = 1
    found = measured(frames, False)
    assert found.frame_step == pytest.approx(255 * 0.8 / 4) and found.seam == 0 and found.seam_over_step == 0
    assert np.isnan(found.alpha_flicker) and np.isnan(found.colour_flicker), "the middle frame covers nothing"
    loop = measured(frames, True)  # the triples (0, 1, 2), (1, 2, 0), (2, 0, 1)
    assert loop.alpha_flicker == pytest.approx((2 + 1 + 1) / (0 + 1 + 1))
    colours = np.ones((4, 1, 1, 4), np.float32)
    colours[:, 0, 0, 0] = (0, 0.5, 0, 0.5)
    assert measured(colours, False).colour_flicker == pytest.approx(255 * 1 / 3)


def test_a_loop_that_closes_with_a_step_like_the_others_has_a_seam_of_one():
    found = measured(discs(8), True)
    assert found.seam_over_step == pytest.approx(1, abs=0.05)


def test_keypoints_are_off_by_a_share_of_the_height():
    wanted = np.zeros((1, 18, 2))
    found = wanted + np.array([3.0, 4.0])
    found[0, 1] = np.nan
    assert keypoint_error(found, wanted, 100.0) == pytest.approx(5.0)
    assert np.isnan(keypoint_error(np.full((1, 18, 2), np.nan), wanted, 100.0))


# -- frames in files ---------------------------------------------------------------------------------------------------

def test_frames_from_the_store_answer_as_the_array(tmp_path):
    truth = np.round(discs() * 255).astype(np.float32) / 255
    Clip(truth, 8.0, True, {"a": 1}).save(tmp_path)
    clip = Clip.load(tmp_path)
    assert isinstance(clip.frames, FrameFiles) and len(clip) == 6
    assert (clip.fps, clip.loop, clip.meta) == (8.0, True, {"a": 1})
    assert np.array_equal(clip.frames, truth) and clip.frames.shape == truth.shape and clip.frames.dtype == np.float32
    assert np.array_equal(clip.frames[-1], truth[-1]) and np.array_equal(clip.frames[1:3], truth[1:3])
    assert np.array_equal(clip.frames[..., 3], truth[..., 3]) and np.array_equal(np.stack(list(clip.frames)), truth)
    assert np.array_equal(1 - clip.frames, 1 - truth) and clip.frames.mean() == truth.mean()
    assert np.array_equal(clip.frames > 0.5, truth > 0.5) and clip.frames[3:3].shape == (0, 48, 48, 4)
    with pytest.raises(IndexError):
        clip.frames[6]
    with pytest.raises(TypeError):
        clip.frames[0] = 0
    (tmp_path / "again").mkdir()
    clip.save(tmp_path / "again")
    assert np.array_equal(Clip.load(tmp_path / "again").frames, truth)


def test_frames_that_are_asked_for_are_those_of_the_whole() -> None:
    """Any of them, alone or with others, looped or not; and no more than four are held."""
    frames = over_white(discs(7))
    for loop in (False, True):
        whole = list(alpha.calmed(frames, alpha.plain(), loop, 0.5))
        for only in ([0], [6], [2, 3, 6], [0, 5], list(range(7))):
            found = list(alpha.calmed(frames, alpha.plain(), loop, 0.5, only))
            assert all(np.array_equal(a, whole[i]) for a, i in zip(found, only, strict=True))


def test_a_stopped_clip_goes_on_at_its_next_frame(tmp_path: Path) -> None:
    """Stopped at the fourth of six frames: the same folder again frees only what is missing, to the same pictures."""
    truth = discs()
    opaque = np.concatenate([over_white(truth), np.ones((*truth.shape[:3], 1), np.float32)], -1)
    looked: list[int] = []

    class Watched:
        shape, dtype = opaque.shape, opaque.dtype

        def __len__(self) -> int:
            return len(opaque)

        def __getitem__(self, i: int) -> np.ndarray:
            looked.append(i)
            return opaque[i]

    clip = Clip(Watched(), 10.0, False)  # type: ignore[arg-type]
    whole = np.asarray(clip_alpha(Clip(opaque, 10.0, False), ClipAlpha(), Job(Set())).frames)

    class Here(Job):
        def folder(self) -> Path:
            return tmp_path

    class Stops(Here):
        def progress(self, part: float, preview: Any = None) -> None:
            if part > 0.6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clip_alpha(clip, ClipAlpha(), Stops(Set()))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{i:05d}.png" for i in range(4)]
    looked.clear()
    again = clip_alpha(clip, ClipAlpha(), Here(Set()))
    assert np.array_equal(np.asarray(again.frames), whole)
    assert set(looked[3:]) == {3, 4, 5}, "the first three looks are at what kind of clip it is"
