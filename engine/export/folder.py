"""The folder that a user takes away: plain copies from the store, the recipe that makes them again, the report.

Every file appears complete (temporary name, then rename). report.json goes first when a folder is written again and
comes last when it is whole: where it stands, all that it lists is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.export.papers import stamped_copy
from engine.recipes.recipe import ADAPTERS, Recipe, dump_recipe
from engine.runs import files
from engine.runs.report import FileRecord, Report, build_report

if TYPE_CHECKING:
    from engine.made import Made

VIEWS = ("image_to_views", "load_views")
FINISHED = ("export_mesh", "render_turntable", "export_clip")
DRAWING = ("text_to_image", "draw_character")
ALONG = {"frame_character": ("picture.png", "character.png", "picture"),
         "retarget_poses": ("poses.json", "poses.json", "poses")}
"""Stage -> (a file of its artifact, its name in the folder, its role), of what is shown beside the finished files."""


def write_folder(asset: Made, folder: Path, papers: Mapping[str, Any] | None = None) -> Report:
    """Write an executed asset into ``folder``. A run stopped by ``until`` leaves what it made, and no report.json.

    papers : beside the asset's own, written into its pictures, clips and meshes (``engine.export.papers``)
    """
    if asset.recipe.folder and Path(asset.recipe.folder).resolve() == folder.resolve():
        raise BadInput(f"{folder} is the folder of the pictures", "Choose another folder with --out")
    files.ensure_writable(folder, "the asset", "--out")
    with files.one_line_errors("the asset", folder, "--out"):
        before = _listed(folder)
        (folder / "report.json").unlink(missing_ok=True)
        recipe, own = _with_adapters(*_portable(asset.recipe, folder), folder)
        written = {**_copy(_sources(asset), folder, {**asset.papers(), **(papers or {})}), **own}
        files.write_file(folder / "recipe.toml", dump_recipe(recipe))
        written["recipe.toml"] = "recipe"
        report = build_report(asset.run, asset.outcomes, asset=asset.recipe.title, pipeline=asset.recipe.pipeline,
                              files=[FileRecord(path=name, role=role, sha256=files.file_digest(folder / name))
                                     for name, role in sorted(written.items())], seconds=asset.seconds,
                              warnings=asset.warnings)
        for name in before - set(written) - {"report.html"}:
            (folder / name).unlink(missing_ok=True)  # of an earlier asset in this folder
        if asset.complete:
            from engine.export.viewer import write_report_html
            write_report_html(folder, report.to_json())
            files.write_file(folder / "report.json", json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
        else:
            (folder / "report.html").unlink(missing_ok=True)
    return report


def read_report(folder: Path) -> Report:
    """The report of a finished folder; BadInput where there is none or where it is not one."""
    path = folder / "report.json"
    if not path.exists():
        raise BadInput(f"there is no finished asset in {folder}: report.json is missing",
                       "Give the folder that `maquette make --out` wrote; the same command goes on if it was stopped")
    try:
        return Report.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a report: {str(error).splitlines()[0]}",
                       "Run the command that made it again") from error


def changed_files(folder: Path, report: Report) -> list[str]:
    """What is not as the report says, one line a file."""
    told = []
    for record in report.files:
        path = folder / record.path
        if not path.is_file():
            told.append(f"{record.path} is missing")
        elif files.file_digest(path) != record.sha256:
            told.append(f"{record.path} was changed")
    return told


def _sources(asset: Made) -> dict[str, tuple[Path, str]]:
    """name in the folder -> (file in the store, role)."""
    found: dict[str, tuple[Path, str]] = {}
    for outcome in asset.outcomes:
        entry, stage = outcome.accepted.entry, outcome.node.spec.name
        inside = entry.folder / "files"
        if stage in DRAWING:
            for picture in sorted(inside.glob("*/picture.png")):
                found[f"candidates/{picture.parent.name}.png"] = (picture, "candidate")
        elif stage in VIEWS:
            for view in sorted(inside.glob("*.png")):
                found[f"views/{view.name}"] = (view, "view")
        elif stage in FINISHED:
            roles: dict[str, str] = json.loads((inside / "files.json").read_text(encoding="utf-8"))["roles"]
            found |= {name: (inside / name, role) for name, role in roles.items()}
        elif stage in ALONG:
            name, shown, role = ALONG[stage]
            found[shown] = (inside / name, role)
    last = asset.outcomes[-1]
    picture = last.accepted.entry.folder / "files" / "picture.png"
    if not asset.complete and picture.exists():  # --until shows what it stopped at
        found[f"{last.node.label}.png"] = (picture, "picture")
    if not asset.complete and (picture.parent / "clip.json").exists():
        found |= {f"{last.node.label}/{frame.name}": (frame, "frame") for frame in sorted(picture.parent.glob("*.png"))}
    return found


def _copy(sources: dict[str, tuple[Path, str]], folder: Path, papers: Mapping[str, Any]) -> dict[str, str]:
    """Copies with their papers inside."""
    for name, (source, role) in sources.items():
        # A clip's own files, and none besides, lie beside its frames: they have papers from the stage that wrote them.
        whole = None if (source.parent / "frames").is_dir() or role == "frame" else stamped_copy(source, papers)
        if whole is None:
            files.copy_file(source, folder / name)
        else:
            files.write_file(folder / name, whole)
    return {name: role for name, (_, role) in sources.items()}


def _portable(recipe: Recipe, folder: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe with the files that it names beside it, so that the folder alone makes the asset again."""
    if recipe.mesh:
        return _with_mesh(recipe, folder)
    if recipe.folder:  # many and large: these stay where they are
        return recipe.model_copy(update={"folder": str(Path(recipe.folder).resolve()), "name": recipe.title}), {}
    changes, written = {"name": recipe.title}, {}
    for what, stem in (("image", "input"), ("poses", "input_poses"), ("driving_video", "input_video")):
        if not getattr(recipe, what):
            continue
        source = Path(getattr(recipe, what))
        changes[what] = f"{stem}{source.suffix.lower() if source.is_file() else ''}"
        for path in sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]:
            name = f"{changes[what]}/{path.name}" if source.is_dir() else changes[what]
            if path.resolve() != (folder / name).resolve():
                files.copy_file(path, folder / name)
            written[name] = "input"
    return recipe.model_copy(update=changes), written


