"""report.html: the asset and its papers on one page that opens anywhere, without a server and without the network."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

LARGEST_EMBEDDED = 64_000_000
"""Bytes of a GLB that is still put into the page; a larger one would make browsers stumble."""


def write_report_html(folder: Path, report: dict[str, Any]) -> None:
    """Write ``folder``/report.html for a Report (see engine.runs.report) whose files lie in ``folder``.

    The GLB goes into the page, because a page opened from a file may not read its neighbours; pictures and the clip
    are linked. Nothing of the report is ever read as markup.
    """
    (folder / "report.html").write_text(page_with("viewer.html", _page_data(folder, report)), encoding="utf-8",
                                        newline="\n")


def page_with(name: str, data: dict[str, Any]) -> str:
    """One of the pages of this package with ``data`` in the place of @DATA@, as JSON that no markup ends."""
    page = files("engine.export").joinpath(name).read_text(encoding="utf-8")
    text = json.dumps(data, allow_nan=False, sort_keys=True)
    # Inside a script element only "<" can end or change anything; the two line separators end lines in old readers.
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"),
                       ("\u2029", "\\u2029")):
        text = text.replace(sign, code)
    return page.replace("@DATA@", text, 1)


def _page_data(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    glb = _of_role(folder, report, "mesh", ".glb")
    embedded = None
    if glb is not None and (folder / glb).stat().st_size <= LARGEST_EMBEDDED:
        embedded = base64.b64encode((folder / glb).read_bytes()).decode()
    best = next((m.get("value") for m in report.get("metrics", []) if m.get("name", "").endswith(".best")), None)
    candidates = [{"path": path, "caption": Path(path).stem, "chosen": best is not None and i == int(best)}
                  for i, path in enumerate(_pictures(folder, "candidates"))]
    views = [{"path": path, "caption": Path(path).stem, "chosen": False} for path in _pictures(folder, "views")]
    return {"report": report, "glb": embedded, "clip": _of_role(folder, report, "clip", ".mp4"),
            "sheet": _of_role(folder, report, "sheet", ".png"), "candidates": candidates, "views": views,
            "moving": str(report.get("pipeline", "")).endswith("_to_clip")}


def _of_role(folder: Path, report: dict[str, Any], role: str, suffix: str) -> str | None:
    """The first file of ``role`` with ``suffix`` that is really there, relative to ``folder``."""
    for record in report.get("files", []):
        path = str(record["path"])
        if record["role"] == role and path.endswith(suffix) and _inside(folder, path):
            return path
    usual = {"mesh": "asset.glb", "clip": "turntable.mp4", "sheet": "sheet.png"}[role]
    return usual if (folder / usual).is_file() else None


def _inside(folder: Path, path: str) -> bool:
    whole = (folder / path).resolve()
    return whole.is_file() and whole.is_relative_to(folder.resolve())


def _pictures(folder: Path, name: str) -> list[str]:
    return [f"{name}/{p.name}" for p in sorted((folder / name).glob("*.png"))] if (folder / name).is_dir() else []
