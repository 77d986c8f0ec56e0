"""A mesh file as arrays: GLB, OBJ, PLY or STL, read by trimesh, with its UVs, normals and colours where it has any.

The parts of a scene become one mesh; textures of several materials become one picture, side by side.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BadInput

FORMATS = (".glb", ".obj", ".ply", ".stl")
HINT = "give a GLB, OBJ, PLY or STL file that another program opens"
GREY = 0.7
"""sRGB of a part that says nothing of its colour."""
LARGEST_TEXTURE = 4096


@dataclass
class MeshFile:
    """vertices : (v, 3) float64; faces : (f, 3) int64, polygons cut into triangles; as they stand in the file
    uvs : (v, 2) float64, origin top left, or None where any part has none
    normals : (v, 3) float64 or None where any part has none
    texture : (h, w, 3) float32 sRGB or None; colors : (v, 3) float32 sRGB or None; one of both at the most
    materials : how many different ones there were
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None = None
    normals: np.ndarray | None = None
    texture: np.ndarray | None = None
    colors: np.ndarray | None = None
    materials: int = 0


def check_kind(path: Path) -> None:
    """BadInput for a file that is not there or has none of the known extensions."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder", "give a mesh file: GLB, OBJ, PLY or STL")
    if not path.exists():
        raise BadInput(f"there is no file {path}", HINT)
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"{path} is not a GLB, OBJ, PLY or STL file by its name", HINT)


def count_faces(path: Path) -> int:
    """Triangles that the file says it holds, by its header or its lines: what is far too large is never loaded.

    Raises BadInput for a file that is cut off or is not what its name says.
    """
    kind = path.suffix.lower()
    try:
        counted = {".glb": _glb_faces, ".obj": _obj_faces, ".ply": _ply_faces, ".stl": _stl_faces}[kind](path)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "check the file") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise BadInput(f"{path} is damaged or not a {kind[1:].upper()} file ({type(error).__name__})", HINT) from error
    return counted


def _glb_faces(path: Path) -> int:
    with path.open("rb") as file:
        magic, version, _ = struct.unpack("<III", file.read(12))
        length, _ = struct.unpack("<II", file.read(8))
        if magic != 0x46546C67 or version != 2:
            raise ValueError("not a GLB of version 2")
        document = json.loads(file.read(length))
    total = 0
    for mesh in document.get("meshes", []):
        for part in mesh["primitives"]:
            if part.get("mode", 4) == 4:
                accessor = part.get("indices", part["attributes"]["POSITION"])
                total += document["accessors"][accessor]["count"] // 3
    return total


def _obj_faces(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        for line in file:
            if line.startswith((b"f ", b"f\t")):
                total += max(len(line.split()) - 3, 0)
    return total


def _ply_faces(path: Path) -> int:
    with path.open("rb") as file:
        if file.readline().strip() != b"ply":
            raise ValueError("not a PLY file")
        total = 0
        for line in file:
            words = line.split()
            if words[:2] == [b"element", b"face"]:
                total = int(words[2])
            if words == [b"end_header"]:
                return total
    raise ValueError("its header does not end")


def _stl_faces(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(84)
        if len(head) == 84 and size == 84 + 50 * struct.unpack("<I", head[80:])[0]:
            return int(struct.unpack("<I", head[80:])[0])
        file.seek(0)
        if not head.lstrip().startswith(b"solid"):
            raise ValueError("not an STL file")
        return sum(1 for line in file if line.lstrip().startswith(b"facet"))


def companions(path: Path) -> list[Path]:
    """The file and what it names beside itself (an OBJ's materials and their textures), as far as they exist."""
    found = [path]
    if path.suffix.lower() == ".obj":
        with path.open("rb") as file:
            names = [line.split(None, 1)[1] for line in file if line.startswith(b"mtllib ") and len(line.split()) > 1]
        for name in names:
            material = path.parent / name.decode("utf-8", "replace").strip()
            if material.is_file():
                found.append(material)
                for line in material.read_text(encoding="utf-8", errors="replace").splitlines():
                    words = line.split()
                    if words and words[0].startswith("map_") and (path.parent / words[-1]).is_file():
                        found.append(path.parent / words[-1])
    return list(dict.fromkeys(found))


def read_mesh(path: Path) -> MeshFile:
    """Read a file that :func:`check_kind` let pass. BadInput where it cannot be read or holds no triangles."""
    import trimesh
    try:
        loaded = trimesh.load_scene(path, process=False, resolver=_beside(path))
        parts = [part for part in loaded.dump(concatenate=False) if isinstance(part, trimesh.Trimesh)]
    except BadInput:
        raise
    except Exception as error:  # trimesh raises whatever the damage leads to, by format
        raise BadInput(f"{path} cannot be read as a mesh: {' '.join(str(error).split())[:200]}", HINT) from error
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise BadInput(f"{path} has no faces: there is no surface to work on",
                       "give a mesh with triangles; a cloud of points must be meshed first")
    return _joined(parts)


def _beside(path: Path) -> Any:
    """How trimesh gets at the files that a file names: those in its own folder, and no others."""
    from trimesh.resolvers import FilePathResolver

    from engine.meshes.finding import Damage
    from engine.meshes.gltf_document import inside

    class Beside(FilePathResolver):  # type: ignore[misc]
        def get(self, name: str) -> bytes:
            try:
                return inside(path, name.strip(), path.name).read_bytes()
            except Damage as damage:
                raise FileNotFoundError(damage.finding.text) from None

    return Beside(str(path))


def _joined(parts: list[Any]) -> MeshFile:
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([np.asarray(part.vertices, float) for part in parts])
    faces = np.concatenate([np.asarray(part.faces, np.int64) + n for part, n in zip(parts, first, strict=False)])
    uvs = [_uv(part) for part in parts]
    normals = [_normals(part) for part in parts]
    looks = [_look(part) for part in parts]
    made = MeshFile(vertices, faces, materials=len({id(look) if isinstance(look, np.ndarray) else look
                                                    for look in looks}))
    if all(n is not None for n in normals):
        made.normals = np.concatenate([n for n in normals if n is not None])
    textures = [look if isinstance(look, np.ndarray) and look.ndim == 3 else None for look in looks]
    if all(uv is not None for uv in uvs):
        known = [uv for uv in uvs if uv is not None]
        if len(parts) == 1 or _all_equal(textures):
            made.uvs, made.texture = np.concatenate(known), textures[0]
        elif any(texture is not None for texture in textures):
            made.uvs, made.texture = side_by_side(known, looks)
        else:
            made.uvs = np.concatenate(known)
    if made.texture is None:
        made.colors = np.concatenate([_vertex_colors(look, len(part.vertices)) for look, part
                                      in zip(looks, parts, strict=True)])
    return made


def _all_equal(textures: list[np.ndarray | None]) -> bool:
    """Whether every part shows the same picture."""
    return textures[0] is not None and all(t is not None and np.array_equal(t, textures[0]) for t in textures)


def _uv(part: Any) -> np.ndarray | None:
    uv = getattr(part.visual, "uv", None)
    if uv is None or len(uv) != len(part.vertices) or not np.isfinite(uv).all() or np.ptp(uv, axis=0).max() == 0:
        return None
    return np.stack([np.asarray(uv)[:, 0], 1 - np.asarray(uv)[:, 1]], -1).astype(float)


def _normals(part: Any) -> np.ndarray | None:
    """The file's own normals; trimesh's made-up ones do not count."""
    if "vertex_normals" not in part._cache:
        return None
    normals = np.asarray(part.vertex_normals, float)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    if normals.shape != (len(part.vertices), 3) or not np.isfinite(normals).all() or (length < 1e-6).any():
        return None
    return normals / length


def _look(part: Any) -> Any:
    """A texture (h, w, 3), colours a vertex (v, 3) or one colour (3 numbers), float sRGB in [0, 1]."""
    visual = part.visual
    if visual.kind == "texture":
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        factor = getattr(material, "baseColorFactor", None)
        factor = getattr(material, "diffuse", None) if factor is None else factor
        scale = np.ones(3) if factor is None else np.asarray(factor, float).reshape(-1)[:3]
        if scale.max(initial=0) > 1.0:
            scale = scale / 255
        if image is None:
            return tuple(np.round(scale, 6).tolist()) if factor is not None else (GREY,) * 3
        picture = image.convert("RGB")
        if max(picture.size) > LARGEST_TEXTURE:
            picture.thumbnail((LARGEST_TEXTURE, LARGEST_TEXTURE))
        # An OBJ's diffuse of 0.4 is most exporters' default and not meant to darken its picture.
        tint = scale if hasattr(material, "baseColorFactor") and factor is not None else np.ones(3)
        return (np.asarray(picture, np.float32) / 255 * tint).astype(np.float32)
    if visual.kind in ("vertex", "face"):
        return np.asarray(visual.vertex_colors, np.float32)[:, :3] / 255
    return (GREY,) * 3


def _vertex_colors(look: Any, count: int) -> np.ndarray:
    if isinstance(look, np.ndarray) and look.ndim == 2:
        return look
    flat = look.reshape(-1, 3).mean(0) if isinstance(look, np.ndarray) else np.asarray(look)
    return np.broadcast_to(flat, (count, 3)).astype(np.float32)


def side_by_side(uvs: list[np.ndarray], looks: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """One texture of a grid of squares, one a part, and the UVs that point into it. A part whose UVs leave [0, 1]
    (a picture that repeats) has no place in a grid: its UVs stay outside, and the stage that needs them says so."""
    from PIL import Image
    across = math.ceil(math.sqrt(len(looks)))
    side = max([256, *(max(look.shape[:2]) for look in looks if isinstance(look, np.ndarray) and look.ndim == 3)])
    side = min(side, LARGEST_TEXTURE // across)
    page = np.zeros((across * side, across * side, 3), np.float32)
    moved = []
    for k, (uv, look) in enumerate(zip(uvs, looks, strict=True)):
        row, column = divmod(k, across)
        if isinstance(look, np.ndarray) and look.ndim == 3:
            small = Image.fromarray(np.round(look * 255).astype(np.uint8)).resize((side, side))
            tile: Any = np.asarray(small, np.float32) / 255
        else:
            tile = look.mean(0) if isinstance(look, np.ndarray) else np.asarray(look)
        page[row * side:(row + 1) * side, column * side:(column + 1) * side] = tile
        inside = (uv >= -1e-6).all() and (uv <= 1 + 1e-6).all()
        moved.append((uv.clip(0, 1) + np.array([column, row])) / across if inside else uv + 2.0)
    return np.concatenate(moved), page
