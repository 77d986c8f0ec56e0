"""From one surface to another: rays along normals, nearest points, and how much of the sky a point sees.

All by Warp's bounding volume hierarchy over triangles. The reference twins in the tests try every triangle.
"""

from __future__ import annotations

import torch
import warp as wp

from engine.kernels.launch import array, launch

wp.set_module_options({"enable_backward": False})

STEPS = 8
"""Most surfaces a ray goes through before it is given up."""


@wp.func
def nearest_facing(mesh: wp.uint64, origin: wp.vec3, way: wp.vec3, normal: wp.vec3, reach: float, step: float):
    """The first triangle along ``way`` that looks to ``normal``'s side: (distance or -1, face, u, v)."""
    start = float(0.0)
    distance = float(-1.0)
    face = int(-1)
    u = float(0.0)
    v = float(0.0)
    for _ in range(STEPS):
        if start <= reach and face < 0:
            hit = wp.mesh_query_ray(mesh, origin + way * start, way, reach - start)
            if hit.result:
                if wp.dot(hit.normal, normal) > 0.0:
                    distance = start + hit.t
                    face = hit.face
                    u = hit.u
                    v = hit.v
                start = start + hit.t + step
            else:
                start = reach + 1.0
    return distance, face, u, v


@wp.kernel
def _along_normals(first: int, mesh: wp.uint64, points: wp.array(dtype=wp.vec3), normals: wp.array(dtype=wp.vec3),
                   reach: float, step: float, out_face: wp.array(dtype=int), out_weights: wp.array(dtype=wp.vec3),
                   out_distance: wp.array(dtype=float)):
    i = first + wp.tid()
    p = points[i]
    n = normals[i]
    outward, face, u, v = nearest_facing(mesh, p, n, n, reach, step)
    inward, below, bu, bv = nearest_facing(mesh, p, -n, n, reach, step)
    signed = outward
    if below >= 0 and (face < 0 or inward < outward):
        face = below
        u = bu
        v = bv
        signed = -inward
    out_face[i] = face
    if face >= 0:
        out_weights[i] = wp.vec3(u, v, 1.0 - u - v)
        out_distance[i] = signed


@wp.kernel
def _nearest(first: int, mesh: wp.uint64, points: wp.array(dtype=wp.vec3), reach: float,
             out_face: wp.array(dtype=int), out_weights: wp.array(dtype=wp.vec3), out_distance: wp.array(dtype=float)):
    i = first + wp.tid()
    found = wp.mesh_query_point_no_sign(mesh, points[i], reach)
    out_face[i] = -1
    if found.result:
        out_face[i] = found.face
        out_weights[i] = wp.vec3(found.u, found.v, 1.0 - found.u - found.v)
        at = wp.mesh_eval_position(mesh, found.face, found.u, found.v)
        out_distance[i] = wp.length(points[i] - at)


@wp.kernel
def _open_sky(first: int, mesh: wp.uint64, points: wp.array(dtype=wp.vec3), normals: wp.array(dtype=wp.vec3),
              directions: wp.array(dtype=wp.vec3), turns: wp.array(dtype=float), reach: float, lift: float,
              out: wp.array(dtype=float)):
    i = first + wp.tid()
    n = normals[i]
    # A frame around the normal without a branch that jumps: Duff et al. 2017.
    sign = 1.0
    if n[2] < 0.0:
        sign = -1.0
    a = -1.0 / (sign + n[2])
    b = n[0] * n[1] * a
    x = wp.vec3(1.0 + sign * n[0] * n[0] * a, sign * b, -sign * n[0])
    y = wp.vec3(b, sign + n[1] * n[1] * a, -n[1])
    c = wp.cos(turns[i])
    s = wp.sin(turns[i])
    origin = points[i] + n * lift
    free = float(0.0)
    for k in range(directions.shape[0]):
        d = directions[k]
        way = x * (d[0] * c - d[1] * s) + y * (d[0] * s + d[1] * c) + n * d[2]
        if not wp.mesh_query_ray_anyhit(mesh, origin, way, reach):
            free += 1.0
    out[i] = free / float(directions.shape[0])


class Surface:
    """Triangles made ready to be asked. vertices : (v, 3), faces : (f, 3), both on one device; not empty"""

    def __init__(self, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        self.vertices = vertices.detach().float().contiguous()
        self.faces = faces.int().contiguous()
        self.mesh = wp.Mesh(array(self.vertices, wp.vec3), array(self.faces.view(-1)))

    def along_normals(self, points: torch.Tensor, normals: torch.Tensor, reach: float
                      ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the lines through ``points`` (n, 3) along unit ``normals`` first meet a face that looks their way.

        reach : how far to either side. Of a hit outside and one inside the nearer counts.
        Returns face (n,) int32, -1 where there is none; weights (n, 3) of its corners; distance (n,), along the normal
        """
        found, n = self._out(points), normals.float().contiguous()
        launch(_along_normals, len(points), [self.mesh.id, array(points.float().contiguous(), wp.vec3),
                                             array(n, wp.vec3), float(reach), float(reach) * 1e-4, array(found[0]),
                                             array(found[1], wp.vec3), array(found[2])], points.device)
        return found

    def nearest(self, points: torch.Tensor, reach: float = 1e6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The surface's nearest point to each of ``points`` (n, 3): face, weights, distance as above."""
        found = self._out(points)
        launch(_nearest, len(points), [self.mesh.id, array(points.float().contiguous(), wp.vec3), float(reach),
                                       array(found[0]), array(found[1], wp.vec3), array(found[2])], points.device)
        return found

    def open_sky(self, points: torch.Tensor, normals: torch.Tensor, directions: torch.Tensor, turns: torch.Tensor,
                 reach: float, lift: float) -> torch.Tensor:
        """Share of rays (n,) that meet nothing within ``reach``.

        points, normals : (n, 3); directions : (k, 3) around +z; turns : (n,) radians about each point's own normal
        lift : how far off the surface the rays begin, so that they do not meet where they come from
        """
        free = torch.zeros(len(points), device=points.device)
        launch(_open_sky, len(points), [self.mesh.id, array(points.float().contiguous(), wp.vec3),
                                        array(normals.float().contiguous(), wp.vec3),
                                        array(directions.float().contiguous(), wp.vec3), array(turns.float()),
                                        float(reach), float(lift), array(free)], points.device)
        return free

    def _out(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device = points.device
        return (torch.full((len(points),), -1, dtype=torch.int32, device=device),
                torch.zeros(len(points), 3, device=device), torch.zeros(len(points), device=device))


def interpolated(attribute: torch.Tensor, faces: torch.Tensor, face: torch.Tensor, weights: torch.Tensor
                 ) -> torch.Tensor:
    """Values (n, c) at places on triangles: attribute (v, c), faces (f, 3), face (n,), weights (n, 3) of corners."""
    corner = faces.long()[face.clamp_min(0).long()]
    return (attribute[corner] * weights[..., None]).sum(1)
