"""The toybox's props: one function a kind, from a random generator to closed solids in arbitrary units, front at +Z.

Slot 0 takes the colour that the caption names; slot 1 a darker shade of it; the others are the kind's own fixed
colours, by name (see ``FIXED``). Numbers drawn from ``rng`` are the kind's natural variety; size words stretch the
whole later.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from engine.toybox.primitives import Solid, arc, box, cylinder, ellipsoid, extrude, lathe, torus, tube

FIXED = {"wood": (0.52, 0.33, 0.18), "steel": (0.66, 0.69, 0.73), "dark": (0.17, 0.17, 0.19),
         "cream": (0.95, 0.90, 0.78), "leaf": (0.25, 0.52, 0.22), "gold": (0.90, 0.70, 0.22),
         "snow": (0.93, 0.94, 0.96), "glass": (0.62, 0.80, 0.90), "flame": (1.0, 0.72, 0.20),
         "carrot": (0.95, 0.50, 0.12), "skin": (0.93, 0.74, 0.60), "stone": (0.60, 0.59, 0.57)}
SLOTS = {"main": 0, "shade": 1} | {name: i + 2 for i, name in enumerate(FIXED)}

Rng = np.random.Generator


def _s(solid: Solid, part: str, slot: str = "main") -> Solid:
    return solid.named(part, SLOTS[slot])


def mug(rng: Rng) -> list[Solid]:
    r, h, w = rng.uniform(.32, .42), rng.uniform(.75, .95), 0.05
    body = lathe([(r * rng.uniform(.85, 1), 0), (r, h * .2), (r, h), (r - w, h), (r - w, w * 2), (0, w * 2)], 24,
                 [True, True, False, False, False])
    handle = tube(arc((r * .95, h * .5, 0), h * .28, -90, 90, "xy", 9, 1.0), 0.055, 8)
    return [_s(body, "body"), _s(handle.turned("y", rng.uniform(-15, 15)), "handle")]


def chair(rng: Rng) -> list[Solid]:
    w, d, seat, back = rng.uniform(.5, .6), rng.uniform(.48, .56), rng.uniform(.42, .5), rng.uniform(.45, .65)
    leg = rng.uniform(.05, .075)
    out = [_s(box(w, .07, d).moved(y=seat), "seat"),
           _s(box(w, back, .07).moved(y=seat + .07, z=-d / 2 + .035), "back")]
    for x in (-1, 1):
        for z in (-1, 1):
            out.append(_s(box(leg, seat, leg).moved(x * (w - leg) / 2, 0, z * (d - leg) / 2), "leg", "shade"))
    return out


def table(rng: Rng) -> list[Solid]:
    w, d, h = rng.uniform(.9, 1.2), rng.uniform(.6, .75), rng.uniform(.55, .7)
    if rng.random() < .35:
        return [_s(cylinder(w * .48, .07).moved(y=h), "top"), _s(cylinder(.07, h), "leg", "shade"),
                _s(cylinder(.26, .05), "foot", "shade")]
    out = [_s(box(w, .08, d).moved(y=h), "top")]
    for x in (-1, 1):
        for z in (-1, 1):
            out.append(_s(box(.08, h, .08).moved(x * (w / 2 - .07), 0, z * (d / 2 - .07)), "leg", "shade"))
    return out


def lamp(rng: Rng) -> list[Solid]:
    h, r = rng.uniform(.55, .75), rng.uniform(.3, .38)
    return [_s(lathe([(.2, 0), (.2, .05), (.05, .1)], 20, False), "base", "dark"),
            _s(cylinder(.035, h), "pole", "dark"),
            _s(lathe([(r, h - .08), (r * rng.uniform(.45, .6), h + .35)], 24, True), "shade")]


def barrel(rng: Rng) -> list[Solid]:
    r, h, b = rng.uniform(.33, .38), rng.uniform(.95, 1.1), rng.uniform(1.15, 1.25)
    out = [_s(lathe([(r, 0), (r * b * .94, h * .25), (r * b, h * .5), (r * b * .94, h * .75), (r, h)], 24), "body")]
    for y in (.2, .8):
        k = r * b * .96
        out.append(_s(lathe([(k * .985, h * y - .05), (k * 1.02, h * y - .05), (k * 1.02, h * y + .05),
                             (k * .985, h * y + .05)], 24, False), "hoop", "steel"))
    return out


def crate(rng: Rng) -> list[Solid]:
    s, t = 1.0, .09
    h = rng.uniform(.72, .9)
    out = [_s(box(s - .06, h - .06, s - .06).moved(y=.03), "body")]
    for a in (-1, 1):
        for b in (-1, 1):
            out.append(_s(box(t, h, t).moved(a * (s - t) / 2, 0, b * (s - t) / 2), "post", "shade"))
            out.append(_s(box(s, t, t).moved(0, 0 if a < 0 else h - t, b * (s - t) / 2), "rail", "shade"))
            out.append(_s(box(t, t, s).moved(b * (s - t) / 2, 0 if a < 0 else h - t, 0), "rail", "shade"))
    return out


def chest(rng: Rng) -> list[Solid]:
    w, d, h = rng.uniform(.95, 1.1), rng.uniform(.6, .7), rng.uniform(.38, .46)
    lid = cylinder(d / 2, w, segments=24).turned("z", 90).moved(w / 2, h, 0).scaled(1, rng.uniform(.8, 1), 1)
    lid = lid.moved(y=h - lid.vertices[:, 1].mean())
    out = [_s(box(w, h, d), "body"), _s(lid, "lid")]
    for x in (-.36, .36):
        band = cylinder(d / 2 + .02, .09, segments=24).turned("z", 90).moved(.045 + x * w, 0, 0)
        out.append(_s(band.moved(y=h), "band", "gold"))
        out.append(_s(box(.09, h, d + .04).moved(x * w), "band", "gold"))
    out.append(_s(box(.16, .2, .06).moved(0, h - .1, d / 2), "lock", "gold"))
    return out


def mushroom(rng: Rng) -> list[Solid]:
    r, h, c = rng.uniform(.4, .52), rng.uniform(.4, .6), rng.uniform(.3, .42)
    stem = lathe([(.17, 0), (.13, h * .5), (.14, h)], 20)
    cap = lathe([(r * .97, h - .05), (r, h + .02), (r * .92, h + c * .45), (r * .68, h + c * .8),
                 (r * .35, h + c * .96), (0, h + c)], 24)
    return [_s(stem, "stem", "cream"), _s(cap, "cap")]


def tree(rng: Rng) -> list[Solid]:
    h = rng.uniform(.35, .5)
    out = [_s(cylinder(.1, h + .2, .07), "trunk", "wood")]
    if rng.random() < .5:
        n = int(rng.integers(2, 4))
        for k in range(n):
            out.append(_s(cylinder(.45 - .09 * k, .5, 0.02, 20).moved(y=h + .27 * k), "leaves"))
    else:
        out.append(_s(ellipsoid(.42, .42, .42).moved(y=h + .4), "leaves"))
        out.append(_s(ellipsoid(.28, .26, .28).moved(.24, h + .22, .1), "leaves"))
        out.append(_s(ellipsoid(.27, .25, .27).moved(-.25, h + .28, -.05), "leaves"))
    return out


def rock(rng: Rng) -> list[Solid]:
    base = ellipsoid(.55, .42, .5, 9, 6)
    v = base.vertices
    keys = [tuple(np.round(p, 4)) for p in v]
    bump = {k: 1 + rng.uniform(-.16, .16) for k in dict.fromkeys(keys)}
    v = v * np.array([bump[k] for k in keys])[:, None]
    v[:, 1] = np.maximum(v[:, 1], -.3)
    faces = base.faces
    n = np.cross(v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
    return [_s(Solid(v, faces, np.repeat(n[:, None], 3, 1), base.uv), "body")]


def _roof(w: float, h: float, d: float) -> Solid:
    """A gable whose ridge runs along z (so the gable end is the front)."""
    return extrude([(-w / 2, 0), (w / 2, 0), (0, h)], d)


def house(rng: Rng) -> list[Solid]:
    w, d, h, r = rng.uniform(.85, 1), rng.uniform(.8, 1), rng.uniform(.5, .62), rng.uniform(.4, .52)
    out = [_s(box(w, h, d), "walls", "cream"), _s(_roof(w * 1.22, r, d * 1.14).moved(y=h), "roof"),
           _s(box(.2, .34, .05).moved(0, 0, d / 2), "door", "wood")]
    for x in (-.3, .3):
        out.append(_s(box(.16, .16, .04).moved(x * w, h * .45, d / 2), "window", "glass"))
    for z in (-.22, .22):
        for x in (-1, 1):
            out.append(_s(box(.04, .18, .18).moved(x * w / 2, h * .4, z * d), "window", "glass"))
    out.append(_s(box(.13, .42, .13).moved(w * .28, h + r * .3, -d * .2), "chimney", "shade"))
    return out


def car(rng: Rng) -> list[Solid]:
    length, w = rng.uniform(1.25, 1.45), rng.uniform(.58, .66)
    r = rng.uniform(.15, .18)
    body = box(w, .27, length, .96).moved(y=r * .75)
    cab = box(w * .9, .25, length * .5, .78).moved(0, r * .75 + .27, -length * .07)
    glass = box(w * .8, .18, length * .505, .82).moved(0, r * .75 + .29, -length * .07)
    side = box(w * .915, .17, length * .38, .82).moved(0, r * .75 + .29, -length * .07)
    out = [_s(body, "body"), _s(cab, "cab"), _s(glass, "window", "glass"), _s(side, "window", "glass")]
    for x in (-1, 1):
        for z in (-.3, .3):
            out.append(_s(cylinder(r, .12, segments=16).turned("z", 90).moved(x * w / 2 + .06, r, z * length), "wheel",
                          "dark"))
        out.append(_s(ellipsoid(.06, .06, .04, 10, 7).moved(x * w * .33, r * .75 + .15, length / 2), "light", "flame"))
    return out


def rocket(rng: Rng) -> list[Solid]:
    r, h = rng.uniform(.2, .25), rng.uniform(.75, .95)
    out = [_s(lathe([(r * .8, .12), (r, .35), (r, .12 + h * .75), (r * .85, .12 + h)], 24), "body", "snow"),
           _s(lathe([(r * .86, .11 + h), (r * .5, .12 + h + .24), (0, .12 + h + .38)], 24), "nose"),
           _s(cylinder(r * .55, .14, r * .4), "engine", "dark"),
           _s(ellipsoid(r * .45, r * .45, .05).moved(0, .12 + h * .7, r * .95), "window", "glass")]
    fins = int(rng.choice([3, 4]))
    for k in range(fins):
        fin = extrude([(0, 0), (.3, -.12), (.3, .1), (0, .42)], .05).moved(x=r * .75, y=.14)
        out.append(_s(fin.turned("y", -90 + 360 * k / fins), "fin"))
    return out


def sword(rng: Rng) -> list[Solid]:
    blade, w = rng.uniform(.85, 1.05), rng.uniform(.12, .17)
    out = [_s(extrude([(-w / 2, 0), (w / 2, 0), (w / 2, blade * .86), (0, blade), (-w / 2, blade * .86)], .05)
              .moved(y=.33), "blade", "steel"),
           _s(box(rng.uniform(.42, .52), .08, .11).moved(y=.27), "guard"),
           _s(cylinder(.05, .24, segments=12).moved(y=.04), "grip"),
           _s(ellipsoid(.08, .07, .08, 12, 8).moved(y=.03), "pommel", "gold")]
    return out


def shield(rng: Rng) -> list[Solid]:
    if rng.random() < .4:
        disc = lathe([(.5, 0), (.5, .05), (.3, .12), (0, .16)], 28, [False, True, True]).turned("x", 90)
        rim = torus(.5, .045, 28, 8).turned("x", 90).moved(z=.03)
        boss = ellipsoid(.12, .12, .09, 14, 8).moved(z=.16)
        parts = [_s(disc, "face"), _s(rim, "rim", "steel"), _s(boss, "boss", "steel")]
        return [p.moved(y=.5) for p in parts]
    w, h = rng.uniform(.7, .8), rng.uniform(.9, 1.05)
    half = [(w / 2, h), (w / 2, h * .55), (w * .36, h * .25), (0, 0)]
    outline = [(-x, y) for x, y in half[::-1]][1:]
    ring = [(0, 0)] + [(x, y) for x, y in half[::-1]][1:] + [(x, y) for x, y in outline[::-1]]
    big = [((x) * 1.08, (y - h / 2) * 1.07 + h / 2) for x, y in ring]
    return [_s(extrude(ring, .1).moved(z=.035), "face"), _s(extrude(big, .06), "rim", "steel"),
            _s(ellipsoid(.1, .1, .07, 14, 8).moved(0, h * .6, .09), "boss", "steel")]


def bottle(rng: Rng) -> list[Solid]:
    r, h, n = rng.uniform(.2, .26), rng.uniform(.5, .65), rng.uniform(.07, .09)
    body = lathe([(r * .95, 0), (r, .05), (r, h), (r * .75, h + .12), (n, h + .22), (n, h + .42)], 24,
                 [False, True, True, True, True])
    return [_s(body, "body"), _s(cylinder(n * 1.12, .1, segments=16).moved(y=h + .4), "cork", "wood"),
            _s(lathe([(r * 1.01, h * .25), (r * 1.015, h * .25), (r * 1.015, h * .7), (r * 1.01, h * .7)], 24, False),
               "label", "cream")]


def axe(rng: Rng) -> list[Solid]:
    h, b = rng.uniform(.95, 1.1), rng.uniform(.32, .42)
    head = extrude([(-.08, -.07), (.1, -.09), (b, -.24), (b + .07, 0), (b, .24), (.1, .09), (-.08, .07)], .1)
    return [_s(cylinder(.05, h, .042, 12), "handle", "wood"), _s(head.moved(0, h - .16, 0), "head")]


def bed(rng: Rng) -> list[Solid]:
    w, d, h = rng.uniform(.75, .95), rng.uniform(1.2, 1.35), rng.uniform(.18, .24)
    return [_s(box(w, .12, d).moved(y=h * .6), "frame", "wood"),
            _s(box(w * .96, .16, d * .97).moved(y=h * .6 + .1), "mattress", "snow"),
            _s(box(w * 1.0, .15, d * .62).moved(0, h * .6 + .135, d * .185), "blanket"),
            _s(box(w * .66, .1, d * .16).moved(0, h * .6 + .25, -d * .36), "pillow", "snow"),
            _s(box(w * 1.04, rng.uniform(.6, .72), .08).moved(z=-d / 2), "headboard", "wood"),
            _s(box(w * 1.04, .34, .07).moved(z=d / 2), "footboard", "wood")]


def boat(rng: Rng) -> list[Solid]:
    length, w, h = rng.uniform(1.1, 1.3), rng.uniform(.44, .52), rng.uniform(.24, .3)
    hull = lathe([(.001, -1), (.55, -.8), (.85, -.4), (1, 0)], 24).scaled(w / 2, h, length / 2).moved(y=h)
    mast = rng.uniform(.75, .95)
    sail = extrude([(0, 0), (.52, 0), (0, mast * .75)], .03).turned("y", 90).moved(0, h + .14, -.02)
    return [_s(hull, "hull"), _s(cylinder(.03, mast, segments=10).moved(y=h), "mast", "wood"),
            _s(sail, "sail", "snow")]


def cactus(rng: Rng) -> list[Solid]:
    h, r = rng.uniform(.65, .85), rng.uniform(.13, .17)
    out = [_s(lathe([(.26, 0), (.32, .28)], 20), "pot", "carrot"),
           _s(lathe([(r, .25), (r, .25 + h), (r * .72, .25 + h + r * .7), (0, .25 + h + r)], 18), "stem")]
    for side, y in ((1, rng.uniform(.55, .68)), (-1, rng.uniform(.42, .55))):
        p = np.array([[0, y, 0], [side * .22, y, 0], [side * .3, y + .06, 0], [side * .32, y + .14, 0],
                      [side * .32, y + .34, 0]])
        out.append(_s(tube(p, .075, 10), "arm"))
        out.append(_s(ellipsoid(.075, .075, .075, 10, 7).moved(side * .32, y + .34, 0), "arm"))
    return out


def cake(rng: Rng) -> list[Solid]:
    r, h = rng.uniform(.46, .54), rng.uniform(.3, .38)
    icing = lathe([(r * 1.03, h * .62), (r * 1.03, h + .06), (r * .95, h + .1)], 24, [True, True])
    out = [_s(cylinder(r * 1.12, .04), "plate", "snow"), _s(cylinder(r, h).moved(y=.04), "body", "cream"),
           _s(icing, "icing")]
    n = int(rng.integers(1, 5))
    for k in range(n):
        a = 2 * math.pi * k / n
        x, z = (0.0, 0.0) if n == 1 else (r * .5 * math.sin(a), r * .5 * math.cos(a))
        out.append(_s(cylinder(.035, .2, segments=10).moved(x, h + .09, z), "candle", "snow"))
        out.append(_s(ellipsoid(.035, .06, .035, 8, 6).moved(x, h + .34, z), "flame", "flame"))
    return out


def snowman(rng: Rng) -> list[Solid]:
    a, b, c = rng.uniform(.36, .42), rng.uniform(.26, .3), .2
    y1, y2 = a * 1.55 + b * .55, a * 1.55 + b * 1.5 + c * .5
    out = [_s(ellipsoid(a, a, a).moved(y=a * .93), "body", "snow"), _s(ellipsoid(b, b, b).moved(y=y1), "body", "snow"),
           _s(ellipsoid(c, c, c).moved(y=y2), "head", "snow"),
           _s(cylinder(.045, .24, .005, 10).turned("x", 90).moved(0, y2, c * .9), "nose", "carrot"),
           _s(torus(c * .92, .075, 20, 8).moved(y=y2 - c * .8), "scarf"),
           _s(box(.1, .3, .05).moved(.12, y1 - .12, b * .92), "scarf"),
           _s(cylinder(.27, .05).moved(y=y2 + c * .72), "hat"), _s(cylinder(.17, .26).moved(y=y2 + c * .75), "hat")]
    for x in (-.08, .08):
        out.append(_s(ellipsoid(.035, .035, .03, 8, 6).moved(x, y2 + .07, c * .9), "eye", "dark"))
    return out


def gift(rng: Rng) -> list[Solid]:
    w, h = .9, rng.uniform(.5, .7)
    out = [_s(box(w, h * .85, w), "box"), _s(box(w * 1.06, h * .2, w * 1.06).moved(y=h * .8), "lid"),
           _s(box(.16, h + .02, w * 1.08), "ribbon", "gold"), _s(box(w * 1.08, h + .02, .16), "ribbon", "gold")]
    for s in (-1, 1):
        out.append(_s(torus(.13, .045, 16, 8).turned("x", 90).turned("z", s * 35).moved(s * .15, h + .12, 0), "bow",
                      "gold"))
    return out


def umbrella(rng: Rng) -> list[Solid]:
    r, h, c = rng.uniform(.5, .6), rng.uniform(.75, .9), rng.uniform(.3, .38)
    canopy = lathe([(r, h), (r * .93, h + c * .42), (r * .7, h + c * .76), (r * .35, h + c * .95), (0, h + c),
                    ][::1], 10)
    hook = arc((.1, .12, 0), .1, 180, 360, "xy", 9)
    return [_s(canopy, "canopy"), _s(cylinder(.028, h + c + .06 - .12, segments=10).moved(y=.12), "shaft", "dark"),
            _s(tube(hook, .035, 8), "handle", "wood")]


def teapot(rng: Rng) -> list[Solid]:
    r, h = rng.uniform(.4, .46), rng.uniform(.5, .6)
    body = lathe([(r * .6, 0), (r * .95, h * .25), (r, h * .5), (r * .8, h * .82), (r * .45, h)], 24)
    spout = tube(np.array([[r * .7, h * .35, 0], [r * 1.15, h * .5, 0], [r * 1.4, h * .8, 0], [r * 1.65, h * 1.0, 0]]),
                 .075, 10)
    handle = tube(arc((-r * .85, h * .5, 0), h * .34, 90, 270, "xy", 9), .055, 8)
    return [_s(body, "body"), _s(spout, "spout"), _s(handle, "handle"),
            _s(lathe([(r * .5, h * .97), (r * .42, h * 1.1), (0, h * 1.16)], 20), "lid", "shade"),
            _s(ellipsoid(.07, .07, .07, 12, 8).moved(y=h * 1.22), "knob", "gold")]


def television(rng: Rng) -> list[Solid]:
    w, h, d = rng.uniform(1.0, 1.15), rng.uniform(.68, .8), rng.uniform(.45, .6)
    out = [_s(box(w, h, d).moved(y=.16), "body"),
           _s(box(w * .68, h * .7, .04).moved(-w * .1, .16 + h * .15, d / 2), "screen", "glass"),
           _s(box(w * .72, h * .76, .025).moved(-w * .1, .16 + h * .12, d / 2), "bezel", "dark")]
    for y in (.3, .55):
        out.append(_s(cylinder(.065, .07, segments=12).turned("x", 90).moved(w * .37, .16 + h * y, d / 2), "knob",
                      "cream"))
    for s in (-1, 1):
        out.append(_s(tube(np.array([[0, .16 + h, 0], [s * .32, .16 + h + .36, 0]]), .022, 8), "antenna", "steel"))
        out.append(_s(box(.08, .18, d * .7).moved(s * w * .38), "foot", "dark"))
    return out


def duck(rng: Rng) -> list[Solid]:
    a, c = rng.uniform(.36, .42), rng.uniform(.23, .27)
    hy, hz = a * 1.15 + c * .8, a * .62
    out = [_s(ellipsoid(a * .88, a * .72, a * 1.2).moved(y=a * .7), "body"),
           _s(ellipsoid(c, c, c).moved(0, hy, hz), "head"),
           _s(ellipsoid(.12, .05, .17, 12, 8).moved(0, hy - .04, hz + c), "beak", "carrot"),
           _s(cylinder(.2, .42, .01, 12).turned("x", -55).moved(0, a * .8, -a * .85), "tail")]
    for s in (-1, 1):
        out.append(_s(ellipsoid(.045, .05, .04, 8, 6).moved(s * c * .5, hy + .07, hz + c * .82), "eye", "dark"))
        out.append(_s(ellipsoid(.09, a * .4, a * .68, 14, 8).turned("x", 12).moved(s * a * .85, a * .8, -.06), "wing",
                      "shade"))
    return out


def bench(rng: Rng) -> list[Solid]:
    w, d, h = rng.uniform(1.15, 1.3), .42, rng.uniform(.36, .44)
    out = [_s(box(w, .06, d * .45).moved(0, h, z), "seat") for z in (-d * .25, d * .25)]
    out += [_s(box(w, .14, .05).moved(0, h + .14 + k * .2, -d / 2), "back") for k in (0, 1)]
    for x in (-.42, .42):
        out.append(_s(box(.07, h, d).moved(x=x * w), "leg", "dark"))
        out.append(_s(box(.07, h + .46, .05).moved(x * w, 0, -d / 2 - .02), "leg", "dark"))
    return out


def bucket(rng: Rng) -> list[Solid]:
    r, h = rng.uniform(.28, .34), rng.uniform(.55, .68)
    body = lathe([(r, 0), (r * 1.35, h), (r * 1.27, h), (r * .93, .05), (0, .05)], 24, [True, False, True, False])
    return [_s(body, "body"), _s(torus(r * 1.35, .035, 24, 8).moved(y=h), "rim", "steel"),
            _s(tube(arc((0, h, 0), r * 1.33, 0, 180, "xy", 13, .9), .025, 8), "handle", "steel")]


def candle(rng: Rng) -> list[Solid]:
    r, h = rng.uniform(.15, .19), rng.uniform(.55, .75)
    return [_s(lathe([(.38, 0), (.42, .06), (.36, .06), (.34, .03), (0, .03)], 24, False), "dish", "gold"),
            _s(cylinder(r, h).moved(y=.03), "body"),
            _s(cylinder(.015, .08, segments=8).moved(y=h + .03), "wick", "dark"),
            _s(ellipsoid(.06, .11, .06, 12, 8).moved(y=h + .17), "flame", "flame")]


PROPS: dict[str, Callable[[Rng], list[Solid]]] = {f.__name__: f for f in (
    mug, chair, table, lamp, barrel, crate, chest, mushroom, tree, rock, house, car, rocket, sword, shield, bottle, axe,
    bed, boat, cactus, cake, snowman, gift, umbrella, teapot, television, duck, bench, bucket, candle)}
HELD_OUT_KINDS = ("bench", "bucket", "candle")
"""Never trained on: they measure what the models do with shapes they have not seen."""
TRAINED_KINDS = tuple(kind for kind in PROPS if kind not in HELD_OUT_KINDS)
FRONT_KINDS = ("chair", "chest", "house", "car", "bed", "snowman", "television", "duck", "shield", "boat")
"""Kinds whose front can be told from their back."""
