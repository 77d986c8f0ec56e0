"""The clip pipelines on one page: words, pictures and motions in, a moving figure out. Calling one plans it; nothing is
executed.

    run = Run(Store(Store.place()), model_set("builtin"), seed=7)
    knight = draw_character(run, "a knight in red armour")
    clip = character_to_clip(run, knight, motion(run, "walk", frames=16))
    files = publish(run, clip)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.runs.run import Handle, Run

if TYPE_CHECKING:
    from engine.artifacts import Candidates, Files, Picture
    from engine.clip_artifacts import Clip, Poses

OPEN_POSE = "standing, whole body from the front, plain white background"
"""Behind the prompt of a character that a public model draws, which knows no toybox."""


# -- what is made ------------------------------------------------------------------------------------------------------

def text_to_clip(run: Run, prompt: str, *, negative: str = "", motion: str = "", **told: Any) -> Handle[Clip]:
    """Words -> a moving picture (AnimateDiff) -> without its background.

    motion : by name, said behind the prompt; told : frames, fps, loop and other parameters of the stage
    """
    from engine.stages.text_to_clip import text_to_clip as draw
    return _freed(run, run(draw, prompt=prompt, negative=negative, motion=motion, **told))


def image_to_clip(run: Run, picture: Handle[Picture], prompt: str, *, negative: str = "", motion: str = "", **told: Any
                  ) -> Handle[Clip]:
    """A picture and words -> a moving picture that begins with it (AnimateDiff) -> without its background."""
    from engine.stages.image_to_clip import image_to_clip as draw
    return _freed(run, run(draw, picture, prompt=prompt, negative=negative, motion=motion, **told))


def character_to_clip(run: Run, picture: Handle[Picture], poses: Handle[Poses]) -> Handle[Clip]:
    """A picture of a figure and poses -> the figure cut out and framed -> the poses on its limbs -> the figure in them,
    frame by frame (AnimateAnyone) -> without its background."""
    from engine.stages.animate_character import animate_character
    from engine.stages.cut_out import cut_out
    from engine.stages.estimate_poses import estimate_poses
    from engine.stages.frame_character import frame_character
    from engine.stages.retarget_poses import retarget_poses
    character = run(frame_character, run(cut_out, picture))
    posed = run(retarget_poses, poses, run(estimate_poses, character))
    return _freed(run, run(animate_character, character, posed))


# -- what is given -----------------------------------------------------------------------------------------------------

def open_picture(run: Run, path: Path) -> Handle[Picture]:
    """A user's picture; its digest stands for it in keys."""
    from engine.stages.load_picture import load_picture, picture_digest
    return run(load_picture, path=str(path), digest=picture_digest(path))


def draw_character(run: Run, prompt: str, *, negative: str = "", pick: int | None = None) -> Handle[Picture]:
    """Words -> candidate pictures of one standing figure -> the best, or the picked one. Where the set has a domain
    adapter, the text-to-image model draws with it."""
    from engine.stages.choose_candidate import choose_candidate
    from engine.stages.draw_character import draw_character as draw
    roles: tuple[str, ...] = getattr(run.models, "roles", ())
    how: dict[str, Any] = {} if "domain_adapter" in roles else {"adapter_scale": 0.0, "pose": OPEN_POSE}
    candidates: Handle[Candidates] = run(draw, prompt=prompt, negative=negative, **how)
    return run(choose_candidate, candidates, index=pick)


def motion(run: Run, name: str, **told: Any) -> Handle[Poses]:
    """A toybox motion by name. BadInput, before anything runs, that names the nearest one.

    told : frames, fps, loop ("auto", "close", "no"), amplitude, speed, azimuth_deg, ...
    """
    from engine.clips.poses.toybox_motion import motion_named
    from engine.stages.load_poses import load_poses
    return run(load_poses, motion=motion_named(name), **told)


def open_poses(run: Run, path: Path, **told: Any) -> Handle[Poses]:
    """A file of poses: OpenPose JSON (or a folder of it), BVH, an armature's JSON, a video, a folder of pictures."""
    from engine.clips.poses.sources import pose_source
    from engine.stages.load_poses import load_poses
    return run(load_poses, **pose_source(path), **told)


def open_driving_video(run: Run, path: Path, **told: Any) -> Handle[Poses]:
    """A video, or a folder of its pictures, whose figure is followed. BadInput for files of another kind."""
    from engine.clips.poses.sources import pose_source
    from engine.stages.load_poses import load_poses
    source = pose_source(path)
    if source["kind"] not in ("video", "pictures"):
        raise BadInput(f"{path} is no video", f"give it as poses: --poses {path}")
    return run(load_poses, **source, **told)


# -- what is taken away ------------------------------------------------------------------------------------------------

def publish(run: Run, clip: Handle[Clip], *, name: str = "clip", formats: tuple[str, ...] | None = None,
            papers: dict[str, str] | None = None) -> Handle[Files]:
    """PNG frames with alpha, which are the master, and what is written from them. formats : None: all"""
    from engine.stages.export_clip import export_clip
    told: dict[str, Any] = {} if formats is None else {"formats": formats}
    return run(export_clip, clip, name=name, papers=papers or {}, **told)


def _freed(run: Run, clip: Handle[Clip]) -> Handle[Clip]:
    from engine.stages.clip_alpha import clip_alpha
    return run(clip_alpha, clip)
