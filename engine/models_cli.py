"""``maquette models``: what there is, what is here, under which terms; fetched, checked, added, looked into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.models.catalogue import Model

models = typer.Typer(no_args_is_help=True, help="The models: list, fetch, check, add your own, see what a file is.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON (schema 1) instead of a table.")]
Commercial = Annotated[bool, typer.Option("--commercial-only", help="Only what anybody may use commercially.")]
Role = Annotated[str | None, typer.Option(help="What the model is used for: text_to_image, control.edges, ...",
                                          metavar="ROLE")]


@models.command("list")
def list_models(role: Role = None, commercial_only: Commercial = False, as_json: Json = False) -> None:
    """Every model: licence, memory, whether it fits this machine, whether its weights are here; then the sets."""
    from engine.models import catalogue
    from engine.models.licences import terms
    _known_role(role)
    every = [model for model in catalogue.models().values()
             if (role is None or model.role == role or model.role.startswith(f"{role}."))
             and (not commercial_only or terms(model).commercial == "yes")]
    rows = [_row(model) for model in every]
    if as_json:
        typer.echo(json.dumps({"schema": 1, "models": rows, "sets": _set_rows()}, indent=1))
        return
    from engine.show_models import show_models, show_sets
    show_models(rows)
    if role is None:
        show_sets(_set_rows())


@models.command()
def pull(names: Annotated[list[str], typer.Argument(help="Model sets (sd15, sdxl, ...) or models.", metavar="NAME...",
                                                    show_default=False)],
         role: Annotated[list[str] | None, typer.Option(help="Of a set, the model for this role; may be given often. "
                                                             "Without: what making a mesh asks for.",
                                                        metavar="ROLE")] = None,
         everything: Annotated[bool, typer.Option("--all", help="Of a set, the models of all its roles.")] = False,
         full: Annotated[bool, typer.Option("--full", help="Full precision, also where there is half.")] = False,
         update: Annotated[bool, typer.Option("--update", help="Ask the hub also for what is here.")] = False,
         commercial_only: Commercial = False) -> None:
    """Fetch weights. Stopped or cut off, the same command goes on; nothing counts as here before it is whole."""
    from engine.models import download
    from engine.show_models import pulling, show_pulled
    ids = _ids(names, role or [], everything)
    settings = download.Settings("" if full else None, update, commercial_only)
    with pulling() as progress:
        done = download.pull(ids, settings, progress)
    show_pulled(done)


@models.command()
def verify(names: Annotated[list[str] | None, typer.Argument(help="Model sets or models; without: all that is here.",
                                                             metavar="NAME...", show_default=False)] = None,
           as_json: Json = False) -> None:
    """Read every byte of the weights that are here and hold them against the hashes they should have."""
    from engine.models import catalogue, local
    from engine.models.verify import check
    if names:
        wanted = catalogue.with_needs(_ids(names, [], True))
    else:
        wanted = [model for model in catalogue.models().values() if model.builtin or local.find_alone(model)]
    checks = [line for model in wanted for line in check(model)]
    if as_json:
        typer.echo(json.dumps({"schema": 1, "files": [vars(line) for line in checks]}, indent=1))
    else:
        from engine.show_models import show_checks
        show_checks(checks)
    if any(line.state in ("changed", "missing") for line in checks):
        raise typer.Exit(1)


@models.command()
def add(path: Annotated[Path, typer.Argument(help="A file of weights, or a folder of one model.", show_default=False)],
        role: Annotated[str, typer.Option(help="What it is used for: text_to_image, control.edges, lora, ...",
                                          metavar="ROLE", show_default=False)],
        id: Annotated[str, typer.Option("--id", help="Its name here; without: local/ and the file's.")] = "",
        family: Annotated[str, typer.Option(help="sd15, sdxl, ...; without: what the file shows.")] = "",
        licence: Annotated[str, typer.Option(help="Its licence, for the papers.")] = "",
        commercial: Annotated[str, typer.Option(help="yes, no, conditions or unknown.")] = "unknown",
        copy: Annotated[bool, typer.Option("--copy", help="Copy the files into the models folder.")] = False) -> None:
    """Take a file of your own into the catalogue. Its headers are read; nothing in it is run."""
    from engine.models import local
    _known_role(role)
    made = local.add(path, role, id=id, family=family, licence=licence, commercial=commercial, copy=copy)
    typer.echo(f"{made.id}  {made.role}, {made.family}, {made.path}  use it: --model {made.role}={made.id}")


@models.command()
def remove(id: Annotated[str, typer.Argument(help="A model.", show_default=False)]) -> None:
    """Forget a model of your own, or delete what pull wrote. Your own files are never deleted."""
    from engine.models import local
    what, size = local.remove(id)
    typer.echo(what + (f" ({size / 1e9:.2f} GB freed)" if size else ""))


@models.command()
def inspect(file: Annotated[Path, typer.Argument(help="A file of weights, an index.json, or a folder.",
                                                 show_default=False)],
            as_json: Json = False) -> None:
    """Say what a file is: family, role, layout, precision, what is missing and what nobody knows. Headers only."""
    from engine.models.inspection import examine
    seen = examine(file)
    if as_json:
        typer.echo(json.dumps(seen.to_json(), indent=1))
        return
    from engine.show_models import show_inspection
    show_inspection(seen)


def _known_role(role: str | None) -> None:
    from engine.models.catalogue import ROLES
    from engine.runs.words import unknown
    if role is not None and role not in ROLES and not any(known.startswith(f"{role}.") for known in ROLES):
        raise unknown("role", role, ROLES, "--role")


def _ids(names: list[str], roles: list[str], everything: bool) -> list[str]:
    """Models of the named sets and models."""
    from engine.errors import BadInput
    from engine.models import catalogue
    from engine.models.sets import CORE, model_set
    ids: list[str] = []
    for name in names:
        if name not in catalogue.sets() and name in catalogue.models():
            ids.append(catalogue.model(name).id)
            continue
        if name not in catalogue.sets():
            from engine.runs.words import unknown
            raise unknown("model or set", name, [*catalogue.sets(), *catalogue.models()])
        chosen = model_set(name)
        for role in roles:
            if role not in chosen.roles:
                raise BadInput(f"the model set {name!r} has no model for the role {role!r}",
                               f"it has {', '.join(chosen.roles)}")
        ids += [id for role, id in chosen.choices.items()
                if everything or role in roles or (not roles and role in CORE)]
    return list(dict.fromkeys(ids))


def _row(model: Model) -> dict[str, Any]:
    from engine.models import local
    from engine.models.licences import terms
    from engine.models.machine import fit
    found = terms(model)
    fits, need = fit([model], _machine())
    here = None if model.builtin else local.find(model)
    return {"id": model.id, "role": model.role, "family": model.family, "origin": model.origin,
            "revision": "" if model.builtin else local.revision_of(model), "licence": found.licence,
            "licence_from": model.licence_from, "commercial": found.commercial, "conditions": found.why,
            "gated": model.gated, "native_size_px": model.native_size_px, "memory_bytes": round(need), "fits": fits,
            "here": "built-in" if model.builtin else here.origin if here else "", "needs": list(model.needs),
            "loads": model.loads}


def _set_rows() -> list[dict[str, Any]]:
    """Each set with what making a mesh asks of it."""
    from engine.models import catalogue, local
    from engine.models.licences import reason
    from engine.models.machine import fit
    from engine.models.sets import CORE
    rows = []
    for name, choices in catalogue.sets().items():
        core = [catalogue.model(id) for role, id in choices.items() if role in CORE]
        fits, need = fit(core[:1], _machine())
        lacking = [one.id for model in core if not model.builtin for one in local.lacking(model)]
        rows.append({"set": name, "title": catalogue.title(name), "roles": choices, "fits": fits,
                     "memory_bytes": round(need), "lacking": lacking,
                     "not_commercial": [f"{model.id}: {why}" for model in core if (why := reason(model))]})
    return rows


_MACHINE: list[Any] = []


def _machine() -> Any:
    from engine.models.machine import this_machine
    if not _MACHINE:
        _MACHINE.append(this_machine())
    return _MACHINE[0]
