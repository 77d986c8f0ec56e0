"""A family's model put together from the files of a checkpoint: which parts, which class, how it is used by default."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from engine.errors import BadInput
from engine.models import memory
from engine.models.catalogue import KIN
from engine.models.families.base import Defaults, TextToImage
from engine.models.families.deepfloyd import DeepFloyd, DeepFloydUpscaler
from engine.models.families.dit import DiT
from engine.models.families.pixart import PixArt
from engine.models.families.sd3 import StableDiffusion3
from engine.models.families.sdxl import StableDiffusionXL
from engine.models.families.upscaling import Upscaler
from engine.models.open_checkpoint import load_part, load_scheduler, load_tokenizer

Keep = Callable[[str, Callable[[], Any]], Any]
"""(a part's name, how it is loaded) -> the part, from memory where it is there already."""


@dataclass(frozen=True)
class Family:
    """kind : its class; defaults : how it is used; readers : text encoders (each with a tokenizer)

    network : name of its denoising part; vae : whether it has one; spare : parts that it can do without
    """

    kind: type[TextToImage]
    defaults: Defaults
    readers: tuple[str, ...] = ("text_encoder",)
    network: str = "unet"
    vae: bool = True
    spare: tuple[str, ...] = ()


_SD = Family(TextToImage, Defaults(25, 7.5, "dpm"))
_SDXL = Family(StableDiffusionXL, Defaults(30, 5.0), ("text_encoder", "text_encoder_2"))
_SD3 = Family(StableDiffusion3, Defaults(28, 7.0), ("text_encoder", "text_encoder_2", "text_encoder_3"), "transformer",
              spare=("text_encoder_3",))
_PIXART = Family(PixArt, Defaults(20, 4.5), network="transformer")
FAMILIES: dict[str, Family] = {
    "sd15": _SD, "sd15_inpaint": _SD, "sd15_lcm": _SD, "sd21": _SD, "sd21_base": _SD, "sd21_inpaint": _SD,
    "sdxl": _SDXL, "sdxl_inpaint": _SDXL, "sdxl_lcm": _SDXL,
    "sd3": _SD3, "sd35_medium": _SD3, "sd35_large": _SD3,
    "pixart_alpha": _PIXART, "pixart_alpha_512": _PIXART, "pixart_sigma": _PIXART,
    "dit": Family(DiT, Defaults(50, 4.0), (), "transformer"),
    "deepfloyd_1": Family(DeepFloyd, Defaults(50, 7.0), vae=False),
    "deepfloyd_2": Family(DeepFloydUpscaler, Defaults(50, 4.0), vae=False),
    "sd_x4_upscaler": Family(Upscaler, Defaults(50, 9.0)),
}
"""Steps and guidance are those of the models' cards or papers; DPM-Solver++ needs fewer than the PNDM and DDIM that
Stable Diffusion 1 and 2 were published with (Lu et al. 2022, 20 to 25)."""
LCM = Defaults(4, 8.5, "own")
"""A latent consistency model (Luo et al. 2023): its guidance is told to the network."""
LCM_LORA = Defaults(4, 1.0, "lcm")
"""A base model distilled by an LCM-LoRA: no guidance, or little."""
TURBO = Defaults(4, 1.0, "own")
"""Adversarial distillation (Sauer et al. 2023): 1 to 4 steps, no guidance."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are and how they are read.

    source : a folder with its components, or a single file; words : folder with tokenizers, where source has none
    dtype : what the networks compute in; name : what messages call it
    """

    source: Path
    family: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    allow_pickle: bool = False
    words: Path | None = None
    name: str = "the model"
    keep: Keep = field(default=lambda part, load: load())


def family_of(name: str) -> Family:
    """Raises BadInput for a family that draws no pictures of words."""
    if name not in FAMILIES:
        raise BadInput(f"the family {name!r} draws no pictures of words",
                       f"choose a model of one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def build(c: Checkpoint, lender: TextToImage | None = None) -> Any:
    """The model of a checkpoint.

    lender : whose text encoders and tokenizers it uses where it has none of its own (DeepFloyd IF's second network)
    Raises BadInput that names a missing component.
    """
    family, index = family_of(c.family), _index(c.source)
    made: dict[str, Any] = {"unet": _part(c, family.network, True),
                            "vae": _part(c, "vae", True) if family.vae else None,
                            "scheduler": c.keep("scheduler", lambda: load_scheduler(c.source, c.family))}
    notes = []
    for reader in family.readers:
        words = reader.replace("text_encoder", "tokenizer")
        if lender is not None and not _has(c, reader):
            made |= {reader: getattr(lender, reader), words: getattr(lender, words)}
        elif reader in family.spare and not _has(c, reader):
            made |= {reader: None, words: None}
            notes.append(f"{c.name} is used without {reader} (T5), which its folder lacks: it reads prompts less well")
        else:
            made |= {reader: _part(c, reader), words: c.keep(words, partial(_tokenizer, c, words))}
    if not family.readers:
        made |= {"text_encoder": None, "tokenizer": None}
    made |= _own(family.kind, c, index)
    factor = 1 if made["vae"] is None else 2 ** (len(made["vae"].config.block_out_channels) - 1)
    size = int(made["unet"].config.sample_size) * factor
    return family.kind(**made, size=size, family=KIN.get(c.family, c.family), name=c.name, notes=tuple(notes),
                       defaults=defaults_of(family, made["unet"], made["scheduler"]))


def cascade(first: TextToImage, steps: Sequence[Upscaler]) -> TextToImage:
    """A model whose pictures further ones enlarge in turn."""
    return first.changed(upscalers=tuple(steps), size=first.size * prod(up.enlarges for up in steps))


def defaults_of(family: Family, network: Any, scheduler: Any) -> Defaults:
    """The family's, but for models that were distilled into few steps: their network or their schedule tells."""
    if getattr(network.config, "time_cond_proj_dim", None) is not None:
        return LCM
    kind, spacing = type(scheduler).__name__, scheduler.config.get("timestep_spacing")
    if kind == "EulerAncestralDiscreteScheduler" and spacing == "trailing":
        return TURBO
    if kind == "LCMScheduler":
        return LCM_LORA
    return family.defaults


def _own(kind: type[TextToImage], c: Checkpoint, index: Mapping[str, Any]) -> dict[str, Any]:
    """What one family's class has and the others' have not."""
    if kind is StableDiffusionXL:
        return {"zeros_for_empty": bool(index.get("force_zeros_for_empty_prompt", True))}
    if kind is PixArt:
        return {"tokens": 300 if c.family == "pixart_sigma" else 120}
    if kind is DiT:
        names = index.get("id2label") or {}
        if not isinstance(names, dict) or not names:
            raise BadInput(f"{c.source} has no list of classes (id2label in model_index.json)", "pull the model again")
        return {"labels": {int(number): str(name) for number, name in names.items()}}
    if issubclass(kind, Upscaler):
        folder = "image_noising_scheduler" if kind is DeepFloydUpscaler else "low_res_scheduler"
        return {"low_scheduler": c.keep(folder, lambda: load_scheduler(c.source, c.family, folder))}
    return {}


def _part(c: Checkpoint, part: str, pictures: bool = False) -> Any:
    """pictures : made of convolutions, which are the faster in channels-last; values stay the same."""
    dtype = torch.float32 if part == "vae" and c.dtype == torch.float16 else c.dtype  # it overflows in float16

    def load() -> Any:
        network = load_part(c.source, c.family, part, dtype=dtype, allow_pickle=c.allow_pickle)
        return network.to(memory_format=torch.channels_last) if pictures else network
    return c.keep(part, load)


def _has(c: Checkpoint, part: str) -> bool:
    return not c.source.is_dir() or (c.source / part).is_dir()


def _tokenizer(c: Checkpoint, name: str) -> Any:
    places = [place for place in (c.source, c.source.parent if c.source.is_file() else None, c.words)
              if place is not None and (place / name).is_dir()]
    return load_tokenizer(places[0] if places else c.source, name)


def _index(source: Path) -> dict[str, Any]:
    """model_index.json of a folder; {} where there is none."""
    path = source / "model_index.json"
    if not source.is_dir() or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "pull the model again") from error
    return found if isinstance(found, dict) else {}


TILE = 512
"""Pixels of the tiles in which a VAE decodes where memory is short, at most."""


def settle(model: Any, device: str, probe: memory.Probe | None = None) -> Any:
    """A model on the device where it computes: whole, or with a ``home`` where its parts take turns."""
    if torch.device(device).type == "cpu":
        return model
    parts, work = model.parts, memory.needs(model, model.size, model.size)
    plan = memory.arrange({name: memory.bytes_of(p) for name, p in parts.items()},
                          {name: memory.largest_block(p) for name, p in parts.items()}, *work, device,
                          tile=max(memory.decode_bytes(one, TILE, TILE) for one in (model, *model.upscalers)),
                          probe=probe,
                          held=sum(memory.bytes_of(p) for p in parts.values() if memory.is_on(p, device)))
    if plan.mode == "whole" and not any(memory.streams(part) for part in parts.values()):
        for part in parts.values():
            part.to(device)
        return model
    home = memory.Residency(device, parts, plan.streamed)
    return model.changed(home=home, notes=(*model.notes, *([plan.said] if plan.said else [])),
                         upscalers=tuple(up.changed(home=home) for up in model.upscalers))
