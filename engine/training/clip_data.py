"""Writes shards of moving toybox figures: ``python -m engine.training.clip_data --out scratch/characters``.

A shard is a folder ``<out>/<split>/shard_00000/`` of figures with one looping clip and two reference pictures each:

- rgba.npy (n, f, 128, 128, 4) uint8, straight alpha; frame k is the motion at phase k / f, so that the last frame is
  followed by the first
- references.npy (n, 2, 128, 128, 4) uint8: the same figure standing, from cameras of its own
- joints.npy (n, f, 18, 2), reference_joints.npy (n, 2, 18, 2) float32: OpenPose's joints in pixels, none hidden
- cameras.npy (n, 3, 4) float32: azimuth, elevation (degrees), distance (field units), field of view (degrees) of the
  clip and of the two references
- specs.json, n dicts: the figure, its caption, motion, amplitude, speed and index

Everything follows from (split, index): a shard can be made again anywhere. ``train`` and ``held_out`` hold different
figures (:func:`engine.toybox.characters.sample_character`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.space import OBJECT_LONGEST_SIDE, Cameras
from engine.toybox import motions
from engine.toybox.characters import CharacterSpec, build_character, sample_character
from engine.toybox.render import render
from engine.toybox.scene import stable_hash
from engine.toybox.skeleton import Pose, project

FRAMES = 16
REFERENCES = 2
OF_HEIGHT = (0.72, 0.78)
"""The standing figure's share of the picture's height."""
AZIMUTH, ELEVATION, FOV = (-60.0, 60.0), (0.0, 15.0), (30.0, 50.0)
FRONTAL = (-30.0, 30.0)
"""Azimuths of the first reference, which is framed as a user would photograph a figure."""
FILES = ("rgba.npy", "references.npy", "joints.npy", "reference_joints.npy", "cameras.npy", "specs.json")


@dataclass(frozen=True)
class ClipSpec:
    """One figure's clip: who, which motion with which swing and how many cycles, seen from where.

    cameras : (3, 4), see the module
    """

    figure: CharacterSpec
    motion: str
    amplitude: float
    speed: int
    standing: tuple[float, float]
    cameras: np.ndarray

    def to_json(self) -> dict[str, Any]:
        return {**self.figure.to_json(), "motion": self.motion, "amplitude": self.amplitude, "speed": self.speed}


def sample_clip(split: str, index: int) -> ClipSpec:
    """The clip of the ``index``-th figure of ``train`` or ``held_out``. Deterministic."""
    rng = np.random.default_rng(stable_hash("clip", split, index))
    motion = str(rng.choice(tuple(motions.MOTIONS)))
    figure = replace(sample_character(split, index), motion=motion, phase=0.0)
    rows = []
    for azimuths in (AZIMUTH, FRONTAL, AZIMUTH):
        fov = rng.uniform(*FOV)
        half = OBJECT_LONGEST_SIDE / 2 / rng.uniform(*OF_HEIGHT)  # what the picture shows above the origin
        rows.append((rng.uniform(*azimuths), rng.uniform(*ELEVATION), half / np.tan(np.radians(fov / 2)), fov))
    speed = 2 if rng.random() < 0.1 else 1
    return ClipSpec(figure, motion, float(rng.uniform(0.7, 1.2)), speed,
                    (float(rng.random()), float(rng.random())), np.array(rows, np.float32))


def camera_of(row: np.ndarray, size: int) -> Cameras:
    """A row of cameras.npy as a camera for pictures of ``size``."""
    azimuth, elevation, distance, fov = (float(v) for v in row)
    return Cameras.orbit(azimuth, elevation, distance, fov, size)


def render_clip(clip: ClipSpec, frames: int = FRAMES, size: int = 128) -> dict[str, np.ndarray]:
    """-> rgba (f, h, w, 4) and references (2, h, w, 4) uint8, joints (f, 18, 2) and reference_joints (2, 18, 2)."""
    poses: list[Pose] = [motions.pose(clip.motion, k / frames, clip.amplitude, clip.speed) for k in range(frames)]
    poses += [motions.pose("idle", phase) for phase in clip.standing]
    cameras = [camera_of(clip.cameras[max(0, k - frames + 1)], size) for k in range(len(poses))]
    pictures, joints = [], []
    for pose, camera in zip(poses, cameras, strict=True):
        scene = build_character(clip.figure, pose)
        joints.append(project(scene.joints, camera)[0, :, :2])
        pictures.append(np.round(render([scene], [camera], size).rgba[0] * 255).astype(np.uint8))
    rgba, points = np.stack(pictures), np.stack(joints).astype(np.float32)
    return {"rgba": rgba[:frames], "references": rgba[frames:], "joints": points[:frames],
            "reference_joints": points[frames:]}


def write_shard(folder: Path, split: str, first: int, count: int, frames: int = FRAMES, size: int = 128) -> None:
    """Figures ``first .. first + count - 1``; the folder appears whole or not at all."""
    clips = [sample_clip(split, first + k) for k in range(count)]
    arrays: dict[str, list[np.ndarray]] = {}
    for clip in clips:
        for name, value in render_clip(clip, frames, size).items():
            arrays.setdefault(name, []).append(value)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, values in arrays.items():
        np.save(partial / f"{name}.npy", np.stack(values))
    np.save(partial / "cameras.npy", np.stack([clip.cameras for clip in clips]))
    rows = [{**clip.to_json(), "index": first + k} for k, clip in enumerate(clips)]
    (partial / "specs.json").write_text(json.dumps(rows), encoding="utf-8")
    partial.replace(folder)


def plan(train: int, held_out: int, per_shard: int) -> list[tuple[str, int, int, int]]:
    """(split, shard, first figure, figures), in the order of making: the held-out ones right after the first shard, so
    that a training can begin and be measured while the rest is made."""
    def shards(split: str, total: int) -> list[tuple[str, int, int, int]]:
        return [(split, k, first, min(per_shard, total - first))
                for k, first in enumerate(range(0, total, per_shard))]

    mine = shards("train", train)
    return mine[:1] + shards("held_out", held_out) + mine[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scratch/characters"))
    parser.add_argument("--train", type=int, default=1200, help="figures of the train split")
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--per-shard", type=int, default=100)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args()
    if hasattr(os, "nice"):
        os.nice(options.nice)
    import torch
    torch.set_num_threads(1)
    for split, shard, first, count in plan(options.train, options.held_out, options.per_shard):
        folder = options.out / split / f"shard_{shard:05d}"
        if not folder.exists():
            write_shard(folder, split, first, count, options.frames, options.size)
            print(folder, flush=True)


if __name__ == "__main__":
    main()
