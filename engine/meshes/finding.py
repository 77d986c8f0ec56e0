"""What is to be said of somebody else's file: one line each, with how bad it is and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "hint", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "hint", "info")


@dataclass(frozen=True)
class Finding:
    """severity : "error": the file is not what it says, or cannot be used; "warning": it works, and will hurt;
        "hint": it could be better; "info": a fact
    code : a word that stays, for scripts; text : one line; where : a JSON pointer, a line, a name
    source : who says it: "maquette", "khronos", "usd"
    """

    severity: Severity
    code: str
    text: str
    where: str = ""
    source: str = "maquette"

    def to_json(self) -> dict[str, str]:
        return {name: value for name, value in vars(self).items() if value != ""}


class Damage(Exception):
    """Something in a file that makes a part of it, or all of it, unusable; it becomes an error among the findings."""

    def __init__(self, code: str, text: str, where: str = "", severity: Severity = "error") -> None:
        super().__init__(text)
        self.finding = Finding(severity, code, text, where)
