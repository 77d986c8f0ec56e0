"""The role reference_animation put together: the built-in model, and Moore-AnimateAnyone's files.

Moore's four files stand on Stable Diffusion 1.5's U-Net: over it comes motion_module.pth, over both denoising_unet.pth
(MooreThreads/Moore-AnimateAnyone, ``src/models/unet_3d.py`` and its scripts, read for the order). Autoencoder and image
encoder are other models, named in the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.diffusion.reference_animation import ReferenceAnimation, norm_frames
from engine.errors import BadInput
from engine.models.loading import size_of
from engine.models.moves import Account
from engine.models.open_checkpoint import Part, Source, filled, load_part, load_scheduler

if TYPE_CHECKING:
    from engine.models.cards import Card
    from engine.models.local import Located

FAMILY = "animate_anyone"
ROLE = "reference_animation"
Keep = Callable[[str, Callable[[], Any]], Any]
"""(part, how it is loaded) -> the part, kept (``engine.models.families.build.Keep``)."""


def builtin(folder: Path, card: Card, clip: Callable[[], Any], vae: Callable[[], Any], keep: Keep, device: str
            ) -> ReferenceAnimation:
    """folder : of the built-in parts; card : of this role's own; clip, vae : the set's"""
    from diffusers.models.unets.unet_motion_model import UNetMotionModel

    from engine.diffusion.animate_networks import PoseGuider, ReferenceUNet
    from engine.models import loading

    def own(part: str, kind: Any) -> Any:
        return keep(f"{ROLE}/{part}", lambda: loading.load_diffusers(kind, folder / ROLE / part, device))

    def denoising() -> Any:
        return norm_frames(loading.load_diffusers(UNetMotionModel, folder / ROLE / "denoising_unet", device))

    unet, told = keep(f"{ROLE}/denoising_unet", denoising), card.fields
    return ReferenceAnimation(
        unet, own("reference_unet", ReferenceUNet), own("pose_guider", PoseGuider),
        keep("clip/image_embeds", lambda: loading.ImageTower(clip())), int(clip().config.vision_config.image_size),
        vae(), keep(f"{ROLE}/scheduler", lambda: loading.load_scheduler(folder / ROLE / "scheduler")),
        loading.size_of(unet, vae()), int(told["window"]), int(told["overlap"]), float(told["guidance"]),
        int(told["sampling_steps"]), float(told.get("noise_shared", 0.0)), "the built-in reference animation",
        "builtin")


def public(here: Located, keep: Callable[[Located], Keep], dtype: torch.dtype, allow_pickle: bool = False
           ) -> ReferenceAnimation:
    """From Moore's files, or a user's own, and the models that they need.

    A user's folder holds Moore's files, or each network in a folder of diffusers' layout (``denoising_unet``,
    ``reference_unet``, ``pose_guider``, of any size), and may hold its own ``vae``, ``image_encoder``, ``scheduler``
    and a ``card.json`` with window, overlap, guidance, sampling_steps and noise_shared, as our training writes it.
    Raises BadInput that names what is missing, left over or of another shape.
    """
    own = keep(here)
    told = _settings(here)

    def part(name: str) -> Any:
        return own(name, lambda: load_part(_file(here, name), FAMILY, name, dtype=dtype, allow_pickle=allow_pickle))

    def lent(role: str, name: str) -> Any:
        if here.model.path and (here.folder / name).is_dir():
            return own(name, lambda: load_part(here.folder / name, FAMILY, name, dtype=dtype,
                                               allow_pickle=allow_pickle))
        other = _needed(here, role)
        return keep(other)(name, lambda: load_part(_folder(other), other.model.family, name, dtype=dtype,
                                                   allow_pickle=allow_pickle))

    def denoising() -> Any:
        unet = _file(here, "denoising_unet")
        if unet.is_dir():  # whole by itself, with its motion modules
            return norm_frames(load_part(unet, FAMILY, "denoising_unet", dtype=dtype, allow_pickle=allow_pickle))
        return norm_frames(load_denoising(unet, _file(here, "motion_module"), _folder(_needed(here, "text_to_image")),
                                          dtype, allow_pickle))

    unet, vae, encoder = own("denoising_unet", denoising), lent("vae", "vae"), lent("image_encoder", "image_encoder")
    size = here.model.native_size_px or (size_of(unet, vae) if _file(here, "denoising_unet").is_dir() else 512)
    return ReferenceAnimation(
        unet, part("reference_unet"), part("pose_guider"), encoder, int(encoder.config.image_size), vae,
        own("scheduler", lambda: load_scheduler(here.folder, FAMILY)), size, **told, name=here.model.id, family=FAMILY)


SETTINGS: dict[str, tuple[str, type, float, float]] = {
    "window": ("window", int, 1, 1000), "overlap": ("overlap", int, 0, 999), "guidance": ("guidance", float, 0, 30),
    "sampling_steps": ("steps", int, 1, 250), "noise_shared": ("noise_shared", float, 0, 1)}
"""Key of a card.json -> (field of ReferenceAnimation, its kind, least, most)."""


def _settings(here: Located) -> dict[str, Any]:
    """How a user's own model is used, where its folder says so; {}: as published ones are."""
    path = here.folder / "card.json"
    if not here.model.path or not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError("it is no object")
        told = {field: kind(card[key]) for key, (field, kind, _, _) in SETTINGS.items() if key in card}
        wrong = next((key for key, (field, _, least, most) in SETTINGS.items()
                      if field in told and not least <= told[field] <= most), None)
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {' '.join(str(error).split())[:120]}",
                       f"write a JSON object with any of {', '.join(SETTINGS)}, or take it away") from error
    if wrong is not None:
        raise BadInput(f"{path}: {wrong} is {card[wrong]!r}", f"give {SETTINGS[wrong][2]:g} to {SETTINGS[wrong][3]:g}")
    return told


