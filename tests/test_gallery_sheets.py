"""Contact sheets in pages, and finished files under a recipe's names, never over another run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from run_folders import asset, forest, run_folder

from engine.errors import BadInput, RunFailed
from engine.export import contact_sheet
from engine.export.contact_sheet import GAP, LABEL, SIDE, fitted, write_sheets
from engine.export.names import file_name, give_names, versioned
from engine.export.papers import png_text
from engine.export.results import write_results
from engine.runs.batch.manifest import read_manifest


def manifest_of(run: Path) -> dict[str, Any]:
    told = read_manifest(run)
    assert told is not None
    return told


def test_pages(tmp_path: Path) -> None:
    run = forest(tmp_path)
    pages = write_sheets(run, manifest_of(run), columns=2, rows=2)
    assert [page.name for page in pages] == ["page_001.png", "page_002.png"]
    with Image.open(pages[0]) as first, Image.open(pages[1]) as second:
        assert first.size == (GAP + 2 * (SIDE + GAP), GAP + LABEL + 2 * (SIDE + LABEL + GAP))
        assert second.height == GAP + LABEL + SIDE + LABEL + GAP  # two assets: one row
        with Image.open(run / "assets/red_mug/sheet.png") as sheet:
            shown = sheet.convert("RGB").getpixel((60, 60))
        assert first.getpixel((GAP + SIDE // 2, GAP + LABEL + SIDE // 2)) == shown
        assert first.getpixel((2 * GAP + SIDE + SIDE // 2, GAP + LABEL + 2 * SIDE)) != shown
    told = png_text(pages[0].read_bytes())
    assert told["recipe"] == "cd" * 32 and json.loads(told["assets"]) == ["red_mug", "pine", "walker", "broken"]
    again = [page.read_bytes() for page in pages]
    assert [page.read_bytes() for page in write_sheets(run, manifest_of(run), columns=2, rows=2)] == again
    assert [p.name for p in write_sheets(run, manifest_of(run))] == ["page_001.png"]
    assert [p.name for p in (run / "sheets").iterdir()] == ["page_001.png"]


def test_no_assets_no_page(tmp_path: Path) -> None:
    run = run_folder(tmp_path, [])
    assert write_sheets(run, manifest_of(run)) == []
    with pytest.raises(ValueError, match="one picture"):
        write_sheets(run, manifest_of(run), columns=0)


@pytest.mark.parametrize("text", ["x", "", "a" * 300, "grüner Krug № 1 " * 20, "line\nline\x00 two"])
def test_lines_fit(text: str) -> None:
    pen = ImageDraw.Draw(Image.new("RGB", (9, 9)))
    line = fitted(text, SIDE, pen, 13)
    assert "\n" not in line and pen.textlength(line, contact_sheet._font(13)) <= SIDE
    assert line == " ".join(text.split()) or line.endswith("…")


@pytest.mark.parametrize(("own", "name"), [
    ("asset.glb", "oak.glb"), ("asset.obj", "oak.obj"), ("turntable.mp4", "oak_turntable.mp4"),
    ("clip.mp4", "oak.mp4"), ("clip_vp9.webm", "oak_vp9.webm")])
def test_names_of_files(own: str, name: str) -> None:
    assert file_name("oak", own) == name


def test_versions() -> None:
    assert [versioned("oak_v{version}", n) for n in (1, 12)] == ["oak_v001", "oak_v012"]
    assert [versioned("oak", n) for n in (1, 2)] == ["oak", "oak~2"]


@pytest.mark.parametrize(("template", "first", "second"), [
    ("props_red_mug_v{version}", "props_red_mug_v001", "props_red_mug_v002"), ("red_mug", "red_mug", "red_mug~2")])
def test_another_runs_files_are_never_replaced(tmp_path: Path, template: str, first: str, second: str) -> None:
    run = run_folder(tmp_path, [asset(tmp_path, "red_mug")])
    names = {"red_mug": template}
    given = give_names(run, manifest_of(run), names)
    assert given == {"red_mug": [f"{first}_turntable.mp4", f"{first}.glb"]}
    before = {name: (run / "files" / name).read_bytes() for name in given["red_mug"]}
    assert give_names(run, manifest_of(run), names) == given  # the same bytes are the same file
    (run / "assets/red_mug/asset.glb").write_bytes(b"another run's")
    assert give_names(run, manifest_of(run), names) == {"red_mug": [f"{second}_turntable.mp4", f"{second}.glb"]}
    assert {name: (run / "files" / name).read_bytes() for name in given["red_mug"]} == before
    assert (run / "files" / f"{second}.glb").read_bytes() == b"another run's"


def test_unless_told(tmp_path: Path) -> None:
    run = run_folder(tmp_path, [asset(tmp_path, "red_mug")])
    give_names(run, manifest_of(run), {"red_mug": "mug"})
    (run / "assets/red_mug/asset.glb").write_bytes(b"another run's")
    given = give_names(run, manifest_of(run), {"red_mug": "mug"}, overwrite=True)
    assert given["red_mug"][1] == "mug.glb" and (run / "files/mug.glb").read_bytes() == b"another run's"


def test_two_assets_with_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = forest(tmp_path)
    with pytest.raises(BadInput, match="red_mug and pine the same name"):
        give_names(run, manifest_of(run), {"red_mug": "Prop", "pine": "prop", "walker": "x"})
    assert not (run / "files").exists()


def test_only_finished_assets_have_named_files(tmp_path: Path) -> None:
    run = forest(tmp_path)
    names = {one["id"]: f"x_{one['id']}" for one in manifest_of(run)["assets"]}
    assert set(give_names(run, manifest_of(run), names)) == {"red_mug", "pine", "walker", "hostile"}


def test_all_results_and_their_places(tmp_path: Path) -> None:
    run = forest(tmp_path)
    said = write_results(run, manifest_of(run), names={"pine": "pine_v{version}"})
    assert (run / "gallery/index.html").is_file() and (run / "sheets/page_001.png").is_file()
    assert (run / "files/pine_v001.glb").is_file() and len(said) == 3
    assert write_results(run, manifest_of(run), gallery=False, sheets=False) == []


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from engine.runs import files
    run = forest(tmp_path)

    def full(path: Path, content: bytes | str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(files, "write_file", full)
    for write in (write_sheets, write_results):
        with pytest.raises(RunFailed, match="the disk is full while writing the (gallery|contact sheets)"):
            write(run, manifest_of(run))
