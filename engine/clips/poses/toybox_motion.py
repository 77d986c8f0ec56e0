"""The toybox's motions by name, as poses: exactly the joints that a figure of that build has in a rendered clip."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.clip_artifacts import Poses
from engine.clips.poses import proportions
from engine.clips.poses.framing import outside, warned
from engine.clips.poses.view import Shot, seen_by, stands
from engine.errors import BadInput
from engine.runs.words import nearest
from engine.space import OBJECT_LONGEST_SIDE
from engine.toybox.motions import MOTION_WORDS, MOTIONS, pose
from engine.toybox.skeleton import STANDING

if TYPE_CHECKING:
    from engine.toybox.characters import CharacterSpec

ALIASES = {word: name for name, word in MOTION_WORDS.items()} | {"stand": "idle"}
"""What captions call a motion: "walking" is "walk"."""
EVERY = ", ".join(MOTIONS)


def motion_named(word: str) -> str:
    """The motion that a word means. BadInput names the nearest one and lists all."""
    name = word.strip().lower()
    name = ALIASES.get(name, name)
    for tried in (name, name.removesuffix("ing"), name.removesuffix("ning"), name.removesuffix("ing") + "e"):
        if tried in MOTIONS:
            return tried
    near = nearest(name, MOTIONS)
    hint = f"{near} There are {EVERY}" if near.startswith("Did") else f"There are {EVERY}"
    raise BadInput(f"there is no motion {word!r}", f"{hint}; or give poses of your own: --poses FILE")


def toybox_poses(motion: str, *, frames: int = 16, fps: float = 12.0, amplitude: float = 1.0, speed: int = 1,
                 shot: Shot | None = None, size: tuple[int, int] = (128, 128), figure: CharacterSpec | None = None
                 ) -> Poses:
    """One whole loop of a motion: frame k is at phase k / frames, so that the last frame is followed by the first.

    amplitude : of the limbs' swing, 1 is natural; speed : whole cycles a loop
    shot : the camera looks at the middle of the standing figure; azimuth 0 is its front when it stands, wherever the
        motion turns it; ``follow`` has no meaning, as figures stay in place
    figure : whose build (size word, hat and hair) the joints have; None: a bare-headed villager
    Raises BadInput for motions that are not there, for no frames, for a speed that is no whole number of cycles.
    """
    from engine.toybox.characters import CharacterSpec, joints_of
    name = motion_named(motion)
    if frames < 1:
        raise BadInput(f"a clip of {frames} frames", "ask for one frame or more")
    if speed < 1 or speed != int(speed):
        raise BadInput(f"speed {speed:g} is no whole number of cycles a loop", "give 1, 2, ...: else it has a seam")
    shot = shot or Shot()
    spec = figure or CharacterSpec("villager", "red")
    moments = [pose(name, k / frames, amplitude, int(speed)) for k in range(frames)]
    places, _, _ = seen_by(joints_of(spec, moments).astype(np.float64), shot, size, OBJECT_LONGEST_SIDE)
    standing = joints_of(spec, [STANDING]).astype(np.float64)
    front, _, _ = seen_by(standing, replace(shot, azimuth_deg=0.0), size, OBJECT_LONGEST_SIDE)
    meta = {"source": f"toybox motion {name}", "motion": name, "amplitude": amplitude, "speed": int(speed),
            "shot": asdict(shot), "bones": proportions.of_figure(front[0]),
            "stands": stands(front[0])}
    poses = Poses(places.astype(np.float32), size, fps, True, meta)
    if share := outside(poses):
        poses.meta = warned(meta, f"{share:.0%} of the joints lie outside of the picture: make the figure smaller "
                                  "(fill), or the picture larger")
    return poses
