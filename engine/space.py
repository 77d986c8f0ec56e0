"""Cameras, frames, axes and units: the one place where the house's space is defined.

Right-handed, +Y up, metres; the front of an asset looks along +Z. Cameras look along their own -Z with +Y up in
the picture (OpenGL, glTF). Azimuth 0 is the front and grows from +Z toward +X; elevation is positive upward.
Public names carry degrees; radians stay inside. Other conventions live in ``engine.conventions``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FIELD_HALF_EXTENT = 1.0
"""Fields live in the cube [-1, 1]^3."""
OBJECT_LONGEST_SIDE = 1.5
"""An object's longest side inside that cube."""


@dataclass(frozen=True)
class Frame:
    """The similarity that takes field coordinates to metres: ``world = field * scale + offset``.

    ``up`` names the axis of the *source* that was turned to +Y when the field was made ("y" or "z"); it is what
    ``--keep-coordinates`` undoes.
    """

    scale: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    up: str = "y"

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """points : (n, 3) in field coordinates -> (n, 3) in metres."""
        return points * self.scale + np.asarray(self.offset, dtype=points.dtype)

    def to_field(self, points: np.ndarray) -> np.ndarray:
        """points : (n, 3) in metres -> (n, 3) in field coordinates."""
        return (points - np.asarray(self.offset, dtype=points.dtype)) / self.scale

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale, "offset": list(self.offset), "up": self.up}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Frame:
        x, y, z = data["offset"]
        return Frame(float(data["scale"]), (float(x), float(y), float(z)), str(data["up"]))


def orbit_pose(azimuth_deg: float, elevation_deg: float, distance: float,
               target: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Camera-to-world (4, 4) float32 of a camera on a sphere around ``target`` that looks at it, +Y up.

    At elevation +-90 the picture's up is taken from the azimuth, so the pose stays defined and continuous.
    """
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    back = np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
    right = np.array([math.cos(a), 0.0, -math.sin(a)])
    up = np.cross(back, right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, up, back
    pose[:3, 3] = np.asarray(target) + back * distance
    return pose.astype(np.float32)


def orbit_of_pose(pose: np.ndarray, target: tuple[float, float, float] = (0.0, 0.0, 0.0)
                  ) -> tuple[float, float, float]:
    """Inverse of :func:`orbit_pose`: (azimuth in degrees [0, 360), elevation in degrees, distance)."""
    d = np.asarray(pose, dtype=np.float64)[:3, 3] - np.asarray(target, dtype=np.float64)
    distance = float(np.linalg.norm(d))
    elevation = math.degrees(math.asin(max(-1.0, min(1.0, d[1] / distance))))
    return math.degrees(math.atan2(d[0], d[2])) % 360.0, elevation, distance


def focal_from_fov(fov_deg: float, pixels: int) -> float:
    """Focal length in pixels of a full field of view ``fov_deg`` over ``pixels``."""
    return 0.5 * pixels / math.tan(math.radians(fov_deg) / 2)


@dataclass
class Cameras:
    """A batch of pinhole cameras that share one picture size.

    camera_to_world : (n, 4, 4) float32, rigid, OpenGL axes
    fx, fy, cx, cy : (n,) float32, in pixels; the centre of pixel (row i, column j) is at (j + 0.5, i + 0.5)
    width, height : pixels
    """

    camera_to_world: np.ndarray
    fx: np.ndarray
    fy: np.ndarray
    cx: np.ndarray
    cy: np.ndarray
    width: int
    height: int

    def __len__(self) -> int:
        return int(self.camera_to_world.shape[0])

    def __getitem__(self, index: Any) -> Cameras:
        i = np.atleast_1d(np.arange(len(self))[index])
        return Cameras(self.camera_to_world[i], self.fx[i], self.fy[i], self.cx[i], self.cy[i],
                       self.width, self.height)

    @staticmethod
    def orbit(azimuths_deg: Any, elevations_deg: Any, distances: Any, fov_deg: Any, size: int) -> Cameras:
        """Cameras around the origin; the four arguments broadcast to (n,); square pictures of ``size`` pixels."""
        az, el, r, fov = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=np.float64))
                                               for v in (azimuths_deg, elevations_deg, distances, fov_deg)))
        poses = np.stack([orbit_pose(*row) for row in zip(az.tolist(), el.tolist(), r.tolist(), strict=True)])
        f = np.array([focal_from_fov(v, size) for v in fov.tolist()], dtype=np.float32)
        c = np.full(len(f), size / 2, dtype=np.float32)
        return Cameras(poses, f, f.copy(), c, c.copy(), size, size)

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras for another picture size."""
        sx, sy = width / self.width, height / self.height
        return Cameras(self.camera_to_world, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height)

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Origins and unit directions through every pixel's centre: two (n, height, width, 3) float32."""
        j, i = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        x = (j[None] - self.cx[:, None, None]) / self.fx[:, None, None]
        y = -(i[None] - self.cy[:, None, None]) / self.fy[:, None, None]
        local = np.stack([x, y, -np.ones_like(x)], -1)
        local /= np.linalg.norm(local, axis=-1, keepdims=True)
        directions = np.einsum("nij,nhwj->nhwi", self.camera_to_world[:, :3, :3], local).astype(np.float32)
        origins = np.broadcast_to(self.camera_to_world[:, None, None, :3, 3], directions.shape).astype(np.float32)
        return origins, directions

    def clip_from_world(self, near: float = 0.05, far: float = 50.0) -> np.ndarray:
        """OpenGL projection times view, (n, 4, 4) float32: clip = matrix @ [x, y, z, 1]; NDC +Y is up."""
        n = len(self)
        projection = np.zeros((n, 4, 4))
        projection[:, 0, 0] = 2 * self.fx / self.width
        projection[:, 0, 2] = 1 - 2 * self.cx / self.width
        projection[:, 1, 1] = 2 * self.fy / self.height
        projection[:, 1, 2] = 2 * self.cy / self.height - 1
        projection[:, 2, 2] = -(far + near) / (far - near)
        projection[:, 2, 3] = -2 * far * near / (far - near)
        projection[:, 3, 2] = -1
        view = np.linalg.inv(self.camera_to_world.astype(np.float64))
        return (projection @ view).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"camera_to_world": self.camera_to_world.tolist(), "fx": self.fx.tolist(), "fy": self.fy.tolist(),
                "cx": self.cx.tolist(), "cy": self.cy.tolist(), "width": self.width, "height": self.height}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Cameras:
        def column(name: str) -> np.ndarray:
            return np.asarray(data[name], dtype=np.float32)
        return Cameras(column("camera_to_world"), column("fx"), column("fy"), column("cx"), column("cy"),
                       int(data["width"]), int(data["height"]))


@dataclass(frozen=True)
class Orbit:
    """Where a picture was taken from, as far as it is known; degrees."""

    azimuth_deg: float = 0.0
    elevation_deg: float = 0.0
    known: bool = field(default=True)
