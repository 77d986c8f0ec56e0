"""Animated GIF, PNG and WebP, frame by frame.

The containers are written here, byte by byte, and the frames in them by Pillow: its own writers of animations join
frames that are equal, and a clip would no longer have the frames and the times that it was given.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from engine.clips import timing
from engine.errors import BadInput

if TYPE_CHECKING:
    from PIL import Image

SOLID = 128
"""A GIF's pixels are there or not: alpha from which they are."""
CLEAR = 255
"""A GIF's palette entry for what is not there."""
SAMPLED = 32
"""Frames that a GIF's palette is made from."""

Frames = Callable[[], Iterable[np.ndarray]]
"""The frames from the first on, (h, w, 4) uint8 straight alpha, as often as asked for."""


# -- GIF89a ------------------------------------------------------------------------------------------------------------

def write_gif(path: Path, frames: Frames, count: int, fps: Fraction, loop: bool, papers: Mapping[str, str]
              ) -> list[int]:
    """One palette for all frames and no dithering, so that nothing flickers; pixels are clear or solid.

    -> hundredths of a second that each frame stands (``timing.schedule``). BadInput for more than 100 frames a second.
    """
    from PIL import Image
    durations = timing.schedule(count, fps, 100)
    palette = _palette(frames, count)
    table = bytes(palette.getpalette() or ()).ljust(768, b"\0")
    with path.open("wb") as file:
        for i, frame in enumerate(frames()):
            height, width = frame.shape[:2]
            if i == 0:
                file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, CLEAR, 0) + table)
                if loop:
                    file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
                text = "\n".join(f"{name}: {value}" for name, value in papers.items()).encode("utf-8")
                file.write(b"!\xfe" + _sub_blocks(text))
            page = np.asarray(Image.fromarray(frame[..., :3]).quantize(palette=palette, dither=Image.Dither.NONE))
            page = np.where(frame[..., 3] >= SOLID, page, CLEAR).astype(np.uint8)
            # A frame is cleared away before the next one (disposal 2), so that holes stay holes.
            file.write(b"!\xf9\x04" + struct.pack("<BHBB", 2 << 2 | 1, durations[i], CLEAR, 0))
            file.write(b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + _lzw(page))
        file.write(b";")
    return durations


