"""Anybody's mesh file, made safe to work on: what is wrong is refused or mended, and always said.

    foreign = open_foreign(Path("chair.glb"))
    foreign.file.vertices, foreign.metallic, foreign.pictures["normal"], foreign.findings

GLB and glTF are read by ``engine.meshes.gltf_scene``; OBJ is looked through first (``obj_scan``) and then read by
trimesh, as PLY and STL are (``engine.meshes.read``). Several materials become one, pictures side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BadInput
from engine.meshes.finding import Damage, Finding
from engine.meshes.gltf_document import open_gltf
from engine.meshes.gltf_scene import read_scene
from engine.meshes.obj_scan import ObjScan, scan_obj
from engine.meshes.read import MeshFile, check_kind, count_faces, read_mesh

FORMATS = (".glb", ".gltf", ".obj", ".ply", ".stl")
MOST_TRIANGLES = 2_000_000


@dataclass
class Foreign:
    """file : its arrays; findings : what was said; papers : what the file says of its making (glTF's asset.extras)
    metallic, roughness : the material's, averaged over its pictures and over the surface; None where the file says none
    pictures : "normal", "orm", "emissive" in the file's UVs, where it has them; each is times its factor, as in glTF
    metallic_factor, roughness_factor, emissive_factor : of the pictures, 1 where there are none
    base_alpha : (h, w) of the base colour or None; alpha, cutoff, double_sided : as glTF has them
    uvs2, tangents : (v, 2), (v, 4) or None
    """

    path: Path
    file: MeshFile
    findings: list[Finding] = field(default_factory=list)
    papers: dict[str, Any] = field(default_factory=dict)
    metallic: float | None = None
    roughness: float | None = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    metallic_factor: float = 1.0
    roughness_factor: float = 1.0
    emissive_factor: tuple[float, float, float] = (0.0, 0.0, 0.0)
    base_alpha: np.ndarray | None = None
    alpha: str = "OPAQUE"
    cutoff: float = 0.5
    double_sided: bool = False
    uvs2: np.ndarray | None = None
    tangents: np.ndarray | None = None


def open_foreign(path: Path, most: int = MOST_TRIANGLES) -> Foreign:
    """Read a GLB, glTF, OBJ, PLY or STL file. BadInput for what cannot be worked on; what was mended stands among the
    findings, as warnings."""
    if path.suffix.lower() == ".gltf":
        if not path.is_file():
            raise BadInput(f"there is no file {path}", "Give a GLB, glTF, OBJ, PLY or STL file")
    else:
        check_kind(path)
    if path.suffix.lower() in (".glb", ".gltf"):
        scene = read_scene(open_gltf(path), most)
        _refuse_errors(path, scene.findings)
        if scene.document.compression:
            raise BadInput(f"{path} is compressed ({scene.document.compression})",
                           "Unpack it first: gltf-transform copy IN OUT, or import it into Blender and export it")
        from engine.meshes.gltf_merge import merge_into
        found = Foreign(path, MeshFile(np.zeros((0, 3)), np.zeros((0, 3), np.int64)), scene.findings)
        merge_into(found, scene)
        _refuse_not_finite(path, found.file.vertices)
        return found
    scan = ObjScan()
    if path.suffix.lower() == ".obj":
        scan = scan_obj(path, most)
        _refuse_errors(path, scan.findings)
    else:
        _refuse_many(path, most)
    found = Foreign(path, read_mesh(path), scan.findings)
    if path.suffix.lower() == ".obj":
        found.metallic, found.roughness = _mtl_factors(scan)
    _refuse_not_finite(path, found.file.vertices)
    return found


def companions(path: Path) -> list[Path]:
    """The file and all existing files beside it that its reading opens. BadInput where it cannot be read."""
    kind = path.suffix.lower()
    if kind == ".obj":
        scan = scan_obj(path, MOST_TRIANGLES)
        return list(dict.fromkeys([path, *scan.companions, *scan.textures]))
    found = [path]
    if kind == ".gltf":
        from engine.meshes.gltf_document import inside
        document = open_gltf(path)
        for name in ("buffers", "images"):
            for about in document.items(name):
                uri = about.get("uri") if isinstance(about, dict) else None
                if isinstance(uri, str) and not uri.startswith("data:"):
                    try:
                        found.append(inside(path, uri, name))
                    except Damage:
                        continue  # told when it is read
    return list(dict.fromkeys(found))


def _refuse_many(path: Path, most: int) -> None:
    """PLY and STL say their size at once."""
    count = count_faces(path)
    if count > most:
        raise BadInput(f"{path} declares {count:,} triangles; the limit is {most:,}",
                       "Simplify it first (Blender: the Decimate modifier)")
    # A face takes 12 bytes at the least in any of them ("3 0 1 2\n" is 8 in the text form of PLY).
    if count * 8 > path.stat().st_size:
        raise BadInput(f"{path} declares {count:,} triangles and has only {path.stat().st_size:,} bytes",
                       "Copy or export it again")


def _refuse_errors(path: Path, findings: list[Finding]) -> None:
    errors = [one for one in findings if one.severity == "error" and one.code != "missing_file"]
    if errors:
        more = f" (and {len(errors) - 1} more; maquette check {path} lists all)" if len(errors) > 1 else ""
        where = f" [{errors[0].where}]" if errors[0].where else ""
        raise BadInput(f"{path} cannot be used: {errors[0].text}{where}{more}",
                       "Export it again from the program that made it")


def _refuse_not_finite(path: Path, vertices: np.ndarray) -> None:
    bad = int((~np.isfinite(vertices)).any(1).sum())
    if bad:
        raise BadInput(f"{bad:,} of the {len(vertices):,} vertices of {path} are not finite numbers",
                       "Export it again; Blender's Mesh > Clean Up finds what is wrong")


def _mtl_factors(scan: ObjScan) -> tuple[float | None, float | None]:
    """Pm and Pr of the material files, where all that say them say the same."""
    said: dict[str, set[float]] = {"Pm": set(), "Pr": set()}
    for library in scan.companions:
        for line in library.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) == 2 and words[0] in said:
                try:
                    said[words[0]].add(float(words[1]))
                except ValueError:
                    continue
    one = [next(iter(values)) if len(values) == 1 else None for values in said.values()]
    return tuple(None if v is None or not 0 <= v <= 1 else v for v in one)  # type: ignore[return-value]
