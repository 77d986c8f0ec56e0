"""An asset's papers inside its own files: text in a PNG, tags in an MP4, extras in a GLB.

They go into the copies that a user takes away, never into the store: a changed word in a recipe's name or gate makes
no result again. No pixel, sample or vertex is touched, and equal papers make equal bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.export.glb import pack, unpack

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def with_papers(data: bytes, suffix: str, papers: Mapping[str, Any]) -> bytes:
    """The bytes of a file with ``papers`` inside. A file of another kind, or that is not what its suffix says, comes
    back as it is: its papers stand in report.json all the same.

    suffix : ".png", ".mp4", ".glb"; papers : name -> text, number, or JSON (written as JSON where a file knows texts
    only)
    """
    writers = {".png": png_with_text, ".mp4": mp4_with_tags, ".glb": glb_with_extras}
    try:
        return writers[suffix.lower()](data, papers)
    except (KeyError, ValueError, struct.error):
        return data


def as_text(value: Any) -> str:
    """A paper as one text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


# -- glTF --------------------------------------------------------------------------------------------------------------

def glb_with_extras(data: bytes, papers: Mapping[str, Any]) -> bytes:
    """A GLB with ``papers`` in its asset.extras, beside what stands there. ValueError for what is no GLB."""
    document, binary = unpack(data)
    about = document.setdefault("asset", {"version": "2.0"})
    about["extras"] = {**about.get("extras", {}), **papers}
    return pack(document, binary)


# -- PNG ---------------------------------------------------------------------------------------------------------------

def png_with_text(data: bytes, papers: Mapping[str, Any]) -> bytes:
    """A PNG with ``papers`` as its text, in the place of texts of the same names. ValueError for what is no PNG.

    Latin-1 chunks (tEXt) for ASCII, UTF-8 ones (iTXt) where needed. https://www.w3.org/TR/png-3/#11textinfo
    """
    chunks = [(kind, body) for kind, body in _png_chunks(data)
              if not (kind in (b"tEXt", b"iTXt", b"zTXt") and body.partition(b"\0")[0].decode("latin-1") in papers)]
    texts = []
    for name, value in papers.items():
        text, keyword = as_text(value), name.encode("latin-1")
        if not 1 <= len(keyword) <= 79:
            raise ValueError(f"a PNG's keyword has 1 to 79 characters, {name!r} has {len(keyword)}")
        if text.isascii() and "\0" not in text:
            texts.append((b"tEXt", keyword + b"\0" + text.encode("latin-1")))
        else:
            texts.append((b"iTXt", keyword + b"\0\0\0\0\0" + text.replace("\0", "").encode("utf-8")))
    first = next(place for place, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    whole = [*chunks[:first], *texts, *chunks[first:]]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in whole)


def png_text(data: bytes) -> dict[str, str]:
    """Name -> text of a PNG's own uncompressed text chunks."""
    found = {}
    for kind, body in _png_chunks(data):
        name, _, rest = body.partition(b"\0")
        if kind == b"tEXt":
            found[name.decode("latin-1")] = rest.decode("latin-1")
        elif kind == b"iTXt" and rest[:1] == b"\0":
            found[name.decode("latin-1")] = rest[2:].split(b"\0", 2)[2].decode("utf-8")
    return found


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError("not a PNG")
    at, kind = 8, b""
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            raise ValueError("the PNG ends too early")
        yield kind, data[at + 8:at + 8 + size]
        at += 12 + size


# -- MP4 ---------------------------------------------------------------------------------------------------------------

def mp4_with_tags(data: bytes, papers: Mapping[str, Any]) -> bytes:
    """An MP4 with ``papers`` as its tags, in the place of those it has. ValueError for what is no MP4.

    "title" and "comment" go where every player looks, the others under their own names, as iTunes writes them. The
    movie's box grows, so the places of all samples that lie behind it are moved by as much.
    """
    top = list(_boxes(data))
    place = next((i for i, (kind, _) in enumerate(top) if kind == b"moov"), None)
    if place is None or not any(kind == b"ftyp" for kind, _ in top):
        raise ValueError("not an MP4")
    kept = [(kind, body) for kind, body in _boxes(top[place][1]) if kind not in (b"udta", b"meta")]
    tags = b"".join(_tag(name, as_text(value)) for name, value in papers.items())
    handler = _box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    movie = [*kept, (b"udta", _box(b"meta", bytes(4) + handler + _box(b"ilst", tags)))]
    grown = sum(8 + len(body) for _, body in movie) - len(top[place][1])
    first_sample = sum(8 + len(body) for _, body in top[:place + 1])  # what lies behind the movie's box is moved
    moved = _moved(b"".join(_box(kind, body) for kind, body in movie), first_sample, grown)
    return b"".join(_box(kind, moved if i == place else body) for i, (kind, body) in enumerate(top))


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, contents) of each box."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):  # 64-bit sizes begin at 4 GB: no turntable
            raise ValueError("not a sequence of MP4 boxes")
        yield kind, data[at + 8:at + size]
        at += size


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _tag(name: str, text: str) -> bytes:
    value = _box(b"data", struct.pack(">II", 1, 0) + text.encode("utf-8"))  # 1: UTF-8
    usual = {"title": b"\xa9nam", "comment": b"\xa9cmt"}
    if name in usual:
        return _box(usual[name], value)
    return _box(b"----", _box(b"mean", bytes(4) + b"com.apple.iTunes") + _box(b"name", bytes(4) + name.encode())
                + value)


def _moved(data: bytes, start: int, by: int) -> bytes:
    """The boxes of a movie whose samples at ``start`` and behind lie ``by`` bytes further on."""
    out = []
    for kind, body in _boxes(data):
        if kind in (b"trak", b"mdia", b"minf", b"stbl"):
            body = _moved(body, start, by)
        elif kind in (b"stco", b"co64"):
            word = "I" if kind == b"stco" else "Q"
            (count,) = struct.unpack_from(">I", body, 4)
            places = struct.unpack_from(f">{count}{word}", body, 8)
            body = body[:8] + struct.pack(f">{count}{word}", *(at + by if at >= start else at for at in places))
        out.append(_box(kind, body))
    return b"".join(out)


def stamped_copy(source: Path, papers: Mapping[str, Any]) -> bytes | None:
    """The file's bytes with its papers inside; None for a kind that holds none, which is copied as it is."""
    if source.suffix.lower() not in (".png", ".mp4", ".glb"):
        return None
    return with_papers(source.read_bytes(), source.suffix, papers)
