"""Reference animation of the built-in set, trained as AnimateAnyone is (Hu et al. 2023, section 4.1): single frames,
then motion.

``animate_frames``: the reference U-Net, the denoising U-Net (both begin as the built-in text to image) and the pose
guider learn together from pairs of a standing figure and one of its frames. ``animate_motion``: these are locked, and
motion modules learn from runs of frames, which wrap round as the motions do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNetMotionModel
from PIL import Image
from torch import Tensor, nn

from engine.diffusion.animate_networks import PoseGuider, ReferenceUNet
from engine.diffusion.reference_animation import Networks, norm_frames
from engine.models.cards import verify
from engine.models.loading import load_unet, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training import denoise
from engine.training.animate_data import Figures
from engine.training.data import over
from engine.training.export import export, half
from engine.training.loop import Draw, State
from engine.training.novel_view import union_psnr

PART = "reference_animation"
DROPOUT = 0.1
"""Share of the references that are not seen, for guidance."""
TARGETS = 2
"""Frames of a clip that learn from one look at its reference."""
LATE, BLIND = 2.0, 0.25
"""Noisy steps, and pure noise, come more often (see denoise.loss): the pose is decided there."""
FRONT = 0.6
"""Share of pairs whose reference was taken from about the front, as users' pictures are."""
UNSEEN = 0.15
"""Share of skeletons that lack a joint or some of the face's."""
GUIDER = (8, 16, 32, 64)
STEPS, GUIDANCE = 4, 1.0
"""How figures and sheets are sampled."""
MOTION = {"motion_num_attention_heads": 4, "motion_max_seq_length": 32, "use_motion_mid_block": True}
COLOUR = 0.06
"""The figure's mean colour may be off by so much in any channel and still count as kept."""


def reference_of(unet: nn.Module) -> ReferenceUNet:
    """A reference U-Net that begins as a text-to-image one."""
    made = ReferenceUNet.from_config(unet.config)
    lost = made.load_state_dict(unet.state_dict(), strict=False)
    assert not lost.missing_keys
    return made


