"""Weights at a byte a number: safetensors whose matrices and convolutions are kept as int8 with a scale a row.

A row is what makes one output channel; symmetric rounding to 127 steps of its largest value. For weights that are
spread as a bell the error is about 1 % of their standard deviation, which no figure of the built-in models shows
(docs/benchmarks.md), and the file is half of half precision. Names and shapes stay those of the public layout; the
scales lie beside them as ``NAME::scale``, and the file's metadata says ``packing``. Light: torch is loaded on use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKING = "int8 rows"
SCALE = "::scale"
LEAST = 1024
"""Tensors with fewer numbers, and vectors (biases, norms), stay in half precision."""


def is_packed(metadata: Mapping[str, str] | None) -> bool:
    """What a file's metadata says. ValueError for a packing of a later version."""
    kind = (metadata or {}).get("packing", "")
    if kind not in ("", PACKING):
        raise ValueError(f"weights are packed as {kind!r}, this version knows {PACKING!r}")
    return bool(kind)


def pack(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """name -> tensor, as kept: int8 and ``::scale`` (float16, a number a row), or float16."""
    import torch
    out: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.numel() < LEAST or not tensor.is_floating_point():
            out[name] = tensor.half() if tensor.is_floating_point() else tensor
            continue
        rows = tensor.detach().float().flatten(1)
        # Rounded first, so that the scale the file holds is the one that the numbers were divided by; never zero.
        scale = (rows.abs().amax(1) / 127).half().clamp(min=2.0 ** -24)
        steps = (rows / scale.float()[:, None]).round().clamp(-127, 127)
        out[name] = steps.to(torch.int8).reshape(tensor.shape).contiguous()
        out[name + SCALE] = scale
    return out


def unpack(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors as the layout has them; those that were packed in float32."""
    out: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        out[name] = tensor if scale is None else \
            tensor.float() * scale.float().reshape(-1, *[1] * (tensor.ndim - 1))
    return out


def load(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file, packed or not."""
    from safetensors import safe_open
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a file, not a dict
        return unpack(held) if is_packed(file.metadata()) else held


def pack_file(path: Path) -> None:
    """Pack a safetensors file in its place; one that is packed stays as it is."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    with safe_open(path, framework="pt") as file:
        told = dict(file.metadata() or {})
        if is_packed(told):
            return
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    part = path.with_name(path.name + ".part")
    save_file(pack(held), part, metadata={**told, "packing": PACKING})
    part.replace(path)
