"""USD of a game-ready asset: one prim with a variant set "LOD", a preview-surface material, the papers; USDC or USDZ.

    /Mug (Xform, kind component, variant set "LOD": LOD0, LOD1, ...)
        Geometry/Mug    the mesh of the chosen variant
        Materials/...   UsdPreviewSurface with pictures beside the file (USDZ: inside)
        Colliders/...   convex meshes, purpose "guide", not drawn

Written by usd-core (an optional extra). https://openusd.org/release/spec_usdpreviewsurface.html
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BadInput
from engine.export.papers import as_text
from engine.export.pictures import SUFFIXES, Pictures
from engine.meshes.asset import Collider, GameAsset, Lod

MEND = "pip install usd-core (or: pip install 'maquette[usd]')"


def pxr() -> Any:
    """usd-core's modules; BadInput that names what to install where it is not there."""
    try:
        from pxr import Gf, Kind, Sdf, Tf, Usd, UsdGeom, UsdShade, UsdUtils, Vt
    except ImportError as error:
        raise BadInput("USD needs usd-core, which is not installed", MEND) from error
    from types import SimpleNamespace
    return SimpleNamespace(Gf=Gf, Kind=Kind, Sdf=Sdf, Tf=Tf, Usd=Usd, UsdGeom=UsdGeom, UsdShade=UsdShade,
                           UsdUtils=UsdUtils, Vt=Vt)


def usd_files(asset: GameAsset, stem: str, levels: Sequence[tuple[str, Lod]],
              colliders: Sequence[tuple[str, Collider]], pictures: Pictures, package: bool = False,
              folder: str = "textures") -> dict[str, bytes]:
    """path -> bytes: STEM.usdc and its pictures, or with ``package`` one STEM.usdz that holds them.

    Pictures are PNG or JPEG (USDZ takes no others). BadInput where usd-core is missing.
    """
    usd = pxr()
    if pictures.format == "webp":
        pictures = Pictures("png", pictures.largest)
    with tempfile.TemporaryDirectory(prefix="maquette-usd-") as place:
        root = Path(place)
        target = root / f"{stem}.usdc"
        made: dict[str, bytes] = {}
        _write(usd, target, asset, levels, colliders, pictures, folder, made)
        for path, data in made.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        if not package:
            return {target.name: target.read_bytes(), **made}
        packed = root / f"{stem}.usdz"
        if not usd.UsdUtils.CreateNewUsdzPackage(usd.Sdf.AssetPath(str(target)), str(packed)):
            raise BadInput(f"usd-core could not pack {packed.name}", "Write it as usdc: --formats usdc")
        return {packed.name: packed.read_bytes()}


def _write(usd: Any, target: Path, asset: GameAsset, levels: Sequence[tuple[str, Lod]],
           colliders: Sequence[tuple[str, Collider]], pictures: Pictures, folder: str, made: dict[str, bytes]) -> None:
    stage = usd.Usd.Stage.CreateNew(str(target))
    usd.UsdGeom.SetStageUpAxis(stage, usd.UsdGeom.Tokens.y)
    usd.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    top = f"/{usd.Tf.MakeValidIdentifier(asset.name)}"
    root = usd.UsdGeom.Xform.Define(stage, top)
    usd.Usd.ModelAPI(root).SetKind(usd.Kind.Tokens.component)
    stage.SetDefaultPrim(root.GetPrim())
    if asset.papers:
        root.GetPrim().SetCustomDataByKey("maquette", {
            usd.Tf.MakeValidIdentifier(str(key)): as_text(value) for key, value in asset.papers.items()})
    usd.UsdGeom.Scope.Define(stage, f"{top}/Geometry")
    usd.UsdGeom.Scope.Define(stage, f"{top}/Materials")
    looks: dict[Any, Any] = {}
    variants = root.GetPrim().GetVariantSets().AddVariantSet("LOD") if len(levels) > 1 else None
    for number, (_, lod) in enumerate(levels):
        material = _material(usd, stage, f"{top}/Materials", asset, lod, number, pictures, folder, made, looks)
        if variants is None:
            _mesh(usd, stage, f"{top}/Geometry", asset.name, lod, material)
            continue
        variants.AddVariant(f"LOD{number}")
        variants.SetVariantSelection(f"LOD{number}")
        with variants.GetVariantEditContext():
            mesh = _mesh(usd, stage, f"{top}/Geometry", asset.name, lod, material)
            mesh.GetPrim().SetCustomDataByKey("maquette:screen_size", float(lod.screen_size))
    if variants is not None:
        variants.SetVariantSelection("LOD0")
    if colliders:
        usd.UsdGeom.Scope.Define(stage, f"{top}/Colliders")
    for name, solid in colliders:
        mesh = usd.UsdGeom.Mesh.Define(stage, f"{top}/Colliders/{usd.Tf.MakeValidIdentifier(name)}")
        _geometry(usd, mesh, solid.vertices, solid.faces)
        mesh.CreatePurposeAttr(usd.UsdGeom.Tokens.guide)
        mesh.GetPrim().SetCustomDataByKey("maquette:collider", solid.kind)
    stage.GetRootLayer().Save()


