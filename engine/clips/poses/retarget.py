"""One figure's motion on another's limbs.

From the neck outwards every bone keeps its direction in the picture and its foreshortening (its length over its full
length), and takes its full length from the other figure; the nose alone stands out by the head's width. The way over
the ground and the height above it are scaled by the figures' statures; where the one stands, the other does. All of it
is linear, frame by frame, so it is exact and quick for any number of frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.clip_artifacts import JOINTS, Poses
from engine.clips.poses import proportions
from engine.clips.poses.framing import outside, warned
from engine.clips.poses.joints import ANKLES, AT, BONES, PELVIS, with_pelvis
from engine.errors import BadInput


def retarget(poses: Poses, to: np.ndarray, size: tuple[int, int] | None = None, *,
             lengths: Mapping[str, float] | None = None, azimuth_deg: float = 0.0, travel: bool = True) -> Poses:
    """The motion of ``poses`` by the figure whose joints are ``to``.

    to : (18, 2) pixels of a picture of ``size`` (h, w; None: the poses' own), standing; NaN where not known: such bones
        are scaled as the whole figure is
    lengths : the proportions of the poses' own figure, in their pixels; None: meta["bones"] where their source knows
        them, else as far as the motion shows them (``proportions.of_motion``)
    azimuth_deg : from where ``to`` was seen; widths across the figure are undone for it
    travel : False keeps the figure over its place, sideways

    Raises BadInput: no neck or no trunk in ``to``, a neck that is missing in some frame.
    """
    source = with_pelvis(poses.joints.astype(np.float64))
    figure = with_pelvis(np.asarray(to, dtype=np.float64).reshape(JOINTS, 2))
    _check(source, figure)
    own = dict(lengths or poses.meta.get("bones") or proportions.of_motion(poses.joints))
    theirs = proportions.of_figure(figure[:JOINTS], azimuth_deg)
    scale = _stature(theirs, own)
    out = np.full_like(source, np.nan)
    out[:, AT["neck"]] = 0
    for name, (parent, child) in BONES.items():
        factor = np.full(2, theirs[name] / own[name] if theirs.get(name) and own.get(name) else scale)
        if name == "nose":
            factor[0] = _face_width(theirs, own) or factor[0]
        limb = out[:, parent] + factor * (source[:, child] - source[:, parent])
        # Where the parent is not known, the child keeps its place about the neck.
        about = scale * (source[:, child] - source[:, AT["neck"]])
        out[:, child] = np.where(np.isfinite(limb).all(-1, keepdims=True), limb, about)
    known = np.isfinite(source).all(-1, keepdims=True)
    out = np.where(known, out, np.nan) + _shift(source, out, figure, scale, travel, poses.meta.get("stands"))[:, None]
    joints = np.where(known, out, np.nan)[:, :JOINTS].astype(np.float32)
    meta = {**poses.meta, "bones": {name: theirs.get(name, scale * length) for name, length in own.items()},
            "stands": [float(figure[PELVIS, 0]), float(np.nanmax(figure[list(ANKLES), 1]))],
            "retargeted": {"scale": round(scale, 5), "azimuth_deg": azimuth_deg, "travel": travel}}
    made = Poses(joints, size or poses.size, poses.fps, poses.loop, meta)
    share = outside(made)
    if share > 0.01:
        made.meta = warned(meta, f"{share:.0%} of the retargeted joints lie outside of the picture")
    return made


def _check(source: np.ndarray, figure: np.ndarray) -> None:
    lacking = [name for name in ("neck",) if not np.isfinite(figure[AT[name]]).all()]
    lacking += ["hips"] if not np.isfinite(figure[PELVIS]).all() else []
    if lacking:
        raise BadInput(f"the figure's {' and '.join(lacking)} are not known, so no motion can be fitted to it",
                       "give a picture in which the whole figure is seen")
    if np.linalg.norm(figure[PELVIS] - figure[AT["neck"]]) < 1e-6:
        raise BadInput("the figure's neck and hips are in one place", "give joints of a standing figure")
    lost = np.flatnonzero(~np.isfinite(source[:, AT["neck"]]).all(-1))
    if len(lost):
        shown = ", ".join(str(i) for i in lost[:5]) + (", ..." if len(lost) > 5 else "")
        raise BadInput(f"the neck is missing in {len(lost)} of {len(source)} frames ({shown})",
                       "close the gaps first, or leave those frames out")


def _stature(theirs: Mapping[str, float], own: Mapping[str, float]) -> float:
    """How much taller the figure is: trunk, thigh and shin of both, as far as both are known."""
    both = [name for name in ("trunk", "r_thigh", "r_shin", "l_thigh", "l_shin") if theirs.get(name) and own.get(name)]
    if not both:
        raise BadInput("the poses have no trunk: neck or hips are never known", "give poses of a whole figure")
    return sum(theirs[name] for name in both) / sum(own[name] for name in both)


def _face_width(theirs: Mapping[str, float], own: Mapping[str, float]) -> float | None:
    """How much wider the figure's head is. What its nose stands out, seen where it turns aside, grows with that; the
    nose's height over the neck does not."""
    names = [name for name in ("r_eye", "r_ear") if theirs.get(name) and own.get(name)]
    return sum(theirs[name] for name in names) / sum(own[name] for name in names) if names else None


def _shift(source: np.ndarray, out: np.ndarray, figure: np.ndarray, scale: float, travel: bool,
           stands: Sequence[float] | None) -> np.ndarray:
    """(n, 2): where the neck goes. The pelvis keeps its way from where the figure stands, the lowest ankle its height
    over the ground there; where that is not known, from the middle of the way and the lowest place of any ankle."""
    at = PELVIS if np.isfinite(source[:, PELVIS]).all() else AT["neck"]
    way = source[:, at, 0]
    middle = stands[0] if stands is not None else (way.min() + way.max()) / 2
    x = figure[at, 0] + (scale * (way - middle) if travel else 0.0) - out[:, at, 0]
    feet = list(ANKLES)
    seen = np.isfinite(source[:, feet, 1])
    if seen.any(1).all() and np.isfinite(figure[feet]).any():
        lowest = np.where(seen, source[:, feet, 1], -np.inf).max(1)
        floor = stands[1] if stands is not None else lowest.max()
        y = np.nanmax(figure[feet, 1]) - scale * (floor - lowest) - np.where(seen, out[:, feet, 1], -np.inf).max(1)
    else:  # a figure without feet hangs by its neck
        heights = source[:, AT["neck"], 1]
        y = figure[AT["neck"], 1] + scale * (heights - np.median(heights))
    return np.stack([x, y], -1)
