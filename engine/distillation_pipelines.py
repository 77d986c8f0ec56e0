"""Pipelines under guidance, each a function that calls stages in order; ``engine.pipelines`` has all of them by name.

What makes one method another stands here, as numbers beside the stage that takes them; sources and how the numbers
differ from the published ones are in docs/pipelines.md. ``STEPS`` is the table of sizes and step counts by label and
quality: never seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.runs.run import Handle, Run

if TYPE_CHECKING:
    from engine.artifacts import Candidates, Field, Picture, TexturedMesh, Views

SMALL: dict[str, Any] = {"levels": 4, "finest": 40}
"""The form of a field that was fitted to made views: one that goes on from it may keep its weights."""
FINER: dict[str, Any] = {"levels": 8, "finest": 160}

STEPS: dict[str, dict[str, dict[str, Any]]] = {
    "dream": {"draft": {"steps": 200, "sizes": ((0.0, 48, 1),), "levels": 6, "finest": 96, "occupancy": 48},
              "standard": {"steps": 900, "sizes": ((0.0, 48, 1), (0.3, 64, 1), (0.7, 96, 1))},
              "high": {"steps": 5000, "sizes": ((0.0, 64, 1), (0.3, 64, 2), (0.6, 128, 1))}},
    "coarse": {"draft": {"steps": 160, "sizes": ((0.0, 48, 1),), "levels": 6, "finest": 96, "occupancy": 48},
               "standard": {"steps": 600, "sizes": ((0.0, 48, 1), (0.4, 64, 1))},
               "high": {"steps": 4000, "sizes": ((0.0, 64, 1), (0.3, 64, 2), (0.6, 96, 2))}},
    "sharpen": {"draft": {"steps": 60, "sizes": ((0.0, 48, 1),), **SMALL},
                "standard": {"steps": 300, "sizes": ((0.0, 64, 1), (0.5, 96, 1)), **FINER},
                "high": {"steps": 1500, "sizes": ((0.0, 64, 2), (0.33, 128, 2)), **FINER}},
    "surface": {"draft": {"steps": 40, "sizes": ((0.0, 48, 1),), "levels": 6, "finest": 96},
                "standard": {"steps": 200, "sizes": ((0.0, 64, 1), (0.5, 96, 1)), **FINER},
                "high": {"steps": 1500, "sizes": ((0.0, 64, 2), (0.33, 128, 1)), **FINER}},
    "refine_mesh": {"draft": {"steps": 40, "resolution": 24, "size": 96, "texture_size": 512, "triangles": 4000},
                    "standard": {"steps": 250, "resolution": 40, "size": 128, "texture_size": 1024, "triangles": 8000},
                    "high": {"steps": 2000, "resolution": 64, "size": 256, "texture_size": 2048, "triangles": 30_000}},
    "geometry": {"draft": {"steps": 30, "resolution": 24, "size": 96, "texture_size": 512, "triangles": 4000},
                 "standard": {"steps": 150, "resolution": 40, "size": 128, "texture_size": 1024, "triangles": 8000},
                 "high": {"steps": 1500, "resolution": 64, "size": 256, "texture_size": 2048, "triangles": 30_000}},
    "retexture": {"draft": {"steps": 120, "size": 96, "texture_size": 512},
                  "standard": {"steps": 600, "size": 128, "texture_size": 1024},
                  "high": {"steps": 2500, "size": 256, "texture_size": 2048}},
    "texture": {"draft": {"steps": 40, "size": 96, "texture_size": 512, "text_lessons": 10, "text_points": (0.0,),
                          "text_class_pictures": 0},
                "standard": {"steps": 200, "size": 128, "texture_size": 1024, "text_lessons": 30,
                             "text_points": (0.0, 0.5), "text_class_pictures": 4},
                "high": {"steps": 2000, "size": 256, "texture_size": 2048}},
}

DREAM: dict[str, Any] = {
    "janus": True, "text": "perp_neg", "text_scale": 20.0, "text_least": (0.0, 0.4, 0.05, 0.8), "text_most": 0.98,
    "elevation_deg": (-10.0, 60.0), "fov_deg": (35.0, 49.1), "distance": (1.8, 2.1), "blob": "cone",
    "background": "white", "shaded": 0.5, "albedo_until": 0.2,
    "sparsity_weight": (0.0, 0.5, 2.0, 1.0), "entropy_weight": (0.3, 0.0, 0.3, 1.0),
    "orientation_weight": (0.0, 0.01, 1.0, 0.5)}
"""DreamFusion: words alone, from a ball of matter."""
COARSE: dict[str, Any] = {**DREAM, "text": "sds", "weighting": "uniform", "shaded": 0.25}
"""Magic3D's first stage: the same field under plain SDS, softly lit, all time steps alike."""
HELD: dict[str, Any] = {"janus": True, "rgb_weight": 200.0, "mask_weight": 50.0, "background": "white",
                        "elevation_deg": (-10.0, 60.0), "fov_deg": (49.1, 49.1), "distance": (1.5, 2.2)}
