"""The command: thin, one function a verb. Heavy things are imported inside the verbs, so that --help is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.batch_cli import gc, plan, run, verify, why
from engine.clip_cli import clip
from engine.export_cli import check, export
from engine.image_cli import image
from engine.making_cli import make as make_folder
from engine.models_cli import models as models_app
from engine.recipes_cli import schema, show
from engine.runs.stopping import stoppable as _stoppable

app = typer.Typer(name="maquette", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="From a prompt or a picture to textured, validated 3-D assets, and to clips, that a game engine "
                       "accepts.")
toybox = typer.Typer(no_args_is_help=True, help="The procedural world that the built-in models were trained on.")
app.add_typer(toybox, name="toybox")
train = typer.Typer(no_args_is_help=True, help="Teach the models something of your own.")
app.add_typer(train, name="train")
app.add_typer(models_app, name="models")
app.add_typer(image, name="image")

Out = Annotated[Path, typer.Option("--out", help="Folder for the finished files.", show_default=False)]
Quality = Annotated[str, typer.Option(help="draft, standard or high.")]
Seed = Annotated[int, typer.Option(help="Another number makes another asset from the same words.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="LABEL.PARAM=VALUE",
                                                       help="Change a stage's parameter; may be given often.")]
StorePlace = Annotated[str | None, typer.Option("--store", help="Where results are kept between runs.",
                                                   envvar="MAQUETTE_STORE", show_default=False)]
Models = Annotated[str, typer.Option(help="The model set.")]
Chosen = Annotated[list[str] | None, typer.Option("--model", metavar="ROLE=ID",
                                                  help="Another model for a role than the set's; may be given often.")]
CommercialOnly = Annotated[bool, typer.Option("--commercial-only", help="Refuse models that may not be used "
                                              "commercially by everybody.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read weights kept as pickles: tensors only, nothing "
                                           "in them is run.")]
Height = Annotated[float | None, typer.Option(help="Height in metres.", metavar="M")]
Kept = Annotated[float | None, typer.Option("--height", help="Height in metres; without: as it is.", metavar="M")]
Elevation = Annotated[float | None, typer.Option(help="Where the picture was taken from, degrees.", metavar="DEG")]
Up = Annotated[str | None, typer.Option(help="y or z: the axis that points up in the file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage and show what it made.",
                                              metavar="LABEL")]


def _version(asked: bool) -> None:
    if asked:
        from engine import __version__
        typer.echo(f"maquette {__version__}")
        raise typer.Exit


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (allowed anywhere).")] = False,
            version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True,
                                                  callback=_version)] = False) -> None:
    """From a prompt or a picture to textured, validated 3-D assets that a game engine accepts."""


@app.command()
def make(out: Out,
         prompt: Annotated[str, typer.Argument(help="What to make: \"a red mug\".")] = "",
         image: Annotated[Path | None, typer.Option(help="A picture of one object instead of words.")] = None,
         pipeline: Annotated[str | None, typer.Option(help="dreamfusion, magic3d, zero123, one2345 or dreamcraft3d; "
                                                           "without: direct fitting.", metavar="NAME")] = None,
         negative: Annotated[str, typer.Option(help="What the picture must not show.")] = "",
         seed: Seed = 0,
         models: Models = "builtin",
         quality: Quality = "standard",
         height: Height = None,
         elevation: Elevation = None,
         until: Until = None,
         pick: Annotated[int | None, typer.Option(help="Go on from this candidate, counted from 0.",
                                                     metavar="N")] = None,
         lora: Annotated[list[str] | None, typer.Option(metavar="FILE[:SCALE]",
                                                        help="A LoRA that draws the picture; may be given often.")
                         ] = None,
         settings: Settings = None, model: Chosen = None, commercial_only: CommercialOnly = False,
         allow_pickle: AllowPickle = False, store: StorePlace = None, device: Device = "auto") -> None:
    """Make a textured mesh from a prompt or a picture."""
    from engine.recipes.recipe import default_pipeline, make_recipe, merge_settings, parse_loras, parse_roles
    drawn = parse_loras(lora or [])
    recipe = make_recipe(pipeline=pipeline or default_pipeline(image is not None), prompt=prompt,
                         image=str(image) if image else "", negative=negative, seed=seed, models=models,
                         roles=parse_roles(model or []),
                         quality=quality, height_m=height, elevation_deg=elevation, pick=pick,
                         stages=merge_settings({"text_to_image": drawn} if drawn else {}, settings or []))
    make_folder(recipe, out, store, device, until, commercial_only, allow_pickle)


app.command()(clip)
app.command()(show)
app.command()(schema)


@app.command()
def fit(folder: Annotated[Path, typer.Argument(help="Folder with transforms.json and its pictures.",
                                               show_default=False)],
        out: Out,
        up: Annotated[str | None, typer.Option(help="auto, y or z: the axis that points up.")] = None,
        bounds: Annotated[str | None, typer.Option(help="auto, x0,y0,z0,x1,y1,z1 or s for [-s, s]^3.")] = None,
        keep_coordinates: Annotated[bool, typer.Option("--keep-coordinates",
                                                       help="Keep the mesh in the scene's own coordinates.")] = False,
        height: Height = None,
        quality: Quality = "standard", seed: Seed = 0, until: Until = None, settings: Settings = None,
        store: StorePlace = None, device: Device = "auto") -> None:
    """Make a textured mesh from pictures with known cameras (NeRF's transforms.json)."""
    from engine.recipes.recipe import make_recipe, merge_settings
    recipe = make_recipe(pipeline="views_to_mesh", folder=str(folder), up=up, bounds=bounds, height_m=height,
                         keep_coordinates=keep_coordinates, quality=quality, seed=seed,
                         stages=merge_settings({}, settings or []))
    make_folder(recipe, out, store, device, until)


@app.command()
def retexture(mesh: Annotated[Path, typer.Argument(help="GLB, OBJ, PLY or STL.", show_default=False)],
              prompt: Annotated[str, typer.Argument(help="What it shall look like.", show_default=False)],
              out: Out,
              negative: Annotated[str, typer.Option(help="What it must not look like.")] = "",
              unwrap: Annotated[bool, typer.Option("--unwrap", help="Make new UVs.")] = False,
              up: Up = None,
              height: Kept = None,
              seed: Seed = 0,
              models: Models = "builtin",
              quality: Quality = "standard", until: Until = None, settings: Settings = None, model: Chosen = None,
              commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False,
              store: StorePlace = None, device: Device = "auto") -> None:
    """Paint a mesh as the words say; its surface stays as it is."""
    from engine.recipes.recipe import make_recipe, merge_settings, parse_roles
    recipe = make_recipe(pipeline="retexture", mesh=str(mesh), prompt=prompt, negative=negative, unwrap=unwrap, up=up,
                         height_m=height, seed=seed, models=models, roles=parse_roles(model or []), quality=quality,
                         stages=merge_settings({}, settings or []))
    make_folder(recipe, out, store, device, until, commercial_only, allow_pickle)


@app.command()
def refine(source: Annotated[Path, typer.Argument(help="A mesh, or a folder that make wrote.", show_default=False)],
           out: Out,
           prompt: Annotated[str, typer.Option(help="What it is; from the folder's recipe.")] = "",
           image: Annotated[Path | None, typer.Option(help="A picture of it; from the folder.")] = None,
           negative: Annotated[str, typer.Option(help="What it must not look like.")] = "",
           elevation: Elevation = None,
           up: Up = None,
           height: Kept = None,
           seed: Seed = 0,
           models: Models = "builtin",
           quality: Quality = "standard", until: Until = None, settings: Settings = None, model: Chosen = None,
           commercial_only: CommercialOnly = False, allow_pickle: AllowPickle = False,
           store: StorePlace = None, device: Device = "auto") -> None:
    """Go on with a mesh or an asset: geometry and texture, under guidance by words or a picture."""
    from engine.api import refine_recipe
    from engine.recipes.recipe import merge_settings, parse_roles
    recipe = refine_recipe(source, prompt, image=image, negative=negative, elevation_deg=elevation, up=up,
                           height_m=height, seed=seed, models=models, roles=parse_roles(model or []), quality=quality,
                           stages=merge_settings({}, settings or []))
    make_folder(recipe, out, store, device, until, commercial_only, allow_pickle)


for _verb in (export, check, run, plan, why, gc, verify):
    app.command()(_verb)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A folder that make or fit wrote.", show_default=False)]
           ) -> None:
    """Show an asset's papers and check that its files are the ones they describe."""
    from engine.errors import RunFailed
    from engine.export.folder import changed_files, read_report
    papers = read_report(folder)
    from engine.show import show_report
    show_report(papers, folder)
    if changed := changed_files(folder, papers):
        raise RunFailed(f"{folder} is not as its report says: {'; '.join(changed)}",
                        f"maquette run {folder / 'recipe.toml'} --out {folder} makes it again")


