"""Golden cases of the image stages (tests/golden.py), around tiny random networks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

WORDS: dict[str, Any] = {"prompt": "a red mug", "steps": 3}


def _given(**models: Any) -> Any:
    from image_helpers import Given
    return Given(**models)


def _shown(seed: int = 0) -> Any:
    from image_helpers import picture

    from engine.artifacts import Picture
    return Picture(picture(seed))


def image_to_image_case() -> Any:
    from engine.stages.image_to_image import ImageToImage, image_to_image
    return image_to_image(_shown(), None, None, None, ImageToImage(**WORDS, strength=0.7), _given())


def inpaint_case() -> Any:
    from test_image_stages import white_square

    from engine.stages.inpaint import Inpaint, inpaint
    return inpaint(_shown(), white_square(), None, None, None, Inpaint(**WORDS, rounds=2), _given())


def outpaint_case() -> Any:
    from engine.stages.outpaint import Outpaint, outpaint
    return outpaint(_shown(), None, None, None, Outpaint(**WORDS, rounds=1, left=16), _given())


def control_image_case() -> Any:
    from engine.stages.control_image import ControlImage, control_image
    p = ControlImage(kinds=("edges", "scribble", "depth", "parts"), toybox="held_out:3", size=64,
                     sources=("picture", "picture", "toybox", "toybox"))
    return control_image(_shown(), _shown(1), None, None, p, _given())


def control_to_image_case() -> Any:
    from image_helpers import control

    from engine.artifacts import ControlMaps
    from engine.stages.control_to_image import ControlToImage, control_to_image
    maps = ControlMaps(["edges"], _shown(1).image[None])
    return control_to_image(maps, None, None, ControlToImage(**WORDS, controls=("edges",)),
                            _given(control_edges=control(1)))


def image_prompt_case() -> Any:
    from image_helpers import image_prompt as adapter

    from engine.stages.image_prompt import ImagePrompt, image_prompt
    return image_prompt(_shown(2), None, None, ImagePrompt(**WORDS, like_scale=0.8), _given(image_prompt=adapter()))


def upscale_case() -> Any:
    from engine.stages.upscale import Upscale, upscale
    return upscale(_shown(), Upscale(factor=2), _given())


def load_face_case() -> Any:
    from engine.stages.load_face import LoadFace, load_face
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "face.json"
        path.write_text(json.dumps({"identity": (np.arange(512) / 512).tolist(), "points": [[0.5, 0.5]] * 5}))
        return load_face(LoadFace(path=str(path)), _given())


def find_face_case() -> Any:
    from engine.stages.find_face import FindFace, find_face
    return find_face(_shown(), FindFace(), _given(face=lambda image: (np.ones((1, 512)), np.ones((1, 5, 2)))))


def image_cases() -> dict[str, Any]:
    """stage name -> its case."""
    from engine.stages.control_image import control_image
    from engine.stages.control_to_image import control_to_image
    from engine.stages.find_face import find_face
    from engine.stages.image_prompt import image_prompt
    from engine.stages.image_to_image import image_to_image
    from engine.stages.inpaint import inpaint
    from engine.stages.load_face import load_face
    from engine.stages.outpaint import outpaint
    from engine.stages.upscale import upscale
    from tests.golden import Case
    return {"image_to_image": Case(image_to_image, image_to_image_case), "inpaint": Case(inpaint, inpaint_case),
            "outpaint": Case(outpaint, outpaint_case), "control_image": Case(control_image, control_image_case),
            "control_to_image": Case(control_to_image, control_to_image_case),
            "image_prompt": Case(image_prompt, image_prompt_case), "upscale": Case(upscale, upscale_case),
            "load_face": Case(load_face, load_face_case, 0), "find_face": Case(find_face, find_face_case, 0)}
