"""Contact sheets of a run: pages of pictures with the assets' names, for looking through hundreds at once.

    sheets/page_001.png ...: 6 x 5 pictures a page, each with its id and its state
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.export.gallery import placed, thumb_source, thumbnail
from engine.export.papers import png_with_text
from engine.runs import files

COLUMNS, ROWS = 6, 5
SIDE, LABEL, GAP = 192, 34, 12
"""Pixels: of a picture's side, of the line below it, between pictures."""
INK, PAPER, FRAME = (29, 31, 35), (250, 250, 249), (222, 223, 226)
COLOURS = {"done": (28, 124, 67), "cached": (28, 124, 67), "waiting": (138, 109, 0), "stopped": (138, 109, 0)}
BAD = (179, 38, 30)


def write_sheets(folder: Path, manifest: dict[str, Any], columns: int = COLUMNS, rows: int = ROWS) -> list[Path]:
    """Write ``folder``/sheets/page_001.png, ... for every asset of a run, in the recipe's order -> the pages.

    columns, rows : pictures on a page, 1 or more each. Pages of a longer run before are taken away. Each page's text
    says the recipe's digest. RunFailed where the disk takes no more.
    """
    if columns < 1 or rows < 1:
        raise ValueError("a page has one picture at least")
    assets, each = manifest["assets"], columns * rows
    pages = [assets[first:first + each] for first in range(0, len(assets), each)]
    written = []
    with files.one_line_errors("the contact sheets", folder, "--out"):
        for number, page in enumerate(pages, start=1):
            path = folder / "sheets" / f"page_{number:03d}.png"
            title = f"{manifest['name']}   {number} of {len(pages)}"
            papers = {"title": title, "recipe": manifest["recipe"]["digest"], "assets": [one["id"] for one in page]}
            files.write_file(path, png_with_text(_page(folder, page, title, columns, rows), papers))
            written.append(path)
        for old in (folder / "sheets").glob("page_*.png"):
            if old not in written:
                old.unlink()
    return written


def _page(folder: Path, assets: list[dict[str, Any]], title: str, columns: int, rows: int) -> bytes:
    import io

    from PIL import Image, ImageDraw
    across = GAP + columns * (SIDE + GAP)
    down = GAP + LABEL + min(rows, -(-len(assets) // columns)) * (SIDE + LABEL + GAP)
    page = Image.new("RGB", (across, down), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, GAP), fitted(title, across - 2 * GAP, pen, 16), INK, _font(16))
    for place, told in enumerate(assets):
        x = GAP + place % columns * (SIDE + GAP)
        y = GAP + LABEL + place // columns * (SIDE + LABEL + GAP)
        pen.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), fill="white", outline=FRAME)
        picture = _picture(folder, told)
        if picture is not None:
            page.paste(picture, (x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2))
        pen.text((x, y + SIDE + 3), fitted(told["id"], SIDE, pen, 13), INK, _font(13))
        if told["status"] not in ("done", "cached") or picture is None:
            state = told["status"] if picture is not None else told["error"] or told["status"]
            pen.text((x, y + SIDE + 18), fitted(state, SIDE, pen, 12), COLOURS.get(told["status"], BAD), _font(12))
    memory = io.BytesIO()
    page.save(memory, "png", optimize=False)
    return memory.getvalue()


def _picture(folder: Path, told: dict[str, Any]) -> Any:
    own = placed(folder, told)
    chosen = thumb_source(own, told.get("files", [])) if own else None
    if chosen is None:
        return None
    path = (folder / own / chosen[0]["path"]).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        return thumbnail(path, chosen[1], SIDE)
    except (OSError, ValueError):
        return None  # damaged or gone since: its line says so


def fitted(text: str, width: int, pen: Any, size: int) -> str:
    """``text`` as one line that is at most ``width`` pixels wide, with an ellipsis where it was cut."""
    text = " ".join(text.split())
    if pen.textlength(text, _font(size)) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        if pen.textlength(text[:middle] + "…", _font(size)) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…"


def _font(size: int) -> Any:
    from PIL import ImageFont
    return ImageFont.load_default(size)
