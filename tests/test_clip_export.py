"""Clips as files: every format is decoded again; counts, times, alpha, colours and papers are those that went in."""

from __future__ import annotations

import json
import tracemalloc
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
import pytest
from mesh_helpers import Notes
from PIL import Image
from pydantic import ValidationError

from engine.clip_artifacts import Clip
from engine.clips import formats, timing, video
from engine.clips.formats import FORMATS, Clock, Look
from engine.clips.sheet import Layout, write_sheet
from engine.errors import BadInput, RunFailed
from engine.stages.export_clip import ExportClip, export_clip

PAPERS = {"title": "a knight", "comment": "made by Maquette", "seed": "7", "recipe": "0f" * 32,
          "prompt": 'a "knight"; in = red\nä'}
HEIGHT, WIDTH, COUNT = 34, 46, 9
VIDEOS = [name for name, about in FORMATS.items() if about.encoder]


def ball(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A soft ball that rolls to the right and stops for the last three frames, so that some frames are equal."""
    y, x = np.mgrid[:height, :width]
    frames = np.zeros((count, height, width, 4), np.uint8)
    for i in range(count):
        middle = 14 + 2 * min(i, count - 3)
        frames[i, ..., :3] = (210, 60, 40)
        frames[i, y < 17, 2] = 200
        frames[i, ..., 3] = np.round(255 * np.clip(11 - np.hypot(x - middle, y - 17), 0, 1))
    return frames


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, frames = tmp_path_factory.mktemp("clip"), ball()
    clock, look = Clock(COUNT, timing.rate(24000 / 1001), True), Look((255, 255, 255), PAPERS)
    for name in FORMATS:
        if name != "sheet":
            assert formats.write(name, folder, lambda: frames, clock, look) == ([] if name != "gif" else [
                "clip.gif counts time in hundredths of a second: its frames stand 4 or 5 of them, 0.38 s in all "
                "(0.375375 s by the frame rate)"])
    return folder


# -- time --------------------------------------------------------------------------------------------------------------

def test_rates_are_the_fractions_they_stand_for():
    assert timing.rate(12) == 12 and timing.rate(12.5) == Fraction(25, 2)
    assert timing.rate(24000 / 1001) == Fraction(24000, 1001) and timing.rate(29.97002997) == Fraction(30000, 1001)
    assert timing.rate(23.976) == Fraction(2997, 125) and timing.rate(0.1) == Fraction(1, 10)
    for fps in (0.0, -3.0, float("nan"), float("inf"), 241.0):
        with pytest.raises(BadInput, match="frames a second"):
            timing.rate(fps)


def test_a_schedule_is_never_half_a_tick_off_and_its_total_is_exact():
    assert timing.schedule(6, Fraction(12), 100) == [8, 9, 8, 8, 9, 8]
    for fps in (Fraction(12), Fraction(24000, 1001), Fraction(15), Fraction(7, 3), Fraction(60), Fraction(100)):
        stands = timing.schedule(241, fps, 100)
        starts = [0, *accumulate(stands)]
        assert all(abs(Fraction(at, 100) - i / fps) <= Fraction(1, 200) for i, at in enumerate(starts))
        assert min(stands) >= 1 and max(stands) - min(stands) <= 1
    with pytest.raises(BadInput, match="cannot hold 101 frames"):
        timing.schedule(300, Fraction(101), 100)


# -- videos ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", VIDEOS)
def test_videos_have_every_frame_once_at_its_time(written, name):
    path = written / FORMATS[name].file
    frames = list(video.decoded(path, (HEIGHT, WIDTH), FORMATS[name].codec))
    assert len(frames) == COUNT
    times = video.times(path)
    tick = Fraction(1, 2000) if path.suffix == ".webm" else Fraction(0)  # Matroska counts in milliseconds
    assert len(times) == COUNT and all(abs(at - i * Fraction(1001, 24000)) <= tick for i, at in enumerate(times))


@pytest.mark.parametrize("name", ["vp8", "vp9", "prores"])
def test_alpha_comes_back_from_videos(written, name):
    truth = ball().astype(int)
    frames = np.stack(list(video.decoded(written / FORMATS[name].file, (HEIGHT, WIDTH), FORMATS[name].codec)))
    assert np.abs(frames[..., 3].astype(int) - truth[..., 3]).max() <= 8
    covered = truth[..., 3] == 255
    # where colour changes at once, only ProRes (4:4:4) is sharp: in VP8 and VP9 four pixels share one colour
    assert np.abs(frames[..., :3].astype(int) - truth[..., :3])[covered].mean() < (2 if name == "prores" else 8)


@pytest.mark.parametrize("name", ["mp4", "ogv"])
def test_videos_without_alpha_show_the_background(tmp_path, name):
    frames, clock = ball(), Clock(COUNT, Fraction(12), True)
    formats.write(name, tmp_path, lambda: frames, clock, Look((0, 90, 200), {}))
    shown = np.stack(list(video.decoded(tmp_path / FORMATS[name].file, (HEIGHT, WIDTH)))).astype(int)
    truth = np.stack([formats.over(frame, (0, 90, 200)) for frame in frames]).astype(int)
    away = np.abs(shown[..., :3] - truth)
    assert away.mean() < 6 and away[:, :4, :].mean() < 2 and (shown[..., 3] == 255).all()


def test_compositing_is_the_plain_formula():
    frame = np.array([[[200, 100, 0, 128], [9, 9, 9, 0], [7, 8, 9, 255]]], np.uint8)
    assert formats.over(frame, (255, 255, 255)).tolist() == [[[227, 177, 127], [255, 255, 255], [7, 8, 9]]]


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_carry_their_papers(written, name):
    found = video.tags(written / FORMATS[name].file)
    assert {key: found.get(key) for key in PAPERS} == PAPERS


def test_odd_sides_are_padded_where_they_must_be_and_it_is_said(tmp_path):
    frames, clock = ball(4, 33, 45), Clock(4, Fraction(10), False)
    said = formats.write("mp4", tmp_path, lambda: frames, clock, Look())
    assert said == ["clip.mp4: 45 x 33 pixels were padded to 46 x 34 on the right and below; H.264 in MP4 holds even "
                    "sides only"]
    assert len(list(video.decoded(tmp_path / "clip.mp4", (34, 46)))) == 4
    for name in ("vp8", "vp9", "prores", "ogv"):
        assert formats.write(name, tmp_path, lambda: frames, clock, Look()) == []
        assert len(list(video.decoded(tmp_path / FORMATS[name].file, (33, 45), FORMATS[name].codec))) == 4


@pytest.mark.parametrize("name", ["mp4", "vp9"])
def test_equal_clips_give_equal_bytes(written, tmp_path, name):
    frames, clock = ball(), Clock(COUNT, timing.rate(24000 / 1001), True)
    formats.write(name, tmp_path, lambda: frames, clock, Look((255, 255, 255), PAPERS))
    assert (tmp_path / FORMATS[name].file).read_bytes() == (written / FORMATS[name].file).read_bytes()


@pytest.mark.parametrize("name", ["mp4", "gif", "apng", "webp"])
def test_memory_does_not_grow_with_the_clip(tmp_path, name):
    frame = ball()[0]

    def peak(count: int) -> int:
        tracemalloc.start()
        formats.write(name, tmp_path, lambda: (frame.copy() for _ in range(count)), Clock(count, Fraction(12), True),
                      Look())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few = peak(32)
    assert peak(256) - few < 40_000, "of 224 further frames of 6,256 bytes"


# -- without ffmpeg ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, stands", [("gif", 100), ("apng", 0), ("webp", 1000)])
def test_animations_hold_equal_frames_apart_and_their_times(written, name, stands):
    truth = ball().astype(int)
    with Image.open(written / FORMATS[name].file) as file:
        assert file.n_frames == COUNT and file.size == (WIDTH, HEIGHT)
        assert file.info["loop"] == 0, "for ever"
        told = []
        for i in range(COUNT):
            file.seek(i)
            file.load()
            told.append(file.info["duration"])
            shown = np.asarray(file.convert("RGBA")).astype(int)
            alpha = truth[i, ..., 3] if name != "gif" else 255 * (truth[i, ..., 3] >= 128)
            assert np.array_equal(shown[..., 3], alpha)
            off = np.abs(shown - truth[i])[..., :3][alpha > 0]
            assert off.max() <= (2 if name == "gif" else 0)
    fps = Fraction(24000, 1001)
    whole = [Fraction(1000, stands) * n for n in timing.schedule(COUNT, fps, stands)] if stands else []
    wanted = whole or [1000 / fps] * COUNT
    assert all(abs(one - float(other)) < 1e-9 for one, other in zip(told, wanted, strict=True))


def test_animations_carry_their_papers(written):
    with Image.open(written / "clip.apng") as file:
        assert {name: file.info[name] for name in PAPERS} == PAPERS
    with Image.open(written / "clip.gif") as file:
        assert f"seed: 7\nrecipe: {'0f' * 32}" in file.info["comment"].decode()
    with Image.open(written / "clip.webp") as file:
        xmp = file.info["xmp"].decode()
    assert "<maquette:seed>7</maquette:seed>" in xmp and '<maquette:prompt>a "knight"; in = red\nä<' in xmp


def test_what_does_not_loop_plays_once(tmp_path):
    frames = ball()
    for name in ("gif", "apng", "webp"):
        formats.write(name, tmp_path, lambda: frames, Clock(COUNT, Fraction(10), False), Look())
    with Image.open(tmp_path / "clip.gif") as file:
        assert "loop" not in file.info
    for name in ("apng", "webp"):
        with Image.open(tmp_path / FORMATS[name].file) as file:
            assert file.info["loop"] == 1


# -- sheets ------------------------------------------------------------------------------------------------------------

def rebuilt(folder, told, i):
    """Frame i of a sheet, put back where it was."""
    with Image.open(folder / "sheet.png") as file:
        sheet = np.asarray(file)
    one = told["frames"][i]
    f, s, size = one["frame"], one["spriteSourceSize"], one["sourceSize"]
    assert (f["w"], f["h"]) == (s["w"], s["h"])
    out = np.zeros((size["h"], size["w"], 4), np.uint8)
    out[s["y"]:s["y"] + s["h"], s["x"]:s["x"] + s["w"]] = sheet[f["y"]:f["y"] + f["h"], f["x"]:f["x"] + f["w"]]
    return out


@pytest.mark.parametrize("layout", [Layout(), Layout("packed"), Layout("packed", 0, True), Layout("grid", 3, True)])
def test_sheets_hold_every_frame_and_say_where(tmp_path, layout):
    frames = ball()
    frames[4, ..., 3] = 0  # nothing is seen in one of them
    clock = Clock(COUNT, Fraction(12), True)
    told = write_sheet(tmp_path, lambda: frames, clock, layout, "roll", PAPERS)
    assert told == json.loads((tmp_path / "sheet.json").read_text(encoding="utf-8"))
    meta = told["meta"]
    with Image.open(tmp_path / "sheet.png") as file:
        assert file.size == (meta["size"]["w"], meta["size"]["h"]) and file.mode == "RGBA"
        assert {name: file.info[name] for name in PAPERS} == PAPERS
    if layout.power_of_two:
        assert all(side & (side - 1) == 0 for side in meta["size"].values())
    for i in range(COUNT):
        seen = frames[i, ..., 3:] >= 8
        assert np.array_equal(np.where(seen, rebuilt(tmp_path, told, i), 0), np.where(seen, frames[i], 0))
    places = [tuple(one["frame"].values()) for one in told["frames"]]
    gap = layout.padding
    for (x, y, w, h), (u, v, s, t) in ((a, b) for i, a in enumerate(places) for b in places[i + 1:]):
        assert x + w + gap <= u or u + s + gap <= x or y + h + gap <= v or v + t + gap <= y, "nothing overlaps"
    assert meta["fps"] == 12 and meta["loop"] is True and meta["count"] == COUNT and meta["premultiplied"] is False
    assert {name: meta[name] for name in PAPERS} == PAPERS
    assert [one["filename"] for one in told["frames"]][:2] == ["roll_00000", "roll_00001"]
    assert sum(one["duration"] for one in told["frames"]) == 750
    # the ball's lowest pixel of alpha 8 or more is at row 27; over all frames its middle column's median is 22.5
    assert meta["pivot"]["y"] == round(28 / HEIGHT, 5) and abs(meta["pivot"]["x"] * WIDTH - 24.5) < 2.1
    if layout.kind == "grid":
        assert {(w, h) for _, _, w, h in places} == {(meta["cell"]["w"], meta["cell"]["h"])}
        assert meta["columns"] * meta["rows"] >= COUNT > meta["columns"] * (meta["rows"] - 1)
    else:
        assert told["frames"][4]["frame"]["w"] == 1, "a frame in which nothing is seen takes a pixel"


def test_a_grid_is_nearly_square_and_wastes_no_row(tmp_path):
    frames = np.full((16, 100, 66, 4), 255, np.uint8)
    meta = write_sheet(tmp_path, lambda: frames, Clock(16, Fraction(12), True), Layout(), "x", {})["meta"]
    assert (meta["columns"], meta["rows"]) == (4, 4) and meta["size"] == {"w": 4 * 68 + 2, "h": 4 * 102 + 2}


def test_a_sheet_that_no_card_takes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.clips.sheet.LARGEST", 64)
    with pytest.raises(BadInput, match=r"a sheet of 9 frames would have \d+ x \d+ pixels; 64 a side is the most"):
        write_sheet(tmp_path, ball, Clock(COUNT, Fraction(1), True), Layout(), "x", {})
    assert list(tmp_path.iterdir()) == []


# -- what cannot be ----------------------------------------------------------------------------------------------------

def test_formats_by_name():
    assert formats.named(["gif", "webm", "mp4", "png", "GIF"]) == ("mp4", "vp9", "gif")
    assert formats.named(["all"]) == tuple(FORMATS) and formats.named(["png"]) == ()
    with pytest.raises(BadInput, match="there is no clip format 'mp5'. Did you mean mp4"):
        formats.named(["mp5"])


def test_a_missing_encoder_is_named_and_the_others_stay(monkeypatch):
    monkeypatch.setattr(video, "encoders", lambda: frozenset({"libx264", "libvpx"}))
    writable, lacking = formats.sorted_out(tuple(FORMATS))
    assert writable == ("mp4", "vp8", "gif", "apng", "webp", "sheet")
    assert list(lacking) == ["vp9", "prores", "ogv"]
    assert "clip.ogv (Theora in Ogg) cannot be written: this ffmpeg has no encoder libtheora. " in lacking["ogv"]
    assert "IMAGEIO_FFMPEG_EXE" in lacking["ogv"]


def test_without_ffmpeg_all_that_needs_none_is_written(monkeypatch):
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", missing)
    writable, lacking = formats.sorted_out(tuple(FORMATS))
    assert writable == ("gif", "apng", "webp", "sheet")
    assert all("ffmpeg was not found" in said for said in lacking.values())


def test_this_ffmpeg_has_every_encoder():
    assert formats.sorted_out(tuple(FORMATS)) == (tuple(FORMATS), {})


def test_a_stopped_ffmpeg_is_one_line_and_leaves_nothing(tmp_path):
    frames = ball()
    with pytest.raises(RunFailed, match="ffmpeg could not write a.mp4: .*not divisible by 2"):
        video.write_video(tmp_path / "a.mp4", (frame[:33] for frame in frames), Fraction(12),
                          ("-c:v", "libx264", "-pix_fmt", "yuv420p"))

    def breaks():
        yield frames[0]
        raise KeyError("the frames' maker failed")
    with pytest.raises(KeyError):
        video.write_video(tmp_path / "b.webm", breaks(), Fraction(12), ("-c:v", "libvpx"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c.mp4").write_bytes(b"no video at all")
    with pytest.raises(RunFailed, match="ffmpeg cannot read c.mp4"):
        list(video.decoded(tmp_path / "c.mp4", (8, 8)))


def test_colours_by_name():
    assert formats.colour("white") == (255, 255, 255) and formats.colour("#0f8") == (0, 255, 136)
    with pytest.raises(BadInput, match="'whit' is no colour"):
        formats.colour("whit")


def test_a_pivot_stays_where_the_figure_stands(tmp_path):
    """The middle is a median: one frame with an arm far out does not move it."""
    frames = np.zeros((5, 20, 40, 4), np.uint8)
    frames[:, 5:15, 10:14] = 255
    frames[2, 5:6, 10:40] = 255
    told = write_sheet(tmp_path, lambda: frames, Clock(5, Fraction(10), False), Layout(), "x", {})
    assert told["meta"]["pivot"] == {"x": 0.3, "y": 0.75}
    assert all(after["frame"]["x"] != before["frame"]["x"] or after["frame"]["y"] != before["frame"]["y"]
               for before, after in pairwise(told["frames"]))


# -- the stage ---------------------------------------------------------------------------------------------------------

def clip(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH, fps: float = 12.0) -> Clip:
    return Clip(ball(count, height, width).astype(np.float32) / 255, fps, True, {"alpha": "told"})


def test_a_clip_becomes_its_master_and_all_its_encodings():
    job = Notes()
    files = export_clip(clip(), ExportClip(name="roll", papers=PAPERS), job)
    inside = {path.relative_to(files.folder).as_posix() for path in files.folder.rglob("*") if path.is_file()}
    frames = {f"frames/{i:05d}.png" for i in range(COUNT)}
    assert inside == set(files.roles) == frames | {about.file for about in FORMATS.values()} | {"sheet.json"}
    truth = ball()
    for i in range(COUNT):
        with Image.open(files.folder / f"frames/{i:05d}.png") as file:
            assert np.array_equal(np.asarray(file), truth[i]) and {n: file.info[n] for n in PAPERS} == PAPERS
    assert {files.roles[name] for name in frames} == {"frame"} and files.roles["clip.mp4"] == "clip"
    assert files.meta == {"frames": COUNT, "fps": 12.0, "loop": True, "alpha": "told", "not_written": {}}
    assert job.metrics["seconds"] == 0.75 and job.metrics["not_written"] == 0
    assert job.warnings == ["clip.gif counts time in hundredths of a second: its frames stand 8 or 9 of them, 0.75 s "
                            "in all (0.75 s by the frame rate)"]


def test_what_cannot_be_written_is_named_and_the_rest_is_there(monkeypatch):
    monkeypatch.setattr(video, "encoders", lambda: frozenset({"libx264"}))
    job = Notes()
    files = export_clip(clip(3, fps=120.0), ExportClip(formats=("mp4", "prores", "gif", "apng")), job)
    assert set(files.roles) == {"frames/00000.png", "frames/00001.png", "frames/00002.png", "clip.mp4", "clip.apng"}
    assert list(files.meta["not_written"]) == ["prores", "gif"] and job.warnings == list(
        files.meta["not_written"].values())
    assert "no encoder prores_ks" in job.warnings[0] and "cannot hold 120 frames a second" in job.warnings[1]
    assert not (files.folder / "clip.gif").exists()


def test_one_frame_is_a_clip():
    files = export_clip(clip(1), ExportClip(), Notes())
    assert files.meta["not_written"] == {} and len(list(video.decoded(files.folder / "clip.mp4", (34, 46)))) == 1


def test_wrong_wishes_are_refused_before_anything_runs():
    for told, said in (({"formats": ("mp5",)}, "no clip format 'mp5'"), ({"background": "whit"}, "no colour"),
                       ({"padding": -1}, "padding")):
        with pytest.raises((BadInput, ValidationError), match=said):
            ExportClip(**told)
