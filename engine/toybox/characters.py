"""Jointed toy figures: from a description to a posed scene with its joints, captions and the splits.

A figure is a list of closed solids, each fixed to one bone of :mod:`engine.toybox.skeleton`. It stays watertight in
every pose because no solid spans a joint; only skirts are moulded round the legs, vertex by vertex, and stay closed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from engine.space import OBJECT_LONGEST_SIDE
from engine.toybox import motions
from engine.toybox.outfits import (
    EXTRA,
    EXTRA_RGB,
    HIP,
    LOOKS,
    SKIRT_DEPTH,
    SKIRT_TOP,
    Worn,
    body,
    brimmed,
    hair,
)
from engine.toybox.primitives import Solid
from engine.toybox.props import FIXED
from engine.toybox.scene import RGB, STRETCH, STYLES, Scene, Spec, is_held_out_pair, stable_hash
from engine.toybox.skeleton import STANDING, Frames, Pose, frames, keypoints

ROLES = tuple(LOOKS)
HAIR = ("short", "long", "ponytail", "bald")
HAIR_RGB = {"black": (.12, .10, .10), "brown": (.36, .20, .10), "blond": (.93, .75, .33), "orange": (.82, .38, .10),
            "white": (.93, .93, .92), "grey": (.58, .58, .60)}
SKIN_RGB = {"pale": (.98, .86, .77), "light": (.95, .76, .61), "tanned": (.78, .55, .38), "dark": (.45, .28, .18)}
HELD = ("tool", "shaft", "shield", "bow")
"""Parts that follow a hand's place but stay upright: a raised arm lifts its sword, a swinging one its basket."""
HATS = ("", "cap", "hat")
"""For a villager; other roles wear their own, and "" means that."""


@dataclass(frozen=True)
class CharacterSpec(Spec):
    """All that decides a figure and its moment. ``kind`` is its role, ``color`` that of the named clothes.

    hair : style; hair_color : key of HAIR_RGB; skin : key of SKIN_RGB; motion, phase : see ``motions``
    """

    material: str = "rubber"
    color2: str = "brown"
    hair: str = "short"
    hair_color: str = "brown"
    skin: str = "light"
    hat: str = ""
    motion: str = "idle"
    phase: float = 0.0

    @property
    def role(self) -> str:
        return self.kind

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "role": self.kind, "caption": caption(self)}


@dataclass
class CharacterScene(Scene):
    """joints : (18, 3) float32, OpenPose's keypoints in the scene's coordinates."""

    joints: np.ndarray


def caption(spec: CharacterSpec) -> str:
    """Such as "a knight in red armour, walking". Role, colour and clothes are always named; a motion always but for
    standing still; hair, beard-free heads and the way of saying it vary with the seed."""
    rng = random.Random(stable_hash("caption", spec.seed))
    words = [w for w in (spec.size, spec.style if spec.style != "realistic" else "") if w]
    look = LOOKS[spec.kind]
    if not look.noun:
        words.append(spec.color)
    text = " ".join([*words, spec.kind])
    text = ("an " if text[0] in "aeiou" else "a ") + text
    if look.noun:
        article, _, noun = look.noun.rpartition(" ")
        if article:
            article = "an " if spec.color[0] in "aeiou" else "a "
        text += (" wearing " if rng.random() < .25 else " in ") + article + f"{spec.color} {noun}"
    if look.hair is None and spec.kind in ("villager", "chef") and rng.random() < .4:
        if spec.hair == "bald":
            text += ", bald"
        else:
            text += f", with {spec.hair_color} hair"
    if spec.motion != "idle" or rng.random() < .3:
        text += ", " + motions.MOTION_WORDS.get(spec.motion, spec.motion)
    return text


def _dressed(spec: CharacterSpec) -> list[Worn]:
    return list(_wardrobe(spec.kind, spec.hair, spec.hat))


@cache
def _wardrobe(role: str, hair_style: str, hat: str) -> tuple[Worn, ...]:
    """Unposed solids: there are about two hundred, and a clip asks for the same one at every frame."""
    look = LOOKS[role]
    worn = body(look) + look.extras() + hair(hair_style if look.hair is None else look.hair)
    if hat == "hat":
        worn += brimmed(.34, "leather", "dark", .17, .19)
    elif hat == "cap":
        worn += brimmed(.255, "second", "second", .15, .1, .36)
    return tuple(worn)


def _mould_skirt(solid: Solid, skirt: tuple[float, float], posed: Frames, across: float, up: float) -> Solid:
    """Push a skirt's front and back out as far as the legs reach, more toward the hem.

    The skirt (and what is sewn to it) comes in the pelvis's frame; it moves along z alone, so it stays closed.
    """
    turn, place = posed["pelvis"]
    v = solid.vertices.copy()
    top, hem, reach = SKIRT_TOP * up, (skirt[0] - HIP) * up, SKIRT_DEPTH * skirt[1] * across
    joints = ("shin", "foot") if hem < -.3 * up else ("shin",)  # a short skirt leaves the shins free
    legs = (np.stack([posed[side + bone][1] for side in ("r_", "l_") for bone in joints]) - place) @ turn

    def down(y: np.ndarray) -> np.ndarray:
        return np.clip((top - y) / (top - hem), 0, 1)

    at = np.maximum(down(legs[:, 1]), .3)
    for sign in (1, -1):
        # the skirt's half-depth is about (0.6 + 0.4 t) reach; a share t of the stretch acts at t of the way down
        short = (sign * legs[:, 2] + .13 * across) / ((.6 + .4 * at) * reach) - 1
        stretch = float(np.clip((short / at).max(), 0, 1.6))
        mine = sign * v[:, 2] > 0
        v[mine, 2] *= 1 + down(v[mine, 1]) * stretch
    return replace(solid, vertices=v)


