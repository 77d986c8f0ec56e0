"""Tables for the terminal: an asset's files and figures, the doctor's findings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from engine.doctor import Finding
from engine.runs.report import Metric, Report

if TYPE_CHECKING:
    from engine.made import Made

MANY = ("candidate", "view", "frame")


def show_report(report: Report, folder: Path, console: Console | None = None) -> None:
    """Files, figures, stages and warnings of an asset."""
    out = console or Console()
    for text in report.warnings:
        out.print(Text(f"note: {text}", style="yellow"))
    out.print(_files(report, folder))
    out.print(_figures(report.metrics))
    stages = Table("stage", "seconds", "peak MB", "attempts", "from", box=None, pad_edge=False)
    for stage in report.stages:
        stages.add_row(stage.label, f"{stage.seconds:.1f}", f"{stage.peak_bytes / 1e6:.0f}", str(stage.attempts),
                       "store" if stage.cached else "now")
    out.print(stages)
    for gate in report.gates:
        word = "passed" if gate.passed else "refused"
        out.print(Text(f"gate {gate.metric} {gate.threshold:g}: {_number(gate.value)} {word}"))
    out.print(Text(f"{report.asset}: {report.pipeline}, {report.quality}, seed {report.seed}", style="bold"))


def show_stopped(asset: Made, folder: Path, console: Console | None = None) -> None:
    """What a run that ``--until`` stopped has made so far."""
    out = console or Console()
    last = asset.outcomes[-1].node.label
    out.print(_files(asset.report, folder))
    out.print(_figures(asset.report.metrics))
    for text in asset.report.warnings:
        out.print(Text(f"note: {text}", style="yellow"))
    out.print(Text(f"stopped after {last}; the same command without --until goes on from here", style="bold"))


def show_picture(report: Report, path: Path, console: Console | None = None) -> None:
    """Figures, gates and place of a picture."""
    out = console or Console()
    out.print(_figures(report.metrics))
    for gate in report.gates:
        word = "passed" if gate.passed else "refused"
        out.print(Text(f"gate {gate.metric} {gate.threshold:g}: {_number(gate.value)} {word}"))
    out.print(Text(str(path), style="bold", overflow="fold"))


def show_findings(findings: list[Finding], console: Console | None = None) -> None:
    """The doctor's lines."""
    out = console or Console()
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    signs = {"ok": Text("ok", style="green"), "note": Text("note", style="yellow"), "lack": Text("lack", style="red")}
    for finding in findings:
        text = finding.text + (f"\n  -> {finding.mend}" if finding.mend else "")
        table.add_row(signs[finding.state], finding.what, Text(text, overflow="fold"))
    out.print(table)


def _files(report: Report, folder: Path) -> Table:
    table = Table(Column("file", overflow="fold"), Column("what", no_wrap=True), Column("kB", justify="right"),
                  box=None, pad_edge=False)
    names = {record.path: record.role for record in report.files}
    if (folder / "report.json").exists():
        names |= {"report.html": "report", "report.json": "report"}
    for name, role in names.items():
        if role not in MANY:
            table.add_row(str(folder / name), role, _size(folder / name))
    for role in MANY:
        several = [name for name, kind in names.items() if kind == role]
        if several:
            shown = several[0] if len(several) == 1 else f"{several[0]} ... {Path(several[-1]).name}"
            table.add_row(str(folder / shown), f"{len(several)} {role}{'s' if len(several) > 1 else ''}",
                          f"{sum((folder / name).stat().st_size for name in several) / 1e3:,.0f}")
    return table


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e3:,.0f}" if path.exists() else "missing"


def _figures(metrics: list[Metric]) -> Table:
    table = Table(Column("figure", no_wrap=True), "value", "against", box=None, pad_edge=False)
    for metric in metrics:
        table.add_row(metric.name, Text(_measure(metric)), metric.against)
    return table


def _measure(metric: Metric) -> str:
    if metric.value is not None and metric.unit in ("B", "byte"):
        return f"{metric.value / 1e6:,.1f} MB"
    return _number(metric.value) + (f" {metric.unit}" if metric.unit else "")


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"
