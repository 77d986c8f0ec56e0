"""Papers inside PNG, MP4 and GLB: other programs read them, and nothing else of the files changes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.clips import video
from engine.clips.encode import read_frames, write_mp4
from engine.export.glb import glb_bytes, unpack
from engine.export.papers import glb_with_extras, mp4_with_tags, png_text, png_with_text, stamped_copy, with_papers
from engine.recipes.recipe import make_recipe, recipe_digest
from engine.runs.run import Run
from engine.runs.store import Store
from tests.test_asset_folder import make_asset

PAPERS: dict[str, Any] = {"title": "a <script> mug", "recipe": "ab" * 32, "seed": 7, "prompt": 'grüner "Krug" № 1\n🐟',
                          "licences": [{"role": "x", "licence": "Apache-2.0"}]}
TEXTS = {name: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for name, value in PAPERS.items()}


def png(mode: str = "RGB") -> bytes:
    memory = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (9, 7, len(mode)), dtype=np.uint8)).save(memory, "png")
    return memory.getvalue()


def glb() -> bytes:
    corners = np.eye(3, dtype=np.float32)
    return glb_bytes(corners, np.array([[0, 1, 2]]), corners, corners[:, :2], np.zeros((2, 2, 3)), 0, 1, "x",
                     {"own": 1})


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_png(mode: str) -> None:
    before = png(mode)
    after = png_with_text(before, PAPERS)
    with Image.open(io.BytesIO(after)) as checked:
        checked.verify()
    with Image.open(io.BytesIO(before)) as a, Image.open(io.BytesIO(after)) as b:
        assert np.array_equal(np.asarray(a), np.asarray(b)) and a.mode == b.mode
        assert b.text == TEXTS  # type: ignore[attr-defined]
    assert png_text(after) == TEXTS
    assert png_with_text(after, PAPERS) == after  # replaced, not added
    assert png_text(png_with_text(after, {"seed": 8})) == {**TEXTS, "seed": "8"}


def test_mp4(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [np.full((64, 48, 3), i * 9, np.uint8) for i in rng.integers(0, 28, 7)]
    plain = tmp_path / "turntable.mp4"
    write_mp4(plain, frames, 15)
    after = mp4_with_tags(plain.read_bytes(), PAPERS)
    told = tmp_path / "told.mp4"
    told.write_bytes(after)
    tags = video.tags(told)
    assert {name: tags[name] for name in TEXTS} == TEXTS
    assert all(np.array_equal(a, b) for a, b in zip(read_frames(plain), read_frames(told), strict=True))
    assert video.times(plain) == video.times(told) and len(video.times(told)) == 7
    assert mp4_with_tags(after, PAPERS) == after


def test_mp4_with_its_samples_before_and_behind(tmp_path: Path) -> None:
    """Without faststart the samples come first and must stay where they are."""
    from fractions import Fraction
    frames = [np.full((32, 32, 3), i * 20, np.uint8) for i in range(5)]
    path, told = tmp_path / "a.mp4", tmp_path / "b.mp4"
    video.write_video(path, frames, Fraction(10), ["-c:v", "libx264", "-pix_fmt", "yuv420p"])
    assert path.read_bytes().index(b"mdat") < path.read_bytes().index(b"moov")
    told.write_bytes(mp4_with_tags(path.read_bytes(), PAPERS))
    assert all(np.array_equal(a, b) for a, b in zip(read_frames(path), read_frames(told), strict=True))
    assert video.tags(told)["recipe"] == PAPERS["recipe"]


def test_glb() -> None:
    before, after = unpack(glb()), unpack(glb_with_extras(glb(), PAPERS))
    assert after[1] == before[1]
    assert after[0]["asset"].pop("extras") == {"own": 1, **PAPERS} and before[0]["asset"].pop("extras") == {"own": 1}
    assert after[0] == before[0]


@pytest.mark.parametrize("suffix", [".png", ".mp4", ".glb", ".gif", ".PNG"])
@pytest.mark.parametrize("data", [b"", b"picture", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40,
                                  b"glTF" + b"\xff" * 30, b"\0\0\0\x08ftyp", b"\0\0\0\x08ftyp\0\0\0\x09moov\0",
                                  b"\0\0\0\0ftyp"])
def test_what_is_no_such_file_stays_as_it_is(suffix: str, data: bytes) -> None:
    assert with_papers(data, suffix, PAPERS) == data


def test_cut_files_never_raise() -> None:
    for data, suffix in ((png(), ".png"), (glb(), ".glb")):
        for size in range(0, len(data), 7):
            assert with_papers(data[:size], suffix, PAPERS) == data[:size]


def test_other_kinds_are_copied_by_others(tmp_path: Path) -> None:
    assert stamped_copy(tmp_path / "clip.gif", PAPERS) is None


def test_a_folder_says_its_recipe_and_seed_in_its_files(tmp_path: Path) -> None:
    recipe = make_recipe(pipeline="text_to_mesh", prompt="a red <b>mug</b>", seed=5)
    asset = make_asset(tmp_path, recipe)
    out = asset.save(tmp_path / "out", {"batch": "forest", "batch_recipe": "cd" * 32})
    told = png_text((out / "candidates" / "01.png").read_bytes())
    assert told["recipe"] == recipe_digest(recipe) and told["seed"] == "5" and told["prompt"] == "a red <b>mug</b>"
    assert told["batch"] == "forest" and "Apache-2.0" in told["licences"]
    kept = asset.run.outcomes["paint"].accepted.entry.folder
    assert not any(png_text(path.read_bytes()) for path in kept.rglob("*.png")), "the store must not know of papers"
    with Image.open(out / "candidates" / "01.png") as shown, Image.open(kept / "files/01/picture.png") as first:
        assert np.array_equal(np.asarray(shown), np.asarray(first))


def test_the_same_asset_has_the_same_bytes(tmp_path: Path) -> None:
    one = make_asset(tmp_path).save(tmp_path / "one")
    two = make_asset(tmp_path).save(tmp_path / "two")
    assert (one / "candidates/00.png").read_bytes() == (two / "candidates/00.png").read_bytes()
    assert Run(Store(tmp_path / "store"), device="cpu").store.roots() == {}
