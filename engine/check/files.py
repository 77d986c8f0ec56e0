"""Checking one file: which reader looks at it, and what is then said.

    report = check_file(Path("chair.glb"), profile="godot")
    report.exit_code(), report.figures["triangles"], report.findings
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from engine.check import khronos
from engine.check.budgets import budget_findings, licence_findings, name_findings, texture_findings
from engine.check.report import CheckReport
from engine.check.surface import scale_findings, surface_figures, uv_set
from engine.errors import BadInput, MaquetteError
from engine.export.profiles import profile as named_profile
from engine.meshes.finding import Damage
from engine.meshes.gltf_document import MOST_PIXELS, GltfDocument, open_gltf
from engine.meshes.gltf_looks import image_head
from engine.meshes.gltf_merge import COLLIDER, LOWER_LOD
from engine.meshes.gltf_scene import Part, Scene, read_scene
from engine.meshes.measure import topology

GLTF, USD = (".glb", ".gltf"), (".usd", ".usda", ".usdc", ".usdz")
FORMATS = (*GLTF, ".obj", ".ply", ".stl", *USD)
MOST_TRIANGLES = 10_000_000
MOST_IMAGES = 1000


def check_file(path: Path, profile: str = "", tools: bool = True) -> CheckReport:
    """Look at a GLB, glTF, OBJ, PLY, STL or USD file. Damage is among the findings, as errors.

    profile : whose budgets and names to ask; tools : run other people's validators where they are
    BadInput: no such file, an unknown kind, an unknown profile.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path} is a folder", f"Give one file: {', '.join(kind[1:] for kind in FORMATS)}")
    if not path.exists():
        raise BadInput(f"there is no file {path}", "Check its name")
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise BadInput(f"{path} cannot be checked: its name says none of {', '.join(k[1:] for k in FORMATS)}",
                       "Give it the ending of what it is")
    if profile:
        named_profile(profile)
    report = CheckReport(path, kind[1:], profile, figures={"bytes": path.stat().st_size})
    try:
        if kind in GLTF:
            _gltf(report, tools)
        elif kind in USD:
            from engine.check.usd import check_usd
            check_usd(report, tools)
        else:
            _plain(report)
    except MaquetteError as error:
        report.say("error", "unreadable", str(error))
    except MemoryError:
        report.say("error", "too_large", "it needs more memory than there is")
    scale_findings(report)
    budget_findings(report)
    return report


# -- glTF --------------------------------------------------------------------------------------------------------------

def _gltf(report: CheckReport, tools: bool) -> None:
    if tools:
        found, report.tools["khronos"], _ = khronos.validate(report.path)
        report.findings += found
        if not report.tools["khronos"].startswith("gltf-validator"):
            report.say("info", "no_validator", f"the Khronos validator was {report.tools['khronos']}")
    document = open_gltf(report.path)
    scene = read_scene(document, MOST_TRIANGLES)
    _pictures(report, scene)
    _meshes(report, scene)
    name_findings(report, scene.node_names, "nodes")
    about = document.data["asset"]
    extras = about.get("extras")
    licence_findings(report, extras if isinstance(extras, dict) else {}, str(about.get("copyright", "")))
    if scene.scaled_nodes and "KHR_mesh_quantization" not in document.data.get("extensionsUsed", ()):
        count = scene.scaled_nodes
        many = "1 node scales its mesh" if count == 1 else f"{count:,} nodes scale their meshes"
        report.say("hint", "node_scale", f"{many}: engines want it in the vertices")
    for look in scene.looks:
        if not look.said_metallic and look.orm_picture is None:
            report.say("hint", "default_metal",
                       f"material {look.name[:60]!r} does not say metallicFactor: glTF's default is metal")
    report.findings += [one for one in scene.findings if one not in report.findings]


