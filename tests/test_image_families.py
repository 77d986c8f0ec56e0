"""Image stages on other families: SDXL, SD3 and PNDM equal diffusers' own pipelines; the rest is refused in one line.

float32 on the CPU; pictures in [0, 1] agree within 3e-5.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
from image_helpers import adapter_weights, image_encoder, picture, sharpened_controlnet, square_mask
from test_image_equality import Fixed, embeds, tensor
from tiny_families import SIZE, Twin

from engine.diffusion.drawing import Drawing, Given, draw
from engine.diffusion.lora import twin as shared
from engine.errors import BadInput
from engine.models.loading import Control, ImagePrompt

TOLERANCE = 3e-5
STEPS, GUIDANCE = 5, 3.0


def exact(made: Twin) -> Twin:
    """The twins with a VAE whose posterior has no spread: diffusers samples it, we take its mode."""
    vae = copy.deepcopy(made.ours.vae)
    last = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
    half = last.weight.shape[0] // 2
    with torch.no_grad():
        last.weight[half:] = 0
        last.bias[half:] = -30
    return Twin(made.ours.changed(vae=vae), made.bare)


def theirs(name: str, made: Twin, leave: tuple[str, ...] = (), **told: Any) -> torch.Tensor:
    """A diffusers pipeline on the twin's parts."""
    import diffusers
    parts = {k: v for k, v in made.bare.components.items() if k not in leave} | {"vae": made.ours.vae}
    added = {k: told.pop(k) for k in ("controlnet", "image_encoder", "unet") if k in told}
    scheduler = type(made.ours.scheduler).from_config(made.ours.scheduler.config)
    pipe = getattr(diffusers, name)(**{**parts, **added, "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    if "ip" in told:
        pipe.load_ip_adapter(told.pop("ip"), subfolder="", weight_name="x.bin", image_encoder_folder=None)
    return pipe(prompt="a red mug", negative_prompt="blue", num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(7)], **{"output_type": "pt", **told}).images


def ours(made: Twin, given: Given, job: Fixed, **params: Any) -> torch.Tensor:
    p = Drawing(**{"prompt": "a red mug", "negative": "blue", "steps": STEPS, "guidance": GUIDANCE, "sampler": "own",
                   **params})
    return draw(made.ours, p, job, (SIZE, SIZE), given).clamp(0, 1)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.std() > 0.01
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


class Skipping(Fixed):
    """Its generator stands where diffusers' does after it drew ``skip`` latents of ``channels``."""

    channels = 4

    def generator(self, candidate: int = 0) -> torch.Generator:
        g = torch.Generator().manual_seed(7)
        for _ in range(self.skip):
            torch.randn(self.channels, SIZE // 8, SIZE // 8, generator=g)
        return g


def test_changing_a_picture_with_pndm() -> None:
    made = exact(tiny_families.sd15())
    wanted = theirs("StableDiffusionImg2ImgPipeline", made, image=tensor(picture()), strength=0.6)
    same(ours(made, Given(start=tensor(picture()), strength=0.6), Skipping(1)), wanted)


def test_sdxl_with_a_controlnet() -> None:
    made = exact(tiny_families.sdxl_())
    net = sharpened_controlnet(1, made.ours.unet)
    wanted = theirs("StableDiffusionXLControlNetPipeline", made, controlnet=net, image=tensor(picture(1)),
                    controlnet_conditioning_scale=0.7, control_guidance_end=0.8)
    control = Control(net, "edges", made.ours.family, "canny-sdxl")
    told = {"controls": ("edges",), "control_scales": (0.7,), "control_ends": (0.8,)}
    same(ours(made, Given(maps=(tensor(picture(1)),)), Skipping(control_edges=control), **told), wanted)
    assert (ours(made, Given(), Skipping()) - wanted).abs().max() > 100 * TOLERANCE


def test_sdxl_with_an_image_prompt() -> None:
    made = exact(tiny_families.sdxl_())
    weights = adapter_weights("plus", unet=made.ours.unet)
    shown = tensor(picture(4, 40))
    wanted = theirs("StableDiffusionXLPipeline", made, unet=shared(made.ours.unet), image_encoder=image_encoder(),
                    ip=weights, ip_adapter_image_embeds=[embeds("plus", shown)], height=SIZE, width=SIZE)
    adapter = ImagePrompt(weights, image_encoder(), 32, "plus", made.ours.family, "ip-sdxl")
    same(ours(made, Given(like=shown), Skipping(image_prompt=adapter), like_scale=1.0), wanted)
    assert (ours(made, Given(), Skipping()) - wanted).abs().max() > 100 * TOLERANCE


def test_a_flow_changes_and_repaints_pictures() -> None:
    made = exact(tiny_families.sd3_(with_t5=False))
    told = {"height": SIZE, "width": SIZE}
    job = Skipping(1)
    job.channels = 16
    wanted = theirs("StableDiffusion3Img2ImgPipeline", made, ("image_encoder", "feature_extractor"),
                    image=tensor(picture()), strength=0.6, **told)
    same(ours(made, Given(start=tensor(picture()), strength=0.6), job), wanted)
    mask = torch.from_numpy(square_mask()).float()[None, None]
    latents = theirs("StableDiffusion3InpaintPipeline", made, ("image_encoder", "feature_extractor"),
                     image=tensor(picture()), mask_image=mask, strength=0.6, output_type="latent", **told)
    with torch.no_grad():  # by ours: that pipeline of diffusers 0.42 forgets the VAE's shift when it decodes
        wanted = made.ours.decode(latents).clamp(0, 1)
    same(ours(made, Given(start=tensor(picture()), mask=square_mask(), strength=0.6), job), wanted)
    again = ours(made, Given(start=tensor(picture()), mask=square_mask(), rounds=3), job)  # a flow's levels too go back
    assert torch.isfinite(again).all() and again.std() > 0.01


def test_a_consistency_model_is_told_its_guidance() -> None:
    made = exact(tiny_families.lcm())
    a, b = (ours(made, Given(start=tensor(picture()), strength=0.8), Skipping(1), guidance=g) for g in (2.0, 8.0))
    assert (a - b).abs().max() > 100 * TOLERANCE


def test_what_a_family_cannot_do_is_one_line() -> None:
    sd3, (cascade, _) = exact(tiny_families.sd3_(with_t5=False)), tiny_families.deepfloyd_()
    net = sharpened_controlnet(1, tiny_families.sd15().ours.unet)
    control = Control(net, "edges", "sd15", "canny")
    maps = {"controls": ("edges",)}
    with pytest.raises(BadInput, match="canny is for U-Nets"):
        ours(sd3, Given(maps=(tensor(picture()),)), Skipping(control_edges=control), **maps)
    adapter = ImagePrompt(adapter_weights(), image_encoder(), 32, "base", "sd15", "ip")
    with pytest.raises(BadInput, match="image prompts are for U-Nets"):
        ours(sd3, Given(like=tensor(picture())), Skipping(image_prompt=adapter), like_scale=1.0)
    with pytest.raises(BadInput, match="cascade of sizes"):
        draw(cascade.ours, Drawing(prompt="a red mug"), Skipping(), (SIZE, SIZE))
    xl = exact(tiny_families.sdxl_())
    with pytest.raises(BadInput, match="canny is for sd15, and the model is of the family sdxl"):
        ours(xl, Given(maps=(tensor(picture()),)), Skipping(control_edges=control), **maps)
    with pytest.raises(BadInput, match="ip is for sd15"):
        ours(xl, Given(like=tensor(picture())), Skipping(image_prompt=adapter), like_scale=1.0)
    small = Given(maps=(tensor(picture(size=32)),))
    own = Control(sharpened_controlnet(1, xl.ours.unet), "edges", "sdxl", "canny-sdxl")
    with pytest.raises(BadInput, match="map for canny-sdxl is 32 x 32 pixels, the picture 64 x 64"):
        ours(xl, small, Skipping(control_edges=own), **maps)


def test_the_x4_upscaler_enlarges_pictures_of_any_size() -> None:
    from engine.artifacts import Picture
    from engine.stages.upscale import Upscale, upscale
    made = tiny_families.x4_upscaler()
    job = Fixed(upscale=made.ours)
    image = np.asarray(picture(size=30)[:, :21])
    out = upscale(Picture(image), Upscale(method="model", prompt="a red mug", steps=3), job)
    assert out.image.shape == (120, 84, 3) and out.meta == {"method": "model", "factor": 4, "seed": 0}
    assert "consistency_db" in job.metrics and job.fractions[-1] == 1
    even = np.asarray(picture(size=16))
    shown = upscale(Picture(even), Upscale(method="model", prompt="a red mug", negative="blue", steps=3, guidance=3.0),
                    job)
    made.bare.set_progress_bar_config(disable=True)
    bare = made.bare(prompt="a red mug", negative_prompt="blue", image=tensor(even), num_inference_steps=3,
                     guidance_scale=3.0, noise_level=20, output_type="np",
                     generator=[torch.Generator().manual_seed(7)]).images[0]
    assert np.abs(shown.image - bare).max() < 0.5 / 255 + TOLERANCE  # as 8 bits hold it
    with pytest.raises(BadInput, match="enlarges 4 times, not 2"):
        upscale(Picture(even), Upscale(method="model", factor=2), job)


@pytest.mark.parametrize(("name", "family", "count"), [("ip-adapter_sd15", "sd15", 4),
                                                         ("instantid-ip-adapter", "sdxl", 16)])
def test_published_adapters_fit_real_unets_whole(name: str, family: str, count: int) -> None:
    """Every key of the published files has its place in a U-Net of real size (no memory: placeholders only)."""
    from diffusers import UNet2DConditionModel
    from real_files import shapes_of

    import engine.models
    from engine.diffusion import image_prompt as prompts
    configs = Path(engine.models.__file__).parent / "configs" / family / "unet"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs))
        keys = {key: torch.empty(shape) for key, shape in shapes_of(name).items()}
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in keys.items():
        part, _, inner = key.partition("/")
        parts[part][inner] = value
    pairs = prompts.layers(unet, parts["ip_adapter"], name)
    assert len(pairs) == len(parts["ip_adapter"]) / 2 == {"sd15": 16, "sdxl": 70}[family]
    made = prompts.projection(parts["image_proj"], name)
    assert sum(p.numel() for p in made.parameters()) == sum(t.numel() for t in parts["image_proj"].values())
    source = torch.empty((1, 1, 512) if family == "sdxl" else (1, 1024), device="meta")
    assert made(source).shape == (1, count, {"sd15": 768, "sdxl": 2048}[family])
