"""The field kernels against their plain twins: values, gradients, borders, and hand-worked cases."""

from __future__ import annotations

import math

import pytest
import torch

from engine.kernels import hash_grid, launch, occupancy
from engine.kernels.composite import composite
from engine.kernels.hash_grid import HashGridShape
from engine.kernels.march import Samples, cube_spans, march
from tests import twins

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = [HashGridShape(8, 15, 16, 256), HashGridShape(5, 9, 3, 40), HashGridShape(1, 12, 7, 7),
          HashGridShape(3, 8, 2, 512)]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("count", [0, 1, 1031])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.levels}x2^{s.log2_table}")
def test_hash_grid_equals_twin(shape, count, atomic, device):
    generator = torch.Generator().manual_seed(count)
    points = (torch.rand(count, 3, generator=generator) * 1.5 - 0.25).to(device)  # a third lies outside the cube
    table = torch.randn(shape.rows, 2, generator=generator).to(device)
    upstream = torch.randn(count, 2 * shape.levels, generator=generator).to(device)
    results = []
    for function in (lambda p, t: hash_grid.encode(p, t, shape, atomic), lambda p, t: twins.encode(p, t, shape)):
        p, t = points.clone().requires_grad_(), table.clone().requires_grad_()
        out = function(p, t)
        out.backward(upstream)
        results.append((out.detach(), t.grad, p.grad))
    for ours, twin, scale in zip(*results, (1, 1, max(shape.scales())), strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-4, atol=2e-4 * scale)


def test_hash_grid_at_the_cubes_corners_and_beyond(device):
    shape = SHAPES[1]
    table = torch.randn(shape.rows, 2, device=device)
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 1]], device=device)
    beyond = torch.tensor([[-5.0, -1e-3, -9], [2, 1e6, 1.001], [7, -1, 3]], device=device)
    torch.testing.assert_close(hash_grid.encode(beyond, table, shape), hash_grid.encode(corners, table, shape))
    torch.testing.assert_close(hash_grid.encode(corners, table, shape), twins.encode(corners, table, shape))


def test_hash_grid_by_hand(device):
    """One level of 3 vertices a side, scale 2: x = 0.25 lies on vertex 1 (0.25 * 2 + 0.5)."""
    shape = HashGridShape(1, 10, 3, 3)
    assert shape.resolutions() == [3] and shape.rows == 32  # 27, rounded up to a multiple of 8
    table = torch.arange(64.0, device=device).view(32, 2)
    out = hash_grid.encode(torch.tensor([[0.25, 0.25, 0.25], [0.5, 0.25, 0.25]], device=device), table, shape)
    row = 1 + 3 * (1 + 3 * 1)
    assert out.tolist() == [[2 * row, 2 * row + 1], [2 * row + 1, 2 * row + 2]]  # the second is half-way to row + 1


def test_hash_grid_refuses_a_wrong_table():
    with pytest.raises(ValueError, match="expected"):
        hash_grid.encode(torch.rand(2, 3), torch.zeros(5, 2), SHAPES[0])


def test_levels_without_atomics_are_bit_equal_for_any_number_of_threads():
    shape, points = SHAPES[0], torch.rand(5000, 3)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            table = torch.ones(shape.rows, 2, requires_grad=True)
            out = hash_grid.encode(points, table, shape)
            out.backward(out.detach().sin())
            results.append((out.detach(), table.grad))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_the_pool_raises_what_a_task_raises():
    def fail() -> None:
        raise RuntimeError("told")

    with pytest.raises(RuntimeError, match="told"):
        launch.in_parallel([lambda: None, fail, lambda: None])
    launch.in_parallel([])


@pytest.mark.parametrize("n", [1, 2, 7])
def test_occupancy_equals_twin(n, device):
    generator = torch.Generator().manual_seed(n)
    values = torch.rand(n, n, n, generator=generator) * 600
    cells = torch.randint(n**3, (3 * n**3,), generator=generator)  # with repeats
    fresh = torch.rand(len(cells), generator=generator) * 600
    allowed = (torch.rand(n, n, n, generator=generator) > 0.2).to(torch.uint8)
    ours = values.clone().to(device)
    occupancy.update(ours, cells.to(device), fresh.to(device), 0.8)
    torch.testing.assert_close(ours.cpu(), twins.update(values, cells, fresh, 0.8))
    states = occupancy.classify(ours, allowed.to(device), 100.0)
    assert torch.equal(states.cpu(), twins.classify(ours.cpu(), allowed, 100.0))


def test_occupancy_without_cells_only_decays(device):
    values = torch.full((2, 2, 2), 8.0, device=device)
    occupancy.update(values, torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device), 0.5)
    assert values.unique().tolist() == [4.0]


def _rays(count, seed, device):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    origins = torch.randn(count, 3, generator=generator) * 0.3 - 2 * directions
    return origins.to(device), directions.to(device)


