"""Closed building blocks of the toybox: boxes, lathes, ellipsoids, tori, tubes, extrusions.

Each returns a :class:`Solid`: a watertight, outward-facing triangle mesh with per-corner normals and a metric surface
coordinate (u around or across, v along the height) in which patterns are drawn, so that dots keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass
class Solid:
    """vertices : (v, 3); faces : (f, 3) int; normals : (f, 3, 3) a corner; uv : (f, 3, 2) a corner, in scene units.

    slot : which colour it takes (0 primary, 1 secondary, 2.. fixed colours of the kind); part : its name
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    slot: int = 0
    part: str = "body"

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Solid:
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def turned(self, axis: str, degrees: float) -> Solid:
        """Rotated about a coordinate axis through the origin, right-handed."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        r = np.eye(3)
        r[i, i], r[i, j], r[j, i], r[j, j] = c, -s, s, c
        return replace(self, vertices=self.vertices @ r.T, normals=self.normals @ r.T)

    def scaled(self, x: float, y: float, z: float) -> Solid:
        s = np.array([x, y, z])
        n = self.normals / s
        n /= np.linalg.norm(n, axis=-1, keepdims=True)
        return replace(self, vertices=self.vertices * s, normals=n, uv=self.uv * np.array([(x + z) / 2, y]))

    def named(self, part: str, slot: int) -> Solid:
        return replace(self, part=part, slot=slot)


def _flat_normals(v: np.ndarray, f: np.ndarray) -> np.ndarray:
    n = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12)
    return np.repeat(n[:, None], 3, axis=1)


def box(x: float, y: float, z: float, taper: float = 1.0) -> Solid:
    """A box with its base centred at the origin; ``taper`` scales the top's x and z."""
    hx, hz = x / 2, z / 2
    v = np.array([[-hx, 0, -hz], [hx, 0, -hz], [hx, 0, hz], [-hx, 0, hz],
                  [-hx * taper, y, -hz * taper], [hx * taper, y, -hz * taper],
                  [hx * taper, y, hz * taper], [-hx * taper, y, hz * taper]])
    quads = np.array([[3, 2, 6, 7], [1, 0, 4, 5], [2, 1, 5, 6], [0, 3, 7, 4], [7, 6, 5, 4], [0, 1, 2, 3]])
    f = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    uv_of = {0: (0, 1), 1: (0, 1), 2: (2, 1), 3: (2, 1), 4: (0, 2), 5: (0, 2)}
    side = np.tile(np.arange(6), 2)
    uv = np.stack([v[f[k]][:, uv_of[int(side[k])]] for k in range(12)])
    return Solid(v, f, _flat_normals(v, f), uv)


