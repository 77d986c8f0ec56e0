"""Clips of any length from a network that sees few frames at once: windows, and noise that suits them.

The network is asked about overlapping windows of frames; where they overlap, its answers are averaged before the
sampler takes its step (MultiDiffusion, Bar-Tal et al. 2023, along time). So every step is one of the whole clip, and
neighbouring windows cannot drift apart. Memory beside one window is that of the latents alone.

    windows(24, 16, 4)                       0..15, 8..23
    windows(32, 16, 4, loop=True)            0..15, 11..26, 21..31 and 0..4: the last frame is followed by the first
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TURN = (5**0.5 - 1) / 2
"""Share of a loop by which its windows move from step to step: no two steps of a few dozen begin at one place."""


def windows(frames: int, window: int, overlap: int, loop: bool = False, step: int = 0) -> list[list[int]]:
    """Which frames go through the network together, each window in the order of time; together they are all frames.

    frames, window : >= 1; overlap : of neighbours, 0 .. window - 1, at least (windows are spread evenly)
    loop : windows wrap round, and begin elsewhere at each ``step``, so that no place of the loop is always an end
    No window is shorter than min(frames, window).
    """
    if frames <= window:
        first = turned(frames, step) if loop else 0
        return [[(first + k) % frames for k in range(frames)]]
    stride = window - overlap
    if loop:
        count, first = math.ceil(frames / stride), turned(frames, step)
        starts = [first + round(k * frames / count) for k in range(count)]
    else:
        count = 1 + math.ceil((frames - window) / stride)
        starts = [round(k * (frames - window) / (count - 1)) for k in range(count)]
    return [[(start + k) % frames for k in range(window)] for start in starts]


def in_phase(plan: Sequence[Sequence[int]], period: int) -> list[list[int]]:
    """The same windows for a network whose places in time are moments of a cycle of ``period`` frames: each window as
    long as the cycle is asked in the cycle's order, so that a frame stands at the same moment in all of them.

    Other windows, and those of a loop that is no whole number of cycles, stay in the order of time.
    """
    def moments(window: Sequence[int]) -> list[int]:
        fits = len(window) == period == len({frame % period for frame in window})
        return sorted(window, key=lambda frame: frame % period) if fits else list(window)
    return [moments(window) for window in plan] if period else [list(window) for window in plan]


def turned(frames: int, step: int) -> int:
    """Where a loop's first window begins at a step: 0 at first, then on by the golden section of the loop."""
    return int(frames * (step * TURN % 1))


def averaged(predict: Callable[[Tensor, list[int]], Tensor], latents: Tensor, plan: Sequence[Sequence[int]]) -> Tensor:
    """The mean prediction of each frame over the windows that it is in.

    predict : (latents of a window (w, c, h, w'), its frames) -> prediction of that shape (or with more channels)
    latents : (f, c, h, w'); plan : of :func:`windows`
    """
    if len(plan) == 1:
        rows = list(plan[0])
        said = predict(latents[rows], rows)
        made = torch.empty_like(said)
        made[rows] = said
        return made
    total, seen = None, torch.zeros(len(latents), *[1] * (latents.ndim - 1), dtype=latents.dtype,
                                    device=latents.device)
    for window in plan:
        rows = list(window)
        said = predict(latents[rows], rows)
        if total is None:
            total = said.new_zeros(len(latents), *said.shape[1:])
        total[rows] += said
        seen[rows] += 1
    assert total is not None
    return total / seen.to(total)


def rescheduled(noise: Tensor, frames: int, window: int, overlap: int, generator: torch.Generator) -> Tensor:
    """The noise of one window (window, c, h, w) carried on to ``frames`` frames (FreeNoise, Qiu et al. 2023, section
    4.1): each further stretch is the stretch a window earlier, its frames shuffled.

    So all windows begin from the same noises in other orders, and far frames show the same scene. Shorter clips are
    the noise's beginning. generator : of the shuffling
    """
    stride, order = window - overlap, list(range(min(window, frames)))
    while len(order) < frames:
        before = order[len(order) - window:len(order) - window + stride]
        order += [before[i] for i in torch.randperm(len(before), generator=generator).tolist()]
    return noise[order[:frames]]
