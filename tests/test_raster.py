"""The rasteriser against a plain numpy twin in double precision, and against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.kernels.raster import interpolate, rasterize

torch.set_num_threads(1)


def twin(clip: np.ndarray, faces: np.ndarray, height: int, width: int) -> tuple[np.ndarray, ...]:
    """(v, 4) -> triangle (h, w), bary (h, w, 3), depth (h, w), and where the answer is sure: (h, w) bool, False where
    a pixel's centre lies so close to an edge, or two triangles so close in depth, that single precision may differ."""
    y, x = np.mgrid[:height, :width] + 0.5
    best, second = np.full((height, width), 8.0), np.full((height, width), 9.0)  # beyond any z
    triangle, bary = np.full((height, width), -1), np.zeros((height, width, 3))
    depth, sure = np.zeros((height, width)), np.ones((height, width), bool)
    for t, face in enumerate(faces):
        c = clip[face].astype(np.float64)
        if (c[:, 3] <= 0).any():
            continue
        px, py = (c[:, 0] / c[:, 3] / 2 + .5) * width, (.5 - c[:, 1] / c[:, 3] / 2) * height
        area = (px[1] - px[0]) * (py[2] - py[0]) - (py[1] - py[0]) * (px[2] - px[0])
        if area == 0:
            continue
        w = np.stack([((px[j] - px[i]) * (y - py[i]) - (py[j] - py[i]) * (x - px[i])) / area
                      for i, j in ((1, 2), (2, 0), (0, 1))], -1)
        z = w @ (c[:, 2] / c[:, 3])
        near = (w >= -1e-4).all(-1) & (np.abs(z) <= 1 + 1e-4)
        inside = (w >= 0).all(-1) & (np.abs(z) <= 1)
        sure &= ~(near & ((np.abs(w).min(-1) < 1e-4) | (np.abs(z) > 1 - 1e-4)))
        front = inside & (z < best)
        second = np.where(front, best, np.where(inside, np.minimum(second, z), second))
        best = np.where(front, z, best)
        correct = w / c[:, 3]
        correct /= np.where(inside, correct.sum(-1), 1)[..., None]
        triangle[front], bary[front], depth[front] = t, correct[front], (correct @ c[:, 3])[front]
    return triangle, bary, depth, sure & ~(second - best < 1e-5)


