"""``maquette export`` and ``maquette check``: assets for engines, and what is right and wrong with a mesh file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(source: Annotated[Path, typer.Argument(help="A folder that make, fit, retexture or clip wrote, or a GLB, "
                                                       "glTF, OBJ, PLY or STL file.", show_default=False)],
           out: Annotated[Path, typer.Option("--out", help="Folder for the files.", show_default=False)],
           profile: Annotated[str, typer.Option(help="unity, unreal, godot, web, blender or print.", metavar="NAME",
                                                show_default=False)],
           formats: Annotated[str | None, typer.Option(help="glb, gltf, obj, ply, stl, 3mf, usdz, usdc, fbx, with "
                                                            "commas; without: the profile's own.", metavar="LIST")
                              ] = None,
           name: Annotated[str, typer.Option(help="Of the files and of the mesh in them; from the asset.")] = "",
           triangles: Annotated[int | None, typer.Option(help="Budget of the first level of detail.")] = None,
           height: Annotated[float | None, typer.Option(help="Height in metres; without: as it is.", metavar="M")
                             ] = None,
           up: Annotated[str | None, typer.Option(help="y or z: the axis that points up in the file.")] = None,
           texture_size: Annotated[int | None, typer.Option(help="Pixels a side of pictures at most.")] = None,
           as_is: Annotated[bool, typer.Option("--as-is", help="No finishing: the file's own vertices, UVs and "
                                                               "pictures, one level, no colliders.")] = False,
           compression: Annotated[str, typer.Option(help="Of the web profile: auto, meshopt, draco or none.")] = "auto",
           msft_lod: Annotated[bool, typer.Option("--msft-lod", help="Levels in one GLB, by MSFT_lod.")] = False,
           zip_too: Annotated[bool, typer.Option("--zip", help="A zip of everything too.")] = False,
           overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
           settings: Annotated[list[str] | None, typer.Option("--set", metavar="finish_mesh.PARAM=VALUE",
                                                              help="Change how it is finished; may be given often.")
                               ] = None,
           store: Annotated[str | None, typer.Option("--store", help="Where results are kept between runs.",
                                                     envvar="MAQUETTE_STORE", show_default=False)] = None,
           device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto") -> None:
    """Write an asset for an engine: levels of detail, colliders, textures and papers, by its names."""
    from engine.errors import BadInput
    from engine.export_api import Wishes
    from engine.export_api import export as exported
    from engine.recipes.recipe import merge_settings
    from engine.runs.terminal import Terminal
    told = merge_settings({}, settings or [])
    strange = [label for label in told if label != "finish_mesh"]
    if strange:
        raise BadInput(f"--set names {strange[0]}, which export does not run", "It runs finish_mesh: "
                       "--set finish_mesh.PARAM=VALUE")
    if up not in (None, "y", "z"):
        raise BadInput(f"--up is {up}", "Give y or z")
    if texture_size is not None and not 16 <= texture_size <= 8192:
        raise BadInput(f"--texture-size is {texture_size}", "Give 16 to 8192")
    finish = dict(told.get("finish_mesh", {}))
    if triangles is not None:
        finish["triangles"] = triangles
    if texture_size in (64, 128, 256, 512, 1024, 2048, 4096):
        finish.setdefault("texture_size", texture_size)
    wishes = Wishes(None if formats is None else formats.split(","), name, height, up, as_is, compression, msft_lod,
                    texture_size, finish)
    with Terminal() as terminal:
        made = exported(source, out, profile, wishes, pack=zip_too, overwrite=overwrite, store=store, device=device,
                        listeners=[terminal])
    from engine.show_export import show_exported
    show_exported(made)


def check(file: Annotated[Path, typer.Argument(help="GLB, glTF, OBJ, PLY, STL or USD, Maquette's or not.",
                                               show_default=False)],
          profile: Annotated[str, typer.Option(help="Whose budgets and names to go by: unity, unreal, godot, web, "
                                                    "blender or print.", metavar="NAME")] = "",
          json_too: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
          strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
          tools: Annotated[bool, typer.Option("--tools/--no-tools", help="Ask the Khronos or the USD validator, where "
                                                                         "they are.")] = True) -> None:
    """Say what is right and wrong with a mesh file: exit code 0, or 1 where there is an error."""
    import json

    from engine.check.files import check_file
    report = check_file(file, profile, tools)
    if json_too:
        typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        from engine.show_export import show_check
        show_check(report)
    if code := report.exit_code(strict):
        raise typer.Exit(code)
