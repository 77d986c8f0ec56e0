"""glTF 2.0 of a game-ready asset: levels of detail, colliders, one material with shared pictures, the papers.

    content = Content("Mug", [("Mug_LOD0", lods[0]), ...], [("UCX_Mug_00", hull)])
    data = glb(gltf_file(asset, content, Pictures()))

As plain as engines want it: float32 attributes, triangles, one buffer, bufferView targets, no node transforms, the
occlusion-roughness-metallic picture written once. Specification: https://registry.khronos.org/glTF/specs/2.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.export.glb import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    GENERATOR,
    LINEAR,
    LINEAR_MIPMAP_LINEAR,
    REPEAT,
    UNSIGNED_INT,
    UNSIGNED_SHORT,
    Buffer,
    pack,
    unit,
)
from engine.export.pictures import MIMES, SUFFIXES, Pictures
from engine.meshes.asset import Collider, GameAsset, Lod


@dataclass(frozen=True)
class Content:
    """What one file holds: (node name, level) and (node name, collider) pairs.

    group : name of an empty node above the levels; msft_lod : the first level names the others by MSFT_lod
    """

    name: str
    lods: Sequence[tuple[str, Lod]]
    colliders: Sequence[tuple[str, Collider]] = ()
    group: str = ""
    msft_lod: bool = False


@dataclass
class GltfFile:
    """A document whose images are not yet anywhere: (name, format, bytes) each, in the order of document["images"]."""

    document: dict[str, Any]
    buffer: Buffer
    images: list[tuple[str, str, bytes]] = field(default_factory=list)


def gltf_file(asset: GameAsset, content: Content, pictures: Pictures, extras: Mapping[str, Any] | None = None
              ) -> GltfFile:
    """Build the document. ValueError for arrays that no file may hold (not finite, a corner that is not there).

    extras : for asset.extras, beside the asset's papers
    """
    if not content.lods and not content.colliders:
        raise ValueError("a file without meshes cannot be written")
    about: dict[str, Any] = {"version": "2.0", "generator": GENERATOR}
    papers = {**asset.papers, **(extras or {})}
    if papers:
        about["extras"] = papers
    made = GltfFile({"asset": about, "scene": 0, "scenes": [], "nodes": [], "meshes": []}, Buffer())
    looks = _Looks(asset, pictures, made)
    levels = [_add_level(made, name, lod, looks.of(lod)) for name, lod in content.lods]
    solids = [_add_collider(made, name, solid) for name, solid in content.colliders]
    nodes, roots = made.document["nodes"], [*levels, *solids]
    if content.msft_lod and len(levels) > 1:
        nodes[levels[0]]["extensions"] = {"MSFT_lod": {"ids": levels[1:]}}
        # Each level is drawn above its own share, the last one down to nothing.
        nodes[levels[0]]["extras"] |= {"MSFT_screencoverage": [*(lod.screen_size for _, lod in content.lods[1:]), 0.0]}
        made.document["extensionsUsed"] = ["MSFT_lod"]
        roots = [levels[0], *solids]
    if content.group and levels:
        nodes.append({"name": content.group, "children": roots})
        roots = [len(nodes) - 1]
    made.document["scenes"] = [{"name": content.name, "nodes": roots}]
    return made


def glb(made: GltfFile) -> bytes:
    """One binary file with its pictures inside."""
    document = dict(made.document)
    if made.images:
        document["images"] = [{"name": name, "mimeType": MIMES[kind], "bufferView": made.buffer.add(data)}
                              for name, kind, data in made.images]
    return pack(_finished(document, made.buffer), bytes(made.buffer.data))


def separate(made: GltfFile, stem: str, folder: str = "textures") -> dict[str, bytes]:
    """NAME.gltf, NAME.bin and the pictures under ``folder``/, by relative URIs -> path -> bytes."""
    import json
    from urllib.parse import quote
    document, files = dict(made.document), {}
    if made.images:
        document["images"] = []
        for name, kind, data in made.images:
            path = f"{folder}/{name}{SUFFIXES[kind]}"
            document["images"].append({"name": name, "uri": quote(path)})
            files[path] = data
    whole = _finished(document, made.buffer)
    whole["buffers"][0] = {"uri": quote(f"{stem}.bin"), **whole["buffers"][0]}
    text = json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return {f"{stem}.gltf": text.encode(), f"{stem}.bin": bytes(made.buffer.data), **files}


def _finished(document: dict[str, Any], buffer: Buffer) -> dict[str, Any]:
    return {**document, "accessors": buffer.accessors, "bufferViews": buffer.views,
            "buffers": [{"byteLength": len(buffer.data)}]}


# -- meshes ------------------------------------------------------------------------------------------------------------

def _add_level(made: GltfFile, name: str, lod: Lod, material: int) -> int:
    """One level as a mesh and its node -> the node's place."""
    attributes = _checked({"POSITION": lod.vertices, "NORMAL": unit(lod.normals)}, lod.faces)
    shaded = "normalTexture" in made.document["materials"][material]
    if shaded:  # without a normal map nothing would use them
        attributes["TANGENT"] = _finite("tangents", np.concatenate([unit(lod.tangents[:, :3]),
                                                                    np.sign(lod.tangents[:, 3:])], -1))
    attributes["TEXCOORD_0"] = _finite("uvs", lod.uvs)
    if lod.lightmap_uvs is not None:
        attributes["TEXCOORD_1"] = _finite("light-map uvs", lod.lightmap_uvs)
    return _add_mesh(made, name, attributes, lod.faces, material,
                     {"triangles": len(lod.faces), "screen_size": float(lod.screen_size)})


