"""Words for materials, and how such things shine."""

from __future__ import annotations

MATERIALS: dict[str, tuple[float, float]] = {
    "plastic": (0.0, 0.45), "wooden": (0.0, 0.75), "wood": (0.0, 0.75), "metal": (1.0, 0.4), "stone": (0.0, 0.9),
    "ceramic": (0.0, 0.25), "rubber": (0.0, 0.85), "glass": (0.0, 0.1), "leather": (0.0, 0.6), "cloth": (0.0, 0.95),
    "gold": (1.0, 0.3), "golden": (1.0, 0.3), "silver": (1.0, 0.3), "steel": (1.0, 0.35), "iron": (1.0, 0.6),
    "copper": (1.0, 0.35), "marble": (0.0, 0.3), "clay": (0.0, 0.9), "velvet": (0.0, 1.0), "ice": (0.0, 0.15),
    "chrome": (1.0, 0.1),
}
"""Material word -> metallic and roughness factors."""


def material_in(text: str) -> str | None:
    """The first word of ``text`` that names a material in MATERIALS."""
    words = ("".join(c for c in word if c.isalpha()) for word in text.lower().split())
    return next((w for w in words if w in MATERIALS), None)
