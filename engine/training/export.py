"""From a training's averaged weights to engine/weights/builtin/<part>: public layouts, half precision, and papers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from engine.models.cards import part_digest
from engine.models.packed import pack_file
from engine.models.sets import BUILTIN_FOLDER

BEFORE = "before.json"
PACKED = ("text_to_image", "novel_view", "reference_animation", "motion", "matting", "drawn_alpha", "judge",
          "image_prompt", "control_edges", "control_depth", "control_pose", "control_parts")
"""Parts large enough that a byte a number instead of two is worth it: without, not all would fit into 40 MB."""


def export(part: str, save: Callable[[Path], None], *, about: str, data: str, limits: str,
           trained_on: tuple[str, ...] = (), steps: int = 0, minutes: float = 0.0,
           metrics: dict[str, float] | None = None, curve: Path | None = None, extra: dict[str, Any] | None = None,
           root: Path = BUILTIN_FOLDER) -> Path:
    """Write ``root/part`` with its card; ``save(folder)`` writes the weights. Replaces an older export as a whole.

    trained_on : parts whose exported weights this one was trained on; their digests go on the card
    steps, minutes : of this training; what remember() found beside the curve is added
    """
    before = curve.parent / BEFORE if curve is not None else None
    if before is not None and before.exists():
        earlier = json.loads(before.read_text(encoding="utf-8"))
        steps, minutes = steps + earlier["steps"], minutes + earlier["minutes"]
    part_folder = root / part
    fresh = part_folder.with_name(part_folder.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save(fresh)
    if part in PACKED:
        for file in sorted(fresh.rglob("*.safetensors")):
            pack_file(file)
    card: dict[str, Any] = {
        "part": part, "sha256": part_digest(fresh),
        "trained_on": {name: part_digest(root / name) for name in trained_on},
        "steps": steps, "minutes": round(minutes, 1), "metrics": {k: round(v, 4) for k, v in (metrics or {}).items()},
        "licence": "Apache-2.0", "commercial": "yes", "about": about, "data": data, "limits": limits, **(extra or {})}
    (fresh / "card.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (fresh / "card.md").write_text(_page(card, curve is not None and curve.exists()), encoding="utf-8")
    if curve is not None and curve.exists():
        shutil.copyfile(curve, fresh / "curve.png")
    old = part_folder.with_name(part_folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if part_folder.exists():
        part_folder.replace(old)
    fresh.replace(part_folder)
    shutil.rmtree(old, ignore_errors=True)
    return part_folder


def remember(folder: Path, part: str, root: Path = BUILTIN_FOLDER) -> None:
    """Note in a training's ``folder`` how long the committed weights that it starts from had been trained; once."""
    path = folder / BEFORE
    card = root / part / "card.json"
    if card.exists() and not path.exists():
        known = json.loads(card.read_text(encoding="utf-8"))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"steps": known["steps"], "minutes": known["minutes"], "sha256": known["sha256"]}))


def restamp(root: Path, part: str, old: str, why: str) -> None:
    """Let the parts that stand on ``part``'s digest ``old`` stand on its weights of now, ``why`` goes on their cards.

    Only right where what they learned from is the same: the caller knows that.
    """
    new = part_digest(root / part)
    for path in sorted(root.glob("*/card.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["trained_on"].get(part) == old:
            card["trained_on"][part] = new
            card.setdefault("since", []).append({"part": part, "was": old, "why": why})
            path.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            (path.parent / "card.md").write_text(_page(card, (path.parent / "curve.png").exists()), encoding="utf-8")


def half(model: nn.Module) -> Any:
    """A copy in half precision, as it is shipped."""
    import copy
    return copy.deepcopy(model).cpu().half().eval()


def _page(card: dict[str, Any], curve: bool) -> str:
    metrics = "\n".join(f"| {name} | {value} |" for name, value in card["metrics"].items())
    stands = "\n".join(f"- {name}: `{digest}`" for name, digest in card["trained_on"].items())
    return "\n".join(line for line in [
        f"# {card['part']}", "", card["about"], "",
        f"**Data.** {card['data']}", "",
        f"**Training.** {card['steps']} steps in {card['minutes']} minutes; "
        + ", then ".join(f"`python -m engine.training {name}`" for name in card.get("made_by", [card["part"]]))
        + (" makes it again." if len(card.get("made_by", [])) < 2 else " make it again.") if card["steps"] else None,
        "\n![training curve](curve.png)" if curve else None, "",
        "**Measured on held-out data.**\n\n| figure | value |\n|---|---|\n" + metrics + "\n" if metrics else None,
        "**Stands on.**\n\n" + stands + "\n" if stands else None,
        f"**Limits.** {card['limits']}", "",
        f"Licence {card['licence']}. SHA-256 `{card['sha256']}`.", ""] if line is not None)
