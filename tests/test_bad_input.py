"""Every kind of bad input through the command itself: one clear line, the right exit code, nothing taken for finished.

The stages' own tests hold more cases each (pictures, transforms, weights); here the whole way to the user is run, in
this process, around tiny random networks.
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_fit_command import QUICK
from test_load_picture import header_only_png
from tiny_models import tiny_set, write_known

import engine.models.sets
from engine.cli import main
from engine.models.known import Known
from engine.models.sets import ModelSet
from tests import scenes

DRAWN_QUICKLY = ["text_to_image.candidates=1", "text_to_image.steps=1"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tiny_set().folder
    monkeypatch.setattr(engine.models.sets, "BUILTIN_FOLDER", folder)
    monkeypatch.chdir(tmp_path)


def maquette(*words: str, settings: list[str] | None = None) -> int:
    """Exit code of the command; ``settings`` become --set."""
    with pytest.raises(SystemExit) as caught:
        main([*words, *(part for text in settings or [] for part in ("--set", text))])
    return int(caught.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], code: int, line: str, *words: str,
            settings: list[str] | None = None) -> str:
    """The command ends with ``code`` and one line of complaint that holds ``line``; no folder looks finished."""
    capsys.readouterr()
    assert maquette(*words, "--device", "cpu", settings=settings) == code
    told = capsys.readouterr().err
    last = [text for text in told.splitlines() if text.startswith("maquette: ")]
    assert len(last) == 1 and line in last[0], told
    assert "Traceback" not in told and last[0] == told.splitlines()[-1]
    assert not Path("out/report.json").exists() and not Path("out/asset.glb").exists()
    return last[0]


@pytest.mark.parametrize(("words", "line"), [
    (["make", "mug", "--out", "x", "--sede", "3"], "No such option: --sede"),
    (["make", "mug"], "Missing option '--out'"),
    (["mkae", "mug"], "No such command 'mkae'"),
    (["make", "mug", "--out", "x", "--seed", "one"], "Invalid value for '--seed'"),
    (["toybox"], "Missing command"),
])
def test_mistakes_in_the_words_are_one_line_too(capsys: pytest.CaptureFixture[str], words: list[str], line: str
                                                ) -> None:
    assert maquette(*words) == 2
    told = capsys.readouterr().err
    assert line in told and "--help" in told and len(told.strip().splitlines()) == 1


def test_help_version_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert maquette("--help") == 0 and "doctor" in capsys.readouterr().out
    assert maquette("--version") == 0 and capsys.readouterr().out.startswith("maquette ")
    assert maquette() == 2 and "doctor" in capsys.readouterr().out


@pytest.mark.parametrize(("settings", "line"), [
    (["texture.padding=1"], "unknown label 'texture' in --set or [stages.*]. Did you mean texture_mesh?"),
    (["fit_field.stepz=1"], "unknown parameter fit_field.stepz. Did you mean steps?"),
    (["fit_field.steps=0"], "fit_field.steps: Input should be greater than or equal to 1 (got 0)"),
    (["fit_field.rate=nan"], "fit_field.rate"),
])
def test_unknown_labels_parameters_and_values(capsys: pytest.CaptureFixture[str], settings: list[str], line: str
                                              ) -> None:
    refused(capsys, 2, line, "make", "a red mug", "--out", "out", settings=settings)
    assert not Path("out").exists()


def test_an_unknown_model_set_and_until(capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, 2, "no model set 'sd51'. Did you mean 'sd15'? Known: builtin", "make", "mug", "--models", "sd51",
            "--out", "out")
    refused(capsys, 2, "stable-diffusion-v1-5 are not here. Run: maquette models pull sd15", "make", "mug",
            "--models", "sd15", "--out", "out")
    refused(capsys, 2, "unknown label 'meshes' in --until", "make", "mug", "--until", "meshes", "--out", "out")


def picture_files(folder: Path) -> dict[str, str]:
    """Bad picture files -> what is said of each."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 4), dtype=np.uint8)
    frames = [Image.fromarray(np.full((32, 32, 3), v, np.uint8)) for v in (0, 99)]
    (folder / "text.png").write_text("hello")
    (folder / "huge.png").write_bytes(header_only_png(100_000, 100_000))
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(noise).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:3000])
    noise[..., 3] = 0
    Image.fromarray(noise).save(folder / "clear.png")
    return {"text.png": "no picture that can be read", "huge.png": "pixels", "moving.gif": "animated (2 frames)",
            "cut.png": "damaged or truncated", "clear.png": "fully transparent", "none.png": "there is no picture"}


