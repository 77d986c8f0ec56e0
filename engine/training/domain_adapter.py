"""AnimateDiff's first step (Guo et al. 2023, section 4.1): a LoRA that takes the base to the clips' world.

Motion modules learn from frames; what sets those apart from the base's own pictures must not end up in the motion. So
a low-rank update of the locked text to image learns single frames first. The built-in base never saw a figure: here
the update teaches the toybox's characters, and the motion module is then trained over both.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engine.diffusion import lora, lora_files
from engine.diffusion.lora import Lora
from engine.diffusion.prompt import encode
from engine.models.cards import verify
from engine.models.loading import load_clip, load_tokenizer, load_unet, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.toybox.characters import CharacterSpec, caption
from engine.training import denoise
from engine.training.clip_latents import Clips
from engine.training.data import over
from engine.training.export import export
from engine.training.loop import Draw, State

RANK = 16
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut")
"""Every layer that sees the picture; ResNet's convolutions too, for a look that the base never drew."""
DROPOUT = 0.1
"""Share of frames trained without a caption, for guidance."""
LATE = 1.5
"""Noisy steps come more often: there a figure's build and clothes are decided."""
FILE = "adapter.safetensors"
PROMPTS = ("a knight in red armour, standing", "a knight in blue armour, walking", "a wizard in a purple robe, waving",
           "a farmer in a green shirt, running", "a pirate in a black coat, jumping", "a king in a red robe, dancing",
           "a ninja in a black suit, kick", "a witch in a purple dress, standing", "a red robot, walking",
           "an astronaut in a white suit, jumping", "a chef in a white shirt, waving",
           "a soldier in a green jacket, march", "a villager in a yellow tunic, clap",
           "a viking in a brown tunic, cheer", "a princess in a pink dress, standing",
           "an archer in a green cloak, punch")


