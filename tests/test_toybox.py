"""The toybox: closed geometry, splits, captions, ground truth against closed form, figures and their motions."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import BadInput
from engine.space import Cameras
from engine.toybox import motions
from engine.toybox.captions import caption
from engine.toybox.characters import (
    HAIR,
    HATS,
    ROLES,
    CharacterSpec,
    _dressed,
    _posed,
    build_character,
    sample_character,
)
from engine.toybox.generate import framed, scene_of, write_shard
from engine.toybox.primitives import Solid, box
from engine.toybox.props import HELD_OUT_KINDS, PROPS, TRAINED_KINDS
from engine.toybox.render import render
from engine.toybox.scene import (
    MATERIALS,
    PATTERNS,
    RGB,
    SIZES,
    STYLES,
    Scene,
    Spec,
    assemble,
    build,
    is_held_out_pair,
    sample_spec,
)
from engine.toybox.sheet import write_sheet
from engine.toybox.skeleton import BONES, KEYPOINT_NAMES, STANDING, Pose, frames, keypoints, project
from engine.toybox.vocabulary import GROUPS, WORDS

torch.set_num_threads(1)
PHASES = (0.0, .2, .45, .7)


def check_solid(solid: Solid, name: str) -> None:
    """Every edge joins exactly two faces that agree on the outside, and that outside is out."""
    f, v = solid.faces, solid.vertices
    edges = np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
    key, back = edges @ [len(v), 1], edges @ [1, len(v)]
    assert len(np.unique(key)) == len(key), f"{name}: an edge is used twice in one direction"
    np.testing.assert_array_equal(np.sort(key), np.sort(back), err_msg=f"{name}: an edge is open")
    a, b, c = (v[f[:, k]] - v.mean(0) for k in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 > 1e-7, f"{name}: no positive volume"
    facing = np.einsum("fci,fi->fc", solid.normals, np.cross(b - a, c - a))
    assert (facing.mean(1) >= -1e-9).all(), f"{name}: a normal points in"
    np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=-1), 1, atol=1e-5)


def figure(role: str, **more: object) -> CharacterSpec:
    return CharacterSpec(role, "red", **{"color2": "blue", "seed": 3, **more})  # type: ignore[arg-type]


def same(a: Scene, b: Scene) -> bool:
    fields = ("vertices", "faces", "normals", "uv", "slot", "part", "palette")
    return all(getattr(a, k).tobytes() == getattr(b, k).tobytes() for k in fields) and a.part_names == b.part_names


# -- geometry of props and figures


@pytest.mark.parametrize("kind", PROPS)
def test_props_are_closed_and_normalised(kind: str) -> None:
    for seed in range(2):
        for solid in PROPS[kind](np.random.default_rng(seed)):
            check_solid(solid, f"{kind} {seed} {solid.part}")
    for size in SIZES:
        v = build(Spec(kind, "red", size=size, seed=1)).vertices
        lo, hi = v.min(0), v.max(0)
        np.testing.assert_allclose((hi - lo).max(), 1.5, atol=1e-6)
        np.testing.assert_allclose(lo + hi, 0, atol=1e-6)


def test_the_box_is_large_enough() -> None:
    assert len(TRAINED_KINDS) >= 24 and len(RGB) == 12 and len(MATERIALS) == 6 and len(ROLES) >= 10
    assert len(motions.MOTIONS) >= 10


@pytest.mark.parametrize("role", ROLES)
def test_figures_are_closed_in_every_pose(role: str) -> None:
    for hair, hat, pose in (("ponytail", "hat", STANDING), ("long", "cap", motions.pose("run", .25))):
        spec = figure(role, hair=hair, hat=hat, size="tall")
        for solid in _posed(spec, _dressed(spec), frames(pose, .85, 1.25), .85, 1.25):
            check_solid(solid, f"{role} {solid.part}")


@pytest.mark.parametrize("role", ROLES)
def test_figures_keep_their_scale_and_place(role: str) -> None:
    rest = build_character(figure(role), STANDING)
    assert rest.vertices[:, 1].min() == pytest.approx(-.75, abs=.012)  # boots stand, to the roundness of a sole
    assert rest.vertices[:, 1].max() == pytest.approx(.75, abs=1e-6)
    head = {"nose", "l_eye", "r_ear", "neck"}
    rows = [i for i, k in enumerate(KEYPOINT_NAMES) if k in head]
    want = np.linalg.norm(rest.joints[rows][:, None] - rest.joints[rows], axis=-1)
    for motion, phase in (("jump", .5), ("cheer", .25), ("spin", .3), ("dance", .75)):
        scene = build_character(figure(role, motion=motion, phase=phase))
        assert np.abs(scene.vertices).max() < 1, "outside the field's cube"
        got = np.linalg.norm(scene.joints[rows][:, None] - scene.joints[rows], axis=-1)
        np.testing.assert_allclose(got, want, atol=1e-5)
        ankles = scene.joints[[KEYPOINT_NAMES.index("r_ankle"), KEYPOINT_NAMES.index("l_ankle")]]
        assert ankles[:, 1].min() > -.75


# -- determinism, splits, words


def test_equal_specs_give_equal_bytes() -> None:
    for spec in (sample_spec("train", 5), sample_spec("train", 9)):
        assert same(build(spec), build(replace(spec)))
        assert not same(build(spec), build(replace(spec, seed=spec.seed + 1)))
    for index in (0, 4, 9):
        spec = sample_character("train", index)
        assert spec == sample_character("train", index)
        a, b = build_character(spec), build_character(replace(spec))
        assert same(a, b) and a.joints.tobytes() == b.joints.tobytes()
    scene = build(sample_spec("train", 3))
    camera = Cameras.orbit(20, 20, 3, 45, 32)
    assert render([scene], [camera], 32).rgba.tobytes() == render([scene], [camera], 32).rgba.tobytes()
    json.dumps([sample_spec("train", 0).to_json(), sample_character("train", 0).to_json()])


def test_splits_are_disjoint() -> None:
    n = 450
    train = [sample_spec("train", i) for i in range(n)]
    held = [sample_spec("held_out", i) for i in range(n)]
    kinds = [sample_spec("held_out_kinds", i) for i in range(60)]
    assert {s.kind for s in train} == {s.kind for s in held} == set(TRAINED_KINDS)
    assert {s.kind for s in kinds} == set(HELD_OUT_KINDS) and not set(HELD_OUT_KINDS) & set(TRAINED_KINDS)
    assert not any(is_held_out_pair(s.kind, s.color) for s in train)
    unseen = sum(is_held_out_pair(s.kind, s.color) for s in held) / n
    assert .15 < unseen < .45
    assert not {s.seed for s in train} & {s.seed for s in held}
    assert {(s.color, s.material) for s in train} == {(c, m) for c in RGB for m in MATERIALS}

    figures, others = ([sample_character(split, i) for i in range(n)] for split in ("train", "held_out"))
    assert {s.kind for s in figures} == {s.kind for s in others} == set(ROLES)
    assert not any(is_held_out_pair(s.kind, s.color) for s in figures)
    assert sum(is_held_out_pair(s.kind, s.color) for s in others) / n > .1
    assert not {s.seed for s in figures} & {s.seed for s in others}
    assert {s.motion for s in figures} == set(motions.MOTIONS)
    share = np.mean([is_held_out_pair(k, c) for k in (*TRAINED_KINDS, *ROLES) for c in RGB])
    assert 1 / 32 < share < 1 / 8


def test_captions_stay_inside_the_vocabulary() -> None:
    assert len(WORDS) == len(set(WORDS)) and set(ROLES) <= set(WORDS)
    rng, seen = random.Random(0), set()
    for i in range(700):
        spec = (sample_spec if i % 2 else sample_character)(("train", "held_out")[i // 2 % 2], i)
        azimuth, elevation = rng.uniform(0, 360), rng.uniform(-10, 60)
        text = caption(spec.to_json(), azimuth, elevation, rng)
        words = re.findall(r"[a-z0-9]+", text)
        seen |= set(words)
        assert set(words) <= set(WORDS), text
        assert spec.color in words and spec.kind in words, text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |,,", text), text
    assert set(RGB) | set(ROLES) | set(TRAINED_KINDS) <= seen
    assert {"front", "side", "back", "top", "walking", "armour", "dress"} <= seen
    assert set(HELD_OUT_KINDS) <= set(GROUPS["kinds"])


def test_a_figure_says_what_it_wears_and_does() -> None:
    assert figure("knight", motion="walk", seed=1).to_json()["caption"] in (
        "a knight in red armour, walking", "a knight wearing red armour, walking")
    assert figure("robot", motion="wave", style="low poly").to_json()["caption"] == "a low poly red robot, waving"
    said = figure("astronaut", motion="jump").to_json()
    assert said["caption"].startswith("an astronaut ") and said["role"] == said["kind"] == "astronaut"


# -- ground truth


def ray_box(camera: Cameras, half: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Closed form: (hit (h, w), depth along the view axis (h, w), outward normal (h, w, 3)) of a centred box."""
    origin, direction = (a[0].astype(np.float64) for a in camera.rays())
    with np.errstate(divide="ignore"):
        t0, t1 = (-half - origin) / direction, (half - origin) / direction
    enter, leave = np.minimum(t0, t1), np.maximum(t0, t1)
    axis, t = enter.argmax(-1), enter.max(-1)
    hit = t < leave.min(-1)
    normal = np.eye(3)[axis] * -np.sign(np.take_along_axis(direction, axis[..., None], -1))
    forward = -camera.camera_to_world[0, :3, 2]
    return hit, np.where(hit, t * (direction @ forward), 0), np.where(hit[..., None], normal, 0)


