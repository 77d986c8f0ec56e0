"""What the verbs do that make a folder of files out of a recipe: plan it, run it under the terminal's bars, write the
folder, show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.recipes.recipe import Recipe


def make(recipe: Recipe, out: Path, store: str | None, device: str, until: str | None, commercial_only: bool = False,
         allow_pickle: bool = False) -> None:
    """Meshes and clips alike. BadInput, RunFailed and Cancelled say in one line what is wrong; of a clip, RunFailed too
    where some format could not be written: all other files are there then."""
    from engine.api import plan_asset
    from engine.clip_api import MadeClip, plan_clip
    from engine.errors import BadInput, RunFailed
    from engine.recipes.recipe import CLIPS
    from engine.runs import files
    from engine.runs.stopping import stoppable
    from engine.runs.terminal import Terminal
    from engine.show import show_report, show_stopped
    given_folders = {"pictures": recipe.folder, "poses": recipe.poses, "video's pictures": recipe.driving_video}
    for what, given in given_folders.items():
        if given and out.resolve() == Path(given).resolve():
            raise BadInput(f"--out {out} is the folder of the {what}", "Choose another folder with --out")
    planned: Any = plan_clip if recipe.pipeline in CLIPS else plan_asset
    plan = planned(recipe, store=store, device=device, until=until, commercial_only=commercial_only,
                   allow_pickle=allow_pickle)
    files.ensure_writable(out, "the asset", "--out")  # known before hours of work, not after
    with Terminal() as terminal, stoppable(plan.run):
        plan.run.listeners.append(terminal)
        made = plan.execute()
    made.save(out)
    if not made.complete:
        show_stopped(made, out)
        return
    show_report(made.report, out)
    if isinstance(made, MadeClip) and made.not_written:
        raise RunFailed("; ".join(said.rstrip(".") for said in made.not_written.values()),
                        f"All other files are in {out}")
