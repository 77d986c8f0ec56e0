"""Poses in time: gaps closed, other frame rates, smoothing, and loops without a seam. All arrays are (n, k, d), frame
first, NaN where a joint is not known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIKE_A_STEP = 1.5
"""A seam of at most this many mean steps is no seam."""


def runs_of(flags: np.ndarray) -> list[tuple[int, int]]:
    """(n,) bool -> [first, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False].astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def gaps_closed(joints: np.ndarray, most: int, loop: bool = False) -> np.ndarray:
    """Joints that are missing for at most ``most`` frames in a row are interpolated, linearly; at the ends they stay
    where they were last (first) seen. Longer gaps, and joints that are never seen, stay NaN.

    loop : a gap that runs over the seam is one gap, interpolated across it
    """
    n, known = len(joints), np.isfinite(joints).all(-1)
    out: np.ndarray = np.where(known[..., None], joints, np.nan).astype(joints.dtype)
    if most <= 0 or known.all():
        return out
    for k in range(joints.shape[1]):
        at = np.flatnonzero(known[:, k])
        if not len(at) or len(at) == n:
            continue
        times = np.r_[at[-1] - n, at, at[0] + n] if loop else at
        values = joints[times % n, k]
        full = np.stack([np.interp(np.arange(n), times, values[:, d]) for d in range(joints.shape[2])], -1)
        length = np.zeros(n, int)  # of the gap that a frame lies in
        for first, end in runs_of(~known[:, k]):
            length[first:end] = end - first
        if loop and length[0] and length[-1]:
            seam = length[0] + length[-1]
            length[:length[0]], length[-length[-1]:] = seam, seam
        fill = (length > 0) & (length <= most)
        out[fill, k] = full[fill]
    return out


def resampled(joints: np.ndarray, from_fps: float, to_fps: float, loop: bool = False) -> np.ndarray:
    """The same motion at another frame rate, linearly between frames: frame i of the result is at i / to_fps seconds.

    Without a loop it has every such moment within the clip; a loop keeps its length in time as nearly as whole frames
    allow, and its frames share it evenly. A joint is known where both frames around the moment know it.
    """
    n = len(joints)
    if n <= 1 or from_fps == to_fps:
        return joints.copy()
    if loop:
        count = max(1, round(n * to_fps / from_fps))
        times = np.arange(count) * (n / count)
    else:
        count = int(np.floor((n - 1) * to_fps / from_fps + 1e-6)) + 1
        times = np.arange(count) * (from_fps / to_fps)
    before = np.floor(times + 1e-9).astype(int)
    share = np.clip(times - before, 0, 1)[:, None, None]
    after = (before + 1) % n if loop else np.minimum(before + 1, n - 1)
    before = np.minimum(before, n - 1)
    mixed = joints[before] * (1 - share) + joints[after] * share
    return np.where(share < 1e-6, joints[before], mixed).astype(joints.dtype)


def smoothed(joints: np.ndarray, sigma: float, loop: bool = False) -> np.ndarray:
    """A Gaussian over time with a standard deviation of ``sigma`` frames, cut at 3 sigma. It shifts nothing in time, as
    filters for live use (One-Euro) do: the whole clip is known.

    Unknown joints weigh nothing and stay unknown. At the ends the part of the window outside the clip is left out; a
    loop goes on over the seam.
    """
    if sigma <= 0 or len(joints) < 2:
        return joints.copy()
    n, reach = len(joints), max(1, int(np.ceil(3 * sigma)))
    known = np.isfinite(joints).all(-1, keepdims=True)
    values = np.where(known, joints, 0).astype(np.float64)
    total, weight = np.zeros_like(values), np.zeros(known.shape)
    for step in range(-reach, reach + 1):
        share = float(np.exp(-0.5 * (step / sigma) ** 2))
        if loop:
            total += share * np.roll(values, -step, 0)
            weight += share * np.roll(known, -step, 0)
        elif abs(step) < n:
            to, of = slice(max(0, -step), n - max(0, step)), slice(max(0, step), n + min(0, step))
            total[to] += share * values[of]
            weight[to] += share * known[of]
    return np.where(known, total / np.maximum(weight, 1e-12), np.nan).astype(joints.dtype)


# -- loops -------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Closed:
    """joints : (m, k, d), its last frame followed by its first; first : where it begins in the clip it was cut from

    method : "was closed" (the clip was a loop already), "repeated" (it was, but for a last frame that repeated the
        first), "cut" (a part of the clip that is one) or "spread" (the distance between its ends was spread evenly
        over its frames)
    seam, step : the mean distance of joints from the last frame to the first, and from frame to frame, same units
    """

    joints: np.ndarray
    method: str
    first: int
    seam: float
    step: float


def seam_of(joints: np.ndarray) -> tuple[float, float]:
    """Mean distance of known joints from the last frame to the first, and mean distance from frame to frame."""
    steps = np.linalg.norm(np.diff(joints, axis=0, append=joints[:1]), axis=-1)
    seen = np.isfinite(steps)
    return _mean(steps[-1][seen[-1]]), _mean(steps[:-1][seen[:-1]])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def closed(joints: np.ndarray, least: int = 6) -> Closed:
    """Make a loop of a clip.

    What is one already stays. Else the longest part of at least ``least`` frames that returns to its beginning, in
    place and in speed, is cut out. Where there is none, each frame is moved by its share of the distance between where
    the motion would go on to after the last frame and the first frame: t / n of it for frame t.
    """
    n = len(joints)
    seam, step = seam_of(joints)
    if n > 2 and seam < 0.05 * step:
        return Closed(joints[:-1].copy(), "repeated", 0, *seam_of(joints[:-1]))
    if n < 2 or seam <= LIKE_A_STEP * step + 1e-9:
        return Closed(joints.copy(), "was closed", 0, seam, step)
    found = _returning(joints, least, step)
    if found is not None:
        first, end = found
        part = joints[first:end].copy()
        return Closed(part, "cut", first, *seam_of(part))
    known = np.isfinite(joints).all(-1)
    both = known[0] & known[-1] & known[-2]
    away = np.where(both[:, None], 2 * joints[-1] - joints[-2] - joints[0], 0.0)
    out = (joints - away * (np.arange(n) / n)[:, None, None]).astype(joints.dtype)
    return Closed(out, "spread", 0, *seam_of(out))


def _returning(joints: np.ndarray, least: int, step: float, most: int = 600) -> tuple[int, int] | None:
    """[first, end) of the longest part whose end comes back to its first frame: frame ``end`` is nearly frame
    ``first``, and so is the step that leads there. Clips are looked at through at most ``most`` frames from the start.
    """
    n = min(len(joints), most)
    flat = np.nan_to_num(joints[:n].astype(np.float64)).reshape(n, -1)
    speed = np.diff(flat, axis=0, prepend=2 * flat[:1] - flat[1:2])
    count = np.sqrt(joints.shape[1])

    def apart(a: np.ndarray) -> np.ndarray:
        square = (a * a).sum(1)
        return np.asarray(np.sqrt(np.maximum(square[:, None] + square - 2 * a @ a.T, 0)) / count)

    near = (apart(flat) <= 0.5 * step) & (apart(speed) <= 0.75 * step)
    first, end = np.nonzero(np.triu(near, least))
    if not len(first):
        return None
    best = int(np.argmax(end - first))
    return int(first[best]), int(end[best])
