"""Tables for the terminal: what an export wrote, what a check found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.meshes.finding import SEVERITIES

if TYPE_CHECKING:
    from engine.check.report import CheckReport
    from engine.export_api import Exported

COLOURS = {"error": "red", "warning": "yellow", "hint": "cyan", "info": "dim"}
MOST = 40


def show_exported(made: Exported, console: Console | None = None) -> None:
    """Files, levels and notes of an export."""
    out = console or Console()
    for text in made.notes:
        out.print(Text(f"note: {text}", style="yellow"))
    levels = made.manifest.get("lods", [])
    shown = ("shown below",) if len(levels) > 1 else ()
    table = Table("level", "triangles", "vertices", *shown, box=None, pad_edge=False)
    for lod in levels:
        below = f"{lod['screen_size']:.0%} of the screen's height"
        table.add_row(lod["name"], f"{lod['triangles']:,}", f"{lod['vertices']:,}", *([below] if shown else ()))
    if levels:
        out.print(table)
    if made.manifest.get("colliders"):
        out.print(f"colliders: {len(made.manifest['colliders'])}")
    many = [path for path in made.written if path.parent.name == "frames"]
    for path in made.written:
        if path not in many:
            out.print(Text(str(path), overflow="fold"))
    if many:
        out.print(f"{len(many)} frames in {many[0].parent}")
    word = "is there already, unchanged" if made.there_already else "is written"
    out.print(Text(f"{made.manifest['asset']} for {made.manifest['profile']} {word}: {made.folder}", style="bold"))


def show_check(report: CheckReport, console: Console | None = None) -> None:
    """Findings by severity, figures, and a last line that says how it went."""
    out = console or Console()
    ordered = sorted(report.findings, key=lambda one: SEVERITIES.index(one.severity))
    for one in ordered[:MOST]:
        said = "" if one.source == "maquette" else f" ({one.source})"
        where = f" [{one.where}]" if one.where else ""
        out.print(Text(f"{one.severity}: {one.code}: {one.text}{where}{said}", style=COLOURS[one.severity]))
    if len(ordered) > MOST:
        out.print(f"... and {len(ordered) - MOST} more; --json lists all")
    table = Table("figure", "value", box=None, pad_edge=False)
    for name, value in report.figures.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else (
            f"{value:.4g}" if isinstance(value, float) else str(value))
        table.add_row(name, shown)
    out.print(table)
    for name, said in report.tools.items():
        out.print(Text(f"{name}: {said}", style="dim"))
    counts = ", ".join(f"{report.count(name)} {name}{'s' if report.count(name) != 1 else ''}" for name in SEVERITIES)
    out.print(Text(f"{report.path}: {counts}", style="bold"))
