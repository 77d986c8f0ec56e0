"""What a glTF document shows: triangles in the scene's coordinates, by node and material, and what materials say.

    scene = read_scene(open_gltf(path), most=2_000_000)
    for part in scene.parts: part.vertices, part.faces, part.uvs

What cannot be used is left out and said (``scene.findings``: errors); what can be mended is mended and said (warnings).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.errors import BadInput
from engine.meshes.finding import Damage, Finding
from engine.meshes.gltf_document import COMPRESSED, GltfDocument, whole
from engine.meshes.gltf_looks import Look, read_looks

MOST_NODES = 1_000_000
TRIANGLES, STRIP, FAN = 4, 5, 6
KNOWN = frozenset(("KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "MSFT_lod",
                   "KHR_materials_unlit", "KHR_materials_emissive_strength", *COMPRESSED))
"""Required extensions that a reader here does not stumble over; of a compressed file the geometry stays closed."""


@dataclass(eq=False)
class Part:
    """One primitive in the scene.

    vertices : (v, 3) float64 world; faces : (f, 3) int64, counter-clockwise from outside whatever the node's scale
    normals : (v, 3) or None; uvs, uvs2 : (v, 2) glTF's origin or None; tangents : (v, 4) or None
    colors : (v, 3) sRGB in [0, 1] or None; material : its place among the looks, None for the default one
    node, mesh : their names, "" where they have none; bad_faces : faces with a corner that is not there, left out
    not_finite : vertices that are not finite numbers (they are still there)
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None
    uvs: np.ndarray | None = None
    uvs2: np.ndarray | None = None
    tangents: np.ndarray | None = None
    colors: np.ndarray | None = None
    material: int | None = None
    node: str = ""
    mesh: str = ""
    bad_faces: int = 0
    not_finite: int = 0


@dataclass(eq=False)
class Scene:
    """parts; looks : the materials; triangles : declared, nodes that repeat a mesh counted each time"""

    document: GltfDocument
    parts: list[Part] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    triangles: int = 0
    node_names: list[str] = field(default_factory=list)
    scaled_nodes: int = 0

    @property
    def findings(self) -> list[Finding]:
        return self.document.findings


def read_scene(document: GltfDocument, most: int) -> Scene:
    """Read every mesh that the scene shows. BadInput where it declares more than ``most`` triangles: nothing of it was
    read then. Other damage stands among the findings."""
    scene = Scene(document)
    try:
        order, parents = _order(document)
        meshes = [document.data["nodes"][i]["mesh"] for i in order if "mesh" in document.data["nodes"][i]]
        told = {mesh: _declared(document, mesh) for mesh in set(meshes)}
        scene.triangles = sum(told[mesh][0] for mesh in meshes)
        vertices = sum(told[mesh][1] for mesh in meshes)
    except Damage as damage:
        document.findings.append(damage.finding)
        return scene
    if scene.triangles > most:
        raise BadInput(f"{document.path} declares {scene.triangles:,} triangles; the limit is {most:,}",
                       "Simplify it first (Blender: the Decimate modifier)")
    if vertices > 4 * most:
        raise BadInput(f"{document.path} declares {vertices:,} vertices; the limit is {4 * most:,}",
                       "Simplify it first (Blender: the Decimate modifier)")
    try:
        places = _places(document, scene, order, parents)
        _say_extensions(document)
        scene.looks = read_looks(document)
    except Damage as damage:
        document.findings.append(damage.finding)
        return scene
    if document.compression:
        document.say("info", "compressed",
                     f"its geometry is compressed ({document.compression}) and was not looked into")
        return scene
    for mesh, world, name in places:
        scene.parts += _parts(document, mesh, world, name, len(scene.looks))
    return scene


def _say_extensions(document: GltfDocument) -> None:
    for name in document.items("extensionsRequired"):
        if name not in KNOWN:
            document.say("error", "unknown_extension",
                         f"it needs the extension {str(name)[:60]}, which is not known here", "/extensionsRequired")
    for what, words in (("skins", "bones"), ("animations", "animations"), ("cameras", "cameras")):
        if document.items(what):
            document.say("info", "left_out", f"its {words} are not looked at", f"/{what}")


