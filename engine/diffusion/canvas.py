"""Pictures of any size on a canvas that a network can draw.

Networks draw at one native size, in multiples of a few pixels. ``framed``: the whole picture stands in the middle of a
native square, its border's colours carried on around it. ``resized``: the picture fills a canvas of about as many
pixels as the native square and of nearly its own shape; nothing is added, its shape may change by half a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.errors import BadInput

Fit = Literal["framed", "resized"]
LEAST, WIDEST = 16, 8.0
"""Smallest side of a picture in pixels, and how many times its shorter side its longer one may be."""


@dataclass(frozen=True)
class Canvas:
    """Where a picture of ``height`` x ``width`` pixels stands on a canvas of ``rows`` x ``columns``.

    (top, left) is its corner there, ``inner_rows`` x ``inner_columns`` its size.
    """

    height: int
    width: int
    rows: int
    columns: int
    top: int
    left: int
    inner_rows: int
    inner_columns: int

    @property
    def said(self) -> str:
        """One line on what became of the size; "" where the picture is taken as it is."""
        if (self.height, self.width) == (self.rows, self.columns):
            return ""
        inner = f"{self.inner_columns} x {self.inner_rows}"
        how = (f"at {inner}" if (self.inner_rows, self.inner_columns) == (self.rows, self.columns)
               else f"at {inner} inside {self.columns} x {self.rows}")
        return f"the picture of {self.width} x {self.height} pixels is drawn {how}"

    def put(self, image: np.ndarray, *, smooth: bool = True, around: float | None = None) -> np.ndarray:
        """(height, width, c) or (height, width) float -> (rows, columns[, c]) float32.

        smooth : Lanczos, or the nearest pixel for maps whose values mean something
        around : what stands around it; None: its border's pixels carried on
        """
        inner = resize(image, self.inner_rows, self.inner_columns, smooth=smooth)
        below, right = self.rows - self.top - self.inner_rows, self.columns - self.left - self.inner_columns
        margins = [(self.top, below), (self.left, right)] + [(0, 0)] * (inner.ndim - 2)
        if around is None:
            return np.pad(inner, margins, mode="edge")
        return np.pad(inner, margins, constant_values=around)

    def take(self, drawn: np.ndarray, *, back: bool = False) -> np.ndarray:
        """(rows, columns, c) -> the picture's own part of it; ``back``: in the picture's own size again."""
        inner = drawn[self.top:self.top + self.inner_rows, self.left:self.left + self.inner_columns]
        return resize(inner, self.height, self.width) if back else np.ascontiguousarray(inner)


def canvas_for(image: np.ndarray, native: int, multiple: int, fit: Fit = "framed") -> Canvas:
    """The canvas of a picture (h, w[, c]).

    native : the network's own side, pixels; multiple : what sides must be divisible by
    Raises BadInput for pictures too small or too long to be drawn.
    """
    height, width = image.shape[:2]
    if min(height, width) < LEAST:
        raise BadInput(f"the picture is {width} x {height} pixels; {LEAST} x {LEAST} is the least",
                       "give a larger picture")
    if max(height, width) > WIDEST * min(height, width):
        raise BadInput(f"the picture of {width} x {height} pixels is more than {WIDEST:g} times as long as it is short",
                       "cut it into parts")
    if fit == "framed":
        scale = native / max(height, width)
        inner = [min(native, max(1, round(side * scale))) for side in (height, width)]
        top, left = (native - side for side in inner)
        return Canvas(height, width, native, native, top // 2, left // 2, *inner)
    scale = native / (height * width) ** 0.5
    rows, columns = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    return Canvas(height, width, rows, columns, 0, 0, rows, columns)


def resize(image: np.ndarray, rows: int, columns: int, *, smooth: bool = True) -> np.ndarray:
    """(h, w[, c]) float -> (rows, columns[, c]) float32: Lanczos (its filter widens where it shrinks), or the nearest
    pixel. A picture of that size already is copied exactly. Smooth results are clamped to [0, 1]."""
    from PIL import Image
    if image.shape[:2] == (rows, columns):
        return image.astype(np.float32)
    kind = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    planes = image[..., None] if image.ndim == 2 else image
    made = np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(planes[..., c], dtype=np.float32)).resize(
        (columns, rows), kind)) for c in range(planes.shape[-1])], -1)
    made = np.clip(made, 0, 1) if smooth else made
    return made[..., 0] if image.ndim == 2 else made
