"""``maquette image`` around the tiny set: files with their papers, exit codes, one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_helpers import picture, square_mask
from PIL import Image
from tiny_models import tiny_set

from engine.artifacts import load_png, save_png
from engine.cli import main
from engine.errors import BadInput
from engine.image_api import make_image

QUICK = ["--steps", "3"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, with the tiny networks as the built-in set."""
    import engine.models.sets
    monkeypatch.setattr(engine.models.sets, "BUILTIN_FOLDER", tiny_set().folder)
    monkeypatch.chdir(tmp_path)
    save_png(tmp_path / "mug.png", picture())
    save_png(tmp_path / "mask.png", square_mask().astype(np.float32))
    return tmp_path


def image(*words: str) -> None:
    """Run the command; a code other than 0 fails the test."""
    with pytest.raises(SystemExit) as caught:
        main(["image", *words, "--device", "cpu"])
    assert not caught.value.code


def papers(path: Path) -> dict[str, Any]:
    with Image.open(path) as file:
        text = dict(file.text)  # type: ignore[attr-defined]
    return {**text, "recipe": json.loads(text["recipe"]), "models": json.loads(text["models"])}


def test_a_picture_carries_its_papers_and_seeds_repeat(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image("edit", "mug.png", "a red mug — é", "--out", "a.png", "--seed", "7", "--strength", "0.8", *QUICK)
    assert "image_to_image.likeness_db" in capsys.readouterr().out
    told = papers(folder / "a.png")
    assert told["prompt"] == "a red mug — é" and told["seed"] == "7" and told["Software"].startswith("Maquette ")
    drawn = told["recipe"]["stages"]["image_to_image"]
    assert told["recipe"]["image"] == "edit" and drawn["params"]["strength"] == 0.8 and drawn["params"]["steps"] == 3
    assert len(told["recipe"]["stages"]["picture"]["params"]["digest"]) == 64
    (model,) = told["models"]
    assert model["role"] == "text_to_image" and model["licence"] == "Apache-2.0" and len(model["sha256"]) == 64
    image("edit", "mug.png", "a red mug — é", "--out", "b.png", "--seed", "7", "--strength", "0.8", *QUICK)
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    image("edit", "mug.png", "a red mug — é", "--out", "c.png", "--seed", "8", "--strength", "0.8", *QUICK)
    assert not np.array_equal(load_png(folder / "a.png"), load_png(folder / "c.png"))


def test_equal_requests_come_from_the_store_and_settings_count(folder: Path, capsys: pytest.CaptureFixture[str]
                                                               ) -> None:
    words = ("edit", "mug.png", "a red mug", "--out", "a.png")
    image(*words, *QUICK)
    assert "image_to_image done" in capsys.readouterr().err
    image(*words, "--set", "image_to_image.steps=3")
    assert "image_to_image kept from before" in capsys.readouterr().err
    image(*words, *QUICK, "--set", "image_to_image.guidance=1")
    assert "image_to_image done" in capsys.readouterr().err


def test_inpainting_keeps_the_files_own_bytes(folder: Path) -> None:
    image("inpaint", "mug.png", "a red mug", "--mask", "mask.png", "--out", "a.png", "--feather", "0", *QUICK,
          "--set", "inpaint.rounds=1")
    before, after = (np.asarray(Image.open(folder / name).convert("RGB")) for name in ("mug.png", "a.png"))
    assert np.array_equal(before[~square_mask()], after[~square_mask()])
    assert not np.array_equal(before, after)


def test_a_seam_that_shows_is_tried_again_and_then_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inpaint", "mug.png", "a red mug", "--mask", "mask.png", *QUICK, "--set", "inpaint.rounds=1"]
    with pytest.raises(SystemExit) as caught:
        main(["image", *words, "--out", "a.png", "--seam", "0.01", "--device", "cpu"])
    told = capsys.readouterr().err
    assert caught.value.code == 1 and "inpaint was refused after 3 attempts: seam_gradient" in told
    assert "--seam takes more" in told and not (folder / "a.png").exists()
    image(*words, "--out", "a.png", "--seam", "0")
    assert papers(folder / "a.png")["recipe"]["stages"]["inpaint"]["params"]["rounds"] == 1


def test_a_folder_holds_picture_maps_and_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image("outpaint", "mug.png", "a red mug", "--left", "16", "--out", "wide/", *QUICK, "--set", "outpaint.rounds=1",
          "--seam", "50")
    report = json.loads((folder / "wide" / "report.json").read_text(encoding="utf-8"))
    assert report["pipeline"] == "image_outpaint" and [f["path"] for f in report["files"]] == ["picture.png"]
    assert {m["name"] for m in report["metrics"]} >= {"outpaint.seam_gradient", "outpaint.kept_share"}
    (gate,) = [g for g in report["gates"] if g["passed"]]
    assert gate["metric"] == "outpaint.seam_gradient at most" and gate["threshold"] == 50
    assert Image.open(folder / "wide" / "picture.png").size == (80, 64)
    image("maps", "mug.png", "--control", "canny", "--control", "scribble", "--out", "lines")
    assert sorted(p.name for p in (folder / "lines" / "maps").iterdir()) == ["edges.png", "scribble.png"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["report", "wide"])
    assert not caught.value.code
    (folder / "wide" / "picture.png").write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        main(["report", "wide"])
    assert caught.value.code == 1


def test_several_pictures_go_into_folders(folder: Path) -> None:
    image("edit", "mug.png", "a red mug", "--out", "many", "--count", "2", "--seed", "5", *QUICK)
    told = [papers(folder / "many" / name / "picture.png")["seed"] for name in ("00", "01")]
    assert told == ["5", "6"]


def test_upscaling_on_the_built_in_set_says_that_it_is_a_filter(folder: Path) -> None:
    image("upscale", "mug.png", "--out", "big.png", "--factor", "2")
    told = papers(folder / "big.png")
    assert told["recipe"]["stages"]["upscale"]["params"]["method"] == "lanczos" and told["models"] == []
    assert Image.open(folder / "big.png").size == (128, 128)


def test_python_does_what_the_command_does(folder: Path) -> None:
    image("edit", "mug.png", "a red mug", "--out", "a.png", "--strength", "0.5", *QUICK)
    made = make_image("edit", "a red mug", picture=folder / "mug.png", strength=0.5, steps=3, device="cpu")
    np.testing.assert_array_equal(made.picture.image, load_png(folder / "a.png"))
    assert made.save(folder / "b.png").read_bytes() == (folder / "a.png").read_bytes()
    assert made.maps is None
    with pytest.raises(BadInput, match="image verb 'repaint'"):
        make_image("repaint", "x")  # type: ignore[arg-type]


def write(folder: Path) -> None:
    """Every kind of file that cannot be used."""
    save_png(folder / "small_mask.png", np.ones((32, 48), np.float32))
    save_png(folder / "black.png", np.zeros((64, 64), np.float32))
    save_png(folder / "white.png", np.ones((64, 64), np.float32))
    save_png(folder / "tiny.png", np.ones((8, 8), np.float32))
    save_png(folder / "long.png", np.ones((20, 400), np.float32))
    (folder / "broken.png").write_bytes((folder / "mug.png").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    np.save(folder / "short.npy", np.ones(128))
    np.save(folder / "face.npy", np.ones(512))


BAD = [
    (["edit", "none.png", "a mug", "--out", "x.png"], "there is no picture none.png"),
    (["edit", "text.png", "a mug", "--out", "x.png"], "text.png is no picture"),
    (["edit", "broken.png", "a mug", "--out", "x.png"], "broken.png is damaged or truncated"),
    (["edit", "tiny.png", "a mug", "--out", "x.png"], "tiny.png is only 8 x 8"),
    (["edit", "mug.png", " ", "--out", "x.png"], "the prompt is empty"),
    (["edit", "mug.png", "a mug", "--out", "x.jpg"], "--out x.jpg: pictures are written as PNG"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--count", "2"], "--out x.png is one file"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--strength", "2"], "image_to_image.strength"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--fit", "stretched"], "'framed' or 'resized'"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--seed", "-1"], "the seed is -1"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--models", "bultin"], "no model set 'bultin'"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--set", "inpaint.rounds=1"], "'inpaint' in --set"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--control", "edgse"], "no control 'edgse'. Did you mean edges?"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--map", "depth"], "--map 'depth' names no file"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--scale", "1"], "--scale is given 1 times for 0 controls"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--control", "scribble"], "for the role 'control.scribble'"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--control", "depth"], "Give the map itself: --map depth=FILE"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--like", "text.png"], "text.png is no picture"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--face", "short.npy"], "short.npy holds 128 numbers"),
    (["edit", "mug.png", "a mug", "--out", "x.png", "--face", "mug.png"], "role face"),
    (["inpaint", "mug.png", "a mug", "--out", "x.png", "--mask", "small_mask.png"],
     "the mask small_mask.png is 48 x 32 pixels, the picture mug.png 64 x 64"),
    (["inpaint", "mug.png", "a mug", "--out", "x.png", "--mask", "black.png"], "black.png: the mask is all black"),
    (["inpaint", "mug.png", "a mug", "--out", "x.png", "--mask", "white.png"], "white.png: the mask is all white"),
    (["inpaint", "mug.png", "a mug", "--out", "x.png", "--mask", "text.png"], "text.png is no picture"),
    (["inpaint", "mug.png", "a mug", "--out", "x.png", "--mask", "mask.png", "--seam", "-1"], "the seam may show -1"),
    (["outpaint", "mug.png", "a mug", "--out", "x.png"], "nothing is added on any side"),
    (["control", "a mug", "--out", "x.png"], "no control is given"),
    (["control", "a mug", "--out", "x.png", "--control", "edges"], "no picture to make the map of edges from"),
    (["control", "a mug", "--out", "x.png", "--map", "depth=none.png"], "there is no picture none.png"),
    (["prompt", "--out", "x.png"], "there is nothing to be like"),
    (["prompt", "--face", "face.npy", "--out", "x.png"], "no model for the role 'face_prompt'"),
    (["upscale", "mug.png", "a mug", "--out", "x.png"], "words mean nothing to a filter"),
    (["upscale", "mug.png", "--out", "x.png", "--factor", "9"], "upscale.factor"),
    (["maps", "mug.png", "--out", "x"], "no map is asked for"),
    (["maps", "--out", "x", "--control", "edges", "--toybox", "held_out"], "control_image.toybox"),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_mistakes_are_one_line_and_known_before_anything_runs(words: list[str], line: str, folder: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    write(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as caught:
        main(["image", *words, "--device", "cpu"])
    told = capsys.readouterr().err
    assert caught.value.code == 2 and line in told, told
    assert len(told.strip().splitlines()) == 1 and sorted(folder.iterdir()) == before


@pytest.mark.parametrize(("words", "line"), [
    (["edit", "long.png", "a mug", "--out", "x.png"], "more than 8 times as long"),
    (["outpaint", "mug.png", "a mug", "--left", "2000", "--out", "x.png"], "only 64 x 64 are the picture's")])
def test_mistakes_that_only_the_pixels_tell(words: list[str], line: str, folder: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    write(folder)
    with pytest.raises(SystemExit) as caught:
        main(["image", *words, "--device", "cpu"])
    told = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 2 and line in told[-1] and not (folder / "x.png").exists()