@pytest.mark.parametrize("spent", [math.inf, 2.0])
@pytest.mark.parametrize("count", [0, 1, 37])
def test_march_equals_twin(count, spent, device):
    generator = torch.Generator().manual_seed(3)
    states = (torch.rand(9, 9, 9, generator=generator) * 12).to(torch.uint8)
    states[torch.rand(9, 9, 9, generator=generator) > 0.5] = 0
    origins, directions = _rays(count, count, device)
    jitter = torch.rand(count, generator=generator)
    samples = march(origins, directions, states.to(device), 0.031, jitter.to(device), spent=spent)
    expected = twins.march(origins.cpu(), directions.cpu(), states, 0.031, jitter, spent)
    assert len(samples) == samples.packed_info[:, 1].sum()
    same = 0
    for ray, (mids, (begin, number)) in enumerate(zip(expected, samples.packed_info.tolist(), strict=True)):
        ours = samples.t_mid[begin:begin + number].cpu()
        assert (samples.ray_indices[begin:begin + number] == ray).all()
        assert abs(number - len(mids)) <= 2  # float32 may put a sample on a cell's face to either side
        if number == len(mids):
            same += torch.allclose(ours, torch.tensor(mids), atol=1e-4)
    assert same >= 0.85 * count


def test_march_by_hand(device):
    """Along x through four cells of width 0.5: empty, full, empty, full; steps of 0.25, two a full cell."""
    states = torch.zeros(4, 4, 4, dtype=torch.uint8, device=device)
    states[2, 2, 1] = states[2, 2, 3] = 1
    origin, direction = torch.tensor([[-3.0, 0.1, 0.1]], device=device), torch.tensor([[1.0, 0, 0]], device=device)
    samples = march(origin, direction, states, 0.25)
    torch.testing.assert_close(samples.t_start.cpu(), torch.tensor([2.5, 2.75, 3.5, 3.75]))
    torch.testing.assert_close(samples.t_end, samples.t_start + 0.25)
    assert samples.packed_info.tolist() == [[0, 4]] and samples.ray_indices.tolist() == [0] * 4
    x = samples.points(origin, direction)[:, 0].cpu()
    torch.testing.assert_close(x, torch.tensor([-0.375, -0.125, 0.625, 0.875]))
    states[2, 2, 1] = 1 + 8  # density 16, optical depth 4 a step: the first sample spends the ray
    assert len(march(origin, direction, states, 0.25, spent=4.0)) == 1
    assert len(march(origin, direction, states, 0.25, limit=3)) == 3
    assert len(march(origin, direction, states, 0.25, spans=torch.tensor([[3.0, 3.75]], device=device))) == 1
    with pytest.raises(ValueError, match="step"):
        march(origin, direction, states, 0.0)


def test_rays_that_miss_or_run_along_the_cube(device):
    origins = torch.tensor([[0.0, 3, 0], [0.0, 0, 0], [1.5, 0, 0], [0.5, 0.5, -4]], device=device)
    directions = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], device=device)
    spans = cube_spans(origins, directions)
    assert (spans[[0, 2], 0] > spans[[0, 2], 1]).all()
    assert spans[1].tolist() == [0.0, 1.0] and spans[3].tolist() == [3.0, 5.0]
    states = torch.ones(3, 3, 3, dtype=torch.uint8, device=device)
    assert march(origins, directions, states, 0.1).packed_info[:, 1].tolist() == [0, 10, 0, 20]


def _packed(counts, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(counts, dtype=torch.int32)
    total = int(counts.sum())
    start = torch.rand(total, generator=generator).cumsum(0)
    return Samples(torch.repeat_interleave(torch.arange(len(counts)), counts).to(device), start.to(device),
                   (start + 0.1 + 0.3 * torch.rand(total, generator=generator)).to(device),
                   torch.stack([counts.cumsum(0, dtype=torch.int32) - counts, counts], 1).to(device))


@pytest.mark.parametrize("mode", ["density", "alpha"])
@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0], [1], [3, 0, 17, 1, 0, 40]], ids=str)
def test_composite_equals_twin(counts, mode, device):
    samples = _packed(counts, device)
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(len(samples), generator=generator) * (4 if mode == "density" else 0.9)
    rgb = torch.rand(len(samples), 3, generator=generator)
    results = []
    for ours in (True, False):
        v, c = values.to(device).requires_grad_(), rgb.to(device).requires_grad_()
        out = (composite(samples, c, **{mode: v}) if ours else twins.composite(samples, c, v, mode == "density"))
        weights = [torch.sin(torch.arange(o.numel(), device=device) + k + 1.0).view_as(o) for k, o in enumerate(out)]
        total = sum(((o * w).sum() for o, w in zip(out, weights, strict=True)), start=(v.sum() + c.sum()) * 0)
        total.backward()
        results.append([*(o.detach() for o in out), v.grad, c.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_composite_by_hand(device):
    """Half a red, then all of a green: nothing behind is seen, yet the gradient through a full alpha is exact."""
    samples = _packed([3], device)
    rgb = torch.eye(3, device=device)
    alpha = torch.tensor([0.5, 1.0, 0.3], device=device, requires_grad=True)
    result = composite(samples, rgb, alpha=alpha)
    assert result.colour.tolist() == [[0.5, 0.5, 0.0]] and result.opacity.tolist() == [1.0]
    assert result.weights.tolist() == [0.5, 0.5, 0.0]
    torch.testing.assert_close(result.depth, 0.5 * samples.t_mid[:2].sum()[None])
    result.colour[0, 2].backward()  # blue = (1 - a0) (1 - a1) a2
    torch.testing.assert_close(alpha.grad.cpu(), torch.tensor([0.0, -0.5 * 0.3, 0.0]))


def test_composite_takes_density_or_alpha():
    samples = _packed([1], "cpu")
    with pytest.raises(ValueError, match="either"):
        composite(samples, torch.rand(1, 3))
    with pytest.raises(ValueError, match="either"):
        composite(samples, torch.rand(1, 3), density=torch.ones(1), alpha=torch.ones(1))