@pytest.mark.parametrize("azimuth, elevation", [(0, 0), (31, 17), (200, -9), (77, 58)])
def test_rendered_truth_of_a_box_is_exact(azimuth: float, elevation: float) -> None:
    half = np.array([.75, .45, .6])
    solid = box(*(2 * half).tolist())
    scene = assemble(Spec("crate", "red"), [solid], RGB["red"], np.random.default_rng(0))
    size = 45
    camera = Cameras.orbit(azimuth, elevation, 3.1, 42, size)
    drawn = render([scene], [camera], size)
    hit, depth, normal = ray_box(camera.resized(2 * size, 2 * size), half)
    alpha = hit.reshape(size, 2, size, 2).mean((1, 3))
    np.testing.assert_array_equal(drawn.rgba[0, ..., 3], alpha.astype(np.float32))
    at = hit[1::2, 1::2]
    np.testing.assert_array_equal(drawn.part[0], np.where(at, 0, -1))
    np.testing.assert_allclose(drawn.depth[0], depth[1::2, 1::2], atol=1e-4)
    np.testing.assert_allclose(drawn.normal[0], normal[1::2, 1::2], atol=1e-5)
    assert .05 < at.mean() < .6


def test_colour_is_the_surface_s_own() -> None:
    """The same point of the same face looks the same from two sides, and a plain red face is the palette's red times
    one light."""
    scene = assemble(Spec("crate", "red", "rubber"), [box(1, 1, 1)], RGB["red"], np.random.default_rng(0))
    seen = []
    for azimuth in (-20, 25):
        camera = Cameras.orbit(azimuth, 5, 4, 30, 64)
        drawn = render([scene], [camera], 64)
        front = (drawn.normal[0, ..., 2] > .99) & (drawn.rgba[0, ..., 3] == 1)
        inner = front & np.roll(front, 1, 1) & np.roll(front, -1, 1) & np.roll(front, 1, 0) & np.roll(front, -1, 0)
        seen.append(drawn.rgba[0][inner][:, :3])
    np.testing.assert_allclose(seen[0], np.broadcast_to(seen[0][0], seen[0].shape), atol=1e-5)
    np.testing.assert_allclose(seen[1][0], seen[0][0], atol=1e-5)
    ratio = seen[0][0] / scene.palette[0]
    np.testing.assert_allclose(ratio, ratio[0], atol=1e-4)


