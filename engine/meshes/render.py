"""Pictures of a textured mesh: lit, antialiased, on a light ground with a soft contact shadow.

For turntables and contact sheets. Light travels with the camera, so every side is shown equally well; the shadow is
that of an overcast sky, which has no direction and so does not contradict it. All sums are in linear light.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from engine.artifacts import TexturedMesh
from engine.kernels.raster import rasterize
from engine.meshes.bake import linear_from_srgb, srgb_from_linear
from engine.space import Cameras

SAMPLES = 2
"""Samples a pixel along each axis."""
LIGHTS = (((-0.55, 0.65, 0.6), 0.62), ((0.8, 0.25, 0.5), 0.22), ((0.1, 0.5, -0.9), 0.18))
"""(direction in camera axes, strength) of key, fill and rim."""
AMBIENT_UP, AMBIENT_DOWN = 0.42, 0.20
"""Sky's and ground's light on surfaces that look straight up and down."""
GROUND, HORIZON = 0.80, 0.92
"""Linear grey of the background at the picture's bottom and top."""
SHADOW_SIZE = 192


@dataclass(frozen=True)
class Stage:
    """A mesh made ready for many pictures.

    corners : (f, 3, 5) float32, normal and UV of each triangle's corners, or (f, 3, 9), with their tangents behind
    texture : (t * t, 3) linear; bumps : (s * s, 3) the normal map in [-1, 1], or None
    shadow : (s, s) light that the ground loses, over [-reach, reach]^2 around the middle
    """

    clip_source: torch.Tensor
    faces: torch.Tensor
    corners: torch.Tensor
    texture: torch.Tensor
    texture_shape: tuple[int, int]
    shadow: torch.Tensor
    reach: float
    middle: np.ndarray
    radius: float
    floor: float
    gloss: float
    bumps: torch.Tensor | None = None
    bumps_shape: tuple[int, int] = (0, 0)


def set_stage(mesh: TexturedMesh, device: str = "cpu", normal_map: np.ndarray | None = None,
              tangents: np.ndarray | None = None) -> Stage:
    """Move a mesh's arrays to ``device``, its texture to linear light, and work out its contact shadow.

    normal_map : (s, s, 3) in [0, 1], glTF's, with tangents : (v, 4), MikkTSpace; both or neither
    """
    vertices = torch.from_numpy(np.ascontiguousarray(mesh.vertices, dtype=np.float32)).to(device)
    faces = torch.from_numpy(np.ascontiguousarray(mesh.faces, dtype=np.int32)).to(device)
    attributes = torch.cat([torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)).to(device)
                            for a in (mesh.normals, mesh.uvs, *([] if tangents is None else [tangents]))], 1)
    bumps = None if normal_map is None else torch.from_numpy(np.ascontiguousarray(normal_map, np.float32)).to(device)
    texture = linear_from_srgb(torch.from_numpy(np.ascontiguousarray(mesh.base_color, dtype=np.float32)).to(device))
    low, high = mesh.vertices.min(0).astype(np.float64), mesh.vertices.max(0).astype(np.float64)
    middle = (low + high) / 2
    radius = float(np.linalg.norm(mesh.vertices - middle, axis=1).max())
    reach = 2.0 * radius
    shadow = _contact_shadow(vertices - vertices.new_tensor(middle), faces, float(low[1] - middle[1]), reach)
    return Stage(functional.pad(vertices, (0, 1), value=1.0), faces, attributes[faces.long()], texture.reshape(-1, 3),
                 (texture.shape[0], texture.shape[1]), shadow, reach, middle, radius, float(low[1]),
                 (1.0 - float(mesh.roughness)) ** 2 * 0.35, None if bumps is None else bumps.reshape(-1, 3) * 2 - 1,
                 (0, 0) if bumps is None else (bumps.shape[0], bumps.shape[1]))


