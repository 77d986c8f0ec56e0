"""Writes shards of toybox pictures for training: ``python -m engine.toybox.generate --split train --shards 0-11``.

A shard is a folder: rgba.npy uint8 (n, 8, 128, 128, 4) straight alpha, cameras.npy float32 (n, 8, 4) = azimuth,
elevation (degrees), radius (Zero-1-to-3 units: the longest side is 1), field of view (degrees); specs.json. Views 0-1
are framed like text-to-image pictures (view 0 from about the front); views 2-7 are novel-view cameras at the
canonical radius. Everything follows from (split, index): a shard can be made again anywhere.

The splits ``characters`` and ``characters_held_out`` hold jointed figures, the others props.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from engine.conventions.zero123 import CANONICAL_RADIUS
from engine.space import OBJECT_LONGEST_SIDE, Cameras
from engine.toybox.characters import build_character, sample_character
from engine.toybox.render import render
from engine.toybox.scene import Scene, build, sample_spec, stable_hash

VIEWS = 8
FOV_DEG = 49.1
FRAMED_FRACTION = 0.7


def framed(scene: Scene, azimuth_deg: float, elevation_deg: float, fov_deg: float, fraction: float, size: int
           ) -> Cameras:
    """A camera whose picture holds the object's bounding box centred, its longest side ``fraction`` of the frame."""
    distance = OBJECT_LONGEST_SIDE * 1.9 * np.tan(np.radians(FOV_DEG / 2)) / np.tan(np.radians(fov_deg / 2))
    camera = Cameras.orbit(azimuth_deg, elevation_deg, distance, fov_deg, size)
    h = np.c_[scene.vertices, np.ones(len(scene.vertices))] @ camera.clip_from_world()[0].T
    ndc = h[:, :2] / h[:, 3:]
    lo, hi = ndc.min(0), ndc.max(0)
    zoom = 2 * fraction / float((hi - lo).max())
    centre = (lo + hi) / 2 * zoom
    return Cameras(camera.camera_to_world, (camera.fx * zoom).astype(np.float32), (camera.fy * zoom).astype(np.float32),
                   (camera.cx - centre[0] * size / 2).astype(np.float32),
                   (camera.cy + centre[1] * size / 2).astype(np.float32), size, size)


def scene_of(split: str, index: int) -> Scene:
    """The ``index``-th prop of a split, or figure of ``characters`` and ``characters_held_out``."""
    if split.startswith("characters"):
        return build_character(sample_character("train" if split == "characters" else "held_out", index))
    return build(sample_spec(split, index))


def views_of(scene: Scene, split: str, index: int, size: int) -> tuple[list[Cameras], np.ndarray]:
    """The eight cameras of object ``index`` and their (8, 4) table."""
    rng = np.random.default_rng(stable_hash("views", split, index))
    rows, cameras = [], []
    for v in range(VIEWS):
        if v < 2:
            azimuth = rng.uniform(-40, 40) if v == 0 else rng.uniform(0, 360)
            elevation = rng.uniform(10, 30) if v == 0 else rng.uniform(-10, 60)
            fov = rng.uniform(30, 50)
            cameras.append(framed(scene, azimuth, elevation, fov, FRAMED_FRACTION * rng.uniform(.94, 1.06), size))
            rows.append((azimuth % 360, elevation, CANONICAL_RADIUS, fov))
        else:
            azimuth = rng.uniform(0, 360)
            elevation = rng.uniform(8, 32) if v % 2 else rng.uniform(-10, 60)
            cameras.append(Cameras.orbit(azimuth, elevation, CANONICAL_RADIUS * OBJECT_LONGEST_SIDE, FOV_DEG, size))
            rows.append((azimuth, elevation, CANONICAL_RADIUS, FOV_DEG))
    return cameras, np.array(rows, np.float32)


def join(cameras: list[Cameras]) -> Cameras:
    """Several single cameras as one batch."""
    poses, fx, fy, cx, cy = (np.concatenate([getattr(c, name) for c in cameras])
                             for name in ("camera_to_world", "fx", "fy", "cx", "cy"))
    return Cameras(poses, fx, fy, cx, cy, cameras[0].width, cameras[0].height)


def write_shard(folder: Path, split: str, first: int, count: int, size: int = 128) -> None:
    """Objects ``first .. first + count - 1`` of ``split``; the folder appears whole or not at all."""
    rgba = np.zeros((count, VIEWS, size, size, 4), np.uint8)
    table = np.zeros((count, VIEWS, 4), np.float32)
    specs = []
    for i in range(0, count, 2):
        scenes, cams = [], []
        for k in range(i, min(i + 2, count)):
            scene = scene_of(split, first + k)
            cameras, table[k] = views_of(scene, split, first + k, size)
            scenes.append(scene)
            cams.append(join(cameras))
            specs.append({**scene.spec.to_json(), "index": first + k})
        drawn = render(scenes, cams, size).rgba
        rgba[i:i + len(scenes)] = np.round(drawn * 255).astype(np.uint8).reshape(len(scenes), VIEWS, size, size, 4)
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    np.save(partial / "rgba.npy", rgba)
    np.save(partial / "cameras.npy", table)
    (partial / "specs.json").write_text(json.dumps(specs))
    partial.replace(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("scratch/toybox"))
    parser.add_argument("--split", default="train")
    parser.add_argument("--shards", default="0-3", help="first-last, both included")
    parser.add_argument("--objects", type=int, default=270, help="a shard; a multiple of the kinds keeps balance")
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    import torch
    torch.set_num_threads(1)
    first, last = (int(x) for x in [*options.shards.split("-"), options.shards][:2])
    for shard in range(first, last + 1):
        folder = options.out / options.split / f"shard_{shard:05d}"
        if not folder.exists():
            write_shard(folder, options.split, shard * options.objects, options.objects, options.size)
            print(folder, flush=True)


if __name__ == "__main__":
    main()
