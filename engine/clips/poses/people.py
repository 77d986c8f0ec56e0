"""Figures that stand apart on a plain background: how many, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

PLAIN = 0.75
"""From this share of border pixels of one colour on, a background counts as plain."""
AS_LARGE = 0.4
"""A thing of at least this share of the largest one's area is a figure too; what is smaller is held or lies about."""
SEEN_SIDE = 256


@dataclass(frozen=True)
class Box:
    """left, top, right, bottom : pixels, the ends exclusive; area : in pixels of what is inside"""

    left: int
    top: int
    right: int
    bottom: int
    area: int

    @property
    def side(self) -> int:
        """Its longer side."""
        return max(self.right - self.left, self.bottom - self.top)


def apart(picture: np.ndarray) -> list[Box]:
    """The things of about one size on a plain background, from left to right; [] where the background is not plain.

    picture : (h, w, 3) in [0, 1]
    """
    from engine.diffusion.mattes import border_colour, plain_mask
    step = max(1, round(max(picture.shape[:2]) / SEEN_SIDE))
    small = picture[::step, ::step]
    colour, share = border_colour(small)
    if share < PLAIN:
        return []
    labels, count = ndimage.label(plain_mask(small, colour), structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    found = []
    for i, place in enumerate(ndimage.find_objects(labels)):
        if areas[i] >= max(AS_LARGE * areas.max(), 12):
            rows, columns = place
            found.append(Box(columns.start * step, rows.start * step, min(columns.stop * step, picture.shape[1]),
                             min(rows.stop * step, picture.shape[0]), int(areas[i]) * step * step))
    return sorted(found, key=lambda box: box.left)


def alone(picture: np.ndarray, boxes: list[Box], chosen: int, margin: float = 0.15) -> tuple[np.ndarray, int, int]:
    """The part of a picture around one of its figures, the others painted over with the background's colour
    -> (that part, its left, its top)."""
    from engine.diffusion.mattes import border_colour
    out = picture.copy()
    colour, _ = border_colour(picture)
    box = boxes[chosen]
    for i, other in enumerate(boxes):
        if i != chosen:
            out[other.top:other.bottom, other.left:other.right] = colour
    # Boxes may overlap: what is the chosen one's stays.
    out[box.top:box.bottom, box.left:box.right] = picture[box.top:box.bottom, box.left:box.right]
    around = round(margin * box.side)
    left, top = max(0, box.left - around), max(0, box.top - around)
    return out[top:box.bottom + around, left:box.right + around], left, top


def chosen_box(boxes: np.ndarray, person: int | None) -> np.ndarray:
    """The largest of (n, 4) boxes, or number ``person`` from the left (the last one where there are fewer)."""
    if person is None:
        return np.asarray(boxes[np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))])
    return np.asarray(boxes[np.argsort(boxes[:, 0])[min(person, len(boxes) - 1)]])
