"""A file with a face's identity vector -> Face (for InstantID)."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from engine.artifacts import Face
from engine.diffusion.image_prompt import FACE
from engine.errors import BadInput
from engine.job import Job, Params, stage

HINT = (f'give a .npy of {FACE} numbers, or a .json with "identity" ({FACE} numbers) and, if known, "points" (5 pairs '
        "of shares of width and height)")
MAX_BYTES = 1_000_000


class LoadFace(Params):
    """Parameters of ``load_face``. The file's digest stands for it in keys; its path does not."""

    path: str = Field(exclude=True, description="A .npy or .json file of one face.")
    digest: str = Field("", description="SHA-256 of the file, as face_digest gives it.")


def face_digest(path: str | Path) -> str:
    """SHA-256 of a face's file, which is read and checked here, before anything runs."""
    data = _read(Path(path))
    _parsed(data, Path(path))
    return hashlib.sha256(data).hexdigest()


@stage(version=1)
def load_face(p: LoadFace, job: Job) -> Face:
    """Read an identity vector. Raises BadInput for files that hold none, or that changed since ``digest`` was taken."""
    data = _read(Path(p.path))
    found = hashlib.sha256(data).hexdigest()
    if p.digest and found != p.digest:
        raise BadInput(f"{p.path} changed since the run was planned: sha256 expected {p.digest}, found {found}",
                       "start again")
    return _parsed(data, Path(p.path))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size:,} bytes: no identity vector is that large", HINT)
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the face {path}: {error.strerror or error}", HINT) from error


def _parsed(data: bytes, path: Path) -> Face:
    points: Any = None
    try:
        if path.suffix.lower() == ".json":
            told = json.loads(data)
            identity, points = (told.get("identity"), told.get("points")) if isinstance(told, dict) else (told, None)
            vector = np.asarray(identity, dtype=np.float64)
        else:
            vector = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float64)
        placed = None if points is None else np.asarray(points, dtype=np.float64)
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise BadInput(f"{path} is no face's identity vector: {' '.join(str(error).split())[:160]}", HINT) from error
    vector = vector.reshape(-1) if vector.ndim == 2 and 1 in vector.shape else vector
    if vector.shape != (FACE,) or not np.isfinite(vector).all() or not vector.any():
        raise BadInput(f"{path} holds {' x '.join(str(n) for n in vector.shape) or 'no'} numbers"
                       + ("" if vector.shape != (FACE,) else ", some not finite or all zero"), HINT)
    if placed is not None and (placed.shape != (5, 2) or not np.isfinite(placed).all()
                               or placed.min() < 0 or placed.max() > 1):
        raise BadInput(f"the points in {path} are not five pairs of shares from 0 to 1", HINT)
    return Face(vector.astype(np.float32), None if placed is None else placed.astype(np.float32))
