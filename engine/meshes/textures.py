"""Pictures of a game material: sizes, occlusion-roughness-metallic, what glows; all kept to 8 bits."""

from __future__ import annotations

import numpy as np

from engine.errors import BadInput

SMALLEST, LARGEST = 512, 4096
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255), "red": (214, 40, 40), "orange": (247, 140, 30), "yellow": (250, 220, 50),
    "green": (50, 170, 60), "cyan": (50, 200, 210), "blue": (40, 80, 210), "purple": (130, 50, 175),
    "pink": (247, 135, 180)}
GLOWING = 0.25
"""Distance in Oklab within which a colour is the one that glows; it fades out over as much again."""


def bytes_of(picture: np.ndarray) -> np.ndarray:
    """The picture as it will lie on disk: float32 in steps of 1/255."""
    return (np.round(np.clip(picture, 0, 1) * 255) / 255).astype(np.float32)


def size_for(density: float, surface_m2: float, used: float = 0.6) -> int:
    """The power of two, 512 to 4096, that gives at least ``density`` texels a metre, or the largest.

    surface_m2 : the surface in square metres; used : share of a texture that charts cover
    """
    wanted = density * float(np.sqrt(max(surface_m2, 0) / used))
    size = SMALLEST
    while size < min(wanted, LARGEST):
        size *= 2
    return size


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """(h, w, c) float in [0, 1] -> (size, size, c), in linear light: areas averaged when smaller, else bilinear."""
    import torch
    from torch.nn import functional

    from engine.meshes.bake import linear_from_srgb, srgb_from_linear
    h, w = picture.shape[:2]
    if (h, w) == (size, size):
        return picture
    light = linear_from_srgb(torch.from_numpy(np.ascontiguousarray(picture[..., :3], np.float32)))
    layers = light.permute(2, 0, 1)[None]
    if h >= size and w >= size:
        made = functional.interpolate(layers, (size, size), mode="area")
    else:
        made = functional.interpolate(layers, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(srgb_from_linear(made.clamp(0, 1))[0].permute(1, 2, 0).numpy())


def orm(occlusion: np.ndarray, roughness: float, metallic: float) -> np.ndarray:
    """(s, s, 3) float32: R the occlusion (s, s), G roughness, B metallic, both as numbers for the whole surface."""
    made = np.empty((*occlusion.shape, 3), np.float32)
    made[..., 0], made[..., 1], made[..., 2] = occlusion, roughness, metallic
    return made


def colour_of(text: str) -> np.ndarray:
    """A colour's name or "#rrggbb" -> sRGB (3,). BadInput for anything else."""
    word = text.strip().lower()
    if word in COLOURS:
        return np.array(COLOURS[word], np.float64) / 255
    if len(word) == 7 and word[0] == "#" and all(c in "0123456789abcdef" for c in word[1:]):
        return np.array([int(word[k:k + 2], 16) for k in (1, 3, 5)], np.float64) / 255
    raise BadInput(f"{text!r} is no colour that can glow", f"give #rrggbb or one of {', '.join(COLOURS)}")


def glow(base_color: np.ndarray, colour: str) -> np.ndarray:
    """(s, s, 3) sRGB: the parts of the base colour that look like ``colour``, black elsewhere.

    Likeness is the distance in Oklab (Ottosson 2020) with the lightness counted half, so that shaded parts glow too.
    """
    there, asked = _oklab(base_color[..., :3].astype(np.float64)), _oklab(colour_of(colour))
    far = np.sqrt((((there - asked) * [0.5, 1.0, 1.0]) ** 2).sum(-1))
    share = np.clip(2 - far / (GLOWING / 2), 0, 1)[..., None]
    return (base_color[..., :3] * share).astype(np.float32)


def _oklab(srgb: np.ndarray) -> np.ndarray:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array([[0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376],
                               [0.0514459929, 0.1073969566, 0.6299787005]])
    return np.asarray(np.cbrt(cones) @ np.array([[0.2104542553, 1.9779984951, 0.0259040371],
                                                 [0.7936177850, -2.4285922050, 0.7827717662],
                                                 [-0.0040720468, 0.4505937099, -0.8086757660]]))
