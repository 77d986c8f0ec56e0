"""A GLB or glTF file of unknown origin, opened so that nothing in it is believed: not its lengths, counts or paths.

    file = open_gltf(path)
    positions = file.accessor(0, "/meshes/0")       # Damage where the file says what is not so

Memory is bounded by the file's real size: buffers are mapped, not read; what is declared is compared with what is there
before any array is made. Only files in the document's own folder are opened, and nothing is ever fetched.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from engine.errors import BadInput
from engine.meshes.finding import Damage, Finding

LARGEST_JSON = 100_000_000
LARGEST_FILE = 4_000_000_000
MOST_PIXELS = 8192 * 8192
MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
LARGEST_WORD = {5120: 127.0, 5121: 255.0, 5122: 32767.0, 5123: 65535.0}
COMPRESSED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt",
              "KHR_meshopt_compression": "meshopt"}


@dataclass
class GltfDocument:
    """path; data : its JSON; size : bytes of the file itself; findings : what is to be said so far"""

    path: Path
    data: dict[str, Any]
    binary: Any
    size: int
    findings: list[Finding] = field(default_factory=list)
    _buffers: dict[int, Any] = field(default_factory=dict, repr=False)

    def say(self, severity: Any, code: str, text: str, where: str = "") -> None:
        """Note one finding, each once."""
        found = Finding(severity, code, text, where)
        if found not in self.findings:
            self.findings.append(found)

    def items(self, name: str) -> list[Any]:
        """One of the document's lists ("meshes", "nodes", ...); Damage where it is none."""
        found = self.data.get(name, [])
        if not isinstance(found, list):
            raise Damage("not_gltf", f"{name} is no list", f"/{name}")
        return found

    def item(self, name: str, index: Any, where: str) -> dict[str, Any]:
        """One entry of a list; Damage for an index that is not there."""
        found = self.items(name)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(found):
            raise Damage("index_out_of_range", f"it names {name[:-1]} {_shown(index)} of {len(found)}", where)
        if not isinstance(found[index], dict):
            raise Damage("not_gltf", f"{name[:-1]} {index} is no object", f"/{name}/{index}")
        return found[index]

    @property
    def compression(self) -> str:
        """"Draco", "meshopt", or "" where geometry lies open."""
        for where in ("extensionsRequired", "extensionsUsed"):
            for name in self.items(where):
                if name in COMPRESSED:
                    return COMPRESSED[name]
        return ""

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def buffer(self, index: int, where: str) -> Any:
        """A buffer's bytes, as long as it says (a view: nothing is copied)."""
        about = self.item("buffers", index, where)
        if index not in self._buffers:
            place = f"/buffers/{index}"
            declared = whole(about.get("byteLength"), place + "/byteLength", least=1)
            if "uri" in about:
                held = self.resource(about["uri"], place + "/uri")
            elif self.binary is not None and index == 0:
                held = self.binary
            else:
                raise Damage("missing_buffer", f"buffer {index} has no bytes anywhere", place)
            if len(held) < declared:
                raise Damage("lying_length", f"buffer {index} says {declared:,} bytes and has {len(held):,}",
                             place + "/byteLength")
            if len(held) > declared + 3:
                self.say("hint", "unused_bytes", f"{len(held) - declared:,} bytes behind buffer {index}", place)
            self._buffers[index] = held[:declared]
        return self._buffers[index]

    def view(self, index: Any, where: str) -> Any:
        """The bytes of a bufferView."""
        about = self.item("bufferViews", index, where)
        place = f"/bufferViews/{index}"
        offset = whole(about.get("byteOffset", 0), place + "/byteOffset")
        length = whole(about.get("byteLength"), place + "/byteLength", least=1)
        held = self.buffer(about.get("buffer", -1), place + "/buffer")
        if offset + length > len(held):
            raise Damage("lying_length", f"bufferView {index} ends at byte {offset + length:,} of {len(held):,}", place)
        return held[offset:offset + length]

    def accessor(self, index: Any, where: str) -> np.ndarray:
        """(count, width) numbers: floats where they are or are meant as such, else integers. A copy.

        Damage for one that reaches beyond its bytes, has none, or is of an unknown type.
        """
        about, place = self.item("accessors", index, where), f"/accessors/{index}"
        component, width = about.get("componentType"), WIDTHS.get(str(about.get("type")))
        if component not in COMPONENTS or width is None:
            raise Damage("not_gltf", f"accessor {index} is of an unknown type", place)
        count = whole(about.get("count"), place + "/count", least=1)
        if "bufferView" in about:
            values = self._strided(about, count, COMPONENTS[component], width, place)
        elif count > max(65536, self.size):
            raise Damage("lying_length", f"accessor {index} says {count:,} values and has no bytes", place)
        else:
            values = np.zeros((count, width), COMPONENTS[component])
        if "sparse" in about:
            values = self._with_sparse(about["sparse"], values, COMPONENTS[component], width, place)
        if about.get("normalized") and component in LARGEST_WORD:
            return np.maximum(values.astype(np.float32) / np.float32(LARGEST_WORD[component]), np.float32(-1))
        return np.array(values)

    def _strided(self, about: dict[str, Any], count: int, kind: str, width: int, place: str) -> np.ndarray:
        held = self.view(about["bufferView"], place + "/bufferView")
        size = np.dtype(kind).itemsize * width
        stride = self.item("bufferViews", about["bufferView"], place).get("byteStride", size)
        stride, offset = whole(stride, place), whole(about.get("byteOffset", 0), place + "/byteOffset")
        if stride < size:  # a shorter one would make more of the bytes than there are
            raise Damage("lying_length", f"its values of {size} bytes stand {stride} bytes apart", place)
        if offset + (count - 1) * stride + size > len(held):
            raise Damage("lying_length", f"{place[1:]} says {count:,} values, its bytes hold "
                                         f"{max(0, (len(held) - offset - size) // stride + 1):,}", place)
        return np.ndarray((count, width), kind, held, offset, (stride, np.dtype(kind).itemsize))

    def _with_sparse(self, sparse: Any, values: np.ndarray, kind: str, width: int, place: str) -> np.ndarray:
        if not isinstance(sparse, dict) or not all(isinstance(sparse.get(k), dict) for k in ("indices", "values")):
            raise Damage("not_gltf", "its sparse part is damaged", place + "/sparse")
        count = whole(sparse.get("count"), place + "/sparse/count", least=1)
        word = COMPONENTS.get(sparse["indices"].get("componentType"))
        if count > len(values) or word not in ("<u1", "<u2", "<u4"):
            raise Damage("lying_length", f"it changes {count:,} of {len(values):,} values", place + "/sparse")
        places = self._strided({**sparse["indices"], "type": "SCALAR"}, count, word, 1, place + "/sparse")[:, 0]
        if int(places.max()) >= len(values):
            raise Damage("index_out_of_range", "it changes a value that is not there", place + "/sparse")
        changed = np.array(values)
        changed[places] = self._strided(sparse["values"], count, kind, width, place + "/sparse")
        return changed

    # -- other files ---------------------------------------------------------------------------------------------------

    def resource(self, uri: Any, where: str) -> Any:
        """The bytes that a URI names: inside itself, or a file of the document's folder. Damage for all others."""
        if not isinstance(uri, str):
            raise Damage("not_gltf", "a URI is no text", where)
        if uri.startswith("data:"):
            head, comma, text = uri.partition(",")
            if not comma or not head.endswith(";base64"):
                raise Damage("bad_uri", "a data URI that is not base64", where)
            try:
                return base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise Damage("bad_uri", "a data URI that is not base64", where) from None
        path = inside(self.path, uri, where)
        if path.stat().st_size > LARGEST_FILE:
            raise Damage("too_large", f"{uri[:80]} has {path.stat().st_size:,} bytes", where)
        return np.memmap(path, np.uint8, "r") if path.stat().st_size else b""


