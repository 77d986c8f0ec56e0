"""text_to_image, cut_out and image_to_views around tiny random networks: what must hold whatever the weights are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_models import ListJob, tiny_set

from engine.artifacts import Candidates, Picture, Views, over_white
from engine.conventions import zero123
from engine.diffusion import mattes
from engine.diffusion.framing import FILL, bounding_box
from engine.errors import BadInput
from engine.models.known import Known, write_known
from engine.models.sets import ModelSet
from engine.space import Cameras, orbit_of_pose
from engine.stages import image_to_views as views_module
from engine.stages.cut_out import CutOut, cut_out
from engine.stages.image_to_views import ImageToViews, image_to_views, place_like, ring_places
from engine.stages.text_to_image import TextToImage, text_to_image

DISC = ((np.mgrid[:120, :160] - np.array([55, 90])[:, None, None]) ** 2).sum(0) < 40**2
ORANGE = np.array([0.9, 0.5, 0.1], np.float32)


@pytest.fixture
def tiny() -> ModelSet:
    return tiny_set()


def before(colour: list[float]) -> np.ndarray:
    """The orange disc (centre 90, 55; radius 40) before a plain colour, with soft edges."""
    big = np.mgrid[:480, :640] - np.array([220, 360])[:, None, None]
    soft = ((big**2).sum(0) < 160**2).reshape(120, 4, 160, 4).mean((1, 3))[..., None]
    return (ORANGE * soft + np.float32(colour) * (1 - soft)).astype(np.float32)


# -- text_to_image --------------------

def draw(tiny: ModelSet, seed: int = 1, **params: object) -> tuple[Candidates, ListJob]:
    job = ListJob(tiny, seed)
    return text_to_image(TextToImage(**{"prompt": "a red mug", "steps": 3, **params}), job), job


def test_candidates_are_scored_and_described(tiny: ModelSet, tmp_path: Path) -> None:
    made, job = draw(tiny, candidates=3)
    assert len(made.pictures) == len(made.scores) == 3 and made.best == int(np.argmax(made.scores))
    for i, picture in enumerate(made.pictures):
        assert picture.image.shape == (64, 64, 3) and picture.image.min() >= 0 and picture.image.max() <= 1
        assert (picture.caption, picture.azimuth_deg, picture.elevation_deg) == ("a red mug", 0, 20)
        assert picture.meta == {"clip_score": made.scores[i], "seed": 1000 + i,
                                "prompt_as_drawn": "a red mug, front view"}
    assert job.fractions == sorted(job.fractions) and job.fractions[-1] == 1 and not job.warnings
    assert job.metrics["clip_score"] == max(made.scores)
    made.save(tmp_path)
    np.testing.assert_allclose(Candidates.load(tmp_path).pictures[2].image, made.pictures[2].image, atol=2e-3)


def test_a_candidate_does_not_depend_on_its_neighbours(tiny: ModelSet) -> None:
    four, _ = draw(tiny, candidates=4)
    one, _ = draw(tiny, candidates=1)
    np.testing.assert_allclose(four.pictures[0].image, one.pictures[0].image, atol=2e-3)
    again, _ = draw(tiny, candidates=4)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(four.pictures, again.pictures, strict=True))
    other, _ = draw(tiny, seed=2, candidates=1)
    assert np.abs(other.pictures[0].image - one.pictures[0].image).max() > 0.05


def test_guidance_and_negative_prompt_count(tiny: ModelSet) -> None:
    plain = draw(tiny, candidates=1)[0].pictures[0].image
    for change in ({"negative": "blue chair"}, {"guidance": 8.0}, {"sampler": "dpm"}):
        assert np.abs(draw(tiny, candidates=1, **change)[0].pictures[0].image - plain).max() > 1e-4, change
    # Guided away from the very thing that is wanted, the guidance cancels out.
    same = draw(tiny, candidates=1, negative="a red mug, front view")[0].pictures[0].image
    np.testing.assert_allclose(same, draw(tiny, candidates=1, guidance=1)[0].pictures[0].image, atol=2e-3)


def test_views_are_read_from_the_prompt(tiny: ModelSet) -> None:
    picture = draw(tiny, candidates=1, prompt="a chair, back view")[0].pictures[0]
    assert picture.azimuth_deg == 180 and picture.meta["prompt_as_drawn"] == "a chair, back view"
    assert draw(tiny, candidates=1, view="")[0].pictures[0].meta["prompt_as_drawn"] == "a red mug"


def test_unknown_words_and_lost_words_are_named(tiny: ModelSet) -> None:
    _, job = draw(tiny, candidates=1, prompt="a red mugg " + "and a blue chair " * 9)
    assert any("'mugg' (nearest known: mug" in w for w in job.warnings)
    assert any("32 tokens" in w and "chair" in w for w in job.warnings)


@pytest.mark.parametrize("bad", [{"prompt": ""}, {"prompt": "mug " * 2500}, {"negative": "x" * 1001}])
def test_bad_prompts_are_refused_with_the_parameters(bad: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        TextToImage(**{"prompt": "a mug", **bad})


# -- cut_out --------------------

def assert_framed(picture: Picture) -> None:
    left, top, right, bottom = bounding_box(picture.image[..., 3])
    n = picture.image.shape[0]
    assert picture.image.shape == (n, n, 4)
    assert max(right - left, bottom - top) == pytest.approx(FILL * n, abs=1.01)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((n / 2, n / 2), abs=1.01)


@pytest.mark.parametrize("colour", [[1, 1, 1], [0.2, 0.4, 0.7]])
def test_a_plain_background_is_removed_exactly(tiny: ModelSet, colour: list[float]) -> None:
    job = ListJob(tiny)
    out = cut_out(Picture(before(colour), "a ball", 30.0, 10.0), CutOut(), job)
    assert_framed(out)
    assert out.meta["cut_out"] == "plain" and (out.caption, out.azimuth_deg, out.elevation_deg) == ("a ball", 30, 10)
    n = out.image.shape[0]
    assert n == 128  # a disc of 80 pixels in a frame of 114: brought up to the least size
    y, x = np.mgrid[:n, :n] + 0.5 - n / 2
    true = np.clip(FILL * n / 2 - np.hypot(x, y) + 0.5, 0, 1)
    assert np.abs(out.image[..., 3] - true).mean() < 0.01
    seen = out.image[..., 3] > 0.3
    assert np.abs(out.image[seen][:, :3] - ORANGE).max() < 0.1  # no rim of the background's colour
    assert job.metrics["subject_share"] == pytest.approx(DISC.mean(), abs=0.005) and not job.warnings


def test_the_pictures_own_alpha_comes_first(tiny: ModelSet) -> None:
    noise = np.random.default_rng(0).random((120, 160, 3), dtype=np.float32)
    rgba = np.concatenate([noise, DISC[..., None].astype(np.float32)], -1)
    out = cut_out(Picture(rgba), CutOut(), ListJob(tiny))
    assert out.meta["cut_out"] == "alpha"
    assert_framed(out)
    with pytest.raises(BadInput, match="no transparent pixels"):
        cut_out(Picture(noise), CutOut(method="alpha"), ListJob(tiny))


def test_clutter_goes_to_the_matting_network(tiny: ModelSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is given the square picture and its matte lands on the right pixels of one that is not square."""
    looked_at = []

    def look(matting: object, image: np.ndarray, left: int, top: int, side: int, device: str) -> np.ndarray:
        looked_at.append((left, top, side))
        return DISC.astype(np.float32)
    clutter = np.random.default_rng(0).random((120, 160, 3), dtype=np.float32)
    shape = mattes.model_alpha(tiny.load("matting"), clutter, "cpu").shape
    assert shape == (120, 160)
    monkeypatch.setattr(mattes, "_matte_square", look)
    out = cut_out(Picture(clutter), CutOut(), ListJob(tiny))
    assert out.meta["cut_out"] == "model" and looked_at[0] == (0, -20, 160) and looked_at[1][2] < 160
    assert_framed(out)


