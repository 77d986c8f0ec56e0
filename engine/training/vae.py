"""The picture autoencoder: diffusers' AutoencoderKL in Stable Diffusion's layout, 8 times smaller, 4 latent channels.

Trained on 64 px crops around the object for most of the budget (four times as many objects a second), then on whole
128 px pictures, so that it learns the picture's borders.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from engine.models.cards import verify
from engine.models.loading import load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training.data import Shards, crop_on_object, flat_backgrounds, over, to_tensor
from engine.training.export import export, half, restamp
from engine.training.loop import Draw, State

CHANNELS = (16, 32, 64, 96)
WHOLE_FROM = 0.75
"""Share of the budget after which whole pictures are shown."""
OUTSIDE = 0.1
"""Weight of a background pixel beside 1 of an object's pixel."""
KL = 1e-5
COLOUR = 1.0


def build(channels: tuple[int, ...] = CHANNELS, groups: int = 8) -> AutoencoderKL:
    """A fresh autoencoder in Stable Diffusion's layout, one residual layer a block: trains 1.5 times faster."""
    return with_colour_path(AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=channels, layers_per_block=1,
        latent_channels=4, norm_num_groups=groups, sample_size=128, force_upcast=False))


@torch.no_grad()
def with_colour_path(model: AutoencoderKL) -> AutoencoderKL:
    """Start as a blurred copy: every residual branch at zero, and red, green and blue carried through in six channels.

    From a plain random start, brightness is learned first and hue only after thousands of steps. Each colour goes as
    +c and -c: their group's mean is then zero, so group norms only scale it, and silu(c) - silu(-c) = c undoes the
    activations. The rest of the weights stay random and find the detail.
    """
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D
    eye = torch.eye(6)
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.zero_()
            if module.conv_shortcut is not None:
                module.conv_shortcut.weight[:6] = 0
                module.conv_shortcut.weight[:6, :6, 0, 0] = eye
                module.conv_shortcut.bias.zero_()
        elif isinstance(module, Downsample2D | Upsample2D):
            conv = module.conv
            conv.weight[:6] = 0
            if isinstance(module, Downsample2D):  # padded to the right and below: taps 0 and 1 are the 2 x 2 block
                conv.weight[:6, :6, :2, :2] = eye[:, :, None, None] / 4
            else:
                conv.weight[:6, :6, 1, 1] = eye
            conv.bias.zero_()
    signs = torch.tensor([[1.0], [-1.0]])
    carry = torch.zeros(6, 3)
    for i in range(3):
        carry[2 * i:2 * i + 2, i:i + 1] = signs
    for conv_in in (model.encoder.conv_in, model.decoder.conv_in):
        conv_in.weight[:6] = 0
        conv_in.weight[:6, :3, 1, 1] = carry
        conv_in.bias[:6] = 0
    for conv_out in (model.encoder.conv_out, model.decoder.conv_out):
        conv_out.weight[:3] = 0
        conv_out.weight[:3, :6, 1, 1] = 0.5 * carry.T
        conv_out.bias[:3] = 0
    for mix in (model.quant_conv, model.post_quant_conv):
        mix.weight.copy_(torch.eye(mix.weight.shape[0])[:, :, None, None])
        mix.bias.zero_()
    model.encoder.conv_out.bias[4:] = -6.0  # the posterior starts narrow
    return model