def inside(document: Path, uri: str, where: str) -> Path:
    """The file that a document's relative URI names. Damage for what lies outside the document's folder or elsewhere
    altogether ("external_uri"), and for what is not there ("missing_file")."""
    name = unquote(uri)
    folder = document.absolute().parent
    if ":" in name or name.startswith(("/", "\\")) or "\\" in name or "\0" in name:
        raise Damage("external_uri", f"it names {uri[:80]!r}, which is not beside it; nothing is fetched or opened "
                                     "elsewhere", where)
    try:
        path = (folder / name).resolve()
        outside = not path.is_relative_to(folder.resolve())
        there = not outside and path.is_file()
    except (OSError, ValueError):
        raise Damage("bad_uri", f"{uri[:80]!r} is no path", where) from None
    if outside:
        raise Damage("external_uri", f"it names {uri[:80]!r}, which leads out of its folder", where)
    if not there:
        raise Damage("missing_file", f"it names {uri[:80]!r}, which is not there", where)
    return path


def whole(value: Any, where: str, least: int = 0) -> int:
    """A whole number of at least ``least``, as JSON has it; Damage else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Damage("not_gltf", f"{_shown(value)} stands where a number of at least {least} belongs", where)
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def open_gltf(path: Path) -> GltfDocument:
    """Open a .glb or .gltf. BadInput for what is no such file, or is cut off."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise BadInput(f"{path} has {size:,} bytes; at most {LARGEST_FILE:,} are read", "Split it into parts")
        with path.open("rb") as file:
            first = file.read(12)
            is_glb = first[:4] == b"glTF"
            text, place = _glb_json(path, file, first, size) if is_glb else (b"", (0, 0))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "Check the file") from error
    if not is_glb:
        if path.suffix.lower() == ".glb":
            raise BadInput(f"{path} is no GLB: it does not begin with glTF", "Give a file that another program opens")
        if size > LARGEST_JSON:
            raise BadInput(f"{path} has {size:,} bytes of JSON; at most {LARGEST_JSON:,} are read", "Export a GLB")
        text = path.read_bytes()
    document = GltfDocument(path, _parsed(path, text), None, size)
    if is_glb and place[1]:
        document.binary = np.memmap(path, np.uint8, "r", offset=place[0], shape=(place[1],))
    declared = struct.unpack("<I", first[8:12])[0] if is_glb else size
    if declared < size:
        document.say("warning", "lying_length", f"{size - declared:,} bytes behind its declared end are not looked at")
    return document


