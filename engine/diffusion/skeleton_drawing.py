"""OpenPose's picture of a skeleton: coloured limbs, darkened, with a dot on every joint.

The drawing that pose ControlNets and AnimateAnyone were trained on: each limb is a filled ellipse between two joints,
the whole is scaled by 0.6, joints are full circles on top. Sizes are those of a picture of 512 and grow with it.
"""

from __future__ import annotations

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
    height, width = size
    scale = min(size) / OF_SIDE
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    canvas = np.zeros((height, width, 3))
    half_width, reach = max(HALF_WIDTH * scale, 0.75), max(radius * scale, 1.0) + 0.5
    for colour_of, (first, second) in zip(np.asarray(limb_colours), limbs, strict=False):
        for person in people:
            ends = person[[first, second]]
            if np.isfinite(ends).all():
                # An ellipse's soft rim is as wide as its curvature lets it: never wider than the ellipse.
                box = _box(ends, max(float(np.hypot(*(ends[1] - ends[0]))) / 2, 2 * half_width) + 2, size)
                _paint(canvas[box], _in_ellipse(x[box], y[box], ends, half_width), colour_of)
    canvas *= DIM
    for joint, colour in enumerate(np.asarray(joint_colours)):
        for person in people:
            if np.isfinite(person[joint]).all():
                box = _box(person[[joint]], reach + 1, size)
                distance = np.hypot(x[box] - person[joint, 0], y[box] - person[joint, 1])
                _paint(canvas[box], np.clip(reach - distance, 0, 1), colour)
    return (canvas / 255).astype(np.float32)


def _box(points: np.ndarray, margin: float, size: tuple[int, int]) -> tuple[slice, slice]:
    """The pixels within ``margin`` of the points' bounding box, inside the picture: nothing else need be computed."""
    low, high = np.floor(points.min(0) - margin), np.ceil(points.max(0) + margin)
    return tuple(slice(int(np.clip(low[k], 0, size[1 - k])), int(np.clip(high[k], 0, size[1 - k])))  # type: ignore[return-value]
                 for k in (1, 0))


def _in_ellipse(x: np.ndarray, y: np.ndarray, ends: np.ndarray, half_width: float) -> np.ndarray:
    """Coverage in [0, 1] of the ellipse whose long axis joins two points; soft over one pixel."""
    centre, axis = ends.mean(0), ends[1] - ends[0]
    half_length = max(float(np.hypot(*axis)) / 2, half_width)
    along = axis / max(float(np.hypot(*axis)), 1e-9)
    dx, dy = x - centre[0], y - centre[1]
    u, v = (dx * along[0] + dy * along[1]) / half_length, (dy * along[0] - dx * along[1]) / half_width
    r = np.hypot(u, v)
    # Distance to the outline, to first order: the implicit value over its gradient's length.
    gradient = np.hypot(u / half_length, v / half_width) / np.maximum(r, 1e-9)
    return np.clip(0.5 + (1 - r) / np.maximum(gradient, 1e-9), 0, 1)


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    canvas += cover[..., None] * (colour - canvas)
