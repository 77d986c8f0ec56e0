"""Guidance and samplers, against values worked by hand and against a case with a known answer."""

from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler

from engine.diffusion import sampling
from engine.errors import BadInput, RunFailed


def scheduler(prediction: str, **changes: object) -> DDIMScheduler:
    return DDIMScheduler(**{"prediction_type": prediction, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
                            "beta_end": 0.012, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
                            **changes})


BUILTIN = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "set_alpha_to_one": True, "steps_offset": 0}
"""The built-in models' noise schedule: the last step is pure noise."""


def test_guidance_by_hand() -> None:
    assert sampling.guide(torch.tensor(3.0), torch.tensor(1.0), 2.5) == 6.0  # 1 + 2.5 * (3 - 1)

    def predict(latents: torch.Tensor, t: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        assert len(latents) == len(t) == len(conditional)
        return latents * torch.where(conditional, 3.0, 1.0)[:, None, None, None]

    x = torch.ones(2, 1, 1, 1)
    assert sampling.guided(predict, 2.5)(x, torch.tensor(7)).flatten().tolist() == [6, 6]
    assert sampling.guided(predict, 1)(x, torch.tensor(7)).flatten().tolist() == [3, 3]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_clean_latents_are_recovered(prediction: str) -> None:
    s, t = scheduler(prediction), torch.tensor(321)
    x0, noise = torch.randn(2, 2, 4, 4, 4).unbind(0)
    noisy = s.add_noise(x0, noise, t)
    told = {"epsilon": noise, "v_prediction": s.get_velocity(x0, noise, t), "sample": x0}[prediction]
    torch.testing.assert_close(sampling.clean(s, told, t, noisy), x0, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("prediction, changes", [("epsilon", {}), ("v_prediction", {}), ("v_prediction", BUILTIN)])
def test_a_perfect_denoiser_of_one_picture_is_led_to_it(sampler: sampling.Sampler, prediction: str,
                                                               changes: dict[str, object]) -> None:
    """When the data is a single point, the ideal prediction is known in closed form and every step is exact."""
    s, target = scheduler(prediction, **changes), torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = s.alphas_cumprod[t]
        noise = (x - a.sqrt() * target) / (1 - a).sqrt()
        return noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * target

    seen: list[int] = []
    noise = sampling.initial_noise([torch.Generator().manual_seed(i) for i in range(3)], (1, 4, 4))
    out = sampling.sample(s, denoise, noise, 12, sampler, lambda i, x: seen.append(i))
    # DDIM without set_alpha_to_one ends at the schedule's first sigma, 0.03: what is left of the noise.
    torch.testing.assert_close(out, target.expand(3, -1, -1, -1), atol=1e-3 if changes or sampler == "dpm" else 0.1,
                               rtol=0)
    assert seen == list(range(1, 13))


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    def made(seeds: list[int]) -> torch.Tensor:
        return sampling.initial_noise([torch.Generator().manual_seed(s) for s in seeds], (4, 8, 8))
    assert torch.equal(made([5, 6, 7])[1], made([6])[0])


def test_numbers_that_run_away_are_a_failed_run() -> None:
    with pytest.raises(RunFailed, match="not finite"):
        sampling.sample(scheduler("epsilon"), lambda x, t: x * float("nan"), torch.ones(1, 1, 2, 2), 2)


# -- schedules of every kind -------------------------------------------------------------------------------------------

def flow() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def published(name: str, **changes: object) -> Any:
    """A scheduler as some model is published with it."""
    return getattr(diffusers, name).from_config(scheduler("epsilon").config, **changes)


KINDS = {"ddim": lambda: published("DDIMScheduler"), "ddpm": lambda: published("DDPMScheduler"),
         "pndm": lambda: published("PNDMScheduler", skip_prk_steps=True), "lcm": lambda: published("LCMScheduler"),
         "euler": lambda: published("EulerDiscreteScheduler"), "heun": lambda: published("HeunDiscreteScheduler"),
         "turbo": lambda: published("EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
         "dpm": lambda: published("DPMSolverMultistepScheduler"), "unipc": lambda: published("UniPCMultistepScheduler"),
         "flow": flow}


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_those_that_diffusers_noises_to(kind: str, first: int) -> None:
    """Latents noised before a step are what the scheduler's own rule gives; the network's word leads back to them."""
    x, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    for i in (0, 1):
        plan = sampling.Steps(KINDS[kind](), 6, first=first)
        theirs = KINDS[kind]()
        theirs.set_timesteps(6)
        at = plan.timesteps[i:i + 1]
        own = theirs.scale_noise if kind == "flow" else theirs.add_noise
        noisy = plan.noised(x, noise, i)
        torch.testing.assert_close(noisy, own(x, at, noise) if kind == "flow" else own(x, noise, at), atol=2e-5,
                                   rtol=2e-5)
        told = noise - x if kind == "flow" else noise
        torch.testing.assert_close(plan.clean(told, noisy, i), x, atol=1e-4, rtol=1e-4)
    assert torch.equal(plan.noised(x, noise, len(plan)), x)
    order = getattr(plan.scheduler, "order", 1)
    assert torch.equal(plan.timesteps, theirs.timesteps[first * order:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_begun_from_is_led_back_to_by_a_network_that_knows_it(kind: str) -> None:
    """From 60 % of the way, by every rule: the noise is found and taken away, whatever is drawn anew on the way."""
    x, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    plan = sampling.Steps(KINDS[kind](), 10, first=sampling.begun_at(10, 0.6))
    latents = plan.begin(noise, x)
    for i in range(len(plan)):
        alpha, sigma = plan.level(i)
        if kind == "heun" and i % 2:  # its second call stands at the next level already
            alpha, sigma = torch.tensor(1.0), plan.scheduler.sigmas[plan.scheduler.step_index + 1]
        word = (latents - x) / sigma if kind == "flow" else (latents - alpha * x) / sigma if sigma > 0 else 0 * x
        latents = plan.step(word, latents, i, [torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)])
    # Those that stop at the schedule's first sigma, 0.03, keep that much of the noise.
    torch.testing.assert_close(latents, x, atol=0.2 if kind in ("ddim", "pndm", "ddpm") else 2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["turbo", "lcm", "ddpm"])
def test_noise_drawn_on_the_way_is_each_samples_own(kind: str) -> None:
    """No batch changes a sample, also where the sampler draws at every step."""
    def made(seeds: list[int]) -> torch.Tensor:
        drawing = [torch.Generator().manual_seed(s) for s in seeds]
        noise = sampling.initial_noise(drawing, (4, 8, 8))
        return sampling.sample(KINDS[kind](), lambda x, t: 0.1 * x, noise, 4, "own", generators=drawing)
    assert torch.equal(made([5, 6, 7])[1], made([6])[0]) and not torch.equal(made([5])[0], made([6])[0])


def test_a_hook_has_the_level_that_the_latents_are_at() -> None:
    """Putting what is known back at each step's level leads to it exactly: the last level is clean."""
    known, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    seen: list[int] = []

    def keep(steps: sampling.Steps, i: int, latents: torch.Tensor) -> torch.Tensor:
        seen.append(i)
        return steps.noised(known, noise, i + 1)
    out = sampling.sample(published("EulerDiscreteScheduler"), lambda x, t: x, noise, 5, "own", after=keep)
    assert torch.equal(out, known) and seen == [0, 1, 2, 3, 4]
    begun = sampling.sample(scheduler("epsilon"), lambda x, t: x, noise, 10, start=known, strength=0.35, after=keep)
    assert torch.equal(begun, known) and seen[5:] == [0, 1, 2]  # int(10 * 0.35) steps are taken
    assert torch.equal(sampling.sample(scheduler("epsilon"), lambda x, t: x, noise, 10, start=known, strength=0), known)


def test_a_learned_variance_is_not_guided() -> None:
    """The noise is guided; the variance behind it is the conditional half's. By hand: 1 + 2 (3 - 1) = 5, and 30."""
    def predict(latents: torch.Tensor, t: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        value = torch.where(conditional, 3.0, 1.0)[:, None, None, None] * torch.ones_like(latents)
        return torch.cat([value, 10 * value], 1)
    out = sampling.guided(predict, 2.0)(torch.zeros(1, 2, 1, 1), torch.tensor(0))
    assert out.flatten().tolist() == [5, 5, 30, 30]


def test_a_flow_takes_its_own_rule_only() -> None:
    assert type(sampling.scheduler_for(flow(), "own")) is type(sampling.scheduler_for(flow(), "euler")) is type(flow())
    for other in ("ddim", "dpm", "lcm", "euler_a"):
        with pytest.raises(BadInput, match=f"sampler '{other}' removes noise, and this model is a flow"):
            sampling.scheduler_for(flow(), other)  # type: ignore[arg-type]


def test_sd3s_schedule_moves_with_the_pictures_size() -> None:
    """mu by hand: 0.5 at 256 patches, 1.16 at 4,096, linear between."""
    import tiny_families
    from diffusers import FlowMatchEulerDiscreteScheduler
    moving = tiny_families.sd3_(False).ours.changed(scheduler=FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.16, base_image_seq_len=256, max_image_seq_len=4096))
    for side, mu in ((32, 0.5), (128, 1.16), (64, 0.5 + 0.66 * 768 / 3840)):
        assert moving.sampling_settings((1, 16, side, side))["mu"] == pytest.approx(mu)
    plan = sampling.Steps(sampling.scheduler_for(moving.scheduler, "own"), 4, settings={"mu": 0.7})
    assert len(plan) == 4
