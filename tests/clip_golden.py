"""Golden cases of the clip stages (tests/golden.py), around tiny random networks and doubles."""

from __future__ import annotations

from typing import Any

import numpy as np


def _job(**models: Any) -> Any:
    """A job of the doubles, with these models in their place."""
    from clip_helpers import Job, Set
    return Job(Set(**models))


def _clip(alpha: bool) -> Any:
    """Three frames in which a red block climbs over white, of whole 8-bit numbers; alpha : cut out"""
    from engine.clip_artifacts import Clip
    frames = np.ones((3, 24, 16, 4), np.float32)
    for i, frame in enumerate(frames):
        if alpha:
            frame[..., 3] = 0
        frame[8 - 3 * i:20 - 3 * i, 4:12] = np.float32((204 / 255, 51 / 255, 17 * i / 255, 1))
    return Clip(frames, 12.0, True, {"alpha": "the clip's own"} if alpha else {})


def load_poses_case() -> Any:
    from engine.stages.load_poses import LoadPoses, load_poses
    p = LoadPoses(motion="walk", frames=3, width=48, height=64, azimuth_deg=20, amplitude=1.2)
    return load_poses(p, _job())


def retarget_poses_case() -> Any:
    from clip_helpers import walking

    from engine.stages.retarget_poses import RetargetPoses, retarget_poses
    figure = walking(1, 48)
    figure.joints[..., 1] *= np.float32(0.8)  # shorter than the one that moves
    return retarget_poses(walking(3), figure, RetargetPoses(azimuth_deg=30), _job())


def estimate_poses_case() -> Any:
    from clip_helpers import cut_figure

    from engine.stages.estimate_poses import EstimatePoses, estimate_poses
    return estimate_poses(cut_figure(), EstimatePoses(), _job())


def frame_character_case() -> Any:
    from clip_helpers import cut_figure

    from engine.stages.frame_character import FrameCharacter, frame_character
    return frame_character(cut_figure(), FrameCharacter(fill=0.6), _job())


def draw_character_case() -> Any:
    from image_helpers import Given
    from tiny_models import tiny_domain_adapter

    from engine.clips.poses.estimate import Estimated
    from engine.stages.draw_character import DrawCharacter, draw_character

    def surer_of_the_second(pictures: list[Any]) -> Estimated:
        n = len(pictures)
        sure = np.repeat(np.arange(1, n + 1, dtype=np.float32)[:, None] / 4, 18, 1)
        return Estimated(np.zeros((n, 18, 2), np.float32), sure, np.ones(n, int))

    job = Given(pose_estimation=surer_of_the_second, domain_adapter=tiny_domain_adapter())
    return draw_character(DrawCharacter(prompt="a red knight", candidates=2, steps=2), job)


def animate_character_case() -> Any:
    from clip_helpers import cut_figure, small_animation, walking

    from engine.stages.animate_character import AnimateCharacter, animate_character
    return animate_character(cut_figure(32), walking(3, 32), AnimateCharacter(steps=2, window=2, overlap=1),
                             _job(reference_animation=small_animation()))


def clip_alpha_case() -> Any:
    from engine.stages.clip_alpha import ClipAlpha, clip_alpha
    return clip_alpha(_clip(alpha=False), ClipAlpha(), _job())


def export_clip_case() -> Any:
    """The sheet alone: what ffmpeg and other encoders write differs from build to build."""
    from engine.stages.export_clip import ExportClip, export_clip
    return export_clip(_clip(alpha=True), ExportClip(formats=("sheet",), sheet="packed"), _job())


def text_to_clip_case() -> Any:
    import motion_helpers

    from engine.stages.text_to_clip import TextToClip, text_to_clip
    models = {"text_to_image": motion_helpers.base().ours, "motion": motion_helpers.motion()}
    return text_to_clip(TextToClip(prompt="a red mug", motion="walk", frames=3, steps=2, window=2, overlap=1,
                                   loop=True), motion_helpers.Job(models))


def image_to_clip_case() -> Any:
    import image_helpers
    import motion_helpers

    from engine.artifacts import Picture
    from engine.stages.image_to_clip import ImageToClip, image_to_clip
    models = {"text_to_image": motion_helpers.base().ours, "motion": motion_helpers.motion()}
    return image_to_clip(Picture(image_helpers.picture()), ImageToClip(prompt="a red mug", frames=3, steps=2,
                                                                       strength=0.8), motion_helpers.Job(models))


def clip_cases() -> dict[str, Any]:
    """stage name -> its case."""
    from engine.stages.animate_character import animate_character
    from engine.stages.clip_alpha import clip_alpha
    from engine.stages.draw_character import draw_character
    from engine.stages.estimate_poses import estimate_poses
    from engine.stages.export_clip import export_clip
    from engine.stages.frame_character import frame_character
    from engine.stages.image_to_clip import image_to_clip
    from engine.stages.load_poses import load_poses
    from engine.stages.retarget_poses import retarget_poses
    from engine.stages.text_to_clip import text_to_clip
    from tests.golden import Case
    return {"load_poses": Case(load_poses, load_poses_case),
            "retarget_poses": Case(retarget_poses, retarget_poses_case),
            "estimate_poses": Case(estimate_poses, estimate_poses_case, 0),
            "frame_character": Case(frame_character, frame_character_case),
            "draw_character": Case(draw_character, draw_character_case),
            "animate_character": Case(animate_character, animate_character_case),
            "clip_alpha": Case(clip_alpha, clip_alpha_case), "export_clip": Case(export_clip, export_clip_case, 0),
            "text_to_clip": Case(text_to_clip, text_to_clip_case),
            "image_to_clip": Case(image_to_clip, image_to_clip_case)}