def _geometry(usd: Any, mesh: Any, vertices: np.ndarray, faces: np.ndarray) -> None:
    vt = usd.Vt
    points = np.ascontiguousarray(vertices, np.float32)
    mesh.CreatePointsAttr(vt.Vec3fArray.FromNumpy(points))
    mesh.CreateFaceVertexCountsAttr(vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(vt.IntArray.FromNumpy(np.ascontiguousarray(faces.reshape(-1), np.int32)))
    mesh.CreateExtentAttr([usd.Gf.Vec3f(*(float(v) for v in end)) for end in (points.min(0), points.max(0))])
    mesh.CreateSubdivisionSchemeAttr(usd.UsdGeom.Tokens.none)


def _mesh(usd: Any, stage: Any, above: str, name: str, lod: Lod, material: Any) -> Any:
    mesh = usd.UsdGeom.Mesh.Define(stage, f"{above}/{usd.Tf.MakeValidIdentifier(name)}")
    _geometry(usd, mesh, lod.vertices, lod.faces)
    mesh.CreateNormalsAttr(usd.Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(lod.normals, np.float32)))
    mesh.SetNormalsInterpolation(usd.UsdGeom.Tokens.vertex)
    api = usd.UsdGeom.PrimvarsAPI(mesh)
    for primvar, uvs in (("st", lod.uvs), ("st1", lod.lightmap_uvs)):
        if uvs is not None:
            turned = np.stack([uvs[:, 0], 1 - uvs[:, 1]], -1).astype(np.float32)  # USD's origin is bottom left
            held = api.CreatePrimvar(primvar, usd.Sdf.ValueTypeNames.TexCoord2fArray, usd.UsdGeom.Tokens.vertex)
            held.Set(usd.Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(turned)))
    usd.UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
    return mesh


def _material(usd: Any, stage: Any, above: str, asset: GameAsset, lod: Lod, number: int, pictures: Pictures,
              folder: str, made: dict[str, bytes], looks: dict[Any, Any]) -> Any:
    m, shade, types = asset.material, usd.UsdShade, usd.Sdf.ValueTypeNames
    base, normal, orm = (m.base_color if lod.base_color is None else lod.base_color,
                         m.normal if lod.normal is None else lod.normal, m.orm if lod.orm is None else lod.orm)
    own = (id(base), id(normal), id(orm))
    if own in looks:
        return looks[own]
    stem = asset.name + (f"_LOD{number}" if looks else "")
    path = f"{above}/{usd.Tf.MakeValidIdentifier(stem)}"
    material = shade.Material.Define(stage, path)
    surface = shade.Shader.Define(stage, f"{path}/Surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    reader = shade.Shader.Define(stage, f"{path}/Uvs")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", types.String).Set("st")
    st = reader.CreateOutput("result", types.Float2)

    def texture(name: str, image: np.ndarray, kind: Any, srgb: bool, scale: Sequence[float] | None = None,
                bias: Sequence[float] | None = None) -> Any:
        format, data = pictures.encoded(image, kind)
        # A picture that another level shows too is one file.
        file = looks.setdefault((id(image), kind), f"{folder}/{stem}_{kind}{SUFFIXES[format]}")
        made[file] = data
        shader = shade.Shader.Define(stage, f"{path}/{name}")
        shader.CreateIdAttr("UsdUVTexture")
        shader.CreateInput("file", types.Asset).Set(usd.Sdf.AssetPath(f"./{file}"))
        shader.CreateInput("st", types.Float2).ConnectToSource(st)
        shader.CreateInput("sourceColorSpace", types.Token).Set("sRGB" if srgb else "raw")
        for wrap in ("wrapS", "wrapT"):
            shader.CreateInput(wrap, types.Token).Set("repeat")
        for what, value in (("scale", scale), ("bias", bias)):
            if value is not None:
                shader.CreateInput(what, types.Float4).Set(usd.Gf.Vec4f(*value))
        return shader

    def connect(name: str, kind: Any, shader: Any, output: str, output_kind: Any) -> None:
        surface.CreateInput(name, kind).ConnectToSource(shader.CreateOutput(output, output_kind))

    colour = texture("BaseColor", base, "base_color", True)
    connect("diffuseColor", types.Color3f, colour, "rgb", types.Float3)
    if base.shape[-1] == 4 and m.alpha != "OPAQUE":
        connect("opacity", types.Float, colour, "a", types.Float)
        if m.alpha == "MASK":
            surface.CreateInput("opacityThreshold", types.Float).Set(float(m.alpha_cutoff))
    packed = texture("Orm", orm, "orm", False, (1.0, float(m.roughness), float(m.metallic), 1.0), (0.0,) * 4)
    for name, output in (("occlusion", "r"), ("roughness", "g"), ("metallic", "b")):
        connect(name, types.Float, packed, output, types.Float)
    if normal is not None:
        map_ = texture("Normal", normal, "normal", False, (2.0, 2.0, 2.0, 1.0), (-1.0, -1.0, -1.0, 0.0))
        connect("normal", types.Normal3f, map_, "rgb", types.Float3)
    if m.emissive is not None:
        glow = texture("Emissive", m.emissive, "emissive", True, (*map(float, m.emissive_factor), 1.0), (0.0,) * 4)
        connect("emissiveColor", types.Color3f, glow, "rgb", types.Float3)
    elif any(m.emissive_factor):
        surface.CreateInput("emissiveColor", types.Color3f).Set(usd.Gf.Vec3f(*map(float, m.emissive_factor)))
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", types.Token))
    looks[own] = material
    return material


def papers_of(layer_data: Mapping[str, Any]) -> dict[str, Any]:
    """The papers that :func:`usd_files` put into a prim's custom data."""
    told = layer_data.get("maquette", {})
    return dict(told) if isinstance(told, Mapping) else {}
