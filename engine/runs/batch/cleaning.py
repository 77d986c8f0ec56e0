"""Cleaning a store: what no root keeps, and what is not as it was written. Nothing is removed before it was told."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.runs.store import Store


@dataclass(frozen=True)
class Rubbish:
    """What ``gc`` would remove: keys that no root but the ``forgotten`` ones lists, and their bytes.

    stages : stage -> (results, bytes) of it
    kept, kept_bytes : what stays
    """

    keys: tuple[str, ...]
    bytes: int
    kept: int
    kept_bytes: int
    forgotten: tuple[str, ...]
    stages: dict[str, tuple[int, int]]


def rubbish(store: Store, forget: tuple[str, ...] = ()) -> Rubbish:
    """forget : patterns of roots' names (``red_mug-*``) that shall count no more."""
    roots = store.roots()
    gone = tuple(name for name in roots if any(fnmatch.fnmatchcase(name, pattern) for pattern in forget))
    keep = {key for name, manifest in roots.items() if name not in gone for key in manifest["keys"]}
    kept = list(store.keys())
    sizes = {key: _bytes(store.folder_of(key)) for key in kept}
    doomed = tuple(key for key in sizes if key not in keep)
    stages: dict[str, tuple[int, int]] = {}
    for key in doomed:
        name = _stage(store, key)
        count, size = stages.get(name, (0, 0))
        stages[name] = count + 1, size + sizes[key]
    return Rubbish(doomed, sum(sizes[key] for key in doomed), len(sizes) - len(doomed),
                   sum(size for key, size in sizes.items() if key in keep), gone, dict(sorted(stages.items())))


def clean(store: Store, found: Rubbish) -> list[str]:
    """Forget the roots and remove what nothing keeps now; the keys removed. What somebody is making stays."""
    for name in found.forgotten:
        (store.root / "roots" / f"{name}.json").unlink(missing_ok=True)
    return store.gc()


def damaged(store: Store, progress: Callable[[int, int], None] = lambda done, of: None) -> dict[str, str]:
    """key -> what is wrong with it, of every result whose files are not the ones that were written. Every byte is
    read."""
    keys = list(store.keys())
    found = {}
    for number, key in enumerate(keys, start=1):
        if reason := store.inspect(key):
            found[key] = reason
        progress(number, len(keys))
    return found


def _stage(store: Store, key: str) -> str:
    try:
        told = json.loads((store.folder_of(key) / "manifest.json").read_text(encoding="utf-8"))
        return str(told["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
