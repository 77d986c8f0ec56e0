"""Looping motions of the toybox figures: pure functions of a phase in [0, 1) to a pose.

``amplitude`` scales the swing of the limbs (1 is natural, about 0..1.5); ``speed`` is the whole number of cycles in one
loop, so that every clip joins its own beginning. The figure stays in place: travel belongs to whoever moves the asset.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.toybox.skeleton import STANDING, Pose, Vector

TAU = 2 * math.pi


def _sin(p: float) -> float:
    return math.sin(TAU * p)


def _bump(p: float, centre: float, width: float) -> float:
    """A smooth rise to 1 and back around ``centre`` of the loop, 0 farther than ``width`` away."""
    d = abs((p - centre + 0.5) % 1.0 - 0.5) / width
    return 0.5 + 0.5 * math.cos(math.pi * d) if d < 1 else 0.0


def _both(joint: str, angles: Vector) -> dict[str, Vector]:
    return {"r_" + joint: angles, "l_" + joint: angles}


def _stand(**angles: Vector) -> dict[str, Vector]:
    return {**STANDING.angles, **angles}


def idle(p: float, a: float) -> Pose:
    s = _sin(p) * a
    return Pose({**_both("upper_arm", (2 * s, 16 + 3 * s, 0)), **_both("forearm", (12 + 4 * s, 0, 0)),
                 "chest": (1.5 * s, 0, 0), "head": (-2 * s, 4 * _sin(p + .25) * a, 0)})


def _stride(p: float, a: float, leg: float, knee: float, arm: float, elbow: float) -> dict[str, Vector]:
    """Legs and arms of a gait: right leg forward at p = 1/4; the knee bends while its leg swings forward."""
    out: dict[str, Vector] = {}
    for side, s, c in (("r_", _sin(p), _sin(p + .25)), ("l_", -_sin(p), -_sin(p + .25))):
        bend = knee * (.25 + .75 * max(c, 0.0)) * a
        thigh = leg * s * a + .35 * bend
        out[side + "thigh"] = (thigh, 2, 0)
        out[side + "shin"] = (-bend, 0, 0)
        out[side + "foot"] = (.6 * (bend - thigh), 0, 0)
        out[side + "upper_arm"] = (-arm * s * a, 14, 0)
        out[side + "forearm"] = (elbow, 0, 0)
    return out


def walk(p: float, a: float) -> Pose:
    return Pose({**_stride(p, a, 34, 40, 34, 18), "pelvis": (2, 6 * _sin(p) * a, 0),
                 "chest": (2, -10 * _sin(p) * a, 0)})


def run(p: float, a: float) -> Pose:
    hop = .07 * a * abs(_sin(p + .25))
    return Pose({**_stride(p, a, 52, 95, 55, 85), "pelvis": (12, 8 * _sin(p) * a, 0),
                 "chest": (6, -14 * _sin(p) * a, 0), "head": (-10, 0, 0)}, (0, hop, 0))


def march(p: float, a: float) -> Pose:
    out: dict[str, Vector] = {}
    for side, s in (("r_", _sin(p)), ("l_", -_sin(p))):
        lift = max(s, 0.0) * a
        out[side + "thigh"] = (75 * lift, 0, 0)
        out[side + "shin"] = (-70 * lift, 0, 0)
        out[side + "upper_arm"] = (-45 * s * a, 10, 0)
        out[side + "forearm"] = (8, 0, 0)
    return Pose(out)


def wave(p: float, a: float) -> Pose:
    return Pose(_stand(l_upper_arm=(0, 118, 0), l_forearm=(0, 45 + 28 * _sin(p) * a, 0), head=(0, 0, -5 * _sin(p) * a),
                       chest=(0, 0, 2 * a)))


def jump(p: float, a: float) -> Pose:
    crouch = (_bump(p, .12, .14) + .7 * _bump(p, .9, .12)) * a
    air = _bump(p, .5, .32) * a
    return Pose({**_both("thigh", (55 * crouch + 12 * air, 6 * air, 0)),
                 **_both("shin", (-100 * crouch - 30 * air, 0, 0)),
                 **_both("foot", (45 * crouch - 20 * air, 0, 0)),
                 **_both("upper_arm", (-35 * crouch, 16 + 110 * air, 0)), **_both("forearm", (12, 15 * air, 0)),
                 "chest": (18 * crouch, 0, 0), "head": (-12 * crouch - 6 * air, 0, 0)}, (0, .20 * air, 0))


def dance(p: float, a: float) -> Pose:
    s, d = _sin(p) * a, _sin(2 * p) * a
    return Pose({"pelvis": (0, 14 * s, 8 * s), "chest": (0, -8 * s, -14 * s), "head": (3 * d, 8 * s, 8 * s),
                 "r_upper_arm": (15, 75 + 45 * s, 0), "l_upper_arm": (15, 75 - 45 * s, 0),
                 "r_forearm": (20, 55 + 20 * d, 0), "l_forearm": (20, 55 - 20 * d, 0),
                 "r_thigh": (22 * max(s, 0.0), 12, 0), "r_shin": (-40 * max(s, 0.0), 0, 0),
                 "l_thigh": (22 * max(-s, 0.0), 12, 0), "l_shin": (-40 * max(-s, 0.0), 0, 0)},
                (.05 * s, .02 * (1 + d), 0))


def kick(p: float, a: float) -> Pose:
    back, out = _bump(p, .22, .2) * a, _bump(p, .55, .22) * a
    return Pose(_stand(r_thigh=(-32 * back + 88 * out, 0, 0), r_shin=(-70 * back, 0, 0), l_thigh=(-4 * out, 4, 0),
                       l_shin=(-8 * out, 0, 0), chest=(6 * back - 16 * out, 0, 0), head=(8 * out, 0, 0),
                       r_upper_arm=(25 * back - 30 * out, 28, 0), l_upper_arm=(-20 * back + 45 * out, 28, 0)))


def punch(p: float, a: float) -> Pose:
    draw, hit = _bump(p, .25, .22) * a, _bump(p, .55, .2) * a
    return Pose({"r_upper_arm": (-35 * draw + 82 * hit + 12, 14, 14 * hit), "r_forearm": (95 - 88 * hit, 0, 0),
                 "l_upper_arm": (42, 12, 10), "l_forearm": (100, 0, 0), "chest": (3, -18 * draw + 24 * hit, 0),
                 "head": (0, 10 * draw - 14 * hit, 0), "r_thigh": (-20, 4, 0), "l_thigh": (20, 4, 0),
                 "r_shin": (-6, 0, 0), "l_shin": (-20, 0, 0)})


def cheer(p: float, a: float) -> Pose:
    s = abs(_sin(p))
    return Pose({**_both("upper_arm", (8, 132 + 14 * s * a, 0)), **_both("forearm", (0, 14 - 10 * s * a, 0)),
                 **_both("thigh", (14 * (1 - s) * a, 7, 0)), **_both("shin", (-28 * (1 - s) * a, 0, 0)),
                 **_both("foot", (14 * (1 - s) * a, 0, 0)), "head": (-8, 0, 5 * _sin(p) * a)}, (0, .07 * s * a, 0))


def spin(p: float, a: float) -> Pose:
    return Pose({**_both("upper_arm", (0, 78 * min(a, 1.2), 0)), **_both("forearm", (0, 6, 0)),
                 "pelvis": (0, 360 * p, 0), "l_thigh": (28, 4, 0), "l_shin": (-60, 0, 0), "head": (0, 8, 0)})


def clap(p: float, a: float) -> Pose:
    shut = .5 + .5 * _sin(p + .25)
    return Pose({**_both("upper_arm", (50, 22 - 20 * shut * a, 0)), **_both("forearm", (72, 0, 12 + 58 * shut * a)),
                 "head": (4 * shut * a, 0, 0), "chest": (0, 0, 2 * _sin(p) * a)})


MOTIONS: dict[str, Callable[[float, float], Pose]] = {f.__name__: f for f in (
    idle, walk, run, wave, jump, dance, kick, punch, march, cheer, spin, clap)}
MOTION_WORDS = {"idle": "standing", "walk": "walking", "run": "running", "wave": "waving", "jump": "jumping",
                "dance": "dancing"}
"""What a caption calls a motion, where it is not its own name."""


def pose(motion: str, phase: float, amplitude: float = 1.0, speed: int = 1) -> Pose:
    """The pose of ``motion`` at ``phase`` of its loop. ValueError for a speed that is no positive whole number: the
    loop would have a seam."""
    if speed != int(speed) or speed < 1:
        raise ValueError(f"speed {speed} is not a positive whole number of cycles a loop")
    return MOTIONS[motion]((phase * speed) % 1.0, amplitude)
