"""Joints from pictures: the built-in network and its training, what ships, the public estimators' code."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pose_helpers import walking_knight
from tiny_models import ListJob, write_card

from engine.artifacts import Picture, over_white
from engine.clips.poses import dwpose, estimate, people
from engine.clips.poses.estimate import has_figure
from engine.clips.poses.joints import AT, HEAD, MIRROR
from engine.clips.poses.network import PoseNet, expected, load_pose_net, save_pose_net
from engine.clips.poses.people import chosen_box
from engine.errors import BadInput
from engine.models.catalogue import model as entry
from engine.models.pose_estimation import BuiltinPoses, VitPose, _transformers
from engine.models.sets import BUILTIN_FOLDER, model_set
from engine.stages.estimate_poses import EstimatePoses, estimate_poses
from engine.toybox.render import render
from engine.toybox.scene import Spec, build
from engine.training.loop import Draw
from engine.training.pose_estimation import Clips, PoseEstimation, blots, compose


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped() -> Any:
    return model_set("builtin").load("pose_estimation")


@pytest.fixture(scope="module")
def knight() -> tuple[np.ndarray, np.ndarray]:
    return walking_knight()


# -- the network -------------------------------------------------------------------------------------------------------

def test_a_heat_map_s_mean_is_its_place() -> None:
    heat = torch.full((1, 1, 4, 8), -1e4)
    heat[0, 0, 1, 2] = 0
    assert expected(heat)[0, 0].tolist() == pytest.approx([2.5 / 8, 1.5 / 4])
    heat[0, 0, 2, 4] = float(np.log(3))  # three quarters of the weight
    assert expected(heat)[0, 0].tolist() == pytest.approx([(2.5 + 3 * 4.5) / 32, (1.5 + 3 * 2.5) / 16])
    told = blots(torch.tensor([[[0.3, 0.7]]]))
    assert float(told.sum()) == pytest.approx(1)
    assert expected(told.log().view(1, 1, 32, 32))[0, 0].tolist() == pytest.approx([0.3, 0.7], abs=1e-3)


def test_it_is_small_and_comes_back_from_its_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = PoseNet().eval()
    assert sum(p.numel() for p in net.parameters()) <= 300_000
    save_pose_net(net, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.55e6
    back = load_pose_net(tmp_path)
    x = torch.rand(2, 3, 128, 128)
    for a, b in zip(net(x), back(x), strict=True):
        assert (a - b).abs().max() < 0.05  # half precision
    (tmp_path / "config.json").write_text(json.dumps({"widths": [8, 8, 8, 8], "size": 128, "cells": 32}))
    with pytest.raises(BadInput, match="cannot read the pose estimator"):
        load_pose_net(tmp_path)


class Pointer(torch.nn.Module):
    """Finds the middle of what is green for the body, of what is blue for the head, and is sure of all joints."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.zeros(1))
        self.looks: list[int] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.looks.append(len(x))
        masses = torch.nn.functional.avg_pool2d(x[:, 1:], 4)
        return (masses[:, [int(k in HEAD) for k in range(18)]] + 1e-9).log(), torch.full((len(x), 18), 3.0)


def test_looks_lead_back_to_the_picture() -> None:
    """Squares, edges, the second look and the mirrored one: what is found is where it is in the picture."""
    picture = np.zeros((200, 400, 3), np.float32)
    picture[124:140, 288:304, 1] = 1
    picture[67:83, 298:314, 2] = 1
    net = Pointer()
    found = estimate.look(net, [picture])
    assert found.joints[0, AT["neck"]] == pytest.approx([296, 132], abs=0.7)
    assert found.joints[0, AT["nose"]] == pytest.approx([306, 75], abs=0.7)
    assert found.people.tolist() == [1] and len(net.looks) == 4  # two looks, each twice
    assert estimate.look(net, []).joints.shape == (0, 18, 2)
    assert has_figure(np.stack([np.full(18, 0.9), np.full(18, 0.1)])).tolist() == [True, False]


def test_figures_apart_on_a_plain_background_are_counted() -> None:
    picture = np.ones((120, 200, 3), np.float32)
    picture[30:100, 20:60] = 0.2
    picture[30:100, 130:170] = 0.4
    picture[90:100, 90:96] = 0.1  # a thing that lies about
    boxes = people.apart(picture)
    assert [(b.left, b.top, b.right, b.bottom) for b in boxes] == [(20, 30, 60, 100), (130, 30, 170, 100)]
    part, left, top = people.alone(picture, boxes, 1)
    assert (left, top) == (120, 20) and part.shape == (90, 60, 3)
    assert part[0, 0].tolist() == [1, 1, 1] and part[45, 30].tolist() == pytest.approx([0.4] * 3)
    noise = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    assert people.apart(noise) == []


