"""A labelled contact sheet of the toybox: what the built-in models were trained to know."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.errors import BadInput
from engine.toybox.captions import caption
from engine.toybox.characters import build_character, sample_character
from engine.toybox.generate import framed
from engine.toybox.render import render
from engine.toybox.scene import Scene, build, sample_spec

TILE, MARGIN, LABEL = 128, 8, 46
AZIMUTH_DEG, ELEVATION_DEG, FOV_DEG, FILL = 25.0, 18.0, 40.0, 0.86


def write_sheet(path: Path, rows: int = 8, columns: int = 10, seed: int = 0) -> None:
    """Write a PNG of ``rows`` x ``columns`` objects with their captions; the last three rows in eight are figures.

    Equal arguments give equal pictures. Raises BadInput for a sheet without a cell.
    """
    if rows < 1 or columns < 1:
        raise BadInput(f"a sheet of {rows} x {columns} objects", "ask for at least one row and one column")
    figures = 3 * rows // 8 if rows > 1 else 0
    width, height = TILE + 2 * MARGIN, TILE + MARGIN + LABEL
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for row in range(rows):
        scenes: list[Scene] = []
        for column in range(columns):
            cell = row * columns + column
            if row < rows - figures:
                scenes.append(build(sample_spec("train", seed * rows * columns + cell)))
            else:
                scenes.append(build_character(sample_character("train", seed * rows * columns + cell)))
        cameras = [framed(s, AZIMUTH_DEG, ELEVATION_DEG, FOV_DEG, FILL, TILE) for s in scenes]
        drawn = render(scenes, cameras, TILE).rgba
        pictures = np.round(255 * (drawn[..., :3] * drawn[..., 3:] + 1 - drawn[..., 3:])).astype(np.uint8)
        for column, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
            x, y = column * width, row * height
            sheet.paste(Image.fromarray(picture), (x + MARGIN, y + MARGIN))
            words = caption(scene.spec.to_json(), AZIMUTH_DEG, ELEVATION_DEG, random.Random(scene.spec.seed), False)
            for line, text in enumerate(textwrap.wrap(words, 24)[:3]):
                draw.text((x + width / 2, y + MARGIN + TILE + 4 + 13 * line), text, (60, 60, 60), font, anchor="ma")
    sheet.save(path, format="PNG")
