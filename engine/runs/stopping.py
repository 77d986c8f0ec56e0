"""Stopping a run from the keyboard without losing what is finished."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Stoppable(Protocol):
    """Whatever can be asked to stop at its next word of progress."""

    def cancel(self) -> None: ...


@contextmanager
def stoppable(run: Stoppable) -> Iterator[None]:
    """First Ctrl-C (or TERM): stop at the next word of progress, keep a checkpoint. Second: stop at once."""
    asked: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        run.cancel()
        print("\nstopping; what is finished is kept (again to stop at once)", file=sys.stderr)

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
