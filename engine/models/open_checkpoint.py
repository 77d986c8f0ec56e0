"""One part of a checkpoint as a network, from whatever it was published in.

    unet = load_part(Path("v1-5-pruned-emaonly.safetensors"), "sd15", "unet")
    vae = load_part(Path("stable-diffusion-v1-5"), "sd15", "vae", dtype=torch.float16, device="cuda", variant="fp16")
    unet = load_part(Path("zero123-xl.ckpt"), "zero123", "unet", allow_pickle=True)

A source is a diffusers folder, a part's own folder, a single file (latent diffusion's layout, diffusers', or another
known one), or several files that make up one part. Every name and shape is accounted for before a tensor is read; what
is missing or left over is listed and refused, apart from what is known to be of no use (schedules, running averages,
the other half of CLIP). Nothing in a file or a folder is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.models import blueprints, convert, layouts
from engine.models.blueprints import Blueprint
from engine.models.fitting import settle
from engine.models.moves import Account, Move, Plan, Shape, account, carry_out
from engine.models.reader import SUFFIXES, Header, component_headers, read_header, read_tensors, weights_in

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Source = Path | Sequence[Path]
"""A folder, a file, or the files that make up a part together."""
MADE_OF: dict[str, tuple[str, ...]] = {"denoising_unet": ("unet", "motion_adapter"), "reference_unet": ("unet",)}
"""Parts that files know by other names: AnimateAnyone's video U-Net is a U-Net and motion modules."""
AGAIN = "see what it is with: maquette models inspect "


def load_part(source: Source, family: str, part: str, *, device: str | torch.device = "cpu",
              dtype: torch.dtype | None = None, allow_pickle: bool = False, variant: str = "", averaged: bool = False,
              config: Mapping[str, Any] | Path | None = None) -> Any:
    """A part as a network: a module of diffusers or transformers (``blueprints.CLASSES``), in eval mode, no gradients.

    source : see the head of this page
    family : "sd15", "sdxl", "zero123", ... (``blueprints.families()``); part : "unet", "vae", "text_encoder",
        "text_encoder_2", "image_encoder", "cc_projection", "controlnet", "motion_adapter", "transformer", ...
    dtype : None keeps the file's own
    allow_pickle : read .ckpt, .pth and .bin too, by the restricted reader
    variant : "fp16" takes that one of a folder's files; "" : the full one, else fp16
    averaged : the running average of the U-Net's weights, where a single file has both; otherwise the weights
    config : how the network is built, in place of the folder's and the shipped one
    Raises BadInput: a missing component, another family, a name or shape that is not accounted for, a pickle that was
    not allowed, a damaged file.
    """
    return Part.find(source, family, part, variant=variant, averaged=averaged, config=config
                     ).load(device=device, dtype=dtype, allow_pickle=allow_pickle)


@dataclass(frozen=True)
class Part:
    """A part that was found and not yet read.

    files : where its tensors are; config : of its network
    moves : name in the part -> where it comes from; spare : name in a file -> why nothing takes it
    """

    family: str
    name: str
    files: tuple[Header, ...]
    blueprint: Blueprint
    moves: Mapping[str, Move]
    spare: Mapping[str, str]
    account: Account

    @staticmethod
    def find(source: Source, family: str, part: str, *, variant: str = "", averaged: bool = False,
             config: Mapping[str, Any] | Path | None = None) -> Part:
        """Find a part and hold it against what it must be, from headers alone. Raises BadInput; what is missing or left
        over is in ``account`` and is refused by :meth:`load`."""
        files, folder, name = _files(source, family, part, variant)
        shapes: dict[str, Shape] = {}
        made = Plan()
        for header in files:
            if both := set(shapes) & set(header.tensors):
                raise BadInput(f"{files[0].path} and {header.path} both hold {sorted(both)[0]}", "give one of them")
            shapes |= layouts.shapes_of(header)
            one = convert.plan(header.tensors, name, averaged)
            made.spare |= one.spare
            made.strange += one.strange
            for key, moves in one.parts.items():
                for target, move in moves.items():
                    made.put(key, target, move)
        moves = {target: move for key in (part, *MADE_OF.get(part, ())) for target, move in
                 made.parts.get(key, {}).items()}
        if not moves:
            raise _absent(source, family, part, made)
        blueprint = _blueprint(family, part, moves, shapes, config, folder)
        kept, spare = settle(moves, blueprint)
        held = account(kept, shapes, blueprint.shapes)
        return Part(family, part, files, blueprint, kept, {**made.spare, **spare},
                    Account(held.missing, (*held.unexpected, *made.strange), held.wrong))

    @cached_property
    def _needed(self) -> list[str]:
        return list(dict.fromkeys(move.source for move in self.moves.values()))

    def state_dict(self, *, allow_pickle: bool = False) -> dict[str, Tensor]:
        """The part's tensors under its network's names, in the file's type. Raises BadInput when anything is missing,
        left over or of another shape."""
        self.check()
        tensors: dict[str, Tensor] = {}
        for header in self.files:
            if keys := [key for key in self._needed if key in header.tensors]:
                tensors |= read_tensors(header.path, keys, allow_pickle=allow_pickle)
        return carry_out(self.moves, tensors, self.blueprint.shapes)

    def check(self) -> None:
        """Raises BadInput, in one line, where :attr:`account` is not clean."""
        if not self.account:
            return
        where = self.files[0].path
        counts = [f"{len(lines)} {what}" for what, lines in (
            ("missing", self.account.missing), ("unexpected", self.account.unexpected),
            ("of wrong shape", self.account.wrong)) if lines]
        first = (*self.account.wrong, *self.account.missing, *self.account.unexpected)[:3]
        told = layouts.recognise(self.files)
        what = f": it is {told.family}'s" if told.family not in (layouts.UNKNOWN, self.family) else ""
        raise BadInput(f"{where} does not fit {self.family}'s {self.name}{what} ({', '.join(counts)}; "
                       f"{', '.join(first)})", AGAIN + str(where))

    def load(self, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, allow_pickle: bool = False
             ) -> Any:
        """The network, filled."""
        return filled(self.blueprint, self.state_dict(allow_pickle=allow_pickle), device, dtype)