def _glb_json(path: Path, file: Any, first: bytes, size: int) -> tuple[bytes, tuple[int, int]]:
    """The JSON of a GLB, and (where its binary part begins, its length)."""
    fix = "Give a file that another program opens"
    if len(first) < 12 or struct.unpack("<I", first[4:8])[0] != 2:
        raise BadInput(f"{path} is no GLB of version 2", fix)
    length = struct.unpack("<I", first[8:12])[0]
    if length > size:
        raise BadInput(f"{path} is cut off: it says {length:,} bytes and has {size:,}", "Copy or export it again")
    head = file.read(8)
    count, kind = struct.unpack("<II", head) if len(head) == 8 else (0, 0)
    if kind != JSON_CHUNK or count > length - 20:
        raise BadInput(f"{path} is damaged: its first part is not its JSON", fix)
    if count > LARGEST_JSON:
        raise BadInput(f"{path} has {count:,} bytes of JSON; at most {LARGEST_JSON:,} are read", "Split it into parts")
    text, at = file.read(count), 20 + count
    head = file.read(8) if at + 8 <= length else b""
    if len(head) < 8:
        return text, (0, 0)
    binary, kind = struct.unpack("<II", head)
    if kind != BINARY_CHUNK:
        return text, (0, 0)
    if at + 8 + binary > length:
        raise BadInput(f"{path} is damaged: its binary part says {binary:,} bytes and has {length - at - 8:,}", fix)
    return text, (at + 8, binary)


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def refuse(word: str) -> Any:
        raise ValueError(f"it holds {word}, which JSON does not know")

    try:
        data = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise BadInput(f"{path} nests without end", "Give a file that another program opens") from None
    except ValueError as error:
        said = " ".join(str(error).split())[:120]
        raise BadInput(f"{path} is no glTF: {said}", "Give a file that another program opens") from error
    version = data.get("asset", {}).get("version") if isinstance(data, dict) and isinstance(data.get("asset"), dict) \
        else None
    if not isinstance(version, str) or not version.startswith("2."):
        raise BadInput(f"{path} is no glTF 2: its asset.version is {_shown(version)}",
                       "Convert it with the program that made it")
    return dict(data)
