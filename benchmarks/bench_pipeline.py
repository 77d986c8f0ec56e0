"""The whole way, measured against the toybox's truth: time and memory of ``maquette make``, meshes from true views,
meshes from one picture against two honest baselines, and the start-up of the command.

Every figure is a dict {figure, value, unit, first_bar, aim[, note]}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.space import Cameras
from engine.toybox.scene import Scene, Spec, build, sample_spec

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
Shape = tuple[np.ndarray, np.ndarray]


def row(figure: str, value: float, unit: str, first_bar: Any = None, aim: Any = None, note: str = "") -> Row:
    return {"figure": figure, "value": round(float(value), 4), "unit": unit, "first_bar": first_bar, "aim": aim,
            "note": note}


# --- the command -----------------------------------------------------------------------------------------------------

def _timed(code: list[str], env: dict[str, str] | None = None) -> tuple[float, float]:
    """Run a process -> (seconds, peak resident memory in GB of it and its children)."""
    wrapper = ("import resource,subprocess,sys,time;t=time.perf_counter();"
               "r=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL,stderr=subprocess.PIPE);"
               "s=time.perf_counter()-t;"
               "m=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss*(1 if sys.platform=='darwin' else 1024);"
               "sys.stderr.write(r.stderr.decode()[-2000:]) if r.returncode else None;print(s,m);"
               "sys.exit(r.returncode)")
    out = subprocess.run([sys.executable, "-c", wrapper, *code], capture_output=True, text=True, cwd=ROOT,
                         env={**os.environ, **(env or {})}, check=False)
    if out.returncode:
        raise RuntimeError(f"{' '.join(code)} failed: {out.stderr[-2000:]}")
    seconds, peak = out.stdout.split()
    return float(seconds), float(peak) / 1e9


def command_rows(prompt: str = "a red mug") -> list[Row]:
    """`maquette make` at standard quality in a cold process, with a warm and with an empty kernel cache."""
    maquette = [sys.executable, "-m", "engine.cli"]
    with tempfile.TemporaryDirectory() as folder:
        first, _ = _timed([*maquette, "make", prompt, "--store", f"{folder}/s0", "--out", f"{folder}/o0"],
                          {"WARP_CACHE_PATH": f"{folder}/warp"})
        warm, memory = _timed([*maquette, "make", prompt, "--store", f"{folder}/s1", "--out", f"{folder}/o1"],
                              {"WARP_CACHE_PATH": f"{folder}/warp"})
        report = json.loads((Path(folder) / "o1" / "report.json").read_text())
    stages = ", ".join(f"{s['label']} {s['seconds']:.1f}" for s in report["stages"])
    imports = min(_timed([sys.executable, "-c", "import engine"])[0] for _ in range(5))
    helps = min(_timed([*maquette, "--help"])[0] for _ in range(5))
    return [row("maquette make, standard, cold process, warm kernel cache", warm, "s", 120, 30, stages),
            row("maquette make, first run on a machine (kernels compile)", first, "s"),
            row("peak memory of maquette make", memory, "GB", 4, 2),
            row("import engine (with the interpreter's own start)", imports, "s", 0.3, 0.1),
            row("maquette --help", helps, "s", 0.5, 0.2)]


# --- shapes ----------------------------------------------------------------------------------------------------------

def aligned_f_score(shape: Shape | np.ndarray, truth: np.ndarray, threshold: float = 0.05) -> float:
    """F-score after the best scale and translation: boxes are matched first, then closest points a few times.

    truth : (n, 3) points on the true surface, the object's longest side 1.5. No rotation is searched.
    """
    from scipy.spatial import cKDTree

    from engine.meshes.measure import f_score, sample_surface
    points = shape if isinstance(shape, np.ndarray) else sample_surface(*shape, 20_000)
    truth = truth.astype(np.float64)

    def box(p: np.ndarray) -> tuple[np.ndarray, float]:
        lo, hi = p.min(0), p.max(0)
        return (lo + hi) / 2, float((hi - lo).max())

    (c, s), (ct, st) = box(points), box(truth)
    moved = (points - c) * (st / max(s, 1e-6)) + ct
    tree = cKDTree(truth)
    best = f_score(moved, truth, threshold)
    for _ in range(8):
        near = truth[tree.query(moved)[1]]
        back = cKDTree(moved).query(truth)[1]
        a, b = np.concatenate([moved, moved[back]]), np.concatenate([near, truth])
        ma, mb = a.mean(0), b.mean(0)
        scale = float(((a - ma) * (b - mb)).sum() / max(((a - ma) ** 2).sum(), 1e-9))
        moved = (moved - ma) * min(max(scale, 0.8), 1.25) + mb
        best = max(best, f_score(moved, truth, threshold))
    return best


def turned(points: np.ndarray, azimuth_deg: float) -> np.ndarray:
    """Truth as seen by a camera at ``azimuth_deg`` that calls itself 0: turned by minus that about +Y."""
    a = np.radians(-azimuth_deg)
    r = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    return (points @ r.T).astype(np.float32)


def extrusion(alpha: np.ndarray) -> Shape:
    """The silhouette (h, w) stood upright and given a depth of the smaller side of its box."""
    from engine.meshes.extract import extract_surface
    rows, columns = np.flatnonzero((alpha > .5).any(1)), np.flatnonzero((alpha > .5).any(0))
    h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    r = 64
    pick = (np.arange(r) + .5) / r * max(h, w) * 1.1
    y = rows[0] + h / 2 - max(h, w) * .55 + pick
    x = columns[0] + w / 2 - max(h, w) * .55 + pick
    inside = alpha[np.clip(y, 0, alpha.shape[0] - 1).astype(int)[:, None],
                   np.clip(x, 0, alpha.shape[1] - 1).astype(int)[None]]
    depth = min(h, w) / (max(h, w) * 1.1)
    z = np.abs(np.arange(r) + .5 - r / 2) < r / 2 * depth
    return extract_surface(inside[::-1].T[:, :, None] * z.astype(np.float32), 0.5)


def mean_shape(kind: str, count: int = 12, resolution: int = 48) -> Shape:
    """Where at least half of ``count`` training objects of the kind are solid, in the kind's own pose."""
    from engine.fields.hull import visual_hull
    from engine.meshes.extract import extract_surface
    from engine.toybox.truth import sphere_cameras, true_views
    total, seen, index = np.zeros((resolution,) * 3), 0, 0
    while seen < count:
        spec = sample_spec("train", index)
        index += 1
        if spec.kind == kind:
            views = true_views(build(spec), sphere_cameras(24, 3.6, 35, 64), 64)
            total += (visual_hull(views, resolution).numpy() > .5).transpose(2, 1, 0)
            seen += 1
    share = total / count
    return extract_surface(share, min(0.5, 0.99 * float(share.max())))


