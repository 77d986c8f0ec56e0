"""An OBJ file of unknown origin, looked through line by line before any reader sees it: counts, numbers, its files.

What its lines say is compared with what is there; files that it names are looked for in its own folder, nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import BadInput
from engine.meshes.finding import Damage, Finding
from engine.meshes.gltf_document import inside

LARGEST_FILE = 2_000_000_000
LARGEST_MATERIALS = 10_000_000
MAPS = ("map_", "norm", "bump", "disp", "decal", "refl")


@dataclass
class ObjScan:
    """vertices, uvs, normals, triangles : counts; objects, materials : names; textures : existing files that its
    materials name; companions : its material files; findings : what is to be said"""

    vertices: int = 0
    uvs: int = 0
    normals: int = 0
    triangles: int = 0
    faces_without_uvs: int = 0
    objects: list[str] = field(default_factory=list)
    materials: list[str] = field(default_factory=list)
    companions: list[Path] = field(default_factory=list)
    textures: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def scan_obj(path: Path, most: int) -> ObjScan:
    """Look through an OBJ. BadInput where it has more than ``most`` triangles or cannot be read at all."""
    found = ObjScan()
    bad_numbers = bad_corners = bad_lines = 0
    libraries: list[str] = []
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"{path} has {path.stat().st_size:,} bytes; at most {LARGEST_FILE:,} are read",
                           "Export it as GLB")
        with path.open("rb") as file:
            for line in file:
                words = line.split()
                if not words:
                    continue
                head = words[0]
                if head == b"v":
                    found.vertices += 1
                    bad_numbers += not _finite(words[1:4], 3)
                elif head == b"vt":
                    found.uvs += 1
                    bad_numbers += not _finite(words[1:3], 1)
                elif head == b"vn":
                    found.normals += 1
                    bad_numbers += not _finite(words[1:4], 3)
                elif head == b"f":
                    found.triangles += max(len(words) - 3, 0)
                    bad_lines += len(words) < 4
                    good, textured = _corners(words[1:], (found.vertices, found.uvs, found.normals))
                    bad_corners += not good
                    found.faces_without_uvs += not textured
                    if found.triangles > most:
                        raise BadInput(f"{path} has more than {most:,} triangles, which is the limit",
                                       "Simplify it first (Blender: the Decimate modifier)")
                elif head in (b"o", b"g") and len(words) > 1 and len(found.objects) < 10_000:
                    found.objects.append(_text(line))
                elif head == b"mtllib" and len(words) > 1 and len(libraries) < 100:
                    libraries.append(_text(line))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "Check the file") from error
    for count, code, words_ in ((bad_numbers, "not_finite", "lines hold numbers that are none or not finite"),
                                (bad_corners, "index_out_of_range", "faces name a vertex that is not there"),
                                (bad_lines, "not_obj", "faces have fewer than three corners")):
        if count:
            found.findings.append(Finding("error", code, f"{count:,} {words_}"))
    if not found.triangles:
        found.findings.append(Finding("error", "no_faces", "it has no faces"))
    for name in libraries:
        _scan_materials(path, name, found)
    return found


def _finite(words: list[bytes], least: int) -> bool:
    try:
        return len(words) >= least and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def _corners(words: list[bytes], counts: tuple[int, int, int]) -> tuple[bool, bool]:
    """(whether every index of a face is of something before it, whether every corner has a UV)."""
    textured = True
    for word in words:
        parts = word.split(b"/")
        if len(parts) > 3 or not parts[0]:
            return False, textured
        textured &= len(parts) > 1 and bool(parts[1])
        for part, count in zip(parts, counts, strict=False):
            if part:
                try:
                    index = int(part)
                except ValueError:
                    return False, textured
                # Before it, as the format has it: forward references are rare, and half of all readers refuse them.
                if index == 0 or index > count or index < -count:
                    return False, textured
    return True, textured


def _text(line: bytes) -> str:
    return line.split(None, 1)[1].decode("utf-8", "replace").strip()[:200]


def _scan_materials(path: Path, name: str, found: ObjScan) -> None:
    try:
        library = inside(path, name, f"mtllib {name[:80]}")
        if library.stat().st_size > LARGEST_MATERIALS:
            raise Damage("too_large", f"its materials have {library.stat().st_size:,} bytes", name)
        text = library.read_text(encoding="utf-8", errors="replace")
    except Damage as damage:
        said = damage.finding
        worst = "error" if said.code in ("external_uri", "bad_uri", "too_large") else "warning"
        found.findings.append(Finding(worst, said.code, said.text, said.where))  # type: ignore[arg-type]
        return
    found.companions.append(library)
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "newmtl" and len(words) > 1:
            found.materials.append(words[1])
        elif words[0].startswith(MAPS) and len(words) > 1:
            try:
                # Beside the .obj, as its readers look for it.
                found.textures.append(inside(path, words[-1], f"{library.name}: {words[0]}"))
            except Damage as damage:
                said = damage.finding
                code = "missing_texture" if said.code == "missing_file" else said.code
                severity = "warning" if said.code == "missing_file" else "error"
                found.findings.append(Finding(severity, code, said.text, said.where))  # type: ignore[arg-type]
