"""A glTF scene as one mesh with one material: parts joined, the pictures of several materials side by side.

A file of one material keeps its pictures and factors as they are. Of several, factors go into the pictures.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import BadInput
from engine.meshes.finding import Damage
from engine.meshes.gltf_looks import Look, image_pixels
from engine.meshes.gltf_scene import Part, Scene
from engine.meshes.read import MeshFile, side_by_side

if TYPE_CHECKING:
    from engine.meshes.foreign import Foreign

COLLIDER = re.compile(r"^(UCX|UBX|USP|UCP)_|-(conv)?col(only)?(\.\d+)?$|_col\d+(\.\d+)?$", re.IGNORECASE)
"""Names of colliders by the engines' conventions, ours among them."""
LOWER_LOD = re.compile(r"_LOD0*[1-9]\d*(\.\d+)?$", re.IGNORECASE)
MOST_PARTS = 256
"""Materials that can be put side by side into one picture."""
FLAT: dict[str, tuple[float, float, float]] = {"normal": (0.5, 0.5, 1.0), "orm": (1.0, 1.0, 1.0),
                                               "emissive": (0.0, 0.0, 0.0)}
UNSAID = Look(metallic=0.0, roughness=0.7)
"""Of a part without a material."""


def merge_into(found: Foreign, scene: Scene) -> None:
    """Fill ``found`` from the scene. BadInput where there is no surface, or more materials than one picture holds."""
    parts = shown_parts(scene)
    if not parts:
        raise BadInput(f"{found.path} has no faces: there is no surface to work on",
                       "give a mesh with triangles; a cloud of points must be meshed first")
    extras = scene.document.data["asset"].get("extras")
    found.papers = dict(extras) if isinstance(extras, dict) else {}
    used = list(dict.fromkeys(part.material for part in parts))
    if len(used) > MOST_PARTS:
        raise BadInput(f"{found.path} has {len(used):,} materials; at most {MOST_PARTS} become one picture",
                       "Join materials first")
    looks = [UNSAID if k is None else scene.looks[k] for k in used]
    if len(looks) > 1:
        scene.document.say("warning", "joined", f"its {len(looks)} materials become one, pictures side by side")
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = np.concatenate([part.faces + n for part, n in zip(parts, first, strict=False)])
    found.file = MeshFile(np.concatenate([part.vertices for part in parts]), faces, materials=len(used),
                          normals=_all(parts, "normals"))
    found.uvs2, found.tangents = _all(parts, "uvs2"), _all(parts, "tangents")
    found.alpha, found.cutoff = looks[0].alpha, looks[0].cutoff
    found.double_sided = any(look.double_sided for look in looks)
    pictures = [_pictures(scene, look) for look in looks]
    _average_shine(found, scene, parts, used, looks, pictures)
    if len(looks) == 1:
        _keep(found, scene, parts, looks[0], pictures[0])
    else:
        _lay_out(found, scene, parts, [used.index(part.material) for part in parts], looks, pictures)


def shown_parts(scene: Scene) -> list[Part]:
    """Without colliders and lower levels of detail, by their names; without what has no faces."""
    parts = [part for part in scene.parts if len(part.faces)]
    kept = [part for part in parts if not (COLLIDER.search(part.node) or LOWER_LOD.search(part.node))]
    if kept and len(kept) < len(parts):
        scene.document.say("warning", "left_out", f"{len(parts) - len(kept)} colliders and lower levels of detail are "
                           "left out, by their names: they are made anew")
    return kept or parts


def _all(parts: list[Part], name: str) -> np.ndarray | None:
    values = [getattr(part, name) for part in parts]
    return None if any(value is None for value in values) else np.concatenate(values)


