"""A user's picture file -> Picture, with every kind of bad file answered in one clear line."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from engine.artifacts import Picture
from engine.errors import BadInput
from engine.job import Job, Params, stage

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "MPO", "WEBP")  # MPO: a JPEG with further pictures inside, as phones write it
NAMED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # what is recognised, be it only to say what it is
MAX_BYTES = 200_000_000
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
HINT = "give a PNG, JPEG or WebP picture of one object"


class LoadPicture(Params):
    """Parameters of ``load_picture``. The file's digest stands for it in keys; its path does not."""

    path: str = Field(exclude=True, description="A PNG, JPEG or WebP file.")
    digest: str = Field("", description="SHA-256 of the file, as picture_digest gives it.")
    max_side: int = Field(2048, ge=128, le=16384, description="Larger pictures are scaled down to this, pixels.")


def picture_digest(path: str | Path) -> str:
    """SHA-256 of a picture file. What its header tells to be unusable is refused here, before anything runs."""
    data = _read(Path(path))
    _open(data, Path(path)).close()
    return hashlib.sha256(data).hexdigest()


def picture_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a picture file as it is shown, from its header: turned as its EXIF says."""
    with _open(_read(Path(path)), Path(path)) as file:
        try:
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except Exception as error:  # some decoders read all of the file for it: as _upright_srgb
            raise BadInput(f"{path} is damaged or truncated: {' '.join(str(error).split())}", HINT) from error
        return (file.height, file.width) if turned else (file.width, file.height)


def read_picture(path: str | Path) -> np.ndarray:
    """A picture file's pixels as ``load_picture`` has them, (h, w, 3 or 4) float32 in [0, 1], in its own size."""
    with _open(_read(Path(path)), Path(path)) as file:
        return np.asarray(_upright_srgb(file, Path(path)), dtype=np.float32) / 255


@stage(version=1)
def load_picture(p: LoadPicture, job: Job) -> Picture:
    """Read, check and convert to 8-bit sRGB, upright, with alpha where the file has any.

    Raises BadInput for a file that is missing, unreadable, truncated, animated, too large, too small or fully
    transparent, or that changed since ``digest`` was taken.
    """
    path = Path(p.path)
    data = _read(path)
    found = hashlib.sha256(data).hexdigest()
    if p.digest and found != p.digest:
        raise BadInput(f"{path} changed since the run was planned: sha256 expected {p.digest}, found {found}",
                       "start again")
    with _open(data, path) as file:
        image = _upright_srgb(file, path)
    if max(image.size) > p.max_side:
        scale = p.max_side / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), _lanczos())
    pixels = np.asarray(image, dtype=np.float32) / 255
    if pixels.shape[-1] == 4:
        if pixels[..., 3].max() == 0:
            raise BadInput(f"{path} is fully transparent", HINT)
        if pixels[..., 3].min() == 1:
            pixels = np.ascontiguousarray(pixels[..., :3])
    return Picture(pixels, meta={"sha256": found})


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise BadInput(f"{path} is a folder", HINT)
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size / 1e6:,.0f} MB; the limit is {MAX_BYTES / 1e6:,.0f} MB",
                           "scale it down")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"there is no picture {path}", "check the path") from error
    except OSError as error:
        raise BadInput(f"cannot read the picture {path}: {error.strerror or error}", "check the path") from error


def _open(data: bytes, path: Path) -> Image.Image:
    """Read the header only; refuse what cannot be one upright picture of sane size."""
    import warnings

    from PIL import Image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below
            file = Image.open(io.BytesIO(data), formats=NAMED)
    except Image.DecompressionBombError as error:
        raise BadInput(f"{path} claims more pixels than any real picture: {error}", "scale it down") from error
    except Exception as error:  # decoders raise many classes on broken headers; all mean the same to the user
        raise BadInput(f"{path} is no picture that can be read" + ("" if data else ": it is empty"), HINT) from error
    width, height = file.size
    frames = int(getattr(file, "n_frames", 1))
    if frames > 1 and file.format != "MPO":
        raise BadInput(f"{path} is animated ({frames} frames)", "save the frame you want as a PNG")
    if file.format not in FORMATS:
        raise BadInput(f"{path} is a {file.format} picture", "save it as PNG, JPEG or WebP")
    if width * height > MAX_PIXELS:
        raise BadInput(f"{path} claims {width:,} x {height:,} pixels; the limit is {MAX_PIXELS / 1e6:,.0f} megapixels",
                       "scale it down")
    if min(width, height) < MIN_SIDE:
        raise BadInput(f"{path} is only {width} x {height} pixels; {MIN_SIDE} x {MIN_SIDE} is the least",
                       "give a larger picture")
    return file


def _upright_srgb(file: Image.Image, path: Path) -> Image.Image:
    """Decode -> RGB or RGBA, 8 bits a channel, turned as its EXIF says, in sRGB as its profile says."""
    from PIL import Image, ImageOps
    try:
        file.load()
        image = ImageOps.exif_transpose(file)
    except Exception as error:  # as above: truncated data, broken checksums, impossible chunks
        raise BadInput(f"{path} is damaged or truncated: {' '.join(str(error).split())}", HINT) from error
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey; Pillow's own convert would clip it to white
        grey = np.asarray(image).astype(np.float32) / 65535 * 255
        return Image.fromarray(np.round(np.clip(grey, 0, 255)).astype(np.uint8)).convert("RGB")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if has_alpha:
        image = image.convert("RGBA")
    colour = _to_srgb(image, image.info.get("icc_profile")).convert("RGB")
    if has_alpha:
        colour.putalpha(image.getchannel("A"))
    return colour


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded colour profile; one that is broken or does not fit is passed over, as viewers do."""
    from PIL import ImageCms
    source = image.convert("RGB") if image.mode in ("RGBA", "P", "1", "L") else image
    if not profile or source.mode not in ("RGB", "CMYK"):
        return source
    try:
        turned = ImageCms.profileToProfile(source, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                           ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return source
    return source if turned is None else turned


def _lanczos() -> Image.Resampling:
    from PIL import Image
    return Image.Resampling.LANCZOS