def soup(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Random triangles, many of them partly out of the picture, at w from 0.5 to 4."""
    w = rng.uniform(.5, 4, (3 * n, 1))
    ndc = np.c_[rng.uniform(-1.4, 1.4, (3 * n, 2)), rng.uniform(-.9, .9, (3 * n, 1))]
    return np.c_[ndc * w, w].astype(np.float32), rng.permutation(3 * n).reshape(n, 3).astype(np.int32)


def run(clip: np.ndarray, faces: np.ndarray, h: int, w: int, picture: np.ndarray | None = None) -> list[np.ndarray]:
    out = rasterize(torch.from_numpy(clip), torch.from_numpy(faces), h, w,
                    None if picture is None else torch.from_numpy(picture))
    return [o.numpy() for o in out]


@pytest.mark.parametrize("n, h, w", [(1, 16, 16), (7, 33, 17), (60, 31, 47), (60, 1, 1), (200, 5, 64)])
def test_equals_the_twin(n: int, h: int, w: int) -> None:
    clip, faces = soup(np.random.default_rng(n * h), n)
    triangle, bary, depth = run(clip, faces, h, w)
    want, want_bary, want_depth, sure = twin(clip, faces, h, w)
    assert sure.mean() > .9
    np.testing.assert_array_equal(triangle[sure], want[sure])
    np.testing.assert_allclose(bary[sure], want_bary[sure], atol=2e-4)
    np.testing.assert_allclose(depth[sure], want_depth[sure], rtol=2e-4)
    empty = triangle < 0
    assert not bary[empty].any() and not depth[empty].any()
    np.testing.assert_allclose(bary[~empty].sum(-1), 1, atol=1e-5)


def test_nothing_to_draw() -> None:
    for clip, faces in ((np.zeros((3, 4), np.float32), np.zeros((0, 3), np.int32)),
                        (np.zeros((0, 4), np.float32), np.zeros((0, 3), np.int32))):
        triangle, bary, depth = run(clip, faces, 7, 5)
        assert triangle.shape == (7, 5) and bary.shape == (7, 5, 3) and depth.shape == (7, 5)
        assert (triangle == -1).all() and not bary.any() and not depth.any()


def test_a_triangle_behind_the_camera_is_dropped() -> None:
    clip, faces = soup(np.random.default_rng(1), 3)
    clip[faces[1, 2], 3] = -1
    triangle, _, _ = run(clip, faces, 24, 24)
    kept, _, _ = run(clip, faces[[0, 2]], 24, 24)
    np.testing.assert_array_equal(triangle, np.array([0, 2, -1])[kept])


def test_a_degenerate_triangle_is_dropped() -> None:
    clip = np.array([[-1, -1, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]], np.float32)
    assert (run(clip, np.array([[0, 1, 2], [0, 0, 1]], np.int32), 8, 8)[0] == -1).all()


def test_ties_go_to_the_lower_id_and_neighbours_leave_no_crack() -> None:
    """Two triangles share the diagonal of a square whose corners and diagonal fall exactly on pixel centres."""
    e = 3 / 4  # eight pixels: centres at -7/8, ..., so use 1/8 steps
    clip = np.array([[-e - .125, -e - .125, 0, 1], [e + .125, -e - .125, 0, 1], [e + .125, e + .125, 0, 1],
                     [-e - .125, e + .125, 0, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 1, 2], [3, 2, 0]], np.int32)
    triangle, _, _ = run(clip, faces, 8, 8)
    row, column = np.mgrid[:8, :8]
    assert (triangle >= 0).all()  # the square's border runs through the outer pixels' centres: covered, every one
    np.testing.assert_array_equal(triangle, np.where(column >= 7 - row, 0, 1))


def test_winding_does_not_matter() -> None:
    clip, faces = soup(np.random.default_rng(5), 9)
    a, b = run(clip, faces, 20, 30), run(clip, faces[:, ::-1].copy(), 20, 30)
    sure = twin(clip, faces, 20, 30)[3]
    np.testing.assert_array_equal(a[0][sure], b[0][sure])
    np.testing.assert_allclose(a[1][sure], b[1][sure][:, ::-1], atol=2e-4)


def test_perspective_correct_by_hand() -> None:
    """A floor quad's edge from w = 1 to w = 3: halfway in the picture is a quarter of the way in space."""
    clip = np.array([[-1, -1, 0, 1], [1, -1, 0, 1], [0, 3, 0, 3]], np.float32)
    _, bary, depth = run(clip, np.array([[0, 1, 2]], np.int32), 3, 3)
    np.testing.assert_allclose(bary[1, 1], [.375, .375, .25], atol=1e-6)
    assert depth[1, 1] == pytest.approx(1.5, abs=1e-6)


def test_batches() -> None:
    """All faces in every picture; and picture mode, where each face names its picture, equals one call a picture."""
    rng = np.random.default_rng(3)
    parts = [soup(rng, 12) for _ in range(3)]
    clip = np.stack([c for c, _ in parts])
    faces = parts[0][1]
    many = run(clip, faces, 19, 23)
    for b in range(3):
        for got, want in zip(many, run(clip[b], faces, 19, 23), strict=True):
            np.testing.assert_array_equal(got[b], want)
    sizes = [12, 0, 5]  # a picture may have no face at all
    each = [f[:k] for (_, f), k in zip(parts, sizes, strict=True)]
    picture = np.repeat(np.arange(3, dtype=np.int32), sizes)
    order = rng.permutation(len(picture))  # faces of different pictures may be mixed
    joined = run(clip, np.concatenate(each)[order], 19, 23, picture[order])
    start = np.cumsum([0, *sizes])
    for b in range(3):
        alone = run(clip[b], each[b], 19, 23)
        rows = np.append(order, -1)[joined[0][b]]
        np.testing.assert_array_equal(rows - np.where(rows >= 0, start[b], 0), alone[0])
        np.testing.assert_array_equal(joined[1][b], alone[1])
        np.testing.assert_array_equal(joined[2][b], alone[2])


def test_the_result_does_not_depend_on_the_run() -> None:
    clip, faces = soup(np.random.default_rng(8), 100)
    for got, want in zip(run(clip, faces, 40, 40), run(clip, faces, 40, 40), strict=True):
        np.testing.assert_array_equal(got, want)


def test_interpolate_values_and_gradient() -> None:
    clip, faces = soup(np.random.default_rng(4), 6)
    triangle, bary, depth = rasterize(torch.from_numpy(clip), torch.from_numpy(faces), 15, 15)
    w = torch.from_numpy(clip[:, 3:]).requires_grad_()
    value = interpolate(w, torch.from_numpy(faces), triangle, bary)
    torch.testing.assert_close(value[..., 0], depth)
    value.sum().backward()
    assert w.grad is not None
    want = np.zeros(len(clip))
    for k in range(3):
        hit = triangle.numpy() >= 0
        np.add.at(want, faces[triangle.numpy()[hit], k], bary.numpy()[hit][:, k])
    np.testing.assert_allclose(w.grad.numpy()[:, 0], want, rtol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    clip, faces = soup(np.random.default_rng(8), 100)
    sure = twin(clip, faces, 40, 40)[3]
    here = rasterize(torch.from_numpy(clip), torch.from_numpy(faces), 40, 40)
    there = rasterize(torch.from_numpy(clip).cuda(), torch.from_numpy(faces).cuda(), 40, 40)
    torch.testing.assert_close(there[0].cpu()[sure], here[0][sure], rtol=0, atol=0)
    torch.testing.assert_close(there[1].cpu()[sure], here[1][sure], rtol=0, atol=2e-4)
