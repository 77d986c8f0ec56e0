"""Frames through ffmpeg and back: one pipe that writes, one that reads, both frame by frame, so memory stays flat.

ffmpeg is imageio-ffmpeg's own program. Frames go in as raw pixels with their exact rate, and each comes out once: no
frame is doubled or dropped to fit a clock.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

from engine.errors import BadInput, RunFailed

MEND = ("pip install --force-reinstall imageio-ffmpeg brings one that has it; or set IMAGEIO_FFMPEG_EXE to an ffmpeg "
        "that does")
QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error")
THREADS = "2"
"""Of an encoder. Fixed: the bytes that encoders write depend on it."""
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""ffmpeg's own decoders of these leave alpha out."""


def ffmpeg_path() -> str:
    """The ffmpeg that is used. Raises BadInput where there is none."""
    import imageio_ffmpeg
    mend = "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg program"
    try:
        program = str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise BadInput("ffmpeg was not found, so no clip can be written", mend) from error
    if shutil.which(program) is None:  # IMAGEIO_FFMPEG_EXE is taken unseen
        raise BadInput(f"ffmpeg was not found: {program} is no program, so no clip can be written", mend)
    return program


@cache
def _encoders(program: str) -> frozenset[str]:
    listed = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)
    lines = [line.split() for line in listed.stdout.splitlines()]
    return frozenset(words[1] for words in lines if len(words) > 1 and words[0].startswith("V"))


def encoders() -> frozenset[str]:
    """Names of the video encoders that this ffmpeg has, asked once a process. BadInput where there is no ffmpeg."""
    return _encoders(ffmpeg_path())


def write_video(path: Path, frames: Iterable[np.ndarray], fps: Fraction, options: Sequence[str],
                papers: Mapping[str, str] | None = None) -> int:
    """Write one video file. -> the number of frames, each written exactly once.

    frames : (h, w, 3) or (h, w, 4) uint8 sRGB, straight alpha, all of one size
    options : codec, pixel format and quality; papers : the file's metadata tags
    Raises RunFailed, in ffmpeg's own last words, where it stops; what it left half-written is taken away.
    """
    program = ffmpeg_path()
    tag = "-metadata:s:v:0" if path.suffix == ".ogv" else "-metadata"  # Ogg keeps its comments in the stream
    tags = [word for name, text in (papers or {}).items() for word in (tag, f"{name}={text}")]
    count, process = 0, None
    with tempfile.TemporaryFile() as said:
        try:
            for frame in frames:
                if process is None:
                    shape = frame.shape
                    height, width, channels = shape
                    process = subprocess.Popen(
                        [program, *QUIET, "-f", "rawvideo", "-pix_fmt", {3: "rgb24", 4: "rgba"}[channels],
                         "-s", f"{width}x{height}", "-framerate", f"{fps.numerator}/{fps.denominator}", "-i", "pipe:0",
                         *options, "-fps_mode", "passthrough", "-threads", THREADS, "-map_metadata", "-1", *tags,
                         "-fflags", "+bitexact", "-flags:v", "+bitexact", "-y", str(path)],
                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
                if frame.shape != shape or frame.dtype != np.uint8:
                    raise ValueError(f"every frame must be uint8 of the first one's shape {shape}, got {frame.shape}")
                assert process.stdin is not None
                process.stdin.write(np.ascontiguousarray(frame).data)
                count += 1
            if process is None:
                raise ValueError("a video needs at least one frame")
            assert process.stdin is not None
            process.stdin.close()
            code = process.wait()
        except OSError:  # it went away while it was fed: its own words say why
            assert process is not None
            code = process.wait() or 1
        finally:
            if process is not None and process.poll() is None:  # the frames' maker failed or was stopped
                process.kill()
                process.wait()
                path.unlink(missing_ok=True)
        if code != 0 or not path.exists() or path.stat().st_size == 0:
            path.unlink(missing_ok=True)
            said.seek(0)
            words = " ".join(said.read().decode(errors="replace").split())[:300]
            raise RunFailed(f"ffmpeg could not write {path.name}: {words or f'it ended with {code}'}",
                            "check the disk's free space; the clip itself is kept")
    return count


def decoded(path: Path, size: tuple[int, int], codec: str = "") -> Iterator[np.ndarray]:
    """All frames of a video, one by one: (h, w, 4) uint8, alpha 255 where the file has none.

    size : (height, width), as the file has it; codec : "vp8" or "vp9" to see their alpha
    Raises RunFailed where ffmpeg cannot read it or the size is another.
    """
    program, (height, width) = ffmpeg_path(), size
    chosen = ("-c:v", ALPHA_DECODERS[codec]) if codec in ALPHA_DECODERS else ()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([program, *QUIET, *chosen, "-i", str(path), "-map", "0:v:0", "-fps_mode",
                                    "passthrough", "-f", "rawvideo", "-pix_fmt", "rgba", "-"],
                                   stdout=subprocess.PIPE, stderr=said)
        assert process.stdout is not None
        try:
            bytes_each = height * width * 4
            while data := process.stdout.read(bytes_each):
                if len(data) < bytes_each:
                    raise RunFailed(f"{path.name} is not {width} x {height} pixels large")
                yield np.frombuffer(data, np.uint8).reshape(height, width, 4)
            if process.wait() != 0:
                said.seek(0)
                raise RunFailed(f"ffmpeg cannot read {path.name}: "
                                f"{' '.join(said.read().decode(errors='replace').split())[:300]}")
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.kill()
            process.wait()


def times(path: Path) -> list[Fraction]:
    """When each frame of a video is shown, in seconds, as the file itself says."""
    return [at for at, _ in _packets(path)]


def durations(path: Path) -> list[Fraction]:
    """How long each frame of a video is shown, in seconds, as the file itself says."""
    return [long for _, long in _packets(path)]


def _packets(path: Path) -> list[tuple[Fraction, Fraction]]:
    listed = _told(path, "-c", "copy", "-f", "framecrc", "-")
    base, packets = Fraction(1), []
    for line in listed.splitlines():
        if line.startswith("#tb"):
            base = Fraction(line.split(":")[1].strip())
        elif line and not line.startswith("#"):
            _, _, shown, long, *_ = (word.strip() for word in line.split(","))
            packets.append((int(shown) * base, int(long) * base))
    return sorted(packets)


def tags(path: Path) -> dict[str, str]:
    """A video's metadata: of the file and of its stream, names in lower case."""
    found: dict[str, str] = {}
    text = _told(path, "-c", "copy", "-f", "ffmetadata", "-").replace("\\\n", "\0")
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(";"):
            found[name.lower()] = _unescaped(value)
    return found


def _unescaped(value: str) -> str:
    out, escaped = [], False
    for sign in value.replace("\0", "\n"):
        if sign == "\\" and not escaped:
            escaped = True
            continue
        out.append(sign)
        escaped = False
    return "".join(out)


def _told(path: Path, *words: str) -> str:
    # Ogg keeps its comments in the stream, all others in the file: both are asked for as the file's.
    mapped = ("-map_metadata", "0:s:v:0") if path.suffix == ".ogv" else ()
    done = subprocess.run([ffmpeg_path(), *QUIET, "-i", str(path), "-map", "0:v:0", *mapped, *words],
                          capture_output=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise RunFailed(f"ffmpeg cannot read {path.name}: {said[:300]}")
    return done.stdout.decode("utf-8", errors="replace")
