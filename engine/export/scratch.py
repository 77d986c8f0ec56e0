"""A folder for files on their way into an artifact; it goes when nobody holds the artifact any more."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.artifacts import Files


def scratch_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="maquette-"))


@contextlib.contextmanager
def scratch_until_made() -> Iterator[Path]:
    """A :func:`scratch_folder` that goes at once where making its files fails or is stopped: on a full disk above all
    nothing may stay behind."""
    folder = scratch_folder()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def scratch_files(folder: Path, roles: dict[str, str], meta: dict[str, Any]) -> Files:
    """Files in a :func:`scratch_folder`, which is deleted with them (``Files.save`` has made copies by then)."""
    files = Files(folder, roles, meta)
    keep_until_gone(files, folder)
    return files


def keep_until_gone(holder: object, folder: Path) -> None:
    """Delete a :func:`scratch_folder` once nobody holds ``holder`` any more."""
    weakref.finalize(holder, shutil.rmtree, folder, ignore_errors=True)
