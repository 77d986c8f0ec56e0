"""Scenes in the transforms.json convention: what is read, what is found, and what is refused in one line."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from engine.artifacts import over_white, save_png
from engine.conventions import blender
from engine.errors import BadInput
from engine.space import Cameras
from engine.stages.load_views import LoadViews, load_views, views_digest
from tests import scenes

SIZE, FOV = 40, 45.0


class Job:
    def __init__(self):
        self.metrics, self.warnings = {}, []

    def progress(self, fraction, preview=None):
        assert 0 <= fraction <= 1

    def warn(self, text):
        self.warnings.append(text)

    def metric(self, name, value, unit="", against=""):
        self.metrics[name] = value


def _frames(cameras, images, folder, names):
    frames = []
    for pose, image, name in zip(cameras.camera_to_world, images, names, strict=True):
        save_png(folder / f"{name}.png", image)
        frames.append({"file_path": f"./{name}", "transform_matrix": pose.tolist()})
    return frames


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """10 pictures to fit, 2 held out; scene coordinates are the object's own times 3, moved."""
    folder = tmp_path_factory.mktemp("scene")
    views = scenes.views(10, 2, SIZE, samples=2)
    cameras = views.cameras[:]
    cameras.camera_to_world = cameras.camera_to_world.copy()
    cameras.camera_to_world[:, :3, 3] = cameras.camera_to_world[:, :3, 3] * 3 + [1, 2, 3]
    for name, part in (("train", slice(0, 10)), ("test", slice(10, 12))):
        frames = _frames(cameras[part], views.images[part], folder, [f"{name}_{i}" for i in range(len(cameras[part]))])
        (folder / f"transforms_{name}.json").write_text(
            json.dumps({"camera_angle_x": math.radians(FOV), "frames": frames}))
    return folder


@pytest.fixture
def copy(scene, tmp_path):
    return shutil.copytree(scene, tmp_path / "scene")


def _edit(folder, change, name="transforms_train.json"):
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def _load(folder, **params):
    job = Job()
    return load_views(LoadViews(folder=str(folder), **params), job), job


def test_the_object_is_found_and_scaled(scene):
    views, job = _load(scene)
    assert views.images.shape == (12, SIZE, SIZE, 4) and views.held_out.tolist() == [False] * 10 + [True] * 2
    assert job.metrics == {"views": 10, "held_out_views": 2} and views.names[0] == "train_0"
    assert views.frame.up == "y" and views.frame.scale == pytest.approx(3, rel=0.12)
    np.testing.assert_allclose(views.frame.offset, [1, 2, 3], atol=0.25)
    original = scenes.views(10, 2, SIZE, samples=1).cameras
    back = views.frame.to_world(views.cameras.camera_to_world[:, :3, 3])
    np.testing.assert_allclose(back, original.camera_to_world[:, :3, 3] * 3 + [1, 2, 3], atol=1e-4)
    np.testing.assert_allclose(views.cameras.fx, original.fx, rtol=1e-5)


def test_z_up_scenes_are_turned_and_turn_back(copy):
    def turn(data):
        for frame in data["frames"]:
            pose = np.array(frame["transform_matrix"], dtype=np.float32)[None]
            frame["transform_matrix"] = blender.poses_from_house(pose)[0].tolist()

    expected = _load(copy)[0]
    for name in ("transforms_train.json", "transforms_test.json"):
        _edit(copy, turn, name)
    for up in ("z", "auto"):
        views, _ = _load(copy, up=up)
        assert views.frame.up == "z"
        np.testing.assert_allclose(views.cameras.camera_to_world, expected.cameras.camera_to_world, atol=1e-5)


def test_a_box_or_a_number_sets_the_bounds(scene):
    views, _ = _load(scene, bounds="-1,0,1,3,4,5")
    assert views.frame.scale == pytest.approx(4 / 1.9)
    np.testing.assert_allclose(views.frame.offset, [1, 2, 3], atol=1e-6)
    assert _load(scene, bounds="6")[0].frame.scale == pytest.approx(12 / 1.9)
    turned, _ = _load(scene, bounds="-1,0,1,3,4,6", up="z")
    np.testing.assert_allclose(blender.points_from_house(np.array([turned.frame.offset])), [[1, 2, 3.5]], atol=1e-6)


@pytest.mark.parametrize("bounds", ["1,2,3", "a,b,c,d,e,f", "0,0,0,1,1,-1", "nan", "-2", "", "0,0,0,1,1,inf"])
def test_bad_bounds(scene, bounds):
    with pytest.raises(BadInput, match="bounds"):
        _load(scene, bounds=bounds)


def test_intrinsics_in_pixels_of_another_size_and_smaller_pictures(copy):
    def change(data):
        del data["camera_angle_x"]
        data |= {"fl_x": 200.0, "fl_y": 210.0, "cx": 100.0, "cy": 90.0, "w": 4 * SIZE, "h": 4 * SIZE}

    _edit(copy, change)
    _edit(copy, change, "transforms_test.json")
    views, _ = _load(copy, bounds="6", max_side=20)
    assert views.images.shape[1:] == (20, 20, 4)
    c = views.cameras
    assert (c.fx[0], c.fy[0], c.cx[0], c.cy[0]) == pytest.approx((25, 26.25, 12.5, 11.25))


