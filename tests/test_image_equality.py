"""Our drawing equals diffusers' own pipelines on tiny random networks: the same weights, noise and settings.

Everything is float32 on the CPU; pictures in [0, 1] agree within 2e-5, where steps and guidance add rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from image_helpers import (
    adapter_weights,
    control,
    controlnet,
    image_encoder,
    image_prompt,
    model,
    nine_channels,
    picture,
    pipe,
    square_mask,
)
from tiny_models import SIZE, ListJob

from engine.diffusion import drawing, pictures
from engine.diffusion.drawing import Drawing, Given, draw

TOLERANCE = 2e-5
PROMPT, NEGATIVE, STEPS, GUIDANCE = "a red mug", "blue", 5, 3.0


class Fixed(ListJob):
    """A job whose models are given by hand; its generator stands where diffusers' does after ``skip`` draws."""

    def __init__(self, skip: int = 0, **models: Any) -> None:
        super().__init__()
        self.given, self.skip = models, skip

    def model(self, role: str) -> Any:
        return self.given[role.replace(".", "_")]

    def generator(self, candidate: int = 0) -> torch.Generator:
        g = torch.Generator().manual_seed(7)
        for _ in range(self.skip):
            torch.randn(4, SIZE // 8, SIZE // 8, generator=g)
        return g


def tensor(image: np.ndarray) -> torch.Tensor:
    return pictures.tensor_of(image[None])


def ours(given: Given, job: Fixed, m: Any = None, **params: Any) -> torch.Tensor:
    p = Drawing(**{"prompt": PROMPT, "negative": NEGATIVE, "steps": STEPS, "guidance": GUIDANCE, **params})
    return draw(m or model(), p, job, (SIZE, SIZE), given).clamp(0, 1)


def theirs(made: Any, **told: Any) -> torch.Tensor:
    return made(prompt=PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(7)], output_type="pt", **told).images


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.std() > 0.01  # or the two would be equally empty
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sampler", ["ddim", "dpm", "euler"])
def test_image_to_image(sampler: Any) -> None:
    from engine.diffusion.sampling import scheduler_for
    made = pipe("StableDiffusionImg2ImgPipeline", scheduler=scheduler_for(model().scheduler, sampler),
                image_encoder=None)
    wanted = theirs(made, image=tensor(picture()), strength=0.6)
    same(ours(Given(start=tensor(picture()), strength=0.6), Fixed(skip=1), sampler=sampler), wanted)


@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_inpainting_by_latent_blending(strength: float) -> None:
    made = pipe("StableDiffusionInpaintPipeline", image_encoder=None)
    mask = torch.from_numpy(square_mask()).float()[None, None]
    wanted = theirs(made, image=tensor(picture()), mask_image=mask, strength=strength, height=SIZE, width=SIZE)
    given = Given(start=tensor(picture()), mask=square_mask(), strength=strength)
    same(ours(given, Fixed(skip=1)), wanted)


@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_inpainting_by_a_network_with_nine_channels(strength: float) -> None:
    m = nine_channels()
    made = pipe("StableDiffusionInpaintPipeline", image_encoder=None, unet=m.unet)
    mask = torch.from_numpy(square_mask()).float()[None, None]
    wanted = theirs(made, image=tensor(picture()), mask_image=mask, strength=strength, height=SIZE, width=SIZE)
    given = Given(start=tensor(picture()), mask=square_mask(), strength=strength, rounds=5)
    same(ours(given, Fixed(skip=0 if strength == 1 else 1), m), wanted)


def test_one_controlnet_for_a_share_of_the_steps() -> None:
    made = pipe("StableDiffusionControlNetPipeline", controlnet=controlnet(1), image_encoder=None)
    wanted = theirs(made, image=tensor(picture(1)), controlnet_conditioning_scale=0.8, control_guidance_start=0.2,
                    control_guidance_end=0.7)
    told = {"controls": ("edges",), "control_scales": (0.8,), "control_starts": (0.2,), "control_ends": (0.7,)}
    same(ours(Given(maps=(tensor(picture(1)),)), Fixed(control_edges=control(1)), **told), wanted)
    for other in (Given(), Given(maps=(tensor(picture(2)),))):  # neither the net nor what it is shown may be lost
        controls = told if other.maps else {}
        assert (wanted - ours(other, Fixed(control_edges=control(1)), **controls)).abs().max() > 100 * TOLERANCE


