"""Tiny networks of the real shapes for the image tests, and diffusers' own pipelines around the very same weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from tiny_models import CONTEXT, SIZE, ListJob, tiny_set

from engine.models.loading import Control
from engine.models.loading import ImagePrompt as ImagePromptModel


def perturbed(module: torch.nn.Module, seed: int, amount: float = 0.3) -> torch.nn.Module:
    """Zero convolutions of a fresh ControlNet would hide every mistake: nothing stays zero here."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(amount * torch.randn(p.shape, generator=g) / max(p[0].numel(), 1) ** 0.5)
    return module


@cache
def model() -> Any:
    """The tiny set's text-to-image model, with a VAE whose posterior has no spread: its sample is its mode."""
    found = tiny_set().load("text_to_image", "cpu")
    import copy
    vae = copy.deepcopy(found.vae)
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30
    return found.changed(vae=vae)


def controlnet(seed: int, unet: Any = None) -> Any:
    return sharpened_controlnet(seed, unet or model().unet)


def sharpened_controlnet(seed: int, unet: Any) -> Any:
    """A random ControlNet of a U-Net that notices what it is shown."""
    from diffusers import ControlNetModel
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    perturbed(net, seed)
    with torch.no_grad():  # or what it is shown would be lost behind seven small convolutions
        for name, p in net.controlnet_cond_embedding.named_parameters():
            p.mul_(3 if name.endswith("weight") else 0.1)
    return net.eval().requires_grad_(False)


def control(seed: int, kind: str = "edges") -> Control:
    return Control(controlnet(seed), kind, model().family, f"the {kind} control")


def pipe(name: str, **parts: Any) -> Any:
    """A bare diffusers pipeline on the tiny model's parts; ``parts`` replace or add."""
    import diffusers
    m = model()
    given = {"vae": m.vae, "text_encoder": m.text_encoder, "tokenizer": m.tokenizer, "unet": m.unet,
             "scheduler": type(m.scheduler).from_config(m.scheduler.config), "safety_checker": None,
             "feature_extractor": None, "requires_safety_checker": False, **parts}
    made = getattr(diffusers, name)(**given)
    made.set_progress_bar_config(disable=True)
    return made


def nine_channels() -> Any:
    """The tiny model with an inpainting network in its place."""
    from diffusers import UNet2DConditionModel
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config({**model().unet.config, "in_channels": 9}).eval().requires_grad_(False)
    return model().changed(unet=unet)


def picture(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """A soft random picture (size, size, 3) of 8-bit numbers."""
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=g), (size, size), mode="bicubic",
                                        align_corners=False).clamp(0, 1)
    return (np.round(x[0].permute(1, 2, 0).numpy() * 255) / 255).astype(np.float32)


def square_mask(size: int = SIZE) -> np.ndarray:
    """True in a square whose borders lie on latent cells (8 pixels)."""
    mask = np.zeros((size, size), bool)
    mask[16:48, 24:56] = True
    return mask


def adapter_weights(kind: str = "base", seed: int = 3, unet: Any = None) -> dict[str, dict[str, torch.Tensor]]:
    """Random tensors under a published IP-Adapter's names, for a tiny U-Net."""
    unet = unet or model().unet
    width = int(unet.config.cross_attention_dim)
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g) / shape[-1] ** 0.5
    ip: dict[str, torch.Tensor] = {}
    for i, name in enumerate(n for n in unet.attn_processors if n.endswith("attn2.processor")):
        inner = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for part in "kv":
            ip[f"{2 * i + 1}.to_{part}_ip.weight"] = rand(inner, width)
    if kind == "base":
        return {"image_proj": {"proj.weight": rand(4 * width, CONTEXT), "proj.bias": rand(4 * width),
                               "norm.weight": 1 + rand(width), "norm.bias": rand(width)}, "ip_adapter": ip}
    seen, hidden, inner, queries = (512 if kind == "face" else CONTEXT), 32, 128, 5
    proj = {"latents": rand(1, queries, hidden), "proj_in.weight": rand(hidden, seen), "proj_in.bias": rand(hidden),
            "proj_out.weight": rand(width, hidden), "proj_out.bias": rand(width),
            "norm_out.weight": 1 + rand(width), "norm_out.bias": rand(width)}
    for i in range(4):  # as many as every published one has
        layer = {"0.norm1.weight": 1 + rand(hidden), "0.norm1.bias": rand(hidden), "0.norm2.weight": 1 + rand(hidden),
                 "0.norm2.bias": rand(hidden), "0.to_q.weight": rand(inner, hidden),
                 "0.to_kv.weight": rand(2 * inner, hidden), "0.to_out.weight": rand(hidden, inner),
                 "1.0.weight": 1 + rand(hidden), "1.0.bias": rand(hidden), "1.1.weight": rand(4 * hidden, hidden),
                 "1.3.weight": rand(hidden, 4 * hidden)}
        proj |= {f"layers.{i}.{name}": value for name, value in layer.items()}
    return {"image_proj": proj, "ip_adapter": ip}


@cache
def image_encoder() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    torch.manual_seed(9)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=CONTEXT, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32,
        patch_size=16, projection_dim=CONTEXT)).eval().requires_grad_(False)


def image_prompt(kind: str = "base", **changes: Any) -> ImagePromptModel:
    given: dict[str, Any] = {"weights": adapter_weights(kind), "image_encoder": image_encoder(), "image_size": 32,
                             "kind": kind, "family": model().family, "name": f"the {kind} adapter", **changes}
    return ImagePromptModel(**given)


class Given(ListJob):
    """A job whose models are given by hand; the tiny text-to-image model where none is."""

    def __init__(self, seed: int = 1, **models: Any) -> None:
        super().__init__(seed=seed)
        self.models = {"text_to_image": model(), **models}

    def model(self, role: str) -> Any:
        return self.models[role.replace(".", "_")]
