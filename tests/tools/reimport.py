"""Runs in Blender's Python (bpy): imports a file and prints what came of it, as JSON.

    python reimport.py FILE
"""

import json
import sys
from pathlib import Path

import bpy


def main(path: str) -> dict:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    kind = Path(path).suffix.lower()
    if kind in (".glb", ".gltf"):
        bpy.ops.import_scene.gltf(filepath=path)
    elif kind == ".obj":
        bpy.ops.wm.obj_import(filepath=path)
    elif kind == ".fbx":
        bpy.ops.wm.fbx_import(filepath=path) if hasattr(bpy.ops.wm, "fbx_import") else bpy.ops.import_scene.fbx(
            filepath=path)
    else:
        bpy.ops.wm.usd_import(filepath=path, import_guide=False)
    bpy.context.view_layer.update()
    told = {}
    for thing in bpy.context.scene.objects:
        if thing.type != "MESH":
            continue
        corners = [thing.matrix_world @ v.co for v in thing.data.vertices]
        thing.data.calc_loop_triangles()
        slot = thing.material_slots[0].material if thing.material_slots else None
        told[thing.name] = {
            "low": [min(c[k] for c in corners) for k in range(3)],
            "high": [max(c[k] for c in corners) for k in range(3)],
            "triangles": len(thing.data.loop_triangles), "uvs": len(thing.data.uv_layers),
            "material": None if slot is None else look(slot)}
    return told


def look(material) -> dict:
    """What the Principled node shows: numbers, or the picture that is linked."""
    told = {"name": material.name}
    nodes = material.node_tree.nodes if material.use_nodes else ()
    shader = next((n for n in nodes if n.type == "BSDF_PRINCIPLED"), None)
    if shader is None:
        return told
    for name in ("Base Color", "Metallic", "Roughness", "Normal"):
        socket = shader.inputs[name]
        told[name] = picture(socket) if socket.is_linked else (
            list(socket.default_value) if hasattr(socket.default_value, "__len__") else socket.default_value)
    return told


def picture(socket) -> str:
    """The picture behind a socket, through whatever nodes stand between."""
    waiting, seen = [link.from_node for link in socket.links], set()
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.type == "TEX_IMAGE" and node.image is not None:
            size = list(node.image.size)
            return f"{Path(node.image.filepath or node.image.name).stem} {size[0]}x{size[1]}"
        waiting += [link.from_node for entry in node.inputs for link in entry.links]
    return "?"


if __name__ == "__main__":
    print("TOLD" + json.dumps(main(sys.argv[-1])))
