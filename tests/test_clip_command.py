"""``maquette clip`` and ``engine.clip`` with doubles for the networks: files, papers, what is kept, and every bad input
in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_helpers import Set, figure, puppets
from PIL import Image

import engine
from engine.cli import main
from engine.clip_api import MadeClip, frame_name, papers, plan_clip
from engine.clips import video
from engine.clips.formats import FORMATS
from engine.errors import BadInput
from engine.export.folder import changed_files, read_report
from engine.recipes.recipe import dump_recipe, load_recipe, make_recipe, recipe_digest

BVH = """HIERARCHY
ROOT Hips
{
 OFFSET 0 0 0
 CHANNELS 3 Xposition Yposition Zposition
 End Site
 {
  OFFSET 0 1 0
 }
}
MOTION
Frames: 2
Frame Time: 0.1
0 0
"""


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Set:
    """Every model set is one of doubles; the current folder holds a figure."""
    puppets(monkeypatch)
    models = Set()
    monkeypatch.setattr("engine.models.sets.model_set", lambda *args, **kwargs: models)
    monkeypatch.chdir(tmp_path)
    figure(Path("figure.png"))
    return models


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error, behind the stages' progress."""
    lines = capsys.readouterr().err.strip().splitlines()
    told = [line for line in lines if line.startswith("maquette: ")]
    assert len(told) == 1 and told[0] == lines[-1] and "Traceback" not in "".join(lines)
    return told[0]


def made(**values: Any) -> MadeClip:
    return engine.clip(image="figure.png", **{"motion": "walk", "frames": 6, "formats": ["apng"], **values})


# -- files and papers --------------------------------------------------------------------------------------------------

def test_a_character_walks_into_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("clip", "--image", "figure.png", "--motion", "walk", "--frames", "6", "--fps", "12", "--seed", "7",
               "--out", "out") == 0
    out = Path("out")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    frames = {f"frames/{i:05d}.png" for i in range(6)}
    assert names == frames | {about.file for about in FORMATS.values()} | {
        "sheet.json", "character.png", "poses.json", "input.png", "recipe.toml", "report.json", "report.html"}
    report = read_report(out)
    assert changed_files(out, report) == [] and {f.path for f in report.files} == names - {"report.json", "report.html"}
    assert (report.asset, report.pipeline, report.seed) == ("figure", "character_to_clip", 7)
    assert {m.role: (m.id, m.licence) for m in report.models} == {
        role: (f"doubles/{role}", "Apache-2.0") for role in ("matting", "image_text", "pose_estimation",
                                                            "reference_animation")}
    assert [s.label for s in report.stages] == [
        "load_poses", "load_picture", "cut_out", "frame_character", "estimate_poses", "retarget_poses",
        "animate_character", "clip_alpha", "export_clip"]
    for name in ("animate_character.keypoint_error", "clip_alpha.alpha_flicker", "clip_alpha.seam_over_step",
                 "clip_alpha.colour_flicker", "frame_character.figure_confidence"):
        assert report.figure(name) is not None
    assert report.figure("clip_alpha.seam_over_step") < 2 and report.figure("export_clip.seconds") == 0.5
    assert [(g.metric, g.passed) for g in report.gates] == [("frame_character.figure_confidence", True),
                                                           ("frame_character.figures at most", True)]
    assert "figure_walk_00000" in (out / "sheet.json").read_text()
    shown = capsys.readouterr()
    assert "character_to_clip" in shown.out and "6 frames" in shown.out and "maquette:" not in shown.err


def test_every_file_says_how_it_was_made() -> None:
    clip = made(seed=7, formats=["mp4", "vp9", "prores", "apng", "sheet"])
    clip.save("out")
    wanted = papers(clip.recipe)
    assert wanted["seed"] == "7" and wanted["recipe"] == recipe_digest(clip.recipe) and len(wanted["recipe"]) == 64
    assert wanted["comment"] == f"made by Maquette {engine.__version__}" and wanted["motion"] == "walk"
    for name in ("clip.mp4", "clip_vp9.webm", "clip.mov"):
        told = video.tags(Path("out") / name)
        assert {key: told.get(key) for key in wanted} == wanted, name
    for name in ("frames/00003.png", "clip.apng", "sheet.png"):
        with Image.open(Path("out") / name) as file:
            assert {key: file.info.get(key) for key in wanted} == wanted, name
    meta = json.loads((Path("out") / "sheet.json").read_text(encoding="utf-8"))["meta"]
    assert {key: meta.get(key) for key in wanted} == wanted


