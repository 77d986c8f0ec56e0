"""Control maps: what of a picture a ControlNet is shown. From a picture, or from exact ground truth of a 3-D scene.

Every map is float32 in [0, 1], (b, 3, h, w) as tensor or (h, w, 3) as array, in the form that public ControlNets were
trained on:

| kind | map |
|---|---|
| edges | Canny's edges, white on black (Canny 1986) |
| scribble | thick rough lines where the edges are: what a hand draws |
| depth | inverse depth, near is white (Ranftl et al. 2020) |
| normals | red to the right, green up, blue toward the camera: 0.5 + 0.5 n |
| pose | OpenPose's skeleton of 18 keypoints in its own colours (Cao et al. 2019) |
| parts | one flat colour a part of the toybox's things |
| segments | ADE20K's kinds of things, one flat colour each |
| face | five points of a face joined at the nose (Wang et al. 2024, InstantID) |
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from engine.diffusion.skeleton_drawing import draw_skeleton
from engine.errors import BadInput
from engine.runs.words import nearest

Kind = Literal["edges", "scribble", "depth", "normals", "pose", "parts", "segments"]
KINDS: tuple[str, ...] = get_args(Kind)
ALIASES = {"canny": "edges", "edge": "edges", "openpose": "pose", "seg": "segments", "segmentation": "segments",
           "part": "parts", "normal": "normals", "normalbae": "normals"}
"""What public ControlNets are called -> the kind of map that they take."""
FROM_PICTURE = ("edges", "scribble")
"""Kinds that are computed from any picture, without a model."""
FLAT = ("parts", "segments")
"""Kinds whose colours are names: never mixed when a map is scaled."""

LOW, HIGH = 0.2, 0.4
"""Canny's thresholds. In the picture's own gradient (Sobel, sum of weights 4): a step of 0.1 from dark to light is
0.26 after the blur."""


def kind_named(name: str) -> str:
    """The kind that a word means. BadInput with the nearest one where there is none."""
    found = ALIASES.get(name, name)
    if found not in KINDS:
        raise BadInput(f"there is no control {name!r}", nearest(name, KINDS))
    return found


def of_picture(kind: str, image: np.ndarray) -> np.ndarray:
    """Edges or a scribble of a picture (h, w, 3) in [0, 1], over white -> (h, w, 3)."""
    shown = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))[None]
    return (edges(shown) if kind == "edges" else scribble(shown))[0].permute(1, 2, 0).numpy()


def edges(pictures: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """Canny's edges of (b, 3, h, w) in [0, 1], sRGB -> (b, 3, h, w), 0 or 1.

    Blur of sigma 1, Sobel's gradient, thinning to its ridges (kornia), then hysteresis between ``low`` and ``high``:
    strong pixels grow into weak ones that touch them, until nothing changes. (Kornia's own loop is far slower.)
    """
    from kornia.filters import canny
    marked = canny(pictures.float(), low, high, (5, 5), (1.0, 1.0), hysteresis=False)[1]
    strong, weak = (marked == 1).float(), (marked > 0).float()
    while True:
        grown = torch.nn.functional.max_pool2d(strong, 3, 1, 1) * weak
        if torch.equal(grown, strong):
            return strong.expand(-1, 3, -1, -1).clone()
        strong = grown


def scribble(pictures: Tensor, low: float = LOW, high: float = HIGH, blur: float = 3.0) -> Tensor:
    """Thick rough lines where the edges are: what a hand would draw. Of the shape of ``pictures``.

    The picture is first blurred by ``blur`` pixels of a side of 512 (scaled with the picture), so that detail goes; the
    lines are five pixels wide at 512 and three at least.
    """
    from kornia.filters import gaussian_blur2d
    from kornia.morphology import dilation
    side = min(pictures.shape[-2:])
    sigma, width = blur * side / 512, max(3, 2 * round(side / 256) + 1)
    if sigma > 0.3:
        size = min(2 * int(np.ceil(3 * sigma)) + 1, 2 * (side // 2) - 1)
        pictures = gaussian_blur2d(pictures.float(), (size, size), (sigma, sigma), border_type="replicate")
    lines = edges(pictures, low / 2, high / 2)
    return dilation(lines, torch.ones(width, width, device=lines.device)).clamp(0, 1)


def depth_map(depth: np.ndarray) -> np.ndarray:
    """Depth along the view axis (h, w) > 0, 0 where empty -> (h, w, 3) inverse depth: the nearest point is 1, the
    farthest 0.2, empty 0. A map of one single depth is 1. Monotone, so that order is kept; units are lost."""
    seen = depth > 0
    out = np.zeros(depth.shape, np.float32)
    if seen.any():
        inverse = 1 / depth[seen].astype(np.float64)
        least, most = float(inverse.min()), float(inverse.max())
        share = (inverse - least) / (most - least) if most - least > 1e-9 else np.ones_like(inverse)
        out[seen] = 0.2 + 0.8 * share
    return np.repeat(out[..., None], 3, -1)


def normal_map(normals: np.ndarray, camera_to_world: np.ndarray) -> np.ndarray:
    """World normals (h, w, 3), zero where empty, and the camera's pose (4, 4), OpenGL axes -> (h, w, 3): right is red,
    up is green, toward the camera is blue. Empty faces the camera, as estimators say of a plain wall."""
    seen = np.linalg.norm(normals, axis=-1) > 1e-6
    local = normals @ camera_to_world[:3, :3].astype(np.float64)  # rows times R are R's inverse times columns
    local[~seen] = (0.0, 0.0, 1.0)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    return (0.5 + 0.5 * local).astype(np.float32)


def part_colour(name: str) -> tuple[float, float, float]:
    """The colour of a part in every map, on every machine: three bytes of its name's SHA-256, none darker than 64."""
    red, green, blue = hashlib.sha256(name.encode()).digest()[:3]
    return tuple((64 + v % 192) / 255 for v in (red, green, blue))  # type: ignore[return-value]


def part_map(part: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """part (h, w) int, -1 where empty, an index into ``names`` -> (h, w, 3), one flat colour a part, empty black."""
    palette = np.array([(0.0, 0.0, 0.0), *(part_colour(name) for name in names)], np.float32)
    return palette[part + 1]


def pose_map(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """OpenPose keypoints (people, 18, 2) or (18, 2) in pixels (column, row), NaN where unseen -> (h, w, 3).

    size : (h, w) of the map
    """
    people = np.asarray(keypoints, dtype=np.float64)
    return draw_skeleton(people if people.ndim == 3 else people[None], size)


def agreement(found: Tensor, wanted: Tensor, tolerance: int = 1) -> Tensor:
    """F1 of edges (b, 3, h, w) against the edges that were asked for -> (b,) in [0, 1].

    A pixel counts as right when the other map has an edge within ``tolerance`` pixels (a square), as boundary
    benchmarks do (Martin et al. 2004). Two empty maps agree.
    """
    a, b = (x[:, :1] > 0.5 for x in (found, wanted))
    near_a, near_b = (torch.nn.functional.max_pool2d(x.float(), 2 * tolerance + 1, 1, tolerance) > 0.5 for x in (a, b))
    count_a, count_b = a.sum((1, 2, 3)), b.sum((1, 2, 3))
    precision = (a & near_b).sum((1, 2, 3)) / count_a.clamp(min=1)
    recall = (b & near_a).sum((1, 2, 3)) / count_b.clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where((count_a == 0) & (count_b == 0), torch.ones_like(f1), f1)
