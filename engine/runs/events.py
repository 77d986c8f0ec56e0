"""One stream of events for the terminal's bar, the JSON-lines log, the server and the add-on."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

EVENT_SCHEMA = 1
Kind = Literal["planned", "started", "progress", "warning", "done", "cached", "refused", "failed"]


@dataclass(frozen=True)
class Event:
    """Something that happened to one labelled stage of a run.

    kind : "planned" (once, before all; ``labels`` in order), "started", "progress", "warning", "done", "cached",
        "refused" (by a gate; another attempt may follow), "failed"
    fraction : 0..1; preview : (h, w, 3) float32 sRGB or None; seconds : of the stage so far; message : one line
    """

    kind: Kind
    label: str = ""
    key: str = ""
    attempt: int = 0
    fraction: float = 0.0
    seconds: float = 0.0
    message: str = ""
    labels: tuple[str, ...] = ()
    preview: np.ndarray | None = field(default=None, repr=False, compare=False)
    time: float = field(default_factory=time.time, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The event without its preview's pixels; ``preview`` says whether there is one."""
        return {"schema": EVENT_SCHEMA, "kind": self.kind, "label": self.label, "key": self.key,
                "attempt": self.attempt, "fraction": round(self.fraction, 4), "seconds": round(self.seconds, 3),
                "message": self.message, "labels": list(self.labels), "preview": self.preview is not None,
                "time": round(self.time, 3)}


Listener = Callable[[Event], None]


class JsonLines:
    """Listener that appends one JSON object a line; progress at most twice a second for each label.

    Once opened it never fails a run: where the disk takes no more, the log ends.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "progress":
            if event.time - self._told.get(event.label, 0.0) < 0.5:
                return
            self._told[event.label] = event.time
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(event.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
