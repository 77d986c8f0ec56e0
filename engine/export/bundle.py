"""One asset for one profile: every file of it, the manifest of what the files cannot hold, and their place on disk.

    bundle = profile_files(asset, profile("unreal"), ("glb",))
    bundle.files["Mug.glb"], bundle.manifest["lods"]
    place(bundle, Path("out"))

NAME.manifest.json comes last when a folder is written and goes first when it is written again: where it stands, all
that it lists is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BadInput
from engine.export.gltf import Content, glb, gltf_file, separate
from engine.export.pictures import Pictures, mask_map
from engine.export.profiles import PRINTED, Profile
from engine.meshes.asset import GameAsset, Lod
from engine.runs import files as disk

FOLDER = "textures"
CANNOT = {
    "obj": ("light-map UVs", "tangents", "colliders", "occlusion", "papers"),
    "ply": ("pictures (vertices carry the base colour)", "light-map UVs", "tangents", "colliders", "papers"),
    "stl": ("UVs", "normals a vertex", "pictures", "colliders", "papers", "units"),
    "3mf": ("UVs", "normals a vertex", "pictures", "colliders"),
    "fbx": ("metallic and roughness as pictures (one number each)", "occlusion", "papers",
            "emissive factor where there is no picture"),
    "usdc": ("tangents",), "usdz": ("tangents",)}
"""What stays behind in each format; the manifest says it, and the pictures lie beside the file."""


@dataclass
class Bundle:
    """files : path -> bytes; manifest : JSON; notes : what must be said, one line each"""

    name: str
    profile: Profile
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, made: Mapping[str, bytes]) -> None:
        """Take files in; two of one path must be one."""
        for path, data in made.items():
            if self.files.setdefault(path, data) != data:
                raise ValueError(f"two different files want to be {path}")


def profile_files(asset: GameAsset, wanted: Profile, formats: Sequence[str], *, compression: str = "auto",
                  msft_lod: bool = False, largest: int | None = None, key: str = "", notes: Sequence[str] = ()
                  ) -> Bundle:
    """Every file of an asset for a profile.

    compression : "auto", "meshopt", "draco" or "none", asked by profiles that compress; msft_lod : levels by MSFT_lod
    largest : pixels a side of pictures; None: the profile's; key : what it was made from (:func:`place`)
    BadInput where a format needs something that is not installed.
    """
    bundle = Bundle(asset.name, wanted, notes=[*notes, *_too_many(asset, wanted)])
    size = min(largest or wanted.largest, wanted.largest)
    inside = Pictures(wanted.picture, size)
    beside = Pictures("png", size, directx=wanted.normal_y < 0)
    for format in formats:
        if format in ("glb", "gltf"):
            _gltf(bundle, asset, format, inside, compression, msft_lod)
        elif format == "obj":
            _obj(bundle, asset, beside)
        elif format == "ply":
            _ply(bundle, asset)
        elif format in PRINTED:
            _printed(bundle, asset, format)
        elif format in ("usdc", "usdz"):
            _usd(bundle, asset, format, Pictures("png", size))
        else:
            _fbx(bundle, asset, beside)
    if wanted.mask_map and any(format not in PRINTED for format in formats):
        m = asset.material
        mask = mask_map(m.orm, m.metallic, m.roughness)
        bundle.add({f"{FOLDER}/{asset.name}_mask_map.png": Pictures("png", size).encoded(mask, "mask")[1]})
    if "fbx" in formats:
        m = asset.material
        bundle.add({f"{FOLDER}/{asset.name}_orm.png": beside.encoded(m.orm, "orm")[1]})
    bundle.manifest = _manifest(bundle, asset, formats, key)
    return bundle


def _too_many(asset: GameAsset, wanted: Profile) -> list[str]:
    """A line for the levels that a 16-bit index does not reach."""
    if wanted.vertices > 65_535:  # editors and slicers
        return []
    levels = _levels(asset, wanted, wanted.lods == "nodes")
    large = [(name, len(lod.vertices)) for name, lod in levels if len(lod.vertices) > wanted.vertices]
    return [f"{name} has {count:,} vertices, more than {wanted.vertices:,}: {wanted.name} takes it with 32-bit "
            "indices, which some devices lack; --triangles makes fewer" for name, count in large[:1]]


# -- one format each ---------------------------------------------------------------------------------------------------

def _levels(asset: GameAsset, wanted: Profile, together: bool) -> list[tuple[str, Lod]]:
    """(node name, level) of all levels that the profile takes; ``together``: named as in one file."""
    shown = asset.lods[:1] if wanted.lods == "first" else asset.lods
    if together:
        return [(asset.name if len(shown) == 1 else f"{asset.name}_LOD{i}", lod) for i, lod in enumerate(shown)]
    return [(wanted.lod_name(asset.name, i, len(shown)), lod) for i, lod in enumerate(shown)]


def _solids(asset: GameAsset, wanted: Profile, owner: str) -> list[tuple[str, Any]]:
    return [(wanted.collider_name(owner, i), solid) for i, solid in enumerate(asset.colliders)]


def contents(asset: GameAsset, wanted: Profile, msft_lod: bool = False) -> list[tuple[str, Content]]:
    """(file's stem, what it holds) of each glTF file."""
    levels = _levels(asset, wanted, wanted.lods == "nodes")
    solids = _solids(asset, wanted, levels[0][0] if wanted.lods == "nodes" and wanted.name == "unreal" else asset.name)
    inside = solids if wanted.colliders == "inside" else []
    group = asset.name if wanted.lod_group and len(levels) > 1 else ""
    if wanted.lods == "nodes" or msft_lod:
        found = [(asset.name, Content(wanted.scene.format(name=asset.name), levels, inside, group, msft_lod))]
    else:
        found = [(asset.name, Content(wanted.scene.format(name=asset.name), levels[:1], inside))]
        found += [(name, Content(wanted.scene.format(name=name), [(name, lod)])) for name, lod in levels[1:]]
    if wanted.colliders == "file" and solids:
        found.append((f"{asset.name}_colliders", Content(f"{asset.name}_colliders", [], solids)))
    return found


def _gltf(bundle: Bundle, asset: GameAsset, format: str, pictures: Pictures, compression: str, msft_lod: bool) -> None:
    for stem, content in contents(asset, bundle.profile, msft_lod):
        made = gltf_file(asset, content, pictures)
        if format == "gltf":
            bundle.add(separate(made, stem, FOLDER))
            continue
        data = glb(made)
        if bundle.profile.compression and content.lods:
            from engine.export.compress import compressed
            data, said = compressed(data, compression)
            if said not in bundle.notes:
                bundle.notes.append(said)
        bundle.add({f"{stem}.glb": data})
    if format == "gltf" and bundle.profile.compression:
        bundle.notes.append("gltf: geometry is not compressed; glb is")


def _obj(bundle: Bundle, asset: GameAsset, pictures: Pictures) -> None:
    from engine.export.obj import obj_files
    for name, lod in _levels(asset, bundle.profile, bundle.profile.lods == "nodes"):
        first = lod is asset.lods[0]
        bundle.add(obj_files(asset, asset.name if first else name, [(name, lod)], pictures, FOLDER))


def _ply(bundle: Bundle, asset: GameAsset) -> None:
    from engine.export.ply import ply_bytes
    for name, lod in _levels(asset, bundle.profile, bundle.profile.lods == "nodes"):
        base = asset.material.base_color if lod.base_color is None else lod.base_color
        height, width = base.shape[:2]
        texel = np.clip((lod.uvs % 1.0 if len(lod.uvs) else lod.uvs) * [width, height], 0, [width - 1, height - 1])
        colors = base[texel[:, 1].astype(int), texel[:, 0].astype(int), :3]
        turned = np.stack([lod.uvs[:, 0], 1 - lod.uvs[:, 1]], -1)
        stem = asset.name if lod is asset.lods[0] else name
        bundle.add({f"{stem}.ply": ply_bytes(lod.vertices, lod.faces, lod.normals, colors, turned,
                                             ["made by Maquette"])})


def _printed(bundle: Bundle, asset: GameAsset, format: str) -> None:
    from engine.export.stl import printed, stl_bytes
    from engine.export.threemf import threemf_bytes
    solid = printed(asset.lods[0].vertices, asset.lods[0].faces)
    if solid.lack and (said := f"it is not closed, a printer cannot tell its inside: {solid.lack}") not in bundle.notes:
        bundle.notes.append(said)
    data = stl_bytes(solid, asset.name) if format == "stl" else threemf_bytes(solid, asset.name, asset.papers)
    bundle.add({f"{asset.name}.{format}": data})


def _usd(bundle: Bundle, asset: GameAsset, format: str, pictures: Pictures) -> None:
    from engine.export.usd import usd_files
    wanted = bundle.profile
    solids = [(f"{asset.name}_col{i:02d}", solid) for i, solid in enumerate(asset.colliders)]
    bundle.add(usd_files(asset, asset.name, _levels(asset, wanted, True), solids if wanted.colliders != "none" else [],
                         pictures, package=format == "usdz", folder=FOLDER))


def _fbx(bundle: Bundle, asset: GameAsset, pictures: Pictures) -> None:
    from engine.export.fbx import fbx_bytes
    wanted = bundle.profile
    together = wanted.lods == "nodes" or wanted.name == "unreal"
    levels = _levels(asset, wanted, True) if together else _levels(asset, wanted, False)[:1]
    solids = _solids(asset, wanted, levels[0][0] if wanted.name == "unreal" else asset.name)
    group = asset.name if len(levels) > 1 else ""
    content = Content(asset.name, levels, solids if wanted.colliders != "none" else [], group)
    made = separate(gltf_file(asset, content, pictures), "scene", FOLDER)
    data = fbx_bytes(made, "scene.gltf", group, "LodGroup" if wanted.name == "unreal" and group else "", FOLDER,
                     (asset.material.flat_metallic, asset.material.flat_roughness))
    bundle.add({f"{asset.name}.fbx": data, **{path: data for path, data in made.items() if path.startswith(FOLDER)}})


# -- papers ------------------------------------------------------------------------------------------------------------

def _manifest(bundle: Bundle, asset: GameAsset, formats: Sequence[str], key: str) -> dict[str, Any]:
    wanted, m = bundle.profile, asset.material
    together = wanted.lods == "nodes"
    levels = _levels(asset, wanted, together)
    owner = levels[0][0] if together and wanted.name == "unreal" else asset.name
    printing = all(format in PRINTED for format in formats)
    return {
        "schema": 1, "asset": asset.name, "profile": wanted.name, "for": wanted.what, "formats": list(formats),
        "key": key, "units": "millimetres" if printing else "metres", "up": "+Z" if printing else "+Y",
        "front": "-Y" if printing else "+Z", "origin": "base centre", "height_m": asset.height_m,
        "rig": None,
        "lods": [{"level": i, "name": name, "triangles": len(lod.faces), "vertices": len(lod.vertices),
                  "ratio": lod.ratio, "screen_size": lod.screen_size} for i, (name, lod) in enumerate(levels)],
        "colliders": [] if wanted.colliders == "none" else [
            {"name": name, "kind": solid.kind, "vertices": len(solid.vertices), **solid.parameters}
            for name, solid in _solids(asset, wanted, owner)],
        "material": {
            "metallic": m.metallic, "roughness": m.roughness, "emissive_factor": list(m.emissive_factor),
            "alpha": m.alpha, "alpha_cutoff": m.alpha_cutoff, "double_sided": m.double_sided,
            "orm": "R occlusion, G roughness, B metallic; linear; times the factors",
            "normal_map": None if m.normal is None else (
                "OpenGL (+Y up) in GLB, glTF and USD" + ("; DirectX (-Y) beside OBJ and FBX" if wanted.normal_y < 0
                                                         else "; OpenGL beside OBJ and FBX too")),
            "mask_map": "Unity HDRP: R metallic, G occlusion, A smoothness" if wanted.mask_map else None},
        "lightmap_uvs": "the second UV set (TEXCOORD_1, st1)" if asset.lods[0].lightmap_uvs is not None else None,
        "cannot_hold": {format: list(CANNOT[format]) for format in formats if format in CANNOT},
        "figures": {name: value for name, value in asset.meta.items() if isinstance(value, int | float)},
        "papers": dict(asset.papers), "notes": bundle.notes,
        "files": [{"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for path, data in sorted(bundle.files.items())]}


def bundle_zip(bundle: Bundle) -> bytes:
    """Everything and the manifest in one zip; equal files make equal bytes."""
    from engine.export.threemf import zipped
    return zipped({**bundle.files, f"{bundle.name}.manifest.json": manifest_text(bundle).encode()})


def manifest_text(bundle: Bundle) -> str:
    """The manifest as it stands in its file."""
    return json.dumps(bundle.manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


# -- on disk -----------------------------------------------------------------------------------------------------------

def manifest_path(folder: Path, name: str) -> Path:
    """Where an export's manifest lies."""
    return folder / f"{name}.manifest.json"


def standing(folder: Path, name: str, key: str) -> dict[str, Any] | None:
    """The manifest of a whole export from the very same things (``key``) that is there already, else None."""
    try:
        told = json.loads(manifest_path(folder, name).read_text(encoding="utf-8"))
        whole = told["key"] == key and bool(key) and all(
            disk.file_digest(folder / one["path"]) == one["sha256"] for one in told["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if whole else None


def place(bundle: Bundle, folder: Path, overwrite: bool = False, pack: bool = False) -> list[Path]:
    """Write the bundle into ``folder``, each file as one act, the manifest last -> what was written.

    overwrite : replace files that are there; without: BadInput that names one, and nothing is touched
    pack : NAME_PROFILE.zip too
    """
    manifest = manifest_path(folder, bundle.name)
    packed = {f"{bundle.name}_{bundle.profile.name}.zip": bundle_zip(bundle)} if pack else {}
    whole = {**bundle.files, **packed}
    with disk.one_line_errors("the export", folder, "--out"):
        theirs = [path for path, data in whole.items()
                  if (folder / path).exists() and not _same(folder / path, data)]
        if not overwrite and (theirs or (manifest.exists() and manifest.read_text("utf-8") != manifest_text(bundle))):
            raise BadInput(f"{folder / (theirs or [manifest.name])[0]} is there already, with other contents",
                           "Choose another --name or --out, or give --overwrite to replace it")
        before = _listed(folder, manifest)
        manifest.unlink(missing_ok=True)
        for path, data in whole.items():
            if not _same(folder / path, data):
                disk.write_file(folder / path, data)
        for path in before - set(whole):
            (folder / path).unlink(missing_ok=True)  # of the export that this one replaces
        disk.write_file(manifest, manifest_text(bundle))
    return [folder / path for path in sorted(whole)] + [manifest]


def _same(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _listed(folder: Path, manifest: Path) -> set[str]:
    """Files that the manifest in a folder lists, as far as they lie in it."""
    try:
        told = [one["path"] for one in json.loads(manifest.read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    root = folder.resolve()
    return {path for path in told if isinstance(path, str) and root in (folder / path).resolve().parents}
