"""Somebody's mesh as an asset without finishing: no vertex moves, no picture is made anew, there is one level only."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import BadInput
from engine.export.materials import MATERIALS, material_in
from engine.meshes.asset import GameAsset, Lod, Material
from engine.meshes.finding import Finding
from engine.meshes.foreign import Foreign
from engine.meshes.normals import corner_normals, split_vertices
from engine.meshes.tangents import with_tangents

PLAIN = (0.0, 0.7)
"""Metallic and roughness of what nobody says anything of."""
CREASE_DEG = 40.0


def as_is(foreign: Foreign, name: str, about: str = "") -> GameAsset:
    """The file's own vertices, UVs, normals, pictures and factors as a master of one level.

    about : words that say what it is; a material among them sets how it shines where the file does not say
    BadInput where it has no UVs: finishing makes them. What had to be made (normals, tangents) stands in the findings.
    """
    file = foreign.file
    if file.uvs is None:
        raise BadInput(f"{foreign.path} has no UVs: there is nothing to lay a picture on",
                       "Leave --as-is out: finishing makes UVs")
    vertices = file.vertices.astype(np.float32)
    faces, uvs = file.faces.astype(np.int32), file.uvs.astype(np.float32)
    extra: dict[str, np.ndarray | None] = {"uvs2": foreign.uvs2, "tangents": foreign.tangents}
    if file.normals is None:
        from engine.stages.load_mesh import weld
        made, group = corner_normals(vertices, weld(vertices, faces), CREASE_DEG)
        first, faces = split_vertices(faces, group)
        corner = file.faces.reshape(-1)[first]
        vertices, uvs, normals = vertices[corner], uvs[corner], made[group.reshape(-1)[first]]
        extra = {key: None if value is None else value[corner] for key, value in extra.items()}
        foreign.findings.append(Finding("info", "made_normals", "it has no normals: they were made"))
    else:
        normals = file.normals
    normals = np.asarray(normals, np.float32)
    if extra["tangents"] is None:
        source, faces, tangents = with_tangents(vertices, faces, normals, uvs)
        vertices, uvs, normals = vertices[source], uvs[source], normals[source]
        extra = {"uvs2": None if extra["uvs2"] is None else extra["uvs2"][source], "tangents": tangents}
    second = extra["uvs2"]
    lod = Lod(vertices, np.asarray(faces, np.int32), normals, uvs, np.asarray(extra["tangents"], np.float32),
              None if second is None else second.astype(np.float32))
    size = vertices.max(0) - vertices.min(0)
    return GameAsset(name, (lod,), _material(foreign, about), (), float(size[1]), dict(foreign.papers))


def shine(foreign: Foreign, about: str = "") -> tuple[float, float]:
    """One metallic and one roughness: the file's, else those of a material among the words, else plain ones."""
    word = material_in(about)
    metallic, roughness = MATERIALS[word] if word else PLAIN
    return (metallic if foreign.metallic is None else foreign.metallic,
            roughness if foreign.roughness is None else foreign.roughness)


def _material(foreign: Foreign, about: str) -> Material:
    base = foreign.file.texture
    if base is None:
        colour = np.full(3, 0.7) if foreign.file.colors is None else foreign.file.colors.mean(0)
        if foreign.file.colors is not None and float(np.ptp(foreign.file.colors, axis=0).max()) > 0:
            foreign.findings.append(Finding("warning", "averaged", "its colours a vertex are averaged; finishing "
                                            "(without --as-is) paints them"))
        base = np.broadcast_to(colour.astype(np.float32), (4, 4, 3)).copy()
    if foreign.base_alpha is not None:
        base = np.concatenate([base, foreign.base_alpha[..., None]], -1)
    metallic, roughness = shine(foreign, about)
    orm = foreign.pictures.get("orm")
    if orm is None:
        orm = np.ones((4, 4, 3), np.float32)
    else:
        metallic, roughness = foreign.metallic_factor, foreign.roughness_factor
    told: dict[str, Any] = {"alpha": foreign.alpha}
    return Material(np.asarray(base, np.float32), orm, foreign.pictures.get("normal"), foreign.pictures.get("emissive"),
                    metallic, roughness, foreign.emissive_factor, alpha_cutoff=foreign.cutoff,
                    double_sided=foreign.double_sided, **told)
