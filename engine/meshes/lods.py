"""A chain of ever coarser models of one mesh, each with its normals, and how far away each may take over.

All levels keep the first one's texture layout (engine.meshes.collapse), so they share its colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine.meshes.collapse import Collapser, Level
from engine.meshes.measure import sample_surface
from engine.meshes.normals import corner_normals, split_vertices
from engine.meshes.tangents import with_tangents

LINES = 1080
"""Lines of the screen for which the levels' errors are to stay below a pixel."""
SAMPLES = 20_000


@dataclass(frozen=True)
class Shaped:
    """A mesh that can be drawn: Lod's arrays, and for each vertex the row it came from (``source``, its chart)."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    tangents: np.ndarray
    source: np.ndarray


def shaped(level: Level, crease_deg: float) -> Shaped:
    """A level with normals, smooth but for edges that bend by more than ``crease_deg``, and tangents."""
    points = np.zeros((int(level.place.max(initial=-1)) + 1, 3), np.float32)
    points[level.place] = level.vertices
    normals, group = corner_normals(points, level.place[level.faces], crease_deg)
    first, faces = split_vertices(level.faces, group)
    row = level.faces.reshape(-1)[first]
    return drawn(level.vertices[row], faces, normals[group.reshape(-1)[first]], level.uvs[row], level.source[row])


def drawn(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray,
          source: np.ndarray | None = None) -> Shaped:
    """Add tangents to a mesh that has all else; vertices are split where they must be."""
    row, corners, tangents = with_tangents(vertices, faces, normals, uvs)
    return Shaped(vertices[row], corners, normals[row], uvs[row], tangents, (row if source is None else source[row]))


def chain(collapser: Collapser, targets: list[int], crease_deg: float) -> list[tuple[Shaped, float]]:
    """Levels of about ``targets`` triangles, falling, and the dearest collapse of each."""
    levels = []
    for triangles in targets:
        level = collapser.to(triangles)
        levels.append((shaped(level, crease_deg), level.cost))
    return levels


def distance(vertices: np.ndarray, faces: np.ndarray, other_vertices: np.ndarray, other_faces: np.ndarray) -> float:
    """How far two surfaces lie apart: the 99.5th percentile, over points of either, of the distance to the other."""
    from engine.kernels.projection import Surface
    found, one, other = [], (vertices, faces), (other_vertices, other_faces)
    for a, b in ((one, other), (other, one)):
        points = torch.from_numpy(sample_surface(*a, SAMPLES).astype(np.float32))
        surface = Surface(torch.from_numpy(np.ascontiguousarray(b[0], np.float32)),
                          torch.from_numpy(np.ascontiguousarray(b[1], np.int32)))
        found.append(float(np.quantile(surface.nearest(points)[2].numpy(), 0.995)))
    return max(found)


def screen_sizes(errors: list[float], height: float) -> list[float]:
    """The share of the screen's height below which each level is shown: where its error is under a pixel.

    errors : of each level, 0 for the first; height : the asset's. The first is 1; each next one at most 0.9 of the one
    before, so that none is ever skipped, and none below 0.01.
    """
    sizes = [1.0]
    for error in errors[1:]:
        fit = height / (max(error, 1e-12) * LINES)
        sizes.append(max(0.01 * 0.9 ** len(sizes), min(fit, 0.9 * sizes[-1])))
    return sizes


def targets_for(screen: list[float], height: float, triangles: int, collapser_of: object, smallest: int = 32
                ) -> list[int]:
    """How many triangles keep the error below a pixel at each share of the screen's height (falling, the first is 1).

    collapser_of : a function without arguments that begins the simplification again
    """
    begin: Collapser = collapser_of()  # type: ignore[operator]
    whole = begin.to(triangles)
    counts = [max(smallest, round(triangles * 0.7 ** k)) for k in range(1, 16) if triangles * 0.7 ** k >= smallest / 2]
    errors = []
    for count in counts:
        level = begin.to(count)
        errors.append(distance(whole.vertices, whole.faces, level.vertices, level.faces))
    found = []
    for size in screen:
        good = [c for c, e in zip(counts, errors, strict=True) if e * size * LINES <= height]
        found.append(min(good, default=triangles))
    return found
