"""Toybox objects as the pipelines leave meshes: read off a grid, closed, thousands of even triangles, textured."""

from __future__ import annotations

import numpy as np
import torch

from engine.artifacts import Mesh, TexturedMesh
from engine.kernels.distance import signed_distance
from engine.kernels.projection import Surface
from engine.meshes.extract import extract_surface
from engine.meshes.repair import drop_small_components
from engine.toybox.scene import Scene, Spec, build

KINDS = ("mug", "chair", "barrel", "chest", "mushroom", "tree", "car", "rocket", "teapot", "duck")


def scene_of(kind: str) -> Scene:
    """One toybox object of each kind, always the same."""
    return build(Spec(kind, "red", seed=7))


def raw_mesh(scene: Scene, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """The union of the scene's solids as one closed surface, read off a grid of signed distances."""
    centre = (np.arange(resolution) + 0.5) * 2 / resolution - 1
    points = np.stack(np.meshgrid(centre, centre, centre, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)
    vertices, faces = torch.from_numpy(scene.vertices), torch.from_numpy(scene.faces)
    # Far cells need no exact number, only a sign that is right: the nearest point's distance decides which are near.
    near = Surface(vertices, faces).nearest(torch.from_numpy(points), 4 / resolution)[0] >= 0
    values = torch.full((len(points),), 4 / resolution)
    values[near] = signed_distance(torch.from_numpy(points)[near], vertices, faces)
    grid = values.numpy().astype(np.float64).reshape((resolution,) * 3)
    inside = _filled(grid, 3.9 / resolution)
    surface = extract_surface(-np.where(inside, -4 / resolution, grid), 0.0)
    return drop_small_components(*surface)[0]


def _filled(grid: np.ndarray, far: float) -> np.ndarray:
    """Cells that are far from the surface and not joined to the grid's border."""
    from scipy.ndimage import label
    names, _ = label(grid >= far)
    return (grid >= far) & (names != names[0, 0, 0])


def colours_of(scene: Scene) -> object:
    """A function from points (n, 3) to sRGB (n, 3): the colour of the nearest solid, checked so that slips show."""
    surface = Surface(torch.from_numpy(scene.vertices), torch.from_numpy(scene.faces))

    def color(points: np.ndarray) -> np.ndarray:
        face = surface.nearest(torch.from_numpy(np.asarray(points, np.float32)))[0].numpy()
        checks = np.floor(points * 8).astype(int).sum(1) % 2
        return np.asarray(scene.palette[scene.slot[face]] * (1 - 0.2 * checks[:, None]), np.float32)
    return color


class Silent:
    """A Job that notes figures and warnings."""

    label, device = "bench", "cpu"

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.warnings: list[str] = []

    def seed(self, candidate: int = 0) -> int:
        return candidate

    def progress(self, fraction: float, preview: object = None) -> None:
        pass

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None:
        self.metrics[name] = value

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def textured_object(kind: str, resolution: int = 96, triangles: int = 8000, texture_size: int = 1024) -> TexturedMesh:
    """As the standard pipeline's last stage leaves it."""
    from engine.meshes.simplify import simplify
    from engine.stages.texture_mesh import TextureMesh, texture_of
    scene = scene_of(kind)
    (vertices, faces), _ = simplify(*raw_mesh(scene, resolution), triangles)
    return texture_of(Mesh(vertices.astype(np.float32), faces.astype(np.int32)), colours_of(scene), None,
                      TextureMesh(texture_size=texture_size), Silent())
