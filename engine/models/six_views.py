"""Zero123++ put together from its folder: the networks, and the numbers that lie beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.diffusion.zero123plus import Eyes, SixViews
from engine.errors import BadInput
from engine.models.open_checkpoint import load_part, load_scheduler, load_tokenizer

FAMILY = "zero123plus"


def load_six_views(source: Path, dtype: torch.dtype = torch.float32, allow_pickle: bool = False,
                   keep: Callable[[str, Callable[[], Any]], Any] = lambda part, load: load()) -> SixViews:
    """From a diffusers folder. keep : how parts are kept, by name

    Raises BadInput that names a missing component, also where model_index.json has no ramp.
    """
    def part(name: str) -> Any:
        return keep(name, lambda: load_part(source, FAMILY, name, dtype=dtype, allow_pickle=allow_pickle))

    ramp = _json(source / "model_index.json").get("ramping_coefficients")
    if not isinstance(ramp, list) or not all(isinstance(v, int | float) for v in ramp):
        raise BadInput(f"{source / 'model_index.json'} has no ramping_coefficients", "pull the model again")
    scheduler = keep("scheduler", lambda: load_scheduler(source, FAMILY))
    # Its authors' examples take the steps from the noisy end, whatever the folder says.
    scheduler = type(scheduler).from_config(scheduler.config, timestep_spacing="trailing")
    unet = part("unet")
    return SixViews(unet, part("vae"), part("text_encoder"), keep("tokenizer", lambda: load_tokenizer(source)),
                    part("image_encoder"), scheduler, tuple(float(v) for v in ramp),
                    _eyes(source / "feature_extractor_vae"), _eyes(source / "feature_extractor_clip"))


def _eyes(folder: Path) -> Eyes:
    path = folder / "preprocessor_config.json"
    return Eyes.of(_json(path), str(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "pull the model again") from error
    return found if isinstance(found, dict) else {}
