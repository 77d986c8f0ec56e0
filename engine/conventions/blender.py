"""Blender's convention: +Z up, the front of an object looks along -Y. Cameras look along -Z with +Y up, as ours do.

The exchange (x, y, z) -> (x, -z, y) is the one that Blender's glTF import makes.
"""

from __future__ import annotations

import numpy as np

from engine.space import Cameras

SENSOR_MM = 36.0
"""Blender's default sensor; it lies along the picture's longer side (sensor fit "auto")."""

_FROM_HOUSE = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def points_from_house(points: np.ndarray) -> np.ndarray:
    """(..., 3) +Y up -> (..., 3) +Z up."""
    return points @ _FROM_HOUSE.T.astype(points.dtype)


def points_to_house(points: np.ndarray) -> np.ndarray:
    """Inverse of :func:`points_from_house`."""
    return points @ _FROM_HOUSE.astype(points.dtype)


def poses_from_house(camera_to_world: np.ndarray) -> np.ndarray:
    """(..., 4, 4) camera-to-world, +Y up -> the same in Blender's world (an object's ``matrix_world``)."""
    exchange = np.eye(4)
    exchange[:3, :3] = _FROM_HOUSE
    return (exchange @ camera_to_world).astype(camera_to_world.dtype)


def poses_to_house(camera_to_world: np.ndarray) -> np.ndarray:
    """Inverse of :func:`poses_from_house`; it also brings NeRF's Z-up ``transforms.json`` poses home."""
    exchange = np.eye(4)
    exchange[:3, :3] = _FROM_HOUSE.T
    return (exchange @ camera_to_world).astype(camera_to_world.dtype)


def lens_mm(cameras: Cameras) -> np.ndarray:
    """Focal lengths as Blender's ``camera.data.lens``, (n,) millimetres; pixels must be square."""
    return cameras.fx / max(cameras.width, cameras.height) * SENSOR_MM


def focal_pixels(lens: np.ndarray, width: int, height: int) -> np.ndarray:
    """Inverse of :func:`lens_mm`."""
    return np.asarray(lens) / SENSOR_MM * max(width, height)