"""What every method from a picture has in common: known pictures hold, cameras as Zero-1-to-3 knows them."""
ZERO123: dict[str, Any] = {
    **HELD, "view": "zero123", "view_weight": 0.1, "view_scale": 3.0, "view_least": (0.0, 0.4, 0.2, 0.34),
    "view_most": (0.0, 0.85, 0.5, 0.34), "entropy_weight": 0.1, "sparsity_weight": 0.1, "orientation_weight": 1.0,
    "smooth_weight": 1.0, "reference_share": 0.4}
"""Zero-1-to-3's score distillation beside the picture itself."""
SURFACE: dict[str, Any] = {
    "janus": True, "shape_rate": 0.03, "rgb_weight": 500.0, "mask_weight": 100.0, "normal_weight": 5.0,
    "laplacian_weight": 10.0, "sign_weight": 0.25}
"""Mesh stages: known pictures and smoothness in the ratios of ``engine.meshes.fit``'s defaults, times 500, so that
guidance keeps its published weight beside a picture's."""
FINE: dict[str, Any] = {"text": "sds", "text_weight": 0.1, "text_scale": 20.0, "text_least": 0.02, "text_most": 0.5,
                        "weighting": "uniform"}
"""Magic3D's second stage: words at low noise, where they say details."""
BESIDE_VIEWS: dict[str, Any] = {**FINE, "text_weight": 0.002}
"""The same where true pictures from all around are held: at Magic3D's own weight the words paint over them. Held-out
views of an axe: 32.3 dB before, 33.5 after 0.01, 35.5 after 0.002, 35.8 without words."""
BOTH: dict[str, Any] = {
    **HELD, "text": "sds", "text_weight": 0.02, "text_scale": 10.0, "text_least": (0.0, 0.7, 0.2, 0.2),
    "text_most": (0.0, 0.85, 0.5, 0.2), "view": "zero123", "view_weight": 0.1, "view_scale": 3.0,
    "view_least": (0.0, 0.7, 0.2, 0.2), "view_most": (0.0, 0.85, 0.5, 0.2), "smooth_weight": 1.0,
    "entropy_weight": (0.4, 0.1, 1.0, 1.0), "sparsity_weight": (0.4, 0.1, 1.0, 1.0),
    "orientation_weight": (0.4, 1.0, 10.0, 1.0)}
"""DreamCraft3D's first stages: words and picture pull together."""


def at_quality(run: Run, label: str) -> dict[str, Any]:
    """A label's sizes and step counts at the run's quality."""
    return STEPS[label][run.quality]


def draw_picture(run: Run, prompt: str, *, negative: str = "", pick: int | None = None) -> Handle[Picture]:
    """Words -> candidate pictures -> the best, or the picked one."""
    from engine.stages.choose_candidate import choose_candidate
    from engine.stages.text_to_image import text_to_image
    candidates: Handle[Candidates] = run(text_to_image, prompt=prompt, negative=negative)
    return run(choose_candidate, candidates, index=pick)


def dreamfusion(run: Run, prompt: str, *, negative: str = "") -> Handle[TexturedMesh]:
    """Words -> a field distilled from nothing -> a textured mesh (Poole et al. 2022)."""
    from engine.stages.distill_field import distill_field
    field = run(distill_field, None, None, None, label="dream", prompt=prompt, negative=negative,
                **{**DREAM, **at_quality(run, "dream")})
    return _meshed(run, field, None, prompt)


def magic3d(run: Run, prompt: str, *, negative: str = "") -> Handle[TexturedMesh]:
    """Words -> a coarse field -> its surface and colours refined as a mesh (Lin et al. 2023)."""
    from engine.stages.distill_field import distill_field
    from engine.stages.refine_mesh import refine_mesh
    field = run(distill_field, None, None, None, label="coarse", prompt=prompt, negative=negative,
                **{**COARSE, **at_quality(run, "coarse")})
    return run(refine_mesh, field, None, None, prompt=prompt, negative=negative, material=_material(prompt),
               **SURFACE, **FINE, **at_quality(run, "refine_mesh"))


def zero123(run: Run, image: Handle[Picture], *, elevation_deg: float | None = None, about: str = ""
            ) -> Handle[TexturedMesh]:
    """A picture -> a field fitted to made views -> distilled by the novel-view network, the picture held -> a mesh
    refined the same way (Liu et al. 2023, as threestudio runs it)."""
    from engine.stages.distill_field import distill_field
    from engine.stages.refine_mesh import refine_mesh
    subject, views, field = _direct(run, image, elevation_deg)
    field = run(distill_field, field, subject, views, label="sharpen", **{**ZERO123, **at_quality(run, "sharpen")})
    return run(refine_mesh, field, subject, views, view="zero123", view_weight=0.1, view_least=0.2, view_most=0.5,
               material=_material(about), **SURFACE, **at_quality(run, "refine_mesh"))


def one2345(run: Run, image: Handle[Picture], *, elevation_deg: float | None = None, about: str = ""
            ) -> Handle[TexturedMesh]:
    """A picture -> its elevation -> two rings of views -> a mesh carved out of them, in seconds (Liu et al. 2023)."""
    from engine.stages.carve_mesh import carve_mesh
    from engine.stages.image_to_views import image_to_views
    from engine.stages.paint_mesh import paint_mesh
    subject = _subject(run, image, elevation_deg)
    views = run(image_to_views, subject, rings="two", azimuths=4)
    mesh = run(carve_mesh, views, votes=0.6)
    return run(paint_mesh, mesh, views, material=_material(about))


