"""The mission on one page: each pipeline is a function that calls stages in order.

Calling one with a run plans it; nothing is executed, so no pipeline may look at a value. Stages are imported where
they are used: this page loads neither torch nor warp. Here are the direct ones; those under guidance have their own
page, engine.distillation_pipelines, and their names here too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.distillation_pipelines import (
    draw_picture,
    dreamcraft3d,
    dreamfusion,
    magic3d,
    one2345,
    open_mesh,
    refine,
    retexture,
    zero123,
)
from engine.runs.run import Handle, Run

__all__ = ["draw_picture", "dreamcraft3d", "dreamfusion", "image_to_mesh", "magic3d", "one2345", "open_mesh",
           "open_picture", "publish", "refine", "retexture", "text_to_mesh", "views_to_mesh", "zero123"]

if TYPE_CHECKING:
    from engine.artifacts import Files, Picture, TexturedMesh


FROM_MADE_VIEWS: dict[str, Any] = {"levels": 4, "finest": 40, "hull_votes": 0.6, "steps": 200, "samples": 8192,
                                   "first_density": 8.0}
"""Made views disagree with each other: a fine field would fit their quarrels as spikes, a coarse one finds what most of
them say, and the hull lets a minority of wrong masks be outvoted."""
OF_MADE_VIEWS: dict[str, Any] = {"smoothing": 30, "threshold": 3.0}
"""Their outlines are soft, so matter is thin there: at the usual density, 9, a mug's handle is lost. With the thicker
start, F at 0.05 of a chest went from 0.52 to 0.74, of a mushroom from 0.91 to 0.98."""


def text_to_mesh(run: Run, prompt: str, *, negative: str = "", pick: int | None = None,
                 elevation_deg: float | None = None) -> Handle[TexturedMesh]:
    """Words -> candidate pictures -> the best (or the picked) one -> a textured mesh."""
    picture = draw_picture(run, prompt, negative=negative, pick=pick)
    return image_to_mesh(run, picture, elevation_deg=elevation_deg, about=prompt)


def image_to_mesh(run: Run, image: Handle[Picture], *, elevation_deg: float | None = None, about: str = ""
                  ) -> Handle[TexturedMesh]:
    """A picture of one object -> views from all around -> a field -> a textured mesh.

    elevation_deg : where the picture was taken from; None: what the picture itself knows, else the stage's default
    about : words that say what it is; a material among them sets how it shines
    """
    from engine.stages.cut_out import cut_out
    from engine.stages.extract_mesh import extract_mesh
    from engine.stages.fit_field import fit_field
    from engine.stages.image_to_views import image_to_views
    from engine.stages.texture_mesh import material_in, texture_mesh
    subject = run(cut_out, image)
    views = run(image_to_views, subject, elevation_deg=elevation_deg)
    field = run(fit_field, views, **FROM_MADE_VIEWS)
    mesh = run(extract_mesh, field, **OF_MADE_VIEWS)
    return run(texture_mesh, mesh, field, views, material=material_in(about))


def views_to_mesh(run: Run, folder: Path, *, up: str | None = None, bounds: str | None = None) -> Handle[TexturedMesh]:
    """Pictures with known cameras (a transforms.json) -> a field -> a textured mesh."""
    from engine.stages.extract_mesh import extract_mesh
    from engine.stages.fit_field import fit_field
    from engine.stages.load_views import load_views, views_digest
    from engine.stages.texture_mesh import texture_mesh
    wishes = {name: value for name, value in (("up", up), ("bounds", bounds)) if value is not None}
    views = run(load_views, folder=str(folder), digest=views_digest(folder), **wishes)
    field = run(fit_field, views)
    mesh = run(extract_mesh, field)
    return run(texture_mesh, mesh, field, views)


def open_picture(run: Run, path: Path) -> Handle[Picture]:
    """A user's picture file; its digest stands for it in keys."""
    from engine.stages.load_picture import load_picture, picture_digest
    return run(load_picture, path=str(path), digest=picture_digest(path))


def publish(run: Run, mesh: Handle[TexturedMesh], *, about: str = "", height_m: float | None = None,
            keep_coordinates: bool = False, papers: dict[str, Any] | None = None
            ) -> tuple[Handle[Files], Handle[Files]]:
    """The files that a user takes away: asset.glb, and the turntable with its contact sheet.

    about : words that say what it is, for its usual height; papers : go into the GLB
    """
    from engine.export.heights import kind_in
    from engine.stages.export_mesh import export_mesh
    from engine.stages.render_turntable import render_turntable
    exported = run(export_mesh, mesh, name="asset", kind=kind_in(about), height_m=height_m,
                   keep_coordinates=keep_coordinates, papers=papers or {})
    return exported, run(render_turntable, mesh)
