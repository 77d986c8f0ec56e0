"""Pickles for tests of reading: torch's two layouts, a payload that leaves a trace, tensors that are only declared."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch


def save_zip(tree: Any, path: Path) -> None:
    torch.save(tree, path)


def save_legacy(tree: Any, path: Path) -> None:
    torch.save(tree, path, _use_new_zipfile_serialization=False)


both = pytest.mark.parametrize("save", [save_zip, save_legacy])


class Payload:
    """Touches a file when it is unpickled by anything that runs pickles."""

    def __init__(self, canary: Path, call: Callable[..., Any] | None = None, *words: Any) -> None:
        self._call = (call or os.mkdir, words or (str(canary),))

    def __reduce__(self) -> Any:
        return self._call


class Declared:
    """Pickles as a tensor of ``numel`` elements of storage "0", which need not be there."""

    def __init__(self, numel: int) -> None:
        self.numel = numel

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (Stored(self.numel), 0, (self.numel,), (1,), False, OrderedDict())


@dataclass
class Stored:
    numel: int


def pickled(tree: Any) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", obj.numel) if isinstance(obj, Stored) else None
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(tree)
    return buffer.getvalue()
