"""Clips as training data: the character shards of :mod:`engine.training.clip_data`, and their latents on disk.

``python -m engine.training clip_latents`` encodes what the cache lacks, shard by shard; a training takes in what has
been encoded since, so shards, latents and a training can grow side by side. Caches stand under the encoders' digests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.models.loading import load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training.clip_data import FILES
from engine.training.latents import cache_folder, encode

PICTURES = ("rgba", "references")
"""What of a shard is encoded: the frames, and the standing figure from two sides."""


def folder_of(work: Path, split: str, root: Path = BUILTIN_FOLDER) -> Path:
    """Where a split's latents are kept: ``<shard>/rgba.npy`` (n, f, 8, h, w), ``<shard>/references.npy``
    (n, 2, 8, h, w), float16 mean and log variance, unscaled."""
    return cache_folder(work / "latents", root) / "characters" / split


def update(data: Path, split: str, work: Path, device: str = "cpu", root: Path = BUILTIN_FOLDER,
           report: Callable[[str], None] = lambda _: None, each: Callable[[int], Any] = lambda _: None) -> int:
    """Encode what the cache lacks of a split -> pictures encoded. each : called with the number of figures so far"""
    out, done = folder_of(work, split, root), 0
    waiting = [(shard, name) for name in PICTURES for shard in sorted((data / split).glob("shard_?????"))
               if not (out / shard.name / f"{name}.npy").exists()]
    vae = load_vae(root / "vae", device) if waiting else None
    for shard, name in waiting:
        rgba = np.load(shard / f"{name}.npy", mmap_mode="r")
        parts = []
        for i, figure in enumerate(rgba):
            parts.append(encode(vae, np.ascontiguousarray(figure), device))
            each(i)
        target = out / shard.name / f"{name}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".part")
        with partial.open("wb") as file:
            np.save(file, np.stack(parts))
        partial.replace(target)
        done += rgba.shape[0] * rgba.shape[1]
        report(f"{split} {shard.name} {name}")
    return done


def follow(data: Path, work: Path, minutes: float, device: str = "cpu",
           report: Callable[[str], None] = lambda _: None, root: Path = BUILTIN_FOLDER) -> None:
    """``update`` both splits again and again while shards appear, for so long; the held-out ones first."""
    until = time.monotonic() + 60 * minutes
    while True:
        done = sum(update(data, split, work, device, root, report) for split in ("held_out", "train"))
        if time.monotonic() > until:
            return
        if not done:
            time.sleep(min(10.0, max(0.0, until - time.monotonic())))


class Clips:
    """The clips of a split whose latents are kept, in memory; :meth:`refresh` takes in what has come since.

    specs : m dicts, see ``clip_data``; moments : (m, f, 8, h, w) float16; cameras : (m, 3, 4)
    keep : which clips are taken, by their spec
    """

    def __init__(self, data: Path, split: str, work: Path, root: Path = BUILTIN_FOLDER,
                 keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        self.data, self.folder, self.keep = data / split, folder_of(work, split, root), keep
        self.specs: list[dict[str, Any]] = []
        self.moments = np.zeros((0, 0, 8, 0, 0), np.float16)
        self.cameras = np.zeros((0, 3, 4), np.float32)
        self._names: list[str] = []
        self._pictures: list[tuple[np.ndarray, int]] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def frames(self) -> int:
        return int(self.moments.shape[1])

    def refresh(self) -> None:
        for path in sorted(self.data.glob("shard_?????")) if self.data.is_dir() else ():
            latents = self.folder / path.name / "rgba.npy"
            if path.name in self._names or not latents.exists() or not all((path / f).exists() for f in FILES):
                continue
            specs = json.loads((path / "specs.json").read_text(encoding="utf-8"))
            rows = [i for i, spec in enumerate(specs) if self.keep(spec)]
            moments, cameras = np.load(latents)[rows], np.load(path / "cameras.npy")[rows].astype(np.float32)
            rgba = np.load(path / "rgba.npy", mmap_mode="r")
            first = not self._names
            self.moments = moments if first else np.concatenate([self.moments, moments])
            self.cameras = cameras if first else np.concatenate([self.cameras, cameras])
            self.specs += [specs[i] for i in rows]
            self._pictures += [(rgba, i) for i in rows]
            self._names.append(path.name)

    def rgba(self, clip: int) -> np.ndarray:
        """(f, h, w, 4) uint8, straight alpha."""
        shard, row = self._pictures[clip]
        return np.array(shard[row])
