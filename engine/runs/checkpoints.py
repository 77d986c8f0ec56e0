"""States of stages that are under way: tensors, arrays, numbers, strings, in dicts and lists; no pickle.

A state is a folder (state.json, tensors.safetensors, arrays.safetensors) that appears complete by a rename; the one
before it goes only then, so that a kill at any point leaves one that can be read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from engine.runs import files


def save_state(folder: Path, trash: Path, state: dict[str, Any]) -> None:
    """Keep ``state`` as the newest under ``folder``."""
    numbers = sorted(int(path.name) for path in folder.glob("[0-9]*"))
    part = trash / files.unique_name("checkpoint")
    try:
        part.mkdir(parents=True)
        tensors: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        tree = _pack(state, "", tensors, arrays)
        if tensors:
            from safetensors.torch import save_file as save_tensors
            save_tensors(tensors, part / "tensors.safetensors")
        if arrays:
            from safetensors.numpy import save_file as save_arrays
            save_arrays(arrays, part / "arrays.safetensors")
        hashes = {name: files.file_digest(part / name) for name in files.files_under(part)}
        for name in hashes:
            files.sync_file(part / name)
        files.write_file(part / "state.json", json.dumps({"schema": 1, "files": hashes, "tree": tree}))
        files.fault("checkpoint:rename")
        files.move_folder(part, folder / f"{(numbers[-1] if numbers else 0) + 1:06d}")
        files.fault("checkpoint:kept")
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for number in numbers:
        files.remove_folder(folder / f"{number:06d}", trash)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that is as it was written, or None. Tensors come back on the CPU."""
    for path in sorted(folder.glob("[0-9]*"), reverse=True):
        try:
            about = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if any(files.file_digest(path / name) != sha for name, sha in about["files"].items()):
                continue
            tensors: dict[str, Any] = {}
            arrays: dict[str, Any] = {}
            if "tensors.safetensors" in about["files"]:
                from safetensors.torch import load_file as load_tensors
                tensors = load_tensors(path / "tensors.safetensors")
            if "arrays.safetensors" in about["files"]:
                from safetensors.numpy import load_file as load_arrays
                arrays = load_arrays(path / "arrays.safetensors")
            state = _unpack(about["tree"], tensors, arrays)
            return state if isinstance(state, dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _pack(value: Any, path: str, tensors: dict[str, Any], arrays: dict[str, Any]) -> Any:
    """A JSON tree in which each leaf is {"is": kind, ...}; arrays and tensors are named by their place."""
    if value is None or isinstance(value, (bool, int, str)):
        return {"is": "plain", "value": value}
    if isinstance(value, float):
        return {"is": "float", "value": value.hex()}  # bit-exact, infinities included
    if isinstance(value, dict):
        return {"is": "dict", "items": [[_pack(k, "", tensors, arrays), _pack(v, f"{path}/{i}", tensors, arrays)]
                                        for i, (k, v) in enumerate(value.items())]}
    if isinstance(value, (list, tuple)):
        return {"is": type(value).__name__ if type(value) in (list, tuple) else "tuple",
                "items": [_pack(v, f"{path}/{i}", tensors, arrays) for i, v in enumerate(value)]}
    kind = type(value).__module__.partition(".")[0]
    if kind == "torch" and hasattr(value, "detach"):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"is": "tensor", "name": path}
    if kind == "numpy":
        import numpy as np
        arrays[path] = np.ascontiguousarray(value)
        return {"is": "array", "name": path, "shape": list(np.shape(value))}
    raise TypeError(f"a checkpoint holds tensors, arrays, numbers and strings, not {type(value).__name__} at {path}")


def _unpack(node: dict[str, Any], tensors: dict[str, Any], arrays: dict[str, Any]) -> Any:
    match node["is"]:
        case "plain":
            return node["value"]
        case "float":
            return float.fromhex(node["value"])
        case "dict":
            return {_unpack(k, tensors, arrays): _unpack(v, tensors, arrays) for k, v in node["items"]}
        case "list":
            return [_unpack(v, tensors, arrays) for v in node["items"]]
        case "tuple":
            return tuple(_unpack(v, tensors, arrays) for v in node["items"])
        case "tensor":
            return tensors[node["name"]]
        case "array":
            return arrays[node["name"]].reshape(node["shape"])
    raise ValueError(f"unknown kind {node['is']}")
