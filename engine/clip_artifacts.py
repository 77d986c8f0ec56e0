"""What the stages of clips hand on: poses over time, and frames over time. As every artifact, ordinary files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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


@dataclass
class Clip:
    """Frames of one moving picture.

    frames : (n, h, w, 4) float32 in [0, 1], straight alpha, sRGB; kept to 8 bits on disk
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
        for i, frame in enumerate(self.frames):
            save_png(folder / f"{i:05d}.png", frame)
        write_json(folder / "clip.json", {"frames": len(self), "fps": self.fps, "loop": self.loop, "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> Clip:
        data = read_json(folder / "clip.json")
        frames = np.stack([load_png(folder / f"{i:05d}.png") for i in range(data["frames"])])
        return cls(frames, data["fps"], data["loop"], data["meta"])
