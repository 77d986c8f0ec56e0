"""Repainting a part of a picture: by any text-to-image model, or by a network that was taught to.

Any model (latent blending, as RePaint, Lugmayr et al. 2022, and Blended Latent Diffusion, Avrahami et al. 2023): after
each step the latents that are known are put back, noised by the schedule to exactly the level that the others are at,

    x_{i+1} = m x_{i+1} + (1 - m) (alpha_{i+1} x_known + sigma_{i+1} noise),

with the same noise that the picture began from; after the last step they are the known latents themselves. A network
with 9 input channels (Rombach et al. 2022, section 4.5) instead sees the mask and the masked picture's latents beside
the noisy ones at every step.

What is not masked is then pasted back, so that a user's pixels stay the user's; over a few pixels outside of the mask
(the feather) the two are mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.diffusion import sampling
from engine.diffusion.sampling import Denoise, Steps
from engine.errors import BadInput, RunFailed

VISIBLE = 2 / 255
"""Differences of neighbouring pixels that are smaller than this on average count as this: no eye sees them."""
MASKED = 0.5
"""From this value on a mask's pixel is to be repainted."""


# -- masks -----------------------------------------------------------------------------------------------------------

def binary(mask: np.ndarray) -> np.ndarray:
    """A mask picture (h, w[, c]) in [0, 1], white is repainted -> (h, w) bool. Alpha counts as black.

    Raises BadInput when nothing or everything is masked.
    """
    grey = mask if mask.ndim == 2 else mask[..., :3].mean(-1) * (mask[..., 3] if mask.shape[-1] == 4 else 1)
    found = grey >= MASKED
    if not found.any():
        raise BadInput("the mask is all black: nothing is to be repainted", "paint white what shall change")
    if found.all():
        raise BadInput("the mask is all white: nothing of the picture would stay",
                       "paint black what shall stay, or use `maquette image edit --strength 1`")
    return found


def touched_cells(mask: np.ndarray, rows: int, columns: int) -> Tensor:
    """(h, w) bool -> (1, 1, rows, columns): 1 where any pixel of a latent cell is masked, so that none is missed."""
    return torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(mask).float()[None, None], (rows, columns))


def nearest_cells(mask: np.ndarray, rows: int, columns: int) -> Tensor:
    """(h, w) bool -> (1, 1, rows, columns) by the pixel at each cell's corner, as inpainting networks were trained."""
    return torch.nn.functional.interpolate(torch.from_numpy(mask).float()[None, None], (rows, columns))


