"""The tokenizer's ids are what all weights stand on: they never change."""

import hashlib
import json

import pytest

from engine.models.loading import load_tokenizer
from engine.models.sets import BUILTIN_FOLDER
from engine.toybox.vocabulary import PUNCTUATION, WORDS
from engine.training.tokenizer import BOS, EOS, LENGTH, PAD, build, vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return build()


def test_every_word_has_one_id_of_its_own(tokenizer) -> None:
    first = 4 + 256 + 1 + len(PUNCTUATION)
    for i, word in enumerate(WORDS):
        assert tokenizer(word).input_ids == [1, first + i, 3]
        assert tokenizer(word.upper()).input_ids == [1, first + i, 3]


def test_ids_are_the_ones_that_weights_were_trained_on(tokenizer) -> None:
    assert tokenizer("A red mug, side view").input_ids == [1, 645, 411, 271, 261, 505, 508, 3]
    digest = hashlib.sha256(json.dumps(vocabulary(), sort_keys=True).encode()).hexdigest()
    assert digest == ("0d480568b26181c23e9a2803fad22181d9cdacce22d50ac8e1b82ea2c6064ac7"
                      ), "the ids moved: every trained weight would be lost"


def test_shipped_tokenizer_is_this_one(tokenizer) -> None:
    shipped = load_tokenizer(BUILTIN_FOLDER / "tokenizer")
    for text in ("a tall red mug with white dots, top view", "zyx Ünïcode 名前 🙂", ""):
        assert shipped(text).input_ids == tokenizer(text).input_ids
    assert (shipped.pad_token, shipped.bos_token, shipped.eos_token) == (PAD, BOS, EOS)
    assert shipped.model_max_length == LENGTH == 32


@pytest.mark.parametrize("text", ["xylo", "café", "名前", "🙂"])
def test_unknown_words_are_their_bytes(tokenizer, text: str) -> None:
    ids = tokenizer(text).input_ids[1:-1]
    assert [i - 4 for i in ids[1:]] == list(text.encode())
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_words_between_hyphens_and_commas_are_found(tokenizer) -> None:
    assert tokenizer.decode(tokenizer("Low-poly mug,red").input_ids, skip_special_tokens=True) == "low - poly mug , red"


def test_long_text_is_cut_and_short_text_is_padded(tokenizer) -> None:
    made = tokenizer(["mug " * 50, "mug"], padding="max_length", truncation=True, max_length=LENGTH).input_ids
    assert [len(m) for m in made] == [LENGTH, LENGTH]
    assert made[0][-1] == 3 and made[1][2:] == [3] + [0] * 29
