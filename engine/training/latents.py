"""Shards seen by the frozen encoders, kept on disk: VAE moments of every view, CLIP embeddings of the condition views.

Views 0 and 1 are framed as users' pictures are (the object centred, its longest side 0.7 of the frame), so they serve
as text-to-image pictures and as the conditions of novel views; views 2 and on are the novel views' targets. The two
groups are encoded apart, so that text to image need not wait. Caches stand under the digests of the encoders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.models.cards import part_digest
from engine.models.loading import load_clip, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training.data import TEXT_VIEWS, Shards, over, to_tensor

GROUPS = {"conditions": (0, TEXT_VIEWS), "targets": (TEXT_VIEWS, None)}
"""View ranges that are encoded together."""


def encoder_digest(folder: Path) -> str:
    """SHA-256 of what decides a VAE's latents, its encoder: a decoder may be trained on without changing it."""
    from safetensors.numpy import load_file
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(n for n in tensors if n.startswith(("encoder.", "quant_conv."))):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def cache_folder(work: Path, root: Path = BUILTIN_FOLDER) -> Path:
    """Where the latents of the VAE and the embeddings of the CLIP that lie in ``root`` now are kept."""
    return work / f"{encoder_digest(root / 'vae')[:12]}_{part_digest(root / 'clip')[:12]}"


@torch.no_grad()
def encode(vae: Any, rgba: np.ndarray, device: str = "cpu", batch: int = 16) -> np.ndarray:
    """(n, h, w, 4) uint8 -> (n, 8, h/8, w/8) float16: mean and log variance of the latents, unscaled, over white."""
    out = []
    for i in range(0, len(rgba), batch):
        x = to_tensor(over(rgba[i:i + batch])).to(device, memory_format=torch.channels_last)
        d = vae.encode(x).latent_dist
        out.append(torch.cat([d.mean, d.logvar], 1).cpu().half().numpy())
    return np.concatenate(out)


@torch.no_grad()
def embed(clip: Any, rgba: np.ndarray, device: str = "cpu", batch: int = 32) -> np.ndarray:
    """(n, h, w, 4) uint8 -> (n, d) float32 projected image embeddings, not normalised, over white."""
    from engine.training.clip import encode_pictures
    return np.concatenate([encode_pictures(clip, to_tensor(over(rgba[i:i + batch]), low=0.0).to(device)).cpu().numpy()
                           for i in range(0, len(rgba), batch)])


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)


def update(shards: Shards, work: Path, device: str = "cpu", groups: tuple[str, ...] = tuple(GROUPS),
           root: Path = BUILTIN_FOLDER, report: Callable[[str], None] = lambda _: None) -> int:
    """Encode what the cache lacks, shard by shard -> pictures encoded."""
    folder = cache_folder(work, root) / shards.folder.name
    vae = load_vae(root / "vae", device).to(memory_format=torch.channels_last)
    clip = load_clip(root / "clip", device) if "conditions" in groups else None
    done = 0
    for group in groups:
        first, last = GROUPS[group]
        for i in range(len(shards.names)):
            path, rgba, _, _ = shards.shard(i)
            part = rgba[:, first:last]
            n, v = part.shape[:2]
            if (folder / path.name / f"{group}.npy").exists() or v == 0:
                continue
            flat = np.ascontiguousarray(part).reshape(n * v, *part.shape[2:])
            if clip is not None and group == "conditions":
                _write(folder / path.name / "embeds.npy", embed(clip, flat, device).reshape(n, v, -1))
            moments = encode(vae, flat, device)
            _write(folder / path.name / f"{group}.npy", moments.reshape(n, v, *moments.shape[1:]))
            done += n * v
            report(f"{shards.folder.name} {path.name} {group}")
    return done


class Latents:
    """The cached latents of a split, in memory; :meth:`refresh` takes in what has been encoded since.

    objects : (m,) indices into the shards' objects, for those whose groups are all cached
    conditions : (m, 2, 8, h, w) float16; embeds : (m, 2, d) float32; targets : (m, v - 2, 8, h, w) float16
    """

    def __init__(self, shards: Shards, work: Path, targets: bool, root: Path = BUILTIN_FOLDER) -> None:
        self.shards, self.folder, self.with_targets = shards, cache_folder(work, root) / shards.folder.name, targets
        self._taken: set[str] = set()
        self._parts: dict[str, list[np.ndarray]] = {"objects": [], "conditions": [], "embeds": [], "targets": []}
        self.refresh()

    def __len__(self) -> int:
        return len(self.objects)

    def refresh(self) -> None:
        self.shards.refresh()
        names = ["conditions", "embeds"] + (["targets"] if self.with_targets else [])
        for i, name in enumerate(self.shards.names):
            files = {n: self.folder / name / f"{n}.npy" for n in names}
            if name in self._taken or not all(f.exists() for f in files.values()):
                continue
            self._taken.add(name)
            part = self.shards.shard(i)[3]
            self._parts["objects"].append(np.arange(part.start, part.stop))
            for n, file in files.items():
                self._parts[n].append(np.load(file))
        joined = {k: np.concatenate(v) if v else np.zeros(0, np.int64) for k, v in self._parts.items()}
        self.objects, self.conditions = joined["objects"], joined["conditions"]
        self.embeds, self.targets = joined["embeds"], joined["targets"]
        self._parts = {k: [v] if len(v) else [] for k, v in joined.items()}