class DomainAdapter:
    """v-prediction on single frames of the character clips; only the update learns.

    data : folder of the character shards; work : with the latents of ``clip_latents``
    """

    name = "domain_adapter"

    def __init__(self, data: Path, batch: int, work: Path, root: Path = BUILTIN_FOLDER, rank: int = RANK) -> None:
        for part in ("tokenizer", "clip", "vae", "text_to_image"):
            verify(root / part)
        self.root, self.batch, self.rank = root, batch, rank
        self.train, self.held_out = Clips(data, "train", work, root), Clips(data, "held_out", work, root)
        if not len(self.train):
            raise FileNotFoundError("no latents of characters are kept: run `python -m engine.training.clip_data` and "
                                    "`python -m engine.training clip_latents` first")
        clip = load_clip(root / "clip", "cpu")
        self.text_encoder, self.tokenizer = clip.text_model, load_tokenizer(root / "tokenizer")
        self.vae = load_vae(root / "vae", "cpu")
        self.scale = float(self.vae.config.scaling_factor)
        self.alphas = denoise.scheduler().alphas_cumprod
        self.base = load_unet(root / "text_to_image" / "unet", "cpu")
        self.model: nn.Module = lora.twin(self.base)
        lora.attach(self.model, rank, rank, 0, TARGETS)

    def load_committed(self) -> None:
        verify(self.root / self.name)
        kept = lora.named(self.base, lora_files.read(self.root / self.name / FILE))
        put(self.model, kept)

    @torch.no_grad()
    def context(self, texts: list[str], device: Any) -> Tensor:
        return encode(self.text_encoder.to(device), self.tokenizer, texts, device)

    def _loss(self, model: nn.Module, source: Clips, draw: Draw, n: int) -> Tensor:
        rows, frames = draw.rng.integers(len(source), size=n), draw.rng.integers(source.frames, size=n)
        texts = [caption_of(source.specs[i], draw.rng) if draw.rng.random() >= DROPOUT else "" for i in rows]
        clean = denoise.clean_latents(source.moments[rows, frames], self.scale, draw)
        return denoise.loss(model, clean, self.context(texts, draw.device), draw, self.alphas, late=LATE)

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        return self._loss(model, self.train, draw, self.batch), {}, self.batch

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The same loss on held-out figures, always the same draws; with the update and, beside it, without."""
        if not len(self.held_out):
            return {}
        device = next(model.parameters()).device

        def mean(unet: nn.Module) -> float:
            draws = [Draw(0, 1.0, np.random.default_rng(k), torch.Generator().manual_seed(k), device)
                     for k in range(2)]
            return float(np.mean([float(self._loss(unet, self.held_out, d, 64).detach()) for d in draws]))

        return {"held_out_loss": mean(model), "base_loss": mean(self.base.to(device))}

    def pictures(self, model: nn.Module, prompts: list[str], seed: int = 0, steps: int = denoise.STEPS) -> np.ndarray:
        """-> (n, h, w, 3) in [0, 1], one a prompt."""
        device = next(model.parameters()).device
        latents = denoise.sample(model, self.context(prompts, device), self.context([""] * len(prompts), device), seed,
                                 steps)
        return denoise.decode(self.vae, latents.cpu())

    def sheet(self, model: nn.Module) -> Image.Image | None:
        """Two rows of prompts; below them frames of held-out figures and what their captions give."""
        source = self.held_out if len(self.held_out) else self.train
        rows = np.linspace(0, len(source) - 1, min(8, len(source))).astype(int)
        true = np.stack([over(source.rgba(i)[0]) for i in rows])
        texts = [caption_of(source.specs[i], np.random.default_rng(int(i))) for i in rows]
        net = lora.merged(self.base, lora.taken(model, {}))  # the same, and quicker
        blank = np.ones((8 - len(rows), *true.shape[1:]), np.float32)
        return Image.fromarray(denoise.grid(np.concatenate(
            [self.pictures(net, list(PROMPTS)), true, blank, self.pictures(net, texts)]), 8))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def adapter(self, model: nn.Module, card: dict[str, Any] | None = None) -> Lora:
        """The update in half precision, as it is exported."""
        found = lora.taken(model, card or {})
        return replace(found, pairs={k: (a.half(), b.half()) for k, (a, b) in found.pairs.items()})

    def export(self, state: State, folder: Path) -> Path:
        card = {"base": {"id": "maquette/builtin-text-to-image", "unet_sha256": lora.base_digest(self.base)},
                "licence": "Apache-2.0", "commercial": "yes", "what": "domain adapter (AnimateDiff), peft layout",
                "rank": self.rank}
        words = sorted({word for spec in self.train.specs for k in range(8)
                        for word in caption_of(spec, np.random.default_rng(k)).replace(",", "").split()})
        return export(
            self.name, lambda path: lora_files.save(self.adapter(state.ema, card), path / FILE),
            trained_on=("clip", "vae", "text_to_image"), steps=state.step, minutes=state.elapsed_s / 60,
            metrics=state.metrics, curve=folder / "curve.png", root=self.root,
            extra={"words": words, "rank": self.rank},
            about="Domain adapter of the built-in motion (AnimateDiff's first step): a LoRA that teaches the built-in "
                  "text to image the toybox's characters.",
            data=f"Single frames of {len(self.train)} clips of toybox characters over white.",
            limits="Draws one toybox character on white, from about the front. Every frame of a prompt for props is "
                   "drawn by a base that it changes: leave it out there.")


def put(model: nn.Module, kept: Lora) -> None:
    """Fill the trainable update that sits in a network with a kept one."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    with torch.no_grad():
        for key, layer in model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                for side, value in zip((layer.lora_A, layer.lora_B), kept.pairs[key], strict=True):
                    weight = side[lora.ADAPTER].weight
                    weight.copy_(value.reshape(weight.shape))


def caption_of(spec: dict[str, Any], rng: np.random.Generator) -> str:
    """A shard's figure in words, said anew each time; its motion is always named, standing still mostly."""
    known = {f.name for f in fields(CharacterSpec)}
    text = caption(CharacterSpec(**{k: v for k, v in spec.items() if k in known} | {
        "seed": int(rng.integers(1 << 31))}))  # the seed decides only how it is said
    if spec["motion"] == "idle" and not text.endswith("standing") and rng.random() < 0.8:
        text += ", standing"
    return text
