"""Pictures with known cameras in NeRF's transforms.json convention -> Views, centred and scaled for a field."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine.artifacts import Views
from engine.errors import BadInput
from engine.job import Job, Params, stage
from engine.space import OBJECT_LONGEST_SIDE, Cameras, Frame, focal_from_fov

EXTENSIONS = ("", ".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG")
MAX_PIXELS = 100_000_000
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
Z_UP_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Scene with +Z up -> +Y up; the scene's -Y, a Blender object's front, becomes +Z."""
IN_BOX = 1.9
"""Longest side of a box that the user gave, field units."""


class LoadViews(Params):
    """Parameters of ``load_views``. The files' digest stands for them in keys; the folder's path does not."""

    folder: str = Field(exclude=True, description="folder with transforms.json or transforms_train.json")
    digest: str = Field("", description="SHA-256 of the files, as views_digest gives it")
    up: Literal["auto", "y", "z"] = Field("auto", description="axis that points up; auto asks the cameras' own up")
    bounds: str = Field("auto", description='auto, "x0,y0,z0,x1,y1,z1" in the scene\'s own coordinates, or a number s '
                                            "for the cube [-s, s]^3")
    max_side: int = Field(400, ge=16, le=8192, description="larger pictures are scaled down to this, pixels")
    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"max_side": 200}, "high": {"max_side": 800}}


@dataclass
class _Shot:
    """One frame of the file: its picture, its mask or None, its pose, and its own or the file's numbers."""

    picture: Path
    mask: Path | None
    pose: np.ndarray
    numbers: dict[str, Any]
    held_out: bool


def views_digest(folder: str | Path) -> str:
    """SHA-256 over the scene's files (transforms and pictures). Raises BadInput for all that is wrong in the JSON."""
    total = hashlib.sha256()
    root = Path(folder)
    for path in [*_transforms(root), *(p for shot in _shots(root) for p in (shot.picture, shot.mask) if p)]:
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}", "check the file") from error
        total.update(f"{path.name}\0{content}\n".encode())
    return total.hexdigest()


@stage(version=1)
def load_views(p: LoadViews, job: Job) -> Views:
    """Read pictures and cameras, find the object, and bring it to the cube with its longest side 1.5.

    Frames of transforms_test.json are held out. The result's frame leads back to the scene's own coordinates.
    Raises BadInput, in one line each, for: no transforms file, no frames, a missing or unreadable picture, a pose
    that is not rigid or not finite, sizes that differ, pictures without a mask or a plain background, bad bounds.
    """
    if p.digest and views_digest(p.folder) != p.digest:
        raise BadInput(f"files in {p.folder} changed since the run was planned", "start again")
    shots = _shots(Path(p.folder))
    if bent := sorted({k for s in shots for k in DISTORTION if abs(_number(s, k) or 0) > 1e-3}):
        job.warn(f"lens distortion ({', '.join(bent)}) is ignored: undistort the pictures for a sharper result")
    images: list[tuple[np.ndarray, tuple[int, int]]] = []
    for i, shot in enumerate(shots):
        images.append(_rgba(shot, p.max_side, images[0][0].shape if images else None))
        job.progress(0.6 * (i + 1) / len(shots))
    cameras = _cameras(shots, [size for _, size in images], images[0][0].shape)
    up = _up(cameras) if p.up == "auto" else p.up
    if up == "z":
        turn = np.eye(4)
        turn[:3, :3] = Z_UP_TO_Y_UP
        cameras.camera_to_world = (turn @ cameras.camera_to_world).astype(np.float32)
    views = Views(np.stack([image for image, _ in images]), cameras, np.array([s.held_out for s in shots]),
                  Frame(up=up), [s.picture.stem for s in shots])
    if p.bounds.strip() == "auto":
        views = _found(views)
    else:
        low, high = _box(p.bounds, up)
        views = _placed(views, (low + high) / 2, float((high - low).max()) / IN_BOX)
    job.metric("views", int((~views.held_out).sum()))
    job.metric("held_out_views", int(views.held_out.sum()))
    return views


def _transforms(root: Path) -> list[Path]:
    """The file of the frames to fit and, where there is one, of those to hold out."""
    fitted = next((root / n for n in ("transforms.json", "transforms_train.json") if (root / n).is_file()), None)
    if fitted is None and not root.is_dir():
        raise BadInput(f"there is no folder {root}", "check the path")
    if fitted is None:
        raise BadInput(f"{root} has no transforms.json or transforms_train.json",
                       "give the folder of a NeRF-style scene")
    test = root / "transforms_test.json"
    return [fitted, test] if test.is_file() else [fitted]


def _shots(root: Path) -> list[_Shot]:
    shots = []
    for path in _transforms(root):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadInput(f"{path} is not readable JSON: {error}", "check the file") from error
        frames = data.get("frames") if isinstance(data, dict) else None
        held_out = path.name == "transforms_test.json"
        if not isinstance(frames, list) or (not frames and not held_out):
            raise BadInput(f'{path} has no frames: its "frames" is missing, empty or not a list',
                           "list one frame a picture")
        common = {k: v for k, v in data.items() if k != "frames"}
        for i, frame in enumerate(frames):
            where = f"frame {i} of {path}"
            if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
                raise BadInput(f"{where} has no file_path", "name its picture")
            mask = frame.get("mask_path")
            shots.append(_Shot(_file(root, frame["file_path"], where),
                               _file(root, mask, where) if isinstance(mask, str) else None,
                               _pose(frame.get("transform_matrix"), where), common | frame, held_out))
    return shots