def dreamcraft3d(run: Run, image: Handle[Picture], prompt: str, *, negative: str = "",
                 elevation_deg: float | None = None) -> Handle[TexturedMesh]:
    """A picture and words, in four stages (Sun et al. 2023): a radiance field; a signed distance; a mesh whose
    normals are guided; its texture, guided by a model that learns from the asset's own renders."""
    from engine.stages.distill_field import distill_field
    from engine.stages.refine_mesh import refine_mesh
    from engine.stages.retexture import retexture as paint
    words = {"prompt": prompt, "negative": negative}
    subject, views, field = _direct(run, image, elevation_deg)
    field = run(distill_field, field, subject, views, label="coarse", **{**BOTH, **words, **at_quality(run, "sharpen")})
    field = run(distill_field, field, subject, views, label="surface", kind="surface", eikonal_weight=0.1,
                **{**BOTH, **words, "text_least": 0.2, "text_most": 0.5, "view_least": 0.2, "view_most": 0.5,
                   **at_quality(run, "surface")})
    mesh = run(refine_mesh, field, subject, views, label="geometry", guided="clay", material=_material(prompt),
               **words, **SURFACE, **{**FINE, "text_weight": 0.01}, **at_quality(run, "geometry"))
    return run(paint, mesh, subject, views, label="texture", text="bsd", text_weight=0.1, text_scale=2.0,
               text_least=0.05, text_most=(0.0, 0.5, 0.2, 1.0), keep=1.0, rgb_weight=500.0, mask_weight=0.0, **words,
               **at_quality(run, "texture"))


def open_mesh(run: Run, path: Path, *, up: str | None = None, uvs: str = "keep") -> Handle[TexturedMesh]:
    """A user's mesh file; its digest stands for it in keys."""
    from engine.stages.load_mesh import load_mesh, mesh_digest
    wishes = {} if up is None else {"up": up}
    return run(load_mesh, path=str(path), digest=mesh_digest(path), uvs=uvs, **wishes)


def retexture(run: Run, mesh: Handle[TexturedMesh], prompt: str, *, negative: str = "") -> Handle[TexturedMesh]:
    """A mesh and words -> the same mesh, painted anew; no vertex moves."""
    from engine.stages.retexture import retexture as paint
    return run(paint, mesh, None, None, prompt=prompt, negative=negative, text="sds", text_scale=10.0, text_least=0.1,
               text_most=(0.0, 0.95, 0.4, 1.0), material=_material(prompt),
               **at_quality(run, "retexture"))


def refine(run: Run, mesh: Handle[TexturedMesh], prompt: str, *, negative: str = "",
           image: Handle[Picture] | None = None, elevation_deg: float | None = None) -> Handle[TexturedMesh]:
    """A mesh goes on under guidance, geometry and texture: by words, by a picture of it, or by both."""
    from engine.stages.refine_mesh import refine_mesh
    how: dict[str, Any] = {**SURFACE, "material": _material(prompt), "prompt": prompt,
                           "negative": negative}
    subject = None
    if prompt:
        how |= FINE
    if image is not None:
        subject = _subject(run, image, elevation_deg)
        how |= {"view": "zero123", "view_weight": 0.1, "view_least": 0.2, "view_most": 0.5}
    return run(refine_mesh, mesh, subject, None, **how, **at_quality(run, "refine_mesh"))


def _direct(run: Run, image: Handle[Picture], elevation_deg: float | None
            ) -> tuple[Handle[Picture], Handle[Views], Handle[Field]]:
    """The direct way from a picture to a field, from which distillation goes on: subject, views, field."""
    from engine.pipelines import FROM_MADE_VIEWS
    from engine.stages.fit_field import fit_field
    from engine.stages.image_to_views import image_to_views
    subject = _subject(run, image, elevation_deg)
    views = run(image_to_views, subject)
    return subject, views, run(fit_field, views, **FROM_MADE_VIEWS)


def _subject(run: Run, image: Handle[Picture], elevation_deg: float | None) -> Handle[Picture]:
    """The picture's subject alone, with the elevation it was taken from: the user's, the picture's or an estimate."""
    from engine.stages.cut_out import cut_out
    from engine.stages.estimate_elevation import estimate_elevation
    return run(estimate_elevation, run(cut_out, image), elevation_deg=elevation_deg)


def _meshed(run: Run, field: Handle[Field], views: Handle[Views] | None, about: str) -> Handle[TexturedMesh]:
    """A field's surface, textured."""
    from engine.stages.extract_mesh import extract_mesh
    from engine.stages.texture_mesh import texture_mesh
    mesh = run(extract_mesh, field, smoothing=30)
    return run(texture_mesh, mesh, field, views, material=_material(about))


def _material(about: str) -> str | None:
    from engine.stages.texture_mesh import material_in
    return material_in(about)
