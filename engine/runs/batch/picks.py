"""picks.toml: which candidate of each asset goes on after a run with ``--until text_to_image``.

    format = 1

    [picks]
    red_mug = 2        # candidates/02.png
    blue_chair = false # turned down: it is not made
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path

from engine.errors import BadInput
from engine.runs import files


def read_picks(path: Path) -> dict[str, int | bool]:
    """id -> number of the candidate, or False. BadInput names the file and the line's id."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BadInput(f"there is no {path}", "A run with --until text_to_image writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}", "Give a TOML file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}", "Mend that line") from error
    for name in told:
        if name not in ("format", "picks"):
            raise BadInput(f"{path}: unknown key '{name}'", "Picks stand below [picks]")
    if told.get("format") != 1:
        raise BadInput(f"{path} does not say its format", "Begin it with: format = 1")
    picks = told.get("picks", {})
    if not isinstance(picks, dict):
        raise BadInput(f"{path}: picks is no table", "Write [picks], and below it: red_mug = 2")
    for id, pick in picks.items():
        if pick is not False and (not isinstance(pick, int) or isinstance(pick, bool) or not 0 <= pick <= 999):
            raise BadInput(f"{path}: picks.{id} is {pick!r}",
                           "Give the candidate's number, 0 to 999, or false to leave the asset out")
    return picks


def offer_picks(path: Path, ids: Iterable[str]) -> bool:
    """Write a file to fill in, every line a comment; False where one is there already."""
    if path.exists():
        return False
    lines = ["# The candidate of each asset that goes on; false leaves an asset out. Without a line: the best one.",
             "# Then: maquette run RECIPE --out DIR --picks picks.toml", "format = 1", "", "[picks]",
             *(f"# {json.dumps(id, ensure_ascii=False)} = 0" for id in ids)]
    files.write_file(path, "\n".join(lines) + "\n")
    return True