def _posed(spec: CharacterSpec, worn: list[Worn], posed: Frames, across: float, up: float) -> list[Solid]:
    skirt = LOOKS[spec.kind].skirt
    out = []
    for bone, solid in worn:
        turn, place = posed[bone]
        if solid.part in HELD:
            turn, hips = posed["pelvis"]
            if solid.part == "shaft":  # or a staff would leave the field's cube when its bearer jumps
                place = np.minimum(place, [np.inf, hips[1] + .12 * up, np.inf])
        s = solid.scaled(across, up, across) if (across, up) != (1.0, 1.0) else solid
        if skirt and s.part.startswith("skirt"):
            s = _mould_skirt(s, skirt, posed, across, up)
        out.append(replace(s, vertices=s.vertices @ turn.T + place, normals=s.normals @ turn.T))
    return out


def standing_height(spec: CharacterSpec) -> float:
    """From the ground to the top of the standing figure, hat and all, in body units."""
    across, up = STRETCH[spec.size]
    rest = _posed(spec, _dressed(spec), frames(STANDING, across, up), across, up)
    return float(max(s.vertices[:, 1].max() for s in rest))


def joints_of(spec: CharacterSpec, poses: Sequence[Pose]) -> np.ndarray:
    """The joints that :func:`build_character` gives the figure in each of ``poses``, without building it: (n, 18, 3)
    float32."""
    across, up = STRETCH[spec.size]
    height = standing_height(spec)
    centre, scale = np.array([0.0, height / 2, 0.0]), OBJECT_LONGEST_SIDE / height
    places = [keypoints(frames(pose, across, up), across, up) for pose in poses]
    return ((np.stack(places) - centre) * scale).astype(np.float32)


def build_character(spec: CharacterSpec, pose: Pose | None = None) -> CharacterScene:
    """The figure at its motion's moment, or in ``pose``. Equal specs give equal scenes.

    The scale and the centre are the *standing* figure's: it is 1.5 high, hat and all, whatever it does now, and the
    middle of its height is at the origin. So a clip's frames share one scale and the ground stays at y = -0.75.
    """
    rng = np.random.default_rng(spec.seed)
    across, up = STRETCH[spec.size]
    worn = _dressed(spec)
    height = standing_height(spec)
    scale = OBJECT_LONGEST_SIDE / height
    centre = np.array([0.0, height / 2, 0.0])
    moment = frames(pose if pose is not None else motions.pose(spec.motion, spec.phase), across, up)
    solids = _posed(spec, worn, moment, across, up)

    start = np.cumsum([0] + [len(s.vertices) for s in solids])
    count = [len(s.faces) for s in solids]
    names = tuple(dict.fromkeys(s.part for s in solids))
    faces = np.concatenate([s.faces + o for s, o in zip(solids, start, strict=False)])
    v = (np.concatenate([s.vertices for s in solids]) - centre) * scale
    normals = np.concatenate([s.normals for s in solids])
    if spec.style == "low poly":
        n = np.cross(v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]])
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
        normals = np.repeat(n[:, None], 3, 1)
    base = np.clip(np.asarray(RGB[spec.color]) + rng.uniform(-.03, .03, 3), 0, 1)
    fixed = dict(FIXED) | {"skin": SKIN_RGB[spec.skin]}
    extra = EXTRA_RGB | {"hair": HAIR_RGB[spec.hair_color], "second": RGB[spec.color2]}
    palette = np.array([base, base * 0.72, *fixed.values(), *(extra[name] for name in EXTRA)])
    joints = (keypoints(moment, across, up) - centre) * scale
    return CharacterScene(spec, v.astype(np.float32), faces.astype(np.int32), normals.astype(np.float32),
                          (np.concatenate([s.uv for s in solids]) * scale).astype(np.float32),
                          np.repeat([s.slot for s in solids], count),
                          np.repeat([names.index(s.part) for s in solids], count), names, palette.astype(np.float32),
                          joints.astype(np.float32))


def sample_character(split: str, index: int) -> CharacterSpec:
    """The ``index``-th figure of ``train`` or ``held_out`` (new seeds, a third of them role-colour pairs that training
    never sees). Deterministic; roles are exactly balanced."""
    rng = np.random.default_rng(stable_hash("character", split, index))
    colors = tuple(RGB)
    role = ROLES[index % len(ROLES)]
    color = str(rng.choice(colors))
    if split == "train":
        while is_held_out_pair(role, color):
            color = str(rng.choice(colors))
    elif rng.random() < 1 / 3:
        unseen = [c for c in colors if is_held_out_pair(role, c)]
        color = str(rng.choice(unseen)) if unseen else color
    color2 = str(rng.choice([c for c in ("white", "yellow", "brown", "blue", "red", "black") if c != color]))
    motion = "idle" if rng.random() < .3 else str(rng.choice(tuple(motions.MOTIONS)))
    return CharacterSpec(
        role, color, LOOKS[role].material, "plain", color2, "", str(rng.choice(STYLES, p=[.7, .15, .15])),
        int(rng.integers(1 << 31)), hair=str(rng.choice(HAIR, p=[.45, .25, .15, .15])),
        hair_color=str(rng.choice(tuple(HAIR_RGB))), skin=str(rng.choice(tuple(SKIN_RGB))),
        hat=str(rng.choice(HATS, p=[.6, .2, .2])) if role == "villager" else "", motion=motion,
        phase=float(rng.random()))
