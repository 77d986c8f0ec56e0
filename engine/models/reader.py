"""Reading any file of weights without running anything in it: headers first, tensors where asked.

    header = read_header(Path("v1-5-pruned.ckpt"))      # names, shapes, types; no tensor is read
    tensors = read_tensors(path, allow_pickle=True)     # a pickle only where the user said so

What a file is, is told by its first bytes, never by its name: a pickle called model.safetensors is a pickle.
Format of safetensors: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.models import packed, torch_files, weight_names
from engine.models.pickle_machine import SIZES, Damaged, Refused
from engine.models.weight_names import SUFFIXES as SUFFIXES

if TYPE_CHECKING:
    import torch

LONGEST_HEADER = 100_000_000
"""Bytes; the safetensors library's own limit."""
AGAIN = "Download it again (maquette models pull), or get it from its source"

TYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
         "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
         "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
         "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"}

# First bytes of files that are often taken for weights, and what to do about each.
OTHERS = ((b"version https://git-lfs", "is a Git LFS pointer, not the weights", "Run git lfs pull where it came from"),
          (b"<!DOCTYPE", "is a web page, not weights", "Download the file itself, not the page about it"),
          (b"<html", "is a web page, not weights", "Download the file itself, not the page about it"),
          (b"GGUF", "is a GGUF file, which Maquette does not read", "Get the model as safetensors"),
          (b"\x89HDF", "is an HDF5 file, which Maquette does not read", "Get the model as safetensors"),
          (b"\x93NUMPY", "is a NumPy array, not a file of weights", "Get the model as safetensors"))


