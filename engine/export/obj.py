"""Wavefront OBJ with a material file: plain text that every program reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.artifacts import save_png


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
