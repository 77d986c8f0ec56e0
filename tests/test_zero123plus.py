"""Zero123++: six views in one grid, by reference attention; against a plain loop with diffusers' scheduler."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import NAMES, TOKENS, tokenizer
from torch import Tensor

from engine.diffusion import lora, reference_attention, zero123plus
from engine.diffusion.zero123plus import Eyes, SixViews
from engine.errors import BadInput

WIDTH = 16
EYE = Eyes(32, (0.5, 0.5, 0.5), (0.8, 0.8, 0.8))


@cache
def tiny() -> SixViews:
    """The real classes in small, filled at random; views of 32 pixels."""
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection
    torch.manual_seed(0)
    widths = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    unet = UNet2DConditionModel(sample_size=4, in_channels=4, out_channels=4, cross_attention_dim=WIDTH,
                                attention_head_dim=2, use_linear_projection=True, **widths)
    vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                        latent_channels=4, sample_size=32, **widths)
    text = CLIPTextModel(CLIPTextConfig(hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2,
                                        num_attention_heads=2, vocab_size=len(NAMES), max_position_embeddings=TOKENS,
                                        bos_token_id=0, eos_token_id=1, pad_token_id=1))
    eye = CLIPVisionModelWithProjection(CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=1,
                                                         num_attention_heads=2, image_size=32, patch_size=16,
                                                         projection_dim=WIDTH))
    scheduler = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                                prediction_type="v_prediction", timestep_spacing="trailing")
    for network in (unet, vae, text, eye):
        network.eval().requires_grad_(False)
    ramp = tuple(i / TOKENS for i in range(TOKENS))
    return SixViews(unet, vae, text, tokenizer(), eye, scheduler, ramp, EYE, Eyes(32, (0.4,) * 3, (0.3,) * 3), 32, 3)


def picture() -> Tensor:
    return torch.rand((1, 3, 40, 40), generator=torch.Generator().manual_seed(1))


def by_hand(model: SixViews, shown: Tensor, seed: int, steps: int, scale: float) -> Tensor:
    """The published procedure, with hooks for the attention and diffusers' scheduler as it is."""
    unet, generator = lora.twin(model.unet), torch.Generator().manual_seed(seed)
    seen: dict[str, Tensor] = {}
    writing = True
    for name, module in unet.named_modules():
        if name.endswith(".attn1"):
            def ask(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> Any:
                if writing:
                    seen[name] = args[0]
                    return None
                return args, {**kwargs, "encoder_hidden_states": torch.cat([args[0], seen[name]], 1)}
            module.register_forward_pre_hook(ask, with_kwargs=True)
    made = model.tokenizer([""], padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    empty = model.text_encoder(input_ids=made).last_hidden_state

    def resized(eye: Eyes) -> Tensor:
        x = torch.nn.functional.interpolate(shown, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        return (x - eye.mean[0]) / eye.std[0]

    embeds = model.image_encoder(pixel_values=resized(model.eye_clip)).image_embeds
    tokens = torch.cat([empty, empty + embeds[:, None] * torch.tensor(model.ramp)[None, :, None]])
    image = resized(model.eye_vae)
    posterior = model.vae.encode(torch.cat([torch.zeros_like(image), image])).latent_dist
    cond = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
    scheduler = type(model.scheduler).from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    latents = torch.randn((1, 4, 12, 8), generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        writing = True
        noisy = scheduler.add_noise(cond, torch.randn(cond.shape, generator=generator), t.reshape(-1))
        unet(scheduler.scale_model_input(noisy, t), t, encoder_hidden_states=tokens)
        writing = False
        both = scheduler.scale_model_input(torch.cat([latents, latents]), t)
        without, with_ = unet(both, t, encoder_hidden_states=tokens).sample.chunk(2)
        latents = scheduler.step(without + scale * (with_ - without), t, latents, generator=generator).prev_sample
    decoded = model.vae.decode((latents / 0.75 + 0.22) / model.vae.config.scaling_factor).sample
    return (decoded / 0.5 * 0.8) / 2 + 0.5


@torch.no_grad()
def test_the_grid_is_that_of_the_published_procedure() -> None:
    model = tiny()
    found = zero123plus.draw(model, picture(), torch.Generator().manual_seed(5), 3, 4.0)
    grid = by_hand(model, picture(), 5, 3, 4.0)
    assert found.shape == (6, 3, 32, 32)
    for k in range(6):
        row, column = divmod(k, 2)
        torch.testing.assert_close(found[k], grid[0, :, 32 * row:32 * row + 32, 32 * column:32 * column + 32],
                                   atol=1e-4, rtol=1e-4)
    again = zero123plus.draw(model, picture(), torch.Generator().manual_seed(5), 3, 4.0)
    assert torch.equal(found, again)
    assert not torch.equal(found, zero123plus.draw(model, picture(), torch.Generator().manual_seed(6), 3, 4.0))
    # The network that others share is as it was: no reference attention in it.
    assert not any(isinstance(p, reference_attention.ReferenceAttention) for p in model.unet.attn_processors.values())


@torch.no_grad()
def test_a_reference_equal_to_the_sample_changes_nothing() -> None:
    """Each token read twice has the weight of one read once: attention's own law, so an exact test of the plumbing."""
    unet = lora.twin(tiny().unet)
    draw = torch.Generator().manual_seed(2)
    x, told = torch.randn((2, 4, 8, 8), generator=draw), torch.randn((2, 5, WIDTH), generator=draw)
    plain = unet(x, 300, encoder_hidden_states=told).sample
    bank = reference_attention.attach(unet)
    assert torch.equal(unet(x, 300, encoder_hidden_states=told).sample, plain)
    bank.mode = "write"
    assert torch.equal(unet(x, 300, encoder_hidden_states=told).sample, plain)
    assert len(bank.kept) == sum(name.endswith("attn1.processor") for name in unet.attn_processors) > 3
    bank.mode = "read"
    torch.testing.assert_close(unet(x, 300, encoder_hidden_states=told).sample, plain, atol=2e-5, rtol=1e-4)
    bank.mode = "write"
    unet(x.flip(0) + 1, 300, encoder_hidden_states=told)
    bank.mode = "read"
    assert (unet(x, 300, encoder_hidden_states=told).sample - plain).abs().max() > 1e-3


def test_numbers_by_hand() -> None:
    x = torch.tensor([0.22, 1.22, -0.78])
    torch.testing.assert_close(zero123plus.scaled(x), torch.tensor([0.0, 0.75, -0.75]))
    torch.testing.assert_close(zero123plus.unscaled(zero123plus.scaled(x)), x)
    grid = torch.arange(6.0).reshape(3, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    views = zero123plus.cut_grid(grid.expand(1, 3, 12, 8))
    assert views.shape == (6, 3, 4, 4) and [float(v.mean()) for v in views] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="three rows"):
        zero123plus.cut_grid(torch.zeros(1, 3, 9, 8))
    assert list(zero123plus.AZIMUTHS_DEG) == [30 + 60 * k for k in range(6)]


def test_eyes_are_read_from_the_folder_s_own_words() -> None:
    told = {"size": {"shortest_edge": 224}, "crop_size": {"height": 200, "width": 200}, "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.8, 0.8, 0.8]}
    assert Eyes.of(told, "x").size == 224 and Eyes.of({**told, "do_center_crop": True}, "x").size == 200
    assert Eyes.of({**told, "size": 96}, "x") == Eyes(96, (0.5, 0.4, 0.3), (0.8, 0.8, 0.8))
    with pytest.raises(BadInput, match="x does not say the size"):
        Eyes.of({**told, "size": None}, "x")
    white = Eyes(8, (0.5, 0.4, 0.3), (0.8, 0.8, 0.8))(torch.ones(1, 3, 8, 8))
    np.testing.assert_allclose(white[0, :, 0, 0].numpy(), [0.625, 0.75, 0.875], rtol=1e-6)


def write_folder(root: Path) -> Path:
    """A diffusers folder of the tiny networks, as the real one is laid out."""
    model = tiny()
    for name, network in (("unet", model.unet), ("vae", model.vae), ("text_encoder", model.text_encoder),
                          ("vision_encoder", model.image_encoder)):
        network.save_pretrained(root / name)
    model.tokenizer.save_pretrained(root / "tokenizer")
    model.scheduler.save_pretrained(root / "scheduler")
    for name, eye in (("feature_extractor_vae", model.eye_vae), ("feature_extractor_clip", model.eye_clip)):
        (root / name).mkdir()
        (root / name / "preprocessor_config.json").write_text(json.dumps(
            {"size": {"height": eye.size, "width": eye.size}, "image_mean": eye.mean, "image_std": eye.std}))
    (root / "model_index.json").write_text(json.dumps({"_class_name": "Zero123PlusPipeline",
                                                       "ramping_coefficients": model.ramp}))
    return root


@torch.no_grad()
def test_a_folder_draws_the_same_and_names_what_it_lacks(tmp_path: Path) -> None:
    from engine.models import assemble
    from engine.models.catalogue import Model
    from engine.models.local import Located
    root = write_folder(tmp_path)
    here = Located(Model("x/y", "novel_view", "zero123plus", path=str(root), format="diffusers"), root, {}, "your own")

    def load() -> SixViews:
        return assemble.public(here, "novel_view", "cpu", torch.float32, lambda _: lambda part, load: load())

    model = load()
    one, two = (zero123plus.draw(m, picture(), torch.Generator().manual_seed(5), 2, 4.0)
                for m in (tiny(), SixViews(**{**vars(model), "size": 32})))
    assert torch.equal(one, two) and model.size == 320 and model.steps == 28
    (root / "vision_encoder").rename(root / "elsewhere")
    with pytest.raises(BadInput, match="lacks the component 'image_encoder'"):
        load()
    (root / "elsewhere").rename(root / "vision_encoder")
    (root / "feature_extractor_vae" / "preprocessor_config.json").unlink()
    with pytest.raises(BadInput, match=r"feature_extractor_vae.*cannot be read"):
        load()
    (root / "model_index.json").write_text("{}")
    with pytest.raises(BadInput, match="no ramping_coefficients"):
        load()


def test_the_stage_hands_on_the_cameras_that_the_views_were_drawn_with() -> None:
    from tiny_models import ListJob

    from engine.artifacts import Picture
    from engine.space import orbit_of_pose
    from engine.stages.image_to_views import ImageToViews, image_to_views
    job = ListJob(seed=2)
    job.model = lambda role: tiny()  # type: ignore[method-assign]
    image = np.zeros((64, 64, 4), np.float32)
    image[16:48, 16:48] = (0.8, 0.2, 0.1, 1.0)
    views = image_to_views(Picture(image, azimuth_deg=10.0, elevation_deg=5.0), ImageToViews(steps=1), job)
    assert len(views.cameras.camera_to_world) == 7
    places = [orbit_of_pose(pose) for pose in views.cameras.camera_to_world]
    expected = [(10, 5), (40, 20), (100, -10), (160, 20), (220, -10), (280, 20), (340, -10)]
    np.testing.assert_allclose(places, [(a, e, 3.0) for a, e in expected], atol=1e-3)
    fov = 2 * math.degrees(math.atan(views.cameras.width / 2 / float(views.cameras.fx[0])))
    assert fov == pytest.approx(30, abs=1e-3) and views.names[2] == "azimuth_100_elevation_-10"