def filled(blueprint: Blueprint, tensors: dict[str, Tensor], device: str | torch.device = "cpu",
           dtype: torch.dtype | None = None) -> Any:
    """A network of every one of its tensors, in eval mode, no gradients. dtype : None keeps the tensors' own"""
    for name, tensor in tensors.items():
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        tensor = tensor.to(device=device, dtype=kind)
        # A transposed view multiplies in another order than the same numbers in theirs: results would depend on the
        # file's layout. One number shown many times stays so: it holds no memory.
        tensors[name] = tensor if 0 in tensor.stride() else tensor.contiguous()
    model = blueprint.build()
    model.load_state_dict(tensors, strict=True, assign=True)
    _compute_buffers(model, device)
    if blueprint.copies:
        model.tie_weights()
    return model.eval().requires_grad_(False)


def load_scheduler(source: Path | None, family: str, name: str = "scheduler") -> Any:
    """The diffusers scheduler of a folder (``scheduler/scheduler_config.json``), else the family's shipped one.

    name : of the scheduler's own folder, where a model has several

    Raises BadInput where neither is there, or where the class it names is no scheduler.
    """
    folder = source / name if source is not None and source.is_dir() else None
    if folder is None or not (folder / "scheduler_config.json").is_file():
        folder = blueprints.config_folder(family, name)
    if folder is None:
        raise BadInput(f"no schedule of the family {family!r} is known", "give a folder with scheduler/")
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    try:
        config = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))
        found = getattr(diffusers, str(config["_class_name"]), None)
        if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
            raise ValueError(f"{config['_class_name']} is no scheduler")
        kind: Any = found
        return kind.from_config(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"the schedule in {folder} cannot be read: {error}", "pull the model again") from error


def load_tokenizer(source: Path, part: str = "tokenizer") -> Any:
    """The fast tokenizer of a folder (``tokenizer/``, ``tokenizer_2/``, or the folder itself).

    Raises BadInput where there is none: single files do not carry their words.
    """
    folder = source / part if source.is_dir() and (source / part).is_dir() else source
    names = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer_config.json")
    if not folder.is_dir() or not any((folder / name).is_file() for name in names):
        raise BadInput(f"{source} has no {part}", "single files carry no words: give the folder that the model was "
                                                  "published in, or pull it")
    from transformers import AutoTokenizer
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"the tokenizer in {folder} cannot be read: {' '.join(str(error).split())[:200]}",
                       "pull the model again") from error


# -- where the files are -----------------------------------------------------------------------------------------------


def _files(source: Source, family: str, part: str, variant: str) -> tuple[tuple[Header, ...], Path | None, str]:
    """-> (headers of the files that hold the part, the folder with its config.json, what the folder says it is)."""
    if isinstance(source, Sequence):
        return tuple(_header(Path(one)) for one in source), None, ""
    if not source.is_dir():
        return (_header(source),), None, ""
    names = layouts.FOLDER_NAMES.get(part, (part,))
    for name in names:
        if (source / name).is_dir():
            return _part_folder(source / name, part, variant)
    if (source / "model_index.json").is_file() or _components(source):
        raise BadInput(f"{source} lacks the component {part!r} (no folder {' or '.join(names)}); it has "
                       f"{', '.join(_components(source)) or 'none'}", "pull the model again, or give a whole folder")
    return _part_folder(source, part, variant)


