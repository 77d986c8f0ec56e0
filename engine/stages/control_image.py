"""Pictures -> the maps that ControlNets follow: computed, estimated by a model, exact from the toybox, or a user's."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from engine.artifacts import ControlMaps, Picture, over_white
from engine.diffusion import control_maps
from engine.diffusion.canvas import resize
from engine.diffusion.control_maps import Kind
from engine.errors import BadInput
from engine.job import Job, Params, stage

Source = Literal["picture", "map", "toybox"]
MOST = 4
"""Maps in one artifact, as many as the stage takes pictures."""


class ControlImage(Params):
    """Parameters of ``control_image``."""

    kinds: tuple[Kind, ...] = Field(min_length=1, max_length=MOST, description="What the maps show, each kind once: "
                                    "edges, scribble, depth, normals, pose, parts, segments.")
    sources: tuple[Source, ...] = Field((), description="Of each map: picture (made from the picture given for it), "
                                        "map (the picture is the map), toybox; none: picture.")
    toybox: str = Field("", pattern=r"^([a-z_]+:\d+)?$", description="A thing of the toybox, SPLIT:INDEX, such as "
                                                                     "held_out:12; its maps are exact.")
    azimuth_deg: float = Field(30.0, ge=-360, le=360, description="Where the toybox's thing is seen from, degrees.")
    elevation_deg: float = Field(20.0, ge=-10, le=60, description="Of the same, degrees, -10 to 60.")
    size: int = Field(128, ge=64, le=1024, description="Side of the toybox's maps, pixels.")

    @model_validator(mode="after")
    def _each_its_own(self) -> ControlImage:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("each kind of map can be asked for once")
        if self.sources and len(self.sources) != len(self.kinds):
            raise ValueError(f"sources holds {len(self.sources)} words for {len(self.kinds)} kinds")
        if ("toybox" in self.sources) != bool(self.toybox):
            raise ValueError("a source is toybox where toybox names a thing, and only there")
        return self

    def source(self, i: int) -> str:
        return self.sources[i] if self.sources else "picture"


def roles(p: ControlImage) -> tuple[str, ...]:
    """Estimators, of those kinds that a picture alone does not give."""
    return tuple(f"estimate.{kind}" for i, kind in enumerate(p.kinds)
                 if p.source(i) == "picture" and kind not in control_maps.FROM_PICTURE)


@stage(version=1, roles=roles)
def control_image(first: Picture | None, second: Picture | None, third: Picture | None, fourth: Picture | None,
                  p: ControlImage, job: Job) -> ControlMaps:
    """A map of each kind, in order, from the picture in the same place; all of the first one's size.

    Estimators are models of the roles estimate.depth, estimate.normals, ...: called with a picture (h, w, 3), they give
    its map (h, w, 3). Raises BadInput for pictures of different shapes and where one is missing.
    """
    given: list[Picture | None] = [first, second, third, fourth]
    images = [_map(kind, p.source(i), given[i], p, job) for i, kind in enumerate(p.kinds)]
    rows, columns = images[0].shape[:2]
    for kind, image in zip(p.kinds, images, strict=True):
        if abs(image.shape[0] * columns - image.shape[1] * rows) > max(rows, columns, *image.shape[:2]):
            raise BadInput(f"the map of {kind} is {image.shape[1]} x {image.shape[0]} pixels, that of {p.kinds[0]} "
                           f"{columns} x {rows}", "give pictures of one shape")
    placed = [resize(image, rows, columns, smooth=kind not in control_maps.FLAT)
              for kind, image in zip(p.kinds, images, strict=True)]
    kept = (np.round(np.stack(placed) * 255) / 255).astype(np.float32)
    job.progress(1.0, kept[0])
    return ControlMaps(list(p.kinds), kept, {"sources": [p.source(i) for i in range(len(p.kinds))]})


def _map(kind: str, source: str, picture: Picture | None, p: ControlImage, job: Job) -> np.ndarray:
    if source == "toybox":
        return _of_toybox(kind, p)
    if picture is None:
        raise BadInput(f"no picture is given for the map of {kind}", f"give one: --control {kind}=FILE or --image FILE")
    image = over_white(picture.image)
    if source == "map":
        return image
    if kind in control_maps.FROM_PICTURE:
        return control_maps.of_picture(kind, image)
    estimate: Any = job.model(f"estimate.{kind}")
    return np.asarray(estimate(image), dtype=np.float32)


def _of_toybox(kind: str, p: ControlImage) -> np.ndarray:
    from engine.toybox.control_truth import KINDS, SPLITS, true_maps
    from engine.toybox.generate import FRAMED_FRACTION, framed, scene_of
    split, _, number = p.toybox.partition(":")
    if split not in SPLITS:
        raise BadInput(f"the toybox has no split {split!r}", f"give one of {', '.join(SPLITS)}")
    if kind not in KINDS:
        raise BadInput(f"the toybox has no map of {kind}", f"give one of {', '.join(KINDS)}")
    scene = scene_of(split, int(number))
    camera = framed(scene, p.azimuth_deg, p.elevation_deg, 40.0, FRAMED_FRACTION, p.size)
    return true_maps(scene, camera, p.size, (kind,))[kind][0]
