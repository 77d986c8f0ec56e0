"""What the built-in models know: ``python -m engine.training.known`` writes engine/weights/builtin/known.safetensors.

CLIP's features of framed training pictures have a mean and a covariance; a picture is far from the toybox when its
Mahalanobis distance (Lee et al. 2018) is one that only 2 of 100 held-out pictures exceed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from engine.diffusion.framing import frame_subject
from engine.models.known import Known, write_known
from engine.models.sets import BUILTIN_FOLDER, model_set
from engine.stages.cut_out import clip_features
from engine.toybox.props import TRAINED_KINDS
from engine.training.data import Shards

QUANTILE = 0.98
RIDGE = 0.01
"""Share of the mean variance that is added to every direction: the covariance is estimated from few pictures."""


def features(shards: Shards, objects: np.ndarray, views: np.ndarray) -> np.ndarray:
    """CLIP's features of framed pictures -> (n, d)"""
    clip = model_set("builtin").load("image_text")
    framed = (frame_subject(shards.rgba(o, v)[0], 128)[0] for o, v in zip(objects, views, strict=True))
    return np.stack([clip_features(clip, picture.astype(np.float32) / 255, "cpu") for picture in framed])


def fit(seen: np.ndarray, held_out: np.ndarray, kinds: tuple[str, ...]) -> Known:
    """Mean, whitening and bound from features (n, d) of training pictures and (m, d) of held-out ones."""
    mean = seen.mean(0)
    covariance = np.cov(seen.T)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    known = Known(kinds, mean, whiten, 0.0)
    return Known(kinds, mean, whiten, float(np.quantile([known.distance(x) for x in held_out], QUANTILE)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.training.known", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("scratch/toybox"), help="folder of the splits")
    parser.add_argument("--pictures", type=int, default=1000)
    options = parser.parse_args()
    train, held_out = Shards(options.data / "train"), Shards(options.data / "held_out")
    rng = np.random.default_rng(0)
    n = min(options.pictures, len(train))
    seen = features(train, rng.choice(len(train), n, replace=False), rng.integers(0, 2, n))
    m = min(options.pictures // 2, len(held_out))
    known = fit(seen, features(held_out, np.arange(m), rng.integers(0, 2, m)), TRAINED_KINDS)
    write_known(BUILTIN_FOLDER, model_set("builtin").cards("image_text")["clip"].sha256, known)
    print(f"{len(known.kinds)} kinds; {n} training and {m} held-out pictures: far from distance {known.far:.2f}")


if __name__ == "__main__":
    main()