@app.command()
def doctor(store: StorePlace = None,
           models: Models = "builtin") -> None:
    """Say what this machine has and lacks, each lack with what mends it."""
    from engine.doctor import examine
    from engine.show import show_findings
    findings = examine(store, models)
    show_findings(findings)
    if any(finding.state == "lack" for finding in findings):
        raise typer.Exit(1)


@toybox.command()
def sheet(out: Annotated[Path, typer.Option("--out", help="The PNG to write.", show_default=False)],
          seed: Seed = 0) -> None:
    """Draw a contact sheet of the toybox."""
    from engine.runs import files
    files.ensure_writable(out.parent, "the sheet", "--out")
    from engine.toybox.sheet import write_sheet
    with files.one_line_errors("the sheet", out, "--out"):
        write_sheet(out, seed=seed)
    typer.echo(str(out))


@train.command("lora")
def train_lora(images: Annotated[Path, typer.Option(help="Folder with pictures of one thing or style, 3 to 500.",
                                                    show_default=False)],
               token: Annotated[str, typer.Option(help="The new word for it: \"zorb\".", metavar="NAME",
                                                  show_default=False)],
               out: Annotated[Path | None, typer.Option("--out", help="The .safetensors to write; without: "
                                                                      "NAME.safetensors.")] = None,
               kind: Annotated[str, typer.Option(help="What the pictures show: \"mug\"; without: CLIP's guess.")] = "",
               prior: Annotated[bool, typer.Option("--prior", help="Keep what the kind's own word means.")] = False,
               steps: Annotated[int, typer.Option(help="Training steps.")] = 400,
               batch: Annotated[int, typer.Option(help="Pictures a step.")] = 4,
               rank: Annotated[int, typer.Option(help="Of the low-rank layers; more holds more detail.")] = 8,
               learning_rate: Annotated[float, typer.Option(help="Where results are noise, lower it.")] = 1e-3,
               seed: Seed = 0,
               models: Models = "builtin",
               store: StorePlace = None, device: Device = "auto") -> None:
    """Teach a model set's text to image a new word by a LoRA; stopped, the same command goes on."""
    from engine.training.lora_command import Training, word
    name = word(token)
    training = Training(images, name, out or Path(f"{name}.safetensors"), kind, prior, steps, batch, rank,
                        learning_rate, seed, models, device, store)
    with _stoppable(training):
        card = training()
    typer.echo(f"{training.out}  use it: maquette make \"{card['prompt']}\" --lora {training.out} --out DIR")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0, 2 bad input, 1 a failed run, 130 stopped by the user."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    from engine.errors import MaquetteError
    try:
        code = app(words, prog_name="maquette", standalone_mode=False) if words else _help()
    except MaquetteError as error:
        if debug:
            raise
        _say(f"maquette: {error.what.rstrip('.')}. {error.fix[:1].upper()}{error.fix[1:]}".rstrip())
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        if debug:
            raise
        code = 130
    except BrokenPipeError:  # `maquette report DIR | head`
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        if usage := _usage(error):
            _say(usage)
            sys.exit(2)
        _say(f"maquette: {type(error).__name__}: {' '.join(str(error).split())[:300]}. This is a defect of Maquette: "
             f"please report it with the output of the same command with --debug")
        sys.exit(1)
    if code == 130:  # Ctrl-C before or after the stages; within them it is Cancelled
        _say("maquette: stopped. The same command goes on from what is finished")
    sys.exit(code if isinstance(code, int) else 0)


def _help() -> int:
    app(["--help"], prog_name="maquette", standalone_mode=False)
    return 2


def _usage(error: Exception) -> str:
    """A mistake in the words of the command, as one line; "" for any other error."""
    told = getattr(error, "format_message", None)
    if told is None:
        return ""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "maquette"
    text = " ".join(str(told()).split())
    if not text or "Usage:" in text:  # a group without a verb answers with its help
        text = "Missing command."
    return f"maquette: {text.rstrip('.')}. See {path} --help"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
