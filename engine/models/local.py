"""Where models lie on this machine: a models folder of ours, the Hugging Face cache, and files that a user added.

    <models>/hub/<owner>--<name>/...     what pull wrote, named as in its repository
    <models>/hub/<owner>--<name>/.pulled.json   which commit, and each file's size and SHA-256
    <models>/added.json                  the user's own models: where their files lie, what they are
    <models>/digests.json                SHA-256 of large files by path, size and time of change

<models> is MAQUETTE_MODELS, else the user's cache folder. A file in the Hugging Face cache is used where it lies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.models import cards, weight_names
from engine.models.catalogue import Model, entry, model, shipped
from engine.runs import files

RECORD = ".pulled.json"
ADDED = "added.json"
DIGESTS = "digests.json"
SCHEMA = 1
LARGE = 1 << 24
"""Bytes from which on a file's digest is kept."""


@dataclass(frozen=True)
class Located:
    """A model whose files are here.

    folder : where the names of ``files`` begin; files : name in the repository -> file
    origin : "models folder", "Hugging Face cache" or "your own"; needs : what it needs, located too
    """

    model: Model
    folder: Path
    files: dict[str, Path]
    origin: str
    needs: tuple[Located, ...] = ()

    @property
    def weights(self) -> dict[str, Path]:
        """The files of weights, shards included, indices not."""
        return {name: path for name, path in self.files.items() if name.endswith(weight_names.SUFFIXES)}

    def need(self, role: str) -> Located | None:
        """What it needs for a role ("vae", "upscale", ...)."""
        return next((other for other in self.needs if other.model.role == role), None)


def models_folder() -> Path:
    """MAQUETTE_MODELS, else ``models`` in the user's cache folder. It need not exist."""
    told = os.environ.get("MAQUETTE_MODELS")
    return Path(told).expanduser() if told else files.user_cache_folder() / "models"


def hub_cache() -> Path:
    """The Hugging Face cache, by the same variables that its own library reads."""
    if told := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(told).expanduser()
    if told := os.environ.get("HF_HOME"):
        return Path(told).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def folder_of(hub: str) -> Path:
    """Where pull puts a repository's files."""
    return models_folder() / "hub" / hub.replace("/", "--")


# -- finding -----------------------------------------------------------------------------------------------------------


def find(wanted: Model, *, variant: str = "fp16") -> Located | None:
    """A model's files and those of all that it needs; None where one is missing (:func:`lacking` says which)."""
    here = find_alone(wanted, variant)
    if here is None:
        return None
    needs = []
    for id in wanted.needs:
        other = find(model(id), variant=variant)
        if other is None:
            return None
        needs.append(other)
    return Located(here.model, here.folder, here.files, here.origin, tuple(needs))


def find_alone(wanted: Model, variant: str = "fp16") -> Located | None:
    """A model's own files, without what it needs."""
    if wanted.path:
        path = Path(wanted.path)
        if path.is_file():
            return Located(wanted, path.parent, {path.name: path}, "your own")
        if not path.is_dir():
            return None
        names = {name: path / name for name in files.files_under(path) if not name.startswith(".")}
        return Located(wanted, path, names, "your own")
    for folder, origin in _places(wanted):
        held = _held(folder)
        chosen, missing = weight_names.choose(held, wanted.files, variant)
        if not missing and all(_whole(folder / name) for name in chosen):
            return Located(wanted, folder, {name: folder / name for name in chosen}, origin)
    return None


def _places(wanted: Model) -> list[tuple[Path, str]]:
    places = []
    if wanted.hub and folder_of(wanted.hub).is_dir():
        places.append((folder_of(wanted.hub), "models folder"))
    if wanted.hub:
        places += [(folder, "Hugging Face cache") for folder in _snapshots(wanted)]
    return places


def _snapshots(wanted: Model) -> list[Path]:
    """Folders of the repository's commits in the Hugging Face cache: the pinned one, else main's, then the newest."""
    root = hub_cache() / f"models--{wanted.hub.replace('/', '--')}"
    try:
        found = sorted((p for p in (root / "snapshots").iterdir() if p.is_dir()),
                       key=lambda p: p.stat().st_mtime, reverse=True)
        if wanted.revision:
            return [p for p in found if p.name == wanted.revision]
        main = (root / "refs" / "main").read_text(encoding="utf-8").strip() if (root / "refs" / "main").exists() else ""
    except OSError:
        return []
    return sorted(found, key=lambda p: p.name != main)


def _held(folder: Path) -> list[str]:
    return [name for name in files.files_under(folder) if not name.endswith(".part") and not name.startswith(".")]


