"""Exporting from Python; ``maquette export`` does the same through the same functions.

    made = export("out/mug", "game/mug", profile="godot")
    made.manifest["lods"], made.written, made.notes

A source is what ``maquette make``, ``fit``, ``retexture`` or ``clip`` left, or any GLB, glTF, OBJ, PLY or STL file. A
mesh is finished first (``engine.stages.finish_mesh``: repair, levels of detail, colliders, textures) and its result is
kept in the store: another profile of the same asset only writes files.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.export.clip_profile import is_clip, open_clip
from engine.export.profiles import Profile, formats_of, profile
from engine.runs import files
from engine.runs.events import Listener

if TYPE_CHECKING:
    from engine.export.bundle import Bundle
    from engine.meshes.asset import GameAsset

MESHES = (".glb", ".gltf", ".obj", ".ply", ".stl")


@dataclass(frozen=True)
class Source:
    """What is exported. path : the mesh file, or the clip's folder; kind : "mesh" or "clip"; title : what it is called;
    prompt : what it shows, "" where nobody says"""

    path: Path
    kind: str
    title: str
    prompt: str = ""


@dataclass(frozen=True)
class Wishes:
    """What may be chosen beside the profile; None: the profile's or the file's own.

    finish : parameters of ``finish_mesh``; as_is : no finishing, the file's own vertices and pictures
    up : "y" or "z", the axis that points up in the file; largest : pixels a side of pictures
    """

    formats: Sequence[str] | None = None
    name: str = ""
    height_m: float | None = None
    up: str | None = None
    as_is: bool = False
    compression: str = "auto"
    msft_lod: bool = False
    largest: int | None = None
    finish: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Exported:
    """written : files, the manifest last; there_already : nothing had to be done"""

    folder: Path
    manifest: dict[str, Any]
    written: list[Path]
    notes: list[str]
    there_already: bool = False
    seconds: float = 0.0


def find_source(source: Path) -> Source:
    """What a path holds. BadInput where it is nothing that can be exported."""
    if source.is_file():
        if source.suffix.lower() not in MESHES:
            raise BadInput(f"{source} cannot be exported: its name says none of "
                           f"{', '.join(kind[1:].upper() for kind in MESHES)}",
                           "Give a mesh file, or a folder that make, fit or clip wrote")
        return Source(source, "mesh", source.stem)
    if not source.is_dir():
        raise BadInput(f"there is no file or folder {source}",
                       "Give a mesh file, or a folder that make, fit or clip wrote")
    if is_clip(source):
        return Source(source, "clip", _title(source) or source.resolve().name, _prompt(source))
    if (source / "asset.glb").is_file():
        return Source(source / "asset.glb", "mesh", _title(source) or source.resolve().name, _prompt(source))
    meshes = sorted(path for path in source.iterdir() if path.suffix.lower() in MESHES)
    if len(meshes) == 1:
        return Source(meshes[0], "mesh", meshes[0].stem)
    if (source / "manifest.json").is_file() or meshes:
        raise BadInput(f"{source} holds many assets", "Give one of them: its folder or its file")
    raise BadInput(f"there is no asset in {source}: no asset.glb, no frames",
                   "Give the folder that make, fit or clip wrote")


def _report(folder: Path) -> Any:
    from engine.export.folder import read_report
    return read_report(folder) if (folder / "report.json").is_file() else None


def _title(folder: Path) -> str:
    report = _report(folder)
    return "" if report is None else str(report.asset)


def _prompt(folder: Path) -> str:
    import tomllib
    try:
        return str(tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8")).get("prompt", ""))
    except (OSError, ValueError):
        return ""


def file_name(title: str) -> str:
    """A name that every engine takes: letters, digits and _, beginning with a letter, at most 48; words that an engine
    reads as a collider's or a level's are taken off.

    "a red mug" -> Red_Mug; "chair-col" -> Chair; "42" -> Asset_42
    """
    import re
    import unicodedata
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    plain = re.sub(r"(_LOD\d+|-(conv)?col(only)?)$", "", plain, flags=re.IGNORECASE)
    plain = re.sub(r"^(UCX|UBX|USP|UCP)_", "", plain)
    words = [word for word in re.split(r"[^A-Za-z0-9]+", plain) if word]
    if len(words) > 1 and words[0].lower() in ("a", "an", "the"):
        words = words[1:]
    name = "_".join(word[:1].upper() + word[1:] for word in words)[:48].rstrip("_")
    return name if name[:1].isalpha() else f"Asset_{name}".rstrip("_")


def export(source: str | Path, out: str | Path, profile_name: str = "godot", wishes: Wishes | None = None, *,
           pack: bool = False, overwrite: bool = False, store: str | Path | None = None, device: str = "auto",
           listeners: Iterable[Listener] = ()) -> Exported:
    """Finish and write an asset for a profile into ``out``.

    pack : a zip of everything too; overwrite : replace files that are there; without: BadInput, nothing is touched
    BadInput : what cannot be exported, or needs something that is not installed (said before any work);
    RunFailed, Cancelled as in ``make``
    """
    began = time.monotonic()
    told, wanted, folder = wishes or Wishes(), profile(profile_name), Path(out)
    if told.name and file_name(told.name).lower() != told.name.lower():
        raise BadInput(f"the name {told.name!r} would be changed by some engines",
                       f"Give letters, digits and _: {file_name(told.name)}")
    found = find_source(Path(source))
    name = told.name or file_name(found.title)
    if folder.resolve() == (found.path if found.kind == "clip" else found.path.parent).resolve():
        raise BadInput(f"--out {folder} is the folder of the source", "Choose another folder with --out")
    if found.kind == "clip":
        return _export_clip(found, wanted, told, name, folder, pack, overwrite, began)
    formats = formats_of(wanted, told.formats)
    check_tools(wanted, formats, told.compression)
    files.ensure_writable(folder, "the export", "--out")
    plan = _planned(found, wanted, told, name, store, device, listeners)
    key = _key(plan.key, name, wanted, formats, told)
    from engine.export.bundle import place, profile_files, standing
    there = standing(folder, name, key)
    if there is not None and not pack:
        return Exported(folder, there, [folder / one["path"] for one in there["files"]], list(there["notes"]), True)
    asset, notes = plan.run()
    bundle: Bundle = profile_files(replace(asset, name=name), wanted, formats, compression=told.compression,
                                   msft_lod=told.msft_lod, largest=told.largest, key=key, notes=notes)
    written = place(bundle, folder, overwrite, pack)
    return Exported(folder, bundle.manifest, written, bundle.notes, False, time.monotonic() - began)


def export_run(folder: Path, manifest: Mapping[str, Any], profiles: Iterable[str], *, store: str | Path | None = None,
               device: str = "auto", overwrite: bool = False) -> list[str]:
    """Write every finished asset of a run's folder for each profile into exports/PROFILE/ID -> one line each on where
    they are, and on what could not be written: one asset's trouble is no other's."""
    from engine.errors import MaquetteError
    from engine.export.gallery import placed
    said = []
    for name in profiles:
        done, trouble = 0, []
        for told in manifest["assets"]:
            own = placed(folder, told) if told["status"] in ("done", "cached") else None
            if not own:
                continue
            try:
                export(folder / own, folder / "exports" / name / told["id"], name, Wishes(name=file_name(told["id"])),
                       overwrite=overwrite, store=store, device=device)
                done += 1
            except MaquetteError as error:
                if error.exit_code == 130:  # the user stopped it
                    raise
                trouble.append(f"{told['id']} was not exported for {name}: {error}")
        said += [*([f"for {name}: {done} assets in {folder / 'exports' / name}"] if done else []), *trouble]
    return said


def check_tools(wanted: Profile, formats: Sequence[str], compression: str) -> None:
    """BadInput where a format needs what is not installed: known before the work."""
    if wanted.compression and "glb" in formats:
        from engine.export.compress import way_of
        way_of(compression)
    if "usdc" in formats or "usdz" in formats:
        from engine.export.usd import pxr
        pxr()
    if "fbx" in formats:
        from engine.export.fbx import blender_command
        blender_command()


def _export_clip(found: Source, wanted: Profile, told: Wishes, name: str, folder: Path, pack: bool, overwrite: bool,
                 began: float) -> Exported:
    from engine.export.bundle import place
    from engine.export.clip_profile import clip_files
    if told.formats is not None:
        raise BadInput("--formats names mesh formats; a clip is written as its profile plays it",
                       "Leave --formats out; maquette clip --formats writes others")
    files.ensure_writable(folder, "the export", "--out")
    bundle = clip_files(open_clip(found.path), wanted, name)
    written = place(bundle, folder, overwrite, pack)
    return Exported(folder, bundle.manifest, written, bundle.notes, False, time.monotonic() - began)


# -- finishing ---------------------------------------------------------------------------------------------------------

@dataclass
class _Plan:
    """key : of what the finished asset depends on; run() makes it -> (asset, what was said)"""

    key: str
    run: Any


def _planned(found: Source, wanted: Profile, told: Wishes, name: str, store: str | Path | None, device: str,
             listeners: Iterable[Listener]) -> _Plan:
    from engine.runs.keys import digest
    from engine.stages.open_asset import asset_digest
    file_digest = asset_digest(found.path)
    if told.as_is:
        return _Plan(digest({"as_is": file_digest, "height_m": told.height_m, "up": told.up}),
                     lambda: _taken_as_it_is(found, told, name))
    from engine.runs.run import Run
    from engine.runs.store import Store
    from engine.stages.finish_mesh import finish_mesh
    from engine.stages.open_asset import open_asset
    finish = {**dict(wanted.finish), **told.finish}
    finish.setdefault("height_m", told.height_m or measured_height(found.path, told.up))
    run = Run(Store.open(store), None, overrides={"finish_mesh": finish}, device=device, listeners=listeners)
    turned: dict[str, Any] = {"up": told.up} if told.up else {}
    mesh = run(open_asset, path=str(found.path), digest=file_digest, about=found.prompt, **turned)
    asset = run(finish_mesh, mesh)
    run.check()

    def made() -> tuple[GameAsset, list[str]]:
        outcomes = run.perform(asset)
        said = [text for outcome in outcomes for text in outcome.accepted.entry.warnings]
        finished = run.load(asset)
        return replace(finished, papers={**_papers(found), **finished.papers}), said

    return _Plan(asset.key, made)


def measured_height(path: Path, up: str | None = None) -> float:
    """How tall a file's mesh is, in its own units; of something flat its longest side, as finishing measures it.

    BadInput where the file cannot be used: that is known before anything runs.
    """
    from engine.meshes.foreign import open_foreign
    file = open_foreign(path).file
    used = file.vertices[file.faces.reshape(-1)]
    size = used.max(0) - used.min(0)
    tall = float(size[2 if up == "z" else 1])
    measure = tall if tall > 1e-3 * float(size.max()) else float(size.max())
    if not 1e-4 < measure < 1e5:
        raise BadInput(f"{path} is {measure:.3g} tall: that is no size in metres", "Say how tall it is: --height 0.3")
    return measure


def _taken_as_it_is(found: Source, told: Wishes, name: str) -> tuple[GameAsset, list[str]]:
    from engine.export.as_is import as_is
    from engine.meshes.foreign import open_foreign
    foreign = open_foreign(found.path)
    if told.up == "z":
        from engine.conventions.blender import points_to_house
        foreign.file.vertices = points_to_house(foreign.file.vertices)
        if foreign.file.normals is not None:
            foreign.file.normals = points_to_house(foreign.file.normals)
        foreign.tangents = None
    if told.height_m is not None:
        size = foreign.file.vertices.max(0) - foreign.file.vertices.min(0)
        foreign.file.vertices = foreign.file.vertices * (told.height_m / max(float(size[1]), 1e-12))
    asset = as_is(foreign, name, found.prompt)
    said = [one.text for one in foreign.findings if one.severity in ("error", "warning")]
    return replace(asset, papers={**_papers(found), **asset.papers}), said


def _papers(found: Source) -> dict[str, Any]:
    """What the source says of its making: a GLB's extras."""
    if found.path.suffix.lower() not in (".glb", ".gltf"):
        return {"source": found.path.name}
    from engine.meshes.gltf_document import open_gltf
    extras = open_gltf(found.path).data["asset"].get("extras")
    return dict(extras) if isinstance(extras, dict) else {"source": found.path.name}


def _key(asset: str, name: str, wanted: Profile, formats: Sequence[str], told: Wishes) -> str:
    """Of everything that the written files depend on."""
    from engine import __version__
    from engine.runs.keys import digest
    return digest({"asset": asset, "name": name, "profile": wanted.name, "formats": list(formats),
                   "compression": told.compression if wanted.compression else "", "msft_lod": told.msft_lod,
                   "largest": told.largest, "version": __version__})
