"""The framing that training and use share."""

import numpy as np
import pytest

from engine.diffusion.framing import FILL, bounding_box, crop_square, frame_subject, square_around
from engine.errors import BadInput


def picture(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A solid box (left, top, right, bottom) with a colour ramp on a transparent picture."""
    rgba = np.zeros((height, width, 4), np.float32)
    left, top, right, bottom = box
    rgba[top:bottom, left:right, 0] = np.linspace(0, 1, right - left)[None]
    rgba[top:bottom, left:right, 1] = np.linspace(1, 0, bottom - top)[:, None]
    rgba[top:bottom, left:right, 3] = 1
    return rgba


@pytest.mark.parametrize("box", [(3, 5, 60, 41), (0, 0, 128, 20), (50, 1, 60, 128), (0, 0, 96, 128)])
def test_subject_is_centred_and_fills_its_share(box: tuple[int, int, int, int]) -> None:
    framed, _ = frame_subject(picture(128, 128, box), 200)
    left, top, right, bottom = bounding_box(framed[..., 3])
    assert max(right - left, bottom - top) == pytest.approx(FILL * 200, abs=1)
    assert (left + right) / 2 == pytest.approx(100, abs=1)
    assert (top + bottom) / 2 == pytest.approx(100, abs=1)


def test_framing_twice_changes_nothing() -> None:
    once, _ = frame_subject(picture(140, 90, (10, 20, 80, 120)), 100)
    twice, square = frame_subject(once, 100)
    assert (square.left, square.top) == pytest.approx((0, 0), abs=1e-9) and square.side == pytest.approx(100)
    np.testing.assert_array_equal(once, twice)


def test_whole_pixel_crop_is_exact_and_outside_is_transparent() -> None:
    source = picture(64, 64, (16, 16, 48, 48))
    source = np.round(source * 255) / 255
    out = crop_square(source.astype(np.float32), square_around((0, 0, 64, 64), 0.5), 128)
    np.testing.assert_allclose(out[32:96, 32:96], source, atol=1e-6)
    assert out[:32].max() == 0 and out[:, 96:].max() == 0


def test_colour_does_not_bleed_from_transparent_pixels() -> None:
    source = picture(100, 100, (20, 20, 80, 80))
    source[..., :3] = np.where(source[..., 3:] > 0, [1.0, 0.5, 0.0], [0.0, 0.0, 1.0])
    out, _ = frame_subject(source, 77)
    alpha = out[..., 3:]
    colour = out[..., :3] * alpha
    assert colour[..., 2].max() < 0.002  # none of the blue
    np.testing.assert_allclose(colour, np.array([1, 0.5, 0]) * alpha, atol=0.07)  # bicubic overshoots a little


def test_shift_moves_right_and_down() -> None:
    framed, _ = frame_subject(picture(100, 100, (30, 30, 70, 70)), 100, fill=0.5, shift=(0.1, 0.2))
    assert bounding_box(framed[..., 3]) == (35, 45, 85, 95)


def test_bytes_in_bytes_out_and_empty_refused() -> None:
    framed, _ = frame_subject((picture(50, 50, (10, 10, 40, 40)) * 255).astype(np.uint8), 64)
    assert framed.dtype == np.uint8 and framed.shape == (64, 64, 4)
    with pytest.raises(BadInput, match="no subject"):
        frame_subject(np.zeros((8, 8, 4), np.float32), 16)
