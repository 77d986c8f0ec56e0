"""Each role's dataclass put together from its files: the built-in models', and those of public checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.diffusion.novel_view import CAMERAS
from engine.errors import BadInput
from engine.models import loading, motion
from engine.models.cards import Card
from engine.models.families import build
from engine.models.families.base import Defaults
from engine.models.families.build import Checkpoint, Keep
from engine.models.known import read_known
from engine.models.open_checkpoint import load_part, load_scheduler, load_tokenizer

if TYPE_CHECKING:
    from engine.models.local import Located
    from engine.models.sets import ModelSet

LIST = "See which models can: maquette models list --role "


# -- built-in ----------------------------------------------------------------------------------------------------------

def builtin(models: ModelSet, role: str, cards: dict[str, Card], device: str, keep: Keep) -> Any:
    """A built-in role, from the set's folder. cards : of its parts, checked; keep : by part"""
    folder = models.folder

    def clip() -> Any:
        return keep("clip", lambda: loading.load_clip(folder / "clip", device))

    def vae() -> Any:
        return keep("vae", lambda: loading.load_vae(folder / "vae", device))

    def tokenizer() -> Any:
        return keep("tokenizer", lambda: loading.load_tokenizer(folder / "tokenizer"))

    def own(kind: str, load: Callable[[Path, str], Any]) -> Any:
        return keep(f"{role}/{kind}", lambda: load(folder / role / kind, device))

    if role == "text_to_image":
        unet, scheduler = own("unet", loading.load_unet), own("scheduler", lambda f, _: loading.load_scheduler(f))
        told = cards[role].fields
        return loading.TextToImage(
            unet, vae(), clip().text_model, tokenizer(), scheduler, loading.size_of(unet, vae()), _words(cards[role]),
            family="builtin", name="the built-in model", defaults=Defaults(
                int(told.get("sampling_steps", 20)), float(told.get("guidance", 3.0)), "ddim"))
    if role in motion.ROLES:
        return motion.builtin(folder, role, cards, keep, device)
    if role == "image_text":
        return loading.ImageText(clip(), tokenizer(), read_known(folder, cards["clip"].sha256))
    if role == "novel_view":
        unet = own("unet", loading.load_unet)
        return loading.NovelView(unet, own("cc_projection", loading.load_projection), loading.image_encoder(clip()),
                                 int(clip().config.vision_config.image_size), vae(),
                                 own("scheduler", lambda f, _: loading.load_scheduler(f)),
                                 loading.size_of(unet, vae()))
    if role == "matting":
        return keep(role, lambda: loading.load_matting(folder / role, device, folder / "drawn_alpha"))
    if role == "reference_animation":
        from engine.models import reference_animation
        return reference_animation.builtin(folder, cards[role], clip, vae, keep, device)
    if role == "pose_estimation":
        from engine.models.pose_estimation import load_builtin
        return keep(role, lambda: load_builtin(folder / role, device))
    if role == "view_judge":
        return keep(role, lambda: loading.load_view_judge(folder / role, device))
    if role.startswith("control."):
        from engine.diffusion import control_lora
        kind, part = role.removeprefix("control."), role.replace(".", "_")
        base = keep("text_to_image/unet", lambda: loading.load_unet(folder / "text_to_image" / "unet", device))
        net = keep(part, lambda: control_lora.load_control(folder / part, base, device))
        return loading.Control(net, kind, "builtin", f"the built-in control of {kind}")
    if role == "image_prompt":
        from engine.diffusion import ip_adapter
        base = keep("text_to_image/unet", lambda: loading.load_unet(folder / "text_to_image" / "unet", device))
        weights = keep(role, lambda: ip_adapter.load_image_prompt(folder / role, base, device))
        return loading.ImagePrompt(weights, keep("clip/image_embeds", lambda: loading.ImageTower(clip())),
                                   int(clip().config.vision_config.image_size), "base", "builtin",
                                   "the built-in image prompt")
    raise ValueError(role)


def _words(card: Card) -> tuple[str, ...]:
    words = card.fields.get("words")
    return tuple(str(w) for w in words) if isinstance(words, list) else ()


# -- public checkpoints ------------------------------------------------------------------------------------------------

def public(here: Located, role: str, device: str, dtype: torch.dtype, keep: Callable[[Located], Keep],
           allow_pickle: bool = False) -> Any:
    """A role from the files of a public checkpoint, or of a user's own. Parts are made on the CPU.

    keep : for a model's files, how its parts are kept
    Raises BadInput for models that the role cannot be played by, and for what their files lack.
    """
    model, own = here.model, keep(here)
    family, source = model.family, _source(here)

    def part(name: str) -> Any:
        kind = torch.float32 if role == "novel_view" else dtype  # its stages compute in single precision
        return own(name, lambda: load_part(source, family, name, dtype=kind, allow_pickle=allow_pickle))

    if role in ("text_to_image", "class_to_image", "inpaint", "upscale"):
        return _drawing(here, device, dtype, keep, allow_pickle)
    if role.startswith("control."):
        return loading.Control(part("controlnet").to(memory_format=torch.channels_last), role.removeprefix("control."),
                               family, model.id)
    if role in motion.ROLES:
        return motion.public(here, role, source, dtype, keep, allow_pickle)
    if role == "reference_animation":
        from engine.models import reference_animation
        return reference_animation.public(here, keep, dtype, allow_pickle)
    if role == "pose_estimation":
        from engine.models.pose_estimation import load_public
        return load_public(here, own)
    if role in ("image_prompt", "face_prompt"):
        return _image_prompt(here, own, dtype, allow_pickle)
    if role == "image_text":
        clip = own("clip", lambda: loading.load_public_clip(source, torch.float32, allow_pickle))
        return loading.ImageText(clip, own("tokenizer", lambda: load_tokenizer(source)))
    if role == "novel_view" and family in ("zero123", "stable_zero123"):
        unet, vae, encoder = part("unet"), part("vae"), part("image_encoder")
        for network in (unet, vae):
            network.to(memory_format=torch.channels_last)
        return loading.NovelView(unet, part("cc_projection"), loading.ProjectedEncoder(encoder),
                                 int(encoder.config.image_size), vae,
                                 own("scheduler", lambda: load_scheduler(source, family)), loading.size_of(unet, vae),
                                 CAMERAS[family], loading.PUBLISHED_VIEWS)
    if role == "novel_view" and family == "zero123plus":
        from engine.models.six_views import load_six_views
        return load_six_views(source, torch.float32, allow_pickle, own)
    raise BadInput(f"{model.id} cannot be loaded for {role} by this version", LIST + role)


