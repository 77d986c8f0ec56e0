"""The terminal's listener: a bar for each stage with the time left, plain lines where nobody watches live."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from engine.runs.events import Event

SIGNS = {"done": "[green]done", "cached": "[cyan]kept", "failed": "[red]failed"}


class Terminal:
    """Shows a run's events on stderr; use as a context manager, so that the bars end where the run ends."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live = self.console.is_terminal
        self._tasks: dict[str, Any] = {}
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(bar_width=24),
                                  TextColumn("{task.fields[state]}"), _TimeColumn(), console=self.console,
                                  disable=not self._live)

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if event.kind == "planned":
            for label in event.labels:
                self._tasks.setdefault(label, self._progress.add_task(label, total=1.0, state="", spent=None,
                                                                      start=False))
        elif event.kind == "started":
            self._update(event, state="", completed=0.0, spent=None)
            if event.label in self._tasks and self._live:
                self._progress.start_task(self._tasks[event.label])
            self._say(f"{event.label} ...")
        elif event.kind == "progress":
            self._update(event, completed=event.fraction, state=f"{event.fraction:4.0%}")
        elif event.kind in SIGNS:
            done = event.kind != "failed"
            self._update(event, state=SIGNS[event.kind], spent=event.seconds, **({"completed": 1.0} if done else {}))
            if done:
                word = "done" if event.kind == "done" else "kept from before"
                self._say(f"{event.label} {word} ({event.seconds:.1f} s)")
        elif event.kind == "refused":
            self.console.print(f"[yellow]{event.label}: attempt {event.attempt + 1} was refused: {event.message}")
        elif event.kind == "warning":
            self.console.print(Text(f"{event.label}: {event.message}", style="yellow"))

    def _update(self, event: Event, **fields: Any) -> None:
        if event.label in self._tasks:
            self._progress.update(self._tasks[event.label], **fields)

    def _say(self, text: str) -> None:
        if not self._live:
            self.console.print(Text(text))


class _TimeColumn(ProgressColumn):
    """Seconds taken by a finished stage; seconds left of one under way, once there is something to go by."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        spent = task.fields.get("spent")
        if spent is not None:
            return Text(f"{spent:.1f} s", style="dim")
        elapsed = task.elapsed
        if elapsed is None:
            return Text("")
        if task.completed <= 0.02 or elapsed < 1.0:
            return Text(f"{elapsed:.0f} s", style="dim")
        left = elapsed * (1 - task.completed) / task.completed
        return Text(f"{_span(left)} left")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
