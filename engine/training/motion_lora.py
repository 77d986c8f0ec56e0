"""AnimateDiff's last step (Guo et al. 2023, section 4.3): MotionLoRA, one new motion for a locked motion module.

A low-rank update of the motion modules' attention learns the held-out motion from a few dozen clips. Its file has the
layout of the published camera LoRAs in diffusers' names, and gives that motion to any base that the module moves.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from engine.diffusion import lora, lora_files
from engine.diffusion.lora import Lora
from engine.models.cards import verify
from engine.models.sets import BUILTIN_FOLDER
from engine.training import denoise
from engine.training.data import over
from engine.training.domain_adapter import put
from engine.training.export import export
from engine.training.loop import Draw, State
from engine.training.motion import HELD_OUT, LOOKED_AT, WINDOW, Motion, load_motion, see_moments

RANK = 8
FILE = "motion_lora.safetensors"
PROMPTS = ("a knight in red armour, spin", "a robot in a blue suit, spin", "a princess in a pink dress, spin")


class MotionLora(Motion):
    """v-prediction on clips of one motion; the base, its adapter and the motion modules stay as they are.

    motion : the one that is learned
    """

    name = "motion_lora"

    def __init__(self, data: Path, batch: int, work: Path, root: Path = BUILTIN_FOLDER, base: Any = None,
                 motion: str = HELD_OUT, rank: int = RANK, moved: Any = None) -> None:
        super().__init__(data, batch, work, root, base, keep=lambda name: name == motion)
        if moved is None:
            verify(root / "motion")
        self.motion, self.rank = motion, rank
        self.still = moved if moved is not None else load_motion(root / "motion")
        self.model: nn.Module = lora.twin(self.still)
        lora.attach(self.model, rank, rank, 0)
        see_moments(self.model, self._moments)

    def load_committed(self) -> None:
        verify(self.root / self.name)
        put(self.model, lora.named(self.still, lora_files.read(self.root / self.name / FILE)))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The loss on held-out clips of the motion, always the same draws; and of the motion module alone."""
        if not len(self.held_out):
            return {}
        device = next(model.parameters()).device

        def mean(adapter: Any) -> float:
            draws = [Draw(0, 1.0, np.random.default_rng(k), torch.Generator().manual_seed(k), device)
                     for k in range(LOOKED_AT // 4)]
            return float(np.mean([float(self._loss(self.net(adapter), self.held_out, d, 4).detach()) for d in draws]))

        return {"held_out_loss": mean(model), "without_loss": mean(self.still.to(device))}

    @torch.no_grad()
    def sheet(self, model: nn.Module) -> Image.Image | None:
        """A row a clip, every second frame: a held-out one, then each prompt with the update and the last without."""
        source = self.held_out if len(self.held_out) else self.train
        true = over(source.rgba(0)[np.arange(0, WINDOW, 2) % source.frames])[None]
        drawn = self.clips(model, list(PROMPTS), steps=10)[:, ::2]
        without = self.clips(self.still, list(PROMPTS[-1:]), seed=0, steps=10)[:, ::2]
        rows = np.concatenate([true, drawn, without])
        return Image.fromarray(denoise.grid(rows.reshape(-1, *rows.shape[2:]), true.shape[1]))

    def update(self, model: nn.Module, card: dict[str, Any] | None = None) -> Lora:
        """The update in half precision, as it is exported."""
        found = lora.taken(model, card or {})
        return replace(found, pairs={k: (a.half(), b.half()) for k, (a, b) in found.pairs.items()})

    def export(self, state: State, folder: Path) -> Path:
        card = {"base": {"id": "maquette/builtin-motion", "unet_sha256": lora.base_digest(self.still)},
                "motion": self.motion, "rank": self.rank, "licence": "Apache-2.0", "commercial": "yes",
                "what": "motion LoRA (AnimateDiff)"}
        return export(
            self.name, lambda path: lora_files.save(self.update(state.ema, card), path / FILE),
            trained_on=("motion",), steps=state.step, minutes=state.elapsed_s / 60, metrics=state.metrics,
            curve=folder / "curve.png", root=self.root, extra={"motion": self.motion, "rank": self.rank},
            about=f"MotionLoRA of the built-in motion: gives it {self.motion!r}, a motion it never saw.",
            data=f"{len(self.train)} looping clips of toybox characters at {self.motion!r}.",
            limits="One motion; say its name in the prompt. At a scale of 1 other motions turn into it.")