def test_mattes_come_back_to_their_pixels() -> None:
    """A network that says "bright is subject" finds the bright disc of a picture where it stands."""
    class Bright:
        size = 64

        def unet(self, pictures: torch.Tensor, t: int) -> object:
            assert pictures.shape == (1, 3, 64, 64) and pictures.min() >= -1
            return type("Out", (), {"sample": pictures[:, :1] * 20})
    image = np.where(DISC[..., None], 0.95, 0.05).repeat(3, -1).astype(np.float32)
    alpha = mattes.model_alpha(Bright(), image, "cpu")
    iou = ((alpha > 0.5) & DISC).sum() / ((alpha > 0.5) | DISC).sum()
    assert iou > 0.97


def test_holes_are_background_and_highlights_are_not() -> None:
    image = before([1, 1, 1])
    image[45:65, 70:80] = 1.0  # a hole: pure background, large
    image[40:42, 100:103] = 1.0  # a highlight: small
    mask = mattes.plain_mask(image, np.ones(3, np.float32))
    assert not mask[50:60, 72:78].any() and mask[40:42, 100:103].all()


def test_a_mean_picture_is_told_from_its_mist() -> None:
    """A brick disc whose rim is the mean of many discs: alpha is their share, the colour the brick's, not its mist; a
    pale patch inside stays whole, and so does a grey wall beside the brick, which no mist of brick could be."""
    y, x = np.mgrid[:128, :128]
    share = np.clip((40 - np.hypot(y - 64, x - 64)) / 7 + 0.5, 0, 1)
    brick, white = np.array([0.8, 0.3, 0.1]), np.ones(3, np.float32)
    image = (share[..., None] * brick + (1 - share[..., None])).astype(np.float32)
    image[60:66, 60:66] = 0.9
    image[100:110, 40:90] = 0.75
    made = mattes.mean_edge(image, mattes.plain_mask(image, white), white)
    rim = (share > 0.15) & (share < 0.75) & (y < 95)
    # Pure colours are looked for up to seven pixels away: the outermost mist finds one that is a little pale.
    assert np.abs(made[rim, 3] - np.minimum((share[rim] - 0.1) / 0.4, 1)).max() < 0.08
    assert np.abs(made[rim, :3] - brick).max() < 0.1 and np.abs(made[rim & (share > 0.3), :3] - brick).max() < 1e-6
    assert (made[62:64, 62:64] == [np.float32(0.9)] * 3 + [1]).all()
    assert (made[102:108, 45:85, 3] == 1).all() and np.abs(made[102:108, 45:85, :3] - 0.75).max() < 1e-6
    assert not made[:20, :, 3].any()


