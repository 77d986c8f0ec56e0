"""What the stages of clips hand on: poses over time, and frames over time. As every artifact, ordinary files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from engine.artifacts import load_png, read_json, save_png, write_json

JOINTS = 18
"""OpenPose's, in its order: ``engine.diffusion.skeleton_drawing``."""


@dataclass
class Poses:
    """One figure's skeleton, frame by frame.

    joints : (n, 18, 2) float32, column and row in pixels of a picture of ``size``; NaN where a joint is not seen
    size : (height, width) of the picture the joints stand in
    fps : frames a second, > 0; loop : the last frame is followed by the first
    meta : where they come from, for the report (source, motion, retargeting, warnings under "warnings")
    """

    joints: np.ndarray
    size: tuple[int, int]
    fps: float = 12.0
    loop: bool = False
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.joints.shape[0])

    def save(self, folder: Path) -> None:
        joints = np.asarray(self.joints, dtype=float)
        rows = [[None if not np.isfinite(xy).all() else xy.tolist() for xy in frame] for frame in joints]
        write_json(folder / "poses.json", {"joints": rows, "size": list(self.size), "fps": self.fps,
                                           "loop": self.loop, "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> Poses:
        data = read_json(folder / "poses.json")
        joints = np.array([[(np.nan, np.nan) if xy is None else xy for xy in frame] for frame in data["joints"]],
                          dtype=np.float32).reshape(-1, JOINTS, 2)
        return cls(joints, tuple(data["size"]), data["fps"], data["loop"], data["meta"])


class FrameFiles(NDArrayOperatorsMixin):
    """The frames of a clip that lie in files, (n, h, w, 4) float32: read one by one when asked for, kept by nobody.

    It answers as the array would that they are together: an index or a slice gives an ordinary array; anything else,
    arithmetic and ``np.asarray`` included, reads all of them first. They cannot be assigned to.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.shape: tuple[int, ...] = (count, *(load_png(self.path(0)).shape if count else (0, 0, 4)))
        self.ndim, self.dtype = len(self.shape), np.dtype(np.float32)

    def path(self, i: int) -> Path:
        """The PNG of frame i."""
        return self.folder / f"{i:05d}.png"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        return (load_png(self.path(i)) for i in range(self.count))

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, int | np.integer):
            if not -self.count <= key < self.count:
                raise IndexError(f"there is no frame {key} among {self.count}")
            return load_png(self.path(int(key) % self.count))
        if isinstance(key, slice):
            chosen = [self[i] for i in range(*key.indices(self.count))]
            return np.stack(chosen) if chosen else np.zeros((0, *self.shape[1:]), np.float32)
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        read = [np.asarray(one) if isinstance(one, FrameFiles) else one for one in inputs]
        return getattr(ufunc, method)(*read, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)  # mean, min, astype, ...


@dataclass
class Clip:
    """Frames of one moving picture.

    frames : (n, h, w, 4) float32 in [0, 1], straight alpha, sRGB; kept to 8 bits on disk. From the store they come as
        ``FrameFiles``, so that a clip of ten thousand frames needs the memory of those that are looked at
    fps : frames a second, > 0; loop : the last frame is followed by the first
    meta : figures for the report (seconds, windows, the method of the alpha, warnings under "warnings")
    """

    frames: np.ndarray
    fps: float = 12.0
    loop: bool = False
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def save(self, folder: Path) -> None:
        if isinstance(self.frames, FrameFiles):
            for i in range(len(self)):
                shutil.copyfile(self.frames.path(i), folder / f"{i:05d}.png")
        else:
            for i, frame in enumerate(self.frames):
                save_png(folder / f"{i:05d}.png", frame)
        write_json(folder / "clip.json", {"frames": len(self), "fps": self.fps, "loop": self.loop, "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> Clip:
        data = read_json(folder / "clip.json")
        frames = cast(np.ndarray, FrameFiles(folder, data["frames"]))
        return cls(frames, data["fps"], data["loop"], data["meta"])
