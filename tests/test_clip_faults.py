"""What can go wrong with a clip, provoked: damaged poses, disks that are full, runs that are stopped in the middle,
lengths at their limits. Each ends in one line, and what was finished is there again."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_helpers import Job, Set, cut_figure, figure, puppets, walking
from PIL import Image
from pose_helpers import bvh_text

from engine.artifacts import load_png, save_png
from engine.cli import main
from engine.clip_api import plan_clip
from engine.clip_artifacts import Clip
from engine.clips import formats, kept, video
from engine.clips.kept import KeptFrames
from engine.clips.poses.drawing import Skeletons, draw
from engine.clips.poses.openpose import write_openpose
from engine.clips.poses.toybox_motion import toybox_poses
from engine.errors import RunFailed
from engine.export.folder import read_report
from engine.models.sets import model_set
from engine.recipes.recipe import make_recipe
from engine.runs import files
from engine.stages.animate_character import AnimateCharacter, animate_character
from engine.stages.export_clip import ExportClip, export_clip
from engine.toybox import motions


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Set:
    """Every model set is one of doubles; the current folder holds a figure, and scratch files lie beside it."""
    puppets(monkeypatch)
    models = Set()
    monkeypatch.setattr("engine.models.sets.model_set", lambda *args, **kwargs: models)
    monkeypatch.setenv("MAQUETTE_STORE", str(tmp_path / "store"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    figure(Path("figure.png"))
    return models


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["clip", "--image", "figure.png", "--formats", "png", "--out", "out", *words])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error, which is the last line and the only one of its kind."""
    lines = capsys.readouterr().err.strip().splitlines()
    told = [one for one in lines if one.startswith("maquette: ")]
    assert len(told) == 1 and told[0] == lines[-1] and "Traceback" not in "".join(lines)
    return told[0]


# -- damaged poses -----------------------------------------------------------------------------------------------------

def poses_file(name: str, lost: tuple[int, ...] = (), frames: int = 4, **change: Any) -> None:
    """OpenPose's JSON of a walk. lost : joints that no frame has; change : number -> what stands there in frame 1"""
    poses = toybox_poses("walk", frames=frames)
    poses.joints[:, list(lost)] = np.nan
    write_openpose(poses, Path(name))
    if change:
        told = json.loads(Path(name).read_text())
        for number, value in change.items():
            told[1]["people"][0]["pose_keypoints_2d"][int(number[1:])] = value
        Path(name).write_text(json.dumps(told))


@pytest.mark.parametrize(("lost", "change", "told"), [
    ((4, 16), {}, "not known in all frames, and left out where they are not: r_wrist, r_ear"),
    ((), {"n12": float("nan")}, "joints missing in 1 of 4 frames were interpolated"),
    ((), {"n12": None, "n13": None}, "joints missing in 1 of 4 frames were interpolated"),
    ((), {"n12": float("inf")}, "joints missing in 1 of 4 frames were interpolated"),
])
def test_poses_with_missing_joints_are_used_and_it_is_said(lost: tuple[int, ...], change: dict[str, Any], told: str
                                                           ) -> None:
    poses_file("a.json", lost, **change)
    assert run("--poses", "a.json") == 0
    report = read_report(Path("out"))
    assert any(told in said for said in report.warnings), report.warnings
    assert len(list(Path("out/frames").glob("*.png"))) == 4


