"""Runs in a process of its own: opens a USD file with usd-core and prints what it found, as JSON.

    python -m engine.check.usd_probe FILE ARRAYS.npz 1
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.export.usd import papers_of, pxr
from engine.meshes.finding import Damage
from engine.meshes.gltf_document import inside

MOST_TRIANGLES = 10_000_000
MOST_LAYERS = 200
LEAST_MEMORY = 4_000_000_000


def bound_memory(size: int) -> None:
    """No more than a hundred times the file, and never less than usd-core itself takes. Nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    most = LEAST_MEMORY + 100 * size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def probe(path: Path, arrays: Path, validate: bool) -> dict[str, Any]:
    """Findings, figures, names, pictures and papers; vertices, faces and UVs go into ``arrays``."""
    usd = pxr()
    told: dict[str, Any] = {"findings": [], "figures": {}, "names": [], "pictures": [], "papers": {},
                            "version": f"usd-core {'.'.join(str(v) for v in usd.Usd.GetVersion()[1:])}"}

    def say(severity: str, code: str, text: str, where: str = "") -> None:
        told["findings"].append({"severity": severity, "code": code, "text": text, "where": where})

    if not _layers_stay_inside(usd, path, say):
        return told
    stage = usd.Usd.Stage.Open(str(path))
    if not stage:
        return {"failed": "it is no USD stage"}
    figures = told["figures"]
    figures["metres_per_unit"] = usd.UsdGeom.GetStageMetersPerUnit(stage)
    figures["up"] = str(usd.UsdGeom.GetStageUpAxis(stage))
    if not stage.HasAuthoredMetadata("metersPerUnit"):
        say("warning", "scale", "it does not say metersPerUnit: readers take centimetres")
    root = stage.GetDefaultPrim()
    if not root:
        say("warning", "no_default_prim", "it has no default prim: who references it gets nothing")
    else:
        told["papers"] = _papers(root)
        sets = root.GetVariantSets()
        if "LOD" in sets.GetNames():
            figures["lods"] = len(sets.GetVariantSet("LOD").GetVariantNames())
    _meshes(usd, stage, told, arrays, say)
    _pictures(usd, stage, path, told, say)
    if validate:
        _validators(stage, told)
    return told


def _layers_stay_inside(usd: Any, path: Path, say: Any) -> bool:
    """Whether every layer that it stands on lies in its folder. Layers are opened one by one, never composed."""
    waiting, seen = [str(path)], {str(path)}
    packed = path.suffix.lower() == ".usdz"
    while waiting:
        layer = usd.Sdf.Layer.FindOrOpen(waiting.pop())
        if layer is None:
            continue
        for name in layer.GetCompositionAssetDependencies():
            try:
                if packed and not name.startswith(("/", "\\")) and ".." not in name.split("/") and ":" not in name:
                    found = f"{path}[{name.removeprefix('./')}]"
                else:
                    found = str(inside(path, name, "layers"))
            except Damage as damage:
                one = damage.finding
                say("error", one.code, one.text, one.where)
                if one.code != "missing_file":
                    return False
                continue
            if found not in seen and len(seen) < MOST_LAYERS:
                seen.add(found)
                waiting.append(found)
    return True


def _papers(root: Any) -> dict[str, Any]:
    told = papers_of(root.GetCustomData())
    for name, value in told.items():
        try:
            told[name] = json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
        except ValueError:
            continue
    return {name: value for name, value in told.items() if isinstance(value, str | int | float | list | dict)}


