"""The verbs of recipes that run, and those that look before and clean after: run, plan, why, gc, verify."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.recipes.batch import Batch, BatchAsset
    from engine.runs.batch.executor import AssetTask, Executor, Told
    from engine.runs.batch.planning import BatchPlan
    from engine.runs.batch.runner import Ended

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, for one asset or many.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE",
                                                    help="Change a value of the recipe; may be given often.")]
StorePlace = Annotated[str | None, typer.Option("--store", help="Where results are kept between runs.",
                                                envvar="MAQUETTE_STORE", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage and show what it made.", metavar="LABEL")]
Picks = Annotated[Path | None, typer.Option(help="A picks.toml: the candidate of each asset that goes on.",
                                            metavar="FILE")]
CommercialOnly = Annotated[bool, typer.Option("--commercial-only", help="Refuse models that may not be used "
                                              "commercially by everybody.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read weights kept as pickles: tensors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
STALL_SECONDS = 3600.0


def run(recipe: RecipeFile,
        out: Annotated[Path, typer.Option("--out", help="Folder for the finished files; the same again goes on there.",
                                          show_default=False)],
        until: Until = None, settings: Settings = None, picks: Picks = None,
        workers: Annotated[int, typer.Option(help="Assets made at the same time, each by its own process.", min=1,
                                             max=1024)] = 1,
        threads: Annotated[int, typer.Option(help="Of each worker's CPU work; 0: the cores shared evenly.", min=0,
                                             max=1024)] = 0,
        fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first asset that fails.")] = False,
        max_failures: Annotated[int | None, typer.Option(help="Stop when so many assets failed.", min=1)] = None,
        stall: Annotated[float, typer.Option(help="Seconds without a word of progress after which a worker counts as "
                                                  "hung.", min=1)] = STALL_SECONDS,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run's files in --out; without: "
                                                "a new version beside them.")] = False,
        executor: Annotated[str, typer.Option(help="local or ray.")] = "local",
        address: Annotated[str, typer.Option(help="Of a Ray cluster: HOST:PORT; without: this machine's own.")] = "",
        commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
        device: Device = "auto") -> None:
    """Make what a recipe asks for, one asset or many; what is finished is not made again."""
    from engine.errors import BadInput, RunFailed
    from engine.recipes.batch import load_batch
    batch = load_batch(recipe, settings or [])
    if batch.single and picks is None:
        from engine.making_cli import make
        _checked(recipe, batch.assets[0], store, device, until, commercial_only, allow_pickle)
        make(batch.assets[0].recipe, out, store, device, until, commercial_only, allow_pickle)
        return
    if executor not in ("local", "ray"):
        raise BadInput(f"there is no executor {executor!r}", "Give --executor local or ray")
    from engine.runs.batch.show import BatchTerminal, show_ended
    from engine.runs.stopping import stoppable
    job = BatchJob(batch, out, store, device, until, picks, workers, threads, fail_fast, max_failures, stall, overwrite,
                   commercial_only, allow_pickle, settings or [])
    with BatchTerminal() as terminal:
        ended = job.run(terminal, stoppable, job.ray(address) if executor == "ray" else job.local)
    show_ended(ended)
    typer.echo(str(out))
    if ended.conducted.by_user:
        raise typer.Exit(130)
    if ended.conducted.stopped:
        raise RunFailed(ended.conducted.stopped, "What is finished is kept; the same command goes on")
    if ended.conducted.failures:
        raise RunFailed(f"{len(ended.conducted.failures)} of {len(batch.assets)} assets were not made",
                        f"{out / 'manifest.json'} says which and why; the same command tries them again")


class BatchJob:
    """One ``maquette run`` of a recipe for many: what its options mean."""

    def __init__(self, batch: Batch, out: Path, store: str | None, device: str, until: str | None, picks: Path | None,
                 workers: int, threads: int, fail_fast: bool, max_failures: int | None, stall: float, overwrite: bool,
                 commercial_only: bool, allow_pickle: bool, settings: list[str]) -> None:
        from engine.runs.devices import resolve_device
        self.batch, self.out, self.until, self.settings = batch, out, until, settings
        self.store = place_of(store)
        self.device = resolve_device(device)
        self.workers, self.stall, self.overwrite = workers, stall, overwrite
        self.threads = threads or (max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0)
        self.fail_fast, self.max_failures = fail_fast, max_failures
        self.commercial_only, self.allow_pickle = commercial_only, allow_pickle
        self.assets = picked(batch, picks)

    def run(self, watcher: Any, stoppable: Any, executor: Callable[[Told], Executor]) -> Ended:
        from engine import __version__
        from engine.batch_api import Planner
        from engine.errors import MaquetteError
        from engine.recipes.batch import load_batch
        from engine.runs.batch.conduct import Policy
        from engine.runs.batch.picks import offer_picks
        from engine.runs.batch.runner import Order, run_batch
        budget = self.batch.budget

        def digest_now() -> str:
            try:
                return load_batch(self.batch.path, self.settings).digest
            except MaquetteError:
                return "it cannot be read now"
        order = Order(
            name=self.batch.name, digest=self.batch.digest, path=self.batch.path.name, folder=self.out,
            store=self.store, task=self._task, overwrite=self.overwrite or self.batch.export.overwrite,
            policy=Policy(self.fail_fast, self.max_failures or budget.max_failures, seconds=budget.seconds,
                          memory_bytes=budget.memory_bytes, disk_bytes=budget.disk_bytes),
            about={"maquette": __version__, "models": self.batch.models, "device": self.device,
                   "threads": self.threads, "until": self.until}, digest_now=digest_now)
        planner = Planner(self.store, self.device, self.until, self.commercial_only, self.allow_pickle)
        ended = run_batch(self.assets, planner, order, executor, watcher, stoppable)
        export = self.batch.export
        if not (ended.unchanged and (self.out / "gallery" / "index.html").exists() == export.gallery):
            from engine.export.results import write_results
            named = {asset.id: asset.export_name for asset in self.assets} if export.name != "{id}" else None
            ended.notes += write_results(self.out, ended.manifest, names=named, gallery=export.gallery,
                                         sheets=export.sheets, overwrite=order.overwrite)
        if export.profiles and not self.until:
            from engine.export_api import export_run
            ended.notes += export_run(self.out, ended.manifest, export.profiles, store=self.store, device=self.device,
                                      overwrite=order.overwrite)
        if self.until and offer_picks(self.out / "picks.toml", (asset.id for asset in self.assets)):
            ended.notes.append(f"look at assets/*/candidates, fill in {self.out / 'picks.toml'}, then run again with "
                               f"--picks and without --until")
        return ended

    def local(self, told: Told) -> Executor:
        from engine.runs.batch.processes import Processes
        return Processes(min(self.workers, len(self.assets)), told, self.threads)

    def ray(self, address: str) -> Callable[[Told], Executor]:
        def opened(told: Told) -> Executor:
            from engine.runs.executors.ray import open_ray
            return open_ray(self.workers, told, device=self.device, threads=self.threads, address=address)
        return opened

    def _task(self, asset: BatchAsset, place: Path) -> AssetTask:
        from engine.runs.batch.executor import AssetTask
        return AssetTask(
            id=asset.id, recipe=asset.recipe.model_dump(mode="json", exclude_none=True), store=self.store,
            folder=str(place.absolute()), device=self.device, until=self.until, threads=self.threads,
            seconds=self.batch.budget.asset_seconds, stall_seconds=self.stall, commercial_only=self.commercial_only,
            allow_pickle=self.allow_pickle, papers={"batch": self.batch.name, "batch_digest": self.batch.digest})


def plan(recipe: RecipeFile, out: Annotated[Path | None, typer.Option("--out", help="The run's folder, whose finished "
                                            "assets count.", show_default=False)] = None,
         until: Until = None, settings: Settings = None, picks: Picks = None,
         workers: Annotated[int, typer.Option(help="For the expected time.", min=1)] = 1,
         every: Annotated[bool, typer.Option("--all", help="List every asset.")] = False, as_json: AsJson = False,
         commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False, store: StorePlace = None,
         device: Device = "auto") -> None:
    """Say what a run would make, what is there already and why, and how long it would take. Nothing runs."""
    from engine.recipes.batch import load_batch
    from engine.runs.batch.estimate import estimate
    from engine.runs.batch.show import size, span
    from engine.runs.devices import resolve_device
    from engine.runs.store import Store
    batch = load_batch(recipe, settings or [])
    place, chosen = place_of(store), resolve_device(device)
    assets = picked(batch, picks)
    planned = planned_batch(recipe, assets, place, chosen, until, out, commercial_only, allow_pickle)
    todo = [asset for asset in planned.assets if asset.state == "run"]
    cost = estimate(planned, todo, Store.open(place), chosen)
    counts: Counter[str] = Counter(asset.state for asset in planned.assets)
    free = shutil.disk_usage(existing(Path(place))).free if "://" not in place else None
    if as_json:
        typer.echo(json.dumps({
            "schema": 1, "recipe": batch.name, "digest": batch.digest, "assets": len(planned.assets),
            "counts": dict(sorted(counts.items())), "stages_to_run": cost.stages, "expected_seconds":
            round(cost.seconds / min(workers, max(len(todo), 1)), 1), "expected_bytes": cost.bytes, "free_bytes": free,
            "never_timed": list(cost.unknown), "planned_one_by_one": planned.slow, "each": [
                {"id": a.id, "state": a.state, "why": a.why, "missing": a.missing, "goals": a.goals}
                for a in planned.assets]}, indent=1, ensure_ascii=False))
        return
    typer.echo(f"{batch.name}: {len(planned.assets)} asset{'' if len(planned.assets) == 1 else 's'} of {recipe}")
    for state, words in (("run", "to make"), ("cached", "in the store, to be copied"), ("finished", "finished"),
                         ("refused", "refused by gates before, and again")):
        if counts[state]:
            typer.echo(f"  {counts[state]} {words}")
    for line in _reasons(planned, every):
        typer.echo(f"    {line}")
    if cost.stages:
        known = f"; not in it, as never made here: {', '.join(cost.unknown)}" if cost.unknown else ""
        share = f" by {workers} workers" if workers > 1 else ""
        seconds = cost.seconds / min(workers, max(len(todo), 1))
        told = f"{span(seconds)}{share}, {size(cost.bytes)} in the store" if cost.timed else "no time known yet"
        typer.echo(f"expected: {cost.stages} stages, {told}{known}")
        if free is not None and cost.bytes > free:
            typer.echo(f"the disk has {size(free)} free only")


def why(recipe: RecipeFile, asset: Annotated[str, typer.Argument(help="The asset's id.", show_default=False)],
        out: Annotated[Path | None, typer.Option("--out", help="The folder of the run to compare with.",
                                                 show_default=False)] = None,
        until: Until = None, settings: Settings = None, picks: Picks = None, commercial_only: CommercialOnly = False,
        allow_pickle: AllowPickle = False, store: StorePlace = None, device: Device = "auto") -> None:
    """Say which part of an asset's keys changed since its last run in --out, and what the store has of it."""
    from engine.batch_api import Planner
    from engine.recipes.batch import load_batch
    from engine.runs.batch.journal import Known, read_journal
    from engine.runs.batch.why import changes
    from engine.runs.devices import resolve_device
    batch = load_batch(recipe, settings or [])
    batch.asset(asset)
    chosen = [one for one in picked(batch, picks) if one.id == asset]
    if not chosen:
        typer.echo(f"{asset} was turned down in {picks}: it is not made")
        return
    place, on = place_of(store), resolve_device(device)
    known = read_journal(out) if out is not None else Known()
    plan = planned_batch(recipe, chosen, place, on, until, out, commercial_only, allow_pickle).assets[0]
    typer.echo(f"{asset}: {plan.state}: {plan.why}")
    for stage in plan.stages:
        typer.echo(f"  {stage.label}: {'in the store' if stage.found == 'kept' else stage.found}  {stage.attempt[:12]}")
    if out is None:
        typer.echo("what changed since a run: say which with --out DIR")
        return
    if asset not in known.finished:
        typer.echo(f"no run in {out} has finished it")
        return
    own = Planner(place, on, until, commercial_only, allow_pickle).plan(chosen[0].recipe)
    told = changes(own, known, asset)
    typer.echo("since its last finished run:" if told else "nothing that it depends on changed since its last run")
    for label, what in told:
        typer.echo(f"  {label}: {what}")


