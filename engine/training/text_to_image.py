"""Text to image: a small U-Net in Stable Diffusion 1.5's layout on the frozen VAE's latents and CLIP's text states."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engine.diffusion.prompt import encode
from engine.models.cards import verify
from engine.models.loading import load_clip, load_tokenizer, load_unet, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training import denoise
from engine.training.clip import caption_of
from engine.training.data import Shards
from engine.training.export import export, half
from engine.training.latents import Latents
from engine.training.loop import Draw, State

DROPOUT = 0.1
"""Share of samples trained without a caption, for guidance."""
PROMPTS = ("a red mug", "a blue chair", "a green bottle", "a brown wooden barrel", "a grey stone house", "a yellow car",
           "a red mushroom with white dots", "a purple lamp", "an orange rocket, side view", "a pink table",
           "a cyan shield, front view", "a white sword", "a black metal chest", "a green tree, top view",
           "a tall red umbrella", "a blue crate with white stripes")


class TextToImage:
    """v-prediction on cached latents; captions are made anew each time a picture is drawn."""

    name = "text_to_image"

    def __init__(self, train: Shards, held_out: Shards, batch: int, work: Path, model: nn.Module | None = None,
                 root: Path = BUILTIN_FOLDER, caption: Callable[..., str] = caption_of) -> None:
        for part in ("tokenizer", "clip", "vae"):
            verify(root / part)
        self.root, self.batch, self.caption = root, batch, caption
        self.train = Latents(train, work / "latents", targets=False, root=root)
        self.held_out = Latents(held_out, work / "latents", targets=False, root=root)
        if not len(self.train):
            raise FileNotFoundError("no latents are cached: run `python -m engine.training latents` first")
        clip = load_clip(root / "clip", "cpu")
        self.text_encoder, self.tokenizer = clip.text_model, load_tokenizer(root / "tokenizer")
        self.vae = load_vae(root / "vae", "cpu")
        self.scale = float(self.vae.config.scaling_factor)
        self.alphas = denoise.scheduler().alphas_cumprod
        width = int(clip.config.text_config.hidden_size)
        self.model: nn.Module = (model or denoise.build(context=width)).to(memory_format=torch.channels_last)

    def load_committed(self) -> None:
        verify(self.root / "text_to_image")
        self.model.load_state_dict(load_unet(self.root / "text_to_image" / "unet", "cpu").state_dict())

    @torch.no_grad()
    def context(self, texts: list[str], device: Any) -> Tensor:
        return encode(self.text_encoder.to(device), self.tokenizer, texts, device)

    def _loss(self, model: nn.Module, source: Latents, draw: Draw, n: int) -> Tensor:
        rows = draw.rng.integers(len(source), size=n)
        # View 0 shows about the front, which is what a prompt without view words asks for.
        views = (draw.rng.random(n) < 0.4).astype(int)
        word = random.Random(int(draw.rng.integers(1 << 62)))
        captions = [self.caption(source.shards.specs[o], source.shards.cameras[o, v], word, True)
                    if word.random() >= DROPOUT else "" for o, v in zip(source.objects[rows], views, strict=True)]
        clean = denoise.clean_latents(source.conditions[rows, views], self.scale, draw)
        return denoise.loss(model, clean, self.context(captions, draw.device), draw, self.alphas)

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        return self._loss(model, self.train, draw, self.batch), {}, self.batch

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The same loss on held-out objects, always the same draws."""
        if not len(self.held_out):
            return {}
        device = next(model.parameters()).device
        draws = [Draw(0, 1.0, np.random.default_rng(k), torch.Generator().manual_seed(k), device) for k in range(4)]
        return {"held_out_loss": float(np.mean([float(self._loss(model, self.held_out, d, 64)) for d in draws]))}

    def pictures(self, model: nn.Module, prompts: list[str], seed: int = 0) -> np.ndarray:
        """-> (n, h, w, 3) in [0, 1], one a prompt."""
        device = next(model.parameters()).device
        latents = denoise.sample(model, self.context(prompts, device), self.context([""] * len(prompts), device), seed)
        return denoise.decode(self.vae, latents.cpu())

    def sheet(self, model: nn.Module) -> Image.Image | None:
        return Image.fromarray(denoise.grid(self.pictures(model, list(PROMPTS)), 8))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        def save(path: Path) -> None:
            half(state.ema).save_pretrained(path / "unet")
            denoise.scheduler().save_pretrained(path / "scheduler")

        return export(
            "text_to_image", save, trained_on=("tokenizer", "clip", "vae"), steps=state.step,
            minutes=state.elapsed_s / 60, metrics=state.metrics, curve=folder / "curve.png", root=self.root,
            extra={"guidance": denoise.GUIDANCE, "sampling_steps": denoise.STEPS},
            about="Text to image at 128 px: a U-Net in Stable Diffusion 1.5's layout, v-prediction.",
            data=f"Renders of {len(self.train)} toybox objects from 2 views each, over white, with captions made anew "
                 "at each step.",
            limits="Draws one toybox prop on white. Words outside known.json were never seen.")
