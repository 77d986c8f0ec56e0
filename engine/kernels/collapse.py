"""Edge collapses one after another, cheapest first, in one Warp thread: compiled speed without a compiler.

The order matters (each collapse changes its neighbours' costs), so this runs serially and on the CPU, whatever device
the rest uses. A quadric is a function of (x, y, z, s, t): position and two attributes, x^T A x + 2 b^T x + c, kept as
21 numbers: A's upper triangle by rows, b, c. What the arrays mean is said in engine.meshes.collapse.
"""

from __future__ import annotations

import warp as wp

import engine.kernels.launch  # noqa: F401  (starts Warp, quietly)

wp.set_module_options({"enable_backward": False})

quadric = wp.types.vector(length=21, dtype=wp.float64)
mat34 = wp.types.matrix(shape=(3, 4), dtype=wp.float64)

INTERIOR, LINE, CORNER = 0, 1, 2
HEAP, FACES, MARKER, COLLAPSED, FULL = 0, 1, 2, 3, 4
"""Places in ``state``."""


@wp.struct
class Net:
    place: wp.array(dtype=wp.vec3d)  # of each vertex
    corner_vertex: wp.array(dtype=int)
    corner_wedge: wp.array(dtype=int)
    alive: wp.array(dtype=int)  # of each face
    uv: wp.array(dtype=wp.vec2d)  # of each wedge
    error: wp.array(dtype=quadric)  # of each wedge
    kind: wp.array(dtype=int)  # of each vertex
    head: wp.array(dtype=int)  # a vertex's first corner
    following: wp.array(dtype=int)  # the next corner at the same vertex, -1 at the end
    stamp: wp.array(dtype=int)  # grows when a vertex changes; -1: gone
    mark: wp.array(dtype=int)
    cost: wp.array(dtype=wp.float64)  # the heap
    ends: wp.array(dtype=wp.vec4i)  # the heap: the edge's vertices and their stamps
    state: wp.array(dtype=int)
    spent: wp.array(dtype=wp.float64)  # [dearest collapse so far]


@wp.struct
class Plan:
    """A collapse of vertex a into vertex b, at ``place``."""
    ok: int
    a: int
    b: int
    faces: int  # that vanish, 1 or 2
    a0: int  # wedges of a and b on the first face, and on the second
    b0: int
    a1: int
    b1: int
    o0: int  # the vanishing faces' third vertices
    o1: int
    stays: int  # b does not move
    place: wp.vec3d
    uv0: wp.vec2d
    uv1: wp.vec2d
    cost: wp.float64


@wp.func
def attributes(q: quadric, p: wp.vec3d, otherwise: wp.vec2d):
    """(s, t) with the least error at position p."""
    det = q[12] * q[14] - q[13] * q[13]
    if det <= wp.float64(1.0e-12) * (q[12] + q[14]) * (q[12] + q[14]):
        return otherwise
    r0 = q[18] + q[3] * p[0] + q[7] * p[1] + q[10] * p[2]
    r1 = q[19] + q[4] * p[0] + q[8] * p[1] + q[11] * p[2]
    return wp.vec2d(-(q[14] * r0 - q[13] * r1) / det, -(q[12] * r1 - q[13] * r0) / det)


@wp.func
def value(q: quadric, p: wp.vec3d, s: wp.vec2d):
    x = p[0]
    y = p[1]
    z = p[2]
    u = s[0]
    v = s[1]
    two = wp.float64(2.0)
    total = q[0] * x * x + q[5] * y * y + q[9] * z * z + q[12] * u * u + q[14] * v * v + q[20]
    total += two * (q[1] * x * y + q[2] * x * z + q[3] * x * u + q[4] * x * v + q[6] * y * z + q[7] * y * u
                    + q[8] * y * v + q[10] * z * u + q[11] * z * v + q[13] * u * v)
    total += two * (q[15] * x + q[16] * y + q[17] * z + q[18] * u + q[19] * v)
    return wp.max(total, wp.float64(0.0))


@wp.func
def schur(q: quadric):
    """The position's share of q once the attributes are the best ones: columns 0-2 its matrix, column 3 its vector."""
    m = mat34()
    m[0, 0] = q[0]
    m[0, 1] = q[1]
    m[0, 2] = q[2]
    m[1, 1] = q[5]
    m[1, 2] = q[6]
    m[2, 2] = q[9]
    m[0, 3] = q[15]
    m[1, 3] = q[16]
    m[2, 3] = q[17]
    det = q[12] * q[14] - q[13] * q[13]
    if det > wp.float64(1.0e-12) * (q[12] + q[14]) * (q[12] + q[14]):
        s = wp.vec3d(q[3], q[7], q[10])
        t = wp.vec3d(q[4], q[8], q[11])
        for i in range(3):
            gs = (q[14] * s[i] - q[13] * t[i]) / det
            gt = (q[12] * t[i] - q[13] * s[i]) / det
            for j in range(i, 3):
                m[i, j] = m[i, j] - gs * s[j] - gt * t[j]
            m[i, 3] = m[i, 3] - gs * q[18] - gt * q[19]
    m[1, 0] = m[0, 1]
    m[2, 0] = m[0, 2]
    m[2, 1] = m[1, 2]
    return m


