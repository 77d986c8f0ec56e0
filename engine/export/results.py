"""What a run's folder holds beside its assets: the gallery, the contact sheets, and finished files by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.export.contact_sheet import write_sheets
from engine.export.gallery import write_gallery
from engine.export.names import FOLDER, give_names


def write_results(folder: Path, manifest: dict[str, Any], *, names: Mapping[str, str] | None = None,
                  gallery: bool = True, sheets: bool = True, overwrite: bool = False) -> list[str]:
    """Write them from a run's manifest -> one line each on where they are.

    names : id -> the asset's name by [export].name; None where the recipe does not name its files
    gallery, sheets, overwrite : as [export] says
    """
    said = []
    if gallery:
        said.append(f"gallery: {write_gallery(folder, manifest)}")
    if sheets and (pages := write_sheets(folder, manifest)):
        said.append(f"contact sheets: {pages[0]}" + (f" to {pages[-1].name}" if len(pages) > 1 else ""))
    if names is not None and give_names(folder, manifest, names, overwrite):
        said.append(f"named files: {folder / FOLDER}")
    return said
