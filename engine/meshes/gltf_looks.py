"""A glTF document's materials and pictures, believed as little as the rest of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.meshes.finding import Damage
from engine.meshes.gltf_document import MOST_PIXELS, GltfDocument


@dataclass
class Look:
    """A metallic-roughness material with glTF's defaults filled in; pictures by their place among the images, or None.

    base_color : 4 linear factors; normal_scale, occlusion_strength : of their pictures
    said_metallic, said_roughness : whether the file says them (their defaults are 1: metal)
    uv_sets : UV sets that its pictures use
    """

    name: str = ""
    base_color: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    metallic: float = 1.0
    roughness: float = 1.0
    said_metallic: bool = False
    said_roughness: bool = False
    emissive: tuple[float, ...] = (0.0, 0.0, 0.0)
    base_picture: int | None = None
    orm_picture: int | None = None
    normal_picture: int | None = None
    occlusion_picture: int | None = None
    emissive_picture: int | None = None
    normal_scale: float = 1.0
    occlusion_strength: float = 1.0
    alpha: str = "OPAQUE"
    cutoff: float = 0.5
    double_sided: bool = False
    uv_sets: tuple[int, ...] = ()


def read_looks(document: GltfDocument) -> list[Look]:
    """Every material. One that is damaged is glTF's default one, and said."""
    found = []
    for i in range(len(document.items("materials"))):
        try:
            found.append(_look(document, document.item("materials", i, "/materials"), f"/materials/{i}"))
        except Damage as damage:
            document.findings.append(damage.finding)
            found.append(Look())
    return found


def _look(document: GltfDocument, told: dict[str, Any], where: str) -> Look:
    pbr = _object(told, "pbrMetallicRoughness", where)
    made = Look(name=told["name"] if isinstance(told.get("name"), str) else "",
                base_color=_factors(pbr, "baseColorFactor", (1.0,) * 4, where),
                metallic=_factor(pbr, "metallicFactor", 1.0, where),
                roughness=_factor(pbr, "roughnessFactor", 1.0, where), said_metallic="metallicFactor" in pbr,
                said_roughness="roughnessFactor" in pbr, emissive=_factors(told, "emissiveFactor", (0.0,) * 3, where),
                alpha=str(told.get("alphaMode", "OPAQUE")), cutoff=_factor(told, "alphaCutoff", 0.5, where, 1e6),
                double_sided=told.get("doubleSided") is True)
    if made.alpha not in ("OPAQUE", "MASK", "BLEND"):
        raise Damage("not_gltf", f"its alphaMode is {made.alpha[:20]!r}", where)
    sets: set[int] = set()
    for owner, key, name in (
            (pbr, "baseColorTexture", "base_picture"), (pbr, "metallicRoughnessTexture", "orm_picture"),
            (told, "normalTexture", "normal_picture"), (told, "occlusionTexture", "occlusion_picture"),
            (told, "emissiveTexture", "emissive_picture")):
        about = _object(owner, key, where)
        if not about:
            continue
        setattr(made, name, _image_of(document, about, f"{where}/{key}"))
        moved = _object(_object(about, "extensions", where), "KHR_texture_transform", where)
        sets.add(int(moved.get("texCoord", about.get("texCoord", 0)) or 0))
        if moved and (moved.get("offset", [0, 0]) != [0, 0] or moved.get("scale", [1, 1]) != [1, 1]
                      or moved.get("rotation", 0)):
            document.say("warning", "left_out", "its picture is moved over the UVs (KHR_texture_transform), which is "
                         "not looked at", f"{where}/{key}")
        if name == "normal_picture":
            made.normal_scale = _factor(about, "scale", 1.0, where, 1e6)
        if name == "occlusion_picture":
            made.occlusion_strength = _factor(about, "strength", 1.0, where)
    made.uv_sets = tuple(sorted(sets))
    for name in _object(told, "extensions", where):
        if name not in ("KHR_materials_unlit", "KHR_materials_emissive_strength"):
            document.say("info", "left_out", f"its material says {str(name)[:60]}, which is not looked at", where)
    return made


def _image_of(document: GltfDocument, about: dict[str, Any], where: str) -> int | None:
    """A texture's image; Damage for a texture that is not there, None for one without a picture that is known here."""
    texture = document.item("textures", about.get("index"), where)
    webp = _object(_object(texture, "extensions", where), "EXT_texture_webp", where)
    source = webp.get("source", texture.get("source"))
    if source is None:
        document.say("warning", "missing_texture", "a texture has no picture that is known here (PNG, JPEG, WebP)",
                     where)
        return None
    document.item("images", source, where)
    return int(source)


def image_bytes(document: GltfDocument, index: int) -> bytes:
    """An image's file. Damage where it is not there."""
    about, where = document.item("images", index, "/images"), f"/images/{index}"
    if "bufferView" in about:
        return bytes(document.view(about["bufferView"], where))
    if "uri" in about:
        return bytes(document.resource(about["uri"], where + "/uri"))
    raise Damage("missing_file", f"image {index} has no bytes anywhere", where)


def image_head(document: GltfDocument, index: int) -> tuple[str, int, int, int]:
    """(format, width, height, bytes) of an image by its header: no pixel is decoded."""
    from PIL import Image
    data, where = image_bytes(document, index), f"/images/{index}"
    try:
        with _quiet(), Image.open(io.BytesIO(data)) as picture:
            return str(picture.format).lower(), picture.width, picture.height, len(data)
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above ours
        told = "".join(c for c in str(error).partition("pixels")[0] if c.isdigit())
        raise Damage("too_large", f"image {index} would unpack to {int(told or 0):,} pixels", where) from None
    except Exception as error:  # Pillow raises whatever the damage leads to
        raise Damage("bad_image", f"image {index} cannot be read ({type(error).__name__})", where) from error


def image_pixels(document: GltfDocument, index: int) -> np.ndarray:
    """(h, w, 3 or 4) float32 in [0, 1]. Damage for one that is not there, is damaged, or would unpack to more than
    MOST_PIXELS."""
    from PIL import Image
    kind, width, height, _ = image_head(document, index)
    where = f"/images/{index}"
    if width * height > MOST_PIXELS:
        raise Damage("too_large", f"image {index} ({kind}) would unpack to {width:,} x {height:,} pixels", where)
    try:
        with _quiet(), Image.open(io.BytesIO(image_bytes(document, index))) as picture:
            clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
            return np.asarray(picture.convert("RGBA" if clear else "RGB"), np.float32) / 255
    except Damage:
        raise
    except Exception as error:
        raise Damage("bad_image", f"image {index} cannot be read ({type(error).__name__})", where) from error


def _quiet() -> Any:
    """Pillow's own warning of large pictures: the limit here is ours."""
    import warnings
    return warnings.catch_warnings(action="ignore")


def _object(owner: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = owner.get(key, {})
    if not isinstance(found, dict):
        raise Damage("not_gltf", f"{key} is no object", where)
    return found


def _factor(owner: dict[str, Any], key: str, usual: float, where: str, most: float = 1.0) -> float:
    value = owner.get(key, usual)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise Damage("not_gltf", f"{key} is {str(value)[:20]}", where)
    return float(value)


def _factors(owner: dict[str, Any], key: str, usual: tuple[float, ...], where: str) -> tuple[float, ...]:
    value = owner.get(key, list(usual))
    if not isinstance(value, list) or len(value) != len(usual):
        raise Damage("not_gltf", f"{key} has not {len(usual)} numbers", where)
    return tuple(_factor({key: one}, key, 0.0, where) for one in value)
