"""Model sets: a name for one choice of model a role. Light: torch is loaded only when a model is."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.models import cards, known

BUILTIN_FOLDER = Path(__file__).parent.parent / "weights" / "builtin"


@dataclass(frozen=True)
class ModelInfo:
    """What a report says of a model.

    sha256 : digest over all parts that the role loads (``parts``: name -> digest)
    commercial : "yes", "no" or the conditions
    """

    role: str
    id: str
    revision: str
    sha256: str
    licence: str
    commercial: str
    parts: dict[str, str] = field(default_factory=dict)


@cache
def catalogue() -> dict[str, Any]:
    """The parsed catalogue.toml."""
    return tomllib.loads((Path(__file__).parent / "catalogue.toml").read_text(encoding="utf-8"))


def set_names() -> list[str]:
    return sorted(catalogue()["sets"])


@dataclass(frozen=True)
class ModelSet:
    """One choice of model a role; ``folder`` holds a folder for each part."""

    name: str
    folder: Path

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(k for k in catalogue()["sets"][self.name] if k != "title")

    def _model(self, role: str) -> tuple[str, dict[str, Any]]:
        if role not in self.roles:
            raise BadInput(f"the model set {self.name!r} has no model for the role {role!r}",
                           f"it has {', '.join(self.roles)}")
        name = catalogue()["sets"][self.name][role]
        return name, catalogue()["models"][name]

    def cards(self, role: str) -> dict[str, cards.Card]:
        """The checked cards of every part of a role, its own part first.

        Raises BadInput when a file is missing, is not the one its card names, or was trained on other parts than the
        ones that lie here: such models would load and draw noise.
        """
        _, model = self._model(role)
        found = {part: cards.verify(self.folder / part) for part in model["parts"]}
        for part, card in found.items():
            for other, digest in card.trained_on.items():
                if other in found and found[other].sha256 != digest:
                    raise BadInput(f"the weights {self.folder / part} were trained on another {other}: sha256 expected "
                                   f"{digest}, found {found[other].sha256}", cards.REPAIR)
        return found

    def digest(self, role: str) -> str:
        """SHA-256 over all parts that the role loads, weights and settings; it enters keys."""
        lines = []
        for part, card in self.cards(role).items():
            lines.append(f"{part} {card.sha256}\n")
            settings = sorted(f for f in (self.folder / part).rglob("*.json") if f.name != "card.json")
            if part == "clip" and (self.folder / known.FILE).exists():
                settings.append(self.folder / known.FILE)
            lines += [f"{f.relative_to(self.folder).as_posix()} {cards.sha256_of(f)}\n" for f in settings]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def info(self, role: str) -> ModelInfo:
        name, model = self._model(role)
        found = self.cards(role)
        own = next(iter(found.values()))
        return ModelInfo(role, name, own.revision, self.digest(role), own.licence or model["licence"],
                         own.commercial or model["commercial"], {part: c.sha256 for part, c in found.items()})

    def load(self, role: str, device: str = "cpu") -> Any:
        """The loaded model of a role (a dataclass of ``engine.models.loading``), from the pool when it is there."""
        self._model(role)
        from engine.models.pool import POOL
        return POOL.get(self, role, device)


def model_set(name: str) -> ModelSet:
    """Find a model set by name. Raises BadInput that names the nearest one."""
    if name not in catalogue()["sets"]:
        near = difflib.get_close_matches(name, set_names(), n=1, cutoff=0.5)
        raise BadInput(f"there is no model set {name!r}",
                       (f"did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(set_names())}")
    return ModelSet(name, BUILTIN_FOLDER)
