"""Bodies, hair, hats, clothes and tools of the toybox figures, each solid in the frame of the bone that carries it.

Slot "main" takes the colour that the caption names; "second" the spec's other colour; "skin" and "hair" the figure's
own. The rest are the props' fixed colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.toybox.primitives import Solid, arc, box, cylinder, ellipsoid, extrude, lathe, torus, tube
from engine.toybox.props import SLOTS as PROP_SLOTS

EXTRA = ("hair", "second", "denim", "straw", "leather", "glow", "rose")
SLOTS = PROP_SLOTS | {name: len(PROP_SLOTS) + i for i, name in enumerate(EXTRA)}
EXTRA_RGB = {"denim": (.20, .30, .52), "straw": (.93, .76, .38), "leather": (.36, .21, .12), "glow": (.45, .95, .95),
             "rose": (.75, .30, .28)}

Worn = tuple[str, Solid]
"""(bone, solid in that bone's frame)"""
SIDES = (("r_", -1), ("l_", 1))
TAU = 2 * math.pi
HIP, SKIRT_TOP, SKIRT_DEPTH = .42, .06, .9
"""The hips' height; a skirt's waist above them; its depth over its width."""


def on(bone: str, solid: Solid, part: str, slot: str = "main") -> Worn:
    return bone, solid.named(part, SLOTS[slot])


def limb(top: float, bottom: float, length: float) -> Solid:
    """A capsule that hangs from the origin."""
    a = np.radians(np.linspace(-90, 90, 9))
    low = [(0.0 if k == 0 else bottom * math.cos(t), bottom * math.sin(t) - length) for k, t in enumerate(a[:5])]
    high = [(0.0 if k == 4 else top * math.cos(t), top * math.sin(t)) for k, t in enumerate(a[4:])]
    return lathe(low + high, 14)


@dataclass(frozen=True)
class Look:
    """A role's clothes. ``noun`` is what the named colour is of (with its article, but for armour and the like).

    torso, arms, hands, legs, boots : slots; skirt : (hem height above the ground, hem radius) or None
    extras : what else the role wears and holds; hair : None leaves it to the spec, else it is fixed
    head : "bare", "covered" (a helmet hides ears and nose) or "own" (the extras bring it)
    """

    noun: str
    extras: Callable[[], list[Worn]]
    torso: str = "main"
    arms: str = "main"
    hands: str = "skin"
    legs: str = "second"
    boots: str = "leather"
    skirt: tuple[float, float] | None = None
    hair: str | None = None
    material: str = "rubber"
    head: str = "bare"


def body(look: Look) -> list[Worn]:
    """Head with its face, torso, limbs, hands and boots."""
    torso = lathe([(.13, -.05), (.165, .02), (.17, .12), (.16, .24), (.12, .32), (.05, .36)], 20).scaled(1, 1, .82)
    out = [on("chest", torso, "torso", look.torso),
           on("pelvis", ellipsoid(.16, .11, .14, 18, 9), "torso", look.torso if look.skirt else look.legs)]
    # under a skirt the legs take its colour, so that a knee that presses through in a wide stride does not show
    hidden = "" if look.skirt is None else ("all" if look.skirt[0] < .2 else "thigh")
    for side, x in SIDES:
        out += [on(side + "upper_arm", limb(.078, .066, .17), "arm", look.arms),
                on(side + "forearm", limb(.068, .062, .14), "arm", look.arms),
                on(side + "hand", ellipsoid(.072, .078, .072, 12, 8).moved(y=-.03), "hand", look.hands),
                on(side + "thigh", limb(.09, .078, .17), "leg", look.torso if hidden else look.legs),
                on(side + "shin", limb(.078, .074, .15), "leg", look.torso if hidden == "all" else look.legs),
                on(side + "foot", ellipsoid(.085, .07, .13, 14, 8).moved(x * .005, -.01, .045), "boot", look.boots)]
    if look.head != "own":
        out += head(look.head == "covered")
    if look.skirt:
        hem, radius = look.skirt
        low = hem - HIP
        skirt = lathe([(radius, low), (.5 * (radius + .2), .5 * low), (.195, 0), (.165, SKIRT_TOP)], 28)
        out.append(on("pelvis", skirt.scaled(1, 1, SKIRT_DEPTH), "skirt", look.torso))
    return out


def head(covered: bool = False) -> list[Worn]:
    """A bald head; ``covered`` leaves out what would press through a helmet."""
    if covered:
        return [on("head", ellipsoid(.24, .235, .23).moved(y=.23), "head", "skin")]
    out = [on("head", ellipsoid(.25, .245, .24).moved(y=.23), "head", "skin"),
           on("head", ellipsoid(.042, .036, .04, 10, 7).moved(0, .185, .238), "nose", "skin"),
           on("head", ellipsoid(.06, .014, .02, 10, 7).moved(0, .105, .202), "mouth", "rose")]
    for _, x in SIDES:
        out += [on("head", ellipsoid(.036, .052, .024, 10, 7).moved(x * .092, .25, .214), "eye", "dark"),
                on("head", ellipsoid(.035, .055, .045, 10, 7).moved(x * .245, .21, 0), "ear", "skin")]
    return out


def hair(style: str) -> list[Worn]:
    """``style``: short, long, ponytail or bald (nothing)."""
    if style == "bald":
        return []
    out = [on("head", ellipsoid(.262, .2, .25).moved(0, .32, -.025), "hair", "hair"),
           on("head", ellipsoid(.25, .2, .2).moved(0, .23, -.075), "hair", "hair")]
    if style == "long":
        out.append(on("head", ellipsoid(.225, .29, .1).moved(0, .06, -.19), "hair", "hair"))
        out += [on("head", ellipsoid(.065, .24, .11, 12, 9).moved(x * .225, .09, -.01), "hair", "hair")
                for x in (-1, 1)]
    if style == "ponytail":
        out.append(on("head", tube(np.array([[0, .36, -.2], [0, .36, -.32], [0, .24, -.38], [0, .06, -.37],
                                             [0, -.02, -.34]]), .075, 10), "hair", "hair"))
    return out


def beard(long: bool, slot: str = "hair") -> list[Worn]:
    chin = ellipsoid(.15, .2, .085, 16, 9).moved(0, -.02, .185) if long else \
        ellipsoid(.185, .12, .1, 16, 9).moved(0, .07, .155)
    out = [on("head", chin, "beard", slot)]
    out += [on("head", ellipsoid(.075, .032, .045, 10, 7).turned("z", -x * 14).moved(x * .06, .13, .215), "beard", slot)
            for x in (-1, 1)]
    return out


def belt(slot: str = "leather", buckle: str = "gold") -> list[Worn]:
    ring = lathe([(.165, -.02), (.185, -.02), (.185, .045), (.165, .045)], 20, False).scaled(1, 1, .84)
    return [on("chest", ring, "belt", slot), on("chest", box(.09, .075, .03).moved(0, -.03, .155), "belt", buckle)]


def cape(slot: str, tilt: float = 12) -> list[Worn]:
    sheet = extrude([(-.25, -.62), (.25, -.62), (.16, 0), (-.16, 0)], .04)
    return [on("chest", sheet.turned("x", tilt).moved(0, .33, -.15), "cape", slot)]


def brimmed(brim: float, slot: str, band: str, tall: float, top: float, y: float = .37) -> list[Worn]:
    """A hat with a round brim and a crown ``tall`` high, ``top`` wide above (0: a cone)."""
    crown = lathe([(.235, 0), (.225, tall * .08), (max(top, .001), tall)], 22)
    ring = lathe([(.22, .01), (.246, .01), (.238, .075), (.2, .075)], 22, False)
    disc = lathe([(brim * .96, 0), (brim, .022), (brim * .96, .045), (0, .045)], 26)
    return [on("head", s.turned("x", -8).moved(0, y, -.01), "hat", c) for s, c in ((crown, slot), (ring, band),
                                                                                 (disc, slot))]


def held(side: str, *parts: tuple[Solid, str], tilt: float = 0, out: float = .06, name: str = "tool") -> list[Worn]:
    """A tool in a hand: its grip at the origin, upright along +Y, leaning ``tilt`` degrees forward.

    ``name`` "shaft" is for a long one, along which a raised hand slides.
    """
    x = -out if side == "r_" else out
    return [on(side + "hand", s.turned("x", tilt).moved(x, -.03, .05), name, slot) for s, slot in parts]


def sword(length: float = .52) -> tuple[tuple[Solid, str], ...]:
    blade = extrude([(-.04, 0), (.04, 0), (.04, length * .85), (0, length), (-.04, length * .85)], .035)
    return ((blade.moved(y=.08), "steel"), (box(.2, .045, .06).moved(y=.06), "gold"),
            (cylinder(.03, .16, segments=10).moved(y=-.08), "leather"))


def round_shield(slot: str) -> list[Worn]:
    parts = ((lathe([(.24, 0), (.24, .03), (.12, .07), (0, .085)], 24, [False, True, True]), slot),
             (torus(.24, .028, 24, 8).moved(y=.02), "steel"),
             (ellipsoid(.065, .045, .065, 12, 7).moved(y=.085), "steel"))
    return [on("l_hand", s.turned("x", 78).moved(.08, .03, .09), "shield", c) for s, c in parts]


def knight() -> list[Worn]:
    out = [on("head", ellipsoid(.275, .27, .265).moved(y=.235), "helmet"),
           on("head", box(.37, .05, .16).moved(0, .235, .12), "visor", "dark"),
           on("head", box(.035, .2, .05).moved(0, .06, .24), "visor", "steel"),
           on("head", ellipsoid(.045, .16, .22, 14, 9).turned("x", 18).moved(0, .52, -.08), "plume", "second"),
           on("chest", box(.05, .22, .04).moved(0, .06, .13), "torso", "steel")]
    for side, x in SIDES:
        out.append(on(side + "upper_arm", ellipsoid(.105, .09, .105, 14, 8).moved(x * .02, .02), "shoulder", "steel"))
        out.append(on(side + "shin", ellipsoid(.08, .075, .085, 12, 8).moved(y=.0), "knee", "steel"))
    return [*out, *belt("steel", "steel"), *held("r_", *sword(), tilt=30), *round_shield("second")]


def wizard() -> list[Worn]:
    staff = ((cylinder(.028, .95, segments=10).moved(y=-.34), "wood"), (ellipsoid(.075, .075, .075, 14, 9).moved(y=.66),
                                                                       "glow"))
    return [*brimmed(.34, "main", "gold", .56, 0), *beard(True, "snow"), *belt(),
            *held("r_", *staff, tilt=2, out=.15, name="shaft")]


def farmer() -> list[Worn]:
    out = brimmed(.41, "straw", "rose", .2, .17)
    out.append(on("chest", box(.2, .16, .05).moved(0, .0, .125), "overalls", "denim"))
    out += [on("chest", box(.045, .24, .31).moved(x * .085, .12, 0), "overalls", "denim") for x in (-1, 1)]
    fork = [(cylinder(.024, .8, segments=8).moved(y=-.34), "wood"), (box(.2, .035, .035).moved(y=.44), "steel")]
    fork += [(cylinder(.016, .22, .006, 8).moved(x, .46), "steel") for x in (-.085, 0, .085)]
    return out + held("r_", *fork, tilt=6, out=.1, name="shaft")


def pirate() -> list[Worn]:
    brim = extrude([(-.41, .05), (-.3, -.03), (0, -.07), (.3, -.03), (.41, .05), (.3, .22), (.14, .3), (0, .33),
                    (-.14, .3), (-.3, .22)], .07)
    out = [on("head", brim.turned("x", -8).moved(0, .385, .19), "hat", "dark"),
           on("head", ellipsoid(.27, .17, .24).moved(0, .38, -.01), "hat", "dark"),
           on("head", ellipsoid(.07, .065, .03, 12, 8).turned("x", -8).moved(0, .52, .225), "skull", "snow"),
           on("head", box(.08, .045, .04).turned("x", -8).moved(0, .42, .24), "skull", "snow"),
           on("head", ellipsoid(.07, .068, .035, 12, 8).moved(.092, .25, .215), "eyepatch", "dark"),
           on("chest", box(.1, .3, .03).moved(0, .03, .125), "shirt", "snow")]
    return [*out, *beard(False), *belt("dark"), *held("r_", *sword(.46), tilt=30)]


def crown(scale: float = 1.0) -> list[Worn]:
    r, h = .2 * scale, .1 * scale
    ring = lathe([(r * .86, 0), (r, 0), (r * 1.06, h), (r * .92, h)], 24, False)
    out = [on("head", ring.moved(y=.42), "crown", "gold")]
    for k in range(7):
        a = TAU * k / 7
        spike = cylinder(.05 * scale, .13 * scale, .004, 8).moved(r * math.sin(a), .41 + h, r * math.cos(a) - .0)
        out += [on("head", spike, "crown", "gold"), on("head", ellipsoid(.028 * scale, .028 * scale, .028 * scale, 8, 6)
                .moved(r * 1.0 * math.sin(a), .42 + h + .14 * scale, r * math.cos(a)), "gem", "rose")]
    return out


def king() -> list[Worn]:
    out = [*crown(1.15), *beard(True),
           on("chest", torus(.155, .06, 20, 8).scaled(1.15, 1, .9).moved(y=.31), "fur", "snow"),
           on("pelvis", torus(.265, .05, 26, 8).scaled(1, 1, .9).moved(y=-.33), "skirt fur", "snow"),
           on("pelvis", box(.1, .46, .03, .6).turned("x", -14).moved(0, -.33, .245), "skirt panel", "snow")]
    sceptre = ((cylinder(.025, .55, segments=8).moved(y=-.2), "gold"),
               (ellipsoid(.06, .06, .06, 12, 8).moved(y=.38), "rose"))
    return [*out, *cape("main"), *held("r_", *sceptre, tilt=25)]


def ninja() -> list[Worn]:
    band = lathe([(.2, .33), (.258, .33), (.245, .39), (.2, .39)], 24, False).scaled(1, 1, .98)
    out = [on("head", ellipsoid(.268, .26, .255).moved(y=.235), "hood"),
           on("head", ellipsoid(.19, .065, .06, 18, 9).moved(0, .25, .212), "face", "skin"),
           on("head", band.moved(z=.0), "headband", "second"),
           *(on("chest", s.turned("z", 38).moved(0, .16, -.17), "katana", c) for s, c in (
               (cylinder(.028, .62, segments=8).moved(y=-.28), "dark"),
               (cylinder(.034, .2, segments=8).moved(y=.34), "gold")))]
    for x, turn in ((-.06, 20), (.07, -16)):
        out.append(on("head", box(.07, .24, .02).turned("z", turn).moved(x, .13, -.27), "headband", "second"))
    for _, x in SIDES:
        out.append(on("head", ellipsoid(.032, .036, .02, 10, 7).moved(x * .085, .252, .262), "eye", "dark"))
    ring = lathe([(.165, -.02), (.185, -.02), (.185, .045), (.165, .045)], 20, False).scaled(1, 1, .84)
    return [*out, on("chest", ring, "belt", "second")]


def witch() -> list[Worn]:
    broom = ((cylinder(.026, .8, segments=8).moved(y=-.26), "wood"),
             (lathe([(.05, .48), (.11, .6), (.13, .78), (.0, .8)], 14, False), "straw"),
             (cylinder(.06, .05).moved(y=.47), "rose"))
    out = brimmed(.42, "dark", "second", .54, 0)
    nose = cylinder(.045, .11, .012, 10).turned("x", 100).moved(0, .19, .22)
    return [*out, on("head", nose, "nose", "skin"), *belt("dark"), *held("r_", *broom, tilt=6, out=.1, name="shaft")]


def robot() -> list[Worn]:
    out = [on("head", box(.46, .38, .4, .92).moved(y=.05), "head"),
           on("head", box(.36, .2, .04).moved(0, .17, .185), "face", "dark"),
           on("head", cylinder(.018, .14, segments=8).moved(y=.42), "antenna", "steel"),
           on("head", ellipsoid(.045, .045, .045, 12, 8).moved(y=.58), "antenna", "rose"),
           on("chest", box(.4, .36, .28, .92).moved(y=-.03), "torso"),
           on("chest", box(.24, .15, .03).moved(0, .12, .135), "panel", "steel"),
           on("head", cylinder(.07, .1).moved(y=-.04), "neck", "steel")]
    for _, x in SIDES:
        out += [on("head", ellipsoid(.05, .05, .025, 14, 8).moved(x * .095, .275, .21), "eye", "glow"),
                on("head", cylinder(.07, .05, segments=14).turned("z", 90).moved(.23 * x + .025, .22), "ear", "steel")]
    out += [on("chest", ellipsoid(.024, .024, .015, 8, 6).moved(x, .16, .168), "panel", c)
            for x, c in ((-.07, "rose"), (0, "straw"), (.07, "glow"))]
    return out


def astronaut() -> list[Worn]:
    out = [on("head", ellipsoid(.3, .29, .29).moved(y=.22), "helmet", "snow"),
           on("head", ellipsoid(.22, .17, .1, 20, 11).moved(0, .22, .225), "visor", "dark"),
           on("head", ellipsoid(.07, .04, .02, 12, 7).turned("z", 25).moved(-.09, .29, .305), "visor", "glass"),
           on("chest", torus(.15, .045, 20, 8).moved(y=.33), "collar", "steel"),
           on("chest", box(.34, .4, .16).moved(0, -.02, -.22), "backpack", "snow"),
           on("chest", box(.17, .11, .06).moved(0, .1, .12), "panel", "steel"),
           on("chest", ellipsoid(.02, .02, .015, 8, 6).moved(-.04, .155, .18), "panel", "rose"),
           on("chest", ellipsoid(.02, .02, .015, 8, 6).moved(.04, .155, .18), "panel", "glow")]
    for side, x in SIDES:
        out += [on(side + "forearm", cylinder(.082, .04, segments=14).moved(y=-.14), "cuff", "snow"),
                on(side + "shin", cylinder(.095, .05, segments=14).moved(y=-.13), "cuff", "snow"),
                on("head", cylinder(.075, .06, segments=14).turned("z", 90).moved(.28 * x + .03, .22), "ear", "steel")]
    return out


def chef() -> list[Worn]:
    out = [on("head", cylinder(.205, .17, .215).moved(y=.38), "hat", "snow")]
    for k in range(6):
        a = TAU * k / 6
        puff = ellipsoid(.135, .12, .135, 12, 8).moved(.13 * math.sin(a), .6, .13 * math.cos(a))
        out.append(on("head", puff, "hat", "snow"))
    out.append(on("head", ellipsoid(.16, .12, .16, 14, 8).moved(0, .66, 0), "hat", "snow"))
    whisker = ellipsoid(.085, .035, .045, 10, 7)
    whiskers = (whisker.turned("z", -x * 16).moved(x * .07, .135, .22) for x in (-1, 1))
    out += [on("head", s, "moustache", "dark") for s in whiskers]
    apron = extrude([(-.15, -.26), (.15, -.26), (.165, .04), (.1, .1), (.1, .27), (-.1, .27), (-.1, .1),
                     (-.165, .04)], .035)
    out += [on("chest", apron.moved(0, -.02, .145), "apron", "snow"),
            on("chest", torus(.12, .045, 18, 8).moved(y=.33), "scarf", "rose")]
    pan = ((lathe([(.13, 0), (.15, .05), (.135, .05), (.12, .015), (0, .015)], 20, False).moved(0, .0, .32), "dark"),
           (cylinder(.022, .3, segments=8).turned("x", 90).moved(0, .02, -.06), "wood"))
    return [*out, *held("r_", *((s.turned("z", 180), c) for s, c in pan), tilt=-62, out=.09)]


def soldier() -> list[Worn]:
    dome = lathe([(.29, -.02), (.28, .06), (.22, .19), (.11, .25), (0, .265)], 22)
    brim = lathe([(.3, -.03), (.315, -.01), (.3, .01), (0, .01)], 22).scaled(1, 1, 1.08)
    rifle = ((box(.05, .1, .2).moved(0, -.06, -.12), "wood"), (box(.045, .07, .34).moved(0, -.03, .08), "dark"),
             (cylinder(.02, .34, segments=8).turned("x", 90).moved(0, .01, .2), "dark"))
    out = [on("head", s.moved(y=.34), "helmet", "leaf") for s in (dome, brim)]
    out += [on("chest", box(.26, .28, .13).moved(0, .03, -.2), "backpack", "leaf"),
            on("chest", cylinder(.06, .34, segments=12).turned("z", 90).moved(.17, .36, -.19), "backpack", "cream")]
    out += [on("chest", box(.045, .3, .3).moved(x * .1, .02, 0), "strap", "leather") for x in (-1, 1)]
    out += [on("chest", box(.075, .07, .05).moved(x * .1, .03, .13), "pocket", "leaf") for x in (-1, 1)]
    return [*out, *belt("dark"), *held("r_", *rifle, tilt=-38)]


def villager() -> list[Worn]:
    basket = ((lathe([(.1, -.2), (.15, -.06), (.13, -.06), (.09, -.18), (0, -.18)], 18, False), "straw"),
              (tube(arc((0, -.07, 0), .135, 0, 180, "xy", 11, .8), .018, 8), "straw"),
              *((ellipsoid(.05, .05, .05, 10, 7).moved(x, -.07, z), "rose")
                for x, z in ((-.05, .03), (.05, .03), (0, -.04))))
    return [*belt(), *held("r_", *basket, out=.08)]


def viking() -> list[Worn]:
    dome = lathe([(.272, 0), (.262, .07), (.2, .18), (.1, .235), (0, .25)], 22)
    out = [on("head", dome.moved(y=.32), "helmet", "steel"),
           on("head", torus(.268, .03, 24, 8).moved(y=.335), "helmet", "leather"),
           on("head", box(.05, .14, .04).moved(0, .2, .245), "helmet", "steel"),
           on("chest", torus(.15, .065, 20, 8).scaled(1.2, 1, .95).moved(y=.3), "fur", "leather")]
    for _, x in SIDES:
        p = np.array([[.22, .4, 0], [.34, .42, 0], [.41, .49, 0], [.425, .58, 0], [.4, .67, 0]]) * [x, 1, 1]
        horn = tube(p, .055, 10)
        ring = np.arange(len(horn.vertices) - 2) // 10
        thin = np.array([1.0, .92, .75, .5, .15])[ring]
        horn.vertices[:-2] = p[ring] + (horn.vertices[:-2] - p[ring]) * thin[:, None]
        out.append(on("head", horn, "horn", "cream"))
    axe = ((cylinder(.026, .6, segments=10).moved(y=-.16), "wood"),
           (extrude([(-.03, -.05), (.05, -.06), (.2, -.14), (.23, 0), (.2, .14), (.05, .06), (-.03, .05)], .05)
            .turned("y", -90).moved(y=.36), "steel"))
    return [*out, *beard(True), *belt(), *held("r_", *axe, tilt=15), *round_shield("second")]


def princess() -> list[Worn]:
    out = crown(.8)
    for side, _ in SIDES:
        out.append(on(side + "upper_arm", ellipsoid(.115, .11, .115, 14, 9).moved(y=-.02), "sleeve"))
    out += [on("pelvis", torus(.33, .035, 28, 8).scaled(1, 1, .9).moved(y=-.33), "skirt hem", "snow"),
            on("chest", ellipsoid(.04, .04, .03, 10, 7).moved(0, .3, .13), "gem", "glow")]
    return [*out, *belt("snow", "gold")]


def archer() -> list[Worn]:
    tip = lathe([(.27, 0), (.25, .1), (.16, .2), (0, .3)], 20).turned("x", -35).moved(0, .33, -.02)
    out = [on("head", ellipsoid(.285, .275, .26).moved(0, .235, -.055), "hood"), on("head", tip, "hood")]
    back = [(cylinder(.075, .38, segments=14).moved(y=-.1), "quiver", "leather")]
    back += [(cylinder(.016, .2, segments=8).moved(x, .24, z), "arrow", "snow")
             for x, z in ((-.035, 0), (.035, .02), (0, -.035))]
    out += [on("chest", s.turned("z", -22).moved(0, .12, -.2), part, c) for s, part, c in back]
    bow = tube(arc((0, 0, -.16), .4, -62, 62, "zy", 13), .024, 8)
    string = tube(np.array([[0, -.353, .028], [0, .353, .028]]), .008, 6)
    out += [on("l_hand", s.moved(z=-.16).turned("y", 55).moved(.2, -.03, .06), "bow", c)
            for s, c in ((bow, "wood"), (string, "snow"))]
    return [*out, *belt(), *cape("shade", 9)]


LOOKS: dict[str, Look] = {
    "knight": Look("armour", knight, hands="steel", legs="steel", boots="steel", hair="bald", material="metal",
                   head="covered"),
    "wizard": Look("a robe", wizard, legs="dark", skirt=(.05, .27)),
    "farmer": Look("a shirt", farmer, legs="denim"),
    "pirate": Look("a coat", pirate, legs="dark", boots="dark"),
    "king": Look("a robe", king, legs="dark", skirt=(.06, .27)),
    "ninja": Look("a suit", ninja, hands="dark", legs="main", boots="dark", hair="bald", head="covered"),
    "witch": Look("a dress", witch, legs="dark", boots="dark", skirt=(.1, .29), hair="long"),
    "robot": Look("", robot, arms="steel", hands="main", legs="steel", boots="main", hair="bald", material="plastic",
                  head="own"),
    "astronaut": Look("a suit", astronaut, hands="snow", legs="main", boots="snow", hair="bald", head="covered"),
    "chef": Look("a shirt", chef, legs="dark", boots="dark"),
    "soldier": Look("a jacket", soldier, legs="main", boots="dark", hair="short"),
    "villager": Look("a tunic", villager, skirt=(.27, .22)),
    "viking": Look("a tunic", viking, arms="skin", skirt=(.27, .23)),
    "princess": Look("a dress", princess, arms="skin", legs="skin", boots="snow", skirt=(.05, .34), hair="long"),
    "archer": Look("a cloak", archer, legs="leather", hair="short"),
}
