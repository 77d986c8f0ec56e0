"""Wavefront OBJ with a material file: plain text that every program reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.artifacts import save_png
from engine.export.pictures import SUFFIXES, Pictures
from engine.meshes.asset import GameAsset, Lod


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray,
              base_color: np.ndarray, metallic: float = 0.0, roughness: float = 0.7) -> list[Path]:
    """Write ``path`` (.obj), and beside it a .mtl and a .png of the same stem. Returns the three paths.

    Arguments as :func:`engine.export.glb.glb_bytes`. OBJ's texture origin is bottom left, so v is turned. The
    material names ``d`` and never ``Tr``, which half of all readers take the wrong way round.
    """
    material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
    lines = [f"mtllib {material.name}", f"o {path.stem}"]
    lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in vertices.tolist()]
    lines += [f"vt {u:.7g} {1 - v:.7g}" for u, v in uvs.tolist()]
    lines += [f"vn {x:.5g} {y:.5g} {z:.5g}" for x, y, z in normals.tolist()]
    lines += ["usemtl asset"]
    lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in (faces.astype(np.int64) + 1).tolist()]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    material.write_text("newmtl asset\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 2\n"
                        f"Pm {metallic:g}\nPr {roughness:g}\nmap_Kd {picture.name}\n", encoding="ascii")
    save_png(picture, base_color)
    return [path, material, picture]


def obj_files(asset: GameAsset, stem: str, levels: Sequence[tuple[str, Lod]], pictures: Pictures,
              folder: str = "textures") -> dict[str, bytes]:
    """The .obj of some levels, its .mtl and their pictures: path -> bytes. Nine digits, so that float32 loses nothing.

    levels : (object name, level) each
    Metallic and roughness stand as factors (Pm, Pr) where the picture is flat, and as pictures of their own where not.
    """
    files: dict[str, bytes] = {}
    looks: dict[Any, str] = {}
    lines, first = [f"mtllib {stem}.mtl"], 1
    material_lines: list[str] = []
    for name, lod in levels:
        m = asset.material
        base, normal, orm = (m.base_color if lod.base_color is None else lod.base_color,
                             m.normal if lod.normal is None else lod.normal, m.orm if lod.orm is None else lod.orm)
        own = (id(base), id(normal), id(orm))
        if own not in looks:
            looks[own] = asset.name if not looks else name
            material_lines += _mtl(looks[own], asset, base, normal, orm, pictures, folder, files, looks)
        lines += [f"o {name}"]
        lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in lod.vertices.tolist()]
        lines += [f"vt {u:.9g} {1 - v:.9g}" for u, v in np.asarray(lod.uvs, np.float64).tolist()]
        lines += [f"vn {x:.9g} {y:.9g} {z:.9g}" for x, y, z in lod.normals.tolist()]
        lines += [f"usemtl {looks[own]}"]
        lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in (lod.faces.astype(np.int64) + first).tolist()]
        first += len(lod.vertices)
    texts = {f"{stem}.obj": lines, f"{stem}.mtl": material_lines}
    return {**{path: ("\n".join(text) + "\n").encode() for path, text in texts.items()}, **files}


def _mtl(name: str, asset: GameAsset, base: np.ndarray, normal: np.ndarray | None, orm: np.ndarray, pictures: Pictures,
         folder: str, files: dict[str, bytes], placed: dict[Any, str]) -> list[str]:
    """A material's lines; its pictures go into ``files``, one that another material shows too only once."""
    m = asset.material
    flat = [float(orm[..., 2].mean()) * m.metallic, float(orm[..., 1].mean()) * m.roughness]

    def put(image: np.ndarray, kind: Any, what: str) -> str:
        format, data = pictures.encoded(image, kind)
        path = placed.setdefault((id(image), what), f"{folder}/{name}_{what}{SUFFIXES[format]}")
        files[path] = data
        return path

    lines = [f"newmtl {name}", "Kd 1 1 1", "Ks 0 0 0", f"Ke {' '.join(f'{v:.9g}' for v in m.emissive_factor)}", "d 1",
             "illum 2", f"Pm {flat[0]:.9g}", f"Pr {flat[1]:.9g}", f"map_Kd {put(base, 'base_color', 'base_color')}"]
    if base.shape[-1] == 4 and m.alpha != "OPAQUE":
        lines += [f"map_d {put(np.repeat(base[..., 3:], 3, -1), 'mask', 'opacity')}"]
    for channel, factor, word, what in ((2, m.metallic, "map_Pm", "metallic"), (1, m.roughness, "map_Pr", "roughness")):
        if np.ptp(orm[..., channel]) > 1 / 255:
            known = placed.get((id(orm), what))
            if known is None:
                known = put(np.repeat(orm[..., channel:channel + 1] * factor, 3, -1), "mask", what)
                placed[id(orm), what] = known
            lines += [f"{word} {known}"]
    if normal is not None:
        map_ = put(normal, "normal", pictures.word("normal"))
        lines += [f"norm {map_}", f"map_Bump -bm 1 {map_}"]  # the standard's word, and the one that Blender reads
    if m.emissive is not None:
        lines += [f"map_Ke {put(m.emissive, 'emissive', 'emissive')}"]
    return lines
