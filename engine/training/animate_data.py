"""What reference animation learns from: clips with their latents, the two standing pictures, and the skeletons.

The frames' latents are those of :mod:`engine.training.clip_latents`; those of the standing pictures, and how CLIP sees
them, are few and encoded here, once. Skeletons are drawn anew each time they are asked for, and may lack joints then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.diffusion.skeleton_drawing import draw_skeleton
from engine.models.loading import load_clip, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training.clip_data import FILES
from engine.training.clip_latents import folder_of
from engine.training.latents import embed, encode

HELD_OUT_MOTION = "spin"
"""A motion that no training of figures sees: it is the MotionLoRA's new one."""
FACE = (0, 14, 15, 16, 17)
"""Joints that are often not seen: nose, eyes, ears."""


class Figures:
    """The clips of a split whose latents are kept, in memory; :meth:`refresh` takes in what has come since.

    frames : (n, f, 8, h, w) float16 mean and log variance, unscaled; references : (n, 2, 8, h, w), of the standing ones
    embeds : (n, 2, d) float32, CLIP's projected embeddings of these, not normalised
    joints : (n, f, 18, 2) pixels; specs : n dicts
    without : motions that are left out
    """

    frames: np.ndarray
    references: np.ndarray
    embeds: np.ndarray
    joints: np.ndarray

    def __init__(self, data: Path, split: str, work: Path, root: Path = BUILTIN_FOLDER,
                 without: tuple[str, ...] = (HELD_OUT_MOTION,)) -> None:
        self.data, self.latents, self.root, self.without = data / split, folder_of(work, split, root), root, without
        self.specs: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._where: list[tuple[int, int]] = []
        self._pictures: list[dict[str, np.ndarray]] = []
        self._parts: dict[str, list[np.ndarray]] = {"frames": [], "references": [], "embeds": [], "joints": []}
        self.refresh()

    def __len__(self) -> int:
        return len(self.specs)

    def refresh(self) -> None:
        for path in sorted(self.data.glob("shard_?????")) if self.data.is_dir() else ():
            frames = self.latents / path.name / "rgba.npy"
            if path.name in self._names or not frames.exists() or not all((path / f).exists() for f in FILES):
                continue
            specs = json.loads((path / "specs.json").read_text(encoding="utf-8"))
            rows = [i for i, spec in enumerate(specs) if spec["motion"] not in self.without]
            seen = _standing(path, self.latents / path.name / "standing.npz", self.root)
            found = {"frames": np.load(frames), "joints": np.load(path / "joints.npy"), **seen}
            for name, parts in self._parts.items():
                parts.append(found[name][rows])
            self._pictures.append({name: np.load(path / f"{name}.npy", mmap_mode="r")
                                   for name in ("rgba", "references")})
            self._where += [(len(self._names), i) for i in rows]
            self.specs += [specs[i] for i in rows]
            self._names.append(path.name)
        for name, parts in self._parts.items():
            self._parts[name] = [np.concatenate(parts)] if parts else []
            setattr(self, name, self._parts[name][0] if parts else np.zeros((0, 0), np.float32))

    def pictures(self, clips: Any, frames: Any, of: str = "rgba") -> np.ndarray:
        """Frames (b,) of clips (b,), or "references", the standing pictures -> (b, h, w, 4) uint8, straight alpha."""
        clips, frames = np.broadcast_arrays(np.atleast_1d(clips), np.atleast_1d(frames))
        where = [self._where[c] for c in clips]
        return np.stack([self._pictures[s][of][row, f] for (s, row), f in zip(where, frames, strict=True)])

    def skeletons(self, clips: Any, frames: Any, rng: np.random.Generator | None = None, unseen: float = 0.0) -> Tensor:
        """Drawings (b, 3, h, w) float32 in [0, 1]; a share ``unseen`` of them lacks a joint or some of the face's."""
        clips, frames = np.broadcast_arrays(np.atleast_1d(clips), np.atleast_1d(frames))
        size = self._pictures[0]["rgba"].shape[2:4]
        out = []
        for c, f in zip(clips, frames, strict=True):
            joints = self.joints[c, f].copy()
            if rng is not None and rng.random() < unseen:
                gone = rng.choice(FACE, 2) if rng.random() < 0.7 else rng.integers(len(joints), size=1)
                joints[gone] = np.nan
            out.append(draw_skeleton(joints[None], size))
        return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


def _standing(shard: Path, kept: Path, root: Path) -> dict[str, np.ndarray]:
    """Moments and CLIP embeddings of a shard's standing pictures, from ``kept`` where they are."""
    if not kept.exists():
        rgba = np.load(shard / "references.npy")
        n, k = rgba.shape[:2]
        flat = rgba.reshape(n * k, *rgba.shape[2:])
        moments = encode(load_vae(root / "vae", "cpu"), flat)
        embeds = embed(load_clip(root / "clip", "cpu"), flat)
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, references=moments.reshape(n, k, *moments.shape[1:]), embeds=embeds.reshape(n, k, -1))
        part.replace(kept)
    with np.load(kept) as found:
        return {"references": found["references"], "embeds": found["embeds"]}
