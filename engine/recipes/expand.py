"""A recipe file's entries x the files they name x the cells of the matrix -> assets.

The work of an asset is kept small (10,000 assets take well below a second): texts are taken apart once, cells are made
once for all entries that fix the same axes, and each distinct shape of a recipe is checked once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.recipes.batch import BatchAsset
from engine.recipes.document import FIELDS, RESERVED, RecipeFile
from engine.recipes.matrix import Cell, Matrix, read_matrix
from engine.recipes.names import check_id, id_of, slug, twin
from engine.recipes.origins import Layer
from engine.recipes.overrides import flat, merged, told_fields
from engine.recipes.patterns import Paths, is_pattern, matching
from engine.recipes.recipe import ADAPTERS, PATHS, placed
from engine.recipes.shapes import Shapes
from engine.recipes.templates import check_names, names_in, render, spell

TEXTS = ("prompt", "negative", "models", "motion", "bounds", *PATHS)
"""Fields in which names in braces are replaced."""


@dataclass(frozen=True)
class Entry:
    """What is the same in all cells of one [[asset]] and file.

    fields : recipe < asset < --set, the matrix not yet in it; stems : {"stem": file's name} where a pattern named it
    fixed : axis -> value, for the axes that the asset or --set fixes
    """

    where: str
    id: str
    seed_id: str
    fields: dict[str, Any]
    variables: dict[str, Any]
    fixed: dict[str, Any]
    layer: Layer | None


class Expansion:
    """One file's expansion; see ``expand``."""

    def __init__(self, values: dict[str, Any], settled: dict[str, Any], matrix: Matrix, name: str, file: str,
                 where: str, folder: Path, limit: int) -> None:
        self.values, self.settled, self.matrix, self.name = values, settled, matrix, name
        self.where, self.folder, self.limit = where, folder, limit
        self.file = file
        self.said, self.set = told_fields(values), told_fields(settled)
        self.template: str | None = settled.get("id") or values.get("id")
        self.export: str = {**values.get("export", {}), **settled.get("export", {})}.get("name", "{id}")
        self.variables = {**values.get("vars", {})}
        self.base = Layer("recipe", self.file, {**self.said, "vars": self.variables})
        self.top = Layer("--set", "", {**self.set, "vars": settled.get("vars", {})})
        self.shapes, self.paths = Shapes(), Paths()
        self._plain = merged(self.said, self.set)
        self._cells: dict[str, tuple[Cell, ...]] = {}
        self._stages_kept: dict[int, tuple[Any, dict[str, Any]]] = {}

    # -- entries ------------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        tables = self.values.get("asset") or []
        found: list[Entry] = []
        for number, table in enumerate(tables, start=1):
            found += self._entries(table, f"{self.where}[[asset]] {number}", f"{self.file}: [[asset]] {number}",
                                   self.limit - len(found))
        return found if tables else self._entries(None, self.where.removesuffix(": "), "", self.limit)

    def _entries(self, table: dict[str, Any] | None, where: str, place: str, limit: int) -> list[Entry]:
        """One entry, or one for each file that its pattern names."""
        own = told_fields(table or {})
        variables = {**self.variables, **(table or {}).get("vars", {}), **self.settled.get("vars", {})}
        where = f"{where} ({table['id'][:40]}): " if table and "id" in table else f"{where}: "
        for name in variables:
            if name in (*RESERVED, *FIELDS, "id"):
                raise BadInput(f"{where}vars.{name}: the name is taken", "Give the variable another name")
        fields = merged(merged(self.said, own), self.set) if own else self._plain
        fixed = self._fixed(own, (table or {}).get("vars", {}))
        variables = {**{axis: value for axis, value in fixed.items() if "." not in axis}, **variables}
        layer = Layer("asset", place, {**own, "vars": (table or {}).get("vars", {})}) if table is not None else None
        patterns = [name for name in PATHS if fields.get(name)
                    and (name not in self.matrix.axes or name in fixed)
                    and is_pattern(fields[name], self.folder)]
        if not patterns:
            id = self._id(table, fields, variables, where)
            seed_id = "" if table is None or ("seed" in own and "seed" not in self.set) else id
            return [Entry(where, id, seed_id, fields, variables, fixed, layer)]
        if len(patterns) > 1:
            raise BadInput(f"{where}{' and '.join(patterns)} are patterns both", "One of them may name many files")
        field, = patterns
        if axes := [name for name in names_in(fields[field]) if name in self.matrix.axes and name not in variables]:
            raise BadInput(f"{where}{field}: a pattern cannot follow the axis {{{axes[0]}}}",
                           "Write an [[asset]] for each folder")
        check_names(fields[field], {*variables, "name"}, f"{where}{field}")
        pattern = render(fields[field], {**variables, "name": self.name})
        entries = []
        for path in matching(field, pattern, self.folder, limit, where):
            stem = Path(path).stem if field != "folder" else Path(path).name
            told = {**variables, "stem": stem}
            id = self._id(table, {}, told, f"{where}{path}: ")
            # A file's name is no template: its braces are doubled, as a text's own would be.
            whole = str(self.folder / path).replace("{", "{{").replace("}", "}}")
            entries.append(Entry(f"{where}{path}: ", id, id, {**fields, field: whole}, told, fixed, layer))
        return entries

    def _fixed(self, own: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Axes that the asset's own words or --set decide: they do not vary for it."""
        fixed = {}
        for axis in self.matrix.axes:
            for fields, names in ((own, variables), (self.set, self.settled.get("vars", {}))):
                if axis in fields or axis in names:
                    fixed[axis] = fields.get(axis, names.get(axis))
                elif axis.startswith("stages."):
                    _, label, name = axis.split(".", 2)
                    if name in fields.get("stages", {}).get(label, {}):
                        fixed[axis] = fields["stages"][label][name]
        return fixed

    def _id(self, table: dict[str, Any] | None, fields: dict[str, Any], variables: dict[str, Any], where: str) -> str:
        """The entry's own id, before the matrix."""
        if table is not None and "id" in table:
            for name in names_in(table["id"]):
                if name in self.matrix.axes and name not in variables:
                    raise BadInput(f"{where}id: {{{name}}} is an axis", "Axes belong into the id at the top")
            check_names(table["id"], variables, f"{where}id")
            return check_id(render(table["id"], variables, in_id), where)
        if "stem" in variables:
            return id_of([variables["stem"]])
        if table is None:
            return id_of([self.name])
        plain = {**dict.fromkeys(self.matrix.axes, ""), "name": "", "asset": "", **variables}
        words = [fields.get("prompt", ""), *(Path(fields.get(name, "")).stem for name in PATHS)]
        return id_of(render(text, {**dict.fromkeys(names_in(text), ""), **plain}) for text in words)

    # -- cells --------------------------------------------------------------------------------------------------------

    def assets(self) -> list[BatchAsset]:
        entries = self.entries()
        total = sum(self.matrix.count(entry.fixed) for entry in entries)
        if total > self.limit:  # before anything is expanded
            raise BadInput(f"{self.where}the matrix asks for {total} assets, the limit is {self.limit}",
                           "Take values out of its axes; exclude does not count here")
        found = [self._asset(entry, cell) for entry in entries for cell in self._cells_of(entry)]
        if not found:
            raise BadInput(f"{self.where}matrix.exclude leaves nothing", "Leave out fewer combinations")
        self._unlike(found)
        return found

    def _cells_of(self, entry: Entry) -> tuple[Cell, ...]:
        key = repr(sorted(entry.fixed.items())) if entry.fixed else ""
        if key not in self._cells:
            self._cells[key] = tuple(self.matrix.cells(entry.fixed))
        return self._cells[key]

    def _asset(self, entry: Entry, cell: Cell) -> BatchAsset:
        variables = {**entry.variables, **cell.words, "name": self.name, "asset": Whole(entry.id)}
        id = self._whole_id(entry, cell, variables)
        fields = {**entry.fields, **cell.fields}
        for name in TEXTS:
            if text := fields.get(name):
                fields[name] = self._filled(text, variables, entry, cell, name)
                if name in PATHS:
                    fields[name] = self.paths.placed(name, fields[name], self.folder, entry.where)
        if cell.stages or "stages" in fields:
            fields["stages"] = self._stages(fields.get("stages", {}), variables, entry, cell)
        seed_id = entry.seed_id + cell.reseed
        fields["name"], fields["seed_id"] = id, seed_id
        recipe = self.shapes.recipe(fields, entry.where)
        return BatchAsset(id, recipe, seed_id, cell.values, variables, self._export_name(id, entry, variables),
                          self._layers(entry, cell))

    def _whole_id(self, entry: Entry, cell: Cell, variables: dict[str, Any]) -> str:
        if self.template is None:
            return check_id("-".join([entry.id, *cell.slugs]), entry.where) if cell.slugs else entry.id
        check_names(self.template, variables, f"{self.where}id")
        return check_id(render(self.template, variables, in_id), entry.where)

    def _export_name(self, id: str, entry: Entry, variables: dict[str, Any]) -> str:
        """[export].name with all but {version} filled in."""
        if self.export == "{id}":
            return id
        known = {**variables, "id": Whole(id), "version": Whole("{version}")}
        check_names(self.export, known, f"{self.where}export.name")
        name = render(self.export, known, in_id)
        check_id(name.replace("{version}", "1"), f"{entry.where}export.name: ")
        return name

    def _layers(self, entry: Entry, cell: Cell) -> tuple[Layer, ...]:
        """What the sources say of this asset, in rising order."""
        said = [self.base]
        if cell.values:
            said.append(Layer("matrix", f"{self.file}: [matrix]", {
                **cell.fields, "stages": cell.stages,
                "vars": {axis: value for axis, value in cell.words.items() if axis not in cell.fields}}))
        return (*said, *((entry.layer,) if entry.layer else ()), self.top)

    def _stages(self, stages: dict[str, Any], variables: dict[str, Any], entry: Entry, cell: Cell) -> dict[str, Any]:
        """The stages' tables with the cell's own parameters in them, names in braces replaced, adapters' files found.

        Where nothing in them follows the asset, the very same object is given each time, which ``Shapes`` likes.
        """
        kept = None if cell.stages else self._stages_kept.get(id(stages))
        if kept is not None:
            return kept[1]
        follows = bool(cell.stages)
        filled: dict[str, Any] = {}
        for label, told in merged(stages, cell.stages).items():
            filled[label] = {}
            for name, value in told.items():
                texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
                if any("{" in text or "}" in text for text in texts):
                    follows, path = True, f"stages.{label}.{name}"
                    value = ([self._filled(one, variables, entry, cell, path) if isinstance(one, str) else one
                              for one in value] if isinstance(value, list)
                             else self._filled(value, variables, entry, cell, path))
                filled[label][name] = placed(value, self.folder) if name in ADAPTERS else value
        if not follows:
            self._stages_kept[id(stages)] = (stages, filled)  # holds it, so that its id stays its own
        return filled

    def _filled(self, text: str, variables: dict[str, Any], entry: Entry, cell: Cell, path: str) -> str:
        """A text with its names replaced. BadInput, for one that is not known, says in which table it stands."""
        try:
            return render(text, variables)
        except KeyError:
            layers = [layer for layer in self._layers(entry, cell) if path in flat(layer.values)]
            _, _, table = layers[-1].where.partition(": ")
            place = "--set " if layers[-1].source == "--set" else self.where + (f"{table}: " if table else "")
            check_names(text, variables, f"{place}{path}")
            raise

    def _unlike(self, assets: list[BatchAsset]) -> None:
        """BadInput where two ids, or two names of files, are one on some system."""
        fixes = {"id": "Give each [[asset]] its own id, or put what differs into the id at the top of the file",
                 "export_name": "Put {id} into export.name"}
        for what, fix in fixes.items():
            seen: dict[str, str] = {}
            for asset in assets:
                name: str = getattr(asset, what)
                plain = twin(name)
                if plain in seen:
                    alike = "" if seen[plain] == name else f" and {seen[plain]!r}, which some systems take for one name"
                    raise BadInput(f"{self.where}two assets have the {what} {name!r}{alike}", fix)
                seen[plain] = name


class Whole(str):
    """A text that goes into an id or a file's name as it is."""


def in_id(value: Any) -> str:
    """A variable's value as a part of an id: of a text its letters and digits, of a number its digits."""
    if isinstance(value, Whole):
        return value
    return slug(value) if isinstance(value, str) else spell(value)


def expand(values: dict[str, Any], settled: dict[str, Any], parsed: RecipeFile, *, name: str, file: str, where: str,
           folder: Path, limit: int) -> tuple[tuple[BatchAsset, ...], dict[str, tuple[Any, ...]]]:
    """The assets of a file in its order, the matrix' last axis fastest, and the axes.

    values, settled : the file and the --set words as they are written, checked already; parsed : the file's tables with
    --set in them; file : its name, in origins; where : begins messages; folder : the file's, whole path.
    """
    matrix = read_matrix(parsed.matrix, where)
    return tuple(Expansion(values, settled, matrix, name, file, where, folder, limit).assets()), matrix.axes
