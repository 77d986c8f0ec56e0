# Godot 3.2 and later 3.x: what its import made of the GLBs in this project, one JSON line each.
extends SceneTree

func _init():
    for name in OS.get_cmdline_args():
        if name.ends_with(".glb"):
            var scene = load("res://" + name)
            print("TOLD" + to_json(told(scene.instance(), name) if scene != null else {"name": name, "failed": true}))
    quit()

func told(root, name):
    var found = {"name": name, "meshes": [], "bodies": []}
    var waiting = [root]
    while waiting:
        var node = waiting.pop_back()
        for child in node.get_children():
            waiting.append(child)
        if node is MeshInstance:
            var box = node.mesh.get_aabb()
            var triangles = 0
            for i in range(node.mesh.get_surface_count()):
                triangles += node.mesh.surface_get_arrays(i)[Mesh.ARRAY_INDEX].size() / 3
            var look = node.mesh.surface_get_material(0)
            var shown = {}
            if look is SpatialMaterial:
                var picture = look.albedo_texture
                shown = {"metallic": look.metallic, "roughness": look.roughness,
                    "albedo": [picture.get_width(), picture.get_height()] if picture else null,
                    "normal": look.normal_enabled and look.normal_texture != null,
                    "metallic_texture": look.metallic_texture != null, "roughness_texture": look.roughness_texture != null,
                    "ao": look.ao_enabled and look.ao_texture != null}
            found["meshes"].append({"name": node.name, "low": [box.position.x, box.position.y, box.position.z],
                "high": [box.end.x, box.end.y, box.end.z], "triangles": triangles, "material": shown})
        if node is CollisionShape:
            found["bodies"].append({"shape": node.shape.get_class(), "static": node.get_parent() is StaticBody,
                "points": node.shape.points.size() if node.shape is ConvexPolygonShape else 0})
    return found
