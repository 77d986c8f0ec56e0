"""Poses: joints and their layouts, drawings, the toybox's motions by name, time, and one figure's motion on another."""

import time
from dataclasses import replace

import numpy as np
import pytest

from engine.clip_artifacts import Poses
from engine.clips.poses import joints as J
from engine.clips.poses import proportions, timing
from engine.clips.poses.drawing import draw, drawings
from engine.clips.poses.framing import fit, framed, outside
from engine.clips.poses.joints import AT, BONES, MIRROR, NAMES, from_layout, with_pelvis
from engine.clips.poses.retarget import retarget
from engine.clips.poses.toybox_motion import motion_named, toybox_poses
from engine.clips.poses.view import Moving, Shot, camera_at, pictured, seen_by
from engine.diffusion.skeleton_drawing import COLOURS, DIM, LIMBS, _in_ellipse, draw_skeleton
from engine.errors import BadInput
from engine.toybox import motions
from engine.toybox.characters import build_character, joints_of, sample_character
from engine.toybox.skeleton import KEYPOINT_NAMES, STANDING, project


def test_names_are_the_toybox_s_and_mirrors_are_their_own_inverse() -> None:
    assert NAMES == KEYPOINT_NAMES
    assert [MIRROR[i] for i in MIRROR] == list(range(18)) and MIRROR[AT["r_ear"]] == AT["l_ear"]
    assert MIRROR[AT["nose"]] == AT["nose"]
    reached = {AT["neck"]}
    for parent, child in BONES.values():  # a tree from the neck, parents first
        assert parent in reached and child not in reached
        reached.add(child)
    assert reached == set(range(19))


