"""Sampling: noise, guidance and the loop over steps, as pure functions. The update rules are diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from engine.errors import RunFailed

Sampler = Literal["ddim", "dpm"]
Denoise = Callable[[Tensor, Tensor], Tensor]
"""(latents (b, c, h, w), time step ()) -> the network's prediction, of the latents' shape."""


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int],
                  device: str | torch.device = "cpu") -> Tensor:
    """One generator a sample -> (b, c, h, w) unit noise, drawn on the CPU so that no device and no batch changes it."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + scale * (conditional - unconditional)."""
    return unconditional + scale * (conditional - unconditional)


def guided(predict: Callable[[Tensor, Tensor, Tensor], Tensor], scale: float) -> Denoise:
    """A denoiser with guidance, both halves in one batch.

    predict : (latents (n, ...), time steps (n,), which samples are conditional (n,) bool) -> predictions. With
    guidance n is 2 b: all conditional samples, then all unconditional ones in the same order; at scale 1 it is b.
    """
    def denoise(latents: Tensor, t: Tensor) -> Tensor:
        b = len(latents)
        if scale == 1:
            return predict(latents, t.expand(b), torch.ones(b, dtype=torch.bool))
        both = torch.cat([torch.ones(b, dtype=torch.bool), torch.zeros(b, dtype=torch.bool)])
        conditional, unconditional = predict(torch.cat([latents, latents]), t.expand(2 * b), both).chunk(2)
        return guide(conditional, unconditional, scale)
    return denoise


def scheduler_for(trained: Any, sampler: Sampler) -> Any:
    """A fresh scheduler with the trained one's noise schedule: DDIM (Song 2021) or DPM-Solver++ 2M (Lu 2022)."""
    if sampler == "ddim":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        return DDIMScheduler.from_config(trained.config)
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    return DPMSolverMultistepScheduler.from_config(trained.config, algorithm_type="dpmsolver++", solver_order=2,
                                                   lower_order_final=True)


def clean(trained: Any, prediction: Tensor, t: Tensor, latents: Tensor) -> Tensor:
    """The clean latents x0 that a prediction at step t means (for previews and guidance).

    x_t = sqrt(a) x0 + sqrt(1 - a) eps, so x0 = (x_t - sqrt(1 - a) eps) / sqrt(a); with v = sqrt(a) eps - sqrt(1 - a) x0
    (Salimans & Ho 2022), x0 = sqrt(a) x_t - sqrt(1 - a) v.
    """
    a = trained.alphas_cumprod.to(latents.device)[t].to(latents.dtype)
    kind = trained.config.prediction_type
    if kind == "v_prediction":
        return a.sqrt() * latents - (1 - a).sqrt() * prediction
    if kind == "epsilon":
        return (latents - (1 - a).sqrt() * prediction) / a.sqrt()
    return prediction


def sample(trained: Any, denoise: Denoise, noise: Tensor, steps: int, sampler: Sampler = "ddim",
           watch: Callable[[int, Tensor], None] | None = None) -> Tensor:
    """Noise (b, c, h, w) -> clean latents in ``steps`` calls of ``denoise``; deterministic given the noise.

    trained : the scheduler whose settings the network was trained with; it is not changed
    watch : called after each step with its number (from 1) and that step's guess of the clean latents
    Raises RunFailed when the numbers run away.
    """
    scheduler = scheduler_for(trained, sampler)
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    with torch.inference_mode():
        for i, t in enumerate(scheduler.timesteps, start=1):
            prediction = denoise(scheduler.scale_model_input(latents, t), t)
            if watch is not None:
                watch(i, clean(trained, prediction, t, latents))
            latents = scheduler.step(prediction, t, latents).prev_sample
    if not torch.isfinite(latents).all():
        raise RunFailed("the sampler made numbers that are not finite", "lower the guidance, or check the weights")
    return latents.clone()  # a plain tensor again, after inference mode
