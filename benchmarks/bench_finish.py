"""Finishing: a 50,000-triangle mesh to a written game asset, by part; levels and colliders of ten toybox objects."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_pipeline import row
from benchmarks.finish_figures import compare
from benchmarks.finish_objects import KINDS, Silent, colours_of, raw_mesh, scene_of, textured_object

PARTS = {"mend": "mending", "ground": "mending", "first_made": "simplify and unwrap", "painted": "bake 1K",
         "simplified": "simplify and unwrap", "levels": "levels with normal maps", "colliders": "colliders"}


def big_mesh(triangles: int = 50_000) -> Any:
    """A teapot of so many triangles with vertex-fine colours in a plain layout: its texture must be made."""
    from engine.artifacts import TexturedMesh
    from engine.meshes.collapse import Collapser
    from engine.meshes.normals import corner_normals
    scene = scene_of("teapot")
    vertices, faces = raw_mesh(scene, 144)
    level = Collapser(vertices, faces).to(triangles)
    points = np.zeros((int(level.place.max()) + 1, 3), np.float32)
    points[level.place] = level.vertices
    corners = level.place[level.faces].astype(np.int32)
    # One texel a vertex, in rows: what a program without an unwrapper would write.
    side = int(np.ceil(np.sqrt(len(points))))
    texture = np.zeros((side * side, 3), np.float32)
    texture[:len(points)] = colours_of(scene)(points)  # type: ignore[operator]
    k = np.arange(len(points))
    uvs = np.stack([(k % side + 0.5) / side, (k // side + 0.5) / side], 1).astype(np.float32)
    normals, group = corner_normals(points, corners, 180.0)
    smooth = np.zeros_like(points)
    smooth[corners.reshape(-1)] = normals[group.reshape(-1)]
    return TexturedMesh(points, corners, uvs, smooth, texture.reshape(side, side, 3))


@contextmanager
def timed_parts(seconds: dict[str, float]) -> Iterator[None]:
    """Adds up the wall time of the stage's parts, each counted where it is called from the stage."""
    from engine.meshes import colliders, finish, levels, mend
    homes = {"mend": mend, "ground": finish, "first_made": finish, "simplified": finish, "painted": finish,
             "levels": levels, "colliders": colliders}
    kept = {name: getattr(home, name) for name, home in homes.items()}
    depth = [0]

    def wrap(name: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            began = time.perf_counter()
            try:
                return kept[name](*args, **kwargs)
            finally:
                depth[0] -= 1
                if depth[0] == 0:
                    seconds[PARTS[name]] = seconds.get(PARTS[name], 0.0) + time.perf_counter() - began
        return run
    for name, home in homes.items():
        setattr(home, name, wrap(name))
    try:
        yield
    finally:
        for name, home in homes.items():
            setattr(home, name, kept[name])


def time_rows() -> list[dict[str, Any]]:
    """The whole of finishing, warm (kernels compiled), and its parts."""
    from engine.export.glb import write_glb
    from engine.stages.finish_mesh import FinishMesh, finish_mesh
    mesh = big_mesh()
    p = FinishMesh(texture_size=1024, uvs="make", colliders="hulls")
    finish_mesh(textured_object("crate", 48, 2000, 512), FinishMesh(texture_size=512, uvs="make"), Silent())  # compiles
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    with timed_parts(seconds), tempfile.TemporaryDirectory() as folder:
        asset = finish_mesh(mesh, p, Silent())
        written = time.perf_counter()
        for k, lod in enumerate(asset.lods):
            write_glb(Path(folder) / f"lod{k}.glb", lod.vertices, lod.faces, lod.normals, lod.uvs,
                      asset.material.base_color if lod.base_color is None else lod.base_color, 0.0, 0.7)
        asset.save(Path(folder))
        seconds["export"] = time.perf_counter() - written
    whole = time.perf_counter() - began
    rows = [row("finish a 50k-triangle mesh: unwrap, bake 1K, levels, hulls, export", whole, "s", 20, 8,
                f"{len(mesh.faces):,} triangles to {asset.lods[0].triangles:,}")]
    rows += [row(f"of that, {name}", value, "s") for name, value in seconds.items()]
    rest = whole - sum(seconds.values())
    return [*rows, row("of that, figures and the rest", rest, "s")]


def lod_rows() -> list[dict[str, Any]]:
    """The quarter level of ten objects against the first, four sides each."""
    from engine.stages.finish_mesh import FinishMesh, finish_mesh
    found, names, own = [], [], 0
    for kind in KINDS:
        asset = finish_mesh(textured_object(kind), FinishMesh(colliders="none"), Silent())
        found.append(compare(asset, 2))
        names.append(kind)
        own += asset.lods[2].base_color is not None
    def least(name: str) -> tuple[float, str]:
        values = [f[name] for f in found]
        return min(values), names[int(np.argmin(values))]
    rows = []
    for name, words, bar in (("iou", "outline IoU", 0.97), ("ssim", "lit picture SSIM", 0.95),
                             ("ssim_inside", "lit picture SSIM inside the outline", None)):
        value, kind = least(name)
        rows.append(row(f"level 0.25 against the first, {words}, worst of ten objects", value, "", bar, None,
                        f"{kind}; mean {np.mean([f[name] for f in found]):.4f}"))
    return [*rows, row("levels 0.25 that needed a texture of their own", own, "of 10")]


def collider_rows() -> list[dict[str, Any]]:
    """Colliders of ten objects against CoACD's own defaults on three times the triangles, without a limit of parts."""
    from engine.meshes.colliders import colliders, covered_by, hulls, solid_points
    worst, slowest, most = (0.0, ""), (0.0, ""), 0
    against_solid = []
    for kind in KINDS:
        vertices, faces = raw_mesh(scene_of(kind), 72)
        began = time.perf_counter()
        solids, figures, _ = colliders(vertices, faces, "auto")
        slowest = max(slowest, (time.perf_counter() - began, kind))
        most = max(most, len(solids))
        points, _, cell = solid_points(vertices, faces)
        parts = hulls(vertices, faces, -1, 3000, mcts_nodes=20, mcts_iterations=150, mcts_max_depth=3, resolution=2000,
                      max_ch_vertex=256)
        truth = cell * float(covered_by(parts, points).sum())
        worst = max(worst, (abs(figures["collider_volume"] / truth - 1), kind))
        against_solid.append(abs(figures["collider_volume"] / figures["solid_volume"] - 1))
    return [row("colliders' volume off the convex parts' of CoACD's defaults, worst of ten objects", worst[0], "", 0.1,
                0.05, worst[1]),
            row("colliders' volume off the solid's, mean of ten", float(np.mean(against_solid)), ""),
            row("slowest colliders of ten objects", slowest[0], "s", 5, 2, slowest[1]),
            row("most hulls of ten objects", most, "", 16, 8)]


def rows() -> list[dict[str, Any]]:
    return [*time_rows(), *lod_rows(), *collider_rows()]