@wp.func
def triangle(net: Net, c: int):
    """The other two corners of corner c's face, in order."""
    f = c // 3
    k = c - 3 * f
    return 3 * f + (k + 1) % 3, 3 * f + (k + 2) % 3


@wp.func
def planned(net: Net, first: int, second: int):
    """How the edge between two vertices would collapse, and what that costs; ``ok`` is 0 where it must not."""
    plan = Plan()
    a = first
    b = second
    if net.kind[a] > net.kind[b]:
        a = second
        b = first
    plan.a = a
    plan.b = b
    if net.kind[a] == CORNER:
        return plan
    c = net.head[a]
    while c >= 0:
        if net.alive[c // 3] != 0:
            n, p = triangle(net, c)
            other = int(-1)
            opposite = int(-1)
            if net.corner_vertex[n] == b:
                other = n
                opposite = p
            elif net.corner_vertex[p] == b:
                other = p
                opposite = n
            if other >= 0:
                if plan.faces == 0:
                    plan.a0 = net.corner_wedge[c]
                    plan.b0 = net.corner_wedge[other]
                    plan.o0 = net.corner_vertex[opposite]
                elif plan.faces == 1:
                    plan.a1 = net.corner_wedge[c]
                    plan.b1 = net.corner_wedge[other]
                    plan.o1 = net.corner_vertex[opposite]
                plan.faces = plan.faces + 1
        c = net.following[c]
    if plan.faces == 0 or plan.faces > 2:
        return plan
    if plan.faces == 1:
        plan.a1 = plan.a0
        plan.b1 = plan.b0
        plan.o1 = plan.o0
    sharp = plan.faces == 1 or plan.a0 != plan.a1 or plan.b0 != plan.b1
    if net.kind[a] == LINE and not sharp:
        return plan
    if net.kind[a] == INTERIOR and sharp:
        return plan
    split = plan.a0 != plan.a1
    q0 = net.error[plan.a0] + net.error[plan.b0]
    q1 = net.error[plan.a1] + net.error[plan.b1]
    if plan.b0 == plan.b1 and split:
        q0 = net.error[plan.a0] + net.error[plan.b0] + net.error[plan.a1]
        split = False
        q1 = q0
    pa = net.place[a]
    pb = net.place[b]
    half = wp.float64(0.5)
    if net.kind[b] > net.kind[a] or net.kind[b] == CORNER:
        plan.stays = 1
        plan.place = pb
        plan.uv0 = net.uv[plan.b0]
        plan.uv1 = net.uv[plan.b1]
    else:
        m = schur(q0)
        if split:
            m += schur(q1)
        middle = (pa + pb) * half
        solid = wp.matrix_from_rows(wp.vec3d(m[0, 0], m[0, 1], m[0, 2]), wp.vec3d(m[1, 0], m[1, 1], m[1, 2]),
                                    wp.vec3d(m[2, 0], m[2, 1], m[2, 2]))
        pull = wp.float64(1.0e-6) * (m[0, 0] + m[1, 1] + m[2, 2]) + wp.float64(1.0e-30)
        right = wp.vec3d(m[0, 3], m[1, 3], m[2, 3])
        # Flat or straight surroundings leave the best place open; a weak pull to the middle settles it.
        held = solid + pull * wp.identity(n=3, dtype=wp.float64)
        plan.place = wp.inverse(held) * (middle * pull - right)
        reach = wp.length(pb - pa)
        if wp.length(plan.place - middle) > wp.float64(2.0) * reach:
            plan.place = middle
        plan.uv0 = attributes(q0, plan.place, (net.uv[plan.a0] + net.uv[plan.b0]) * half)
        plan.uv1 = plan.uv0
        if plan.a0 != plan.a1:
            plan.uv1 = attributes(q1, plan.place, (net.uv[plan.a1] + net.uv[plan.b1]) * half)
    plan.cost = value(q0, plan.place, plan.uv0)
    if split:
        plan.cost += value(q1, plan.place, plan.uv1)
    weight = q0[0] + q0[5] + q0[9]
    plan.cost += wp.float64(1.0e-10) * weight * wp.length_sq(pb - pa)  # of equals, the shorter edge
    plan.ok = 1
    return plan


@wp.func
def new_mark(net: Net):
    m = net.state[MARKER] + 1
    net.state[MARKER] = m
    return m


@wp.func
def wedged_in(net: Net, v: int):
    """Whether v is closed in by exactly three faces."""
    m = new_mark(net)
    faces = int(0)
    neighbours = int(0)
    c = net.head[v]
    while c >= 0:
        if net.alive[c // 3] != 0:
            faces += 1
            n, p = triangle(net, c)
            u = net.corner_vertex[n]
            if net.mark[u] != m:
                net.mark[u] = m
                neighbours += 1
            u = net.corner_vertex[p]
            if net.mark[u] != m:
                net.mark[u] = m
                neighbours += 1
        c = net.following[c]
    return faces == 3 and neighbours == 3


@wp.func
def keeps_surface(net: Net, plan: Plan):
    """The link condition (Dey et al. 1999): the ends have no common neighbours but the vanishing faces' corners."""
    m = new_mark(net)
    c = net.head[plan.a]
    while c >= 0:
        if net.alive[c // 3] != 0:
            n, p = triangle(net, c)
            net.mark[net.corner_vertex[n]] = m
            net.mark[net.corner_vertex[p]] = m
        c = net.following[c]
    common = int(0)
    again = new_mark(net)
    c = net.head[plan.b]
    while c >= 0:
        if net.alive[c // 3] != 0:
            n, p = triangle(net, c)
            u = net.corner_vertex[n]
            if net.mark[u] == m:
                common += 1
                net.mark[u] = again
            u = net.corner_vertex[p]
            if net.mark[u] == m:
                common += 1
                net.mark[u] = again
        c = net.following[c]
    if common != plan.faces:
        return False
    if plan.faces == 2:
        if plan.o0 == plan.o1:
            return False
        if wedged_in(net, plan.o0) and wedged_in(net, plan.o1):
            return False  # a tetrahedron
    return True


@wp.func
def flat_area(a: wp.vec2d, b: wp.vec2d, c: wp.vec2d):
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@wp.func
def keeps_facing(net: Net, plan: Plan, v: int, other: int, tolerance: wp.float64):
    """No face around v that stays turns over or all but vanishes, in space or in the texture."""
    zero = wp.float64(0.0)
    c = net.head[v]
    while c >= 0:
        if net.alive[c // 3] != 0:
            n, p = triangle(net, c)
            vn = net.corner_vertex[n]
            vp = net.corner_vertex[p]
            if vn != other and vp != other:
                pn = net.place[vn]
                pp = net.place[vp]
                before = wp.cross(pn - net.place[v], pp - net.place[v])
                after = wp.cross(pn - plan.place, pp - plan.place)
                lb = wp.length(before)
                la = wp.length(after)
                sides = wp.length_sq(pn - plan.place) + wp.length_sq(pp - plan.place) + wp.length_sq(pp - pn)
                old = wp.length_sq(pn - net.place[v]) + wp.length_sq(pp - net.place[v]) + wp.length_sq(pp - pn)
                # 4 sqrt(3) area / squared sides: 1 for an equilateral triangle.
                shape = wp.float64(3.4641016151377544) * la / wp.max(sides, wp.float64(1.0e-300))
                shaped = wp.float64(3.4641016151377544) * lb / wp.max(old, wp.float64(1.0e-300))
                if shape < wp.min(wp.float64(0.05), wp.float64(0.5) * shaped) or la <= zero:
                    return False
                if wp.dot(before, after) < tolerance * lb * la:
                    return False
                w = net.corner_wedge[c]
                moved = net.uv[w]
                if w == plan.a0 or w == plan.b0:
                    moved = plan.uv0
                elif w == plan.a1 or w == plan.b1:
                    moved = plan.uv1
                un = net.uv[net.corner_wedge[n]]
                up = net.uv[net.corner_wedge[p]]
                was = flat_area(net.uv[w], un, up)
                now = flat_area(moved, un, up)
                if was != zero and now * was <= wp.float64(0.01) * wp.min(was * was, now * now):
                    return False
        c = net.following[c]
    return True


@wp.func
def before(net: Net, i: int, j: int):
    """Whether heap entry i is to come before j; of equal costs, the lower vertices first."""
    if net.cost[i] != net.cost[j]:
        return net.cost[i] < net.cost[j]
    a = net.ends[i]
    b = net.ends[j]
    if a[0] != b[0]:
        return a[0] < b[0]
    return a[1] < b[1]


@wp.func
def swap(net: Net, i: int, j: int):
    cost = net.cost[i]
    ends = net.ends[i]
    net.cost[i] = net.cost[j]
    net.ends[i] = net.ends[j]
    net.cost[j] = cost
    net.ends[j] = ends


@wp.func
def push(net: Net, a: int, b: int):
    plan = planned(net, wp.min(a, b), wp.max(a, b))
    if plan.ok == 0:
        return
    i = net.state[HEAP]
    if i >= net.cost.shape[0]:
        net.state[FULL] = 1
        return
    net.state[HEAP] = i + 1
    net.cost[i] = plan.cost
    low = wp.min(a, b)
    high = wp.max(a, b)
    net.ends[i] = wp.vec4i(low, high, net.stamp[low], net.stamp[high])
    while i > 0:
        parent = (i - 1) // 2
        if not before(net, i, parent):
            break
        swap(net, i, parent)
        i = parent


@wp.func
def pop(net: Net):
    """Take the first entry off the heap."""
    size = net.state[HEAP] - 1
    net.state[HEAP] = size
    swap(net, 0, size)
    taken = net.ends[size]
    i = int(0)
    while True:
        least = i
        left = 2 * i + 1
        if left < size:
            if before(net, left, least):
                least = left
        if left + 1 < size:
            if before(net, left + 1, least):
                least = left + 1
        if least == i:
            break
        swap(net, i, least)
        i = least
    return taken


@wp.func
def apply(net: Net, plan: Plan):
    """Do what the plan says; the edges around the vertex that is left go onto the heap anew."""
    a = plan.a
    b = plan.b
    net.place[b] = plan.place
    if plan.b0 == plan.b1:
        total = net.error[plan.b0] + net.error[plan.a0]
        if plan.a1 != plan.a0:
            total += net.error[plan.a1]
        net.error[plan.b0] = total
        net.uv[plan.b0] = plan.uv0
    else:
        net.error[plan.b0] = net.error[plan.b0] + net.error[plan.a0]
        net.error[plan.b1] = net.error[plan.b1] + net.error[plan.a1]
        net.uv[plan.b0] = plan.uv0
        net.uv[plan.b1] = plan.uv1
    # One list of living corners for b, of both vertices'.
    kept = int(-1)
    start = int(-1)
    for turn in range(2):
        c = net.head[b]
        if turn == 1:
            c = net.head[a]
        while c >= 0:
            then = net.following[c]
            f = c // 3
            if net.alive[f] != 0:
                n, p = triangle(net, c)
                if turn == 0:
                    if net.corner_vertex[n] == a or net.corner_vertex[p] == a:
                        net.alive[f] = 0
                        net.state[FACES] = net.state[FACES] - 1
                else:
                    net.corner_vertex[c] = b
                    w = net.corner_wedge[c]
                    if w == plan.a0:
                        net.corner_wedge[c] = plan.b0
                    elif w == plan.a1:
                        net.corner_wedge[c] = plan.b1
            if net.alive[f] != 0:
                if kept >= 0:
                    net.following[kept] = c
                else:
                    start = c
                kept = c
            c = then
    if kept >= 0:
        net.following[kept] = -1
    net.head[b] = start
    net.head[a] = -1
    net.stamp[a] = -1
    net.stamp[b] = net.stamp[b] + 1
    net.state[COLLAPSED] = net.state[COLLAPSED] + 1
    m = new_mark(net)
    net.mark[b] = m
    c = start
    while c >= 0:
        n, p = triangle(net, c)
        for k in range(2):
            u = net.corner_vertex[n]
            if k == 1:
                u = net.corner_vertex[p]
            if net.mark[u] != m:
                net.mark[u] = m
                push(net, b, u)
        c = net.following[c]


@wp.kernel
def collapse(net: Net, edges: wp.array(dtype=wp.vec2i), triangles: int, dearest: wp.float64, tolerance: wp.float64):
    """Fill the heap with ``edges`` where there are any, then collapse until ``triangles`` are left, the next collapse
    would cost more than ``dearest``, or the heap is empty. tolerance : least cosine between a face's old and new normal
    """
    for e in range(edges.shape[0]):
        push(net, edges[e][0], edges[e][1])
    while net.state[HEAP] > 0 and net.state[FACES] > triangles and net.state[FULL] == 0:
        if net.cost[0] > dearest:
            break
        ends = pop(net)
        fresh = net.stamp[ends[0]] == ends[2] and net.stamp[ends[1]] == ends[3]
        if fresh:
            plan = planned(net, ends[0], ends[1])
            if plan.ok != 0:
                good = keeps_surface(net, plan)
                if good:
                    good = keeps_facing(net, plan, plan.a, plan.b, tolerance)
                if good and plan.stays == 0:
                    good = keeps_facing(net, plan, plan.b, plan.a, tolerance)
                if good:
                    net.spent[0] = wp.max(net.spent[0], plan.cost)
                    apply(net, plan)
