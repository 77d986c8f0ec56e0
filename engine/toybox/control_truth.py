"""Control maps of toybox scenes, exact: what a ControlNet is trained and tested with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.artifacts import over_white
from engine.diffusion import control_maps
from engine.space import Cameras
from engine.toybox.characters import CharacterScene
from engine.toybox.render import Rendering, render
from engine.toybox.scene import Scene
from engine.toybox.skeleton import project

SPLITS = ("train", "held_out", "held_out_kinds", "characters", "characters_held_out")
KINDS = ("edges", "scribble", "depth", "normals", "pose", "parts")


def true_maps(scene: Scene, cameras: Cameras, size: int, kinds: Sequence[str], drawn: Rendering | None = None
              ) -> dict[str, np.ndarray]:
    """Each kind's map from each camera: {kind: (n, size, size, 3) float32}.

    drawn : the scene's rendering from these cameras at this size, where there is one. ``pose`` of a prop is black:
    props have no joints. Joints are drawn through the body, as an estimator guesses them.
    """
    cameras = cameras.resized(size, size)
    drawn = drawn if drawn is not None else render([scene], [cameras], size)
    out: dict[str, np.ndarray] = {}
    for kind in kinds:
        if kind in ("edges", "scribble"):
            shown = torch.from_numpy(over_white(drawn.rgba)).permute(0, 3, 1, 2)
            lines = control_maps.edges(shown) if kind == "edges" else control_maps.scribble(shown)
            out[kind] = lines.permute(0, 2, 3, 1).numpy()
        elif kind == "depth":
            out[kind] = np.stack([control_maps.depth_map(depth) for depth in drawn.depth])
        elif kind == "normals":
            out[kind] = np.stack([control_maps.normal_map(n, pose)
                                  for n, pose in zip(drawn.normal, cameras.camera_to_world, strict=True)])
        elif kind == "parts":
            out[kind] = np.stack([control_maps.part_map(part, scene.part_names) for part in drawn.part])
        elif kind == "pose":
            out[kind] = np.stack(_poses(scene, cameras, size))
        else:
            raise KeyError(kind)
    return out


def _poses(scene: Scene, cameras: Cameras, size: int) -> list[np.ndarray]:
    if not isinstance(scene, CharacterScene):
        return [np.zeros((size, size, 3), np.float32)] * len(cameras)
    places = project(scene.joints, cameras)
    return [control_maps.pose_map(np.where(p[:, 2:] > 0, p[:, :2], np.nan), (size, size)) for p in places]
