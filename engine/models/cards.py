"""Model cards: what a folder of weights is, what it was trained on, and whether its files are the ones it names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import BadInput

REPAIR = "restore the file (git checkout, or install Maquette again)"


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, kept in memory as long as its size and time of change stay. Raises BadInput if unreadable."""
    try:
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise BadInput(f"cannot read the weights {path}: {error.strerror or error}", REPAIR) from error


def weight_files(folder: Path) -> list[Path]:
    """The files that make a part what it is: its safetensors, or a tokenizer's one JSON file; sorted."""
    return sorted(folder.rglob("*.safetensors")) or sorted(folder.glob("tokenizer.json"))


def part_digest(folder: Path) -> str:
    """One digest of a part: its file's SHA-256; of several, that of the lines "path sha256", joined by LF."""
    files = weight_files(folder)
    if not files:
        raise BadInput(f"weights are missing: no .safetensors in {folder}", REPAIR)
    if len(files) == 1:
        return sha256_of(files[0])
    lines = [f"{f.relative_to(folder).as_posix()} {sha256_of(f)}" for f in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Card:
    """A part's card.json.

    sha256 : :func:`part_digest` of its weights
    trained_on : the parts it stands on and their digests
    """

    part: str
    sha256: str
    trained_on: dict[str, str] = field(default_factory=dict)
    licence: str = ""
    commercial: str = ""
    revision: str = "1"
    fields: dict[str, Any] = field(default_factory=dict)


def read_card(folder: Path) -> Card:
    """Raises BadInput when the card is missing or is not one."""
    path = folder / "card.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Card(folder.name, str(data["sha256"]), dict(data.get("trained_on") or {}),
                    str(data.get("licence", "")), str(data.get("commercial", "")), str(data.get("revision", "1")), data)
    except FileNotFoundError as error:
        raise BadInput(f"weights are missing: no model card {path}", REPAIR) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"the model card {path} cannot be read: {error!r}", REPAIR) from error


def verify(folder: Path) -> Card:
    """The card of a part whose weights are exactly the ones the card names. Raises BadInput otherwise."""
    if not folder.is_dir():
        raise BadInput(f"weights are missing: no folder {folder}", REPAIR)
    card = read_card(folder)
    found = part_digest(folder)
    if found != card.sha256:
        names = ", ".join(f.relative_to(folder).as_posix() for f in weight_files(folder))
        raise BadInput(f"the weights {folder} ({names}) are not the ones their card names: "
                       f"sha256 expected {card.sha256}, found {found}", REPAIR)
    return card
