"""Convex parts joined by the volume that joining adds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from engine.meshes.hull_merge import fewer_corners, merge_hulls


def box(low, high) -> np.ndarray:
    return np.array(list(itertools.product(*zip(low, high, strict=True))), float)


def volumes(parts) -> list[float]:
    return sorted(ConvexHull(part).volume for part in parts)


def test_what_fits_without_a_gap_is_joined_first():
    stacked = [box((0, 0, 0), (1, 1, 1)), box((0, 1, 0), (1, 2, 1)), box((0, 2, 0), (1, 3, 1))]
    beside = box((1, 0.1, 0), (2, 0.9, 1))  # it fits no side: joined to one of them it adds 0.1
    assert volumes(merge_hulls([stacked[0], beside, *stacked[1:]], 2)) == pytest.approx([0.8, 3])
    assert volumes(merge_hulls(stacked, 1)) == pytest.approx([3])
    assert all((a == b).all() for a, b in zip(merge_hulls(stacked, 3), stacked, strict=True))


def test_parts_far_from_each_other_are_joined_last_and_only_when_they_must():
    near = [box((0, 0, 0), (1, 1, 1)), box((1, 0, 0), (2, 1, 1))]
    far = box((9, 0, 0), (10, 1, 1))
    assert volumes(merge_hulls([near[0], far, near[1]], 2)) == pytest.approx([1, 2])
    assert volumes(merge_hulls([near[0], far, near[1]], 1)) == pytest.approx([10])


def test_a_ring_keeps_its_hole():
    count, inner, outer = 24, 0.9, 1.0
    turn = 2 * np.pi * np.arange(count + 1) / count
    corner = np.stack([np.cos(turn), np.sin(turn)], 1)
    wedges = [np.array([[*(r * corner[i + k]), y] for k in (0, 1) for r in (inner, outer) for y in (0.0, 1.0)])
              for i in range(count)]
    made = merge_hulls(wedges, 12)
    step = 2 * np.pi / count
    ring = count / 2 * np.sin(step) * (outer ** 2 - inner ** 2)
    assert len(made) == 12 and volumes(wedges)[0] * count == pytest.approx(ring)
    # Two neighbours add the triangle between their inner corners; runs of three, which ties may leave, add four times
    # as much. The whole disc would add five times the ring.
    pair = inner ** 2 * np.sin(step) * (1 - np.cos(step))
    assert ring + 12 * pair <= sum(volumes(made)) + 1e-9 and sum(volumes(made)) < ring + 24 * pair


def slow_twin(parts: list[np.ndarray], most: int) -> list[np.ndarray]:
    parts = list(parts)
    while len(parts) > most:
        def added(pair, parts=parts):
            one, other = parts[pair[0]], parts[pair[1]]
            return ConvexHull(np.concatenate([one, other])).volume - ConvexHull(one).volume - ConvexHull(other).volume
        a, b = min(itertools.combinations(range(len(parts)), 2), key=added)
        joined = np.concatenate([parts[a], parts[b]])
        parts = [part for k, part in enumerate(parts) if k not in (a, b)] + [joined[ConvexHull(joined).vertices]]
    return parts


def test_it_joins_as_trying_all_pairs_anew_does():
    chance = np.random.default_rng(3)
    parts = [box(at, at + 1 + chance.uniform(-0.02, 0.02, 3)) for at in
             np.array(list(itertools.product(range(3), range(2), range(3))), float)]
    parts.pop(4)
    for most in (12, 7, 3):
        assert volumes(merge_hulls(parts, most, 1000)) == pytest.approx(volumes(slow_twin(parts, most)))


def test_corners_are_few_lie_on_the_hull_and_keep_its_shape():
    way = np.random.default_rng(0).normal(size=(2000, 3))
    ball = way / np.linalg.norm(way, axis=1, keepdims=True)
    for stretch in ((1, 1, 1), (1, 20, 0.2)):
        few = fewer_corners(ball * stretch, 64)
        assert 32 < len(few) <= 64 and {tuple(p) for p in few} <= {tuple(p) for p in ball * stretch}
        assert ConvexHull(few).volume > 0.85 * ConvexHull(ball * stretch).volume
    cube = box((0, 0, 0), (1, 1, 1))
    inside = np.concatenate([cube, np.full((1, 3), 0.5)])
    assert {tuple(p) for p in fewer_corners(inside, 64)} == {tuple(p) for p in cube}
