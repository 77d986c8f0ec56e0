"""The recipe file as it is written: its keys and their types, and how it is read. Nothing is expanded here.

The fields of an asset are those of ``Recipe``, which stands at one place; at the top of the file they hold for every
asset, in ``[[asset]]`` for one. The JSON Schema is made from these very models.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo

from engine.errors import BadInput
from engine.recipes.recipe import FORMAT, PIPELINES, TABLES, Recipe
from engine.runs.words import nearest

MAX_FILE_BYTES = 64 * 2**20
MAX_DEPTH = 40
RESERVED = ("name", "asset", "stem", "version")
"""Names in braces that the format itself fills; see docs/recipes.md."""
Scalar = str | bool | int | float
NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
Word = Annotated[str, Field(pattern=NAME)]
_OF_THE_BATCH = ("format", "name", "seed_id")
_DEFAULTS = {name: field for name, field in Recipe.model_fields.items() if name not in _OF_THE_BATCH}
FIELDS: tuple[str, ...] = tuple(_DEFAULTS)
"""What an asset may be told."""
AXIS_FIELDS = tuple(name for name in FIELDS if name not in (*TABLES, "formats"))
"""What a matrix may set beside variables and stages' parameters."""


class Strict(BaseModel):
    """Unknown keys are refused, numbers are finite, and a text is no number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True, frozen=True)


class BudgetTable(Strict):
    """[budget]: what a run may use. It may stop a run; it never changes a result."""

    seconds: float | None = Field(None, gt=0, description="of wall time for the whole run, more than 0")
    asset_seconds: float | None = Field(None, gt=0, description="of wall time for one asset, more than 0")
    memory_gb: float | None = Field(None, gt=0, description="of main memory, all workers together; 1 GB is 10^9 bytes")
    disk_gb: float | None = Field(None, gt=0, description="that the run may add to the store and its folder; "
                                                          "1 GB is 10^9 bytes")
    max_failures: int | None = Field(None, ge=1, description="stop after so many assets failed, 1 or more")


class ExportTable(Strict):
    """[export]: what a run's folder holds beside the assets' own."""

    name: str = Field("{id}", min_length=1, max_length=200,
                      description="template of the names of finished files; {id}, {version}, {asset}, {name}, {stem}, "
                                  "variables and axes")
    overwrite: bool = Field(False, description="replace another run's files of the same names; without: a new version")
    gallery: bool = Field(True, description="write gallery/index.html")
    sheets: bool = Field(True, description="write the contact sheets")
    profiles: list[Literal["unity", "unreal", "godot", "web", "blender", "print"]] = Field(
        default_factory=list, description="write every finished asset for these engines too, as maquette export does, "
                                          "into exports/PROFILE/ID")


def _told(field: FieldInfo, name: str) -> tuple[Any, Any]:
    """A field of Recipe that need not be told. Lists for tuples: TOML has no others."""
    kind: Any = list[str] if name == "formats" else field.annotation
    for limit in field.metadata:
        kind = Annotated[kind, limit]
    return Optional[kind], Field(None, description=field.description)  # noqa: UP045  (kind is a value)


_Fields: Any = create_model("_Fields", __base__=Strict, **{name: _told(field, name)  # type: ignore[call-overload]
                                                           for name, field in _DEFAULTS.items()})


class AssetTable(_Fields):  # type: ignore[misc]
    """[[asset]]: one asset, or one for each file that ``image``, ``mesh``, ``folder`` or ``poses`` names by a pattern
    (``photos/*.png``). What it does not say is as the top of the file says."""

    id: str | None = Field(None, min_length=1, max_length=200, description="unique; the name of its folder; may hold "
                                                                         "{stem} and variables")
    vars: dict[Word, Scalar] = Field(default_factory=dict, description="variables of this asset: name = value")


class MatrixTable(BaseModel):
    """[matrix]: each axis is a list of values; every combination is an asset.

    An axis named like a field (motion, quality, seed, ...) sets that field, any other is a variable. ``stages`` holds
    axes of stages' parameters.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True, frozen=True)
    __pydantic_extra__: dict[Word, Annotated[list[Scalar], Field(min_length=1)]] = Field(init=False)

    reseed: list[str] = Field(default_factory=list, description="axes that enter the seed; without: a variant keeps "
                                                                "its shape")
    exclude: list[dict[str, Any]] = Field(default_factory=list, description="combinations that are left out: "
                                                                            "{ axis = value, ... }")
    stages: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = Field(
        default_factory=dict, description="axes of stages' parameters: stages.LABEL.parameter = [...]")

    @model_validator(mode="after")
    def _axes_have_names(self) -> MatrixTable:
        for axis in self.__pydantic_extra__ or {}:
            if not re.fullmatch(NAME[1:-1], axis):
                raise ValueError(f"{axis!r} is no name of an axis: letters, digits and _, at most 64; "
                                 f"stages.LABEL.parameter stands without quotes")
        return self


class RecipeFile(_Fields):  # type: ignore[misc]
    """A Maquette recipe: one asset or many."""

    format: Literal[1] = Field(description="1")
    name: str | None = Field(None, max_length=80, pattern=r"^[\w\-. ]*$",
                             description="letters, digits, spaces and . _ -, at most 80")
    seed_id: str | None = Field(None, description=Recipe.model_fields["seed_id"].description)
    id: str | None = Field(None, min_length=1, max_length=200, description="template of the assets' ids; {asset}, "
                                                                         "{stem}, {name}, variables and axes")
    vars: dict[Word, Scalar] = Field(default_factory=dict, description="variables for {name} in texts")
    matrix: MatrixTable | None = Field(None, description="axes; every combination is an asset")
    budget: BudgetTable | None = Field(None, description="what a run may use")
    export: ExportTable | None = Field(None, description="what a run's folder holds beside the assets' own")
    asset: list[AssetTable] = Field(default_factory=list, description="the assets, one by one")


BATCH_KEYS = ("id", "vars", "matrix", "budget", "export", "asset")
"""What only a recipe for many assets has."""


def read_document(path: Path) -> dict[str, Any]:
    """The file's TOML, with its format checked. BadInput names the file and, where there is one, the dotted path.

    A byte order mark and Windows' line ends are taken; other encodings than UTF-8, numbers that are not finite, dates
    and what nests deeper than 40 are refused.
    """
    try:
        if path.is_dir():
            raise BadInput(f"{path} is a folder, no recipe", "Give the path of a recipe.toml")
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} is no file", "Give the path of a recipe.toml")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size:,} bytes; a recipe has at most {MAX_FILE_BYTES:,}",
                           "Write a [matrix] for what repeats")
        values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise BadInput(f"there is no recipe {path}", "Give the path of a recipe.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the recipe {path}: {error}", "Give a TOML file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}", "Mend that line") from error
    except RecursionError:
        raise BadInput(f"{path} is not a recipe: it nests too deep", f"At most {MAX_DEPTH} levels") from None
    except ValueError as error:  # a number of thousands of digits, a path with NUL
        raise BadInput(f"cannot read the recipe {str(path)!r}: {' '.join(str(error).split())[:200]}",
                       "Give a TOML file in UTF-8") from error
    if "format" not in values:
        raise BadInput(f"{path} does not say its format", "Begin it with: format = 1")
    if values["format"] != FORMAT or isinstance(values["format"], bool | float):
        raise BadInput(f"{path} has format {values['format']!r}, this Maquette reads {FORMAT}", "Upgrade Maquette")
    check_plain(values, f"{path}: ")
    return values


def check_plain(values: Any, where: str, path: str = "", depth: int = 0) -> None:
    """BadInput for what a TOML may hold and a recipe not: nan, inf, dates, a nest without end."""
    if depth > MAX_DEPTH:
        raise BadInput(f"{where}{path[:60]} nests too deep", f"At most {MAX_DEPTH} levels")
    if isinstance(values, dict):
        for name, value in values.items():
            check_plain(value, where, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(values, list):
        for number, value in enumerate(values):
            if not isinstance(value, str):
                check_plain(value, where, f"{path}[{number}]", depth + 1)
    elif isinstance(values, float) and not math.isfinite(values):
        raise BadInput(f"{where}{path} is {values}", "Give a finite number")
    elif isinstance(values, datetime.date | datetime.time):
        raise BadInput(f"{where}{path} is a date or a time", "Put it in quotes")


def parse_document(values: dict[str, Any], where: str) -> RecipeFile:
    """The file's values as the models have them. BadInput names the dotted path and the nearest known name.

    where : begins the message, for instance "forest.toml: "
    """
    try:
        return RecipeFile.model_validate(values)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
        raise explained(first, values, where) from None


def explained(error: Any, values: dict[str, Any], where: str) -> BadInput:
    """A pydantic error of a recipe file as one line: dotted path, what is wrong, what may stand there."""
    parts = tuple(part for part in error["loc"]
                  if part not in ("[key]", "str", "bool", "int", "float"))  # of a choice of types, of a key's own
    path, model = _place(parts, values)
    last = str(parts[-1]) if parts else ""
    given = error["input"]
    if error["type"] == "extra_forbidden":
        fix = nearest(last, model.model_fields)
        axes = values.get("matrix")
        if model is AssetTable and (last in values.get("vars", {}) or (isinstance(axes, dict) and last in axes)):
            fix = f"Write it as vars.{last}"
        return BadInput(f"{where}unknown key '{path}'", fix)
    if last == "pipeline" and error["type"] == "literal_error":
        return BadInput(f"{where}there is no pipeline {given!r}",
                        f"{nearest(str(given), PIPELINES)} Known: {', '.join(PIPELINES)}")
    if error["type"] == "value_error":
        return BadInput(f"{where}{path}: {error['msg'].removeprefix('Value error, ')}")
    field = model.model_fields.get(last)
    shown = repr(given)
    told = "" if error["type"] == "missing" else f" (got {shown if len(shown) <= 60 else shown[:57] + '...'})"
    return BadInput(f"{where}{path}: {error['msg']}{told}",
                    f"{last}: {field.description}" if field is not None and field.description else "")


def _place(parts: tuple[Any, ...], values: dict[str, Any]) -> tuple[str, type[BaseModel]]:
    """(dotted path as a user counts: asset 3 (mug).seed, the model that stands there)."""
    model: type[BaseModel] = RecipeFile
    if parts[:1] == ("asset",) and len(parts) > 1 and isinstance(parts[1], int):
        entry, model = values["asset"][parts[1]], AssetTable
        id = entry.get("id") if isinstance(entry, dict) else None
        head = f"asset {parts[1] + 1}" + (f" ({id[:40]})" if isinstance(id, str) else "")
        return ".".join([head, *_dotted(parts[2:])]), model
    if len(parts) > 1:
        tables: dict[str, type[BaseModel]] = {"budget": BudgetTable, "export": ExportTable, "matrix": MatrixTable}
        model = tables.get(str(parts[0]), model)
    return ".".join(_dotted(parts)), model


def _dotted(parts: tuple[Any, ...]) -> list[str]:
    """Names joined by dots, places in a list counted from 1 in brackets."""
    told: list[str] = []
    for part in parts:
        if isinstance(part, int) and told:
            told[-1] += f"[{part + 1}]"
        else:
            told.append(str(part))
    return told
