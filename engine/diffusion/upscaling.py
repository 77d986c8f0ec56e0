"""Enlarging pictures by a diffusion model that sees them (``engine.models.families.upscaling``), step by step of a
cascade."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import sampling


def enlarge(model: Any, images: Tensor, wanted: Any, unwanted: Any, generators: Sequence[torch.Generator], *,
            steps: int | None = None, guidance: float | None = None, sampler: sampling.Sampler | None = None,
            noise_level: int | None = None, rows: int | None = None, watch: Callable[[int, Tensor], None] | None = None
            ) -> Tensor:
    """(b, 3, h, w) in about [0, 1] -> (b, 3, k h, k w) in about [0, 1], unclamped; k is ``model.enlarges``.

    wanted, unwanted : of ``model.pair``; generators : one a sample; what is None is as the model's defaults say
    noise_level : how much noise the small picture is given; more invents more
    """
    noise, beside, levels = model.start(images, generators, noise_level)
    shown = {"beside": beside, "labels": levels}
    plan = model.defaults
    denoise = sampling.denoiser(model, wanted.told(**shown), unwanted.told(**shown),
                                plan.guidance if guidance is None else guidance, rows=rows)
    return model.decode(sampling.sample(model.scheduler, denoise, noise, steps or plan.steps, sampler or plan.sampler,
                                        watch, generators=generators))
