"""A bare mesh -> the mesh with one UV set, normals and a baked base colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field as Limits
from pydantic import field_validator

from engine.artifacts import Field, Mesh, TexturedMesh, Views
from engine.export.materials import MATERIALS, material_in
from engine.job import Gate, Job, Params, stage
from engine.meshes.bake import bake, surface_texels
from engine.meshes.compare import likeness
from engine.meshes.normals import corner_normals, split_vertices
from engine.meshes.unwrap import unwrap, uv_figures

__all__ = ["MATERIALS", "TextureMesh", "material_in", "texture_mesh"]
UNKNOWN_MATERIAL = (0.0, 0.7)
COMPARED = 6
"""Views beside the reference that the finished mesh is compared with, spread over all of them."""


class TextureMesh(Params):
    """Parameters of ``texture_mesh``."""

    texture_size: int = Limits(1024, ge=64, le=8192, description="pixels a side, a power of two")
    padding: int = Limits(4, ge=1, le=64, description="pixels kept free between charts")
    crease_deg: float = Limits(50.0, ge=0, le=180, description="edges that bend more than this are drawn sharp")
    sharpness: float = Limits(4.0, ge=0, le=64, description="how strongly the picture that looks squarest wins")
    field_weight: float = Limits(0.02, ge=0, le=100, description="the field's say beside a picture of weight 1")
    material: str | None = Limits(None, description="material word that sets metallic and roughness")
    metallic: float | None = Limits(None, ge=0, le=1, description="metallic factor; default: the material's, else 0")
    roughness: float | None = Limits(None, ge=0, le=1, description="roughness factor; default: the material's or 0.7")
    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {
        "draft": {"texture_size": 512},
        "high": {"texture_size": 2048, "padding": 8},
    }

    @field_validator("texture_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("texture_size must be a power of two: 512, 1024, 2048, ...")
        return value


@stage(version=1, gates=(Gate("uv_overlap", maximum=0.01, explain="charts of the texture overlap"),))
def texture_mesh(mesh: Mesh, field: Field, views: Views | None, p: TextureMesh, job: Job) -> TexturedMesh:
    """Unwrap, then bake what the field and the pictures say into the base colour, in linear light."""
    from engine.fields.load import load_field
    colours = load_field(field, job.device)

    def color(points: np.ndarray) -> np.ndarray:
        return colours.query(torch.from_numpy(points).to(job.device).clamp(-1, 1))[1].cpu().numpy()

    return texture_of(mesh, color, views, p, job)


@torch.no_grad()
def texture_of(mesh: Mesh, color: Callable[[np.ndarray], np.ndarray] | None, views: Views | None, p: TextureMesh,
               job: Job) -> TexturedMesh:
    """The stage for any function from points (n, 3) to sRGB (n, 3), and with or without pictures."""
    normals, group = corner_normals(mesh.vertices, mesh.faces, p.crease_deg)
    flat = unwrap(mesh.vertices, mesh.faces, p.texture_size, p.padding)
    job.progress(0.3)
    first, faces = split_vertices(flat.faces, group)
    corner = flat.faces.reshape(-1)[first]
    vertices, uvs, normals = flat.vertices[corner], flat.uvs[corner], normals[group.reshape(-1)[first]]
    figures = uv_figures(vertices, faces, uvs, p.texture_size)
    job.progress(0.5)
    texels = surface_texels(vertices, faces, normals, uvs, p.texture_size, job.device)
    baked = bake(texels, vertices, faces, color, views, p.sharpness, p.field_weight)
    metallic, roughness = MATERIALS.get((p.material or "").lower(), UNKNOWN_MATERIAL)
    metallic = metallic if p.metallic is None else p.metallic
    roughness = roughness if p.roughness is None else p.roughness
    found = {
        "uv_overlap": (figures.overlap, "share of used texels"), "uv_used": (figures.used, "share of the texture"),
        "texel_density": (figures.texels_per_unit, "texels/field unit"), "uv_stretch": (figures.stretch, "95th/5th"),
        "charts": (float(flat.charts), ""), "vertices": (float(len(vertices)), ""),
        "texels_seen": (baked.seen, "share of used texels"), "view_disagreement": (baked.disagreement, "sRGB rms"),
    }
    for name, (value, unit) in found.items():
        job.metric(name, value, unit)
    meta = {**mesh.meta, **{name: value for name, (value, _) in found.items()}}
    made = TexturedMesh(vertices, faces, uvs, normals, baked.base_color, metallic, roughness, mesh.frame, meta)
    if views is not None:
        _compare(made, views, job)
    job.progress(1.0)
    return made


def _compare(mesh: TexturedMesh, views: Views, job: Job) -> None:
    """Tell how like its pictures the finished mesh is: the reference view, and held-out views, else fitted ones."""
    trusted = np.ones(len(views), bool) if views.weights is None else views.weights > 0
    others, against = np.flatnonzero(views.held_out), "held-out views"
    if not len(others):
        others, against = np.flatnonzero(trusted & (np.arange(len(views)) != views.reference)), "fitted views"
    others = others[np.unique(np.linspace(0, len(others) - 1, min(COMPARED, len(others))).round().astype(int))]
    reference = np.arange(0) if views.reference is None else np.array([views.reference])
    for name, chosen, what in (("reference", reference, "reference view, over white"),
                               ("views", others, f"{against}, over white")):
        if len(chosen):
            psnr, iou = likeness(mesh, views, chosen, job.device)
            job.metric(f"{name}_psnr", psnr, "dB", what)
            job.metric(f"{name}_mask_iou", iou, "", what)