def _keep(found: Foreign, scene: Scene, parts: list[Part], look: Look, pictures: dict[str, np.ndarray]) -> None:
    """One material: its pictures stay as they are."""
    found.file.uvs = _all(parts, "uvs")
    base = pictures.pop("base", None)
    tint = np.array(look.base_color[:3])
    if found.file.uvs is None or (base is None and not pictures):
        if found.file.uvs is None and (base is not None or pictures):
            scene.document.say("warning", "no_uvs", "its pictures are averaged: there are no UVs to lay them on")
        _vertex_colours(found, parts, [0] * len(parts), [_flat_base(base, tint)])
        return
    shown = np.full((4, 4, 3), srgb(tint)) if base is None else tinted(base, tint)
    found.file.texture = np.ascontiguousarray(shown[..., :3], np.float32)
    if look.alpha != "OPAQUE":
        clear = shown[..., 3] if shown.shape[-1] == 4 else np.ones(shown.shape[:2])
        found.base_alpha = (clear * look.base_color[3]).astype(np.float32)
    found.pictures = pictures
    if "orm" in pictures:
        found.metallic_factor, found.roughness_factor = look.metallic, look.roughness
    r, g, b = look.emissive
    found.emissive_factor = (r, g, b)


def _lay_out(found: Foreign, scene: Scene, parts: list[Part], which: list[int], looks: list[Look],
             pictures: list[dict[str, np.ndarray]]) -> None:
    """Several materials: one grid of squares for every kind of picture, factors baked in."""
    bases = [one.pop("base", None) for one in pictures]
    tints = [np.array(look.base_color[:3]) for look in looks]
    uvs = _all(parts, "uvs")
    if uvs is None or (not any(pictures) and all(base is None for base in bases)):
        found.file.uvs = None
        if any(base is not None for base in bases):
            scene.document.say("warning", "no_uvs", "its pictures are averaged: there are no UVs to lay them on")
        _vertex_colours(found, parts, which, [_flat_base(base, tint) for base, tint in zip(bases, tints, strict=True)])
        return
    by_look = [np.concatenate([part.uvs for part, k in zip(parts, which, strict=True)
                               if k == look and part.uvs is not None]) for look in range(len(looks))]
    tiles: list[Any] = [tuple(srgb(tint)) if base is None else tinted(base, tint)[..., :3]
                        for base, tint in zip(bases, tints, strict=True)]
    joined, found.file.texture = side_by_side(by_look, tiles)
    moved = np.split(joined, np.cumsum([len(one) for one in by_look])[:-1])
    taken, placed = [0] * len(looks), []
    for part, k in zip(parts, which, strict=True):
        placed.append(moved[k][taken[k]:taken[k] + len(part.vertices)])
        taken[k] += len(part.vertices)
    found.file.uvs, found.tangents = np.concatenate(placed), found.tangents
    for name in FLAT:
        if any(name in one for one in pictures) or (name == "orm" and len({(k.metallic, k.roughness)
                                                                           for k in looks}) > 1):
            page = side_by_side(by_look, [_baked(name, one.get(name), look)
                                          for one, look in zip(pictures, looks, strict=True)])[1]
            found.pictures[name] = page
    found.emissive_factor = (1.0, 1.0, 1.0) if "emissive" in found.pictures else (0.0, 0.0, 0.0)
    if "orm" not in found.pictures:
        found.metallic_factor, found.roughness_factor = looks[0].metallic, looks[0].roughness


def _baked(name: str, picture: np.ndarray | None, look: Look) -> Any:
    """A material's picture with its factors in it, or one colour where it has none."""
    factors = np.array({"orm": (1.0, look.roughness, look.metallic), "emissive": look.emissive}.get(name, (1.0,) * 3))
    if picture is None:
        return tuple(FLAT[name]) if name == "normal" else tuple(factors)
    return picture if name == "normal" else (picture * factors).astype(np.float32)


def _vertex_colours(found: Foreign, parts: list[Part], which: list[int], flat: list[np.ndarray]) -> None:
    found.pictures = {}
    found.file.colors = np.concatenate([
        (np.ones((len(part.vertices), 3)) if part.colors is None else part.colors) * flat[k]
        for part, k in zip(parts, which, strict=True)]).astype(np.float32)


def _flat_base(base: np.ndarray | None, tint: np.ndarray) -> np.ndarray:
    """One sRGB colour."""
    return srgb(tint if base is None else linear(base[..., :3]).reshape(-1, 3).mean(0) * tint)


