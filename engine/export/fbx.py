"""FBX, written by Blender's module in a process of its own: Maquette and it share files and nothing else.

    fbx_bytes({"scene.gltf": ..., "scene.bin": ..., "textures/...": ...}, "scene.gltf")

Looked for, in this order: MAQUETTE_BPY (a Python that has bpy, or a Blender), ``blender`` on the path, bpy beside
Maquette. bpy wants its own environment: its numpy bound conflicts with ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import BadInput, RunFailed

SCRIPT = Path(__file__).with_name("fbx_script.py")
SECONDS = 600
MEND = ("install Blender 4.2 or newer and put it on the path, or: python3.11 -m venv BPY && BPY/bin/pip install "
        "'bpy==4.5.*' 'numpy<2', and set MAQUETTE_BPY=BPY/bin/python")


def blender_command() -> list[str]:
    """The command that runs a script with bpy; BadInput that names what to install where there is none."""
    told = os.environ.get("MAQUETTE_BPY")
    if told:
        if shutil.which(told) is None:
            raise BadInput(f"MAQUETTE_BPY names {told}, which cannot be run", MEND)
        return _command(told)
    if (blender := shutil.which("blender")) is not None:
        return _command(blender)
    if importlib.util.find_spec("bpy") is not None:
        return [sys.executable, str(SCRIPT)]
    raise BadInput("FBX needs Blender's module bpy, which is not installed", MEND)


def _command(program: str) -> list[str]:
    if "blender" in Path(program).stem.lower():
        return [program, "--background", "--factory-startup", "--python-exit-code", "1", "--python", str(SCRIPT), "--"]
    return [program, str(SCRIPT)]


def fbx_bytes(files: Mapping[str, bytes], document: str, lod_group: str = "", group_type: str = "",
              folder: str = "textures", shine: tuple[float, float] = (0.0, 0.7)) -> bytes:
    """A glTF (path -> bytes; ``document`` is the .gltf among them) as FBX that names its pictures as they lie there.

    shine : metallic and roughness as one number each: FBX holds no pictures of them
    lod_group : name of an empty node above the levels, "" for none; group_type : "LodGroup" makes it one for Unreal
    RunFailed where Blender fails.
    """
    command = blender_command()
    with tempfile.TemporaryDirectory(prefix="maquette-fbx-") as place:
        root = Path(place)
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        target = root / "out.fbx"
        told: dict[str, Any] = {"source": str(root / document), "target": str(target), "group": lod_group,
                                "group_type": group_type, "folder": folder, "shine": list(shine)}
        try:
            done = subprocess.run([*command, json.dumps(told)], capture_output=True, text=True, timeout=SECONDS,
                                  check=False, cwd=root)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"Blender took more than {SECONDS} s to write the FBX",
                            "Leave fbx out of --formats") from None
        except OSError as error:
            raise BadInput(f"{command[0]} cannot be run: {error.strerror}", MEND) from error
        if done.returncode != 0 or not target.is_file():
            lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
            said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no word")
            raise RunFailed(f"Blender could not write the FBX: {said.strip()[:200]}", MEND)
        return target.read_bytes()
