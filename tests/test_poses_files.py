"""Poses from files: OpenPose JSON, BVH, armatures; what each becomes, exactly, and all the ways to be bad."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pose_helpers import BONES, CROWN, MIXAMO, armature, bvh_text, true_joints

from engine.clip_artifacts import Poses
from engine.clips.poses import armature as armatures
from engine.clips.poses import bvh
from engine.clips.poses.bones import FACE, face_points, mapped, told_apart
from engine.clips.poses.joints import AT
from engine.clips.poses.openpose import read_openpose, write_openpose
from engine.clips.poses.sources import kind_of, pose_source
from engine.clips.poses.toybox_motion import toybox_poses
from engine.clips.poses.view import Shot, pictured
from engine.conventions import blender
from engine.errors import BadInput
from engine.space import Cameras, focal_from_fov
from engine.toybox import motions
from engine.toybox.skeleton import frames, project

WALK = [motions.pose("walk", k / 6) for k in range(6)]


def put(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def person(joints: np.ndarray, confidence: float = 0.9) -> dict[str, object]:
    return {"pose_keypoints_2d": np.c_[joints, np.full(len(joints), confidence)].ravel().tolist()}


# -- OpenPose ----------------------------------------------------------------------------------------------------------

def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    poses = toybox_poses("walk", frames=12)
    poses.joints[3, 4:7] = np.nan
    assert write_openpose(poses, tmp_path / "walk.json") == 1
    assert write_openpose(poses, tmp_path / "walk") == 12
    for path in (tmp_path / "walk.json", tmp_path / "walk"):
        back = read_openpose(path, fps=12)
        np.testing.assert_allclose(back.joints, poses.joints, atol=1e-4)
        assert (back.size, back.fps, back.loop) == ((128, 128), 12, False) and "warnings" not in back.meta


def test_frames_come_by_their_numbers_and_layouts_are_converted(tmp_path: Path) -> None:
    for i in (10, 9, 2):
        put(tmp_path / f"clip_{i}_keypoints.json", {"version": 1.3, "people": [person(np.full((25, 2), float(i + 1)))],
                                                   "canvas_width": 64, "canvas_height": 32})
    found = read_openpose(tmp_path)
    assert found.joints[:, 0, 0].tolist() == [3, 10, 11] and found.size == (32, 64)
    coco = np.arange(34.0).reshape(17, 2) + 1
    table = {"people": [{"keypoints": np.c_[coco, np.ones(17)].ravel().tolist()}], "canvas_width": 50,
             "canvas_height": 50}
    joints = read_openpose(put(tmp_path / "coco.json", [table])).joints[0]
    assert joints[AT["r_wrist"]].tolist() == coco[10].tolist()
    assert joints[AT["neck"]].tolist() == coco[5:7].mean(0).tolist()
    pairs = {"people": [{"pose_keypoints_2d": coco.ravel().tolist()}], "canvas_width": 50, "canvas_height": 50}
    np.testing.assert_array_equal(read_openpose(put(tmp_path / "pairs.json", pairs)).joints[0], joints)


def test_shares_of_a_canvas_and_no_canvas(tmp_path: Path) -> None:
    share = np.linspace(0.1, 0.9, 36).reshape(18, 2)
    frame = {"people": [person(share)], "canvas_width": 200, "canvas_height": 100}
    found = read_openpose(put(tmp_path / "share.json", {"frames": [frame]}))
    np.testing.assert_allclose(found.joints[0], share * [200, 100], rtol=1e-5)
    pixels = np.linspace(100, 300, 36).reshape(18, 2)
    bare = put(tmp_path / "bare.json", {"people": [person(pixels)]})
    loose = read_openpose(bare)
    assert "does not say how large" in loose.meta["warnings"][0] and loose.size == (512, 512)
    np.testing.assert_allclose(loose.joints[0].mean(0), [256, 256], atol=1e-3)
    told = read_openpose(bare, size=(400, 600))
    np.testing.assert_allclose(told.joints[0], pixels, rtol=1e-6)
    assert told.size == (400, 600) and "warnings" not in told.meta


def test_what_openpose_did_not_find_is_unknown(tmp_path: Path) -> None:
    table = np.c_[np.full((18, 2), 7.0), np.full(18, 0.9)]
    table[3] = 0, 0, 0
    table[4, 2] = 0.05
    numbers: list[float | None] = table.ravel().tolist()
    numbers[15] = None
    frame = {"people": [{"pose_keypoints_2d": numbers}], "canvas_width": 20, "canvas_height": 20}
    nobody = {"people": [], "canvas_width": 20, "canvas_height": 20}
    joints = read_openpose(put(tmp_path / "a.json", [frame, nobody])).joints
    assert np.flatnonzero(np.isnan(joints[0, :, 0])).tolist() == [3, 4, 5] and np.isnan(joints[1]).all()
    assert np.isfinite(read_openpose(tmp_path / "a.json", least=0.01).joints[0, 4]).all()


def test_several_people_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    one, two = (person(np.full((18, 2), v)) for v in (10.0, 20.0))
    canvas = {"canvas_width": 64, "canvas_height": 64}
    path = put(tmp_path / "two.json", [{"people": [one], **canvas}, {"people": [one, two], **canvas}])
    with pytest.raises(BadInput, match=r"shows 2 people \(first in frame 1\).*--person 0 to --person 1"):
        read_openpose(path)
    second = read_openpose(path, person=1)
    assert np.isnan(second.joints[0]).all() and second.joints[1, 0, 0] == 20
    with pytest.raises(BadInput, match="there is no person 2"):
        read_openpose(path, person=2)


@pytest.mark.parametrize(("text", "told"), [
    ("{", "line 1, column 2"), ("[]", "holds no frames"), ("{}", "no list of people"), ("3", "holds no frames"),
    ('[{"people": 3}]', "frame 0 has no list of people"), ('{"people": []}', "nobody is in any of the 1 frames"),
    ('{"people": [{}]}', "person 0 has no pose_keypoints_2d"),
    ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "has 3 numbers.*54, 75 or 51"),
    (json.dumps({"people": [{"pose_keypoints_2d": ["a"] * 54}]}), "number 0 is 'a'"),
    (json.dumps({"people": [{"pose_keypoints_2d": [0] * 54}]}), "no joint of .* is known"),
    (json.dumps({"people": [person(np.ones((18, 2)))], "canvas_width": 0, "canvas_height": 9}), "a canvas of 0 x 9"),
    (json.dumps([{"people": [person(np.ones((18, 2)))], "canvas_width": w, "canvas_height": 9} for w in (9, 8)]),
     "different sizes: 8 x 9, 9 x 9"),
])
def test_bad_openpose_files_are_named(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        read_openpose(put(tmp_path / "bad.json", text))
    assert str(tmp_path / "bad.json") in str(caught.value) and "\n" not in str(caught.value)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no \.json files"):
        read_openpose(tmp_path)
    frame = {"people": [person(np.ones((18, 2)))]}
    put(tmp_path / "a_3.json", frame)
    put(tmp_path / "b_03.json", frame)
    with pytest.raises(BadInput, match=r"two frames number 3: a_3\.json and b_03\.json"):
        read_openpose(tmp_path)
    (tmp_path / "b_03.json").unlink()
    put(tmp_path / "c_4.json", [frame, frame])
    with pytest.raises(BadInput, match=r"c_4\.json holds 2 frames"):
        read_openpose(tmp_path)


# -- bones -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "told"), [
    ("mixamorig:LeftForeArm", ("l", "forearm", "")), ("mixamorig1LeftUpLeg", ("l", "upleg", "")),
    ("RightHand", ("r", "hand", "")), ("DEF-upper_arm.R.001", ("r", "upperarm", "001")),
    ("thigh_l", ("l", "thigh", "")),
    ("Bip01 R Calf", ("r", "calf", "")), ("lhumerus", ("l", "humerus", "")), ("left_shoulder", ("l", "shoulder", "")),
    ("J_Bip_L_UpperArm", ("l", "upperarm", "")), ("LHipJoint", ("l", "hipjoint", "")), ("Head", ("", "head", "")),
    ("spine.006", ("", "spine", "006")), ("CC_Base_R_Foot", ("r", "foot", "")), ("leg", ("", "leg", "")),
])
def test_bones_names_are_taken_apart(name: str, told: tuple[str, str, str]) -> None:
    assert told_apart(name) == told


SKELETONS = {
    "mixamo": list(MIXAMO.values()),
    "cmu": ["Hips", "LHipJoint", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToeBase", "RHipJoint", "RightUpLeg",
            "RightLeg", "RightFoot", "LowerBack", "Spine", "Neck", "Neck1", "Head", "LeftShoulder", "LeftArm",
            "LeftForeArm", "LeftHand", "LThumb", "RightShoulder", "RightArm", "RightForeArm", "RightHand"],
    "asf": ["root", "lhipjoint", "lfemur", "ltibia", "lfoot", "rhipjoint", "rfemur", "rtibia", "rfoot", "lowerneck",
            "upperneck", "head", "lclavicle", "lhumerus", "lradius", "lwrist", "lhand", "rclavicle", "rhumerus",
            "rradius", "rwrist", "rhand"],
    "rigify": ["spine", "spine.004", "spine.005", "spine.006", "shoulder.L", "MCH-upper_arm.L", "upper_arm.L",
               "DEF-upper_arm.L.001", "forearm.L", "hand.L", "f_index.01.L", "shoulder.R", "upper_arm.R", "forearm.R",
               "hand.R", "thigh.L", "shin.L", "foot.L", "toe.L", "thigh.R", "shin.R", "foot.R"],
    "unreal": ["pelvis", "neck_01", "head", *(f"{b}_{s}" for s in "lr" for b in (
        "clavicle", "upperarm", "upperarm_twist_01", "lowerarm", "hand", "thigh", "calf", "foot", "ball"))],
    "smpl": ["pelvis", "neck", "head", *(f"{s}_{b}" for s in ("left", "right") for b in (
        "collar", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "foot"))],
}
WANTED = {"mixamo": ("LeftArm", "RightLeg", "Head"), "cmu": ("LeftArm", "RightLeg", "Head"),
          "asf": ("lhumerus", "rtibia", "head"), "rigify": ("upper_arm.L", "shin.R", "spine.006"),
          "unreal": ("upperarm_l", "calf_r", "head"), "smpl": ("left_shoulder", "right_knee", "head")}


@pytest.mark.parametrize("kind", list(SKELETONS))
def test_known_skeletons_are_read(kind: str) -> None:
    bones = SKELETONS[kind]
    found = {joint: bones[i] for joint, i in mapped(bones).items()}
    told = tuple(found[joint].removeprefix("mixamorig:") for joint in ("l_shoulder", "r_knee", "head"))
    assert told == WANTED[kind]
    assert {f"{s}_{j}" for s in "rl" for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")} <= set(found)
    assert len(set(found.values())) == len(found)


def test_bones_can_be_chosen_and_unknown_ones_are_named() -> None:
    bones = ["a", "b", "c", "d", "e"]
    with pytest.raises(BadInput, match="no bones known as r_shoulder, l_shoulder, r_hip, l_hip; it has a, b, c, d, e"):
        mapped(bones)
    chosen = {"r_shoulder": "a", "l_shoulder": "b", "r_hip": "c", "l_hip": "d"}
    assert mapped(bones, chosen) == {"r_shoulder": 0, "l_shoulder": 1, "r_hip": 2, "l_hip": 3}
    with pytest.raises(BadInput, match="no bone 'z'"):
        mapped(bones, {**chosen, "neck": "z"})
    with pytest.raises(BadInput, match="no joint 'r_sholder'.*r_shoulder"):
        mapped(bones, {"r_sholder": "a"})


def test_a_face_turns_with_its_head() -> None:
    up, forward = np.array([[0, 2.0, 0]]), np.array([[0, 0.3, 5.0]])
    straight = face_points(np.zeros((1, 3)), up, forward)
    assert straight["nose"][0] == pytest.approx(2 * np.array(FACE["nose"]))
    assert straight["r_eye"][0, 0] < 0 < straight["l_eye"][0, 0]  # its right is -X when it faces +Z
    turned = face_points(np.zeros((1, 3)), up, np.array([[1.0, 0, 0]]))
    assert turned["nose"][0] == pytest.approx([1.2, 0.64, 0]) and turned["r_ear"][0, 2] > 0.7


# -- BVH ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", ["ZXY", "XYZ", "YZX", "ZYX"])
@pytest.mark.parametrize("six", [False, True])
def test_a_bvh_has_the_toybox_s_joints_whatever_its_channels(order: str, six: bool) -> None:
    figure = bvh.moving(bvh.parse_bvh(bvh_text(WALK, order, six=six)))
    assert figure.fps == pytest.approx(30, rel=1e-5) and figure.joints.shape == (6, 18, 3)
    for joint, places in true_joints(WALK).items():
        np.testing.assert_allclose(figure.joints[:, AT[joint]], 100 * places, atol=1e-4, err_msg=joint)
    for k, pose in enumerate(WALK):  # the face is where the head turns it
        turn, place = frames(pose)["head"]
        nose = 100 * (turn @ (0.4 * np.array(FACE["nose"])) + place)
        np.testing.assert_allclose(figure.joints[k, AT["nose"]], nose, atol=1e-4)
    assert CROWN == (0.0, 0.4, 0.0)


def test_a_bvh_and_the_toybox_give_the_same_picture(tmp_path: Path) -> None:
    """Through the camera: as the toybox's own motion is seen, units and place in the file aside."""
    shot = Shot(azimuth_deg=25, elevation_deg=8, fov_deg=0)
    path = put(tmp_path / "walk.bvh", bvh_text(WALK, unit=39.4))
    assert pose_source(path)["kind"] == "bvh"
    seen = pictured(bvh.moving(bvh.read_bvh(path)), shot, (128, 128))
    true = toybox_poses("walk", frames=6, shot=shot)
    limbs = [AT[j] for j in true_joints(WALK)]
    a, b = seen.joints[:, limbs], true.joints[:, limbs]
    # What faces to the front in the first frame is turned a little by the walk: the same up to that and the scale.
    a, b = (x - x.mean((0, 1)) for x in (a, b))
    scale = np.abs(b).mean() / np.abs(a).mean()
    assert np.abs(scale * a - b).max() < 1.5