def test_scenes_of_a_batch_do_not_mix() -> None:
    scenes = [build(sample_spec("train", 2)), build_character(sample_character("train", 6))]
    cameras = [Cameras.orbit([10, 200], 20, 3, 45, 24), Cameras.orbit(-30, 10, 3, 45, 24)]
    both = render(scenes, cameras, 24)
    for start, scene, camera in ((0, scenes[0], cameras[0]), (2, scenes[1], cameras[1])):
        alone = render([scene], [camera], 24)
        for name in ("rgba", "depth", "normal", "part"):
            got = getattr(both, name)[start:start + len(camera)]
            np.testing.assert_allclose(got, getattr(alone, name), atol=1e-6)


@pytest.mark.parametrize("scene", [build(sample_spec("train", 17)), build_character(sample_character("train", 3))])
def test_framed_is_exact(scene: Scene) -> None:
    for azimuth, elevation, fov, fraction in ((0, 0, 49.1, .7), (133, 35, 31, .55), (250, -8, 40, .9)):
        camera = framed(scene, azimuth, elevation, fov, fraction, 96)
        p = project(scene.vertices, camera)[0, :, :2]
        lo, hi = p.min(0), p.max(0)
        np.testing.assert_allclose((hi - lo).max(), fraction * 96, atol=2e-3)
        np.testing.assert_allclose((lo + hi) / 2, 48, atol=2e-3)
        solid = render([scene], [camera], 96).rgba[0, ..., 3] > 0
        rows, columns = np.nonzero(solid)
        drawn = max(np.ptp(rows), np.ptp(columns)) + 1
        assert abs(drawn - fraction * 96) <= 2