def lathe(profile: Sequence[tuple[float, float]], segments: int = 24, smooth: bool | Sequence[bool] = True) -> Solid:
    """Revolve (radius, height) points about +Y; the ends must have radius 0, or they are capped flat.

    ``smooth`` a profile edge: False keeps a crease at both of its ends.
    """
    pts = [(float(r), float(h)) for r, h in profile]
    flags = [smooth] * (len(pts) - 1) if isinstance(smooth, bool) else list(smooth)
    if pts[0][0] > 0:
        pts.insert(0, (0.0, pts[0][1]))
        flags.insert(0, False)
    if pts[-1][0] > 0:
        pts.append((0.0, pts[-1][1]))
        flags.append(False)
    p = np.array(pts)
    angle = np.arange(segments) / segments * 2 * math.pi
    ring = np.stack([np.sin(angle), np.cos(angle)], 1)
    vertices: list[np.ndarray] = []
    start: list[int] = []
    for r, h in pts:
        start.append(sum(len(x) for x in vertices))
        vertices.append(np.array([[0.0, h, 0.0]]) if r == 0 else
                        np.stack([r * ring[:, 0], np.full(segments, h), r * ring[:, 1]], 1))
    v = np.concatenate(vertices)
    edge_n = np.stack([p[1:, 1] - p[:-1, 1], p[:-1, 0] - p[1:, 0]], 1)
    edge_n /= np.maximum(np.linalg.norm(edge_n, axis=1, keepdims=True), 1e-12)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
    mean_r = float(p[:, 0].max())
    faces, normals, uvs = [], [], []
    i = np.arange(segments)
    j = (i + 1) % segments
    a_i, a_j = angle, angle + 2 * math.pi / segments

    def corner_normal(n: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.stack([n[0] * np.sin(a), np.full(segments, n[1]), n[0] * np.cos(a)], 1)

    for k in range(len(pts) - 1):
        lo, hi = edge_n[k].copy(), edge_n[k].copy()
        if flags[k]:
            if k > 0 and flags[k - 1]:
                lo = edge_n[k - 1] + edge_n[k]
            if k + 1 < len(flags) and flags[k + 1]:
                hi = edge_n[k + 1] + edge_n[k]
        lo, hi = (n / max(float(np.linalg.norm(n)), 1e-12) for n in (lo, hi))
        (r0, _), (r1, _) = pts[k], pts[k + 1]
        flat = abs(edge_n[k][0]) < 0.3  # a lid or a floor: planar coordinates, or its pattern would be radial
        for tri in ("low", "high"):
            if (tri == "low" and r0 == 0) or (tri == "high" and r1 == 0):
                continue
            if tri == "low":
                idx = np.stack([start[k] + i, start[k] + j, (start[k + 1] + j) if r1 > 0 else
                                np.full(segments, start[k + 1])], 1)
                ang, lv, nn = [a_i, a_j, a_j], [k, k, k + 1], [lo, lo, hi]
            else:
                base = start[k] + i if r0 > 0 else np.full(segments, start[k])
                idx = np.stack([base, start[k + 1] + j, start[k + 1] + i], 1)
                ang, lv, nn = [a_i, a_j, a_i], [k, k + 1, k + 1], [lo, hi, hi]
            faces.append(idx)
            normals.append(np.stack([corner_normal(n, a) for n, a in zip(nn, ang, strict=True)], 1))
            if flat:
                uvs.append(np.stack([v[idx][..., 0], v[idx][..., 2]], -1))
            else:
                uvs.append(np.stack([np.stack([a * mean_r, np.full(segments, length[m])], 1)
                                     for a, m in zip(ang, lv, strict=True)], 1))
    return Solid(v, np.concatenate(faces), np.concatenate(normals), np.concatenate(uvs))


def cylinder(radius: float, height: float, top: float | None = None, segments: int = 24) -> Solid:
    """Base at the origin; ``top`` is the upper radius (0 makes a cone)."""
    t = radius if top is None else top
    return lathe([(radius, 0), (t, height)], segments, [True])


def ellipsoid(rx: float, ry: float, rz: float, segments: int = 20, rings: int = 11) -> Solid:
    """Centred at the origin."""
    a = np.linspace(-math.pi / 2, math.pi / 2, rings)
    profile = [(0.0 if k in (0, rings - 1) else math.cos(t), math.sin(t)) for k, t in enumerate(a)]
    return lathe(profile, segments, True).scaled(rx, ry, rz)


def tube(points: np.ndarray, radius: float, segments: int = 10, closed: bool = False) -> Solid:
    """A round tube along a polyline (n, 3), with flat ends; ``closed`` joins the last point to the first."""
    p = np.asarray(points, dtype=float)
    n = len(p)
    ahead = np.roll(p, -1, 0) if closed else np.vstack([p[1:], 2 * p[-1] - p[-2]])
    behind = np.roll(p, 1, 0) if closed else np.vstack([2 * p[0] - p[1], p[:-1]])
    tangent = ahead - behind
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    helper = np.array([0.0, 0.0, 1.0]) if np.abs(tangent[:, 2]).max() < 0.9 else \
        (np.array([1.0, 0.0, 0.0]) if np.abs(tangent[:, 0]).max() < 0.9 else np.array([0.0, 1.0, 0.0]))
    side = np.cross(helper, tangent)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(tangent, side)
    a = np.arange(segments) / segments * 2 * math.pi
    radial = np.cos(a)[None, :, None] * side[:, None] + np.sin(a)[None, :, None] * other[:, None]
    v = (p[:, None] + radius * radial).reshape(-1, 3)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
    faces, normals, uvs = [], [], []
    i = np.arange(segments)
    j = (i + 1) % segments
    for k in range(n if closed else n - 1):
        m = (k + 1) % n
        lv = along[m] if m else along[-1] + float(np.linalg.norm(p[-1] - p[0]))
        for (ka, ia), (kb, ib), (kc, ic) in (((k, i), (k, j), (m, j)), ((k, i), (m, j), (m, i))):
            faces.append(np.stack([ka * segments + ia, kb * segments + ib, kc * segments + ic], 1))
            normals.append(np.stack([radial[ka, ia], radial[kb, ib], radial[kc, ic]], 1))
            uvs.append(np.stack([np.stack([radius * a[q], np.full(segments, along[k] if r == k else lv)], 1)
                                 for r, q in ((ka, ia), (kb, ib), (kc, ic))], 1))
    if not closed:
        v = np.vstack([v, p[0], p[-1]])
        for ring, centre, sign in ((0, n * segments, -1), (n - 1, n * segments + 1, 1)):
            b, c = ring * segments + i, ring * segments + j
            f = np.stack([np.full(segments, centre), c if sign < 0 else b, b if sign < 0 else c], 1)
            faces.append(f)
            normals.append(np.broadcast_to(sign * tangent[ring], (segments, 3, 3)).copy())
            uvs.append(np.zeros((segments, 3, 2)))
    return Solid(v, np.concatenate(faces), np.concatenate(normals), np.concatenate(uvs))


def torus(major: float, minor: float, segments: int = 24, sides: int = 12) -> Solid:
    """Around +Y, centred at the origin."""
    a = np.arange(segments) / segments * 2 * math.pi
    return tube(np.stack([major * np.sin(a), np.zeros(segments), major * np.cos(a)], 1), minor, sides, closed=True)


def arc(centre: tuple[float, float, float], radius: float, start_deg: float, end_deg: float, plane: str = "xy",
        n: int = 9, squash: float = 1.0) -> np.ndarray:
    """Points of a circular arc in a coordinate plane, (n, 3); ``squash`` scales its second axis."""
    t = np.radians(np.linspace(start_deg, end_deg, n))
    i, j = ("xyz".index(c) for c in plane)
    p = np.tile(np.asarray(centre, dtype=float), (n, 1))
    p[:, i] += radius * np.cos(t)
    p[:, j] += radius * squash * np.sin(t)
    return p


def extrude(outline: Sequence[tuple[float, float]], depth: float) -> Solid:
    """A star-shaped counter-clockwise outline in the xy plane (about its centroid), extruded symmetrically along z."""
    o = np.asarray(outline, dtype=float)
    n, c = len(o), o.mean(0)
    h = depth / 2
    v = np.concatenate([np.c_[o, np.full(n, h)], np.c_[o, np.full(n, -h)], [[*c, h]], [[*c, -h]]])
    i = np.arange(n)
    j = (i + 1) % n
    f = np.concatenate([np.stack([np.full(n, 2 * n), i, j], 1), np.stack([np.full(n, 2 * n + 1), n + j, n + i], 1),
                        np.stack([i, n + i, n + j], 1), np.stack([i, n + j, j], 1)])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.roll(o, -1, 0) - o, axis=1))])
    uv = np.zeros((4 * n, 3, 2))
    uv[:2 * n] = v[f[:2 * n]][..., :2]
    u0, u1 = along[:-1], along[1:]
    uv[2 * n:3 * n] = np.stack([np.c_[u0, np.full(n, h)], np.c_[u0, np.full(n, -h)], np.c_[u1, np.full(n, -h)]], 1)
    uv[3 * n:] = np.stack([np.c_[u0, np.full(n, h)], np.c_[u1, np.full(n, -h)], np.c_[u1, np.full(n, h)]], 1)
    return Solid(v, f, _flat_normals(v, f), uv)
