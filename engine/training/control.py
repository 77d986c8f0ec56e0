"""Controls of the built-in text to image: a ControlNet each for edges, depth, pose and parts (Zhang et al. 2023).

The base is locked; the copy of its encoder learns a low-rank difference, its map comes in through a small embedding
and its answer goes out through zero convolutions (:mod:`engine.diffusion.control_lora`). Half of the prompts are
dropped in training, so that the map alone says what it can.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from engine.diffusion import control_lora, lora
from engine.diffusion.control_lora import Controlled, ControlLora
from engine.diffusion.prompt import encode
from engine.models.cards import verify
from engine.models.loading import load_clip, load_tokenizer, load_unet, load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.training import control_figures as figures
from engine.training import denoise
from engine.training.clip import caption_of
from engine.training.control_data import Maps
from engine.training.data import Shards, over, to_tensor
from engine.training.export import export
from engine.training.latents import Latents
from engine.training.loop import Draw, State

DROPOUT = 0.5
"""Share of samples trained without a caption (Zhang et al. 2023, section 3.4)."""
FRONT = 0.6
"""Share of pictures from about the front."""
LATE = 3.0
"""Noisy steps come more often: where things are is decided there, and that is what a map says."""
LOOKED_AT, MEASURED = 16, 100
"""Held-out pictures behind the figures: while it trains, and on the card."""


class Control:
    """v-prediction on cached latents with a control map beside each picture.

    controls : the folder that :mod:`engine.training.control_data` wrote
    """

    def __init__(self, kind: str, train: Shards, held_out: Shards, batch: int, work: Path, controls: Path,
                 model: nn.Module | None = None, root: Path = BUILTIN_FOLDER,
                 caption: Callable[..., str] = caption_of) -> None:
        if kind not in ABOUT:
            raise ValueError(f"no such kind of control: {kind}")
        for part in ("tokenizer", "clip", "vae", "text_to_image"):
            verify(root / part)
        self.kind, self.name, self.root, self.batch, self.caption = kind, f"control_{kind}", root, batch, caption
        if kind == "pose":
            train, held_out = Shards(controls / "characters"), Shards(controls / "characters_held_out")
        self.train = Examples(train, work, controls, kind, root)
        self.held_out = Examples(held_out, work, controls, kind, root)
        if not len(self.train):
            raise FileNotFoundError(f"no {kind} maps with latents are kept: run "
                                    "`python -m engine.training control_maps` first")
        clip = load_clip(root / "clip", "cpu")
        self.text_encoder, self.tokenizer = clip.text_model, load_tokenizer(root / "tokenizer")
        self.vae = load_vae(root / "vae", "cpu")
        self.scale = float(self.vae.config.scaling_factor)
        self.alphas = denoise.scheduler().alphas_cumprod
        self.base = load_unet(root / "text_to_image" / "unet", "cpu")
        self.model: nn.Module = model or control_lora.fresh(self.base)

    def load_committed(self) -> None:
        verify(self.root / self.name)
        control_lora.put(self.model, control_lora.read(self.root / self.name))

    @torch.no_grad()
    def context(self, texts: list[str], device: Any) -> Tensor:
        return encode(self.text_encoder.to(device), self.tokenizer, texts, device)

    def _loss(self, model: nn.Module, source: Examples, draw: Draw, n: int) -> Tensor:
        rows = draw.rng.integers(len(source), size=n)
        views = (draw.rng.random(n) >= FRONT).astype(int)
        word = random.Random(int(draw.rng.integers(1 << 62)))
        captions = [self.caption(source.specs(o), source.camera(o, v), word, True) if word.random() >= DROPOUT else ""
                    for o, v in zip(rows, views, strict=True)]
        shown = source.maps(rows, views).to(draw.device)
        clean = denoise.clean_latents(source.moments(rows, views), self.scale, draw)
        return denoise.loss(Controlled(self.base.to(draw.device), [model], [shown]), clean,
                            self.context(captions, draw.device), draw, self.alphas, late=LATE)

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        return self._loss(model, self.train, draw, self.batch), {}, self.batch

    # -- looking ---------------------------------------------------------------------------------------------------

    def shipped(self, model: nn.Module) -> ControlLora:
        """The control in half precision, as it is exported."""
        control = control_lora.taken(model, self.kind, lora.base_digest(self.base))
        return replace(control, whole={k: v.half() for k, v in control.whole.items()},
                       pairs={k: (a.half(), b.half()) for k, (a, b) in control.pairs.items()})

    def pictures(self, net: Any, shown: Tensor, prompts: list[str], seed: int = 0, steps: int = denoise.STEPS,
                 batch: int = 16) -> np.ndarray:
        """One picture a prompt under a plain ControlNet, maps (n, 3, h, w); net None: without any control.

        -> (n, h, w, 3) in [0, 1]
        """
        out = []
        for i in range(0, len(prompts), batch):
            part = prompts[i:i + batch]
            unet = self.base if net is None else Controlled(self.base, [net], [shown[i:i + batch]])
            device = shown.device
            out.append(denoise.sample(unet, self.context(part, device), self.context([""] * len(part), device),
                                      seed * 1000 + i, steps))
        return denoise.decode(self.vae, torch.cat(out).cpu())

    def examples(self, n: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Held-out rows, spread over all, views 0, and their captions; the same ones each time."""
        rows = np.linspace(0, len(self.held_out) - 1, min(n, len(self.held_out))).astype(int)
        views = np.zeros_like(rows)
        word = random.Random(1)
        return rows, views, [self.caption(self.held_out.specs(o), self.held_out.camera(o, 0), word, True) for o in rows]

    def figures(self, drawn: np.ndarray, rows: np.ndarray, views: np.ndarray) -> dict[str, float]:
        """How well pictures (n, h, w, 3) of held-out rows do what their maps ask; the kind's own figures."""
        maps = self.held_out.maps(rows, views).permute(0, 2, 3, 1).numpy()
        rgba = self.held_out.rgba(rows, views)
        if self.kind == "edges":
            return figures.edge_figures(drawn, maps)
        iou = {"mask_iou": figures.mask_iou(drawn, rgba[..., 3] > 127)}
        if self.kind == "pose":
            joints = self.held_out.joints(rows, views)
            return {"joints_shown": figures.joints_shown(drawn, joints), **iou,
                    "near_skeleton": figures.joints_clear(drawn, joints)}
        found = {"map_edges_found_2px": figures.map_edges_found(drawn, maps)}
        if self.kind == "parts":
            error = figures.part_color_error(drawn, over(rgba), self.held_out.raw(rows, views))
            return {**iou, **found, "part_color_error": error}
        return {**iou, **found}

    def measure(self, model: nn.Module, n: int, steps: int = denoise.STEPS) -> dict[str, float]:
        """The kind's figures over n held-out pictures with their captions."""
        rows, views, captions = self.examples(n)
        net = control_lora.apply(self.base, self.shipped(model))
        return self.figures(self.pictures(net, self.held_out.maps(rows, views), captions, steps=steps), rows, views)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The kind's figures on a few held-out pictures drawn in few steps, and the loss at fixed draws."""
        if not len(self.held_out):
            return {}
        device = next(model.parameters()).device
        draws = [Draw(0, 1.0, np.random.default_rng(k), torch.Generator().manual_seed(k), device) for k in range(4)]
        loss = float(np.mean([float(self._loss(model, self.held_out, d, 32).detach()) for d in draws]))
        return {**self.measure(model.cpu(), LOOKED_AT, 10), "held_out_loss": loss}

    def sheet(self, model: nn.Module) -> Image.Image | None:
        """Columns of held-out examples: map, truth, with its caption, without one, and the base alone."""
        source = self.held_out if len(self.held_out) else self.train
        rows = np.linspace(0, len(source) - 1, min(10, len(source))).astype(int)
        views, word = np.zeros_like(rows), random.Random(1)
        captions = [self.caption(source.specs(o), source.camera(o, 0), word, True) for o in rows]
        shown = source.maps(rows, views)
        net = control_lora.apply(self.base, self.shipped(model.cpu()))
        lines = [shown.permute(0, 2, 3, 1).numpy(), over(source.rgba(rows, views)),
                 self.pictures(net, shown, captions), self.pictures(net, shown, [""] * len(rows)),
                 self.pictures(None, shown, captions)]
        return Image.fromarray(denoise.grid(np.concatenate(lines), len(rows)))

    def refresh(self) -> None: ...

    def export(self, state: State, folder: Path) -> Path:
        control = self.shipped(state.ema)
        metrics = dict(state.metrics)
        if len(self.held_out):
            metrics |= self.measure(state.ema, MEASURED)
        about, limits = ABOUT[self.kind]
        return export(
            self.name, lambda path: control_lora.save(control, path), trained_on=("text_to_image",), steps=state.step,
            minutes=state.elapsed_s / 60, metrics=metrics, curve=folder / "curve.png", root=self.root,
            extra={"kind": self.kind, "guidance": denoise.GUIDANCE, "sampling_steps": denoise.STEPS,
                   "measured_on": min(MEASURED, len(self.held_out))},
            about=f"Control of the built-in text to image by {about}: a ControlNet whose encoder is the base's plus "
                  f"differences of rank {control_lora.RANK}.",
            data=f"Renders of {len(self.train)} toybox {'figures' if self.kind == 'pose' else 'props'} from 2 views "
                 "each, over white, with their exact maps; half of the captions dropped.",
            limits=limits)


