"""The entries of catalogue.toml: what can be loaded, with its licence, its size and where it comes from. Light."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.runs.words import nearest

FILE = Path(__file__).with_name("catalogue.toml")
BUILTIN = "maquette/"
"""Ids of what ships inside begin so."""

ROLES: dict[str, str] = {
    "text_to_image": "draws a picture of words", "class_to_image": "draws a picture of a numbered kind",
    "image_text": "judges how well a picture fits words", "novel_view": "draws an object from another side",
    "matting": "cuts an object out", "view_judge": "tells from where an object is seen",
    "inpaint": "paints into a part of a picture", "upscale": "enlarges a picture",
    "control.edges": "follows edges", "control.scribble": "follows a scribble", "control.depth": "follows depth",
    "control.normals": "follows surface directions", "control.pose": "follows a pose",
    "control.parts": "follows the built-in map of parts", "control.segments": "follows ADE20K's map of kinds",
    "image_prompt": "follows a picture as words", "face_prompt": "follows a face",
    "face_embedding": "describes a face in numbers", "lora": "changes how a model draws",
    "motion": "moves what text to image draws", "motion_lora": "moves otherwise, or the camera",
    "domain_adapter": "takes the base to what a motion was learned on", "sparse_control": "follows a few frames",
    "reference_animation": "moves a character as poses tell", "depth": "tells the depth of a picture",
    "normals": "tells the surface directions of a picture", "pose_estimation": "finds a figure's joints",
    "detection": "finds where persons are", "vae": "part of another model", "image_encoder": "part of another model",
    "text_encoder": "part of another model",
}
"""Every role: what a model is used for."""
TOGETHER = ("control.", "image_prompt", "face_prompt", "lora", "motion", "motion_lora", "domain_adapter",
            "sparse_control")
"""Roles whose model changes the text-to-image model, so that both must be of one family."""
KIN = {"sd15_inpaint": "sd15", "sd15_lcm": "sd15", "sd21_base": "sd21", "sd21_inpaint": "sd21",
       "sdxl_inpaint": "sdxl", "sdxl_lcm": "sdxl"}
"""Families whose adapters (LoRA, ControlNet, image prompt) are those of another."""
COMMERCIAL = ("yes", "no", "conditions", "unknown")


@dataclass(frozen=True)
class Model:
    """One entry.

    id : its name here, owner/name on the hub, with a word more where one repository holds several
    role : a key of :data:`ROLES`; family : which networks fit each other ("sd15", "sdxl", ...; "" for a built-in)
    hub, revision : repository and commit; hub "" for built-in and for a user's own files; revision "" is not pinned
    files : names in the repository; "folder/" a component, "./" the top; sha256, size_bytes : of files, where known
    path : of a user's own model, its file or folder; parts : of a built-in, its folders of weights
    needs : ids of models that it cannot do without
    format : "diffusers", "single_file", "lora", "ip_adapter", "transformers", "onnx", "maquette"
    licence : SPDX identifier or name; commercial : one of :data:`COMMERCIAL`; conditions : which, or why not
    licence_from : "memory" where it was not compared with the model's card
    native_size_px : side of the pictures that it draws or reads; memory_mb : weights of all parts in half precision
    gated : the hub asks for an account that has accepted its terms
    loads : whether a role of this version can load it
    """

    id: str
    role: str
    family: str = ""
    hub: str = ""
    revision: str = ""
    files: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    path: str = ""
    parts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    format: str = ""
    licence: str = ""
    commercial: str = "unknown"
    conditions: str = ""
    licence_from: str = ""
    native_size_px: int = 0
    memory_mb: int = 0
    gated: bool = False
    loads: bool = True

    @property
    def builtin(self) -> bool:
        return self.id.startswith(BUILTIN)

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return "built-in" if self.builtin else "your own" if self.path else f"hub {self.hub}"


_LISTS = ("files", "parts", "needs")


def entry(id: str, values: Mapping[str, Any], where: str) -> Model:
    """A checked entry. BadInput names the entry and what is wrong with it."""
    known = {f.name for f in fields(Model)} - {"id"}
    for name in values:
        if name not in known:
            raise BadInput(f"{where}: unknown key {name!r} in the model {id}", nearest(name, known))
    if values.get("role") not in ROLES:
        raise BadInput(f"{where}: the model {id} has the role {values.get('role')!r}",
                       nearest(str(values.get("role")), ROLES))
    if values.get("commercial", "unknown") not in COMMERCIAL:
        raise BadInput(f"{where}: the model {id} has commercial = {values['commercial']!r}",
                       f"Known: {', '.join(COMMERCIAL)}")
    kept: dict[str, Any] = {name: tuple(value) if name in _LISTS else value for name, value in values.items()}
    return Model(id=id, **kept)


@cache
def raw() -> dict[str, Any]:
    """The parsed catalogue.toml."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def shipped() -> dict[str, Model]:
    """id -> entry, of all that the catalogue lists."""
    return {id: entry(id, values, FILE.name) for id, values in raw()["models"].items()}


def models() -> dict[str, Model]:
    """id -> entry: the catalogue's, then what the user added."""
    from engine.models.local import added
    return {**shipped(), **added()}


def model(id: str) -> Model:
    """An entry by id. BadInput that names the nearest one."""
    if id in shipped():
        return shipped()[id]
    every = models()
    if id not in every:
        raise BadInput(f"there is no model {id!r}", f"{nearest(id, every)} See: maquette models list")
    return every[id]


def with_needs(ids: list[str]) -> list[Model]:
    """The models and all that they need, each once, needs after the one that needs them."""
    found: dict[str, Model] = {}
    waiting = list(ids)
    while waiting:
        id = waiting.pop(0)
        if id not in found:
            found[id] = model(id)
            waiting += found[id].needs
    return list(found.values())


def sets() -> dict[str, dict[str, str]]:
    """Set -> {role: id}; "title" is left out."""
    return {name: {role: id for role, id in table.items() if role != "title"} for name, table in raw()["sets"].items()}


def title(name: str) -> str:
    """One line on a set."""
    return str(raw()["sets"][name]["title"])


def fits_together(role: str) -> bool:
    """Whether a role's model must be of the text-to-image model's family."""
    return role.startswith(TOGETHER[0]) or role in TOGETHER
