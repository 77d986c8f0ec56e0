"""A store behind a URL (any file system that fsspec knows: s3://, gs://, sftp://, file://, ...), and what is beside it.

Work is done in a folder of this machine that mirrors it. A result goes up when it is finished: its files first, its
manifest last, so that the manifest's presence is the commit; what a killed upload left is never taken for a result. It
comes down when it is asked for, and is proven by its hashes before it is used. Nothing can be locked behind a URL: two
machines may make the same result twice, which is equal by definition, and the later one changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from engine.artifacts import Artifact
from engine.errors import BadInput, MaquetteError, RunFailed
from engine.runs import files
from engine.runs.store import Entry, Store


def is_url(place: str) -> bool:
    """Whether a place is a URL and no folder."""
    return "://" in place


class RemoteStore(Store):
    """A store behind ``url``; ``mirror`` is its folder here, else one in the user's cache."""

    def __init__(self, url: str, mirror: Path | None = None) -> None:
        self.url = url
        self.fs, self.base = _filesystem(url)
        super().__init__(mirror or files.user_cache_folder() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16])
        self._there: set[str] = set()
        """Keys whose manifests were seen behind the URL by this process."""

    def find(self, key: str, damaged: Callable[[str], None] = lambda reason: None) -> Entry | None:
        entry = super().find(key, damaged)
        if entry is None:
            return self._fetch(key, damaged)
        if key not in self._there:
            self._send(entry)
        return entry

    def put(self, key: str, artifact: Artifact, about: dict[str, Any], timing: dict[str, Any]) -> Entry:
        entry = super().put(key, artifact, about, timing)
        self._send(entry)
        return entry

    def discard(self, key: str) -> None:
        super().discard(key)
        self._there.discard(key)
        with self._one_line("removing a result"):
            if self.fs.exists(self._at(key, "manifest.json")):
                self.fs.rm(self._at(key, "manifest.json"))  # first: without it there is no result
            if self.fs.exists(self._at(key)):
                self.fs.rm(self._at(key), recursive=True)

    def keys(self) -> Iterator[str]:
        with self._one_line("listing the results"):
            found = self.fs.glob(f"{self.base}/artifacts/*/*/manifest.json")
        yield from sorted(PurePosixPath(path).parent.name for path in found)

    def add_root(self, name: str, manifest: dict[str, Any]) -> None:
        super().add_root(name, manifest)
        with self._one_line("the run's manifest"):
            self._write(f"{self.base}/roots/{name}.json", json.dumps(manifest, indent=1).encode() + b"\n")

    def roots(self) -> dict[str, dict[str, Any]]:
        with self._one_line("reading the manifests"):
            return {PurePosixPath(path).stem: json.loads(self.fs.cat_file(path))
                    for path in sorted(self.fs.glob(f"{self.base}/roots/*.json"))}

    # -- up and down ------------------------------------------------------------------------------------------------

    def _at(self, key: str, *inside: str) -> str:
        return "/".join([self.base, "artifacts", key[:2], key, *inside])

    def _send(self, entry: Entry) -> None:
        """Files first, the manifest last. Sent again where an earlier upload was cut short."""
        with self._one_line("a result"):
            if not self.fs.exists(self._at(entry.key, "manifest.json")):
                for name in [*(f"files/{name}" for name in entry.manifest["files"]), "timing.json"]:
                    self._write(self._at(entry.key, name), (entry.folder / name).read_bytes())
                files.fault("send:files")
                self._write(self._at(entry.key, "manifest.json"), (entry.folder / "manifest.json").read_bytes())
        self._there.add(entry.key)

    def _fetch(self, key: str, damaged: Callable[[str], None]) -> Entry | None:
        with self._one_line("a result"):
            if not self.fs.exists(self._at(key, "manifest.json")):
                return None
            part = self.root / "tmp" / files.unique_name(key[:12])
            try:
                reason = self._bring(key, part)
                if not reason:
                    reason, _ = self._inspect(part, key)
                if reason:
                    damaged(reason)
                    self.discard(key)
                    return None
                files.move_folder(part, self.folder_of(key))
            finally:
                shutil.rmtree(part, ignore_errors=True)
        self._there.add(key)
        return super().find(key, damaged)

    def _bring(self, key: str, part: Path) -> str:
        """Copy what the manifest lists -> the reason why that cannot be, or ""."""
        try:
            about = self.fs.cat_file(self._at(key, "manifest.json"))
            names = list(json.loads(about)["files"])
            for name in names:
                place = PurePosixPath(name)
                if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name:
                    return f"it names a file outside: {name}"
                target = part / "files" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.fs.cat_file(self._at(key, "files", name)))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{type(error).__name__} while reading it"
        with contextlib.suppress(OSError):
            (part / "timing.json").write_bytes(self.fs.cat_file(self._at(key, "timing.json")))
        (part / "manifest.json").write_bytes(about)
        return ""

    def _write(self, path: str, content: bytes) -> None:
        with contextlib.suppress(FileExistsError, NotImplementedError):
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(path, content)

    @contextlib.contextmanager
    def _one_line(self, what: str) -> Iterator[None]:
        """Whatever a file system far away says, as one line; the disk here speaks for itself."""
        try:
            yield
        except MaquetteError:
            raise
        except Exception as error:
            if files.disk_full(error):
                raise RunFailed(f"the disk is full while writing {what} in {self.root}",
                                "Free some space; finished stages are kept") from error
            raise RunFailed(f"the store {self.url} did not take or give {what}: {type(error).__name__}: "
                            f"{' '.join(str(error).split())[:200]}",
                            "Check the address, the network and your rights there; finished stages are kept") from error


# -- whether another machine sees a place ------------------------------------------------------------------------------

def write_probe(place: str, name: str) -> str:
    """Write a small file into a folder or behind a URL -> where it is. BadInput where it takes none."""
    if is_url(place):
        fs, base = _filesystem(place)
        try:
            with contextlib.suppress(FileExistsError, NotImplementedError):
                fs.makedirs(base, exist_ok=True)
            fs.pipe_file(f"{base}/{name}", b"maquette")
        except Exception as error:
            raise BadInput(f"cannot write to {place}: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
                           "Check the address and your rights there") from error
    else:
        files.ensure_writable(Path(place), "the run", "--store or --out")
        (Path(place) / name).write_bytes(b"maquette")
    return f"{place.rstrip('/')}/{name}"


def there(probe: str) -> bool:
    """Whether this machine sees what :func:`write_probe` wrote."""
    if not is_url(probe):
        return Path(probe).is_file()
    try:
        fs, path = _filesystem(probe)
        fs.invalidate_cache()
        return bool(fs.exists(path))
    except Exception:
        return False


def remove_probe(probe: str) -> None:
    with contextlib.suppress(Exception):
        if is_url(probe):
            fs, path = _filesystem(probe)
            fs.rm(path)
        else:
            Path(probe).unlink(missing_ok=True)


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. BadInput for a kind that nobody here can open."""
    try:
        import fsspec
        fs, base = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise BadInput(f"{url} cannot be opened: {error}",
                       f"Install what opens {url.partition('://')[0]}:// (pip install s3fs, gcsfs, ...)") from error
    except Exception as error:
        raise BadInput(f"{url} cannot be opened: {' '.join(str(error).split())[:200]}",
                       "Give a folder, or a URL that fsspec opens (s3://, gs://, sftp://, file://)") from error
    return fs, str(base).rstrip("/")
