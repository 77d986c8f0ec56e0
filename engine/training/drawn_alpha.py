"""Alpha of what the built-in models draw: a small diffusers UNet2DModel at their own size, one logit a pixel.

What they draw stands over white, soft, with rims of mist; a white beard or a fur collar on it is white too. The network
learns from truth as the VAE shows it (``engine.training.soft``), and from clips that the built-in reference animation
drew of figures whose true alpha is known: where a limb is uncertain, it learns how far to trust the mist.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.cards import verify
from engine.models.loading import load_diffusers, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training import denoise
from engine.training.data import Shards, over, to_tensor
from engine.training.export import export, half
from engine.training.loop import Draw, State, load_average
from engine.training.matting import iou
from engine.training.pose_estimation import Clips
from engine.training.soft import through

SIZE = 128
PROPS, ANIMATED = 0.25, 0.5
"""Shares of the batches that show props, and figures as reference animation draws them; others show true figures."""
CLIPS, LOOKED = 90, 16
"""Clips of the train split, and of the held-out one, that are animated once."""


def build(channels: tuple[int, ...] = (16, 24, 40, 56), groups: int = 8) -> UNet2DModel:
    """A fresh network. Attention stands where the picture is 16 x 16: a beard is told from a gap by what is around."""
    down = ("DownBlock2D",) * (len(channels) - 1) + ("AttnDownBlock2D",)
    return UNet2DModel(
        sample_size=SIZE, in_channels=3, out_channels=1, block_out_channels=channels, layers_per_block=1,
        down_block_types=down, up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (len(channels) - 1),
        norm_num_groups=groups, attention_head_dim=8)


def logits(net: nn.Module, pictures: Tensor) -> Tensor:
    """Pictures (b, 3, h, w) in [0, 1], whose sides 8 divides -> (b, 1, h, w)."""
    zeros = torch.zeros(len(pictures), dtype=torch.long, device=pictures.device)
    made: Tensor = net(pictures * 2 - 1, zeros).sample
    return made.float()


def overlap(p: Tensor, a: Tensor) -> Tensor:
    """Soft intersection over union of alphas (b, 1, h, w) -> (b,): sum min(p, a) / sum max(p, a), 1 where they are
    equal (Wang, Ning & Blaschko 2023, "Jaccard metric losses")."""
    return torch.minimum(p, a).sum((1, 2, 3)) / torch.maximum(p, a).sum((1, 2, 3)).clamp(min=1e-6)


class DrawnAlpha:
    """Figures and props over white, soft; their alpha is the answer.

    data : clips as ``engine.training.clip_data`` writes them; props : shards; work : where animated clips are kept
    """

    name = "drawn_alpha"

    def __init__(self, data: Path, props: Shards, held_out_props: Shards, batch: int, work: Path,
                 root: Path = BUILTIN_FOLDER, model: UNet2DModel | None = None, clips: int = CLIPS) -> None:
        self.data, self.batch, self.work, self.root, self.clips = data, batch, work, root, clips
        self.props, self.held_out_props = props, held_out_props
        self.train, self.held_out = Clips(data / "train"), Clips(data / "held_out")
        self.model: nn.Module = (model or build()).to(memory_format=torch.channels_last)

    @cached_property
    def vae(self) -> Any:
        return load_vae(self.root / "vae", "cpu")

    @cached_property
    def animated(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Split -> pictures (n, h, w, 3) and alphas (n, h, w), uint8; drawn once and kept."""
        if not self.clips:
            return {}
        path = self.work / self.name / "animated.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(file, **_animated(self.data, self.work, self.root, self.clips))  # type: ignore[arg-type]
            part.replace(path)
        with np.load(path) as found:
            return {split: (found[f"{split}_pictures"], found[f"{split}_alphas"]) for split in ("train", "held_out")}

    def load_committed(self) -> None:
        verify(self.root / self.name)
        self.model.load_state_dict(load_diffusers(UNet2DModel, self.root / self.name, "cpu").state_dict())

    def compose(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pictures (b, 3, h, w) in [0, 1] and alphas (b, 1, h, w)."""
        kind = rng.random()
        if kind < ANIMATED and self.animated:
            pictures, alphas = self.animated["train"]
            rows = rng.integers(len(pictures), size=self.batch)
            x, alpha = to_tensor(pictures[rows] / np.float32(255), 0.0), to_tensor(
                alphas[rows][..., None] / np.float32(255), 0.0)
        else:
            rgba = self._true(kind, rng)
            alpha = to_tensor(rgba[..., 3:] / np.float32(255), 0.0)
            x = through(self.vae, to_tensor(over(rgba), 0.0), rng)
        if rng.random() < 0.5:
            x, alpha = x.flip(-1), alpha.flip(-1)
        return x, alpha

    def _true(self, kind: float, rng: np.random.Generator) -> np.ndarray:
        """(b, h, w, 4) uint8"""
        if len(self.props) and kind > 1 - PROPS:
            rows = rng.integers(len(self.props), size=self.batch)
            return self.props.rgba(rows, rng.integers(self.props.views, size=self.batch))
        return self.train.take(rng.integers(len(self.train), size=self.batch),
                               rng.integers(self.train.frames, size=self.batch))[0]

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        pictures, alpha = self.compose(draw.rng)
        x, a = pictures.to(draw.device, memory_format=torch.channels_last), alpha.to(draw.device)
        y = logits(model, x)
        bce = F.binary_cross_entropy_with_logits(y, a)
        l1 = (y.sigmoid() - a).abs().mean()
        told = {"bce": float(bce.detach()), "l1": float(l1.detach()), "iou": float(iou(y, a).mean())}
        return bce + l1 + (1 - overlap(y.sigmoid(), a)).mean(), told, len(x)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean mask IoU on what nobody learned from: animated figures, true ones and props through the VAE."""
        device, rng, found = next(model.parameters()).device, np.random.default_rng(3), {}
        shown: dict[str, tuple[Tensor, Tensor]] = {}
        if len(self.held_out):
            rgba = self.held_out.take(rng.integers(len(self.held_out), size=64),
                                      rng.integers(self.held_out.frames, size=64))[0]
            shown["figures_iou"] = self._seen(rgba, rng)
        if len(self.held_out_props):
            rows = rng.integers(len(self.held_out_props), size=64)
            rgba = self.held_out_props.rgba(rows, rng.integers(self.held_out_props.views, size=64))
            shown["props_iou"] = self._seen(rgba, rng)
        if self.animated:
            drawn, alphas = self.animated["held_out"]
            shown["animated_iou"] = (to_tensor(drawn / np.float32(255), 0.0),
                                     to_tensor(alphas[..., None] / np.float32(255), 0.0))
        for name, (pictures, true) in shown.items():
            scores = [iou(logits(model, x.to(device)).cpu(), a) for x, a in zip(
                pictures.split(16), true.split(16), strict=True)]
            found[name] = float(torch.cat(scores).mean())
        return found

    def _seen(self, rgba: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        pictures = torch.cat([through(self.vae, x, rng, noise=0, blur=False)
                              for x in to_tensor(over(rgba), 0.0).split(16)])
        return pictures, to_tensor(rgba[..., 3:] / np.float32(255), 0.0)

    def sheet(self, model: nn.Module) -> Image.Image | None:
        rng = np.random.default_rng(1)
        rows = []
        for _ in range(2):
            pictures, alphas = self.compose(rng)
            with torch.no_grad():
                made = logits(model, pictures.to(next(model.parameters()).device)).sigmoid().cpu()
            rows += [pictures[:8], alphas[:8].repeat(1, 3, 1, 1), made[:8].repeat(1, 3, 1, 1)]
        count = min(len(row) for row in rows)
        shown = torch.cat([row[:count] for row in rows]).permute(0, 2, 3, 1).numpy()
        return Image.fromarray(denoise.grid(shown, count))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        return export(
            self.name, lambda path: half(state.ema).save_pretrained(path), trained_on=("vae",), steps=state.step,
            minutes=state.elapsed_s / 60, metrics=state.metrics, curve=folder / "curve.png", root=self.root,
            about=f"Alpha at {SIZE} px of what the built-in models draw over white: a picture in [-1, 1], time step 0 "
                  "-> one logit a pixel.",
            data=f"{len(self.train)} toybox figures in motion and {len(self.props)} props over white, as the built-in "
                 "VAE shows them, noisy or blurred in their latents; figures that the built-in reference animation "
                 "drew, whose true alpha is known.",
            limits="Only what the built-in models draw, over white. Other pictures are for the matting network.")


def _animated(data: Path, work: Path, root: Path, clips: int) -> dict[str, np.ndarray]:
    """What reference animation draws of train clips, and of held-out ones, beside their true alpha: the networks that
    trainings left in ``work``, else the committed ones."""
    from engine.training.animate import AnimateMotion
    trainer = AnimateMotion(data, 16, work, root)
    kept = work / AnimateMotion.name
    task: Any = trainer
    model: Any = load_average(task, kept).ema if (kept / "state.pt").exists() else trainer.model
    model, out = model.eval(), {}
    for split, source, count in (("train", trainer.train, clips), ("held_out", trainer.held_out, LOOKED)):
        chosen = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
        length = source.frames.shape[1]
        at = np.tile(np.arange(length), (len(chosen), 1))
        drawn = trainer.animated(model, source, chosen, at)
        out[f"{split}_pictures"] = np.round(drawn.reshape(-1, *drawn.shape[2:]) * 255).clip(0, 255).astype(np.uint8)
        out[f"{split}_alphas"] = np.concatenate([source.pictures(row, f)[..., 3] for row, f in zip(
            chosen, at, strict=True)])
    return out