# -- training ----------------------------------------------------------------------------------------------------------

def dotted_shard(folder: Path, figures: int = 6, frames: int = 4) -> Path:
    """A shard whose figures are dots: joint k is a disc of its own colour, so that where it goes can be seen."""
    rng = np.random.default_rng(0)
    path = folder / "shard_00000"
    path.mkdir(parents=True)
    joints = rng.uniform(40, 88, (figures, frames + 2, 18, 2)).astype(np.float32)
    rgba = np.zeros((figures, frames + 2, 128, 128, 4), np.uint8)
    yy, xx = np.mgrid[:128, :128] + 0.5
    for i in range(figures):
        for f in range(frames + 2):
            x, y = joints[i, f, AT["r_wrist"]]
            rgba[i, f][np.hypot(xx - x, yy - y) < 5] = (255, 0, 0, 255)
    cameras = np.tile(np.array([0, 0, 1.0 / np.tan(np.radians(20)), 40], np.float32), (figures, 3, 1))
    for name, array in (("rgba", rgba[:, :frames]), ("references", rgba[:, frames:]), ("joints", joints[:, :frames]),
                        ("reference_joints", joints[:, frames:]), ("cameras", cameras)):
        np.save(path / f"{name}.npy", array)
    (path / "specs.json").write_text(json.dumps([{}] * figures))
    return folder


def test_joints_go_where_the_picture_goes(tmp_path: Path) -> None:
    clips = Clips(dotted_shard(tmp_path))
    assert len(clips) == 6 and clips.frames == 6
    rng, seen = np.random.default_rng(3), 0
    for _ in range(6):
        pictures, places, inside, heights = compose(clips, rng, 16, empty=0)
        assert pictures.min() >= 0 and pictures.max() <= 1 and (heights > 0.75 * 0.59).all() and (heights < 0.95).all()
        red = (pictures[:, 0] > 0.6) & (pictures[:, 1] < 0.35) & (pictures[:, 2] < 0.35)
        for i in range(16):
            rows, columns = torch.nonzero(red[i], as_tuple=True)
            wrists = places[i, [AT["r_wrist"], AT["l_wrist"]]] * 128
            if 60 * float(heights[i]) < len(rows) < 160 * float(heights[i]) and rows.float().std() < 4:
                found = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5
                off = (wrists - found).norm(dim=1)
                assert off.min() < 1.0, (i, off)
                seen += 1
    assert seen >= 20  # the others stand before red backgrounds or at an edge
    empty = compose(clips, rng, 8, empty=1.0)
    assert empty[2].sum() == 0
    plain, places, inside, heights = compose(clips, np.random.default_rng(1), 4, rough=False)
    assert (plain[:, :, 0, 0] == 1).all() and torch.allclose(heights, torch.tensor(0.75)) and inside.all()


def test_a_training_learns_and_goes_on(tmp_path: Path) -> None:
    clips = Clips(dotted_shard(tmp_path))
    torch.manual_seed(0)
    task = PoseEstimation(clips, clips, batch=4, model=PoseNet((8, 8, 8, 8)))
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=5e-3)
    losses = []
    for _ in range(16):
        draw = Draw(0, 0.0, np.random.default_rng(0), torch.Generator(), torch.device("cpu"))
        loss, figures, n = task.loss(task.model, draw)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        assert n == 4 and {"place", "shape", "seen"} <= set(figures)
    assert losses[-1] < 0.8 * losses[0], losses
    sheet = task.sheet(task.model.eval())
    assert sheet is not None and sheet.size == (1024, 512)
    assert sorted(MIRROR) == list(range(18))


# -- what ships --------------------------------------------------------------------------------------------------------

def test_the_shipped_estimator_reaches_its_figures() -> None:
    card = json.loads((BUILTIN_FOLDER / "pose_estimation" / "card.json").read_text())
    assert card["metrics"]["median_percent"] <= 2 and card["metrics"]["mean_percent"] <= 4
    assert card["metrics"]["soft_median_percent"] <= 2 and card["metrics"]["soft_mean_percent"] <= 3
    assert card["metrics"]["missed"] <= 0.02 and card["metrics"]["imagined"] <= 0.03
    assert card["metrics"]["missed_drawn"] <= 0.05 and card["metrics"]["imagined_props"] <= 0.05
    assert entry("maquette/builtin-pose-estimation").parts == ("pose_estimation",)


