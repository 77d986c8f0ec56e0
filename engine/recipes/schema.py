"""The recipe format as a JSON Schema, made from the models that read it, so that editors complete and check recipes.

What it cannot say stays with the loader and the plan: what belongs to which pipeline, names in braces, ids, files, and
names of ``[gates.*]``. What it refuses, they refuse; ``tests/test_recipes_schema.py`` holds the two to that.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

from engine.recipes.document import AXIS_FIELDS, FIELDS, NAME, RESERVED, RecipeFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
LINE = "#:schema ./recipe.schema.json"
"""First line of each example: editors (Even Better TOML, Taplo) find the schema by it."""
_LETTERS = r"^[^\x00-\x1f!-,/:-@\[-\^`{-\x7f]*$"
"""Recipe.name's pattern as every dialect of expressions reads it: no ASCII beside letters, digits, space and . _ -"""


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe file, with the parameters of every stage. Imports the stages: seconds, and torch."""
    from pydantic.json_schema import models_json_schema
    models = {spec.name: spec.params for spec in _stages()}
    places, defs = models_json_schema([(model, "validation") for model in models.values()],
                                      ref_template="#/$defs/{model}")
    schema = RecipeFile.model_json_schema(ref_template="#/$defs/{model}")
    shared = {**defs.get("$defs", {}), **schema.get("$defs", {})}
    parameters = {name: _optional(shared[places[model, "validation"]["$ref"].rpartition("/")[2]], name)
                  for name, model in models.items()}
    of_models = {places[model, "validation"]["$ref"].rpartition("/")[2] for model in models.values()}
    whole = {"$schema": DIALECT, **schema, "$defs": {name: table for name, table in shared.items()
                                                     if name not in of_models}}
    _name_axes(whole["$defs"])
    whole["$defs"]["Stages"] = {"type": "object", "properties": parameters, "description": "parameters by label",
                                "additionalProperties": {"type": "object"}}
    for table in (whole, whole["$defs"]["AssetTable"]):
        table["properties"]["stages"] = {"$ref": "#/$defs/Stages"}
        table["properties"]["vars"] = {"$ref": "#/$defs/Variables"}
    whole["properties"]["name"]["pattern"] = _LETTERS
    found: dict[str, Any] = _without_null(whole)
    return found


def schema_text() -> str:
    """The schema as the file that is kept beside the examples."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _stages() -> list[Any]:
    """The spec of every stage, by name."""
    import engine.stages
    found = {}
    for module in pkgutil.iter_modules(engine.stages.__path__):
        loaded = importlib.import_module(f"engine.stages.{module.name}")
        for value in vars(loaded).values():
            spec = getattr(value, "spec", None)
            if spec is not None and callable(value):
                found[spec.name] = spec
    return [found[name] for name in sorted(found)]


def _optional(table: dict[str, Any], name: str) -> dict[str, Any]:
    """A stage's parameters as a recipe gives them: any of them, each also as a text with names in braces."""
    braces = {"type": "string", "pattern": r"\{[A-Za-z_][A-Za-z0-9_]*\}"}
    told = {key: value for key, value in table.items() if key != "required"} | {"description": f"parameters of {name}"}
    told["properties"] = {}
    for key, value in table.get("properties", {}).items():
        said = {word: value[word] for word in ("description", "default") if word in value}
        kind = {word: part for word, part in value.items() if word not in (*said, "title")}
        told["properties"][key] = {"anyOf": [kind, braces], **said}
    return told


def _name_axes(defs: dict[str, Any]) -> None:
    """Axes that set fields take lists of what the field takes; some names are no axes, and no variables."""
    fields, matrix = defs["AssetTable"]["properties"], defs["MatrixTable"]
    for name in AXIS_FIELDS:
        kind = {word: part for word, part in fields[name].items() if word not in ("description", "default")}
        matrix["properties"][name] = {"type": "array", "minItems": 1, "uniqueItems": True, "items": kind,
                                      "description": f"an axis that sets {name}"}
    matrix["additionalProperties"]["uniqueItems"] = True
    matrix["properties"]["stages"]["additionalProperties"]["additionalProperties"]["uniqueItems"] = True
    taken = [*RESERVED, "id"]
    no_axis = [*taken, *(name for name in FIELDS if name not in (*AXIS_FIELDS, "stages"))]
    matrix["propertyNames"] = {"pattern": NAME, "not": {"enum": no_axis}}
    no_variable = {"pattern": NAME, "not": {"enum": [*taken, *FIELDS]}}
    defs["Variables"] = {**fields["vars"], "propertyNames": no_variable,
                         "additionalProperties": {"type": ["string", "boolean", "integer", "number"]}}
    defs["Variables"].pop("patternProperties", None)


def _without_null(part: Any) -> Any:
    """TOML has no null: what may be one may be left out. Titles that only repeat a name go too."""
    if isinstance(part, list):
        return [_without_null(one) for one in part]
    if not isinstance(part, dict):
        return part
    part = {key: _without_null(value) for key, value in part.items()
            if not (key == "default" and value is None) and not (key == "title" and isinstance(value, str))}
    for word in ("anyOf", "oneOf"):
        if word in part:
            part[word] = [one for one in part[word] if one != {"type": "null"}]
            if len(part[word]) == 1:
                only, = part.pop(word)
                part = {**only, **part}
    return part
