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
