"""Where each tensor of a file goes: plans made of names and shapes alone, carried out on tensors later.

A converter reads names and returns, for each part (``unet``, ``vae``, ...), ``{name in the part: Move}``. So a file of
gigabytes is understood from its header, what would be missing or left over is known before a byte of weights is read,
and only the tensors that a part needs are read at all. Light: standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
How = Literal["as it is", "first third", "second third", "last third", "transposed", "halves swapped"]
_THIRDS: dict[str, int] = {"first third": 0, "second third": 1, "last third": 2}


@dataclass(frozen=True)
class Move:
    """One tensor of a part, made of one tensor of a file.

    source : its name in the file
    how : thirds and halves are along the first axis (query, key and value packed in one; shift and scale exchanged)
    """

    source: str
    how: How = "as it is"

    def shape(self, of: Shape) -> Shape:
        """The shape that a tensor of shape ``of`` gets; of what cannot be done so, an impossible one, () apart."""
        if self.how in _THIRDS:
            return (of[0] // 3, *of[1:]) if of and of[0] % 3 == 0 else (-1, *of[1:])
        if self.how == "transposed":
            return of[::-1]
        if self.how == "halves swapped":
            return of if of and of[0] % 2 == 0 else (-1, *of[1:])
        return of

    def carry_out(self, tensor: Tensor) -> Tensor:
        """The tensor as the part holds it; no values are copied but where halves are swapped."""
        if self.how in _THIRDS:
            return tensor.chunk(3)[_THIRDS[self.how]]
        if self.how == "transposed":
            return tensor.T
        if self.how == "halves swapped":
            import torch
            return torch.cat(tensor.chunk(2)[::-1])
        return tensor


def fits(found: Shape, wanted: Shape) -> bool:
    """Whether a tensor can be taken for another: equal shapes, or a 1 x 1 convolution for a linear layer and back."""
    return found == wanted or (prod(found) == prod(wanted) and _trimmed(found) == _trimmed(wanted)
                               and {len(found), len(wanted)} in ({2, 3}, {2, 4}))


def _trimmed(shape: Shape) -> Shape:
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape


@dataclass
class Plan:
    """What a file is made of.

    parts : part -> name in the part -> move
    spare : name in the file -> why nothing needs it ("schedule", "averaged weights", ...)
    strange : names that no converter knows
    """

    parts: dict[str, dict[str, Move]] = field(default_factory=dict)
    spare: dict[str, str] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)

    def put(self, part: str, name: str, move: Move) -> None:
        """Two sources for one target: the first stays, the second is strange (a file that says a thing twice)."""
        if name in self.parts.setdefault(part, {}):
            self.strange.append(move.source)
        else:
            self.parts[part][name] = move

    def sources(self, part: str) -> list[str]:
        """Names of the file's tensors that a part is made of, each once."""
        return list(dict.fromkeys(move.source for move in self.parts.get(part, {}).values()))


@dataclass(frozen=True)
class Account:
    """What of a part is not as it must be. Lines of ``wrong`` say both shapes; all empty: everything fits."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong)


def account(moves: Mapping[str, Move], shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> Account:
    """Hold a part's moves against the shapes it must have. shapes : of the file's tensors"""
    missing = [name for name in wanted if name not in moves]
    unexpected = [move.source for name, move in moves.items() if name not in wanted]
    wrong = [f"{move.source} is {said(shapes[move.source])}, not {said(wanted[name])}"
             for name, move in moves.items()
             if name in wanted and not fits(move.shape(shapes[move.source]), wanted[name])]
    return Account(tuple(missing), tuple(dict.fromkeys(unexpected)), tuple(wrong))


def said(shape: Shape) -> str:
    """(320, 4, 3, 3) -> "320 x 4 x 3 x 3"."""
    return " x ".join(map(str, shape)) or "one number"


def carry_out(moves: Mapping[str, Move], tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]
              ) -> dict[str, Tensor]:
    """The part's state dict. Every move must have been found to fit (:func:`account`)."""
    return {name: move.carry_out(tensors[move.source]).reshape(wanted[name]) for name, move in moves.items()}
