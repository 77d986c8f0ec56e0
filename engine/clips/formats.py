"""What a clip can be written as: one table, and one function that writes any of it from the frames.

    writable, lacking = sorted_out(named(["mp4", "prores"]))
    said = write("mp4", folder, frames, Clock(16, rate(12), True), Look())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from engine.clips import animated, video
from engine.errors import BadInput
from engine.runs.words import nearest

Frames = Callable[[], Iterable[np.ndarray]]
"""The frames from the first on, (h, w, 4) uint8 straight alpha, as often as asked for."""

BT709 = ("-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709")
"""What players take RGB back with, said in the file. VP8 and Theora know BT.601 alone, which is ffmpeg's default."""
TO_709 = ("-vf", "scale=out_color_matrix=bt709:out_range=tv")


@dataclass(frozen=True)
class Format:
    """file : its name in the folder; encoder : ffmpeg's, "" where it is written without ffmpeg

    alpha : "yes", "no" (over the background's colour) or "sharp" (there or not); codec : as ``video.decoded`` wants it
    even : sides must be; options : ffmpeg's
    """

    file: str
    what: str
    alpha: str
    encoder: str = ""
    codec: str = ""
    even: bool = False
    options: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "mp4": Format("clip.mp4", "H.264 in MP4", "no", "libx264", "h264", True, (
        "-pix_fmt", "yuv420p", "-crf", "17", "-preset", "veryfast", *TO_709, *BT709,
        "-movflags", "+faststart+use_metadata_tags")),
    "vp9": Format("clip_vp9.webm", "VP9 in WebM", "yes", "libvpx-vp9", "vp9", False, (
        "-pix_fmt", "yuva420p", "-crf", "18", "-b:v", "0", "-deadline", "good", "-cpu-used", "3", *TO_709, *BT709)),
    "vp8": Format("clip_vp8.webm", "VP8 in WebM", "yes", "libvpx", "vp8", False, (
        "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-crf", "8", "-b:v", "20M", "-deadline", "good", "-cpu-used",
        "3")),
    "prores": Format("clip.mov", "ProRes 4444 in QuickTime", "yes", "prores_ks", "prores", False, (
        "-pix_fmt", "yuva444p10le", "-profile:v", "4444", "-alpha_bits", "16", "-vendor", "apl0", *TO_709, *BT709,
        "-movflags", "+use_metadata_tags")),
    "gif": Format("clip.gif", "animated GIF", "sharp"),
    "apng": Format("clip.apng", "animated PNG", "yes"),
    "webp": Format("clip.webp", "animated WebP", "yes"),
    "ogv": Format("clip.ogv", "Theora in Ogg", "no", "libtheora", "theora", False, (
        "-pix_fmt", "yuv420p", "-q:v", "9")),
    "sheet": Format("sheet.png", "sprite sheet with JSON", "yes"),
}
"""Every format but the PNG frames, which are always there: they are the master."""
ALIASES = {"webm": "vp9", "h264": "mp4", "mov": "prores", "theora": "ogv"}


@dataclass(frozen=True)
class Clock:
    """How a clip runs. count : frames; fps : frames a second; loop : the last is followed by the first"""

    count: int
    fps: Fraction
    loop: bool


@dataclass(frozen=True)
class Look:
    """background : sRGB, 0..255, of formats without alpha; papers : seed, prompt, recipe, ... for the files' tags"""

    background: tuple[int, int, int] = (255, 255, 255)
    papers: Mapping[str, str] = field(default_factory=dict)


def named(names: Iterable[str]) -> tuple[str, ...]:
    """Formats by their names, each once, in the table's order; "all", "png" (only the frames). BadInput names the
    nearest."""
    chosen: set[str] = set()
    for name in names:
        word = ALIASES.get(name.strip().lower(), name.strip().lower())
        if word == "all":
            chosen |= set(FORMATS)
        elif word in FORMATS:
            chosen.add(word)
        elif word not in ("png", "frames"):
            raise BadInput(f"there is no clip format {name.strip()!r}",
                           f"{nearest(word, FORMATS)} Known: png, {', '.join(FORMATS)}, all".removeprefix("Known: "))
    return tuple(name for name in FORMATS if name in chosen)


