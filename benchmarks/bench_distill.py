"""Does guidance pay? ``python -m benchmarks.bench_distill [--objects N] [--pipelines ...] [--quality ...]``

Four comparisons, all against the toybox's exact truth on objects that no training saw:
- image to mesh: each pipeline paired, object by object, with direct fitting of the same picture at the same seed:
  change of the F-score (after the best scale and translation) and of the PSNR of views from all around, with a 95 %
  interval by the bootstrap over objects;
- text to mesh: what the judge sees in renders from eight azimuths: kind and colour right;
- the same from behind, where a kind has a clear front: does the view judge see its back, or a second face?
- Magic3D's refinement from a coarse field fitted to true views: PSNR of held-out views, object by object.

Sized by --objects, so that a few objects show the way and fifty decide. Nothing is chosen afterwards: every object that
was begun is in the figures; one that a pipeline failed on counts with an F-score of 0 and has no PSNR.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_pipeline import Row, _given, aligned_f_score, row, turned

PIPELINES = ("zero123", "one2345", "dreamcraft3d")
WORDED = ("text_to_mesh", "dreamfusion", "magic3d")
VIEW_AZIMUTHS = tuple(22.5 + 45 * k for k in range(8))
"""Where views are compared: between the places that any pipeline draws."""
FIRST = 7000
"""Number of the first held-out object; no other benchmark uses these."""
RESAMPLED = 10_000


def interval(changes: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the mean of paired changes and its 95 % interval by the percentile bootstrap over objects."""
    values = np.asarray(changes, float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(RESAMPLED, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def normalised(mesh: Any) -> Any:
    """The same textured mesh, its box centred and its longest side 1.5: views are compared whatever scale was found."""
    from dataclasses import replace
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    scale = 1.5 / max(float((high - low).max()), 1e-6)
    return replace(mesh, vertices=((mesh.vertices - (low + high) / 2) * scale).astype(np.float32))


def views_psnr(mesh: Any, scene: Any, azimuth_deg: float, size: int = 96) -> float:
    """Mean PSNR in dB, over white, of unlit renders of a mesh and true renders, from eight sides at 15 degrees.

    azimuth_deg : where the picture was taken from; the asset calls that 0
    """
    from engine.artifacts import over_white
    from engine.meshes.compare import unlit
    from engine.space import Cameras
    from engine.toybox.render import render
    ours = Cameras.orbit(VIEW_AZIMUTHS, 15.0, 2.85, 49.1, size)
    theirs = Cameras.orbit([a + azimuth_deg for a in VIEW_AZIMUTHS], 15.0, 2.85, 49.1, size)
    truth = render([scene], [theirs], size).rgba
    placed = normalised(mesh)
    errors = [((over_white(unlit(placed, ours[[i]])) - over_white(truth[i])) ** 2).mean() for i in range(len(truth))]
    return float(np.mean([-10 * np.log10(max(float(e), 1e-10)) for e in errors]))


class Kept:
    """Results one by one in a file of JSON lines, so that an interrupted comparison goes on where it stood."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {tuple(r.pop("of")): r for r in map(json.loads, lines)}

    def add(self, of: tuple[Any, ...], result: dict[str, Any]) -> None:
        self.done[of] = result
        print(*of, result, flush=True)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"of": of, **result}) + "\n")


def paired_rows(objects: int = 50, pipelines: Sequence[str] = PIPELINES, quality: str = "standard",
                keep: Path | None = None) -> list[Row]:
    """Image to mesh: each pipeline beside direct fitting, object by object, the same picture, seed and store."""
    from engine.api import make
    from engine.artifacts import save_png
    from engine.errors import MaquetteError
    from engine.toybox.generate import framed
    from engine.toybox.render import render
    from engine.toybox.scene import build, sample_spec
    from engine.toybox.truth import surface_points
    names = ("image_to_mesh", *pipelines)
    kept = Kept(keep)
    for i in range(objects):
        if all(("paired", quality, name, i) in kept.done for name in names):
            continue
        spec = sample_spec("held_out", FIRST + i)
        scene = build(spec)
        azimuth = float(np.random.default_rng(FIRST + i).uniform(-40, 40))
        picture = render([scene], [framed(scene, azimuth, 20.0, 40.0, 0.7, 256)], 256).rgba[0]
        truth = turned(surface_points(scene, 20_000), azimuth)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.png"
            save_png(path, picture)
            for name in names:
                of = ("paired", quality, name, i)
                if of in kept.done:
                    continue
                began = time.perf_counter()
                try:
                    mesh = make(f"a {spec.color} {spec.kind}", image=path, pipeline=name, quality=quality,
                                elevation_deg=20.0, store=Path(folder) / "store").mesh
                    result: dict[str, Any] = {"f": aligned_f_score((mesh.vertices, mesh.faces), truth),
                                              "psnr": views_psnr(mesh, scene, azimuth)}
                except MaquetteError as error:
                    result = {"f": 0.0, "psnr": None, "error": str(error)}
                kept.add(of, {**result, "seconds": time.perf_counter() - began})
    found = {name: [kept.done["paired", quality, name, i] for i in range(objects)] for name in names}
    scores = {name: [float(r["f"]) for r in found[name]] for name in names}
    seen = {name: [float("nan") if r["psnr"] is None else float(r["psnr"]) for r in found[name]] for name in names}
    seconds = {name: [float(r["seconds"]) for r in found[name]] for name in names}
    failed = {name: sum("error" in r for r in found[name]) for name in names}
    rows = [row("image to mesh, direct fitting, F-score at 0.05", float(np.mean(scores["image_to_mesh"])), "", note=(
        f"{objects} held-out objects, {quality}; views {np.nanmean(seen['image_to_mesh']):.2f} dB"))]
    for name in pipelines:
        change = [b - a for a, b in zip(scores["image_to_mesh"], scores[name], strict=True)]
        mean, low, high = interval(change)
        note = f"95 % of {low:+.4f} to {high:+.4f}; failed on {failed[name]}; {np.mean(seconds[name]):.1f} s each"
        rows.append(row(f"{name} over direct fitting, F-score at 0.05: lower end of the interval", low, "", 0.0, None,
                        f"mean {mean:+.4f}, {note}"))
        both = [b - a for a, b in zip(seen["image_to_mesh"], seen[name], strict=True) if np.isfinite(b - a)]
        if both:
            mean, low, high = interval(both)
            rows.append(row(f"{name} over direct fitting, PSNR of eight views", mean, "dB", 0.5, None,
                            f"95 % of {low:+.3f} to {high:+.3f}, {len(both)} objects"))
    return rows


def worded_rows(objects: int = 50, pipelines: Sequence[str] = WORDED, quality: str = "standard") -> list[Row]:
    """Text to mesh: share of assets whose kind and colour the judge gets right over eight azimuths together."""
    import torch

    from engine.api import make
    from engine.artifacts import over_white
    from engine.diffusion import pictures
    from engine.errors import MaquetteError
    from engine.meshes.compare import unlit
    from engine.space import Cameras
    from engine.toybox.scene import sample_spec
    from engine.training.judge import load_judge
    from engine.training.judge import right as is_right
    judge = load_judge()
    cameras = Cameras.orbit(np.arange(8) * 45.0, 20.0, 2.6, 40.0, 128)
    rows = []
    for name in pipelines:
        right: list[tuple[bool, ...]] = []
        for i in range(objects):
            spec = sample_spec("held_out", FIRST + 500 + i)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    mesh = normalised(make(f"a {spec.color} {spec.kind}", pipeline=name, quality=quality, seed=i,
                                           store=Path(folder)).mesh)
                except MaquetteError as error:
                    print(f"{name}, object {i}: {error}", flush=True)
                    right.append((False, False))
                    continue
            shown = over_white(np.stack([unlit(mesh, cameras[[k]]) for k in range(8)]))
            with torch.no_grad():
                heads = judge(pictures.tensor_of(shown))
            said = {name: judge.classes[name][int(heads[name].log_softmax(1).sum(0).argmax())]
                    for name in ("kind", "color")}
            right.append(tuple(is_right(name, said[name], spec.to_json()) for name in ("kind", "color")))
        both = np.mean([k and c for k, c in right])
        rows.append(row(f"{name}: kind and colour right over 8 azimuths", float(both), "", 0.8, 0.95, (
            f"{objects} held-out prompts, {quality}; kind {np.mean([k for k, _ in right]):.2f}, colour "
            f"{np.mean([c for _, c in right]):.2f}; the judge itself errs: see the models' group")))
    return rows


def faced_rows(each: int = 2, quality: str = "standard", keep: Path | None = None) -> list[Row]:
    """Text to mesh, every kind with a clear front: share of the views from behind that the view judge calls back.

    each : assets a kind; three views of each, 160 to 200 degrees from the front that the asset was drawn with
    """
    from engine.api import make
    from engine.diffusion.view_judge import SIDES, look
    from engine.errors import MaquetteError
    from engine.meshes.compare import unlit
    from engine.models.sets import model_set
    from engine.space import Cameras
    from engine.toybox.props import FRONT_KINDS
    from engine.toybox.scene import RGB
    net = model_set("builtin").load("view_judge").net
    cameras = Cameras.orbit(np.array([160.0, 180.0, 200.0]), 15.0, 2.85, 49.1, 128)
    kept, colours = Kept(keep), tuple(RGB)
    for i in range(each):
        for j, kind in enumerate(FRONT_KINDS):
            of = ("faced", quality, kind, i)
            if of in kept.done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    mesh = normalised(make(f"a {colours[(5 * i + j) % len(colours)]} {kind}", quality=quality,
                                           seed=100 + i, store=Path(folder)).mesh)
                    said = look(net, [unlit(mesh, cameras[[k]]) for k in range(len(cameras))])
                    back = (said.sides().argmax(1) == SIDES.index("back")).astype(float)
                    front = (said.sides().argmax(1) == SIDES.index("front")).astype(float)
                    result: dict[str, Any] = {"back": float(back.mean()), "front": float(front.mean())}
                except MaquetteError as error:
                    result = {"back": 0.0, "front": 0.0, "error": str(error)}
            kept.add(of, result)
    by_kind = {kind: [kept.done["faced", quality, kind, i] for i in range(each)] for kind in FRONT_KINDS}
    backs = {kind: float(np.mean([r["back"] for r in found])) for kind, found in by_kind.items()}
    fronts = float(np.mean([r["front"] for found in by_kind.values() for r in found]))
    return [row("text to mesh, kinds with a clear front: views from behind judged back", np.mean(list(backs.values())),
                "", 0.9, 1.0, f"{each} assets a kind, 3 views each; judged front {fronts:.2f}; "
                + ", ".join(f"{kind} {share:.2f}" for kind, share in backs.items()))]


def refined_rows(objects: int = 10, quality: str = "standard", keep: Path | None = None) -> list[Row]:
    """Magic3D's refinement of a coarse field that was fitted to true views: held-out views' PSNR before and after."""
    from engine.artifacts import Views
    from engine.distillation_pipelines import BESIDE_VIEWS, STEPS, SURFACE
    from engine.meshes.compare import likeness
    from engine.models.sets import model_set
    from engine.pipelines import FROM_MADE_VIEWS
    from engine.runs.run import Run
    from engine.runs.store import Store
    from engine.space import Cameras
    from engine.stages.extract_mesh import extract_mesh
    from engine.stages.fit_field import fit_field
    from engine.stages.refine_mesh import refine_mesh
    from engine.stages.texture_mesh import texture_mesh
    from engine.toybox.scene import build, sample_spec
    from engine.toybox.truth import true_views
    kept = Kept(keep)
    for i in range(objects):
        if ("refined", quality, i) in kept.done:
            continue
        spec = sample_spec("held_out", FIRST + 900 + i)
        k = np.arange(32)
        cameras = Cameras.orbit(k * 137.508 % 360, -10 + 70 * (k + .5) / 32, 2.85, 49.1, 128)
        views: Views = true_views(build(spec), cameras, 128, held_out=8)
        held = np.flatnonzero(views.held_out)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Store(Path(folder)), model_set("builtin"), quality=quality)
            given = run(_given(views))
            field = run(fit_field, given, **FROM_MADE_VIEWS)
            coarse = run(texture_mesh, run(extract_mesh, field, smoothing=30), field, given)
            fine = run(refine_mesh, field, None, given, prompt=f"a {spec.color} {spec.kind}", bake_views="all",
                       **{**SURFACE, **BESIDE_VIEWS, "janus": False}, **STEPS["refine_mesh"][quality])
            first = likeness(run.execute(coarse), views, held)[0]
            second = likeness(run.execute(fine), views, held)[0]
        kept.add(("refined", quality, i), {"kind": spec.kind, "before": first, "after": second})
    before, after = ([kept.done["refined", quality, i][name] for i in range(objects)] for name in ("before", "after"))
    gains = [b - a for a, b in zip(before, after, strict=True)]
    mean, low, high = interval(gains)
    note = (f"{objects} objects, {quality}; mean {mean:+.2f} dB, 95 % of {low:+.2f} to {high:+.2f}; "
            f"{np.mean(before):.2f} -> {np.mean(after):.2f} dB; each {[round(g, 2) for g in gains]}")
    return [row("Magic3D's refinement from true views: share of objects whose held-out views gain",
                float(np.mean([g > 0 for g in gains])), "", 1.0, 1.0, note)]


def rows(objects: int = 10) -> list[Row]:
    """What ``python -m benchmarks distillation`` measures; --objects 50 there means ten here, or it takes a night."""
    return (refined_rows(min(10, objects)) + faced_rows(max(1, objects // 10)) + worded_rows(objects, ("text_to_mesh",))
            + paired_rows(objects))


GROUPS = ("paired", "worded", "refined", "faced")


def _chosen(asked: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The pipelines that were asked for, of those a group knows; all without a wish."""
    return tuple(p for p in known if not asked or p in asked)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_distill", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; none: all")
    parser.add_argument("--objects", type=int, default=50)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--pipelines", nargs="*", help="pipelines of paired and worded; none: all")
    parser.add_argument("--keep", type=Path, help="results to go on from, object by object (not of worded)")
    parser.add_argument("--json", type=Path, help="also write the rows")
    options = parser.parse_args()
    if wrong := [name for name in options.groups if name not in GROUPS]:
        parser.error(f"unknown group {wrong[0]}: one of {', '.join(GROUPS)}")
    found: list[Row] = []
    for name in options.groups or GROUPS:
        if name == "faced":
            found += faced_rows(max(1, options.objects // 10), options.quality, options.keep)
        elif name == "refined":
            found += refined_rows(min(10, options.objects), options.quality, options.keep)
        elif name == "paired":
            found += paired_rows(options.objects, _chosen(options.pipelines, PIPELINES), options.quality, options.keep)
        else:
            found += worded_rows(options.objects, _chosen(options.pipelines, WORDED), options.quality)
    for line in found:
        print(json.dumps(line))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
