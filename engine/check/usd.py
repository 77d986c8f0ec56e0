"""USD files: what usd-core's own validators say, and the same figures as for any other mesh.

usd-core is C++ that believes what a file says, so it runs in a process of its own with bounded memory and time; before
that a USDZ is looked through as a zip, and what a layer names outside its folder is refused, never opened.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.check.budgets import licence_findings, name_findings, texture_findings
from engine.check.report import CheckReport
from engine.check.surface import surface_figures, uv_set
from engine.errors import BadInput
from engine.export.usd import MEND

LARGEST = 1_000_000_000
SECONDS = 300
ARRAYS = "figures.npz"


def check_usd(report: CheckReport, tools: bool) -> None:
    """Fill the report. BadInput where the file cannot be read; where usd-core is missing that is an error found."""
    path = report.path
    if path.stat().st_size > LARGEST:
        raise BadInput(f"{path} has {path.stat().st_size:,} bytes; at most {LARGEST:,} are read",
                       "Split it into layers")
    if path.suffix.lower() == ".usdz" or zipfile.is_zipfile(path):
        _package(report)
        if report.count("error"):
            return
    if importlib.util.find_spec("pxr") is None:
        report.tools["usd"] = f"not run: usd-core is missing; {MEND}"
        report.say("error", "no_reader", f"USD cannot be read without usd-core: {MEND}")
        return
    told = _probe(path, tools)
    report.tools["usd"] = told["version"]
    for one in told["findings"]:
        report.say(one["severity"], one["code"], one["text"], one["where"])
    report.figures |= told["figures"]
    name_findings(report, told["names"], "prims")
    texture_findings(report, [(str(n), int(w), int(h)) for n, w, h in told["pictures"]])
    licence_findings(report, told["papers"])
    _surface(report, told)


def _package(report: CheckReport) -> None:
    """A USDZ is a zip of files that are stored, not packed: nothing in it may unpack to more than it is."""
    try:
        with zipfile.ZipFile(report.path) as package:
            held = package.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        report.say("error", "unreadable", f"it is no USDZ: {' '.join(str(error).split())[:120]}")
        return
    size, total = report.path.stat().st_size, 0
    for one in held:
        total += one.file_size
        if one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size:
            report.say("error", "packed", f"{one.filename[:80]!r} is packed; a USDZ stores its files as they are")
        if one.filename.startswith(("/", "\\")) or ".." in one.filename.split("/") or ":" in one.filename:
            report.say("error", "external_uri", f"{one.filename[:80]!r} leads out of the package")
    if total > size:
        report.say("error", "lying_length", f"its files say {total:,} bytes, it has {size:,}")


def _probe(path: Path, tools: bool) -> dict[str, Any]:
    """What the process of its own found."""
    import tempfile
    with tempfile.TemporaryDirectory(prefix="maquette-usd-") as place:
        arrays = Path(place) / ARRAYS
        command = [sys.executable, "-m", "engine.check.usd_probe", str(path.resolve()), str(arrays), str(int(tools))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False,
                                  cwd=Path(__file__).parents[2], encoding="utf-8")
        except subprocess.TimeoutExpired:
            raise BadInput(f"{path} takes more than {SECONDS} s to read", "Split it into layers") from None
        try:
            told = json.loads(done.stdout[done.stdout.index("{"):])
        except ValueError:
            words = [line for line in done.stderr.splitlines() if line.strip()]
            said = "out of memory" if "MemoryError" in done.stderr or "bad_alloc" in done.stderr else (
                words[-1].strip()[:160] if words else f"it ended with {done.returncode}")
            raise BadInput(f"{path} cannot be read by usd-core: {said}", "Give a file that another program opens"
                           ) from None
        if "failed" in told:
            raise BadInput(f"{path} cannot be read by usd-core: {told['failed']}",
                           "Give a file that another program opens")
        if arrays.is_file():
            with np.load(arrays) as held:
                told["arrays"] = {name: held[name] for name in held.files}
        return dict(told)


def _surface(report: CheckReport, told: dict[str, Any]) -> None:
    arrays = told.get("arrays", {})
    if "faces" not in arrays or not len(arrays["faces"]):
        return
    faces, vertices = arrays["faces"], arrays["vertices"] * float(told["figures"]["metres_per_unit"])
    if not len(surface_figures(report, vertices, faces)) or not np.isfinite(vertices[faces]).all():
        return
    if "uvs" in arrays:  # each corner has its own: corners are the vertices here
        corners = np.arange(3 * len(faces)).reshape(-1, 3)
        uv_set(report, "uv", vertices[faces.reshape(-1)], corners, arrays["uvs"],
               int(report.figures.get("largest_texture", 0)))
    else:
        report.say("hint", "no_uvs", "it has no UVs, or not everywhere")
