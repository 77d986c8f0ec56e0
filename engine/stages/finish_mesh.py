"""A textured mesh -> the master of a game asset: mended, within a budget, with levels, normal maps and colliders."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field as Limits
from pydantic import field_validator

from engine.artifacts import TexturedMesh
from engine.errors import BadInput
from engine.export.heights import usual_height_m
from engine.export.materials import MATERIALS
from engine.job import Gate, Job, Params, stage
from engine.meshes.asset import Collider, GameAsset, Lod, Material

if TYPE_CHECKING:
    from engine.meshes.finish import First, Ground
    from engine.meshes.levels import Levels

__all__ = ["FinishMesh", "finish_mesh"]


class FinishMesh(Params):
    """Parameters of ``finish_mesh``."""

    name: str = Limits("asset", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
                       description="name of the asset and of what is in its files")
    triangles: int = Limits(10_000, ge=16, le=2_000_000, description="most triangles of the first level")
    lods: tuple[float, ...] = Limits(
        (1.0, 0.5, 0.25, 0.1), min_length=1, max_length=8,
        description="levels, falling from 1: shares of the first one's triangles, or of the screen's height")
    lods_by: Literal["triangles", "screen"] = Limits(
        "triangles", description="what lods are; screen: as few triangles as keep errors below a pixel at each share")
    lod_normals: Literal["own", "shared"] = Limits(
        "own", description="a normal map a level, or the first one's for all")
    repair: bool = Limits(True, description="part glued sheets, turn faces outward, close holes, drop copies")
    smallest_part: float = Limits(0.001, ge=0, le=1, description="loose parts of less surface than this share of the "
                                                                  "largest one's are dropped")
    largest_hole: float = Limits(0.1, ge=0, le=1, description="holes are closed whose cover is at most this share of "
                                                              "the surface")
    symmetry: Literal["none", "auto", "x", "y", "z"] = Limits(
        "none", description="make it its own mirror image: at the plane that fits best, or across an axis")
    quads: bool = Limits(False, description="lay even quadrilaterals over it first; needs pynanoinstantmeshes")
    uvs: Literal["auto", "keep", "make"] = Limits(
        "auto", description="the texture that is there; auto: made anew where it cannot be kept")
    texture_size: int | Literal["auto"] = Limits(1024, description="pixels a side, 512 to 4096, a power of two; auto: "
                                                                   "by texel_density")
    texel_density: float = Limits(512, gt=0, le=100_000, description="texels a metre that auto gives at least")
    padding: int = Limits(4, ge=1, le=64, description="pixels kept free between charts that are made")
    crease_deg: float = Limits(50.0, ge=0, le=180, description="edges that bend more than this are drawn sharp")
    normal_map: bool = Limits(True, description="keep the fine mesh's shape as a normal map")
    occlusion_rays: int = Limits(48, ge=0, le=1024, description="rays a point for ambient occlusion; 0: none")
    material: str | None = Limits(None, description="material word that sets metallic and roughness")
    metallic: float | None = Limits(None, ge=0, le=1, description="default: the material's, else the mesh's")
    roughness: float | None = Limits(None, ge=0, le=1, description="default: the material's, else the mesh's")
    emissive: str | None = Limits(None, description="colour that glows: a name or #rrggbb")
    colliders: Literal["auto", "box", "capsule", "hulls", "none"] = Limits(
        "auto", description="auto: the simplest that is within collider_tolerance of the volume")
    most_hulls: int = Limits(16, ge=1, le=256, description="most convex hulls")
    collider_tolerance: float = Limits(0.1, ge=0, le=10, description="how much more volume than the mesh is enough")
    lightmap: bool = Limits(False, description="add a second UV set without overlaps")
    lightmap_size: int = Limits(512, ge=32, le=4096, description="pixels a side of the light map it is laid out for")
    lightmap_padding: int = Limits(3, ge=1, le=16, description="its pixels kept free between charts")
    height_m: float | None = Limits(None, gt=1e-4, lt=1e5, description="height in metres; default: the kind's, else 1")
    kind: str | None = Limits(None, max_length=64, description="what it is, for its usual height")
    pivot: Literal["base", "centre"] = Limits("base", description="what stands at the origin: the base's centre, or "
                                                                  "the middle")
    papers: dict[str, Any] = Limits(default_factory=dict, description="prompt, seed, recipe, licences")
    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {
        "draft": {"triangles": 4000, "texture_size": 512, "occlusion_rays": 24},
        "high": {"triangles": 30_000, "texture_size": 2048, "padding": 8, "occlusion_rays": 96},
    }

    @field_validator("texture_size")
    @classmethod
    def _power_of_two(cls, value: int | str) -> int | str:
        if isinstance(value, int) and (value & (value - 1) or not 64 <= value <= 4096):
            raise ValueError("texture_size must be a power of two up to 4096: 512, 1024, 2048, ...")
        return value

    @field_validator("lods")
    @classmethod
    def _falling(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] != 1 or any(not 0 < b < a for a, b in pairwise(value)):
            raise ValueError("lods must begin with 1 and fall: [1, 0.5, 0.25, 0.1]")
        return value

    @field_validator("material")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in MATERIALS:
            raise ValueError(f"unknown material {value!r}: one of {', '.join(sorted(MATERIALS))}")
        return value


@stage(version=2, gates=(Gate("uv_overlap", maximum=0.01, explain="charts of the texture overlap"),))
@torch.no_grad()
def finish_mesh(mesh: TexturedMesh, p: FinishMesh, job: Job) -> GameAsset:
    """Mend, place, simplify, unwrap where needed, bake, chain levels, wrap colliders, and measure each.

    The result stands in metres, +Y up, front +Z. What was mended, given up or not reached is told in warnings. Raises
    BadInput for a mesh that no repair makes a surface of, and for optional libraries asked for by name and missing.
    """
    from engine.meshes import finish
    from engine.meshes.detail import Fine
    from engine.meshes.levels import Wish, bumped, levels, with_lightmaps
    from engine.meshes.mend import check, mend
    from engine.meshes.textures import bytes_of, glow, orm
    check(mesh.vertices, mesh.faces)
    _check_texture(mesh)
    mended = mend(_placed(mesh.vertices, p), mesh.faces, p.smallest_part, p.largest_hole, p.repair)
    _tell_mending(mended.told, job)
    base = finish.ground(mesh, mended, p.crease_deg, _usable(mesh.normals))
    if p.symmetry != "none":
        base = finish.reflected(base, p.symmetry, p.crease_deg)
        assert base.reflected is not None
        job.metric("asymmetry", base.reflected.error, "of the longest side", "before it was mirrored")
    base.vertices = _placed(base.vertices, p)
    size = _size(base, p)
    job.progress(0.15)

    first = _first_level(base, p, size, job)
    fine = Fine.of(base.vertices, base.faces, base.normals, base.uvs, base.base_color)
    painted = finish.painted(first.mesh, base, fine, first.kept, size, p.occlusion_rays)
    normal = bumped(first.mesh, painted.world, size) if p.normal_map else None
    job.progress(0.5)

    wish = Wish(p.lods, p.lods_by == "screen", max(64, size // 2), max(1, p.padding // 2), p.crease_deg,
                p.normal_map and p.lod_normals == "own", p.occlusion_rays, _look(mesh, p))
    made = levels(first, base, fine, painted, wish)
    _tell_levels(made, job)
    lods = with_lightmaps(made, p.lightmap_size, p.lightmap_padding) if p.lightmap else made.lods
    job.progress(0.75)

    solids = _colliders(base, p, job)
    emissive = None if p.emissive is None else bytes_of(glow(painted.base_color, p.emissive))
    if emissive is not None and not emissive.any():
        job.warn(f"nothing on it is {p.emissive}: nothing glows")
    bright = 0.0 if emissive is None else 1.0
    material = Material(painted.base_color, bytes_of(orm(painted.occlusion, *wish.look)), normal, emissive,
                        emissive_factor=(bright, bright, bright))
    figures = _figures(lods, size, painted.along, p, job)
    job.progress(1.0)
    return GameAsset(p.name, tuple(lods), material, solids, float(np.ptp(lods[0].vertices[:, 1])), p.papers, figures)


def _check_texture(mesh: TexturedMesh) -> None:
    """BadInput for a mesh without UVs or a texture of the right shape."""
    if mesh.uvs.shape != (len(mesh.vertices), 2) or mesh.base_color.ndim != 3 or min(mesh.base_color.shape[:2]) < 1:
        raise BadInput("the mesh has no UVs or no texture that fits them", "unwrap it first: load_mesh.uvs = \"any\"")
    if not np.isfinite(mesh.uvs).all():
        raise BadInput("some of the mesh's UVs are not finite numbers", "unwrap it anew: load_mesh.uvs = \"make\"")


def _usable(normals: np.ndarray) -> bool:
    return bool(np.isfinite(normals).all() and (np.linalg.norm(normals, axis=1) > 0.5).all())


def _placed(vertices: np.ndarray, p: FinishMesh) -> np.ndarray:
    """(v, 3) in metres, at the pivot."""
    from engine.stages.export_mesh import standing
    made = standing(vertices, p.height_m or usual_height_m(p.kind))
    if p.pivot == "centre":
        made = made - np.array([0, (made[:, 1].min() + made[:, 1].max()) / 2, 0], np.float32)
    return made.astype(np.float32)


def _tell_mending(told: dict[str, int], job: Job) -> None:
    words = {"degenerate_faces": "{} faces without area or said twice were dropped",
             "dropped_parts": "{} tiny loose parts were dropped",
             "flipped_faces": "{} faces looked inward and were turned",
             "parted_vertices": "{} vertices were added where sheets were glued together",
             "filled_holes": "{} holes were closed"}
    for name in words:
        job.metric(name, float(told.get(name, 0)))
    said = [text.format(f"{told[name]:,}") for name, text in words.items() if told.get(name)]
    if said:
        job.warn(f"the mesh was mended: {'; '.join(said)}")


def _size(base: Any, p: FinishMesh) -> int:
    from engine.meshes.measure import area
    from engine.meshes.textures import size_for
    if p.texture_size == "auto":
        return size_for(p.texel_density, area(base.vertices, base.faces))
    return int(p.texture_size)


def _look(mesh: TexturedMesh, p: FinishMesh) -> tuple[float, float]:
    """(roughness, metallic)."""
    metallic, roughness = MATERIALS[p.material] if p.material else (mesh.metallic, mesh.roughness)
    return (float(roughness if p.roughness is None else p.roughness),
            float(metallic if p.metallic is None else p.metallic))


def _first_level(base: Ground, p: FinishMesh, size: int, job: Job) -> First:
    """The first level, with the texture that is there or a new one; says why not."""
    from engine.meshes import finish
    from engine.meshes.quads import halves, quad_mesh
    why = "quadrilaterals have no texture" if p.quads else "" if p.uvs == "make" else finish.lack_of_uvs(base)
    if p.uvs == "keep" and why:
        raise BadInput(f"the mesh's texture cannot be kept: {why}", "--set finish_mesh.uvs=auto makes a new one")
    if p.uvs != "make" and not why:
        first = finish.first_kept(base, p.triangles, p.crease_deg)
        count = len(first.mesh.faces)
        if count <= finish.REACHED * p.triangles or p.uvs == "keep":
            if count > p.triangles:
                job.warn(f"its texture's seams leave {count:,} triangles of {p.triangles:,} asked for")
            return first
        why = f"its seams would leave {count:,} triangles of {p.triangles:,} asked for"
    if p.uvs == "auto":
        job.warn(f"the texture is made anew: {why}")
    if p.quads:
        points, four = quad_mesh(base.points, base.corners, p.triangles // 2)
        job.metric("quads", float(len(four)))
        return finish.first_made(points, halves(points, four), size, p.padding, p.crease_deg)
    return finish.first_made(*finish.simplified(base.points, base.corners, p.triangles), size, p.padding, p.crease_deg)


def _tell_levels(made: Levels, job: Job) -> None:
    for k, (lod, error, wanted) in enumerate(zip(made.lods, made.errors, made.wanted, strict=True)):
        job.metric(f"lod{k}_triangles", float(lod.triangles))
        job.metric(f"lod{k}_error", error, "m", "the mended mesh; 99.5 of 100 points lie nearer")
        if k and lod.triangles > 1.1 * wanted:
            job.warn(f"level {k} has {lod.triangles:,} triangles of {wanted:,} asked for: fewer would tear it")


def _colliders(base: Ground, p: FinishMesh, job: Job) -> tuple[Collider, ...]:
    from engine.meshes.colliders import colliders
    solids, figures, warning = colliders(base.points, base.corners, p.colliders, p.most_hulls, p.collider_tolerance)
    if warning:
        job.warn(warning)
    for name, value in figures.items():
        job.metric(name, value, "m^3" if name.endswith("volume") else "")
    return solids


def _figures(lods: list[Lod], size: int, along: float, p: FinishMesh, job: Job) -> dict[str, float]:
    """What the report and the asset's meta hold of the first level."""
    from engine.meshes.measure import topology
    from engine.meshes.mend import welded
    from engine.meshes.unwrap import uv_figures
    first = lods[0]
    found = topology(welded(first.vertices)[0][first.faces])
    sampled = min(size, 512)
    flat = uv_figures(first.vertices, first.faces, first.uvs, sampled)
    figures = {
        "triangles": (float(first.triangles), ""), "vertices": (float(len(first.vertices)), ""),
        "watertight": (float(found.watertight), ""), "manifold": (float(found.manifold), ""),
        "components": (float(found.components), ""), "uv_overlap": (flat.overlap, "share of used texels"),
        "uv_used": (flat.used, "share of the texture"),
        "texel_density": (flat.texels_per_unit * size / sampled, "texels/m"),
        "uv_stretch": (flat.stretch, "95th/5th"), "texture_size": (float(size), "pixels"),
        "found_along_normals": (along, "share of texels")}
    if p.lightmap and first.lightmap_uvs is not None:
        light = uv_figures(first.vertices, first.faces, first.lightmap_uvs, p.lightmap_size)
        figures["lightmap_overlap"] = (light.overlap, "share of used texels")
        figures["lightmap_used"] = (light.used, "share of the light map")
    for name, (value, unit) in figures.items():
        job.metric(name, value, unit)
    return {name: value for name, (value, _) in figures.items()}
