"""Sprite sheets: a clip's frames in one PNG, and the JSON that says where each lies and how it is played.

The JSON is the array form that TexturePacker and Aseprite write, which Phaser, PixiJS, Unity's and Godot's importers
read; what it has no word for (frame rate, loop, grid, papers) stands under "meta".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.clips import timing
from engine.clips.formats import Clock, Frames
from engine.errors import BadInput

if TYPE_CHECKING:
    import PIL.Image

LARGEST = 16384
"""Pixels a side: what graphics cards of today take."""
SEEN = 8
"""Alpha, of 255, from which a pixel counts when frames are trimmed."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom; right and bottom are exclusive."""


@dataclass(frozen=True)
class Layout:
    """How frames are laid out.

    kind : "grid": equal cells, each the part that any frame needs; "packed": every frame trimmed on its own
    padding : clear pixels between frames, and at the sheet's edge; power_of_two : of the sheet's sides
    """

    kind: Literal["grid", "packed"] = "grid"
    padding: int = 2
    power_of_two: bool = False


def write_sheet(folder: Path, frames: Frames, clock: Clock, layout: Layout, name: str, papers: Mapping[str, str]
                ) -> dict[str, Any]:
    """Write sheet.png and sheet.json into ``folder``. -> what the JSON holds.

    Two looks at the frames, one at a time: where something is, then pasting. BadInput for a sheet of more than
    16,384 pixels a side.
    """
    from PIL import Image
    boxes, centres, size = [], [], (0, 0)
    for frame in frames():
        boxes.append(_seen(frame[..., 3]))
        centres.append(_centre(frame[..., 3]))
        size = frame.shape[:2]
    whole = _union([box for box in boxes if box[2] > box[0]]) or (0, 0, 1, 1)
    shown = [whole] * len(boxes) if layout.kind == "grid" else [box if box[2] > box[0] else (0, 0, 1, 1)
                                                                for box in boxes]
    places, (width, height), columns = _placed([(r - l, b - t) for l, t, r, b in shown], layout)
    if max(width, height) > LARGEST:
        raise BadInput(f"a sheet of {len(shown)} frames would have {width:,} x {height:,} pixels; "
                       f"{LARGEST:,} a side is the most", "take fewer frames, or leave the sheet out")
    picture = Image.new("RGBA", (width, height))
    for frame, box, place in zip(frames(), shown, places, strict=True):
        picture.paste(Image.fromarray(frame).crop(box), place)
    save(folder / "sheet.png", picture, papers)

    told = _json(name, clock, layout, papers, size, whole, shown, places, (width, height), columns,
                 _pivot(whole, centres, size))
    (folder / "sheet.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return told


def _json(name: str, clock: Clock, layout: Layout, papers: Mapping[str, str], size: tuple[int, int], whole: Box,
          shown: Sequence[Box], places: Sequence[tuple[int, int]], sheet: tuple[int, int], columns: int,
          pivot: dict[str, float]) -> dict[str, Any]:
    stands = timing.schedule(clock.count, clock.fps, 1000)
    listed = []
    for i, ((left, top, right, bottom), (x, y)) in enumerate(zip(shown, places, strict=True)):
        listed.append({
            "filename": f"{name}_{i:05d}", "frame": {"x": x, "y": y, "w": right - left, "h": bottom - top},
            "rotated": False, "trimmed": (right - left, bottom - top) != (size[1], size[0]),
            "spriteSourceSize": {"x": left, "y": top, "w": right - left, "h": bottom - top},
            "sourceSize": {"w": size[1], "h": size[0]}, "pivot": pivot, "duration": stands[i]})
    grid = {} if layout.kind == "packed" else {
        "cell": {"w": whole[2] - whole[0], "h": whole[3] - whole[1]}, "columns": columns,
        "rows": -(-len(shown) // columns)}
    return {"frames": listed, "meta": {
        "app": "Maquette", "version": "1.0", "schema": 1, "image": "sheet.png", "format": "RGBA8888",
        "size": {"w": sheet[0], "h": sheet[1]}, "scale": "1", "premultiplied": False, "layout": layout.kind,
        "padding": layout.padding, **grid, "count": clock.count, "fps": float(clock.fps),
        "fps_exact": f"{clock.fps.numerator}/{clock.fps.denominator}", "loop": clock.loop, "pivot": pivot,
        "pivot_origin": "top left of sourceSize, in shares of it",
        "trim": dict(zip("xywh", (whole[0], whole[1], whole[2] - whole[0], whole[3] - whole[1]), strict=True)),
        "frameTags": [{"name": name, "from": 0, "to": clock.count - 1, "direction": "forward"}], **papers}}


def _seen(alpha: np.ndarray) -> Box:
    """The box of all that is seen of a frame; (0, 0, 0, 0) where nothing is."""
    mask = alpha >= SEEN
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centre(alpha: np.ndarray) -> float:
    """Mean column of what is seen, in pixels, weighed by alpha; NaN where nothing is."""
    weights = alpha.astype(np.float64).sum(0)
    return float((weights * (np.arange(len(weights)) + 0.5)).sum() / weights.sum()) if weights.any() else float("nan")


def _union(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    edges = np.array(boxes)
    return int(edges[:, 0].min()), int(edges[:, 1].min()), int(edges[:, 2].max()), int(edges[:, 3].max())


def _pivot(whole: Box, centres: Sequence[float], size: tuple[int, int]) -> dict[str, float]:
    """Where the figure stands, the same for all frames: the ground is the lowest row that any frame reaches, the
    middle the median of the frames' mean columns. In shares of the frame, from its top left."""
    middle = float(np.nanmedian(centres)) if np.isfinite(centres).any() else size[1] / 2
    return {"x": round(middle / size[1], 5), "y": round(whole[3] / size[0], 5)}


def _placed(sizes: Sequence[tuple[int, int]], layout: Layout) -> tuple[list[tuple[int, int]], tuple[int, int], int]:
    """(left top corner of each, (width, height) of the sheet, columns of the grid): the most nearly square sheet."""
    gap = layout.padding
    if layout.kind == "grid":
        wide, high = sizes[0][0] + gap, sizes[0][1] + gap
        tries = range(1, len(sizes) + 1)

        def cost(n: int) -> tuple[int, int]:  # the smallest square that holds the sheet; of equal ones the least area
            sides = _sides((n * wide + gap, -(-len(sizes) // n) * high + gap), layout)
            return max(sides), sides[0] * sides[1]
        columns = min(tries, key=cost)
        places = [(gap + i % columns * wide, gap + i // columns * high) for i in range(len(sizes))]
        return places, _sides((columns * wide + gap, -(-len(sizes) // columns) * high + gap), layout), columns
    return *_shelves(sizes, layout), 0


def _shelves(sizes: Sequence[tuple[int, int]], layout: Layout) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Frames on shelves, the highest first, each shelf as high as its first; of several widths the smallest sheet."""
    gap = layout.padding
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i][1], i))
    widest = max(w for w, _ in sizes) + 2 * gap
    root = int(np.sqrt(sum((w + gap) * (h + gap) for w, h in sizes)))
    best: tuple[list[tuple[int, int]], tuple[int, int]] | None = None
    for share in (0.8, 1.0, 1.15, 1.4, 2.0):
        room = _sides((max(widest, int(root * share)), 1), layout)[0]
        places, x, y, shelf, used = [(0, 0)] * len(sizes), gap, gap, 0, 0
        for i in order:
            w, h = sizes[i]
            if x + w + gap > room:
                x, y, shelf = gap, y + shelf + gap, 0
            places[i], shelf = (x, y), max(shelf, h)
            x += w + gap
            used = max(used, x)
        sides = _sides((used, y + shelf + gap), layout)
        if best is None or (sides[0] * sides[1], abs(sides[0] - sides[1])) < (best[1][0] * best[1][1],
                                                                              abs(best[1][0] - best[1][1])):
            best = places, sides
    assert best is not None
    return best


def _sides(sides: tuple[int, int], layout: Layout) -> tuple[int, int]:
    if not layout.power_of_two:
        return sides
    return 1 << (sides[0] - 1).bit_length(), 1 << (sides[1] - 1).bit_length()


def save(path: Path, picture: np.ndarray | PIL.Image.Image, papers: Mapping[str, str]) -> None:
    """(h, w, 4) uint8, or Pillow's own, -> a PNG with ``papers`` as its text: latin-1 chunks, or UTF-8 where needed."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo()
    for name, text in papers.items():
        if text.isascii():
            info.add_text(name, text)
        else:
            info.add_itxt(name, text)
    made = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    made.save(path, "PNG", pnginfo=info)
