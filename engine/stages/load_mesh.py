"""A user's mesh file -> TexturedMesh in field coordinates, with every kind of bad file answered in one clear line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from engine.artifacts import TexturedMesh
from engine.conventions import blender
from engine.errors import BadInput
from engine.job import Job, Params, stage
from engine.meshes.measure import topology
from engine.meshes.read import HINT, MeshFile, check_kind, companions, count_faces, read_mesh
from engine.space import OBJECT_LONGEST_SIDE, Frame

MOST_FACES = 2_000_000
"""More than a texture of any size could show; what comes from scanners must be simplified first."""
OVERLAP_WARNED = 0.02


class LoadMesh(Params):
    """Parameters of ``load_mesh``. The file's digest stands for it in keys; its path does not."""

    path: str = Field(exclude=True, description="A GLB, OBJ, PLY or STL file.")
    digest: str = Field("", description="SHA-256 of the file and what it names, as mesh_digest gives it.")
    up: Literal["y", "z"] = Field("y", description="Axis that points up in the file: y, or z as Blender and CAD have.")
    uvs: Literal["keep", "make", "any"] = Field(
        "keep", description="keep: the file's own, refused where it has none that can be painted on; make: new ones, "
                            "the surface stays as it is; any: the file's own where it has good ones, else new ones.")
    texture_size: int = Field(1024, ge=64, le=8192, description="Pixels a side of a texture that is made.")
    most_faces: int = Field(MOST_FACES, ge=1, le=20_000_000, description="Larger meshes are refused.")


def mesh_digest(path: str | Path) -> str:
    """SHA-256 of a mesh file with the materials and textures that it names. What its header tells to be unusable (no
    faces, far too many, another format) is refused here, before anything runs."""
    path = Path(path)
    check_kind(path)
    check_count(path, count_faces(path), MOST_FACES)
    total = hashlib.sha256()
    for file in companions(path):
        try:
            total.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}", "check the file") from error
    return total.hexdigest()


def check_count(path: Path, faces: int, most: int) -> None:
    """BadInput for a mesh without faces or with more than ``most``."""
    if faces == 0:
        raise BadInput(f"{path} has no faces: there is no surface to work on",
                       "give a mesh with triangles; a cloud of points must be meshed first")
    if faces > most:
        raise BadInput(f"{path} has {faces:,} faces; the limit is {most:,}",
                       "simplify it first (Blender: the Decimate modifier)")


@stage(version=1)
def load_mesh(p: LoadMesh, job: Job) -> TexturedMesh:
    """Read, check, bring to field coordinates (centred, longest side 1.5); triangles and their order stay.

    The result's frame leads back to the file's own coordinates. Its base colour is the file's, grey where it has none.
    Raises BadInput for a file that is missing, damaged, without faces, with too many, with coordinates that are not
    finite or all the same, without usable UVs where they are to be kept, or that changed since ``digest`` was taken.
    Holes, non-manifold edges, flipped neighbours and faces of no area are warned of, with their numbers.
    """
    path = Path(p.path)
    if p.digest and mesh_digest(path) != p.digest:
        raise BadInput(f"{path} changed since the run was planned", "start again")
    check_kind(path)
    check_count(path, count_faces(path), p.most_faces)
    return textured_mesh(path, read_mesh(path), p, job)


def textured_mesh(path: Path, file: MeshFile, p: LoadMesh, job: Job) -> TexturedMesh:
    """What was read from ``path``, checked and brought to field coordinates; all that :func:`load_mesh` says."""
    check_count(path, len(file.faces), p.most_faces)
    job.progress(0.3)
    _check_numbers(path, file)
    vertices = blender.points_to_house(file.vertices) if p.up == "z" else file.vertices
    if p.up == "z" and file.normals is not None:
        file.normals = blender.points_to_house(file.normals)
    low, high = vertices.min(0), vertices.max(0)
    longest = float((high - low).max())
    if not longest > 1e-30:
        raise BadInput(f"all vertices of {path} lie in one point", HINT)
    middle = (low + high) / 2
    frame = Frame(longest / OBJECT_LONGEST_SIDE, (float(middle[0]), float(middle[1]), float(middle[2])), p.up)
    placed = ((vertices - middle) * (OBJECT_LONGEST_SIDE / longest)).astype(np.float32)
    meta = _soundness(placed, file.faces, job)
    if file.materials > 1:
        job.warn(f"its {file.materials} materials become one, with one texture")
    job.progress(0.6)
    made = _textured(path, placed, file, p, job)
    made.frame, made.meta = frame, meta
    job.progress(1.0)
    return made


def _check_numbers(path: Path, file: MeshFile) -> None:
    bad = int((~np.isfinite(file.vertices)).any(1).sum())
    if bad:
        raise BadInput(f"{bad:,} of the {len(file.vertices):,} vertices of {path} are not finite numbers",
                       "export it again; Blender's Mesh > Clean Up finds what is wrong")
    if int(file.faces.min()) < 0 or int(file.faces.max()) >= len(file.vertices):
        raise BadInput(f"a face of {path} names a vertex that is not there", HINT)


