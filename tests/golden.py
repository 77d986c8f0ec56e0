"""Golden digests: a stage whose output changes must change its version number.

tests/golden.json holds stage -> {"version", "digest"}. A case makes a stage's output from small fixed input; its
digest is taken over the files that the artifact saves, numbers rounded, so that it is the same on every machine.
Add a case below, then ``python -m tests.golden`` writes what is missing. It refuses to change a digest whose version
did not change: raise the number in ``@stage(version=...)`` first.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.artifacts import Candidates, Picture
from engine.runs.files import files_under
from engine.runs.job import StageJob
from engine.runs.keys import digest

FILE = Path(__file__).with_name("golden.json")
Case = tuple[Callable[..., Any], Callable[[], Any]]


def quiet_job(label: str, models: Any = None, roles: tuple[str, ...] = ()) -> StageJob:
    """A job for one stage alone, on the CPU, seed 0, that keeps nothing."""
    nowhere = Path(tempfile.gettempdir()) / "maquette-golden-keeps-nothing"
    return StageJob(label=label, device="cpu", key="0" * 64, seed=(0, ""), attempt=0, roles=roles, models=models,
                    emit=lambda event: None, cancelled=lambda: False, checkpoints=nowhere, trash=nowhere)


def picture(seed: int, size: int = 8, channels: int = 3) -> Picture:
    """A small fixed picture of noise."""
    rng = np.random.default_rng(seed)
    return Picture(np.round(rng.random((size, size, channels)) * 255).astype(np.float32) / 255, f"picture {seed}")


def choose_candidate_case() -> Any:
    from engine.stages.choose_candidate import ChooseCandidate, choose_candidate
    candidates = Candidates([picture(i) for i in range(3)], [0.1, 0.7, 0.4], 1)
    return choose_candidate(candidates, ChooseCandidate(), quiet_job("choose_candidate"))


def load_picture_case() -> Any:
    from engine.stages.load_picture import LoadPicture, load_picture
    with tempfile.TemporaryDirectory() as folder:
        from engine.artifacts import save_png
        path = Path(folder) / "x.png"
        save_png(path, picture(5, 20, 4).image)
        return load_picture(LoadPicture(path=str(path)), quiet_job("load_picture"))


def cases() -> dict[str, Case]:
    """stage name -> (stage, function that makes its output)."""
    from engine.stages.choose_candidate import choose_candidate
    from engine.stages.load_picture import load_picture
    return {"choose_candidate": (choose_candidate, choose_candidate_case),
            "load_picture": (load_picture, load_picture_case)}


def content_digest(artifact: Any, decimals: int = 3) -> str:
    """Digest of what an artifact saves: pictures by their pixels, numbers rounded, so that encoders do not enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact.save(folder)
        return digest({file: _content(folder / file, decimals) for file in files_under(folder)})


def _content(path: Path, decimals: int) -> Any:
    if path.suffix == ".png":
        from PIL import Image
        with Image.open(path) as image:
            return [image.mode, image.size, digest(np.asarray(image).tolist())]
    if path.suffix == ".json":
        return _rounded(json.loads(path.read_text(encoding="utf-8")), decimals)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file
        return {k: [list(v.shape), digest(_rounded(v.tolist(), decimals))] for k, v in load_file(path).items()}
    return path.stat().st_size


def _rounded(value: Any, decimals: int) -> Any:
    if isinstance(value, float):
        return round(value, decimals) + 0.0  # no negative zero
    if isinstance(value, list):
        return [_rounded(v, decimals) for v in value]
    if isinstance(value, dict):
        return {k: _rounded(v, decimals) for k, v in value.items()}
    return value


def compare(kept: dict[str, Any], name: str, version: int, found: str) -> str:
    """"" where all is well, else what to do."""
    if name not in kept:
        return f"{name} has no golden digest: run python -m tests.golden"
    if kept[name]["digest"] == found and kept[name]["version"] == version:
        return ""
    if kept[name]["version"] == version:
        return (f"the output of {name} changed and its version is still {version}: raise it in @stage(version=...), "
                f"so that kept results are not taken for the new ones, then run python -m tests.golden")
    return f"{name} is now version {version}: run python -m tests.golden"


def main() -> int:
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name, (function, make) in cases().items():
        version = function.spec.version  # type: ignore[attr-defined]
        found = content_digest(make())
        told = compare(kept, name, version, found)
        if "still" in told:
            print(told)
            return 1
        kept[name] = {"version": version, "digest": found}
    FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
