"""Names of assets: safe as folders on every system, and unlike each other on every system.

An id that a user writes is taken as it is or refused, never mended. An id that follows from other words (a prompt, a
file's name, a value of the matrix) is built from them so that it is safe.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from engine.errors import BadInput

MAX_CHARACTERS = 80
MAX_BYTES = 160
"""Of an id in UTF-8: file systems end a name at 255 bytes, and paths on Windows at 260 characters in all."""
RULE = (f"1 to {MAX_CHARACTERS} letters, digits and . _ - that begin with a letter, a digit or _ and do not end with "
        f"a dot")
_SAFE = re.compile(r"\w(?:[\w.-]*[\w-])?", re.UNICODE)
_DEVICES = frozenset(("con", "prn", "aux", "nul", "conin$", "conout$", "clock$",
                      *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")))
"""Names that Windows keeps for devices, with any ending."""


def check_id(id: str, where: str = "") -> str:
    """The id in Unicode's composed form. BadInput where it could not be a folder's name on some system.

    where : begins the message, for instance "forest.toml: [[asset]] 3: "
    """
    if id.isascii() and len(id) <= MAX_CHARACTERS and _SAFE.fullmatch(id) and not _device(id):  # the usual one, quickly
        return id
    plain = unicodedata.normalize("NFC", id)
    shown = repr(plain if len(plain) <= 60 else plain[:57] + "...")
    if len(plain) > MAX_CHARACTERS or len(plain.encode("utf-8", "replace")) > MAX_BYTES:
        raise BadInput(f"{where}the id {shown} has {len(plain)} characters, "
                       f"{len(plain.encode('utf-8', 'replace'))} bytes", f"Give {RULE}, at most {MAX_BYTES} bytes")
    if _device(plain):
        raise BadInput(f"{where}the id {shown} is the name of a device on Windows", "Give another id")
    if not _SAFE.fullmatch(plain):
        raise BadInput(f"{where}the id {shown} cannot be a folder's name everywhere", f"Give {RULE}")
    return plain


def twin(id: str) -> str:
    """What two ids must not have in common: file systems that ignore case or accents' spelling take them for one."""
    if id.isascii():
        return id.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", id).casefold())


def slug(words: str, longest: int = 40) -> str:
    """Words as a part of an id: lower case, letters, digits and underscores; "" where there are none."""
    plain = re.sub(r"\W+", "_", unicodedata.normalize("NFC", words).lower()).strip("_")
    return plain.encode("utf-8", "replace")[:longest].decode("utf-8", "ignore").strip("_")


def id_of(words: Iterable[str]) -> str:
    """The first of ``words`` that has something to say, as an id that is safe; "asset" where none has."""
    plain = next((found for found in (slug(one, 60) for one in words) if found), "asset")
    return f"{plain}_asset" if _device(plain) else plain


def _device(name: str) -> bool:
    if len(name) > 8 and "." not in name:  # longer than all of them
        return False
    return twin(name).split(".")[0] in _DEVICES or name.split(".")[0].casefold() in _DEVICES
