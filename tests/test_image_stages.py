"""Changing, repainting, extending and enlarging pictures around tiny random networks: what must hold whatever the
weights are, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_helpers import (
    Given,
    image_prompt,
    model,
    picture,
    square_mask,
)
from pydantic import ValidationError
from tiny_models import SIZE

from engine.artifacts import Picture, over_white
from engine.diffusion import inpainting, sampling
from engine.diffusion.canvas import canvas_for, resize
from engine.errors import BadInput
from engine.stages.control_image import ControlImage
from engine.stages.control_to_image import ControlToImage
from engine.stages.image_prompt import ImagePrompt
from engine.stages.image_to_image import ImageToImage, image_to_image, psnr
from engine.stages.inpaint import Inpaint, inpaint
from engine.stages.outpaint import Outpaint, outpaint
from engine.stages.upscale import Upscale, upscale


def edit(image: np.ndarray, job: Given | None = None, **params: Any) -> Picture:
    told = {"prompt": "a red mug", "steps": 4, **params}
    return image_to_image(Picture(image), None, None, None, ImageToImage(**told), job or Given())


def white_square(size: int = SIZE) -> Picture:
    return Picture(np.repeat(square_mask(size)[..., None], 3, -1).astype(np.float32))


def paint(image: np.ndarray, mask: Picture, job: Given | None = None, **params: Any) -> Picture:
    told = {"prompt": "a red mug", "steps": 4, "rounds": 2, **params}
    return inpaint(Picture(image), mask, None, None, None, Inpaint(**told), job or Given())


# -- canvas ------------------------------------------------------------------------------------------------------------

def test_a_picture_of_the_native_size_is_taken_as_it_is() -> None:
    image = picture()
    canvas = canvas_for(image, SIZE, 8)
    assert canvas.said == "" and np.array_equal(canvas.put(image), image)
    assert np.array_equal(canvas.take(image, back=True), image)


@pytest.mark.parametrize(("height", "width"), [(30, 50), (100, 37), (500, 500), (64, 20)])
def test_framed_pictures_stand_whole_in_the_square(height: int, width: int) -> None:
    image = resize(picture(), height, width)
    canvas = canvas_for(image, 64, 8)
    assert (canvas.rows, canvas.columns) == (64, 64) and max(canvas.inner_rows, canvas.inner_columns) == 64
    assert abs(canvas.inner_rows / canvas.inner_columns * width / height - 1) < 0.03
    placed = canvas.put(image)
    assert np.array_equal(placed[:canvas.top], np.repeat(placed[canvas.top:canvas.top + 1], canvas.top, 0))
    assert canvas.take(placed, back=True).shape == image.shape
    assert (f"{width} x {height}" in canvas.said and "inside 64 x 64" in canvas.said) or height == width


def test_resized_pictures_keep_about_their_shape_and_the_number_of_pixels() -> None:
    canvas = canvas_for(np.zeros((720, 1280, 3)), 512, 8, "resized")
    assert (canvas.rows, canvas.columns) == (384, 680)  # 512 * (9/16) ** +-0.5, to the next 8
    assert canvas.rows % 8 == canvas.columns % 8 == 0 and canvas.said.endswith("drawn at 680 x 384")


def test_sizes_that_cannot_be_drawn_are_refused() -> None:
    for shape, words in (((8, 100), "16 x 16 is the least"), ((20, 200), "8 times")):
        with pytest.raises(BadInput, match=words):
            canvas_for(np.zeros((*shape, 3)), 64, 8)


# -- image_to_image ----------------------------------------------------------------------------------------------------

def test_strength_0_gives_the_picture_as_the_vae_shows_it() -> None:
    job, image = Given(), picture()
    made = edit(image, job, strength=0.0)
    with torch.no_grad():
        shown = model().decode(model().encode(torch.from_numpy(image).permute(2, 0, 1)[None]))
    np.testing.assert_allclose(made.image, shown[0].permute(1, 2, 0).clamp(0, 1), atol=0.5 / 255 + 1e-5)
    assert job.metrics["likeness_db"] == pytest.approx(psnr(made.image, image))


def test_strength_1_begins_from_pure_noise() -> None:
    a, b = (edit(picture(seed), strength=1.0).image for seed in (0, 3))
    assert np.array_equal(a, b)  # nothing of the picture is left
    c, d = (edit(picture(seed), strength=0.7).image for seed in (0, 3))
    assert np.abs(c - d).max() > 0.02


def test_more_strength_changes_more_and_seeds_repeat() -> None:
    # Random networks: how far the latents move is only sure in the mean; the noise that is added grows with strength.
    images = [edit(picture(), strength=s).image for s in (0.25, 1.0)]
    start = edit(picture(), strength=0.0).image
    assert np.abs(images[0] - start).mean() < np.abs(images[1] - start).mean()
    assert np.array_equal(edit(picture(), Given(5)).image, edit(picture(), Given(5)).image)
    assert not np.array_equal(edit(picture(), Given(5)).image, edit(picture(), Given(6)).image)


def test_any_size_is_drawn_and_said() -> None:
    job = Given()
    made = edit(resize(picture(), 40, 90), job)
    assert made.image.shape == (28, 64, 3) and "drawn at 64 x 28 inside 64 x 64" in job.warnings[0]
    assert edit(resize(picture(), 40, 90), fit="resized").image.shape == (40, 96, 3)
    rgba = np.concatenate([picture(), np.full((SIZE, SIZE, 1), 0.5, np.float32)], -1)
    assert np.array_equal(edit(rgba).image, edit(over_white(rgba)).image)


def test_unknown_words_are_told() -> None:
    job = Given()
    edit(picture(), job, prompt="a red zeppelin")
    assert "'zeppelin'" in job.warnings[0]


def test_a_lora_changes_what_is_drawn_and_stands_beside_an_image_prompt(tmp_path: Path) -> None:
    from engine.diffusion import lora, lora_files
    from engine.stages.image_prompt import ImagePrompt
    from engine.stages.image_prompt import image_prompt as draw_like
    unet = lora.twin(model().unet)
    parameters = lora.attach(unet, 2, 2.0, seed=1)
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    path = tmp_path / "zorb.safetensors"
    lora_files.save(lora.taken(unet, {"token": "zorb"}), path)
    job = Given()
    changed, plain = edit(picture(), job, lora=str(path)), edit(picture())
    assert np.abs(changed.image - plain.image).max() > 0.02
    assert "drawn with the LoRA zorb" in job.warnings[0] and "does not hold 'zorb'" in job.warnings[1]
    like = [draw_like(Picture(picture(2)), None, None, ImagePrompt(steps=3, like_scale=1.0, lora=file),
                      Given(image_prompt=image_prompt())).image for file in (str(path), "")]
    assert np.abs(like[0] - like[1]).max() > 0.02


# -- inpaint and outpaint ----------------------------------------------------------------------------------------------

def test_what_is_not_masked_stays_byte_for_byte() -> None:
    image, mask = picture(size=100), white_square(100)
    job = Given()
    made = paint(image, mask, job, feather=0.05)
    weights = inpainting.feathered(square_mask(100), 5.0)
    outside = weights == 0
    assert made.image.shape == image.shape and outside.mean() > 0.5
    assert np.array_equal(made.image[outside], image[outside])
    assert (made.image[square_mask(100)] != image[square_mask(100)]).any(-1).mean() > 0.9
    assert job.metrics["masked_share"] == pytest.approx(square_mask(100).mean())
    assert job.metrics["kept_share"] >= outside.mean() and job.metrics["seam_gradient"] > 0
    bytes_of = [np.round(x[outside] * 255).astype(np.uint8) for x in (made.image, image)]
    assert np.array_equal(*bytes_of)


def test_the_feather_falls_from_the_mask_outward() -> None:
    weights = inpainting.feathered(square_mask(), 4)
    assert (weights[square_mask()] == 1).all()
    row = weights[32, 56:62]  # beyond the square's right side
    assert (np.diff(row[:5]) < 0).all() and row[4] == 0 == row[5] and 0 < row[3] < row[0] < 1
    assert np.array_equal(inpainting.feathered(square_mask(), 0), square_mask())


def test_blending_puts_the_known_latents_back_exactly() -> None:
    """Outside of the touched cells the sampler ends on the known latents; within, on what it drew."""
    m = model()
    known = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    cells = inpainting.touched_cells(square_mask(), 8, 8)
    seen: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return torch.tanh(x)
    for rounds in (1, 3):
        seen.clear()
        g = [torch.Generator().manual_seed(3)]
        if rounds == 1:
            out = sampling.sample(m.scheduler, denoise, noise, 5, "ddim",
                                  after=inpainting.keep_known(known, noise, cells))
        else:
            out = inpainting.repaint(m.scheduler, denoise, noise, known, cells, 5, rounds, g)
        outside = cells.expand_as(known) == 0
        assert torch.equal(out[outside], known[outside])
        assert len(seen) == (5 if rounds == 1 else 4 * rounds + 1)
        a = m.scheduler.alphas_cumprod
        t = sampling.Steps(sampling.scheduler_for(m.scheduler, "ddim"), 5).timesteps
        level = a[t[1]].sqrt() * known + (1 - a[t[1]]).sqrt() * noise  # by hand: what the second step must be given
        torch.testing.assert_close(seen[rounds][outside], level[outside])


def test_one_round_is_ddim_with_blending() -> None:
    g = torch.Generator().manual_seed(1)
    known, noise = torch.randn(2, 1, 4, 8, 8, generator=g)
    cells = inpainting.touched_cells(square_mask(), 8, 8)
    # (Where a schedule's last step leaves some noise, as Stable Diffusion's does, rounds end at the clean guess.)
    ends_clean = type(model().scheduler).from_config(model().scheduler.config, set_alpha_to_one=True)
    told = (ends_clean, lambda x, t: torch.tanh(x) * 0.9, noise)
    a = sampling.sample(*told, 6, "ddim", after=inpainting.keep_known(known, noise, cells))
    b = inpainting.repaint(*told, known, cells, 6, 1, [g])
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_going_back_a_step_has_the_schedules_variance() -> None:
    """x_i = r x_{i+1} + sqrt(sigma_i^2 - r^2 sigma_{i+1}^2) z has the variance of x_i where x_{i+1} has its own."""
    steps = sampling.Steps(sampling.scheduler_for(model().scheduler, "ddim"), 7)
    for i in range(6):
        (a, s), (b, u) = steps.level(i), steps.level(i + 1)
        r = a / b
        back = s**2 - (r * u) ** 2
        assert back >= 0 and torch.isclose((r * b) ** 2 + (r * u) ** 2 + back, a**2 + s**2, atol=1e-6)


def test_the_seam_by_hand() -> None:
    """A ramp of 1 a pixel to the right, and a step of 5 between columns 3 and 4 of 8, at the mask's outline."""
    row = np.array([0, 1, 2, 3, 8, 9, 10, 11], np.float64) / 20
    image = np.repeat(np.tile(row, (8, 1))[..., None], 3, -1)
    mask = np.zeros((8, 8), np.float32)
    mask[:, 4:] = 1
    # Around the outline (within half a pixel, a sixteenth of 8) there are no pairs but the seam's own: its mean is the
    # mean around it too.
    assert inpainting.seam_gradient(image, mask) == pytest.approx(1.0)
    wide = np.repeat(np.repeat(image, 8, 0), 1, 1)
    wide = np.concatenate([wide[:, :1].repeat(28, 1), wide, wide[:, -1:].repeat(28, 1)], 1)  # (64, 64)
    weights = np.zeros((64, 64), np.float32)
    weights[:, 32:] = 1
    # Within 4 pixels of the outline, distances from 1: 64 rows of steps 1, 1, 1, 5, 1, 1, 1 and nothing downward.
    pairs_across, pairs_down = 64 * 9, 63 * 8
    expected = 5 / ((5 + 6 * 1) * 64 / (pairs_across + pairs_down))
    assert inpainting.seam_gradient(wide, weights) == pytest.approx(expected)
    assert inpainting.seam_gradient(wide, weights, wide) == pytest.approx(1.0)  # that edge stood there before
    assert inpainting.seam_gradient(np.full((8, 8, 3), 0.5), mask) == 0.0
    assert inpainting.seam_gradient(wide, np.zeros((64, 64))) == 0.0


