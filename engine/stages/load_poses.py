"""Poses from a toybox motion's name, or from a file: OpenPose JSON, BVH, an armature, a driving video."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from engine.clip_artifacts import Poses
from engine.clips.poses import armature, bvh, driving, sources, timing
from engine.clips.poses.framing import fit, warned
from engine.clips.poses.openpose import read_openpose
from engine.clips.poses.toybox_motion import toybox_poses
from engine.clips.poses.video import open_frames
from engine.clips.poses.view import Shot, pictured
from engine.errors import BadInput
from engine.job import Job, Params, stage

MAX_FRAMES = 10_000
MOTION_FRAMES, MOTION_FPS = 16, 12.0
VIDEO_SMOOTHING = 0.8


class LoadPoses(Params):
    """Parameters of ``load_poses``. A file's digest stands for it in keys; its path does not."""

    motion: str = Field("", description="A toybox motion by name: walk, run, wave, jump, dance, ...; or give a file.")
    path: str = Field("", exclude=True, description="OpenPose JSON (file or folder), BVH, armature JSON, video, folder "
                                                    "of pictures.")
    digest: str = Field("", description="SHA-256 of the file, as pose_source gives it.")
    kind: Literal["", "openpose", "bvh", "armature", "video", "pictures"] = Field(
        "", description="What the file is, as pose_source gives it.")
    width: int = Field(128, ge=16, le=4096, description="Of the clip, pixels.")
    height: int = Field(128, ge=16, le=4096, description="Of the clip, pixels.")
    frames: int | None = Field(None, ge=1, le=MAX_FRAMES, description="Of a motion: of its loop, without: 16; of a "
                                                                      "file: at most so many.")
    fps: float | None = Field(None, gt=0, le=240, description="Frames a second; without: 12 of a motion, a file's own.")
    start_s: float = Field(0.0, ge=0, description="Of a file: seconds that are left out at its beginning.")
    loop: Literal["auto", "close", "no"] = Field("auto", description="auto: as the source says; close: make a loop of "
                                                                     "it (timing.closed says how); no: it is none.")
    amplitude: float = Field(1.0, ge=0, le=2, description="Of a motion: its limbs' swing, 1 is natural.")
    speed: int = Field(1, ge=1, le=16, description="Of a motion: whole cycles a loop.")
    azimuth_deg: float = Field(0.0, ge=-360, le=360, description="Of motions, BVH and armatures: from where the figure "
                                                                 "is seen, 0 its front.")
    elevation_deg: float = Field(5.0, ge=-60, le=89, description="The same, positive from above.")
    fov_deg: float = Field(40.0, ge=0, le=120, description="Field of view over the picture's height; 0: orthographic.")
    fill: float = Field(0.75, gt=0.05, le=1, description="Share of the picture's height that a standing figure takes.")
    follow: bool = Field(False, description="Of BVH and armatures: leave the way over the ground out.")
    person: int | None = Field(None, ge=0, description="Which one, counted from 0, where a file shows several.")
    min_confidence: float = Field(0.1, ge=0, le=1, description="Of OpenPose JSON and videos: joints below are unknown.")
    max_gap: int = Field(8, ge=0, le=1000, description="Joints missing for at most so many frames are interpolated.")
    smoothing: float | None = Field(None, ge=0, le=20, description="Standard deviation of a Gaussian over time, in "
                                                                   "frames; without: 0.8 for videos, else none.")
    bones: dict[str, str] = Field(default_factory=dict, description="Of BVH and armatures: joint -> bone, where names "
                                                                    "do not say it (r_shoulder = \"UpperArm_R\").")
    up: Literal["auto", "y", "z"] = Field("auto", description="Of BVH: the axis that points up.")
    pose_width: int | None = Field(None, ge=16, le=16384, description="Of OpenPose JSON that does not say it: of the "
                                                                      "pictures that were looked at, pixels.")
    pose_height: int | None = Field(None, ge=16, le=16384, description="The same.")
    other_shape: Literal["letterbox", "refuse"] = Field("letterbox", description="Of poses with another aspect than "
                                                                                 "the clip's.")


def roles(p: LoadPoses) -> tuple[str, ...]:
    """Only a driving video asks for a model."""
    return ("pose_estimation",) if p.kind in ("video", "pictures") else ()


@stage(version=1, roles=roles)
def load_poses(p: LoadPoses, job: Job) -> Poses:
    """One figure's poses in pictures of ``height`` x ``width``.

    Raises BadInput, in one line each: an unknown motion (the nearest is named), neither motion nor file, both, a file
    that changed, is damaged or shows several people, joints that are missing for too long, no figure in a video.
    """
    if bool(p.motion) == bool(p.path):
        raise BadInput("poses come from a motion or from a file" + (", not from both" if p.path else ": none is given"),
                       "give --motion NAME or --poses FILE")
    if (p.pose_width is None) != (p.pose_height is None):
        raise BadInput("pose_width and pose_height belong together", "give both or none")
    poses = _of_motion(p) if p.motion else _of_file(p, job)
    job.progress(0.9)
    if p.loop != "auto":
        poses = _closed(poses) if p.loop == "close" else Poses(poses.joints, poses.size, poses.fps, False, poses.meta)
    poses = fit(poses, (p.height, p.width), p.other_shape)
    if len(poses) > MAX_FRAMES:
        raise BadInput(f"{len(poses):,} frames of poses; {MAX_FRAMES:,} are the most",
                       "take fewer: --frames N, or a lower --fps")
    for text in poses.meta.get("warnings", []):
        job.warn(text)
    job.metric("frames", len(poses))
    job.metric("joints_known", float(np.isfinite(poses.joints).all(-1).mean()))
    job.progress(1.0)
    return poses