def test_nothing_to_cut_out_is_refused(tiny: ModelSet) -> None:
    with pytest.raises(BadInput, match="no subject"):
        cut_out(Picture(np.ones((64, 64, 3), np.float32)), CutOut(), ListJob(tiny))


def test_a_cut_off_subject_and_a_tiny_one_are_warned_of(tiny: ModelSet) -> None:
    image = np.ones((64, 64, 3), np.float32)
    image[50:, 20:40] = 0.2
    job = ListJob(tiny)
    cut_out(Picture(image), CutOut(), job)
    assert any("touches" in w for w in job.warnings) and any("only 20 pixels" in w for w in job.warnings)


def test_far_pictures_are_warned_of_by_the_sets_own_bound(tiny: ModelSet, tmp_path: Path) -> None:
    shutil.copytree(tiny.folder, tmp_path / "set")
    far = ModelSet("builtin", tmp_path / "set")
    sha = far.cards("image_text")["clip"].sha256
    for clip, bound, warns in ((sha, 0.0, True), (sha, 1e6, False), ("another clip", 0.0, False)):
        write_known(far.folder, clip, Known(("mug", "chair"), np.zeros(16), np.eye(16), bound))
        job = ListJob(far)
        cut_out(Picture(before([1, 1, 1])), CutOut(), job)
        assert any("far from what the built-in models know" in w for w in job.warnings) == warns
        assert ("toybox_distance" in job.metrics) == (clip == sha)
    (far.folder / "known.safetensors").write_text("[]")
    with pytest.raises(BadInput, match=r"cannot read .*known\.safetensors"):
        cut_out(Picture(before([1, 1, 1])), CutOut(), ListJob(far))


