"""The joints of the figure in one picture, or in every frame of a clip, by the role ``pose_estimation``."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from engine.artifacts import Picture, over_white
from engine.clip_artifacts import Clip, Poses
from engine.clips.poses import driving, timing
from engine.clips.poses.joints import NAMES
from engine.clips.poses.video import Frames
from engine.errors import BadInput
from engine.job import Job, Params, stage


class EstimatePoses(Params):
    """Parameters of ``estimate_poses``."""

    person: int | None = Field(None, ge=0, description="Which figure from the left, counted from 0, of several.")
    min_confidence: float = Field(0.3, ge=0, le=1, description="Joints below are unknown.")


@stage(version=1, roles=("pose_estimation",))
def estimate_poses(picture: Picture, p: EstimatePoses, job: Job) -> Poses:
    """Poses of one frame: the figure as it stands in the picture, over white where it has alpha.

    Raises BadInput for a picture without a figure, and for one with several of which none is chosen.
    """
    image = np.asarray(over_white(picture.image), dtype=np.float32)
    model = job.model("pose_estimation")
    found = model([image], p.person)
    people = int(found.people[0])
    if people == 0:
        raise BadInput("no figure is seen in the picture",
                       f"give a picture of one whole figure; {model.name} has to know its kind")
    if people > 1 and p.person is None:
        raise BadInput(f"{people} figures are seen in the picture", "choose one from the left, counted from 0: "
                                                                    "--person N; or cut the picture")
    if p.person is not None and p.person >= people:
        raise BadInput(f"{people} figures are seen in the picture; there is no person {p.person}",
                       "counted from 0, from the left")
    sure = found.confidence[0] >= p.min_confidence
    joints = np.where(sure[:, None], found.joints[0], np.nan).astype(np.float32)
    if not sure.all():
        job.warn(f"joints that are not seen in the picture: {', '.join(np.asarray(NAMES)[~sure])}")
    job.metric("joints_known", float(sure.mean()))
    meta: dict[str, Any] = {"source": "one picture", "estimator": model.name}
    if picture.azimuth_deg is not None:
        meta["azimuth_deg"] = picture.azimuth_deg
    return Poses(joints[None], (image.shape[0], image.shape[1]), meta=meta)


class EstimateClipPoses(Params):
    """Parameters of ``estimate_clip_poses``."""

    person: int | None = Field(None, ge=0, description="Which figure from the left, counted from 0, of several.")
    min_confidence: float = Field(0.3, ge=0, le=1, description="Joints below are unknown.")
    max_gap: int = Field(8, ge=0, le=1000, description="Joints missing for at most so many frames are interpolated.")
    smoothing: float = Field(0.0, ge=0, le=20, description="Standard deviation of a Gaussian over time, frames.")


@stage(version=1, roles=("pose_estimation",))
def estimate_clip_poses(clip: Clip, p: EstimateClipPoses, job: Job) -> Poses:
    """Poses of every frame of a clip, over white. Raises BadInput as for driving videos (``driving``)."""
    pictures = (np.asarray(over_white(frame), dtype=np.float32) for frame in clip.frames)
    height, width = clip.frames.shape[1:3]
    frames = Frames((height, width), clip.fps, 1.0, pictures, len(clip))
    poses = driving.poses_of_frames(frames, job.model("pose_estimation"), person=p.person, least=p.min_confidence,
                                    name="the clip", progress=lambda share: job.progress(0.9 * share))
    poses.loop = clip.loop
    poses = driving.whole(poses, p.max_gap, "the clip")
    if p.smoothing > 0:
        poses.joints = timing.smoothed(poses.joints, p.smoothing, poses.loop)
        poses.meta["smoothing"] = f"Gaussian over time, standard deviation {p.smoothing:g} frames"
    for text in poses.meta.get("warnings", []):
        job.warn(text)
    return poses
