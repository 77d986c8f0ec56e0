"""The levels of a game asset with their pictures: sharing the first one's texture where seams allow, else their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from engine.meshes.asset import Lod
from engine.meshes.collapse import Collapser
from engine.meshes.detail import (
    Fine,
    Sites,
    at_sites,
    fine_colors,
    fine_normals,
    match,
    normal_map,
    occlusion,
    picture_of,
    sites,
)
from engine.meshes.finish import REACHED, First, Ground, Painted, simplified, unwrapped
from engine.meshes.lightmap import moved, packed_again, unwrapped_again
from engine.meshes.lods import Shaped, distance, screen_sizes, shaped, targets_for
from engine.meshes.textures import bytes_of, orm

BARE = 0.01
"""Mean length of the normal map's sideways part below which the map says nothing."""
WORSE = 2.5
"""A level that keeps the texture may lie so much farther off than one that does not, before it gets its own."""


@dataclass(frozen=True)
class Wish:
    """How levels are made. lods : falling from 1, shares of triangles or, ``by_screen``, of the screen's height
    size : pixels of a level's own pictures; padding : pixels between charts of its own; look : roughness and metallic
    normals : a normal map a level, where it says something; rays : for ambient occlusion
    """

    lods: tuple[float, ...]
    by_screen: bool
    size: int
    padding: int
    crease_deg: float
    normals: bool
    rays: int
    look: tuple[float, float]


@dataclass(frozen=True)
class Levels:
    """lods; errors : each level's distance from the fine mesh, metres; wanted : triangles asked for
    charts : each level's vertices' charts, None for a level with a texture of its own
    """

    lods: list[Lod]
    errors: list[float]
    wanted: list[int]
    charts: list[np.ndarray | None]


def levels(first: First, base: Ground, fine: Fine, painted: Painted, wish: Wish) -> Levels:
    """All levels, the first among them (its normal map is the material's)."""
    mesh = first.mesh
    whole, height = len(mesh.faces), float(np.ptp(mesh.vertices[:, 1]))
    wanted = [max(4, round(whole * share)) for share in wish.lods]
    if wish.by_screen and len(wish.lods) > 1:
        wanted[1:] = targets_for(list(wish.lods[1:]), height, whole,
                                 lambda: Collapser(mesh.vertices, mesh.faces, mesh.uvs))
    lods, errors, charts = [lod_of(mesh, whole)], [0.0], [first.chart[mesh.source]]
    made = Levels(lods, errors, wanted, list(charts))
    for count in wanted[1:]:
        shape = shaped(first.collapser.to(count), wish.crease_deg)
        if must_part(shape, count, base.points, base.corners, mesh):
            lod = replace(own_level(base, count, fine, wish), ratio=0.0)
            made.charts.append(None)
        else:
            lod = lod_of(shape, whole, bumped(shape, painted.world, wish.size) if wish.normals else None)
            made.charts.append(first.chart[shape.source])
        lods.append(replace(lod, ratio=len(lod.faces) / whole))
        errors.append(distance(lod.vertices, lod.faces, base.vertices, base.faces))
    shown = list(wish.lods) if wish.by_screen else screen_sizes(errors, max(height, 1e-6))
    lods[:] = [replace(lod, screen_size=share) for lod, share in zip(lods, shown, strict=True)]
    return made


def with_lightmaps(made: Levels, size: int, padding: int) -> list[Lod]:
    """The levels with a second UV set: one layout for all that share the first's charts, own ones for the others."""
    first = made.lods[0]
    assert made.charts[0] is not None
    moves = packed_again(first.vertices, first.faces, first.uvs, made.charts[0], size, padding)
    lods = []
    for lod, chart in zip(made.lods, made.charts, strict=True):
        if moves is not None and chart is not None:
            lods.append(replace(lod, lightmap_uvs=moved(lod.uvs, chart, moves)))
            continue
        row, faces, second = unwrapped_again(lod.vertices, lod.faces, size, padding)
        lods.append(replace(lod, vertices=lod.vertices[row], faces=faces, normals=lod.normals[row], uvs=lod.uvs[row],
                            tangents=lod.tangents[row], lightmap_uvs=second))
    return lods


def bumped(mesh: Shaped, world: np.ndarray, size: int) -> np.ndarray | None:
    """The normal map of a level that shares the first one's texture; None where it would say nothing.

    world : (s * s, 3), the fine mesh's normal at every texel, s a multiple of ``size``
    """
    where = sites(mesh.faces, mesh.uvs, size)
    side = round(len(world) ** 0.5)
    layers = torch.from_numpy(world).view(side, side, 3)
    if side != size:
        step = side // size
        layers = layers.view(size, step, size, step, 3).mean((1, 3))
    at = functional.normalize(layers.reshape(-1, 3)[where.index], dim=1)
    made = bytes_of(normal_map(at, mesh.normals, mesh.tangents, mesh.faces, where))
    return made if tilt(made, where) > BARE else None


def tilt(picture: np.ndarray, where: Sites) -> float:
    """Mean length of a normal map's sideways part, 0 where it says nothing."""
    values = picture.reshape(-1, 3)[where.index.numpy()][:, :2] * 2 - 256 / 255
    return float(np.linalg.norm(values, axis=1).mean()) if len(values) else 0.0


def lod_of(mesh: Shaped, whole: int, normal: np.ndarray | None = None) -> Lod:
    """A level with a share of ``whole`` triangles."""
    return Lod(mesh.vertices.astype(np.float32), mesh.faces, mesh.normals.astype(np.float32),
               mesh.uvs.clip(0, 1).astype(np.float32), mesh.tangents, None, len(mesh.faces) / whole, 1.0, None, normal)


def own_level(base: Ground, triangles: int, fine: Fine, wish: Wish) -> Lod:
    """A level that could not keep the texture: unwrapped, and all its pictures made from the fine mesh."""
    mesh = unwrapped(*simplified(base.points, base.corners, triangles), wish.size, wish.padding, wish.crease_deg)
    where = sites(mesh.faces, mesh.uvs, wish.size)
    way = functional.normalize(at_sites(mesh.normals, mesh.faces, where), dim=1)
    found = match(fine, at_sites(mesh.vertices, mesh.faces, where), way)
    shade = occlusion(fine, mesh.faces, mesh.vertices, mesh.normals, mesh.uvs, wish.size, wish.rays)
    bumps = bytes_of(normal_map(fine_normals(fine, found), mesh.normals, mesh.tangents, mesh.faces, where))
    return replace(lod_of(mesh, len(mesh.faces), bumps if wish.normals else None),
                   base_color=bytes_of(picture_of(fine_colors(fine, found), where, (0.5, 0.5, 0.5))),
                   orm=bytes_of(orm(shade, *wish.look)))


def must_part(level: Shaped, wanted: int, points: np.ndarray, corners: np.ndarray, first: Shaped) -> bool:
    """Whether a level should give up the first one's texture: its seams held it back from the count, or from the
    shape that the count allows."""
    if len(level.faces) > REACHED * wanted:
        return True
    longest = float(np.ptp(points, axis=0).max())
    off = distance(level.vertices, level.faces, first.vertices, first.faces)
    if off < 0.004 * longest:
        return False
    free = distance(*simplified(points, corners, wanted), first.vertices, first.faces)
    return off > WORSE * free
