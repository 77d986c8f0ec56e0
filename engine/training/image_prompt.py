"""The built-in image prompt: an IP-Adapter (Ye et al. 2023) on the locked text to image, fed by the built-in CLIP.

It learns from pairs of two views of one object, so that it takes over what an object is and looks like, not where it
stands in the picture. Prompts are said in full, said by their kind alone ("a mug"), or dropped: what the text leaves
out, the picture has to say.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engine.diffusion import ip_adapter, lora
from engine.diffusion.ip_adapter import IPAdapter
from engine.diffusion.prompt import encode
from engine.models.cards import verify
from engine.models.loading import load_clip, load_tokenizer, load_unet, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.toybox.captions import view_phrase
from engine.training import denoise
from engine.training.clip import caption_of
from engine.training.data import Shards, over
from engine.training.export import export
from engine.training.judge import load_judge, right, verdicts
from engine.training.latents import Latents
from engine.training.loop import Draw, State

NO_PICTURE, NO_TEXT, NEITHER = 0.05, 0.2, 0.05
"""Shares of samples without the one, the other, both."""
KIND_ALONE = 0.75
"""Share of the prompts that name the kind (and the view) and nothing else: what words say, the picture need not."""
SAME_VIEW = 0.3
"""Share of samples whose picture is the very view that is to be drawn."""
LATE = 3.0
LOOKED_AT, MEASURED = 24, 100


class InstalledPrompt(nn.Module):
    """A twin with an adapter in it, called with text and embeddings side by side: (b, n, d), (b, e)."""

    def __init__(self, unet: Any, adapter: IPAdapter) -> None:
        super().__init__()
        self.unet, self.adapter, self.config = ip_adapter.install(unet, adapter), adapter, unet.config

    def forward(self, latents: Tensor, t: Tensor, both: tuple[Tensor, Tensor]) -> Any:
        text, embeds = both
        return self.unet(latents, t, ip_adapter.context_of(text, self.adapter.tokens(embeds)))


class ImagePrompt:
    """v-prediction on cached latents and cached embeddings of the prompt pictures."""

    name = "image_prompt"

    def __init__(self, train: Shards, held_out: Shards, batch: int, work: Path, model: nn.Module | None = None,
                 root: Path = BUILTIN_FOLDER, caption: Callable[..., str] = caption_of) -> None:
        for part in ("tokenizer", "clip", "vae", "text_to_image"):
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
        self.base = load_unet(root / "text_to_image" / "unet", "cpu")
        self._installed: InstalledPrompt | None = None
        self.model: nn.Module = model or ip_adapter.fresh(self.base, int(self.train.embeds.shape[-1]))

    def load_committed(self) -> None:
        verify(self.root / self.name)
        self.model.load_state_dict(ip_adapter.read(self.root / self.name).adapter.float().state_dict())

    @torch.no_grad()
    def context(self, texts: list[str], device: Any) -> Tensor:
        return encode(self.text_encoder.to(device), self.tokenizer, texts, device)

    def _prompt(self, spec: dict[str, Any], camera: np.ndarray, word: random.Random) -> str:
        if word.random() >= KIND_ALONE:
            return self.caption(spec, camera, word, True)
        return colourless(str(spec["kind"]), camera)

    def _loss(self, model: nn.Module, source: Latents, draw: Draw, n: int) -> Tensor:
        rng, shards = draw.rng, source.shards
        rows = rng.integers(len(source), size=n)
        views = (rng.random(n) < 0.4).astype(int)
        shown = np.where(rng.random(n) < SAME_VIEW, views, 1 - views)
        word = random.Random(int(rng.integers(1 << 62)))
        chance = rng.random(n)
        texts = [self._prompt(shards.specs[o], shards.cameras[o, v], word) if c >= NO_TEXT + NEITHER else ""
                 for o, v, c in zip(source.objects[rows], views, chance, strict=True)]
        embeds = torch.from_numpy(source.embeds[rows, shown].astype(np.float32))
        embeds[torch.from_numpy((chance < NEITHER) | (chance > 1 - NO_PICTURE))] = 0
        clean = denoise.clean_latents(source.conditions[rows, views], self.scale, draw)
        both = (self.context(texts, draw.device), embeds.to(draw.device))
        if self._installed is None or self._installed.adapter is not model:
            self._installed = InstalledPrompt(self.base.to(draw.device), cast(IPAdapter, model))
        return denoise.loss(self._installed, clean, both, draw, self.alphas, late=LATE)  # type: ignore[arg-type]

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        return self._loss(model, self.train, draw, self.batch), {}, self.batch

    # -- looking ---------------------------------------------------------------------------------------------------

    def pictures(self, adapter: Any, embeds: Tensor, prompts: list[str], seed: int = 0, steps: int = denoise.STEPS,
                 scale: float = 1.0, batch: int = 16) -> np.ndarray:
        """One picture a prompt and embedding (n, d), guided away from no text and no picture; adapter None: without.

        -> (n, h, w, 3) in [0, 1]
        """
        out = []
        unet = self.base if adapter is None else ip_adapter.install(self.base, adapter, scale)
        for i in range(0, len(prompts), batch):
            part, device = prompts[i:i + batch], embeds.device
            text, empty = self.context(part, device), self.context([""] * len(part), device)
            if adapter is None:
                out.append(denoise.sample(unet, text, empty, seed * 1000 + i, steps))
                continue
            wanted, none = (adapter.tokens(e) for e in (embeds[i:i + batch], torch.zeros_like(embeds[i:i + batch])))
            out.append(denoise.sample(_Tokens(unet, text.shape[1]), torch.cat([text, wanted], 1),
                                      torch.cat([empty, none], 1), seed * 1000 + i, steps))
        return denoise.decode(self.vae, torch.cat(out).cpu())

    def examples(self, n: int) -> tuple[np.ndarray, list[dict[str, Any]], list[str], Tensor]:
        """Held-out rows, spread over all; their specs; prompts without a colour; embeddings of their first views."""
        rows = np.linspace(0, len(self.held_out) - 1, min(n, len(self.held_out))).astype(int)
        objects = self.held_out.objects[rows]
        specs = [self.held_out.shards.specs[o] for o in objects]
        prompts = [colourless(str(s["kind"]), self.held_out.shards.cameras[o, 0])
                   for s, o in zip(specs, objects, strict=True)]
        return rows, specs, prompts, torch.from_numpy(self.held_out.embeds[rows, 0].astype(np.float32))

    def measure(self, adapter: Any, n: int, steps: int = denoise.STEPS) -> dict[str, float]:
        """Share of pictures, asked for by kind alone, that have the colour of the prompt picture, by the judge."""
        _, specs, prompts, embeds = self.examples(n)
        judge = load_judge(self.root / "judge")
        said = verdicts(judge, self.pictures(adapter, embeds, prompts, steps=steps))

        def share(head: str) -> float:
            return float(np.mean([right(head, a, s) for a, s in zip(said[head], specs, strict=True)]))

        return {"colour_kept": share("color"), "kind_kept": share("kind"), "pattern_kept": share("pattern")}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The judge's figures on a few held-out pictures drawn in few steps, and the loss at fixed draws."""
        if not len(self.held_out):
            return {}
        device = next(model.parameters()).device
        draws = [Draw(0, 1.0, np.random.default_rng(k), torch.Generator().manual_seed(k), device) for k in range(4)]
        loss = float(np.mean([float(self._loss(model, self.held_out, d, 32).detach()) for d in draws]))
        judged = self.measure(model.cpu(), LOOKED_AT, 10) if (self.root / "judge").is_dir() else {}
        return {**judged, "held_out_loss": loss}

    def sheet(self, model: nn.Module) -> Image.Image | None:
        """Columns of held-out examples: prompt picture, drawn by kind alone, without text, as another kind, and the
        base without the picture."""
        source = self.held_out if len(self.held_out) else self.train
        rows = np.linspace(0, len(source) - 1, min(10, len(source))).astype(int)
        objects, adapter = source.objects[rows], model.cpu()
        kinds = [str(source.shards.specs[o]["kind"]) for o in objects]
        texts = [colourless(k, source.shards.cameras[o, 0]) for k, o in zip(kinds, objects, strict=True)]
        others = [colourless(k, source.shards.cameras[o, 0])
                  for k, o in zip(kinds[1:] + kinds[:1], objects, strict=True)]
        embeds = torch.from_numpy(source.embeds[rows, 0].astype(np.float32))
        lines = [over(source.shards.rgba(objects, np.zeros(len(rows), int))), self.pictures(adapter, embeds, texts),
                 self.pictures(adapter, embeds, [""] * len(rows)), self.pictures(adapter, embeds, others),
                 self.pictures(None, embeds, texts)]
        return Image.fromarray(denoise.grid(np.concatenate(lines), len(rows)))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        import copy
        shipped = copy.deepcopy(state.ema).cpu().half().float()  # as it is loaded again
        metrics = dict(state.metrics)
        if len(self.held_out) and (self.root / "judge").is_dir():
            metrics |= self.measure(shipped, MEASURED)
        digest = lora.base_digest(self.base)
        return export(
            self.name, lambda path: ip_adapter.save(shipped, path, digest, torch.float16),  # type: ignore[arg-type]
            trained_on=("clip", "text_to_image"), steps=state.step, minutes=state.elapsed_s / 60, metrics=metrics,
            curve=folder / "curve.png", root=self.root,
            extra={"guidance": denoise.GUIDANCE, "sampling_steps": denoise.STEPS,
                   "measured_on": min(MEASURED, len(self.held_out))},
            about="Image prompt of the built-in text to image: an IP-Adapter whose 4 tokens come from the built-in "
                  "CLIP's image embedding.",
            data=f"Pairs of views of {len(self.train)} toybox objects over white; captions in full, by kind alone, or "
                 "dropped.",
            limits="Takes over colour and kind of toybox props; not their exact shape, and no pictures from elsewhere.")


class _Tokens(nn.Module):
    """A U-Net whose context carries picture tokens behind ``text`` text tokens."""

    def __init__(self, unet: Any, text: int) -> None:
        super().__init__()
        self.unet, self.text, self.config = unet, text, unet.config

    def forward(self, latents: Tensor, t: Tensor, context: Tensor) -> Any:
        return self.unet(latents, t, ip_adapter.context_of(context[:, :self.text], context[:, self.text:]))


def colourless(kind: str, camera: np.ndarray) -> str:
    """A prompt that names a kind and the view, and nothing of its looks."""
    view = view_phrase(float(camera[0]), float(camera[1]))
    text = ("an " if kind[0] in "aeiou" else "a ") + kind
    return f"{text}, {view}" if view else text
