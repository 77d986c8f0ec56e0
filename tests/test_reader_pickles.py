"""Pickles are read without running them: payloads, damage, and files that are small and would grow."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import BadInput
from engine.models.reader import Entry, read_header, read_tensors
from tests.pickles import Declared, Payload, both, pickled, save_legacy, save_zip
from tests.test_reader import safetensors_bytes

# -- what is refused ---------------------------------------------------------------------------------------------------

def payloads(canary: Path) -> dict[str, Any]:
    return {"mkdir": Payload(canary),
            "eval": Payload(canary, builtins.eval, f"__import__('os').mkdir({str(canary)!r})"),
            "getattr": Payload(canary, builtins.getattr, "x", "upper"),
            "load": Payload(canary, torch.load, str(canary)), "numpy": Payload(canary, np.save, str(canary), [1]),
            "bytes": Payload(canary, torch.storage._load_from_bytes, b"x")}  # type: ignore[attr-defined]


@both
@pytest.mark.parametrize("name", ["mkdir", "eval", "getattr", "load", "numpy", "bytes"])
def test_a_payload_is_refused_before_it_runs(tmp_path: Path, save: Callable[[Any, Path], None], name: str) -> None:
    canary = tmp_path / "canary"
    payload = payloads(canary)[name]
    wanted = f"{payload._call[0].__module__}.{payload._call[0].__name__}"
    w = torch.ones(2)
    for place, tree in enumerate(({"w": w, "x": payload}, {"state_dict": {"w": w}, "x": [payload]}, payload)):
        for suffix in (".ckpt", ".safetensors"):
            path = tmp_path / f"{place}{suffix}"
            save(tree, path)
            for read in (read_header, lambda p: read_tensors(p, allow_pickle=True), lambda p: read_tensors(p)):
                with pytest.raises(BadInput, match="may be a payload; nothing of it was run") as caught:
                    read(path)
                told = str(caught.value).replace("__builtin__.", "builtins.")  # its name in protocol 2
                assert str(path) in told and wanted in told
                assert ("its name says safetensors" in told) == (suffix == ".safetensors")
    assert not canary.exists()
    if name == "mkdir":  # and the canary would have sung
        torch.load(tmp_path / "0.ckpt", weights_only=False)
        assert canary.exists()


@pytest.mark.parametrize("text", [
    b"cos\nmkdir\n(S'CANARY'\ntR.", b"(S'CANARY'\nios\nmkdir\n.", b"(cos\nmkdir\nS'CANARY'\no.",
    b"\x80\x02cos\nmkdir\nX\x06\x00\x00\x00CANARY\x85\x81.", b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x06CANARY\x85R.",
    b"\x80\x02ccollections\nOrderedDict\n}X\x0c\x00\x00\x00__setstate__cos\nmkdir\nsb."])
def test_every_way_that_a_pickle_calls_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(text)
    with pytest.raises(BadInput, match="nothing of it was run"):
        read_header(tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", text)
    with pytest.raises(BadInput, match="nothing of it was run"):
        read_header(tmp_path / "x.ckpt")
    assert {p.name for p in tmp_path.iterdir()} == {"x.bin", "x.ckpt"}


@both
def test_truncated_torch_files(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    save({"w": torch.randn(5000), "v": torch.randn(10)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for part in (3, 40, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.ckpt").write_bytes(whole[:part])
        with pytest.raises(BadInput, match=r"cut\.ckpt"):
            read_header(tmp_path / "cut.ckpt")


def test_flipped_bytes_in_a_zip_are_found(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"w": torch.full((4000,), 0.25)}, path)
    content = bytearray(path.read_bytes())
    place = content.find(struct.pack("<f", 0.25) * 100) + 200
    content[place] ^= 1
    path.write_bytes(bytes(content))
    read_header(path)
    with pytest.raises(BadInput, match="not the ones that were written"):
        read_tensors(path, allow_pickle=True)


def test_zips_that_torch_did_not_write(tmp_path: Path) -> None:
    def write(records: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(tmp_path / "x.pt", "w", kind) as archive:
            for name, content in records.items():
                archive.writestr(name, content)
        return tmp_path / "x.pt"
    nothing = pickle.dumps({}, 2)
    for records, kind, line in (({"a.npy": b""}, zipfile.ZIP_STORED, "no data.pkl"),
                                ({"a/data.pkl": nothing, "a/constants.pkl": b""}, zipfile.ZIP_STORED, "TorchScript"),
                                ({"a/data.pkl": nothing, "a/data/0": bytes(9999)}, zipfile.ZIP_DEFLATED, "compressed"),
                                ({"a/data.pkl": nothing, "a/byteorder": b"big"}, zipfile.ZIP_STORED, "big-endian"),
                                ({"a/data.pkl": nothing}, zipfile.ZIP_STORED, "no tensors in it")):
        with pytest.raises(BadInput, match=line):
            read_header(write(records, kind))


# -- memory ------------------------------------------------------------------------------------------------------------

def peak_of(read: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_headers_of_huge_files_take_no_more_memory_than_headers(tmp_path: Path) -> None:
    """100 GB of declared tensors, of which the disk holds nothing: sparse files."""
    side = 50_000
    size = side * side * 4
    big = tmp_path / "big.safetensors"
    header = {f"layer.{i}.weight": {"dtype": "F32", "shape": [side, side], "data_offsets": [i * size, (i + 1) * size]}
              for i in range(10)}
    big.write_bytes(safetensors_bytes(header))
    os.truncate(big, big.stat().st_size + 10 * size)
    found = []
    assert peak_of(lambda: found.append(read_header(big))) < 200_000
    assert found[0].elements == 10 * side * side

    legacy = tmp_path / "big.ckpt"
    legacy.write_bytes(b"".join([
        pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2),
        pickled({"w": Declared(10**10)}), pickle.dumps(["0"], 2), struct.pack("<q", 10**10)]))
    with pytest.raises(BadInput, match="the storage 0 is missing or too short: the file is truncated"):
        read_header(legacy)
    os.truncate(legacy, legacy.stat().st_size + 4 * 10**10)
    assert peak_of(lambda: found.append(read_header(legacy))) < 200_000
    assert found[1].tensors == {"w": Entry((10**10,), "float32")}


def test_a_tensor_of_terabytes_in_a_kilobyte(tmp_path: Path) -> None:
    for save in (save_zip, save_legacy):
        path = tmp_path / "x.ckpt"
        save({"w": torch.ones(1).expand(10**6, 10**6)}, path)
        assert path.stat().st_size < 4000
        assert peak_of(lambda path=path: read_header(path)) < 300_000
        assert read_header(path).tensors["w"].shape == (10**6, 10**6)
        tensor = read_tensors(path, allow_pickle=True)["w"]
        assert tensor.shape == (10**6, 10**6) and tensor[3, 4] == 1.0


BOMBS = {
    "a string of 4 GB": b"\x80\x02X\xff\xff\xff\xff",
    "a string of exabytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60),
    # One list of 1000 pairs, made into dictionaries again and again by three bytes each.
    "copies": b"\x80\x02]q\x00(" + b"".join(b"J" + struct.pack("<i", i) + b"K\x01\x86" for i in range(1000)) + b"e"
              b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R0" * 20_000 + b".",
    # {0: {0: {...}, 1: the same}, 1: ...}: 2^60 ways down.
    "references": b"\x80\x02}q\x00" + b"".join(
        b"}q" + bytes([i + 1]) + b"(X\x01\x00\x00\x00ah" + bytes([i]) + b"X\x01\x00\x00\x00bh" + bytes([i]) + b"u"
        for i in range(60)) + b".",
    "a hash that is deep": b"\x80\x02}" + b"K\x01" + b"\x85" * 20_000 + b"K\x02s.",
    "itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_bombs_stay_small(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", BOMBS[name])

    def read() -> None:
        with pytest.raises(BadInput, match=r"x\.ckpt"):
            read_header(path)
    assert peak_of(read) < 60 * len(BOMBS[name]) + 2_000_000
    (tmp_path / "x.bin").write_bytes(BOMBS[name])
    with pytest.raises(BadInput):
        read_header(tmp_path / "x.bin")