def gc(store: StorePlace = None,
       forget: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Runs that shall keep nothing any "
                                                        "more, by their names in roots/: 'red_mug-*'.")] = None,
       yes: Annotated[bool, typer.Option("--yes", help="Remove it; without: only say what and how much.")] = False
       ) -> None:
    """Remove what no run keeps from the store; says first what and how much."""
    from engine.runs.batch.cleaning import clean, rubbish
    from engine.runs.batch.show import size
    from engine.runs.store import Store
    opened = Store(Store.place(store))
    found = rubbish(opened, tuple(forget or ()))
    for name in found.forgotten:
        typer.echo(f"  forgotten: {name}")
    typer.echo(f"{len(found.keys)} results that no run keeps, {size(found.bytes)}; "
               f"{found.kept} stay, {size(found.kept_bytes)}")
    for stage, (count, held) in found.stages.items():
        typer.echo(f"  {stage}: {count}, {size(held)}")
    if not yes:
        if found.keys:
            typer.echo("nothing was removed; --yes removes them")
        return
    typer.echo(f"removed {len(clean(opened, found))} results")


def verify(store: StorePlace = None,
           mend: Annotated[bool, typer.Option("--mend", help="Remove what is damaged; it is made again when it is "
                                              "asked for.")] = False) -> None:
    """Read every byte of the store and name what is not as it was written. Exit code 1 where something is."""
    from engine.errors import RunFailed
    from engine.runs.batch.cleaning import damaged
    from engine.runs.store import Store
    opened = Store(Store.place(store))
    before = len(list(opened.keys()))
    found = damaged(opened)
    for key, reason in found.items():
        typer.echo(f"{key}: {reason}")
        if mend:
            opened.discard(key)
    typer.echo(f"{before - len(found)} of {before} results are as they were written")
    if found and mend:
        typer.echo(f"removed {len(found)}")
    elif found:
        raise RunFailed(f"{len(found)} results are damaged", "maquette verify --mend removes them")


