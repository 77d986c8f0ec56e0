"""AnimateDiff's second step (Guo et al. 2023, section 4.2): motion modules over a locked text to image.

The base with its domain adapter stays as it is; between its layers transformers along time learn how figures move,
from whole loops. Half of a clip's noise is shared by its frames (Ge et al. 2023), so that they
begin as one figure and only the movement is left to agree on. One motion is held out, for the motion LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engine.diffusion import lora, lora_files
from engine.diffusion.motion import mixed_noise, moving, predict
from engine.diffusion.prompt import encode
from engine.models.cards import verify
from engine.models.loading import load_clip, load_diffusers, load_tokenizer, load_unet, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training import denoise
from engine.training.clip_latents import Clips
from engine.training.data import over
from engine.training.domain_adapter import FILE, caption_of
from engine.training.export import export, half
from engine.training.loop import Draw, State

HELD_OUT = "spin"
"""The motion that the motion module never sees: the motion LoRA's."""
WINDOW = 16
"""Frames that are trained and drawn at once; the longest table of positions that later trainings may use is MOST."""
MOST = 32
SHARED = 0.5
"""Share of the noise's variance that a clip's frames have in common."""
DROPOUT = 0.1
LATE = 3.0
"""Noisy steps come more often: where limbs are is decided there."""
FEW, EVERY = 4, 2
"""Every second step learns from so many moments of as many more clips: one clip's frames tell little more than a few of
them do, and clips differ in figure, motion, noise and time step."""
TRANSFORMERS = (1, 1, 1, 0)
"""Transformers a motion module on each level. On the last, 2 x 2 cells, there is nothing to see of a limb."""
PROMPTS = ("a knight in red armour, walking", "a robot in a blue suit, waving", "a wizard in a purple robe, jumping",
           "a farmer in a green shirt, cheer")
LOOKED_AT = 32


def fresh(unet: Any, seed: int = 0) -> Any:
    """A MotionAdapter for a U-Net that changes nothing yet: every module's way out is zero (Guo et al. 2023)."""
    from diffusers.models.unets.unet_motion_model import MotionAdapter
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MotionAdapter(
            block_out_channels=tuple(unet.config.block_out_channels),
            motion_layers_per_block=int(unet.config.layers_per_block),
            motion_transformer_layers_per_block=TRANSFORMERS[:len(unet.config.block_out_channels)],
            motion_num_attention_heads=4, motion_norm_num_groups=int(unet.config.norm_num_groups),
            motion_max_seq_length=MOST, use_motion_mid_block=False)
    for name, parameter in made.named_parameters():
        if ".proj_out." in name:
            nn.init.zeros_(parameter)
    return made


