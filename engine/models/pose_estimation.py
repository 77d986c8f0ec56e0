"""The role ``pose_estimation``: who finds a figure's joints in pictures. All are called alike:

    found = job.model("pose_estimation")([picture, ...], person=None)    # engine.clips.poses.estimate.Estimated

The built-in network knows toybox figures; ViTPose (with RT-DETR to find the persons) and DWPose know people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.clip_artifacts import JOINTS
from engine.clips.poses import dwpose, estimate, people
from engine.clips.poses.estimate import Estimated
from engine.clips.poses.joints import from_layout
from engine.clips.poses.network import load_pose_net
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.models.local import Located

FAMILIES = ("vitpose", "dwpose")
PERSON_SCORE = 0.5
"""Detections that are surer than this are persons."""

SMALL = 0.5
"""A figure of less than this share of the picture is cut out of it: the network learned from larger ones."""


@dataclass(frozen=True)
class BuiltinPoses:
    """net : engine.clips.poses.network.PoseNet"""

    net: Any
    name: str = "the built-in pose estimator"

    def __call__(self, pictures: Sequence[np.ndarray], person: int | None = None) -> Estimated:
        """One figure a picture. On a plain background figures are counted, ``person`` chooses one from the left, and a
        small one is looked at by itself; before other backgrounds the network begins with the whole picture."""
        device = str(next(self.net.parameters()).device)
        seen, corners, counts = [], [], []
        for picture in pictures:
            boxes = people.apart(picture)
            counts.append(len(boxes))
            if len(boxes) > 1 or (boxes and boxes[0].side < SMALL * max(picture.shape[:2])):
                largest = max(range(len(boxes)), key=lambda i: boxes[i].area)
                chosen = largest if person is None else min(person, len(boxes) - 1)
                part, left, top = people.alone(picture, boxes, chosen)
                seen.append(part)
                corners.append((left, top))
            else:
                seen.append(picture)
                corners.append((0, 0))
        found = estimate.look(self.net, seen, device)
        joints = found.joints + np.asarray(corners, np.float32).reshape(-1, 1, 2)
        several = np.maximum(found.people, np.asarray(counts, int)) * (found.people > 0)
        return Estimated(joints, found.confidence, several)


@dataclass(frozen=True)
class VitPose:
    """net : VitPoseForPoseEstimation of 17 COCO joints; processor : its image processor

    detector : RTDetrForObjectDetection, or None: then the whole picture is taken for the person
    """

    net: Any
    processor: Any
    detector: Any = None
    name: str = "ViTPose"

    def __call__(self, pictures: Sequence[np.ndarray], person: int | None = None) -> Estimated:
        """The largest person of each picture, or number ``person`` from the left."""
        joints = np.full((len(pictures), JOINTS, 2), np.nan, np.float32)
        confidence, counts = np.zeros((len(pictures), JOINTS), np.float32), np.zeros(len(pictures), int)
        for i, picture in enumerate(pictures):
            boxes = self._persons(picture)
            counts[i] = len(boxes)
            if len(boxes):
                box = people.chosen_box(boxes, person)
                table = from_layout(self._joints(picture, box))
                joints[i], confidence[i] = table[:, :2], np.clip(table[:, 2], 0, 1)
        return Estimated(joints, confidence, counts)

    def _persons(self, picture: np.ndarray) -> np.ndarray:
        """(n, 4) left, top, right, bottom of every person, pixels."""
        height, width = picture.shape[:2]
        if self.detector is None:
            return np.array([[0.0, 0.0, width, height]])
        like = next(self.detector.parameters())
        side = 640  # RT-DETR takes pictures stretched to a square, in [0, 1]
        x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None], dtype=np.float32))
        x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)
        with torch.inference_mode():
            told = self.detector(pixel_values=x.to(like))
        label = _person_label(self.detector.config)
        scores = told.logits[0].float().sigmoid().cpu().numpy()
        sure = (scores[:, label] > PERSON_SCORE) & (scores.argmax(1) == label)
        cx, cy, w, h = told.pred_boxes[0][torch.from_numpy(sure)].float().cpu().numpy().reshape(-1, 4).T
        boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1) * np.array([width, height] * 2)
        return np.asarray(boxes.clip(0, np.array([width, height] * 2)))

    def _joints(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(17, 3) x, y, score of COCO's joints."""
        like = next(self.net.parameters())
        corner = [[float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]]
        x = self.processor(images=np.round(picture * 255).astype(np.uint8), boxes=[corner], return_tensors="pt",
                           input_data_format="channels_last")
        with torch.inference_mode():
            told = self.net(pixel_values=x["pixel_values"].to(like))
        told.heatmaps = told.heatmaps.float().cpu()
        found = self.processor.post_process_pose_estimation(told, boxes=[corner], threshold=-1.0)[0][0]
        return np.c_[np.asarray(found["keypoints"]), np.asarray(found["scores"])]


def _person_label(config: Any) -> int:
    return next((int(i) for i, name in config.id2label.items() if str(name).lower() == "person"), 0)


# -- loading -----------------------------------------------------------------------------------------------------------

def load_builtin(folder: Path, device: str) -> BuiltinPoses:
    """The built-in estimator from its part's folder."""
    return BuiltinPoses(load_pose_net(folder, device))


def load_public(here: Located, own: Callable[[str, Callable[[], Any]], Any]) -> VitPose | dwpose.DwPose:
    """A public estimator from its files. BadInput: of a family that no code here knows, files that do not fit, DWPose
    without onnxruntime."""
    model = here.model
    if model.family == "vitpose":
        net = own("pose", lambda: _transformers("VitPoseForPoseEstimation", here.folder))
        if int(net.config.num_labels) != 17:
            raise BadInput(f"{model.id} finds {net.config.num_labels} joints, not COCO's 17",
                           "choose a ViTPose of COCO's joints, for instance usyd-community/vitpose-base-simple")
        detection = here.need("detection")
        detector = None if detection is None else own(
            "detection", lambda: _transformers("RTDetrForObjectDetection", detection.folder))
        return VitPose(net, own("processor", lambda: _processor(here.folder)), detector, model.id)
    if model.family == "dwpose":
        files = {path.name: path for path in here.files.values()}
        return own("pose", lambda: dwpose.load(files, model.id))  # type: ignore[no-any-return]
    raise BadInput(f"{model.id} is of the family {model.family!r}, whose poses this version cannot estimate",
                   f"known: {', '.join(FAMILIES)}")


def _transformers(cls: str, folder: Path) -> Any:
    """A network of the transformers library from a folder, every weight accounted for; only safetensors are read."""
    import transformers
    try:
        kind = getattr(transformers, cls)
        net, told = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                                         output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # OSError, ValueError, ImportError, its own classes by what is wrong
        raise BadInput(f"{folder} cannot be read as {cls}: {' '.join(str(error).split())[:200]}",
                       "pull the model again") from error
    wrong = [f"{name} {what}" for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
             for name in list(told.get(what) or ())]
    if wrong:
        raise BadInput(f"{folder} does not fit {cls}: {len(wrong)} weights, first {wrong[0]}", "pull the model again")
    return net.eval().requires_grad_(False)


def _processor(folder: Path) -> Any:
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil
    try:
        return VitPoseImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInput(f"the image settings in {folder} cannot be read: {' '.join(str(error).split())[:200]}",
                       "pull the model again") from error
