"""The store: artifacts in folders named by their attempt keys.

    artifacts/ab/<key>/files/...      what the artifact saved
    artifacts/ab/<key>/manifest.json  what it was made from, its metrics, the SHA-256 of every file; written last
    artifacts/ab/<key>/timing.json    seconds and memory, outside every digest
    checkpoints/<key>/<n>/            states of stages that are under way
    checkpoints/<key>/files/          files of theirs that are finished, as frames are
    roots/<name>.json                 manifests of runs in use; ``gc`` keeps their union
    locks/, logs/, tmp/

Nothing under artifacts/ is ever changed in place: a folder is complete when it appears. What fails its hashes when it
is read is taken away and made again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts import Artifact
from engine.errors import BadInput
from engine.runs import files
from engine.runs.keys import digest

STORE_SCHEMA = 1
DAY = 86400.0


@dataclass(frozen=True)
class Entry:
    """One kept result: where its files are, what is known of it, and how long it took."""

    key: str
    folder: Path
    manifest: dict[str, Any]
    timing: dict[str, Any]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """[{"name", "value", "unit", "against"}] as the stage told them."""
        return list(self.manifest["metrics"])

    @property
    def warnings(self) -> list[str]:
        return list(self.manifest["warnings"])


class Store:
    """A folder that holds artifacts by key. Several processes may use one at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[str, Entry] = {}
        files.ensure_writable(root, "the store", "--store")
        marker = root / "store.json"
        with files.one_line_errors("the store", root, "--store"):
            if not marker.exists():
                files.write_file(marker, json.dumps({"schema": STORE_SCHEMA}) + "\n")
            self._sweep()
        try:
            schema = json.loads(marker.read_text(encoding="utf-8"))["schema"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{marker} is damaged", "Delete that file if this folder is a Maquette store") from error
        if schema != STORE_SCHEMA:
            raise BadInput(f"the store in {root} has format {schema}, this Maquette reads {STORE_SCHEMA}",
                           "Choose another place with --store")

    @staticmethod
    def place(where: str | Path | None = None) -> Path:
        """Where the store is: ``where``, else MAQUETTE_STORE, else the user's cache folder."""
        chosen = str(where or os.environ.get("MAQUETTE_STORE") or files.user_cache_folder() / "store")
        if "://" in chosen:
            raise BadInput(f"the store {chosen} is a URL, and this needs a folder", "Give --store a folder")
        return Path(chosen).expanduser()

    @staticmethod
    def open(where: str | Path | None = None) -> Store:
        """The store in a folder or behind a URL: ``where``, else MAQUETTE_STORE, else the user's cache folder."""
        chosen = str(where or os.environ.get("MAQUETTE_STORE") or "")
        if "://" in chosen:
            from engine.runs.remote import RemoteStore
            return RemoteStore(chosen)
        return Store(Store.place(where))

    # -- artifacts --------------------------------------------------------------------------------------------------

    def folder_of(self, key: str) -> Path:
        return self.root / "artifacts" / key[:2] / key

    def find(self, key: str, damaged: Callable[[str], None] = lambda reason: None) -> Entry | None:
        """The kept result under ``key``, its files proven by their hashes once a process; None where there is none.

        damaged : told the reason when what lies there is not what was written; it is then taken away
        """
        folder = self.folder_of(key)
        if key in self._verified and (folder / "manifest.json").exists():
            return self._verified[key]
        if not folder.exists():
            return None
        reason, manifest = self._inspect(folder, key)
        if reason:
            damaged(reason)
            self.discard(key)
            return None
        entry = Entry(key, folder, manifest, _read_timing(folder))
        self._verified[key] = entry
        return entry

    def load(self, entry: Entry, kind: type[Artifact]) -> Any:
        """The artifact itself, fresh from its files: a stage may change what it gets."""
        return kind.load(entry.folder / "files")

    def put(self, key: str, artifact: Artifact, about: dict[str, Any], timing: dict[str, Any]) -> Entry:
        """Keep an artifact. ``about``: what it was made from, with "metrics" and "warnings"."""
        with files.one_line_errors("a result", self.root, "--store"):
            part = self.root / "tmp" / files.unique_name(key[:12])
            try:
                (part / "files").mkdir(parents=True)
                artifact.save(part / "files")
                files.fault("put:saved")
                listed = {}
                for name in files.files_under(part / "files"):
                    path = part / "files" / name
                    files.sync_file(path)
                    listed[name] = {"sha256": files.file_digest(path), "bytes": path.stat().st_size}
                files.write_file(part / "timing.json", json.dumps(timing, indent=1) + "\n")
                files.fault("put:timing")
                manifest = {"schema": STORE_SCHEMA, "key": key, **about, "files": listed}
                manifest["digest"] = digest(manifest)
                files.write_file(part / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
                files.sync_folder(part / "files")
                files.sync_folder(part)
                files.fault("put:rename")
                if not files.move_folder(part, self.folder_of(key)):
                    # Another process finished the same key: equal by definition, so ours is not needed.
                    if kept := self.find(key):
                        return kept
                    files.move_folder(part, self.folder_of(key))
                files.fault("put:kept")
            finally:
                shutil.rmtree(part, ignore_errors=True)
        entry = Entry(key, self.folder_of(key), manifest, timing)
        self._verified[key] = entry
        return entry

    def discard(self, key: str) -> None:
        """Take a result away as one act."""
        self._verified.pop(key, None)
        with files.one_line_errors("the store", self.root, "--store"):
            files.remove_folder(self.folder_of(key), self.root / "tmp")

    def lock(self, key: str, waiting: Callable[[float], None]) -> AbstractContextManager[None]:
        """Held while one process makes ``key``; others wait and then find it."""
        return files.lock(self.root / "locks" / key[:2] / key, waiting)

    def inspect(self, key: str) -> str:
        """What is wrong with a kept result, every byte of it read; "" where it is as it was written."""
        return self._inspect(self.folder_of(key), key)[0]

    def _inspect(self, folder: Path, key: str) -> tuple[str, dict[str, Any]]:
        """("", manifest) where all is as it was written, else (reason, {})."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            stated = manifest.pop("digest")
            if manifest["key"] != key or digest(manifest) != stated:
                return "manifest.json was changed", {}
            if sorted(manifest["files"]) != files.files_under(folder / "files"):
                return "a file is missing or new", {}
            for name, about in manifest["files"].items():
                path = folder / "files" / name
                if path.stat().st_size != about["bytes"] or files.file_digest(path) != about["sha256"]:
                    return f"{name} was changed", {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{type(error).__name__} while reading it", {}
        return "", manifest

    # -- roots, logs, cleaning --------------------------------------------------------------------------------------

    def add_root(self, name: str, manifest: dict[str, Any]) -> None:
        """Say that a run's results are in use; ``manifest["keys"]`` lists them."""
        with files.one_line_errors("the run's manifest", self.root, "--store"):
            files.write_file(self.root / "roots" / f"{name}.json", json.dumps(manifest, indent=1) + "\n")

    def roots(self) -> dict[str, dict[str, Any]]:
        """All manifests in use, by name."""
        return {path.stem: json.loads(path.read_text(encoding="utf-8"))
                for path in sorted((self.root / "roots").glob("*.json"))}

    def keys(self) -> Iterator[str]:
        """Keys of all kept results."""
        for folder in sorted((self.root / "artifacts").glob("??/*")):
            yield folder.name

    def gc(self) -> list[str]:
        """Remove every result that no root lists and nobody is making; the keys removed."""
        keep = {key for manifest in self.roots().values() for key in manifest["keys"]}
        removed = []
        for key in list(self.keys()):
            if key in keep:
                continue
            try:
                with self.lock(key, _give_up):
                    self.discard(key)
                    removed.append(key)
            except _BusyError:
                continue
        for folder in (self.root / "checkpoints").glob("*"):
            if time.time() - folder.stat().st_mtime > 30 * DAY:
                files.remove_folder(folder, self.root / "tmp")
        return removed

    @contextmanager
    def log(self) -> Iterator[Path]:
        """Path of a new log file for one run; logs older than thirty days go."""
        folder = self.root / "logs"
        for old in folder.glob("*.jsonl"):
            if time.time() - old.stat().st_mtime > 30 * DAY:
                old.unlink(missing_ok=True)
        yield folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.jsonl"

    def _sweep(self) -> None:
        """Remove what killed processes left under tmp/ more than a day ago."""
        for path in (self.root / "tmp").glob(".*"):
            try:
                if time.time() - path.stat().st_mtime > DAY:
                    shutil.rmtree(path, ignore_errors=True)
            except FileNotFoundError:
                continue


class _BusyError(Exception):
    """The key is being made."""


def _give_up(seconds: float) -> None:
    raise _BusyError


def _read_timing(folder: Path) -> dict[str, Any]:
    try:
        timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
        return timing if isinstance(timing, dict) else {}
    except (OSError, ValueError):
        return {}  # outside every digest: a result without it is as good
