"""The Khronos validator must have nothing at all to say. Run by `make test-tools`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mesh_helpers import Notes, ball

from engine.artifacts import Mesh, TexturedMesh
from engine.stages.export_mesh import ExportMesh, export_mesh
from engine.stages.texture_mesh import TextureMesh, texture_of

TOOLS = Path(__file__).parent / "tools"


@pytest.mark.tools
@pytest.mark.parametrize("many", [False, True])
def test_the_validator_is_silent(many: bool, tmp_path: Path) -> None:
    vertices, faces = ball(48 if many else 16)
    if many:
        # Every corner a vertex of its own: more than 65,535, so 32-bit indices.
        vertices, faces = vertices[faces.reshape(-1)], np.arange(faces.size, dtype=np.int32).reshape(-1, 3)
        normals = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
        mesh = TexturedMesh(vertices, faces, (vertices[:, :2] + 1) / 2, normals, np.full((8, 8, 3), 0.5, np.float32))
    else:
        mesh = texture_of(Mesh(vertices, faces), lambda p: (p + 1) / 2, None, TextureMesh(texture_size=256), Notes())
    assert (len(mesh.vertices) > 65535) == many
    licences = [{"model": "builtin", "licence": "Apache-2.0"}]
    papers = {"seed": 7, "recipe": "0" * 64, "licences": licences, "text": "ä\"<"}
    files = export_mesh(mesh, ExportMesh(name="asset", papers=papers), Notes())
    done = subprocess.run(["node", str(TOOLS / "validate.mjs"), str(files.folder / "asset.glb")], check=False,
                          capture_output=True, text=True)
    assert done.stdout, f"the validator did not run: {done.stderr}"
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["messages"] == []
    assert [report[k] for k in ("numErrors", "numWarnings", "numInfos", "numHints")] == [0, 0, 0, 0]
    assert report["info"]["totalTriangleCount"] == len(mesh.faces)
