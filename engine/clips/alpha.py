"""A moving figure freed from its background: a matte of every frame, the mattes calmed over time, colours freed.

Frame t has colours C[t] and its own matte a[t]. The calmed matte is

    a'[t](x) = median(a[t-1](x), a[t](x), a[t+1](x))   where |C[t-1](x) - C[t](x)| and |C[t+1](x) - C[t](x)| are at
                                                       most TOLERANCE in every channel
    a'[t](x) = a[t](x)                                 elsewhere

so that only what is wrong for one frame goes: where anything moves, colours change, and the frame's own matte stays. A
loop's first and last frames are neighbours; a clip's ends, which have one neighbour, stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from engine.diffusion import mattes

TOLERANCE = 0.06
"""Colours that differ by less, in the largest channel (sRGB 0..1), did not change. On toybox clips that came through
the built-in VAE with noise: alpha flicker 0.214 at 0, 0.207 at 0.06, 0.202 at 0.1 (truth 0.213), mask IoU the same."""
MIXED = 0.05
"""How far from the straight line between two colours their mix may lie, largest channel."""
CLEAR = 0.02
"""Alpha below which nothing is seen: such pixels carry the colour of the nearest that is."""
SPREAD = 8
"""Pixels: how far colours reach beyond the figure, for texture filters and for the blocks of video codecs."""


class Pictures(Protocol):
    """Frames that are read when they are asked for, (h, w, 3) each; an array (n, h, w, 3) is one too."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> np.ndarray: ...


Matte = Callable[[np.ndarray], np.ndarray]
"""(h, w, 3) in [0, 1] -> (h, w, 4), straight alpha, the background's colour taken out of the edge."""


def plain(background: np.ndarray | None = None) -> Matte:
    """The matte before a plain background: everything like it and joined to the border, and holes (``mattes``).

    background : (3,); None: each frame's own border says it
    """
    def matte(image: np.ndarray) -> np.ndarray:
        colour = mattes.border_colour(image)[0] if background is None else background
        return mattes.soft_edge(image, mattes.plain_mask(image, colour), colour)
    return matte


def both(matting: Any, device: str) -> Matte:
    """For drawn figures before a plain background: the mean of two alphas, the network's and that of ``mean_edge``,
    which takes pale rims for mist; colours as of ``freed``.

    Measured on seven clips by the built-in reference animation (and on true ones through the VAE): mask IoU 0.881
    (0.940); the network alone 0.875 (0.919), ``plain`` 0.874 (0.944), ``mean_edge`` 0.883 (0.937). Over green, against
    truth over green: 16.9 dB; the network 16.7, ``plain`` 15.6 (white rims), ``mean_edge`` 16.1.
    """
    def matte(image: np.ndarray) -> np.ndarray:
        colour = mattes.border_colour(image)[0]
        by_mist = mattes.mean_edge(image, mattes.plain_mask(image, colour), colour)[..., 3]
        return freed(image, (mattes.model_alpha(matting, image, device) + by_mist) / 2, colour)
    return matte


def freed(image: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Straight RGBA of a picture before a known background: what is a mix of it and of the figure takes the figure's
    colour, that of the nearest pixel inside. (h, w, 3), (h, w), (3,) -> (h, w, 4)

    Inside is what is covered, but for its outermost pixel (thin parts have no inside of their own: all of them counts).
    At the rim a colour is a mix where it lies between the inside's and the background's, within ``MIXED``; others stay
    (a cartoon's dark outline), or are the nearest covered pixel's where they are half covered.
    """
    solid = alpha >= 0.95
    if not solid.any():
        return np.concatenate([image, alpha[..., None]], -1).astype(np.float32)
    inside = ndimage.binary_erosion(solid, np.ones((3, 3)), border_value=1)
    inside = np.where(ndimage.binary_propagation(inside, mask=solid), inside, solid)
    pure, near = (image[tuple(ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True))]
                  for mask in (inside, solid))
    way = pure - background
    share = ((image - background) * way).sum(-1) / np.maximum((way**2).sum(-1), 1e-6)
    mix = np.abs(image - (background + np.clip(share, 0, 1)[..., None] * way)).max(-1) <= MIXED
    rgb = np.where((mix & ~inside)[..., None], pure, np.where(solid[..., None], image, near))
    return np.concatenate([rgb, alpha[..., None]], -1).astype(np.float32)


def drawn(matting: Any, device: str) -> Matte:
    """For figures that the built-in models drew over white: the alpha of the network that learned what they draw
    (``engine.training.drawn_alpha``); colours as of ``freed``."""
    def matte(image: np.ndarray) -> np.ndarray:
        return freed(image, mattes.drawn_alpha(matting, image, device), mattes.border_colour(image)[0])
    return matte


def by_model(matting: Any, device: str) -> Matte:
    """The matting network's."""
    def matte(image: np.ndarray) -> np.ndarray:
        return mattes.freed_colour(image, mattes.model_alpha(matting, image, device))
    return matte


def calmed(frames: Pictures, matte: Matte, loop: bool, tolerance: float = TOLERANCE,
           only: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Frames (h, w, 3), read one by one -> frames (h, w, 4), with four in memory at most; see the module.

    tolerance : 0 leaves every frame its own matte. A loop's last frame is looked at twice: first and last.
    only : the numbers of the frames that are wanted, rising; None: all
    """
    n, looked = len(frames), dict[int, tuple[np.ndarray, np.ndarray]]()

    def look(i: int) -> tuple[np.ndarray, np.ndarray]:
        if i not in looked:
            if len(looked) == 4:
                del looked[next(k for k in looked if k)]  # the one that was looked at first; a loop comes back to 0
            looked[i] = frames[i], matte(frames[i])
        return looked[i]

    turns = loop and n > 2
    for i in range(n) if only is None else only:
        image, freed = look(i)
        if tolerance > 0 and (turns or 0 < i < n - 1):
            (first, a), (last, c) = look((i - 1) % n), look((i + 1) % n)
            freed = freed.copy()
            freed[..., 3] = calm((first, image, last), (a[..., 3], freed[..., 3], c[..., 3]), tolerance)
        yield spread(freed)


def calm(colours: tuple[np.ndarray, np.ndarray, np.ndarray], alphas: tuple[np.ndarray, np.ndarray, np.ndarray],
         tolerance: float = TOLERANCE) -> np.ndarray:
    """The module's formula for the middle one of three frames. colours : (h, w, 3); alphas : (h, w) -> (h, w)"""
    before, here, after = colours
    still = np.maximum(np.abs(before - here).max(-1), np.abs(after - here).max(-1)) <= tolerance
    return np.where(still, np.median(alphas, axis=0), alphas[1]).astype(np.float32)


def spread(rgba: np.ndarray) -> np.ndarray:
    """Clear pixels take the colour of the nearest one that is seen, up to ``SPREAD`` pixels away, and black beyond: no
    fringe of the old background where a filter or a codec mixes neighbours. (h, w, 4) -> (h, w, 4)"""
    clear = rgba[..., 3] < CLEAR
    if clear.all() or not clear.any():
        return np.where(clear[..., None], np.float32(0), rgba)
    distance, (rows, columns) = ndimage.distance_transform_edt(clear, return_indices=True)
    out = rgba[rows, columns]
    out[distance > SPREAD] = 0
    out[..., 3] = np.where(clear, 0, rgba[..., 3])
    return out
