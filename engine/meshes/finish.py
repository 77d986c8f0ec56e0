"""From any textured mesh to the master of a game asset, step by step: engine.stages.finish_mesh tells it what to do.

The *fine* mesh is the user's, mended and standing in metres. The first level is the fine mesh within the budget of
triangles; it keeps the texture it has where that is usable, else it is unwrapped anew and painted from the fine one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch.nn import functional

from engine.artifacts import TexturedMesh
from engine.meshes import symmetry
from engine.meshes.bake import pad_seams
from engine.meshes.collapse import Collapser
from engine.meshes.detail import (
    Fine,
    at_sites,
    fine_colors,
    fine_normals,
    match,
    occlusion,
    picture_of,
    sites,
)
from engine.meshes.lightmap import charts_of
from engine.meshes.lods import Shaped, drawn, shaped
from engine.meshes.mend import Mended, mend
from engine.meshes.normals import corner_normals, split_vertices
from engine.meshes.textures import bytes_of, resized
from engine.meshes.unwrap import unwrap, uv_figures

OVERLAP = 0.01
"""Share of used texels that may be claimed twice before a texture is not kept: what is baked must be told apart."""
REACHED = 1.1
"""A level counts as reached with so many times the triangles asked for."""


@dataclass
class Ground:
    """The fine mesh: arrays as in TexturedMesh, in metres; place (v,) int64, equal where vertices are one point."""

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    normals: np.ndarray
    place: np.ndarray
    base_color: np.ndarray
    filled: bool = False
    reflected: symmetry.Plane | None = None

    @property
    def points(self) -> np.ndarray:
        """(p, 3) float32, one a place."""
        made = np.zeros((int(self.place.max()) + 1, 3), np.float32)
        made[self.place] = self.vertices
        return made

    @property
    def corners(self) -> np.ndarray:
        """(f, 3) places."""
        return self.place[self.faces]


def ground(mesh: TexturedMesh, mended: Mended, crease_deg: float, keep_normals: bool) -> Ground:
    """The mended surface with every corner's UVs; faces that fill holes take those of a corner beside them."""
    row = mended.row.copy()
    if mended.filled:
        known = np.full(len(mended.points), -1)
        whole = row >= 0
        known[mended.place[whole]] = row[whole]
        row = np.where(whole, row, known[mended.place])
        row = np.where(row >= 0, row, row.max(1, keepdims=True))
    told = mended.told
    changed = not keep_normals or mended.filled or told.get("flipped_faces") or told.get("parted_vertices")
    normals, group = corner_normals(mended.points, mended.place, crease_deg)
    keys = (mended.place, row, group) if changed else (mended.place, row)
    first, faces = split_vertices(*keys)
    where, at = mended.place.reshape(-1)[first], row.reshape(-1)[first]
    unit = normals[group.reshape(-1)[first]] if changed else mesh.normals[at]
    return Ground(mended.points[where], faces, mesh.uvs[at].astype(np.float32), np.asarray(unit, np.float32), where,
                  mesh.base_color[..., :3], mended.filled)


def reflected(base: Ground, which: str, crease_deg: float) -> Ground:
    """The ground made symmetric at the plane found ("auto") or across an axis through the middle of its box."""
    points, corners = base.points, base.corners
    if which == "auto":
        plane = symmetry.found(points, corners)
    else:
        axis = "xyz".index(which)
        middle = float((points[:, axis].min() + points[:, axis].max()) / 2)
        plane = symmetry.measured(points, corners, np.eye(3)[axis], middle)
    vertices, faces, uvs = symmetry.symmetric(base.vertices, base.faces, base.uvs, plane)
    mended = mend(vertices, faces, repair=False)
    flat = TexturedMesh(vertices, faces, uvs, np.zeros_like(vertices), base.base_color)
    made = ground(flat, mended, crease_deg, False)
    made.filled, made.reflected = base.filled, plane
    return made


def lack_of_uvs(base: Ground) -> str:
    """Why the texture cannot be kept, "" where it can."""
    if base.filled:
        return "holes were filled, which no texture covers"
    if base.reflected is not None:
        return "both halves of a mirrored mesh share one texture"
    if base.uvs.min() < -1e-4 or base.uvs.max() > 1 + 1e-4:
        return "the UVs leave the texture"
    figures = uv_figures(base.vertices, base.faces, base.uvs.clip(0, 1), 512)
    if figures.used < 0.02:
        return "the UVs use almost nothing of the texture"
    return f"{figures.overlap:.1%} of the UVs overlap" if figures.overlap > OVERLAP else ""