def test_other_layouts_by_hand() -> None:
    body = np.stack([np.full(3, float(i)) for i in range(25)])
    assert from_layout(body)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    coco = np.stack([np.full(3, float(i)) for i in range(17)])
    coco[5, 2], coco[6, 2] = 0.9, 0.4
    found = from_layout(coco)
    assert found[:, 0].tolist() == [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    assert found[AT["neck"]].tolist() == [5.5, 5.5, 0.4]  # the middle of the shoulders, the lower confidence
    with pytest.raises(ValueError, match="21 joints"):
        from_layout(np.zeros((21, 2)))


def test_a_pelvis_is_the_middle_of_the_hips_or_the_one_that_is_known() -> None:
    joints = np.full((3, 18, 2), np.nan)
    joints[0, AT["r_hip"]], joints[0, AT["l_hip"]] = (2, 4), (6, 8)
    joints[1, AT["l_hip"]] = 5, 5
    pelvis = with_pelvis(joints)[:, J.PELVIS]
    assert pelvis[0].tolist() == [4, 6] and pelvis[1].tolist() == [5, 5] and np.isnan(pelvis[2]).all()


# -- drawings ----------------------------------------------------------------------------------------------------------

def slow_drawing(people: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Every limb and joint over the whole picture."""
    scale = min(size) / 512
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    canvas = np.zeros((*size, 3))
    for colour, (a, b) in zip(np.asarray(COLOURS), LIMBS, strict=False):
        for person in people:
            ends = person[[a - 1, b - 1]]
            if np.isfinite(ends).all():
                canvas += _in_ellipse(x, y, ends, max(4 * scale, 0.75))[..., None] * (colour - canvas)
    canvas *= DIM
    for k, colour in enumerate(np.asarray(COLOURS)):
        for person in people:
            if np.isfinite(person[k]).all():
                cover = np.clip(max(4 * scale, 1) + 0.5 - np.hypot(x - person[k, 0], y - person[k, 1]), 0, 1)
                canvas += cover[..., None] * (colour - canvas)
    return (canvas / 255).astype(np.float32)


def test_drawings_are_the_slow_ones_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        size = (int(rng.integers(20, 200)), int(rng.integers(20, 200)))
        people = rng.uniform(-60, 300, (2, 18, 2)).astype(np.float32)
        people[rng.random((2, 18)) < 0.2] = np.nan
        people[0, 3] = people[0, 4]  # a limb without length
        assert np.array_equal(draw_skeleton(people, size), slow_drawing(people, size))


def test_a_drawing_is_what_the_facts_say() -> None:
    joints = np.full((18, 2), np.nan, np.float32)
    joints[AT["neck"]], joints[AT["r_shoulder"]] = (256, 256), (156, 256)
    picture = draw_skeleton(joints[None], (512, 512))
    assert picture[256, 206] == pytest.approx([0.6, 0, 0])  # limb 2-3 is red, dimmed
    assert picture[252, 206].max() > 0 and picture[250, 206].max() == 0  # four pixels to either side
    assert picture[256, 256] == pytest.approx([1, 85 / 255, 0])  # the neck's own colour, in full
    assert picture[256, 156] == pytest.approx([1, 170 / 255, 0])
    assert (picture[:, :150].max(), picture[:, 262:].max()) == (0, 0)
    together = np.full((18, 2), np.nan, np.float32)
    together[[1, 2]] = 40
    dot = draw_skeleton(together[None], (128, 128))  # a limb whose joints are in one place is a dot, no flood
    assert dot[40, 40].max() > 0 and dot[60:].max() == 0


def test_a_clip_is_drawn_at_its_size_and_quickly() -> None:
    poses = toybox_poses("walk", frames=24)
    pictures = draw(poses)
    assert pictures.shape == (24, 128, 128, 3) and pictures.dtype == np.float32
    np.testing.assert_array_equal(pictures[5], draw_skeleton(poses.joints[5][None], (128, 128)))
    large = next(iter(drawings(poses, (256, 512))))
    np.testing.assert_array_equal(large, draw_skeleton(fit(poses, (256, 512)).joints[:1], (256, 512)))
    big = toybox_poses("walk", frames=4, size=(512, 512))
    began = time.process_time()
    draw(big)
    fast = time.process_time() - began
    began = time.process_time()
    slow_drawing(big.joints[:1], (512, 512))
    assert fast < 4 * 0.3 * (time.process_time() - began)  # about 40 times as fast


# -- the toybox's motions ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("motion", ["walk", "jump", "spin"])
def test_a_motion_by_name_has_the_joints_of_the_rendered_figure(motion: str) -> None:
    spec = replace(sample_character("held_out", 7), size="wide")
    shot = Shot(azimuth_deg=-37.5, elevation_deg=8, fov_deg=33, fill=0.74)
    poses = toybox_poses(motion, frames=5, amplitude=0.8, speed=2, shot=shot, figure=spec)
    distance = 1.5 / 2 / 0.74 / np.tan(np.radians(33 / 2))
    camera = camera_at(-37.5, 8, distance, 33, (128, 128))
    for k in range(5):
        scene = build_character(spec, motions.pose(motion, k / 5, 0.8, 2))
        np.testing.assert_array_equal(joints_of(spec, [motions.pose(motion, k / 5, 0.8, 2)])[0], scene.joints)
        np.testing.assert_allclose(poses.joints[k], project(scene.joints, camera)[0, :, :2], atol=2e-5)
    assert poses.loop and poses.fps == 12 and poses.size == (128, 128) and outside(poses) == 0


def test_motions_by_other_words_and_unknown_ones() -> None:
    assert [motion_named(w) for w in ("Walk", "walking", "dancing", "running", "standing")] == \
        ["walk", "walk", "dance", "run", "idle"]
    with pytest.raises(BadInput, match=r"no motion 'wlak'.*Did you mean walk\? There are idle, walk, run") as caught:
        motion_named("wlak")
    assert "--poses FILE" in str(caught.value)
    with pytest.raises(BadInput, match="There are idle"):
        motion_named("qqqqqq")
    with pytest.raises(BadInput, match="0 frames"):
        toybox_poses("walk", frames=0)
    with pytest.raises(BadInput, match="seam"):
        toybox_poses("walk", speed=0)


# -- space to pictures -------------------------------------------------------------------------------------------------

def straw_man() -> np.ndarray:
    """(18, 3), 2 high by its bones, facing +Z; T-pose."""
    at = {"nose": (0, 1.75, .1), "neck": (0, 1.5, 0), "r_shoulder": (-.2, 1.5, 0), "r_elbow": (-.5, 1.5, 0),
          "r_wrist": (-.8, 1.5, 0), "r_hip": (-.1, .9, 0), "r_knee": (-.1, .5, 0), "r_ankle": (-.1, .1, 0),
          "r_eye": (-.05, 1.8, .08), "r_ear": (-.1, 1.78, 0)}
    at |= {"l" + name[1:]: (-x, y, z) for name, (x, y, z) in at.items() if name.startswith("r_")}
    return np.array([at[name] for name in NAMES], dtype=float)


def test_an_orthographic_picture_by_hand() -> None:
    shot = Shot(azimuth_deg=0, elevation_deg=0, fov_deg=0, fill=0.5)
    poses = pictured(Moving(straw_man()[None], 24.0, height=2.0), shot, (200, 200))
    # 2 units take 100 pixels; the ground is 0.04 heights under the ankles, so the middle is at 0.1 - 0.08 + 1 = 1.02
    assert poses.joints[0, AT["neck"]] == pytest.approx([100, 100 - (1.5 - 1.02) * 50], abs=1e-3)
    assert poses.joints[0, AT["r_wrist"]] == pytest.approx([100 - 0.8 * 50, 100 - 0.48 * 50], abs=1e-3)
    assert poses.meta["bones"]["r_forearm"] == pytest.approx(15) and poses.meta["bones"]["trunk"] == pytest.approx(30)
    assert poses.meta["bones"]["l_collar"] == pytest.approx(10) and poses.meta["bones"]["nose"] == pytest.approx(12.5)
    side = pictured(Moving(straw_man()[None], 24.0, height=2.0), replace(shot, azimuth_deg=90), (200, 200))
    # from its left, where it looks to the picture's left
    assert side.joints[0, AT["nose"]] == pytest.approx([95, 100 - (1.75 - 1.02) * 50], abs=1e-3)
    assert np.ptp(side.joints[0, [AT["l_wrist"], AT["r_wrist"]], 0]) == pytest.approx(0, abs=1e-3)


def test_where_a_figure_looks_and_stands_in_its_file_does_not_matter() -> None:
    turn = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
    for shot in (Shot(azimuth_deg=20), Shot(fov_deg=0)):
        plain = pictured(Moving(straw_man()[None], 24.0), shot, (128, 96))
        moved = pictured(Moving(7 * straw_man()[None] @ turn.T + np.array([3, -5, 9]), 24.0), shot, (128, 96))
        np.testing.assert_allclose(moved.joints, plain.joints, atol=1e-3)


def test_a_way_out_of_the_picture_is_drawn_smaller_or_followed() -> None:
    walk = straw_man()[None] + np.linspace(0, 12, 30)[:, None, None] * np.array([1.0, 0, 0])
    away = pictured(Moving(walk, 24.0), Shot(), (128, 128))
    assert outside(away) == 0 and "drawn 0." in away.meta["warnings"][0] and away.meta["shot"]["fill"] == 0.75
    held = pictured(Moving(walk, 24.0), Shot(follow=True), (128, 128))
    assert "warnings" not in held.meta
    np.testing.assert_allclose(held.joints, np.broadcast_to(held.joints[:1], held.joints.shape), atol=1e-4)
    with pytest.raises(BadInput, match="walks into the camera"):
        pictured(Moving(walk @ np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]]).T[:, ::1] * 1.0, 24.0),
                 Shot(azimuth_deg=90), (128, 128))
    with pytest.raises(BadInput, match="no front|one place"):
        pictured(Moving(np.full((1, 18, 3), np.nan), 24.0, height=1.0), Shot(), (64, 64))


def test_poses_in_pictures_of_other_shapes() -> None:
    poses = Poses(np.array([[[10.0, 20.0]] * 18], np.float32), (100, 200), meta={"bones": {"trunk": 8.0}})
    twice = fit(poses, (200, 400))
    assert twice.joints[0, 0].tolist() == [20, 40] and twice.meta == {"bones": {"trunk": 16}}
    boxed = fit(poses, (200, 200))  # 200 x 100 in the middle of 200 x 200
    assert boxed.joints[0, 0].tolist() == [10, 70] and "bars above and below" in boxed.meta["warnings"][0]
    with pytest.raises(BadInput, match="another shape"):
        fit(poses, (200, 200), "refuse")
    found = framed(np.array([[[0.0, 0.0], [4.0, 2.0]]]), (100, 100), 0.5)
    assert found.tolist() == [[[25, 37.5], [75, 62.5]]]


# -- time --------------------------------------------------------------------------------------------------------------

def line(*values: float) -> np.ndarray:
    """One joint that moves along x: (n, 1, 2)."""
    return np.stack([np.asarray(values, float), np.zeros(len(values))], -1)[:, None]


def test_gaps_are_closed_up_to_a_length() -> None:
    nan = np.nan
    x = line(0, nan, nan, 3, nan, nan, nan, 7, nan)
    x[np.isnan(x[..., 0])] = nan
    assert timing.gaps_closed(x, 2)[:, 0, 0].tolist()[:4] == [0, 1, 2, 3]
    assert np.isnan(timing.gaps_closed(x, 2)[4:7]).all() and timing.gaps_closed(x, 2)[8, 0, 0] == 7
    assert timing.gaps_closed(x, 3)[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    np.testing.assert_array_equal(timing.gaps_closed(x, 0), x)
    seam = line(nan, 1, 2, 3, nan, nan)  # in a loop of six, frames 4, 5 and 0 are one gap, back from 3 to 1
    seam[np.isnan(seam[..., 0])] = nan
    assert timing.gaps_closed(seam, 3, loop=True)[:, 0, 0].tolist() == [1.5, 1, 2, 3, 2.5, 2]
    assert np.isnan(timing.gaps_closed(seam, 2, loop=True)[[0, 4, 5]]).all()
    never = np.full((4, 1, 2), nan)
    assert np.isnan(timing.gaps_closed(never, 9)).all()


def test_other_frame_rates_by_hand() -> None:
    x = line(*range(9))
    assert timing.resampled(x, 24, 12)[:, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert timing.resampled(x, 24, 48)[:, 0, 0].tolist() == [i / 2 for i in range(17)]
    assert timing.resampled(x, 30, 12)[:, 0, 0].tolist() == [0, 2.5, 5, 7.5]
    around = timing.resampled(line(0, 2, 4, 2), 4, 8, loop=True)[:, 0, 0]
    assert around.tolist() == [0, 1, 2, 3, 4, 3, 2, 1]  # over the seam too
    assert len(timing.resampled(line(5), 24, 12)) == 1


def test_smoothing_keeps_lines_and_time() -> None:
    x = line(*range(40))
    np.testing.assert_allclose(timing.smoothed(x, 1.5)[6:-6], x[6:-6], atol=1e-12)
    spike = line(*([0.0] * 20 + [1.0] + [0.0] * 20))
    out = timing.smoothed(spike, 2.0)[:, 0, 0]
    weights = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    np.testing.assert_allclose(out[14:27], weights / weights.sum(), atol=1e-12)  # symmetric: nothing is late
    loop = timing.smoothed(np.roll(spike, 20, 0), 2.0, loop=True)[:, 0, 0]
    np.testing.assert_allclose(loop, np.roll(out, 20), atol=1e-12)
    spike[3] = np.nan
    assert np.isnan(timing.smoothed(spike, 2.0)[3]).all() and np.isfinite(timing.smoothed(spike, 2.0)[4]).all()


def test_loops_are_closed_by_what_is_said() -> None:
    circle = np.stack([np.cos(np.arange(24) / 24 * 2 * np.pi), np.sin(np.arange(24) / 24 * 2 * np.pi)], -1)[:, None]
    assert timing.closed(circle).method == "was closed" and len(timing.closed(circle).joints) == 24
    again = timing.closed(np.concatenate([circle, circle[:1]]))
    assert again.method == "repeated" and len(again.joints) == 24
    cut = timing.closed(np.concatenate([circle, circle, circle[:9]]))
    assert cut.method == "cut" and len(cut.joints) == 48 and cut.seam <= 1.5 * cut.step
    spread = timing.closed(line(0, 1, 2, 3, 4, 5, 6, 7))
    assert spread.method == "spread" and spread.joints[:, 0, 0].tolist() == [0.0] * 8  # going on for ever stays
    bent = timing.closed(np.concatenate([line(0, 1, 2, 3, 2.5, 2.2, 2.1, 2)]))
    assert bent.method == "spread" and bent.seam <= 1.5 * bent.step and bent.joints[0, 0, 0] == 0
    assert timing.closed(line(4)).method == "was closed"


# -- retargeting -------------------------------------------------------------------------------------------------------

def lengths(joints: np.ndarray) -> dict[str, float]:
    full = with_pelvis(np.asarray(joints, float))
    return {name: float(np.linalg.norm(full[c] - full[p])) for name, (p, c) in BONES.items()}


def standing(size_word: str = "", index: int = 3, **shot: float) -> np.ndarray:
    spec = replace(sample_character("held_out", index), size=size_word)
    places = joints_of(spec, [STANDING]).astype(float)
    return seen_by(places, Shot(**{"elevation_deg": 0, "fov_deg": 0, **shot}), (128, 128), 1.5)[0][0].astype(np.float32)


def test_an_equal_figure_changes_nothing() -> None:
    poses = toybox_poses("walk", frames=12, shot=Shot(azimuth_deg=30))
    figure = toybox_poses("idle", frames=1).joints[0]
    own = proportions.of_figure(figure)
    made = retarget(poses, figure, lengths=own)
    moved = made.joints - poses.joints
    assert np.ptp(moved, axis=(0, 1)).max() < 1e-3  # all of it by the same way: to where the figure stands
    again = retarget(made, figure)
    np.testing.assert_allclose(again.joints, made.joints, atol=1e-3)


def test_a_motion_without_papers_is_measured_by_itself() -> None:
    """Lengths told by the motion alone: what was fitted to a figure fits it, so a second fit changes nothing."""
    poses = toybox_poses("dance", frames=24, shot=Shot(azimuth_deg=-20))
    poses.meta = {}
    to = standing("tall")
    once = retarget(poses, to)
    once.meta = {}
    np.testing.assert_allclose(retarget(once, to).joints, once.joints, atol=2e-3)


@pytest.mark.parametrize("words", [("tall", "wide"), ("short", "narrow"), ("", "tall")])
def test_the_resting_figure_gets_the_other_s_bones_exactly(words: tuple[str, str]) -> None:
    source, to = standing(words[0]), standing(words[1], index=8)
    made = retarget(Poses(source[None], (128, 128)), to)
    wanted, found = lengths(to), lengths(made.joints[0])
    for name in ("trunk", *(f"{s}_{b}" for s in "rl" for b in ("upper_arm", "forearm", "thigh", "shin", "collar",
                                                                "pelvis", "eye", "ear"))):
        assert found[name] == pytest.approx(wanted[name], abs=1e-3), name
    assert max(made.joints[0, J.ANKLES, 1]) == pytest.approx(max(to[list(J.ANKLES), 1]), abs=1e-4)  # on its ground
    # every limb keeps its direction
    for name, (p, c) in BONES.items():
        if J.PELVIS not in (p, c):
            a, b = source[c] - source[p], made.joints[0, c] - made.joints[0, p]
            assert a[0] * b[1] - a[1] * b[0] == pytest.approx(0, abs=1e-2) and a @ b > 0, name


def test_scale_goes_through() -> None:
    poses = toybox_poses("run", frames=10, shot=Shot(azimuth_deg=45))
    to = standing("narrow")
    one = retarget(poses, to)
    large = retarget(poses, 3 * to, (384, 384))
    np.testing.assert_allclose(large.joints, 3 * one.joints, atol=1e-2)
    shrunk = Poses(poses.joints / 4, (32, 32), meta={
        "bones": {k: v / 4 for k, v in poses.meta["bones"].items()}, "stands": [v / 4 for v in poses.meta["stands"]]})
    np.testing.assert_allclose(retarget(shrunk, to, (128, 128)).joints, one.joints, atol=1e-2)


def test_retargeted_motions_come_near_to_the_truth() -> None:
    """Against what the other figure's own joints are when it does the same."""
    errors = []
    for index, word in ((2, "tall"), (9, "short"), (14, "wide"), (21, "narrow")):
        spec = replace(sample_character("held_out", index), size=word)
        shot = Shot(azimuth_deg=30)
        true = toybox_poses("walk", figure=spec, shot=shot)
        reference = toybox_poses("idle", frames=1, figure=spec, shot=Shot(azimuth_deg=-10)).joints[0]
        source = toybox_poses("walk", shot=shot)
        made = retarget(source, reference, azimuth_deg=-10)
        errors.append([np.linalg.norm(p.joints - true.joints, axis=-1).mean() / 96 for p in (source, made)])
    before, after = np.mean(errors, axis=0)
    assert after < 0.02 and after < 0.5 * before, (before, after)


def test_widths_are_told_from_an_oblique_picture_and_missing_limbs_from_the_whole() -> None:
    front, turned = (proportions.of_figure(standing("wide", azimuth_deg=a), a) for a in (0, 40))
    assert turned["r_collar"] == pytest.approx(front["r_collar"], rel=0.02)
    assert turned["r_ear"] == pytest.approx(front["r_ear"], rel=0.06)
    poses, to = toybox_poses("walk", frames=4), standing("tall")
    to[[AT["r_wrist"], AT["l_wrist"]]] = np.nan
    made = retarget(poses, to)
    factor = lengths(made.joints[0])["r_forearm"] / lengths(poses.joints[0])["r_forearm"]
    assert factor == pytest.approx(made.meta["retargeted"]["scale"], rel=1e-3)


def test_unknown_joints_stay_unknown_and_what_cannot_be_is_named() -> None:
    poses, to = toybox_poses("walk", frames=6), standing()
    poses.joints[2, AT["r_elbow"]] = np.nan
    made = retarget(poses, to)
    assert np.isnan(made.joints[2, AT["r_elbow"]]).all() and np.isfinite(made.joints[2, AT["r_wrist"]]).all()
    assert np.isnan(made.joints).sum() == 2
    poses.joints[3:5, AT["neck"]] = np.nan
    with pytest.raises(BadInput, match=r"neck is missing in 2 of 6 frames \(3, 4\)"):
        retarget(poses, to)
    with pytest.raises(BadInput, match="figure's neck and hips are not known"):
        retarget(toybox_poses("walk"), np.full((18, 2), np.nan))
    with pytest.raises(BadInput, match="in one place"):
        retarget(toybox_poses("walk"), np.ones((18, 2)))


def test_a_way_is_scaled_or_left_out_and_a_jump_keeps_its_height() -> None:
    jump = toybox_poses("jump", frames=16, shot=Shot(elevation_deg=0, fov_deg=0))
    to = standing("short")
    made = retarget(jump, to)
    scale = made.meta["retargeted"]["scale"]

    def air(joints: np.ndarray) -> np.ndarray:
        lowest = joints[:, list(J.ANKLES), 1].max(1)
        return lowest.max() - lowest
    np.testing.assert_allclose(air(made.joints), scale * air(jump.joints), atol=1e-3)
    walked = Poses(jump.joints + np.linspace(0, 30, 16, dtype=np.float32)[:, None, None] * np.array([1, 0], np.float32),
                   (128, 128), meta=jump.meta)
    pelvis = with_pelvis(retarget(walked, to).joints)[:, J.PELVIS, 0]
    assert np.ptp(pelvis) == pytest.approx(30 * scale, abs=0.01)
    held = with_pelvis(retarget(walked, to, travel=False).joints)[:, J.PELVIS, 0]
    assert np.ptp(held) < 1e-3


def test_ten_thousand_frames_are_no_trouble() -> None:
    poses = toybox_poses("walk", frames=20)
    long = Poses(np.tile(poses.joints, (500, 1, 1)), poses.size, meta=poses.meta)
    long.joints[50:53, AT["r_wrist"]] = np.nan
    began = time.process_time()
    filled = timing.gaps_closed(long.joints, 5)
    made = retarget(Poses(timing.smoothed(filled, 1.0), long.size, meta=poses.meta), standing("tall"))
    assert made.joints.shape == (10_000, 18, 2) and np.isfinite(made.joints).all()
    assert time.process_time() - began < 5
