"""Control maps, and pictures that follow them, around tiny random networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from image_helpers import (
    Given,
    control,
    controlnet,
    model,
    picture,
)
from tiny_models import CONTEXT, SIZE, tiny_set

from engine.artifacts import ControlMaps, Picture
from engine.diffusion import control as controls
from engine.diffusion import image_prompt as prompts
from engine.diffusion.canvas import resize
from engine.diffusion.control_maps import agreement, edges, kind_named, scribble
from engine.errors import BadInput
from engine.models.loading import Control
from engine.models.loading import ImagePrompt as ImagePromptModel
from engine.stages.control_image import ControlImage, control_image
from engine.stages.control_to_image import ControlToImage, control_to_image


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


# -- the built-in set's own controls -----------------------------------------------------------------------------------

def test_built_in_controls_and_image_prompt_load_by_role() -> None:
    """The folders that engine.training writes, in the tiny set: each becomes what the stages ask for."""
    from engine.diffusion import ip_adapter
    tiny = tiny_set()
    kinds = ("edges", "depth", "pose", "parts")
    chosen = (*((f"control.{kind}", f"maquette/builtin-control-{kind}") for kind in kinds),
              ("image_prompt", "maquette/builtin-image-prompt"))
    models = replace(tiny, chosen=chosen)
    job = Given(text_to_image=tiny.load("text_to_image"), image_prompt=models.load("image_prompt"),
                **{f"control_{kind}": models.load(f"control.{kind}") for kind in kinds})
    assert [job.model(f"control.{kind}").kind for kind in kinds] == list(kinds)
    maps = ControlMaps(["edges", "pose"], np.stack([picture(1), picture(4)]))
    p = ControlToImage(prompt="a red mug", steps=3, controls=("edges", "pose"), like_scale=1.0)
    made = control_to_image(maps, Picture(picture(2)), None, p, job)
    for change in ({"like_scale": 0.0}, {"control_scales": (0.0, 1.0)}, {"control_scales": (1.0, 0.0)}):
        other = control_to_image(maps, Picture(picture(2)), None, p.model_copy(update=change), job)
        assert np.abs(made.image - other.image).max() > 0.01
    # The tokens are those of the adapter's own code, which it was trained with.
    own = ip_adapter.read(tiny.folder / "image_prompt").adapter.float()
    shown = torch.from_numpy(picture(2)).permute(2, 0, 1)[None]
    found: ImagePromptModel = job.model("image_prompt")
    pixels = prompts.pictures.clip_input(shown, found.image_size)
    with torch.no_grad():
        wanted = own.tokens(found.image_encoder(pixels).image_embeds)
        torch.testing.assert_close(prompts.tokens(found, shown)[0][0], wanted, atol=1e-5, rtol=1e-5)
