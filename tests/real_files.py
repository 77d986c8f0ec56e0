"""Files with every key and shape of the real checkpoints in half a megabyte: each tensor is one number, repeated.

A tensor of ``torch.full((1,), c).expand(shape)`` keeps one number in a torch file, whatever its shape, so a file of
gigabytes can be built, read and loaded in a test; and a constant of its own for each key shows where it arrived.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

MANIFESTS = Path(__file__).resolve().parents[1].parent / "shared" / "manifests"
Shapes = Mapping[str, tuple[int, ...]]


def manifest(name: str) -> dict[str, Any]:
    """A manifest's JSON; the test is skipped where the folder is not there (it is no part of the repository)."""
    path = MANIFESTS / f"{name}.json"
    if not path.is_file():
        pytest.skip("no key manifests of real checkpoints beside the repository")
    return json.loads(path.read_text(encoding="utf-8"))


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape in manifest(name)["keys"].items()}


def marked(shapes: Shapes, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Every tensor full of one number that no other has (position ids and counters: int64 zeros)."""
    made = {}
    for i, (key, shape) in enumerate(shapes.items(), start=1):
        if key.endswith(("position_ids", "num_updates")):
            one = torch.zeros(1, dtype=torch.int64)
        elif dtype == torch.float16:  # the i-th smallest number: exact, where i itself would be rounded
            one = torch.tensor([i], dtype=torch.int16).view(torch.float16)
        else:
            one = torch.tensor([float(i)], dtype=dtype)
        made[key] = one.reshape([1] * len(shape)).expand(shape)
    return made


def write(path: Path, tensors: Mapping[str, Tensor], wrapper: str = "", **beside: Any) -> Path:
    """A torch file of the tensors, in a dictionary ``wrapper`` or flat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({wrapper: dict(tensors), **beside} if wrapper else dict(tensors), path)
    return path


def constant(tensor: Tensor) -> Tensor:
    """The one number that a tensor is full of (its first, after checking the corners and the middle)."""
    flat = [tensor[tuple(0 for _ in tensor.shape)], tensor[tuple(-1 for _ in tensor.shape)],
            tensor[tuple(n // 2 for n in tensor.shape)]]
    assert all(torch.equal(f, flat[0]) for f in flat)
    return flat[0]