class _Trainer:
    """What both steps share: the data, the look at held-out clips."""

    model: Networks

    def __init__(self, data: Path, batch: int, work: Path, root: Path = BUILTIN_FOLDER) -> None:
        for part in ("clip", "vae", "text_to_image"):
            verify(root / part)
        self.root, self.batch = root, batch
        self.train, self.held_out = Figures(data, "train", work, root), Figures(data, "held_out", work, root)
        if not len(self.train):
            raise FileNotFoundError("no latents of characters are kept: run `python -m engine.training.clip_data` and "
                                    "`python -m engine.training clip_latents` first")
        self.vae = load_vae(root / "vae", "cpu")
        self.scale = float(self.vae.config.scaling_factor)
        self.alphas = denoise.scheduler().alphas_cumprod

    def _seen(self, source: Figures, clips: np.ndarray, which: np.ndarray, device: Any) -> tuple[Tensor, Tensor]:
        """Scaled latents (b, 4, h, w) and CLIP tokens (b, 1, d) of the references."""
        mean = torch.from_numpy(source.references[clips, which, :4].astype(np.float32)).to(device)
        return mean * self.scale, torch.from_numpy(source.embeds[clips, which])[:, None].to(device)

    def _loss(self, net: Networks, source: Figures, draw: Draw, clips: np.ndarray, frames: np.ndarray) -> Tensor:
        """Loss of frames (b, f) of clips (b,), each clip with one reference."""
        rng, (b, f) = draw.rng, frames.shape
        which = (rng.random(b) >= FRONT).astype(int)
        told = np.sort(rng.random(b) >= DROPOUT)[::-1].copy()  # those that see their reference come first
        count = int(told.sum())
        latents, token = self._seen(source, clips, which, draw.device)
        if count:
            net.look(latents[:count].contiguous(memory_format=torch.channels_last), token[:count])
        tokens = (token * torch.from_numpy(told.astype(np.float32)).view(-1, 1, 1).to(token)).repeat_interleave(f, 0)
        rows, at = np.repeat(clips, f), frames.reshape(-1)
        drawn = source.skeletons(rows, at, rng, UNSEEN).to(draw.device)
        feature = net.guider(drawn.contiguous(memory_format=torch.channels_last))
        clean = denoise.clean_latents(source.frames[rows, at], self.scale, draw)
        motion = isinstance(net.denoising, UNetMotionModel)
        # Steps are drawn in rising order: shuffled, so that those without a reference are not always the noisiest.
        order = torch.from_numpy(rng.permutation(b if motion else b * f)).to(draw.device)
        if motion:
            order = (order[:, None] * f + torch.arange(f, device=order.device)).reshape(-1)
        back = order.argsort()

        def unet(x: Tensor, t: Tensor, context: Tensor) -> Any:
            return _Answer(net.predict(x[back], t[back], context, feature, f, reading=count * f)[order])

        loss = denoise.loss(unet, clean[order], tokens, draw, self.alphas, late=LATE, blind=BLIND,  # type: ignore[arg-type]
                            frames=f if motion else 1)
        net.forget()
        return loss

    # -- looking -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def animated(self, net: Networks, source: Figures, clips: np.ndarray, frames: np.ndarray, steps: int = STEPS,
                 guidance: float = GUIDANCE, seed: int = 0, which: int = 0) -> np.ndarray:
        """Frames (b, f) of clips (b,), sampled from skeletons and references -> (b, f, h, w, 3) in [0, 1]."""
        device, f, out = next(net.parameters()).device, frames.shape[1], []
        for clip, row in zip(clips, frames, strict=True):
            latents, token = self._seen(source, np.array([clip]), np.array([which]), device)
            net.look(latents, token)
            feature = net.guider(source.skeletons(np.full(f, clip), row).to(device))
            x = torch.randn(f, 4, *latents.shape[2:], generator=torch.Generator().manual_seed(seed * 1009 + int(clip)))
            x, plan = x.to(device), denoise.scheduler()
            plan.set_timesteps(steps)
            tokens = torch.cat([token.expand(f, -1, -1), torch.zeros_like(token).expand(f, -1, -1)])
            for t in plan.timesteps:
                if guidance == 1:
                    v = net.predict(x, t.expand(f).to(device), tokens[:f], feature, f)
                else:
                    with_, without = net.predict(torch.cat([x, x]), t.expand(2 * f).to(device), tokens,
                                                 torch.cat([feature, feature]), f, reading=f).chunk(2)
                    v = without + guidance * (with_ - without)
                x = plan.step(v, t, x).prev_sample
            out.append(denoise.decode(self.vae, x.cpu()))
        net.forget()
        return np.stack(out)

    def measured(self, net: Networks, clips: int, frames: int, steps: int = STEPS, guidance: float = GUIDANCE,
                 together: bool = False) -> dict[str, float]:
        """Figures over so many held-out clips, spread over all, and frames of each."""
        source = self.held_out
        rows = np.linspace(0, len(source) - 1, min(clips, len(source))).astype(int)
        length = source.frames.shape[1]
        run = np.arange(frames) if together else np.linspace(0, length, frames, endpoint=False).astype(int)
        at = np.tile(run % length, (len(rows), 1))
        drawn = self.animated(net, source, rows, at, steps, guidance)
        true = np.stack([source.pictures(row, f) for row, f in zip(rows, at, strict=True)])
        frozen = over(source.pictures(rows, np.zeros_like(rows), "references"))
        flat = true.reshape(-1, *true.shape[2:])
        ours = union_psnr(drawn.reshape(-1, *drawn.shape[2:]), flat)
        still = union_psnr(np.repeat(frozen, at.shape[1], 0), flat)
        kept = [_colour_kept(d, t) for d, t in zip(drawn.reshape(-1, *drawn.shape[2:]), flat, strict=True)]
        return {"union_psnr_db": float(ours.mean()), "over_frozen_db": float((ours - still).mean()),
                "colour_kept": float(np.mean(kept))}

    def sheet(self, net: nn.Module) -> Image.Image | None:
        """Rows of held-out clips: the reference, then skeletons, truth and what is drawn for six frames."""
        source = self.held_out if len(self.held_out) else self.train
        rows = np.linspace(0, len(source) - 1, min(6, len(source))).astype(int)
        at = np.tile(np.linspace(0, source.frames.shape[1], 6, endpoint=False).astype(int), (len(rows), 1))
        drawn = self.animated(net, source, rows, at)  # type: ignore[arg-type]
        lines = []
        for i, row in enumerate(rows):
            seen = over(source.pictures(row, 0, "references"))[0]
            skeletons = source.skeletons(np.full(6, row), at[i]).permute(0, 2, 3, 1).numpy()
            lines += [seen, *skeletons, np.ones_like(seen), *over(source.pictures(row, at[i])), np.ones_like(seen),
                      *drawn[i]]
        return Image.fromarray(denoise.grid(np.stack(lines), 7))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()


class _Answer:
    """A prediction as diffusers' U-Nets give it."""

    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


def _colour_kept(drawn: np.ndarray, true: np.ndarray) -> bool:
    inside = true[..., 3] > 127
    return bool(np.abs(drawn[inside].mean(0) - over(true)[inside].mean(0)).max() <= COLOUR)


class AnimateFrames(_Trainer):
    """The first step: single frames."""

    name = "animate_frames"

    def __init__(self, data: Path, batch: int, work: Path, root: Path = BUILTIN_FOLDER, model: Networks | None = None
                 ) -> None:
        super().__init__(data, batch, work, root)
        if model is None:
            base = load_unet(root / "text_to_image" / "unet", "cpu").requires_grad_(True)
            model = Networks(reference_of(base), base, PoseGuider(3, GUIDER, base.config.block_out_channels[0]))
        self.model = model.to(memory_format=torch.channels_last)

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        b = max(1, self.batch // TARGETS)
        clips = draw.rng.integers(len(self.train), size=b)
        frames = draw.rng.integers(self.train.frames.shape[1], size=(b, TARGETS))
        return self._loss(model, self.train, draw, clips, frames), {}, b * TARGETS  # type: ignore[arg-type]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        return self.measured(model, 24, 3)  # type: ignore[arg-type]
