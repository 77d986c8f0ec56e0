"""A textured mesh -> a clip that turns around it, and a contact sheet."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Limits

from engine.artifacts import Files, TexturedMesh
from engine.export.scratch import scratch_files, scratch_folder
from engine.job import Job, Params, stage

SHEET_COLUMNS, SHEET_ROWS = 4, 2


class RenderTurntable(Params):
    """Parameters of ``render_turntable``."""

    frames: int = Limits(36, ge=2, le=1440, description="pictures in one turn")
    fps: float = Limits(15.0, gt=0, le=100, description="frames a second")
    size: int = Limits(512, ge=64, le=4096, multiple_of=2, description="pixels a side of the clip")
    gif_size: int = Limits(320, ge=32, le=1024, description="pixels a side of the GIF")
    sheet_size: int = Limits(384, ge=32, le=2048, description="pixels a side of one picture of the sheet")
    elevation_deg: float = Limits(20.0, ge=-89, le=89, description="camera's elevation")
    QUALITY: ClassVar[dict[str, dict[str, Any]]] = {
        "draft": {"frames": 18, "size": 256, "gif_size": 256, "sheet_size": 256, "fps": 8.0},
        "high": {"frames": 72, "size": 768, "fps": 24.0},
    }


@stage(version=1)
def render_turntable(mesh: TexturedMesh, p: RenderTurntable, job: Job) -> Files:
    """turntable.mp4 (H.264), turntable.gif (loops) and sheet.png (eight azimuths, front first).

    Raises BadInput without ffmpeg, before anything is rendered.
    """
    from PIL import Image

    from engine.clips.encode import ffmpeg_path, write_gif, write_mp4
    from engine.meshes.render import render_all, set_stage, turntable_cameras
    ffmpeg_path()
    scene = set_stage(mesh, job.device)
    folder = scratch_folder()
    small: list[np.ndarray] = []

    def turn() -> Any:
        cameras = turntable_cameras(scene, np.arange(p.frames) * 360 / p.frames, p.elevation_deg, p.size)
        for i, frame in enumerate(render_all(scene, cameras)):
            picture = Image.fromarray(frame)
            small.append(np.asarray(picture.resize((p.gif_size, p.gif_size), Image.Resampling.BOX)))
            job.progress(0.8 * i / p.frames, frame.astype(np.float32) / 255 if i % 6 == 0 else None)
            yield frame

    write_mp4(folder / "turntable.mp4", turn(), p.fps)
    write_gif(folder / "turntable.gif", small, p.fps)
    job.progress(0.9)
    around = np.arange(SHEET_COLUMNS * SHEET_ROWS) * 360 / (SHEET_COLUMNS * SHEET_ROWS)
    cells = list(render_all(scene, turntable_cameras(scene, around, p.elevation_deg, p.sheet_size)))
    rows = [np.concatenate(cells[r * SHEET_COLUMNS:(r + 1) * SHEET_COLUMNS], axis=1) for r in range(SHEET_ROWS)]
    Image.fromarray(np.concatenate(rows)).save(folder / "sheet.png")
    job.metric("frames", float(p.frames))
    job.progress(1.0)
    return scratch_files(folder, {"turntable.mp4": "clip", "turntable.gif": "preview", "sheet.png": "sheet"},
                         {"frames": p.frames, "fps": p.fps})