def sorted_out(names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """(what this machine can write, name -> one line on why not and what to do, of the rest)."""
    if not any(FORMATS[name].encoder for name in names):
        return tuple(names), {}
    lacking = {}
    try:
        there, lack = video.encoders(), ""
    except BadInput as error:
        there, lack = frozenset(), str(error)
    for name in names:
        about = FORMATS[name]
        if about.encoder and about.encoder not in there:
            lacking[name] = lack or (f"{about.file} ({about.what}) cannot be written: this ffmpeg has no encoder "
                                     f"{about.encoder}. {video.MEND}")
    return tuple(name for name in names if name not in lacking), lacking


def write(name: str, folder: Path, frames: Frames, clock: Clock, look: Look) -> list[str]:
    """Write one format (but the sheet: ``engine.clips.sheet``) into ``folder``. -> what must be said of it, one line
    each: a side that was padded, times that the file cannot hold exactly.

    BadInput: a frame rate or size that the file cannot hold. RunFailed: ffmpeg stopped.
    """
    about = FORMATS[name]
    path = folder / about.file
    if about.encoder:
        return _video(path, about, frames, clock, look)
    if name == "gif":
        stands = animated.write_gif(path, frames, clock.count, clock.fps, clock.loop, look.papers)
        return _coarse(path, stands, clock, 100, "hundredths") + (
            [f"{path.name}: browsers show a GIF at no more than 50 frames a second"] if clock.fps > 50 else [])
    if name == "apng":
        animated.write_apng(path, frames, clock.count, clock.fps, clock.loop, look.papers)
        return []
    if name == "webp":
        animated.write_webp(path, frames, clock.count, clock.fps, clock.loop, look.papers)
        return []  # half a millisecond off at most: nobody sees it
    raise ValueError(name)


def _video(path: Path, about: Format, frames: Frames, clock: Clock, look: Look) -> list[str]:
    said: list[str] = []

    def fed() -> Iterator[np.ndarray]:
        for i, frame in enumerate(frames()):
            one = frame if about.alpha == "yes" else over(frame, look.background)
            height, width = one.shape[:2]
            if about.even and (height % 2 or width % 2):
                one = np.pad(one, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if i == 0:
                    said.append(f"{path.name}: {width} x {height} pixels were padded to {one.shape[1]} x "
                                f"{one.shape[0]} on the right and below; {about.what} holds even sides only")
            yield one

    options = ("-c:v", about.encoder, *about.options)
    written = video.write_video(path, fed(), clock.fps, options, look.papers)
    if written != clock.count:
        raise ValueError(f"{written} frames came for {clock.count}")
    return said


def _coarse(path: Path, stands: list[int], clock: Clock, ticks: int, word: str) -> list[str]:
    """One line where the frames do not all stand equally long."""
    if len(set(stands)) == 1 and Fraction(stands[0], ticks) == 1 / clock.fps:
        return []
    some = " or ".join(str(n) for n in sorted(set(stands)))
    return [f"{path.name} counts time in {word} of a second: its frames stand {some} of them, "
            f"{sum(stands) / ticks:g} s in all ({float(clock.count / clock.fps):g} s by the frame rate)"]


def over(frame: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """(h, w, 4) uint8 straight alpha -> (h, w, 3) uint8 over a colour, in sRGB."""
    alpha = frame[..., 3:].astype(np.float32) / 255
    mixed = frame[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)
    return np.round(mixed).astype(np.uint8)


def colour(text: str) -> tuple[int, int, int]:
    """"white", "#rrggbb" or any name that Pillow knows -> sRGB, 0..255. BadInput for others."""
    from PIL import ImageColor
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise BadInput(f"{text!r} is no colour", "give #rrggbb, or a name such as white") from error
    return red, green, blue
