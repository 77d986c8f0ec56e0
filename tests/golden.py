"""Golden outputs: a stage whose output changes must change its version number.

tests/golden.json holds stage -> {"version", "digest" or "sketch"}. A case makes a stage's output from small fixed
input. Where every machine computes the same bits, a digest over the files that the artifact saves is kept. Where sums
of floats may end in other last bits (networks, fits, meshes), a sketch is kept instead: a few figures a file, compared
within a tolerance, because a digest of rounded numbers still flips where one lies between two roundings.
Add a case below, then ``python -m tests.golden`` writes what is missing. It refuses to change an entry whose version
did not change: raise the number in ``@stage(version=...)`` first. Where it is the case that changed (its input, the
first weights of tests/tiny_models.py), take the entry out of golden.json.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.artifacts import Candidates, Picture, TexturedMesh
from engine.runs.files import files_under, unique_name
from engine.runs.job import StageJob
from engine.runs.keys import digest
from tests import scenes

sys.path.insert(0, str(Path(__file__).parent))  # as pytest does, so that the helpers are found by ``python -m`` too

FILE = Path(__file__).with_name("golden.json")
TOLERANCE = 0.005
"""Of a sketch's figures, absolute and relative."""
OF_MESHES = 0.02
"""The same where a last bit may move a vertex or a chart."""


@dataclass(frozen=True)
class Case:
    """stage : the function with its version; make : its output; tolerance : 0 for a digest, else a sketch's"""

    stage: Callable[..., Any]
    make: Callable[[], Any]
    tolerance: float = TOLERANCE

    @property
    def version(self) -> int:
        return int(self.stage.spec.version)  # type: ignore[attr-defined]


def quiet_job(label: str, models: Any = None, roles: tuple[str, ...] = ()) -> StageJob:
    """A job for one stage alone, on the CPU, seed 0, that keeps nothing."""
    nowhere = Path(tempfile.gettempdir()) / unique_name("maquette-golden")  # never made: a state of another run is none
    return StageJob(label=label, device="cpu", key="0" * 64, seed=(0, ""), attempt=0, roles=roles, models=models,
                    emit=lambda event: None, cancelled=lambda: False, checkpoints=nowhere, trash=nowhere,
                    checkpoint_seconds=math.inf)


def picture(seed: int, size: int = 8, channels: int = 3) -> Picture:
    """A small fixed picture of noise."""
    rng = np.random.default_rng(seed)
    return Picture(np.round(rng.random((size, size, channels)) * 255).astype(np.float32) / 255, f"picture {seed}")


def choose_candidate_case() -> Any:
    from engine.stages.choose_candidate import ChooseCandidate, choose_candidate
    candidates = Candidates([picture(i) for i in range(3)], [0.1, 0.7, 0.4], 1)
    return choose_candidate(candidates, ChooseCandidate(), quiet_job("choose_candidate"))


def load_picture_case() -> Any:
    from engine.stages.load_picture import LoadPicture, load_picture
    with tempfile.TemporaryDirectory() as folder:
        from engine.artifacts import save_png
        path = Path(folder) / "x.png"
        save_png(path, picture(5, 20, 4).image)
        return load_picture(LoadPicture(path=str(path)), quiet_job("load_picture"))


