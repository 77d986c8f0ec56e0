"""What each part of each family must hold: its class, its configuration and, from those, every name and shape.

``configs/<family>/<part>/config.json`` says how a network is built and nothing else. Shapes come from building it on
the meta device, so no list of keys is kept beside the truth. Light at import; torch is loaded by the first question.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.models.moves import Shape

CONFIGS = Path(__file__).parent / "configs"

BASES: dict[str, str] = {
    "sd15_inpaint": "sd15", "sd15_pix2pix": "sd15", "sd15_lcm": "sd15", "sdxl_lcm": "sdxl",
    "zero123": "sd15", "stable_zero123": "zero123",
    "animate_anyone": "sd15", "animatediff": "sd15",
    "sd21_base": "sd21", "sd21_inpaint": "sd21_base", "sd21_depth": "sd21_base", "sd21_unclip": "sd21",
    "sd_x4_upscaler": "sd21", "zero123plus": "sd21",
    "sdxl_inpaint": "sdxl", "sdxl_refiner": "sdxl",
    "sd35_medium": "sd3", "sd35_large": "sd3", "pixart_alpha_512": "pixart_alpha", "pixart_alpha": "pixart_sigma",
}
"""A family takes from its base the parts that it does not describe itself."""
NOT_TAKEN = {("sdxl_refiner", "text_encoder"), ("zero123", "text_encoder"), ("zero123", "controlnet")}
_DIFFUSERS = "diffusers.models."
CLASSES: dict[str, str] = {
    "UNet2DConditionModel": _DIFFUSERS + "unets.unet_2d_condition",
    "UNet2DModel": _DIFFUSERS + "unets.unet_2d",
    "UNetMotionModel": _DIFFUSERS + "unets.unet_motion_model",
    "MotionAdapter": _DIFFUSERS + "unets.unet_motion_model",
    "AutoencoderKL": _DIFFUSERS + "autoencoders.autoencoder_kl",
    "ControlNetModel": _DIFFUSERS + "controlnets.controlnet",
    "SparseControlNetModel": _DIFFUSERS + "controlnets.controlnet_sparsectrl",
    "SD3Transformer2DModel": _DIFFUSERS + "transformers.transformer_sd3",
    "PixArtTransformer2DModel": _DIFFUSERS + "transformers.pixart_transformer_2d",
    "DiTTransformer2DModel": _DIFFUSERS + "transformers.dit_transformer_2d",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
    "CLIPVisionModel": "transformers",
    "CLIPVisionModelWithProjection": "transformers",
    "CLIPModel": "transformers",
    "T5EncoderModel": "transformers",
    "CCProjection": "engine.diffusion.novel_view",
    "ReferenceUNet": "engine.diffusion.animate_networks",
    "PoseGuider": "engine.diffusion.animate_networks",
}
"""Where each class that may be built lives. A config.json that names another one is refused: it may not choose code."""


@dataclass(frozen=True)
class Blueprint:
    """A part as it must be.

    cls : key of :data:`CLASSES`; config : of the network, as its class reads it
    shapes : every name of its state dict; copies : names that hold the same tensor as another one, which a file may
    leave out
    """

    cls: str
    config: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    copies: Mapping[str, str] = field(default_factory=dict)

    def build(self) -> Any:
        """The network on the meta device: shapes without values."""
        return _build(self.cls, self.config)


def families() -> tuple[str, ...]:
    """Every family that is known by name."""
    return tuple(sorted({f.name for f in CONFIGS.iterdir() if f.is_dir()} | set(BASES)))


def config_folder(family: str, part: str) -> Path | None:
    """Where the shipped configuration of a part lies, the base family's if need be; None when there is none."""
    name: str | None = family
    while name:
        if (name, part) in NOT_TAKEN:
            return None
        folder = CONFIGS / name / part
        if folder.is_dir():
            return folder
        name = BASES.get(name)
    return None


def parts_of(family: str) -> tuple[str, ...]:
    """Every part that the family's configurations describe, its own and those of its base."""
    found: set[str] = set()
    name: str | None = family
    while name:
        if (CONFIGS / name).is_dir():
            found |= {f.name for f in (CONFIGS / name).iterdir() if f.is_dir()}
        name = BASES.get(name)
    return tuple(sorted(part for part in found if config_folder(family, part)))


@cache
def blueprint(family: str, part: str) -> Blueprint:
    """The shipped one. Raises BadInput for parts that no shipped configuration describes."""
    folder = config_folder(family, part)
    if folder is None:
        raise BadInput(f"no configuration of {part!r} of the family {family!r} ships with Maquette",
                       f"give a folder with its config.json; known parts: {', '.join(parts_of(family)) or 'none'}")
    return of_config(read_config(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a part. Raises BadInput when it is missing or damaged."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{folder} has no config.json", "pull the model again, or give its single file") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "pull the model again") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} is no configuration", "pull the model again")
    return found


def class_of(config: Mapping[str, Any], part: str = "") -> str:
    """The class that a configuration names, under today's name. Raises BadInput for one that is not to be built."""
    named = config.get("_class_name") or next(iter(config.get("architectures") or ()), "")
    if named == "Transformer2DModel":  # what PixArt and DiT were saved as, before they had classes of their own
        named = "PixArtTransformer2DModel" if config.get("norm_type") == "ada_norm_single" else "DiTTransformer2DModel"
    if named in ("CLIPCameraProjection", "CC_Projection"):
        named = "CCProjection"
    if not named and part in ("cc_projection", "clip_camera_projection"):
        named = "CCProjection"
    if named not in CLASSES:
        raise BadInput(f"a configuration names the class {named!r}, which Maquette does not load",
                       "use a model of a known kind: `maquette models list`")
    return str(named)


def of_config(config: Mapping[str, Any], part: str = "") -> Blueprint:
    """The blueprint that a configuration (of a folder, or shipped) describes."""
    return _of_config(class_of(config, part), json.dumps(dict(config), sort_keys=True))


@lru_cache(maxsize=64)
def _of_config(cls: str, text: str) -> Blueprint:
    config = json.loads(text)
    try:
        model = _build(cls, config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise BadInput(f"no {cls} can be built from its configuration: {' '.join(str(error).split())[:200]}",
                       "pull the model again, or give a config.json that fits") from error
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    same = {"encoder.embed_tokens.weight": "shared.weight", "shared.weight": "encoder.embed_tokens.weight"}
    return Blueprint(cls, config, shapes, same if cls == "T5EncoderModel" else {})


def _build(cls: str, config: Mapping[str, Any]) -> Any:
    import torch
    kind = getattr(import_module(CLASSES[cls]), cls)
    if cls == "CCProjection" and "additional_embeddings" in config:  # as ashawkey's port says it
        width = int(config.get("embedding_dim", 768))
        config = {"in_channel": width + int(config["additional_embeddings"]), "out_channel": width}
    with torch.device("meta"):
        if CLASSES[cls] == "transformers":
            made = kind(kind.config_class(**{k: v for k, v in config.items() if k not in ("architectures", "dtype",
                                                                                          "torch_dtype")}))
        elif hasattr(kind, "from_config"):
            made = kind.from_config({k: v for k, v in config.items() if not k.startswith("_")})
        else:
            raise TypeError(cls)
    return made.eval()
