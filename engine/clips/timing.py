"""How long a frame stands, exactly: frame rates as fractions, and schedules for files that count in coarse ticks."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from engine.errors import BadInput

MOST_FPS = 240.0


def rate(fps: float) -> Fraction:
    """Frames a second as a fraction: 12 -> 12, 23.976023976 -> 24000/1001, 12.5 -> 25/2.

    The simplest fraction with a denominator up to 1001 (film's and television's rates) where one is within a
    millionth, else the nearest with one up to 100,000. BadInput where fps is no number above 0 and up to 240.
    """
    if not 0 < fps <= MOST_FPS:
        raise BadInput(f"the clip has {fps} frames a second", f"give a number above 0, at most {MOST_FPS:g}")
    exact = Fraction(fps)
    television = exact.limit_denominator(1001)
    return television if abs(television - exact) <= exact / 1_000_000 else exact.limit_denominator(100_000)


def schedule(count: int, fps: Fraction, ticks: int) -> list[int]:
    """Whole ticks that each of ``count`` frames stands, ``ticks`` of them a second.

    Frame i begins at the tick nearest to i / fps, halves up; so no error adds up, every frame begins within half a tick
    of its time, and all together last round(count ticks / fps). BadInput where a frame would stand no tick at all.
    """
    if fps > ticks:
        raise BadInput(f"a file that counts time in 1/{ticks} s cannot hold {float(fps):g} frames a second",
                       f"give at most {ticks} frames a second, or leave this format out")
    starts = [int(i * ticks / fps + Fraction(1, 2)) for i in range(count + 1)]
    return [after - before for before, after in pairwise(starts)]
