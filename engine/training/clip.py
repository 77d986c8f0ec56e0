"""The text and image encoders: transformers' CLIPModel, small, trained by contrast on toybox pictures and captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from engine.diffusion.pictures import clip_input
from engine.diffusion.prompt import token_ids
from engine.models.cards import verify
from engine.models.loading import load_clip, load_tokenizer
from engine.models.sets import BUILTIN_FOLDER
from engine.toybox.vocabulary import GROUPS
from engine.training.data import Shards, flat_backgrounds, over, to_tensor
from engine.training.export import export, half
from engine.training.loop import Draw, State

ATTRIBUTES = ("kinds", "colors", "materials", "patterns", "sizes", "shapes", "styles", "views", "characters", "clothes",
              "poses")
"""Groups of words that tell one picture from another."""


def build(vocabulary: int, size: int = 128, width: int = 192, text_layers: int = 3, vision_layers: int = 4
          ) -> CLIPModel:
    """A fresh CLIP; ids of the special tokens are engine.training.tokenizer's."""
    shared = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": max(1, width // 48),
              "projection_dim": width, "hidden_act": "quick_gelu"}
    text = {**shared, "vocab_size": vocabulary, "max_position_embeddings": 32, "num_hidden_layers": text_layers,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    vision = {**shared, "image_size": size, "patch_size": 16, "num_hidden_layers": vision_layers}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))


def caption_of(spec: dict[str, Any], camera: np.ndarray, rng: random.Random, view_words: bool) -> str:
    """The toybox's caption of a picture; camera : (4,) azimuth deg, elevation deg, r, fov deg."""
    from engine.toybox.captions import caption
    return caption(spec, float(camera[0]), float(camera[1]), rng, view_words=view_words)


def telling_words(text: str) -> frozenset[str]:
    """The words of a text that tell pictures apart."""
    known = _telling()
    return frozenset(w for w in text.lower().replace(",", " ").replace("-", " ").split() if w in known)


def _telling(cache: list[frozenset[str]] = []) -> frozenset[str]:  # noqa: B006 - filled once
    if not cache:
        cache.append(frozenset(w for g in ATTRIBUTES for w in GROUPS[g]) - {"view"})
    return cache[0]


def also_true(captions: Sequence[str], specs: Sequence[dict[str, Any]]) -> np.ndarray:
    """(b, b) bool: caption i also describes picture j, i != j. Such pairs are no counter-examples.

    Picture j has the words of its own caption and every visible word of its description. Kind and colour must be the
    same ones: as words alone, "white with red dots" would also be true of "red with white dots".
    """
    own = [telling_words(c) for c in captions]
    unseen = [{"color2"} if spec.get("pattern") == "plain" else set() for spec in specs]
    full = [words | telling_words(" ".join(str(v) for k, v in spec.items() if k not in hidden))
            for words, spec, hidden in zip(own, specs, unseen, strict=True)]
    index = {w: k for k, w in enumerate(sorted(frozenset().union(*full)))}
    said, has = np.zeros((2, len(own), len(index)), np.float32)
    for i, (a, b) in enumerate(zip(own, full, strict=True)):
        said[i, [index[w] for w in a]] = 1
        has[i, [index[w] for w in b]] = 1
    same = np.unique([f"{spec.get('kind')} {spec.get('color')}" for spec in specs], return_inverse=True)[1]
    true = (said @ (1 - has).T == 0) & (same[:, None] == same[None])
    np.fill_diagonal(true, False)
    return true


def encode_pictures(clip: CLIPModel, pictures: Tensor) -> Tensor:
    """(b, 3, h, w) in [0, 1] -> (b, d) projected, not normalised."""
    size = int(clip.config.vision_config.image_size)
    return clip.visual_projection(clip.vision_model(pixel_values=clip_input(pictures, size)).pooler_output)


def encode_texts(clip: CLIPModel, ids: Tensor) -> Tensor:
    """(b, tokens) -> (b, d) projected, not normalised."""
    return clip.text_projection(clip.text_model(input_ids=ids).pooler_output)


def moved(pictures: Tensor, rng: np.random.Generator, background: Tensor, scale: float = 0.2, shift: float = 0.1
          ) -> Tensor:
    """Each picture scaled by 1 +- scale and shifted by +- shift of its side; what comes in is ``background``."""
    b = len(pictures)
    theta = torch.zeros(b, 2, 3)
    zoom = torch.from_numpy(1 / rng.uniform(1 - scale, 1 + scale, b)).float()
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = torch.from_numpy(rng.uniform(-2 * shift, 2 * shift, (b, 2))).float()
    grid = F.affine_grid(theta.to(pictures.device), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures - background, grid, align_corners=False) + background