def _contact_shadow(vertices: torch.Tensor, faces: torch.Tensor, floor: float, reach: float) -> torch.Tensor:
    """How much of the sky each point of the ground loses: (s, s), rows along +Z, columns along +X.

    Seen from below, without perspective: what lies close over the ground darkens it most, in a narrow blur; what
    lies high darkens it little, in a wide one.
    """
    height = (vertices[:, 1] - floor) / reach
    clip = torch.stack([vertices[:, 0] / reach, -vertices[:, 2] / reach, height - 0.5, torch.ones_like(height)], 1)
    triangle, weights, _ = rasterize(clip, faces, SHADOW_SIZE, SHADOW_SIZE)
    above = (height[faces.long()[triangle.clamp_min(0).long()]] * weights).sum(-1)
    covered = (triangle >= 0).float()
    shadow = torch.zeros_like(above)
    for depth, sigma, strength in ((0.04, 1.6, 0.6), (0.3, 8.0, 0.6)):
        shadow += strength * _blur(covered * torch.exp(-above / depth), sigma)
    return shadow.clamp(0, 1) * 0.8


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (h, w), ``sigma`` in pixels, zeros outside."""
    reach = int(np.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = functional.conv2d(image[None, None], kernel[None, None, :, None], padding=(reach, 0))
    return functional.conv2d(rows, kernel[None, None, None, :], padding=(0, reach))[0, 0]


def turntable_cameras(stage: Stage, azimuths_deg: np.ndarray, elevation_deg: float, size: int, fov_deg: float = 28.0
                      ) -> Cameras:
    """Cameras around the mesh's middle, just far enough that it fits from every side."""
    distance = 1.06 * stage.radius / np.sin(np.radians(fov_deg) / 2)
    cameras = Cameras.orbit(azimuths_deg, elevation_deg, distance, fov_deg, size)
    cameras.camera_to_world[:, :3, 3] += stage.middle.astype(np.float32)
    return cameras