def _pictures(report: CheckReport, scene: Scene) -> None:
    """Every picture by its header: none is unpacked."""
    document, sizes, weight = scene.document, [], 0
    try:
        count = len(document.items("images"))
    except Damage as damage:
        document.findings.append(damage.finding)
        return
    if count > MOST_IMAGES:
        report.say("warning", "too_many", f"{count:,} pictures; the first {MOST_IMAGES:,} were looked at")
    for i in range(min(count, MOST_IMAGES)):
        try:
            kind, width, height, size = image_head(document, i)
        except Damage as damage:
            found = damage.finding
            code = "missing_texture" if found.code == "missing_file" else found.code
            document.say(found.severity, code, found.text, found.where)
            continue
        weight += size
        if width * height > MOST_PIXELS:
            document.say("error", "too_large", f"picture {i} ({kind}) would unpack to {width:,} x {height:,} pixels",
                         f"/images/{i}")
        sizes.append((_image_name(document, i), width, height))
    report.figures |= {"textures": count, "texture_bytes": weight, "materials": len(scene.looks)}
    texture_findings(report, sizes)


def _image_name(document: GltfDocument, index: int) -> str:
    about = document.items("images")[index]
    return str(about.get("name") or about.get("uri") or index)[:60]


def _meshes(report: CheckReport, scene: Scene) -> None:
    """The main mesh, its levels and its colliders, each by its names."""
    colliders = [part for part in scene.parts if COLLIDER.search(part.node)]
    lower = [part for part in scene.parts if LOWER_LOD.search(part.node) and part not in colliders]
    apart = {id(part) for part in (*colliders, *lower)}
    main = [part for part in scene.parts if id(part) not in apart] or scene.parts
    report.figures["triangles"] = sum(len(part.faces) for part in main) if scene.parts else scene.triangles
    if not main:
        return
    report.figures["vertices"] = max(len(part.vertices) for part in scene.parts)
    if lower:
        counts: dict[str, int] = {}
        for part in lower:
            name = (re.search(r"_LOD0*(\d+)", part.node, re.IGNORECASE) or [part.node, part.node])[1]
            counts[f"lod{name}"] = counts.get(f"lod{name}", 0) + len(part.faces)
        report.figures["lods"] = 1 + len(counts)
        above = report.figures["triangles"]
        for name, count in sorted(counts.items(), key=lambda one: int(re.sub(r"\D", "", one[0]) or 0)):
            report.figures[f"{name}_triangles"] = count
            if count >= above:
                report.say("warning", "lod_order", f"{name} has {count:,} triangles, no fewer than the level above it")
            above = count
    if colliders:
        report.figures["colliders"] = len(colliders)
        for part in colliders:
            _collider(report, part)
    first = np.cumsum([0, *(len(part.vertices) for part in main)])
    vertices = np.concatenate([part.vertices for part in main])
    faces = np.concatenate([part.faces + n for part, n in zip(main, first, strict=False)])
    kept = surface_figures(report, vertices, faces)
    if not len(kept) or len(colliders) == len(scene.parts):
        return  # what no one sees needs neither normals nor UVs
    if all(part.normals is None for part in main):
        report.say("hint", "no_normals", "it has no normals: every engine makes its own")
    _uvs(report, scene, main, vertices, kept)


def _uvs(report: CheckReport, scene: Scene, main: list[Part], vertices: np.ndarray, faces: np.ndarray) -> None:
    texture = int(report.figures.get("largest_texture", 0))
    if all(part.uvs is not None for part in main):
        # Parts of different materials lie on different pictures: overlap is counted within one material alone.
        materials = {part.material for part in main}
        if len(materials) == 1:
            uvs = np.concatenate([part.uvs for part in main if part.uvs is not None])
            uv_set(report, "uv", vertices, faces, uvs, texture)
        elif len(materials) <= 16:
            for k in materials:
                some = [part for part in main if part.material == k and len(part.faces)]
                for part in some[:1]:
                    assert part.uvs is not None
                    good = part.faces[np.isfinite(part.vertices[part.faces]).all((1, 2))]
                    if len(good):
                        uv_set(report, f"uv_material{k}", part.vertices, good, part.uvs, texture)
    elif any(look.base_picture is not None or look.normal_picture is not None for look in scene.looks):
        report.say("warning", "no_uvs", "it has pictures and no UVs to lay them on")
    else:
        report.say("hint", "no_uvs", "it has no UVs")
    second = [part.uvs2 for part in main]
    if all(uvs is not None for uvs in second):
        uv_set(report, "uv2", vertices, faces, np.concatenate([uvs for uvs in second if uvs is not None]), texture,
               lightmap=True)