def load_views_case() -> Any:
    from engine.artifacts import save_png
    from engine.stages.load_views import LoadViews, load_views
    views = scenes.views(5, 0, size=24, samples=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, image in enumerate(views.images):
            save_png(folder / f"{i}.png", image)
        frames = [{"file_path": f"{i}", "transform_matrix": pose.tolist()}
                  for i, pose in enumerate(views.cameras.camera_to_world)]
        (folder / "transforms.json").write_text(json.dumps({"fl_x": float(views.cameras.fx[0]), "frames": frames}))
        return load_views(LoadViews(folder=name), quiet_job("load_views"))


def disc(size: int = 64) -> Picture:
    """A shaded disc, off the centre, before plain white."""
    y, x = np.mgrid[:size, :size] / size
    inside = ((x - 0.4) ** 2 + (y - 0.55) ** 2 < 0.09)[..., None]
    return Picture(np.where(inside, np.stack([0.9 - 0.4 * x, 0.3 * y, 0.2 + 0 * x], -1), 1.0).astype(np.float32))


def job_with_models(label: str, roles: tuple[str, ...]) -> StageJob:
    from tiny_models import tiny_set
    return quiet_job(label, tiny_set(), roles)


def cut_out_case() -> Any:
    from engine.stages.cut_out import CutOut, cut_out
    return cut_out(disc(), CutOut(), job_with_models("cut_out", ("matting", "image_text")))


def text_to_image_case() -> Any:
    from engine.stages.text_to_image import TextToImage, text_to_image
    return text_to_image(TextToImage(prompt="a red mug, side view", candidates=2, steps=2),
                         job_with_models("text_to_image", ("text_to_image", "image_text")))


def estimate_elevation_case() -> Any:
    from engine.stages.estimate_elevation import EstimateElevation, estimate_elevation
    return estimate_elevation(cut_out_case(), EstimateElevation(),
                              job_with_models("estimate_elevation", ("view_judge",)))


def carve_mesh_case() -> Any:
    from engine.stages.carve_mesh import CarveMesh, carve_mesh
    return carve_mesh(scenes.views(8, 0, size=24, samples=2), CarveMesh(resolution=24, triangles=400),
                      quiet_job("carve_mesh"))


def paint_mesh_case() -> Any:
    from mesh_helpers import ball
    from test_texture import pictures_of_ball

    from engine.artifacts import Mesh
    from engine.stages.paint_mesh import PaintMesh, paint_mesh
    return paint_mesh(Mesh(*ball(12)), pictures_of_ball((20.0, 140.0), 48), PaintMesh(texture_size=64),
                      quiet_job("paint_mesh"))


def image_to_views_case() -> Any:
    from engine.stages.image_to_views import ImageToViews, image_to_views
    return image_to_views(cut_out_case(), ImageToViews(azimuths=2, elevations_deg=(20.0,), steps=2, elevation_deg=20,
                                                       sampler="dpm", guidance=2.0),
                          job_with_models("image_to_views", ("novel_view", "matting")))


def fit_field_case() -> Any:
    from engine.stages.fit_field import FitField, fit_field
    return fit_field(scenes.views(8, 0, size=24, samples=2), FitField(steps=30, samples=2048, levels=3, finest=64,
                                                                         first_density=1.0, sparsity_weight=0.02),
                     quiet_job("fit_field"))


def extract_mesh_case() -> Any:
    from mesh_helpers import Densities, sphere

    from engine.stages.extract_mesh import ExtractMesh, mesh_of
    return mesh_of(Densities(sphere), ExtractMesh(resolution=24, triangles=400), quiet_job("extract_mesh"))


def textured(size: int = 64) -> TexturedMesh:
    """A ball that is red where x > 0, else blue, textured from two exact pictures."""
    from mesh_helpers import ball
    from test_texture import halves, pictures_of_ball

    from engine.artifacts import Mesh
    from engine.stages.texture_mesh import TextureMesh, texture_of
    return texture_of(Mesh(*ball(12)), halves, pictures_of_ball((20.0, 140.0), 48),
                      TextureMesh(texture_size=size, material="metal"), quiet_job("texture_mesh"))


def export_mesh_case() -> Any:
    from engine.stages.export_mesh import ExportMesh, export_mesh
    return export_mesh(textured(), ExportMesh(height_m=0.5, formats=("glb", "obj", "ply")), quiet_job("export_mesh"))


def finish_mesh_case() -> Any:
    from engine.stages.finish_mesh import FinishMesh, finish_mesh
    return finish_mesh(textured(), FinishMesh(triangles=600, texture_size=64, occlusion_rays=8, lods=(1.0, 0.5),
                                              lightmap=True, lightmap_size=64), quiet_job("finish_mesh"))


def render_turntable_case() -> Any:
    from engine.stages.render_turntable import RenderTurntable, render_turntable
    return render_turntable(textured(), RenderTurntable(frames=2, size=64, gif_size=32, sheet_size=32),
                            quiet_job("render_turntable"))


def load_mesh_case() -> Any:
    import trimesh

    from engine.stages.load_mesh import LoadMesh, load_mesh
    with tempfile.TemporaryDirectory() as name:
        trimesh.creation.box((2, 1, 0.5)).export(Path(name) / "box.ply")
        return load_mesh(LoadMesh(path=str(Path(name) / "box.ply"), uvs="make", texture_size=64, up="z"),
                         quiet_job("load_mesh"))


def open_asset_case() -> Any:
    from engine.export.gltf import Content, glb, gltf_file
    from engine.export.pictures import Pictures
    from engine.stages.open_asset import OpenAsset, open_asset
    from tests.export_helpers import small_asset
    asset = small_asset(levels=1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "mug.glb"
        content = Content("Mug", [("Mug", asset.lods[0])], [("UCX_Mug_00", asset.colliders[0])])
        path.write_bytes(glb(gltf_file(asset, content, Pictures())))
        return open_asset(OpenAsset(path=str(path)), quiet_job("open_asset"))


def distill_field_case() -> Any:
    from engine.stages.distill_field import DistillField, distill_field
    from tests.distilling import FIELD, ball_field, disc_views
    p = DistillField(**{**FIELD, "steps": 3}, text="sds", prompt="a red mug", rgb_weight=10.0, mask_weight=1.0)
    return distill_field(ball_field(), None, disc_views(), p, job_with_models("distill_field", ("text_to_image",)))


def refine_mesh_case() -> Any:
    from engine.stages.refine_mesh import RefineMesh, refine_mesh
    from tests.distilling import MESH, ball_field, disc_views
    p = RefineMesh(**{**MESH, "steps": 2}, resolution=8, triangles=200, text="sds", prompt="a red mug")
    return refine_mesh(ball_field(), None, disc_views(), p, job_with_models("refine_mesh", ("text_to_image",)))


def retexture_case() -> Any:
    from engine.stages.retexture import Retexture, retexture
    from tests.distilling import MESH, quad_ball
    p = Retexture(**{**MESH, "steps": 2}, text="sds", prompt="a red mug")
    return retexture(quad_ball(), None, None, p, job_with_models("retexture", ("text_to_image",)))


def cases() -> dict[str, Case]:
    """stage name -> its case."""
    from engine.stages.carve_mesh import carve_mesh
    from engine.stages.choose_candidate import choose_candidate
    from engine.stages.cut_out import cut_out
    from engine.stages.distill_field import distill_field
    from engine.stages.estimate_elevation import estimate_elevation
    from engine.stages.export_mesh import export_mesh
    from engine.stages.extract_mesh import extract_mesh
    from engine.stages.finish_mesh import finish_mesh
    from engine.stages.fit_field import fit_field
    from engine.stages.image_to_views import image_to_views
    from engine.stages.load_mesh import load_mesh
    from engine.stages.load_picture import load_picture
    from engine.stages.load_views import load_views
    from engine.stages.open_asset import open_asset
    from engine.stages.paint_mesh import paint_mesh
    from engine.stages.refine_mesh import refine_mesh
    from engine.stages.render_turntable import render_turntable
    from engine.stages.retexture import retexture
    from engine.stages.text_to_image import text_to_image
    from engine.stages.texture_mesh import texture_mesh
    from tests.clip_golden import clip_cases
    from tests.image_golden import image_cases
    return {**image_cases(), **clip_cases(),
            "choose_candidate": Case(choose_candidate, choose_candidate_case, 0),
            "load_picture": Case(load_picture, load_picture_case, 0),
            "load_views": Case(load_views, load_views_case),
            "cut_out": Case(cut_out, cut_out_case),
            "text_to_image": Case(text_to_image, text_to_image_case),
            "estimate_elevation": Case(estimate_elevation, estimate_elevation_case),
            "carve_mesh": Case(carve_mesh, carve_mesh_case, OF_MESHES),
            "paint_mesh": Case(paint_mesh, paint_mesh_case, OF_MESHES),
            "image_to_views": Case(image_to_views, image_to_views_case),
            "load_mesh": Case(load_mesh, load_mesh_case, OF_MESHES),
            "open_asset": Case(open_asset, open_asset_case, OF_MESHES),
            "distill_field": Case(distill_field, distill_field_case, 0.1),
            "refine_mesh": Case(refine_mesh, refine_mesh_case, 0.1),
            "retexture": Case(retexture, retexture_case, 0.1),
            "fit_field": Case(fit_field, fit_field_case, 0.1),
            "extract_mesh": Case(extract_mesh, extract_mesh_case, OF_MESHES),
            "texture_mesh": Case(texture_mesh, textured, OF_MESHES),
            "export_mesh": Case(export_mesh, export_mesh_case, OF_MESHES),
            "finish_mesh": Case(finish_mesh, finish_mesh_case, OF_MESHES),
            "render_turntable": Case(render_turntable, render_turntable_case, OF_MESHES)}


def output_of(case: Case) -> Any:
    """What is kept of a case's output: its digest, or its sketch."""
    artifact = case.make()
    return content_digest(artifact) if case.tolerance == 0 else sketch(artifact)


def sketch(artifact: Any) -> dict[str, list[Any]]:
    """A few figures of each file that an artifact saves: pictures by a 4 x 4 grid, tensors by their spread."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact.save(folder)
        return {file: _figures(folder / file) for file in files_under(folder)}


def _figures(path: Path) -> list[Any]:
    if path.suffix in (".png", ".gif"):
        from PIL import Image
        with Image.open(path) as image:
            small = image.convert("RGBA").resize((4, 4), Image.Resampling.BOX)
            return [*image.size, *_rounded((np.asarray(small).reshape(-1) / 255).tolist(), 3)]
    if path.suffix == ".json":
        return _rounded(list(_leaves(json.loads(path.read_text(encoding="utf-8")))), 4)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file
        return [figure for name, value in sorted(load_file(path).items()) for figure in _spread(name, value)]
    if path.suffix in (".glb", ".obj", ".ply"):
        import trimesh
        mesh = trimesh.load(path, force="mesh")
        return _rounded([*mesh.bounds.reshape(-1).tolist(), float(mesh.area)], 4)
    return []  # clips and text differ with libraries; the artifact's JSON speaks for them


def _spread(name: str, value: np.ndarray) -> list[Any]:
    numbers = value.astype(np.float64)
    return [name, *value.shape, *_rounded([float(numbers.mean()), float(numbers.std())], 4)]


def _leaves(value: Any) -> Iterator[Any]:
    """Names and values of a JSON tree in order."""
    if isinstance(value, dict):
        for name in sorted(value):
            yield name
            yield from _leaves(value[name])
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def near(kept: Any, found: Any, tolerance: float) -> bool:
    """Whether two outputs are the same, numbers within ``tolerance`` of each other."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return kept.keys() == found.keys() and all(near(kept[k], found[k], tolerance) for k in kept)
    if isinstance(kept, list) and isinstance(found, list):
        return len(kept) == len(found) and all(near(a, b, tolerance) for a, b in zip(kept, found, strict=True))
    numbers = (int, float)
    if isinstance(kept, numbers) and isinstance(found, numbers):
        return bool(abs(kept - found) <= tolerance * (1 + abs(kept)))
    return bool(kept == found)


def content_digest(artifact: Any, decimals: int = 3) -> str:
    """Digest of what an artifact saves: pictures by their pixels, numbers rounded, so that encoders do not enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact.save(folder)
        return digest({file: _content(folder / file, decimals) for file in files_under(folder)})


def _content(path: Path, decimals: int) -> Any:
    if path.suffix == ".png":
        from PIL import Image
        with Image.open(path) as image:
            return [image.mode, image.size, digest(np.asarray(image).tolist())]
    if path.suffix == ".json":
        return _rounded(json.loads(path.read_text(encoding="utf-8")), decimals)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file
        return {k: [list(v.shape), digest(_rounded(v.tolist(), decimals))] for k, v in load_file(path).items()}
    return path.stat().st_size


def _rounded(value: Any, decimals: int) -> Any:
    if isinstance(value, float):
        return round(value, decimals) + 0.0  # no negative zero
    if isinstance(value, list):
        return [_rounded(v, decimals) for v in value]
    if isinstance(value, dict):
        return {k: _rounded(v, decimals) for k, v in value.items()}
    return value


def compare(kept: dict[str, Any], name: str, version: int, found: Any, tolerance: float = 0) -> str:
    """"" where all is well, else what to do."""
    if name not in kept:
        return f"{name} has no golden output: run python -m tests.golden"
    if near(kept[name].get("digest", kept[name].get("sketch")), found, tolerance) and kept[name]["version"] == version:
        return ""
    if kept[name]["version"] == version:
        return (f"the output of {name} changed and its version is still {version}: raise it in @stage(version=...), "
                f"so that kept results are not taken for the new ones, then run python -m tests.golden")
    return f"{name} is now version {version}: run python -m tests.golden"


def main() -> int:
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name, case in cases().items():
        found = output_of(case)
        told = compare(kept, name, case.version, found, case.tolerance)
        if "is still" in told:  # not "distill"
            print(told)
            return 1
        if told:
            kept[name] = {"version": case.version, "sketch" if case.tolerance else "digest": found}
    lines = [f" {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(kept.items())]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
