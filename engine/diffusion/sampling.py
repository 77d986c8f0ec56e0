"""Sampling: noise, guidance and the loop over steps, as pure functions. The update rules are diffusers' schedulers.

    steps = Steps(scheduler_for(model.scheduler, "ddim"), 20)        the schedule, ready
    latents = sample(model.scheduler, denoiser(model, wanted, unwanted, 7.5), noise, 20, "ddim")

Each family of schedulers keeps its noisy latents as ``alpha x + sigma noise`` with its own alpha and sigma; ``Steps``
knows them, so that pictures can be noised, blended and guessed at any step of any of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from engine.errors import BadInput, RunFailed

Sampler = Literal["own", "ddim", "dpm", "euler", "euler_a", "lcm"]
"""own: the model's scheduler as published; ddim (Song 2021); dpm: DPM-Solver++ 2M (Lu 2022); euler, euler_a (Karras
2022, with ancestral noise); lcm (Luo 2023)"""
Denoise = Callable[[Tensor, Tensor], Tensor]
"""(latents (b, c, h, w), time step ()) -> the network's prediction, of the latents' shape."""
Extras = Callable[[Tensor, Tensor, Any, Tensor], Mapping[str, Any]]
"""(latents (n, c, h, w), time steps (n,), n conditions, which samples are conditional (n,) bool) -> further arguments
of ``model.predict`` for these rows: ControlNet's residuals, channels beside the latents, image tokens."""


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int],
                  device: str | torch.device = "cpu") -> Tensor:
    """One generator a sample -> (b, c, h, w) unit noise, drawn on the CPU so that no device and no batch changes it."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


# -- guidance ----------------------------------------------------------------------------------------------------------

def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + scale * (conditional - unconditional)."""
    return unconditional + scale * (conditional - unconditional)


def guided(predict: Callable[[Tensor, Tensor, Tensor], Tensor], scale: float, rows: int | None = None) -> Denoise:
    """A denoiser with guidance, both halves in one batch.

    predict : (latents (n, ...), time steps (n,), which samples are conditional (n,) bool) -> predictions. With
    guidance n is 2 b: all conditional samples, then all unconditional ones in the same order; at scale 1 (and at 0,
    as the cards of distilled models write it) it is b.
    rows : at most so many samples a call, where memory is short; None: all at once
    A prediction with more channels than the latents has a learned variance behind: the conditional half's is kept.
    """
    def denoise(latents: Tensor, t: Tensor) -> Tensor:
        b, c = latents.shape[:2]
        if scale in (0, 1):
            return _in_parts(predict, latents, t.expand(b), torch.ones(b, dtype=torch.bool), rows)
        both = torch.cat([torch.ones(b, dtype=torch.bool), torch.zeros(b, dtype=torch.bool)])
        conditional, unconditional = _in_parts(predict, torch.cat([latents, latents]), t.expand(2 * b), both, rows
                                               ).chunk(2)
        if conditional.shape[1] == c:
            return guide(conditional, unconditional, scale)
        return torch.cat([guide(conditional[:, :c], unconditional[:, :c], scale), conditional[:, c:]], 1)
    return denoise