def _collider(report: CheckReport, part: Part) -> None:
    """Closed, and convex to a thousandth of its size."""
    finite = np.isfinite(part.vertices).all()
    if not finite or not len(part.faces):
        report.say("warning", "bad_collider", f"collider {part.node[:60]!r} is damaged")
        return
    _, place = np.unique(part.vertices.astype(np.float32), axis=0, return_inverse=True)
    found = topology(place.reshape(-1)[part.faces])
    corners = part.vertices[part.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    size = float(np.ptp(part.vertices, axis=0).max())
    if len(part.vertices) > 5000:
        report.say("warning", "heavy_collider", f"collider {part.node[:60]!r} has {len(part.vertices):,} vertices")
        return
    ahead = (np.einsum("fk,vk->fv", normals, part.vertices) - np.einsum("fk,fk->f", normals, corners[:, 0])[:, None])
    if not found.watertight:
        report.say("warning", "bad_collider", f"collider {part.node[:60]!r} is not closed")
    elif float(ahead.max()) > 1e-3 * max(size, 1e-12):
        report.say("warning", "bad_collider", f"collider {part.node[:60]!r} is not convex")


# -- OBJ, PLY, STL -----------------------------------------------------------------------------------------------------

def _plain(report: CheckReport) -> None:
    from engine.meshes.foreign import open_foreign
    from engine.meshes.obj_scan import scan_obj
    if report.format == "obj":
        scan = scan_obj(report.path, MOST_TRIANGLES)
        report.findings += scan.findings
        report.figures |= {"triangles": scan.triangles, "vertices": scan.vertices, "materials": len(scan.materials),
                           "textures": len(set(scan.textures))}
        name_findings(report, scan.objects, "objects")
        texture_findings(report, _heads(report, scan.textures))
        if report.count("error"):
            return
    found = open_foreign(report.path, MOST_TRIANGLES)
    file = found.file
    report.findings += [one for one in found.findings if one not in report.findings]
    report.figures |= {"triangles": len(file.faces), "vertices": len(file.vertices)}
    vertices = file.vertices
    if report.format == "stl":
        report.say("info", "no_units", "STL knows no units: its numbers are taken as millimetres and Z as up, as "
                   "slicers do")
        vertices = vertices / 1000
    kept = surface_figures(report, vertices, file.faces)
    if report.format == "stl":  # Z is up; it can hold neither UVs nor papers
        told = report.figures
        if "height_m" in told:
            told["height_m"], told["depth_m"] = told["depth_m"], told["height_m"]
        return
    if file.uvs is None:
        report.say("hint", "no_uvs", "it has no UVs")
    elif len(kept):
        uv_set(report, "uv", vertices, kept, file.uvs, int(report.figures.get("largest_texture", 0)))
    licence_findings(report, {})


def _heads(report: CheckReport, paths: list[Path]) -> list[tuple[str, int, int]]:
    from PIL import Image
    sizes: list[tuple[str, int, int]] = []
    for path in dict.fromkeys(paths):
        try:
            with Image.open(path) as picture:
                size: Any = picture.size
        except Exception as error:  # Pillow raises whatever the damage leads to
            report.say("error", "bad_image", f"{path.name} cannot be read ({type(error).__name__})")
            continue
        if size[0] * size[1] > MOST_PIXELS:
            report.say("error", "too_large", f"{path.name} would unpack to {size[0]:,} x {size[1]:,} pixels")
        sizes.append((path.name, int(size[0]), int(size[1])))
    return sizes
