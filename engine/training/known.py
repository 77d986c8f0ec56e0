"""What the built-in models know: ``python -m engine.training.known`` writes engine/weights/builtin/known.json.

A picture is far from the toybox when its similarity to the nearest kind's name is one that only one framed held-out
picture in a hundred falls below.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from engine.diffusion.framing import frame_subject
from engine.models.known import Known, write_known
from engine.models.sets import BUILTIN_FOLDER, model_set
from engine.stages.cut_out import nearest_kind
from engine.toybox.props import TRAINED_KINDS
from engine.training.data import Shards

QUANTILE = 0.01


def similarities(held_out: Shards, most: int = 500) -> np.ndarray:
    """CLIP's cosine to the nearest kind's name for framed text-to-image views of held-out objects -> (n,)"""
    clip = model_set("builtin").load("image_text")
    found = []
    for i in range(min(len(held_out), most)):
        framed, _ = frame_subject(held_out.rgba(i, 0)[0], 128)
        found.append(nearest_kind(clip, framed.astype(np.float32) / 255, TRAINED_KINDS, "cpu")[1])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.training.known", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("scratch/toybox"), help="folder of the splits")
    held_out = Shards(parser.parse_args().data / "held_out")
    values = similarities(held_out)
    known = Known(TRAINED_KINDS, round(float(np.quantile(values, QUANTILE)), 4))
    write_known(BUILTIN_FOLDER, model_set("builtin").cards("image_text")["clip"].sha256, known)
    print(f"{len(known.kinds)} kinds; similarity of {len(values)} held-out pictures: median "
          f"{np.median(values):.3f}, {QUANTILE:.0%} quantile {known.far_similarity}")


if __name__ == "__main__":
    main()
