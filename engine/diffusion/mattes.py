"""Mattes: telling a subject from its background, by a plain background's colour or by the matting network."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

TOLERANCE = 0.05
"""Colours closer than this (largest channel difference, sRGB 0..1) count as the same background. Measured on pictures
that came through the built-in VAE: 0.03 keeps halos, 0.07 loses white parts; mask IoU 0.968 at 0.05."""
SHARP = 0.3
"""A handle's hole is framed by the handle: its surroundings, three pixels away, differ so much from the background;
those of a white belly's highlight do not."""
SAME_HUE = 0.96
"""Cosine between two colours' ways from the background from which one may be the other seen through mist: an orange
roof beside a grey wall is at 0.8."""
SOLID_SHARE = 0.8
"""A pixel that went so far from the background toward its pure colour is no mist: shading does the rest."""
LEAST, MOST = 0.1, 0.5
"""Shares of the pictures between which mist goes from clear to covered. At one half all made meshes came out thin: F at
0.05 on a crate, a chest, a mushroom and a tree 0.56, 0.52, 0.91, 0.95 so, 0.50, 0.47, 0.89, 0.95 with every pale pixel
covered, and the mushroom's 0.78 with 0.1 to 0.8."""


def border_colour(image: np.ndarray) -> tuple[np.ndarray, float]:
    """image : (h, w, 3) -> (its border's median colour (3,), the share of border pixels that have that colour)."""
    k = max(1, round(0.01 * min(image.shape[:2])))
    strips = (image[:k], image[-k:], image[:, :k], image[:, -k:])
    border = np.concatenate([s.reshape(-1, 3) for s in strips])
    colour = np.median(border, 0)
    return colour.astype(np.float32), float((np.abs(border - colour).max(-1) < TOLERANCE).mean())


def plain_mask(image: np.ndarray, background: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """The subject before a plain background: (h, w, 3) -> (h, w) bool.

    Background is what looks like it and is joined to the border; and what looks very much like it inside the subject
    when it is large enough to be a hole (a handle's), not a highlight: the larger and the more sharply framed, the less
    like the background it need be. Specks are dropped.
    """
    distance = np.abs(image - background).max(-1)
    like = distance < tolerance
    labels, count = ndimage.label(like)
    if count == 0:
        return np.ones(like.shape, bool)
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    index = np.arange(1, count + 1)
    area = ndimage.sum_labels(like, labels, index)
    mean = ndimage.mean(distance, labels, index)
    framed = ndimage.grey_dilation(labels, size=(7, 7)) * (ndimage.distance_transform_edt(~like) > 2)
    contrast = ndimage.median(distance, framed, index)
    hole = (area >= 0.0008 * like.size) & (mean < tolerance / 3)
    hole |= (area >= 0.004 * like.size) & (mean < tolerance / 2) & (contrast > SHARP)
    behind = np.zeros(count + 1, bool)
    behind[1:] = hole
    behind[touching] = True
    behind[0] = False
    return without_specks(~behind[labels])


def without_specks(mask: np.ndarray, share: float = 0.02) -> np.ndarray:
    """Drop joined parts smaller than ``share`` of the largest one."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count < 2:
        return mask
    area = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    keep = np.concatenate([[False], area >= share * area.max()])
    return keep[labels]


def soft_edge(image: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Straight RGBA from a hard mask before a known plain background: (h, w, 3), (h, w) bool -> (h, w, 4) float32.

    A pixel at the edge is a mix a F + (1 - a) B of the nearest inner pixel's colour F and the background B; a is
    solved for, and the colour is freed of the background.
    """
    if not mask.any():
        return np.concatenate([image, np.zeros((*mask.shape, 1))], -1).astype(np.float32)
    inner = ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1)
    # Thin parts have no inside of their own: there the mask itself gives the pure colours.
    inner = np.where(ndimage.binary_propagation(inner, mask=mask), inner, mask)
    rows, columns = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    pure = image[rows, columns]
    edge = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~inner
    span = pure - background
    length = (span**2).sum(-1)
    mix = ((image - background) * span).sum(-1) / np.maximum(length, 1e-6)
    certain = length > (2 * TOLERANCE) ** 2  # a subject of the background's colour: keep the hard edge
    alpha = np.where(edge & certain, np.clip(mix, 0, 1), mask).astype(np.float32)
    alpha[alpha < 0.02] = 0
    rgb = np.where(edge[..., None], pure, image)
    return np.concatenate([rgb, alpha[..., None]], -1).astype(np.float32)


