"""The verbs that read recipes and run nothing: show and schema."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.recipes.batch import Batch, BatchAsset
    from engine.recipes.origins import Origin

SHOWN = 20
"""Assets listed without --all."""


def show(recipe: Annotated[Path, typer.Argument(help="A recipe, for one asset or many.", show_default=False)],
         asset: Annotated[str, typer.Argument(help="One asset's id; without: what all have in common.")] = "",
         settings: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE",
                                                            help="Change a value; may be given often.")] = None,
         stages: Annotated[bool, typer.Option("--stages", help="Of one asset: every parameter of every stage too.")
                           ] = False,
         every: Annotated[bool, typer.Option("--all", help="List all assets and the engine's empty defaults.")] = False,
         as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show a recipe's values, each with its origin: engine default < recipe < matrix < asset < --set."""
    from engine.errors import BadInput
    from engine.recipes.batch import load_batch
    batch = load_batch(recipe, settings or [])
    chosen = batch.asset(asset) if asset else batch.assets[0] if len(batch.assets) == 1 else None
    if chosen is None and stages:
        raise BadInput(f"--stages needs the id of one asset; {recipe} has {len(batch.assets)}",
                       f"maquette show {recipe} {batch.assets[0].id} --stages")
    if chosen is None:
        values = common(batch)
    else:
        values = {**chosen.origins, **(planned_parameters(chosen) if stages else {})}
    if as_json:
        typer.echo(json.dumps({**_about(batch), "asset": chosen.id if chosen else None, "values": {
            path: {"value": origin.value, "source": origin.source, "where": origin.where}
            for path, origin in values.items()}, **({} if chosen else {"assets": [one.id for one in batch.assets]})},
            indent=1, ensure_ascii=False))
        return
    for line in _lines(batch, chosen, values, every):
        typer.echo(line)


def schema(out: Annotated[Path | None, typer.Option("--out", help="The file to write; without: the terminal.",
                                                    show_default=False)] = None) -> None:
    """Print the recipe format's JSON Schema, for editors: a recipe names it in its first line,
    #:schema ./recipe.schema.json"""
    from engine.recipes.schema import schema_text
    if out is None:
        typer.echo(schema_text(), nl=False)
        return
    from engine.runs import files
    files.ensure_writable(out.parent, "the schema", "--out")
    with files.one_line_errors("the schema", out, "--out"):
        files.write_file(out, schema_text())
    typer.echo(str(out))


def common(batch: Batch) -> dict[str, Origin]:
    """Dotted path -> the value that all assets share; of one that differs, how many there are and who says them."""
    from engine.recipes.origins import SOURCES, Origin
    told: dict[str, Counter[tuple[str, str, str]]] = {}
    for asset in batch.assets:
        for path, origin in asset.origins.items():
            told.setdefault(path, Counter())[json.dumps(origin.value), origin.source, origin.where] += 1
    found: dict[str, Origin] = {}
    for path, ways in told.items():
        values, sources = {way[0] for way in ways}, [name for name in SOURCES if any(way[1] == name for way in ways)]
        places = list(dict.fromkeys(way[2] for way in ways))
        where = places[0] if len(places) == 1 else f"{len(places)} places"
        missing = len(batch.assets) - ways.total()
        if len(values) == 1 and not missing:
            found[path] = Origin(json.loads(next(iter(values))), sources[-1], where)
        else:
            among = f", in {ways.total()} of {len(batch.assets)} assets" if missing else ""
            found[path] = Origin(Differs(f"{len(values)} value{'s' * (len(values) > 1)}{among}"), sources[-1], where)
    return found


class Differs(str):
    """Said in the place of a value that is not the same in all assets."""


def planned_parameters(asset: BatchAsset) -> dict[str, Origin]:
    """Every parameter of every stage that the asset's plan has and its recipe does not tell. Nothing runs."""
    from engine.api import plan_asset
    from engine.clip_api import plan_clip
    from engine.recipes.origins import Origin
    from engine.recipes.recipe import CLIPS
    from engine.runs.keys import params_json
    planned: Any = plan_clip if asset.recipe.pipeline in CLIPS else plan_asset
    found = {}
    for label, node in planned(asset.recipe).run.planned.items():
        for name, value in params_json(node.params).items():
            if name not in asset.recipe.stages.get(label, {}):
                found[f"stages.{label}.{name}"] = Origin(value, "engine default", f"{asset.recipe.pipeline}, "
                                                                                  f"{asset.recipe.quality}")
    return found


def _about(batch: Batch) -> dict[str, Any]:
    return {"recipe": str(batch.path), "name": batch.name, "digest": batch.digest, "count": len(batch.assets),
            "axes": {axis: list(values) for axis, values in batch.axes.items()},
            "budget": vars(batch.budget), "export": vars(batch.export)}


def _lines(batch: Batch, asset: BatchAsset | None, values: dict[str, Origin], every: bool) -> list[str]:
    count = len(batch.assets)
    lines = [f"{batch.name}: {count} asset{'s' * (count != 1)}, digest {batch.digest[:12]}"]
    lines += [f"axis {axis}: {', '.join(_spelled(value) for value in named)}" for axis, named in batch.axes.items()]
    limits = {name: value for name, value in vars(batch.budget).items() if value is not None}
    lines += [f"budget: {', '.join(f'{name} {value}' for name, value in limits.items())}"] if limits else []
    if asset is not None:
        lines += [f"asset {asset.id}" + (f", drawn as {asset.seed_id}" if asset.seed_id else "")]
    rows = [(path, _spelled(origin.value), f"{origin.source}{': ' if origin.where else ''}{origin.where}")
            for path, origin in values.items() if every or origin.source != "engine default"
            or origin.value not in (None, "", {}, False)]
    wide, wider = (max((len(row[place]) for row in rows), default=0) for place in (0, 1))
    lines += [f"  {path:{wide}}  {value:{min(wider, 48)}}  {source}" for path, value, source in rows]
    if asset is None:
        lines += [f"  {one.id}  {_spelled(one.recipe.prompt)}" for one in batch.assets[:None if every else SHOWN]]
        if not every and count > SHOWN:
            lines += [f"  ... and {count - SHOWN} more (--all)"]
        lines += [f"maquette show {batch.path} ID shows one of them"]
    return lines


def _spelled(value: Any) -> str:
    """One line, whatever a prompt holds."""
    return value if isinstance(value, Differs) else json.dumps(value, ensure_ascii=False)
