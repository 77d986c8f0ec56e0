"""Roles of AnimateDiff: motion modules with their domain adapter, MotionLoRAs, SparseCtrl.

Published files come in diffusers' folders and in guoyww/AnimateDiff's own layout (``mm_sd_v15_v2.ckpt``,
``v3_sd15_mm.ckpt``, ``v3_sd15_adapter.ckpt``, ``v2_lora_ZoomIn.ckpt``); both are put together here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.diffusion import lora_files
from engine.diffusion.lora import Lora
from engine.errors import BadInput
from engine.models import convert_motion
from engine.models.convert import unwrapped
from engine.models.families.base import Defaults
from engine.models.open_checkpoint import load_part, load_scheduler
from engine.models.reader import read_tensors

if TYPE_CHECKING:
    from engine.models.cards import Card
    from engine.models.local import Located

Keep = Callable[[str, Callable[[], Any]], Any]
"""(part, how it is loaded) -> the part, kept (``engine.models.families.build.Keep``)."""
ROLES = ("motion", "motion_lora", "domain_adapter", "sparse_control")
LCM = Defaults(6, 2.0, "lcm")
"""AnimateLCM as its authors use it (Wang et al. 2024), with its LoRA at 0.8."""
ANIMATEDIFF = Defaults(25, 7.5, "own")
"""AnimateDiff as its authors use it, with the linear schedule it was trained with."""
LCM_LORA_SCALE = 0.8


@dataclass(frozen=True)
class Motion:
    """adapter : diffusers' MotionAdapter; family : of the text-to-image models that it moves

    scheduler : it was trained with; None: the text-to-image model's own
    window, overlap : frames that go through the network at once, and that neighbouring windows share
    period : its places in time are moments of a cycle of so many frames; 0: they are not
    noise_shared : share of the noise's variance that a clip's frames have in common (0: published ones)
    domain : LoRA of the U-Net that goes with it; None: there is none; domain_words : that it taught
    motions : names of those that it knows; () : nobody listed them
    """

    adapter: Any
    family: str
    name: str = "the motion adapter"
    scheduler: Any = None
    window: int = 16
    overlap: int = 4
    period: int = 0
    noise_shared: float = 0.0
    defaults: Defaults = ANIMATEDIFF
    domain: Lora | None = None
    domain_words: tuple[str, ...] = ()
    motions: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """Frames that its table of positions reaches."""
        return int(self.adapter.config.motion_max_seq_length)


@dataclass(frozen=True)
class MotionLora:
    """lora : of the motion modules, in their diffusers names; motion : the name of what it moves, where known"""

    lora: Lora
    family: str
    name: str = "the motion LoRA"
    motion: str = ""


@dataclass(frozen=True)
class DomainAdapter:
    """lora : of the U-Net that a motion adapter was trained over; words : that it taught"""

    lora: Lora
    family: str
    name: str = "the domain adapter"
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class SparseControl:
    """net : diffusers' SparseControlNetModel; it takes latents (RGB) or pictures (scribbles), as its config says"""

    net: Any
    family: str
    name: str = "SparseCtrl"


# -- built-in ----------------------------------------------------------------------------------------------------------

def builtin(folder: Path, role: str, cards: Mapping[str, Card], keep: Keep, device: str) -> Any:
    """A built-in role. folder : of the set; cards : of the role's parts, checked"""
    if role == "motion":
        told, taught = cards["motion"].fields, cards["domain_adapter"].fields
        return Motion(
            keep("motion/adapter", lambda: load_adapter(folder / "motion", device)), "builtin", "the built-in motion",
            window=int(told["window"]), period=int(told["period"]), noise_shared=float(told["noise_shared"]),
            defaults=Defaults(int(told["sampling_steps"]), float(told["guidance"]), "ddim"),
            domain=keep("domain_adapter/lora", lambda: lora_files.read(folder / "domain_adapter" / DOMAIN_FILE)),
            domain_words=tuple(taught["words"]), motions=tuple(told["motions"]))
    if role == "motion_lora":
        return MotionLora(keep("motion_lora/lora", lambda: lora_files.read(folder / "motion_lora" / LORA_FILE)),
                          "builtin", "the built-in motion LoRA", str(cards["motion_lora"].fields["motion"]))
    if role == "domain_adapter":
        return DomainAdapter(
            keep("domain_adapter/lora", lambda: lora_files.read(folder / "domain_adapter" / DOMAIN_FILE)), "builtin",
            "the built-in domain adapter", tuple(cards["domain_adapter"].fields["words"]))
    raise ValueError(role)


