"""Every kind of picture file: good ones are read exactly, bad ones get one clear line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import ListJob

from engine.artifacts import Picture
from engine.errors import BadInput
from engine.stages.load_picture import LoadPicture, load_picture, picture_digest

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
RGBA = np.concatenate([RGB, RNG.integers(0, 256, (40, 30, 1), dtype=np.uint8)], -1)


def read(path: Path) -> Picture:
    return load_picture(LoadPicture(path=str(path), digest=picture_digest(path)), ListJob())


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def header_only_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name, options", [("a.png", {}), ("a.webp", {"lossless": True})])
@pytest.mark.parametrize("pixels", [RGB, RGBA])
def test_lossless_files_are_read_exactly(tmp_path: Path, name: str, options: dict[str, object], pixels: np.ndarray
                                         ) -> None:
    if name == "a.webp":
        options["exact"] = True
    picture = read(save(tmp_path / name, pixels, **options))
    np.testing.assert_array_equal(np.round(picture.image * 255).astype(np.uint8), pixels)
    assert picture.image.dtype == np.float32 and picture.azimuth_deg is None and picture.elevation_deg is None


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    opaque = RGBA.copy()
    opaque[..., 3] = 255
    assert read(save(tmp_path / "a.png", opaque)).image.shape == (40, 30, 3)


def test_grey_palette_and_jpeg_become_rgb(tmp_path: Path) -> None:
    grey = read(save(tmp_path / "g.png", RGB[..., 0]))
    np.testing.assert_array_equal(np.round(grey.image * 255), RGB[..., :1].repeat(3, -1))
    smooth = np.dstack([*np.meshgrid(np.arange(64), np.arange(64)), np.full((64, 64), 90)]).astype(np.uint8)
    assert np.abs(read(save(tmp_path / "a.jpg", smooth, quality=95)).image * 255 - smooth).mean() < 3
    palette = Image.fromarray(RGB).quantize(8)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(np.round(read(tmp_path / "p.png").image * 255), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "t.png", transparency=0)
    assert set(np.unique(read(tmp_path / "t.png").image[..., 3])) == {0.0, 1.0}


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    picture = read(save(tmp_path / "deep.png", ramp))
    np.testing.assert_allclose(picture.image[..., 0], ramp / 65535, atol=1 / 255)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    np.testing.assert_allclose(read(tmp_path / "c.jpg").image.mean((0, 1)), [1, 0, 0], atol=0.03)


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    save(tmp_path / "a.png", RGB, exif=exif)
    upright = np.round(read(tmp_path / "a.png").image * 255).astype(np.uint8)
    np.testing.assert_array_equal(upright, np.rot90(RGB, -1))


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.full((100, 600, 3), 77, np.uint8))
    picture = load_picture(LoadPicture(path=str(path), max_side=300), ListJob())
    assert picture.image.shape == (50, 300, 3) and np.ptp(picture.image) == 0


def refused(path: Path, match: str) -> None:
    with pytest.raises(BadInput, match=match) as error:
        read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value) and error.value.exit_code == 2


def test_bad_files_get_one_clear_line(tmp_path: Path) -> None:
    def put(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    refused(tmp_path / "none.png", "there is no picture")
    refused(tmp_path, "is a folder")
    refused(put("empty.png", b""), "it is empty")
    refused(put("text.png", b"hello, I am a text"), "is no picture")
    refused(put("bomb.png", header_only_png(100_000, 100_000)), "pixels")
    refused(put("large.png", header_only_png(12_000, 9_000)), r"12,000 x 9,000 pixels; the limit is 100")
    refused(put("tiny.png", header_only_png(4, 4)), "only 4 x 4")
    refused(put("broken.png", header_only_png(64, 64)), "damaged or truncated")
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)).save(buffer, kind)
        refused(put(f"cut.{kind.lower()}", buffer.getvalue()[:len(buffer.getvalue()) // 2]),
                "damaged or truncated|is no picture")
    frames = [Image.fromarray(np.full((32, 32, 3), v, np.uint8)) for v in (0, 99, 200)]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        refused(tmp_path / name, r"animated \(3 frames\)")
    frames[0].save(tmp_path / "still.gif")
    refused(tmp_path / "still.gif", "is a GIF picture")
    clear = RGBA.copy()
    clear[..., 3] = 0
    refused(save(tmp_path / "clear.png", clear), "fully transparent")


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    params = LoadPicture(path=str(path), digest=picture_digest(path))
    assert "path" not in params.model_dump()  # keys know the file by its digest alone
    save(path, 255 - RGB)
    with pytest.raises(BadInput, match="changed since"):
        load_picture(params, ListJob())
