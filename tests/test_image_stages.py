"""The image stages around tiny random networks: what must hold whatever the weights are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_helpers import (
    adapter_weights,
    control,
    controlnet,
    image_encoder,
    image_prompt,
    model,
    picture,
    square_mask,
)
from pydantic import ValidationError
from tiny_models import CONTEXT, SIZE, ListJob, make_tiny_set, write_card

from engine.artifacts import ControlMaps, Face, Picture, over_white
from engine.diffusion import control as controls
from engine.diffusion import image_prompt as prompts
from engine.diffusion import inpainting, sampling
from engine.diffusion.canvas import canvas_for, resize
from engine.diffusion.control_maps import agreement, edges, kind_named, scribble
from engine.errors import BadInput
from engine.models.loading import Control
from engine.models.loading import ImagePrompt as ImagePromptModel
from engine.stages.control_image import ControlImage, control_image
from engine.stages.control_to_image import ControlToImage, control_to_image
from engine.stages.find_face import FindFace, find_face
from engine.stages.image_prompt import ImagePrompt
from engine.stages.image_prompt import image_prompt as draw_like
from engine.stages.image_to_image import ImageToImage, image_to_image, psnr
from engine.stages.inpaint import Inpaint, inpaint
from engine.stages.load_face import LoadFace, face_digest, load_face
from engine.stages.outpaint import Outpaint, outpaint
from engine.stages.upscale import Upscale, upscale


class Given(ListJob):
    """A job whose models are given by hand; the tiny text-to-image model where none is."""

    def __init__(self, seed: int = 1, **models: Any) -> None:
        super().__init__(seed=seed)
        self.models = {"text_to_image": model(), **models}

    def model(self, role: str) -> Any:
        return self.models[role.replace(".", "_")]


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


# -- control -----------------------------------------------------------------------------------------------------------

def test_edges_are_kornias_canny() -> None:
    from kornia.filters import canny
    shown = torch.from_numpy(np.stack([picture(i) for i in range(3)])).permute(0, 3, 1, 2)
    wanted = canny(shown, 0.2, 0.4, (5, 5), (1.0, 1.0))[1]
    found = edges(shown, 0.2, 0.4)
    assert torch.equal(found[:, :1], wanted) and 0 < found.mean() < 0.5


def test_a_scribble_is_thick_and_lies_over_the_shape() -> None:
    square = torch.ones(1, 3, 64, 64)
    square[:, :, 16:48, 16:48] = 0.1
    lines, thin = scribble(square), edges(square)
    assert set(lines.unique().tolist()) <= {0.0, 1.0} and lines.mean() > 2 * thin.mean()
    assert agreement(lines, thin, 3) > 0.95


def test_agreement_by_hand() -> None:
    a, b = torch.zeros(2, 1, 3, 9, 9).unbind(0)
    assert agreement(a, b).tolist() == [1.0]
    a[..., 4, 2:6] = 1  # four pixels
    assert agreement(a, b).tolist() == [0.0]
    b[..., 5, 2:4] = 1  # two, one row below: both near a; of a, three columns (2, 3, 4) are near b
    assert agreement(a, b, 1)[0] == pytest.approx(2 * 0.75 * 1 / 1.75)
    assert agreement(a, b, 0).tolist() == [0.0]


def test_controls_have_public_names() -> None:
    assert [kind_named(n) for n in ("canny", "openpose", "seg", "depth")] == ["edges", "pose", "segments", "depth"]
    with pytest.raises(BadInput, match=r"no control 'edgse'. Did you mean edges\?"):
        kind_named("edgse")


def test_maps_come_from_pictures_from_files_and_from_the_toybox() -> None:
    shown, own = Picture(picture(1)), Picture(resize(picture(2), 32, 32))
    made = control_image(shown, own, None, None, ControlImage(kinds=("edges", "depth"), sources=("picture", "map")),
                         Given())
    assert made.kinds == ["edges", "depth"] and made.images.shape == (2, SIZE, SIZE, 3)
    wanted = edges(torch.from_numpy(shown.image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(made.images[0], wanted)
    np.testing.assert_allclose(made.images[1], resize(own.image, SIZE, SIZE), atol=0.5 / 255 + 1e-6)
    p = ControlImage(kinds=("depth", "normals", "parts", "pose"), sources=("toybox",) * 4,
                     toybox="characters_held_out:3", size=64)
    true = control_image(None, None, None, None, p, Given())
    assert all(image.std() > 0.02 for image in true.images)
    empty = true.images[0].max(-1) == 0
    assert 0.3 < empty.mean() < 0.95 and (true.images[2][empty] == 0).mean() > 0.97


def test_estimators_are_asked_by_role_and_their_lack_is_named() -> None:
    half = control_image(Picture(picture()), None, None, None, ControlImage(kinds=("depth",)),
                         Given(estimate_depth=lambda image: image / 2))
    np.testing.assert_allclose(half.images[0], picture() / 2, atol=0.6 / 255)
    assert ControlImage.model_validate({"kinds": ("depth",)}) and control_image.spec.roles_for(  # type: ignore[attr-defined]
        ControlImage(kinds=("depth", "edges"))) == ("estimate.depth",)


@pytest.mark.parametrize(("given", "p", "words"), [
    ((None,) * 4, {"kinds": ("edges",)}, "no picture is given for the map of edges"),
    ((Picture(np.zeros((64, 64, 3), np.float32)), Picture(np.zeros((64, 20, 3), np.float32)), None, None),
     {"kinds": ("edges", "depth"), "sources": ("map", "map")}, "20 x 64 pixels, that of edges 64 x 64"),
    ((None,) * 4, {"kinds": ("edges",), "sources": ("toybox",), "toybox": "nowhere:3"}, "no split 'nowhere'"),
    ((None,) * 4, {"kinds": ("segments",), "sources": ("toybox",), "toybox": "train:3"}, "no map of segments")])
def test_maps_that_cannot_be_made(given: Any, p: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        control_image(*given, ControlImage(**p), Given())


def follow(maps: ControlMaps, job: Given, **params: Any) -> Picture:
    p = ControlToImage(**{"prompt": "a red mug", "steps": 3, "controls": tuple(maps.kinds), **params})
    return control_to_image(maps, None, None, p, job)


def test_a_picture_follows_its_maps_and_keeps_their_shape() -> None:
    maps = ControlMaps(["edges"], np.stack([resize(picture(1), 32, 64)]))
    job = Given(control_edges=control(1))
    made = follow(maps, job)
    assert made.image.shape == (32, 64, 3) and 0 <= job.metrics["edge_f1"] <= 1
    other = follow(ControlMaps(["edges"], np.zeros((1, 32, 64, 3), np.float32)), Given(control_edges=control(1)))
    assert np.abs(made.image - other.image).max() > 0.01
    nothing = follow(maps, Given(control_edges=control(1)), control_scales=(0.0,))
    assert np.abs(made.image - nothing.image).max() > 0.01


def test_a_control_of_another_family_is_refused_by_name() -> None:
    from diffusers import UNet2DConditionModel
    for wrong in (Control(controlnet(1), "edges", "sdxl", "canny-sdxl"),
                  Control(controlnet(1, UNet2DConditionModel.from_config({**model().unet.config,
                                                                          "cross_attention_dim": CONTEXT + 8})),
                          "edges", model().family, "canny-sdxl")):
        with pytest.raises(BadInput, match="canny-sdxl is for"):
            follow(ControlMaps(["edges"], picture()[None]), Given(control_edges=wrong))
    maps = ControlMaps(["depth"], picture()[None])
    with pytest.raises(BadInput, match="maps given are depth, the controls asked for edges"):
        follow(maps, Given(), controls=("edges",))


def test_a_hint_counts_in_its_share_of_the_steps_only() -> None:
    hint = controls.Hint(None, torch.zeros(1), 1.0, 0.25, 0.75)
    assert [controls.counts(hint, i, 8) for i in range(8)] == [False, False, True, True, True, True, False, False]


# -- image prompts and faces -------------------------------------------------------------------------------------------

def like(kind: str, shown: Picture, **params: Any) -> Picture:
    p = ImagePrompt(**{"prompt": "a mug", "steps": 3, "like_scale": 1.0, **params})
    return draw_like(shown, None, None, p, Given(image_prompt=image_prompt(kind)))


def test_the_picture_that_is_given_counts() -> None:
    a, b = (like("base", Picture(picture(seed))).image for seed in (1, 2))
    assert a.shape == (SIZE, SIZE, 3) and np.abs(a - b).max() > 0.02
    assert np.array_equal(a, like("base", Picture(picture(1))).image)


def test_what_stands_beside_a_cut_out_subject_does_not_count() -> None:
    rgba = np.zeros((80, 60, 4), np.float32)
    rgba[20:60, 10:50] = (0.8, 0.2, 0.1, 1)
    moved = np.zeros((80, 60, 4), np.float32)
    moved[30:70, 15:55] = (0.8, 0.2, 0.1, 1)
    assert np.array_equal(like("base", Picture(rgba)).image, like("base", Picture(moved)).image)


def test_projections_hold_every_tensor_of_their_files() -> None:
    for kind in ("base", "plus", "face"):
        weights = adapter_weights(kind)["image_proj"]
        made = prompts.projection(weights)
        assert sum(p.numel() for p in made.parameters()) == sum(t.numel() for t in weights.values())
    for change, words in (({"extra": torch.zeros(1)}, "does not fit its own layout"), (None, "not known")):
        weights = {**adapter_weights()["image_proj"], **change} if change else {"something": torch.zeros(1)}
        with pytest.raises(BadInput, match=words):
            prompts.projection(weights, "x.bin")


def test_full_adapters_take_every_patch() -> None:
    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) / shape[-1] ** 0.5
    proj = {"proj.0.weight": rand(CONTEXT, CONTEXT), "proj.0.bias": rand(CONTEXT),
            "proj.2.weight": rand(CONTEXT, CONTEXT), "proj.2.bias": rand(CONTEXT), "proj.3.weight": rand(CONTEXT),
            "proj.3.bias": rand(CONTEXT)}
    adapter = image_prompt("full", weights={**adapter_weights(), "image_proj": proj})
    wanted, _ = prompts.tokens(adapter, torch.from_numpy(picture()).permute(2, 0, 1)[None])
    assert wanted.shape == (1, 1, 5, CONTEXT)  # 2 x 2 patches of 16 pixels, and the class token
    x = image_encoder()(prompts.pictures.clip_input(torch.from_numpy(picture()).permute(2, 0, 1)[None], 32),
                        output_hidden_states=True).hidden_states[-2]
    hidden = torch.nn.functional.gelu(x @ proj["proj.0.weight"].T + proj["proj.0.bias"])
    out = torch.nn.functional.layer_norm(hidden @ proj["proj.2.weight"].T + proj["proj.2.bias"], (CONTEXT,),
                                         proj["proj.3.weight"], proj["proj.3.bias"])
    torch.testing.assert_close(wanted[0], out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "family"])
def test_image_prompts_of_another_family_are_refused(change: str) -> None:
    weights = adapter_weights()
    ip = weights["ip_adapter"]
    changes: dict[str, Any] = {"name": "ip-sdxl"}
    if change == "missing":
        del ip["3.to_k_ip.weight"]
    elif change == "extra":
        ip["99.to_k_ip.weight"] = ip["1.to_k_ip.weight"]
    elif change == "shape":
        ip["1.to_v_ip.weight"] = torch.zeros(8, CONTEXT + 8)
    else:
        changes["family"] = "sdxl"
    with pytest.raises(BadInput, match="ip-sdxl is for"):
        prompts.apply(model(), [image_prompt("base", weights=weights, **changes)], [1.0])


def face(seed: int = 0, points: bool = True) -> Face:
    where = np.array([[.4, .4], [.6, .4], [.5, .5], [.42, .62], [.58, .62]], np.float32)
    return Face(np.random.default_rng(seed).normal(size=512).astype(np.float32), where if points else None)


def test_a_face_reaches_the_unet_and_its_own_controlnet_sees_its_tokens() -> None:
    own = Control(controlnet(4), "face", model().family, "face net")
    adapter = image_prompt("face", image_encoder=None, control=own)
    seen: list[torch.Tensor] = []
    forward = own.net.forward

    def spy(sample: Any, t: Any, encoder_hidden_states: torch.Tensor, **more: Any) -> Any:
        seen.append(encoder_hidden_states)
        return forward(sample, t, encoder_hidden_states=encoder_hidden_states, **more)
    own.net.forward = spy
    p = ImagePrompt(prompt="a mug", steps=3, face_scale=0.8)
    made = draw_like(None, None, face(), p, Given(face_prompt=adapter)).image
    identity = torch.from_numpy(face().identity)[None, None]
    projection = prompts.projection(adapter.weights["image_proj"])
    with torch.no_grad():
        wanted = torch.cat([projection(identity), projection(torch.zeros_like(identity))])
    torch.testing.assert_close(seen[0], wanted, atol=1e-5, rtol=1e-5)  # 5 tokens a row, no text
    other = draw_like(None, None, face(1), p, Given(face_prompt=adapter)).image
    plain = draw_like(None, None, face(points=False), p, Given(face_prompt=adapter)).image
    assert np.abs(made - other).max() > 0.01 and np.abs(made - plain).max() > 0.01


def test_faces_equal_diffusers_adapter_on_the_same_weights() -> None:
    """diffusers loads the same tensors as an IP-Adapter Plus whose patches are one row of 512 numbers."""
    from image_helpers import pipe

    from engine.diffusion.lora import twin
    made = pipe("StableDiffusionPipeline", image_encoder=None, unet=twin(model().unet))
    made.load_ip_adapter(adapter_weights("face"), subfolder="", weight_name="x.bin", image_encoder_folder=None)
    made.set_ip_adapter_scale(0.8)
    identity = torch.from_numpy(face().identity)[None, None, None]
    wanted = made(prompt="a mug", negative_prompt="", num_inference_steps=3, guidance_scale=3.0, height=SIZE,
                  width=SIZE, generator=[torch.Generator().manual_seed(1000)], output_type="np",
                  ip_adapter_image_embeds=[torch.cat([torch.zeros_like(identity), identity])]).images[0]
    p = ImagePrompt(prompt="a mug", steps=3, face_scale=0.8)
    ours = draw_like(None, None, face(points=False), p, Given(face_prompt=image_prompt("face", image_encoder=None)))
    np.testing.assert_allclose(ours.image, wanted, atol=0.5 / 255 + 2e-5)


def test_face_files(tmp_path: Path) -> None:
    vector = face().identity
    np.save(tmp_path / "a.npy", vector[None])
    (tmp_path / "b.json").write_text(json.dumps({"identity": vector.tolist(), "points": face().points.tolist()}))  # type: ignore[union-attr]
    for name in ("a.npy", "b.json"):
        p = LoadFace(path=str(tmp_path / name), digest=face_digest(tmp_path / name))
        found = load_face(p, Given())
        np.testing.assert_allclose(found.identity, vector, rtol=1e-6)
        folder = tmp_path / f"kept_{name}"
        folder.mkdir()
        found.save(folder)
        np.testing.assert_allclose(Face.load(folder).identity, vector, rtol=1e-6)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(BadInput, match="changed since"):
        load_face(p, Given())
    bad = {"c.npy": b"", "d.json": b"[1, 2]", "e.json": b'{"identity": "x"}', "f.npy": b"\x93NUMPY junk",
           "g.json": json.dumps({"identity": vector.tolist(), "points": [[2, 2]] * 5}).encode(),
           "h.json": json.dumps([0.0] * 512).encode()}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=name):
            face_digest(tmp_path / name)
    pickled = tmp_path / "p.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"p\.npy is no face"):
        face_digest(pickled)
    with pytest.raises(BadInput, match=r"cannot read the face .*none\.npy"):
        face_digest(tmp_path / "none.npy")


def test_a_face_is_found_by_the_role_face() -> None:
    where = np.array([[[10, 20], [30, 20], [20, 30], [12, 40], [28, 40]]], np.float32)

    def finder(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return face().identity[None], where
    found = find_face(Picture(picture()), FindFace(), Given(face=finder))
    np.testing.assert_allclose(found.points, where[0] / SIZE)
    with pytest.raises(BadInput, match="no face is seen"):
        find_face(Picture(picture()), FindFace(), Given(face=lambda image: (np.zeros((0, 512)), np.zeros((0, 5, 2)))))


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


# -- the built-in set's own controls -----------------------------------------------------------------------------------

def test_built_in_controls_and_image_prompt_load_by_role(tmp_path: Path) -> None:
    """The folders that engine.training writes, in the tiny set: each becomes what the stages ask for."""
    from dataclasses import replace

    from engine.diffusion import control_lora, ip_adapter
    from engine.diffusion.lora import base_digest
    tiny = make_tiny_set(tmp_path, seed=3)
    base = tiny.load("text_to_image")
    trained = {part: json.loads((tmp_path / part / "card.json").read_text())["sha256"]
               for part in ("text_to_image", "clip")}
    control_lora.save(control_lora.extract(controlnet(6, base.unet), base.unet, "edges", rank=4),
                      tmp_path / "control_edges", torch.float16)
    write_card(tmp_path / "control_edges", trained_on={"text_to_image": trained["text_to_image"]})
    ip_adapter.save(ip_adapter.fresh(base.unet, CONTEXT), tmp_path / "image_prompt", base_digest(base.unet),
                    torch.float16)
    write_card(tmp_path / "image_prompt", trained_on=trained)
    chosen = (("control.edges", "maquette/builtin-control-edges"), ("image_prompt", "maquette/builtin-image-prompt"))
    models = replace(tiny, chosen=chosen)
    job = Given(text_to_image=base, control_edges=models.load("control.edges"),
                image_prompt=models.load("image_prompt"))
    assert job.model("image_prompt").kind == "base"
    maps = ControlMaps(["edges"], picture(1)[None])
    p = ControlToImage(prompt="a red mug", steps=3, controls=("edges",), like_scale=1.0)
    made = control_to_image(maps, Picture(picture(2)), None, p, job)
    plain = control_to_image(maps, None, None, p.model_copy(update={"like_scale": 0.0, "control_scales": (0.0,)}), job)
    assert np.abs(made.image - plain.image).max() > 0.01
    # The tokens are those of the adapter's own code, which it was trained with.
    own = ip_adapter.read(tmp_path / "image_prompt").adapter.float()
    shown = torch.from_numpy(picture(2)).permute(2, 0, 1)[None]
    found: ImagePromptModel = job.model("image_prompt")
    pixels = prompts.pictures.clip_input(shown, found.image_size)
    with torch.no_grad():
        wanted = own.tokens(found.image_encoder(pixels).image_embeds)
        torch.testing.assert_close(prompts.tokens(found, shown)[0][0], wanted, atol=1e-5, rtol=1e-5)