def picked(batch: Batch, picks: Path | None) -> list[BatchAsset]:
    """The batch's assets with the picks applied."""
    if picks is None:
        return list(batch.assets)
    from engine.batch_api import with_picks
    from engine.runs.batch.picks import read_picks
    return with_picks(batch.assets, read_picks(picks), str(picks))


def planned_batch(recipe: Path, assets: list[BatchAsset], store: str, device: str, until: str | None, out: Path | None,
                  commercial_only: bool = False, allow_pickle: bool = False) -> BatchPlan:
    """The plan of ``plan`` and ``why``; BadInput names the file and the asset."""
    from engine.batch_api import Planner
    from engine.runs.batch.journal import Known, read_journal
    from engine.runs.batch.planning import plan_batch
    from engine.runs.store import Store
    with tempfile.TemporaryDirectory(prefix="maquette-plan-") as scratch:
        return plan_batch(assets, Planner(store, device, until, commercial_only, allow_pickle), Store.open(store),
                          Known() if out is None else read_journal(out), out, Path(scratch), where=f"{recipe}: ")


def place_of(store: str | None) -> str:
    """The store's place, whole, so that every worker means the same."""
    from engine.runs.store import Store
    told = store or os.environ.get("MAQUETTE_STORE") or ""
    return told if "://" in told else str(Store.place(store).absolute())


def _checked(recipe: Path, asset: BatchAsset, store: str | None, device: str, until: str | None, commercial_only: bool,
             allow_pickle: bool) -> None:
    """BadInput that names the file, where a recipe of one asset asks for what cannot be made."""
    from engine.batch_api import plan_any
    from engine.errors import BadInput
    try:
        plan_any(asset.recipe, store=store, device=device, until=until, commercial_only=commercial_only,
                 allow_pickle=allow_pickle)
    except BadInput as error:
        raise BadInput(f"{recipe}: {error.what}", error.fix) from error


def existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _reasons(planned: BatchPlan, every: bool) -> list[str]:
    """Every asset with its reason, or each reason with how many have it and one of them."""
    if every:
        return [f"{asset.id}: {asset.state}: {asset.why}" for asset in planned.assets]
    reasons: dict[str, list[str]] = {}
    for asset in planned.assets:
        if asset.state == "run":
            reasons.setdefault(asset.why, []).append(asset.id)
    return [f"{len(ids)}: {why} ({ids[0]}{', ...' if len(ids) > 1 else ''})" for why, ids in reasons.items()][:12]