@pytest.mark.parametrize("sides", [{"left": 16}, {"top": 8, "right": 8}, {"bottom": 40}])
def test_outpainting_extends_and_keeps(sides: dict[str, int]) -> None:
    image, job = picture(), Given()
    p = Outpaint(prompt="a red mug", steps=3, rounds=1, feather=0.03, **sides)
    made = outpaint(Picture(image), None, None, None, p, job)
    height, width = SIZE + p.top + p.bottom, SIZE + p.left + p.right
    assert made.image.shape == (height, width, 3) and made.meta["extended_px"]["left"] == p.left
    inner = made.image[p.top:p.top + SIZE, p.left:p.left + SIZE]
    feather = int(np.ceil(0.03 * max(height, width)))
    deep = (slice(feather * bool(p.top), SIZE - feather * bool(p.bottom)),
            slice(feather * bool(p.left), SIZE - feather * bool(p.right)))
    assert np.array_equal(inner[deep], image[deep])
    assert job.metrics["masked_share"] == pytest.approx(1 - SIZE * SIZE / (height * width))


@pytest.mark.parametrize(("mask", "words"), [
    (np.zeros((SIZE, SIZE, 3), np.float32), "all black"), (np.ones((SIZE, SIZE, 3), np.float32), "all white"),
    (np.ones((32, 48, 3), np.float32), "the mask is 48 x 32 pixels, the picture 64 x 64")])
