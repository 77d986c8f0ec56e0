"""Loading checked folders of weights into roles. Weights in half precision become single precision on every device:
the built-in networks are small, and results then differ less between devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from engine.diffusion.novel_view import CameraVectors, CCProjection, camera_vectors
from engine.errors import BadInput
from engine.models import packed
from engine.models.cards import REPAIR
from engine.models.families.base import Defaults
from engine.models.families.base import TextToImage as TextToImage  # of every family; what is here is of other roles
from engine.models.known import Known
from engine.models.open_checkpoint import load_part


@dataclass(frozen=True)
class ImageText:
    """clip : CLIPModel; tokenizer : fast tokenizer; known : what the set's models saw, where it was measured"""

    clip: Any
    tokenizer: Any
    known: Known | None = None


ONE_STEP = Defaults(1, 1.0, "ddim")
"""One step of a network that was taught most at pure noise: the mean of all views that fit."""
PUBLISHED_VIEWS = Defaults(50, 3.0, "ddim")
"""Zero-1-to-3 as its authors use it (Liu et al. 2023: DDIM, guidance 3)."""


@dataclass(frozen=True)
class NovelView:
    """unet : UNet2DConditionModel with 8 input channels; cc_projection : CCProjection; vae : AutoencoderKL

    image_encoder : callable, (b, 3, h, w) pixels normalised for CLIP -> (b, d) projected embeddings
    image_size : pixels that the image encoder takes; scheduler : DDIMScheduler as trained; size : pixels
    cameras : how its family is told where to look from; defaults : how it is used where the user says nothing
    """

    unet: Any
    cc_projection: Any
    image_encoder: Callable[[torch.Tensor], torch.Tensor]
    image_size: int
    vae: Any
    scheduler: Any
    size: int
    cameras: CameraVectors = camera_vectors
    defaults: Defaults = ONE_STEP


@dataclass(frozen=True)
class Control:
    """net : ControlNetModel; kind : "edges", "depth", "pose", "parts", ... (what its picture shows)

    family : of the text-to-image models that it steers ("sd15", "sdxl", ...); name : what messages call it
    """

    net: Any
    kind: str
    family: str
    name: str = "the ControlNet"


@dataclass(frozen=True)
class ImagePrompt:
    """weights : {"image_proj": ..., "ip_adapter": ...}, tensors by name (IP-Adapter, Ye et al. 2023)

    image_encoder : CLIPVisionModelWithProjection; image_size : pixels that it takes
    kind : "base", "plus", "full", "face" (InstantID); family : of the text-to-image models that it fits
    control : InstantID's own ControlNet, which sees the face's tokens; None for the others
    """

    weights: dict[str, dict[str, torch.Tensor]]
    image_encoder: Any
    image_size: int
    kind: str
    family: str
    name: str = "the image prompt"
    control: Control | None = None


@dataclass(frozen=True)
class Matting:
    """unet : UNet2DModel, pictures (b, 3, h, w) in [-1, 1] -> one channel of logits of alpha; size : pixels

    drawn : such a network for what the built-in models draw over white, at the size it was drawn; None: there is none
    """

    unet: Any
    size: int
    drawn: Any = None


@dataclass(frozen=True)
class ViewJudge:
    """net : engine.diffusion.view_judge.ViewJudgeNet, asked through that module's ``look``"""

    net: Any


def _finish(model: torch.nn.Module, device: str) -> Any:
    return model.to(device).eval().requires_grad_(False)