ABOUT = {
    "edges": ("Canny edges", "Follows outlines and strong inner edges of toybox props; fine patterns fall below the "
                             "latents' resolution. Maps of other edge detectors were never seen."),
    "depth": ("depth", "Near is bright, nothing is black. Knows toybox props on white."),
    "parts": ("parts", "Knows the toybox's parts in the colours of engine.diffusion.control_maps and props on white; "
                       "other segmentations' colours mean nothing to it."),
    "pose": ("OpenPose skeletons", "The locked base never saw figures: this control gives the toybox figures' stance "
                                   "and rough look, not faces or clothes as the prompt asks."),
}
"""Kind -> (what steers, limits)."""


class Examples:
    """Pictures of a split that have both latents and a map, by row."""

    def __init__(self, shards: Shards, work: Path, controls: Path, kind: str, root: Path) -> None:
        self.shards, self.kind = shards, kind
        self.latents = Latents(shards, work / "latents", targets=False, root=root)
        self._maps = Maps(shards, controls, kind)
        self.rows = np.array([i for i, o in enumerate(self.latents.objects) if int(o) in self._maps], np.int64)
        self._controls = controls

    def __len__(self) -> int:
        return len(self.rows)

    def _objects(self, rows: Any) -> np.ndarray:
        return np.asarray(self.latents.objects[self.rows[rows]])

    def specs(self, row: int) -> dict[str, Any]:
        return self.shards.specs[int(self._objects(row))]

    def camera(self, row: int, view: int) -> np.ndarray:
        return np.asarray(self.shards.cameras[int(self._objects(row)), view])

    def moments(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        return np.asarray(self.latents.conditions[self.rows[rows], views])

    def embeds(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        return np.asarray(self.latents.embeds[self.rows[rows], views])

    def rgba(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        return self.shards.rgba(self._objects(rows), views)

    def maps(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        """(n, 3, h, w) in [0, 1]."""
        return to_tensor(self._maps.take(self._objects(rows), views), low=0.0)

    def raw(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The maps as they are stored, uint8."""
        return self._maps.raw(self._objects(rows), views)

    def joints(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """(n, 18, 3) column, row, visible; of posed figures only."""
        return Maps(self.shards, self._controls, "joints").raw(self._objects(rows), views)