class Clip:
    """Contrast between pictures and captions, with pairs that are true by accident left out of the denominator."""

    name = "clip"

    def __init__(self, train: Shards, held_out: Shards, batch: int = 128, model: CLIPModel | None = None,
                 caption: Callable[..., str] = caption_of, root: Path = BUILTIN_FOLDER) -> None:
        self.train, self.held_out, self.batch, self.caption, self.root = train, held_out, batch, caption, root
        verify(root / "tokenizer")
        self.tokenizer = load_tokenizer(root / "tokenizer")
        self.model: nn.Module = model or build(len(self.tokenizer))

    def load_committed(self) -> None:
        verify(self.root / "clip")
        self.model.load_state_dict(load_clip(self.root / "clip", "cpu").state_dict())

    def draw(self, shards: Shards, rng: np.random.Generator, n: int, plain: bool = False
             ) -> tuple[Tensor, list[str], list[dict[str, Any]]]:
        """n pictures (n, 3, h, w) in [0, 1] of different objects, their captions and descriptions."""
        objects = rng.choice(len(shards), n, replace=n > len(shards))
        # Half of the pictures are text-to-image views: those are what prompts are matched with.
        views = np.where(rng.random(n) < 0.5, rng.integers(min(2, shards.views), size=n),
                         rng.integers(shards.views, size=n))
        words = random.Random(int(rng.integers(1 << 62)))
        captions = [self.caption(shards.specs[o], shards.cameras[o, v], words, words.random() < 0.5)
                    for o, v in zip(objects, views, strict=True)]
        background = flat_backgrounds(rng, n, white=1.0 if plain else 0.7)
        pictures = to_tensor(over(shards.rgba(objects, views), background), low=0.0)
        if not plain and rng.random() < 0.5:
            pictures = moved(pictures, rng, to_tensor(background, low=0.0))
        return pictures, captions, [shards.specs[o] for o in objects]

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        pictures, captions, specs = self.draw(self.train, draw.rng, self.batch)
        image = F.normalize(encode_pictures(model, pictures.to(draw.device)).float(), dim=-1)
        ids = token_ids(self.tokenizer, captions, draw.device)
        text = F.normalize(encode_texts(model, ids).float(), dim=-1)
        scale = model.logit_scale.clamp(max=float(np.log(100))).exp()  # type: ignore[operator]
        accidents = torch.from_numpy(also_true(captions, specs)).to(draw.device)
        logits = (text @ image.T * scale).masked_fill(accidents, -1e4)
        target = torch.arange(len(logits), device=draw.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        top = float((logits.argmax(1) == target).float().mean())
        return loss, {"top1": top}, len(captions)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Share of captions that find their own held-out picture, or one they also describe, among 100."""
        n = min(100, len(self.held_out))
        if n < 2:
            return {}
        hits = []
        device = next(model.parameters()).device
        for seed in range(3):
            pictures, captions, specs = self.draw(self.held_out, np.random.default_rng(seed), n, plain=True)
            image = F.normalize(encode_pictures(model, pictures.to(device)), dim=-1)
            text = F.normalize(encode_texts(model, token_ids(self.tokenizer, captions, device)), dim=-1)
            best = (text @ image.T).argmax(1).cpu().numpy()
            true = also_true(captions, specs) | np.eye(n, dtype=bool)
            hits.append(true[np.arange(n), best].mean())
        return {"caption_finds_picture": float(np.mean(hits))}

    def sheet(self, model: nn.Module) -> Image.Image | None:
        return None

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        return export(
            "clip", lambda path: half(state.ema).save_pretrained(path), trained_on=("tokenizer",),
            steps=state.step, minutes=state.elapsed_s / 60, metrics=state.metrics, curve=folder / "curve.png",
            root=self.root, about="Text and image encoders (transformers' CLIPModel) of the built-in models.",
            data=f"Renders of {len(self.train)} toybox objects from {self.train.views} views with captions in the "
                 "frozen vocabulary; 7 of 10 over white, the others over flat colours.",
            limits="Knows the toybox's kinds, colours, materials, patterns, sizes, styles and view words.")