def _average_shine(found: Foreign, scene: Scene, parts: list[Part], used: list[int | None], looks: list[Look],
                   pictures: list[dict[str, np.ndarray]]) -> None:
    """One metallic and one roughness for what knows no pictures: by surface."""
    if not any(look.said_metallic or look.said_roughness or look.orm_picture is not None for look in looks):
        if looks != [UNSAID]:
            scene.document.say("warning", "unsaid_shine", "its material says neither metallic nor roughness (glTF's "
                               "default is metal): plain values are taken instead")
        return
    areas, values = np.zeros(len(looks)), np.zeros((len(looks), 2))
    for part in parts:
        corners = part.vertices[part.faces]
        with np.errstate(all="ignore"):
            own = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        areas[used.index(part.material)] += np.nansum(own)
    for k, (look, own_pictures) in enumerate(zip(looks, pictures, strict=True)):
        orm = own_pictures.get("orm")
        shown = np.ones(3) if orm is None else orm.reshape(-1, 3).mean(0)
        values[k] = look.metallic * shown[2], look.roughness * shown[1]
    weight = areas / areas.sum() if areas.sum() > 0 else np.full(len(looks), 1 / len(looks))
    found.metallic, found.roughness = (float(v) for v in np.clip(weight @ values, 0, 1))


# -- pictures ----------------------------------------------------------------------------------------------------------

def _pictures(scene: Scene, look: Look) -> dict[str, np.ndarray]:
    """A material's "base", "normal", "orm" and "emissive" pictures, as far as they can be read; others are said."""
    read = {name: _read(scene, getattr(look, f"{name}_picture"))
            for name in ("base", "normal", "orm", "occlusion", "emissive")}
    made: dict[str, np.ndarray] = {}
    if (base := read["base"]) is not None:
        made["base"] = base
    if (normal := read["normal"]) is not None:
        made["normal"] = _scaled_normal(normal[..., :3], look.normal_scale)
    if read["orm"] is not None or read["occlusion"] is not None:
        made["orm"] = _orm(read["orm"], read["occlusion"], look.occlusion_strength)
    if (emissive := read["emissive"]) is not None:
        made["emissive"] = emissive[..., :3]
    if any(k > 0 for k in look.uv_sets):
        scene.document.say("warning", "left_out", "pictures that lie on its second UV set are laid on the first")
    return made


def _read(scene: Scene, index: int | None) -> np.ndarray | None:
    if index is None:
        return None
    try:
        return image_pixels(scene.document, index)
    except Damage as damage:
        said = damage.finding
        code = "missing_texture" if said.code == "missing_file" else said.code
        scene.document.say("warning", code, f"{said.text}: it goes on without", said.where)
        return None


def _scaled_normal(normal: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1.0:
        return normal
    vectors = (normal * 2 - 1) * np.array([scale, scale, 1.0])
    length = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
    return (vectors / length * 0.5 + 0.5).astype(np.float32)


def _orm(orm: np.ndarray | None, occlusion: np.ndarray | None, strength: float) -> np.ndarray:
    """R occlusion (its strength baked in), G roughness, B metallic; 1 where a picture is missing."""
    shape = orm.shape[:2] if orm is not None else occlusion.shape[:2]  # type: ignore[union-attr]
    made = np.ones((*shape, 3), np.float32)
    if orm is not None:
        made[..., 1:] = orm[..., 1:3]
    if occlusion is not None:
        dark = occlusion[..., 0]
        if dark.shape != shape:
            from PIL import Image
            dark = np.asarray(Image.fromarray(np.ascontiguousarray(dark)).resize(shape[::-1], Image.Resampling.BOX))
        made[..., 0] = dark if strength == 1.0 else 1 + strength * (dark - 1)
    return made


def tinted(picture: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """sRGB (h, w, 3 or 4) times a linear factor (3,); the same array where the factor is 1."""
    if (factor == 1).all():
        return picture
    return np.concatenate([srgb(linear(picture[..., :3]) * factor), picture[..., 3:]], -1).astype(np.float32)


def linear(values: np.ndarray) -> np.ndarray:
    """sRGB -> linear."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb(values: np.ndarray) -> np.ndarray:
    """Linear -> sRGB."""
    low = np.clip(values, 0, 1)
    return np.where(low <= 0.0031308, low * 12.92, 1.055 * low ** (1 / 2.4) - 0.055)
