"""Diffusion models as guidance sees them: Stable Diffusion's family by prompt, Zero-1-to-3's by picture and camera.

Both take the dataclasses that ``job.model`` returns (``engine.models.loading``), built-in or real; a model without a
VAE works on pixels. A model of the wrong family is refused here, in one line, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.artifacts import Picture, over_white
from engine.conventions import zero123
from engine.diffusion import framing, novel_view, pictures, prompt
from engine.diffusion.guidance.base import Conditions, Shot, alphabar, to_epsilon
from engine.errors import BadInput

OTHER = "choose another model set for the role"


class DiffusersPrior:
    """A diffusers U-Net (UNet2DConditionModel) with its VAE, or with none: then latents are pictures in [-1, 1].

    size : pixels of a side that pictures are brought to; latents are float32, or wider where the VAE is
    """

    def __init__(self, unet: Any, vae: Any, scheduler: Any, size: int) -> None:
        self.unet, self.vae, self.scheduler, self.size = unet, vae, scheduler, size
        self.device = next(unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What latents and noise are computed in: float32, or what the U-Net has where that is wider."""
        return torch.promote_types(next(self.unet.parameters()).dtype, torch.float32)

    def encode(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) sRGB in [0, 1] -> (b, c, h', w'), differentiable.

        The mean of the VAE's posterior: a draw from it would add noise to the gradient and nothing else.
        """
        x = pictures.vae_input(fit(images.to(self.device, self.dtype), self.size))
        if self.vae is None:
            return x
        weights = next(self.vae.parameters()).dtype
        posterior = self.vae.encode(x.to(weights).contiguous(memory_format=torch.channels_last)).latent_dist
        return posterior.mode().to(self.dtype) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """(b, c, h', w') -> (b, 3, size, size) in about [0, 1], unclamped."""
        if self.vae is None:
            return latents / 2 + 0.5
        return pictures.decode(self.vae, latents.to(next(self.vae.parameters()).dtype)).to(self.dtype)

    def predict(self, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The network's own prediction (noise, v or sample), in the type of ``noisy``; a learned variance is left
        out. noisy : (n, c, h', w'), t : (n,), n conditions -> (n, c, h', w')"""
        weights = next(self.unet.parameters()).dtype
        x = noisy if conditions.beside is None else novel_view.unet_input(noisy, conditions.beside.to(noisy))
        said = self.unet(x.to(weights).contiguous(memory_format=torch.channels_last), t.to(noisy.device),
                         encoder_hidden_states=conditions.context.to(weights)).sample
        return said[:, :noisy.shape[1]].to(noisy.dtype)

    def epsilon(self, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The noise that the network sees in ``noisy`` at steps t, whatever it predicts."""
        t = t.to(noisy.device)
        return to_epsilon(self.predict(noisy, t, conditions), noisy, alphabar(self.scheduler, t).to(noisy.dtype),
                          self.scheduler.config.prediction_type)

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks that a guidance step keeps in memory, by name."""
        return {"unet": self.unet} | ({} if self.vae is None else {"vae": self.vae})


class TextPrior(DiffusersPrior):
    """Text to image: what a prompt looks like. ``embed`` is asked once a run; then the encoder can be let go."""

    def __init__(self, models: Any, size: int | None = None) -> None:
        _parts(models, "text_to_image", ("unet", "vae", "text_encoder", "tokenizer", "scheduler"))
        if getattr(models, "home", None) is not None:
            raise BadInput(f"{models.name} does not fit {models.device} as a whole, and guidance asks its U-Net and "
                           "VAE at every step", "free memory there, choose a smaller model set, or use --device cpu")
        _check_scheduler(models.scheduler, "text_to_image")
        width = _check_unet(models.unet, "text_to_image")
        channels = 3 if models.vae is None else int(models.vae.config.latent_channels)
        if int(models.unet.config.in_channels) != channels:
            raise BadInput(f"the text_to_image network takes {models.unet.config.in_channels} channels, not {channels}"
                           f"{_KNOWN_CHANNELS.get(int(models.unet.config.in_channels), '')}", f"{OTHER} text_to_image")
        hidden = getattr(models.text_encoder.config, "hidden_size", None) or models.text_encoder.config.d_model
        if width != hidden:
            raise BadInput(f"the text_to_image network attends to {width} numbers a token, the text encoder gives "
                           f"{hidden}", "give the text encoder that the network was trained with")
        super().__init__(models.unet, models.vae, models.scheduler, size or int(models.size))
        self.text_encoder, self.tokenizer = models.text_encoder, models.tokenizer

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """-> (n, tokens, d), on the device."""
        if getattr(self.text_encoder.config, "model_type", "") == "t5":  # DeepFloyd IF masks its padding
            made = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt",
                                  max_length=min(77, self.tokenizer.model_max_length)).to(self.device)
            return self.text_encoder(**made).last_hidden_state
        return prompt.encode(self.text_encoder, self.tokenizer, texts, self.device)


