"""Joints that move in space -> poses in a picture: where the camera stands, and how large the figure is in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from engine.clip_artifacts import Poses
from engine.clips.poses.bones import facing
from engine.clips.poses.framing import warned
from engine.clips.poses.joints import ANKLES, HIPS
from engine.clips.poses.proportions import of_space
from engine.errors import BadInput
from engine.space import Cameras, focal_from_fov, orbit_pose

STATURE = 1.15
"""A standing figure's height over the sum of its shin, thigh, trunk and neck to nose: what is above the nose and below
the ankles. A grown person's."""
MARGIN = 0.04
"""Of the picture's side that stays free where a motion is drawn smaller, to stay inside."""


@dataclass(frozen=True)
class Shot:
    """One camera for a whole clip.

    azimuth_deg : 0 sees the figure's front, positive its left; elevation_deg : positive from above
    fov_deg : of the picture's height; 0 is an orthographic camera
    fill : share of the picture's height that the standing figure takes, 0..1
    follow : the figure's way over the ground is left out, so that it stays in the middle
    """

    azimuth_deg: float = 0.0
    elevation_deg: float = 5.0
    fov_deg: float = 40.0
    fill: float = 0.75
    follow: bool = False


@dataclass
class Moving:
    """A figure in space.

    joints : (n, 18, 3), +Y up, right-handed, any unit, NaN where there is none; fps : > 0
    height : of the standing figure, same unit; None: from its bones
    """

    joints: np.ndarray
    fps: float
    loop: bool = False
    height: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def pictured(figure: Moving, shot: Shot, size: tuple[int, int]) -> Poses:
    """See a moving figure through a camera: (h, w) pixels, drawn smaller (and said so) where it would leave the
    picture.

    The figure's front is where it faces in its first frame. Its ground is the lowest place of its ankles; the middle of
    its way stands in the middle of the picture. Its proportions go along as meta["bones"], and where it
    stands (column, and row of its ankles) as meta["stands"], for retargeting.
    """
    joints, height = _placed(figure, shot)
    places, depth, scale = seen_by(joints, shot, size, height)
    if shot.fov_deg > 0 and np.nanmin(depth) <= 0.05 * height:
        raise BadInput("the figure walks into the camera", "follow it (--set load_poses.follow=true), or see it "
                                                           "without perspective (--set load_poses.fov_deg=0)")
    zoom = _zoom(places, size)
    middle = np.array([size[1] / 2, size[0] / 2])
    bones = {name: length * scale * zoom for name, length in of_space(joints).items()}
    foot = (seen_by(np.array([[[0.0, _lowest(joints), 0.0]]]), shot, size, height)[0][0, 0] - middle) * zoom + middle
    meta = {**figure.meta, "shot": asdict(shot), "bones": bones, "stands": foot.tolist()}
    if zoom < 1:
        meta = warned(meta, f"the motion leaves the picture: its figure is drawn {zoom:.2f} times as large "
                            f"({shot.fill * zoom:.0%} of the height); follow = true keeps it in the middle instead")
    return Poses(((places - middle) * zoom + middle).astype(np.float32), size, figure.fps, figure.loop, meta)


def stands(joints: np.ndarray) -> list[float]:
    """Where a standing figure (18, 2) stands: its hips' column, its lower ankle's row."""
    return [float(np.nanmean(joints[list(HIPS), 0])), float(np.nanmax(joints[list(ANKLES), 1]))]


def camera_of(shot: Shot, size: tuple[int, int], height: float) -> tuple[Cameras, float]:
    """The camera, looking at the origin from where a figure of ``height`` takes ``fill`` of the picture's; and its
    distance. An orthographic one has the same pixels a unit at the origin's depth."""
    fov = shot.fov_deg if shot.fov_deg > 0 else 40.0
    distance = float(height / 2 / shot.fill / np.tan(np.radians(fov / 2)))
    return camera_at(shot.azimuth_deg, shot.elevation_deg, distance, fov, size), distance


