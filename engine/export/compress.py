"""Compressed geometry for browsers: Draco by DracoPy, meshopt by gltf-transform. No game engine reads either as it is.

    data, said = compressed(glb, "auto")
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BadInput, RunFailed
from engine.export.glb import Buffer, pack, unpack
from engine.meshes.gltf_document import COMPONENTS, WIDTHS

WAYS = ("auto", "meshopt", "draco", "none")
POSITION_BITS, UV_BITS, NORMAL_BITS = 16, 14, 12
"""Of a 1 m asset: 0.02 mm; of a 1K texture: a sixteenth of a texel; of a normal: under 0.1 degrees."""
MEND = ("npm install -g @gltf-transform/cli (meshopt), or: pip install DracoPy (Draco); --compression none writes "
        "it as it is")
DRACO = "KHR_draco_mesh_compression"


def way_of(asked: str) -> str:
    """"draco", "meshopt" or "none"; auto: meshopt where gltf-transform is, else Draco where DracoPy is. BadInput that
    names what to install where what was asked for is not there."""
    if asked not in WAYS:
        from engine.runs.words import unknown
        raise unknown("compression", asked, WAYS, "--compression")
    if asked == "none":
        return "none"
    if asked in ("auto", "meshopt") and _transform():
        return "meshopt"
    if asked in ("auto", "draco") and _has_draco():
        return "draco"
    lacking = {"draco": "Draco needs DracoPy", "meshopt": "meshopt needs gltf-transform"}.get(
        asked, "compressed geometry needs DracoPy or gltf-transform")
    raise BadInput(f"{lacking}, which is not installed", MEND)


def compressed(data: bytes, asked: str = "auto") -> tuple[bytes, str]:
    """A GLB's bytes with its geometry compressed -> (bytes, one line on what was done)."""
    way = way_of(asked)
    if way == "none":
        return data, "geometry is not compressed"
    if way == "draco":
        return draco(data), (f"geometry is compressed by Draco: positions to {POSITION_BITS} bits of its size, UVs to "
                             f"{UV_BITS}, normals to {NORMAL_BITS}; vertices are in another order")
    return meshopt(data), "geometry is compressed by meshopt and quantized (nodes scale it back)"


def _has_draco() -> bool:
    try:
        import DracoPy  # noqa: F401
    except ImportError:
        return False
    return True


# -- Draco -------------------------------------------------------------------------------------------------------------

def draco(data: bytes) -> bytes:
    """KHR_draco_mesh_compression. TEXCOORD_1 and tangents keep all their bits."""
    import DracoPy
    document, binary = unpack(data)
    buffer = Buffer()
    accessors = document["accessors"]
    done: set[int] = set()
    for mesh in document["meshes"]:
        for part in mesh["primitives"]:
            _draco_part(DracoPy, document, binary, part, buffer)
            done |= {part["indices"], *part["attributes"].values()}
    for index in done:
        accessors[index].pop("bufferView", None)
        accessors[index].pop("byteOffset", None)
    for image in document.get("images", []):
        view = document["bufferViews"][image["bufferView"]]
        begin = view.get("byteOffset", 0)
        image["bufferView"] = buffer.add(binary[begin:begin + view["byteLength"]])
    document["bufferViews"], document["buffers"] = buffer.views, [{"byteLength": len(buffer.data)}]
    for name in ("extensionsUsed", "extensionsRequired"):
        document.setdefault(name, []).append(DRACO)
    return pack(document, bytes(buffer.data))


