"""The store: what is written is what is read, or it is made again."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.artifacts import Picture
from engine.errors import BadInput, RunFailed
from engine.runs import files
from engine.runs.checkpoints import load_state, save_state
from engine.runs.run import Run
from engine.runs.store import Store
from tests.fake_stages import CALLS, FakeModels, pipeline

KEY = "ab" + "0" * 62


def picture(value: float = 0.5) -> Picture:
    return Picture(np.full((4, 4, 3), value, np.float32))


def put(store: Store, key: str = KEY, value: float = 0.5) -> Any:
    return store.put(key, picture(value), {"metrics": [], "warnings": []}, {"seconds": 1.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    CALLS.clear()
    return Store(tmp_path / "store")


def test_put_and_find(store: Store) -> None:
    put(store)
    fresh = Store(store.root)
    entry = fresh.find(KEY)
    assert entry is not None and entry.timing == {"seconds": 1.0}
    assert sorted(entry.manifest["files"]) == ["picture.json", "picture.png"]
    assert fresh.load(entry, Picture).image.shape == (4, 4, 3)
    assert list((store.root / "tmp").iterdir()) == []
    assert fresh.find("cd" + "0" * 62) is None


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "add", "manifest", "manifest_flip", "no_manifest"])
def test_damage_is_found_and_taken_away(store: Store, harm: str) -> None:
    folder = put(store).folder
    target = folder / "files" / "picture.png"
    if harm == "flip":
        content = bytearray(target.read_bytes())
        content[20] ^= 1
        target.write_bytes(content)
    elif harm == "truncate":
        target.write_bytes(target.read_bytes()[:-1])
    elif harm == "delete":
        target.unlink()
    elif harm == "add":
        (folder / "files" / "more").write_text("x")
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{")
    elif harm == "manifest_flip":
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace('"bytes": ', '"bytes": 1', 1))
    else:
        (folder / "manifest.json").unlink()
    reasons: list[str] = []
    fresh = Store(store.root)
    assert fresh.find(KEY, reasons.append) is None and len(reasons) == 1 and not folder.exists()
    put(fresh)
    assert Store(store.root).find(KEY) is not None


def test_damaged_results_are_made_again_and_said_so(store: Store) -> None:
    run = Run(store, FakeModels(), device="cpu")
    first = run.execute(pipeline(run))
    entry = run.outcomes["dim"].accepted.entry
    (entry.folder / "files" / "picture.png").write_bytes(b"rubbish")
    CALLS.clear()
    messages: list[str] = []
    run = Run(Store(store.root), FakeModels(), device="cpu", listeners=[lambda e: messages.append(e.message)])
    assert np.array_equal(run.execute(pipeline(run)).image, first.image)
    assert CALLS == ["dim"] and any("dim was damaged (picture.png was changed)" in m for m in messages)


def test_timing_is_outside_every_digest(store: Store) -> None:
    folder = put(store).folder
    (folder / "timing.json").write_text("rubbish")
    entry = Store(store.root).find(KEY)
    assert entry is not None and entry.timing == {}


def test_the_second_finisher_discards(store: Store) -> None:
    other = Store(store.root)
    put(store, value=0.25)
    entry = put(other, value=0.75)
    assert other.load(entry, Picture).image.mean() == pytest.approx(0.25, abs=0.01)


def test_gc_keeps_the_union_of_the_roots(store: Store) -> None:
    kept = [f"{i:02d}" + "0" * 62 for i in range(3)]
    for key in [*kept, KEY]:
        put(store, key)
    store.add_root("one", {"keys": kept[:2]})
    store.add_root("two", {"keys": kept[1:]})
    with store.lock(KEY, lambda seconds: None):
        assert Store(store.root).gc() == []  # somebody is making it
    assert store.gc() == [KEY] and list(store.keys()) == kept


def test_full_disk_and_other_refusals_are_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Picture, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Picture, "save", full)
    with pytest.raises(RunFailed, match="the disk is full while writing a result in .*--store"):
        put(store)
    assert list((store.root / "tmp").iterdir()) == [] and list(store.keys()) == []


def test_a_store_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot write the store in .*--store"):
        Store(tmp_path / "file" / "store")
    with pytest.raises(BadInput, match="URL"):
        Store.place("s3://bucket/x")


def test_a_store_of_another_format_is_refused(store: Store) -> None:
    (store.root / "store.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(BadInput, match="format 99"):
        Store(store.root)


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAQUETTE_STORE", str(tmp_path))
    assert Store.place() == tmp_path and Store.place("here") == Path("here")
    monkeypatch.delenv("MAQUETTE_STORE")
    assert Store.place().parts[-2:] == ("maquette", "store")


def test_checkpoints_come_back_bit_for_bit(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder, trash = tmp_path / "c", tmp_path / "t"
    generator = torch.Generator().manual_seed(3)
    state = {"step": 7, "rate": 0.1, "worst": float("inf"), "name": "x", "none": None, "flag": True,
             "optimiser": {"state": {0: {"m": torch.randn(3, 2, generator=generator).half()}}, "groups": [1, (2, 3)]},
             "random": generator.get_state(), "grid": np.arange(5, dtype=np.int8), "scalar": np.float32(2.5)}
    save_state(folder, trash, {"step": 1})
    save_state(folder, trash, state)
    assert [p.name for p in folder.iterdir()] == ["000002"]
    back = load_state(folder)
    assert back is not None
    assert back["optimiser"]["groups"] == [1, (2, 3)] and back["worst"] == float("inf") and back["flag"] is True
    assert torch.equal(back["optimiser"]["state"][0]["m"], state["optimiser"]["state"][0]["m"])
    assert torch.equal(back["random"], state["random"]) and np.array_equal(back["grid"], state["grid"])
    assert back["grid"].dtype == np.int8 and float(back["scalar"]) == 2.5
    with pytest.raises(TypeError, match="not object at /0"):
        save_state(folder, trash, {"bad": object()})
    assert load_state(folder) is not None
    next(folder.glob("*/tensors.safetensors")).write_bytes(b"torn")
    assert load_state(folder) is None


def test_write_file_leaves_the_old_one_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.write_file(path, "old")
    monkeypatch.setattr(files, "sync_file", lambda p: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
    with pytest.raises(OSError):
        files.write_file(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def _race(root: str, barrier: Any, results: Any) -> None:
    CALLS.clear()
    barrier.wait()
    run = Run(Store(Path(root)), FakeModels(), device="cpu")
    image = run.execute(pipeline(run)).image
    results.put((list(CALLS), image.tobytes()))


def test_same_key_in_four_processes_is_made_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_race, args=(str(tmp_path / "store"), barrier, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    got = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(10)
    assert sorted(label for ran, _ in got for label in ran) == sorted(["paint", "pick", "dim", "count"])
    assert len({image for _, image in got}) == 1