def test_it_finds_a_knight_wherever_it_stands(shipped: Any, knight: tuple[np.ndarray, np.ndarray]) -> None:
    rgba, joints = knight
    frames = [over_white(f) for f in rgba]
    found = shipped(frames)
    assert found.people.tolist() == [1] * 4 and found.confidence.min() > 0.5
    assert np.linalg.norm(found.joints - joints, axis=-1).mean() / 96 < 0.04
    wide = np.ones((300, 700, 3), np.float32)
    wide[100:228, 500:628] = frames[0]
    moved = shipped([wide])
    assert np.linalg.norm(moved.joints[0] - joints[0] - [500, 100], axis=-1).mean() / 96 < 0.05
    nothing = shipped([np.ones((128, 128, 3), np.float32),
                       over_white(render([build(Spec("mug", "red"))], [_front()], 128).rgba[0])])
    assert nothing.people.tolist() == [0, 0]


def _front() -> Any:
    from engine.clips.poses.view import camera_at
    return camera_at(20, 15, 2.75, 40, (128, 128))


def test_two_knights_are_refused_until_one_is_chosen(shipped: Any, knight: tuple[np.ndarray, np.ndarray]) -> None:
    rgba, joints = knight
    two = np.ones((128, 256, 3), np.float32)
    two[:, :128], two[:, 128:] = over_white(rgba[0]), over_white(rgba[2])
    job = ListJob(model_set("builtin"))
    with pytest.raises(BadInput, match="2 figures are seen in the picture.*--person N"):
        estimate_poses(Picture(two), EstimatePoses(), job)
    for which, (place, shift) in enumerate(((joints[0], 0), (joints[2], 128))):
        poses = estimate_poses(Picture(two), EstimatePoses(person=which), job)
        assert np.linalg.norm(poses.joints[0] - place - [shift, 0], axis=-1).mean() / 96 < 0.05
    with pytest.raises(BadInput, match="there is no person 2"):
        estimate_poses(Picture(two), EstimatePoses(person=2), job)
    with pytest.raises(BadInput, match="no figure is seen in the picture"):
        estimate_poses(Picture(np.ones((90, 90, 3), np.float32)), EstimatePoses(), job)


# -- public estimators -------------------------------------------------------------------------------------------------

def test_vitpose_looks_at_the_person_that_was_found(tmp_path: Path) -> None:
    """Tiny random networks of the real classes: loading, boxes, layouts; and a box leads back to the picture."""
    from transformers import (
        RTDetrConfig,
        RTDetrForObjectDetection,
        RTDetrResNetConfig,
        VitPoseBackboneConfig,
        VitPoseConfig,
        VitPoseForPoseEstimation,
    )
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil
    torch.manual_seed(0)
    config = VitPoseConfig(backbone_config=VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        out_indices=[2]), num_labels=17)
    VitPoseForPoseEstimation(config).save_pretrained(tmp_path / "pose")
    net = _transformers("VitPoseForPoseEstimation", tmp_path / "pose")
    processor = VitPoseImageProcessorPil(size={"height": 64, "width": 48})

    def heat(pixel_values: torch.Tensor) -> Any:
        """The real network's shapes, the peak where the picture is brightest."""
        told = net(pixel_values=pixel_values)
        bright = torch.nn.functional.interpolate(pixel_values.mean(1, keepdim=True), told.heatmaps.shape[-2:])
        told.heatmaps = (0.001 * told.heatmaps + bright.clamp(min=0)).detach()
        return told
    model = VitPose(SimpleNamespace(__call__=None, parameters=net.parameters), processor)
    object.__setattr__(model, "net", _Called(heat, net))
    picture = np.zeros((120, 100, 3), np.float32)
    picture[70:78, 40:48] = 1
    found = model([picture])
    assert found.people.tolist() == [1] and found.joints.shape == (1, 18, 2)
    assert found.joints[0, AT["nose"]] == pytest.approx([44, 74], abs=4)
    neck = (found.joints[0, AT["r_shoulder"]] + found.joints[0, AT["l_shoulder"]]) / 2
    np.testing.assert_allclose(found.joints[0, AT["neck"]], neck, atol=1e-4)

    detection = RTDetrForObjectDetection(RTDetrConfig(
        backbone_config=RTDetrResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic",
                                           out_features=["stage2", "stage3", "stage4"]),
        encoder_in_channels=[8] * 3, encoder_hidden_dim=16, d_model=16, num_queries=10, decoder_layers=1,
        encoder_layers=1, decoder_attention_heads=2, encoder_attention_heads=2, decoder_in_channels=[16] * 3,
        decoder_ffn_dim=16, encoder_ffn_dim=16, num_labels=80, use_pretrained_backbone=False)).eval()
    detection.config.id2label = {i: "person" if i == 3 else f"kind {i}" for i in range(80)}
    seeing = replace(model, detector=detection)
    assert seeing([picture]).people.tolist() == [0]  # an untrained detector is sure of nothing

    def two(pixel_values: torch.Tensor) -> Any:
        logits = torch.full((1, 3, 80), -9.0)
        logits[0, 0, 3], logits[0, 1, 3], logits[0, 2, 5] = 4, 3, 5
        return SimpleNamespace(logits=logits, pred_boxes=torch.tensor([[[.75, .5, .5, 1.0], [.2, .6, .3, .5],
                                                                        [.5, .5, 1, 1]]]))
    both = replace(model, detector=_Called(two, detection))
    np.testing.assert_allclose(both._persons(picture), [[50, 0, 100, 120], [5, 42, 35, 102]], atol=1e-3)
    assert both([picture]).people.tolist() == [2]
    boxes = both._persons(picture)
    assert chosen_box(boxes, None)[0] == 50 and chosen_box(boxes, 0)[0] == pytest.approx(5)
    assert chosen_box(boxes, 1)[0] == 50
    with pytest.raises(BadInput, match="cannot be read as VitPoseForPoseEstimation"):
        _transformers("VitPoseForPoseEstimation", tmp_path)