def _strictly(model: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Put tensors into a model whose parameters are placeholders; every key and shape must fit."""
    try:
        model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise BadInput(f"the weights {path} do not fit their config.json: {' '.join(str(error).split())[:300]}",
                       REPAIR) from error


def load_diffusers(cls: Any, folder: Path, device: str) -> Any:
    """A diffusers model from config.json + diffusion_pytorch_model.safetensors, every key accounted for."""
    path = folder / "diffusion_pytorch_model.safetensors"
    config = _config(lambda: cls.load_config(folder, local_files_only=True), folder)
    with torch.device("meta"):  # no time lost on random numbers that are thrown away
        model = cls.from_config(config)
    _strictly(model, _tensors(path), path)
    # Convolutions are the faster for it, on the CPU most of all; values stay the same.
    return _finish(model.to(memory_format=torch.channels_last), device)


def _config(read: Callable[[], Any], folder: Path) -> Any:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the configuration in {folder}: {error}", REPAIR) from error


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return packed.load(path)
    except Exception as error:  # safetensors raises its own class, OSError or ValueError by the damage
        raise BadInput(f"cannot read the weights {path}: {error}", REPAIR) from error


def load_clip(folder: Path, device: str) -> Any:
    """A transformers CLIPModel. Its position ids are no weights, so it is made for real and then filled."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.initialization import no_init_weights
    config = _config(lambda: CLIPConfig.from_pretrained(folder, local_files_only=True), folder)
    with no_init_weights():
        model = CLIPModel(config)
    _strictly(model, _tensors(folder / "model.safetensors"), folder / "model.safetensors")
    return _finish(model, device)


def load_tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast
    return _config(lambda: PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True), folder)


def load_scheduler(folder: Path) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    return _config(lambda: DDIMScheduler.from_pretrained(folder, local_files_only=True), folder)


def load_vae(folder: Path, device: str) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    return load_diffusers(AutoencoderKL, folder, device)


def load_unet(folder: Path, device: str) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    return load_diffusers(UNet2DConditionModel, folder, device)


def load_public_clip(folder: Path, dtype: torch.dtype, allow_pickle: bool = False) -> Any:
    """A whole CLIPModel of a transformers folder. Raises BadInput where it is another kind of model."""
    model = load_part(folder, "clip", "clip", dtype=dtype, allow_pickle=allow_pickle)
    if not hasattr(model, "visual_projection") or not hasattr(model, "text_projection"):
        raise BadInput(f"{folder} holds a {type(model).__name__}, no CLIP with both towers",
                       "give a CLIP model, for instance openai/clip-vit-large-patch14")
    return model


def load_matting(folder: Path, device: str, drawn: Path | None = None) -> Matting:
    """drawn : the folder of the second network"""
    from diffusers.models.unets.unet_2d import UNet2DModel
    unet = load_diffusers(UNet2DModel, folder, device)
    second = None if drawn is None else load_diffusers(UNet2DModel, drawn, device)
    return Matting(unet, int(unet.config.sample_size), second)


def load_view_judge(folder: Path, device: str) -> ViewJudge:
    from engine.diffusion import view_judge
    return ViewJudge(view_judge.load_view_judge(folder, device))


def load_projection(folder: Path, device: str) -> Any:
    return load_diffusers(CCProjection, folder, device)


def size_of(unet: Any, vae: Any) -> int:
    """Native pixels: the U-Net's latent size times the VAE's factor."""
    return int(unet.config.sample_size) * int(2 ** (len(vae.config.block_out_channels) - 1))


class ProjectedEncoder(torch.nn.Module):
    """A CLIPVisionModelWithProjection as Zero-1-to-3 asks it: pixels (b, 3, h, w) -> (b, d), projected, not
    normalised."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixel_values=pixels).image_embeds


class ImageTower(torch.nn.Module):
    """The picture's half of a CLIPModel, asked and answering as CLIPVisionModelWithProjection (``image_embeds``)."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        self.config = clip.config.vision_config

    def forward(self, pixel_values: torch.Tensor, output_hidden_states: bool = False) -> SimpleNamespace:
        seen = self.vision_model(pixel_values=pixel_values, output_hidden_states=output_hidden_states)
        return SimpleNamespace(image_embeds=self.visual_projection(seen.pooler_output),
                               hidden_states=seen.hidden_states)


def image_encoder(clip: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """CLIP's projected, not normalised image embedding, as Zero-1-to-3 takes it."""
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    return encode