def test_masks_that_cannot_be_used(mask: np.ndarray, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        paint(picture(), Picture(mask))


def test_parameters_that_cannot_be_meant() -> None:
    for kind, values, words in (
            (Outpaint, {"prompt": "x"}, "nothing is added"),
            (Inpaint, {"prompt": "x", "strength": 0}, "greater than 0"),
            (ImageToImage, {"prompt": "x", "strength": 1.1}, "less than or equal to 1"),
            (ControlToImage, {"prompt": "x"}, "no control is named"),
            (ControlToImage, {"prompt": "x", "controls": ("edges", "edges")}, "given once"),
            (ControlToImage, {"prompt": "x", "controls": ("edges",), "control_scales": (1, 2)}, "2 numbers for 1"),
            (ControlToImage, {"prompt": "x", "controls": ("edges",), "control_scales": (3,)}, "between 0 and 2"),
            (ControlToImage, {"prompt": "x", "controls": ("edges",), "control_ends": (0.0,)}, "end after it starts"),
            (ImagePrompt, {}, "neither a picture nor a face"), (Upscale, {"prompt": "x"}, "mean nothing to a filter"),
            (ControlImage, {"kinds": ("edges", "edges")}, "once"), (ControlImage, {"kinds": ()}, "at least 1"),
            (ControlImage, {"kinds": ("edges",), "toybox": "held_out:1"}, "where toybox names a thing")):
        with pytest.raises(ValidationError, match=words):
            kind(**values)
    with pytest.raises(BadInput, match="prompt is empty"):
        ImageToImage(prompt=" ")


# -- upscale -----------------------------------------------------------------------------------------------------------

def test_the_filter_invents_nothing() -> None:
    job = Given()
    made = upscale(Picture(picture()), Upscale(factor=3), job)
    assert made.image.shape == (3 * SIZE, 3 * SIZE, 3) and made.meta["method"] == "lanczos"
    assert job.metrics["consistency_db"] > 40
    flat = upscale(Picture(np.full((16, 16, 3), 0.25, np.float32)), Upscale(factor=2), Given()).image
    np.testing.assert_allclose(flat, 64 / 255, atol=1e-6)
    rgba = upscale(Picture(np.ones((16, 16, 4), np.float32)), Upscale(), Given()).image
    assert rgba.shape == (64, 64, 4)
    with pytest.raises(BadInput, match="more than 16,384"):
        upscale(Picture(np.zeros((16, 9000, 3), np.float32)), Upscale(factor=2), Given())
    assert upscale.spec.roles_for(Upscale()) == () and upscale.spec.roles_for(Upscale(method="model")) == (  # type: ignore[attr-defined]
        "upscale",)