def test_z_up_files_and_several_skeletons() -> None:
    text = bvh_text(WALK)
    parsed = bvh.parse_bvh(text)
    for joint in parsed.joints:  # the same figure, its axes exchanged as Blender has them
        joint.offset = blender.points_from_house(joint.offset)
        swap = {"X": "X", "Y": "Z", "Z": "Y"}
        joint.channels = tuple(swap[c[0]] + c[1:] for c in joint.channels)
    sign = np.ones(parsed.motion.shape[1])
    for joint in parsed.joints:
        for k, channel in enumerate(joint.channels):
            if channel[0] == "Y":
                sign[joint.first + k] = -1  # house +Z is Blender's -Y
    parsed.motion = parsed.motion * sign
    upright = bvh.moving(bvh.parse_bvh(text))
    np.testing.assert_allclose(bvh.moving(parsed).joints, upright.joints, atol=1e-4)
    np.testing.assert_allclose(bvh.moving(parsed, up="z").joints, upright.joints, atol=1e-4)
    one = text.partition("MOTION")[0].removeprefix("HIERARCHY\n")
    rows = text.rpartition("Frame Time:")[2].splitlines()[1:]
    two = ("HIERARCHY\n" + one + one.replace("Hips", "Other") + "MOTION\nFrames: 6\nFrame Time: 0.033333\n"
           + "\n".join(f"{row} {row}" for row in rows))
    with pytest.raises(BadInput, match=r"holds 2 skeletons .*--person N"):
        bvh.moving(bvh.parse_bvh(two))
    np.testing.assert_allclose(bvh.moving(bvh.parse_bvh(two), person=1).joints, upright.joints, atol=1e-6)
    with pytest.raises(BadInput, match="no number 2"):
        bvh.moving(bvh.parse_bvh(two), person=2)


