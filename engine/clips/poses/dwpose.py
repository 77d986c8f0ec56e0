"""DWPose (Yang et al. 2023): persons by YOLOX, joints by RTMPose, both as ONNX, run by onnxruntime where it is there.

Inputs and outputs are those of the published files: yolox_l.onnx takes 640 x 640 BGR in 0..255, its picture in the top
left and grey around it; dw-ll_ucoco_384.onnx takes 288 x 384 RGB, normalised, and answers with a distribution over x
and one over y for each of 133 joints, two cells a pixel (SimCC, Li et al. 2022). The first 17 joints are COCO's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.clip_artifacts import JOINTS
from engine.clips.poses.estimate import Estimated
from engine.clips.poses.joints import from_layout
from engine.clips.poses.people import chosen_box
from engine.errors import BadInput

DETECTOR, ESTIMATOR = "yolox_l.onnx", "dw-ll_ucoco_384.onnx"
SIDE, GREY = 640, 114
STRIDES = (8, 16, 32)
WIDTH, HEIGHT = 288, 384
MEAN, SPREAD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
CELLS = 2
"""Cells of the distributions a pixel."""
AROUND = 1.25
"""Of a person's box that is looked at."""
LEAST, OVERLAP = 0.3, 0.45


@dataclass(frozen=True)
class DwPose:
    """detector, estimator : called with an array, they give the list of the network's outputs"""

    detector: Any
    estimator: Any
    name: str = "DWPose"

    def __call__(self, pictures: Sequence[np.ndarray], person: int | None = None) -> Estimated:
        """The largest person of each picture, or number ``person`` from the left."""
        joints = np.full((len(pictures), JOINTS, 2), np.nan, np.float32)
        confidence, counts = np.zeros((len(pictures), JOINTS), np.float32), np.zeros(len(pictures), int)
        for i, picture in enumerate(pictures):
            boxes = persons(self.detector(detector_input(picture))[0], picture.shape[:2])
            counts[i] = len(boxes)
            if len(boxes):
                x, square = estimator_input(picture, chosen_box(boxes, person))
                over_x, over_y = self.estimator(x)[:2]
                table = from_layout(places(over_x, over_y, square)[:17])
                joints[i], confidence[i] = table[:, :2], np.clip(table[:, 2], 0, 1)
        return Estimated(joints, confidence, counts)


def load(files: Mapping[str, Path], name: str) -> DwPose:
    """From its two files. BadInput where onnxruntime is not installed, or cannot read them."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput(f"{name} is an ONNX model, and onnxruntime is not installed",
                       "pip install onnxruntime, or choose --model pose_estimation=usyd-community/vitpose-base-simple"
                       ) from error

    def session(file: str) -> Any:
        if file not in files:
            raise BadInput(f"{name} lacks {file}", "pull the model again")
        try:
            opened = onnxruntime.InferenceSession(str(files[file]), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own
            raise BadInput(f"{files[file]} cannot be read: {' '.join(str(error).split())[:200]}",
                           "pull the model again") from error
        entry = opened.get_inputs()[0].name
        return lambda x: opened.run(None, {entry: x})
    return DwPose(session(DETECTOR), session(ESTIMATOR), name)


# -- persons -----------------------------------------------------------------------------------------------------------

def detector_input(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) in [0, 1] -> (1, 3, 640, 640)."""
    from PIL import Image
    scale = SIDE / max(picture.shape[:2])
    to = (max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale)))
    small = Image.fromarray(np.round(picture * 255).astype(np.uint8)).resize(to, Image.Resampling.BILINEAR)
    canvas = np.full((SIDE, SIDE, 3), GREY, np.float32)
    canvas[:to[1], :to[0]] = np.asarray(small)[..., ::-1]
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])


def persons(answer: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """YOLOX's answer (1, 8400, 85) -> (n, 4) left, top, right, bottom of the persons in a picture of ``size`` (h, w).

    Its rows are cells of three grids: middle (in cells from the cell's corner), log of the size (in cells), how sure it
    is of a thing, and of each of 80 kinds; persons are the first.
    """
    grids = [np.stack(np.meshgrid(np.arange(SIDE // s), np.arange(SIDE // s)), -1).reshape(-1, 2) for s in STRIDES]
    cell = np.concatenate(grids)
    stride = np.concatenate([np.full((len(g), 1), s) for g, s in zip(grids, STRIDES, strict=True)])
    rows = np.asarray(answer[0], dtype=np.float64)
    middle, extent = (rows[:, :2] + cell) * stride, np.exp(rows[:, 2:4]) * stride
    score = rows[:, 4] * rows[:, 5]
    kept = (score > LEAST) & (rows[:, 5:].argmax(1) == 0)
    boxes = np.concatenate([middle - extent / 2, middle + extent / 2], 1)[kept] / (SIDE / max(size))
    return boxes[apart(boxes, score[kept])]


def apart(boxes: np.ndarray, score: np.ndarray) -> list[int]:
    """Non-maximum suppression: indices of boxes, the surest first, none overlapping a surer one by more than
    OVERLAP."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    waiting, kept = list(np.argsort(-score)), []
    while waiting:
        best = waiting.pop(0)
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[waiting][:, :2])
        high = np.minimum(boxes[best, 2:], boxes[waiting][:, 2:])
        both = np.prod(np.maximum(high - low, 0), axis=1)
        share = both / np.maximum(area[best] + area[waiting] - both, 1e-9)
        waiting = [w for w, s in zip(waiting, share, strict=True) if s <= OVERLAP]
    return kept


# -- joints ------------------------------------------------------------------------------------------------------------

Square = tuple[float, float, float, float]


def estimator_input(picture: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, Square]:
    """A person's box, widened to the network's shape -> (1, 3, 384, 288), and what was looked at: left, top, width,
    height in the picture."""
    from PIL import Image
    centre, extent = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * AROUND
    width = max(float(extent[0]), float(extent[1]) * WIDTH / HEIGHT, 1.0)
    height = width * HEIGHT / WIDTH
    left, top = float(centre[0]) - width / 2, float(centre[1]) - height / 2
    image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
    cut = image.transform((WIDTH, HEIGHT), Image.Transform.EXTENT, (left, top, left + width, top + height),
                          Image.Resampling.BILINEAR)
    x = (np.asarray(cut, dtype=np.float64) - MEAN) / SPREAD
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], dtype=np.float32), (left, top, width, height)


def places(over_x: np.ndarray, over_y: np.ndarray, square: Square) -> np.ndarray:
    """Distributions (1, k, 576) and (1, k, 768) -> (k, 3): x, y in the picture, and the lower of their peaks."""
    left, top, width, height = square
    x, y = over_x[0].argmax(1) / CELLS, over_y[0].argmax(1) / CELLS
    score = np.minimum(over_x[0].max(1), over_y[0].max(1))
    return np.stack([left + x * width / WIDTH, top + y * height / HEIGHT, score], 1)