def see_moments(adapter: Any, chosen: list[Tensor | None]) -> None:
    """Let a MotionAdapter's tables of positions give the rows of ``chosen[0]`` (k,) to k frames; None: the first k."""
    def at(module: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        rows = chosen[0]
        return out if rows is None else out + module.pe[:, rows] - module.pe[:, :len(rows)]
    for name, module in adapter.named_modules():
        if name.endswith(".pos_embed"):
            module.register_forward_hook(at)


def adapted_base(root: Path) -> Any:
    """The built-in text to image's U-Net with the domain adapter in its weights."""
    base = load_unet(root / "text_to_image" / "unet", "cpu")
    return lora.merged(base, lora_files.read(root / "domain_adapter" / FILE))


class Motion:
    """v-prediction on whole loops; only the motion modules learn.

    data : folder of the character shards; work : with the latents of ``clip_latents``
    keep : the motions that are learned
    """

    name = "motion"

    def __init__(self, data: Path, batch: int, work: Path, root: Path = BUILTIN_FOLDER, base: Any = None,
                 keep: Callable[[str], bool] = lambda motion: motion != HELD_OUT) -> None:
        parts = ("tokenizer", "clip", "vae", "text_to_image") + (() if base is not None else ("domain_adapter",))
        for part in parts:
            verify(root / part)
        self.root, self.batch = root, batch
        self.train = Clips(data, "train", work, root, lambda spec: keep(spec["motion"]))
        self.held_out = Clips(data, "held_out", work, root, lambda spec: keep(spec["motion"]))
        if not len(self.train):
            raise FileNotFoundError("no latents of characters are kept: run `python -m engine.training.clip_data` and "
                                    "`python -m engine.training clip_latents` first")
        clip = load_clip(root / "clip", "cpu")
        self.text_encoder, self.tokenizer = clip.text_model, load_tokenizer(root / "tokenizer")
        self.vae = load_vae(root / "vae", "cpu")
        self.scale = float(self.vae.config.scaling_factor)
        self.alphas = denoise.scheduler().alphas_cumprod
        self.base = (base if base is not None else adapted_base(root)).eval().requires_grad_(False)
        self.model: nn.Module = fresh(self.base)
        self._moments: list[Tensor | None] = [None]
        see_moments(self.model, self._moments)
        self._nets: list[tuple[Any, Any]] = []

    def load_committed(self) -> None:
        verify(self.root / self.name)
        self.model.load_state_dict(load_motion(self.root / self.name).state_dict())

    def net(self, model: Any) -> Any:
        """The U-Net that moves by ``model``; its modules stay the model's own."""
        found = next((net for known, net in self._nets if known is model), None)
        if found is None:
            found = moving(self.base.to(next(model.parameters()).device), model)
            self._nets = [*self._nets[-2:], (model, found)]  # the one that learns, its average, one to compare with
        return found

    @torch.no_grad()
    def context(self, texts: list[str], device: Any) -> Tensor:
        return encode(self.text_encoder.to(device), self.tokenizer, texts, device)

    def _loss(self, net: Any, source: Clips, draw: Draw, n: int, frames: int = WINDOW) -> Tensor:
        """The mean over clips of ``denoise.loss``'s weighted error of v, one time step a clip.

        frames : of each of n clips; fewer than WINDOW: moments drawn at random, the same ones of all
        """
        rows = draw.rng.integers(len(source), size=n)
        texts = [caption_of(source.specs[i], draw.rng) if draw.rng.random() >= DROPOUT else "" for i in rows]
        # From its beginning: so a place in time is a moment of the motion, which is far sooner learned than that frames
        # must agree on one. Windows of long clips keep it (``motion_windows.in_phase``).
        at = np.sort(draw.rng.permutation(WINDOW)[:frames])
        moments = source.moments[rows][:, at % source.frames]
        clean = denoise.clean_latents(moments.reshape(-1, *moments.shape[2:]), self.scale, draw)
        clean = clean.view(n, frames, *clean.shape[1:])
        noise = mixed_noise(draw.normal(*clean.shape), draw.normal(n, 1, *clean.shape[2:]), SHARED)
        u = torch.rand(n, generator=draw.generator) / n + torch.arange(n) / n
        t = (u ** (1 / LATE) * len(self.alphas)).long().clamp(max=len(self.alphas) - 1).to(clean.device)
        a = self.alphas.to(clean.device)[t].view(n, 1, 1, 1, 1)
        noisy, v = a.sqrt() * clean + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * clean
        weight = (denoise.GAMMA * (1 - a)).clamp(max=1.0).view(n)
        self._moments[0] = None if frames == WINDOW else torch.from_numpy(at).to(clean.device)
        try:
            said = predict(net, noisy, t, self.context(texts, draw.device)).float()
        finally:
            self._moments[0] = None
        return ((said - v).square().mean((1, 2, 3, 4)) * weight).mean()

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        few = draw.step % EVERY == 0
        clips, frames = (self.batch * WINDOW // FEW, FEW) if few else (self.batch, WINDOW)
        return self._loss(self.net(model), self.train, draw, clips, frames), {}, clips * frames

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The same loss on held-out clips, always the same draws; and without any motion module."""
        if not len(self.held_out):
            return {}
        device = next(model.parameters()).device

        def mean(adapter: Any) -> float:
            draws = [Draw(0, 1.0, np.random.default_rng(k), torch.Generator().manual_seed(k), device)
                     for k in range(LOOKED_AT // 4)]
            return float(np.mean([float(self._loss(self.net(adapter), self.held_out, d, 4).detach()) for d in draws]))

        return {"held_out_loss": mean(model), "still_loss": mean(fresh(self.base).to(device))}

    @torch.no_grad()
    def clips(self, model: nn.Module, prompts: list[str], seed: int = 0, steps: int = denoise.STEPS,
              guidance: float = denoise.GUIDANCE) -> np.ndarray:
        """-> (n, f, h, w, 3) in [0, 1], one clip a prompt."""
        device, size, made = next(model.parameters()).device, int(self.base.config.sample_size), []
        net, empty = self.net(model), self.context([""], next(model.parameters()).device)
        for i, prompt in enumerate(prompts):
            generator = torch.Generator().manual_seed(seed * 100_003 + i)
            shared, own = (torch.randn(1, k, 4, size, size, generator=generator) for k in (1, WINDOW))
            x = mixed_noise(own, shared, SHARED).to(device)
            both, plan = torch.cat([empty, self.context([prompt], device)]), denoise.scheduler()
            plan.set_timesteps(steps)
            for t in plan.timesteps:
                without, with_ = predict(net, torch.cat([x, x]), t, both).float().chunk(2)
                x = plan.step(without + guidance * (with_ - without), t, x).prev_sample
            made.append(denoise.decode(self.vae, x[0].cpu()))
        return np.stack(made)

    def sheet(self, model: nn.Module) -> Image.Image | None:
        """A row a clip, every second frame: two held-out ones, and one of each prompt."""
        source = self.held_out if len(self.held_out) else self.train
        rows = np.linspace(0, len(source) - 1, 2).astype(int)
        true = np.stack([over(source.rgba(i)[np.arange(0, WINDOW, 2) % source.frames]) for i in rows])
        drawn = self.clips(model, list(PROMPTS), steps=10)[:, ::2]
        both = np.concatenate([true, drawn])
        return Image.fromarray(denoise.grid(both.reshape(-1, *both.shape[2:]), true.shape[1]))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        names = sorted({str(spec["motion"]) for spec in self.train.specs})
        return export(
            self.name, lambda path: half(state.ema).save_pretrained(path),
            trained_on=("clip", "vae", "text_to_image", "domain_adapter"), steps=state.step,
            minutes=state.elapsed_s / 60, metrics=state.metrics, curve=folder / "curve.png", root=self.root,
            extra={"window": WINDOW, "period": WINDOW, "noise_shared": SHARED, "guidance": denoise.GUIDANCE,
                   "sampling_steps": denoise.STEPS, "motions": names},
            about="Motion modules of the built-in text to image (AnimateDiff), in diffusers' MotionAdapter layout.",
            data=f"{len(self.train)} looping clips of {WINDOW} frames, toybox characters over white, one camera a "
                 f"clip; motions: {', '.join(names)}.",
            limits="Toybox characters at 128 px that stay in place; motions by name. Amplitude and speed are not told "
                   f"to it; a motion's cycle is {WINDOW} frames, so longer loops close best in multiples of that.")


def load_motion(folder: Path, device: str = "cpu") -> Any:
    """A MotionAdapter of its folder, every name and shape accounted for."""
    from diffusers.models.unets.unet_motion_model import MotionAdapter
    return load_diffusers(MotionAdapter, folder, device)
