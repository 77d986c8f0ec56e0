"""Model sets: a name for one choice of model a role. Light: torch is loaded only when a model is."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.models import cards, catalogue, known, licences, local
from engine.models.weight_names import SUFFIXES
from engine.runs.words import unknown

CORE = ("text_to_image", "image_text", "novel_view", "matting", "view_judge")
"""Roles that making a mesh of words or of a picture asks for; ``maquette models pull SET`` gets these."""
BUILTIN_FOLDER = Path(__file__).parent.parent / "weights" / "builtin"


@dataclass(frozen=True)
class ModelInfo:
    """What a report says of a model.

    sha256 : digest over all that the role loads (``parts``: name -> digest)
    commercial : "yes", "no", "unknown" or the conditions (``engine.models.licences.Terms.told``)
    """

    role: str
    id: str
    revision: str
    sha256: str
    licence: str
    commercial: str
    parts: dict[str, str] = field(default_factory=dict)


def set_names() -> list[str]:
    return sorted(catalogue.sets())


@dataclass(frozen=True)
class ModelSet:
    """One choice of model a role.

    folder : holds a folder for each part of the built-in models, also of those that serve in a set of public ones
    chosen : (role, id), in the place of the set's own choice
    commercial_only : refuse models that may not be used commercially, whoever uses them
    allow_pickle : read weights that are kept as pickles (tensors only, nothing in them is run)
    precision : that public models compute in: "auto", "float32", "bfloat16" or "float16" (``engine.models.memory``);
        the built-in ones always take float32
    """

    name: str
    folder: Path
    chosen: tuple[tuple[str, str], ...] = ()
    commercial_only: bool = False
    allow_pickle: bool = False
    precision: str = "auto"

    @property
    def choices(self) -> dict[str, str]:
        """role -> id of its model."""
        return {**catalogue.sets()[self.name], **dict(self.chosen)}

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.choices)

    def entry(self, role: str) -> catalogue.Model:
        """The role's model in the catalogue.

        BadInput: the set has none; no role loads it yet; an adapter (ControlNet, image prompt, motion) of another
        family than the text-to-image model.
        """
        if role not in self.choices:
            raise BadInput(f"the model set {self.name!r} has no model for the role {role!r}",
                           f"it has {', '.join(self.roles)}")
        found = catalogue.model(self.choices[role])
        if not found.loads:
            raise BadInput(f"{found.id} cannot be loaded for {role} by this version",
                           "See which models can: maquette models list --role " + role)
        if catalogue.fits_together(role) and "text_to_image" in self.choices:
            drawn = catalogue.model(self.choices["text_to_image"])
            if catalogue.KIN.get(found.family, found.family) != catalogue.KIN.get(drawn.family, drawn.family):
                raise BadInput(f"{found.id} ({role}) is of the family {found.family or 'built-in'}, and {drawn.id}, "
                               f"which it must fit, of {drawn.family or 'built-in'}",
                               f"Choose one that fits: maquette models list --role {role}")
        return found

    def located(self, role: str) -> local.Located:
        """Where the files of a public model, and of all that it needs, lie. BadInput: missing weights, with the command
        that gets them; a pickle that was not allowed."""
        model = self.entry(role)
        wanted = model.id if role in dict(self.chosen) else self.name + ("" if role in CORE else f" --role {role}")
        return local.require(model, allow_pickle=self.allow_pickle, command=f"maquette models pull {wanted}")

    def cards(self, role: str) -> dict[str, cards.Card]:
        """The checked cards of every part of a built-in role, its own part first.

        Raises BadInput when a file is missing, is not the one its card names, or was trained on other parts than the
        ones that lie here: such models would load and draw noise.
        """
        found = {part: cards.verify(self.folder / part) for part in self.entry(role).parts}
        for part, card in found.items():
            for other, digest in card.trained_on.items():
                if other in found and found[other].sha256 != digest:
                    raise BadInput(f"the weights {self.folder / part} were trained on another {other}: sha256 expected "
                                   f"{digest}, found {found[other].sha256}", cards.REPAIR)
        return found

    def digest(self, role: str) -> str:
        """SHA-256 over all that the role loads, weights and settings; it enters keys, so it is asked before all else.

        Raises BadInput for weights that are not here, are not the ones they should be, or whose licence was ruled out.
        """
        if self.commercial_only:
            licences.require_commercial(self, role)
        lines = self._lines(role) if self.entry(role).builtin else [
            f"{name} {digest}\n" for name, digest in _digests(self.located(role)).items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _lines(self, role: str) -> list[str]:
        lines = []
        for part, card in self.cards(role).items():
            lines.append(f"{part} {card.sha256}\n")
            settings = sorted(f for f in (self.folder / part).rglob("*.json") if f.name != "card.json")
            if part == "clip" and (self.folder / known.FILE).exists():
                settings.append(self.folder / known.FILE)
            lines += [f"{f.relative_to(self.folder).as_posix()} {cards.sha256_of(f)}\n" for f in settings]
        return lines

    def info(self, role: str) -> ModelInfo:
        model = self.entry(role)
        terms = licences.terms(model)
        if not model.builtin:
            parts = _digests(self.located(role))
            weights = {name: digest for name, digest in parts.items() if name.endswith(SUFFIXES)}
            return ModelInfo(role, model.id, local.revision_of(model), self.digest(role), terms.licence, terms.told,
                             weights)
        found = self.cards(role)
        own = next(iter(found.values()))
        return ModelInfo(role, model.id, own.revision, self.digest(role), own.licence or terms.licence,
                         own.commercial or terms.told, {part: c.sha256 for part, c in found.items()})

    def computes_in(self, device: str) -> str:
        """What the networks compute in on a device; it enters keys. Built-in ones always take float32."""
        if self.precision == "auto" and (not device.startswith("cuda") or all(
                id.startswith(catalogue.BUILTIN) for id in self.choices.values())):
            return "float32"
        from engine.models.memory import precision
        return precision(device, self.precision)

    def load(self, role: str, device: str = "cpu") -> Any:
        """The loaded model of a role (a dataclass of ``engine.models.loading``), from the pool when it is there."""
        self.entry(role)
        from engine.models.pool import POOL
        return POOL.get(self, role, device)


def _digests(here: local.Located) -> dict[str, str]:
    """ "id: name" -> SHA-256 of every file of a model and of all that it needs."""
    found = {f"{here.model.id}: {name}": local.digest_of(path) for name, path in sorted(here.files.items())}
    for other in here.needs:
        found |= _digests(other)
    return found


def model_set(name: str, roles: Mapping[str, str] | None = None, *, commercial_only: bool = False,
              allow_pickle: bool = False, precision: str = "auto") -> ModelSet:
    """Find a model set by name. Raises BadInput that names the nearest one.

    name : of a set; or the id of one model that draws pictures, in the place of the built-in one
    roles : {role: id} in the place of the set's own choices; each must be for that role
    """
    roles = dict(roles or {})
    if name not in catalogue.sets():
        if name not in catalogue.models():
            near = difflib.get_close_matches(name, [*set_names(), *catalogue.models()], n=1, cutoff=0.5)
            raise BadInput(f"there is no model set {name!r}",
                           (f"did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(set_names())}")
        name, roles = "builtin", {"text_to_image": name, **roles}
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    for role, id in roles.items():
        if role not in catalogue.ROLES:
            raise unknown("role", role, catalogue.ROLES)
        model = catalogue.model(id)
        if model.role not in (role, *PLAYED_BY.get(role, ())):
            raise BadInput(f"{id} is for the role {model.role}, not {role}",
                           f"See what is: maquette models list --role {role}")
    return ModelSet(name, BUILTIN_FOLDER, tuple(roles.items()), commercial_only, allow_pickle, precision)


PRECISIONS = ("auto", "float32", "bfloat16", "float16")
PLAYED_BY = {"text_to_image": ("class_to_image",)}
"""Roles that models of another role can play: a model of classes draws what the words name."""
