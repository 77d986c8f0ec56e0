"""A clip for a profile: its PNG frames (the master), the formats that the engine plays, and a manifest.

What the clip's folder has already is copied as it is; what it lacks is written from the frames.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import BadInput
from engine.export.profiles import Profile

if TYPE_CHECKING:
    from engine.export.bundle import Bundle

FRAME = re.compile(r"^\d{5}\.png$")


@dataclass(frozen=True)
class ClipFolder:
    """What ``maquette clip`` left: frames (00000.png, ...), frames a second, whether it loops, its papers.

    papers : the texts inside the first frame
    """

    folder: Path
    frames: tuple[Path, ...]
    fps: float
    loop: bool
    papers: Mapping[str, str] = field(default_factory=dict)


def is_clip(folder: Path) -> bool:
    """Whether a folder holds a clip's frames."""
    return (folder / "frames" / "00000.png").is_file()


def open_clip(folder: Path) -> ClipFolder:
    """BadInput where frames are missing or nothing says how fast they run."""
    from engine.export.papers import png_text
    frames = sorted(path for path in (folder / "frames").iterdir() if FRAME.match(path.name))
    if not frames or frames[-1].name != f"{len(frames) - 1:05d}.png":
        raise BadInput(f"frames are missing in {folder / 'frames'}: {len(frames):,} are there, the last is "
                       f"{frames[-1].name if frames else 'none'}", "Run the command that made the clip again")
    fps, loop = _timing(folder)
    try:
        papers = png_text(frames[0].read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{frames[0]} is no PNG", "Run the command that made the clip again") from error
    return ClipFolder(folder, tuple(frames), fps, loop, papers)


def _timing(folder: Path) -> tuple[float, bool]:
    """Frames a second and looping: from the sheet, else from the report and the recipe."""
    try:
        meta = json.loads((folder / "sheet.json").read_text(encoding="utf-8"))["meta"]
        return float(meta["fps"]), bool(meta["loop"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    loop = False
    try:
        loop = bool(tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8")).get("loop", False))
    except (OSError, ValueError):
        pass
    try:
        told = json.loads((folder / "report.json").read_text(encoding="utf-8"))["metrics"]
        against = next(one["against"] for one in told if one["name"] == "export_clip.seconds")
        loop = loop or any(str(one["name"]).endswith("seam_over_step") for one in told)
        return float(re.findall(r"([\d.e+-]+) a second", against)[0]), loop
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
        raise BadInput(f"nothing in {folder} says how fast the clip runs (sheet.json, report.json)",
                       "Run the command that made the clip again") from None


def clip_files(clip: ClipFolder, wanted: Profile, name: str, key: str = "") -> Bundle:
    """Frames, the profile's formats and the manifest -> a bundle (``engine.export.bundle.place`` writes it).

    BadInput for a profile that takes no clips, or a format that this machine cannot write.
    """
    from engine.export.bundle import Bundle
    if wanted.clips is None:
        raise BadInput(f"{wanted.name} takes no clips",
                       "Choose another --profile: unity, unreal, godot, web or blender")
    bundle = Bundle(name, wanted)
    bundle.add({f"frames/{path.name}": path.read_bytes() for path in clip.frames})
    made = _encoded(clip, wanted, name)
    for path, data in made.items():
        bundle.add({path: data})
    if wanted.name == "godot":
        bundle.notes.append("Ogg Theora has no alpha: for a figure with alpha take the sheet or the frames")
    if wanted.name == "unreal":
        bundle.notes.append("as a flipbook from the sheet, or as an image sequence from the frames")
    import hashlib
    bundle.manifest = {
        "schema": 1, "asset": name, "profile": wanted.name, "for": wanted.what, "formats": ["png", *wanted.clips],
        "key": key, "kind": "clip", "rig": None,
        "note": "a character is a clip here: pictures over time. No mesh, no skeleton and no rig is made",
        "frames": len(clip.frames), "fps": clip.fps, "loop": clip.loop, "papers": dict(clip.papers),
        "notes": bundle.notes,
        "files": [{"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for path, data in sorted(bundle.files.items())]}
    return bundle


def _encoded(clip: ClipFolder, wanted: Profile, name: str) -> dict[str, bytes]:
    """The profile's formats: those that lie in the folder as they are, the others written from the frames."""
    from engine.clips.formats import FORMATS
    assert wanted.clips is not None
    found: dict[str, bytes] = {}
    lacking = []
    for format in wanted.clips:
        own = [FORMATS[format].file, *(["sheet.json"] if format == "sheet" else [])]
        if all((clip.folder / file).is_file() for file in own):
            found |= {file: (clip.folder / file).read_bytes() for file in own}
        else:
            lacking.append(format)
    return {**found, **(_written(clip, lacking, name) if lacking else {})}


def _written(clip: ClipFolder, lacking: list[str], name: str) -> dict[str, bytes]:
    """Formats that the folder has not, from its frames, one in memory at a time."""
    import tempfile
    from collections.abc import Iterator

    import numpy as np

    from engine.clips import formats, timing
    from engine.clips.sheet import Layout, write_sheet
    writable, cannot = formats.sorted_out(lacking)
    if cannot:
        raise BadInput("; ".join(cannot.values()), "Choose another --profile")
    clock = formats.Clock(len(clip.frames), timing.rate(clip.fps), clip.loop)

    def told() -> Iterator[np.ndarray]:
        from PIL import Image
        for path in clip.frames:
            with Image.open(path) as picture:
                yield np.asarray(picture.convert("RGBA"))

    with tempfile.TemporaryDirectory(prefix="maquette-clip-") as place:
        folder = Path(place)
        for format in writable:
            if format == "sheet":
                write_sheet(folder, told, clock, Layout(), name, dict(clip.papers))
            else:
                formats.write(format, folder, told, clock, formats.Look(papers=dict(clip.papers)))
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