def _part_folder(folder: Path, part: str, variant: str) -> tuple[tuple[Header, ...], Path | None, str]:
    own = folder if (folder / "config.json").is_file() else None
    header = _header(weights_in(folder, variant))
    single = any(name.startswith(convert.PREFIXES) for name in header.tensors)  # a single file that lies in a folder
    return (header,), None if single else own, "" if single else part


def _header(path: Path) -> Header:
    """The parts of a single file are loaded one after another: its header is looked at once, while it stays as it is.
    """
    try:
        stat = path.stat()
    except OSError:
        return read_header(path)  # says what is wrong
    return _kept_header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _kept_header(path: Path, size: int, changed_ns: int) -> Header:
    return read_header(path)


def _components(folder: Path) -> list[str]:
    """Names of the subfolders that hold weights."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and any(
        f.suffix in SUFFIXES or f.name.endswith(".index.json") for f in p.iterdir() if f.is_file()))


def missing_components(folder: Path, parts: Iterable[str]) -> list[str]:
    """Which of ``parts`` a diffusers folder has no folder with weights for."""
    there = set(_components(folder)) if folder.is_dir() else set()
    return [part for part in parts if not there & set(layouts.FOLDER_NAMES.get(part, (part,)))]


def _absent(source: Source, family: str, part: str, made: Plan) -> BadInput:
    held = ", ".join(made.parts) or "nothing that is known"
    return BadInput(f"{source} has no {part} of {family}: it holds {held}", AGAIN + str(source))


# -- what it must be ---------------------------------------------------------------------------------------------------


def _blueprint(family: str, part: str, moves: Mapping[str, Move], shapes: Mapping[str, Shape],
               config: Mapping[str, Any] | Path | None, folder: Path | None) -> Blueprint:
    if config is not None:
        return blueprints.of_config(blueprints.read_config(config) if isinstance(config, Path) else config, part)
    if folder is not None:
        own = blueprints.read_config(folder)
        _same_family(family, part, own, folder)
        return blueprints.of_config(own, part)
    named = [name for name in blueprints.parts_of(family) if name == part or name.startswith(f"{part}_v")]
    if not named:
        return blueprints.blueprint(family, part)  # says what is known
    held = []
    for name in named:
        blueprint = blueprints.blueprint(family, name)
        found = account(settle(moves, blueprint)[0], shapes, blueprint.shapes)
        held.append((len(found.missing) + len(found.unexpected) + len(found.wrong), name, blueprint))
    return min(held, key=lambda one: one[:2])[2]


def _same_family(family: str, part: str, config: Mapping[str, Any], folder: Path) -> None:
    """A folder's part must be built as the family's is, sizes aside. Raises BadInput that says whose it is."""
    shipped = blueprints.config_folder(family, part)
    if shipped is None:
        return
    kin = layouts.kin(part, config)
    if shipped.parent.name not in kin:
        whose = f" it is {kin[0]}'s" if kin else ""
        raise BadInput(f"{folder} is no {part} of {family}:{whose or ' it is built otherwise'}",
                       f"give a model of the family {family}")


def _compute_buffers(model: Any, device: str | torch.device) -> None:
    """Tables that are computed and not kept in files, which a network built without memory does not have yet."""
    import torch
    for name, buffer in list(model.named_buffers()):
        if not buffer.is_meta:
            continue
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if leaf == "position_ids":
            made = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
        elif leaf == "pos_embed" and type(module).__name__ == "PatchEmbed":
            patch = int(module.patch_size)
            made = type(module)(height=module.height * patch, width=module.width * patch, patch_size=patch,
                                in_channels=1, embed_dim=buffer.shape[-1],
                                interpolation_scale=module.interpolation_scale).pos_embed.to(device)
        else:
            raise RuntimeError(f"{type(model).__name__} has a table {name} that is not known how to compute")
        setattr(module, leaf, made)


def open_layout(source: Source, variant: str = "") -> layouts.Layout:
    """What a file, several files or a folder hold (:func:`engine.models.layouts.recognise`)."""
    if isinstance(source, Sequence):
        return layouts.recognise([read_header(Path(one)) for one in source])
    return layouts.recognise(component_headers(source, variant) if source.is_dir() else read_header(source))
