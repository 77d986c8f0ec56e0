"""The master of a game-ready asset: levels of detail, colliders, one material, its papers. Exports read nothing else.

Conventions, all glTF's: metres, +Y up, the front along +Z, the base's centre at the origin; triangles counter-clockwise
from outside; UVs with their origin at the picture's top left, v downward; normal maps with +Y toward the picture's top
(OpenGL's green), bitangent = cross(normal, tangent.xyz) * tangent.w. Pictures are float32 in [0, 1] and kept to 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.artifacts import load_png, read_json, save_png, write_json
from engine.errors import BadInput

FORMAT = 1
"""Raised when a saved master changes so that older readers would read it wrongly."""
ARRAYS = ("vertices", "faces", "normals", "uvs", "tangents", "lightmap_uvs")


@dataclass(frozen=True)
class Lod:
    """One level of detail. Vertices are split wherever any attribute is: at UV seams, creases, mirrored UVs.

    vertices : (v, 3) float32 metres; faces : (f, 3) int32
    normals : (v, 3) float32 unit; uvs : (v, 2) float32 in [0, 1]
    tangents : (v, 4) float32, MikkTSpace: unit tangent, and the bitangent's sign, -1 or 1
    lightmap_uvs : (v, 2) float32 in [0, 1] without overlaps, or None
    ratio : triangles as a share of the first level's
    screen_size : this level is shown where the asset is lower than this share of the screen's height; 1 for the first
    base_color, normal, orm : the level's own pictures, where its UVs are not the first level's; None: the material's
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    tangents: np.ndarray
    lightmap_uvs: np.ndarray | None = None
    ratio: float = 1.0
    screen_size: float = 1.0
    base_color: np.ndarray | None = None
    normal: np.ndarray | None = None
    orm: np.ndarray | None = None

    @property
    def triangles(self) -> int:
        return len(self.faces)


@dataclass(frozen=True)
class Collider:
    """One convex, closed shape in the asset's own coordinates.

    kind : "box" and "capsule" are what ``parameters`` say, and ``vertices``/``faces`` draw them; "hull" has no more
    vertices : (v, 3) float32 metres; faces : (f, 3) int32, counter-clockwise from outside
    parameters : box: {"centre": [x, y, z], "size": [x, y, z]}, along the axes; capsule: {"centre", "radius",
        "height" (whole, both caps in it), "axis": "x" | "y" | "z"}; hull: {}
    """

    kind: Literal["hull", "box", "capsule"]
    vertices: np.ndarray
    faces: np.ndarray
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """A metallic-roughness material; each value is the picture's times the factor, as in glTF.

    base_color : (s, s, 3) or, with alpha, (s, s, 4) sRGB; normal : (s, s, 3) tangent space or None
    orm : (s, s, 3) linear: R occlusion, G roughness, B metallic; emissive : (s, s, 3) sRGB or None
    alpha : "OPAQUE", "MASK" or "BLEND"; alpha_cutoff : used by MASK
    """

    base_color: np.ndarray
    orm: np.ndarray
    normal: np.ndarray | None = None
    emissive: np.ndarray | None = None
    metallic: float = 1.0
    roughness: float = 1.0
    emissive_factor: tuple[float, float, float] = (0.0, 0.0, 0.0)
    alpha: Literal["OPAQUE", "MASK", "BLEND"] = "OPAQUE"
    alpha_cutoff: float = 0.5
    double_sided: bool = False

    @property
    def flat_metallic(self) -> float:
        """One number for formats without an ORM picture: the picture's mean times the factor."""
        return float(self.orm[..., 2].mean()) * self.metallic

    @property
    def flat_roughness(self) -> float:
        """As :attr:`flat_metallic`."""
        return float(self.orm[..., 1].mean()) * self.roughness


