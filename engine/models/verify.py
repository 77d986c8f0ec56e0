"""Whether the files that are here are the ones they should be: every byte is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import MaquetteError
from engine.models import cards, local
from engine.models.catalogue import Model
from engine.models.download import git_sha1
from engine.runs import files

State = Literal["ok", "changed", "missing", "not pinned"]


@dataclass(frozen=True)
class Check:
    """One file's answer. text : what was expected and found, or what to do"""

    id: str
    name: str
    state: State
    text: str = ""


def check(model: Model) -> list[Check]:
    """Every file of a model, not of what it needs. A model that is not here is one line, "missing"."""
    if model.builtin:
        return [_part(model, part) for part in model.parts]
    here = local.find_alone(model)
    if here is None:
        return [Check(model.id, "", "missing", f"maquette models pull {model.id}" if model.hub else
                      f"its files are gone: {model.path}")]
    return [_file(model, name, path, here.origin) for name, path in sorted(here.files.items())]


def _part(model: Model, part: str) -> Check:
    from engine.models import sets
    try:
        cards.verify(sets.BUILTIN_FOLDER / part)
    except MaquetteError as error:
        return Check(model.id, part, "missing" if "missing" in error.what else "changed", str(error))
    return Check(model.id, part, "ok", "as its card says")


def _file(model: Model, name: str, path: Path, origin: str) -> Check:
    found = files.file_digest(path)
    size = model.size_bytes.get(name)
    if size is not None and path.stat().st_size != size:
        return Check(model.id, name, "changed", f"{path.stat().st_size:,} bytes, the published file has {size:,}")
    if name in model.sha256:
        return _compare(model, name, found, model.sha256[name], "the catalogue" if model.hub else "when it was added")
    if origin == "models folder":
        told = local.record_of(model.hub)["files"].get(name)
        if isinstance(told, dict) and told.get("sha256"):
            against = {"catalogue": "the catalogue", "hub": "the hub when it was pulled"}
            return _compare(model, name, found, str(told["sha256"]), against.get(
                str(told.get("against")), "what came when it was pulled (the hub told no hash)"))
    if origin == "Hugging Face cache":  # its files are links to blobs, which are called by their hash
        blob = path.resolve().name
        if len(blob) == 64:
            return _compare(model, name, found, blob, "the cache's own name")
        if len(blob) == 40:
            return _compare(model, name, git_sha1(path), blob, "the cache's own name")
    return Check(model.id, name, "not pinned", f"sha256 {found}; nothing to hold it against")


def _compare(model: Model, name: str, found: str, expected: str, against: str) -> Check:
    if found == expected:
        return Check(model.id, name, "ok", f"as {against} says" if against.startswith("the ") else f"as {against}")
    mend = f"maquette models pull {model.id} --update" if model.hub else "put the file back, or add it again"
    return Check(model.id, name, "changed", f"sha256 expected {expected} ({against}), found {found}; mend it: {mend}")
