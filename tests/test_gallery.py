"""The gallery as a file: what a browser would read in it. In a real browser: test_tools_gallery.py."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from run_folders import HOSTILE, approval, asset, forest, run_folder

from engine.errors import BadInput
from engine.export.gallery import gallery_data, write_gallery
from engine.runs.batch.manifest import read_manifest


class Page(HTMLParser):
    """Elements with their attributes, and each script's text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag == "script"
        if self._in:
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._in:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = False


def page_of(run: Path) -> tuple[Page, dict[str, Any]]:
    page = Page(write_gallery(run).read_text(encoding="utf-8"))
    return page, json.loads(page.scripts[0])


def test_a_prompt_is_never_markup(tmp_path: Path) -> None:
    plain, _ = page_of(run_folder(tmp_path / "plain", [asset(tmp_path / "plain", "x", prompt="a red mug")]))
    page, data = page_of(forest(tmp_path / "run"))
    assert page.tags == plain.tags and len(page.scripts) == 2 and page.scripts[1] == plain.scripts[1]
    assert next(one for one in data["assets"] if one["id"] == "hostile")["prompt"] == HOSTILE
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", page.scripts[1])


def test_the_page_needs_no_server_and_no_network(tmp_path: Path) -> None:
    page, _ = page_of(forest(tmp_path))
    text = (tmp_path / "gallery/index.html").read_text()
    assert not re.search(r"https?:|<link|fetch\(|XMLHttpRequest|import |type=\"module\"", text)
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert "default-src 'none'" in str(policy)
    assert not [attrs for tag, attrs in page.tags if tag == "script" and "src" in attrs]


def test_all_that_is_linked_is_there(tmp_path: Path) -> None:
    _, data = page_of(forest(tmp_path))
    by_id = {one["id"]: one for one in data["assets"]}
    linked = [one[name] for one in data["assets"] for name in ("clip", "viewer", "report") if one[name]]
    linked += [file["path"] for one in data["assets"] for file in one["files"]]
    assert len(linked) > 10 and all((tmp_path / path).is_file() for path in linked)
    thumbs = [one["thumb"] for one in data["assets"] if one["thumb"]]
    assert len(thumbs) == 4
    for thumb in thumbs:
        with Image.open(tmp_path / "gallery" / thumb) as picture:
            assert max(picture.size) <= 256
    assert by_id["red_mug"]["viewer"] == "assets/red_mug/report.html" and by_id["walker"]["viewer"] == ""
    assert by_id["walker"]["clip"] == "assets/walker/clip.mp4"
    assert by_id["broken"]["error"].startswith("text_to_image failed") and by_id["later"]["status"] == "waiting"


def test_kinds_figures_and_licences(tmp_path: Path) -> None:
    _, data = page_of(forest(tmp_path))
    by_id = {one["id"]: one for one in data["assets"]}
    assert (by_id["red_mug"]["kind"], by_id["pine"]["kind"], by_id["walker"]["kind"]) == ("mug", "tree", "knight")
    assert by_id["pine"]["metrics"]["extract_mesh.triangles"] == [4000.0, ""]
    assert data["licences"] == [{"model": "maquette/builtin", "licence": "Apache-2.0", "commercial": "yes",
                                 "roles": "text_to_image"}]
    assert data["counts"] == {"done": 4, "failed": 1, "waiting": 1} and not data["choosing"]


def test_candidates_are_there_to_be_picked(tmp_path: Path) -> None:
    _, data = page_of(approval(tmp_path))
    assert data["choosing"] and [one["best"] for one in data["assets"]] == [1, 1, 1]
    assert [c["number"] for c in data["assets"][0]["candidates"]] == [0, 1, 2, 3]
    assert data["assets"][2]["candidates"][3]["path"] == "assets/the.oak/candidates/03.png"


def test_pictures_are_made_small_once(tmp_path: Path) -> None:
    write_gallery(forest(tmp_path))
    thumbs = sorted((tmp_path / "gallery/thumbs").iterdir())
    before = [path.stat().st_mtime_ns for path in thumbs]
    write_gallery(tmp_path)
    assert [path.stat().st_mtime_ns for path in thumbs] == before
    assert sorted((tmp_path / "gallery/thumbs").iterdir()) == thumbs


def test_a_damaged_picture_and_missing_files_leave_the_page_whole(tmp_path: Path) -> None:
    forest(tmp_path)
    (tmp_path / "assets/red_mug/sheet.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    (tmp_path / "assets/pine/turntable.mp4").unlink()
    _, data = page_of(tmp_path)
    by_id = {one["id"]: one for one in data["assets"]}
    assert by_id["red_mug"]["thumb"] == "" and by_id["pine"]["clip"] == "" and by_id["pine"]["thumb"]


@pytest.mark.parametrize("place", ["../outside", "/etc", "assets/../../outside"])
def test_a_manifest_that_names_places_outside_shows_nothing_of_them(tmp_path: Path, place: str) -> None:
    run = forest(tmp_path / "run")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "sheet.png").write_bytes((run / "assets/pine/sheet.png").read_bytes())
    manifest = read_manifest(run)
    assert manifest is not None
    manifest["assets"][0]["folder"] = place
    manifest["assets"][1]["files"][0]["path"] = "../../../outside/sheet.png"
    data = gallery_data(run, manifest)
    assert data["assets"][0]["files"] == [] and data["assets"][0]["thumb"] == ""
    assert not any("outside" in file["path"] for file in data["assets"][1]["files"])


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no run in"):
        write_gallery(tmp_path)
    (tmp_path / "manifest.json").write_text("[1, 2")
    with pytest.raises(BadInput, match="cannot be read"):
        write_gallery(tmp_path)