# -- skeleton and motions


def mirrored(joints: np.ndarray) -> np.ndarray:
    swap = {"r": "l", "l": "r"}
    order = [KEYPOINT_NAMES.index(swap[k[0]] + k[1:]) if k[1] == "_" else i for i, k in enumerate(KEYPOINT_NAMES)]
    return joints[order] * [-1, 1, 1]


def test_skeleton_by_hand() -> None:
    at = dict(zip(KEYPOINT_NAMES, keypoints(frames(Pose())), strict=True))
    assert len(at) == 18 and at["r_wrist"][0] < 0 < at["l_wrist"][0] and at["nose"][2] > .2
    np.testing.assert_allclose(at["neck"], [0, .80, 0], atol=1e-12)
    at = dict(zip(KEYPOINT_NAMES, keypoints(frames(Pose({"r_upper_arm": (0, 90, 0), "l_upper_arm": (90, 0, 0),
                                                         "l_forearm": (90, 0, 0)}))), strict=True))
    np.testing.assert_allclose(at["r_wrist"], [-.52, .75, 0], atol=1e-12)  # the right arm out: toward -X
    np.testing.assert_allclose(at["l_elbow"], [.20, .75, .17], atol=1e-12)  # the left one forward: toward +Z
    np.testing.assert_allclose(at["l_wrist"], [.20, .90, .17], atol=1e-12)  # its forearm up
    turned = keypoints(frames(Pose({"pelvis": (0, 90, 0)})))
    assert turned[0, 0] > .2  # the nose to the figure's left: +X


def test_project_equals_the_cameras_matrix() -> None:
    camera = Cameras.orbit([0, 75, 190], [5, 40, -10], [3, 2.5, 4], 47, 80)
    points = np.random.default_rng(0).uniform(-.7, .7, (9, 3))
    clip = np.einsum("nij,kj->nki", camera.clip_from_world().astype(np.float64), np.c_[points, np.ones(9)])
    got = project(points, camera)
    np.testing.assert_allclose(got[..., 0], (clip[..., 0] / clip[..., 3] + 1) * 40, atol=1e-3)
    np.testing.assert_allclose(got[..., 1], (1 - clip[..., 1] / clip[..., 3]) * 40, atol=1e-3)
    np.testing.assert_allclose(got[..., 2], clip[..., 3], atol=1e-5)