@dataclass(frozen=True)
class GameAsset:
    """All that a profile may write. ``lods[0]`` is the full model; the others are coarser, in order.

    height_m : what the first level's box is tall; papers : prompt, seed, recipe, licences (``engine.export.papers``)
    meta : figures for the report, by name
    """

    name: str
    lods: tuple[Lod, ...]
    material: Material
    colliders: tuple[Collider, ...] = ()
    height_m: float = 1.0
    papers: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """asset.safetensors, a PNG a picture, and at last asset.json: where it stands, all is there."""
        from safetensors.numpy import save_file
        arrays: dict[str, np.ndarray] = {}
        lods: list[dict[str, Any]] = []
        pictures: dict[str, np.ndarray] = {}
        for i, lod in enumerate(self.lods):
            held = [name for name in ARRAYS if getattr(lod, name) is not None]
            arrays |= {f"lod{i}.{name}": np.ascontiguousarray(getattr(lod, name)) for name in held}
            own = {name: getattr(lod, name) for name in ("base_color", "normal", "orm")}
            pictures |= {f"lod{i}_{name}": picture for name, picture in own.items() if picture is not None}
            lods.append({"arrays": held, "pictures": [n for n, p in own.items() if p is not None],
                         "ratio": lod.ratio, "screen_size": lod.screen_size})
        for i, solid in enumerate(self.colliders):
            arrays |= {f"collider{i}.{name}": np.ascontiguousarray(getattr(solid, name))
                       for name in ("vertices", "faces")}
        m = self.material
        shown = {"base_color": m.base_color, "normal": m.normal, "orm": m.orm, "emissive": m.emissive}
        pictures |= {name: picture for name, picture in shown.items() if picture is not None}
        save_file(arrays, folder / "asset.safetensors")
        for name, picture in pictures.items():
            save_png(folder / f"{name}.png", picture)
        write_json(folder / "asset.json", {
            "format": FORMAT, "name": self.name, "height_m": self.height_m, "lods": lods,
            "colliders": [{"kind": c.kind, "parameters": c.parameters} for c in self.colliders],
            "material": {"pictures": sorted(n for n, p in shown.items() if p is not None), "metallic": m.metallic,
                         "roughness": m.roughness, "emissive_factor": list(m.emissive_factor), "alpha": m.alpha,
                         "alpha_cutoff": m.alpha_cutoff, "double_sided": m.double_sided},
            "papers": dict(self.papers), "meta": dict(self.meta)})

    @classmethod
    def load(cls, folder: Path) -> GameAsset:
        """The inverse of :meth:`save`. BadInput for a folder that holds no whole master, or a later one's."""
        from safetensors.numpy import load_file
        if not (folder / "asset.json").is_file():
            raise BadInput(f"there is no finished asset in {folder}: asset.json is missing", "finish the mesh again")
        try:
            data = read_json(folder / "asset.json")
            if data["format"] != FORMAT:
                raise BadInput(f"{folder / 'asset.json'} has format {data['format']}; this Maquette reads {FORMAT}",
                               "use the Maquette that wrote it, or finish the mesh again")
            arrays = load_file(folder / "asset.safetensors")
            lods = tuple(Lod(**{n: arrays[f"lod{i}.{n}"] for n in lod["arrays"]}, ratio=lod["ratio"],
                             screen_size=lod["screen_size"],
                             **_pictures(folder, f"lod{i}_", lod["pictures"]))
                         for i, lod in enumerate(data["lods"]))
            colliders = tuple(Collider(c["kind"], arrays[f"collider{i}.vertices"], arrays[f"collider{i}.faces"],
                                       c["parameters"]) for i, c in enumerate(data["colliders"]))
            look: dict[str, Any] = dict(data["material"])
            drawn = _pictures(folder, "", look.pop("pictures"))
            look["emissive_factor"] = tuple(look["emissive_factor"])
            return cls(data["name"], lods, Material(**drawn, **look), colliders, data["height_m"], data["papers"],
                       data["meta"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"the asset in {folder} is damaged ({type(error).__name__}: {str(error).splitlines()[0]})",
                           "finish the mesh again") from error


def _pictures(folder: Path, prefix: str, names: list[str]) -> dict[str, Any]:
    return {name: load_png(folder / f"{prefix}{name}.png") for name in names}