def test_several_controlnets() -> None:
    made = pipe("StableDiffusionControlNetPipeline", controlnet=[controlnet(1), controlnet(2)], image_encoder=None)
    wanted = theirs(made, image=[tensor(picture(1)), tensor(picture(2))], controlnet_conditioning_scale=[0.8, 0.5],
                    control_guidance_start=[0.0, 0.3], control_guidance_end=[0.5, 1.0])
    told = {"controls": ("edges", "depth"), "control_scales": (0.8, 0.5), "control_starts": (0.0, 0.3),
            "control_ends": (0.5, 1.0)}
    same(ours(Given(maps=(tensor(picture(1)), tensor(picture(2)))),
              Fixed(control_edges=control(1), control_depth=control(2, "depth")), **told), wanted)


def test_a_controlnet_beside_a_picture_to_change() -> None:
    made = pipe("StableDiffusionControlNetImg2ImgPipeline", controlnet=controlnet(1), image_encoder=None)
    wanted = theirs(made, image=tensor(picture()), control_image=tensor(picture(1)), strength=0.6,
                    controlnet_conditioning_scale=0.8)
    given = Given(start=tensor(picture()), strength=0.6, maps=(tensor(picture(1)),))
    same(ours(given, Fixed(skip=1, control_edges=control(1)), controls=("edges",), control_scales=(0.8,)), wanted)


def test_a_controlnet_beside_a_part_to_repaint() -> None:
    made = pipe("StableDiffusionControlNetInpaintPipeline", controlnet=controlnet(1), image_encoder=None)
    mask = torch.from_numpy(square_mask()).float()[None, None]
    wanted = theirs(made, image=tensor(picture()), mask_image=mask, control_image=tensor(picture(1)), strength=0.7,
                    controlnet_conditioning_scale=0.8, height=SIZE, width=SIZE)
    given = Given(start=tensor(picture()), mask=square_mask(), strength=0.7, maps=(tensor(picture(1)),))
    same(ours(given, Fixed(skip=1, control_edges=control(1)), controls=("edges",), control_scales=(0.8,)), wanted)


def embeds(kind: str, shown: torch.Tensor) -> torch.Tensor:
    """What diffusers' pipelines take as ip_adapter_image_embeds: the unconditional half first."""
    pixels = pictures.clip_input(shown, 32)
    if kind == "plus":
        seen = image_encoder()(torch.cat([torch.zeros_like(pixels), pixels]), output_hidden_states=True)
        return seen.hidden_states[-2][:, None]
    found = image_encoder()(pixels).image_embeds
    return torch.cat([torch.zeros_like(found), found])[:, None]


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_an_image_prompt(kind: str) -> None:
    from engine.diffusion.lora import twin
    made = pipe("StableDiffusionPipeline", image_encoder=image_encoder(), unet=twin(model().unet))
    made.load_ip_adapter(adapter_weights(kind), subfolder="", weight_name="x.bin", image_encoder_folder=None)
    made.set_ip_adapter_scale(0.7)
    shown = tensor(picture(4, 40))
    wanted = theirs(made, ip_adapter_image_embeds=[embeds(kind, shown)], height=SIZE, width=SIZE)
    same(ours(Given(like=shown), Fixed(image_prompt=image_prompt(kind)), like_scale=0.7), wanted)
    assert (wanted - ours(Given(), Fixed())).abs().max() > 100 * TOLERANCE


def test_an_image_prompt_beside_a_controlnet() -> None:
    from engine.diffusion.lora import twin
    made = pipe("StableDiffusionControlNetPipeline", controlnet=controlnet(1), image_encoder=image_encoder(),
                unet=twin(model().unet))
    made.load_ip_adapter(adapter_weights(), subfolder="", weight_name="x.bin", image_encoder_folder=None)
    shown = tensor(picture(4, 40))
    wanted = theirs(made, image=tensor(picture(1)), ip_adapter_image_embeds=[embeds("base", shown)])
    given = Given(maps=(tensor(picture(1)),), like=shown)
    same(ours(given, Fixed(image_prompt=image_prompt(), control_edges=control(1)), controls=("edges",), like_scale=1.0),
         wanted)


def test_the_networks_themselves_are_left_as_they_were() -> None:
    before = {k: v.clone() for k, v in model().unet.state_dict().items()}
    ours(Given(like=tensor(picture(4, 40))), Fixed(image_prompt=image_prompt()), like_scale=1.0)
    assert before.keys() == model().unet.state_dict().keys()
    assert all(torch.equal(v, before[k]) for k, v in model().unet.state_dict().items())
    assert model().unet.config.encoder_hid_dim_type is None and model().unet.encoder_hid_proj is None


def test_roles_follow_from_the_parameters() -> None:
    assert drawing.roles_of(Drawing(prompt="x")) == ("text_to_image",)
    all_given = Drawing(prompt="x", controls=("edges", "depth"), like_scale=1, face_scale=1)
    assert drawing.roles_of(all_given, "inpaint") == (
        "inpaint", "control.edges", "control.depth", "image_prompt", "face_prompt")
