"""Everything about processes, locks and renames that differs between systems or can tear a file: here and only here.

A reader never sees a half-written file or folder: what is written goes to a temporary name on the same file system,
is flushed to the disk, and is renamed into place. Locks are the system's own, so a killed process leaves none behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.errors import BadInput, MaquetteError, RunFailed

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

CHUNK = 1 << 20


def fault(point: str) -> None:
    """Die at a named write point when the tests ask for it: MAQUETTE_FAULT=point[@n] kills at its n-th passing."""
    wanted = os.environ.get("MAQUETTE_FAULT")
    if wanted is None:
        return
    name, _, count = wanted.partition("@")
    if name == point:
        _passed[point] = _passed.get(point, 0) + 1
        if _passed[point] == int(count or 1):
            os.kill(os.getpid(), 9)


_passed: dict[str, int] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, where the system lets a folder be opened."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems refuse to flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def unique_name(stem: str = "") -> str:
    return f".{stem}.{os.getpid()}.{uuid.uuid4().hex[:12]}.tmp"


def write_file(path: Path, content: bytes | str) -> None:
    """Replace ``path`` as one act: the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(unique_name(path.name))
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        sync_file(temporary)
        fault("write_file:rename")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def copy_file(source: Path, path: Path) -> None:
    """Copy as one act: ``path`` appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(unique_name(path.name))
    try:
        shutil.copyfile(source, temporary)
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def move_folder(source: Path, target: Path) -> bool:
    """Rename a complete folder into place. False where ``target`` is there already (the second finisher discards)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    sync_folder(target.parent)
    return True


def remove_folder(folder: Path, trash: Path) -> None:
    """Take a folder out of sight in one act (a rename into ``trash``), then delete it."""
    trash.mkdir(parents=True, exist_ok=True)
    gone = trash / unique_name("gone")
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def files_under(folder: Path) -> list[str]:
    """Names of all files below ``folder``, relative, with forward slashes, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def try_lock(file: int) -> bool:
    """Take the system's exclusive lock on an open file without waiting."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


@contextlib.contextmanager
def lock(path: Path, waiting: Callable[[float], None] = lambda seconds: None) -> Iterator[None]:
    """Hold the lock named ``path``. The system drops it when the process ends, however it ends.

    waiting : called about ten times a second with the seconds waited so far; it may raise to give up
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        start = time.monotonic()
        while not try_lock(handle):
            waiting(time.monotonic() - start)
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)  # closing drops the lock


def disk_full(error: BaseException) -> bool:
    """Whether an error says that no space is left; libraries that are not Python's say it in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(sign in str(error) for sign in ("No space left on device", "(os error 28)", "(os error 112)"))


@contextlib.contextmanager
def one_line_errors(what: str, where: Path, option: str) -> Iterator[None]:
    """Turn the disk's refusals into one line. ``option`` is what the user can change ("--store", "--out")."""
    try:
        yield
    except MaquetteError:
        raise
    except Exception as error:
        if disk_full(error):
            raise RunFailed(f"the disk is full while writing {what} in {where}",
                            f"Free some space or choose another place with {option}; finished stages are kept"
                            ) from error
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
                           errno.ENOENT):
            raise BadInput(f"cannot write {what} in {where}: {error.strerror}",
                           f"Choose a folder you may write to with {option}") from error
        raise RunFailed(f"cannot write {what} in {where}: {error.strerror or error}",
                        f"Check the disk or choose another place with {option}") from error


def ensure_writable(folder: Path, what: str, option: str) -> None:
    """Make ``folder`` and prove that it takes a file. BadInput or RunFailed in one line where it does not."""
    with one_line_errors(what, folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / unique_name("probe")
        try:
            probe.write_bytes(b"maquette")
        finally:
            probe.unlink(missing_ok=True)


def user_cache_folder() -> Path:
    """Where this user's cache lives on this system, with ``maquette`` appended."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "maquette"


def reset_peak_memory() -> None:
    """Start a new measurement for :func:`peak_memory`, where the system can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The most bytes this process held resident since :func:`reset_peak_memory` (or since it began)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory(process: int) -> int:
    """Bytes of main memory that a process holds now; 0 where the system does not say (all but Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
