"""Zero-1-to-3's conditioning, against values worked by hand and against its published key set."""

import math

import numpy as np
import pytest
import torch

from engine.conventions import zero123
from engine.diffusion import novel_view
from engine.space import orbit_of_pose, orbit_pose


def test_camera_vector_by_hand() -> None:
    # From elevation 20 up to 50, a quarter turn to the right, 0.3 farther: polar falls by 30 degrees.
    assert novel_view.camera_vector(20, 50, 90, 0.3) == pytest.approx([-math.pi / 6, 1, 0, 0.3], abs=1e-12)
    assert novel_view.camera_vector(0, 0, 0) == [0, 0, 1, 0]
    assert novel_view.camera_vector(30, -30, -90) == pytest.approx([math.pi / 3, -1, 0, 0], abs=1e-12)
    rows = novel_view.camera_vectors(*torch.tensor([[20.0, 0.0], [50.0, 0.0], [90.0, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[-math.pi / 6, 1, 0, 0.3], [0, 0, 1, 0]]), atol=1e-6, rtol=0)


def test_camera_vector_agrees_with_poses_in_zero123s_frame() -> None:
    """Their own recipe (cartesian -> spherical, then differences) on our camera positions."""
    def spherical(azimuth: float, elevation: float, r: float) -> tuple[float, float, float]:
        x, y, z = zero123.points_from_field(orbit_pose(azimuth, elevation, zero123.field_distance(r))[:3, 3])
        return math.atan2(math.hypot(x, y), z), math.atan2(y, x), math.sqrt(x * x + y * y + z * z)

    a, b = (70.0, 10.0, 1.7), (190.0, 45.0, 2.1)
    (polar_a, azimuth_a, r_a), (polar_b, azimuth_b, r_b) = spherical(*a), spherical(*b)
    theirs = [polar_b - polar_a, math.sin(azimuth_b - azimuth_a), math.cos(azimuth_b - azimuth_a), r_b - r_a]
    assert novel_view.camera_vector(a[1], b[1], b[0] - a[0], b[2] - a[2]) == pytest.approx(theirs, abs=1e-5)


def test_zero123_convention_round_trips() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    np.testing.assert_allclose(zero123.points_to_field(zero123.points_from_field(points)), points, atol=1e-12)
    assert zero123.elevation_deg(zero123.polar_deg(12.5)) == 12.5
    assert zero123.radius(zero123.field_distance(1.7)) == pytest.approx(1.7)
    front = zero123.points_from_field(np.array([0, 0, 1.5]))
    np.testing.assert_allclose(front, [1, 0, 0])  # our front is their azimuth 0
    np.testing.assert_allclose(zero123.points_from_field(np.array([0, 1.5, 0])), [0, 0, 1])  # up is their z
    assert orbit_of_pose(orbit_pose(33, 21, 2.5)) == pytest.approx((33, 21, 2.5), abs=1e-4)


def test_projection_starts_as_identity_and_has_the_published_keys() -> None:
    projection = novel_view.CCProjection(12 + 4, 12)
    assert set(projection.state_dict()) == {"projection.weight", "projection.bias"}
    embeds = torch.randn(3, 12)
    with torch.no_grad():
        torch.testing.assert_close(novel_view.context(projection, embeds, torch.zeros(3, 4)), embeds[:, None])
    assert tuple(novel_view.CCProjection().projection.weight.shape) == (768, 772)


def test_unconditional_is_zeros_for_both() -> None:
    tokens, latents = novel_view.drop_conditions(torch.ones(3, 1, 5), torch.ones(3, 4, 2, 2), [True, False, True])
    assert tokens.sum((1, 2)).tolist() == [0, 5, 0] and latents.sum((1, 2, 3)).tolist() == [0, 16, 0]


def test_unet_input_puts_the_noisy_latents_first() -> None:
    x = novel_view.unet_input(torch.zeros(2, 4, 3, 3), torch.ones(2, 4, 3, 3))
    assert x[:, :4].sum() == 0 and x[:, 4:].sum() == 2 * 4 * 9
