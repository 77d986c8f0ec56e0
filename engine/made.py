"""What every finished asset is, mesh or clip: its artifacts, its papers, and the folder that a user takes away."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.recipes.recipe import Recipe, recipe_digest
from engine.runs import files
from engine.runs.events import JsonLines
from engine.runs.manifest import build_manifest
from engine.runs.report import Report, build_report, models_used

if TYPE_CHECKING:
    from engine.runs.run import Handle, Outcome, Run


class Made:
    """An executed recipe, in the store; ``save`` writes plain copies."""

    recipe: Recipe
    run: Run
    outcomes: list[Outcome]
    seconds: float
    _papers: Report | None

    @property
    def complete(self) -> bool:
        """Whether all of the pipeline was executed; ``until`` stops before."""
        return len(self.outcomes) == len(self.run.planned)

    def artifact(self, label: str) -> Any:
        """Any stage's artifact: "text_to_image", "fit_field", "animate_character", ..."""
        return self.run.load(self.run.planned[label].handle)

    @property
    def report(self) -> Report:
        """Measured quality, timings, seeds, weights and licences; the files are listed once it is saved."""
        if self._papers is None:
            self._papers = build_report(self.run, self.outcomes, asset=self.recipe.title,
                                        pipeline=self.recipe.pipeline, files=[], seconds=self.seconds,
                                        warnings=self.warnings)
        return self._papers

    @property
    def warnings(self) -> list[str]:
        """What must be said of the whole, beside what its stages say."""
        return []

    def papers(self) -> dict[str, Any]:
        """What its files say of its making: recipe (``recipe_digest``), seed, words, models and their licences."""
        models = models_used(self.run, self.outcomes)
        licences = [{"role": m.role, "model": m.id, "licence": m.licence, "commercial": m.commercial} for m in models]
        return {**told_of(self.recipe), "seed": self.recipe.seed, **({"licences": licences} if licences else {})}

    def save(self, folder: str | Path, papers: Mapping[str, Any] | None = None) -> Path:
        """Write its files, recipe and report into ``folder``; report.json comes last.

        papers : beside :meth:`papers`, written into the files (a batch's name and digest)
        """
        from engine.export.folder import write_folder
        target = Path(folder)
        self._papers = write_folder(self, target, papers)
        return target


def told_of(recipe: Recipe) -> dict[str, str]:
    """What a recipe says of an asset, as texts. ``recipe`` is ``recipe_digest``'s."""
    from engine import __version__
    told = {"title": recipe.prompt or recipe.title, "comment": f"made by Maquette {__version__}",
            "prompt": recipe.prompt, "negative": recipe.negative, "motion": recipe.motion, "seed": str(recipe.seed),
            "pipeline": recipe.pipeline, "models": recipe.models, "recipe": recipe_digest(recipe)}
    return {name: text for name, text in told.items() if text}


def performed(run: Run, recipe: Recipe, *goals: Handle[Any]) -> tuple[list[Outcome], float]:
    """Run what the store does not have, with a log beside it -> (what became of each stage, seconds).

    Cancelled, RunFailed or BadInput leave the store as far as it came.
    """
    began = time.monotonic()
    with run.store.log() as path:
        with files.one_line_errors("the log", path.parent, "--store"):
            log = JsonLines(path)
        run.listeners.append(log)
        with closing(log):
            outcomes = run.perform(*goals)
        run.listeners.remove(log)
    manifest = build_manifest(run, outcomes, asset=recipe.title, pipeline=recipe.pipeline)
    run.store.add_root(manifest.name, manifest.to_json())
    return outcomes, time.monotonic() - began
