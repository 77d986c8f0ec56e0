"""The gallery in headless Chromium, opened from a file: it shows, filters, and gives picks away. `make test-tools`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from run_folders import approval, forest

from engine.export.gallery import write_gallery
from engine.runs.batch.picks import read_picks

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)
pytestmark = [pytest.mark.tools, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


def browser(page: Path, *words: str, profile: Path) -> str:
    done = subprocess.run(
        [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", "--hide-scrollbars", "--window-size=1280,1000", f"--user-data-dir={profile}",
         "--virtual-time-budget=6000", *words, page.as_uri()], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def told(index: Path, script: str, tmp_path: Path) -> Any:
    """What a script at the page's end says in said(value), run by the browser."""
    acted = index.with_name("acted.html")
    text = index.read_text(encoding="utf-8")
    acted.write_text(text.replace("</body>", f"""<pre id="said"></pre><script>
        const said = value => document.getElementById("said").textContent = "<<" + JSON.stringify(value) + ">>";
        const ids = () => [...document.querySelectorAll(".card")].map(card => card.dataset.id);
        const choose = (id, value) => {{ const n = document.getElementById(id); n.value = value;
          n.dispatchEvent(new Event(n.tagName === "SELECT" ? "change" : "input")); }};
        try {{ {script} }} catch (error) {{ said(String(error)); }}</script></body>"""), encoding="utf-8")
    page = browser(acted, "--dump-dom", profile=tmp_path / "profile")
    import html
    return json.loads(html.unescape(re.findall(r"&lt;&lt;(.*)&gt;&gt;", page, re.DOTALL)[-1]))


def test_it_filters_and_runs_nothing_of_a_prompt(tmp_path: Path) -> None:
    index = write_gallery(forest(tmp_path / "run"))
    answers = told(index, """
        const seen = { all: ids(), title: document.title,
          prompt: document.querySelector("[data-id=hostile] .prompt").textContent };
        choose("status", "failed"); seen.failed = ids(); choose("status", "");
        choose("kind", "tree"); seen.trees = ids(); choose("kind", "");
        choose("metric", "extract_mesh.triangles"); choose("low", "1000"); choose("high", "2000"); seen.some = ids();
        choose("high", ""); choose("sort", "by figure, most first"); seen.sorted = ids();
        choose("low", "99999"); seen.none = ids(); seen.empty = !document.getElementById("empty").hidden;
        choose("low", ""); choose("metric", ""); choose("words", "KNIGHT"); seen.words = ids();
        seen.title = document.title; said(seen);""", tmp_path)
    from run_folders import HOSTILE
    assert answers == {"all": ["red_mug", "pine", "walker", "broken", "later", "hostile"], "prompt": HOSTILE,
                       "title": "forest – Maquette gallery", "failed": ["broken"], "trees": ["pine"],
                       "some": ["red_mug"], "sorted": ["pine", "red_mug"], "none": [], "empty": True,
                       "words": ["walker"]}


def test_picks_are_a_file_that_the_run_takes(tmp_path: Path) -> None:
    index = write_gallery(approval(tmp_path / "run"))
    toml = told(index, """
        const buttons = id => document.querySelector(`[data-id="${id}"]`).querySelectorAll(".choices button");
        buttons("red_mug")[2].click(); buttons("the.oak")[4].click(); buttons("blue-chair")[0].click();
        buttons("blue-chair")[0].click();  // and back
        said(picksToml());""", tmp_path)
    path = tmp_path / "picks.toml"
    path.write_text(toml, encoding="utf-8")
    assert read_picks(path) == {"red_mug": 2, "the.oak": False}


def test_it_is_drawn(tmp_path: Path) -> None:
    """Cards with their pictures, and a mesh in three dimensions when one is opened."""
    index = write_gallery(forest(tmp_path / "run"))
    shot = tmp_path / "gallery.png"
    browser(index, f"--screenshot={shot}", profile=tmp_path / "profile")
    with Image.open(shot) as picture:
        assert picture.size == (1280, 1000)
        colours = picture.convert("RGB").quantize(64).getcolors()
    assert colours is not None and len(colours) > 20  # an empty page has three or four
    opened = tmp_path / "opened.png"
    acted = index.with_name("acted.html")
    acted.write_text(index.read_text(encoding="utf-8").replace("</body>", """<script>
        open(assets[0]);</script></body>"""), encoding="utf-8")
    browser(acted, f"--screenshot={opened}", profile=tmp_path / "profile")
    page = browser(acted, "--dump-dom", profile=tmp_path / "profile")
    assert 'src="../assets/red_mug/report.html#viewer"' in page and "<dialog" in page and "Apache-2.0" in page
    with Image.open(opened) as picture:
        whole = picture.convert("L")
        frame = whole.crop((150, 110, 610, 560))  # where the frame with the mesh stands
        assert len(set(frame.tobytes())) > 40, "no shaded mesh in the frame"