@pytest.mark.parametrize("motion", motions.MOTIONS)
def test_motions_loop_and_move_smoothly(motion: str) -> None:
    def joints(phase: float, **more: float) -> np.ndarray:
        return keypoints(frames(motions.pose(motion, phase, **more)))  # type: ignore[arg-type]

    assert joints(0).tobytes() == joints(1).tobytes()
    np.testing.assert_allclose(joints(1 - 1e-7), joints(0), atol=1e-5)  # no jump where the loop closes
    path = np.stack([joints(k / 100) for k in range(101)])
    assert np.abs(np.diff(path, axis=0)).max() < .06
    travel = np.ptp(path, axis=0).max()
    assert travel > (.015 if motion == "idle" else .08)
    np.testing.assert_array_equal(joints(.125, speed=3), joints(.375))
    if motion != "spin":
        small = np.stack([joints(k / 20, amplitude=.5) for k in range(20)])
        assert np.ptp(small, axis=0).max() < travel
    for a, b in ((k, parent) for k, (parent, _) in BONES.items() if parent):
        length = np.linalg.norm(BONES[a][1])
        for phase in PHASES:
            posed = frames(motions.pose(motion, phase))
            np.testing.assert_allclose(np.linalg.norm(posed[a][1] - posed[b][1]), length, atol=1e-12)
    with pytest.raises(ValueError, match="whole number"):
        motions.pose(motion, 0, speed=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("motion", ["walk", "run", "march"])
def test_gaits_are_symmetric(motion: str) -> None:
    for phase in PHASES:
        left, right = (keypoints(frames(motions.pose(motion, p))) for p in (phase, phase + .5))
        np.testing.assert_allclose(mirrored(left), right, atol=1e-12)


def test_motions_differ() -> None:
    paths = [np.stack([keypoints(frames(motions.pose(m, p))) for p in np.linspace(0, 1, 9)]) for m in motions.MOTIONS]
    apart = [np.abs(a - b).max() for i, a in enumerate(paths) for b in paths[:i]]
    assert min(apart) > .08


@pytest.mark.parametrize("index", range(0, 15, 2))
def test_keypoints_lie_on_the_figure(index: int) -> None:
    """Every joint is inside the body, so it projects into the silhouette from anywhere; a joint that the body does
    not hide (here: an eye from the front) lies at the drawn surface."""
    scene = build_character(sample_character("train", index))
    camera = Cameras.orbit([15, 130, 260], [10, 25, 0], 2.85, 49.1, 128)
    drawn = render([scene], [camera], 128)
    for view, points in enumerate(project(scene.joints, camera)):
        column, row = np.floor(points[:, :2]).astype(int).T
        alpha = drawn.rgba[view, ..., 3]
        near = np.max([alpha[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
        assert (near > 0).all(), [KEYPOINT_NAMES[k] for k in np.nonzero(near == 0)[0]]
        inside = alpha[row, column] > 0
        assert inside.mean() > .9
        surface = drawn.depth[view][row, column]
        assert (points[:, 2] > surface - .06)[inside & (surface > 0)].all()  # none floats in front


# -- files


@pytest.mark.parametrize("split", ["train", "characters"])
def test_shards_can_be_made_again(split: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / name, split, 6, 1, 32)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["cameras.npy", "rgba.npy", "specs.json"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert not list(tmp_path.glob("*.partial"))
    rgba, specs = np.load(tmp_path / "a" / "rgba.npy"), json.loads((tmp_path / "a" / "specs.json").read_text())
    assert rgba.shape == (1, 8, 32, 32, 4) and rgba.dtype == np.uint8
    assert (rgba[..., 3] > 0).mean((2, 3)).min() > .02
    assert specs[0]["kind"] == scene_of(split, 6).spec.kind and specs[0]["index"] == 6
    assert ("caption" in specs[0]) == (split == "characters")


def test_sheet(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.png", 2, 2, seed=4)
    write_sheet(tmp_path / "b.png", 2, 2, seed=4)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    h, w = picture.shape[0] // 2, picture.shape[1] // 2
    for tile in (picture[:h, :w], picture[:h, w:], picture[h:, :w], picture[h:, w:]):
        assert (tile[:136] != 255).any(-1).mean() > .05 and (tile[138:] != 255).any()  # an object, a label
    with pytest.raises(BadInput):
        write_sheet(tmp_path / "c.png", 0, 3)


def test_word_groups_cover_what_is_drawn() -> None:
    words = set(WORDS)
    for name in (*PROPS, *ROLES, *RGB, *MATERIALS, *PATTERNS, *(s for s in SIZES if s), *motions.MOTIONS,
                 *motions.MOTION_WORDS.values(), *(h for h in HATS if h), *(h for h in HAIR)):
        assert name in words or name in ("long", "short"), name
    assert {w for s in STYLES for w in s.split()} <= words
