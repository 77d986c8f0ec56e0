"""Whether a model fits this machine: an estimate from the catalogue's figures, for tables and the doctor.

What a run then does (whole, parts in turns, block by block) is decided from the memory that is free at that moment, by
``engine.models.memory``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.models.catalogue import Model, with_needs

Fit = Literal["yes", "in turns", "no", "unknown"]
"""in turns: its weights wait in the main memory and take turns on the GPU."""
GB = 1e9
SYSTEM = 2 * GB
"""Bytes of main memory that the system and Python itself take."""


@dataclass(frozen=True)
class Machine:
    """device : "cpu" or "cuda"; gpu_bytes : of the GPU, 0 without; ram_bytes : in all, None where nobody tells"""

    device: str
    gpu_bytes: int
    ram_bytes: int | None


def this_machine() -> Machine:
    """The machine that this runs on. torch is loaded only where there is a GPU to be asked."""
    from engine.doctor import total_memory
    from engine.runs.devices import resolve_device
    device = resolve_device("auto")
    gpu = 0
    if device.startswith("cuda"):
        import torch
        gpu = int(torch.cuda.get_device_properties(0).total_memory)
    return Machine(device, gpu, total_memory())


def working_bytes(native_size_px: int) -> float:
    """What one picture takes beside the weights in half precision: an estimate, 0.3 GB and 2.2 kB a pixel."""
    return 0.3 * GB + 2200.0 * native_size_px**2


def fit(models: Iterable[Model], machine: Machine) -> tuple[Fit, float]:
    """Whether models that work together fit, and the bytes that they take where they are whole.

    On a GPU in half precision; on the CPU in single precision, twice as much.
    """
    every = {one.id: one for model in models for one in (model, *with_needs(list(model.needs)))}
    weights = sum(one.memory_mb for one in every.values()) * 1e6
    work = max((working_bytes(one.native_size_px) for one in every.values()), default=0.0)
    if machine.device.startswith("cuda"):
        if weights + work <= machine.gpu_bytes:
            return "yes", weights + work
        room = machine.ram_bytes is None or weights + SYSTEM <= machine.ram_bytes
        return ("in turns" if room and work + 1 * GB <= machine.gpu_bytes else "no"), weights + work
    need = 2 * (weights + work)
    if machine.ram_bytes is None:
        return "unknown", need
    return ("yes" if need + SYSTEM <= machine.ram_bytes else "no"), need