# -- nodes -------------------------------------------------------------------------------------------------------------

def _order(document: GltfDocument) -> tuple[list[int], np.ndarray]:
    """Every node that the scene shows, parents first, and each node's parent, -1 for none.

    Damage for cycles, and for a node with two parents (which would make more of a file than there is)."""
    nodes = document.items("nodes")
    if len(nodes) > MOST_NODES:
        raise Damage("too_large", f"it has {len(nodes):,} nodes; the limit is {MOST_NODES:,}", "/nodes")
    parents = np.full(len(nodes), -1, np.int64)
    children: list[list[int]] = []
    for i in range(len(nodes)):
        node, place = document.item("nodes", i, "/nodes"), f"/nodes/{i}/children"
        named = node.get("children", [])
        if not isinstance(named, list):
            raise Damage("not_gltf", "a node's children are no list", place)
        children.append([])
        for child in named:
            document.item("nodes", child, place)
            if child == i:
                raise Damage("cycle", f"node {i} is its own child", place)
            if parents[child] >= 0:
                raise Damage("cycle", f"node {child} has two parents", place)
            parents[child] = i
            children[-1].append(child)
    climbing = _in_cycle(parents)
    if climbing >= 0:
        raise Damage("cycle", f"node {climbing} is above itself", f"/nodes/{climbing}")
    order, waiting = [], list(reversed(_roots(document, parents)))
    while waiting:  # each node has one parent at the most and no root has any, so this ends
        i = waiting.pop()
        order.append(i)
        if "mesh" in nodes[i]:
            document.item("meshes", nodes[i]["mesh"], f"/nodes/{i}/mesh")
        waiting += reversed(children[i])
    return order, parents


def _places(document: GltfDocument, scene: Scene, order: list[int], parents: np.ndarray
            ) -> list[tuple[int, np.ndarray, str]]:
    """(mesh, its node's world matrix, the node's name) of every node that shows a mesh."""
    nodes, found = document.items("nodes"), []
    world: dict[int, np.ndarray] = {}
    for i in order:
        node, above = nodes[i], world.get(int(parents[i]))
        name = node.get("name") if isinstance(node.get("name"), str) else ""
        own = _matrix(node, f"/nodes/{i}")
        if ("scale" in node or "matrix" in node) and not np.allclose(own[:3, :3] @ own[:3, :3].T, np.eye(3), atol=1e-4):
            scene.scaled_nodes += 1
        world[i] = own if above is None else above @ own
        scene.node_names.append(str(name))
        if "mesh" in node:
            found.append((int(node["mesh"]), world[i], str(name)))
    if not found:
        document.say("error", "no_mesh", "its scene shows no mesh")
    return found


def _roots(document: GltfDocument, parents: np.ndarray) -> list[int]:
    scenes = document.items("scenes")
    if not scenes:
        return [int(i) for i in np.flatnonzero(parents < 0)]
    scene = document.item("scenes", document.data.get("scene", 0), "/scene")
    named = scene.get("nodes", [])
    if not isinstance(named, list):
        raise Damage("not_gltf", "a scene's nodes are no list", "/scenes")
    for root in named:
        document.item("nodes", root, "/scenes")
        if parents[root] >= 0:
            raise Damage("cycle", f"node {root} is a root and has a parent", "/scenes")
    return list(dict.fromkeys(named))


def _in_cycle(parents: np.ndarray) -> int:
    """A node that is above itself, -1 where there is none."""
    state = np.zeros(len(parents), np.int8)  # 1: on the way up, 2: known to end
    for start in range(len(parents)):
        at, path = start, []
        while at >= 0 and state[at] == 0:
            state[at] = 1
            path.append(at)
            at = int(parents[at])
        if at >= 0 and state[at] == 1:
            return at
        state[path] = 2
    return -1