def _file(root: Path, name: str, where: str) -> Path:
    for extension in EXTENSIONS:
        path = root / (name + extension)
        if path.is_file():
            return path
    raise BadInput(f"{where}: {root / name} does not exist (nor with .png or .jpg)", "check file_path and mask_path")


def _pose(rows: Any, where: str) -> np.ndarray:
    """(4, 4) float64 with an exact rotation; BadInput where the matrix is not a rigid camera-to-world."""
    try:
        pose = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.zeros(0)
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0, 0, 0, 1]])
    if pose.shape != (4, 4):
        raise BadInput(f"{where}: transform_matrix is not 4 x 4 numbers", "give an OpenGL camera-to-world matrix")
    if not np.isfinite(pose).all():
        raise BadInput(f"{where}: transform_matrix holds NaN or infinity", "give finite numbers")
    rotation = pose[:3, :3]
    if (np.abs(rotation.T @ rotation - np.eye(3)).max() > 1e-2 or np.linalg.det(rotation) < 0
            or np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6):
        raise BadInput(f"{where}: transform_matrix is not rigid (a rotation without scale or mirror, and a position)",
                       "remove scale and shear from the matrix")
    u, _, vt = np.linalg.svd(rotation)
    pose[:3, :3] = u @ vt
    return pose


def _rgba(shot: _Shot, max_side: int, expected: tuple[int, ...] | None) -> tuple[np.ndarray, tuple[int, int]]:
    """(h, w, 4) float32 scaled down to max_side, and the file's own (width, height)."""
    from PIL import Image
    picture = _open(shot.picture)
    size = picture.size
    scale = min(1.0, max_side / max(size))
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if expected is not None and expected[:2] != target[::-1]:
        raise BadInput(f"{shot.picture} is {size[0]} x {size[1]} pixels, the first picture has another size",
                       "give all pictures one size")
    rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
    if shot.mask is not None:
        mask = _open(shot.mask)
        if mask.size != size:
            raise BadInput(f"{shot.mask} is {mask.size[0]} x {mask.size[1]} pixels, its picture {size[0]} x {size[1]}",
                           "give the mask its picture's size")
        rgba = np.concatenate([rgba[..., :3], np.asarray(mask.convert("L"), dtype=np.float32)[..., None] / 255], -1)
    elif rgba[..., 3].min() == 1:
        rgba = _without_background(rgba[..., :3], shot.picture)
    if target != size:  # averaged premultiplied, so that hidden colours do not bleed over the edge
        flat = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
        small = np.stack([np.asarray(Image.fromarray(flat[..., c]).resize(target, Image.Resampling.BOX))
                          for c in range(4)], -1)
        rgba = np.concatenate([small[..., :3] / np.maximum(small[..., 3:], 1e-6), small[..., 3:]], -1)
    return np.clip(rgba, 0, 1).astype(np.float32), size


def _open(path: Path) -> Any:
    from PIL import Image
    try:
        picture = Image.open(path)
        if picture.width * picture.height <= MAX_PIXELS:
            picture.load()
    except Exception as error:  # Pillow raises many kinds; each means that this file is no usable picture
        raise BadInput(f"{path} is not a readable picture: {error}", "save it again as PNG or JPEG") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise BadInput(f"{path} claims {picture.width} x {picture.height} pixels", f"give at most {MAX_PIXELS}")
    if picture.mode.startswith(("I", "F")):
        raise BadInput(f"{path} has more than 8 bits a channel", "save it as an 8-bit picture")
    return picture