def feathered(mask: np.ndarray, width: float) -> np.ndarray:
    """(h, w) bool -> weights of the repainted picture, (h, w) float32: 1 in the mask, falling smoothly to 0 at
    ``width`` pixels outside of it, 0 beyond; at width 0 the mask itself."""
    from scipy.ndimage import distance_transform_edt
    if width <= 0:
        return mask.astype(np.float32)
    away = distance_transform_edt(~mask)  # of a pixel next to the mask: 1
    share = np.clip(1 - away / (width + 1), 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


# -- in the sampler ----------------------------------------------------------------------------------------------------

def takes_masks(model: Any) -> bool:
    """Whether a model's network was made for inpainting: latents, a mask and masked latents are its input."""
    return int(model.unet.config.in_channels) == 2 * model.channels + 1


def keep_known(known: Tensor, noise: Tensor, cells: Tensor) -> Callable[[Steps, int, Tensor], Tensor]:
    """``after`` of ``sampling.sample``: puts the known latents back after each step, at the level of that step.

    known, noise : (b, c, h, w); cells : (1 or b, 1, h, w), 1 where latents are made anew
    """
    def after(steps: Steps, i: int, latents: Tensor) -> Tensor:
        return (1 - cells) * steps.noised(known, noise, i + 1) + cells * latents
    return after


def repaint(trained: Any, denoise: Denoise, noise: Tensor, known: Tensor, cells: Tensor, steps: int, rounds: int,
            generators: Sequence[torch.Generator], *, sampler: sampling.Sampler = "ddim", strength: float = 1.0,
            watch: Callable[[int, Tensor], None] | None = None, settings: Mapping[str, Any] | None = None) -> Tensor:
    """Noise (b, c, h, w) -> clean latents: latent blending with resampling (Lugmayr et al. 2022, algorithm 1).

    Each step is taken ``rounds`` times: what came out is noised back to the level before it and denoised again, so that
    the new part can come to terms with the known one. The step itself is DDIM's (Song 2021) in any scheduler's levels:

        x0 = what the prediction means,   eps = (x_i - alpha_i x0) / sigma_i
        on:     x_{i+1} = alpha_{i+1} x0 + sigma_{i+1} eps
        back:   x_i = r x_{i+1} + sqrt(sigma_i^2 - r^2 sigma_{i+1}^2) z,   r = alpha_i / alpha_{i+1}

    known, cells : as in :func:`keep_known`; sampler : whose levels are taken; generators : one a sample, for z
    strength : below 1 the masked part too begins from the known latents; watch, settings : as in ``sampling.sample``
    Raises RunFailed when the numbers run away.
    """
    first = sampling.begun_at(steps, strength) if strength < 1 else 0
    plan = Steps(sampling.scheduler_for(trained, sampler), steps, noise.device, first=first, settings=settings)
    x = plan.begin(noise, known if strength < 1 else None)
    for i, t in enumerate(plan.timesteps):
        (alpha, sigma), (after_alpha, after_sigma) = plan.level(i), plan.level(i + 1)
        for again in reversed(range(rounds)):
            x0 = plan.clean(denoise(plan.scaled(x, i), t), x, i)
            made = after_alpha * x0 + after_sigma * (x - alpha * x0) / sigma
            made = (1 - cells) * plan.noised(known, noise, i + 1) + cells * made
            if not again or i == len(plan) - 1:  # at the end there is no level to go back from
                break
            r = alpha / after_alpha
            z = sampling.initial_noise(generators, tuple(x.shape[1:]), x.device).to(x)  # type: ignore[arg-type]
            x = r * made + (sigma**2 - (r * after_sigma)**2).clamp(min=0).sqrt() * z
        x = made
        if watch is not None:
            watch(i + 1, x0)
    if not torch.isfinite(x).all():
        raise RunFailed("the sampler made numbers that are not finite", "lower the guidance, or check the weights")
    return x


def masked_channels(model: Any, picture: Tensor, mask: np.ndarray) -> Tensor:
    """What an inpainting network is given beside the latents: the mask, and the latents of the picture with grey where
    it is masked. picture : (1, 3, h, w) in [0, 1]; mask : (h, w) bool -> (1, 1 + c, h', w')"""
    inside = torch.from_numpy(mask).to(picture.device)[None, None]
    latents = model.encode(torch.where(inside, torch.full_like(picture, 0.5), picture))
    return torch.cat([nearest_cells(mask, *latents.shape[-2:]).to(latents), latents], 1)


# -- back in the picture -----------------------------------------------------------------------------------------------

def paste(original: np.ndarray, drawn: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """original, drawn (h, w, 3); weights (h, w) of the drawn one -> (h, w, 3) float32. Where a weight is 0 the
    original's own numbers stand, bit for bit."""
    w = weights[..., None]
    return np.where(w == 0, original, original + w * (drawn - original)).astype(np.float32)


def seam_gradient(image: np.ndarray, weights: np.ndarray, before: np.ndarray | None = None) -> float:
    """How much a seam shows: the mean difference of neighbouring pixels across it, over that of its surroundings.

    image : (h, w, 3); weights : (h, w) of what was repainted. The seam is every pair of neighbours whose weights differ
    (the feather's band; without a feather the mask's outline); its surroundings are all pairs within a sixteenth of
    the longer side of the mask's outline, the seam itself among them.
    before : the picture as it was. A seam along an edge that stood there is no fault: the mean difference there before
    counts where it is the greater one. Neither counts for less than VISIBLE.
    1 is a place like those around it; a picture without a seam gives 0.
    """
    from scipy.ndimage import distance_transform_edt
    mask = weights >= 1
    away = np.where(mask, distance_transform_edt(mask), distance_transform_edt(~mask))
    across = _pairs(lambda a, b: a != b, weights)
    near = across | _pairs(lambda a, b: np.minimum(a, b) <= max(image.shape[:2]) / 16, away)
    found = _pairs(_difference, image.astype(np.float64))
    if not across.any():
        return 0.0
    least = 0.0 if before is None else _pairs(_difference, before.astype(np.float64))[across].mean()
    return float(found[across].mean()) / max(float(found[near].mean()), float(least), VISIBLE)


def _pairs(of: Callable[[np.ndarray, np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """``of`` every pixel and the one below it, and of every pixel and the one to its right: one flat array."""
    return np.concatenate([of(image[:-1], image[1:]).reshape(-1), of(image[:, :-1], image[:, 1:]).reshape(-1)])


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b).mean(-1)