def mean_edge(image: np.ndarray, mask: np.ndarray, background: np.ndarray, reach: int = 7) -> np.ndarray:
    """Straight RGBA of a *mean* picture: many sharp ones at once, so that its rim is mist, not fringe.

    Where a share a of the pictures shows the colour F and the rest the background B, the mean is a F + (1 - a) B. F is
    the nearby colour farthest from the background in the same direction from it; a is how far the pixel went. Only
    what is joined to the background and near it can be mist: pale parts inside a subject stay whole.

    image : (h, w, 3); mask : (h, w) bool, all that differs from the background; reach : pixels, how far "nearby" is
    (2**k - 1 is reached exactly) -> (h, w, 4) float32, straight alpha
    """
    away = image.astype(np.float32) - np.asarray(background, np.float32)
    length = np.linalg.norm(away, axis=-1)
    direction = away / np.maximum(length, 1e-4)[..., None]
    most, pure = length, image.astype(np.float32)
    height, width = mask.shape
    hop = 1
    while hop <= reach:  # hops of 1, 2, 4, ... pixels: colours travel 1 + 2 + 4 + ... pixels in few rounds
        found, best = most, pure
        for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
            at = np.ix_(np.clip(np.arange(height) + dy * hop, 0, height - 1),
                        np.clip(np.arange(width) + dx * hop, 0, width - 1))
            there = pure[at] - background
            alike = (there * direction).sum(-1) > SAME_HUE * most[at]
            better = alike & (most[at] > found)
            found, best = np.where(better, most[at], found), np.where(better[..., None], pure[at], best)
        most, pure, hop = found, best, 2 * hop
    share = length / np.maximum(most, 1e-4)
    near = ndimage.distance_transform_edt(mask) <= reach if mask.any() and not mask.all() else ~mask
    labels, _ = ndimage.label((share < SOLID_SHARE) & near | ~mask)
    mist = np.isin(labels, np.unique(labels[~mask])) & (labels > 0)
    alpha = np.where(mist, np.clip((share - LEAST) / (MOST - LEAST), 0, 1), 1.0) * mask
    return np.concatenate([np.where(mist[..., None], pure, image), alpha[..., None]], -1).astype(np.float32)


def model_alpha(matting: Any, image: np.ndarray, device: str) -> np.ndarray:
    """The matting network's alpha: (h, w, 3) float -> (h, w) float32 in [0, 1].

    The picture is put into a square (its edges repeated), then the square around what was found is looked at again,
    so that a small subject gets the network's full resolution.
    """
    from engine.diffusion.framing import SOLID, square_around
    height, width = image.shape[:2]
    side = max(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    alpha = _matte_square(matting, image, left, top, side, device)
    mask = without_specks(alpha >= SOLID)
    if mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0)
        square = square_around(box)
        if square.side < 0.75 * side:
            alpha = _matte_square(matting, image, round(square.left), round(square.top), round(square.side), device)
    return np.where(without_specks(alpha >= 0.1), alpha, 0).astype(np.float32)


def drawn_alpha(matting: Any, image: np.ndarray, device: str) -> np.ndarray:
    """What the second network says of a picture that the built-in models drew: (h, w, 3), sides divisible by 8 ->
    (h, w) float32 in [0, 1]. It is looked at as large as it was drawn: that is how its rims are known."""
    import torch

    from engine.diffusion.pictures import tensor_of, vae_input
    with torch.inference_mode():
        told = matting.drawn(vae_input(tensor_of(image[None], device)), 0).sample
    alpha = torch.sigmoid(told[0, 0].float()).cpu().numpy()
    return np.where(without_specks(alpha >= 0.1), alpha, 0).astype(np.float32)


def _matte_square(matting: Any, image: np.ndarray, left: int, top: int, side: int, device: str) -> np.ndarray:
    """Alpha (h, w) of the whole picture from one look at a square of it; 0 outside the square."""
    import torch

    from engine.diffusion.pictures import tensor_of, vae_input
    height, width = image.shape[:2]
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    with torch.inference_mode():
        square = tensor_of(image[rows][:, columns][None], device)
        small = torch.nn.functional.interpolate(square, (matting.size,) * 2, mode="bilinear", antialias=True,
                                                align_corners=False)
        matte = torch.sigmoid(matting.unet(vae_input(small), 0).sample)
        matte = torch.nn.functional.interpolate(matte, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    alpha = np.zeros((height, width), np.float32)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + side, height), min(left + side, width)
    alpha[y0:y1, x0:x1] = matte[0, 0, y0 - top:y1 - top, x0 - left:x1 - left].float().cpu().numpy()
    return alpha


def freed_colour(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight RGBA from a picture and its alpha when the background is unknown: half-covered pixels take the colour
    of the nearest covered one. (h, w, 3), (h, w) -> (h, w, 4) float32"""
    solid = alpha >= 0.95
    if not solid.any():
        return np.concatenate([image, alpha[..., None]], -1).astype(np.float32)
    rows, columns = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    rgb = np.where(solid[..., None], image, image[rows, columns])
    return np.concatenate([rgb, alpha[..., None]], -1).astype(np.float32)
