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
from kornia.metrics import ssim
from PIL import Image
from torch import Tensor, nn

from engine.diffusion.animate_networks import PoseGuider, ReferenceUNet
from engine.diffusion.reference_animation import Networks, norm_frames
from engine.models.cards import read_card, verify
from engine.models.loading import load_unet, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training import denoise
from engine.training.animate_data import Figures
from engine.training.data import over, to_tensor
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
STEPS, GUIDANCE, NOISE_SHARED = 2, 1.0, 1.0
"""How figures and sheets are sampled, and the defaults of the built-in model. What a skeleton and a picture leave open
is little: more steps and more guidance draw it more sharply and less truly (on held-out clips 1, 2, 4 and 8 steps
gave 15.0, 14.7, 14.2 and 13.9 dB). All frames begin from the same noise: what stands still then stays still, and a loop
closes (seam over mean step 0.985; 1.005 with 0.8 of it shared, 1.008 with half; truth 0.953), at the same PSNR."""
WINDOW, OVERLAP = 16, 4
"""Frames that the built-in model sees at once: the longest run that it learned from."""
MOTION: dict[str, Any] = {
    "motion_num_attention_heads": 4, "motion_max_seq_length": 32, "use_motion_mid_block": False,
    "temporal_transformer_layers_per_block": [1, 1, 0, 0]}
"""Motion modules attend where a latent is 16 or 8 pixels wide: what flickers is fine, and coarser ones would be most of
the weights. (diffusers puts a module in every block; without layers it begins as nothing and stays small.)"""
LENGTHS = (8, 12, 16)
"""Frames of the runs that motion learns from."""
SHARED = 0.5
"""Share of the runs whose frames all begin from the same noise, as clips may be sampled."""
COLOUR = 0.06
"""The figure's mean colour may be off by so much in any channel and still count as kept."""


def reference_of(unet: nn.Module) -> ReferenceUNet:
    """A reference U-Net that begins as a text-to-image one."""
    made = ReferenceUNet.from_config(unet.config)
    lost = made.load_state_dict(unet.state_dict(), strict=False)
    assert not lost.missing_keys
    return made


def guider_for(unet: Any, seed: int = 0) -> PoseGuider:
    """A fresh pose guider in front of a U-Net, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PoseGuider(3, GUIDER, unet.config.block_out_channels[0])


def with_motion(unet: Any, seed: int = 0) -> UNetMotionModel:
    """A U-Net's weights in one with fresh motion modules, which begin by changing nothing."""
    config = UNetMotionModel.from_unet2d(unet, load_weights=False).config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = UNetMotionModel.from_config({k: v for k, v in config.items() if k[0] != "_"} | MOTION)
    lost = made.load_state_dict(unet.state_dict(), strict=False)
    assert not lost.unexpected_keys and all("motion_modules" in name for name in lost.missing_keys)
    for name, parameter in made.named_parameters():
        if "motion_modules" in name and ".proj_out." in name:
            nn.init.zeros_(parameter)
    return norm_frames(made)


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
        which = np.asarray(rng.random(b) >= FRONT).astype(int)
        told: np.ndarray = np.sort(rng.random(b) >= DROPOUT)[::-1]  # those that see their reference come first
        count = int(told.sum())
        latents, token = self._seen(source, clips, which, draw.device)
        if count:
            net.look(latents[:count].contiguous(memory_format=torch.channels_last), token[:count])
        tokens = (token * torch.from_numpy(told.astype(np.float32)).view(-1, 1, 1).to(token)).repeat_interleave(f, 0)
        rows, at = np.repeat(clips, f), frames.reshape(-1)
        drawn = source.skeletons(rows, at, rng, UNSEEN).to(draw.device)
        feature = net.guider(drawn.contiguous(memory_format=torch.channels_last))
        if not feature.requires_grad and torch.is_grad_enabled():
            # torch 2.13 crashes in the gradient of a GroupNorm, channels last, whose input needs none: it shall.
            feature = feature.requires_grad_()
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
            drawn = torch.randn(f + 1, 4, *latents.shape[2:],
                                generator=torch.Generator().manual_seed(seed * 1009 + int(clip)))
            x = NOISE_SHARED ** 0.5 * drawn[:1] + (1 - NOISE_SHARED) ** 0.5 * drawn[1:]
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
        steps_of = {name: np.abs(np.diff(v, axis=1, append=v[:, :1])).mean((2, 3, 4)).mean()
                    for name, v in (("ours", drawn), ("true", over(flat).reshape(drawn.shape)))}
        steady = {"step_of_true": float(steps_of["ours"] / max(steps_of["true"], 1e-6))} if together else {}
        same = ssim(to_tensor(drawn.reshape(-1, *drawn.shape[2:]), 0.0), to_tensor(over(flat), 0.0), 11)
        return {"union_psnr_db": float(ours.mean()), "over_frozen_db": float((ours - still).mean()),
                "ssim": float(same.mean()), "colour_kept": float(np.mean(kept)), **steady}

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

    def _export(self, net: Any, denoising: UNetMotionModel, state: State, folder: Path, frames: dict[str, float],
                motion: dict[str, float]) -> Path:
        def save(path: Path) -> None:
            half(denoising).save_pretrained(path / "denoising_unet")
            half(net.reference).save_pretrained(path / "reference_unet")
            half(net.guider).save_pretrained(path / "pose_guider")
            denoise.scheduler().save_pretrained(path / "scheduler")

        trainings = [AnimateFrames.name] + ([AnimateMotion.name] if motion else [])
        return export(
            PART, save, trained_on=("clip", "vae"), steps=int(frames.get("steps", 0) + motion.get("steps", 0)),
            minutes=frames.get("minutes", 0.0) + motion.get("minutes", 0.0), metrics=state.metrics,
            curve=folder / "curve.png", root=self.root,
            extra={"guidance": GUIDANCE, "sampling_steps": STEPS, "noise_shared": NOISE_SHARED,
                   "window": WINDOW, "overlap": OVERLAP,
                   "made_by": trainings, "motion": motion},
            about="AnimateAnyone at 128 px: a picture of a figure and a row of OpenPose skeletons -> the figure in "
                  "motion. Reference U-Net, denoising U-Net with motion modules, pose guider.",
            data=f"{len(self.train)} looping clips of toybox characters in 11 motions, over white, each with two "
                 "pictures of the same figure standing, seen from elsewhere.",
            limits="Knows the toybox's figures from about the front (60 degrees to either side), whole and alone on "
                   "white. What the reference does not show (a back, a hidden hand) is a guess.")


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
            model = Networks(reference_of(base), base, guider_for(base))
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

    def load_committed(self) -> None:
        load_into(self.model, self.root / PART)

    def export(self, state: State, folder: Path) -> Path:
        """Single frames, with motion modules that do nothing yet."""
        net = state.ema
        frames = {"steps": state.step, "minutes": state.elapsed_s / 60}
        return self._export(net, with_motion(net.denoising), state, folder, frames, {})


