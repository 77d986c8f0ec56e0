"""Control maps of the toybox's pictures, exact where the toybox knows the truth: ``python -m engine.training
control_maps``.

``<controls>/<split>/shard_00000/`` holds, for the text-to-image views of a shard of the same name, edges.npy (Canny's,
of the render over white), depth.npy (inverse, 255: near) and parts.npy (row of parts.json's names, 255: none), each
(n, 2, h, w) uint8. Figures stand under ``characters`` and ``characters_held_out``: shards of their own (rgba, cameras,
specs as :mod:`engine.training.data` reads them, two views) with pose.npy (n, 2, h, w, 3) uint8 and joints.npy
(n, 2, 18, 3) float32 = column, row, 1 where visible. Maps are drawn by :mod:`engine.diffusion.control_maps`, as they
are for users.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from engine.diffusion import control_maps
from engine.space import Cameras
from engine.toybox.characters import CharacterScene
from engine.toybox.generate import join, scene_of, views_of
from engine.toybox.render import render
from engine.toybox.scene import Scene
from engine.toybox.skeleton import KEYPOINT_NAMES, project
from engine.training.data import TEXT_VIEWS, Shards, over, to_tensor
from engine.training.latents import update

NONE = 255
TRUE_KINDS = ("depth", "parts")
"""Kinds that the scene itself gives."""
FIGURES = 216
"""Figures in a shard."""


def edge_maps(rgba: np.ndarray, batch: int = 16) -> np.ndarray:
    """(n, h, w, 4) uint8 -> edges of the pictures over white, (n, h, w) uint8, 0 or 255."""
    found = [control_maps.edges(to_tensor(over(rgba[i:i + batch]), low=0.0))[:, 0] for i in range(0, len(rgba), batch)]
    return (torch.cat(found) * 255).byte().numpy()


def true_maps(scene: Scene, cameras: Cameras, size: int, names: list[str]) -> dict[str, np.ndarray]:
    """Depth and parts of one scene, uint8 (cameras, size, size) each; part names that ``names`` lacks are added to it.
    """
    drawn = render([scene], [cameras], size, supersample=1)
    names += [name for name in dict.fromkeys(scene.part_names) if name not in names]
    if len(names) > NONE:
        raise ValueError(f"{len(names)} names of parts do not fit a byte")
    rows = np.array([names.index(name) for name in scene.part_names] + [NONE])
    depth = np.stack([control_maps.depth_map(d)[..., 0] for d in drawn.depth])
    return {"depth": np.round(255 * depth).astype(np.uint8), "parts": rows[drawn.part].astype(np.uint8)}


def visible_joints(joints: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Which of OpenPose's 18 joints a detector would find: those of the face only where it looks at the camera.

    joints : (18, 3) scene coordinates; view : (18, 3) column, row, depth -> (18,) bool. The body's joints count as
    found also where a limb hides them, as OpenPose guesses them.
    """
    at = {name: i for i, name in enumerate(KEYPOINT_NAMES)}
    across = float(np.linalg.norm(joints[at["l_ear"]] - joints[at["r_ear"]]))
    middle = float(view[[at["l_ear"], at["r_ear"]], 2].mean())
    out = np.ones(len(KEYPOINT_NAMES), bool)
    for name in ("nose", "r_eye", "l_eye", "r_ear", "l_ear"):
        # an ear on the far side of the head, an eye behind it
        out[at[name]] = view[at[name], 2] < middle + 0.25 * across
    return out


def pose_maps(scene: CharacterScene, cameras: Cameras, size: int) -> tuple[np.ndarray, np.ndarray]:
    """-> drawings (cameras, size, size, 3) uint8 and joints (cameras, 18, 3) float32."""
    drawings, table = [], []
    for view in project(scene.joints, cameras):
        seen = visible_joints(scene.joints, view)
        points = np.where(seen[:, None], view[:, :2], np.nan)
        drawings.append(np.round(255 * control_maps.pose_map(points, (size, size))).astype(np.uint8))
        table.append(np.c_[view[:, :2], seen])
    return np.stack(drawings), np.stack(table).astype(np.float32)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)


def write_maps(shards: Shards, controls: Path, kinds: Sequence[str] = ("edges", *TRUE_KINDS), limit: int | None = None,
               report: Callable[[str], None] = lambda _: None) -> int:
    """Write what is missing for the first ``limit`` shards of a split -> pictures whose maps were made."""
    done, split = 0, shards.folder.name
    for i in range(min(limit if limit is not None else len(shards.names), len(shards.names))):
        path, rgba, _, part = shards.shard(i)
        folder = controls / split / path.name
        n, size = len(rgba), rgba.shape[2]
        views = min(TEXT_VIEWS, rgba.shape[1])
        missing = [k for k in kinds if not (folder / f"{k}.npy").exists()]
        if "edges" in missing:
            flat = np.ascontiguousarray(rgba[:, :views]).reshape(n * views, *rgba.shape[2:])
            _save(folder / "edges.npy", edge_maps(flat).reshape(n, views, size, size))
        true = [k for k in missing if k in TRUE_KINDS]
        if true:
            out = {k: np.zeros((n, views, size, size), np.uint8) for k in true}
            names: list[str] = []
            for row, spec in enumerate(shards.specs[part]):
                scene = scene_of(split, int(spec["index"]))
                cameras = join(views_of(scene, split, int(spec["index"]), size)[0][:views])
                maps = true_maps(scene, cameras, size, names)
                for k in true:
                    out[k][row] = maps[k]
            if "parts" in true:
                (folder / "parts.json").write_text(json.dumps(names), encoding="utf-8")
            for k in true:
                _save(folder / f"{k}.npy", out[k])
        if missing:
            done += n * views
            report(f"{split} {path.name} {' '.join(missing)}")
    return done


