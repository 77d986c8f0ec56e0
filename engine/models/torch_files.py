"""What ``torch.save`` writes (.ckpt, .pth, .bin, .pt), described and read by the restricted machine.

Two layouts: since torch 1.6 a zip with one ``data.pkl`` and a raw record for each storage; before, a row of pickles
followed by the storages. Described first (key names, shapes, where each storage lies), read only where asked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.models.pickle_machine import SIZES, Damaged, Machine, Storage, TensorSpec

if TYPE_CHECKING:
    import torch

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DEEPEST = 8
LONGEST_KEY = 1000
# Names under which trainers keep the weights beside other things, in the order in which they are looked for.
WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "module", "model", "net", "ema")


@dataclass
class TorchFile:
    """A described file. tree : its object; places : storage's key -> (first byte, bytes), or its record in the zip"""

    path: Path
    tree: Any
    places: dict[str, tuple[int, int] | str]
    storages: dict[str, Storage] = field(default_factory=dict)


def describe(path: Path) -> TorchFile:
    """Read the pickle of a file and find its storages. Refused or Damaged (``engine.models.pickle_machine``)."""
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        return _describe_zip(path, file) if magic == ZIP_MAGIC else _describe_legacy(path, file)


def _describe_zip(path: Path, file: BinaryIO) -> TorchFile:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            if len(records) != len(archive.infolist()):  # readers differ in which of the two they take
                raise Damaged("two records of one name")
            main = [name for name in records if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
            if len(main) != 1:
                raise Damaged("a zip archive that torch did not write (no data.pkl)")
            root = main[0].removesuffix("data.pkl")
            if root + "constants.pkl" in records or any(name.startswith(root + "code/") for name in records):
                raise Damaged("a TorchScript program, not a file of weights")
            for info in records.values():
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise Damaged(f"its record {info.filename} is compressed or encrypted; torch never does that")
                if info.header_offset + info.file_size > size:
                    raise Damaged(f"its record {info.filename} reaches beyond the end of the file")
            if root + "byteorder" in records and archive.read(root + "byteorder")[:8] == b"big":
                raise Damaged("written on a big-endian machine")
            found: dict[str, Storage] = {}
            with archive.open(main[0]) as pickle:
                tree = Machine(pickle, records[main[0]].file_size, lambda s: _note(found, s)).run()  # type: ignore[arg-type]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise Damaged(f"the end of its archive is missing or damaged ({error}): the file is truncated") from error
    places: dict[str, tuple[int, int] | str] = {}
    for key, storage in found.items():
        record = records.get(f"{root}data/{key}")
        if record is None or record.file_size < _bytes(storage):
            raise Damaged(f"the storage {key} is missing or too short: the file is truncated")
        places[key] = record.filename
    return TorchFile(path, tree, places, found)


def _describe_legacy(path: Path, file: BinaryIO) -> TorchFile:
    size = path.stat().st_size
    if Machine(file, size).run() != LEGACY_MAGIC:
        raise Damaged("a pickle that torch.save did not write")
    if Machine(file, size).run() != LEGACY_PROTOCOL:
        raise Damaged("a version of torch's format that is unknown here")
    system = Machine(file, size).run()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise Damaged("written on a big-endian machine")
    found: dict[str, Storage] = {}
    tree = Machine(file, size, lambda s: _note(found, s)).run()
    keys = Machine(file, size).run()
    if not isinstance(keys, list) or {str(key) for key in keys} != set(found):
        raise Damaged("its list of storages does not fit its tensors")
    places: dict[str, tuple[int, int] | str] = {}
    for key in (str(key) for key in keys):  # each: the number of elements as int64, then the elements
        told, length = int.from_bytes(file.read(8), "little"), _bytes(found[key])
        if told != found[key].numel or file.tell() + length > size:
            raise Damaged(f"the storage {key} is missing or too short: the file is truncated")
        places[key] = (file.tell(), length)
        file.seek(length, 1)
    return TorchFile(path, tree, places, found)


def _note(found: dict[str, Storage], storage: Storage) -> None:
    if found.setdefault(storage.key, storage) != storage:
        raise Damaged(f"two different descriptions of the storage {storage.key}")


def _bytes(storage: Storage) -> int:
    return storage.numel * (SIZES[storage.dtype] if storage.dtype else 1)


def unwrap(tree: Any) -> tuple[str, dict[str, TensorSpec], dict[str, str]]:
    """The state dictionary in a file's object: (name it lay under, key -> tensor, scalars beside it as text).

    Nested dictionaries of tensors ({"image_proj": {...}, "ip_adapter": {...}}) are joined by dots, as the same models
    are spelled in safetensors.
    """
    if isinstance(tree, TensorSpec):
        raise Damaged("a single tensor, not a dictionary of them")
    if not isinstance(tree, dict):
        raise Damaged(f"an object of the type {type(tree).__name__}, not a dictionary of tensors")
    beside = {str(key): str(value) for key, value in tree.items()
              if isinstance(key, str) and isinstance(value, (str, int, float)) and len(str(value)) <= 200}
    if not any(isinstance(value, TensorSpec) for value in tree.values()):
        for name in WRAPPERS:
            inside = _flat(tree.get(name))
            if inside:
                return name, inside, beside
    return "", _flat(tree), beside


def _flat(tree: Any) -> dict[str, TensorSpec]:
    """All tensors of nested dictionaries. Each dictionary once: a pickle may name one again and again."""
    found: dict[str, TensorSpec] = {}
    waiting = [("", tree, 0)] if isinstance(tree, dict) else []
    seen: set[int] = set()
    while waiting:
        prefix, node, depth = waiting.pop()
        if id(node) in seen or depth > DEEPEST:
            continue
        seen.add(id(node))
        for key, value in node.items():
            if isinstance(key, str) and len(prefix) + len(key) > LONGEST_KEY:
                raise Damaged(f"a name of {len(prefix) + len(key):,} characters")
            if isinstance(value, TensorSpec):
                found[f"{prefix}{key}"] = value
            elif isinstance(value, dict):
                waiting.append((f"{prefix}{key}.", value, depth + 1))
    return found


def read(file: TorchFile, specs: dict[str, TensorSpec], keys: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors of ``keys``, each storage read once; tensors that share one in the file share it here."""
    wanted = list(keys)
    raw = _raw(file, {specs[key].storage.key for key in wanted})
    tensors = {}
    for key in wanted:
        spec = specs[key]
        held = raw[spec.storage.key]
        elements = held[:len(held) // SIZES[spec.dtype] * SIZES[spec.dtype]].view(_dtype(spec.dtype))
        tensors[key] = elements.as_strided(spec.shape, spec.stride, spec.offset)
    return tensors


def _raw(file: TorchFile, keys: set[str]) -> dict[str, torch.Tensor]:
    """Storages as bytes; a zip's are checked against their CRC."""
    import torch
    raw = {}
    with file.path.open("rb") as source:
        archive = None
        for key in sorted(keys):
            place = file.places[key]
            length = _bytes(file.storages[key])
            tensor = torch.empty(length, dtype=torch.uint8)
            if isinstance(place, str):
                archive = archive or zipfile.ZipFile(source)
                try:
                    with archive.open(place) as record:
                        _fill(record, tensor)  # type: ignore[arg-type]
                        record.read()  # what follows the last tensor counts in the CRC too
                except zipfile.BadZipFile as error:
                    raise Damaged(f"the bytes of the storage {key} are not the ones that were written (CRC)") from error
            else:
                source.seek(place[0])
                _fill(source, tensor)
            raw[key] = tensor
    return raw


def _fill(source: BinaryIO, tensor: torch.Tensor) -> None:
    view = memoryview(tensor.numpy())  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        count = source.readinto(view[done:done + (1 << 24)])  # type: ignore[attr-defined]
        if not count:
            raise Damaged("it ends within a tensor: the file is truncated")
        done += count


def _dtype(name: str) -> torch.dtype:
    import torch
    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise Damaged(f"a tensor of the type {name}, which this torch does not know")
    return kind
