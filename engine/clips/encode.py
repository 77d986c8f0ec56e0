"""A turntable's files, which play everywhere: H.264 in MP4, animated GIF. Clips: ``engine.clips.formats``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from engine.clips.video import ffmpeg_path as ffmpeg_path
from engine.errors import RunFailed


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float, quality: int = 19) -> int:
    """H.264, yuv420p, playable while it loads. Returns the number of frames written, each exactly once.

    frames : (h, w, 3) uint8 sRGB, all of one size, both even; quality : x264's constant rate factor, lower is better
    """
    import imageio_ffmpeg
    program = ffmpeg_path()
    count, writer = 0, None
    try:
        for frame in frames:
            if writer is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise ValueError(f"H.264 with 4:2:0 needs even sizes, not {width} x {height}")
                options = ["-crf", str(quality), "-preset", "veryfast", "-movflags", "+faststart",
                           "-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709",
                           "-vf", "scale=out_color_matrix=bt709:out_range=tv"]
                writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, codec="libx264",
                                                     pix_fmt_out="yuv420p", macro_block_size=2, quality=None,
                                                     ffmpeg_log_level="error", output_params=options)
                writer.send(None)
            if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
                raise ValueError("every frame must be (h, w, 3) uint8 of the first one's size")
            writer.send(np.ascontiguousarray(frame))
            count += 1
    except OSError as error:
        raise RunFailed(f"ffmpeg ({program}) stopped while it wrote {path.name}: {error}",
                        "check the disk's free space, and that this ffmpeg has libx264") from error
    finally:
        if writer is not None:
            writer.close()
    if count == 0 or not path.exists() or path.stat().st_size == 0:
        raise RunFailed(f"ffmpeg ({program}) wrote no {path.name}", "check that this ffmpeg has libx264")
    return count


def read_frames(path: Path) -> list[np.ndarray]:
    """All frames of a clip, decoded: (h, w, 3) uint8 each."""
    import imageio_ffmpeg
    ffmpeg_path()
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3) for data in reader]


def write_gif(path: Path, frames: Sequence[np.ndarray], fps: float, colors: int = 128) -> None:
    """A GIF that loops for ever, with one palette for all frames so that nothing flickers.

    frames : (h, w, 3) uint8. GIF counts time in hundredths of a second: the frame rate is rounded to that.
    """
    from PIL import Image
    if not frames:
        raise ValueError("a GIF needs at least one frame")
    some = np.concatenate([f[::2, ::2] for f in frames[::max(1, len(frames) // 6)]])
    palette = Image.fromarray(some).quantize(colors, method=Image.Quantize.MEDIANCUT)
    pages = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for f in frames]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=10 * round(100 / fps), loop=0, disposal=1,
                  optimize=False)