def _add_collider(made: GltfFile, name: str, solid: Collider) -> int:
    return _add_mesh(made, name, _checked({"POSITION": solid.vertices}, solid.faces), solid.faces, None,
                     {"collider": solid.kind, **solid.parameters})


def _add_mesh(made: GltfFile, name: str, attributes: Mapping[str, np.ndarray], faces: np.ndarray,
              material: int | None, extras: dict[str, Any]) -> int:
    buffer = made.buffer
    # 65535 is the restart index of a 16-bit buffer and may not be used as a vertex.
    small = len(attributes["POSITION"]) <= 65535
    indices = buffer.add_array(faces.reshape(-1).astype("<u2" if small else "<u4"), "SCALAR",
                               UNSIGNED_SHORT if small else UNSIGNED_INT, ELEMENT_ARRAY_BUFFER, bounds=True)
    places = {what: buffer.add_array(array, f"VEC{array.shape[1]}", FLOAT, ARRAY_BUFFER, bounds=what == "POSITION")
              for what, array in attributes.items()}
    part: dict[str, Any] = {"attributes": places, "indices": indices}
    if material is not None:
        part["material"] = material
    made.document["meshes"].append({"name": name, "primitives": [part]})
    made.document["nodes"].append({"name": name, "mesh": len(made.document["meshes"]) - 1, "extras": extras})
    return len(made.document["nodes"]) - 1


def _checked(attributes: dict[str, np.ndarray], faces: np.ndarray) -> dict[str, np.ndarray]:
    if len(faces) == 0 or len(attributes["POSITION"]) == 0:
        raise ValueError("a mesh without triangles cannot be written")
    if int(faces.max()) >= len(attributes["POSITION"]) or int(faces.min()) < 0:
        raise ValueError("a face names a vertex that is not there")
    return {what: _finite(what.lower(), array) for what, array in attributes.items()}


def _finite(what: str, array: np.ndarray) -> np.ndarray:
    kept = np.asarray(array, "<f4")
    if not np.isfinite(kept).all():
        raise ValueError(f"{what} hold values that are not finite")
    return kept


# -- materials ---------------------------------------------------------------------------------------------------------

class _Looks:
    """The asset's material, and that of each level that has pictures of its own."""

    def __init__(self, asset: GameAsset, pictures: Pictures, made: GltfFile) -> None:
        self.asset, self.pictures, self.made = asset, pictures, made
        self.known: dict[tuple[int, ...], int] = {}
        self.placed: dict[int, int] = {}

    def of(self, lod: Lod) -> int:
        """The place of a level's material, made when it is first asked for."""
        m = self.asset.material
        base = m.base_color if lod.base_color is None else lod.base_color
        normal = m.normal if lod.normal is None else lod.normal
        orm = m.orm if lod.orm is None else lod.orm
        own = (id(base), id(normal), id(orm))
        if own not in self.known:
            level = "" if not self.known and lod is self.asset.lods[0] else self._level(lod)
            materials = self.made.document.setdefault("materials", [])
            materials.append(self._material(f"{self.asset.name}{level}", base, normal, orm))
            self.known[own] = len(materials) - 1
        return self.known[own]

    def _level(self, lod: Lod) -> str:
        if all(own is None for own in (lod.base_color, lod.normal, lod.orm)):
            return ""
        return next((f"_LOD{i}" for i, one in enumerate(self.asset.lods) if one is lod), "")

    def _material(self, name: str, base: np.ndarray, normal: np.ndarray | None, orm: np.ndarray) -> dict[str, Any]:
        m = self.asset.material
        first = self._texture(base, "base_color", f"{name}_base_color")
        shared = self._texture(orm, "orm", f"{name}_orm")
        told: dict[str, Any] = {"name": name, "pbrMetallicRoughness": {
            "baseColorTexture": {"index": first},
            "baseColorFactor": [1, 1, 1, 1], "metallicFactor": float(m.metallic),
            "roughnessFactor": float(m.roughness), "metallicRoughnessTexture": {"index": shared}},
            "occlusionTexture": {"index": shared}}
        if normal is not None:
            told["normalTexture"] = {"index": self._texture(normal, "normal", f"{name}_{self.pictures.word('normal')}")}
        if m.emissive is not None:
            told["emissiveTexture"] = {"index": self._texture(m.emissive, "emissive", f"{name}_emissive")}
        if m.emissive is not None or any(m.emissive_factor):
            told["emissiveFactor"] = [float(v) for v in m.emissive_factor]
        if m.alpha != "OPAQUE":
            told["alphaMode"] = m.alpha
        if m.alpha == "MASK":
            told["alphaCutoff"] = float(m.alpha_cutoff)
        if m.double_sided:
            told["doubleSided"] = True
        return told

    def _texture(self, image: np.ndarray, kind: Any, name: str) -> int:
        """The place of a picture's texture; a picture that was met before is not written again."""
        if id(image) in self.placed:
            return self.placed[id(image)]
        document = self.made.document
        format, data = self.pictures.encoded(image, kind)
        self.made.images.append((name, format, data))
        source = len(self.made.images) - 1
        document.setdefault("samplers", [{"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": REPEAT,
                                          "wrapT": REPEAT}])
        textures = document.setdefault("textures", [])
        if format == "webp":
            textures.append({"sampler": 0, "extensions": {"EXT_texture_webp": {"source": source}}})
            for list_name in ("extensionsUsed", "extensionsRequired"):
                if "EXT_texture_webp" not in document.setdefault(list_name, []):
                    document[list_name].append("EXT_texture_webp")
        else:
            textures.append({"sampler": 0, "source": source})
        self.placed[id(image)] = len(textures) - 1
        return self.placed[id(image)]
