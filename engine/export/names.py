"""Finished files under names that a recipe chose ([export].name), in a run's files/: never over another run's.

    files/props_red_mug_v001.glb, files/props_red_mug_v001_turntable.mp4

A file that is there with other bytes was somebody's: the asset gets the next version, by {version} where the template
has it, else by ~2, ~3, ... behind the name. A file that is there with the same bytes is the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import BadInput, RunFailed
from engine.export.gallery import placed
from engine.runs import files

FOLDER = "files"
VERSION = "{version}"
MAIN = ("asset", "clip")
"""Stems of the file that an asset is; others keep their own words behind the name."""
MOST = 9999


def give_names(folder: Path, manifest: dict[str, Any], names: Mapping[str, str], overwrite: bool = False
               ) -> dict[str, list[str]]:
    """Copy the finished files of a run into ``folder``/files -> id -> their names there.

    names : id -> the asset's name, with {version} still in it where the template has it (``BatchAsset.export_name``)
    overwrite : replace files of the same names, the last version where they have one

    BadInput where two assets have one name, before anything is written; RunFailed where the disk takes no more.
    """
    wanted = {told["id"]: _finished(folder, told) for told in manifest["assets"]
              if told["id"] in names and told["status"] in ("done", "cached")}
    wanted = {id: sources for id, sources in wanted.items() if sources}
    seen: dict[str, str] = {}
    for id in wanted:
        plain = names[id].casefold()
        if plain in seen:
            raise BadInput(f"[export].name gives {seen[plain]} and {id} the same name, {names[id]!r}",
                           "Put {id} into it")
        seen[plain] = id
    return {id: _placed(folder / FOLDER, names[id], sources, overwrite) for id, sources in wanted.items()}


def file_name(name: str, own: str) -> str:
    """An asset's name with what one of its files is: asset.glb -> NAME.glb, clip_vp9.webm -> NAME_vp9.webm,
    turntable.mp4 -> NAME_turntable.mp4."""
    stem, suffix = Path(own).stem, Path(own).suffix
    for main in MAIN:
        if stem == main:
            return name + suffix
        if stem.startswith(f"{main}_"):
            return f"{name}_{stem.removeprefix(main + '_')}{suffix}"
    return f"{name}_{stem}{suffix}"


def versioned(name: str, number: int) -> str:
    """The name of a version, counted from 1."""
    if VERSION in name:
        return name.replace(VERSION, f"{number:03d}")
    return name if number == 1 else f"{name}~{number}"


def _finished(folder: Path, told: dict[str, Any]) -> dict[str, Path]:
    """Name in the asset's own folder -> file, of what a user came for: meshes, textures and clips."""
    own = placed(folder, told)
    return {file["path"]: folder / own / file["path"] for file in told["files"]
            if own and "/" not in file["path"] and "\\" not in file["path"]
            and file["role"] in ("mesh", "texture", "clip") and (folder / own / file["path"]).is_file()}


def _placed(target: Path, name: str, sources: Mapping[str, Path], overwrite: bool) -> list[str]:
    digests = {own: files.file_digest(path) for own, path in sources.items()}
    free = 1
    while not _fits(target, versioned(name, free), digests):
        free += 1
        if free > MOST:
            raise RunFailed(f"{target} holds {MOST} versions of {name}", "Clear some of them away")
    if overwrite:
        free = max(1, free - 1)
    given = []
    with files.one_line_errors("the named files", target, "--out"):
        for own, source in sources.items():
            path = target / file_name(versioned(name, free), own)
            if not path.is_file() or files.file_digest(path) != digests[own]:
                files.copy_file(source, path)
            given.append(path.name)
    return given


def _fits(target: Path, name: str, digests: Mapping[str, str]) -> bool:
    """Whether nothing of another asset's lies under these names."""
    for own, digest in digests.items():
        path = target / file_name(name, own)
        if path.exists() and not (path.is_file() and files.file_digest(path) == digest):
            return False
    return True