def camera_at(azimuth_deg: float, elevation_deg: float, distance: float, fov_deg: float, size: tuple[int, int]
              ) -> Cameras:
    """One camera that looks at the origin; ``fov_deg`` is of the picture's height, ``size`` (h, w)."""
    focal = np.array([focal_from_fov(fov_deg, size[0])], np.float32)
    pose = orbit_pose(azimuth_deg, elevation_deg, distance)[None]
    middle = (np.array([size[1] / 2], np.float32), np.array([size[0] / 2], np.float32))
    return Cameras(pose, focal, focal.copy(), *middle, size[1], size[0])


def seen_by(joints: np.ndarray, shot: Shot, size: tuple[int, int], height: float
            ) -> tuple[np.ndarray, np.ndarray, float]:
    """(n, k, 3) through a shot's camera -> column and row (n, k, 2) in pixels, depth (n, k) along the view axis, and
    pixels a unit at the origin."""
    camera, distance = camera_of(shot, size, height)
    world_to_camera = np.linalg.inv(camera.camera_to_world[0].astype(np.float64))
    local = joints @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    depth = -local[..., 2]
    over = depth if shot.fov_deg > 0 else np.full_like(depth, distance)
    x = camera.cx[0] + camera.fx[0] * local[..., 0] / over
    y = camera.cy[0] - camera.fy[0] * local[..., 1] / over
    return np.stack([x, y], -1), depth, float(camera.fy[0]) / distance


def stature(joints: np.ndarray) -> float:
    """A standing figure's height, estimated from its bones (n, 18, 3)."""
    bones = of_space(joints)
    trunk = bones.get("trunk", 0.0)
    total = (trunk + bones.get("r_thigh", 0.65 * trunk) + bones.get("r_shin", 0.65 * trunk)
             + bones.get("nose", 0.35 * trunk))
    if total <= 0:
        raise BadInput("the figure has no extent: all its joints are in one place", "give a skeleton with bones")
    return STATURE * total


def _placed(figure: Moving, shot: Shot) -> tuple[np.ndarray, float]:
    """Its joints with its front to +Z, the middle of its standing height at the origin, the middle of its way there too
    -> (joints, height)."""
    joints = np.asarray(figure.joints, dtype=np.float64)
    height = figure.height or stature(joints)
    front = facing(joints)
    known = np.flatnonzero(np.isfinite(front).all(-1) & (np.linalg.norm(front, axis=-1) > 0.5))
    if not len(known):
        raise BadInput("shoulders and hips are known in no frame, so the figure has no front", "give a whole skeleton")
    x, _, z = front[known[0]]
    turn = np.array([[z, 0.0, -x], [0.0, 1.0, 0.0], [x, 0.0, z]]) / np.hypot(x, z)
    joints = joints @ turn.T
    pelvis = joints[:, list(HIPS)].mean(1)
    floor = _lowest(joints) - 0.04 * height
    way = np.nan_to_num(pelvis[:, [0, 2]]) if shot.follow else np.broadcast_to(
        (np.nanmin(pelvis[:, [0, 2]], 0) + np.nanmax(pelvis[:, [0, 2]], 0)) / 2, (len(joints), 2))
    shift = np.stack([way[:, 0], np.full(len(joints), floor + height / 2), way[:, 1]], -1)
    return joints - shift[:, None], height


def _lowest(joints: np.ndarray) -> float:
    """Of the ankles, or of all joints where none is known."""
    ankles = joints[:, list(ANKLES), 1]
    return float(np.nanmin(ankles if np.isfinite(ankles).any() else joints[..., 1]))


def _zoom(places: np.ndarray, size: tuple[int, int]) -> float:
    """1, or by how much the picture must be drawn smaller about its middle for all joints to be inside."""
    half = np.array([size[1], size[0]]) / 2
    reach = np.nanmax(np.abs(places - half).reshape(-1, 2), 0) / half
    return float(min(1.0, (1 - 2 * MARGIN) / max(float(reach.max()), 1e-9))) if reach.max() > 1 else 1.0

