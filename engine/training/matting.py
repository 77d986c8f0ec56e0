"""Matting: a small diffusers UNet2DModel that gives a picture's alpha, one logit a pixel, at time step 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.cards import verify
from engine.models.loading import load_diffusers
from engine.models.sets import BUILTIN_FOLDER
from engine.toybox.backgrounds import KINDS, random_background
from engine.training import denoise
from engine.training.data import Shards, to_tensor
from engine.training.export import export, half
from engine.training.loop import Draw, State


def build(channels: tuple[int, ...] = (16, 32, 48, 64), size: int = 64, groups: int = 8) -> UNet2DModel:
    """A fresh network; attention stands where the picture is 8 x 8, to know what is the subject.

    It looks at 64 px: four times as many pictures a second as at 128, and a second look at the found square gives the
    edge back (engine.diffusion.mattes).
    """
    down = ("DownBlock2D",) * (len(channels) - 1) + ("AttnDownBlock2D",)
    return UNet2DModel(
        sample_size=size, in_channels=3, out_channels=1, block_out_channels=channels, layers_per_block=1,
        down_block_types=down, up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (len(channels) - 1),
        norm_num_groups=groups, attention_head_dim=min(16, channels[-1]))


def logits(unet: nn.Module, pictures: Tensor) -> Tensor:
    """Pictures (b, 3, h, w) in [-1, 1], seen at the network's own size -> (b, 1, h, w)."""
    zeros = torch.zeros(len(pictures), dtype=torch.long, device=pictures.device)
    size = int(unet.config.sample_size)  # type: ignore[union-attr,arg-type]
    seen = F.interpolate(pictures, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(unet(seen, zeros).sample.float(), pictures.shape[-2:], mode="bicubic", align_corners=False)


class Matting:
    """Objects over random backgrounds, scaled and moved a little; the alpha is the answer."""

    name = "matting"

    def __init__(self, train: Shards, held_out: Shards, batch: int = 16, model: UNet2DModel | None = None,
                 root: Path = BUILTIN_FOLDER) -> None:
        self.train, self.held_out, self.batch, self.root = train, held_out, batch, root
        self.model: nn.Module = (model or build()).to(memory_format=torch.channels_last)

    def load_committed(self) -> None:
        verify(self.root / "matting")
        self.model.load_state_dict(load_diffusers(UNet2DModel, self.root / "matting", "cpu").state_dict())

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        picture, alpha = compose(self.train, draw.rng, self.batch)
        x = picture.to(draw.device, memory_format=torch.channels_last)
        a = alpha.to(draw.device)
        y = logits(model, x)
        bce = F.binary_cross_entropy_with_logits(y, a)
        l1 = (y.sigmoid() - a).abs().mean()
        return bce + l1, {"bce": float(bce.detach()), "l1": float(l1.detach()), "iou": float(iou(y, a).mean())}, len(x)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean IoU on held-out objects, over all background kinds and for the worst of them."""
        if not len(self.held_out):
            return {}
        by_kind = background_iou(model, self.held_out)
        return {"iou": float(np.mean(list(by_kind.values()))), "worst_background_iou": min(by_kind.values())}

    def sheet(self, model: nn.Module) -> Image.Image | None:
        source = self.held_out if len(self.held_out) else self.train
        picture, _ = compose(source, np.random.default_rng(1), 16)
        device = next(model.parameters()).device
        alpha = logits(model, picture.to(device)).sigmoid().cpu().permute(0, 2, 3, 1).numpy().repeat(3, -1)
        seen = picture.permute(0, 2, 3, 1).numpy() * 0.5 + 0.5
        return Image.fromarray(denoise.grid(np.concatenate([seen[:8], alpha[:8], seen[8:], alpha[8:]]), 8))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        size = int(state.ema.config.sample_size)  # type: ignore[union-attr,arg-type]
        return export(
            "matting", lambda path: half(state.ema).save_pretrained(path), steps=state.step,
            minutes=state.elapsed_s / 60, metrics=state.metrics, curve=folder / "curve.png", root=self.root,
            about=f"Matting at {size} px: a picture of one object -> its alpha (sigmoid of the one output channel); "
                  "pictures in [-1, 1], time step 0.",
            data=f"{len(self.train)} toybox objects over white, flat colours, gradients, noise and clutter.",
            limits="One whole object near the middle of the picture; hair, glass and photographs were never seen.")


def compose(shards: Shards, rng: np.random.Generator, n: int, kind: str | None = None) -> tuple[Tensor, Tensor]:
    """n objects over backgrounds -> pictures (n, 3, h, w) in [-1, 1] and alphas (n, 1, h, w) in [0, 1]."""
    rgba = shards.rgba(rng.integers(len(shards), size=n), rng.integers(shards.views, size=n))
    size = rgba.shape[1]
    x = rgba.astype(np.float32) / 255
    x[..., :3] *= x[..., 3:]  # premultiplied, so that moving it bleeds nothing
    premultiplied = to_tensor(x, low=0.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.from_numpy(1 / rng.uniform(0.8, 1.25, n)).float()
    theta[:, 0, 0] *= torch.from_numpy(rng.choice([-1.0, 1.0], n)).float()
    theta[:, :, 2] = torch.from_numpy(rng.uniform(-0.2, 0.2, (n, 2))).float()
    premultiplied = F.grid_sample(premultiplied, F.affine_grid(theta, list(premultiplied.shape), align_corners=False),
                                  align_corners=False)
    backgrounds = []
    for _ in range(n):
        pieces = shards.rgba(rng.integers(len(shards), size=2), rng.integers(shards.views, size=2)) \
            if rng.random() < 0.3 else None
        backgrounds.append(random_background(rng, size, pieces, kind))
    alpha = premultiplied[:, 3:]
    picture = premultiplied[:, :3] + to_tensor(np.stack(backgrounds), low=0.0) * (1 - alpha)
    if rng.random() < 0.5:  # compression and sensor grain
        picture = picture + float(rng.uniform(0, 0.03)) * torch.from_numpy(
            rng.standard_normal(picture.shape, dtype=np.float32))
    return picture.clamp(0, 1) * 2 - 1, alpha


def iou(y: Tensor, alpha: Tensor) -> Tensor:
    """Logits and alphas (b, 1, h, w) -> (b,) intersection over union of their halves."""
    a, b = y > 0, alpha > 0.5
    return (a & b).sum((1, 2, 3)) / (a | b).sum((1, 2, 3)).clamp(min=1)


@torch.no_grad()
def background_iou(model: nn.Module, shards: Shards, pictures: int = 40, seed: int = 7) -> dict[str, float]:
    """Mean IoU for each kind of background, over ``pictures`` pictures each."""
    device = next(model.parameters()).device
    out = {}
    for k, kind in enumerate(KINDS):
        picture, alpha = compose(shards, np.random.default_rng([seed, k]), pictures, kind)
        scores = [iou(logits(model, p.to(device)).cpu(), a) for p, a in zip(picture.split(20), alpha.split(20),
                                                                           strict=True)]
        out[kind] = float(torch.cat(scores).mean())
    return out