@pytest.mark.parametrize(("lost", "change", "told"), [
    ((1,), {}, "the neck of a.json is missing in frames 0 to 3; gaps of up to 8 frames can be closed. Leave those "
               "frames out, or raise --set load_poses.max_gap=N"),
    ((8, 11), {}, "the hips of a.json are missing in frames 0 to 3"),
    ((), {"n3": 1e30}, "a.json, frame 1, person 0: number 3 is 1e+30, no place in a picture. Places are in pixels"),
    ((), {"n3": -10**400}, "number 3 is -10000000000, no place in a picture"),
    ((), {"n3": "left"}, "number 3 is 'left'"),
    (tuple(range(18)), {}, "nobody is in any of the 4 frames of a.json"),
])
def test_poses_that_cannot_be_used_are_named(lost: tuple[int, ...], change: dict[str, Any], told: str,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    poses_file("a.json", lost, **change)
    assert run("--poses", "a.json") == 2
    assert told in line(capsys) and not Path("out/report.json").exists()


def test_poses_of_no_numbers_at_all_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text(json.dumps([{"people": [{"pose_keypoints_2d": [float("nan")] * 54}]}] * 2))
    assert run("--poses", "a.json") == 2
    assert "no joint of a.json is known: all are missing, or no numbers" in line(capsys)
    Path("a.json").write_text('[{"people": [{"pose_keypoints_2d": [' + "9" * 5000 + "]}]}]")
    assert run("--poses", "a.json") == 2
    assert "a.json is no JSON of poses" in line(capsys)


@pytest.mark.parametrize(("old", "new", "told"), [
    ("Frames: 3", "Frames: 999999999", "announces 999,999,999 frames and holds 3: its motion is cut off"),
    ("Frames: 3", "Frames: 1e300", "announces 1e+300 frames"),
    ("OFFSET 0.00000000", "OFFSET 1e300", "is no place of a joint"),
    ("ROW", "1e30", "1e30 (Yposition of mixamorig:Hips) is no place or turn of a figure"),
])
def test_a_bvh_of_numbers_that_no_figure_has_is_named(old: str, new: str, told: str,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    text = bvh_text([motions.pose("walk", k / 3) for k in range(3)])
    text = text.replace("\n" + text.splitlines()[-1].partition(" ")[0], "\nROW") if old == "ROW" else text
    assert old in text
    Path("a.bvh").write_text(text.replace(old, new, 1))
    assert run("--poses", "a.bvh") == 2
    assert told in line(capsys)


def test_poses_of_another_shape_and_of_several_people(capsys: pytest.CaptureFixture[str]) -> None:
    poses_file("a.json")
    told = json.loads(Path("a.json").read_text())
    Path("wide.json").write_text(json.dumps([{**frame, "canvas_width": 640} for frame in told]))
    assert run("--poses", "wide.json") == 0
    assert any("the poses are of pictures of 640 x 128 pixels, the clip of 128 x 128" in said
               for said in read_report(Path("out")).warnings)
    Path("two.json").write_text(json.dumps([{**frame, "people": frame["people"] * 2} for frame in told]))
    capsys.readouterr()
    assert run("--poses", "two.json") == 2
    assert "two.json shows 2 people (first in frame 0). Choose one, counted from 0: --person" in line(capsys)
    assert run("--poses", "two.json", "--person", "1") == 0


def test_the_shipped_estimator_sees_no_figure_in_a_mug(monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    from engine.clips.poses.view import camera_at
    from engine.toybox.render import render
    from engine.toybox.scene import build, sample_spec
    spec = next(s for s in (sample_spec("train", i) for i in range(400)) if s.kind == "mug")
    rgba = render([build(spec)], [camera_at(30, 15, 3.0, 40, (128, 128))], 128).rgba[0]
    save_png(Path("thing.png"), np.asarray(rgba))
    estimator = model_set("builtin").load("pose_estimation")
    monkeypatch.setattr(Set, "load", lambda self, role, device: estimator if role == "pose_estimation" else
                        self.models[role])
    with pytest.raises(SystemExit) as stopped:
        main(["clip", "--image", "thing.png", "--motion", "walk", "--out", "out"])
    assert stopped.value.code == 1
    assert "the picture shows no figure: give one whole standing figure" in line(capsys)


# -- lengths -----------------------------------------------------------------------------------------------------------

def test_skeletons_are_the_whole_drawing_whenever_they_are_asked_for() -> None:
    poses = walking(9)
    whole = torch.from_numpy(draw(poses)).permute(0, 3, 1, 2)
    each = whole[0].numel() * 4
    for keep, most in ((0, 0), (3 * each, 3), (10**9, 9)):
        lazy = Skeletons(poses, keep)
        assert lazy.shape == tuple(whole.shape) and len(lazy) == 9
        for part in ([8, 0, 3], [3, 4], list(range(9)), [8]):
            assert torch.equal(lazy[part], whole[part])
        assert torch.equal(lazy[2:5], whole[2:5]) and len(lazy._kept) == most


def test_ten_thousand_frames_are_planned_and_one_more_is_refused(doubles: Set, capsys: pytest.CaptureFixture[str]
                                                                 ) -> None:
    doubles.models |= {"text_to_image": None, "motion": None}
    for pipeline in ("character_to_clip", "text_to_clip", "image_to_clip"):
        given = {"prompt": "a knight"} if pipeline != "character_to_clip" else {}
        given |= {"image": "figure.png"} if pipeline != "text_to_clip" else {}
        plan = plan_clip(make_recipe(pipeline=pipeline, motion="walk", frames=10_000, fps=240, **given), device="cpu")
        assert plan.run.planned["load_poses" if pipeline == "character_to_clip" else pipeline].params.frames == 10_000
    assert run("--motion", "walk", "--frames", "10001") == 2
    assert "frames: Input should be less than or equal to 10000 (got 10001)" in line(capsys)
    poses_file("a.json", frames=1)
    Path("long.json").write_text(json.dumps(json.loads(Path("a.json").read_text()) * 10_001))
    assert run("--poses", "long.json") == 2
    assert "10,001 frames of poses; 10,000 are the most. Take fewer: --frames N" in line(capsys)


@pytest.mark.slow
def test_ten_thousand_frames_take_no_more_memory_than_their_latents() -> None:
    """Drawn by the double, decoded, written and read again: from 1,000 frames on nothing but latents grows."""
    grown = []
    for count in (1000, 10_000):
        before = files.resident_memory(os.getpid())
        files.reset_peak_memory()
        clip = animate_character(cut_figure(), walking(count), AnimateCharacter(steps=1), Job(Set()))
        assert len(clip) == count and clip.frames[count - 1].shape == (64, 64, 4)
        grown.append(files.peak_memory() - before)
    latents = 9000 * 4 * 8 * 8 * 4
    drawings = 9000 * 64 * 64 * 3 * 4
    assert grown[1] - grown[0] < min(8 * latents + 120e6, drawings), grown


# -- stopped in the middle, and disks that are full --------------------------------------------------------------------

def decoding(monkeypatch: pytest.MonkeyPatch, asked: list[int], fall: Exception | None = None, after: int = 99) -> None:
    """Count what is decoded (single frames are previews), and fall behind the ``after``-th frame."""
    from clip_helpers import Puppet

    def decoded(model: Puppet, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        asked.append(len(latents))
        for i, one in enumerate(latents):
            if i == after and fall is not None:
                raise fall
            yield one[:1, :1, :1].sigmoid().expand(3, 64, 64) * torch.ones(3, 64, 64)
    monkeypatch.setattr("engine.diffusion.reference_animation.decoded", decoded)


@pytest.mark.parametrize(("fall", "code", "told"), [
    (KeyboardInterrupt(), 130, "stopped in animate_character. The same command goes on from what is finished"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full (animate_character). Free some space; "
                                                          "finished stages are kept"),
    (MemoryError(), 1, "animate_character ran out of memory"),
])
def test_finished_frames_stay_and_the_run_goes_on(fall: Any, code: int, told: str, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--motion", "walk", "--frames", "6", "--until", "animate_character")
    decoding(monkeypatch, [])
    assert run(*words, "--out", "whole", "--store", "other") == 0
    asked: list[int] = []
    decoding(monkeypatch, asked, fall, after=4)
    assert run(*words) == code
    assert told in line(capsys)
    there = sorted(path.name for path in Path("store/checkpoints").glob("*/files/*"))
    assert there == [f"{i:05d}.png" for i in range(4)]
    Image.new("RGBA", (64, 64)).save("cut.png")
    damaged = next(Path("store/checkpoints").glob("*/files/00002.png"))
    damaged.write_bytes(Path("cut.png").read_bytes()[:40])  # as a loss of power leaves it
    decoding(monkeypatch, asked)
    assert run(*words) == 0
    assert [count for count in asked if count > 1] == [6, 3], "only frames 2, 4 and 5 were left to decode"
    assert not list(Path("store/checkpoints").glob("*/files/*")), "what was on its way goes once the clip is kept"
    for i in range(6):
        ours, theirs = (load_png(Path(folder) / f"animate_character/{i:05d}.png") for folder in ("out", "whole"))
        assert np.array_equal(ours, theirs)


def test_a_frame_counts_only_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes: what lies beside is no frame."""
    job, frame = Job(Set()), np.full((4, 4, 4), 0.5)
    folder = job.folder()
    monkeypatch.setattr(job, "folder", lambda: folder)
    save = kept.save_png

    def half(path: Path, image: np.ndarray) -> None:
        save(path, image)
        path.write_bytes(path.read_bytes()[:30])
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(kept, "save_png", half)
    with pytest.raises(OSError, match="No space"):
        list(KeptFrames(job, 2).all(lambda missing: [frame for _ in missing]))
    monkeypatch.setattr(kept, "save_png", save)
    asked: list[list[int]] = []
    made = KeptFrames(job, 2)
    assert len(list(made.all(lambda missing: asked.append(missing) or [frame for _ in missing]))) == 2  # type: ignore[func-returns-value]
    assert asked == [[0, 1]] and [path.name for path in sorted(folder.iterdir())] == ["00000.png", "00001.png"]
    assert len(made.frames()) == 2 and abs(float(made.frames()[1].mean()) - 0.5) < 1 / 255


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Linux: there is no /dev/full")
@pytest.mark.parametrize("name", ["vp8", "ogv"])
def test_an_encoder_on_a_full_disk_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 4), dtype=np.uint8)
    path = tmp_path / formats.FORMATS[name].file
    path.symlink_to("/dev/full")
    with pytest.raises(RunFailed, match=f"ffmpeg could not write {path.name}: .*No space left on device") as caught:
        formats.write(name, tmp_path, lambda: frames, formats.Clock(8, Fraction(12), True), formats.Look())
    assert "\n" not in str(caught.value) and "free space" in caught.value.fix and not path.exists()


def test_an_export_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    def full(*args: Any, **more: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")
    whole = video.write_video
    monkeypatch.setattr(video, "write_video", full)
    clip = Clip(np.random.default_rng(0).random((3, 16, 16, 4)).astype(np.float32), 12.0, True)
    with pytest.raises(OSError, match="No space"):
        export_clip(clip, ExportClip(formats=("mp4",)), Job(Set()))
    assert not list(Path(tempfile.gettempdir()).iterdir())
    assert run("--motion", "walk", "--frames", "3", "--formats", "mp4") == 1
    assert "the disk is full (export_clip). Free some space; finished stages are kept" in line(capsys)
    monkeypatch.setattr(video, "write_video", whole)
    decoding(monkeypatch, asked := [])
    assert run("--motion", "walk", "--frames", "3", "--formats", "mp4") == 0
    assert asked == [] and Path("out/clip.mp4").exists(), "what was animated stayed"


# -- what travels with a recipe ----------------------------------------------------------------------------------------

def test_adapters_lie_beside_the_recipe_of_any_stage(tmp_path: Path) -> None:
    from engine.export.folder import _with_adapters
    Path("mine").mkdir()
    for name in ("zorb.safetensors", "ink.safetensors", "word.pt"):
        (Path("mine") / name).write_bytes(name.encode())
    mine = tmp_path / "mine"
    recipe = make_recipe(pipeline="text_to_clip", prompt="a zorb", stages={"text_to_clip": {
        "lora": [str(mine / "zorb.safetensors"), "local/kept", str(mine / "ink.safetensors")],
        "lora_scale": [1.0, 0.5, 0.5], "embedding": str(mine / "word.pt")}, "clip_alpha": {"calm": 0.1}})
    made, written = _with_adapters(recipe, {"input.png": "input"}, tmp_path / "out")
    assert made.stages == {"text_to_clip": {"lora": ["lora.safetensors", "local/kept", "lora_2.safetensors"],
                                            "lora_scale": [1.0, 0.5, 0.5], "embedding": "embedding.pt"},
                           "clip_alpha": {"calm": 0.1}}
    assert written == {"input.png": "input", "lora.safetensors": "lora", "lora_2.safetensors": "lora",
                       "embedding.pt": "embedding"}
    for copy, name in (("lora.safetensors", "zorb.safetensors"), ("lora_2.safetensors", "ink.safetensors"),
                       ("embedding.pt", "word.pt")):
        assert (tmp_path / "out" / copy).read_bytes() == name.encode()
    assert recipe.stages["text_to_clip"]["embedding"] == str(mine / "word.pt"), "the recipe that was given stays"
    again, same = _with_adapters(make_recipe(pipeline="text_to_clip", prompt="a mug"), {}, tmp_path / "out")
    assert same == {} and again.stages == {}
