"""Files of weights are read without running anything in them, and whatever is wrong with one is said in one line."""

from __future__ import annotations

import json
import pickle
import struct
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.errors import BadInput
from engine.models.reader import Entry, component_headers, read_header, read_tensors, weights_in
from tests.pickles import both

SOME = {"a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64),
        "c": torch.linspace(-1, 1, 5).half(), "d": torch.ones(2, 2, dtype=torch.bfloat16)}
ENTRIES = {"a.weight": Entry((2, 3), "float32"), "b": Entry((), "int64"), "c": Entry((5,), "float16"),
           "d": Entry((2, 2), "bfloat16")}


def safetensors_bytes(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(wanted) and all(
        found[k].dtype == t.dtype and torch.equal(found[k], t) for k, t in wanted.items())


# -- what is read ------------------------------------------------------------------------------------------------------

def test_safetensors_header_and_tensors_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(SOME, path, {"format": "pt"})
    header = read_header(path)
    assert (header.format, header.tensors, header.metadata, header.wrapper) == (
        "safetensors", ENTRIES, {"format": "pt"}, "")
    assert equal(read_tensors(path, list(SOME)), SOME) and header.elements == 16
    assert header.dtypes == {"float32": 6, "float16": 5, "bfloat16": 4, "int64": 1}
    assert list(read_tensors(path, ["c"])) == ["c"]
    with pytest.raises(BadInput, match="has no tensor z"):
        read_tensors(path, ["c", "z"])


@both
def test_torch_files_are_read_as_torch_reads_them(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "x.ckpt"
    save(OrderedDict(SOME), path)
    header = read_header(path)
    assert (header.format, header.tensors, header.wrapper) == ("pickle", ENTRIES, "")
    assert equal(read_tensors(path, allow_pickle=True), SOME)
    with pytest.raises(BadInput, match=r"x\.ckpt is a pickle; only safetensors.*--allow-pickle"):
        read_tensors(path)


@both
def test_views_strides_and_shared_storages(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    tree = {"whole": base, "turned": base.T, "part": base[1:3, 2:5], "repeated": torch.full((1, 1), 7.0).expand(3, 4),
            "empty": torch.empty(0, 3), "parameter": torch.nn.Parameter(torch.tensor([1.5, 2.5]))}
    path = tmp_path / "x.pth"
    save(tree, path)
    found = read_tensors(path, allow_pickle=True)
    assert equal(found, {k: t.detach() for k, t in tree.items()}) and not found["parameter"].requires_grad
    assert found["whole"].data_ptr() == found["turned"].data_ptr()


@both
def test_wrappers_are_taken_off_and_nested_dictionaries_joined(tmp_path: Path, save: Callable[[Any, Path], None]
                                                               ) -> None:
    w = torch.ones(2)
    save({"epoch": 3, "global_step": 12, "pytorch-lightning_version": "1.4.2", "state_dict": {"w": w},
          "optimizer_states": [{"state": {0: {"exp_avg": w}}}]}, tmp_path / "a")
    header = read_header(tmp_path / "a")
    assert (header.wrapper, list(header.tensors)) == ("state_dict", ["w"])
    assert header.metadata == {"epoch": "3", "global_step": "12", "pytorch-lightning_version": "1.4.2"}
    save({"image_proj": {"proj.weight": w}, "ip_adapter": {"1.to_k_ip.weight": w}}, tmp_path / "b")
    header = read_header(tmp_path / "b")
    assert (header.wrapper, set(header.tensors)) == ("", {"image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"})
    save({"w": w, "animatediff_config": {"a": 1}}, tmp_path / "c")
    assert list(read_header(tmp_path / "c").tensors) == ["w"]


def test_a_whole_lightning_checkpoint_with_classes_as_keys(tmp_path: Path) -> None:
    """Lightning 1.4 keeps a class object as a key under callbacks; torch.load(weights_only=True) gives up on it."""
    module: Any = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    names = [module.__name__, "pytorch_lightning.callbacks", "pytorch_lightning"]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[module.__name__] = module
    try:
        torch.save({"state_dict": {"w": torch.ones(2)}, "hyper": defaultdict(int, {"x": 1}), "when": Path("a"),
                    "callbacks": {module.ModelCheckpoint: {"best_model_score": np.float64(2.0), "monitor": "loss"}}},
                   tmp_path / "x.ckpt")
    finally:
        for name in names:
            del sys.modules[name]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert equal(read_tensors(tmp_path / "x.ckpt", allow_pickle=True), {"w": torch.ones(2)})
    assert not [name for name in sys.modules if name.startswith("pytorch_lightning")]


def test_float8_comes_through_torchs_newer_way(tmp_path: Path) -> None:
    tensors = {"w": torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn), "u": torch.tensor([7], dtype=torch.uint16)}
    torch.save(tensors, tmp_path / "x.pt")
    found = read_tensors(tmp_path / "x.pt", allow_pickle=True)
    assert found["w"].float().tolist() == [0.5, -2.0] and found["u"].tolist() == [7]
    save_file(tensors, tmp_path / "x.safetensors")
    assert read_header(tmp_path / "x.safetensors").tensors["w"] == Entry((2,), "float8_e4m3fn")
    assert read_tensors(tmp_path / "x.safetensors")["w"].float().tolist() == [0.5, -2.0]


def test_the_name_does_not_decide(tmp_path: Path) -> None:
    torch.save(SOME, tmp_path / "model.safetensors")
    assert read_header(tmp_path / "model.safetensors").format == "pickle"
    with pytest.raises(BadInput, match="is a pickle although its name says safetensors"):
        read_tensors(tmp_path / "model.safetensors")
    save_file(SOME, tmp_path / "model.ckpt")
    assert read_header(tmp_path / "model.ckpt").format == "safetensors"
    assert equal(read_tensors(tmp_path / "model.ckpt", list(SOME)), SOME)


# -- folders -----------------------------------------------------------------------------------------------------------

def shards(folder: Path) -> Path:
    save_file({"a": SOME["a.weight"]}, folder / "model-00001-of-00002.safetensors")
    save_file({"c": SOME["c"]}, folder / "model-00002-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 34}, "weight_map": {
        "a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}}))
    return index


def test_sharded_files_are_one(tmp_path: Path) -> None:
    index = shards(tmp_path)
    for path in (index, tmp_path):
        header = read_header(path)
        assert header.path == index and len(header.shards) == 2 and header.metadata == {"total_size": "34"}
        assert header.tensors == {"a": Entry((2, 3), "float32"), "c": Entry((5,), "float16")}
        assert equal(read_tensors(path), {"a": SOME["a.weight"], "c": SOME["c"]})
        assert equal(read_tensors(path, ["c"]), {"c": SOME["c"]})


@pytest.mark.parametrize(("change", "line"), [
    (lambda d: (d / "model-00002-of-00002.safetensors").unlink(), "lacks model-00002-of-00002.safetensors"),
    (lambda d: save_file({"z": torch.ones(1)}, d / "model-00002-of-00002.safetensors"), "do not agree on the tensor"),
    (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}'), "no file beside it"),
    (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": []}'), "cannot be read"),
    (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {}}'), "names no file"),
    (lambda d: (d / "model.safetensors.index.json").write_text("[" * 100_000), "cannot be read"),
])
def test_shards_that_do_not_fit_are_named(tmp_path: Path, change: Callable[[Path], None], line: str) -> None:
    index = shards(tmp_path)
    change(tmp_path)
    with pytest.raises(BadInput, match=line):
        read_header(index)


def test_which_file_of_a_folder_is_meant(tmp_path: Path) -> None:
    def put(name: str) -> Path:
        save_file({name: torch.ones(1)}, tmp_path / name)
        return tmp_path / name
    with pytest.raises(BadInput, match="no file of weights"):
        weights_in(tmp_path)
    half = put("model.fp16.safetensors")
    assert weights_in(tmp_path) == half
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert weights_in(tmp_path).name == "pytorch_model.bin" and weights_in(tmp_path, "fp16") == half
    full = put("model.safetensors")
    put("model.non_ema.safetensors")
    assert weights_in(tmp_path) == full and weights_in(tmp_path, "fp16") == half
    put("sd_xl_base_1.0.safetensors")
    assert weights_in(tmp_path) == full  # what the libraries write comes before an extra beside it
    full.unlink()
    put("other.safetensors")
    with pytest.raises(BadInput, match=r"several files of weights: other\.safetensors, sd_xl_base_1\.0\.safetensors"):
        weights_in(tmp_path)


def test_components_of_a_diffusers_folder(tmp_path: Path) -> None:
    for part in ("unet", "vae", "scheduler"):
        (tmp_path / part).mkdir()
        if part != "scheduler":
            save_file({part: torch.ones(1)}, tmp_path / part / "diffusion_pytorch_model.safetensors")
    (tmp_path / "model_index.json").write_text("{}")
    assert {name: list(h.tensors) for name, h in component_headers(tmp_path).items()} == {
        "unet": ["unet"], "vae": ["vae"]}
    assert list(component_headers(tmp_path / "vae")) == [""]
    with pytest.raises(BadInput, match="no file of weights"):
        component_headers(tmp_path / "scheduler")


# -- what is refused ---------------------------------------------------------------------------------------------------

def bad_safetensors() -> dict[str, tuple[bytes, str]]:
    def f32(begin: int, end: int, *shape: int) -> dict[str, Any]:
        return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    a = f32(0, 8, 2)
    return {
        "overlap": (safetensors_bytes({"a": a, "b": f32(4, 12, 2)}, bytes(12)), "'a' and 'b' overlap"),
        "gap": (safetensors_bytes({"a": a, "b": f32(12, 20, 2)}, bytes(20)), "4 bytes before the tensor 'b'"),
        "cut": (safetensors_bytes({"a": a}, bytes(5)), "truncated: its tensors end at"),
        "cut header": (safetensors_bytes({"a": a}, bytes(8))[:20], "truncated: its header takes"),
        "more": (safetensors_bytes({"a": a}, bytes(9)), "1 bytes after its last tensor"),
        "shape": (safetensors_bytes({"a": f32(0, 8, 3)}, bytes(8)), r"'a' of shape \[3\] and type float32 cannot take"),
        "negative": (safetensors_bytes({"a": f32(0, 8, -1, -2)}, bytes(8)), "none that is known"),
        "type": (safetensors_bytes({"a": {**a, "dtype": "F3"}}, bytes(8)), "none that is known"),
        "twice": (safetensors_bytes(b'{"a": {"dtype":"U8","shape":[],"data_offsets":[0,1]}, "a": '
                                    b'{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"), "twice"),
        "no JSON": (safetensors_bytes(b"{nothing}"), "not JSON"),
        "deep": (safetensors_bytes(b'{"a":' + b"[" * 200_000), "not JSON"),
        "huge": (safetensors_bytes({"a": a}, bytes(8), length=2**62), "more than safetensors allows"),
        "metadata": (safetensors_bytes({"__metadata__": {"a": 1}}), "something else than text"),
        "empty": (b"", "is empty"), "text": (b"hello, these are my weights", "neither safetensors nor a torch pickle"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        "page": (b"<!doctype html><html>", "is a web page")}


@pytest.mark.parametrize("name", list(bad_safetensors()))
def test_bad_safetensors_are_named(tmp_path: Path, name: str) -> None:
    content, line = bad_safetensors()[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (read_header, read_tensors):
        with pytest.raises(BadInput, match=line) as caught:
            read(path)
        assert str(path) in caught.value.what and caught.value.fix and "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_named(tmp_path: Path, bad: float) -> None:
    for kind in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        tensors = {"fine": torch.ones(3, dtype=kind), "odd.weight": torch.tensor([[1.0, bad]], dtype=kind)}
        save_file(tensors, tmp_path / "x.safetensors")
        torch.save(tensors, tmp_path / "x.ckpt")
        for name in ("x.safetensors", "x.ckpt"):
            with pytest.raises(BadInput, match=rf"{name}: NaN or infinity in odd\.weight"):
                read_tensors(tmp_path / name, allow_pickle=True)
            assert read_header(tmp_path / name).tensors["odd.weight"].shape == (1, 2)
            assert list(read_tensors(tmp_path / name, ["fine"], allow_pickle=True)) == ["fine"]
