"""An asset's pictures as files: of the size and format that a profile takes, each encoded once.

Shrinking keeps what the picture means: colours are averaged in linear light, normals as vectors.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine.errors import BadInput

Kind = Literal["base_color", "normal", "orm", "emissive", "mask"]
MIMES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
QUALITY = 92
"""Of WebP and JPEG. Normals are kept without loss: what a codec does to them shows as waves in highlights."""


@dataclass
class Pictures:
    """format : "png", "webp" or "jpeg" (a picture with alpha stays a PNG); largest : pixels a side at most
    directx : normal maps with their green turned, as DirectX has it; their names say so
    """

    format: Literal["png", "webp", "jpeg"] = "png"
    largest: int = 4096
    directx: bool = False
    _made: dict[tuple[int, str], tuple[np.ndarray, str, bytes]] = field(default_factory=dict, repr=False)

    def word(self, kind: Kind) -> str:
        """What a picture of this kind is called in a file's name."""
        return "normal_dx" if kind == "normal" and self.directx else kind

    def encoded(self, image: np.ndarray, kind: Kind) -> tuple[str, bytes]:
        """image : (h, w, 3 or 4) float in [0, 1] -> ("png" | "jpeg" | "webp", its bytes)."""
        name = (id(image), kind)
        if name not in self._made:  # the picture is kept too, so that its id stays its own
            shown = shrunk(image, self.largest, kind)
            if kind == "normal" and self.directx:
                shown = np.stack([shown[..., 0], 1 - shown[..., 1], shown[..., 2]], -1)
            self._made[name] = (image, *encode(shown, self.format, lossless=kind == "normal"))
        return self._made[name][1:]


def encode(image: np.ndarray, format: str, lossless: bool = False) -> tuple[str, bytes]:
    """(h, w, 3 or 4) float in [0, 1] -> (format that it was written in, bytes)."""
    from PIL import Image, features
    levels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if format == "jpeg" and (levels.shape[-1] == 4 or lossless):
        format = "png"
    memory = io.BytesIO()
    picture = Image.fromarray(levels)
    if format == "webp":
        if not features.check("webp"):
            raise BadInput("WebP pictures cannot be written: this Pillow has no WebP", "pip install --upgrade pillow")
        picture.save(memory, "webp", lossless=lossless, quality=80 if lossless else QUALITY, method=4)
    elif format == "jpeg":
        picture.save(memory, "jpeg", quality=QUALITY, subsampling=0)
    else:
        picture.save(memory, "png")
    return format, memory.getvalue()


def shrunk(image: np.ndarray, largest: int, kind: Kind) -> np.ndarray:
    """The picture with no side above ``largest``; the same array where it is small enough."""
    from PIL import Image
    height, width = image.shape[:2]
    if max(height, width) <= largest:
        return image
    share = largest / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    values = np.asarray(image, np.float32)
    colour = kind in ("base_color", "emissive")
    if colour:
        values = np.concatenate([_linear(values[..., :3]), values[..., 3:]], -1)
    elif kind == "normal":
        values = values * 2 - 1
    small = np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(values[..., k])).resize(
        size, Image.Resampling.BOX)) for k in range(values.shape[-1])], -1)
    if colour:
        return np.concatenate([_srgb(small[..., :3]), small[..., 3:]], -1).clip(0, 1)
    if kind == "normal":
        return small / np.maximum(np.linalg.norm(small, axis=-1, keepdims=True), 1e-6) * 0.5 + 0.5
    return small.clip(0, 1)


def mask_map(orm: np.ndarray, metallic: float = 1.0, roughness: float = 1.0) -> np.ndarray:
    """glTF's ORM (h, w, 3) and its factors -> Unity HDRP's mask (h, w, 4): R metallic, G occlusion, B 0, A
    smoothness = 1 - roughness."""
    return np.stack([orm[..., 2] * metallic, orm[..., 0], np.zeros_like(orm[..., 0]), 1 - orm[..., 1] * roughness],
                    -1).clip(0, 1)


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _srgb(linear: np.ndarray) -> np.ndarray:
    low = np.maximum(linear, 0)
    return np.where(low <= 0.0031308, low * 12.92, 1.055 * low ** (1 / 2.4) - 0.055)