@dataclass(frozen=True)
class First:
    """The first level. kept : its texture is the fine mesh's; collapser : simplifies it further
    chart : (rows,) the chart of each vertex that the collapser was given; every level's ``source`` names such rows
    """

    mesh: Shaped
    kept: bool
    collapser: Collapser
    chart: np.ndarray


def first_kept(base: Ground, triangles: int, crease_deg: float) -> First:
    """The first level with the texture that is there."""
    collapser = Collapser(base.vertices, base.faces, base.uvs, base.place)
    mesh = drawn(base.vertices, base.faces, base.normals, base.uvs) if len(base.faces) <= triangles else \
        shaped(collapser.to(triangles), crease_deg)
    return First(mesh, True, collapser, charts_of(base.faces, base.uvs, base.place))


def first_made(points: np.ndarray, corners: np.ndarray, size: int, padding: int, crease_deg: float) -> First:
    """A surface (p, 3), (f, 3), unwrapped anew."""
    mesh = unwrapped(points, corners, size, padding, crease_deg)
    mesh = replace(mesh, source=np.arange(len(mesh.vertices)))
    place = np.unique(mesh.vertices, axis=0, return_inverse=True)[1].reshape(-1)
    return First(mesh, False, Collapser(mesh.vertices, mesh.faces, mesh.uvs, place),
                 charts_of(mesh.faces, mesh.uvs, place))


def unwrapped(points: np.ndarray, corners: np.ndarray, size: int, padding: int, crease_deg: float) -> Shaped:
    """A surface (p, 3), (f, 3) with new UVs, normals and tangents."""
    flat = unwrap(points, corners, size, padding)
    normals, group = corner_normals(points, corners, crease_deg)
    first, faces = split_vertices(flat.faces, group)
    row = flat.faces.reshape(-1)[first]
    return drawn(flat.vertices[row], faces, normals[group.reshape(-1)[first]], flat.uvs[row])


def simplified(points: np.ndarray, corners: np.ndarray, triangles: int) -> tuple[np.ndarray, np.ndarray]:
    """The shape alone within a budget: points (p, 3), corners (f, 3)."""
    if len(corners) <= triangles:
        return points, corners.astype(np.int32)
    level = Collapser(points, corners).to(triangles)
    made = np.zeros((int(level.place.max()) + 1, 3), np.float32)
    made[level.place] = level.vertices
    return made, level.place[level.faces].astype(np.int32)


@dataclass(frozen=True)
class Painted:
    """base_color, occlusion (s, s); world : (s * s, 3) float32, the fine mesh's normal at every texel
    along : share of the texels whose point on the fine mesh lies along their normal
    """

    base_color: np.ndarray
    occlusion: np.ndarray
    world: np.ndarray
    along: float


def painted(first: Shaped, base: Ground, fine: Fine, kept: bool, size: int, rays: int) -> Painted:
    """The first level's pictures. kept : its UVs are the fine mesh's, so that texels answer for themselves"""
    along = 1.0
    if kept:
        where = sites(base.faces, base.uvs, size)
        world = functional.normalize(at_sites(base.normals, base.faces, where), dim=1)
        covered = np.zeros(size * size, bool)
        covered[where.index.numpy()] = True
        colour = pad_seams(resized(base.base_color, size), covered.reshape(size, size))
    else:
        where = sites(first.faces, first.uvs, size)
        way = functional.normalize(at_sites(first.normals, first.faces, where), dim=1)
        found = match(fine, at_sites(first.vertices, first.faces, where), way)
        world, along = fine_normals(fine, found), found.along
        colour = picture_of(fine_colors(fine, found), where, (0.5, 0.5, 0.5))
    everywhere = picture_of(world, where, (0.0, 1.0, 0.0)).reshape(-1, 3)
    shade = occlusion(fine, first.faces, first.vertices, first.normals, first.uvs, size, rays)
    return Painted(bytes_of(colour), bytes_of(shade), everywhere, along)