def write_figures(controls: Path, split: str, shards: int, size: int = 128, count: int = FIGURES,
                  report: Callable[[str], None] = lambda _: None) -> int:
    """Write shards of posed figures with their skeletons -> figures drawn. Folders appear whole or not at all."""
    done = 0
    for shard in range(shards):
        folder = controls / split / f"shard_{shard:05d}"
        if folder.exists():
            continue
        rgba = np.zeros((count, TEXT_VIEWS, size, size, 4), np.uint8)
        cameras, joints = np.zeros((count, TEXT_VIEWS, 4), np.float32), np.zeros((count, TEXT_VIEWS, 18, 3), np.float32)
        pose, specs = np.zeros((count, TEXT_VIEWS, size, size, 3), np.uint8), []
        for row in range(count):
            index = shard * count + row
            scene = scene_of(split, index)
            assert isinstance(scene, CharacterScene)
            all_cameras, table = views_of(scene, split, index, size)
            taken = join(all_cameras[:TEXT_VIEWS])
            rgba[row] = np.round(255 * render([scene], [taken], size).rgba).astype(np.uint8)
            pose[row], joints[row] = pose_maps(scene, taken, size)
            cameras[row] = table[:TEXT_VIEWS]
            specs.append({**scene.spec.to_json(), "index": index})
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for name, array in (("rgba", rgba), ("cameras", cameras), ("pose", pose), ("joints", joints)):
            np.save(partial / f"{name}.npy", array)
        (partial / "specs.json").write_text(json.dumps(specs), encoding="utf-8")
        partial.replace(folder)
        done += count
        report(f"{split} {folder.name}")
    return done


def write_all(train: Shards, held_out: Shards, controls: Path, work: Path, limit: int, device: str = "cpu",
              report: Callable[[str], None] = lambda _: None) -> None:
    """Everything that the controls are trained and measured on: maps of props, figures, and the figures' latents."""
    write_maps(held_out, controls, report=report)
    write_maps(train, controls, limit=limit, report=report)
    for split, count in (("characters_held_out", 1), ("characters", 8)):
        write_figures(controls, split, count, report=report)
        update(Shards(controls / split), work / "latents", device, ("conditions",), report=report)


class Maps:
    """The maps of one kind, for those objects of a split whose shards have them."""

    def __init__(self, shards: Shards, controls: Path, kind: str) -> None:
        self.kind = kind
        self._at: dict[int, tuple[np.ndarray, int, tuple[str, ...]]] = {}
        for i, name in enumerate(shards.names):
            folder = controls / shards.folder.name / name
            if (folder / f"{kind}.npy").exists():
                part, file = shards.shard(i)[3], np.load(folder / f"{kind}.npy", mmap_mode="r")
                names = tuple(json.loads((folder / "parts.json").read_text())) if kind == "parts" else ()
                self._at |= {o: (file, row, names) for row, o in enumerate(range(part.start, part.stop))}

    def __contains__(self, item: int) -> bool:
        return item in self._at

    def __len__(self) -> int:
        return len(self._at)

    def take(self, objects: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Maps of ``objects`` (b,) from ``views`` (b,) as a ControlNet takes them, (b, h, w, 3) float32 in [0, 1]."""
        names = [self._at[int(o)][2] for o in objects]
        return np.stack([as_picture(stored, self.kind, n)
                         for stored, n in zip(self.raw(objects, views), names, strict=True)])

    def raw(self, objects: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The same as they are stored."""
        found = [self._at[int(o)] for o in objects]
        return np.stack([file[row, v] for (file, row, _), v in zip(found, views, strict=True)])


def as_picture(stored: np.ndarray, kind: str, names: Sequence[str] = ()) -> np.ndarray:
    """A stored map (h, w) or, of a pose, (h, w, 3), uint8 -> (h, w, 3) float32 in [0, 1]; names : of the parts."""
    if kind == "parts":
        part = stored.astype(np.int64)
        return control_maps.part_map(np.where(part == NONE, -1, part), names)
    x = stored.astype(np.float32) / 255
    return x if kind == "pose" else np.repeat(x[..., None], 3, -1)
