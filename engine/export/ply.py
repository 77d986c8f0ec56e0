"""Binary PLY: positions, normals, UVs and vertex colours, for viewers and for measuring tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_ply(path: Path, vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None = None,
              colors: np.ndarray | None = None) -> None:
    """Write :func:`ply_bytes` of the arguments to ``path``."""
    path.write_bytes(ply_bytes(vertices, faces, normals, colors))


def ply_bytes(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None = None,
              colors: np.ndarray | None = None, uvs: np.ndarray | None = None, comments: Sequence[str] = ()) -> bytes:
    """vertices (v, 3), faces (f, 3), normals (v, 3) or None, colors (v, 3) sRGB in [0, 1] or None, uvs (v, 2) or None,
    origin bottom left as PLY's readers take s and t; comments : ASCII, one line each."""
    fields: list[tuple[str, str, np.ndarray]] = [(n, "<f4", vertices[:, i]) for i, n in enumerate("xyz")]
    if normals is not None:
        fields += [(f"n{n}", "<f4", normals[:, i]) for i, n in enumerate("xyz")]
    if uvs is not None:
        fields += [(n, "<f4", uvs[:, i]) for i, n in enumerate("st")]
    if colors is not None:
        levels = np.round(np.clip(colors, 0, 1) * 255)
        fields += [(n, "u1", levels[:, i]) for i, n in enumerate(("red", "green", "blue"))]
    table = np.empty(len(vertices), dtype=[(name, kind) for name, kind, _ in fields])
    for name, _, values in fields:
        table[name] = values
    corners = np.empty(len(faces), dtype=[("count", "u1"), ("corner", "<i4", 3)])
    corners["count"], corners["corner"] = 3, faces
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments),
              f"element vertex {len(vertices)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind, _ in fields]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(header).encode() + table.tobytes() + corners.tobytes()