def test_frames_are_the_figure_where_the_poses_are_with_alpha() -> None:
    clip = made().clip
    frames = np.asarray(clip.frames)
    assert frames.shape == (6, 64, 64, 4) and (clip.fps, clip.loop) == (12.0, True)
    seen = frames[..., 3] > 0.5
    assert 0.02 < seen.mean() < 0.4 and (frames[..., 3][:, 0] == 0).all()
    assert np.abs(frames[..., :3] - (0.8, 0.2, 0.1))[seen].mean() < 0.05, "its own colour, no white in it"


def test_the_folders_recipe_makes_it_again_from_what_is_kept(doubles: Set) -> None:
    assert run("clip", "--image", "figure.png", "--motion", "walk", "--frames", "4", "--formats", "mp4,sheet", "--loop",
               "--out", "first") == 0
    steps = len(doubles.models["reference_animation"].done)
    Path("figure.png").unlink()
    Path("first").rename("moved")
    assert run("run", "moved/recipe.toml", "--out", "again") == 0
    assert len(doubles.models["reference_animation"].done) == steps, "nothing was drawn anew"
    assert all(stage.cached for stage in read_report(Path("again")).stages)
    for name in ("clip.mp4", "sheet.json", "frames/00002.png"):
        assert (Path("moved") / name).read_bytes() == (Path("again") / name).read_bytes()
    assert load_recipe(Path("again/recipe.toml")).loop is True


def test_poses_of_a_folder_travel_with_the_recipe() -> None:
    Path("poses").mkdir()
    for i in range(3):
        keypoints = [v for x, y in np.random.default_rng(0).uniform(20, 100, (18, 2)) for v in (x + i, y, 1)]
        Path(f"poses/{i:04d}.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": keypoints}],
                                                           "canvas_width": 128, "canvas_height": 128}))
    assert run("clip", "--image", "figure.png", "--poses", "poses", "--fps", "8", "--formats", "gif", "--out", "a") == 0
    assert sorted(path.name for path in Path("a/input_poses").iterdir()) == ["0000.json", "0001.json", "0002.json"]
    recipe = load_recipe(Path("a/recipe.toml"))
    assert recipe.poses == "a/input_poses" and recipe.image == "a/input.png"
    assert recipe_digest(recipe) == recipe_digest(make_recipe(
        pipeline="character_to_clip", image="figure.png", poses="poses", fps=8.0, formats=("gif",)))
    assert read_report(Path("a")).figure("clip_alpha.frames") == 3


def test_other_formats_need_no_new_animation(doubles: Set) -> None:
    made()
    steps = len(doubles.models["reference_animation"].done)
    assert made(formats=["webp", "gif"]).not_written == {}
    assert len(doubles.models["reference_animation"].done) == steps


def test_a_run_stops_where_it_is_told_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("clip", "--image", "figure.png", "--motion", "wave", "--frames", "4", "--formats", "apng", "--out", "out")
    assert run(*words, "--until", "animate_character") == 0
    out = Path("out")
    assert sorted(path.name for path in (out / "animate_character").iterdir()) == [f"{i:05d}.png" for i in range(4)]
    assert not (out / "report.json").exists() and (out / "character.png").exists()
    assert "stopped after animate_character" in capsys.readouterr().out
    assert run(*words) == 0
    assert (out / "clip.apng").exists() and read_report(out).stages[-3].cached


def test_stages_can_be_set_and_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    clip = made(stages={"animate_character": {"steps": 9}, "clip_alpha": {"method": "none"}})
    assert clip.artifact("clip_alpha").meta["alpha"] == "none: the whole picture stays"
    assert run("clip", "--image", "figure.png", "--motion", "walk", "--set", "animate_character.step=9", "--out", "x"
               ) == 2
    assert "Did you mean steps?" in capsys.readouterr().err
    assert run("clip", "--image", "figure.png", "--motion", "walk", "--set", "animate.steps=9", "--out", "x") == 2
    assert "unknown label 'animate'" in capsys.readouterr().err


