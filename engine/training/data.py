"""The toybox's shards as training data: memory-mapped, growing while one trains, composited as each model needs it.

A shard is a folder ``<root>/<split>/shard_00000/`` with rgba.npy (n, v, 128, 128, 4) uint8 straight alpha,
cameras.npy (n, v, 4) float32 = azimuth deg, elevation deg, r (the object's longest side is 1), fov deg, and
specs.json, a list of n dicts. Views 0 and 1 have text-to-image cameras, the others Zero-1-to-3's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TEXT_VIEWS = 2
"""Views 0 .. TEXT_VIEWS-1 of an object were taken with text-to-image cameras."""
FILES = ("rgba.npy", "cameras.npy", "specs.json")


class Shards:
    """All complete shards of one split; :meth:`refresh` takes in those that have appeared since.

    cameras : (n, v, 4) float32; specs : n dicts; names : shard folders in the order of their objects
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.names: list[str] = []
        self.specs: list[dict[str, Any]] = []
        self.cameras = np.zeros((0, 0, 4), np.float32)
        self._rgba: list[np.ndarray] = []
        self._starts = np.zeros(1, np.int64)
        self.refresh()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def views(self) -> int:
        return int(self.cameras.shape[1])

    def refresh(self) -> int:
        """Take in new shards (half-written ones are left for later) -> number of shards added."""
        added = 0
        paths = sorted(self.folder.glob("shard_*")) if self.folder.is_dir() else []
        for path in paths:
            if path.name in self.names or path.suffix or not all((path / f).exists() for f in FILES):
                continue
            try:
                rgba = np.load(path / "rgba.npy", mmap_mode="r")
                cameras = np.load(path / "cameras.npy").astype(np.float32)
                specs = json.loads((path / "specs.json").read_text(encoding="utf-8"))
            except (ValueError, EOFError, OSError):
                continue
            if not len(rgba) == len(cameras) == len(specs):
                continue
            self._rgba.append(rgba)
            self.names.append(path.name)
            self.specs.extend(specs)
            self.cameras = cameras if self.views == 0 else np.concatenate([self.cameras, cameras])
            self._starts = np.append(self._starts, self._starts[-1] + len(rgba))
            added += 1
        return added

    def shard(self, i: int) -> tuple[Path, np.ndarray, np.ndarray, slice]:
        """Shard i -> (folder, rgba (n, v, h, w, 4) uint8, cameras (n, v, 4), its slice among all objects)."""
        part = slice(int(self._starts[i]), int(self._starts[i + 1]))
        return self.folder / self.names[i], self._rgba[i], self.cameras[part], part

    def rgba(self, objects: Any, views: Any) -> np.ndarray:
        """Pictures of ``objects`` (b,) from ``views`` (b,) -> (b, h, w, 4) uint8, straight alpha."""
        objects, views = np.broadcast_arrays(np.atleast_1d(objects), np.atleast_1d(views))
        shards = np.searchsorted(self._starts, objects, side="right") - 1
        return np.stack([self._rgba[s][o - self._starts[s], v]
                         for s, o, v in zip(shards, objects, views, strict=True)])


def over(rgba: np.ndarray, background: np.ndarray | float = 1.0) -> np.ndarray:
    """Composite (..., h, w, 4) uint8 straight alpha over ``background`` in [0, 1] (it broadcasts to (..., h, w, 3)).

    -> float32 (..., h, w, 3) in [0, 1]
    """
    x = rgba.astype(np.float32) * np.float32(1 / 255)
    alpha = x[..., 3:]
    return x[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)


def flat_backgrounds(rng: np.random.Generator, n: int, white: float) -> np.ndarray:
    """(n, 1, 1, 3) float32: white with probability ``white``, else one random colour a picture."""
    colours = rng.random((n, 1, 1, 3), dtype=np.float32)
    colours[rng.random(n) < white] = 1.0
    return colours


def bounding_box(alpha: np.ndarray, threshold: int = 8) -> tuple[int, int, int, int]:
    """(h, w) uint8 -> (top, left, bottom, right), the ends exclusive; the whole picture when nothing shows."""
    rows, columns = np.flatnonzero((alpha > threshold).any(1)), np.flatnonzero((alpha > threshold).any(0))
    if len(rows) == 0:
        return 0, 0, alpha.shape[0], alpha.shape[1]
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def crop_on_object(rgba: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Crops (b, size, size, 4) around a random point of each object's bounding box, inside the picture."""
    out = []
    for picture in rgba:
        top, left, bottom, right = bounding_box(picture[..., 3])
        y = int(rng.integers(top, bottom)) - size // 2
        x = int(rng.integers(left, right)) - size // 2
        y = min(max(y, 0), picture.shape[0] - size)
        x = min(max(x, 0), picture.shape[1] - size)
        out.append(picture[y:y + size, x:x + size])
    return np.stack(out)


def to_tensor(pictures: np.ndarray, low: float = -1.0) -> Any:
    """(b, h, w, c) float in [0, 1] -> torch (b, c, h, w) float32, channels last in memory, scaled to [low, 1]."""
    import torch
    x = torch.from_numpy(np.ascontiguousarray(pictures, dtype=np.float32)).permute(0, 3, 1, 2)
    return x * (1 - low) + low


def fake_shards(folder: Path, objects: int = 16, views: int = 8, shards: int = 1, size: int = 128, seed: int = 0
                ) -> None:
    """Write tiny shards of flat discs and boxes whose width turns with the azimuth: for tests, never for training."""
    rng = np.random.default_rng(seed)
    palette = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220), "yellow": (230, 210, 50)}
    yy, xx = np.mgrid[:size, :size] / size - 0.5
    for s in range(shards):
        path = Path(folder) / f"shard_{s:05d}"
        path.mkdir(parents=True)
        rgba = np.zeros((objects, views, size, size, 4), np.uint8)
        cameras = np.zeros((objects, views, 4), np.float32)
        specs = []
        for i in range(objects):
            color, kind = list(palette)[int(rng.integers(4))], ("ball", "box")[int(rng.integers(2))]
            w, h = rng.uniform(0.15, 0.35, 2)
            specs.append({"kind": kind, "color": color, "color2": color, "material": "wood", "pattern": "plain",
                          "size": "small", "shape": "tall", "style": "plain"})
            for v in range(views):
                azimuth = float(rng.uniform(0, 360))
                cameras[i, v] = azimuth, 20.0, 1.7, 49.1
                wide = w * (0.6 + 0.4 * abs(np.cos(np.radians(azimuth))))
                inside = ((xx / wide) ** 2 + (yy / h) ** 2 < 1) if kind == "ball" else \
                    ((abs(xx) < wide) & (abs(yy) < h))
                shade = (0.7 - 0.6 * xx[..., None]) * np.array(palette[color])
                rgba[i, v, ..., :3] = np.clip(shade, 0, 255).astype(np.uint8)
                rgba[i, v, ..., 3] = inside * 255
        np.save(path / "cameras.npy", cameras)
        (path / "specs.json").write_text(json.dumps(specs), encoding="utf-8")
        np.save(path / "rgba.npy", rgba)