def denoiser(model: Any, wanted: Any, unwanted: Any, scale: float, *, extras: Extras | None = None,
             rows: int | None = None) -> Denoise:
    """``guided`` around a model of ``engine.models.families``.

    wanted, unwanted : its conditions, one row each, or one a sample; scale : a network that is told its guidance (a
    latent consistency model) gets it, and no second half is computed
    rows : at most so many samples a call; what differs by sample stands in the conditions, and so keeps its place
    """
    single = model.embeds_guidance or scale in (0, 1)
    laid_out: dict[int, Any] = {}

    def conditions_of(b: int) -> Any:
        if b not in laid_out:
            parts = [c.expand(b) if len(c) == 1 else c for c in ([wanted] if single else [wanted, unwanted])]
            laid_out[b] = parts[0] if single else type(wanted).cat(parts)
        return laid_out[b]

    def denoise(latents: Tensor, t: Tensor) -> Tensor:
        told = conditions_of(len(latents))
        at = 0

        def predict(part: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
            nonlocal at
            conditions = told if len(part) == len(told) else told[at:at + len(part)]
            at += len(part)
            more = {} if extras is None else dict(extras(part, t, conditions, conditional))
            if model.embeds_guidance:
                more["guidance"] = scale
            return model.predict(part, t, conditions, **more)
        return guided(predict, 1.0 if single else scale, rows)(latents, t)
    return denoise


def _in_parts(predict: Callable[[Tensor, Tensor, Tensor], Tensor], latents: Tensor, t: Tensor, conditional: Tensor,
              rows: int | None) -> Tensor:
    if rows is None or rows >= len(latents):
        return predict(latents, t, conditional)
    return torch.cat([predict(latents[i:i + rows], t[i:i + rows], conditional[i:i + rows])
                      for i in range(0, len(latents), rows)])


# -- schedules ---------------------------------------------------------------------------------------------------------

def scheduler_for(trained: Any, sampler: Sampler) -> Any:
    """A fresh scheduler with the trained one's noise schedule.

    Raises BadInput where a sampler of denoising models is asked of a flow.
    """
    import diffusers.schedulers as known
    if sampler == "own":
        return type(trained).from_config(trained.config)
    if is_flow(trained):
        if sampler == "euler":  # a flow's own rule is Euler's
            return type(trained).from_config(trained.config)
        raise BadInput(f"the sampler {sampler!r} removes noise, and this model is a flow",
                       "leave the sampler out, or give sampler=euler")
    if sampler == "ddim":
        return known.DDIMScheduler.from_config(trained.config)
    if sampler == "euler":
        return known.EulerDiscreteScheduler.from_config(trained.config)
    if sampler == "euler_a":
        return known.EulerAncestralDiscreteScheduler.from_config(trained.config)
    if sampler == "lcm":
        return known.LCMScheduler.from_config(trained.config)
    return known.DPMSolverMultistepScheduler.from_config(trained.config, algorithm_type="dpmsolver++", solver_order=2,
                                                         lower_order_final=True)


def is_flow(scheduler: Any) -> bool:
    """Whether latents are (1 - sigma) x + sigma noise and the network says noise - x (rectified flow)."""
    return "FlowMatch" in type(scheduler).__name__ or bool(getattr(scheduler.config, "use_flow_sigmas", False))


class Steps:
    """A schedule made ready: from which noise to which, in how many steps.

    scheduler : a fresh one (``scheduler_for``); it is changed
    count : steps from pure noise to clean; first : how many of them are left out at the noisy end
    settings : what the model tells ``set_timesteps`` beside the count (``model.sampling_settings``)
    """

    def __init__(self, scheduler: Any, count: int, device: str | torch.device = "cpu", *, first: int = 0,
                 settings: Mapping[str, Any] | None = None) -> None:
        self.scheduler = scheduler
        scheduler.set_timesteps(count, device=device, **(settings or {}))
        order = int(getattr(scheduler, "order", 1))  # calls of the network a step
        self.timesteps: Tensor = scheduler.timesteps[first * order:]
        self._skipped = first * order
        if first and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self._skipped)
        self._drawn = "generator" in inspect.signature(scheduler.step).parameters

    def __len__(self) -> int:
        """Calls of the network."""
        return len(self.timesteps)

    def level(self, i: int) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), scalars in float32 on the CPU: before step i (from 0) the latents are alpha x + sigma noise;
        at ``len(steps)`` they are clean, (1, 0)."""
        if i >= len(self):
            return torch.tensor(1.0), torch.tensor(0.0)
        s = self.scheduler
        if getattr(s, "sigmas", None) is None:
            a = s.alphas_cumprod[int(self.timesteps[i])].float().cpu()
            return a.sqrt(), (1 - a).sqrt()
        sigma = s.sigmas[self._skipped + i].float().cpu()
        if is_flow(s):
            return 1 - sigma, sigma
        if hasattr(s, "_sigma_to_alpha_sigma_t"):  # the solvers of DPM's kind keep the variance at 1
            alpha = (1 + sigma**2).rsqrt()
            return alpha, sigma * alpha
        return torch.tensor(1.0), sigma

    def noised(self, clean: Tensor, noise: Tensor, i: int = 0) -> Tensor:
        """Clean latents as the sampler has them before step i (all (b, c, h, w)); at ``len(steps)`` as they are."""
        alpha, sigma = (v.to(clean) for v in self.level(i))
        return alpha * clean + sigma * noise

    def begin(self, noise: Tensor, clean: Tensor | None = None) -> Tensor:
        """The latents that the first step takes: pure noise as the scheduler scales it, or ``clean`` noised."""
        if clean is None:
            return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        return self.noised(clean, noise)

    def scaled(self, latents: Tensor, i: int) -> Tensor:
        """As the network takes them."""
        if hasattr(self.scheduler, "scale_model_input"):
            return self.scheduler.scale_model_input(latents, self.timesteps[i])
        return latents

    def clean(self, prediction: Tensor, latents: Tensor, i: int) -> Tensor:
        """The clean latents x0 that a prediction at step i means."""
        alpha, sigma = (v.to(latents) for v in self.level(i))
        prediction = prediction[:, :latents.shape[1]]
        if is_flow(self.scheduler):
            return latents - sigma * prediction
        whole = (alpha**2 + sigma**2).sqrt()
        return _clean(self.scheduler.config.prediction_type, prediction, latents / whole, (alpha / whole)**2)

    def step(self, prediction: Tensor, latents: Tensor, i: int, generators: Sequence[torch.Generator] | None = None
             ) -> Tensor:
        """The latents before step i + 1. generators : one a sample, for samplers that add noise of their own"""
        if prediction.shape[1] != latents.shape[1] and getattr(
                self.scheduler.config, "variance_type", None) not in ("learned", "learned_range"):
            prediction = prediction[:, :latents.shape[1]]
        drawn: dict[str, Any] = {}
        if self._drawn and generators is not None:
            drawn["generator"] = list(generators)
        return self.scheduler.step(prediction, self.timesteps[i], latents, return_dict=False, **drawn)[0]


def begun_at(count: int, strength: float) -> int:
    """How many of ``count`` steps are left out where a picture is changed with this strength (SDEdit): 1 none, 0 all.

    diffusers' rule: int(count * strength) steps are taken.
    """
    return max(count - min(int(count * strength), count), 0)


def clean(trained: Any, prediction: Tensor, t: Tensor, latents: Tensor) -> Tensor:
    """The clean latents x0 that a prediction at step t means (for previews and guidance), where the variance is kept
    at 1."""
    a = trained.alphas_cumprod.to(latents.device)[t].to(latents.dtype)
    return _clean(trained.config.prediction_type, prediction, latents, a)


def _clean(kind: str, prediction: Tensor, latents: Tensor, a: Tensor) -> Tensor:
    """x_t = sqrt(a) x0 + sqrt(1 - a) eps, so x0 = (x_t - sqrt(1 - a) eps) / sqrt(a); with v = sqrt(a) eps -
    sqrt(1 - a) x0 (Salimans & Ho 2022), x0 = sqrt(a) x_t - sqrt(1 - a) v."""
    if kind == "v_prediction":
        return a.sqrt() * latents - (1 - a).sqrt() * prediction
    if kind == "epsilon":
        return (latents - (1 - a).sqrt() * prediction) / a.sqrt()
    return prediction


# -- the loop ----------------------------------------------------------------------------------------------------------

def sample(trained: Any, denoise: Denoise, noise: Tensor, steps: int, sampler: Sampler = "ddim",
           watch: Callable[[int, Tensor], None] | None = None, *,
           generators: Sequence[torch.Generator] | None = None, start: Tensor | None = None, strength: float = 1.0,
           after: Callable[[Steps, int, Tensor], Tensor] | None = None,
           settings: Mapping[str, Any] | None = None) -> Tensor:
    """Noise (b, c, h, w) -> clean latents in ``steps`` calls of ``denoise``; deterministic given the noise and the
    generators.

    trained : the scheduler whose settings the network was trained with; it is not changed
    watch : called after each step with its number (from 1) and that step's guess of the clean latents
    generators : one a sample, for samplers that add noise at each step (euler_a, lcm, DDPM)
    start, strength : clean latents to begin from instead of pure noise, and the share of the steps that is taken then
    after : (steps, i, latents) -> latents, called after step i (from 0); ``steps.noised(x, noise, i + 1)`` has the
        level that the latents are at
    settings : of ``model.sampling_settings``
    Raises RunFailed when the numbers run away.
    """
    plan = Steps(scheduler_for(trained, sampler), steps, noise.device,
                 first=0 if start is None else begun_at(steps, strength), settings=settings)
    latents = plan.begin(noise, start) if len(plan) or start is None else start
    with torch.inference_mode():
        for i, t in enumerate(plan.timesteps):
            prediction = denoise(plan.scaled(latents, i), t)
            guess = plan.clean(prediction, latents, i) if watch is not None else latents
            latents = plan.step(prediction, latents, i, generators)
            if after is not None:
                latents = after(plan, i, latents)
            if watch is not None:
                watch(i + 1, guess)
    if not torch.isfinite(latents).all():
        raise RunFailed("the sampler made numbers that are not finite", "lower the guidance, or check the weights")
    return latents.clone()  # a plain tensor again, after inference mode
