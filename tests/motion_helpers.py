"""Tiny motion modules of the real classes, and diffusers' own AnimateDiff around the very same networks."""

from __future__ import annotations

from functools import cache
from typing import Any

import tiny_families as tiny
import torch
from tiny_models import ListJob

from engine.models.families.base import Defaults
from engine.models.motion import Motion

BETAS: dict[str, Any] = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False,
                         "steps_offset": 1, "set_alpha_to_one": False}


def adapter(seed: int = 7, mid: bool = True, longest: int = 32, widths: tuple[int, ...] = (8, 8, 16, 16)) -> Any:
    """A MotionAdapter for ``tiny_families.unet``; nothing in it is zero."""
    from diffusers import MotionAdapter
    return tiny.seeded(lambda: MotionAdapter(
        block_out_channels=widths, motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4,
        motion_max_seq_length=longest, use_motion_mid_block=mid), seed)


def scheduler(kind: str = "DDIMScheduler") -> Any:
    import diffusers
    return getattr(diffusers, kind)(**{k: v for k, v in BETAS.items() if kind == "DDIMScheduler" or k in (
        "beta_schedule", "beta_start", "beta_end", "steps_offset")})


def motion(**changes: Any) -> Motion:
    return Motion(**{"adapter": adapter(), "family": "sd15", "scheduler": scheduler(), "window": 8, "overlap": 2,
                     "defaults": Defaults(3, 4.0, "own"), **changes})


@cache
def base() -> Any:
    return tiny.sd15()


def pipeline(which: Motion, name: str = "AnimateDiffPipeline", **parts: Any) -> Any:
    """diffusers' own, which copies the networks; parts : further ones that it takes"""
    import diffusers
    m = base().ours
    made = getattr(diffusers, name)(vae=m.vae, text_encoder=m.text_encoder, tokenizer=m.tokenizer, unet=m.unet,
                                    motion_adapter=which.adapter,
                                    scheduler=type(which.scheduler).from_config(which.scheduler.config), **parts)
    made.set_progress_bar_config(disable=True)
    return made


class Job(ListJob):
    """A job that is handed its models, and keeps or hands out states.

    stop_at : the call of ``checkpoint`` at which the state is kept and the run falls
    """

    def __init__(self, models: dict[str, Any], seed: int = 0, stop_at: int | None = None,
                 state: dict[str, Any] | None = None) -> None:
        super().__init__(None, seed)
        self.models, self.stop_at, self.kept, self.calls = models, stop_at, state, 0

    def model(self, role: str) -> Any:
        return self.models[role]

    def checkpoint(self, state: Any) -> None:
        self.calls += 1
        if self.stop_at == self.calls:
            self.kept = state()
            raise KeyboardInterrupt

    def resume(self) -> dict[str, Any] | None:
        return self.kept


def noise(frames: int, seed: int = 3, side: int = 8) -> torch.Tensor:
    return torch.randn(frames, 4, side, side, generator=torch.Generator().manual_seed(seed))
