"""Runs inside Blender (or a Python with bpy), never inside Maquette: a glTF file becomes an FBX file.

    python fbx_script.py '{"source": ".../scene.gltf", "target": ".../out.fbx", ...}'

Imports the standard library and bpy only.
"""

import json
import sys
from pathlib import Path

import bpy  # type: ignore[import-not-found]  # Blender's own


def convert(told: dict) -> None:  # type: ignore[type-arg]
    """source, target : files; group, group_type : see engine.export.fbx.fbx_bytes"""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=told["source"], merge_vertices=False)
    if told["group"]:
        group = bpy.data.objects.get(told["group"]) or bpy.data.objects.new(told["group"], None)
        if group.name not in bpy.context.scene.collection.all_objects:
            bpy.context.scene.collection.objects.link(group)
        if told["group_type"]:
            group["fbx_type"] = told["group_type"]
    for material in bpy.data.materials:
        _flatten(material, *told["shine"])
    _name_relatively(told["folder"])
    folder = Path(told["source"]).parent
    for image in bpy.data.images:
        path = Path(bpy.path.abspath(image.filepath)) if image.filepath else None
        if path is not None and path.is_file():
            image.filepath = str(folder / told["folder"] / path.name)
    bpy.ops.export_scene.fbx(
        filepath=told["target"], object_types={"EMPTY", "MESH"}, path_mode="RELATIVE", embed_textures=False,
        mesh_smooth_type="OFF", use_tspace=True, use_custom_props=True, add_leaf_bones=False, bake_anim=False,
        apply_scale_options="FBX_SCALE_ALL", bake_space_transform=True, axis_forward="-Z", axis_up="Y",
        use_triangles=False)


def _flatten(material, metallic: float, roughness: float) -> None:  # type: ignore[no-untyped-def]
    """One number each for metallic and roughness: the exporter leaves linked ones at Blender's defaults."""
    for node in material.node_tree.nodes if material.use_nodes else ():
        if node.type == "BSDF_PRINCIPLED":
            for name, value in (("Metallic", metallic), ("Roughness", roughness)):
                socket = node.inputs[name]
                for link in list(socket.links):
                    material.node_tree.links.remove(link)
                socket.default_value = value


def _name_relatively(folder: str) -> None:
    """Blender writes each picture's absolute path beside the relative one: another machine's folders help nobody."""
    try:
        from io_scene_fbx import export_fbx_bin
        usual = export_fbx_bin._gen_vid_path
    except (ImportError, AttributeError):
        return  # another version: the relative path is there all the same

    def relative(image, data):  # type: ignore[no-untyped-def]
        path = folder + "/" + Path(usual(image, data)[1].replace("\\", "/")).name
        return path, path

    export_fbx_bin._gen_vid_path = relative


if __name__ == "__main__":
    convert(json.loads(sys.argv[-1]))