def test_plain_backgrounds_and_masks_stand_in_for_alpha(copy):
    exact, _ = _load(copy)
    for path, image in zip(sorted(copy.glob("*.png")), [None] * 12, strict=True):
        index = exact.names.index(path.stem)
        image = over_white(exact.images[index])
        if path.stem.startswith("test"):  # a noisy background, and a mask
            noise = np.random.default_rng(0).random(image.shape)
            alpha = exact.images[index][..., 3:]
            image = image * alpha + noise * (1 - alpha)
            save_png(copy / f"mask_{path.stem}.png", alpha[..., 0])
        save_png(path, image)

    def add_masks(data):
        for frame in data["frames"]:
            frame["mask_path"] = f"mask_{frame['file_path'][2:]}"

    with pytest.raises(BadInput, match="neither alpha nor a mask"):
        _load(copy)
    _edit(copy, add_masks, "transforms_test.json")
    views, _ = _load(copy, bounds="6")
    wrong = (views.images[..., 3] > 0.5) != (exact.images[..., 3] > 0.5)
    assert wrong[10:].sum() == 0 and wrong.mean() < 0.01


def test_digest_follows_content_not_place(scene, copy):
    before = views_digest(scene)
    assert before == views_digest(copy) and len(before) == 64
    assert _load(copy, digest=before)[0].images.shape[0] == 12
    picture = next(copy.glob("train_3.png"))
    save_png(picture, np.zeros((SIZE, SIZE, 4)))
    assert views_digest(copy) != before
    with pytest.raises(BadInput, match="changed"):
        _load(copy, digest=before)
    assert "folder" not in LoadViews(folder=str(copy), digest=before).model_dump()


def _set_pose(value):
    def change(data):
        data["frames"][1]["transform_matrix"] = value
    return change


SCALED = (np.diag([2, 2, 2, 1]) * 1.0).tolist()
MIRRORED = np.diag([-1.0, 1, 1, 1]).tolist()
NAN = [[float("nan")] * 4] * 4


@pytest.mark.parametrize(("change", "message"), [
    (lambda d: d.pop("frames"), "no frames"),
    (lambda d: d.update(frames=[]), "no frames"),
    (lambda d: d.update(frames=3), "no frames"),
    (lambda d: d["frames"][2].pop("file_path"), "frame 2 .*no file_path"),
    (lambda d: d["frames"][0].update(file_path="./nowhere"), "nowhere does not exist"),
    (_set_pose(None), "frame 1 .*not 4 x 4"),
    (_set_pose([[1, 2], [3]]), "not 4 x 4"),
    (_set_pose(NAN), "NaN"),
    (_set_pose(SCALED), "not rigid"),
    (_set_pose(MIRRORED), "not rigid"),
    (lambda d: d.pop("camera_angle_x"), "focal length"),
    (lambda d: d.update(camera_angle_x=-1), "focal length"),
    (lambda d: d.update(camera_angle_x="wide"), "camera_angle_x"),
    (lambda d: d.update(w=100, h=30), "says 100 x 30"),
    (lambda d: d.update(frames=d["frames"][:1]), "one direction"),
])
def test_bad_transforms(copy, change, message):
    _edit(copy, change)
    with pytest.raises(BadInput, match=message):
        _load(copy)


def test_bad_files(copy, tmp_path):
    with pytest.raises(BadInput, match="there is no folder .*nowhere"):
        views_digest(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no transforms.json"):
        views_digest(tmp_path / "empty")
    (copy / "train_1.png").write_bytes((copy / "train_1.png").read_bytes()[:200])
    with pytest.raises(BadInput, match="train_1.png is not a readable picture"):
        _load(copy)
    save_png(copy / "train_1.png", np.ones((SIZE, SIZE + 1, 4)))
    with pytest.raises(BadInput, match="another size"):
        _load(copy)
    from PIL import Image
    Image.fromarray(np.zeros((SIZE, SIZE), dtype=np.uint16)).save(copy / "train_1.png")
    with pytest.raises(BadInput, match="more than 8 bits"):
        _load(copy)
    (copy / "transforms_train.json").write_text("{")
    with pytest.raises(BadInput, match="not readable JSON"):
        _load(copy)


def test_masks_with_nothing_in_common(copy):
    for path in copy.glob("train_*.png"):
        save_png(path, np.concatenate([np.ones((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE, 1))], -1))
    with pytest.raises(BadInput, match="no volume in common"):
        _load(copy)


def test_lens_distortion_is_told(copy):
    _edit(copy, lambda d: d.update(k1=0.1))
    assert "k1" in _load(copy, bounds="6")[1].warnings[0]


def test_cameras_agree_with_the_object(scene):
    """The loaded views' own silhouettes hold the object's points: poses, intrinsics and frame fit together."""
    views, _ = _load(scene)
    points = np.random.default_rng(0).uniform(-0.8, 0.8, (4000, 3))
    points = points[scenes.inside(points)]
    placed = views.frame.to_field(points * 3 + [1, 2, 3])
    assert 0.85 < (placed.max(0) - placed.min(0)).max() / 1.5 < 1.02  # the hull of ten small masks is a little larger
    cameras: Cameras = views.cameras
    clip = np.einsum("nij,pj->npi", cameras.clip_from_world(), np.c_[placed, np.ones(len(placed))])
    # The scene's corners reach a quarter of a pixel past the picture from one camera: those count at its border.
    x = ((clip[..., 0] / clip[..., 3] + 1) / 2 * SIZE).astype(int).clip(0, SIZE - 1)
    y = ((1 - clip[..., 1] / clip[..., 3]) / 2 * SIZE).astype(int).clip(0, SIZE - 1)
    hit = np.stack([views.images[i, y[i], x[i], 3] > 0 for i in range(len(views))])
    assert hit.mean() > 0.995
