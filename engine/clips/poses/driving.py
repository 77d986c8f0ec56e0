"""Frames of a driving video -> poses: joints by an estimator, what it is not sure of left out, gaps closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.clip_artifacts import JOINTS, Poses
from engine.clips.poses.estimate import Estimator
from engine.clips.poses.framing import warned
from engine.clips.poses.joints import AT, HIPS
from engine.clips.poses.timing import gaps_closed, runs_of
from engine.clips.poses.video import Frames
from engine.errors import BadInput

BATCH = 16
MOST_WITHOUT = 0.3
"""Share of frames without a figure from which on a video is refused."""
CROWDED = 0.1
"""Share of frames with several figures from which on one has to be chosen; fewer are passing mistakes."""


def poses_of_frames(frames: Frames, estimator: Estimator, *, person: int | None = None, least: float = 0.3,
                    name: str = "the video", progress: Callable[[float], None] = lambda _: None) -> Poses:
    """Look for the figure in every frame. Joints below the confidence ``least``, and all joints of frames without a
    figure, are NaN.

    person : which figure from the left, counted from 0
    Raises BadInput: several figures and none chosen, no figure in any frame, or in more than 30 % of them.
    """
    joints, confidence, people = [], [], []
    batch: list[np.ndarray] = []

    def look() -> None:
        found = estimator(batch, person)
        joints.append(found.joints)
        confidence.append(found.confidence)
        people.append(found.people)
        batch.clear()
        progress(min(1.0, sum(len(p) for p in people) / frames.count) if frames.count else 0.5)
    for picture in frames.pictures:
        batch.append(picture)
        if len(batch) == BATCH:
            look()
    if batch:
        look()
    counts = np.concatenate(people)
    n = len(counts)
    crowded = np.flatnonzero(counts > 1)
    if person is None and len(crowded) > CROWDED * n:
        raise BadInput(f"{name} shows several figures in {len(crowded)} of {n} frames (first in frame {crowded[0]})",
                       "choose one from the left, counted from 0: --person N; or cut the video to one figure")
    if person is not None and person >= counts.max(initial=0):
        raise BadInput(f"{name} shows {counts.max(initial=0)} figures; there is no person {person}",
                       "counted from 0, from the left")
    places = np.concatenate(joints).astype(np.float64) / frames.scale
    sure = (np.concatenate(confidence) >= least) & (counts > (person or 0))[:, None]
    places[~sure] = np.nan
    meta: dict[str, Any] = {"source": f"{n} frames of {name}", "estimator": estimator.name}
    without = np.flatnonzero(counts == 0)
    if len(without) == n:
        raise BadInput(f"no figure is seen in any of the {n} frames of {name}",
                       f"{estimator.name} has to know such figures: choose another with --model pose_estimation=ID")
    if len(without) > MOST_WITHOUT * n:
        raise BadInput(f"no figure is seen in {len(without)} of {n} frames of {name} (first in frame {without[0]})",
                       "cut the video to the part that shows the figure")
    if len(without):
        meta = warned(meta, f"no figure is seen in {len(without)} of {n} frames of {name} (first in frame "
                            f"{without[0]}): they are filled in from those around them")
    return Poses(places.astype(np.float32), frames.size, frames.fps, False, meta)


def whole(poses: Poses, most: int, name: str = "the poses") -> Poses:
    """Poses without gaps, where that can be had: joints that are missing for at most ``most`` frames in a row are
    interpolated; the rest stays unknown, and is told.

    Raises BadInput where the neck, or both hips, are missing for longer: a figure cannot be placed without them.
    """
    joints = gaps_closed(poses.joints, most, poses.loop)
    before, after = (np.isfinite(x).all(-1) for x in (poses.joints, joints))
    neck, hips = after[:, AT["neck"]], after[:, list(HIPS)].any(1)
    for what, known in (("neck", neck), ("hips", hips)):
        lost = runs_of(~known)
        if lost:
            first, end = max(lost, key=lambda run: run[1] - run[0])
            raise BadInput(f"the {what} of {name} {'are' if what == 'hips' else 'is'} missing in frames {first} to "
                           f"{end - 1}; gaps of up to {most} frames can be closed",
                           "leave those frames out, or raise --set load_poses.max_gap=N")
    meta = poses.meta
    filled = (after & ~before).any(1)
    if filled.any():
        meta = warned(meta, f"joints missing in {int(filled.sum())} of {len(joints)} frames were interpolated "
                            f"(gaps of at most {most} frames)")
    partly = [NAMES_OF[k] for k in range(JOINTS) if not after[:, k].all()]
    if partly:
        meta = warned(meta, f"not known in all frames, and left out where they are not: {', '.join(partly)}")
    return Poses(joints, poses.size, poses.fps, poses.loop, meta)


NAMES_OF = {i: name for name, i in AT.items()}
