"""A motion on the limbs of the figure in a picture."""

from __future__ import annotations

from pydantic import Field

from engine.clip_artifacts import Poses
from engine.clips.poses.framing import fit
from engine.clips.poses.retarget import retarget
from engine.errors import BadInput
from engine.job import Job, Params, stage


class RetargetPoses(Params):
    """Parameters of ``retarget_poses``."""

    limbs: bool = Field(True, description="False leaves the poses as they are, in the picture's size.")
    travel: bool = Field(True, description="False keeps the figure over its place, sideways.")
    azimuth_deg: float | None = Field(None, ge=-180, le=360, description="From where the figure's picture was taken; "
                                                                         "without: what the picture knows, else 0.")


@stage(version=1)
def retarget_poses(poses: Poses, figure: Poses, p: RetargetPoses, job: Job) -> Poses:
    """``poses`` by the figure of ``figure`` (its first frame, standing), in its picture's size: see
    ``engine.clips.poses.retarget``.

    Raises BadInput where the figure's neck or hips, or the motion's neck in some frame, are not known.
    """
    if len(figure) == 0:
        raise BadInput("the figure's pose has no frame", "give one frame of the standing figure")
    if p.limbs:
        known = figure.meta.get("azimuth_deg", 0.0)
        made = retarget(poses, figure.joints[0], figure.size, travel=p.travel,
                        azimuth_deg=float(known if p.azimuth_deg is None else p.azimuth_deg))
        job.metric("retarget_scale", made.meta["retargeted"]["scale"], against="the motion's figure")
    else:
        made = fit(poses, figure.size)
    for text in made.meta.get("warnings", []):
        if text not in poses.meta.get("warnings", []):
            job.warn(text)
    return made
