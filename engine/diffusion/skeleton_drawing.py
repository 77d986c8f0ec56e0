"""OpenPose's picture of a skeleton: coloured limbs, darkened, with a dot on every joint.

The drawing that pose ControlNets and AnimateAnyone were trained on: each limb is a filled ellipse between two joints,
the whole is scaled by 0.6, joints are full circles on top. Sizes are those of a picture of 512 and grow with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LIMBS = ((2, 3), (2, 6), (3, 4), (4, 5), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11), (2, 12), (12, 13), (13, 14),
         (2, 1), (1, 15), (15, 17), (1, 16), (16, 18))
"""Joints of each limb, counted from 1 as the paper does: nose 1, neck 2, right arm 3-5, left arm 6-8, right leg 9-11,
left leg 12-14, right eye 15, left eye 16, right ear 17, left ear 18."""
COLOURS = ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
           (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
           (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85))
"""Of joint i, and of limb i (the last has no limb)."""
FACE_LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
FACE_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""Of a face's five points: right eye, left eye, nose, right and left corner of the mouth, as the viewer sees them."""
DIM = 0.6
HALF_WIDTH = 4.0
RADIUS = 4.0
FACE_RADIUS = 10.0
OF_SIDE = 512


def draw_skeleton(people: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """people (n, 18, 2), pixels (column, row), NaN where unseen; size (h, w) -> (h, w, 3) float32 in [0, 1]."""
    if people.ndim != 3 or people.shape[1:] != (18, 2):
        raise ValueError(f"OpenPose's keypoints are (people, 18, 2), got {people.shape}")
    limbs = [(first - 1, second - 1) for first, second in LIMBS]
    return _drawn(people, limbs, COLOURS, COLOURS, RADIUS, size)


def draw_face(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Five points of a face (5, 2), pixels (column, row); size (h, w) -> (h, w, 3) float32 in [0, 1]."""
    if points.shape != (5, 2):
        raise ValueError(f"a face has five points of two numbers, got {points.shape}")
    colours = [FACE_COLOURS[first] for first, _ in FACE_LIMBS]
    return _drawn(points[None], list(FACE_LIMBS), colours, FACE_COLOURS, FACE_RADIUS, size)


def _drawn(people: np.ndarray, limbs: list[tuple[int, int]], limb_colours: object, joint_colours: object,
           radius: float, size: tuple[int, int]) -> np.ndarray:
    scale = min(size) / OF_SIDE
    canvas = np.zeros((*size, 3))
    half_width, radius = max(HALF_WIDTH * scale, 0.75), max(radius * scale, 1.0)
    known = np.isfinite(people).all(-1)
    for colour, (first, second) in zip(np.asarray(limb_colours), limbs, strict=False):
        for person, there in zip(people, known, strict=True):
            if there[first] and there[second]:
                ends = person[[first, second]]
                _paint(canvas, ends.mean(0), _reach(ends, half_width), colour,
                       lambda x, y: _in_ellipse(x, y, ends, half_width))  # noqa: B023 (called at once)
    canvas *= DIM
    for joint, colour in enumerate(np.asarray(joint_colours)):
        for person, there in zip(people, known, strict=True):
            if there[joint]:
                place = person[joint]
                _paint(canvas, place, np.array([radius + 0.5] * 2), colour,
                       lambda x, y: np.clip(radius + 0.5 - np.hypot(x - place[0], y - place[1]), 0, 1))  # noqa: B023
    return (canvas / 255).astype(np.float32)


def _in_ellipse(x: np.ndarray, y: np.ndarray, ends: np.ndarray, half_width: float) -> np.ndarray:
    """Coverage in [0, 1] of the ellipse whose long axis joins two points; soft over one pixel."""
    centre, axis = ends.mean(0), ends[1] - ends[0]
    half_length = max(float(np.hypot(*axis)) / 2, half_width)
    # Joints in one place give a dot: without a direction, every pixel would lie at its middle.
    along = axis / np.hypot(*axis) if axis.any() else np.array([1.0, 0.0])
    dx, dy = x - centre[0], y - centre[1]
    u, v = (dx * along[0] + dy * along[1]) / half_length, (dy * along[0] - dx * along[1]) / half_width
    r = np.hypot(u, v)
    # Distance to the outline, to first order: the implicit value over its gradient's length.
    gradient = np.hypot(u / half_length, v / half_width) / np.maximum(r, 1e-9)
    return np.clip(0.5 + (1 - r) / np.maximum(gradient, 1e-9), 0, 1)


def _reach(ends: np.ndarray, half_width: float) -> np.ndarray:
    """How far the covered part of a limb's ellipse reaches from its middle, (2,) pixels along x and y.

    The cover is above 0 where (1 - r) / gradient > -1/2. No gradient is larger than 1 / half_width, so all of that lies
    in the ellipse that is larger by the factor 1 + 1 / (2 half_width).
    """
    axis = ends[1] - ends[0]
    length = float(np.hypot(*axis))
    half_length = max(length / 2, half_width)
    c, s = np.abs(axis) / length if length else (1.0, 0.0)
    return (1 + 0.5 / half_width) * np.hypot(half_length * np.array([c, s]), half_width * np.array([s, c]))


def _paint(canvas: np.ndarray, middle: np.ndarray, reach: np.ndarray, colour: np.ndarray,
           cover: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Paint ``cover(x, y)`` in [0, 1] over the box about ``middle``: outside of it there is nothing to paint."""
    height, width = canvas.shape[:2]
    left, top = np.floor(np.maximum(middle - reach - 1, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(middle + reach + 1, (width, height))).astype(int)
    if left < right and top < bottom:
        part = canvas[top:bottom, left:right]
        share = cover((np.arange(left, right) + 0.5)[None], (np.arange(top, bottom) + 0.5)[:, None])
        part += share[..., None] * (colour - part)
