"""What a printer takes: one closed surface in millimetres, Z up, standing on the plate.

    solid = printed(lods[0].vertices, lods[0].faces)
    stl_bytes(solid, "Mug"), threemf_bytes(solid, "Mug")
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.conventions.blender import points_from_house
from engine.meshes.measure import Topology, topology, volume

MILLIMETRES = 1000.0


@dataclass(frozen=True)
class Solid:
    """vertices : (v, 3) float64 millimetres, Z up, lowest at 0; faces : (f, 3) int64, one vertex a position
    found : its topology; dropped : triangles of no area that were left out; millilitres : enclosed volume
    """

    vertices: np.ndarray
    faces: np.ndarray
    found: Topology
    dropped: int
    millilitres: float

    @property
    def lack(self) -> str:
        """Why it cannot be printed as it is, in words; "" where it is closed and manifold, and looks outward."""
        said = []
        for count, words in ((self.found.open_edges, "open edges"), (self.found.flipped_edges, "flipped edges"),
                             (self.found.crowded_edges, "edges with more than two faces"),
                             (self.found.pinched_vertices, "pinched vertices")):
            if count:
                said.append(f"{count:,} {words}")
        if not said and self.millilitres <= 0:
            said.append("its faces look inward")
        return ", ".join(said)


def printed(vertices: np.ndarray, faces: np.ndarray, scale: float = MILLIMETRES) -> Solid:
    """Join vertices of one position (what UV seams split), leave out triangles of no area, turn Z up.

    vertices : (v, 3) metres, +Y up; faces : (f, 3); scale : units a metre
    """
    places, member = np.unique(np.asarray(vertices, np.float32), axis=0, return_inverse=True)
    joined = member.reshape(-1)[np.asarray(faces, np.int64)]
    kept = joined[(joined[:, 0] != joined[:, 1]) & (joined[:, 1] != joined[:, 2]) & (joined[:, 2] != joined[:, 0])]
    turned = points_from_house(places.astype(np.float64)) * scale
    turned[:, 2] -= turned[:, 2].min(initial=np.inf) if len(turned) else 0.0
    return Solid(turned, kept, topology(kept), len(joined) - len(kept), volume(turned, kept) / 1000 * (
        MILLIMETRES / scale) ** 3)


def stl_bytes(solid: Solid, name: str) -> bytes:
    """Binary STL. It knows no units: slicers take its numbers as millimetres."""
    corners = solid.vertices[solid.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    table = np.zeros(len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    table["normal"], table["corners"] = normal, corners
    # A header that begins with "solid" would be taken for the text form.
    header = f"Maquette {name}, millimetres, Z up".encode("ascii", "replace")[:80].ljust(80)
    return header + np.uint32(len(corners)).astype("<u4").tobytes() + table.tobytes()