def true_views_rows(kinds: tuple[str, ...] = ("mug", "chair", "bottle", "house", "duck", "teapot")) -> list[Row]:
    """24 true views -> fit_field -> extract_mesh: F-score at 0.02 against the visible surface, beside the hull's."""
    from engine.fields.hull import visual_hull
    from engine.meshes.extract import extract_surface
    from engine.meshes.measure import f_score
    from engine.runs.run import Run
    from engine.runs.store import Store
    from engine.stages.extract_mesh import extract_mesh
    from engine.stages.fit_field import fit_field
    from engine.toybox.truth import surface_points, true_views
    scores: dict[str, tuple[float, float]] = {}
    for k, kind in enumerate(kinds):
        scene = build(Spec(kind, "red", seed=1000 + k))
        truth = surface_points(scene, 30_000)
        k = np.arange(24)  # the toybox's own range of cameras: all around, from 10 degrees below to 60 above
        cameras = Cameras.orbit(k * 137.508 % 360, -10 + 70 * (k + .5) / 24, 2.85, 49.1, 128)
        views = true_views(scene, cameras, 128)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Store(Path(folder)), None)
            given = run(_given(views))
            mesh = run.execute(run(extract_mesh, run(fit_field, given)))
        grid = visual_hull(views, 96).numpy().transpose(2, 1, 0)
        hull = extract_surface(grid, 0.5)
        scores[kind] = (f_score((mesh.vertices, mesh.faces), truth, 0.02), f_score(hull, truth, 0.02))
    detail = ", ".join(f"{k} {a:.3f} (hull {b:.3f})" for k, (a, b) in scores.items())
    beaten = all(scores[k][0] > scores[k][1] for k in ("mug", "chair", "bottle") if k in scores)
    return [row("mesh from 24 true views, F-score at 0.02", np.mean([a for a, _ in scores.values()]), "", 0.85, 0.97,
                detail),
            row("... beats the visual hull on mug, chair and bottle", float(beaten), "", 1, 1)]


