"""The run's folder: its journal, which is the truth about a batch, and its lock.

    journal.jsonl   one JSON object a line, appended and forced to the disk; never changed, never shortened
    events.jsonl    every stage's events, for those who watch; may end anywhere
    manifest.json   what the journal says, put together (``engine.runs.batch.manifest``)
    assets/<id>/    what ``make`` leaves; assets/<id>~2/ where another run's files are there already
    run.lock        the process that works here; the system drops the lock when that process dies

Lines of the journal: {"event": "run", ...} when a run begins, "placed" with the folders that it gives its assets,
"taken" and "ended" for each attempt at an asset, "part" for parameters that many assets share (by digest), "stop" and
"over" where a run ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.runs import files
from engine.runs.keys import digest

JOURNAL_SCHEMA = 1


@dataclass
class Known:
    """What a journal tells: its runs, the last end of each asset, and the last one that went well.

    placed : id -> [folder, digest of what it was given for]
    torn : lines that are no JSON: the last one of a run that was killed while it wrote
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    placed: dict[str, list[str]] = field(default_factory=dict)
    torn: int = 0

    def take(self, line: dict[str, Any]) -> None:
        match line.get("event"):
            case "run":
                self.runs.append(line)
            case "placed":
                self.placed |= line["assets"]
            case "part":
                self.parts[line["digest"]] = line["value"]
            case "ended":
                self.ended[line["id"]] = line
                if line["status"] in ("done", "cached"):
                    self.finished[line["id"]] = line


class Journal:
    """Appends to journal.jsonl; each line is on the disk when :meth:`write` returns. ``known`` is kept up to date."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        self.known = read_journal(folder)
        with files.one_line_errors("the journal", folder, "--out"):
            self._file = self.path.open("ab")
            if self.path.stat().st_size and not _ends_a_line(self.path):
                self._write(b"\n")  # a killed run's torn line stays, and is skipped

    def write(self, event: str, **values: Any) -> dict[str, Any]:
        """RunFailed in one line where the disk takes no more."""
        line = {"schema": JOURNAL_SCHEMA, "event": event, "time": round(time.time(), 3), **values}
        with files.one_line_errors("the journal", self.path.parent, "--out"):
            self._write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")
        files.fault(f"journal:{event}")
        self.known.take(line)
        return line

    def part(self, value: Any) -> str:
        """Keep a value that many assets share, once; its digest stands for it."""
        name = digest(value)[:16]
        if name not in self.known.parts:
            self.write("part", digest=name, value=value)
        return name

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())


def read_journal(folder: Path) -> Known:
    """What the journal in a run's folder tells; an empty answer where there is none."""
    known = Known()
    path = folder / "journal.jsonl"
    if not path.is_file():
        return known
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "Give --out a folder that you may read") from error
    for text in lines:
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            known.torn += 1
            continue
        if not isinstance(line, dict) or line.get("schema") != JOURNAL_SCHEMA:
            raise BadInput(f"{path} is not a journal of this Maquette (schema {JOURNAL_SCHEMA})",
                           "Give --out another folder")
        known.take(line)
    return known


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Held while a run works in ``folder``; yields the PID that a dead run left there, else 0.

    BadInput where another process works here. The lock is the system's: a killed run's is gone with it, whatever the
    file still says.
    """
    path = folder / "run.lock"
    with files.one_line_errors("the run", folder, "--out"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        said = _pid(os.pread(handle, 32, 0) if hasattr(os, "pread") else b"")
        if not files.try_lock(handle):
            raise BadInput(f"another run works in {folder}" + (f" (process {said})" if said else ""),
                           "Wait for it, or give this one another folder with --out")
        with files.one_line_errors("the run", folder, "--out"):
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, str(os.getpid()).encode())
        yield said
        os.ftruncate(handle, 0)  # ended by itself; a killed run leaves its number
    finally:
        os.close(handle)


def _pid(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else 0


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
