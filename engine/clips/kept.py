"""Frames on their way into a clip: written one by one, and after a stop those that are written are there again.

    kept = KeptFrames(job, 240)
    for i, frame in enumerate(kept.all(decode)):      ``decode`` is asked only for what is not there yet
        ...
    Clip(kept.frames(), fps, loop)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np

from engine.artifacts import load_png, save_png
from engine.clip_artifacts import FrameFiles

if TYPE_CHECKING:
    from pathlib import Path

    from engine.job import Job


class KeptFrames:
    """``count`` frames in the job's own folder, kept to 8 bits. Only one is held in memory at a time."""

    def __init__(self, job: Job, count: int) -> None:
        self.folder, self.count = job.folder(), count

    def all(self, made: Callable[[list[int]], Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
        """Every frame from the first on, as it is kept: (h, w, 4) float32 in [0, 1].

        made : the numbers of those that are not there -> these frames, (h, w, 4) float in [0, 1], in that order
        """
        missing = [i for i in range(self.count) if not self._whole(i)]
        lacking, rest = set(missing), iter(made(missing))
        for i in range(self.count):
            path = self._path(i)
            if i in lacking:
                part = path.with_suffix(".part.png")
                save_png(part, next(rest))
                part.replace(path)
            yield load_png(path)

    def _path(self, i: int) -> Path:
        return self.folder / f"{i:05d}.png"

    def _whole(self, i: int) -> bool:
        """Whether a frame is there and can be read: a loss of power may leave an empty file under its own name."""
        path = self._path(i)
        if not path.exists():
            return False
        try:
            load_png(path)
        except (OSError, SyntaxError, ValueError):  # what Pillow says of a damaged PNG
            return False
        return True

    def frames(self) -> np.ndarray:
        """All of them, as ``Clip`` takes them: read one by one when asked for."""
        return cast(np.ndarray, FrameFiles(self.folder, self.count))
