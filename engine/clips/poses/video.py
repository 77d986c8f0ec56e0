"""A driving video, or a folder of numbered pictures: its frames one after another, never all at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.clips.encode import ffmpeg_path
from engine.clips.poses.openpose import numbered
from engine.errors import BadInput

HINT = "give an MP4, WebM, MOV or GIF of one figure, or a folder of its frames"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MAX_FRAMES = 10_000
LOST = 0.9
"""A video that decodes to less than this share of what its header promises is damaged."""
SEEN_SIDE = 512
"""Frames are scaled down to this before a figure is looked for: no estimator takes more."""


@dataclass
class Frames:
    """Frames in time, to be gone through once.

    size : (h, w) as they are; fps : of what is handed out; scale : handed-out pixels a pixel of ``size``
    pictures : (h', w', 3) float32 in [0, 1] each, at most SEEN_SIDE large
    warnings : filled while they are gone through
    """

    size: tuple[int, int]
    fps: float
    scale: float
    pictures: Iterator[np.ndarray]
    warnings: list[str]


def open_frames(path: Path, fps: float | None = None, folder_fps: float = 12.0) -> Frames:
    """A video file or a folder of pictures.

    fps : frames a second that are wanted: the nearest ones in time are taken; None takes all
    folder_fps : of a folder's pictures, which do not tell it
    Raises BadInput: no video, no pictures, pictures of different sizes, more than 10,000 frames; while they are gone
    through: a video that breaks off, a damaged picture.
    """
    return _folder(path, fps, folder_fps) if path.is_dir() else _video(path, fps)


def _scale(size: tuple[int, int]) -> float:
    return min(1.0, SEEN_SIDE / max(size))


def _small(frame: np.ndarray, scale: float) -> np.ndarray:
    """(h, w, 3) uint8 -> float32 in [0, 1], scaled down."""
    if scale < 1:
        from PIL import Image
        to = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        frame = np.asarray(Image.fromarray(frame).resize(to, Image.Resampling.BILINEAR, reducing_gap=2.0))
    return frame.astype(np.float32) / 255


def _taken(count: int, own_fps: float, fps: float | None) -> list[int] | None:
    """Indices of the frames that are nearest to those of ``fps``; None for all of them."""
    if fps is None or fps >= own_fps:
        return None
    total = max(1, math.floor((count - 1) * fps / own_fps + 1e-6) + 1)
    return [min(count - 1, round(i * own_fps / fps)) for i in range(total)]


def _too_long(path: Path, count: int) -> BadInput:
    return BadInput(f"{path} has {count:,} frames; {MAX_FRAMES:,} are the most", "cut it, or ask for fewer a second "
                                                                                 "(fps)")


# -- videos ------------------------------------------------------------------------------------------------------------

def _video(path: Path, fps: float | None) -> Frames:
    import imageio_ffmpeg
    if not path.exists():
        raise BadInput(f"there is no video {path}", "check the path")
    ffmpeg_path()
    # A file that lists others (a playlist) opens nothing over the network.
    reader = imageio_ffmpeg.read_frames(str(path.resolve()), pix_fmt="rgb24",
                                        input_params=["-protocol_whitelist", "file,pipe"])
    try:
        meta = next(reader)
    except Exception as error:  # by what ffmpeg says: RuntimeError, OSError, StopIteration, ValueError
        raise BadInput(f"{path} is no video that can be read", HINT) from error
    width, height = (int(v) for v in meta["size"])
    own, duration = float(meta.get("fps") or 0), float(meta.get("duration") or 0)
    if not (own > 0 and math.isfinite(own)) or width < 16 or height < 16:
        reader.close()
        raise BadInput(f"{path} is no video that can be used ({width} x {height} pixels, {own:g} frames a second)",
                       HINT)
    promised = round(own * duration) if math.isfinite(duration) else 0
    wanted = _taken(max(promised, 1), own, fps)
    if (len(wanted) if wanted is not None else promised) > MAX_FRAMES:
        reader.close()
        raise _too_long(path, promised)
    warnings: list[str] = []
    scale = _scale((height, width))

    def pictures() -> Iterator[np.ndarray]:
        step = own / fps if fps is not None and fps < own else 1.0
        decoded, given = 0, 0
        try:
            for data in reader:
                if decoded == round(given * step):
                    if given == MAX_FRAMES:
                        raise _too_long(path, decoded)
                    given += 1
                    frame = np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)
                    yield _small(frame, scale)
                decoded += 1
        except (RuntimeError, OSError, ValueError) as error:
            raise BadInput(f"{path} cannot be decoded after frame {decoded}: {' '.join(str(error).split())[:120]}",
                           "the file is damaged: make it again") from error
        finally:
            reader.close()
        if decoded == 0:
            raise BadInput(f"{path} holds no frame that can be decoded", HINT)
        if promised and decoded < LOST * promised:
            raise BadInput(f"{path} breaks off: {decoded} of {promised} frames can be decoded",
                           "the file is damaged or was cut: make it again")
    return Frames((height, width), min(fps, own) if fps else own, scale, pictures(), warnings)


# -- folders -----------------------------------------------------------------------------------------------------------

def _folder(path: Path, fps: float | None, own: float) -> Frames:
    from engine.stages.load_picture import picture_size
    files = numbered(path, PICTURES)
    if not files:
        raise BadInput(f"{path} holds no pictures", "give a folder of numbered PNG, JPEG or WebP files")
    wanted = _taken(len(files), own, fps)
    chosen = files if wanted is None else [files[i] for i in wanted]
    if len(chosen) > MAX_FRAMES:
        raise _too_long(path, len(files))
    width, height = picture_size(files[0])
    scale = _scale((height, width))

    def pictures() -> Iterator[np.ndarray]:
        from engine.artifacts import over_white
        from engine.stages.load_picture import read_picture
        for file in chosen:
            picture = over_white(read_picture(file))
            if picture.shape[:2] != (height, width):
                raise BadInput(f"{file} is {picture.shape[1]} x {picture.shape[0]} pixels, {files[0].name} {width} x "
                               f"{height}", "give frames of one size")
            yield _small(np.round(picture * 255).astype(np.uint8), scale)
    return Frames((height, width), min(fps, own) if fps else own, scale, pictures(), [])


def is_picture_folder(path: Path) -> bool:
    """Whether a folder holds pictures, and more of them than of .json files."""
    names = [p.suffix.lower() for p in path.iterdir() if not p.name.startswith(".")]
    return sum(n in PICTURES for n in names) > sum(n == ".json" for n in names)
