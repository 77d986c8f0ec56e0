"""What ``maquette check`` found: findings, figures, and the exit code that scripts go by. Schema 1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.meshes.finding import SEVERITIES, Finding, Severity


@dataclass
class CheckReport:
    """path; format : "glb", "obj", ...; profile : whose budgets were asked, "" for none
    figures : name -> number (or text), as far as they could be taken
    tools : name -> what ran, or why it did not
    """

    path: Path
    format: str
    profile: str = ""
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)

    def say(self, severity: Severity, code: str, text: str, where: str = "") -> None:
        """Add one finding, each once."""
        found = Finding(severity, code, text, where)
        if found not in self.findings:
            self.findings.append(found)

    def count(self, severity: Severity) -> int:
        """Findings of one severity."""
        return sum(one.severity == severity for one in self.findings)

    def exit_code(self, strict: bool = False) -> int:
        """0, or 1 where there is an error (``strict``: or a warning)."""
        return int(self.count("error") > 0 or (strict and self.count("warning") > 0))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; numbers that are not finite become null."""
        figures = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                   for name, value in self.figures.items()}
        ordered = sorted(self.findings, key=lambda one: SEVERITIES.index(one.severity))
        return {"schema": 1, "file": str(self.path), "format": self.format, "profile": self.profile,
                "passed": self.exit_code() == 0, "counts": {name: self.count(name) for name in SEVERITIES},
                "figures": figures, "tools": dict(self.tools), "findings": [one.to_json() for one in ordered]}
