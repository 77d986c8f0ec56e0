"""Anybody's GLB, glTF, OBJ, PLY or STL -> TexturedMesh in field coordinates; what was mended is said."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from engine.artifacts import TexturedMesh
from engine.errors import BadInput
from engine.export.as_is import shine
from engine.job import Job, Params, stage
from engine.meshes.foreign import companions, open_foreign
from engine.stages.load_mesh import MOST_FACES, LoadMesh, textured_mesh


class OpenAsset(Params):
    """Parameters of ``open_asset``. The file's digest stands for it in keys; its path does not."""

    path: str = Field(exclude=True, description="A GLB, glTF, OBJ, PLY or STL file.")
    digest: str = Field("", description="SHA-256 of the file and what it names, as file_digest gives it.")
    up: Literal["y", "z"] = Field("y", description="Axis that points up in the file: y, or z as Blender and CAD have.")
    texture_size: int = Field(1024, ge=64, le=8192, description="Pixels a side of a texture that is made.")
    about: str = Field("", max_length=2000, description="words that say what it is; a material among them sets how it "
                                                        "shines where the file does not say")


def asset_digest(path: str | Path) -> str:
    """SHA-256 of a mesh file with all that it names. BadInput where it cannot be read."""
    total = hashlib.sha256()
    for file in companions(Path(path)):
        try:
            total.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}", "Check the file") from error
    return total.hexdigest()


@stage(version=1)
def open_asset(p: OpenAsset, job: Job) -> TexturedMesh:
    """Read a file of unknown origin; its frame leads back to its own coordinates.

    Its UVs and pictures stay where it has good ones, else new ones are made; of several materials one is made; metallic
    and roughness are the file's, averaged over its pictures. BadInput for what cannot be mended.
    """
    path = Path(p.path)
    if p.digest and asset_digest(path) != p.digest:
        raise BadInput(f"{path} changed since the run was planned", "Start again")
    foreign = open_foreign(path)
    job.progress(0.2)
    for one in foreign.findings:
        if one.severity in ("error", "warning"):
            job.warn(one.text)
    for name, words in (("normal", "its normal map"), ("emissive", "its emissive picture")):
        if name in foreign.pictures:
            job.warn(f"{words} is left out: finishing makes the pictures anew (--as-is keeps them)")
    if "orm" in foreign.pictures:
        job.warn("its metallic and roughness pictures become one value each (--as-is keeps them)")
    told = LoadMesh(path=str(path), digest="", up=p.up, uvs="any", texture_size=p.texture_size, most_faces=MOST_FACES)
    made = textured_mesh(path, foreign.file, told, job)
    made.metallic, made.roughness = shine(foreign, p.about)
    return made
