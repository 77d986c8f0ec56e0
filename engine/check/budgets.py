"""Budgets, names and licences: what a profile's engine minds, and what every studio asks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from engine.check.report import CheckReport
from engine.export.profiles import profile

PLAIN = re.compile(r"^[A-Za-z0-9_.\- ]+$")
LONGEST_NAME = 63
"""Blender cuts names behind that."""
USUAL = "godot"
"""Whose budgets are asked where no profile is named: what all engines take."""


def budget_findings(report: CheckReport) -> None:
    """Triangles, vertices, texture sizes and bytes against the profile's."""
    wanted = profile(report.profile or USUAL)
    whose = f"{wanted.name}'s budget" if report.profile else "a usual budget"
    for name, most, words in (("triangles", wanted.triangles, "triangles"),
                              ("vertices", wanted.vertices, "vertices in one mesh"),
                              ("largest_texture", wanted.texture, "pixels a side of a texture"),
                              ("bytes", wanted.bytes, "bytes")):
        value = report.figures.get(name)
        if isinstance(value, int | float) and value > most:
            report.say("warning", f"budget_{name}", f"{value:,} {words}: {whose} is {most:,}")


def texture_findings(report: CheckReport, sizes: Iterable[tuple[str, int, int]]) -> None:
    """(name, width, height) of every picture."""
    known = list(sizes)
    if known:
        report.figures["largest_texture"] = max(max(w, h) for _, w, h in known)
    for name, width, height in known:
        if width & (width - 1) or height & (height - 1):
            report.say("warning", "texture_size", f"picture {name} is {width} x {height}: engines want powers of two")


def name_findings(report: CheckReport, names: Iterable[str], what: str) -> None:
    """Empty, repeated, overlong and strange names."""
    known = list(names)
    empty = sum(not name for name in known)
    if empty:
        report.say("hint", "no_name", f"{empty:,} of {len(known):,} {what} have no name")
    repeated = [name for name, count in Counter(name for name in known if name).items() if count > 1]
    if repeated:
        report.say("hint", "repeated_name",
                   f"{len(repeated):,} names of {what} stand more than once, {_short(repeated[0])} among them")
    for name in dict.fromkeys(known):
        if name and (not PLAIN.match(name) or len(name) > LONGEST_NAME):
            report.say("hint", "strange_name", f"the name {_short(name)} of one of the {what} will be changed by some "
                       f"engines (letters, digits, _ . -, at most {LONGEST_NAME})")
            break
    bodies = [name for name in known if re.match(r"^(UCX|UBX|USP|UCP)_", name)]
    for name in bodies:
        if report.profile == "godot":
            report.say("warning", "foreign_collider",
                       f"Godot shows {_short(name)} as a visible mesh; its colliders end in -convcolonly")
            break
        if not any(other and name[4:].startswith(other) for other in known if other not in bodies):
            report.say("warning", "lost_collider",
                       f"{_short(name)} belongs to no mesh of this file: Unreal goes by the name behind UCX_")
            break
    if report.profile in ("unreal", "unity"):
        for name in known:
            if re.search(r"-(conv)?col(only)?$", name):
                report.say("warning", "foreign_collider",
                           f"{_short(name)} is Godot's way: {report.profile} shows it as a visible mesh")
                break


def licence_findings(report: CheckReport, papers: Mapping[str, Any], copyright: str = "") -> None:
    """Whose it is and what may be done with it."""
    licences = papers.get("licences")
    told = [one for one in licences if isinstance(one, dict)] if isinstance(licences, list) else []
    if told:
        report.figures["licences"] = ", ".join(sorted({str(one.get("licence", "unknown"))[:60] for one in told}))
    for one in told:
        commercial = str(one.get("commercial", "unknown"))
        if not commercial.startswith("yes"):
            report.say("warning", "licence", f"it was made with {str(one.get('model', 'a model'))[:60]} "
                       f"({str(one.get('licence', 'unknown'))[:60]}): commercial use: {commercial[:80]}")
    if not told and not copyright and not papers.get("license") and not papers.get("licence"):
        report.say("hint", "no_licence", "it says nothing of its licence or origin")


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
