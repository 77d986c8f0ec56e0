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
    count : how many are expected, 0 where that is not known
    """

    size: tuple[int, int]
    fps: float
    scale: float
    pictures: Iterator[np.ndarray]
    count: int = 0


def open_frames(path: Path, fps: float | None = None, *, folder_fps: float = 12.0, start_s: float = 0.0,
                most: int | None = None) -> Frames:
    """A video file or a folder of pictures.

    fps : frames a second that are wanted: the nearest ones in time are taken; None, and a folder, give all
    folder_fps : of a folder's pictures, which do not tell it
    start_s : seconds that are left out at the beginning; most : frames after which it ends
    Raises BadInput: no video, no pictures, more than 10,000 frames, nothing after ``start_s``; while they are gone
    through: a video that breaks off, a damaged picture, one of another size.
    """
    if path.is_dir():
        return _folder(path, folder_fps, start_s, most)
    return _video(path, fps, start_s, most)


def _scale(size: tuple[int, int]) -> float:
    return min(1.0, SEEN_SIDE / max(size))


def _small(frame: np.ndarray, scale: float) -> np.ndarray:
    """(h, w, 3) uint8 -> float32 in [0, 1], scaled down."""
    if scale < 1:
        from PIL import Image
        to = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        frame = np.asarray(Image.fromarray(frame).resize(to, Image.Resampling.BILINEAR, reducing_gap=2.0))
    return frame.astype(np.float32) / 255


def _asked(path: Path, count: int, first: int, most: int | None) -> int:
    """How many of ``count`` frames will be handed out; 0 where ``count`` is not known."""
    if count and first >= count:
        raise BadInput(f"{path} has {count} frames; start_s leaves all of them out", "begin earlier")
    left = count - first if count else 0
    asked = min(left, most) if most is not None and left else most or left
    if asked > MAX_FRAMES:
        raise BadInput(f"{path} has {asked:,} frames; {MAX_FRAMES:,} are the most",
                       "cut it, take fewer a second (fps), or fewer at all (frames)")
    return asked


# -- videos ------------------------------------------------------------------------------------------------------------

def _video(path: Path, fps: float | None, start_s: float, most: int | None) -> Frames:
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
    step = own / fps if fps is not None and fps < own else 1.0
    first = round(start_s * own / step)
    try:
        count = _asked(path, math.ceil(promised / step), first, most)
    except BadInput:
        reader.close()
        raise
    scale = _scale((height, width))
    limit = min(most if most is not None else MAX_FRAMES + 1, MAX_FRAMES + 1)

    def pictures() -> Iterator[np.ndarray]:
        decoded, at = 0, first
        try:
            for data in reader:
                if decoded == round(at * step):
                    if at - first == MAX_FRAMES:
                        raise BadInput(f"{path} has more than {MAX_FRAMES:,} frames", "cut it, or set frames")
                    at += 1
                    yield _small(np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3), scale)
                    if at - first == limit:
                        return
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
    return Frames((height, width), own / step, scale, pictures(), count)


# -- folders -----------------------------------------------------------------------------------------------------------

def _folder(path: Path, fps: float, start_s: float, most: int | None) -> Frames:
    files = numbered(path, PICTURES)
    if not files:
        raise BadInput(f"{path} holds no pictures", "give a folder of numbered PNG, JPEG or WebP files")
    first = round(start_s * fps)
    count = _asked(path, len(files), first, most)
    height, width = _picture(files[0]).shape[:2]
    scale = _scale((height, width))

    def pictures() -> Iterator[np.ndarray]:
        for file in files[first:first + count]:
            picture = _picture(file)
            if picture.shape[:2] != (height, width):
                raise BadInput(f"{file} is {picture.shape[1]} x {picture.shape[0]} pixels, {files[0].name} {width} x "
                               f"{height}", "give frames of one size")
            yield _small(picture, scale)
    return Frames((height, width), fps, scale, pictures(), count)


def _picture(path: Path) -> np.ndarray:
    """One picture over white, upright, (h, w, 3) uint8. BadInput where it cannot be read."""
    from PIL import Image, ImageOps
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as file:
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except Exception as error:  # decoders raise many classes on damaged files; all mean the same to the user
        raise BadInput(f"{path} is no picture that can be read", "give numbered PNG, JPEG or WebP files") from error
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def is_picture_folder(path: Path) -> bool:
    """Whether a folder holds pictures, and more of them than of .json files."""
    names = [p.suffix.lower() for p in path.iterdir() if not p.name.startswith(".")]
    return sum(n in PICTURES for n in names) > sum(n == ".json" for n in names)
