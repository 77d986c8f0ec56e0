"""From artifacts to what a drawing is given: maps, pictures and faces brought onto the drawn picture's canvas."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.artifacts import ControlMaps, Face, Picture, over_white
from engine.diffusion import control_maps, pictures, skeleton_drawing
from engine.diffusion.canvas import Canvas
from engine.diffusion.drawing import Drawing, Given
from engine.diffusion.framing import FILL
from engine.errors import BadInput
from engine.job import Job


def given(p: Drawing, canvas: Canvas, maps: ControlMaps | None, like: Picture | None, face: Face | None, *,
          start: np.ndarray | None = None, **more: Any) -> Given:
    """start : (rows, columns, 3), on the canvas already; more : further fields of ``Given``.

    Raises BadInput where the maps are not those that the parameters name.
    """
    return Given(maps=_maps(p, canvas, maps), like=None if like is None else _like(like),
                 face=None if face is None else torch.from_numpy(face.identity.astype(np.float32))[None],
                 face_map=_face_map(canvas, face), start=None if start is None else pictures.tensor_of(start[None]),
                 **more)


def image_of(drawn: Tensor) -> np.ndarray:
    """(1, 3, h, w) -> (h, w, 3) float32, clamped to [0, 1], as 8 bits hold it."""
    return (np.round(pictures.images_of(drawn)[0] * 255) / 255).astype(np.float32)


def meta(p: Drawing, job: Job) -> dict[str, Any]:
    """What a drawn picture's own papers hold."""
    return {"seed": job.seed(0), "prompt_as_drawn": p.prompt, "negative": p.negative}


def _maps(p: Drawing, canvas: Canvas, maps: ControlMaps | None) -> tuple[Tensor, ...]:
    """Each map on the canvas, (1, 3, rows, columns); around a framed picture there is nothing: black."""
    found = [] if maps is None else maps.kinds
    if list(p.controls) != found:
        raise BadInput(f"the maps given are {', '.join(found) or 'none'}, the controls asked for "
                       f"{', '.join(p.controls) or 'none'}", "name one control for each map, in the same order")
    if maps is None:
        return ()
    placed = [canvas_of(canvas, image.shape[:2]).put(image, smooth=kind not in control_maps.FLAT,
                                                     around=0.0 if kind != "normals" else None)
              for kind, image in zip(maps.kinds, maps.images, strict=True)]
    return tuple(pictures.tensor_of(image[None]) for image in placed)


def canvas_of(canvas: Canvas, size: tuple[int, int]) -> Canvas:
    """The canvas of a map of another size but the same shape, within a pixel; BadInput for others."""
    height, width = size
    if abs(height * canvas.width - width * canvas.height) > max(canvas.width, canvas.height, height, width):
        raise BadInput(f"a map of {width} x {height} pixels has another shape than the picture of {canvas.width} x "
                       f"{canvas.height}", "give both one shape")
    return Canvas(height, width, canvas.rows, canvas.columns, canvas.top, canvas.left, canvas.inner_rows,
                  canvas.inner_columns)


def _like(like: Picture) -> Tensor:
    """The picture that says what it shall be like, square: its subject framed as the house frames subjects where it is
    cut out, the whole of it in a white square else."""
    from engine.diffusion.framing import frame_subject
    image = like.image
    if image.shape[-1] == 4 and bool((image[..., 3] < 0.5).any()):
        framed, _ = frame_subject(image, max(128, min(max(image.shape[:2]), 1024)), FILL)
        return pictures.tensor_of(over_white(framed)[None])
    image = over_white(image)
    side = max(image.shape[:2])
    rows, columns = side - image.shape[0], side - image.shape[1]
    margins = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)]
    return pictures.tensor_of(np.pad(image, margins, constant_values=1.0)[None])


def _face_map(canvas: Canvas, face: Face | None) -> Tensor | None:
    if face is None or face.points is None:
        return None
    points = face.points * np.array([canvas.inner_columns, canvas.inner_rows]) + np.array([canvas.left, canvas.top])
    return pictures.tensor_of(skeleton_drawing.draw_face(points, (canvas.rows, canvas.columns))[None])
