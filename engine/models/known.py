"""What a set's models know: the kinds of objects they saw in training, and how pictures of those look to CLIP.

Kept beside the weights as known.safetensors; ``python -m engine.training.known`` measures and writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import BadInput
from engine.models.cards import REPAIR

FILE = "known.safetensors"


@dataclass(frozen=True)
class Known:
    """kinds : names of the kinds of objects that the models were trained on

    mean : (d,) and whiten : (d, d), float32: of CLIP's features of training pictures; (x - mean) @ whiten has unit
    covariance there
    far : Mahalanobis distance from which a picture is far from all that was trained on
    """

    kinds: tuple[str, ...]
    mean: np.ndarray
    whiten: np.ndarray
    far: float

    def distance(self, features: np.ndarray) -> float:
        """Mahalanobis distance of one picture's features (d,) from the training pictures'."""
        return float(np.linalg.norm((features - self.mean) @ self.whiten))


def read_known(folder: Path, clip_sha256: str) -> Known | None:
    """The known.safetensors of a set; None when there is none or when it was measured with another CLIP."""
    path = folder / FILE
    if not path.exists():
        return None
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="numpy") as file:
            data = file.metadata() or {}
            if data["clip_sha256"] != clip_sha256:
                return None
            return Known(tuple(json.loads(data["kinds"])), file.get_tensor("mean"), file.get_tensor("whiten"),
                         float(data["far"]))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadInput(f"cannot read {path}: {error!r}", REPAIR) from error


def write_known(folder: Path, clip_sha256: str, known: Known) -> None:
    """Write ``folder``/known.safetensors."""
    from safetensors.numpy import save_file
    save_file({"mean": known.mean.astype(np.float32), "whiten": known.whiten.astype(np.float32)}, folder / FILE,
              {"clip_sha256": clip_sha256, "kinds": json.dumps(known.kinds), "far": f"{known.far:.3f}"})