def changed(old: str, new: str, count: int = 1) -> str:
    text = bvh_text(WALK)
    assert old in text
    return text.replace(old, new, count)


LAST = bvh_text(WALK).splitlines()[-1]
FIRST_ROW = next(i for i, line in enumerate(bvh_text(WALK).splitlines(), 1) if line.startswith("Frame Time")) + 1


@pytest.mark.parametrize(("text", "told"), [
    ("", "is no BVH file: it is empty"), ("hello\n", "begins with 'hello'"),
    (bvh_text(WALK).partition("MOTION")[0], "inside its hierarchy: there is no MOTION"),
    (changed("Frames: 6", "Frames: 9"), "announces 9 frames and holds 6: its motion is cut off"),
    (changed("Frames: 6", "Frames: none"), "Frames: is followed by 'none'"),
    (changed("Frames: 6\n", ""), "has no 'Frames:' after MOTION"),
    (changed("Frame Time: 0.03333333", "Frame Time: 0"), "frame time of 0 s"),
    (changed("Frames: 6", "Frames: 0"), "announces 0 frames"),
    (changed("CHANNELS 3 Z", "CHANNELS 4 Z"), "line [0-9]+: CHANNELS announces 4 and names 3"),
    (changed("Zrotation", "Wrotation"), "there is no channel 'Wrotation'"),
    (changed("OFFSET 0.0", "OFFSET x0.0"), "line 4: OFFSET is followed by"),
    (changed("OFFSET 0.00000000 42.00000000 0.00000000", "OFFSET 0 42"), "OFFSET needs 3 finite numbers"),
    (changed("{", "", 1), "has no place in a hierarchy"), ("HIERARCHY\n}\n", "line 2: a closing brace too many"),
    (changed("}\n", "}\n}\n", 99), "line [0-9]+: JOINT where a ROOT belongs"),
    (changed("  JOINT", "  JONT"), "'JONT .* has no place"),
    (bvh_text(WALK)[:-20], f"line {FIRST_ROW + 5}: frame 5 has [0-9]+ numbers, .* cut off there, 6 frames are"),
    (changed(LAST, "1 " + LAST), f"line {FIRST_ROW + 5}: frame 5 has 49 numbers, .* need 48"),
    (changed(LAST, "nan " + LAST.partition(" ")[2]), f"line {FIRST_ROW + 5}: nan .Yposition of mixamorig:Hips. is no "),
    (changed(LAST, LAST.rpartition(" ")[0] + " 1e999"), "Yrotation of .* is no finite number"),
    (changed(LAST, LAST.rpartition(" ")[0] + " twelve"), "'twelve' .Yrotation of .* is no number"),
    (changed("MOTION", "MOTIONS"), "has no place in a hierarchy"),
])
def test_corrupt_bvh_files_are_named_with_their_line(text: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        bvh.parse_bvh(text, "walk.bvh")
    assert str(caught.value).startswith("walk.bvh") and "\n" not in str(caught.value) and caught.value.fix


def test_a_bvh_with_too_many_rows_is_used_and_said(tmp_path: Path) -> None:
    parsed = bvh.parse_bvh(changed("Frames: 6", "Frames: 4"), "walk.bvh")
    assert len(parsed.motion) == 4 and "holds more, from line" in parsed.warnings[0]
    assert bvh.moving(parsed).meta["warnings"] == parsed.warnings
    (tmp_path / "a.bvh").write_bytes(b"\0\1\2" * 99)
    with pytest.raises(BadInput, match="it is not text"):
        bvh.read_bvh(tmp_path / "a.bvh")
    with pytest.raises(BadInput, match="cannot read the motion"):
        bvh.read_bvh(tmp_path / "none.bvh")


# -- armatures ---------------------------------------------------------------------------------------------------------

def test_an_armature_has_the_toybox_s_joints_in_either_axes() -> None:
    for up in ("z", "y"):
        figure = armatures.moving(armature(WALK, up))
        assert figure.loop and figure.fps == 24 and "warnings" not in figure.meta
        for joint, places in true_joints(WALK).items():
            np.testing.assert_allclose(figure.joints[:, AT[joint]], places, atol=1e-12, err_msg=joint)
        turn, place = frames(WALK[2])["head"]
        np.testing.assert_allclose(figure.joints[2, AT["l_eye"]], turn @ (0.4 * np.array(FACE["l_eye"])) + place,
                                   atol=1e-12)
    without = armature(WALK)
    del without["forward"]
    straight = armatures.moving(without).joints[:, AT["nose"]]
    assert np.isfinite(straight).all()
    del without["tails"]
    assert "no face to draw" in armatures.moving(without).meta["warnings"][0]


def test_an_armature_s_own_camera_sees_what_ours_does() -> None:
    camera = Cameras.orbit(35, 20, 4.0, 40, 256)
    data = armature(WALK)
    data["camera"] = {"matrix_world": blender.poses_from_house(camera.camera_to_world.astype(np.float64))[0].tolist(),
                      "width": 256, "height": 256, "lens_mm": float(blender.lens_mm(camera)[0])}
    seen = armatures.through_camera(data, armatures.moving(data))
    assert seen is not None and seen.size == (256, 256) and seen.loop
    for k, pose in enumerate(WALK):
        place = frames(pose)["r_hand"][1]
        np.testing.assert_allclose(seen.joints[k, AT["r_wrist"]], project(place[None], camera)[0, 0, :2], atol=1e-3)
    data["camera"] = {**data["camera"], "ortho_scale": 3.0}
    del data["camera"]["lens_mm"]
    flat = armatures.through_camera(data, armatures.moving(data))
    assert flat is not None
    span = np.linalg.norm(flat.joints[0, AT["neck"]] - flat.joints[0, AT["r_ankle"]])
    assert 0.5 < span / (256 / 3.0) < 0.9  # most of a unit, at 85 pixels a unit
    assert focal_from_fov(40, 256) == pytest.approx(float(camera.fx[0]), rel=1e-6)
    assert armatures.through_camera(armature(WALK), armatures.moving(data)) is None


@pytest.mark.parametrize(("change", "told"), [
    ({"schema": "other"}, "its schema is not 'maquette.armature'"),
    ({"version": 2}, "has version 2; .* reads version 1"),
    ({"mop": 1}, "unknown key 'mop'"), ({"bones": "a"}, "bones is no list of names"),
    ({"bones": ["a"] * 15}, "names the bone 'a' twice"), ({"up": "x"}, "up is 'x'"), ({"fps": 0}, "fps is 0"),
    ({"heads": []}, "heads is no list of frames"), ({"heads": [[[0, 0, 0]]]}, "frame 0 of heads has 1 places for 15"),
    ({"heads": [[[0, 0, "a"]] * 15]}, "heads, frame 0, bone 0 is .*not three finite numbers"),
    ({"tails": [[[0, 0, 0]] * 15]}, "6 frames of heads and 1 of tails"),
    ({"forward": [[0, 0, 1]]}, "forward is not one direction for each of 6 frames"),
    ({"map": {"r_shoulder": "nobody"}}, "no bone 'nobody'"), ({"map": 3}, "map is no table"),
    ({"camera": 3}, "camera is no table"), ({"camera": {"width": 8}}, "picture is 8 x None"),
    ({"camera": {"width": 64, "height": 64, "matrix_world": [[1]], "lens_mm": 50}}, "not 4 rows of 4"),
    ({"camera": {"width": 64, "height": 64, "matrix_world": np.eye(4).tolist()}}, "lens_mm or ortho_scale"),
    ({"camera": {"width": 64, "height": 64, "matrix_world": np.eye(4).tolist(), "lens_mm": 5}}, "behind its camera"),
    ({"camera": {"lens": 4}}, "unknown key 'lens' of the camera"),
])
def test_bad_armatures_are_named(change: dict[str, object], told: str, tmp_path: Path) -> None:
    path = put(tmp_path / "rig.json", {**armature(WALK), **change})

    def read() -> None:
        data = armatures.read_json(path)
        armatures.through_camera(data, armatures.moving(data, "rig.json"), "rig.json")
    with pytest.raises(BadInput, match=told) as caught:
        read()
    assert "rig.json" in str(caught.value) and "\n" not in str(caught.value)


# -- what a file is ----------------------------------------------------------------------------------------------------

def test_files_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    assert kind_of(put(tmp_path / "a.txt", bvh_text(WALK))) == "bvh"
    assert kind_of(put(tmp_path / "b.json", armature(WALK))) == "armature"
    behind = armature(WALK * 40)
    schema = behind.pop("schema")
    assert kind_of(put(tmp_path / "c.json", {**behind, "schema": schema})) == "armature"
    assert kind_of(put(tmp_path / "d.json", [{"people": []}])) == "openpose"
    (tmp_path / "e.mp4").write_bytes(b"\0\0\0 ftyp")
    assert kind_of(tmp_path / "e.mp4") == "video"
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(b"x")
    assert kind_of(tmp_path / "frames") == "pictures"
    for name, told in (("none.json", "there are no poses"), ("empty.json", "is empty"), ("a.png", "is one picture"),
                       ("words.doc", "no pose file that is known")):
        if name != "none.json":
            put(tmp_path / name, "" if name == "empty.json" else "some words")
        with pytest.raises(BadInput, match=told):
            kind_of(tmp_path / name)


def test_digests_are_of_contents_and_names(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    poses = toybox_poses("walk", frames=2)
    write_openpose(poses, a)
    write_openpose(poses, b)
    assert pose_source(a)["digest"] == pose_source(b)["digest"]
    write_openpose(Poses(poses.joints + 1, (128, 128)), b)
    assert pose_source(a)["digest"] != pose_source(b)["digest"]
    assert replace(Shot(), fov_deg=0) == Shot(fov_deg=0) and len(BONES) == 15
