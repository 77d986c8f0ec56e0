"""Pulling models: what is missing comes from the hub, goes on where it stopped, and is checked before it gets its name.

A file grows as NAME.part beside a note of what it will be, is compared with its SHA-256 (the catalogue's, else the
hub's), flushed and renamed. So a file under its own name is whole, whenever the power failed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import BadInput, RunFailed
from engine.models import hub, licences, local, weight_names
from engine.models.catalogue import Model, with_needs
from engine.models.hub import Broken, Remote, Repository
from engine.runs import files

CHUNK = 1 << 20
ATTEMPTS = 5
"""Attempts in a row that bring no byte, after which a pull gives up."""
PAUSE_S = 1.0
"""Before the second attempt; doubled each time."""
SPARE = 256 << 20
"""Bytes that a pull leaves free on the disk."""
OPTION = "MAQUETTE_MODELS"
AGAIN = "the same command goes on from there"


@dataclass(frozen=True)
class Progress:
    """How far a pull is. done, total : bytes of all files of the model ``id``; name : the file under way"""

    id: str
    name: str
    done: int
    total: int


@dataclass
class Pulled:
    """What became of one model. state : "pulled", "here" (nothing was needed) or "built-in"

    folder : where its files lie; bytes : that were fetched; notes : what the user should know
    """

    model: Model
    state: str
    folder: Path | None = None
    bytes: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """variant : precision to take, None for half where there is such; attempts, pause_s : of broken connections"""

    variant: str | None = None
    update: bool = False
    commercial_only: bool = False
    attempts: int = ATTEMPTS
    pause_s: float = PAUSE_S


def pull(ids: Sequence[str], settings: Settings | None = None, progress: Callable[[Progress], None] | None = None
         ) -> list[Pulled]:
    """Fetch models and all that they need.

    BadInput before a byte is fetched: licences that were ruled out, a gated repository without a token, offline.
    RunFailed: no space, the network, bytes that are not the ones they should be; what came stays for the next time.
    """
    told = settings or Settings()
    wanted = with_needs(list(ids))
    if told.commercial_only:
        for model in wanted:
            if why := licences.reason(model):
                raise BadInput(f"--commercial-only rules out {model.id}: {why}",
                               "See which are free: maquette models list --commercial-only")
    return [_one(model, told, progress or (lambda step: None)) for model in wanted]


def _one(model: Model, told: Settings, progress: Callable[[Progress], None]) -> Pulled:
    if model.builtin:
        return Pulled(model, "built-in")
    here = local.find_alone(model)
    if model.path or (here and told.variant is None and not told.update):
        if here is None:
            raise BadInput(f"the files of your own model {model.id} are gone: {model.path}", "Put them back")
        return Pulled(model, "here", here.folder)
    if not model.hub:
        raise BadInput(f"{model.id} lies on no hub", "Get it from its authors, then: maquette models add")
    folder = local.folder_of(model.hub)
    with files.one_line_errors("the model", folder, OPTION):
        folder.mkdir(parents=True, exist_ok=True)
    with files.lock(local.models_folder() / ".locks" / f"{folder.name}.lock"):
        return _fetch_all(model, folder, told, progress)


def _fetch_all(model: Model, folder: Path, told: Settings, progress: Callable[[Progress], None]) -> Pulled:
    repository = _patiently(told, lambda: hub.repository(model.hub, model.revision))
    chosen = _chosen(model, repository, told)
    pulled = Pulled(model, "pulled", folder)
    _compare_licences(model, repository, told, pulled)
    total = sum(remote.size or 0 for remote in chosen)
    wanted = []
    for remote in chosen:
        held = _held(folder, remote, local.record_of(model.hub))
        if held:
            _record(model, repository, remote, folder, held)
        else:
            wanted.append(remote)
    _space(model, folder, wanted)
    done = total - sum(remote.size or 0 for remote in wanted)
    for remote in wanted:
        def step(count: int, remote: Remote = remote, before: int = done) -> None:
            progress(Progress(model.id, remote.name, before + count, total))
        sha256 = _fetch(model, repository, remote, folder, told, step)
        _record(model, repository, remote, folder, sha256)
        if not (remote.sha256 or remote.git):
            pulled.notes.append(f"{remote.name}: the hub told no SHA-256; what came is recorded: {sha256}")
        done += remote.size or 0
        pulled.bytes += (folder / remote.name).stat().st_size
    if not wanted:
        pulled.state = "here"
    return pulled


def _record(model: Model, repository: Repository, remote: Remote, folder: Path, sha256: str) -> None:
    """Write down what a file is and against what it was held: the catalogue's hash, the hub's, or nothing."""
    record = local.record_of(model.hub)
    against = ("catalogue" if remote.name in model.sha256 else "hub" if remote.sha256 or remote.git else "nothing")
    about = {"size": (folder / remote.name).stat().st_size, "sha256": sha256, "against": against,
             "revision": repository.revision}
    told = {"schema": 1, "hub": model.hub, "revision": repository.revision, "licence": repository.licence,
            "files": {**record["files"], remote.name: about}}
    if told != record:
        files.write_file(folder / local.RECORD, json.dumps(told, indent=1) + "\n")
    local.remember(folder / remote.name, sha256)


def _chosen(model: Model, repository: Repository, told: Settings) -> list[Remote]:
    """The files to have, with their sizes and hashes."""
    variant = "fp16" if told.variant is None else told.variant
    names, missing = weight_names.choose(repository.files, model.files, variant)
    if missing:
        raise BadInput(f"{model.hub} has no {missing[0]}", "Get it from its authors, then: maquette models add")
    names += [name for name in repository.files if name.upper().startswith(("LICENSE", "LICENCE")) and "/" not in name]
    remotes = []
    for name in dict.fromkeys(names):
        if "\\" in name or ":" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise RunFailed(f"{hub.endpoint()} lists a file {name!r} in {model.hub}", "Report it; nothing was written")
        remote = repository.files[name]
        if remote.size is None or not (remote.sha256 or remote.git):
            seen: Remote = _patiently(told, partial(hub.describe, model.hub, name, repository.revision))
            remote = Remote(name, remote.size if remote.size is not None else seen.size, remote.sha256 or seen.sha256,
                            remote.git or seen.git)
        if name in model.sha256:
            if remote.sha256 and remote.sha256 != model.sha256[name]:
                raise RunFailed(f"{model.hub} now holds another {name}: SHA-256 {remote.sha256}, the catalogue names "
                                f"{model.sha256[name]}", "Update Maquette, or add a file that you trust")
            remote = replace(remote, sha256=model.sha256[name])
        remotes.append(remote)
    return remotes


def _held(folder: Path, remote: Remote, record: dict[str, Any]) -> str:
    """SHA-256 of a file that is there already and is the one that the hub has now; "" for any other."""
    path, told = folder / remote.name, record["files"].get(remote.name)
    if not path.exists() or (remote.size is not None and path.stat().st_size != remote.size):
        return ""
    known = isinstance(told, dict) and path.stat().st_size == told.get("size")
    if not known and not (remote.sha256 or remote.git):
        return ""
    found = str(told["sha256"]) if known else local.digest_of(path)
    return found if _is(path, found, remote) else ""


def _is(path: Path, sha256: str, remote: Remote) -> bool:
    """Whether a file of that SHA-256 is what the hub announced, as far as it announced anything."""
    if remote.sha256:
        return sha256 == remote.sha256
    return not remote.git or git_sha1(path) == remote.git


def _space(model: Model, folder: Path, wanted: Sequence[Remote]) -> None:
    """RunFailed where the disk has no room for what is still to come."""
    need = 0
    for remote in wanted:
        part = _part(folder / remote.name)
        need += max(0, (remote.size or 0) - (part.stat().st_size if part.exists() else 0))
    free = shutil.disk_usage(folder).free
    if need and need + SPARE > free:
        raise RunFailed(f"{model.id} takes another {need / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free",
                        f"Free some space, or set {OPTION} to a folder on another disk")


def _compare_licences(model: Model, repository: Repository, told: Settings, pulled: Pulled) -> None:
    card = repository.licence
    if not card or _plain(card) == _plain(model.licence):
        return
    line = f"the card of {model.hub} says licence {card!r}, the catalogue says {model.licence or 'unknown'!r}"
    if told.commercial_only:
        raise BadInput(f"{line}: it is not known whether it may be used commercially",
                       f"Read {hub.endpoint()}/{model.hub}")
    pulled.notes.append(f"{line}: the card decides")


def _plain(licence: str) -> str:
    """The hub spells licences otherwise than SPDX does: "openrail++" is CreativeML-OpenRAIL++-M."""
    return licence.lower().removeprefix("creativeml-").removesuffix("-m")


# -- one file ----------------------------------------------------------------------------------------------------------


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _fetch(model: Model, repository: Repository, remote: Remote, folder: Path, told: Settings,
           step: Callable[[int], None]) -> str:
    """Fetch one file, going on where an earlier attempt stopped. -> its SHA-256"""
    target = folder / remote.name
    part, note = _part(target), target.with_name(target.name + ".part.json")
    will_be = {"size": remote.size, "sha256": remote.sha256, "git": remote.git,
               "revision": "" if remote.sha256 or remote.git else repository.revision}
    with files.one_line_errors("the model", folder, OPTION):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _same(note, will_be):  # the hub's file has changed, or nobody knows what this part is of
            part.unlink(missing_ok=True)
            files.write_file(note, json.dumps(will_be) + "\n")

    def attempt() -> None:
        _stream(model.hub, remote, repository.revision, part, step)
    _patiently(told, attempt, lambda: part.stat().st_size if part.exists() else 0,
               f"of {remote.name} ({model.hub})", remote.size)
    found = files.file_digest(part)
    if not _is(part, found, remote):
        part.unlink()
        raise RunFailed(f"{remote.name} of {model.hub} did not come as it should: SHA-256 {found}, expected "
                        f"{remote.sha256 or 'git ' + remote.git}; what came was deleted",
                        "Run the same command again; if it stays, the mirror or a proxy changes files")
    with files.one_line_errors("the model", folder, OPTION):
        files.sync_file(part)
        files.fault("pull:rename")
        part.replace(target)
        files.sync_folder(target.parent)
        note.unlink(missing_ok=True)
    return found


def _same(note: Path, will_be: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(note.read_text(encoding="utf-8")) == will_be)
    except (OSError, ValueError):
        return False


def _stream(name: str, remote: Remote, revision: str, part: Path, step: Callable[[int], None]) -> None:
    """Append to ``part`` what it lacks. Broken where the connection ends before the file does."""
    have = part.stat().st_size if part.exists() else 0
    if remote.size is not None and have >= remote.size > 0:
        if have > remote.size:
            part.unlink()
            have = 0
        else:
            return step(have)
    with hub.bytes_from(name, remote.name, revision, have) as answer:
        if have and (answer.status != 206 or not _begins(answer, have)):
            # No ranges here, or another one than was asked for: the file comes from its beginning.
            part.unlink()
            if answer.status != 200:
                raise Broken(f"the server has no bytes from {have:,} on")
            have = 0
        total = _total(answer, have) if remote.size is None else remote.size
        with part.open("ab") as file:
            while True:
                try:
                    data = answer.read(CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise Broken(str(error) or type(error).__name__) from error
                if not data:
                    break
                with files.one_line_errors("the model", part.parent, OPTION):
                    file.write(data)
                    file.flush()
                have += len(data)
                step(have)
    if total is not None and have < total:
        raise Broken("the connection was closed")
    if total is not None and have > total:
        part.unlink()
        raise RunFailed(f"{remote.name} of {name} came with {have:,} bytes, {total:,} were announced",
                        "Run the same command again")


def _begins(answer: http.client.HTTPResponse, start: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _total(answer: http.client.HTTPResponse, have: int) -> int | None:
    length = answer.headers.get("Content-Length")
    return have + int(length) if length and length.isdigit() else None


def _patiently(told: Settings, ask: Callable[[], Any], size: Callable[[], int] = lambda: 0, what: str = "",
               total: int | None = None) -> Any:
    """Ask again where the connection breaks; an attempt that brought bytes begins the count anew. RunFailed in the end.
    """
    failures, reached = 0, size()
    while True:
        try:
            return ask()
        except Broken as error:
            now = size()
            failures = 1 if now > reached else failures + 1
            reached = now
            if failures >= told.attempts:
                far = f" after {now / 1e6:,.1f}" + (f" of {total / 1e6:,.1f}" if total else "") + f" MB {what}"
                raise RunFailed(f"the network failed{far if what else ''}: {error}",
                                "Check the connection (HF_ENDPOINT names a mirror); "
                                + (AGAIN if what else "then try again")) from error
            time.sleep(told.pause_s * 2 ** (failures - 1))


def git_sha1(path: Path) -> str:
    """A file's name in git: SHA-1 of "blob SIZE\\0" and its bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
