"""Keeps loaded models within a budget of bytes: one of each part, so that roles share what they have in common."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import BadInput
from engine.models import assemble, memory
from engine.models.families import build
from engine.models.families.base import TextToImage

if TYPE_CHECKING:
    from engine.models.local import Located
    from engine.models.sets import ModelSet

BUDGET = "MAQUETTE_MODEL_MEMORY_GB"
"""The variable that names the budget of a device; without it, half of all its memory."""
COMPILE = "MAQUETTE_COMPILE"
"""The variable that has the repeated blocks of networks compiled on a GPU, 1 or 0 (the default)."""
Key = tuple[str, str, str, str]
"""(digest of the files, part, device, precision)"""


class Pool:
    """Parts in memory until :meth:`clear`, or until others need the room: the longest unused go first.

    budget : bytes that parts may take on a device; None: as MAQUETTE_MODEL_MEMORY_GB says, else half of all
    A part that a stage still works with lives on until the stage ends, whatever the pool forgets.
    """

    def __init__(self, budget: int | None = None, probe: memory.Probe | None = None) -> None:
        self._parts: OrderedDict[Key, Any] = OrderedDict()
        self._budget, self._probe = budget, probe
        self._lock = threading.RLock()

    def get(self, models: ModelSet, role: str, device: str) -> Any:
        """The role's dataclass. Weights are checked against their cards each time (digests are kept in memory)."""
        with self._lock:
            used: set[Key] = set()
            entry = models.entry(role)
            if entry.builtin:
                cards = models.cards(role)

                def kept(part: str, load: Callable[[], Any]) -> Any:
                    own = part.partition("/")[0]
                    return self._part((cards[own].sha256, part, device, "float32"), load, used)
                made = assemble.builtin(models, role, cards, device, kept)
                self._shrink(device, used)
                return made
            precision = models.computes_in(device)
            made = assemble.public(models.located(role), role, device, getattr(torch, precision),
                                   self._keeper(device, precision, used), models.allow_pickle)
            self._shrink(device, used)
            return self._placed(made, device, used)

    def _keeper(self, device: str, precision: str, used: set[Key]) -> Callable[[Located], build.Keep]:
        def keep(here: Located) -> build.Keep:
            mark = _mark(here)

            def one(part: str, load: Callable[[], Any]) -> Any:
                return self._part((mark, part, device, precision), load, used)
            return one
        return keep

    def _part(self, key: Key, load: Callable[[], Any], used: set[Key]) -> Any:
        used.add(key)
        if key not in self._parts:
            self._parts[key] = load()
        self._parts.move_to_end(key)
        return self._parts[key]

    def _placed(self, made: Any, device: str, used: set[Key]) -> Any:
        """On its device; others make room for it there, where they lie in the pool alone."""
        if torch.device(device).type == "cpu":
            return made
        modules = _modules(made)
        need = sum(memory.bytes_of(m) for m in modules if not memory.is_on(m, device))
        for key in [k for k in self._parts if k not in used and k[2] == device]:
            free = (self._probe or memory.MACHINE).free(device)
            if free is None or free >= need + memory.SPARE:
                break
            del self._parts[key]
        if isinstance(made, TextToImage):
            if os.environ.get(COMPILE, "") not in ("", "0"):
                memory.compile_blocks(made.unet)
            return build.settle(made, device, self._probe)
        for module in modules:
            module.to(device)
        return made

    def _shrink(self, device: str, used: Iterable[Key]) -> None:
        """Forget the longest unused parts until the rest is within the budget; what is in use stays."""
        budget = self._limit(device)
        if budget is None:
            return
        held = {key: memory.bytes_of(part) for key, part in self._parts.items() if key[2] == device}
        for key in list(held):
            if sum(held.values()) <= budget:
                return
            if key not in used:
                del held[key], self._parts[key]

    def _limit(self, device: str) -> int | None:
        if self._budget is not None:
            return self._budget
        if told := os.environ.get(BUDGET):
            try:
                return int(float(told) * (1 << 30))
            except ValueError:
                raise BadInput(f"{BUDGET}={told!r} is no number", "give gigabytes, for instance 8") from None
        total = (self._probe or memory.MACHINE).total(device)
        return None if total is None else total // 2

    def held(self, device: str) -> int:
        """Bytes of the parts that are kept for a device."""
        with self._lock:
            return memory.bytes_of(*(part for key, part in self._parts.items() if key[2] == device))

    def clear(self) -> None:
        """Forget every model, so that its memory can be used again."""
        with self._lock:
            self._parts.clear()


def _mark(here: Located) -> str:
    """What tells a model's files from all others."""
    from engine.models import local
    return "+".join(local.digest_of(path) for _, path in sorted(here.files.items()))


def _modules(made: Any) -> list[torch.nn.Module]:
    if isinstance(made, TextToImage):
        return list(made.parts.values())
    own = list(vars(made).values())
    return ([value for value in own if isinstance(value, torch.nn.Module)]
            + [m for value in own if is_dataclass(value) for m in _modules(value)])


POOL = Pool()
