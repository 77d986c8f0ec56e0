"""Shapes with known answers, a field made of one, and a job that only notes what it is told."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from engine.meshes.extract import extract_surface

FOLDERS: list[TemporaryDirectory[str]] = []


class Notes:
    """A Job without a run behind it."""

    label, device = "test", "cpu"

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.warnings: list[str] = []

    def seed(self, candidate: int = 0) -> int:
        return candidate

    def progress(self, fraction: float, preview: Any = None) -> None:
        assert 0 <= fraction <= 1

    def folder(self) -> Path:
        """Each asked for lives as long as the tests do, as a clip's frames outlive the job."""
        FOLDERS.append(TemporaryDirectory(prefix="maquette-test-"))
        return Path(FOLDERS[-1].name)

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None:
        self.metrics[name] = value

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def sphere(p: np.ndarray, radius: float = 0.7) -> np.ndarray:
    return radius - np.linalg.norm(p, axis=-1)


def torus(p: np.ndarray) -> np.ndarray:
    return 0.2 - np.hypot(np.hypot(p[..., 0], p[..., 2]) - 0.5, p[..., 1])


def box(p: np.ndarray) -> np.ndarray:
    q = np.abs(p) - [0.6, 0.4, 0.3]
    return -np.linalg.norm(np.maximum(q, 0), axis=-1) - np.minimum(q.max(-1), 0)


def grid(shape: Any, r: int) -> np.ndarray:
    """Values at the cells' centres, axes x, y, z."""
    c = (np.arange(r) + 0.5) * 2 / r - 1
    return np.asarray(shape(np.stack(np.meshgrid(c, c, c, indexing="ij"), -1)))


def ball(r: int = 20, radius: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    return extract_surface(grid(lambda p: sphere(p, radius), r), 0.0)


class Densities:
    """A signed distance (positive inside) as densities: 200 inside, 0 outside, steep between."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def density(self, points: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(200 / (1 + np.exp(np.clip(-60 * self.shape(points.numpy()), -50, 50)))).float()

    def density_grid(self, resolution: int, allowed: torch.Tensor | None = None) -> torch.Tensor:
        c = (np.arange(resolution) + 0.5) * 2 / resolution - 1
        z, y, x = np.meshgrid(c, c, c, indexing="ij")
        found = self.density(torch.from_numpy(np.stack([x, y, z], -1)))
        if allowed is not None:
            k = resolution // len(allowed)
            for axis in range(3):
                allowed = allowed.repeat_interleave(k, axis)
            found = found * (allowed != 0)
        return found