@torch.no_grad()
def render(stage: Stage, camera: Cameras) -> np.ndarray:
    """The first of ``camera``'s pictures: (h, w, 3) uint8 sRGB."""
    device = stage.faces.device
    pose = torch.from_numpy(np.asarray(camera.camera_to_world[0], np.float32)).to(device)
    linear = _background(stage, camera, pose)[None].expand(3, -1, -1).clone()
    window, rows, columns = _window(stage, camera[0])
    if window is not None:
        h, w = SAMPLES * window.height, SAMPLES * window.width
        matrix = torch.from_numpy(window.clip_from_world(stage.radius * 0.1, stage.radius * 40)[0]).to(device)
        triangle, weights, _ = rasterize(stage.clip_source @ matrix.T, stage.faces, h, w)
        pixel = (triangle.reshape(-1) >= 0).nonzero()[:, 0]
        corner = stage.corners.index_select(0, triangle.reshape(-1).index_select(0, pixel).long())
        value = (corner * weights.reshape(-1, 3).index_select(0, pixel)[..., None]).sum(1)
        shaded = torch.zeros(h * w, 4, device=device)
        shaded[pixel] = functional.pad(_shade(stage, value, pose[:3, :3]), (0, 1), value=1.0)
        layers = functional.avg_pool2d(shaded.view(1, h, w, 4).permute(0, 3, 1, 2), SAMPLES)[0]
        linear[:, rows, columns] = layers[:3] + (1 - layers[3:]) * linear[:, rows, columns]
    return (srgb_from_linear(linear.clamp(0, 1)) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _window(stage: Stage, camera: Cameras) -> tuple[Cameras | None, slice, slice]:
    """The part of the picture that the mesh can touch, as a camera of its own, and the pixels it stands for."""
    clip = stage.clip_source.cpu().numpy() @ camera.clip_from_world(stage.radius * 0.1, stage.radius * 40)[0].T
    if (clip[:, 3] <= 0).any():
        return camera, slice(0, camera.height), slice(0, camera.width)
    x = (clip[:, 0] / clip[:, 3] * 0.5 + 0.5) * camera.width
    y = (0.5 - clip[:, 1] / clip[:, 3] * 0.5) * camera.height
    left, right = max(0, int(x.min())), min(camera.width, int(x.max()) + 1)
    top, bottom = max(0, int(y.min())), min(camera.height, int(y.max()) + 1)
    if left >= right or top >= bottom:
        return None, slice(0), slice(0)
    window = Cameras(camera.camera_to_world, camera.fx, camera.fy, camera.cx - left, camera.cy - top,
                     right - left, bottom - top)
    return window, slice(top, bottom), slice(left, right)


def _shade(stage: Stage, value: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """value : (n, 5) normal and UV, or (n, 9); axes : (3, 3) the camera's right, up, back in the world
    -> (n, 3) linear light."""
    normal = functional.normalize(value[:, :3], dim=1)
    if stage.bumps is not None:
        local = _sample(stage.bumps, stage.bumps_shape, value[:, 3:5])
        along = functional.normalize(value[:, 5:8], dim=1)
        up = functional.normalize(torch.cross(normal, along, dim=1), dim=1) * value[:, 8:9].sign()
        normal = functional.normalize(local[:, :1] * along + local[:, 1:2] * up + local[:, 2:] * normal, dim=1)
    light = (AMBIENT_UP + AMBIENT_DOWN) / 2 + (AMBIENT_UP - AMBIENT_DOWN) / 2 * normal[:, 1]
    shine = torch.zeros_like(light)
    for direction, strength in LIGHTS:
        toward = functional.normalize(axes @ axes.new_tensor(direction), dim=0)
        light = light + strength * (normal @ toward).clamp_min(0)
        if stage.gloss > 0.02:
            half = functional.normalize(toward + axes[:, 2], dim=0)
            shine = shine + strength * (normal @ half).clamp_min(0) ** 40
    return _sample(stage.texture, stage.texture_shape, value[:, 3:5]) * light[:, None] + stage.gloss * shine[:, None]


def _sample(texture: torch.Tensor, shape: tuple[int, int], uv: torch.Tensor) -> torch.Tensor:
    """Bilinear: texture (h * w, 3), uv (n, 2) with the origin at the top left -> (n, 3)."""
    h, w = shape
    x, y = uv[:, 0] * w - 0.5, uv[:, 1] * h - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    x0, x1 = left.long().clamp(0, w - 1), (left.long() + 1).clamp(0, w - 1)
    y0, y1 = top.long().clamp(0, h - 1) * w, (top.long() + 1).clamp(0, h - 1) * w
    upper = torch.lerp(texture.index_select(0, y0 + x0), texture.index_select(0, y0 + x1), fx)
    lower = torch.lerp(texture.index_select(0, y1 + x0), texture.index_select(0, y1 + x1), fx)
    return torch.lerp(upper, lower, fy)


def _background(stage: Stage, camera: Cameras, pose: torch.Tensor) -> torch.Tensor:
    """(h, w) linear grey: a gradient, and the shadow where the pixel's ray meets the ground."""
    h, w = camera.height, camera.width
    row = (torch.arange(h, device=pose.device) + 0.5)
    grey = (HORIZON + (GROUND - HORIZON) * (row / h))[:, None].expand(h, w)
    y = -(row - float(camera.cy[0])) / float(camera.fy[0])
    x = (torch.arange(w, device=pose.device) + 0.5 - float(camera.cx[0])) / float(camera.fx[0])
    local = torch.stack([x[None].expand(h, w), y[:, None].expand(h, w), -torch.ones(h, w, device=pose.device)], -1)
    ray = local @ pose[:3, :3].T
    fall = torch.where(ray[..., 1].abs() < 1e-6, torch.full_like(ray[..., 1], -1e-6), ray[..., 1])
    t = (stage.floor - pose[1, 3]) / fall
    ground = torch.stack([pose[0, 3] + t * ray[..., 0] - stage.middle[0],
                          pose[2, 3] + t * ray[..., 2] - stage.middle[2]], -1) / stage.reach
    shadow = functional.grid_sample(stage.shadow[None, None], ground[None], padding_mode="zeros", align_corners=False)
    return grey * (1 - shadow[0, 0] * (t > 0))


def render_all(stage: Stage, cameras: Cameras) -> Iterator[np.ndarray]:
    """All pictures in order, a few ahead of the reader, on torch's number of threads."""
    with ThreadPoolExecutor(max(1, min(4, torch.get_num_threads()))) as pool:
        yield from pool.map(lambda i: render(stage, cameras[i]), range(len(cameras)))
