"""What every text-to-image model can be asked, whatever family it is of; Stable Diffusion's own ways are the default.

A stage draws with any family by these steps:

    model = job.model("text_to_image")
    wanted, unwanted = model.pair(text, negative, height, width)
    noise = sampling.initial_noise(generators, model.shape(height, width), device)
    latents = sampling.sample(model.scheduler, sampling.denoiser(model, wanted, unwanted, guidance), noise, steps, ...)
    pictures = model.decode(latents)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import pictures, prompt
from engine.errors import BadInput
from engine.models import memory

PREVIEW_CELLS = 16
"""Latent cells a side that a preview is drawn from at most: 128 pixels with a VAE of factor 8."""


@dataclass(frozen=True)
class Conditions:
    """What a network is told beside the noisy latents and the time step: named tensors, one row a sample.

    The names are the family's own business; rows can be picked, repeated and put together by anyone.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Any) -> Conditions:
        """rows : a slice, or an index or mask tensor (n,)"""
        return Conditions({name: value[rows] for name, value in self.tensors.items()})

    def told(self, **more: Tensor) -> Conditions:
        """The same with further tensors, one row a sample each (or one for all): ``beside`` (n, k, h, w), channels to
        stand beside the latents; ``labels`` (n,), a U-Net's class or noise level."""
        n = max(len(self), *(len(value) for value in more.values()))
        return Conditions({**self.expand(n).tensors, **{k: v.expand(n, *v.shape[1:]) for k, v in more.items()}})

    def expand(self, n: int) -> Conditions:
        """One row -> n equal rows (views, no copies); n rows stay as they are."""
        return Conditions({k: v.expand(n, *v.shape[1:]) for k, v in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence[Conditions]) -> Conditions:
        """All rows of ``parts``, in order; all of one family."""
        return Conditions({name: torch.cat([p.tensors[name] for p in parts]) for name in parts[0].tensors})


@dataclass(frozen=True)
class Defaults:
    """How a model is used where the user says nothing.

    sampler : of ``engine.diffusion.sampling``; "own" is the model's own scheduler as published
    """

    steps: int = 20
    guidance: float = 3.0
    sampler: str = "own"


@dataclass(frozen=True)
class TextToImage:
    """unet : the network that removes noise (UNet2DConditionModel; a transformer in other families)

    vae : AutoencoderKL; None: the network works on pixels in [-1, 1]
    text_encoder, tokenizer : CLIP's text transformer (with T5 in other families) and its fast tokenizer
    scheduler : diffusers scheduler as trained and published; size : native pixels of a side
    words : all words of its training captions; () when its card does not list them
    family : "sd15", "sd21", "sdxl", ...; what is trained for one does not fit another
    name : what messages call it
    home : how its parts come to the device that computes, where they do not all fit; None: they are there
    upscalers : further models of a cascade, in order; notes : what a user must be told of how it was loaded
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    size: int
    words: tuple[str, ...] = ()
    family: str = "sd15"
    defaults: Defaults = field(default_factory=Defaults)
    name: str = "the model"
    home: memory.Residency | None = None
    upscalers: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.unet.parameters()).device if self.home is None else self.home.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights. Latents outside of it are float32, or wider where the weights are."""
        return next(self.unet.parameters()).dtype

    @property
    def channels(self) -> int:
        """Of the latents. (A network for inpainting takes more than these.)"""
        return int(self.unet.config.in_channels if self.vae is None else self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        """Pixels of a latent cell's side."""
        return 1 if self.vae is None else int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def multiple(self) -> int:
        """What a picture's height and width must be divisible by, pixels."""
        return max(8, self.factor * int(getattr(self.unet.config, "patch_size", None) or 1))

    @property
    def open_vocabulary(self) -> bool:
        """Whether it may be told any word, and not only those of its training captions."""
        return not self.words and self.family != "builtin"

    @property
    def text_encoders(self) -> tuple[tuple[Any, Any], ...]:
        """(text encoder, tokenizer) of those that read by a table of words, and so can learn new ones."""
        return ((self.text_encoder, self.tokenizer),)

    def with_text_encoders(self, pairs: Sequence[tuple[Any, Any]]) -> TextToImage:
        """The same model with others in the place of ``text_encoders``."""
        names = ("", "_2", "_3")
        return self.changed(**{f"text_encoder{n}": encoder for n, (encoder, _) in zip(names, pairs, strict=False)},
                            **{f"tokenizer{n}": tokenizer for n, (_, tokenizer) in zip(names, pairs, strict=False)})

    @property
    def embeds_guidance(self) -> bool:
        """Whether the guidance scale is told to the network (a latent consistency model) instead of being made of two
        predictions."""
        return getattr(self.unet.config, "time_cond_proj_dim", None) is not None

    @property
    def parts(self) -> dict[str, torch.nn.Module]:
        """Its networks by name, those of a cascade's further steps among them; one that serves twice stands once."""
        found: dict[str, torch.nn.Module] = {}
        for step, model in enumerate((self, *self.upscalers)):
            for one in fields(model):
                value = getattr(model, one.name)
                if isinstance(value, torch.nn.Module) and not any(value is known for known in found.values()):
                    found[f"{one.name} of step {step + 1}" if step else one.name] = value
        return found

    def use(self, part: Any) -> Any:
        """A part, there where it computes."""
        return part if self.home is None else self.home.bring(part)

    def changed(self, **parts: Any) -> TextToImage:
        """The same model with other parts (a twin of its network with a LoRA, ...)."""
        made = replace(self, **parts)
        if made.home is not None and "home" not in parts:
            made = replace(made, home=made.home.of(made.parts))
        return made

    def unseen(self, text: str) -> tuple[str, int]:
        """(what of a text lies beyond the tokens that are read, how many those are); ("", 0) when all is read."""
        lost = prompt.cut_off(self.tokenizer, text)
        return lost, int(self.tokenizer.model_max_length) if lost else 0

    # -- what it is asked --------------------------------------------------------------------------------------------

    def shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(c, h, w) of the latents of a picture of ``height`` x ``width`` pixels; None: the native size.

        Raises BadInput that names a side the network cannot draw, with the nearest ones that it can.
        """
        height, width = height or self.size, width or self.size
        for what, side in (("height", height), ("width", width)):
            if side % self.multiple:
                below = side // self.multiple * self.multiple
                near = f"{below} or {below + self.multiple}" if below else str(self.multiple)
                raise BadInput(f"a {what} of {side} pixels is not divisible by {self.multiple}, as {self.name} needs "
                               f"it", f"give {near}")
        return self.channels, height // self.factor, width // self.factor

    def condition(self, texts: Sequence[str], *, negative: bool = False, height: int | None = None,
                  width: int | None = None) -> Conditions:
        """What the network is told of each text; one row a text.

        negative : the texts say what to keep away from; some families stand zeros for the empty one
        height, width : of the picture, pixels; some families tell them to the network
        """
        return Conditions({"context": prompt.encode(self.use(self.text_encoder), self.tokenizer, texts, self.device)})

    def pair(self, text: str, negative: str = "", height: int | None = None, width: int | None = None
             ) -> tuple[Conditions, Conditions]:
        """(wanted, unwanted), one row each: the two halves of classifier-free guidance."""
        both = self.condition([text, negative], height=height, width=width)
        return both[:1], both[1:]

    def predict(self, latents: Tensor, t: Tensor, conditions: Conditions, *, beside: Tensor | None = None,
                down: Sequence[Tensor] | None = None, mid: Tensor | None = None,
                image_embeds: Sequence[Tensor] | None = None, guidance: float | None = None) -> Tensor:
        """One call of the network: (n, c, h, w) as the scheduler scales them, t () or (n,), n conditions -> what it
        predicts (noise, v, sample or flow), of the latents' shape and type. A family whose scheduler wants the
        variance that its network learned gives (n, 2 c, h, w) (DeepFloyd IF).

        beside : (n, k, h, w) further input channels (a mask and masked latents); or in the conditions
        down, mid : residuals of ControlNets, added to the U-Net's skips and middle
        image_embeds : IP-Adapter's, one (n, images, ...) a loaded adapter
        guidance : the scale, for networks that are told it (``embeds_guidance``)
        """
        kind = self.dtype
        beside = conditions.tensors.get("beside") if beside is None else beside
        x = latents if beside is None else torch.cat([latents, beside.to(latents)], 1)
        more: dict[str, Any] = self._added(conditions)
        if image_embeds is not None:
            more["image_embeds"] = [e.to(kind) for e in image_embeds]
        told: dict[str, Any] = {"added_cond_kwargs": more} if more else {}
        if self.embeds_guidance:
            told["timestep_cond"] = guidance_embedding(1.0 if guidance is None else guidance, len(latents),
                                                       int(self.unet.config.time_cond_proj_dim)).to(x.device, kind)
        if "labels" in conditions.tensors:
            told["class_labels"] = conditions.tensors["labels"]
        if down is not None:
            told["down_block_additional_residuals"] = tuple(r.to(kind) for r in down)
        if mid is not None:
            told["mid_block_additional_residual"] = mid.to(kind)
        said = self.use(self.unet)(x.to(kind), t, encoder_hidden_states=conditions.tensors["context"].to(kind), **told
                                   ).sample
        return self._wanted_channels(said, latents).to(latents.dtype)

    def encode(self, images: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """(b, 3, h, w) in [0, 1] -> (b, c, h', w') scaled latents, float32.

        generators : one a sample, to draw from the VAE's posterior; None: its mode
        """
        x = pictures.vae_input(images)
        if self.vae is None:
            return x
        with torch.no_grad():
            posterior = self.use(self.vae).encode(x.to(next(self.vae.parameters()).dtype)).latent_dist
        if generators is None:
            latents = posterior.mode()
        else:
            noise = torch.stack([torch.randn(posterior.mean.shape[1:], generator=g) for g in generators])
            latents = posterior.mean + posterior.std * noise.to(posterior.mean)
        return self._scaled(latents.to(torch.promote_types(latents.dtype, torch.float32)))

    def decode(self, latents: Tensor, at_once: int | None = None, tiles: bool = False) -> Tensor:
        """(b, c, h', w') scaled latents -> (b, 3, h, w) in about [0, 1], unclamped, float32 (or wider).

        at_once : at most so many pictures, where memory is short; tiles : large ones in overlapping tiles, blended
        """
        if self.vae is None:
            return latents / 2 + 0.5
        kind, vae = next(self.vae.parameters()).dtype, self.use(self.vae)
        parts = self._unscaled(latents).to(kind).split(at_once or len(latents))
        with memory.tiled(vae, tiles):
            made = [vae.decode(part).sample / 2 + 0.5 for part in parts]
        return torch.cat(made).to(torch.promote_types(kind, torch.float32)) if len(made) > 1 else made[0].to(
            torch.promote_types(kind, torch.float32))

    def preview(self, latents: Tensor) -> Tensor:
        """As ``decode``, at half the size or less and in at most 128 pixels or so: cheap beside a step."""
        cells = max(latents.shape[-2:])
        wanted = max(1, min(PREVIEW_CELLS, cells // 2))
        if self.vae is not None:
            small = [max(1, round(side * wanted / cells)) for side in latents.shape[-2:]]
            latents = torch.nn.functional.interpolate(latents, small, mode="area")
        return self.decode(latents)

    def sampling_settings(self, shape: Sequence[int]) -> dict[str, Any]:
        """What ``set_timesteps`` is told beside the count, for latents of this shape (..., h, w)."""
        return {}

    # -- where families differ in little -----------------------------------------------------------------------------

    def _added(self, conditions: Conditions) -> dict[str, Any]:
        """``added_cond_kwargs`` of the U-Net."""
        return {}

    def _wanted_channels(self, said: Tensor, latents: Tensor) -> Tensor:
        """A learned variance, which the latent families' schedulers do not ask for, is left out."""
        return said[:, :latents.shape[1]]

    def _scaled(self, latents: Tensor) -> Tensor:
        return latents * self.vae.config.scaling_factor

    def _unscaled(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor


def guidance_embedding(scale: float, n: int, width: int) -> Tensor:
    """(n, width) sinusoids of 1000 (scale - 1): how a latent consistency model is told its guidance (Luo et al. 2023,
    section 4.1; the frequencies are those of time-step embeddings, 10000^(-i / (width / 2 - 1)))."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = 1000.0 * torch.full((n, 1), scale - 1) * frequencies[None]
    made = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.nn.functional.pad(made, (0, width % 2))


def refuse(model: TextToImage, **extras: Any) -> None:
    """Raises BadInput where a network is told what its family has no place for."""
    words = {"beside": "further input channels", "down": "a ControlNet", "mid": "a ControlNet",
             "image_embeds": "an image prompt"}
    for name, value in extras.items():
        if value is not None:
            raise BadInput(f"{model.name} ({model.family}) cannot take {words[name]}",
                           "choose a model set of the families sd15, sd21 or sdxl")
