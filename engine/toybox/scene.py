"""From a description (Spec) to a scene: normalised geometry with the colours, material and pattern of every face."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.space import OBJECT_LONGEST_SIDE
from engine.toybox.primitives import Solid
from engine.toybox.props import FIXED, HELD_OUT_KINDS, PROPS, TRAINED_KINDS

RGB: dict[str, tuple[float, float, float]] = {
    "red": (.84, .13, .12), "orange": (.97, .52, .10), "yellow": (.97, .85, .16), "green": (.18, .62, .22),
    "cyan": (.20, .78, .82), "blue": (.14, .29, .80), "purple": (.50, .20, .68), "pink": (.97, .53, .70),
    "brown": (.44, .27, .15), "white": (.93, .93, .91), "grey": (.53, .54, .56), "black": (.13, .13, .15)}
"""sRGB of the twelve colours; every object jitters them a little."""
MATERIALS = ("plastic", "wooden", "metal", "stone", "ceramic", "rubber")
PATTERNS = ("plain", "dots", "stripes", "bands", "checks")
SIZES = ("", "tall", "short", "wide", "narrow")
STYLES = ("realistic", "cartoon", "low poly")
STRETCH = {"": (1.0, 1.0), "tall": (0.85, 1.25), "short": (1.1, 0.75), "wide": (1.25, 0.9), "narrow": (0.75, 1.05)}
"""(across, up) factors of a size word."""


@dataclass(frozen=True)
class Spec:
    """All that decides a prop; ``seed`` draws its kind's variety and jitter."""

    kind: str
    color: str
    material: str = "plastic"
    pattern: str = "plain"
    color2: str = "white"
    size: str = ""
    style: str = "realistic"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Scene:
    """Triangles ready to draw, in field coordinates (centred, longest side 1.5, front +Z).

    vertices : (v, 3) float32; faces : (f, 3) int32; normals : (f, 3, 3) float32; uv : (f, 3, 2) float32
    slot : (f,) int, row of ``palette`` (s, 3) sRGB; part : (f,) int, index into ``part_names``
    """

    spec: Spec
    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    slot: np.ndarray
    part: np.ndarray
    part_names: tuple[str, ...]
    palette: np.ndarray


def stable_hash(*parts: Any) -> int:
    """63-bit integer from SHA-256 of the parts' text: equal on every machine and run."""
    digest = hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def is_held_out_pair(kind: str, color: str) -> bool:
    """About one kind-colour pair in sixteen is never trained on."""
    return stable_hash("pair", kind, color) % 16 == 0


def sample_spec(split: str, index: int) -> Spec:
    """The ``index``-th prop of a split: ``train``, ``held_out`` (trained kinds; new seeds, a third of them unseen
    kind-colour pairs) or ``held_out_kinds``. Deterministic."""
    rng = np.random.default_rng(stable_hash("prop", split, index))
    kinds = HELD_OUT_KINDS if split == "held_out_kinds" else TRAINED_KINDS
    colors = tuple(RGB)
    kind = kinds[index % len(kinds)]  # exact class balance
    color = str(rng.choice(colors))
    if split == "train":
        while is_held_out_pair(kind, color):
            color = str(rng.choice(colors))
    elif split == "held_out" and rng.random() < 1 / 3:
        unseen = [c for c in colors if is_held_out_pair(kind, c)]
        color = str(rng.choice(unseen)) if unseen else color
    pattern = str(rng.choice(PATTERNS, p=[.6, .1, .1, .1, .1]))
    color2 = str(rng.choice([c for c in ("white", "black", "yellow", "blue", "red") if c != color]))
    if color != "white" and rng.random() < .5:
        color2 = "white"
    return Spec(kind, color, str(rng.choice(MATERIALS)), pattern, color2,
                str(rng.choice(SIZES, p=[.6, .1, .1, .1, .1])), str(rng.choice(STYLES, p=[.7, .15, .15])),
                int(rng.integers(1 << 31)))


def assemble(spec: Spec, solids: list[Solid], main: tuple[float, float, float], rng: np.random.Generator) -> Scene:
    """Stack solids into one scene, normalise it into the field cube, and fill its palette."""
    sx, sy = STRETCH[spec.size]
    solids = [s.scaled(sx, sy, sx) for s in solids]
    vertices = np.concatenate([s.vertices for s in solids])
    lo, hi = vertices.min(0), vertices.max(0)
    scale = OBJECT_LONGEST_SIDE / float((hi - lo).max())
    start = np.cumsum([0] + [len(s.vertices) for s in solids])
    names = tuple(dict.fromkeys(s.part for s in solids))
    faces = np.concatenate([s.faces + o for s, o in zip(solids, start, strict=False)])
    count = [len(s.faces) for s in solids]
    v = (vertices - (lo + hi) / 2) * scale
    normals = np.concatenate([s.normals for s in solids])
    if spec.style == "low poly":
        n = np.cross(v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]])
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
        normals = np.repeat(n[:, None], 3, 1)
    base = np.clip(np.asarray(main) + rng.uniform(-.03, .03, 3), 0, 1)
    palette = np.array([base, base * 0.72, *FIXED.values()])
    return Scene(spec, v.astype(np.float32), faces.astype(np.int32), normals.astype(np.float32),
                 (np.concatenate([s.uv for s in solids]) * scale).astype(np.float32),
                 np.repeat([s.slot for s in solids], count), np.repeat([names.index(s.part) for s in solids], count),
                 names, palette.astype(np.float32))


def build(spec: Spec) -> Scene:
    """Geometry of a prop. Equal specs give equal scenes."""
    rng = np.random.default_rng(spec.seed)
    return assemble(spec, PROPS[spec.kind](rng), RGB[spec.color], rng)
