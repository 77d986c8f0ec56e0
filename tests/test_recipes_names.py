"""Names in a recipe: ids that are folders everywhere; names in braces that stand for values and for nothing else."""

from __future__ import annotations

import random
import string
import unicodedata

import pytest

from engine.errors import BadInput
from engine.recipes.names import MAX_BYTES, MAX_CHARACTERS, check_id, id_of, slug, twin
from engine.recipes.templates import check_names, names_in, render


@pytest.mark.parametrize("id", ["mug", "Mug-2.old", "_x", "9", "a" * 80, "krüge", "桶", "con_2", "console", "com",
                                "a..b"])
def test_ids_that_are_folders_everywhere_stay_as_they_are(id: str) -> None:
    assert check_id(id) == id


@pytest.mark.parametrize("id", [
    "", ".", "..", "../x", "a/b", "a\\b", "/etc", "C:", "c:x", "a b", "x.", "x ", "-x", ".x", "a\0b", "a\nb", "a\x7f",
    "*", "CON", "con", "nul.txt", "Aux.tar.gz", "COM1", "lpt9.x", "com²", "ＣＯＮ", "conin$", "a" * 81,
    "a" * 300, "桶" * 60,
    "a\u202eb", "\ud800", "a|b", "a\u2215b",
])
def test_ids_that_some_system_cannot_have_are_refused(id: str) -> None:
    with pytest.raises(BadInput, match="^here: the id ") as caught:
        check_id(id, "here: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_id_is_kept_in_composed_form() -> None:
    assert check_id(unicodedata.normalize("NFD", "krüge")) == unicodedata.normalize("NFC", "krüge")


@pytest.mark.parametrize(("one", "other"), [
    ("Mug", "mUG"), ("straße", "STRASSE"), ("ﬁsh", "fish"), ("ｍug", "mug"), ("é", "E\u0301"), ("x²", "X2"),
    ("ﬃ", "FFI")])
def test_twins_are_one_name_on_some_system(one: str, other: str) -> None:
    assert twin(one) == twin(other)


def test_what_is_made_of_any_words_is_a_safe_id() -> None:
    draws = random.Random(6)
    signs = string.printable + "äßé桶\u202e\u0301²ﬁ№\0 ../\\"
    for _ in range(3000):
        id = id_of(["".join(draws.choice(signs) for _ in range(draws.randrange(100)))])
        assert check_id(id) == id and len(id) <= MAX_CHARACTERS and len(id.encode()) <= MAX_BYTES
    assert id_of(["CON"]) == "con_asset" and id_of(["!", "../../etc/passwd"]) == "etc_passwd" and id_of([]) == "asset"
    assert slug("A Red-Mug (2)!") == "a_red_mug_2" and slug("🐟") == ""


class Trap:
    """Says when somebody looks into it."""

    def __getattribute__(self, name: str) -> object:
        if name == "__class__":
            return Trap
        raise AssertionError(f"looked up {name}")

    def __getitem__(self, name: object) -> object:
        raise AssertionError(f"looked up [{name}]")

    def __format__(self, how: str) -> str:
        raise AssertionError("formatted")

    def __str__(self) -> str:
        return "trap"


KNOWN = {"colour": "red", "n": 3, "yes": True, "part": 0.5, "x": Trap(), "braces": "{colour} {{n}} {x.__class__}"}


@pytest.mark.parametrize(("text", "result"), [
    ("a {colour} mug", "a red mug"), ("{n}{n}", "33"), ("{yes} {part}", "true 0.5"), ("{x}", "trap"), ("", ""),
    ("{x.__class__}", "{x.__class__}"), ("{x[0]}", "{x[0]}"), ("{x!r}", "{x!r}"), ("{n:>9999999}", "{n:>9999999}"),
    ("{0} {} { n } {n", "{0} {} { n } {n"), ("{{n}}", "{n}"), ("{{{n}}}", "{3}"), ("a}}b", "a}b"), ("}{", "}{"),
    ("{braces}", "{colour} {{n}} {x.__class__}"), ("a\n{n}\r\nb", "a\n3\r\nb"), ("%s ${n} $n", "%s $3 $n"),
    ("{größe}", "{größe}"), ("{n\n}", "{n\n}"),
])
def test_known_names_are_replaced_and_nothing_else(text: str, result: str) -> None:
    check_names(text, KNOWN, "r.toml: prompt")
    assert render(text, KNOWN) == result


def test_a_plain_name_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"r.toml: prompt: nothing is called \{color\}. Did you mean colour\?"):
        check_names("a {color} mug", KNOWN, "r.toml: prompt")
    assert names_in("{a} {{b}} {c.d} {e}") == ["a", "e"]


def test_a_text_of_braces_takes_no_time() -> None:
    text = "{" * 50_000 + "n" + "}" * 50_000
    assert render(text, {"n": 1}) == "{" * 25_000 + "n" + "}" * 25_000
