"""Figures for the tests of poses: the toybox's skeleton as a BVH file and as an armature, with Mixamo's names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from engine.toybox.skeleton import BONES, Pose, frames

MIXAMO = {"pelvis": "mixamorig:Hips", "chest": "mixamorig:Spine", "head": "mixamorig:Head",
          **{f"{s}_{bone}": f"mixamorig:{side}{name}" for s, side in (("r", "Right"), ("l", "Left"))
             for bone, name in (("upper_arm", "Arm"), ("forearm", "ForeArm"), ("hand", "Hand"), ("thigh", "UpLeg"),
                                ("shin", "Leg"), ("foot", "Foot"))}}
JOINT_BONES = {"r_shoulder": "r_upper_arm", "r_elbow": "r_forearm", "r_wrist": "r_hand", "l_shoulder": "l_upper_arm",
               "l_elbow": "l_forearm", "l_wrist": "l_hand", "r_hip": "r_thigh", "r_knee": "r_shin",
               "r_ankle": "r_foot", "l_hip": "l_thigh", "l_knee": "l_shin", "l_ankle": "l_foot"}
"""OpenPose's joint -> the toybox bone that begins there."""
CROWN = (0.0, 0.4, 0.0)


def bvh_text(poses: Sequence[Pose], order: str = "ZXY", unit: float = 100.0, six: bool = False,
             names: dict[str, str] | None = None, fps: float = 30.0) -> str:
    """The toybox figure in ``poses`` as a BVH file. order : of the rotation channels; six : positions for every joint
    """
    names = names or MIXAMO
    children: dict[str, list[str]] = {bone: [] for bone in BONES}
    for bone, (parent, _) in BONES.items():
        if parent:
            children[parent].append(bone)
    lines, sequence = ["HIERARCHY"], []

    def write(bone: str, depth: int) -> None:
        sequence.append(bone)
        tab = "  " * depth
        offset = np.asarray(BONES[bone][1]) * unit
        rotations = [f"{axis}rotation" for axis in order]
        positions = ["Yposition", "Xposition", "Zposition"] if six or not depth else []
        channels = [*positions, *rotations]
        lines.extend([f"{tab}{'JOINT' if depth else 'ROOT'} {names[bone]}", tab + "{",
                      f"{tab}  OFFSET {offset[0]:.8f} {offset[1]:.8f} {offset[2]:.8f}",
                      f"{tab}  CHANNELS {len(channels)} {' '.join(channels)}"])
        for child in children[bone]:
            write(child, depth + 1)
        if not children[bone]:
            tip = np.asarray(CROWN if bone == "head" else (0, -.05, 0)) * unit
            lines.extend([f"{tab}  End Site", tab + "  {", f"{tab}    OFFSET {tip[0]} {tip[1]} {tip[2]}", tab + "  }"])
        lines.append(tab + "}")

    write("pelvis", 0)
    lines += ["MOTION", f"Frames: {len(poses)}", f"Frame Time: {1 / fps:.8f}"]
    for pose in poses:
        posed, row = frames(pose), []
        for bone in sequence:
            turn, place = posed[bone]
            parent = BONES[bone][0]
            if parent:
                up, base = posed[parent]
                turn, place = up.T @ turn, up.T @ (place - base)
            if six or not parent:
                row += [place[1] * unit, place[0] * unit, place[2] * unit]
            row += Rotation.from_matrix(turn).as_euler(order.upper(), degrees=True).tolist()
        lines.append(" ".join(f"{value:.8f}" for value in row))
    return "\n".join(lines) + "\n"


def true_joints(poses: Sequence[Pose]) -> dict[str, np.ndarray]:
    """Joint -> (n, 3) in body units."""
    posed = [frames(pose) for pose in poses]
    return {joint: np.stack([f[bone][1] for f in posed]) for joint, bone in JOINT_BONES.items()}


def armature(poses: Sequence[Pose], up: str = "z") -> dict[str, object]:
    """The same figure as the Blender add-on's JSON."""
    posed = [frames(pose) for pose in poses]
    bones = list(BONES)
    child = {parent: offset for parent, offset in BONES.values() if parent not in ("", "pelvis", "chest")}
    tip = {bone: np.asarray(child.get(bone, CROWN if bone == "head" else (0, -.05, 0))) for bone in bones}

    def out(place: np.ndarray) -> list[float]:
        x, y, z = (float(v) for v in place)
        return [x, -z, y] if up == "z" else [x, y, z]
    names = {bone: bone[2:] + {"r": ".R", "l": ".L"}[bone[0]] if bone[:2] in ("r_", "l_") else bone for bone in bones}
    return {"schema": "maquette.armature", "version": 1, "up": up, "fps": 24, "loop": True,
            "bones": [names[bone] for bone in bones],
            "heads": [[out(f[bone][1]) for bone in bones] for f in posed],
            "tails": [[out(f[bone][0] @ tip[bone] + f[bone][1]) for bone in bones] for f in posed],
            "forward": [out(f["head"][0] @ np.array([0.0, 0.0, 1.0])) for f in posed]}


def walking_knight() -> tuple[np.ndarray, np.ndarray]:
    """A rendered knight that walks: frames (4, 128, 128, 4) and its joints (4, 18, 2)."""
    from engine.clips.poses.view import camera_at
    from engine.toybox import motions
    from engine.toybox.characters import CharacterSpec, build_character
    from engine.toybox.render import render
    from engine.toybox.skeleton import project
    spec = CharacterSpec("knight", "red", seed=3)
    camera = camera_at(20, 6, 1.5 / 2 / 0.75 / np.tan(np.radians(20)), 40, (128, 128))
    scenes = [build_character(spec, motions.pose("walk", k / 4)) for k in range(4)]
    rgba = render(scenes, [camera] * 4, 128).rgba
    return rgba, np.stack([project(s.joints, camera)[0, :, :2] for s in scenes])
