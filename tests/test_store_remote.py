"""A store behind a URL: the same answers as a folder's; what was cut short or changed is never taken for a result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.artifacts import Picture
from engine.errors import BadInput, RunFailed
from engine.runs.remote import RemoteStore, remove_probe, there, write_probe
from engine.runs.run import Run
from engine.runs.store import Store
from tests.fake_stages import CALLS, FakeModels, pipeline

ROOT = Path(__file__).parent.parent
ABOUT = {"stage": "paint", "metrics": [], "warnings": []}
KEY = "ab" + "0" * 62


def remote(tmp_path: Path, mirror: str) -> RemoteStore:
    return RemoteStore(f"file://{tmp_path}/far", tmp_path / mirror)


def picture() -> Picture:
    return Picture(np.full((4, 4, 3), 0.5, np.float32), "grey")


def contents(root: Path) -> dict[str, bytes]:
    """Name -> bytes of every artifact's own files."""
    found = (root / "artifacts").rglob("files/**/*")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found if path.is_file()}


def test_two_machines_share_what_one_of_them_made(tmp_path: Path) -> None:
    one, two = remote(tmp_path, "one"), remote(tmp_path, "two")
    CALLS.clear()
    first = Run(one, FakeModels(), device="cpu")
    made = first.execute(pipeline(first))
    ran = list(CALLS)
    second = Run(two, FakeModels(), device="cpu")
    again = second.execute(pipeline(second))
    assert ran == ["paint", "pick", "dim", "count"] and ran == CALLS  # nothing ran twice
    assert np.array_equal(made.image, again.image)
    here = Run(Store(tmp_path / "folder"), FakeModels(), device="cpu")
    assert np.array_equal(here.execute(pipeline(here)).image, made.image)
    assert set(one.keys()) == set(two.keys()) == set(here.store.keys())
    assert contents(two.root) == contents(here.store.root) == contents(tmp_path / "far")


def test_the_manifest_is_the_commit(tmp_path: Path) -> None:
    one, two = remote(tmp_path, "one"), remote(tmp_path, "two")
    one.put(KEY, picture(), ABOUT, {})
    (tmp_path / "far/artifacts/ab" / KEY / "manifest.json").unlink()
    assert two.find(KEY) is None and list(two.keys()) == []
    assert remote(tmp_path, "one").find(KEY) is not None  # who has it sends it again
    assert two.find(KEY) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="not on Windows: there is no kill -9")
def test_killed_while_it_goes_up(tmp_path: Path) -> None:
    code = (f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
            "from pathlib import Path; from tests.test_store_remote import *\n"
            f"remote(Path({str(tmp_path)!r}), 'one').put(KEY, picture(), ABOUT, {{}})")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MAQUETTE_FAULT": "send:files"}, check=False)
    assert done.returncode == -9
    far = tmp_path / "far/artifacts/ab" / KEY
    assert far.is_dir() and not (far / "manifest.json").exists()
    assert remote(tmp_path, "two").find(KEY) is None
    assert remote(tmp_path, "one").find(KEY) is not None and remote(tmp_path, "two").find(KEY) is not None


@pytest.mark.parametrize("change", ["flip", "truncate", "remove", "outside"])
def test_what_was_changed_far_away_is_found_and_removed(tmp_path: Path, change: str) -> None:
    remote(tmp_path, "one").put(KEY, picture(), ABOUT, {})
    far = tmp_path / "far/artifacts/ab" / KEY
    file = next(path for path in sorted((far / "files").rglob("*")) if path.is_file())
    data = bytearray(file.read_bytes())
    if change == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif change == "truncate":
        file.write_bytes(data[:-1])
    elif change == "remove":
        file.unlink()
    else:
        about = json.loads((far / "manifest.json").read_text())
        about["files"]["../../../../escaped"] = {"sha256": "", "bytes": 1}
        (far / "manifest.json").write_text(json.dumps(about))
    told: list[str] = []
    two = remote(tmp_path, "two")
    assert two.find(KEY, told.append) is None and len(told) == 1
    assert not far.exists() and not list(tmp_path.rglob("escaped"))
    two.put(KEY, picture(), ABOUT, {})
    shutil.rmtree(tmp_path / "one")
    assert remote(tmp_path, "one").find(KEY) is not None


def test_roots_and_cleaning(tmp_path: Path) -> None:
    one, two = remote(tmp_path, "one"), remote(tmp_path, "two")
    for key in (KEY, "cd" + "0" * 62):
        one.put(key, picture(), ABOUT, {})
    one.add_root("run", {"keys": [KEY]})
    assert two.roots() == {"run": {"keys": [KEY]}}
    assert two.gc() == ["cd" + "0" * 62] and list(one.keys()) == [KEY]
    assert not (tmp_path / "far/artifacts/cd" / ("cd" + "0" * 62)).exists()


def test_open_chooses_by_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    far = Store.open(f"file://{tmp_path}/far")
    assert isinstance(far, RemoteStore) and tmp_path / "cache" in far.root.parents
    assert type(Store.open(tmp_path / "near")) is Store
    monkeypatch.setenv("MAQUETTE_STORE", f"file://{tmp_path}/far")
    assert isinstance(Store.open(), RemoteStore)


@pytest.mark.parametrize(("url", "words"), [
    ("nosuch://bucket/x", "nosuch://bucket/x cannot be opened"), ("s3://bucket/x", "s3fs|cannot be opened")])
def test_a_url_that_nobody_opens(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        RemoteStore(url, tmp_path / "mirror")
    assert "\n" not in str(caught.value)


def test_a_far_file_system_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = remote(tmp_path, "one")

    def refuse(path: str, content: bytes) -> None:
        raise PermissionError("AccessDenied\nrequest id 7")
    monkeypatch.setattr(store.fs, "pipe_file", refuse)
    with pytest.raises(RunFailed, match="take or give a result: PermissionError: AccessDenied request") as caught:
        store.put(KEY, picture(), ABOUT, {})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert store.find(KEY) is not None and remote(tmp_path, "two").find(KEY) is not None  # kept here, sent later


@pytest.mark.parametrize("url", [False, True])
def test_probes(tmp_path: Path, url: bool) -> None:
    place = f"file://{tmp_path}/x" if url else str(tmp_path / "x")
    probe = write_probe(place, ".p")
    assert there(probe) and (tmp_path / "x" / ".p").is_file()
    remove_probe(probe)
    assert not there(probe) and not (tmp_path / "x" / ".p").exists()
