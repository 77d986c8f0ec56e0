"""Figures of a clip, added up frame by frame: steps, seam, flicker. Colours count in levels of 255."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.artifacts import over_white

COVERED = 0.5
"""Alpha from which a pixel's colour counts for the flicker."""


@dataclass
class Figures:
    """A clip in figures; what one frame alone cannot have is NaN.

    frame_step : mean over neighbouring frames of the mean absolute difference over white, levels
    seam : the same between the last frame and the first
    alpha_flicker : sum of |a[t+1] - 2 a[t] + a[t-1]| over pixels and frames, as a share of the sum of a[t]
    colour_flicker : mean of |c[t+1] - 2 c[t] + c[t-1]| over pixels covered in all three, levels
    """

    frame_step: float
    seam: float
    alpha_flicker: float
    colour_flicker: float

    @property
    def seam_over_step(self) -> float:
        """The seam as a share of the mean step: up to 1, nobody sees where the loop closes."""
        return self.seam / self.frame_step if self.frame_step > 0 else (0.0 if self.seam == 0 else float("inf"))


class Measure:
    """Add the frames in their order, (h, w, 4) float32 straight alpha; then ask for the figures."""

    def __init__(self, loop: bool) -> None:
        self.loop = loop
        self._first: list[np.ndarray] = []
        self._last: list[np.ndarray] = []
        self._steps: list[float] = []
        self._alpha_change = self._alpha = self._colour_change = 0.0
        self._covered = 0

    def add(self, frame: np.ndarray) -> None:
        if len(self._first) < 2:
            self._first.append(frame)
        if self._last:
            self._steps.append(_step(self._last[-1], frame))
        if len(self._last) == 2:
            self._second(self._last[0], self._last[1], frame)
        self._last = [*self._last[-1:], frame]

    def _second(self, before: np.ndarray, here: np.ndarray, after: np.ndarray) -> None:
        change = np.abs(after - 2 * here + before)
        self._alpha_change += float(change[..., 3].sum())
        self._alpha += float(here[..., 3].sum())
        covered = np.minimum(np.minimum(before[..., 3], here[..., 3]), after[..., 3]) >= COVERED
        self._colour_change += float(change[..., :3][covered].mean(-1).sum())
        self._covered += int(covered.sum())

    def figures(self) -> Figures:
        """Of all frames added; a loop's seam counts as one more step for the flicker, not for ``frame_step``."""
        kept = self._alpha_change, self._alpha, self._colour_change, self._covered
        seam = _step(self._last[-1], self._first[0]) if self._steps else float("nan")
        if self.loop and len(self._last) == 2:
            self._second(self._last[0], self._last[1], self._first[0])
            self._second(self._last[1], self._first[0], self._first[1])
        found = Figures(float(np.mean(self._steps)) if self._steps else float("nan"), seam,
                        self._alpha_change / self._alpha if self._alpha else float("nan"),
                        255 * self._colour_change / self._covered if self._covered else float("nan"))
        self._alpha_change, self._alpha, self._colour_change, self._covered = kept
        return found


def measured(frames: np.ndarray, loop: bool) -> Figures:
    """The figures of a whole clip, (n, h, w, 4)."""
    measure = Measure(loop)
    for frame in frames:
        measure.add(frame)
    return measure.figures()


def _step(before: np.ndarray, after: np.ndarray) -> float:
    return 255 * float(np.abs(over_white(after) - over_white(before)).mean())


def keypoint_error(found: np.ndarray, wanted: np.ndarray, height: float) -> float:
    """Mean distance of joints, per cent of the figure's height in pixels; NaN where no joint is in both.

    found, wanted : (n, 18, 2) pixels, NaN where a joint is not seen
    """
    distance = np.hypot(*np.moveaxis(np.asarray(found, float) - np.asarray(wanted, float), -1, 0))
    seen = np.isfinite(distance)
    return 100 * float(distance[seen].mean()) / height if seen.any() and height > 0 else float("nan")