def test_the_bound_is_the_quantile_of_whitened_distances() -> None:
    from engine.training.known import QUANTILE, fit
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(3, 3))
    seen, held_out = rng.normal(size=(20_000, 3)) @ spread + 5, rng.normal(size=(20_000, 3)) @ spread + 5
    known = fit(seen, held_out, ("mug",))
    assert known.far == pytest.approx(3.14, abs=0.1)  # the square root of chi-squared's 98 % quantile, 3 dimensions
    share = np.mean([known.distance(x) > known.far for x in held_out])
    assert share == pytest.approx(1 - QUANTILE, abs=1e-3)


# -- image_to_views --------------------

@pytest.fixture
def subject(tiny: ModelSet) -> Picture:
    return cut_out(Picture(before([1, 1, 1]), azimuth_deg=90.0), CutOut(), ListJob(tiny))


def test_ring_places_by_hand() -> None:
    assert ring_places(4, (10, 40)) == [(0, 10), (90, 10), (180, 10), (270, 10),
                                        (45, 40), (135, 40), (225, 40), (315, 40)]


def test_views_stand_where_they_were_asked_for(tiny: ModelSet, subject: Picture, tmp_path: Path) -> None:
    job = ListJob(tiny)
    p = ImageToViews(azimuths=3, elevations_deg=(5.0, 40.0), steps=2)
    views = image_to_views(subject, p, job)
    assert views.images.shape == (7, 128, 128, 4) and views.reference == 0 and not views.held_out.any()
    orbits = [orbit_of_pose(pose) for pose in views.cameras.camera_to_world]
    expected = [(90, 20), (90, 5), (210, 5), (330, 5), (150, 40), (270, 40), (30, 40)]
    np.testing.assert_allclose([o[:2] for o in orbits], expected, atol=1e-3)
    np.testing.assert_allclose([o[2] for o in orbits], zero123.CANONICAL_RADIUS * 1.5, atol=1e-4)
    np.testing.assert_allclose(views.cameras.fx, Cameras.orbit(0, 0, 2, 49.1, 128).fx[0])
    assert views.weights is not None and views.weights[0] == 1 and views.weights[1:].max() <= 0.5
    assert any("elevation is not known" in w for w in job.warnings) and job.fractions[-1] == 1
    views.save(tmp_path)
    assert Views.load(tmp_path).names[0] == "reference" and len(set(views.names)) == 7