# -- a missing encoder -------------------------------------------------------------------------------------------------

def test_a_missing_encoder_is_named_and_nothing_else_is_lost(monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    whole = video.encoders
    monkeypatch.setattr(video, "encoders", lambda: frozenset({"libx264"}))
    words = ("clip", "--image", "figure.png", "--motion", "walk", "--frames", "3", "--formats", "mp4,prores,sheet",
             "--out", "out")
    assert run(*words) == 1
    told = said(capsys)
    assert told.startswith("maquette: clip.mov (ProRes 4444 in QuickTime) cannot be written: this ffmpeg has no "
                           "encoder prores_ks. pip install") and told.endswith("All other files are in out")
    report = read_report(Path("out"))
    assert changed_files(Path("out"), report) == [] and any("prores_ks" in said for said in report.warnings)
    assert (Path("out") / "clip.mp4").exists() and not (Path("out") / "clip.mov").exists()
    monkeypatch.setattr(video, "encoders", whole)
    assert run(*words) == 0 and (Path("out") / "clip.mov").exists(), "with the encoder the same words write it"


# -- what is planned ---------------------------------------------------------------------------------------------------

def test_the_pipeline_follows_from_what_is_given() -> None:
    wide = Set(text_to_image=None, motion=None, domain_adapter=None)
    engine_set = {"store": "store", "device": "cpu"}

    def labels(models: Set, **values: Any) -> list[str]:
        import engine.models.sets as sets
        sets.model_set = lambda *a, **k: models  # type: ignore[assignment]
        recipe = make_recipe(**values)
        return list(plan_clip(recipe, **engine_set).run.planned)

    tail = ["clip_alpha", "export_clip"]
    figure_labels = ["cut_out", "frame_character", "estimate_poses", "retarget_poses", "animate_character", *tail]
    assert labels(wide, pipeline="character_to_clip", prompt="a knight", motion="walk", pick=1) == [
        "load_poses", "draw_character", "choose_candidate", *figure_labels]
    assert labels(wide, pipeline="text_to_clip", prompt="a knight", motion="walk") == ["text_to_clip", *tail]
    assert labels(wide, pipeline="image_to_clip", prompt="a knight", image="figure.png") == [
        "load_picture", "image_to_clip", *tail]
    narrow = plan_clip(make_recipe(pipeline="character_to_clip", prompt="a knight", motion="walk"), **engine_set)
    drawn = narrow.run.planned["draw_character"]
    assert drawn.params.adapter_scale == 1.0 and "domain_adapter" in drawn.weights
    import engine.models.sets as sets
    sets.model_set = lambda *a, **k: Set(text_to_image=None)  # type: ignore[assignment]
    plain = plan_clip(make_recipe(pipeline="character_to_clip", prompt="a knight", motion="walk"), **engine_set)
    assert plain.run.planned["draw_character"].params.adapter_scale == 0.0


def test_recipes_of_clips_keep_every_wish() -> None:
    recipe = make_recipe(pipeline="character_to_clip", prompt="a knight", motion="walk", frames=8, fps=12.5, loop=False,
                         formats=("gif", "mp4"), pick=0, seed=3)
    Path("recipe.toml").write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(Path("recipe.toml"))
    assert again == recipe and again.loop is False and again.pick == 0 and again.formats == ("mp4", "gif")
    assert frame_name(recipe) == "a_knight_walk"
    assert frame_name(make_recipe(pipeline="text_to_clip", prompt="рыцарь 騎士")) == "clip"


def test_a_recipes_digest_is_of_what_was_asked_not_of_where_it_lies() -> None:
    first = recipe_digest(make_recipe(pipeline="character_to_clip", image="figure.png", motion="walk"))
    Path("elsewhere").mkdir()
    Path("elsewhere/figure.png").write_bytes(Path("figure.png").read_bytes())
    moved = make_recipe(pipeline="character_to_clip", image="elsewhere/figure.png", motion="walk")
    assert recipe_digest(moved) == first
    assert recipe_digest(make_recipe(pipeline="character_to_clip", image="figure.png", motion="run")) != first
    figure(Path("figure.png"), height=90)
    assert recipe_digest(make_recipe(pipeline="character_to_clip", image="figure.png", motion="walk")) != first


# -- bad input ---------------------------------------------------------------------------------------------------------

def bad_files() -> None:
    Path("bad.bvh").write_text(BVH)
    Path("notvideo.mp4").write_bytes(b"\0\1\2 no video" * 50)
    Path("picture.png").write_bytes(b"no picture")
    two = {"people": [{"pose_keypoints_2d": [10, 10, 1] * 18}] * 2, "canvas_width": 64, "canvas_height": 64}
    Path("two.json").write_text(json.dumps(two))
    none = {"people": [{"pose_keypoints_2d": [0, 0, 0] * 18}], "canvas_width": 64, "canvas_height": 64}
    Path("none.json").write_text(json.dumps(none))
    nan = {"people": [{"pose_keypoints_2d": [float("nan")] * 54}], "canvas_width": 64, "canvas_height": 64}
    Path("nan.json").write_text(json.dumps(nan))


@pytest.mark.parametrize(("words", "line", "code"), [
    (["--motion", "wlak"], "there is no motion 'wlak'. Did you mean walk?", 2),
    (["--poses", "bad.bvh"], "bad.bvh", 2),
    (["--poses", "gone.json"], "there are no poses gone.json", 2),
    (["--poses", "two.json"], "two.json shows 2 people", 2),
    (["--poses", "none.json"], "no joint of none.json is known", 2),
    (["--poses", "nan.json"], "nan.json", 2),
    (["--driving-video", "notvideo.mp4"], "notvideo.mp4 is no video that can be read", 2),
    (["--driving-video", "two.json"], "two.json is no video. Give it as poses: --poses two.json", 2),
    (["--motion", "walk", "--frames", "0"], "frames", 2),
    (["--motion", "walk", "--frames", "10001"], "less than or equal to 10000", 2),
    (["--motion", "walk", "--fps", "0"], "fps", 2),
    (["--motion", "walk", "--formats", "mp5"], "there is no clip format 'mp5'. Did you mean mp4?", 2),
    (["--motion", "walk", "--poses", "none.json"], "character_to_clip needs one of motion, poses and driving_video", 2),
    (["--motion", "walk", "--pipeline", "walk_to_clip"], "there is no pipeline 'walk_to_clip'", 2),
    (["--motion", "walk", "--pipeline", "image_to_mesh"], "motion has no meaning in image_to_mesh", 2),
    (["--motion", "walk", "--pick", "1"], "pick has no meaning beside an image", 2),
    (["--motion", "walk", "--quality", "best"], "quality", 2),
    (["--motion", "walk", "--image", "gone.png"], "there is no picture gone.png", 2),
    (["--motion", "walk", "--image", "picture.png"], "picture.png is no picture that can be read", 2),
    (["--motion", "walk", "--image", "wide.png"], "the picture shows no figure", 1),
    (["--motion", "walk", "--out", "figure.png"], "cannot write the asset in figure.png", 2),
])
def test_bad_input_is_one_line(words: list[str], line: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    bad_files()
    figure(Path("wide.png"), wide=True)
    given = {"--image": "figure.png", "--out": "out", **dict(zip(words[::2], words[1::2], strict=True))}
    assert run("clip", *[word for pair in given.items() for word in pair]) == code
    assert line in said(capsys)
    assert not (Path("out") / "report.json").exists()


def test_a_clip_needs_something_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("clip", "--motion", "walk", "--out", "out") == 2
    assert "character_to_clip needs image or prompt" in capsys.readouterr().err
    assert run("clip", "--out", "out") == 2
    assert "the prompt is empty" in capsys.readouterr().err
    assert run("clip", "--image", "figure.png", "--out", "out") == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_one_frame_is_a_clip_that_does_not_loop_nor_move() -> None:
    clip = made(frames=1, formats=["mp4", "gif", "sheet"])
    assert clip.not_written == {} and len(clip.clip) == 1


def test_clips_and_meshes_are_told_apart() -> None:
    from engine.api import plan_asset
    with pytest.raises(BadInput, match="text_to_clip makes a clip, no mesh"):
        plan_asset(make_recipe(pipeline="text_to_clip", prompt="a knight"))
    with pytest.raises(BadInput, match="text_to_mesh makes a mesh, no clip"):
        plan_clip(make_recipe(pipeline="text_to_mesh", prompt="a mug"))