def _shot(p: LoadPoses) -> Shot:
    return Shot(p.azimuth_deg, p.elevation_deg, p.fov_deg, p.fill, p.follow)


def _of_motion(p: LoadPoses) -> Poses:
    return toybox_poses(p.motion, frames=p.frames or MOTION_FRAMES, fps=p.fps or MOTION_FPS, amplitude=p.amplitude,
                        speed=p.speed, shot=_shot(p), size=(p.height, p.width))


def _of_file(p: LoadPoses, job: Job) -> Poses:
    path = Path(p.path)
    kind = p.kind or sources.kind_of(path)
    if not path.exists():
        raise BadInput(f"there are no poses {path}", "check the path")
    found = sources.digest_of(path, kind)
    if p.digest and found != p.digest:
        raise BadInput(f"{path} changed since the run was planned: sha256 expected {p.digest}, found {found}",
                       "start again")
    if kind in ("video", "pictures"):
        poses = _of_video(p, path, job)
    elif kind == "openpose":
        size = (p.pose_height, p.pose_width) if p.pose_height and p.pose_width else None
        poses = read_openpose(path, person=p.person, least=p.min_confidence, size=size, fps=p.fps or MOTION_FPS)
    elif kind == "bvh":
        figure = bvh.moving(bvh.read_bvh(path), person=p.person, bones=p.bones, up=p.up, name=path.name)
        poses = pictured(figure, _shot(p), (p.height, p.width))
        poses.meta["source"] = f"BVH, {len(poses)} frames at {figure.fps:.4g} a second"
    else:
        data = armature.read_json(path)
        figure = armature.moving(data, path.name, p.bones)
        poses = armature.through_camera(data, figure, path.name) or pictured(figure, _shot(p), (p.height, p.width))
    poses = driving.whole(poses, p.max_gap, path.name)
    if kind not in ("video", "pictures"):  # of those, only what is wanted was looked at
        poses = _cut(poses, p)
    poses.meta |= {"sha256": found, "kind": kind}
    sigma = p.smoothing if p.smoothing is not None else VIDEO_SMOOTHING if kind in ("video", "pictures") else 0.0
    if sigma > 0:
        poses.joints = timing.smoothed(poses.joints, sigma, poses.loop)
        poses.meta["smoothing"] = f"Gaussian over time, standard deviation {sigma:g} frames"
    return poses


def _of_video(p: LoadPoses, path: Path, job: Job) -> Poses:
    frames = open_frames(path, p.fps, folder_fps=p.fps or MOTION_FPS, start_s=p.start_s, most=p.frames)
    return driving.poses_of_frames(frames, job.model("pose_estimation"), person=p.person, least=p.min_confidence,
                                   name=path.name, progress=lambda share: job.progress(0.85 * share))


def _cut(poses: Poses, p: LoadPoses) -> Poses:
    """Its beginning left out, at the asked rate, at most so many frames."""
    joints, fps, loop = poses.joints, poses.fps, poses.loop
    first = round(p.start_s * fps)
    if first >= len(joints):
        raise BadInput(f"the poses last {len(joints) / fps:.2f} s; start_s is {p.start_s:g}", "begin earlier")
    meta = poses.meta
    if first:
        joints, loop = joints[first:], False
    if p.fps is not None and p.fps != fps:
        count = len(joints)
        joints = timing.resampled(joints, fps, p.fps, loop)
        meta = {**meta, "resampled": f"{count} frames at {fps:.4g} a second to {len(joints)} at {p.fps:.4g}"}
        fps = p.fps
    if p.frames is not None and len(joints) > p.frames:
        meta = warned(meta, f"the first {p.frames} of {len(joints)} frames are taken")
        joints, loop = joints[:p.frames], False
    return Poses(joints, poses.size, fps, loop, dict(meta))


def _closed(poses: Poses) -> Poses:
    made = timing.closed(poses.joints)
    texts = {"was closed": "", "repeated": "the last frame repeated the first one and is left out",
             "cut": f"frames {made.first} to {made.first + len(made.joints) - 1} return to their beginning: they are "
                    "the loop",
             "spread": "the way from the last frame back to the first was spread evenly over all frames"}
    meta = {**poses.meta, "loop": {"method": made.method, "seam_px": made.seam, "step_px": made.step}}
    if texts[made.method]:
        meta = warned(meta, texts[made.method])
    return Poses(made.joints, poses.size, poses.fps, True, meta)