def test_views_do_not_depend_on_the_batch(tiny: ModelSet, subject: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    p = ImageToViews(elevation_deg=15, azimuths=3, elevations_deg=(15.0,), steps=3)
    model = tiny.load("novel_view")
    places = [(0.0, 15.0), *ring_places(3, (15.0,))]
    asked = [(0, a, e) for a, e in places]
    together = views_module._draw(model, [(subject.image, 15)], asked, p, ListJob(tiny), (0, 1))
    monkeypatch.setattr(views_module, "BATCH", 1)
    alone = views_module._draw(model, [(subject.image, 15)], asked, p, ListJob(tiny), (0, 1))
    np.testing.assert_allclose(alone, together, atol=2e-3)
    assert np.abs(together[0] - together[2]).max() > 1e-3


def test_the_network_is_asked_as_zero123_asks(tiny: ModelSet, subject: Picture) -> None:
    """8 channels, unscaled mode latents, one token; both zero in the unconditional half."""
    from dataclasses import replace

    from engine.diffusion.pictures import tensor_of
    model, asked = tiny.load("novel_view"), []

    class Watched:
        config = model.unet.config

        def __call__(self, x: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> object:
            asked.append((x.clone(), encoder_hidden_states.clone()))
            return model.unet(x, t, encoder_hidden_states=encoder_hidden_states)
    p = ImageToViews(elevation_deg=15, azimuths=2, elevations_deg=(15.0,), steps=1, guidance=3)
    views_module._draw(replace(model, unet=Watched()), [(subject.image, 15)], [(0, 0, 15), (0, 90, 45)], p,
                       ListJob(tiny), (0, 1))
    x, context = asked[0]
    assert x.shape == (4, 8, 8, 8) and context.shape == (4, 1, 16)
    assert context[2:].abs().max() == 0 and x[2:, 4:].abs().max() == 0
    torch.testing.assert_close(x[:2, :4], x[2:, :4])
    small = tensor_of(over_white(views_module.framing.crop_square(
        subject.image, views_module.framing.Square(0, 0, 128), 64))[None])
    with torch.no_grad():
        mean = model.vae.quant_conv(model.vae.encoder(small * 2 - 1))[:, :4]
        embedding = model.image_encoder(views_module.pictures.clip_input(small, 64))
        camera = torch.tensor([[-np.pi / 6, 1, 0, 0]], dtype=torch.float32)
        token = model.cc_projection.projection(torch.cat([embedding, camera], 1))
    torch.testing.assert_close(x[1, 4:], mean[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(context[1], token, atol=1e-5, rtol=1e-4)


def test_the_reference_is_moved_onto_its_made_view() -> None:
    framed = np.zeros((200, 200, 4), np.float32)
    framed[30:170, 65:135] = [0.2, 0.6, 0.3, 1]
    like = np.zeros((64, 64, 4), np.float32)
    like[10:50, 30:50, 3] = 1
    moved = place_like(framed, like, 128)
    assert bounding_box(moved[..., 3]) == pytest.approx((60, 20, 100, 100), abs=1)
    centred = place_like(framed, np.zeros_like(like), 128)
    left, top, right, bottom = bounding_box(centred[..., 3])
    assert (left + right, top + bottom) == pytest.approx((128, 128), abs=1) and 0.52 < (bottom - top) / 128 < 0.62


def test_values_out_of_range_are_refused() -> None:
    for bad in ({"elevations_deg": (95.0,)}, {"azimuths": 1}, {"steps": 0}, {"elevation_deg": 90}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            ImageToViews(**bad)


# -- through the one mechanism --------------------------------------------------

def test_a_moved_picture_and_a_second_run_find_what_is_kept(tiny: ModelSet, tmp_path: Path) -> None:
    from engine.artifacts import save_png
    from engine.runs.run import Run
    from engine.runs.store import Store
    from engine.stages.load_picture import load_picture, picture_digest
    save_png(tmp_path / "ball.png", before([1, 1, 1]))

    def plan(path: Path) -> tuple[Run, object]:
        run = Run(Store(tmp_path / "store"), models=tiny, device="cpu",
                  overrides={"image_to_views": {"azimuths": 2, "elevations_deg": [10], "steps": 1}})
        picture = run(load_picture, path=str(path), digest=picture_digest(path))
        return run, run(image_to_views, run(cut_out, picture), elevation_deg=10.0)
    run, handle = plan(tmp_path / "ball.png")
    views = run.execute(handle)  # type: ignore[arg-type]
    assert [o.accepted.cached for o in run.outcomes.values()] == [False] * 3
    moved = (tmp_path / "ball.png").rename(tmp_path / "moved.png")
    again, same = plan(moved)
    assert same.key == handle.key  # type: ignore[attr-defined]
    np.testing.assert_array_equal(again.execute(same).images, views.images)  # type: ignore[arg-type]
    assert [o.accepted.cached for o in again.outcomes.values()] == [True] * 3
