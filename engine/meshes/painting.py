"""Between a texture image and colour as a function of the point: taught one way, baked the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from engine.artifacts import TexturedMesh
from engine.chunks import at_once
from engine.meshes.bake import bake, surface_texels

POINTS = 4096
"""Points a lesson."""


def teach_colour(colour: nn.Module, mesh: TexturedMesh, generator: torch.Generator, lessons: int = 200) -> float:
    """Let ``colour``, a module from points (m, 3) to sRGB (m, 3), learn a mesh's base colour on its surface.

    Returns the root mean square error of the last lesson.
    """
    size = min(512, max(mesh.base_color.shape[:2]))
    texels = surface_texels(mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, size)
    if not len(texels.index):
        return 0.0
    row, column = texels.index // size, texels.index % size
    height, width = mesh.base_color.shape[:2]
    picture = torch.from_numpy(np.ascontiguousarray(mesh.base_color[..., :3], np.float32))
    truth = picture[((row + 0.5) * height / size).long(), ((column + 0.5) * width / size).long()]
    optimiser = torch.optim.Adam(colour.parameters(), lr=0.02, betas=(0.9, 0.99), eps=1e-15)
    error = torch.zeros(())
    for lesson in range(lessons):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * 0.05 ** (lesson / lessons)
        rows = torch.randint(len(truth), (POINTS,), generator=generator)
        error = (colour(texels.points[rows]) - truth[rows]).square().mean()
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        optimiser.step()
    return float(error.detach().sqrt())


@torch.no_grad()
def baked(mesh: TexturedMesh, colour: nn.Module, size: int, device: str = "cpu") -> np.ndarray:
    """(size, size, 3) sRGB: the colours of the points that the mesh's own UVs show, every texel filled."""
    texels = surface_texels(mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, size, device)

    def ask(points: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(points).to(device).split(at_once(1 << 17))
        return np.concatenate([np.zeros((0, 3), np.float32), *(colour(part).cpu().numpy() for part in parts)])

    return bake(texels, mesh.vertices, mesh.faces, ask, None).base_color