class ViewPrior(DiffusersPrior):
    """Novel view: what the subject of a picture looks like from elsewhere (Zero-1-to-3).

    picture : the framed subject (s, s, 4); elevation_deg : where it was taken from; none: what the picture says,
    else 20
    """

    def __init__(self, models: Any, picture: Picture, elevation_deg: float | None = None, size: int | None = None
                 ) -> None:
        _parts(models, "novel_view", ("unet", "cc_projection", "image_encoder", "image_size", "vae", "scheduler"))
        _check_scheduler(models.scheduler, "novel_view")
        width = _check_unet(models.unet, "novel_view")
        channels = 3 if models.vae is None else int(models.vae.config.latent_channels)
        if int(models.unet.config.in_channels) != 2 * channels:
            raise BadInput(f"the novel_view network takes {models.unet.config.in_channels} channels, not the "
                           f"{2 * channels} of Zero-1-to-3 (noisy and condition)", f"{OTHER} novel_view")
        projected = int(models.cc_projection.config.out_channel)
        if width != projected:
            raise BadInput(f"the novel_view network attends to {width} numbers a token, its camera projection gives "
                           f"{projected}", "give the projection that the network was trained with")
        super().__init__(models.unet, models.vae, models.scheduler, size or int(models.size))
        self.projection = models.cc_projection
        self.cameras = getattr(models, "cameras", novel_view.camera_vectors)
        self.azimuth_deg = picture.azimuth_deg or 0.0
        said = elevation_deg if elevation_deg is not None else picture.elevation_deg
        self.elevation_deg = prompt.DEFAULT_ELEVATION_DEG if said is None else said
        framed = framing.crop_square(picture.image, framing.Square(0, 0, picture.image.shape[0]), self.size)
        shown = pictures.tensor_of(over_white(framed)[None], self.device)
        with torch.no_grad():
            self.embedding = models.image_encoder(pictures.clip_input(shown, models.image_size))
            self.condition = self._condition(pictures.vae_input(shown))
        takes = int(models.cc_projection.config.in_channel) - novel_view.CAMERA_NUMBERS
        if self.embedding.shape[-1] != takes:
            raise BadInput(f"the camera projection takes {takes} numbers of the picture, its encoder gives "
                           f"{self.embedding.shape[-1]}", "give the image encoder that the network was trained with")

    def _condition(self, shown: Tensor) -> Tensor:
        if self.vae is None:
            return shown
        return novel_view.condition_latents(self.vae, shown.to(next(self.vae.parameters()).dtype))

    @torch.no_grad()
    def conditions(self, shot: Shot) -> tuple[Conditions, Conditions]:
        """(wanted, unwanted) of a shot, b rows each: the subject from there; zeros for token and picture."""
        b = len(shot)
        place = [v.to(self.device, torch.float32) for v in (shot.elevation_deg, shot.azimuth_deg, shot.distance)]
        cameras = self.cameras(torch.full_like(place[0], self.elevation_deg), place[0], place[1] - self.azimuth_deg,
                               place[2] - zero123.CANONICAL_RADIUS)
        weights = next(self.projection.parameters()).dtype
        tokens = novel_view.context(self.projection, self.embedding.to(weights).expand(b, -1), cameras)
        beside = self.condition.expand(b, -1, -1, -1)
        none = novel_view.drop_conditions(tokens, beside, [True] * b)
        return Conditions(tokens, beside), Conditions(*none)

    def modules(self) -> dict[str, torch.nn.Module]:
        return super().modules() | {"cc_projection": self.projection}


