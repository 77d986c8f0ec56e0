"""gallery/index.html of a run: every asset on one page that opens from a file, with no server and no network.

    write_gallery(Path("out/forest"))

The page holds the run's manifest; pictures, clips and each asset's own viewer (its report.html) are linked. Candidates
of a run that stopped at them can be picked by a click; what was picked is taken away as picks.toml.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.export.heights import kind_in
from engine.export.viewer import page_with
from engine.runs import files

THUMB = 256
"""Pixels a side of a card's picture at most."""
SHEET_COLUMNS, SHEET_ROWS = 4, 2
"""Of a turntable's sheet (``engine.stages.render_turntable``); its first picture is the front."""
SKIPPED = ("candidate", "view", "frame", "input", "recipe")
"""Roles that are not listed among an asset's files: they are many, and the report shows them."""


def write_gallery(folder: Path, manifest: dict[str, Any] | None = None) -> Path:
    """Write ``folder``/gallery/index.html -> its path. ``folder`` is a run's; manifest : None: the one in it.

    BadInput where there is no manifest, RunFailed where the disk takes no more.
    """
    if manifest is None:
        from engine.runs.batch.manifest import read_manifest
        manifest = read_manifest(folder)
        if manifest is None:
            raise BadInput(f"there is no run in {folder}: manifest.json is missing or cannot be read",
                           "Give the folder that `maquette run RECIPE --out` wrote")
    page = page_with("gallery.html", gallery_data(folder, manifest))
    with files.one_line_errors("the gallery", folder, "--out"):
        files.write_file(folder / "gallery" / "index.html", page)
    return folder / "gallery" / "index.html"


def gallery_data(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the page is made from; small pictures are written to ``folder``/gallery/thumbs as far as they are new."""
    assets = [_asset(folder, told) for told in manifest["assets"]]
    return {"name": str(manifest["name"]), "recipe": str(manifest["recipe"]["digest"]), "state": manifest["state"],
            "stopped": manifest.get("stopped", ""), "counts": manifest.get("counts", {}), "assets": assets,
            # Pictures are to be picked before meshes are made of them, not behind.
            "choosing": any(one["candidates"] and not one["report"] for one in assets),
            "licences": licences(manifest)}


def licences(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """Every model that any asset was made with, once: {"model", "licence", "commercial", "roles"}."""
    found: dict[str, dict[str, Any]] = {}
    for asset in manifest["assets"]:
        for model in asset.get("models", []):
            one = found.setdefault(model["id"], {"model": model["id"], "licence": model["licence"],
                                                 "commercial": model["commercial"], "roles": set()})
            one["roles"].add(model["role"])
    return [{**one, "roles": ", ".join(sorted(one["roles"]))} for one in found.values()]


def _asset(folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    own = placed(folder, told)
    listed = [file for file in told.get("files", []) if own and _inside(folder, f"{own}/{file['path']}")]
    candidates = [{"number": int(Path(file["path"]).stem), "path": f"{own}/{file['path']}"} for file in listed
                  if file["role"] == "candidate" and Path(file["path"]).stem.isdigit()]
    report = f"{own}/report.html" if own and (folder / own / "report.html").is_file() else ""
    meshes = [file for file in listed if file["role"] == "mesh" and file["path"].endswith(".glb")]
    metrics = {one["name"]: [one["value"], one["unit"]] for one in told.get("metrics", [])}
    best = next((value for name, (value, _) in metrics.items() if name.endswith(".best")), None)
    return {**{name: told[name] for name in ("id", "status", "error", "pipeline", "prompt", "seed", "cell", "models",
                                             "warnings", "seconds")},
            "kind": kind_in(told["prompt"]) or ("clip" if told["pipeline"].endswith("_clip") else "other"),
            "source": told["pipeline"], "metrics": metrics, "candidates": candidates, "report": report,
            "best": int(best) if isinstance(best, int | float) and math.isfinite(best) else None,
            "viewer": report if meshes else "", "clip": _first(own, listed, ("clip",), (".mp4",)),
            "thumb": _thumb(folder, own, listed),
            "files": [{"path": f"{own}/{file['path']}", "name": file["path"], "role": file["role"],
                       "sha256": file["sha256"]} for file in listed if file["role"] not in SKIPPED]}


def placed(folder: Path, told: dict[str, Any]) -> str:
    """Where an asset's files lie, relative to the run's folder, with forward slashes; "" where there are none, or where
    a manifest that somebody wrote names a place outside."""
    given = told.get("folder") or ""
    if not given:
        return ""
    root = folder.resolve()
    whole = (root / given).resolve()
    if not whole.is_dir() or not whole.is_relative_to(root):
        return ""
    return whole.relative_to(root).as_posix()


def _inside(folder: Path, path: str) -> bool:
    whole = (folder / path).resolve()
    return whole.is_file() and whole.is_relative_to(folder.resolve())


def _first(own: str, listed: Iterable[dict[str, Any]], roles: Iterable[str], suffixes: tuple[str, ...]) -> str:
    for role in roles:
        for file in listed:
            if file["role"] == role and file["path"].lower().endswith(suffixes):
                return f"{own}/{file['path']}"
    return ""


def thumb_source(own: str, listed: list[dict[str, Any]]) -> tuple[dict[str, Any], bool] | None:
    """(the file that shows an asset best, whether it is a turntable's sheet) of its own files."""
    for role in ("sheet", "frame", "picture", "candidate"):
        for file in listed:
            if file["role"] == role and file["path"].lower().endswith(".png"):
                mesh = any(other["role"] == "mesh" for other in listed)
                if role == "sheet" and not mesh:
                    break  # a clip's sheet is of all its frames: the first frame shows more
                return file, role == "sheet"
    return None


def thumbnail(path: Path, is_sheet: bool, side: int) -> Any:
    """An asset's picture, at most ``side`` pixels wide and high, over white; of a turntable's sheet the front."""
    from PIL import Image
    with Image.open(path) as opened:
        front = (0, 0, opened.width // SHEET_COLUMNS, opened.height // SHEET_ROWS) if is_sheet else None
        picture = opened.crop(front).convert("RGBA")
    picture.thumbnail((side, side))
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def _thumb(folder: Path, own: str, listed: list[dict[str, Any]]) -> str:
    """The card's picture, relative to the gallery's folder: written once for each picture's bytes."""
    import io
    chosen = thumb_source(own, listed)
    if chosen is None:
        return ""
    file, is_sheet = chosen
    name = f"thumbs/{file['sha256'][:24]}.jpg"
    target = folder / "gallery" / name
    if not target.is_file():
        try:
            picture = thumbnail(folder / own / file["path"], is_sheet, THUMB)
        except (OSError, ValueError):
            return ""  # a picture that was damaged since: the card says its words
        memory = io.BytesIO()
        picture.save(memory, "jpeg", quality=85)
        with files.one_line_errors("the gallery", folder, "--out"):
            files.write_file(target, memory.getvalue())
    return name
