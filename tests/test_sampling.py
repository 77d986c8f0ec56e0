"""Guidance and samplers, against values worked by hand and against a case with a known answer."""

import pytest
import torch
from diffusers import DDIMScheduler

from engine.diffusion import sampling
from engine.errors import RunFailed


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
