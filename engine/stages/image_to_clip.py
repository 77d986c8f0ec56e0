"""A picture and words -> a moving picture that begins with it (AnimateDiff; SparseCtrl where the set has it)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.artifacts import Picture, over_white
from engine.clip_artifacts import Clip
from engine.diffusion import clip_drawing, pictures
from engine.diffusion.canvas import Fit, canvas_for
from engine.diffusion.clip_drawing import Beginning, ClipDrawing
from engine.job import Job, stage


class ImageToClip(ClipDrawing):
    """Parameters of ``image_to_clip``."""

    hold: Literal["blend", "sparse"] = Field("blend", description="How the picture becomes the first frame. blend: its "
                                             "latents stand there at every step, at that step's level of noise; "
                                             "sparse: by the set's SparseCtrl (role sparse_control).")
    strength: float = Field(1.0, gt=0, le=1, description="How far the frames may go from the picture, above 0 to 1 "
                                                         "(they begin from pure noise).")
    like_scale: float = Field(0.0, ge=0, le=2, description="How much the picture counts as an image prompt for all "
                                                           "frames, 0 (none) to 2; 1 as trained.")
    sparse_scale: float = Field(1.0, ge=0, le=2, description="How much SparseCtrl counts, 0 to 2.")
    fit: Fit = Field("framed", description="framed: the whole picture inside the model's own square; resized: as many "
                                           "pixels as that square in nearly the picture's own shape.")

    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {"draft": {"pace": 0.5}, "high": {"pace": 2.0}}


def roles(p: ImageToClip) -> tuple[str, ...]:
    return (*clip_drawing.roles_of(p), *(("sparse_control",) if p.hold == "sparse" else ()),
            *(("image_prompt",) if p.like_scale else ()))


@stage(version=2, roles=roles)
def image_to_clip(picture: Picture, p: ImageToClip, job: Job) -> Clip:
    """Draw a clip that begins with ``picture``; every frame is opaque, alpha is drawn over white. The frames have the
    size that the picture is drawn at (a warning says so where it is another).

    Metrics as of ``text_to_clip``, and ``first_frame_db``: PSNR of the first frame and the picture. Raises BadInput as
    ``text_to_clip`` does, and for pictures too small or too long.
    """
    from engine.stages.image_to_image import psnr
    model = job.model("text_to_image")
    image = over_white(picture.image)
    canvas = canvas_for(image, model.size, model.multiple, p.fit)
    if canvas.said:
        job.warn(canvas.said)
    shown = canvas.put(image)
    clip = clip_drawing.draw_clip(p, job, (canvas.rows, canvas.columns), Beginning(
        pictures.tensor_of(shown[None]), p.hold, p.strength, p.like_scale, p.sparse_scale), canvas.take)
    job.metric("first_frame_db", psnr(clip.frames[0][..., :3], canvas.take(shown)), "dB", against="the picture")
    return clip
