"""Characters: framed as in training, refused where they are none, animated as the networks alone do, resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_helpers import Job, Set, cut_figure, figure, puppets, small_animation, walking
from PIL import Image

from engine.artifacts import Picture, over_white
from engine.clip_artifacts import FrameFiles, Poses
from engine.clips.poses.drawing import draw
from engine.diffusion import framing
from engine.errors import BadInput, GateRefused
from engine.runs.run import Run
from engine.runs.store import Store
from engine.stages.animate_character import AnimateCharacter, animate_character
from engine.stages.cut_out import cut_out
from engine.stages.draw_character import DrawCharacter, spoken
from engine.stages.frame_character import FrameCharacter, frame_character
from engine.stages.load_picture import load_picture, picture_digest

# -- framing -----------------------------------------------------------------------------------------------------------


def test_a_figure_takes_three_quarters_of_the_height_with_its_hips_in_the_middle():
    rgba = np.zeros((100, 120, 4), np.float32)
    rgba[10:70, 40:60] = (0.8, 0.2, 0.1, 1)
    rgba[30:34, 60:80] = (0.5, 0.5, 0.5, 1)  # what it holds out to one side
    found = Set().models["pose_estimation"]([over_white(rgba)])
    job = Job(Set())
    made = frame_character(Picture(rgba), FrameCharacter(), job)
    left, top, _, bottom = framing.bounding_box(made.image[..., 3])
    size = made.image.shape[0]
    assert made.image.shape == (size, size, 4) and abs((bottom - top) / size - 0.75) < 0.03
    assert abs((top + bottom) / 2 - size / 2) <= 1
    hips = found.joints[0, [8, 11], 0].mean()
    assert abs((left + (hips - 40) * size / (60 / 0.75)) - size / 2) <= 1.5
    assert job.metrics["figure_confidence"] == pytest.approx(0.9) and job.metrics["figures"] == 1
    assert made.meta["figure_height"] == pytest.approx(0.75)


def test_arms_held_out_wide_stay_inside():
    rgba = np.zeros((100, 200, 4), np.float32)
    rgba[20:80, 90:110] = (0.8, 0.2, 0.1, 1)
    rgba[35:40, 20:180] = (0.8, 0.2, 0.1, 1)
    made = frame_character(Picture(rgba), FrameCharacter(), Job(Set()))
    left, _, right, _ = framing.bounding_box(made.image[..., 3])
    assert left > 0 and right < made.image.shape[1] and made.meta["figure_height"] == pytest.approx(60 / (160 / 0.95))


def run_of(tmp_path, image: np.ndarray) -> tuple[Run, object]:
    path = tmp_path / "picture.png"
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(path)
    run = Run(Store(tmp_path / "store"), Set(), device="cpu")
    picture = run(load_picture, path=str(path), digest=picture_digest(path))
    return run, run(frame_character, run(cut_out, picture))


def test_a_picture_without_a_figure_is_refused_by_a_gate(tmp_path):
    run, framed = run_of(tmp_path, figure(wide=True))
    with pytest.raises(GateRefused, match=r"figure_confidence 0 is below 0.5 \(the picture shows no figure: give one "
                                          "whole standing figure"):
        run.execute(framed)


def test_several_figures_are_refused_by_a_gate(tmp_path, monkeypatch):
    several = Set()
    double = several.models["pose_estimation"]

    def two(pictures, person=None):
        found = double(pictures)
        found.people[:] = 2
        return found
    monkeypatch.setattr(Set, "load", lambda self, role, device: two if role == "pose_estimation" else
                        self.models[role])
    run, framed = run_of(tmp_path, figure())
    with pytest.raises(GateRefused, match=r"figures 2 is above 1 \(the picture shows several figures: crop it to one"):
        run.execute(framed)


def test_a_picture_with_its_background_is_refused():
    with pytest.raises(BadInput, match="still has its background"):
        frame_character(Picture(figure()), FrameCharacter(), Job(Set()))


# -- animating ---------------------------------------------------------------------------------------------------------

def test_the_stage_draws_what_the_networks_alone_draw():
    """Frame for frame: same reference, same skeletons, one seed a frame; kept to 8 bits."""
    from engine.diffusion.reference_animation import animate
    model, picture, poses = small_animation(), cut_figure(32), walking(6, 32)
    job = Job(Set(reference_animation=model))
    clip = animate_character(picture, poses, AnimateCharacter(), job)
    eight_bits = np.round(over_white(picture.image) * 255).astype(np.float32) / 255
    reference = torch.from_numpy(np.ascontiguousarray(eight_bits.transpose(2, 0, 1)))
    wanted = animate(model, reference, torch.from_numpy(draw(poses)).permute(0, 3, 1, 2), steps=2, guidance=2.0,
                     noise=lambda i: torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(7 + i)), loop=True)
    wanted = wanted.permute(0, 2, 3, 1).numpy() * 255
    assert isinstance(clip.frames, FrameFiles) and clip.frames.shape == (6, 32, 32, 4)
    # Half a step of 8 bits, and the last bits of sums that may be taken in another order.
    assert np.abs(np.asarray(clip.frames)[..., :3] * 255 - wanted).max() < 0.55
    assert (np.asarray(clip.frames)[..., 3] == 1).all() and (clip.fps, clip.loop) == (12.0, True)
    assert clip.meta["windows"] == 3 and job.metrics["windows"] == 3


def test_a_stopped_animation_goes_on_from_its_last_step():
    model, picture, poses = small_animation(), cut_figure(32), walking(5, 32)
    p = AnimateCharacter(steps=3)
    whole = animate_character(picture, poses, p, Job(Set(reference_animation=model)))
    stopped = Job(Set(reference_animation=model), stop_at=2)
    with pytest.raises(InterruptedError):
        animate_character(picture, poses, p, stopped)
    assert stopped.kept["step"] == 2
    rest = Job(Set(reference_animation=model), kept=stopped.kept)
    again = animate_character(picture, poses, p, rest)
    assert rest.count == 1, "one of three steps was left"
    assert np.array_equal(again.frames, whole.frames)


def test_poses_are_measured_and_shown_as_they_come(monkeypatch):
    puppets(monkeypatch)
    models = Set()
    job, poses = Job(models), walking(20)
    clip = animate_character(cut_figure(), poses, AnimateCharacter(), job)
    assert models.models["reference_animation"].done == [0, 1, 2, 3]
    assert models.models["pose_estimation"].asked == 20 and 0 < job.metrics["keypoint_error"] < 30
    painted = np.asarray(clip.frames)[..., :3].min(-1) < 0.9
    wanted = draw(poses).max(-1) > 0.1
    assert np.array_equal(painted, wanted), "the figure is where the skeleton is"
    fractions = [fraction for fraction, _ in job.previews]
    assert fractions == sorted(fractions) and len(fractions) >= 5 and fractions[0] < 0.85 <= fractions[-1]


def test_quality_and_wishes_reach_the_sampler(monkeypatch):
    puppets(monkeypatch)
    for p, steps in ((AnimateCharacter(pace=0.5), 2), (AnimateCharacter(steps=7), 7)):
        models = Set()
        animate_character(cut_figure(), walking(2), p, Job(models))
        assert models.models["reference_animation"].done == list(range(steps))


def test_one_frame_is_drawn_and_ten_thousand_and_one_are_refused(monkeypatch):
    puppets(monkeypatch)
    clip = animate_character(cut_figure(), walking(1, loop=False), AnimateCharacter(), Job(Set()))
    assert len(clip) == 1
    with pytest.raises(BadInput, match="the clip has 10,001 frames; 10,000 is the most"):
        animate_character(cut_figure(), Poses(np.zeros((10_001, 18, 2), np.float32), (64, 64)), AnimateCharacter(),
                          Job(Set()))


def test_poses_of_another_shape_are_fitted_and_it_is_said(monkeypatch):
    puppets(monkeypatch)
    job, poses = Job(Set()), walking(2)
    tall = Poses(poses.joints + np.float32((0, 32)), (128, 64), 12.0)
    animate_character(cut_figure(), tall, AnimateCharacter(), job)
    assert len(job.warnings) == 1 and "64 x 128 pixels, the clip of 64 x 64" in job.warnings[0]


def test_frames_without_a_figure_are_counted(monkeypatch):
    puppets(monkeypatch)
    poses, job = walking(3), Job(Set())
    poses.joints[1] = np.nan
    animate_character(cut_figure(), poses, AnimateCharacter(), job)
    assert job.warnings == ["in 1 of 3 frames the pose estimator finds no figure"]


# -- drawn of words ----------------------------------------------------------------------------------------------------

def test_how_the_figure_stands_is_said_where_the_prompt_says_nothing():
    assert spoken(DrawCharacter(prompt="a knight in red armour")) == "a knight in red armour, standing"
    assert spoken(DrawCharacter(prompt="a knight, waving")) == "a knight, waving"
    assert spoken(DrawCharacter(prompt="a king", pose="upright", view="front view")) == "a king, upright, front view"
