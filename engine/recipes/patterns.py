"""Files that a recipe names: one by one, or by a pattern (``photos/*.png``) that stands for one asset a file."""

from __future__ import annotations

import glob
from pathlib import Path

from engine.errors import BadInput

FOLDERS_TOO = ("poses", "driving_video")
"""Fields that take a file or a folder of them."""


def is_pattern(text: str, folder: Path) -> bool:
    """Whether a path has signs of a pattern and no file of that very name exists."""
    return any(sign in text for sign in "*?[") and not (folder / text).exists()


def matching(field: str, pattern: str, folder: Path, limit: int, where: str) -> list[str]:
    """The files that a pattern names (of ``folder``: the folders), sorted by name, so that every system agrees.

    BadInput where there is none, or more than ``limit``.
    """
    found: list[str] = []
    for path in glob.iglob(pattern, root_dir=folder, recursive=True):  # noqa: PTH207  (Path.glob takes no whole path)
        if (folder / path).is_dir() if field == "folder" else (folder / path).is_file():
            found.append(path)
            if len(found) > limit:
                raise BadInput(f"{where}{field}: {pattern!r} names more than {limit} files", "Name fewer")
    if not found:
        what = "folder" if field == "folder" else "file"
        raise BadInput(f"{where}{field}: no {what} is called {pattern!r} in {folder}", "Put files there, or mend the "
                       "pattern: * is any text, ? one sign, ** any folders")
    return sorted(found, key=lambda path: Path(path).as_posix())


class Paths:
    """Places a recipe's files and says which are missing; each path is looked at once."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], str] = {}

    def placed(self, field: str, text: str, folder: Path, where: str) -> str:
        """The whole path. BadInput where nothing is there, or a folder in the place of a file."""
        whole = str(folder / text)
        told = self._seen.get((field, whole))
        if told is None:
            told = self._seen[field, whole] = _fault(field, Path(whole))
        if told:
            raise BadInput(f"{where}{field}: {whole} {told}", "Paths are taken from the recipe's folder; * in the name "
                           "takes each file of a folder" if "folder" in told else
                           "Paths are taken from the recipe's folder")
        return whole


def _fault(field: str, path: Path) -> str:
    try:
        if path.is_dir():
            return "" if field == "folder" or field in FOLDERS_TOO else "is a folder"
        if path.is_file():
            return "is a file, no folder" if field == "folder" else ""
        return "does not exist"
    except (OSError, ValueError) as error:  # a name too long, NUL
        return f"cannot be read: {error}"
