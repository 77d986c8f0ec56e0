"""Bad recipe files: each is one line that names the file, the place in it and what to do, and is exit code 2."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from engine.cli import main
from engine.errors import BadInput
from engine.recipes.batch import load_batch

HEAD = 'format = 1\npipeline = "text_to_mesh"\nprompt = "x"\n'


@pytest.mark.parametrize(("text", "words"), [
    ("sede = 3", r"unknown key 'sede'. Did you mean seed\?"),
    ("[budgte]\nseconds = 3", r"unknown key 'budgte'. Did you mean budget\?"),
    ("[budget]\nsecnds = 3", r"unknown key 'budget.secnds'. Did you mean seconds\?"),
    ("[export]\ngalery = true", r"unknown key 'export.galery'. Did you mean gallery\?"),
    ("[[asset]]\n[[asset]]\nid = 'mug'\npromt = 'x'", r"unknown key 'asset 2 \(mug\).promt'. Did you mean prompt\?"),
    ("vars.kind = 'a'\n[[asset]]\nkind = 'mug'", r"unknown key 'asset 1.kind'. Write it as vars.kind"),
    ("seed = '7'", r"seed: Input should be a valid integer \(got '7'\). seed: a whole number"),
    ("seed = 7.0", "seed: .*integer"), ("seed = true", "seed: .*integer"), ("height_m = '0.1'", "height_m: .*number"),
    ("keep_coordinates = 1", "keep_coordinates: .*boolean"),
    ("prompt2 = 1", "unknown key 'prompt2'. Did you mean prompt"),
    ("seed = 9223372036854775808", "seed: Input should be less than 9223372036854775808"),
    ("[[asset]]\nid = 'a'\nseed = -1", r"asset 1 \(a\).seed: Input should be greater than or equal to 0 \(got -1\)"),
    ("quality = 'hgih'", "quality: .*draft"), ("height_m = nan", "height_m is nan. Give a finite number"),
    ("stages.fit_field.rate = inf", "stages.fit_field.rate is inf"),
    ("[matrix]\nx = [1.0, -inf]", r"matrix.x\[1\] is -inf"),
    ("[vars]\nx = nan", "vars.x is nan"), ("[vars]\nx = 2020-01-01", "vars.x is a date or a time. Put it in quotes"),
    ("[vars]\nx = [1]", "vars.x: "), ("[vars]\n'a b' = 1", "vars.a b"),
    ("[vars]\nname = 'x'", "vars.name: the name is taken"),
    ("[vars]\nmotion = 'x'", "vars.motion: the name is taken"), ("asset = 3", "asset: .*list"),
    ("matrix = 3", "matrix: "),
    ("[matrix]\ncolour = 'red'", "matrix.colour: .*list"), ("[matrix]\ncolour = []", "matrix.colour: .*at least 1"),
    ("[matrix]\ncolour = ['a', 'b', 'a']", "matrix.colour has 'a' twice"), ("[matrix]\n'a.b' = [1]", "'a.b'"),
    ("[matrix]\nquality = ['draft', 'hgih']", r"matrix.quality\[2\]: .*'hgih'"),
    ("[matrix]\nstages.a = [1]", "matrix.stages.a: .*dict"), ("[matrix]\nid = ['a']", "matrix.id: the name is taken"),
    ("[matrix]\nformats = [['gif']]", "matrix.formats"), ("[matrix]\nx = [[1]]", "matrix.x"),
    ("[matrix]\ncolour = ['a']\nreseed = ['color']", "unknown axis 'color' in .*matrix.reseed. Did you mean colour"),
    ("[matrix]\ncolour = ['a']\nexclude = [{ color = 'a' }]",
     r"matrix.exclude\[1\]: there is no axis 'color'. Did you"),
    ("[matrix]\ncolour = ['a']\nexclude = [{ colour = 'b' }]",
     r"matrix.exclude\[1\]: colour is never 'b'. Its values: a"),
    ("[matrix]\ncolour = ['a']\nexclude = [{}]", r"matrix.exclude\[1\] names no axis"),
    ("[matrix]\ncolour = ['a']\nexclude = [{ colour = 'a' }]", "matrix.exclude leaves nothing"),
    ("[matrix]\nimage = ['a.png', 'b.png']", "image: .*a.png does not exist"),
    ("motion = 'walk'\n[[asset]]\nid = 'a'", r"\(a\): motion has no meaning in text_to_mesh"),
    ("[[asset]]\nid = 'a'\nprompt = 'a {colr}'\n[matrix]\ncolour = ['a']",
     r"\[\[asset\]\] 1: prompt: nothing is called \{colr\}. Did you mean colour\?"),
    ("negative = '{colr}'\n[[asset]]\nid = 'a'", r"forest.toml: negative: nothing is called \{colr\}"),
    ("id = '{colr}'\n[matrix]\ncolour = ['a', 'b']",
     r"forest.toml: id: nothing is called \{colr\}. Did you mean colour"),
    ("id = 'same'\n[matrix]\ncolour = ['a', 'b']", "two assets have the id 'same'"),
    ("[matrix]\ncolour = ['red!', 'Red?']", "two assets have the id 'forest-red'"),
    ("[export]\nname = 'x'\n[matrix]\ncolour = ['a', 'b']", "two assets have the export_name 'x'. Put {id}"),
    ("[export]\nname = '../{id}'\n[[asset]]\nid = 'a'", r"export.name: the id '../a' cannot be"),
    ("[[asset]]\nid = '{colour}'\n[matrix]\ncolour = ['a']", r"id: \{colour\} is an axis"),
    ("[[asset]]\nid = 'mug'\n[[asset]]\nid = 'MUG'", "two assets have the id 'MUG' and 'mug', which some systems take"),
    ("[[asset]]\nid = 'straße'\n[[asset]]\nid = 'STRASSE'", "two assets have the id"),
    ("[[asset]]\nid = 'ﬁsh'\n[[asset]]\nid = 'fish'", "two assets have the id"),
    ("[[asset]]\nid = '../x'", r"\[\[asset\]\] 1 \(../x\): the id '../x' cannot be"),
    ("[[asset]]\nid = 'CON'", "the id 'CON' is the name of a device on Windows"),
    ("[[asset]]\nid = '" + "x" * 300 + "'", "id: String should have at most 200|the id .* has 300"),
    ("[[asset]]\nid = 'a'\nprompt = ''", r"\[\[asset\]\] 1 \(a\): the prompt is empty"),
    ("[[asset]]\nid = 'a'\nprompt = '!'\n[[asset]]\nid = 'b'\nprompt = '!!'", r"\(a\): the prompt holds no word"),
    ("[[asset]]\nid = 'a'\n[[asset]]\nid = 'b'\nprompt = '" + "x" * 1001 + "'",
     r"\(b\): the prompt has 1,001 characters"),
    ("[[asset]]\nid = 'a'\nnegative = 'x'\n[[asset]]\nid = 'b'\nnegative = '" + "x" * 1001 + "'",
     r"\(b\).negative: .*1000"),
    ("negative = '{w}{w}'\n[[asset]]\nid = 'a'\nvars.w = 'x'\n[[asset]]\nid = 'b'\nvars.w = '" + "x" * 900 + "'",
     r"\(b\): negative: .*1000"),
    ("seed_id = 'x'\n[[asset]]\nid = 'a'", "seed_id belongs to a recipe of one asset"),
    ("[[asset]]\nid = 'a'\npipeline = 'text_to_mehs'",
     r"asset 1 \(a\).pipeline|no pipeline 'text_to_mehs'. Did you mean"),
    ("[[asset]]\nid = 'a'\npipeline = 'image_to_mesh'", r"\[\[asset\]\] 1 \(a\): image_to_mesh needs image"),
    ("[[asset]]\nid = 'a'\npipeline = 'image_to_mesh'\nimage = 'none.png'", r"\(a\): image: .*none.png does not exist"),
    ("[[asset]]\npipeline = 'image_to_mesh'\nimage = 'none/*.png'", "no file is called 'none/\\*.png'"),
    ("[[asset]]\npipeline = 'image_to_mesh'\nimage = '{kind}/*.png'\n[matrix]\nkind = ['a']",
     r"a pattern cannot follow the axis \{kind\}"),
    ("[[asset]]\npipeline = 'refine'\nmesh = '*.glb'\nimage = '*.png'", "image and mesh are patterns both"),
])
def test_one_line_with_the_place_and_the_remedy(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "forest.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(BadInput, match=words) as caught:
        load_batch(path)
    assert "forest.toml" in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "r.toml"
    path.write_text('format = 1\npipeline = "image_to_mesh"\n[[asset]]\nid = "a"\nimage = "photos"\n')
    with pytest.raises(BadInput, match=r"r.toml: \[\[asset\]\] 1 \(a\): image: .*photos is a folder. .* \* in the"):
        load_batch(path)
    with pytest.raises(BadInput, match="is a folder, no recipe"):
        load_batch(tmp_path)
    path.write_text('format = 1\npipeline = "views_to_mesh"\n[[asset]]\nid = "a"\nfolder = "r.toml"\n')
    with pytest.raises(BadInput, match="folder: .* is a file, no folder"):
        load_batch(path)


@pytest.mark.parametrize(("data", "words"), [
    (b"\xff\xfef\x00o\x00", "cannot read the recipe .*UTF-8"),
    (b"format = 1\nprompt = '\xe9'", "cannot read the recipe"),
    (HEAD.encode() + b"seed = 1\nseed = 2", "is not TOML"),
    (HEAD.encode() + b"[vars]\na = 1\n[vars]\nb = 2", "is not TOML"),
    (HEAD.encode() + b"a = \x00", "is not TOML"), (b"", "does not say its format"), (b"format = 2", "has format 2"),
    (b"format = true", "has format True"), (b"format = 1.0", "has format 1.0"), (b"\x00" * 100, "is not TOML"),
    (HEAD.encode() + b"vars.x = " + b"[" * 5000 + b"]" * 5000, "nests too deep"),
    (HEAD.encode() + b"stages." + b".".join([b"a"] * 900) + b" = 1", "nests too deep"),
    (HEAD.encode() + b"seed = " + b"9" * 5000, "cannot read the recipe|is not TOML"),
    (b"\xef\xbb\xbf\xef\xbb\xbfformat = 1", "is not TOML"),
])
def test_what_is_no_recipe_at_all(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=words) as caught:
        load_batch(path)
    assert "r.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no recipe .*none.toml"):
        load_batch(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="cannot read the recipe|there is no recipe"):
        load_batch(tmp_path / ("x" * 300))
    with pytest.raises(BadInput, match="recipe"):
        load_batch(Path("a\0b.toml"))
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(BadInput, match="is no file"):  # and does not wait for somebody to write into it
        load_batch(tmp_path / "pipe.toml")


@pytest.mark.parametrize("lines", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_windows_files_are_read(tmp_path: Path, lines: str, mark: bytes) -> None:
    path = tmp_path / "r.toml"
    text = HEAD + 'negative = """a\nb"""\n[matrix]\ncolour = ["red"]\n'
    path.write_bytes(mark + text.replace("\n", lines).encode())
    assert load_batch(path).assets[0].id == "r-red"


def test_a_million_is_refused_by_its_number_before_anything_is_expanded(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    axes = "\n".join(f"{name} = {list(range(100))}" for name in "abc")
    path.write_text(f"{HEAD}[matrix]\n{axes}\n", encoding="utf-8")
    began = time.process_time()
    with pytest.raises(BadInput, match=r"r.toml: the matrix asks for 1000000 assets, the limit is 100000\."):
        load_batch(path)
    assert time.process_time() - began < 1.0
    with pytest.raises(BadInput, match="asks for 10000 assets, the limit is 9999"):
        load_batch(path, ["vars.a=1"], limit=9999)
    path.write_text(HEAD + "[matrix]\n" + "\n".join(f"axis_{n} = {list(range(10))}" for n in range(300)))
    with pytest.raises(BadInput, match=f"asks for 1{'0' * 300} assets"):  # no number is too large to be said
        load_batch(path)


def test_a_million_files_are_not_listed(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(b"")
    path = tmp_path / "r.toml"
    path.write_text('format = 1\npipeline = "image_to_mesh"\nimage = "*.png"\n')
    with pytest.raises(BadInput, match="names more than 20 files"):
        load_batch(path, limit=20)


@pytest.mark.parametrize("words", [["show", "bad.toml"], ["show", "none.toml"], ["show", "good.toml", "mgu"],
                                   ["show", "good.toml", "--set", "x"], ["show", "good.toml", "--stages"]])
def test_the_verb_answers_with_one_line_and_exit_code_2(tmp_path: Path, words: list[str],
                                                        capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text(HEAD + "sede = 3")
    Path("good.toml").write_text(HEAD + "[[asset]]\nid = 'mug'\n[[asset]]\nid = 'cup'")
    with pytest.raises(SystemExit) as caught:
        main(words)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and len(told.strip().splitlines()) == 1 and "toml" in told + words[1]
    assert words[2:] != ["mgu"] or "Did you mean mug?" in told