@dataclass(frozen=True)
class Entry:
    """A tensor by name of a header. dtype : torch's name ("float16")"""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Header:
    """What a file of weights holds, tensors aside.

    format : "safetensors" or "pickle"; tensors : key -> shape and type
    metadata : text beside the tensors (safetensors' __metadata__; of a pickle the strings and numbers at its top)
    wrapper : name under which a pickle keeps the tensors ("state_dict", ...), "" where they lie at the top. Nested
    dictionaries of tensors are joined by dots: "image_proj.proj.weight".
    shards : the files that an index names, where ``path`` is one
    """

    path: Path
    format: str
    tensors: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)
    wrapper: str = ""
    shards: tuple[Path, ...] = ()

    @property
    def elements(self) -> int:
        """Numbers in all tensors."""
        return sum(prod(entry.shape) for entry in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Type -> numbers held in it, the most used first."""
        counts: dict[str, int] = {}
        for entry in self.tensors.values():
            counts[entry.dtype] = counts.get(entry.dtype, 0) + prod(entry.shape)
        return dict(sorted(counts.items(), key=lambda item: -item[1]))


def read_header(path: Path) -> Header:
    """Key names, shapes and types of a file, of an ``*.index.json`` with its shards, or of a folder that holds one.

    Reads the headers and no tensor; runs nothing. BadInput: not weights, truncated, overlapping, a payload.
    """
    path = Path(path)
    if path.is_dir():
        return read_header(weights_in(path))
    if path.name.endswith(".index.json"):
        return _sharded(path)
    if file_format(path) == "safetensors":
        return _safetensors(path)
    return _guarded(path, lambda: _pickle(path)[0])


def read_tensors(path: Path, keys: Iterable[str] | None = None, *, allow_pickle: bool = False
                 ) -> dict[str, torch.Tensor]:
    """The tensors of a file (or index, or folder with one), on the CPU, in the types they are kept in.

    keys : which; None: all. allow_pickle : read a pickle too, by the restricted machine. The header is checked first.
    BadInput: as ``read_header``; a pickle that was not allowed; a key that is not there; NaN or infinity.
    """
    path = Path(path)
    if path.is_dir():
        path = weights_in(path)
    header = read_header(path)
    wanted = list(header.tensors) if keys is None else list(keys)
    if absent := [key for key in wanted if key not in header.tensors]:
        raise BadInput(f"{path} has no tensor {', '.join(absent[:3])}" + (" ..." if len(absent) > 3 else ""),
                       "See what it holds with: maquette models inspect " + str(path))
    if header.format == "pickle" and not allow_pickle:
        renamed = " although its name says safetensors" if path.suffix == ".safetensors" else ""
        raise BadInput(f"{path} is a pickle{renamed}; only safetensors are loaded by default",
                       "Give --allow-pickle: its tensors are then read and nothing in it is run")
    tensors: dict[str, torch.Tensor] = {}
    for file in header.shards or (path,):
        tensors |= _read_one(file, wanted, bool(header.shards))
    _finite(path, tensors)
    return {key: tensors[key] for key in wanted}


def weights_in(folder: Path, variant: str = "") -> Path:
    """The one index or file of weights that lies in a folder; of several precisions ``variant`` ("fp16"), else full.

    BadInput where there is none, or where more than one can be meant.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", "Check the path")
    names = [p.name for p in folder.iterdir() if p.is_file()]
    choices = weight_names.pick(names, variant) or [[n] for n in sorted(names) if n.endswith(SUFFIXES)]
    if not choices:
        raise BadInput(f"{folder} holds no file of weights", "Give the path of one file")
    if len(choices) > 1:
        raise BadInput(f"{folder} holds several files of weights: {', '.join(choice[0] for choice in choices[:5])}",
                       "Give the path of one of them")
    return folder / choices[0][0]


TOGETHER = {"denoising_unet", "reference_unet", "pose_guider", "motion_module"}
"""Names of files that make up one model though each stands at the top: Moore-AnimateAnyone's."""


def component_headers(folder: Path, variant: str = "") -> dict[str, Header]:
    """Header of each component (subfolder with weights) of a diffusers folder, or of Moore-AnimateAnyone's files beside
    each other; {"": ...} where the weights lie at the top. BadInput where there are none."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", "Check the path")
    parts = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")
             and any(weight_names.is_weights(f.name) for f in p.iterdir() if f.is_file())}
    together = {f.stem: f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix in SUFFIXES}
    if not parts and len(together) > 1 and set(together) <= TOGETHER:
        return {name: read_header(file) for name, file in together.items()}
    if not parts or not (folder / "model_index.json").exists():
        try:
            return {"": read_header(weights_in(folder, variant))}
        except BadInput:
            if not parts:
                raise
    return {name: read_header(weights_in(part, variant)) for name, part in parts.items()}


def file_format(path: Path) -> str:
    """ "safetensors" or "pickle", by the first bytes. BadInput for anything else."""
    try:
        with path.open("rb") as file:
            first = file.read(64)
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}", "Check the path") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    if not first:
        raise BadInput(f"{path} is empty", AGAIN)
    for magic, what, fix in OTHERS:
        if first.lstrip()[:len(magic)].lower() == magic.lower():
            raise BadInput(f"{path} {what}", fix)
    if first.startswith(torch_files.ZIP_MAGIC):
        return "pickle"
    if first[8:9] == b"{":  # where safetensors' header begins, by its format
        return "safetensors"
    if first[:1] == b"\x80" or first[:1] in b"(]}cl":
        return "pickle"
    name = "safetensors" if path.suffix == ".safetensors" else "weights"
    raise BadInput(f"{path} is no file of {name}: its first bytes are neither safetensors nor a torch pickle", AGAIN)


def _unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot read {path}: {error.strerror or error}", "Check the path and its permissions")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _safetensors(path: Path) -> Header:
    """The header of one safetensors file, checked: names once, bytes without gaps or overlap up to the file's end."""
    def bad(what: str) -> BadInput:
        return BadInput(f"{path}: {what}", AGAIN)

    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise bad(f"its header claims {length:,} bytes, more than safetensors allows")
        if length > size - 8:
            raise bad(f"truncated: its header takes {length:,} bytes, the file has {size - 8:,} after its length")
        text = file.read(length)
    try:
        told = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise bad(f"its header is not JSON as safetensors writes it ({str(error)[:100]})") from error
    metadata = told.pop("__metadata__", None) or {}
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise bad("its __metadata__ holds something else than text")
    tensors, spans = {}, []
    for key, about in told.items():
        try:
            dtype, shape, (begin, end) = TYPES[about["dtype"]], tuple(about["shape"]), about["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise bad(f"the entry of the tensor {key[:100]!r} is none that is known: {str(about)[:100]}") from None
        if end - begin != prod(shape) * SIZES[dtype]:
            raise bad(f"the tensor {key[:100]!r} of shape {list(shape)} and type {dtype} cannot take the bytes "
                      f"{begin:,} to {end:,}")
        tensors[key] = Entry(shape, dtype)
        spans.append((begin, end, key))
    at, last = 0, ""
    for begin, end, key in sorted(spans):
        if begin < at:
            raise bad(f"the tensors {last[:100]!r} and {key[:100]!r} overlap")
        if begin > at:
            raise bad(f"{begin - at:,} bytes before the tensor {key[:100]!r} belong to none")
        at, last = end, key
    if 8 + length + at > size:
        raise bad(f"truncated: its tensors end at byte {8 + length + at:,}, the file at {size:,}")
    if 8 + length + at < size:
        raise bad(f"{size - 8 - length - at:,} bytes after its last tensor belong to none")
    try:
        if packed.is_packed(metadata):  # what the layout knows nothing of
            tensors = {name: entry for name, entry in tensors.items() if not name.endswith(packed.SCALE)}
    except ValueError as error:
        raise bad(str(error)) from error
    return Header(path, "safetensors", tensors, metadata)


def _pickle(path: Path) -> tuple[Header, torch_files.TorchFile, dict[str, Any]]:
    file = torch_files.describe(path)
    wrapper, specs, beside = torch_files.unwrap(file.tree)
    if not specs:
        raise Damaged("no tensors in it")
    tensors = {key: Entry(spec.shape, spec.dtype) for key, spec in specs.items()}
    return Header(path, "pickle", tensors, beside, wrapper), file, specs


def _guarded(path: Path, read: Any) -> Any:
    """What the restricted machine says, as one line about the file."""
    renamed = " (a pickle, although its name says safetensors)" if path.suffix == ".safetensors" else ""
    try:
        return read()
    except Refused as error:
        raise BadInput(f"{path}{renamed} asks for {error.name} while it is read, which may be a payload; nothing of it "
                       f"was run", "Do not load it; get the model as safetensors from a source you trust") from error
    except Damaged as error:
        raise BadInput(f"{path}{renamed} cannot be read: {error}", AGAIN) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _sharded(path: Path) -> Header:
    """One header over all files that an index names."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        where: dict[str, str] = {str(key): str(name) for key, name in told["weight_map"].items()}
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}", "Check the path") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"the index {path} cannot be read: {type(error).__name__}", AGAIN) from error
    tensors: dict[str, Entry] = {}
    formats, shards = set(), []
    for name in sorted(set(where.values())):
        shard = path.parent / name
        if "/" in name or "\\" in name or name.endswith(".index.json"):
            raise BadInput(f"the index {path} names {name!r}, which is no file beside it", AGAIN)
        if not shard.exists():
            raise BadInput(f"{path.parent} lacks {name}, which {path.name} names", AGAIN)
        header = read_header(shard)
        formats.add(header.format)
        shards.append(shard)
        wanted = {key for key, place in where.items() if place == name}
        if odd := sorted(wanted ^ set(header.tensors)):
            raise BadInput(f"{shard} and the index {path.name} do not agree on the tensor {odd[0]}", AGAIN)
        tensors |= header.tensors
    if len(formats) != 1:
        raise BadInput(f"the index {path} names " + ("no file" if not formats else "safetensors and pickles"), AGAIN)
    about = told.get("metadata")
    metadata = {str(k): str(v) for k, v in about.items()} if isinstance(about, dict) else {}
    return Header(path, formats.pop(), tensors, metadata, shards=tuple(shards))


def _read_one(path: Path, wanted: list[str], some: bool) -> dict[str, torch.Tensor]:
    """The wanted tensors of one file. some : those of them that it holds (a shard)"""
    if file_format(path) == "pickle":
        def read() -> dict[str, torch.Tensor]:
            _, file, specs = _pickle(path)
            return torch_files.read(file, specs, [key for key in wanted if not some or key in specs])
        return _guarded(path, read)
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="pt") as opened:
            names = set(opened.keys())
            held = {key: opened.get_tensor(key) for key in wanted if not some or key in names}
            if packed.is_packed(opened.metadata()):
                scales = {key + packed.SCALE for key in held} & names
                held = packed.unpack({**held, **{key: opened.get_tensor(key) for key in scales}})
            return held
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"cannot read {path}: {' '.join(str(error).split())[:200]}", AGAIN) from error


def _finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """BadInput that names tensors with NaN or infinity: a network with them gives black pictures, hours later."""
    bad = [key for key, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise BadInput(f"{path}: NaN or infinity in {', '.join(bad[:3])}" +
                       (f" and {len(bad) - 3} more tensors" if len(bad) > 3 else ""),
                       "The file is damaged or its training diverged; use another one")


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.numel() == 0 or not tensor.dtype.is_floating_point:
        return True
    # An expanded tensor repeats its elements: each is looked at once.
    held = tensor[tuple(slice(0, 1) if step == 0 else slice(None) for step in tensor.stride())]
    for piece in held.reshape(-1).split(1 << 24):
        piece = piece if piece.element_size() > 1 else piece.float()
        low, high = piece.aminmax()
        if not (low.isfinite() and high.isfinite()):
            return False
    return True
