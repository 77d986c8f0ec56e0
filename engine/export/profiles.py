"""What each engine wants to be given: one table. Everything that differs between profiles stands here and only here.

    wanted = profile("godot")
    wanted.lod_name("Mug", 1, 4)            # "Mug_LOD1"
    wanted.collider_name("Mug", 0)          # "Mug_col00-convcolonly"

Names are the engines' own conventions: Unity groups ``Name_LOD0..n`` (documented for FBX), Unreal takes ``UCX_Name_00``
as the collision of the mesh ``Name``, Godot turns ``-convcolonly`` into a body with a convex shape and shows no mesh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import BadInput
from engine.runs.words import unknown

FORMATS = ("glb", "gltf", "obj", "ply", "stl", "3mf", "usdz", "usdc", "fbx")
"""Every format that a mesh can be exported as; FBX needs Blender's module, USD needs usd-core."""
PRINTED = ("stl", "3mf")


@dataclass(frozen=True)
class Profile:
    """formats : what is written without ``--formats``; of FORMATS
    lods : "nodes": all levels in one file; "files": the first in the file, each other in one of its own; "first": no
        other levels
    scene : the scene's name; Godot makes a node of it, which may not be called as the mesh is
    lod_group : an empty node above the levels, as Unity wants
    colliders : "inside" the file, in a "file" of their own, or "none"
    collider : their names; {name}, {number}
    picture : "png" or "webp"; largest : pixels a side at most
    compression : whether geometry is compressed ("web" alone: no engine but browsers reads it)
    mask_map : Unity HDRP's picture beside the ORM: R metallic, G occlusion, A smoothness
    normal_y : +1 where pictures that lie beside a file have OpenGL's green, -1 for DirectX's (GLB: always OpenGL's)
    clips : formats of clips beside the PNG frames (``engine.clips.formats``); None: the profile takes no clips
    triangles, vertices, texture, bytes : what ``maquette check`` warns above: of the first level, pixels, of a file
    scale : units a metre; finish : what ``finish_mesh`` is told before the user's own wishes
    """

    name: str
    what: str
    formats: tuple[str, ...] = ("glb",)
    lods: Literal["nodes", "files", "first"] = "nodes"
    scene: str = "{name}"
    lod_group: bool = False
    colliders: Literal["inside", "file", "none"] = "inside"
    collider: str = "{name}_col{number:02d}"
    picture: Literal["png", "webp"] = "png"
    largest: int = 2048
    compression: bool = False
    mask_map: bool = False
    normal_y: Literal[1, -1] = 1
    clips: tuple[str, ...] | None = ()
    triangles: int = 50_000
    vertices: int = 65_535
    texture: int = 2048
    bytes: int = 50_000_000
    scale: float = 1.0
    finish: tuple[tuple[str, Any], ...] = ()

    def lod_name(self, name: str, level: int, levels: int) -> str:
        """The node's name of a level: the asset's own where it is the only one, or the first of several files."""
        if levels == 1 or (level == 0 and self.lods != "nodes"):
            return name
        return f"{name}_LOD{level}"

    def collider_name(self, name: str, number: int) -> str:
        """The node's name of a collider. ``name``: of the mesh it belongs to."""
        return self.collider.format(name=name, number=number)


PROFILES: dict[str, Profile] = {one.name: one for one in (
    Profile("unity", "Unity (glTFast, or FBX by --formats fbx): levels in one file, colliders in their own, HDRP mask",
            lod_group=True, colliders="file", mask_map=True, clips=("vp8", "sheet")),
    Profile("unreal", "Unreal Engine: UCX_ colliders inside, each level in its own file, plain glTF",
            lods="files", collider="UCX_{name}_{number:02d}", normal_y=-1, clips=("sheet",), triangles=100_000),
    Profile("godot", "Godot 3 and 4: -convcolonly colliders inside, each level in its own file",
            lods="files", scene="{name}_scene", collider="{name}_col{number:02d}-convcolonly", clips=("ogv", "sheet")),
    Profile("web", "browsers (three.js, Babylon.js, model-viewer): WebP pictures, compressed geometry, no colliders",
            lods="files", colliders="none", picture="webp", largest=1024, compression=True,
            clips=("vp9", "mp4", "webp"), triangles=30_000, texture=1024, bytes=5_000_000),
    Profile("blender", "Blender and other editors: levels and colliders in one file, nothing compressed",
            largest=4096, clips=("prores",), triangles=500_000, vertices=500_000, texture=4096, bytes=500_000_000),
    Profile("print", "3-D printing: STL and 3MF in millimetres, Z up, closed or said not to be",
            formats=("stl", "3mf"), lods="first", colliders="none", largest=1024, clips=None, triangles=2_000_000,
            vertices=2_000_000, texture=1024, bytes=200_000_000, scale=1000.0,
            # Pictures do not print: the shape itself is kept fine, and nothing is baked.
            finish=(("triangles", 500_000), ("lods", [1.0]), ("colliders", "none"), ("normal_map", False),
                    ("occlusion_rays", 0))),
)}


def profile(name: str) -> Profile:
    """A profile by its name; BadInput names the nearest."""
    if name not in PROFILES:
        raise unknown("export profile", name, PROFILES)
    return PROFILES[name]


def formats_of(wanted: Profile, asked: Iterable[str] | None) -> tuple[str, ...]:
    """The formats to write, each once, in FORMATS' order; ``asked`` None: the profile's own. BadInput for others."""
    if asked is None:
        return wanted.formats
    words = [word.strip().lower().lstrip(".") for word in asked if word.strip()]
    for word in words:
        if word not in FORMATS:
            raise unknown("mesh format", word, FORMATS, "--formats")
    if not words:
        raise BadInput("--formats names no format", f"Known: {', '.join(FORMATS)}")
    return tuple(word for word in FORMATS if word in words)