def _whole(path: Path) -> bool:
    """Whether a file is there, and with it the shards that it names where it is an index."""
    if not path.exists():
        return False
    told = weight_names.split(path.name)
    if told is None or not told[3]:
        return True
    try:
        return all((path.parent / name).exists()
                   for name in json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def lacking(wanted: Model) -> list[Model]:
    """Of a model and all that it needs, those whose files are not here."""
    missing = [] if find_alone(wanted) else [wanted]
    for id in wanted.needs:
        missing += [other for other in lacking(model(id)) if other not in missing]
    return missing


def require(wanted: Model, *, allow_pickle: bool = False, variant: str = "fp16", command: str = "") -> Located:
    """As :func:`find`. BadInput says what is missing and the command that gets it, or names a pickle.

    command : what gets it, where that is not ``maquette models pull`` with its id
    """
    here = find(wanted, variant=variant)
    if here is None:
        absent = lacking(wanted)
        named = ", ".join(other.id for other in absent)
        if any(other.path for other in absent):
            gone = next(other for other in absent if other.path)
            raise BadInput(f"the files of the model {gone.id} are gone: {gone.path}",
                           f"Put them back, or: maquette models remove {gone.id}")
        gate = "  (gated: it takes an account and HF_TOKEN)" if any(other.gated for other in absent) else ""
        if wanted.path:  # a user's own is not pulled: what it needs is
            command = f"maquette models pull {' '.join(other.id for other in absent)}"
        raise BadInput(f"the weights of {named} are not here",
                       f"Run: {command or 'maquette models pull ' + wanted.id}{gate}")
    if not allow_pickle:
        _refuse_pickles(here)
    return here


def _refuse_pickles(here: Located) -> None:
    from engine.models.reader import file_format
    for name, path in here.weights.items():
        if file_format(path) == "pickle":
            raise BadInput(f"{here.model.id} is kept as a pickle ({name}); only safetensors are loaded by default",
                           "Give --allow-pickle: its tensors are then read and nothing in it is run")
    for other in here.needs:
        _refuse_pickles(other)


# -- digests -----------------------------------------------------------------------------------------------------------


def digest_of(path: Path) -> str:
    """SHA-256 of a file. Of large ones it is kept, until the file's size or time of change is another."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return cards.sha256_of(path)
    place = str(path.resolve())
    kept = _read(DIGESTS)
    told = kept.get(place)
    if isinstance(told, dict) and (told.get("size"), told.get("changed_ns")) == (stat.st_size, stat.st_mtime_ns):
        return str(told["sha256"])
    found = cards.sha256_of(path)
    remember(path, found)
    return found


def remember(path: Path, sha256: str) -> None:
    """Keep a large file's digest. Where the models folder cannot be written, it is computed again next time."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return
    try:
        with files.lock(models_folder() / ".lock"):
            kept = _read(DIGESTS)
            kept[str(path.resolve())] = {"size": stat.st_size, "changed_ns": stat.st_mtime_ns, "sha256": sha256}
            files.write_file(models_folder() / DIGESTS, json.dumps(kept, indent=1) + "\n")
    except OSError:
        return


def _read(name: str) -> dict[str, Any]:
    """A table of the models folder; empty where there is none. Lost digests are only computed again."""
    try:
        told = json.loads((models_folder() / name).read_text(encoding="utf-8"))
        return told if isinstance(told, dict) else {}
    except (OSError, ValueError):
        return {}


def record_of(hub: str) -> dict[str, Any]:
    """What pull wrote of a repository: {"revision", "licence", "files": {name: {"size", "sha256", "pinned"}}}."""
    try:
        told = json.loads((folder_of(hub) / RECORD).read_text(encoding="utf-8"))
        return told if isinstance(told, dict) and isinstance(told.get("files"), dict) else {"files": {}}
    except (OSError, ValueError):
        return {"files": {}}


def revision_of(wanted: Model) -> str:
    """The commit of the files that are here; "not pinned" where nobody recorded one, "" of a user's own."""
    if wanted.path:
        return ""
    here = find_alone(wanted)
    if here and here.origin == "Hugging Face cache":
        return here.folder.name
    return str(record_of(wanted.hub).get("revision") or wanted.revision or "not pinned")


# -- a user's own ------------------------------------------------------------------------------------------------------


def added() -> dict[str, Model]:
    """id -> entry of the models that the user added. BadInput where the list is damaged."""
    place = models_folder() / ADDED
    if not place.exists():
        return {}
    told = _read(ADDED)
    if told.get("schema") != SCHEMA or not isinstance(told.get("models"), dict):
        raise BadInput(f"the list of your own models, {place}, is damaged", "Mend or delete that file")
    return {id: entry(id, values, str(place)) for id, values in told["models"].items()}


def add(path: Path, role: str, *, id: str = "", family: str = "", licence: str = "", commercial: str = "unknown",
        copy: bool = False) -> Model:
    """Take a user's file or folder into the catalogue, by reference or as a copy. Its headers are read, no tensor.

    BadInput: not weights, a payload, another role or family than it is said to be, a name that is taken.
    """
    from engine.models.inspection import examine
    seen = examine(path)
    found = seen.family if seen.family != "unknown" else ""
    if not found and not family:
        raise BadInput(f"{path}: its family is not known" + (f" ({seen.note})" if seen.note else ""),
                       "Give --family where you know it; see what it holds with: maquette models inspect")
    if found and family and family != found and family not in seen.families:
        raise BadInput(f"{path} is of the family {found}, not {family}", f"Leave --family out, or give {found}")
    if seen.role and not _plays(seen.role, role):
        raise BadInput(f"{path} is for the role {seen.role}, not {role}", f"Give --role {seen.role}")
    stem = path.stem if path.is_file() else path.resolve().name
    name = id or "local/" + (re.sub(r"[^\w.\-]+", "-", stem).strip("-") or "model")
    if name in shipped() or name in added():
        raise BadInput(f"there is a model {name} already", f"Give another --id, or: maquette models remove {name}")
    place = path.resolve()
    if copy:
        place = models_folder() / "own" / name.replace("/", "--") / path.name
        with files.one_line_errors("the model", place, "MAQUETTE_MODELS"):
            shutil.copytree(path, place) if path.is_dir() else files.copy_file(path, place)
    root = place if place.is_dir() else place.parent
    sha256 = {p.relative_to(root).as_posix(): digest_of(p)
              for p in (sorted(root.rglob("*")) if place.is_dir() else [place])
              if p.is_file() and p.name.endswith(weight_names.SUFFIXES)}
    values: dict[str, Any] = {
        "role": role, "family": family or found, "path": str(place), "format": seen.layout, "licence": licence,
        "commercial": commercial, "memory_mb": -(-seen.elements * 2 // 10**6), "sha256": sha256}
    if needs := _borrowed(place, role):
        values["needs"] = needs
    kept = entry(name, values, "models add")
    _keep({**{other: _values(m) for other, m in added().items()}, name: values})
    return kept


LENDERS = {"reference_animation": "patrolli/AnimateAnyone"}
"""Role -> the published model whose helpers a user's own takes, as far as its folder does not hold them."""
HELD_AS = {"text_to_image": "denoising_unet"}
"""Role of a helper -> the folder that makes it needless, where that is not named as the role is."""


def _borrowed(place: Path, role: str) -> list[str]:
    """Models that a user's own cannot do without: what the published one of its kind needs and this folder lacks."""
    if role not in LENDERS:
        return []
    return [id for id in model(LENDERS[role]).needs
            if not (place / HELD_AS.get(model(id).role, model(id).role)).is_dir()]


def _plays(seen: str, role: str) -> bool:
    return seen == role or role.startswith(seen + ".") or (seen == "image_prompt" and role == "face_prompt")


def _values(one: Model) -> dict[str, Any]:
    told = {"role": one.role, "family": one.family, "path": one.path, "format": one.format, "licence": one.licence,
            "commercial": one.commercial, "memory_mb": one.memory_mb, "sha256": dict(one.sha256)}
    return {**told, "needs": list(one.needs)} if one.needs else told


def _keep(table: dict[str, dict[str, Any]]) -> None:
    with files.one_line_errors("the list of your own models", models_folder(), "MAQUETTE_MODELS"):
        files.write_file(models_folder() / ADDED, json.dumps({"schema": SCHEMA, "models": table}, indent=1) + "\n")


def remove(id: str) -> tuple[str, int]:
    """Forget a model of the user's own (a copy of ours is deleted, a file of his never), or delete what pull wrote.

    Files that another pulled model shares stay. -> (what was done, bytes freed)
    """
    own = added()
    if id in own:
        _keep({other: _values(one) for other, one in own.items() if other != id})
        place, ours = Path(own[id].path), models_folder().resolve() / "own"
        if ours not in place.resolve().parents:
            return f"forgot {id}; its files stay in {place}", 0
        size = sum(p.stat().st_size for p in place.parent.rglob("*") if p.is_file())
        files.remove_folder(place.parent, models_folder() / ".trash")
        return f"removed {id}", size
    wanted = model(id)
    if wanted.builtin:
        raise BadInput(f"{id} ships inside", "Built-in models are part of Maquette and stay")
    folder = folder_of(wanted.hub)
    here = find_alone(wanted)
    if not folder.is_dir():
        where = f"; it lies in the Hugging Face cache {here.folder}" if here else ""
        raise BadInput(f"{id} was not pulled{where}", "Files of that cache are removed with: hf cache delete"
                       if here else "See what is here with: maquette models list")
    held = files.files_under(folder)
    shared = {name for other in shipped().values() if other.hub == wanted.hub and other.id != id
              for name in _complete(folder, other)}
    gone = [name for name in held if name not in shared and name != RECORD]
    size = sum((folder / name).stat().st_size for name in gone)
    for name in gone:
        (folder / name).unlink()
    told = record_of(wanted.hub)
    told["files"] = {name: about for name, about in told["files"].items() if name not in gone}
    if told["files"]:
        files.write_file(folder / RECORD, json.dumps(told, indent=1) + "\n")
    else:
        files.remove_folder(folder, models_folder() / ".trash")
    return f"removed {id}", size


def _complete(folder: Path, other: Model) -> list[str]:
    """Names of another entry's files, where all of them are there."""
    chosen, missing = weight_names.choose(_held(folder), other.files, "fp16")
    return chosen if not missing else []