def _meshes(usd: Any, stage: Any, told: dict[str, Any], arrays: Path, say: Any) -> None:
    vertices, faces, uvs, first, total, colliders = [], [], [], 0, 0, 0
    textured, most = True, 0
    cache = usd.UsdGeom.XformCache()
    for prim in stage.Traverse():
        if not prim.IsA(usd.UsdGeom.Mesh):
            continue
        told["names"].append(prim.GetName())
        mesh = usd.UsdGeom.Mesh(prim)
        if mesh.ComputePurpose() == usd.UsdGeom.Tokens.guide:
            colliders += 1
            continue
        where = str(prim.GetPath())
        points = np.asarray(mesh.GetPointsAttr().Get() or np.zeros((0, 3)), np.float64).reshape(-1, 3)
        counts = np.asarray(mesh.GetFaceVertexCountsAttr().Get() or [], np.int64)
        corners = np.asarray(mesh.GetFaceVertexIndicesAttr().Get() or [], np.int64)
        total += int(np.maximum(counts - 2, 0).sum())
        if total > MOST_TRIANGLES:
            say("error", "too_large", f"more than {MOST_TRIANGLES:,} triangles")
            return
        if (counts < 3).any() or counts.sum() != len(corners):
            say("error", "lying_length", "its face counts and its corners disagree", where)
            continue
        if len(corners) and (corners.min() < 0 or corners.max() >= len(points)):
            say("error", "index_out_of_range", "faces name a vertex that is not there", where)
            continue
        if not np.isfinite(points).all():
            say("error", "not_finite", "vertices are not finite numbers", where)
            continue
        if not len(corners):
            say("warning", "no_faces", "a mesh without faces", where)
            continue
        world = np.array(cache.GetLocalToWorldTransform(prim))
        begin = np.cumsum(counts) - counts
        fan = np.concatenate([np.stack([begin[counts > k + 1], begin[counts > k + 1] + k,
                                        begin[counts > k + 1] + k + 1], -1) for k in range(1, int(counts.max()) - 1)])
        if np.linalg.det(world[:3, :3]) < 0:
            say("warning", "negative_scale", "a mirrored mesh", where)
        vertices.append(points @ world[:3, :3] + world[3, :3])
        faces.append(corners[fan] + first)
        first += len(points)
        most = max(most, len(points))
        own = _st(usd, mesh, corners, len(points))
        textured &= own is not None
        if own is not None:
            uvs.append(own[fan.reshape(-1)])
    told["figures"] |= {"triangles": total, "vertices": most}
    if colliders:
        told["figures"]["colliders"] = colliders
    if faces:
        held = {"vertices": np.concatenate(vertices), "faces": np.concatenate(faces)}
        if textured:
            held["uvs"] = np.concatenate(uvs)
        np.savez(arrays, **held)  # type: ignore[arg-type]
    else:
        say("error", "no_mesh", "it shows no mesh")


def _st(usd: Any, mesh: Any, corners: np.ndarray, points: int) -> np.ndarray | None:
    """(c, 2) a corner, glTF's origin; None where there are none that fit."""
    primvar = usd.UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
    values = primvar.ComputeFlattened() if primvar and primvar.HasValue() else None
    if values is None:
        return None
    uvs = np.asarray(values, np.float64).reshape(-1, 2)
    if len(uvs) == points and primvar.GetInterpolation() in ("vertex", "varying"):
        uvs = uvs[corners]
    if len(uvs) != len(corners) or not np.isfinite(uvs).all():
        return None
    return np.stack([uvs[:, 0], 1 - uvs[:, 1]], -1)


def _pictures(usd: Any, stage: Any, path: Path, told: dict[str, Any], say: Any) -> None:
    """Every texture by its header; a path that leads outside is refused."""
    from PIL import Image
    names: set[str] = set()
    materials = 0
    for prim in stage.Traverse():
        materials += prim.IsA(usd.UsdShade.Material)
        for attribute in prim.GetAttributes():
            value = attribute.Get() if attribute.GetTypeName() == usd.Sdf.ValueTypeNames.Asset else None
            if value is not None and value.path:
                names.add(value.path)
    weight = 0
    for name in sorted(names):
        try:
            if path.suffix.lower() == ".usdz":
                with zipfile.ZipFile(path) as package:
                    data = package.read(str(Path(name).as_posix()).removeprefix("./"))
            else:
                data = inside(path, name, "textures").read_bytes()
            with Image.open(io.BytesIO(data)) as picture:
                told["pictures"].append([name[-60:], picture.width, picture.height])
            weight += len(data)
        except Damage as damage:
            one = damage.finding
            say("warning" if one.code == "missing_file" else "error",
                "missing_texture" if one.code == "missing_file" else one.code, one.text, one.where)
        except KeyError:
            say("warning", "missing_texture", f"it names {name[:80]!r}, which is not in the package")
        except Exception as error:  # Pillow raises whatever the damage leads to
            say("error", "bad_image", f"{name[:80]!r} cannot be read ({type(error).__name__})")
    told["figures"] |= {"textures": len(names), "texture_bytes": weight, "materials": materials}


def _validators(stage: Any, told: dict[str, Any]) -> None:
    """usd-core's own (UsdValidation), where this version has them."""
    try:
        from pxr import UsdValidation
    except ImportError:
        told["version"] += " (without validators)"
        return
    every = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    told["version"] += f", {len(every)} validators"
    for error in UsdValidation.ValidationContext(every).Validate(stage):
        kind = str(error.GetType())
        severity = "error" if "Error" in kind else "warning" if "Warn" in kind else "info"
        sites = [str(site.GetPrim().GetPath()) for site in error.GetSites() if site.IsPrim()]
        told["findings"].append({"severity": severity, "code": str(error.GetName()),
                                 "text": " ".join(str(error.GetMessage()).split())[:300],
                                 "where": sites[0] if sites else ""})


if __name__ == "__main__":
    file = Path(sys.argv[1])
    bound_memory(file.stat().st_size)
    try:
        answer = probe(file, Path(sys.argv[2]), sys.argv[3] == "1")
    except Exception as error:  # usd-core raises Tf.ErrorException for whatever the damage leads to
        answer = {"failed": " ".join(str(error).split())[:200] or type(error).__name__}
    print(json.dumps(answer))
