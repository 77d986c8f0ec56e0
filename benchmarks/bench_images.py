"""What text to image costs through our stage, over diffusers' bare pipeline: ``python -m benchmarks images``.

Both draw the same pictures from the same noise with the same networks, sampler, steps and guidance, in turns. What the
stage does more is overhead: progress with small pictures of what is being drawn, CLIP's judgement of every candidate,
seeds, warnings and papers. The bare pipeline gets the same channels-last networks; its progress bar is off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.bench_models import BenchJob, Row, row
from engine.models.families.base import Defaults, TextToImage
from engine.stages.text_to_image import TextToImage as Params
from engine.stages.text_to_image import text_to_image

BAR, AIM = 3.0, 1.0
"""Per cent over the bare pipeline."""
REPEATS = 7
TEXT, NEGATIVE = "a red mug, front view", "blue"


class ModelJob(BenchJob):
    """A job whose models are the ones given, by role."""

    def __init__(self, models: dict[str, Any], device: str) -> None:
        super().__init__(TEXT)
        self.device, self._given = device, models

    def model(self, role: str) -> Any:
        return self._given[role]


def bare_pipeline(model: Any, sampler: str) -> Any:
    """diffusers' own, around the same networks."""
    from diffusers import StableDiffusionPipeline

    from engine.diffusion.sampling import scheduler_for
    pipe = StableDiffusionPipeline(
        unet=model.unet, vae=model.vae, text_encoder=model.text_encoder, tokenizer=model.tokenizer,
        scheduler=scheduler_for(model.scheduler, sampler), safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def overhead_rows(name: str, model: Any, scorer: Any, device: str, *, candidates: int, steps: int, guidance: float,
                  sampler: str, repeats: int = REPEATS) -> list[Row]:
    """The stage and the pipeline in turns; the overhead is the median over pairs, which a busy moment cannot tilt."""
    pipe = bare_pipeline(model, sampler)
    job = ModelJob({"text_to_image": model, "image_text": scorer}, device)
    params = Params(prompt=TEXT, negative=NEGATIVE, candidates=candidates, steps=steps, guidance=guidance,
                    sampler=sampler)  # type: ignore[arg-type]

    def ours() -> np.ndarray:
        return np.stack([p.image for p in text_to_image(params, job).pictures])

    def theirs() -> np.ndarray:
        drawing = [job.generator(i) for i in range(candidates)]
        with torch.inference_mode():
            return np.asarray(pipe([TEXT] * candidates, negative_prompt=[NEGATIVE] * candidates, generator=drawing,
                                   num_inference_steps=steps, guidance_scale=guidance, output_type="np").images)

    pairs = []
    difference = 0.0
    for repeat in range(repeats + 1):
        order = (ours, theirs) if repeat % 2 else (theirs, ours)
        taken = {work: _timed(work, device) for work in order}
        difference = float(np.abs(taken[ours][1] - taken[theirs][1]).max())
        if repeat:  # the first warms both
            pairs.append((taken[ours][0], taken[theirs][0]))
    over = 100 * (median(a / b for a, b in pairs) - 1)
    spread = sorted(100 * (a / b - 1) for a, b in pairs)
    seconds, alone = median(a for a, _ in pairs), median(b for _, b in pairs)
    return [row(f"{name}: the stage over the bare pipeline", over, "%", BAR, AIM,
                f"{candidates} pictures, {steps} steps of {sampler}, guidance {guidance:g}; median of {repeats} pairs, "
                f"from {spread[0]:.1f} to {spread[-1]:.1f} %; pictures differ by at most {difference:.1e}"),
            row(f"{name}: the stage", seconds, "s", note=f"bare {alone:.2f} s")]


def _timed(work: Callable[[], np.ndarray], device: str) -> tuple[float, np.ndarray]:
    _wait(device)
    began = time.perf_counter()
    made = work()
    _wait(device)
    return time.perf_counter() - began, made


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def random_model(device: str, dtype: torch.dtype, width: int = 320, size: int = 512) -> Any:
    """Stable Diffusion 1.5's networks with random weights, U-Net and VAE of 320 or of another ``width`` in proportion;
    the built-in words."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from engine.models.sets import model_set
    words = model_set("builtin").load("text_to_image").tokenizer
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=size // 8, cross_attention_dim=768, attention_head_dim=8,
                                    block_out_channels=(width, 2 * width, 4 * width, 4 * width))
        vae = AutoencoderKL(block_out_channels=tuple(c * width // 320 for c in (128, 256, 512, 512)),
                            layers_per_block=2, latent_channels=4, sample_size=size,
                            down_block_types=("DownEncoderBlock2D",) * 4,
                            up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215)
        text = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), hidden_size=768, intermediate_size=3072,
                                            num_hidden_layers=12, num_attention_heads=12,
                                            max_position_embeddings=words.model_max_length))
    for network in (unet, vae, text):
        torch.nn.Module.to(network, dtype).eval().requires_grad_(False)
    for network in (unet, vae):
        torch.nn.Module.to(network, memory_format=torch.channels_last)
    scheduler = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True,
                              steps_offset=1)
    return TextToImage(unet, vae, text, words, scheduler, size, family="sd15", defaults=Defaults(25, 7.5, "dpm"))


def random_scorer(device: str, dtype: torch.dtype) -> Any:
    """CLIP ViT-L/14's size with random weights; the built-in words."""
    from transformers import CLIPConfig, CLIPModel

    from engine.models.sets import model_set
    words = model_set("builtin").load("image_text").tokenizer
    with torch.device(device):
        clip = CLIPModel(CLIPConfig(
            text_config={"vocab_size": len(words), "hidden_size": 768, "intermediate_size": 3072,
                         "num_hidden_layers": 12, "num_attention_heads": 12,
                         "max_position_embeddings": words.model_max_length},
            vision_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                           "num_attention_heads": 16, "patch_size": 14, "image_size": 224}, projection_dim=768))
    return SimpleNamespace(clip=clip.to(dtype).eval().requires_grad_(False), tokenizer=words, known=None)


def rows(device: str | None = None) -> list[Row]:
    """All figures of this file: the built-in models, and Stable Diffusion 1.5's networks with random weights, on a
    CUDA device in full and in half precision, else half as wide and at 256 pixels."""
    from engine.models.sets import model_set
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    models = model_set("builtin")
    drawing, judging = (models.load(role, device) for role in ("text_to_image", "image_text"))
    found = overhead_rows("built-in, 128 px", drawing, judging, device, candidates=4, steps=20, guidance=3.0,
                          sampler="ddim")
    if device.startswith("cuda"):
        half = torch.bfloat16
        return found + overhead_rows("Stable Diffusion 1.5's size, 512 px, bfloat16", random_model(device, half),
                                     random_scorer(device, torch.float32), device, candidates=4, steps=25,
                                     guidance=7.5, sampler="dpm")
    return found + overhead_rows("Stable Diffusion 1.5 half as wide, 256 px", random_model(device, torch.float32, 160,
                                                                                           256),
                                 judging, device, candidates=1, steps=10, guidance=7.5, sampler="dpm", repeats=3)
