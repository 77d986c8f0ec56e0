"""OpenCV's convention (COLMAP's too): cameras look along +Z with +Y down; poses are world-to-camera [R | t].

The centre of the first pixel is at (0, 0) there and at (0.5, 0.5) here. The world itself is left as it is.
"""

from __future__ import annotations

import numpy as np

from engine.space import Cameras

_FLIP = np.diag([1.0, -1.0, -1.0])  # camera axes, ours <-> theirs; its own inverse


def extrinsics(cameras: Cameras) -> np.ndarray:
    """-> (n, 3, 4) float32, x_camera = R @ x_world + t."""
    pose = cameras.camera_to_world.astype(np.float64)
    rotation = _FLIP @ pose[:, :3, :3].transpose(0, 2, 1)
    translation = -(rotation @ pose[:, :3, 3:])
    return np.concatenate([rotation, translation], -1).astype(np.float32)


def intrinsics(cameras: Cameras) -> np.ndarray:
    """-> (n, 3, 3) float32, the matrix K with the principal point in their pixel coordinates."""
    k = np.zeros((len(cameras), 3, 3), np.float32)
    k[:, 0, 0], k[:, 1, 1] = cameras.fx, cameras.fy
    k[:, 0, 2], k[:, 1, 2] = cameras.cx - 0.5, cameras.cy - 0.5
    k[:, 2, 2] = 1
    return k


def cameras(extrinsic: np.ndarray, intrinsic: np.ndarray, width: int, height: int) -> Cameras:
    """Inverse of :func:`extrinsics` and :func:`intrinsics`: (n, 3 or 4, 4) and (n, 3, 3) -> Cameras."""
    rotation = extrinsic[:, :3, :3].astype(np.float64)
    pose = np.zeros((len(rotation), 4, 4))
    pose[:, :3, :3] = rotation.transpose(0, 2, 1) @ _FLIP
    pose[:, :3, 3:] = -(rotation.transpose(0, 2, 1) @ extrinsic[:, :3, 3:].astype(np.float64))
    pose[:, 3, 3] = 1
    k = intrinsic.astype(np.float32)
    return Cameras(pose.astype(np.float32), k[:, 0, 0], k[:, 1, 1], k[:, 0, 2] + 0.5, k[:, 1, 2] + 0.5, width, height)
