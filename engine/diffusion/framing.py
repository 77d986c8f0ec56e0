"""Framing: how a subject stands in the square picture that the networks see.

One rule for training and for use: the bounding box of the subject's alpha is centred and its longest side fills
``FILL`` of the frame. Training adds a little jitter through the same functions, so nothing is written twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import BadInput

FILL = 0.7
"""The bounding box's longest side, as a share of the frame's side."""
SOLID = 0.5
"""Alpha from which a pixel belongs to the subject."""


@dataclass(frozen=True)
class Square:
    """A square part of a picture, in pixels of that picture; it may reach outside. (left, top) is its corner."""

    left: float
    top: float
    side: float

    def to_json(self) -> dict[str, float]:
        return {"left": self.left, "top": self.top, "side": self.side}


def bounding_box(alpha: np.ndarray, solid: float = SOLID) -> tuple[int, int, int, int]:
    """Pixel edges (left, top, right, bottom) of ``alpha >= solid``; right and bottom are exclusive.

    alpha : (h, w) float in [0, 1]. Raises BadInput when nothing is solid.
    """
    mask = alpha >= solid
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise BadInput("the picture shows no subject: every pixel is transparent or background",
                       "give a picture of one object, or an alpha channel that covers it")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def square_around(box: tuple[float, float, float, float], fill: float = FILL,
                  shift: tuple[float, float] = (0.0, 0.0)) -> Square:
    """The square in which ``box`` is centred with its longest side at ``fill`` of the frame.

    box : (left, top, right, bottom) pixel edges
    shift : how far right and down the subject then stands off the centre, as a share of the frame (jitter)
    """
    left, top, right, bottom = box
    side = max(right - left, bottom - top) / fill
    x = (left + right) / 2 - (0.5 + shift[0]) * side
    y = (top + bottom) / 2 - (0.5 + shift[1]) * side
    return Square(x, y, side)


def crop_square(rgba: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Cut ``square`` out of a picture and resample it to ``size`` pixels; outside is transparent.

    rgba : (h, w, 4), float in [0, 1] or uint8, straight alpha -> the same type, (size, size, 4)

    Works on 8 bits with alpha premultiplied; Pillow's bicubic filter widens when it shrinks (no aliasing).
    A square of whole pixels with ``side == size`` is copied exactly.
    """
    from PIL import Image
    as_float = rgba.dtype != np.uint8
    pixels = np.round(np.clip(rgba, 0, 1) * 255).astype(np.uint8) if as_float else rgba
    whole = all(float(v).is_integer() for v in (square.left, square.top)) and square.side == size
    margin = 0 if whole else int(np.ceil(4 * max(1.0, square.side / size)))  # what the filter sees beyond the edge
    x0, y0 = int(np.floor(square.left)) - margin, int(np.floor(square.top)) - margin
    x1 = int(np.ceil(square.left + square.side)) + margin
    y1 = int(np.ceil(square.top + square.side)) + margin
    part = Image.fromarray(pixels).crop((x0, y0, x1, y1))  # beyond the picture: zeros, that is transparent
    if not whole:
        box = (square.left - x0, square.top - y0, square.left - x0 + square.side, square.top - y0 + square.side)
        part = part.resize((size, size), Image.Resampling.BICUBIC, box=box)
    out = np.asarray(part)
    return out.astype(np.float32) / 255 if as_float else out.copy()


def frame_subject(rgba: np.ndarray, size: int, fill: float = FILL, shift: tuple[float, float] = (0.0, 0.0),
                  solid: float = SOLID) -> tuple[np.ndarray, Square]:
    """Frame the subject of an RGBA picture: (framed (size, size, 4) of the same type, the square it was cut from)."""
    alpha = rgba[..., 3] if rgba.dtype != np.uint8 else rgba[..., 3].astype(np.float32) / 255
    square = square_around(bounding_box(alpha, solid), fill, shift)
    return crop_square(rgba, square, size), square
