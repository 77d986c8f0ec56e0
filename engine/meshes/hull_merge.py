"""Fewer convex hulls for the same solid: the two that together add the least volume become one, again and again.

CoACD joins its parts by how deep the dents are that a joint hull bridges, which for a ring (a mug's wall) bridges much
of the hole; what a physics engine feels is the volume that is added, so that is what is kept small here.
"""

from __future__ import annotations

import numpy as np

NEAR = 0.01
"""Parts whose boxes lie no farther apart than this share of the whole are neighbours."""


def merge_hulls(parts: list[np.ndarray], most: int, corners: int = 64) -> list[np.ndarray]:
    """Convex parts, each (v, 3) points that are not flat, joined until at most ``most`` are left.

    Each step joins the pair whose common hull has the least volume more than its two parts; neighbours first, others
    where no neighbours are left. A joint hull keeps at most ``corners`` vertices (:func:`fewer_corners`).
    Returns the points of each part, those that were joined last.
    """
    points = {i: np.asarray(part, np.float64) for i, part in enumerate(parts)}
    if len(points) <= most:
        return list(points.values())
    volumes = {i: _volume(part) for i, part in points.items()}
    boxes = {i: (part.min(0), part.max(0)) for i, part in points.items()}
    near = NEAR * float(np.ptp(np.concatenate(list(points.values())), axis=0).max())
    added: dict[tuple[int, int], float] = {}

    def weigh(pairs: list[tuple[int, int]], anywhere: bool = False) -> None:
        for a, b in pairs:
            (low, high), (other_low, other_high) = boxes[a], boxes[b]
            if anywhere or ((low <= other_high + near) & (other_low <= high + near)).all():
                added[a, b] = _volume(np.concatenate([points[a], points[b]])) - volumes[a] - volumes[b]

    weigh([(a, b) for a in points for b in points if a < b])
    new = len(points)
    while len(points) > most:
        if not added:
            weigh([(a, b) for a in points for b in points if a < b], anywhere=True)
        a, b = min(added, key=lambda pair: added[pair])
        points[new] = fewer_corners(np.concatenate([points.pop(a), points.pop(b)]), corners)
        volumes[new], boxes[new] = _volume(points[new]), (points[new].min(0), points[new].max(0))
        added = {pair: value for pair, value in added.items() if a not in pair and b not in pair}
        weigh([(other, new) for other in points if other != new])
        new += 1
    return list(points.values())


def fewer_corners(points: np.ndarray, corners: int) -> np.ndarray:
    """The vertices of the convex hull of (v, 3) points; of more than ``corners`` those that lie farthest out in so many
    evenly spread directions, the shape taken as round: at most ``corners``, and never outside the hull."""
    from scipy.spatial import ConvexHull
    hull = points[ConvexHull(points).vertices]
    if len(hull) <= corners:
        return hull
    away = hull - hull.mean(0)
    spread, axes = np.linalg.eigh(away.T @ away / len(away))
    rounded = away @ axes / np.sqrt(np.maximum(spread, 1e-12 * spread.max()))
    return hull[np.unique((rounded @ _directions(corners).T).argmax(0))]


def _directions(count: int) -> np.ndarray:
    """(count, 3) unit vectors, even by the golden angle."""
    step = np.arange(count) + 0.5
    tilt, turn = np.arccos(1 - 2 * step / count), np.pi * (1 + 5 ** 0.5) * step
    return np.stack([np.cos(turn) * np.sin(tilt), np.cos(tilt), np.sin(turn) * np.sin(tilt)], 1)


def _volume(points: np.ndarray) -> float:
    from scipy.spatial import ConvexHull
    return float(ConvexHull(points).volume)