DOMAIN_FILE, LORA_FILE = "adapter.safetensors", "motion_lora.safetensors"


def load_adapter(folder: Path, device: str = "cpu") -> Any:
    """A MotionAdapter of its folder, every name and shape accounted for."""
    from diffusers.models.unets.unet_motion_model import MotionAdapter

    from engine.models.loading import load_diffusers
    return load_diffusers(MotionAdapter, folder, device)


# -- public checkpoints ------------------------------------------------------------------------------------------------

def public(here: Located, role: str, source: Path, dtype: torch.dtype, keep: Callable[[Located], Keep],
           allow_pickle: bool = False) -> Any:
    """A role from the files of a public checkpoint or of a user's own. Raises BadInput for what they lack."""
    model, own = here.model, keep(here)
    if role == "motion":
        adapter = own("motion_adapter", lambda: load_part(
            _weights_of(here, source), model.family, "motion_adapter", dtype=dtype, allow_pickle=allow_pickle))
        lcm = "AnimateLCM" in model.id
        beside = here.need("domain_adapter")
        domain = None
        if beside is not None:
            domain = keep(beside)("lora", lambda: scaled(read_lora(_file(beside), allow_pickle),
                                                         LCM_LORA_SCALE if lcm else 1.0))
        return Motion(adapter, model.family, model.id, load_scheduler(None, "animatediff"),
                      window=min(16, int(adapter.config.motion_max_seq_length)), domain=domain,
                      defaults=LCM if lcm else ANIMATEDIFF)
    if role == "motion_lora":
        return MotionLora(own("lora", lambda: read_lora(_file(here), allow_pickle)), model.family, model.id)
    if role == "domain_adapter":
        return DomainAdapter(own("lora", lambda: read_lora(_file(here), allow_pickle)), model.family, model.id)
    net = own("sparse_controlnet", lambda: load_part(source, model.family, "sparse_controlnet", dtype=dtype,
                                                     allow_pickle=allow_pickle))
    return SparseControl(net, model.family, model.id)


def _weights_of(here: Located, source: Path) -> Path:
    """A folder with its config.json, else the one file of weights."""
    if source.is_dir() and not (source / "config.json").is_file():
        return _file(here)
    return source


def _file(here: Located) -> Path:
    weights = sorted(here.weights.items())
    if len(weights) != 1:
        held = ", ".join(name for name, _ in weights) or "none"
        raise BadInput(f"{here.model.id} must hold one file of weights; it holds {held}", "pull it again, or add the "
                                                                                          "one file")
    return weights[0][1]


def read_lora(path: Path, allow_pickle: bool = False) -> Lora:
    """A motion LoRA or a domain adapter of any layout -> in diffusers' names.

    Raises BadInput where it is none, and for names that belong to none of its layers.
    """
    tensors = read_tensors(path, allow_pickle=allow_pickle)
    named: dict[str, Tensor] = {}
    for name, source in unwrapped(list(tensors)).items():
        found = convert_motion.motion_lora_name(name.removeprefix("unet.")) if ".motion_modules." in name else None
        named[name if found is None else f"{found[0]}.lora_{found[1]}.weight"] = tensors[source]
    return lora_files.of_tensors(named, path)


def scaled(lora: Lora, scale: float) -> Lora:
    """The same update, counting ``scale`` times as much."""
    return replace(lora, alphas={module: alpha * scale for module, alpha in lora.alphas.items()})
