"""Videos and files to poses: frames once and in order, gaps said or refused, and the stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pose_helpers import armature, bvh_text, walking_knight
from tiny_models import ListJob

from engine.artifacts import Picture, over_white
from engine.clip_artifacts import Clip, Poses
from engine.clips.encode import write_mp4
from engine.clips.poses import driving
from engine.clips.poses.estimate import Estimated
from engine.clips.poses.joints import AT
from engine.clips.poses.openpose import write_openpose
from engine.clips.poses.sources import pose_source
from engine.clips.poses.toybox_motion import toybox_poses
from engine.clips.poses.video import open_frames
from engine.clips.poses.view import Shot
from engine.errors import BadInput
from engine.models.sets import model_set
from engine.stages.estimate_poses import EstimateClipPoses, EstimatePoses, estimate_clip_poses, estimate_poses
from engine.stages.load_poses import LoadPoses, load_poses, roles
from engine.stages.retarget_poses import RetargetPoses, retarget_poses
from engine.toybox import motions


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def knight() -> tuple[np.ndarray, np.ndarray]:
    return walking_knight()


def test_a_picture_s_figure_takes_a_motion_over(knight: tuple[np.ndarray, np.ndarray]) -> None:
    rgba, joints = knight
    job = ListJob(model_set("builtin"))
    figure = estimate_poses(Picture(rgba[0], azimuth_deg=20.0), EstimatePoses(), job)
    assert figure.size == (128, 128) and len(figure) == 1 and figure.meta["azimuth_deg"] == 20
    poses = load_poses(LoadPoses(motion="wave", frames=8, width=256, height=256), ListJob())
    made = retarget_poses(poses, figure, RetargetPoses(), job)
    assert made.size == (128, 128) and made.loop and made.meta["retargeted"]["azimuth_deg"] == 20
    assert abs(made.joints[:, AT["neck"], 0].mean() - joints[0, AT["neck"], 0]) < 6
    plain = retarget_poses(poses, figure, RetargetPoses(limbs=False), job)
    np.testing.assert_allclose(plain.joints, poses.joints / 2, atol=1e-4)


# -- videos ------------------------------------------------------------------------------------------------------------

class Fake:
    """Finds what it is told to; ``asked`` counts pictures."""

    name = "a fake"

    def __init__(self, counts: list[int]) -> None:
        self.counts, self.asked = counts, 0

    def __call__(self, pictures: Any, person: int | None = None) -> Estimated:
        n = len(pictures)
        counts = np.array(self.counts[self.asked:self.asked + n])
        own = np.arange(self.asked, self.asked + n, dtype=np.float32)
        self.asked += n
        joints = np.broadcast_to(own[:, None, None], (n, 18, 2)).copy()
        return Estimated(joints, np.where(counts[:, None] > 0, 0.9, 0.0) * np.ones((1, 18)), counts)


def video(path: Path, n: int = 24, size: tuple[int, int] = (48, 64), fps: float = 24.0) -> Path:
    frames = [np.full((*size, 3), 8 * i, np.uint8) for i in range(n)]
    write_mp4(path, frames, fps)
    return path


def test_every_frame_of_a_video_comes_once_in_order(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    frames = open_frames(path)
    pictures = list(frames.pictures)
    assert (len(pictures), frames.size, frames.fps, frames.scale) == (24, (48, 64), 24.0, 1.0)
    np.testing.assert_allclose([p.mean() * 255 for p in pictures], 8 * np.arange(24), atol=3)
    slower = open_frames(path, 6)
    assert slower.fps == 6
    np.testing.assert_allclose([p.mean() * 255 for p in slower.pictures], 8 * np.arange(0, 24, 4), atol=3)
    assert slower.count == 6
    some = open_frames(path, 12, start_s=0.5, most=3)
    np.testing.assert_allclose([p.mean() * 255 for p in some.pictures], 8 * np.array([12, 14, 16]), atol=3)
    with pytest.raises(BadInput, match="start_s leaves all of them out"):
        open_frames(path, start_s=2.0)


def test_a_folder_of_pictures_is_a_video(tmp_path: Path) -> None:
    from engine.artifacts import save_png
    for i in (1, 2, 10):
        save_png(tmp_path / f"f{i}.png", np.full((40, 30, 3), i / 20))
    frames = open_frames(tmp_path, folder_fps=10)
    assert [round(float(p.mean()) * 20) for p in frames.pictures] == [1, 2, 10] and frames.fps == 10
    save_png(tmp_path / "f11.png", np.zeros((40, 31, 3)))
    with pytest.raises(BadInput, match=r"f11\.png is 31 x 40 pixels, f1\.png 30 x 40"):
        list(open_frames(tmp_path).pictures)
    (tmp_path / "f3.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match=r"f3\.png"):
        list(open_frames(tmp_path).pictures)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match="holds no pictures"):
        open_frames(empty)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    path, noise = tmp_path / "a.mp4", np.random.default_rng(0)
    write_mp4(path, [noise.integers(0, 255, (240, 320, 3), dtype=np.uint8) for _ in range(24)], 24)
    data = path.read_bytes()
    for name, content, told in (("empty", b"", "no video that can be read"), ("words", b"hello" * 99, "no video that"),
                                ("cut", data[:len(data) // 2], "breaks off|cannot be decoded|no frame that can"),
                                ("head", data[:200], "no video that can be read|no frame that can")):
        (tmp_path / f"{name}.mp4").write_bytes(content)
        with pytest.raises(BadInput, match=told) as caught:
            list(open_frames(tmp_path / f"{name}.mp4").pictures)
        assert f"{name}.mp4" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="there is no video"):
        open_frames(tmp_path / "none.mp4")


def test_gaps_in_a_video_are_filled_and_said_or_refused(tmp_path: Path) -> None:
    def run(counts: list[int], **told: Any) -> Poses:
        frames = open_frames(video(tmp_path / "a.mp4"))
        return driving.poses_of_frames(frames, Fake(counts), name="a.mp4", **told)
    poses = run([1] * 10 + [0] * 3 + [1] * 11)
    assert np.isnan(poses.joints[10:13]).all() and poses.fps == 24 and poses.size == (48, 64)
    assert "no figure is seen in 3 of 24 frames of a.mp4 (first in frame 10)" in poses.meta["warnings"][0]
    whole = driving.whole(poses, 4)
    assert whole.joints[:, 0, 0].tolist() == list(range(24)) and "interpolated" in whole.meta["warnings"][1]
    with pytest.raises(BadInput, match="the neck of the poses is missing in frames 10 to 12"):
        driving.whole(poses, 2)
    for counts, told in (([0] * 24, "in any of the 24 frames of a.mp4"), ([1] * 14 + [0] * 10, "in 10 of 24 frames"),
                         ([1] * 10 + [2] * 14, r"several figures in 14 of 24 frames \(first in frame 10\)")):
        with pytest.raises(BadInput, match=told):
            run(counts)
    assert len(run([1] * 22 + [2] * 2)) == 24  # a passing mistake
    assert len(run([2] * 24, person=1)) == 24
    with pytest.raises(BadInput, match="there is no person 3"):
        run([2] * 24, person=3)


def test_a_walking_knight_s_video_becomes_poses(tmp_path: Path, knight: tuple[np.ndarray, np.ndarray]) -> None:
    rgba, joints = knight
    order = [0, 1, 2, 3, 0, 1, 2, 3]
    path = tmp_path / "knight.mp4"
    write_mp4(path, [np.round(over_white(rgba[i]) * 255).astype(np.uint8) for i in order], 8)
    job = ListJob(model_set("builtin"))
    p = LoadPoses(**pose_source(path), smoothing=0.0, width=128, height=128)
    assert roles(p) == ("pose_estimation",) and roles(LoadPoses(motion="walk")) == ()
    poses = load_poses(p, job)
    assert len(poses) == 8 and poses.fps == 8 and poses.meta["estimator"] == "the built-in pose estimator"
    assert np.linalg.norm(poses.joints - joints[order], axis=-1).mean() / 96 < 0.05
    clip = Clip(rgba, 8.0, True)
    again = estimate_clip_poses(clip, EstimateClipPoses(), job)
    assert again.loop and np.linalg.norm(again.joints - joints, axis=-1).mean() / 96 < 0.04


# -- load_poses --------------------------------------------------------------------------------------------------------

def test_poses_by_a_motion_s_name() -> None:
    job = ListJob()
    poses = load_poses(LoadPoses(motion="jump", frames=10, fps=20, azimuth_deg=-30, amplitude=1.2), job)
    same = toybox_poses("jump", frames=10, fps=20, amplitude=1.2, shot=Shot(-30))
    np.testing.assert_array_equal(poses.joints, same.joints)
    assert poses.loop and poses.fps == 20 and job.metrics["frames"] == 10 and job.metrics["joints_known"] == 1
    assert not load_poses(LoadPoses(motion="jump", loop="no"), job).loop
    for told, message in (({}, "none is given"), ({"motion": "walk", "path": "x.bvh"}, "not from both"),
                          ({"motion": "wlk"}, "Did you mean walk"), ({"path": "no.json"}, "there are no poses"),
                          ({"motion": "walk", "pose_width": 64}, "belong together")):
        with pytest.raises(BadInput, match=message):
            load_poses(LoadPoses(**told), job)


def test_poses_from_each_kind_of_file(tmp_path: Path) -> None:
    walk = toybox_poses("walk", frames=24, fps=24)
    write_openpose(walk, tmp_path / "walk")
    (tmp_path / "walk.bvh").write_text(bvh_text([motions.pose("walk", k / 24) for k in range(24)], fps=24))
    (tmp_path / "walk.json").write_text(json.dumps(armature([motions.pose("walk", k / 24) for k in range(24)])))
    for name in ("walk", "walk.bvh", "walk.json"):
        job = ListJob()
        source = pose_source(tmp_path / name)
        poses = load_poses(LoadPoses(**source, width=96, height=96), job)
        assert (len(poses), poses.size) == (24, (96, 96)) and np.isfinite(poses.joints[:, :14]).all()
        assert poses.meta["kind"] == source["kind"] and poses.meta["sha256"] == source["digest"]
        closed = load_poses(LoadPoses(**source, loop="close"), job)
        assert closed.loop and closed.meta["loop"]["method"] == "was closed"
        some = load_poses(LoadPoses(**source, frames=5, start_s=0.25), job)
        rate = 12 if name == "walk" else 24
        np.testing.assert_allclose(some.joints, load_poses(LoadPoses(**source), job).joints[rate // 4:rate // 4 + 5])
        with pytest.raises(BadInput, match="begin earlier"):
            load_poses(LoadPoses(**source, start_s=9), job)
        with pytest.raises(BadInput, match="changed since the run was planned"):
            load_poses(LoadPoses(**{**source, "digest": "0" * 64}), job)
    slow = load_poses(LoadPoses(**pose_source(tmp_path / "walk.bvh"), fps=12), ListJob())
    assert len(slow) == 12 and slow.fps == 12 and "24 frames at 24" in slow.meta["resampled"]
    boxed = load_poses(LoadPoses(**pose_source(tmp_path / "walk"), width=64, height=128), job)
    assert any("empty bars above and below" in w for w in job.warnings) and boxed.size == (128, 64)
    with pytest.raises(BadInput, match="another shape"):
        load_poses(LoadPoses(**pose_source(tmp_path / "walk"), width=64, other_shape="refuse"), job)


def test_one_frame_and_ten_thousand(tmp_path: Path) -> None:
    one = toybox_poses("walk", frames=1)
    write_openpose(one, tmp_path / "one.json")
    poses = load_poses(LoadPoses(**pose_source(tmp_path / "one.json"), loop="close", smoothing=2), ListJob())
    np.testing.assert_allclose(poses.joints, one.joints, atol=1e-4)
    many = Poses(np.tile(toybox_poses("walk", frames=10).joints, (1000, 1, 1)), (128, 128))
    many.joints[100:104, AT["l_knee"]] = np.nan
    write_openpose(many, tmp_path / "many.json")
    long = load_poses(LoadPoses(**pose_source(tmp_path / "many.json")), ListJob())
    assert len(long) == 10_000 and np.isfinite(long.joints).all()
    frame = (tmp_path / "one.json").read_text().strip().removeprefix("[").removesuffix("]")
    (tmp_path / "many.json").write_text("[" + ",".join([frame] * 10_001) + "]")
    with pytest.raises(BadInput, match="10,001 frames"):
        load_poses(LoadPoses(**pose_source(tmp_path / "many.json")), ListJob())


def test_poses_that_lack_a_joint_are_said_or_refused(tmp_path: Path) -> None:
    poses = toybox_poses("walk", frames=20)
    poses.joints[:, AT["r_ear"]] = np.nan
    poses.joints[4:6, AT["l_wrist"]] = np.nan
    write_openpose(poses, tmp_path / "a.json")
    job = ListJob()
    found = load_poses(LoadPoses(**pose_source(tmp_path / "a.json")), job)
    assert np.isnan(found.joints[:, AT["r_ear"]]).all() and np.isfinite(found.joints[:, AT["l_wrist"]]).all()
    assert any("2 of 20 frames were interpolated" in w for w in job.warnings)
    assert any("left out where they are not: r_ear" in w for w in job.warnings)
    poses.joints[3:15, [AT["r_hip"], AT["l_hip"]]] = np.nan
    write_openpose(poses, tmp_path / "a.json")
    with pytest.raises(BadInput, match=r"the hips of a\.json are missing in frames 3 to 14"):
        load_poses(LoadPoses(**pose_source(tmp_path / "a.json")), job)
    assert len(load_poses(LoadPoses(**pose_source(tmp_path / "a.json"), max_gap=12), job)) == 20
