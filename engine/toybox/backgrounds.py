"""Backgrounds that pictures of real use have: white, flat colours, gradients, noise, and clutter of other things."""

from __future__ import annotations

import numpy as np

KINDS = ("white", "flat", "gradient", "noise", "clutter")
SHARES = (0.1, 0.2, 0.25, 0.2, 0.25)


def _upscaled(small: np.ndarray, size: int) -> np.ndarray:
    """(h, w, 3) -> (size, size, 3), smooth."""
    from PIL import Image
    bands = [Image.fromarray(np.ascontiguousarray(small[..., c], dtype=np.float32), mode="F").resize(
        (size, size), Image.Resampling.BICUBIC) for c in range(3)]
    return np.stack([np.asarray(b) for b in bands], -1)


def gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two colours along a random direction, straight or around a point."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        t = x * np.cos(angle) + y * np.sin(angle) + 0.5
    else:
        cx, cy = rng.uniform(-0.4, 0.4, 2)
        t = np.hypot(x - cx, y - cy) * rng.uniform(0.8, 1.6)
    a, b = rng.random((2, 3))
    t = np.clip(t, 0, 1)[..., None]
    return np.asarray(a * (1 - t) + b * t).astype(np.float32)


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random colours at one to three scales around a mean, from soft clouds to grain."""
    out: np.ndarray = np.broadcast_to(rng.random(3), (size, size, 3)).astype(np.float32)
    for _ in range(int(rng.integers(1, 4))):
        cells = int(2 ** rng.uniform(1, np.log2(size)))
        small = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        if rng.random() < 0.5:
            small = small[..., :1].repeat(3, -1)
        out = out + rng.uniform(0.03, 0.2) * _upscaled(small, size)
    return np.clip(out, 0, 1).astype(np.float32)


def clutter(rng: np.random.Generator, size: int, pieces: np.ndarray | None = None) -> np.ndarray:
    """Boxes, discs, stripes and, where ``pieces`` (n, h, w, 4) uint8 are given, parts of other objects.

    Objects' parts stand at the picture's border, half out of it: what is whole and in the middle is the subject.
    """
    out: np.ndarray = gradient(rng, size) if rng.random() < 0.5 else noise(rng, size)
    y, x = np.mgrid[:size, :size]
    for _ in range(int(rng.integers(2, 9))):
        cx, cy = rng.uniform(0, size, 2)
        w, h = rng.uniform(0.03, 0.35, 2) * size
        shape = int(rng.integers(3))
        if shape == 0:
            inside = (abs(x - cx) < w) & (abs(y - cy) < h)
        elif shape == 1:
            inside = ((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 < 1
        else:
            angle = rng.uniform(0, np.pi)
            inside = abs((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) < w * 0.3
        out[inside] = out[inside] * 0.1 + rng.random(3).astype(np.float32) * 0.9
    if pieces is not None:
        for piece in pieces:
            dx, dy = (int(v) for v in rng.uniform(0.45, 0.8, 2) * size * rng.choice([-1, 1], 2))
            if rng.random() < 0.5:
                dx = int(dx * 0.4)
            moved = np.zeros_like(piece)
            target = (slice(max(dy, 0), size + min(dy, 0)), slice(max(dx, 0), size + min(dx, 0)))
            source = (slice(max(-dy, 0), size + min(-dy, 0)), slice(max(-dx, 0), size + min(-dx, 0)))
            moved[target] = piece[source]
            alpha = moved[..., 3:].astype(np.float32) / 255
            out = out * (1 - alpha) + moved[..., :3].astype(np.float32) / 255 * alpha
    return out.astype(np.float32)


def random_background(rng: np.random.Generator, size: int, pieces: np.ndarray | None = None, kind: str | None = None
                      ) -> np.ndarray:
    """A background (size, size, 3) float32 in [0, 1].

    kind : one of KINDS, else drawn with SHARES; pieces : pictures (n, size, size, 4) uint8 of other objects for clutter
    """
    kind = kind or str(rng.choice(KINDS, p=SHARES))
    if kind == "white":
        return np.ones((size, size, 3), np.float32)
    if kind == "flat":
        return np.broadcast_to(rng.random(3, dtype=np.float32), (size, size, 3)).copy()
    if kind == "gradient":
        return gradient(rng, size)
    if kind == "noise":
        return noise(rng, size)
    if kind == "clutter":
        return clutter(rng, size, pieces)
    raise ValueError(f"no background kind {kind!r}; there are {', '.join(KINDS)}")