class AnimateMotion(_Trainer):
    """The second step: motion modules alone, over what ``animate_frames`` left in ``work``, else what is committed."""

    name = "animate_motion"

    def __init__(self, data: Path, batch: int, work: Path, root: Path = BUILTIN_FOLDER, model: Networks | None = None
                 ) -> None:
        super().__init__(data, batch, work, root)
        self.before: dict[str, float] = {}
        self.earlier: dict[str, Any] = {}
        self._kept = work / AnimateFrames.name / "state.pt"
        if model is None:
            base = load_unet(root / "text_to_image" / "unet", "cpu")
            model = Networks(reference_of(base), with_motion(base), guider_for(base))
            if self._kept.exists():
                self._take_frames(model)
            else:
                load_into(model, root / PART)
        self.model = model.to(memory_format=torch.channels_last).requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("motion_modules" in name)

    def _take_frames(self, model: Networks) -> None:
        """What the first step left; motion modules stay as they are."""
        found = torch.load(self._kept, map_location="cpu", weights_only=True)
        lost = model.load_state_dict(found["ema"], strict=False)
        assert not lost.unexpected_keys and all("motion_modules" in name for name in lost.missing_keys)
        self.before = {"steps": found["step"], "minutes": found["elapsed_s"] / 60}

    def load_committed(self) -> None:
        """Motion modules of the committed model; all else too, where the first step left nothing newer."""
        load_into(self.model, self.root / PART)
        self.earlier = read_card(self.root / PART).fields.get("motion", {})
        if self._kept.exists():
            self._take_frames(self.model)

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        """``batch`` is in frames: as many runs as fit."""
        rng = draw.rng
        length = int(rng.choice(LENGTHS))
        b = max(1, self.batch // length)
        clips = rng.integers(len(self.train), size=b)
        whole = self.train.frames.shape[1]
        frames = (rng.integers(whole, size=(b, 1)) + np.arange(length)) % whole
        if rng.random() < SHARED:
            draw = _Same(draw.step, draw.progress, rng, draw.generator, draw.device, length)
        return self._loss(model, self.train, draw, clips, frames), {}, b * length  # type: ignore[arg-type]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        return self.measured(model, 12, self.held_out.frames.shape[1], together=True)  # type: ignore[arg-type]

    def export(self, state: State, folder: Path) -> Path:
        motion = {"steps": state.step + self.earlier.get("steps", 0),
                  "minutes": round(state.elapsed_s / 60 + self.earlier.get("minutes", 0), 1)}
        return self._export(state.ema, state.ema.denoising, state, folder, self.before, motion)  # type: ignore[arg-type]


class _Same(Draw):
    """Draws whose noise is the same for all frames of a clip."""

    def __init__(self, step: int, progress: float, rng: np.random.Generator, generator: torch.Generator,
                 device: torch.device, frames: int) -> None:
        super().__init__(step, progress, rng, generator, device)
        self.frames = frames

    def normal(self, *shape: int) -> Tensor:
        return super().normal(shape[0] // self.frames, *shape[1:]).repeat_interleave(self.frames, 0)


def load_into(net: Networks, folder: Path) -> None:
    """Fill networks with exported weights; without motion modules, those of single frames."""
    from engine.models.loading import load_diffusers
    verify(folder)
    net.reference.load_state_dict(load_diffusers(ReferenceUNet, folder / "reference_unet", "cpu").state_dict())
    net.guider.load_state_dict(load_diffusers(PoseGuider, folder / "pose_guider", "cpu").state_dict())
    motion = load_diffusers(UNetMotionModel, folder / "denoising_unet", "cpu").state_dict()
    own = net.denoising.state_dict()
    net.denoising.load_state_dict({name: value for name, value in motion.items() if name in own})
