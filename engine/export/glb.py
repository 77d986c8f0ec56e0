"""GLB (binary glTF 2.0) as engines like it: one mesh, one material, PNG inside, nothing compressed, nothing implied.

Written by hand, because the validator must have nothing to say and because the defaults hurt: a metallicFactor that
is left out means metal. Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
LINEAR, LINEAR_MIPMAP_LINEAR, REPEAT = 9729, 9987, 10497
MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
GENERATOR = "Maquette"


def png_bytes(image: np.ndarray) -> bytes:
    """image : (h, w, 3 or 4) float in [0, 1] -> an 8-bit PNG."""
    from PIL import Image
    memory = io.BytesIO()
    Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(memory, "png")
    return memory.getvalue()


class Buffer:
    """The binary chunk while it grows; every part begins at a multiple of four bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, data: bytes, target: int | None = None) -> int:
        self.data += bytes(-len(self.data) % 4)
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self.data += data
        self.views.append(view)
        return len(self.views) - 1

    def add_array(self, array: np.ndarray, kind: str, component: int, target: int, bounds: bool = False) -> int:
        accessor: dict[str, Any] = {"bufferView": self.add(np.ascontiguousarray(array).tobytes(), target),
                                    "componentType": component, "count": len(array), "type": kind}
        if bounds:
            # Bounds must equal the stored float32 values exactly; float() of a float32 loses nothing.
            accessor["min"] = [float(v) for v in array.min(0).reshape(-1)]
            accessor["max"] = [float(v) for v in array.max(0).reshape(-1)]
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def glb_bytes(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray, base_color: np.ndarray,
              metallic: float, roughness: float, name: str = "asset", papers: dict[str, Any] | None = None) -> bytes:
    """One textured mesh as the bytes of a GLB.

    vertices : (v, 3) metres, +Y up, front +Z; faces : (f, 3) counter-clockwise from outside
    normals : (v, 3) unit; uvs : (v, 2), origin top left; base_color : (h, w, 3) sRGB in [0, 1]
    metallic, roughness : always written; papers : JSON for asset.extras (seed, recipe hash, licences)
    """
    if len(vertices) == 0 or len(faces) == 0:
        raise ValueError("a mesh without triangles cannot be written")
    if int(faces.max()) >= len(vertices) or int(faces.min()) < 0:
        raise ValueError("a face names a vertex that is not there")
    position, normal, uv = (np.asarray(a, dtype="<f4") for a in (vertices, unit(normals), uvs))
    for what, array in (("vertices", position), ("normals", normal), ("uvs", uv)):
        if not np.isfinite(array).all():
            raise ValueError(f"{what} hold values that are not finite")
    buffer = Buffer()
    # 65535 is the restart index of a 16-bit buffer and may not be used as a vertex.
    small = len(position) <= 65535
    indices = buffer.add_array(faces.reshape(-1).astype("<u2" if small else "<u4"), "SCALAR",
                               UNSIGNED_SHORT if small else UNSIGNED_INT, ELEMENT_ARRAY_BUFFER, bounds=True)
    attributes = {"POSITION": buffer.add_array(position, "VEC3", FLOAT, ARRAY_BUFFER, bounds=True),
                  "NORMAL": buffer.add_array(normal, "VEC3", FLOAT, ARRAY_BUFFER),
                  "TEXCOORD_0": buffer.add_array(uv, "VEC2", FLOAT, ARRAY_BUFFER)}
    picture = buffer.add(png_bytes(base_color))
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": GENERATOR},
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
        "materials": [{"name": name, "pbrMetallicRoughness": {
            "baseColorTexture": {"index": 0}, "baseColorFactor": [1, 1, 1, 1],
            "metallicFactor": float(metallic), "roughnessFactor": float(roughness)}}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": REPEAT, "wrapT": REPEAT}],
        "images": [{"name": f"{name}_base_color", "mimeType": "image/png", "bufferView": picture}],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    if papers:
        document["asset"]["extras"] = papers
    return pack(document, bytes(buffer.data))


def pack(document: dict[str, Any], binary: bytes) -> bytes:
    """A glTF document and its binary buffer -> the bytes of one GLB."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    length = 12 + 8 + len(text) + 8 + len(binary)
    return (struct.pack("<III", MAGIC, 2, length) + struct.pack("<II", len(text), JSON_CHUNK) + text
            + struct.pack("<II", len(binary), BINARY_CHUNK) + binary)


def unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of :func:`pack`. Raises ValueError for anything but a well-formed version 2 GLB."""
    if len(data) < 20:
        raise ValueError("the file is too short for a GLB")
    magic, version, length = struct.unpack_from("<III", data)
    if magic != MAGIC or version != 2 or length != len(data):
        raise ValueError("the file is not a whole GLB of version 2")
    size, kind = struct.unpack_from("<II", data, 12)
    if kind != JSON_CHUNK or 20 + size > length:
        raise ValueError("the GLB's first part is not its JSON")
    document = json.loads(data[20:20 + size])
    at = 20 + size
    if at == length:
        return document, b""
    if at + 8 > length:
        raise ValueError("the GLB's binary part is cut off")
    binary, kind = struct.unpack_from("<II", data, at)
    if kind != BINARY_CHUNK or at + 8 + binary > length:
        raise ValueError("the GLB's binary part is cut off")
    return document, data[at + 8:at + 8 + binary]


def write_glb(path: Path, *args: Any, **kwargs: Any) -> None:
    """Write :func:`glb_bytes` of the arguments to ``path``."""
    path.write_bytes(glb_bytes(*args, **kwargs))


def unit(normals: np.ndarray) -> np.ndarray:
    """(n, 3) of length one; straight up where there is no length."""
    length = np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-30), [0.0, 1.0, 0.0])