def _with_mesh(recipe: Recipe, folder: Path) -> tuple[Recipe, dict[str, str]]:
    """A user's mesh, what it names beside itself, and his picture, under input/."""
    from engine.meshes.read import companions
    source = Path(recipe.mesh)
    taken = {"mesh": source, **({"image": Path(recipe.image)} if recipe.image else {})}
    for path in [*companions(source), *([taken["image"]] if recipe.image else [])]:
        if path.resolve() != (folder / "input" / path.name).resolve():
            files.copy_file(path, folder / "input" / path.name)
    names = {what: f"input/{path.name}" for what, path in taken.items()}
    written = {f"input/{path.name}": "input" for path in [*companions(source), *taken.values()]}
    return recipe.model_copy(update={**names, "name": recipe.title}), written


def _with_adapters(recipe: Recipe, own: dict[str, str], folder: Path) -> tuple[Recipe, dict[str, str]]:
    """The LoRAs and embeddings that drew along, beside the recipe; what is named by its id stays so."""
    stages, copies = {label: dict(told) for label, told in recipe.stages.items()}, dict(own)
    names: dict[Path, str] = {}
    for told in stages.values():
        for kind in (kind for kind in ADAPTERS if told.get(kind)):
            listed = [told[kind]] if isinstance(told[kind], str) else list(told[kind])
            for k, one in enumerate(listed):
                source = Path(one)
                if not source.is_file():
                    continue
                count = sum(name.startswith(kind) for name in names.values())
                name = names.setdefault(source.resolve(), f"{kind}{f'_{count + 1}' if count else ''}{source.suffix}")
                if source.resolve() != (folder / name).resolve():
                    files.copy_file(source, folder / name)
                listed[k], copies[name] = name, kind
            told[kind] = listed[0] if isinstance(told[kind], str) else listed
    return recipe.model_copy(update={"stages": stages}) if copies != own else recipe, copies


def _listed(folder: Path) -> set[str]:
    """Files that an earlier report here lists, as far as they lie in this folder."""
    try:
        named = [record["path"] for record in json.loads((folder / "report.json").read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    root = folder.resolve()
    return {name for name in named if isinstance(name, str) and root in (folder / name).resolve().parents}
