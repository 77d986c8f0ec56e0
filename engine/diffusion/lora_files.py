"""LoRA files: one safetensors in the layout that diffusers' ``load_lora_weights`` reads, with its card inside and,
for people, beside it.

Keys are ``unet.<module>.lora_A.weight`` and ``lora_B``; peft's settings stand in the header under diffusers' name, the
card under ``maquette``. LoRAs of others are read too: diffusers' and peft's layouts, kohya's (``lora_unet_...``, also
with latent diffusion's numbering) and diffusers' old processor names; of the U-Net and of text encoders.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.diffusion.lora import Lora
from engine.errors import BadInput
from engine.models import adapter_layouts
from engine.models.reader import read_header, read_tensors
from engine.runs import files

SETTINGS = "lora_adapter_metadata"
"""diffusers' own name of peft's settings in the header (``diffusers.loaders.lora_base``)."""
CARD = "maquette"
HINT = "give the .safetensors that `maquette train lora` wrote, or a LoRA of a text-to-image U-Net"


def card_path(path: Path) -> Path:
    """Where the card lies beside a LoRA's file: zorb.safetensors -> zorb.json."""
    return path.with_suffix(".json")


def save(lora: Lora, path: Path) -> None:
    """Write ``path`` (.safetensors) and its card beside it, each as one act. Disk errors are the caller's."""
    from peft import LoraConfig
    from safetensors.torch import save as packed
    ranks = {module: lora.rank(module) for module in lora.pairs}
    rank, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, lora.alphas))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(lora.pairs),
                        rank_pattern={k: v for k, v in ranks.items() if v != rank},
                        alpha_pattern={k: v for k, v in lora.alphas.items() if v != alpha}).to_dict()
    settings = {f"unet.{k}": sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    tensors: dict[str, Tensor] = {}
    for module, pair in lora.pairs.items():
        tensors |= {f"unet.{module}.lora_{side}.weight": t.contiguous() for side, t in zip("AB", pair, strict=True)}
    header = {"format": "pt", SETTINGS: json.dumps(settings, sort_keys=True),
              CARD: json.dumps(lora.card, sort_keys=True)}
    files.write_file(path, packed(tensors, header))
    about = {**lora.card, "file": path.name, "sha256": files.file_digest(path)}
    files.write_file(card_path(path), json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read(path: Path, allow_pickle: bool = False) -> Lora:
    """A LoRA from a .safetensors file of any of the layouts above. Raises BadInput where it is none.

    allow_pickle : read .bin, .pt and .ckpt too, by the restricted reader: tensors only
    """
    from safetensors import SafetensorError, safe_open
    if path.is_dir():
        raise BadInput(f"{path} is a folder, not a LoRA", HINT)
    if allow_pickle and _is_pickle(path):
        return of_tensors(read_tensors(path, allow_pickle=True), path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except FileNotFoundError as error:
        raise BadInput(f"there is no LoRA {path}", HINT) from error
    except (OSError, SafetensorError) as error:
        pickled = " it looks like a pickle, which can run code when read" if _is_pickle(path) else ""
        raise BadInput(f"{path} is no safetensors file that can be read:{pickled or f' {error}'}", HINT) from error
    return of_tensors(tensors, path, _json(header.get(SETTINGS), path), _json(header.get(CARD), path))


def digest(path: str | Path, allow_pickle: bool = False) -> str:
    """SHA-256 of a LoRA's file; it stands for the file in keys. What is no LoRA is refused here, before anything
    runs."""
    place = Path(path)
    if allow_pickle and _is_pickle(place):
        _names_layers(place, read_header(place).tensors)
    else:
        _header_only(place)
    return files.file_digest(place)


def _header_only(path: Path) -> None:
    """Raises BadInput where a file's table of tensors names no LoRA; reads no tensor and needs no torch."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder, not a LoRA", HINT)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= 100_000_000:  # safetensors' own limit
                raise ValueError("no header")
            names = json.loads(file.read(size))
    except FileNotFoundError as error:
        raise BadInput(f"there is no LoRA {path}", HINT) from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no safetensors file", HINT) from error
    _names_layers(path, names)


def _names_layers(path: Path, names: Iterable[str]) -> None:
    if not any("lora" in name for name in names):
        raise BadInput(f"{path} is no LoRA: it names no low-rank layers", HINT)


def of_tensors(tensors: dict[str, Tensor], path: Path, settings: dict[str, Any] | None = None,
               card: dict[str, Any] | None = None) -> Lora:
    """A LoRA of a file's tensors, in any layout. settings : peft's, from the file's header

    Raises BadInput where it is no plain LoRA, where a half is missing, and for names that belong to none of its layers.
    """
    if strange := sorted({kind for kind in _OTHERS for name in tensors if kind in name}):
        raise BadInput(f"{path} is no plain LoRA: it holds {', '.join(s.strip('._') for s in strange)}", HINT)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if found := adapter_layouts.lora_tensor(name):
            halves.setdefault(found[0], {})[found[1]] = tensor
    known = {module + ending for module in halves for ending in adapter_layouts.ALPHAS}
    if unused := [name for name in tensors if not adapter_layouts.lora_tensor(name) and name not in known]:
        raise BadInput(f"{path} holds {len(unused)} tensors that belong to no layer of a LoRA: "
                       f"{', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}", HINT)
    parts: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    alphas: dict[str, dict[str, float]] = {}
    for module, pair in halves.items():
        if len(pair) < 2:
            has, lacks = ("lora_A", "lora_B") if "A" in pair else ("lora_B", "lora_A")
            raise BadInput(f"{path} is damaged: {module} has its {has} but no {lacks}", HINT)
        part, name = _place(module)
        parts.setdefault(part, {})[name] = (pair["A"], pair["B"])
        alphas.setdefault(part, {})[name] = _alpha(tensors, settings or {}, part, module, name, pair["A"].shape[0])
    if "unet" not in parts:
        raise BadInput(f"{path} holds no LoRA of a U-Net" + (f", only of {', '.join(parts)}" if parts else ""), HINT)
    about = adapter_layouts.recognise({name: tuple(t.shape) for name, t in tensors.items()}) or {}
    family = "" if about.get("family") in (None, "unknown") else str(about["family"])
    text = {part: Lora(parts[part], alphas[part], {}, path.name) for part in parts if part != "unet"}
    return Lora(parts["unet"], alphas["unet"], card or {}, path.name, text, family)


_OTHERS = ("dora_scale", "lokr_", "hada_", "oft_", "glora", "lora_mid", ".diff")
_SHORT = {"te_": "text_encoder", "te2_": "text_encoder_2", "unet_": "unet"}


def _place(module: str) -> tuple[str, str]:
    """A module as a file names it -> (part, its name there: with dots where the file has them, else flat)."""
    flat = adapter_layouts.flat(module)
    part = next(short for short in _SHORT if flat.startswith(short))
    if "." in module:
        bare = module.removeprefix("base_model.model.")
        for before in ("unet.", "transformer.", "text_encoder_2.", "text_encoder."):
            bare = bare.removeprefix(before)
        if adapter_layouts.flat(bare).partition("_")[2] == flat.removeprefix(part):
            return _SHORT[part], bare
    return _SHORT[part], flat.removeprefix(part)


def _alpha(tensors: dict[str, Tensor], settings: dict[str, Any], part: str, module: str, name: str, rank: int
           ) -> float:
    """The file's own word, kohya's or peft's; without one, alpha is the rank."""
    for ending in adapter_layouts.ALPHAS:
        if module + ending in tensors:
            return float(tensors[module + ending])
    said = (settings.get(f"{part}.alpha_pattern") or {}).get(name, settings.get(f"{part}.lora_alpha"))
    alpha = float(rank if said is None else said)
    return alpha * rank**0.5 if settings.get(f"{part}.use_rslora") else alpha  # alpha / sqrt(r) (Kalajdzievski 2023)


def _json(text: str | None, path: Path) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadInput(f"the papers inside {path} cannot be read: {error}", HINT) from error
    return found if isinstance(found, dict) else {}


def _is_pickle(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x04")
    return False
