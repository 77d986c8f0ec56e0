"""A recipe file -> the assets it asks for, each with a whole recipe and with the origin of every value.

    batch = load_batch(Path("forest.toml"), settings=["quality=draft"])
    for asset in batch.assets:
        print(asset.id, asset.recipe.prompt, asset.origins["quality"].source)

A file of one asset (what ``maquette make`` leaves as recipe.toml) is a batch of one. Nothing heavy is imported here and
nothing is planned: whether a stage has the parameter that [stages.*] names is known to the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.collector import uncollected
from engine.errors import BadInput
from engine.recipes.document import (
    BATCH_KEYS,
    FIELDS,
    RESERVED,
    BudgetTable,
    ExportTable,
    parse_document,
    read_document,
)
from engine.recipes.names import id_of
from engine.recipes.origins import Layer, Origin, origins_of
from engine.recipes.overrides import merged, read_settings
from engine.recipes.patterns import is_pattern
from engine.recipes.recipe import ADAPTERS, FORMAT, PATHS, Recipe, checked, placed
from engine.runs.keys import digest

__all__ = ["Batch", "BatchAsset", "Budget", "Export", "Origin", "load_batch"]

LIMIT = 100_000
GB = 10**9


@dataclass(frozen=True)
class BatchAsset:
    """One asset that a recipe file asks for.

    id : unique, safe as a folder's name on every system
    recipe : everything that was told, in rising order of precedence; paths are absolute
    seed_id : what enters its seeds beside ``recipe.seed`` (it is ``recipe.seed_id``): the asset's own id and the matrix
        axes in ``matrix.reseed``; "" for a recipe without [[asset]], which draws what ``make`` draws
    cell : axis -> value, of the axes that vary for it
    variables : what names in braces stand for
    export_name : [export].name with everything but {version} filled in
    layers : what the sources say, in rising order
    """

    id: str
    recipe: Recipe
    seed_id: str = ""
    cell: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    export_name: str = ""
    layers: tuple[Layer, ...] = field(default=(), repr=False, compare=False)

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Dotted path ("quality", "stages.fit_field.steps", "vars.colour") -> the value and who said it."""
        own = {name: value for name, value in self.variables.items() if name not in (*RESERVED, *FIELDS)}
        return origins_of(self.recipe, own, self.layers)


@dataclass(frozen=True)
class Budget:
    """What a run may use; None: as much as it takes. It may stop a run; it never changes a result."""

    seconds: float | None = None
    asset_seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    max_failures: int | None = None


@dataclass(frozen=True)
class Export:
    """What a run's folder holds beside the assets' own folders.

    name : template of finished files' names (``BatchAsset.export_name`` is it, filled in)
    overwrite : replace files of another run; without: a new {version}
    profiles : engines that every finished asset is written for, into exports/PROFILE/ID
    """

    name: str = "{id}"
    overwrite: bool = False
    gallery: bool = True
    sheets: bool = True
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """A whole recipe file. digest : of what it says and of the assets' ids, wherever it lies and however it is spelled
    (comments, line ends); single : whether it is a recipe of one asset"""

    name: str
    path: Path
    digest: str
    seed: int
    assets: tuple[BatchAsset, ...]
    budget: Budget
    export: Export
    models: str
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    single: bool = False

    def asset(self, id: str) -> BatchAsset:
        """The asset of that id; BadInput that names the nearest one."""
        from engine.runs.words import unknown
        for asset in self.assets:
            if asset.id == id:
                return asset
        raise unknown("asset", id, (asset.id for asset in self.assets), str(self.path))


def load_batch(path: Path, settings: Sequence[str] = (), limit: int = LIMIT) -> Batch:
    """Read a recipe file with ``--set`` words on top, and expand it.

    limit : most assets (combinations of the matrix, before any is excluded, times [[asset]] entries and files)

    BadInput, one line: the file, the dotted path in it, what is wrong and what may stand there.
    """
    with uncollected():
        return _load(Path(path), settings, limit)


def _load(path: Path, settings: Sequence[str], limit: int) -> Batch:
    values, where = read_document(path), f"{path}: "
    parsed = parse_document(values, where)
    settled = read_settings(settings)
    folder = path.absolute().parent
    if _is_single(values, settled, folder):
        return _single(path, values, settled, folder)
    if parsed.seed_id:
        raise BadInput(f"{where}seed_id belongs to a recipe of one asset", "Take it out: ids make the seeds of many")
    top = {name: merged(values.get(name) or {}, settled.get(name) or {}) for name in ("matrix", "budget", "export")}
    if any(name in settled for name in top):
        parsed = parse_document({"format": FORMAT, **{name: table for name, table in top.items() if table}}, where)
    from engine.recipes.expand import expand
    name = settled.get("name") or values.get("name") or id_of([path.stem])
    assets, axes = expand(values, settled, parsed, name=name, file=path.name, where=where, folder=folder, limit=limit)
    return Batch(name=name, path=path, digest=_digest(values, settled, assets), assets=assets, axes=axes,
                 seed=settled.get("seed", values.get("seed", 0)), budget=_budget(parsed.budget),
                 export=_export(parsed.export), models=settled.get("models", values.get("models", "builtin")))


def _is_single(values: Mapping[str, Any], settled: Mapping[str, Any], folder: Path) -> bool:
    """Whether nothing in the file asks for many: then nothing in it is substituted either."""
    if any(name in told for name in BATCH_KEYS for told in (values, settled)):
        return False
    return not any(is_pattern(told[name], folder) for name in PATHS for told in (values, settled)
                   if isinstance(told.get(name), str))


def _single(path: Path, values: dict[str, Any], settled: dict[str, Any], folder: Path) -> Batch:
    """A recipe of one asset, as ``load_recipe`` reads it, with whole paths."""
    said = {name: value for name, value in values.items() if name != "format"}
    placed_in = {name: str(folder / said[name]) for name in PATHS if said.get(name)}
    stages = {label: {name: placed(value, folder) if name in ADAPTERS else value for name, value in told.items()}
              for label, told in said.get("stages", {}).items()}
    recipe = checked(merged({**said, **placed_in, **({"stages": stages} if stages else {})}, settled), f"{path}: ")
    layers = (Layer("recipe", path.name, said), Layer("--set", "", settled))
    asset = BatchAsset(id=id_of([recipe.title]), recipe=recipe, seed_id=recipe.seed_id, layers=layers,
                       export_name=id_of([recipe.title]))
    return Batch(name=recipe.title, path=path, digest=_digest(values, settled, (asset,)), seed=recipe.seed,
                 assets=(asset,), budget=Budget(), export=Export(), models=recipe.models, single=True)


def _digest(values: Mapping[str, Any], settled: Mapping[str, Any], assets: tuple[BatchAsset, ...]) -> str:
    return digest({"recipe": values, "settings": settled, "assets": [asset.id for asset in assets]})


def _budget(table: BudgetTable | None) -> Budget:
    if table is None:
        return Budget()
    memory, disk = (None if told is None else int(told * GB) for told in (table.memory_gb, table.disk_gb))
    return Budget(table.seconds, table.asset_seconds, memory, disk, table.max_failures)


def _export(table: ExportTable | None) -> Export:
    if table is None:
        return Export()
    return Export(**{**table.model_dump(), "profiles": tuple(dict.fromkeys(table.profiles))})