def _drawing(here: Located, device: str, dtype: torch.dtype, keep: Callable[[Located], Keep], allow_pickle: bool
             ) -> Any:
    """A model that draws: its own files, the base of a LoRA, a cascade's further steps."""
    model = here.model
    if model.format == "lora":
        return _lora_on_base(here, device, dtype, keep, allow_pickle)
    mine = build.build(_checkpoint(here, device, dtype, keep, allow_pickle, words_for(here)))
    steps = []
    for other in here.needs:
        if other.model.role == "upscale":
            steps.append(build.build(_checkpoint(other, device, dtype, keep, allow_pickle, None), lender=mine))
    return build.cascade(mine, steps) if steps else mine


def words_for(here: Located) -> Path | None:
    """A folder with tokenizers for a model that brings none, as single files do not: of what it needs, else of another
    model of its family that is here."""
    from engine.models import catalogue, local
    if (_source(here) / "tokenizer").is_dir() or (here.folder / "tokenizer").is_dir():
        return None
    beside = [other.folder for other in here.needs if (other.folder / "tokenizer").is_dir()]
    for other in () if beside else catalogue.models().values():
        if other.family == here.model.family and other.id != here.model.id and not other.builtin:
            found = local.find(other)
            if found is not None and (found.folder / "tokenizer").is_dir():
                return found.folder
    return beside[0] if beside else None


def _checkpoint(here: Located, device: str, dtype: torch.dtype, keep: Callable[[Located], Keep], allow_pickle: bool,
                words: Path | None) -> Checkpoint:
    return Checkpoint(_source(here), here.model.family, device, dtype, allow_pickle, words, here.model.id, keep(here))


def _lora_on_base(here: Located, device: str, dtype: torch.dtype, keep: Callable[[Located], Keep], allow_pickle: bool
                  ) -> Any:
    """A LoRA that is a model of its own: one that turns its base into a model of few steps (LCM-LoRA)."""
    from engine.diffusion import lora, lora_files
    if not here.needs:
        raise BadInput(f"{here.model.id} is a LoRA and names no model that it is for", "give it as a stage's lora")
    base = _drawing(here.needs[0], device, dtype, keep, allow_pickle)
    path = next(iter(here.weights.values()))
    own = keep(here)
    found = own("lora", lambda: lora_files.read(path, allow_pickle))
    unet = own("merged", lambda: lora.merged(base.unet, found))
    return base.changed(unet=unet, name=here.model.id, defaults=build.LCM_LORA)


def _image_prompt(here: Located, own: Keep, dtype: torch.dtype, allow_pickle: bool) -> loading.ImagePrompt:
    from engine.models.ip_adapter_files import read_ip_adapter
    path = next((p for n, p in here.weights.items() if "ip-adapter" in p.name or "ip_adapter" in p.name), None)
    if path is None:
        raise BadInput(f"{here.model.id} holds no IP-Adapter", "pull it again")
    _, kind, weights = own("weights", lambda: read_ip_adapter(path, here.model.family, allow_pickle=allow_pickle))
    if kind == "face":
        return loading.ImagePrompt(weights, None, 0, kind, here.model.family, here.model.id,
                                   _face_control(here, own, dtype, allow_pickle))
    folder = next((p.parent for n, p in here.weights.items() if "image_encoder" in n), None)
    if folder is None:
        raise BadInput(f"{here.model.id} lacks its image_encoder folder", "pull it again, or add the folder beside it")
    encoder = own("image_encoder", lambda: load_part(folder, here.model.family, "image_encoder", dtype=dtype,
                                                             allow_pickle=allow_pickle))
    return loading.ImagePrompt(weights, encoder, int(encoder.config.image_size), kind, here.model.family, here.model.id)


def _face_control(here: Located, own: Keep, dtype: torch.dtype, allow_pickle: bool) -> loading.Control | None:
    """InstantID's ControlNet, where its folder came along."""
    folder = _source(here) / "ControlNetModel"
    if not folder.is_dir():
        return None
    net = own("controlnet", lambda: load_part(folder, here.model.family, "controlnet", dtype=dtype,
                                              allow_pickle=allow_pickle))
    return loading.Control(net, "face", here.model.family, f"{here.model.id}'s ControlNet")


def _source(here: Located) -> Path:
    """The folder with a model's components, or its one file."""
    if here.model.path:
        return Path(here.model.path)
    if here.model.format == "single_file":
        return next(iter(here.weights.values()))
    return here.folder
