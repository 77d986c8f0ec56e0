"""Round trips between the house's space and others', and anchors worked by hand."""

import numpy as np

from engine.conventions import blender, opencv
from engine.space import Cameras


def some_cameras() -> Cameras:
    c = Cameras.orbit([0, 33, 200, 90], [0, 25, -10, 80], [2, 2.5, 3, 2], [30, 49.1, 40, 50], 96).resized(128, 96)
    return Cameras(c.camera_to_world, c.fx, c.fy, c.cx + 3, c.cy - 2, c.width, c.height)


def test_opencv_round_trip() -> None:
    before = some_cameras()
    after = opencv.cameras(opencv.extrinsics(before), opencv.intrinsics(before), before.width, before.height)
    for name in ("camera_to_world", "fx", "fy", "cx", "cy"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-5, err_msg=name)


def test_opencv_projects_where_our_matrix_does() -> None:
    cameras, points = some_cameras(), np.random.default_rng(1).uniform(-0.7, 0.7, (40, 3))
    clip = np.einsum("nij,pj->npi", cameras.clip_from_world(), np.concatenate([points, np.ones((40, 1))], 1))
    ndc = clip[..., :2] / clip[..., 3:]
    ours = np.stack([(ndc[..., 0] + 1) / 2 * cameras.width, (1 - ndc[..., 1]) / 2 * cameras.height], -1)
    local = np.einsum("nij,pj->npi", opencv.extrinsics(cameras), np.concatenate([points, np.ones((40, 1))], 1))
    pixel = np.einsum("nij,npj->npi", opencv.intrinsics(cameras), local)
    theirs = pixel[..., :2] / pixel[..., 2:]
    assert (local[..., 2] > 0).all()  # in front is +Z
    np.testing.assert_allclose(theirs + 0.5, ours, atol=1e-3)


def test_blender_anchors_and_round_trip() -> None:
    up, front = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    np.testing.assert_array_equal(blender.points_from_house(up), [0, 0, 1])
    np.testing.assert_array_equal(blender.points_from_house(front), [0, -1, 0])
    points = np.random.default_rng(2).normal(size=(5, 7, 3))
    np.testing.assert_allclose(blender.points_to_house(blender.points_from_house(points)), points)
    cameras = some_cameras()
    poses = blender.poses_from_house(cameras.camera_to_world)
    np.testing.assert_allclose(blender.poses_to_house(poses), cameras.camera_to_world, atol=1e-6)
    np.testing.assert_allclose(poses[:, :3, 3], blender.points_from_house(cameras.camera_to_world[:, :3, 3]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1, atol=1e-5)
    np.testing.assert_allclose(blender.focal_pixels(blender.lens_mm(cameras), 128, 96), cameras.fx, rtol=1e-6)


def test_blender_lens_of_a_known_field_of_view() -> None:
    # Half the sensor is 18 mm, so a 90 degree view has an 18 mm lens.
    np.testing.assert_allclose(blender.lens_mm(Cameras.orbit(0, 0, 2, 90, 64)), [18], rtol=1e-6)