class _Called(torch.nn.Module):
    """A module that answers by a function, with another's parameters and configuration."""

    def __init__(self, answer: Any, of: Any) -> None:
        super().__init__()
        self.answer, self.of, self.config = answer, of, of.config

    def forward(self, **told: Any) -> Any:
        return self.answer(**told)


def test_dwpose_s_numbers_by_hand() -> None:
    answer = np.full((1, 8400, 85), 0.0)
    # In the first grid (80 x 80, stride 8) cell 80 * 20 + 10: its middle half a cell on, 10 x 20 cells large.
    answer[0, 80 * 20 + 10, :6] = [0.5, 0.5, np.log(10), np.log(20), 0.9, 0.8]
    answer[0, 80 * 20 + 11, :6] = [-0.4, 0.5, np.log(10), np.log(20), 0.9, 0.7]  # nearly the same one, less sure
    answer[0, 6400 + 5, :6] = [0, 0, 0, 0, 0.9, 0.1]  # not sure
    answer[0, 6400 + 9, :7] = [0, 0, 1, 1, 0.9, 0.1, 0.9]  # another kind
    boxes = dwpose.persons(answer, (320, 640))
    np.testing.assert_allclose(boxes, [[84 - 40, 164 - 80, 84 + 40, 164 + 80]])
    x = dwpose.detector_input(np.ones((10, 20, 3), np.float32))
    assert x.shape == (1, 3, 640, 640) and x[0, :, 100, 100].tolist() == [255] * 3 and x[0, 0, 400, 9] == 114
    picture = np.zeros((384, 288, 3), np.float32)
    picture[..., 0] = 1
    seen, square = dwpose.estimator_input(picture, np.array([28.8, 38.4, 259.2, 345.6]))
    assert square == pytest.approx((0, 0, 288, 384)) and seen.shape == (1, 3, 384, 288)
    assert seen[0, :, 200, 100] == pytest.approx([(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    over_x, over_y = np.zeros((1, 133, 576)), np.zeros((1, 133, 768))
    over_x[0, :, 100], over_y[0, :, 300] = 0.8, 0.6
    table = dwpose.places(over_x, over_y, (10.0, 20.0, 144.0, 192.0))
    assert table[5].tolist() == pytest.approx([10 + 50 * 0.5, 20 + 150 * 0.5, 0.6])
    model = dwpose.DwPose(lambda x: [answer], lambda x: [over_x, over_y])
    found = model([np.zeros((320, 640, 3), np.float32)])
    assert found.people.tolist() == [1] and found.confidence[0] == pytest.approx([0.6] * 18)


def test_dwpose_needs_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BadInput, match="onnxruntime is not installed.*vitpose"):
        dwpose.load({}, "yzd-v/DWPose")


def test_the_role_is_known_and_loads(tmp_path: Path) -> None:
    assert entry("usyd-community/vitpose-base-simple").role == "pose_estimation"
    assert entry("yzd-v/DWPose").loads and entry("usyd-community/vitpose-base-simple").loads
    save_pose_net(PoseNet((8, 8, 8, 8)), tmp_path / "pose_estimation")
    write_card(tmp_path / "pose_estimation", trained_on={})
    found = replace(model_set("builtin"), folder=tmp_path).load("pose_estimation", "cpu")
    assert isinstance(found, BuiltinPoses) and found.net.widths == (8, 8, 8, 8)