def _soundness(vertices: np.ndarray, faces: np.ndarray, job: Job) -> dict[str, float]:
    """Figures of the surface with vertices of one position joined; warns of what is not sound."""
    welded = weld(vertices, faces)
    corners = vertices[faces].astype(np.float64)
    flat = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) < 1e-12
    solid = welded[~((welded[:, 0] == welded[:, 1]) | (welded[:, 1] == welded[:, 2]) | (welded[:, 2] == welded[:, 0]))]
    if not len(solid):
        raise BadInput("every face of the mesh has no area", HINT)
    found = topology(solid)
    told = {"open_edges": (found.open_edges, "it has holes: {} open edges"),
            "crowded_edges": (found.crowded_edges, "{} of its edges belong to more than two faces (non-manifold)"),
            "flipped_edges": (found.flipped_edges, "{} pairs of neighbouring faces look opposite ways"),
            "flat_faces": (int(flat.sum()), "{} of its faces have no area")}
    figures = {"triangles": float(len(faces)), "components": float(found.components),
               "watertight": float(found.watertight), "manifold": float(found.manifold),
               **{name: float(count) for name, (count, _) in told.items()}}
    for name, value in figures.items():
        job.metric(name, value)
    said = [words.format(f"{count:,}") for count, words in told.values() if count]
    if said:
        job.warn(f"the mesh is not sound: {'; '.join(said)}")
    return figures


def weld(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces (f, 3) that name one vertex a position: what a file splits at UV seams is joined again."""
    _, first, place = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[place.reshape(-1)][faces])


def _textured(path: Path, vertices: np.ndarray, file: MeshFile, p: LoadMesh, job: Job) -> TexturedMesh:
    """The arrays with UVs, normals and a base colour; kept where the file has them."""
    from engine.meshes.unwrap import unwrap
    lack = _lack_of_uvs(file, job)
    if lack and p.uvs == "keep":
        raise BadInput(f"{path} {lack}", "give --unwrap: new UVs are made, the surface stays as it is")
    faces = file.faces
    if p.uvs == "make" or lack:
        flat = unwrap(vertices, faces, p.texture_size)
        source, faces = flat.source, flat.faces.astype(np.int64)
        uvs, charts = flat.uvs, flat.charts
        job.metric("charts", float(charts))
        if lack and p.uvs == "any":
            job.warn(f"the file {lack}: new UVs were made")
    else:
        assert file.uvs is not None
        uvs, source = file.uvs.astype(np.float32).clip(0, 1), np.arange(len(vertices))
    vertices, faces = vertices[source], faces.astype(np.int32)
    normals = None if file.normals is None else file.normals[source]
    if normals is None:
        normals, (vertices, faces, uvs, source) = _made_normals(vertices, faces, uvs, source)
    base = _base_color(file, source, vertices, faces, uvs, normals, p.texture_size, job)
    return TexturedMesh(vertices, faces, uvs, np.asarray(normals, np.float32), base)


def _lack_of_uvs(file: MeshFile, job: Job) -> str:
    """Why the file's UVs cannot be painted on; "" where they can."""
    if file.uvs is None:
        return "has no UVs"
    if file.uvs.min() < -1e-4 or file.uvs.max() > 1 + 1e-4:
        return "has UVs outside its texture (a picture that repeats), which cannot be painted on"
    from engine.meshes.unwrap import uv_figures
    overlap = uv_figures(file.vertices, file.faces, file.uvs.clip(0, 1), 256).overlap
    job.metric("uv_overlap", overlap, "share of used texels")
    if overlap > 0.5:
        return f"has UVs of which {overlap:.0%} overlap, which cannot be painted on"
    if overlap > OVERLAP_WARNED:
        job.warn(f"{overlap:.0%} of its UVs overlap: what is painted on one part shows on the other too")
    return ""


def _made_normals(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, source: np.ndarray
                  ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Normals with creases kept sharp; a vertex is split where they or its UVs differ."""
    from engine.meshes.normals import corner_normals, split_vertices
    normals, group = corner_normals(vertices, weld(vertices, faces), 40.0)
    first, new = split_vertices(faces, group)
    corner = faces.reshape(-1)[first]
    return normals[group.reshape(-1)[first]], (vertices[corner], new, uvs[corner], source[corner])


def _base_color(file: MeshFile, source: np.ndarray, vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray,
                normals: np.ndarray, size: int, job: Job) -> np.ndarray:
    """The file's texture where its UVs were kept; else its colours, carried to the UVs: (t, t, 3) sRGB."""
    import torch

    from engine.kernels.raster import interpolate, rasterize
    from engine.meshes.bake import pad_seams
    from engine.meshes.unwrap import uv_clip
    kept = file.uvs is not None and file.texture is not None and np.array_equal(
        uvs, file.uvs.astype(np.float32).clip(0, 1)[source])
    if kept and file.texture is not None:
        return file.texture
    if file.colors is not None and np.ptp(file.colors, axis=0).max() == 0:
        return np.broadcast_to(file.colors[0], (64, 64, 3)).copy()
    corners = torch.from_numpy(faces)
    triangle, weights, _ = rasterize(uv_clip(uvs), corners, size, size)
    covered = (triangle >= 0).numpy()
    if file.texture is not None and file.uvs is not None:
        old = torch.from_numpy(file.uvs[source].astype(np.float32))
        at = interpolate(old, corners, triangle, weights)
        texture = torch.from_numpy(file.texture).permute(2, 0, 1)[None]
        picture = torch.nn.functional.grid_sample(texture, at.remainder(1.0)[None] * 2 - 1, padding_mode="border",
                                                  align_corners=False)[0].permute(1, 2, 0).numpy()
    else:
        assert file.colors is not None
        colors = torch.from_numpy(np.ascontiguousarray(file.colors[source]))
        picture = interpolate(colors, corners, triangle, weights).numpy()
    return pad_seams(np.ascontiguousarray(picture, np.float32), covered).clip(0, 1)