def _given(artifact: Any) -> Any:
    """A stage that hands on what it was given: how a benchmark puts its own artifact before a pipeline."""
    from engine.job import Job, Params, stage

    class Given(Params):
        """No parameters."""

    def given(p: Given, job: Job) -> Any:
        return artifact

    given.__annotations__ = {"p": Given, "job": Job, "return": type(artifact)}
    return stage(version=1)(given)


def image_to_mesh_rows(objects: int = 50, quality: str = "standard") -> list[Row]:
    """One true picture of held-out objects -> mesh: F-score at 0.05 after scale and translation, and the baselines'."""
    from engine.artifacts import save_png
    from engine.toybox.generate import framed
    from engine.toybox.render import render
    from engine.toybox.truth import surface_points
    ours, flat, mean, told, seconds, unseen = [], [], [], [], [], []
    means: dict[str, Shape] = {}
    from engine.api import make
    for i in range(objects):
        held_kind = i % 10 == 9
        spec = sample_spec("held_out_kinds", i // 10) if held_kind else sample_spec("held_out", 5000 + i)
        scene: Scene = build(spec)
        rng = np.random.default_rng(9000 + i)
        azimuth, elevation = float(rng.uniform(-40, 40)), 20.0
        camera: Cameras = framed(scene, azimuth, elevation, 40.0, 0.7, 256)
        picture = render([scene], [camera], 256).rgba[0]
        truth = turned(surface_points(scene, 20_000), azimuth)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.png"
            save_png(path, picture)
            began = time.perf_counter()
            asset = make(image=path, quality=quality, elevation_deg=elevation, store=Path(folder) / "store",
                         until="extract_mesh")
            mesh = asset.artifact("extract_mesh")
            seconds.append(time.perf_counter() - began)
        score = aligned_f_score((mesh.vertices, mesh.faces), truth)
        if held_kind:
            unseen.append(score)
            continue
        ours.append(score)
        flat.append(aligned_f_score(extrusion(picture[..., 3]), truth))
        if spec.kind not in means:
            means[spec.kind] = mean_shape(spec.kind)
        mean.append(aligned_f_score(means[spec.kind], truth))
        told.append(aligned_f_score(means[spec.kind], turned(surface_points(scene, 20_000), 0)))
    a, b, c = (float(np.mean(v)) for v in (ours, flat, mean))
    note = (f"{len(ours)} objects of trained kinds, {quality}, {np.mean(seconds):.1f} s each to the mesh; the kind is "
            "told to the mean shape, the azimuth is not")
    return [row("image to mesh, F-score at 0.05", a, "", None, None, note),
            row("... over silhouette extrusion", a - b, "", 0.10, 0.25, f"extrusion {b:.3f}"),
            row("... over the mean shape of the kind", a - c, "", 0.10, 0.25, f"mean shape {c:.3f}"),
            row("... over the mean shape told kind and azimuth", a - float(np.mean(told)), "", None, None,
                f"mean shape {np.mean(told):.3f}"),
            row("... kinds never trained on", float(np.mean(unseen)) if unseen else float("nan"), "", None, None,
                f"{len(unseen)} objects")]


def toybox_rows() -> list[Row]:
    """Pictures a second at 128 px, two processes, geometry included."""
    code = ("import torch;torch.set_num_threads(1);import time,sys\n"
            "from pathlib import Path\nimport tempfile\nfrom engine.toybox.generate import write_shard\n"
            "with tempfile.TemporaryDirectory() as f:\n"
            " write_shard(Path(f)/'w','train',0,2)\n"
            " t=time.perf_counter();write_shard(Path(f)/'s','train',int(sys.argv[1]),60);"
            "print(480/(time.perf_counter()-t))")
    procs = [subprocess.Popen([sys.executable, "-c", code, str(k * 100)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
             for k in range(2)]
    rates = [float(p.communicate()[0].split()[-1]) for p in procs]
    return [row("toybox pictures, 128 px, two cores", sum(rates), "1/s", 50, 50, "written as training shards")]
