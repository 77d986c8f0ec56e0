"""What a set's models know: the kinds of objects they saw in training, and how near to them a picture must be.

Kept beside the weights as known.json; ``python -m engine.training.known`` measures and writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadInput
from engine.models.cards import REPAIR

FILE = "known.json"


@dataclass(frozen=True)
class Known:
    """kinds : names of the kinds of objects that the models were trained on

    far_similarity : CLIP's cosine between a picture and its nearest "a KIND" below which the picture is far from all
    that was trained on; None when it was not measured for the CLIP that lies here
    """

    kinds: tuple[str, ...] = ()
    far_similarity: float | None = None


def read_known(folder: Path, clip_sha256: str) -> Known:
    """The known.json of a set, nothing known when there is none. BadInput when it cannot be read."""
    path = folder / FILE
    if not path.exists():
        return Known()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        fits = data["clip_sha256"] == clip_sha256
        return Known(tuple(data["kinds"]), float(data["far_similarity"]) if fits else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"cannot read {path}: {error!r}", REPAIR) from error


def write_known(folder: Path, clip_sha256: str, known: Known) -> None:
    """Write ``folder``/known.json."""
    data = {"clip_sha256": clip_sha256, "kinds": list(known.kinds), "far_similarity": known.far_similarity}
    (folder / FILE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
