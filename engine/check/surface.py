"""Figures of a surface, whatever file it came from (closed, manifold, UVs, density, size), and what is to be said."""

from __future__ import annotations

import numpy as np

from engine.check.report import CheckReport
from engine.meshes.measure import face_normals, topology, volume

OVERLAP, LIGHTMAP_OVERLAP = 0.02, 0.005
"""Shares of used texels that two triangles claim: said above these. Mirrored halves overlap on purpose; a light map may
not."""
DENSE, SPARSE, SPREAD = 4096.0, 64.0, 8.0
"""Texels a metre beyond which a density is said, and the ratio of its 95th to its 5th percentile."""
ACROSS = 4096.0
"""Texels along the longest side that a screen can show: a small thing, seen from near, may be dense."""
SMALL_M, LARGE_M = 0.002, 1000.0


def surface_figures(report: CheckReport, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Topology and size into the report -> the faces that can be looked at further (finite, with an area).

    vertices : (v, 3) metres; faces : (f, 3), every corner there
    """
    finite = np.isfinite(vertices).all(1)
    faces = faces[finite[faces].all(1)]
    if not len(faces):
        return faces
    points = np.asarray(vertices, np.float32)
    used = np.unique(faces)
    low, high = points[used].min(0), points[used].max(0)
    size = (high - low).astype(float)
    report.figures |= {"width_m": size[0], "height_m": size[1], "depth_m": size[2]}
    flat = np.linalg.norm(face_normals(vertices, faces), axis=1) <= 1e-14 * float(size.max()) ** 2
    _, place = np.unique(np.nan_to_num(points), axis=0, return_inverse=True)
    joined = place.reshape(-1)[faces]
    solid = joined[(joined[:, 0] != joined[:, 1]) & (joined[:, 1] != joined[:, 2]) & (joined[:, 2] != joined[:, 0])]
    report.figures["flat_triangles"] = int(flat.sum())
    if flat.any():
        report.say("hint", "flat_triangles", f"{int(flat.sum()):,} triangles have no area")
    if not len(solid):
        report.say("error", "no_surface", "no triangle has an area")
        return faces[:0]
    found = topology(solid)
    report.figures |= {"watertight": found.watertight, "manifold": found.manifold, "components": found.components,
                       "open_edges": found.open_edges, "crowded_edges": found.crowded_edges,
                       "flipped_edges": found.flipped_edges, "pinched_vertices": found.pinched_vertices}
    printing = report.profile == "print"
    if found.open_edges:
        report.say("warning" if printing else "hint", "open_edges", f"it has holes: {found.open_edges:,} open edges")
    if found.crowded_edges:
        report.say("warning", "not_manifold", f"{found.crowded_edges:,} edges belong to more than two triangles")
    if found.flipped_edges:
        report.say("warning", "flipped", f"{found.flipped_edges:,} pairs of neighbouring triangles look opposite ways")
    if found.watertight and volume(vertices.astype(np.float64), faces) < 0:
        report.say("warning", "inside_out", "its triangles look inward")
    return faces[~flat]


def uv_set(report: CheckReport, name: str, vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, texture: int,
           lightmap: bool = False) -> None:
    """Overlap, range and density of one UV set into the report. texture : pixels a side, for the density"""
    from engine.meshes.unwrap import uv_figures
    shown = np.unique(faces)
    low, high = uvs[shown].min(0), uvs[shown].max(0)
    outside = bool((low < -1e-4).any() or (high > 1 + 1e-4).any())
    if outside:
        severity = "warning" if lightmap else "hint"
        report.say(severity, "uv_outside", f"{name} leaves its picture ({low[0]:.3g}..{high[0]:.3g}, "  # type: ignore[arg-type]
                   f"{low[1]:.3g}..{high[1]:.3g}): it repeats")
    if float((high - low).max()) <= 0:
        report.say("warning", "uv_flat", f"{name} is one point: no picture can lie on it")
        return
    told = uv_figures(vertices, faces, (uvs % 1.0 if outside else uvs).astype(np.float32), min(texture or 1024, 2048))
    scale = texture / min(texture or 1024, 2048) if texture else 1.0
    report.figures |= {f"{name}_overlap": told.overlap, f"{name}_used": told.used}
    if not outside and told.overlap > (LIGHTMAP_OVERLAP if lightmap else OVERLAP):
        report.say("warning", "lightmap_overlap" if lightmap else "uv_overlap",
                   f"{told.overlap:.1%} of {name} overlap: what is painted on one part shows on another")
    if lightmap or not texture:
        return
    density = told.texels_per_unit * scale
    report.figures |= {"texels_per_m": density, "texel_spread": told.stretch}
    longest = max(report.figures.get(f"{side}_m", 0.0) for side in ("width", "height", "depth"))
    dense = density > DENSE and density * longest > ACROSS
    if dense or density < SPARSE:
        report.say("hint", "texel_density", f"{density:,.0f} texels a metre: "
                   + ("more than a screen shows" if dense else "it looks blurred near by"))
    if told.stretch > SPREAD:
        report.say("hint", "texel_spread", f"its texels are {told.stretch:.0f} times as dense in some places as in "
                   "others")


def scale_findings(report: CheckReport) -> None:
    """Whether its size is one that things have, in metres."""
    longest = max(report.figures.get(f"{side}_m", 0.0) for side in ("width", "height", "depth"))
    if longest <= 0:
        return
    if longest < SMALL_M or longest > LARGE_M:
        report.say("warning", "scale", f"its longest side is {longest:.4g} m: is it in metres? (centimetres: divide by "
                   "100)")