def text_prior(models: Any, size: int | None = None) -> TextPrior:
    """What ``job.model("text_to_image")`` returns, as a prior. Raises BadInput for models of another family."""
    return TextPrior(models, size)


def view_prior(models: Any, picture: Picture, elevation_deg: float | None = None, size: int | None = None
               ) -> ViewPrior:
    """What ``job.model("novel_view")`` returns and the framed subject, as a prior. Raises BadInput as above."""
    return ViewPrior(models, picture, elevation_deg, size)


def fit(images: Tensor, size: int) -> Tensor:
    """(b, 3, h, w) -> (b, 3, size, size), bilinear and antialiased; as it is where the size is right."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise BadInput(f"renders have the shape {tuple(images.shape)}", "give them as (batch, 3, height, width)")
    if images.shape[-2:] == (size, size):
        return images
    return torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


# -- families ----------------------------------------------------------------------------------------------------------

_KNOWN_CHANNELS = {8: " (8 is Zero-1-to-3 or InstructPix2Pix)", 9: " (9 is an inpainting model)"}


def _parts(models: Any, role: str, names: Sequence[str]) -> None:
    missing = [n for n in names if not hasattr(models, n)]
    if missing:
        raise BadInput(f"the model given for the role {role} is a {type(models).__name__} without "
                       f"{', '.join(missing)}", f"give what job.model({role!r}) returns")


def _check_scheduler(scheduler: Any, role: str) -> None:
    if not hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler.config, "prediction_type"):
        raise BadInput(f"the {role} model's {type(scheduler).__name__} has no alphas_cumprod: score distillation needs "
                       "a model trained to remove noise (DDPM), not a flow", f"{OTHER} {role}")
    to_epsilon(torch.zeros(()), torch.zeros(()), torch.tensor(0.5), scheduler.config.prediction_type)


def _check_unet(unet: Any, role: str) -> int:
    """The width of the context that a U-Net attends to. Raises BadInput for networks that are told other things."""
    config = getattr(unet, "config", None)
    if config is None or getattr(config, "cross_attention_dim", None) is None:
        raise BadInput(f"the {role} network is a {type(unet).__name__}, no UNet2DConditionModel", f"{OTHER} {role}")
    c, out = int(config.in_channels), int(config.out_channels)
    if role == "text_to_image" and config.addition_embed_type == "text_time":
        raise BadInput("the text_to_image network is Stable Diffusion XL's: it wants sizes and a second text encoder, "
                       "which guidance does not give it", "use the sd15 family for the role text_to_image")
    unknown = [n for n in ("class_embed_type", "num_class_embeds", "time_cond_proj_dim") if getattr(config, n, None)]
    if unknown or config.addition_embed_type not in (None, "text"):
        name = unknown[0] if unknown else f"addition_embed_type {config.addition_embed_type!r}"
        raise BadInput(f"the {role} network is told more than guidance knows ({name}: an upscaler, a consistency model "
                       "or the like)", f"{OTHER} {role}")
    if out not in (c, 2 * c, c // 2):
        raise BadInput(f"the {role} network takes {c} channels and gives {out}", f"{OTHER} {role}")
    width = getattr(config, "encoder_hid_dim", None) or config.cross_attention_dim
    return int(width if isinstance(width, int) else width[0])
