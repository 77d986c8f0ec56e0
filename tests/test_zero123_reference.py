"""Zero-1-to-3's conditioning, guidance and schedule against references worked by hand in float64."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.diffusion import novel_view, sampling
from engine.errors import RunFailed
from engine.models.open_checkpoint import load_scheduler

STEPS = 1000


def alphabars() -> np.ndarray:
    """scaled-linear: the square roots of beta go in even steps from sqrt(.00085) to sqrt(.012)."""
    root = np.array([math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * t / (STEPS - 1)
                     for t in range(STEPS)])
    return np.cumprod(1 - root ** 2)


@pytest.mark.parametrize("family", ["zero123", "stable_zero123", "sd15"])
def test_the_schedule_by_hand(family: str) -> None:
    scheduler = load_scheduler(None, family)
    np.testing.assert_allclose(scheduler.alphas_cumprod.double().numpy(), alphabars(), rtol=2e-5)  # theirs is float32
    assert alphabars()[0] == pytest.approx(1 - 0.00085) and alphabars()[-1] == pytest.approx(0.00466, abs=1e-5)
    assert scheduler.config.prediction_type == "epsilon" and not scheduler.config.clip_sample
    scheduler.set_timesteps(50)
    # Latent diffusion's own: every 20th of 0 ... 999, and one more.
    assert scheduler.timesteps.tolist() == [20 * k + 1 for k in reversed(range(50))]


def test_a_whole_run_of_guided_ddim_by_hand() -> None:
    """Five steps with a network that is a formula; every number of the loop in plain float64."""
    mean, spread, pull, scale, steps = 0.7, 0.4, -0.3, 3.0, 5
    scheduler = load_scheduler(None, "zero123")
    table = scheduler.alphas_cumprod.double()

    def eps(x: Any, a: Any, told: float) -> Any:
        """The noise in x where clean samples are normal around mean + pull * told (Gaussian posterior)."""
        return (x - a ** 0.5 * (mean + pull * told)) * (1 - a) ** 0.5 / (a * spread ** 2 + 1 - a)

    def predict(x: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
        a = table[t][:, None, None, None]
        return torch.where(conditional[:, None, None, None], eps(x, a, 1.0), eps(x, a, 0.0))

    noise = torch.randn((3, 4, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sampling.sample(scheduler, sampling.guided(predict, scale), noise, steps)

    x, times = noise.numpy(), [200 * k + 1 for k in reversed(range(steps))]
    for i, t in enumerate(times):
        a = float(table[t])
        said = eps(x, a, 0.0) + scale * (eps(x, a, 1.0) - eps(x, a, 0.0))
        clean = (x - math.sqrt(1 - a) * said) / math.sqrt(a)
        # The last step does not go to the clean sample but to the table's first entry (set_alpha_to_one is off).
        before = float(table[times[i + 1]]) if i + 1 < steps else float(table[0])
        x = math.sqrt(before) * clean + math.sqrt(1 - before) * said
    # The library's scheduler takes its square roots in single precision: that is all that may differ.
    np.testing.assert_allclose(found.numpy(), x, rtol=0, atol=2e-7)


def test_the_token_by_hand() -> None:
    """One token: W [embedding, T] + b, for a camera 30 degrees up, a quarter turn to the right, 0.1 nearer."""
    projection = novel_view.CCProjection(3 + 4, 2).double()
    w = torch.arange(14, dtype=torch.float64).reshape(2, 7) / 10
    with torch.no_grad():
        projection.projection.weight.copy_(w)
        projection.projection.bias.copy_(torch.tensor([0.5, -0.5]))
    embedding = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    camera = torch.tensor([novel_view.camera_vector(10, 40, 90, -0.1)], dtype=torch.float64)
    with torch.no_grad():
        token = novel_view.context(projection, embedding, camera)
    numbers = [1, 2, 3, -math.pi / 6, 1.0, 0.0, -0.1]
    by_hand = [sum(float(w[i, k]) * n for k, n in enumerate(numbers)) + b for i, b in enumerate((0.5, -0.5))]
    assert token.shape == (1, 1, 2)
    np.testing.assert_allclose(token[0, 0].numpy(), by_hand, atol=1e-12)


def test_stable_zero123_is_told_the_condition_s_polar_angle_by_hand() -> None:
    told = [torch.tensor([v], dtype=torch.float64) for v in (25.0, -5.0, -60.0, 0.2)]
    ours, theirs = novel_view.camera_vectors(*told)[0], novel_view.stable_camera_vectors(*told)[0]
    np.testing.assert_allclose(ours.numpy(), [math.pi / 6, -math.sqrt(3) / 2, 0.5, 0.2], atol=1e-12)
    np.testing.assert_allclose(theirs.numpy(), [math.pi / 6, -math.sqrt(3) / 2, 0.5, 65 * math.pi / 180], atol=1e-12)
    assert novel_view.CAMERAS["stable_zero123"] is novel_view.stable_camera_vectors
    assert theirs.dtype == torch.float64
    # From straight above it is 0, at the horizon a quarter turn.
    for elevation, angle in ((90.0, 0.0), (0.0, math.pi / 2)):
        place = [torch.tensor([v], dtype=torch.float64) for v in (elevation, 0.0, 0.0, 0.0)]
        assert float(novel_view.stable_camera_vectors(*place)[0, 3]) == pytest.approx(angle, abs=1e-12)


class FakeVae(nn.Module):
    """A VAE whose posterior has the mean 2 x and a large spread; its scaling factor must not be used."""

    config = SimpleNamespace(scaling_factor=0.18215)

    def encode(self, x: Tensor) -> Any:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
        small = x[:, :1, ::8, ::8].expand(-1, 4, -1, -1) * 2
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(torch.cat([small, torch.ones_like(small)], 1)))


def test_the_condition_is_the_posterior_s_mode_and_not_scaled() -> None:
    picture = torch.linspace(-1, 1, 3 * 16 * 16, dtype=torch.float64).reshape(1, 3, 16, 16)
    found = novel_view.condition_latents(FakeVae(), picture)
    assert torch.equal(found, 2 * picture[:, :1, ::8, ::8].expand(-1, 4, -1, -1))


def test_guidance_with_both_conditions_by_hand() -> None:
    """CFG as Zero-1-to-3 does it: zeros for token and picture, not another prompt; in one batch, conditional first."""
    token = torch.tensor([[[2.0, 3.0]]], dtype=torch.float64)
    own = torch.full((1, 4, 1, 1), 5.0, dtype=torch.float64)
    calls = []

    def unet(x: Tensor, context: Tensor) -> Tensor:
        calls.append(x.shape[0])
        noisy, beside = x[:, :4], x[:, 4:]
        return noisy + 10 * beside + context.sum((1, 2))[:, None, None, None]

    def predict(latents: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
        n = len(latents)
        context, beside = novel_view.drop_conditions(token.repeat(n, 1, 1), own.repeat(n, 1, 1, 1), ~conditional)
        return unet(novel_view.unet_input(latents, beside), context)

    noisy = torch.full((1, 4, 1, 1), 0.25, dtype=torch.float64)
    said = sampling.guided(predict, 3.0)(noisy, torch.tensor(500))
    # conditional: .25 + 50 + 5, unconditional: .25; u + 3 (c - u)
    assert calls == [2] and float(said[0, 0, 0, 0]) == 0.25 + 3 * 55
    assert float(sampling.guided(predict, 1.0)(noisy, torch.tensor(500))[0, 0, 0, 0]) == 55.25 and calls == [2, 1]


@pytest.mark.parametrize("family", ["zero123", "stable_zero123"])
def test_a_public_checkpoint_draws_views(tmp_path: Path, family: str) -> None:
    """From a port's folders to the stage: the family's camera vector, its own steps and guidance."""
    from test_layout_forwards import TINY, filled, write_old
    from tiny_models import ListJob

    from engine.artifacts import Picture
    from engine.models import assemble
    from engine.models.catalogue import Model
    from engine.models.local import Located
    from engine.stages.image_to_views import ImageToViews, image_to_views, steps_of
    root = write_old(tmp_path, "zero123", filled("zero123", TINY, torch.float16), TINY)
    here = Located(Model("kxic/tiny", "novel_view", family, path=str(root), format="diffusers"), root, {}, "your own")
    model = assemble.public(here, "novel_view", "cpu", torch.float32, lambda _: lambda part, load: load(), True)
    assert model.size == 64 and model.image_size == 32 and model.cameras is novel_view.CAMERAS[family]
    assert steps_of(ImageToViews(), model) == 50 and model.defaults.guidance == 3.0
    assert steps_of(ImageToViews(steps=2), model) == 2

    seen: list[Tensor] = []
    token = model.cc_projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    job = ListJob(seed=3)
    job.model = lambda role: model  # type: ignore[method-assign]
    image = np.zeros((64, 64, 4), np.float32)
    image[16:48, 16:48] = (0.8, 0.2, 0.1, 1.0)
    with contextlib.suppress(RunFailed):  # random networks may draw nothing but background
        image_to_views(Picture(image, elevation_deg=30.0), ImageToViews(azimuths=2, elevations_deg=(10.0,), steps=2,
                                                                        matte="plain"), job)
    token.remove()
    cameras = seen[0][:, -4:].double()
    last = math.radians(60) if family == "stable_zero123" else 0.0
    expected = [[0, 0, 1, last], [math.radians(20), 0, 1, last], [math.radians(20), 0, -1, last]]
    np.testing.assert_allclose(cameras.numpy(), expected, atol=1e-6)