def _draco_part(library: Any, document: dict[str, Any], binary: bytes, part: dict[str, Any], buffer: Buffer) -> None:
    """One primitive's attributes and indices as one Draco buffer."""
    held = {name: _array(document, binary, index) for name, index in part["attributes"].items()}
    faces = _array(document, binary, part["indices"]).reshape(-1, 3).astype(np.uint32)
    others = {name: values for name, values in held.items() if name in ("TANGENT", "TEXCOORD_1")}
    told = library.encode(
        held["POSITION"], faces, quantization_bits=POSITION_BITS, compression_level=7, preserve_order=False,
        tex_coord=_wide(held.get("TEXCOORD_0")), normals=_wide(held.get("NORMAL")), tex_coord_quantization_bits=UV_BITS,
        normal_quantization_bits=NORMAL_BITS, generic_attributes={name: np.ascontiguousarray(values)
                                                                  for name, values in others.items()} or None)
    back = library.decode(told)
    kinds = {0: "POSITION", 1: "NORMAL", 3: "TEXCOORD_0"}  # Draco's GeometryAttribute::Type
    places: dict[str, int] = {}
    for one in back.attributes:
        name = kinds.get(one["attribute_type"]) or one.get("name")
        if name in held:
            places[str(name)] = int(one["unique_id"])
    if set(places) != set(held):
        raise RunFailed(f"Draco lost {', '.join(sorted(set(held) - set(places)))}", "Write it with --compression none")
    count = len(back.points)
    for _, index in part["attributes"].items():
        document["accessors"][index]["count"] = count
    # Decoders make no more than what is stored: the bounds are those of the quantized positions.
    points = np.asarray(back.points, np.float32)
    about = document["accessors"][part["attributes"]["POSITION"]]
    about["min"], about["max"] = points.min(0).astype(float).tolist(), points.max(0).astype(float).tolist()
    corners = document["accessors"][part["indices"]]
    corners["count"] = int(np.asarray(back.faces).size)
    corners["componentType"] = 5123 if count <= 65535 else 5125
    corners["min"], corners["max"] = [int(np.asarray(back.faces).min())], [int(np.asarray(back.faces).max())]
    part["extensions"] = {DRACO: {"bufferView": buffer.add(told), "attributes": places}}


def _wide(values: np.ndarray | None) -> np.ndarray | None:
    """DracoPy takes these as float64, and keeps float32."""
    return None if values is None else values.astype(np.float64)


def _array(document: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    """An accessor of a GLB that this package wrote: tightly packed."""
    about = document["accessors"][index]
    view = document["bufferViews"][about["bufferView"]]
    begin, width = view.get("byteOffset", 0) + about.get("byteOffset", 0), WIDTHS[about["type"]]
    values = np.frombuffer(binary, COMPONENTS[about["componentType"]], about["count"] * width, begin)
    return values.reshape(-1, width).copy()


# -- meshopt -----------------------------------------------------------------------------------------------------------

def _transform() -> list[str] | None:
    """The command of gltf-transform, where it is installed."""
    if (found := shutil.which("gltf-transform")) is not None:
        return [found]
    from engine.check.khronos import node_modules
    package, node = node_modules("@gltf-transform/cli"), shutil.which("node")
    script = package / "bin" / "cli.js" if package is not None else None
    return [node, str(script)] if node and script is not None and script.is_file() else None


def meshopt(data: bytes) -> bytes:
    """EXT_meshopt_compression, quantized by gltf-transform at its level "high"."""
    command = _transform()
    if command is None:
        raise BadInput("meshopt needs gltf-transform, which is not installed", MEND)
    with tempfile.TemporaryDirectory(prefix="maquette-web-") as place:
        source, target = Path(place) / "in.glb", Path(place) / "out.glb"
        source.write_bytes(data)
        try:
            done = subprocess.run([*command, "meshopt", str(source), str(target), "--level", "high",
                                   "--quantize-position", str(POSITION_BITS)], capture_output=True, text=True,
                                  timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunFailed(f"gltf-transform did not run: {' '.join(str(error).split())[:160]}", MEND) from error
        if done.returncode != 0 or not target.is_file():
            said = " ".join((done.stderr or done.stdout).split())[:200]
            raise RunFailed(f"gltf-transform failed: {said}", "Write it with --compression none")
        return target.read_bytes()
