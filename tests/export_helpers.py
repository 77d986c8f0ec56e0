"""A game-ready asset with known figures, made without finishing: levels, colliders, every picture, papers."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.meshes.asset import Collider, GameAsset, Lod, Material

PAPERS: dict[str, Any] = {"title": "a red mug", "prompt": "a red mug", "seed": "7", "recipe": "0" * 64,
                          "licences": [{"role": "text_to_image", "model": "builtin", "licence": "Apache-2.0",
                                        "commercial": "yes"}], "text": "ä\"<&>"}


def tube(around: int, along: int, radius: float = 0.3, height: float = 1.0) -> Lod:
    """A closed cylinder with a seam and caps, its base on the origin's plane: exact UVs (in [0, 1], no overlaps),
    normals and tangents. Triangles: 2 * around * along + 2 * around."""
    u, t = np.linspace(0, 1, around + 1), np.linspace(0, 1, along + 1)
    angle = 2 * np.pi * u
    ring = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], -1)
    ring[-1] = ring[0]  # the seam's two sides are one place, to the last bit
    points, normals, uvs, tangents, faces = [], [], [], [], []
    for k, level in enumerate(t):
        points.append(ring * radius + [0, level * height, 0])
        normals.append(ring)
        uvs.append(np.stack([u * 0.98 + 0.01, np.full_like(u, 0.48 * (1 - level) + 0.01)], -1))
        tangents.append(np.stack([np.cos(angle), np.zeros_like(u), -np.sin(angle), np.ones_like(u)], -1))
        for i in range(around if k else 0):
            a, b = (k - 1) * (around + 1) + i, k * (around + 1) + i
            faces += [(a, a + 1, b + 1), (a, b + 1, b)]
    for top in (False, True):  # caps: discs in the texture's lower half
        first = sum(len(p) for p in points)
        sign = 1.0 if top else -1.0
        rim = ring[:-1]
        points.append(np.concatenate([rim * radius, [[0, 0, 0]]]) + np.array([0, height * top, 0]))
        normals.append(np.tile([0, sign, 0], (around + 1, 1)))
        flat = np.concatenate([rim[:, [0, 2]], [[0, 0]]]) * [1, sign]
        uvs.append(flat * 0.22 + [0.25 + 0.5 * top, 0.75])
        tangents.append(np.tile([1.0, 0, 0, 1.0], (around + 1, 1)))
        for i in range(around):
            a, b = first + i, first + (i + 1) % around
            faces.append((a, b, first + around) if top else (b, a, first + around))
    whole = [np.concatenate(part).astype(np.float32) for part in (points, normals, uvs, tangents)]
    return Lod(whole[0], np.asarray(faces, np.int32), whole[1], whole[2], whole[3])


def box(low: tuple[float, ...], high: tuple[float, ...]) -> Collider:
    """Along the axes."""
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])],
                       np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32)
    centre, size = (np.add(low, high) / 2).tolist(), np.subtract(high, low).tolist()
    return Collider("box", corners, faces, {"centre": centre, "size": size})


def pictures(size: int = 64) -> dict[str, np.ndarray]:
    """base_color, normal, orm, emissive, (size, size, 3), each value on an 8-bit level."""
    y, x = np.mgrid[:size, :size] / (size - 1.0)
    slope = np.stack([0.2 * np.sin(9 * x), 0.2 * np.cos(7 * y), np.ones_like(x)], -1)
    normal = slope / np.linalg.norm(slope, axis=-1, keepdims=True) * 0.5 + 0.5
    made = {"base_color": np.stack([x, y, 0.5 + 0 * x], -1), "normal": normal,
            "orm": np.stack([1 - 0.5 * y, 0.25 + 0.5 * x, (x > 0.5) * 1.0], -1),
            "emissive": np.stack([0 * x, 0 * x, (y > 0.9) * 1.0], -1)}
    return {name: (np.round(image * 255) / 255).astype(np.float32) for name, image in made.items()}


def small_asset(name: str = "Mug", levels: int = 4, lightmap: bool = True, emissive: bool = True, size: int = 64,
                normal: bool = True, colliders: int = 2, own_pictures: bool = False) -> GameAsset:
    """Levels of 32, 16, 8, 4 sides; colliders are the halves of its box."""
    shown = pictures(size)
    lods = []
    full = tube(32, 8)
    for k in range(levels):
        lod = tube(32 >> k, max(8 >> k, 1))
        own = {"normal": shown["normal"][::-1].copy()} if own_pictures and k else {}
        lods.append(Lod(lod.vertices, lod.faces, lod.normals, lod.uvs, lod.tangents,
                        lod.uvs * np.float32(0.96) + np.float32(0.02) if lightmap else None,
                        ratio=len(lod.faces) / len(full.faces), screen_size=1.0 / (1 << k), **own))
    material = Material(shown["base_color"], shown["orm"], shown["normal"] if normal else None,
                        shown["emissive"] if emissive else None, metallic=0.9, roughness=0.8,
                        emissive_factor=(0.5, 0.5, 0.5) if emissive else (0.0, 0.0, 0.0))
    solids = tuple(box((-0.3, k / colliders, -0.3), (0.3, (k + 1) / colliders, 0.3)) for k in range(colliders))
    return GameAsset(name, tuple(lods), material, solids, 1.0, dict(PAPERS), {"triangles": float(len(full.faces))})
