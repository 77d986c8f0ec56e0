"""Binary PLY: positions, normals and vertex colours, for viewers and for measuring tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_ply(path: Path, vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None = None,
              colors: np.ndarray | None = None) -> None:
    """vertices (v, 3), faces (f, 3), normals (v, 3) or None, colors (v, 3) sRGB in [0, 1] or None."""
    fields: list[tuple[str, str, np.ndarray]] = [(n, "<f4", vertices[:, i]) for i, n in enumerate("xyz")]
    if normals is not None:
        fields += [(f"n{n}", "<f4", normals[:, i]) for i, n in enumerate("xyz")]
    if colors is not None:
        levels = np.round(np.clip(colors, 0, 1) * 255)
        fields += [(n, "u1", levels[:, i]) for i, n in enumerate(("red", "green", "blue"))]
    table = np.empty(len(vertices), dtype=[(name, kind) for name, kind, _ in fields])
    for name, _, values in fields:
        table[name] = values
    corners = np.empty(len(faces), dtype=[("count", "u1"), ("corner", "<i4", 3)])
    corners["count"], corners["corner"] = 3, faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind, _ in fields]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode() + table.tobytes() + corners.tobytes())