def test_bad_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, line in picture_files(tmp_path).items():
        told = refused(capsys, 2, line, "make", "--image", name, "--until", "cut_out", "--out", "out")
        assert name in told


def test_deep_and_cmyk_pictures_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 bits a channel and CMYK are no mistakes: they are converted."""
    ball = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.6
    Image.fromarray(np.where(ball, 20_000, 65_535).astype(np.uint16)).save("deep.png")
    grey = np.where(ball, 90, 0).astype(np.uint8)
    Image.merge("CMYK", [Image.fromarray(grey)] * 4).save("cmyk.jpg")
    for name in ("deep.png", "cmyk.jpg"):
        assert maquette("make", "--image", name, "--until", "cut_out", "--out", name[:4], "--device", "cpu") == 0
        assert (tmp_path / name[:4] / "cut_out.png").exists()


def test_unknown_words_are_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert maquette("make", "a red mugg", "--until", "text_to_image", "--out", "out", "--device", "cpu",
                    settings=DRAWN_QUICKLY) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "text_to_image: the models never saw 'mugg' (nearest known: mug" in told


def copied_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSet:
    shutil.copytree(tiny_set().folder, folder)
    monkeypatch.setattr(engine.models.sets, "BUILTIN_FOLDER", folder)
    return ModelSet("builtin", folder)


def test_a_picture_far_from_the_toybox_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    models = copied_set(tmp_path / "weights", monkeypatch)
    width = models.load("image_text").clip.config.vision_config.hidden_size
    write_known(models.folder, models.cards("image_text")["clip"].sha256,
                Known(("mug",), np.zeros(width), np.eye(width), 1e-3))
    image = np.full((64, 64, 3), 255, np.uint8)
    image[16:48, 20:50] = (200, 30, 30)
    Image.fromarray(image).save("red.png")
    assert maquette("make", "--image", "red.png", "--until", "cut_out", "--out", "out", "--device", "cpu") == 0
    assert "far from what the built-in models know" in " ".join(capsys.readouterr().err.split())


def test_missing_and_corrupted_weights_name_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied_set(tmp_path / "weights", monkeypatch).folder
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    wanted = json.loads((folder / "vae" / "card.json").read_text())["sha256"]
    content[-1] ^= 1
    path.write_bytes(content)
    told = refused(capsys, 2, f"sha256 expected {wanted}, found ", "make", "mug", "--out", "out")
    assert str(folder / "vae") in told
    path.unlink()
    refused(capsys, 2, "weights are missing", "make", "mug", "--out", "out")
    shutil.rmtree(folder / "vae")
    refused(capsys, 2, f"no folder {folder / 'vae'}", "make", "mug", "--out", "out")
    assert maquette("doctor") == 1 and "vae" in capsys.readouterr().out


def test_unwritable_folders(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("a file")
    refused(capsys, 2, "cannot write the asset in taken/out", "make", "mug", "--out", "taken/out")
    refused(capsys, 2, "cannot write the store in taken", "make", "mug", "--out", "out", "--store", "taken")
    refused_sheet = maquette("toybox", "sheet", "--out", "taken/x.png")
    assert refused_sheet == 2 and "taken" in capsys.readouterr().err


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def rust_full(*arguments: Any, **options: Any) -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("place", ["store", "library", "out"])
def test_a_full_disk(place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("make", "a red mug", "--until", "text_to_image", "--out", "out")
    from engine.artifacts import Candidates
    with monkeypatch.context() as patch:
        if place == "store":
            patch.setattr("engine.runs.files.sync_file", full)
            assert "--store" in refused(capsys, 1, "the disk is full", *words, settings=DRAWN_QUICKLY)
        elif place == "library":  # what is written in other languages says so in words only
            patch.setattr(Candidates, "save", rust_full)
            assert "--store" in refused(capsys, 1, "the disk is full", *words, settings=DRAWN_QUICKLY)
        else:
            patch.setattr("engine.runs.files.copy_file", full)
            patch.setattr("engine.export.folder.stamped_copy", full)  # pictures are written with their papers inside
            assert "--out" in refused(capsys, 1, "the disk is full", *words, settings=DRAWN_QUICKLY)
    assert maquette(*words, "--device", "cpu", settings=DRAWN_QUICKLY) == 0  # and nothing half-written is in the way
    assert Path("out/candidates/00.png").exists()


def test_no_ffmpeg_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
                                                ) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "no-such-ffmpeg")
    refused(capsys, 2, "ffmpeg was not found", "make", "mug", "--out", "out")
    assert not Path("out").exists()
    assert maquette("doctor") == 1 and "no-such-ffmpeg" in capsys.readouterr().out


def scene(folder: Path) -> Path:
    """Six small pictures around an object, with transforms.json."""
    from engine.artifacts import save_png
    folder.mkdir()
    views = scenes.views(6, 0, size=32, samples=1)
    frames = []
    for i in range(len(views)):
        save_png(folder / f"{i}.png", views.images[i])
        frames.append({"file_path": f"{i}", "transform_matrix": views.cameras.camera_to_world[i].tolist()})
    (folder / "transforms.json").write_text(json.dumps({"fl_x": float(views.cameras.fx[0]), "frames": frames}))
    return folder


@pytest.mark.parametrize(("change", "line"), [
    (lambda d: d.pop("frames"), "has no frames"),
    (lambda d: d["frames"][2].update(file_path="lost"), "lost does not exist"),
    (lambda d: d["frames"][1].update(transform_matrix=np.diag([2.0, 1, 1, 1]).tolist()), "is not rigid"),
    (lambda d: d["frames"][1].update(transform_matrix=np.full((4, 4), np.nan).tolist()), "holds NaN"),
    (lambda d: d.update(k1="much"), "k1"),
    (lambda d: d.update(w=-32, h=-32), "says -32 x -32"),
])
def test_bad_captures(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, line: str) -> None:
    folder = scene(tmp_path / "scene")
    data = json.loads((folder / "transforms.json").read_text())
    change(data)
    (folder / "transforms.json").write_text(json.dumps(data))
    refused(capsys, 2, line, "fit", "scene", "--out", "out")
    refused(capsys, 2, "there is no folder nowhere", "fit", "nowhere", "--out", "out")


def test_a_defect_is_one_line_and_debug_shows_where(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    scene(tmp_path / "scene")

    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("division by zero\nand more")

    monkeypatch.setattr("engine.stages.fit_field.fit", broken)
    refused(capsys, 1, "fit_field failed: ZeroDivisionError: division by zero and more", "fit", "scene", "--out", "out",
            settings=QUICK)
    from engine.errors import RunFailed
    with pytest.raises(RunFailed):
        main(["fit", "scene", "--out", "out", "--device", "cpu", "--debug"])


@pytest.mark.skipif(sys.platform == "win32", reason="not on Windows: no SIGINT to one process")
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                                           ) -> None:
    """A real process, a real signal: in the middle of the fit; finished stages are there afterwards."""
    import os
    import signal
    scene(tmp_path / "scene")
    words = [sys.executable, "-m", "engine.cli", "fit", "scene", "--out", "out", "--store", "store", "--device", "cpu",
             *(part for text in [*QUICK, "fit_field.steps=400"] for part in ("--set", text))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for text in process.stderr:
            if text.startswith("fit_field ..."):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130 and "stopped in fit_field" in rest.replace("\n", " "), rest
    assert "Traceback" not in rest and not (tmp_path / "out" / "report.json").exists()
    words = ["fit", "scene", "--out", "out", "--store", "store", "--until", "load_views", "--device", "cpu"]
    assert maquette(*words) == 0 and "load_views kept from before" in capsys.readouterr().err
