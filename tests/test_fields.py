"""Fields: encodings, artifact round trip, rendering, visual hull, and a real small fit that resumes bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine import artifacts
from engine.errors import BadInput, Cancelled, RunFailed
from engine.fields.encodings import FrequencyEncoding, HashEncoding, spherical_harmonics
from engine.fields.fit import FitSettings, fit
from engine.fields.hull import visual_hull
from engine.fields.occupancy import Occupancy
from engine.fields.radiance import RadianceConfig, RadianceField, cell_centres
from engine.fields.render import Rays, render, render_image
from engine.job import Job
from engine.kernels.hash_grid import HashGridShape
from engine.space import Cameras, Frame
from engine.stages.fit_field import FitField, fit_field
from tests import scenes

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SMALL = {"samples": 6000, "levels": 6, "log2_table": 12, "base": 8, "finest": 64, "occupancy": 32, "step_length": 0.03}


class FakeJob:
    """stop_at : progress at which the run is cancelled, keeping a checkpoint as a real job does."""

    label = "fit_field"

    def __init__(self, device="cpu", seed=3, stop_at=2.0, state=None):
        self.device, self._seed, self._stop_at, self.state = device, seed, stop_at, state
        self.metrics, self.fractions, self.previews = {}, [], []

    def seed(self, candidate=0):
        return self._seed

    def generator(self, candidate=0):
        return torch.Generator().manual_seed(self._seed)

    def progress(self, fraction, preview=None):
        self.fractions.append(fraction)
        self.previews.append(preview)

    def checkpoint(self, state):
        if self.fractions and self.fractions[-1] >= self._stop_at:
            import copy
            self.state = copy.deepcopy(state())
            raise Cancelled("stopped")

    def resume(self):
        return self.state

    def metric(self, name, value, unit="", against=""):
        self.metrics[name] = value


@pytest.fixture(scope="module")
def views():
    return scenes.views(12, 2, 48, samples=2)


CONFIGS = [RadianceConfig(levels=3, log2_table=8), RadianceConfig(levels=3, log2_table=8, view_directions=True),
           RadianceConfig(encoding="frequency", frequencies=4, hidden=16, density_bias=1.0)]


@pytest.mark.parametrize("config", CONFIGS, ids=["hash", "views", "frequency"])
def test_a_field_survives_its_artifact(config, tmp_path):
    field = RadianceField(config)
    frame = Frame(2.0, (1.0, 2.0, 3.0), "z")
    field.to_artifact(frame, {"occupancy": np.ones((4, 4, 4), np.uint8)}, {"psnr": 30.0}).save(tmp_path)
    loaded = artifacts.Field.load(tmp_path)
    assert loaded.frame == frame and loaded.meta == {"psnr": 30.0}
    again = RadianceField.from_artifact(loaded)
    assert again.config == config
    points = torch.rand(100, 3) * 2 - 1
    directions = torch.nn.functional.normalize(torch.randn(100, 3), dim=1)
    density, rgb = again.query(points, directions, chunk=33)
    expected = field.query(points, directions)
    torch.testing.assert_close((density, rgb), expected)
    assert density.shape == (100,) and rgb.shape == (100, 3) and (density >= 0).all()
    torch.testing.assert_close(again.density(points), density)
    assert again.query(points[:0])[0].shape == (0,)
    if config.view_directions:
        assert not torch.allclose(field.query(points, -directions)[1], rgb)


def test_a_broken_artifact_is_refused():
    good = RadianceField(RadianceConfig(levels=2, log2_table=8)).to_artifact()
    with pytest.raises(BadInput, match='kind "sdf"'):
        RadianceField.from_artifact(artifacts.Field(good.config | {"kind": "sdf"}, good.tensors))
    missing = {k: v for k, v in good.tensors.items() if k != "colour_out.bias"}
    with pytest.raises(BadInput, match=r"colour_out\.bias"):
        RadianceField.from_artifact(artifacts.Field(good.config, missing))


def test_the_optional_backend_names_its_extra():
    with pytest.raises(BadInput, match="tiny-cuda-nn"):
        HashEncoding(HashGridShape(2, 8), backend="tcnn")


def test_frequencies_by_hand():
    out = FrequencyEncoding(2)(torch.tensor([[0.5, 0.0, -1.0]]))
    expected = torch.tensor([[0.5, 0, -1, 1, 0, 0, 0, 0, 0, 0, 1, -1, -1, 1, 1]])
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


def test_spherical_harmonics_are_orthonormal():
    k = torch.arange(20000, dtype=torch.float64) + 0.5  # a Fibonacci sphere, exact enough for degree 6
    z, turn = 1 - 2 * k / len(k), k * math.pi * (1 + 5**0.5)
    r = (1 - z * z).sqrt()
    basis = spherical_harmonics(torch.stack([r * turn.cos(), r * turn.sin(), z], 1))
    gram = basis.T @ basis * (4 * math.pi / len(k))
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-3, rtol=0)


def test_density_grid_asks_cell_centres_in_zyx_order():
    field = RadianceField(RadianceConfig(levels=3, log2_table=10))
    torch.nn.init.normal_(field.encoding.table)
    grid = field.density_grid(6)
    points = cell_centres(torch.arange(6**3), 6)
    assert points[1].tolist() == pytest.approx([-0.5, -5 / 6, -5 / 6]) and points.abs().max() < 1
    torch.testing.assert_close(grid.flatten(), field.query(points)[0])
    allowed = torch.zeros(3, 3, 3, dtype=torch.uint8)
    allowed[2, 1, 0] = 1
    part = field.density_grid(6, allowed)
    assert (part != 0).sum() == 8 and torch.equal(part[4:6, 2:4, 0:2], grid[4:6, 2:4, 0:2])


@pytest.mark.parametrize("device", DEVICES)
def test_a_constant_field_renders_as_the_exponential_says(device):
    """Density s over the cube, colour c: opacity 1 - exp(-2 s) along an axis, colour over the background."""
    field = RadianceField(RadianceConfig(levels=1, log2_table=8, density_bias=math.log(0.7))).to(device)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
    full = Occupancy(torch.ones((4, 4, 4), dtype=torch.uint8, device=device))
    rays = Rays(torch.tensor([[0.0, 0, 3], [0, 5, 3]], device=device), torch.tensor([[0.0, 0, -1]] * 2, device=device))
    out = render(field, full, rays, torch.tensor([1.0, 0, 0], device=device), step=0.01)
    opacity = 1 - math.exp(-1.4)
    assert out.opacity.tolist() == pytest.approx([opacity, 0], abs=1e-4)
    assert out.rgb[0].tolist() == pytest.approx([0.5 * opacity + math.exp(-1.4)] + [0.5 * opacity] * 2, abs=1e-4)
    assert out.rgb[1].tolist() == [1, 0, 0] and out.depth[1] == 0
    empty = Occupancy(torch.zeros((4, 4, 4), dtype=torch.uint8, device=device))
    assert render(field, empty, rays).opacity.tolist() == [0, 0]


def test_occupancy_prunes_what_is_thin_and_never_leaves_the_hull():
    field = RadianceField(RadianceConfig(levels=1, log2_table=8))
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
    allowed = torch.zeros((4, 4, 4), dtype=torch.uint8)
    allowed[1:3] = 1
    for density, expected in ((0.5, 0), (50.0, 32)):
        object.__setattr__(field.config, "density_bias", math.log(density))
        occupancy = Occupancy(allowed, threshold=1.0)
        occupancy.update(field, torch.Generator().manual_seed(0))
        assert int((occupancy.states > 0).sum()) == expected


def test_the_hull_holds_the_object_and_little_more(views):
    hull = visual_hull(views, 40) > 0.5
    loose = visual_hull(views, 40, conservative=True) > 0.5
    solid = torch.from_numpy(scenes.inside(cell_centres(torch.arange(40**3), 40).numpy())).view(40, 40, 40)
    assert (solid & ~loose).sum() == 0 and (hull & ~loose).sum() == 0
    assert (solid & ~hull).sum() < 0.05 * solid.sum()
    assert hull.sum() < 2.0 * solid.sum()


def test_the_hull_outvotes_wrong_masks(views):
    solid = torch.from_numpy(scenes.inside(cell_centres(torch.arange(32**3), 32).numpy())).view(32, 32, 32)
    images = views.images.copy()
    images[3, ..., 3] = 0
    wrong = artifacts.Views(images, views.cameras, views.held_out)
    assert (visual_hull(wrong, 32) > 0.5).sum() == 0
    kept = visual_hull(wrong, 32, votes=0.9, conservative=True) > 0.5
    assert (solid & ~kept).sum() == 0
    wrong.weights = np.ones(len(views), np.float32)
    wrong.weights[3] = 0
    exact = visual_hull(wrong, 32, conservative=True) > 0.5
    assert (solid & ~exact).sum() == 0 and exact.sum() <= kept.sum()


def test_fit_reaches_the_object_resumes_and_repeats(views):
    """One fit of 150 steps; another one stopped on its way and resumed gives the same bits."""
    settings = FitField(steps=150, **SMALL)
    job = FakeJob()
    field = fit_field(views, settings, job)
    assert job.metrics["held_out_psnr"] > 19 and job.metrics["held_out_iou"] > 0.93
    assert job.metrics["psnr"] > 20 and 0.005 < job.metrics["filled"] < 0.3
    assert job.fractions == sorted(job.fractions) and job.previews[-1].shape == (64, 64, 3)
    assert field.tensors["occupancy"].shape == (32, 32, 32) and field.frame == views.frame

    stopped = FakeJob(stop_at=0.5)
    with pytest.raises(Cancelled):
        fit_field(views, settings, stopped)
    resumed = fit_field(views, settings, FakeJob(state=stopped.state))
    for name, value in field.tensors.items():
        assert np.array_equal(value, resumed.tensors[name]), name

    loaded = RadianceField.from_artifact(field)
    image = render_image(loaded, Occupancy.from_artifact(field), views.cameras[[12]], step=0.03)
    error = (image[..., :3] - artifacts.over_white(views.images[12]))**2
    assert -10 * math.log10(error.mean()) > 19


def test_fit_with_nothing_to_see(views):
    blank = artifacts.Views(views.images * [1, 1, 1, 0], views.cameras, views.held_out)
    with pytest.raises(RunFailed, match="hull is empty"):
        fit(blank, FitSettings(steps=1, **SMALL), FakeJob())


def test_one_view_and_frequencies_run(views):
    one = artifacts.Views(views.images[:1], views.cameras[:1], views.held_out[:1])
    result = fit(one, FitSettings(steps=2, encoding="frequency", view_directions=True, **SMALL), FakeJob())
    assert result.field.config.encoding == "frequency" and len(result.curve) == 2


def test_the_fake_job_is_a_job_and_cameras_make_rays():
    assert {n for n in Job.__annotations__ if n != "device"} <= {"label"}
    rays = Rays.of(Cameras.orbit(0, 0, 3.0, 40.0, 5))
    assert len(rays) == 25
    torch.testing.assert_close(rays.directions[12], torch.tensor([0.0, 0, -1]))
