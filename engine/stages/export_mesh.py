"""A textured mesh -> files that a game engine takes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field as Limits

from engine.artifacts import Files, TexturedMesh
from engine.conventions.blender import points_from_house
from engine.errors import RunFailed
from engine.export.glb import write_glb
from engine.export.heights import usual_height_m
from engine.export.obj import write_obj
from engine.export.ply import write_ply
from engine.export.scratch import scratch_files, scratch_folder
from engine.job import Job, Params, stage
from engine.space import Frame


class ExportMesh(Params):
    """Parameters of ``export_mesh``."""

    name: str = Limits("asset", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
                       description="name of the files and of the mesh inside them")
    height_m: float | None = Limits(None, gt=1e-4, lt=1e5,
                                    description="height in metres; default: the kind's usual height, else 1")
    kind: str | None = Limits(None, max_length=64, description="what it is, for its usual height")
    keep_coordinates: bool = Limits(False, description="leave the mesh where it was in the pictures' own coordinates")
    formats: tuple[Literal["glb", "obj", "ply"], ...] = Limits(("glb",), min_length=1)
    papers: dict[str, Any] = Limits(default_factory=dict, description="written into the GLB's asset.extras")


@stage(version=1)
def export_mesh(mesh: TexturedMesh, p: ExportMesh, job: Job) -> Files:
    """Write ``name``.glb (and the other formats asked for): metres, +Y up, front +Z, base's centre at the origin."""
    if len(mesh.faces) == 0:
        raise RunFailed("the mesh has no triangles to export", "lower extract_mesh.threshold")
    if p.keep_coordinates:
        vertices, normals = source_coordinates(mesh.vertices, mesh.normals, mesh.frame)
    else:
        vertices, normals = standing(mesh.vertices, p.height_m or usual_height_m(p.kind)), mesh.normals
    folder = scratch_folder()
    arrays = (vertices, mesh.faces, normals, mesh.uvs, mesh.base_color)
    roles: dict[str, str] = {}
    for kind in p.formats:
        path = folder / f"{p.name}.{kind}"
        if kind == "glb":
            write_glb(path, *arrays, mesh.metallic, mesh.roughness, p.name, p.papers)
            roles[path.name] = "mesh"
        elif kind == "obj":
            roles |= {f.name: "mesh" if f == path else "texture"
                      for f in write_obj(path, *arrays, mesh.metallic, mesh.roughness)}
        else:
            write_ply(path, vertices, mesh.faces, normals)
            roles[path.name] = "mesh"
    size = vertices.max(0) - vertices.min(0)
    figures = {"width_m": float(size[0]), "height_m": float(size[1]), "depth_m": float(size[2])}
    for name, value in figures.items():
        job.metric(name, value, "scene units" if p.keep_coordinates else "m")
    job.metric("bytes", float(sum((folder / name).stat().st_size for name in roles)), "B")
    return scratch_files(folder, roles, figures)


def standing(vertices: np.ndarray, height_m: float) -> np.ndarray:
    """(v, 3) moved and scaled so that it is ``height_m`` tall and the centre of its base is the origin.

    Something flatter than a thousandth of its width is scaled by its longest side instead.
    """
    low, high = vertices.min(0).astype(np.float64), vertices.max(0).astype(np.float64)
    size = high - low
    measure = size[1] if size[1] > 1e-3 * size.max() else size.max()
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    return ((vertices - base) * (height_m / max(float(measure), 1e-12))).astype(np.float32)


def source_coordinates(vertices: np.ndarray, normals: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Positions and normals in the coordinates that the pictures came with: scaled, moved, and turned back."""
    world = frame.to_world(vertices.astype(np.float64))
    if frame.up == "z":
        world, normals = points_from_house(world), points_from_house(normals)
    return world.astype(np.float32), np.asarray(normals, np.float32)
