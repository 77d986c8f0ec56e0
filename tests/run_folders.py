"""A run's folder as ``maquette run`` leaves it, made by hand: for the tests of the gallery and the contact sheets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from engine.clips.encode import write_mp4
from engine.export.glb import glb_bytes
from engine.export.viewer import write_report_html
from engine.runs.files import file_digest
from tests.mesh_helpers import ball

HOSTILE = ('</script><script>document.title="owned"</script><img src=x onerror=\'document.title="owned"\'> '
           '{x.__class__}\n"')
MODELS = [{"role": "text_to_image", "id": "maquette/builtin", "revision": "1", "sha256": "ab" * 32,
           "licence": "Apache-2.0", "commercial": "yes"}]


def drawn(path: Path, size: tuple[int, int], colour: tuple[int, int, int], text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, colour)
    ImageDraw.Draw(picture).text((8, 8), text, fill="black")
    picture.save(path)


def asset(run: Path, id: str, *, status: str = "done", prompt: str = "a red mug", triangles: float = 900.0,
          finished: bool = True, candidates: int = 0, clip: bool = False, error: str = "") -> dict[str, Any]:
    """Files of one asset, and its entry in the manifest."""
    own, roles = run / "assets" / id, {}
    colour = tuple(int(c) for c in np.random.default_rng(len(id) + ord(id[-1])).integers(120, 250, 3))
    for i in range(candidates):
        drawn(own / f"candidates/{i:02d}.png", (128, 128), (colour[0], 60 * i % 255, colour[2]), str(i))
        roles[f"candidates/{i:02d}.png"] = "candidate"
    if finished and clip:
        drawn(own / "frames/00000.png", (96, 128), colour, id)  # type: ignore[arg-type]
        roles["frames/00000.png"] = "frame"
    if finished:
        picture = np.full((64, 64, 3), colour, np.uint8)
        name = "clip.mp4" if clip else "turntable.mp4"
        own.mkdir(parents=True, exist_ok=True)
        write_mp4(own / name, [picture] * 3, 8)
        roles[name] = "clip"
    if finished and not clip:
        vertices, faces = ball(12)
        normals = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
        (own / "asset.glb").write_bytes(glb_bytes(vertices, faces, normals, (vertices[:, :2] + 1) / 2,
                                                  np.full((8, 8, 3), np.array(colour) / 255), 0, 0.8))
        drawn(own / "sheet.png", (512, 256), colour, id)  # type: ignore[arg-type]
        roles |= {"asset.glb": "mesh", "sheet.png": "sheet"}
    files = [{"path": name, "role": role, "sha256": file_digest(own / name), "bytes": (own / name).stat().st_size}
             for name, role in roles.items()]
    metrics = [{"name": "extract_mesh.triangles", "value": triangles, "unit": "", "against": ""}] if finished else [
        {"name": "text_to_image.best", "value": 1.0, "unit": "", "against": ""}]
    if finished:
        write_report_html(own, {"schema": 1, "asset": id, "pipeline": "text_to_mesh", "quality": "draft", "seed": 1,
                                "models": MODELS, "stages": [], "metrics": metrics, "gates": [], "files": files,
                                "warnings": [prompt]})
    return {"id": id, "status": status, "error": error, "pipeline": "text_to_clip" if clip else "text_to_mesh",
            "prompt": prompt, "seed": 1, "seed_id": id, "cell": {"style": "mossy"},
            "folder": f"assets/{id}" if roles else "", "keys": {"text_to_image": "ab" * 32}, "stages": [],
            "files": files, "metrics": metrics if roles else [], "gates": [], "models": MODELS if roles else [],
            "warnings": [], "seconds": 2.5, "peak_bytes": 10**8, "attempts": 1}


def run_folder(run: Path, assets: list[dict[str, Any]], name: str = "forest") -> Path:
    counts: dict[str, int] = {}
    for one in assets:
        counts[one["status"]] = counts.get(one["status"], 0) + 1
    manifest = {"schema": 1, "name": name, "recipe": {"file": "forest.toml", "digest": "cd" * 32}, "maquette": "0.1.0",
                "models": "builtin", "device": "cpu", "state": "finished", "stopped": "", "counts": counts,
                "seconds": 12.0, "assets": assets}
    run.mkdir(parents=True, exist_ok=True)
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run


def forest(run: Path) -> Path:
    """A mesh each of three kinds, a clip, a failure, one that waits, and a prompt that is markup."""
    return run_folder(run, [
        asset(run, "red_mug", triangles=1200), asset(run, "pine", prompt="a green tree", triangles=4000),
        asset(run, "walker", prompt="a knight who walks", clip=True),
        asset(run, "broken", status="failed", finished=False, error="text_to_image failed: <b>bold</b> & so on"),
        asset(run, "later", status="waiting", finished=False), asset(run, "hostile", prompt=HOSTILE, triangles=10)])


def approval(run: Path) -> Path:
    """A run that stopped at its candidates."""
    ids = ("red_mug", "blue-chair", "the.oak")
    return run_folder(run, [asset(run, id, finished=False, candidates=4) for id in ids])