def _without_background(rgb: np.ndarray, path: Path) -> np.ndarray:
    """Alpha for a picture before one plain colour, which is read off its border; edges are unmixed."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    plain = np.median(border, 0)
    if (np.abs(border - plain).max(-1) < 0.06).mean() < 0.9:
        raise BadInput(f"{path} has neither alpha nor a mask, and its background is not one plain colour",
                       "give RGBA pictures or a mask_path in each frame")
    alpha = np.clip((np.abs(rgb - plain).max(-1, keepdims=True) - 0.04) / 0.12, 0, 1)
    colour = (rgb - (1 - alpha) * plain) / np.maximum(alpha, 1e-3)
    return np.concatenate([np.clip(colour, 0, 1), alpha], -1)


def _cameras(shots: list[_Shot], sizes: list[tuple[int, int]], shape: tuple[int, ...]) -> Cameras:
    """Cameras for pictures of ``shape`` (h, w, ...) whose files had ``sizes`` (w, h)."""
    rows = [_intrinsics(shot, size) for shot, size in zip(shots, sizes, strict=True)]
    scale = np.array([(shape[1] / w, shape[0] / h) for w, h in sizes])
    fx, fy, cx, cy = (np.array(rows).T * np.stack([scale[:, 0], scale[:, 1]] * 2)).astype(np.float32)
    poses = np.stack([s.pose for s in shots]).astype(np.float32)
    return Cameras(poses, fx, fy, cx, cy, int(shape[1]), int(shape[0]))


def _number(shot: _Shot, name: str) -> float | None:
    """A number that the file tells of a frame; BadInput where it is none."""
    value = shot.numbers.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"{name} of {shot.picture.name} is {value!r}", "give a finite number in the transforms file")
    return float(value)


def _intrinsics(shot: _Shot, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in the file's own pixels."""
    number = partial(_number, shot)
    w, h = number("w") or float(size[0]), number("h") or float(size[1])
    sx, sy = size[0] / w, size[1] / h
    if min(sx, sy) <= 0 or abs(sx / sy - 1) > 0.02:
        raise BadInput(f"the transforms file says {w:g} x {h:g} pixels, {shot.picture.name} is {size[0]} x {size[1]}",
                       "correct w and h")
    fx, fov = number("fl_x"), number("camera_angle_x")
    if fx is None and fov is not None and 0 < fov < math.pi:
        fx = focal_from_fov(math.degrees(fov), 1) * w
    if fx is None or fx <= 0:
        raise BadInput(f"the transforms file tells no usable focal length for {shot.picture.name}",
                       "give camera_angle_x in radians, or fl_x in pixels")
    fy, cx, cy = number("fl_y") or fx, number("cx"), number("cy")
    return fx * sx, fy * sy, (w / 2 if cx is None else cx) * sx, (h / 2 if cy is None else cy) * sy


def _up(cameras: Cameras) -> Literal["y", "z"]:
    """People hold cameras upright: the axis that the cameras' own up agrees with."""
    mean = cameras.camera_to_world[:, :3, 1].mean(0)
    return "z" if mean[2] > mean[1] else "y"


def _box(bounds: str, up: str) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the user's box, turned with the scene."""
    try:
        numbers = [float(v) for v in bounds.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers = [-numbers[0]] * 3 + [numbers[0]] * 3
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)) or any(numbers[i] >= numbers[i + 3] for i in range(3)):
        raise BadInput(f'bounds "{bounds}" is not auto, not "x0,y0,z0,x1,y1,z1" with each first less than its second, '
                       "and not one positive number", 'example: --bounds "-1,-1,0,1,1,2"')
    corners = np.array(numbers).reshape(2, 3)
    if up == "z":
        corners = corners @ Z_UP_TO_Y_UP.T
    return corners.min(0), corners.max(0)


def _placed(views: Views, centre: np.ndarray, scale: float) -> Views:
    """The same views in the coordinates p -> (p - centre) / scale of their present ones; the frame keeps up."""
    cameras = views.cameras[:]
    cameras.camera_to_world = cameras.camera_to_world.copy()
    cameras.camera_to_world[:, :3, 3] = (cameras.camera_to_world[:, :3, 3] - centre) / scale
    offset = views.frame.to_world(np.asarray(centre, dtype=np.float64)[None])[0]
    frame = Frame(views.frame.scale * scale, (float(offset[0]), float(offset[1]), float(offset[2])), views.frame.up)
    return Views(views.images, cameras, views.held_out, frame, views.names, views.reference, views.weights)


def _found(views: Views) -> Views:
    """Find the object: the point that the cameras look at, then twice the visual hull around it."""
    from engine.fields.hull import visual_hull
    poses = views.cameras.camera_to_world[~views.held_out].astype(np.float64)
    position, axis = poses[:, :3, 3], -poses[:, :3, 2]
    across = np.eye(3) - axis[:, :, None] * axis[:, None, :]  # distance to each optical axis, least squares
    if len(poses) < 2 or np.linalg.cond(across.sum(0)) > 1e4:
        raise BadInput("the cameras look along one direction, so the object's place is not determined",
                       'give --bounds "x0,y0,z0,x1,y1,z1", or pictures from more sides')
    centre = np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, position))
    half_view = 0.5 * min(views.cameras.width, views.cameras.height) / views.cameras.fx[~views.held_out]
    reach = float(np.median(np.linalg.norm(position - centre, axis=1) * half_view))
    views = _placed(views, centre, 1.3 * reach)
    for resolution in (48, 64):
        hull = visual_hull(views, resolution, seen=0.5)
        if not bool((hull > 0.5).any()):  # a wrong mask may have emptied it
            hull = visual_hull(views, resolution, votes=0.8, seen=0.5)
        z, y, x = np.nonzero(hull.numpy() > 0.5)
        if not len(x):
            raise BadInput("the pictures' masks have no volume in common where the cameras look",
                           "check masks, poses and their convention (OpenGL camera-to-world), or give --bounds")
        cells = np.stack([x, y, z], -1)
        low, high = (2 * cells.min(0) / resolution - 1), (2 * (cells.max(0) + 1) / resolution - 1)
        views = _placed(views, (low + high) / 2, float((high - low).max()) / OBJECT_LONGEST_SIDE)
    return views
