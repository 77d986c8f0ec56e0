from __future__ import annotations

import numpy as np
import pytest
from mesh_helpers import Notes, ball
from PIL import Image

from engine.artifacts import Mesh, TexturedMesh
from engine.clips.encode import read_frames, write_gif, write_mp4
from engine.errors import BadInput
from engine.meshes.render import render, set_stage, turntable_cameras
from engine.stages.render_turntable import RenderTurntable, render_turntable
from engine.stages.texture_mesh import TextureMesh, texture_of

SIDES = {0: (1, 0, 0), 90: (0, 1, 0), 180: (0, 0, 1), 270: (1, 1, 0)}


@pytest.fixture(scope="module")
def mesh() -> TexturedMesh:
    def color(p):
        side = np.round(np.degrees(np.arctan2(p[:, 0], p[:, 2])) / 90).astype(int) % 4
        return np.array(list(SIDES.values()), dtype=np.float32)[side]
    return texture_of(Mesh(*ball(16)), color, None, TextureMesh(texture_size=128), Notes())


def test_every_side_shows_its_colour(mesh):
    stage = set_stage(mesh)
    for azimuth, color in SIDES.items():
        picture = render(stage, turntable_cameras(stage, np.array([azimuth]), 10.0, 64)).astype(float) / 255
        middle = picture[26:38, 26:38].mean((0, 1))
        assert (middle[np.array(color) == 1] > 0.6).all() and (middle[np.array(color) == 0] < 0.2).all()
        assert picture[0].min() > 0.9, "light background"
    ground = picture[:, 32].mean(-1)
    assert ground[-6:].min() < ground[-1] or ground[-8:].min() < 0.9, "a shadow lies under the object"


def test_the_object_fits_and_edges_are_smooth(mesh):
    stage = set_stage(mesh)
    picture = render(stage, turntable_cameras(stage, np.array([0.0]), 20.0, 96)).astype(int)
    solid = (picture.max(-1) - picture.min(-1)) > 20
    assert not (solid[0].any() or solid[-1].any() or solid[:, 0].any() or solid[:, -1].any())
    assert 0.75 < solid.any(0).mean() < 1.0


def test_turntable_files_have_exactly_the_frames_asked_for(mesh):
    files = render_turntable(mesh, RenderTurntable(frames=7, size=64, gif_size=32, sheet_size=32, fps=10), Notes())
    frames = read_frames(files.folder / "turntable.mp4")
    assert len(frames) == 7 and frames[0].shape == (64, 64, 3)
    assert (files.folder / "turntable.mp4").read_bytes().find(b"moov") < 200, "plays while it loads"
    with Image.open(files.folder / "turntable.gif") as gif:
        assert gif.n_frames == 7 and gif.size == (32, 32) and gif.info["duration"] == 100 and gif.info["loop"] == 0
    with Image.open(files.folder / "sheet.png") as sheet:
        assert sheet.size == (128, 64)
    assert files.roles == {"turntable.mp4": "clip", "turntable.gif": "preview", "sheet.png": "sheet"}


def test_colours_survive_encoding(tmp_path):
    colors = np.array([[200, 40, 30], [30, 160, 60], [40, 60, 200], [240, 240, 240]], dtype=np.uint8)
    frames = [np.broadcast_to(c, (32, 32, 3)) for c in colors]
    assert write_mp4(tmp_path / "a.mp4", frames, 12) == 4
    for frame, color in zip(read_frames(tmp_path / "a.mp4"), colors, strict=True):
        assert np.abs(frame.mean((0, 1)) - color).max() < 8
    write_gif(tmp_path / "a.gif", frames, 12)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 4


def test_without_ffmpeg_there_is_one_clear_line(mesh, monkeypatch, tmp_path):
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", missing)
    with pytest.raises(BadInput, match="ffmpeg was not found"):
        render_turntable(mesh, RenderTurntable(), Notes())
    with pytest.raises(BadInput, match="IMAGEIO_FFMPEG_EXE"):
        write_mp4(tmp_path / "a.mp4", [], 10)