class Vae:
    """Trains the autoencoder to give pictures back, the object's pixels first.

    decoder_only : keep the committed encoder as it is and train its decoder on. Latents stay the ones that the other
        models were trained on, so the decoder may grow better after them.
    """

    name = "vae"

    def __init__(self, train: Shards, held_out: Shards, batch: int = 16, model: AutoencoderKL | None = None,
                 root: Path = BUILTIN_FOLDER, decoder_only: bool = False) -> None:
        self.train, self.held_out, self.batch, self.root = train, held_out, batch, root
        self.decoder_only = decoder_only
        self.model: Any = (model or build()).to(memory_format=torch.channels_last)
        if decoder_only:
            self.load_committed()

    def load_committed(self) -> None:
        verify(self.root / "vae")
        self.model = load_vae(self.root / "vae", "cpu").to(memory_format=torch.channels_last).requires_grad_(True)
        if self.decoder_only:
            for part in (self.model.encoder, self.model.quant_conv):
                part.requires_grad_(False)

    def loss(self, model: Any, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        rng, whole = draw.rng, draw.progress >= WHOLE_FROM
        n = max(1, self.batch // 4) if whole else self.batch
        rgba = self.train.rgba(rng.integers(len(self.train), size=n), rng.integers(self.train.views, size=n))
        if not whole:
            rgba = crop_on_object(rgba, 64, rng)
        if rng.random() < 0.5:
            rgba = rgba[:, :, ::-1]
        x = to_tensor(over(rgba, flat_backgrounds(rng, n, white=0.9))).to(draw.device)
        mask = to_tensor(rgba[..., 3:].astype(np.float32) / 255, low=0.0).to(draw.device)
        with torch.set_grad_enabled(not self.decoder_only):
            posterior = model.encode(x).latent_dist
        z = posterior.mean + posterior.std * draw.normal(*posterior.mean.shape)
        y = model.decode(z).sample.float()
        weight = mask * (1 - OUTSIDE) + OUTSIDE
        total = weight.sum() * 3
        difference = y - x
        l1 = (difference.abs() * weight).sum() / total
        l2 = (difference.square() * weight).sum() / total
        edges = (difference.diff(dim=-1).abs() * weight[..., 1:]).sum() / total + \
            (difference.diff(dim=-2).abs() * weight[..., 1:, :]).sum() / total
        # Luminance is learned first and hue could wait for long: errors of hue, and of large areas, count more.
        hue = difference - difference.mean(1, keepdim=True)
        areas = torch.nn.functional.avg_pool2d(difference * weight, 8)
        colour = (hue.abs() * weight).sum() / total + areas.abs().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = l1 + 4 * l2 + 0.25 * edges + COLOUR * colour + KL * kl
        figures = {"l1": l1, "l2": l2, "colour": colour, "kl": kl}
        return loss, {name: float(value.detach()) for name, value in figures.items()}, n

    def evaluate(self, model: Any) -> dict[str, float]:
        psnr = mask_psnr(model, self.held_out)
        return {"mask_psnr_db": float(np.mean(psnr))} if len(psnr) else {}

    def sheet(self, model: Any) -> Image.Image | None:
        source = self.held_out if len(self.held_out) else self.train
        n = min(10, len(source))
        x = over(source.rgba(np.arange(n), np.arange(n) % source.views))
        y = reconstruct(model, x)
        return Image.fromarray(np.round(np.concatenate([np.concatenate(list(r), 1) for r in (x, y)]) * 255
                                        ).astype(np.uint8))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        """Measure the scale of the latents, store it, and write the part."""
        model: Any = state.ema
        extra: dict[str, Any] = {}
        steps, minutes = state.step, state.elapsed_s / 60
        if self.decoder_only:
            before = verify(self.root / "vae")
            steps, minutes = before.fields["steps"], before.fields["minutes"]
            extra = {"decoder_steps": state.step, "decoder_minutes": round(state.elapsed_s / 60, 1)}
        else:
            n = min(256, len(self.train))
            objects = np.linspace(0, len(self.train) - 1, n).astype(int)
            x = over(self.train.rgba(objects, np.arange(n) % self.train.views))
            model.register_to_config(scaling_factor=latent_scale(model, x))
        path = export(
            "vae", lambda path: half(model).save_pretrained(path), steps=steps, minutes=minutes, extra=extra,
            metrics=state.metrics, curve=folder / "curve.png", root=self.root,
            about="Autoencoder between 128 px pictures and 16 x 16 x 4 latents; diffusers' AutoencoderKL.",
            data=f"Renders of {len(self.train)} toybox objects from {self.train.views} views, 9 of 10 over white.",
            limits="Knows the toybox: flat-shaded props on plain backgrounds. Photographs and text come out blurred.")
        if self.decoder_only:
            restamp(self.root, "vae", before.sha256, "decoder trained on, encoder unchanged")
        return path


@torch.no_grad()
def latent_scale(model: Any, pictures: np.ndarray, batch: int = 16) -> float:
    """The factor that gives the latents of pictures (n, h, w, 3) in [0, 1] unit deviation."""
    means = [model.encode(to_tensor(pictures[i:i + batch])).latent_dist.mean for i in range(0, len(pictures), batch)]
    return round(1 / float(torch.cat(means).std()), 5)


@torch.no_grad()
def reconstruct(model: Any, pictures: np.ndarray, batch: int = 8) -> np.ndarray:
    """(n, h, w, 3) in [0, 1] -> the same through mode() and the decoder, clipped to [0, 1]."""
    device = next(model.parameters()).device
    out = []
    for i in range(0, len(pictures), batch):
        y = model.decode(model.encode(to_tensor(pictures[i:i + batch]).to(device)).latent_dist.mode()).sample
        out.append((y.float().cpu().permute(0, 2, 3, 1).numpy() * 0.5 + 0.5).clip(0, 1))
    return np.concatenate(out)


def mask_psnr(model: Any, shards: Shards, pictures: int = 64) -> np.ndarray:
    """PSNR in dB of each held-out picture over white, on the pixels whose alpha exceeds one half."""
    n = min(pictures, len(shards) * max(1, shards.views))
    if n == 0:
        return np.zeros(0)
    objects = np.linspace(0, len(shards) - 1, n).astype(int)
    rgba = shards.rgba(objects, np.arange(n) % shards.views)
    x = over(rgba)
    error = ((reconstruct(model, x) - x) ** 2).mean(-1)
    mask = rgba[..., 3] > 127
    return np.array([-10 * math.log10(max(float(e[m].mean()), 1e-10)) for e, m in zip(error, mask, strict=True)
                     if m.any()])