def load_denoising(unet: Source, motion: Source, base: Source, dtype: torch.dtype | None = None,
                   allow_pickle: bool = False) -> Any:
    """A UNetMotionModel of three layers of weights, the later over the earlier: ``base`` (Stable Diffusion 1.5, asked
    only for what the others lack), ``motion``, ``unet``.

    Raises BadInput where a layer holds what the network has not, or all of them lack what it has: names are listed.
    """
    layers = [Part.find(motion, FAMILY, "denoising_unet"), Part.find(unet, FAMILY, "denoising_unet")]
    own = layers[-1]
    wanted = own.blueprint.shapes
    if any(name not in layers[0].moves and name not in own.moves for name in wanted):
        layers.insert(0, Part.find(base, "sd15", "unet"))
    owner = {name: layer for layer in layers for name in layer.moves if name in wanted}
    told = [layer.account for layer in layers]
    replace(own, account=Account(
        tuple(name for name in wanted if name not in owner),
        tuple(name for account in told for name in account.unexpected),
        tuple(line for account in told for line in account.wrong))).check()
    tensors: dict[str, torch.Tensor] = {}
    for layer in layers:
        mine = {name: move for name, move in layer.moves.items() if owner.get(name) is layer}
        tensors |= replace(layer, moves=mine, account=Account()).state_dict(allow_pickle=allow_pickle)
    return filled(own.blueprint, tensors, dtype=dtype)


def _file(here: Located, part: str) -> Path:
    """A part's one file (``denoising_unet.pth``), or its folder."""
    for name, path in sorted(here.weights.items()):
        if Path(name).stem == part:
            return path
        if part in Path(name).parts[:-1]:
            return path.parent
    raise BadInput(f"{here.model.id} lacks {part}: it holds {', '.join(sorted(here.weights)) or 'nothing'}",
                   "pull it again, or put the file beside the others")


def _needed(here: Located, role: str) -> Located:
    if (found := here.need(role)) is None:
        raise BadInput(f"{here.model.id} has no {role} and names none",
                       "put its folder beside the others and add the model again; published ones are pulled by their "
                       "name: maquette models pull patrolli/AnimateAnyone")
    return found


def _folder(here: Located) -> Path:
    return next(iter(here.weights.values())) if here.model.format == "single_file" else here.folder
