"""The licence ledger: under which terms a model may be used, and the check that lets only commercial ones through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import BadInput
from engine.models.catalogue import COMMERCIAL, Model, with_needs

if TYPE_CHECKING:
    from engine.models.sets import ModelSet

_WORST = {word: rank for rank, word in enumerate(("yes", "conditions", "unknown", "no"))}
assert set(_WORST) == set(COMMERCIAL)


@dataclass(frozen=True)
class Terms:
    """Of a model together with all that it needs.

    licence : its name, with those of the others where they differ; commercial : the strictest of all
    why : one line on the conditions; of : the model whose terms are the strictest
    """

    licence: str
    commercial: str
    why: str
    of: Model

    @property
    def told(self) -> str:
        """As a report says it: "yes", "no", "unknown", and the conditions where there are any."""
        if self.commercial == "conditions":
            return self.why
        return f"{self.commercial}: {self.why}" if self.why else self.commercial


def terms(model: Model) -> Terms:
    """The terms of a model and all that it needs."""
    every = [model, *(other for other in with_needs(list(model.needs)) if other.id != model.id)]
    strictest = max(every, key=lambda one: _WORST[one.commercial])  # the first of equal ones: the model itself
    others = {one.licence or "unknown": one.id for one in every[1:] if one.licence != model.licence}
    names = [model.licence or "unknown", *(f"{licence} ({id})" for licence, id in others.items())]
    return Terms("; ".join(names), strictest.commercial, strictest.conditions, strictest)


def reason(model: Model) -> str | None:
    """Why a model may not be used commercially by everybody; None where it may."""
    found = terms(model)
    if found.commercial == "yes":
        return None
    named = "" if found.of.id == model.id else f"it needs {found.of.id}: "
    words = {"no": "no commercial use", "conditions": "commercial use for some only", "unknown": "terms unknown"}
    return f"{named}{found.of.licence or 'no known licence'}, {words[found.commercial]}" + (
        f" ({found.why})" if found.why else "")


def require_commercial(models: ModelSet, role: str) -> None:
    """BadInput that names the model, its licence and the reason, where it is not free for commercial use."""
    model = models.entry(role)
    if why := reason(model):
        raise BadInput(f"--commercial-only rules out {model.id} ({role}): {why}",
                       f"Choose another one: maquette models list --role {role} --commercial-only")


def ledger(models: ModelSet, roles: Iterable[str]) -> list[tuple[str, Model, Terms]]:
    """(role, model, terms) of each role, for tables and papers."""
    return [(role, models.entry(role), terms(models.entry(role))) for role in roles]
