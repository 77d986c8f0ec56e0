"""Maquette: a prompt or a picture becomes assets that a game engine accepts.

    import engine
    asset = engine.make("a red mug")
    asset.mesh          # TexturedMesh: vertices, faces, uvs, base_color, ...
    asset.report        # measured quality, seeds, weights, licences
    asset.save("mug")   # asset.glb, turntable, report, recipe

    made = engine.clip("a knight in red armour", motion="walk")
    made.save("knight") # frames with alpha, videos, sprite sheet, report, recipe

Importing this package loads neither torch nor warp; they are loaded when something runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads of torch spin by default and starve the kernels' own threads: on a busy machine a step of a fit
# took ten times as long. It counts only if it is set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from engine.api import Asset, fit, make, refine, retexture
    from engine.clip_api import MadeClip, clip
    from engine.runs.run import Handle, Run
    from engine.runs.store import Store

__version__ = "0.1.0"
__all__ = ["Asset", "Handle", "MadeClip", "Run", "Store", "__version__", "clip", "fit", "make", "refine", "retexture"]

_HOMES = {"Asset": "engine.api", "fit": "engine.api", "make": "engine.api",
          "refine": "engine.api", "retexture": "engine.api", "MadeClip": "engine.clip_api", "clip": "engine.clip_api",
          "Handle": "engine.runs.run",
          "Run": "engine.runs.run", "Store": "engine.runs.store"}


def __getattr__(name: str) -> Any:
    """Fetch a public name from its home at first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute '{name}'")
    import importlib
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