def _matrix(node: dict[str, Any], where: str) -> np.ndarray:
    """A node's own (4, 4)."""
    if "matrix" in node:
        return _numbers(node["matrix"], 16, where + "/matrix").reshape(4, 4).T
    made = np.eye(4)
    x, y, z, w = _numbers(node.get("rotation", [0, 0, 0, 1]), 4, where + "/rotation")
    length = x * x + y * y + z * z + w * w
    if not length > 1e-12:
        raise Damage("not_gltf", "its rotation is no rotation", where)
    s = 2 / length
    made[:3, :3] = [[1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
                    [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
                    [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)]]
    made[:3, :3] *= _numbers(node.get("scale", [1, 1, 1]), 3, where + "/scale")
    made[:3, 3] = _numbers(node.get("translation", [0, 0, 0]), 3, where + "/translation")
    return made


def _numbers(value: Any, count: int, where: str) -> np.ndarray:
    if not isinstance(value, list) or len(value) != count or not all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise Damage("not_gltf", f"{count} numbers belong there", where)
    found = np.array(value, np.float64)
    if not np.isfinite(found).all():
        raise Damage("not_finite", "its numbers are not finite", where)
    return found


# -- meshes ------------------------------------------------------------------------------------------------------------

def _primitives(document: GltfDocument, mesh: int) -> list[tuple[dict[str, Any], str]]:
    found = document.item("meshes", mesh, "/meshes").get("primitives")
    if not isinstance(found, list) or not all(isinstance(p, dict) and isinstance(p.get("attributes"), dict)
                                              for p in found):
        raise Damage("not_gltf", "its primitives are damaged", f"/meshes/{mesh}/primitives")
    return [(part, f"/meshes/{mesh}/primitives/{i}") for i, part in enumerate(found)]


def _declared(document: GltfDocument, mesh: int) -> tuple[int, int]:
    """Triangles and vertices that a mesh says it has."""
    total = vertices = 0
    for part, where in _primitives(document, mesh):
        mode = part.get("mode", TRIANGLES)
        index = part.get("indices", part["attributes"].get("POSITION"))
        if mode in (TRIANGLES, STRIP, FAN) and index is not None:
            count = whole(document.item("accessors", index, where).get("count"), where)
            total += count // 3 if mode == TRIANGLES else max(count - 2, 0)
        if "POSITION" in part["attributes"]:
            vertices += whole(document.item("accessors", part["attributes"]["POSITION"], where).get("count"), where)
    return total, vertices


def _parts(document: GltfDocument, mesh: int, world: np.ndarray, node: str, looks: int) -> list[Part]:
    """The mesh's primitives, each one alone: what is damaged is left out and said."""
    name = document.data["meshes"][mesh].get("name", "")
    found = []
    for part, where in _primitives(document, mesh):
        try:
            made = _part(document, part, where, world, looks)
        except Damage as damage:
            document.findings.append(damage.finding)
            continue
        if made is not None:
            made.node, made.mesh = node, name if isinstance(name, str) else ""
            found.append(made)
    return found


def _part(document: GltfDocument, part: dict[str, Any], where: str, world: np.ndarray, looks: int) -> Part | None:
    attributes, mode = part["attributes"], part.get("mode", TRIANGLES)
    if mode not in (TRIANGLES, STRIP, FAN):
        document.say("warning", "left_out", "points and lines are left out: there is no surface in them", where)
        return None
    if "POSITION" not in attributes:
        raise Damage("no_positions", "it has no positions", where)
    if part.get("targets"):
        document.say("info", "left_out", "its morph targets are not looked at", where)
    points = _attribute(document, attributes, "POSITION", 3, where)
    assert points is not None
    count = len(points)
    faces, lost = _faces(document, part, mode, count, where)
    linear = world[:3, :3]
    not_finite = int((~np.isfinite(points)).any(1).sum())
    if not_finite:
        document.say("error", "not_finite", f"{not_finite:,} of {count:,} vertices are not finite numbers", where)
    made = Part(points @ linear.T + world[:3, 3], faces, bad_faces=lost, not_finite=not_finite)
    turned = float(np.linalg.det(linear))
    if turned < 0:  # mirrored: the other way round is outside now
        made.faces = made.faces[:, ::-1]
        document.say("warning", "negative_scale", "a node mirrors its mesh (negative scale); engines differ in which "
                     "side they show: the faces were turned", where)
    elif turned == 0:
        document.say("warning", "flat_scale", "a node scales its mesh to nothing", where)
    extra = {name: _soft(document, attributes, name, width, where, count)
             for name, width in (("NORMAL", 3), ("TANGENT", 4), ("TEXCOORD_0", 2), ("TEXCOORD_1", 2))}
    made.uvs, made.uvs2 = extra["TEXCOORD_0"], extra["TEXCOORD_1"]
    if extra["NORMAL"] is not None and turned != 0:
        made.normals = _unit(extra["NORMAL"] @ np.linalg.inv(linear))
    if extra["TANGENT"] is not None:
        direction = _unit(extra["TANGENT"][:, :3] @ linear.T)
        made.tangents = np.concatenate([direction, extra["TANGENT"][:, 3:] * np.sign(turned or 1.0)], -1)
    color = _soft(document, attributes, "COLOR_0", None, where, count)
    if color is not None:  # linear in the file
        made.colors = np.clip(color[:, :3], 0, 1) ** (1 / 2.2)
    material = part.get("material")
    if material is not None:
        if not isinstance(material, int) or not 0 <= material < looks:
            raise Damage("index_out_of_range", f"it names material {material!r} of {looks}", where + "/material")
        made.material = material
    return made


def _faces(document: GltfDocument, part: dict[str, Any], mode: int, count: int, where: str) -> tuple[np.ndarray, int]:
    if "indices" in part:
        corners = document.accessor(part["indices"], where + "/indices")
        if corners.dtype.kind != "u" or corners.shape[1] != 1:
            raise Damage("not_gltf", "its indices are no whole numbers", where + "/indices")
        line = corners[:, 0].astype(np.int64)
    else:
        line = np.arange(count, dtype=np.int64)
    if mode == TRIANGLES:
        if len(line) % 3:
            document.say("warning", "left_out", f"{len(line) % 3} corners behind the last triangle", where)
        faces = line[:len(line) // 3 * 3].reshape(-1, 3)
    elif mode == STRIP:
        faces = np.stack([line[:-2], line[1:-1], line[2:]], -1) if len(line) > 2 else np.zeros((0, 3), np.int64)
        faces[1::2] = faces[1::2, ::-1]
    else:
        faces = np.stack([np.full(max(len(line) - 2, 0), line[0]), line[1:-1], line[2:]], -1)
    wrong = (faces >= count).any(1)
    if wrong.any():
        document.say("error", "index_out_of_range", f"{int(wrong.sum()):,} faces name a vertex that is not there "
                     f"({int(faces.max()):,} of {count:,})", where + "/indices")
    if not len(faces):
        document.say("error", "no_faces", "it has no triangles", where)
    return faces[~wrong], int(wrong.sum())


def _attribute(document: GltfDocument, attributes: dict[str, Any], name: str, width: int | None, where: str
               ) -> np.ndarray | None:
    if name not in attributes:
        return None
    place = f"{where}/attributes/{name}"
    values = document.accessor(attributes[name], place)
    if width is not None and values.shape[1] != width:
        raise Damage("not_gltf", f"{name} has {values.shape[1]} numbers a vertex, not {width}", place)
    return values.astype(np.float64)


def _soft(document: GltfDocument, attributes: dict[str, Any], name: str, width: int | None, where: str, count: int
          ) -> np.ndarray | None:
    """An attribute that can be done without: damaged ones are left out and said."""
    try:
        values = _attribute(document, attributes, name, width, where)
    except Damage as damage:
        document.findings.append(damage.finding)
        return None
    if values is None:
        return None
    if len(values) != count:
        document.say("error", "lying_length", f"{name} has {len(values):,} values for {count:,} vertices", where)
        return None
    if not np.isfinite(values).all():
        document.say("error", "not_finite", f"{int((~np.isfinite(values)).any(1).sum()):,} values of {name} are not "
                     "finite numbers", where)
        return None
    return values


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