def _palette(frames: Frames, count: int) -> Image.Image:
    """A Pillow picture whose palette holds up to 255 colours of the solid pixels of frames all along the clip."""
    from PIL import Image
    every = max(1, -(-count // SAMPLED))
    solid = [frame[frame[..., 3] >= SOLID][:, :3][::3] for i, frame in enumerate(frames()) if i % every == 0]
    pixels = np.concatenate([*solid, np.zeros((1, 3), np.uint8)])
    return Image.fromarray(pixels[None]).quantize(CLEAR, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _sub_blocks(data: bytes) -> bytes:
    return b"".join(bytes([len(data[i:i + 255])]) + data[i:i + 255] for i in range(0, len(data), 255)) + b"\0"


def _lzw(page: np.ndarray) -> bytes:
    """A frame's compressed pixels (code size and blocks), cut out of a GIF of that one frame."""
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(page).save(out, "GIF", optimize=False, interlace=0)
    data = out.getvalue()
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at] == 0x21:  # extensions before the picture
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    local = data[at + 9]
    at += 10 + (3 << (local & 7) + 1 if local & 0x80 else 0)
    end = at + 1
    while data[end]:
        end += data[end] + 1
    return data[at:end + 1]


# -- APNG --------------------------------------------------------------------------------------------------------------

def write_apng(path: Path, frames: Frames, count: int, fps: Fraction, loop: bool, papers: Mapping[str, str]
               ) -> Fraction:
    """Every pixel as it is. -> seconds that each frame stands: exactly 1 / fps, as a fraction of 16-bit numbers."""
    delay = (1 / fps).limit_denominator(65535)
    if not 0 < delay.numerator <= 65535:
        raise BadInput(f"an APNG cannot hold {float(fps):g} frames a second", "leave this format out")
    number = 0
    with path.open("wb") as file:
        for i, frame in enumerate(frames()):
            height, width = frame.shape[:2]
            if i == 0:
                file.write(b"\x89PNG\r\n\x1a\n")
                _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
                for name, text in papers.items():
                    _chunk(file, b"iTXt", name.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8"))
                _chunk(file, b"acTL", struct.pack(">II", count, 0 if loop else 1))
            # Drawn over nothing and left for the next, which covers it whole: dispose none, blend source.
            _chunk(file, b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, delay.numerator,
                                              delay.denominator, 0, 0))
            number += 1
            data = _png_data(frame)
            if i == 0:
                _chunk(file, b"IDAT", data)
            else:
                _chunk(file, b"fdAT", struct.pack(">I", number) + data)
                number += 1
        _chunk(file, b"IEND", b"")
    return delay


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _png_data(frame: np.ndarray) -> bytes:
    """A frame's compressed pixels, cut out of a PNG of that one frame."""
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    data, at, parts = out.getvalue(), 8, []
    while at < len(data):
        length = int.from_bytes(data[at:at + 4], "big")
        if data[at + 4:at + 8] == b"IDAT":
            parts.append(data[at + 8:at + 8 + length])
        at += length + 12
    return b"".join(parts)


# -- WebP --------------------------------------------------------------------------------------------------------------

def write_webp(path: Path, frames: Frames, count: int, fps: Fraction, loop: bool, papers: Mapping[str, str]
               ) -> list[int]:
    """Lossless, colours under clear pixels aside. -> thousandths of a second that each frame stands."""
    from PIL import Image
    durations = timing.schedule(count, fps, 1000)
    with path.open("wb") as file:
        for i, frame in enumerate(frames()):
            height, width = frame.shape[:2]
            if max(height, width) > 16383:
                raise BadInput(f"WebP holds 16,383 pixels a side, not {width} x {height}", "leave this format out")
            if i == 0:
                file.write(b"RIFF\0\0\0\0WEBP")
                flags = 0x02 | 0x10 | 0x04  # animation, alpha, XMP
                _riff(file, b"VP8X", struct.pack("<I", flags) + _u24(width - 1) + _u24(height - 1))
                _riff(file, b"ANIM", struct.pack("<IH", 0, 0 if loop else 1))
            out = io.BytesIO()
            Image.fromarray(frame).save(out, "WEBP", lossless=True, method=4)
            still = _without_header(out.getvalue()[12:])
            # Not blended with the one before (bit 1): each frame is whole.
            _riff(file, b"ANMF", _u24(0) + _u24(0) + _u24(width - 1) + _u24(height - 1) + _u24(durations[i])
                  + b"\x02" + still)
        _riff(file, b"XMP ", _xmp(papers))
        length = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", length))
    return durations


def _u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def _riff(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


def _without_header(chunks: bytes) -> bytes:
    """A still WebP's chunks but for VP8X, which an animation has once."""
    kept, at = [], 0
    while at < len(chunks):
        length = int.from_bytes(chunks[at + 4:at + 8], "little")
        whole = chunks[at:at + 8 + length + length % 2]
        if whole[:4] in (b"VP8L", b"VP8 ", b"ALPH"):
            kept.append(whole)
        at += len(whole)
    return b"".join(kept)


def _xmp(papers: Mapping[str, str]) -> bytes:
    """The papers as XMP: the title and the description where every reader looks, the rest under Maquette's name."""
    from xml.sax.saxutils import escape
    own = "".join(f"<maquette:{name}>{escape(text)}</maquette:{name}>" for name, text in papers.items())
    return ('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:maquette="urn:maquette:papers">'
            f"{own}</rdf:Description></rdf:RDF></x:xmpmeta>").encode()

