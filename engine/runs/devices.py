"""Which device a run uses: named by the user, else the best one that torch can use."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from engine.errors import BadInput
from engine.runs.words import unknown


def resolve_device(name: str = "auto") -> str:
    """"auto", "cpu", "cuda", "cuda:N" or "mps" -> a torch device string that works here, else BadInput.

    torch is not imported where the answer is the CPU anyway.
    """
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise unknown("device", name, ("auto", "cpu", "cuda", "mps"), "--device")
    if kind == "cpu" or (kind == "auto" and not nvidia_present() and sys.platform != "darwin"):
        return "cpu"
    import torch
    if kind in ("auto", "cuda") and torch.cuda.is_available():
        if index and int(index) >= torch.cuda.device_count():
            raise BadInput(f"there is no {name}; this machine has {torch.cuda.device_count()} CUDA devices",
                           "Give --device cuda:0")
        return name if kind == "cuda" else "cuda"
    mps = sys.platform == "darwin" and torch.backends.mps.is_available()
    if kind in ("auto", "mps") and mps:
        # Fields and meshes run in Warp, which has no Metal backend: only an explicit wish selects it.
        return "mps" if kind == "mps" else "cpu"
    if kind == "auto":
        return "cpu"
    raise BadInput(f"--device {name} does not work here: torch {torch.__version__} cannot use it",
                   "Run `maquette doctor`, or use --device cpu")


def nvidia_present() -> bool:
    """Whether the machine has an NVIDIA GPU and driver, torch aside."""
    return (Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()
            or shutil.which("nvidia-smi") is not None)


def reset_peak_memory(device: str) -> None:
    """Start a new measurement for :func:`peak_memory`. torch is asked only where a stage has loaded it."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> int:
    """The most bytes that torch held on a GPU since :func:`reset_peak_memory`; 0 on the CPU, where the process's own
    peak says it (``engine.runs.files``). On Apple's GPU, which keeps no peak: what is held now."""
    torch = sys.modules.get("torch")
    if torch is None or device == "cpu":
        return 0
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return int(torch.mps.driver_allocated_memory())
