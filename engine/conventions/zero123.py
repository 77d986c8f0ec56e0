"""Zero-1-to-3's camera convention: z up, looking at the origin, (polar, azimuth, radius).

The polar angle is measured from +z down; azimuth = atan2(y, x), positive to the right of a viewer who looks at the
object; the radius is in units of the object's longest side. Theirs and ours are both right-handed, and our axes
(z, x, y) are their (x, y, z): a cyclic exchange, so azimuths are equal and polar = 90 - elevation.
Source: cvlab-columbia/zero123, ``zero123/ldm/data/simple.py`` (cartesian_to_spherical, get_T), read for its facts.
"""

from __future__ import annotations

import numpy as np

from engine.space import OBJECT_LONGEST_SIDE

FOV_DEG = 49.1
"""Full field of view of every Zero-1-to-3 picture."""
RADIUS_RANGE = (1.5, 2.2)
CANONICAL_RADIUS = 1.9
"""The distance that a framed condition picture is taken to have."""


def polar_deg(elevation_deg: float) -> float:
    """Elevation above the ground plane -> angle from the +z axis."""
    return 90.0 - elevation_deg


def elevation_deg(polar: float) -> float:
    """Inverse of :func:`polar_deg`."""
    return 90.0 - polar


def field_distance(radius: float) -> float:
    """Their radius -> distance in field units (the object's longest side is 1.5 there)."""
    return radius * OBJECT_LONGEST_SIDE


def radius(distance: float) -> float:
    """Inverse of :func:`field_distance`."""
    return distance / OBJECT_LONGEST_SIDE


def points_from_field(points: np.ndarray) -> np.ndarray:
    """(..., 3) in field coordinates -> (..., 3) in Zero-1-to-3's frame."""
    return points[..., [2, 0, 1]] / OBJECT_LONGEST_SIDE


def points_to_field(points: np.ndarray) -> np.ndarray:
    """Inverse of :func:`points_from_field`."""
    return points[..., [1, 2, 0]] * OBJECT_LONGEST_SIDE
