"""Prompts: their limits, the words a model knows, their tokens, and what they say about the view."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

MAX_CHARACTERS = 1000
EMPTY_WORDS = frozenset(("a", "an", "the", "and", "with", "of", "its", "is", "has", "from", "one", "object", "prop",
                         "model", "asset", "game", "3d", "picture"))
"""Words that say nothing of what is to be seen: no loss where a model never met them."""
_WORD = re.compile(r"[^\W_]+", re.UNICODE)


def check(prompt: str, what: str = "the prompt") -> str:
    """The prompt with its white space made plain. Raises BadInput when it is empty, too long or holds no word."""
    if len(prompt) > MAX_CHARACTERS:
        raise BadInput(f"{what} has {len(prompt):,} characters; the limit is {MAX_CHARACTERS:,}", "shorten it")
    plain = " ".join(prompt.split())
    if not plain:
        raise BadInput(f"{what} is empty", 'say what to make, for instance "a red mug"')
    if not _WORD.search(plain):
        raise BadInput(f"{what} holds no word: {plain[:40]!r}", 'say what to make, for instance "a red mug"')
    return plain


def words(prompt: str) -> list[str]:
    """The words of a prompt, lower case, in order: "A red-brick house" -> a, red, brick, house."""
    return [w.lower() for w in _WORD.findall(prompt)]


@dataclass(frozen=True)
class Unknown:
    """A word that a model never saw, and the nearest ones that it knows (best first, perhaps none)."""

    word: str
    nearest: tuple[str, ...]


def unknown_words(prompt: str, known: Iterable[str]) -> list[Unknown]:
    """The words of ``prompt`` outside ``known``, once each, in order."""
    vocabulary = sorted(set(known))
    seen = set(vocabulary)
    missing = [w for w in dict.fromkeys(words(prompt)) if w not in seen]
    return [Unknown(w, tuple(difflib.get_close_matches(w, vocabulary, n=2, cutoff=0.6))) for w in missing]


def unknown_words_warning(unknown: Sequence[Unknown]) -> str:
    """One line that names every unknown word and the nearest known ones."""
    named = [f"{u.word!r}" + (f" (nearest known: {', '.join(u.nearest)})" if u.nearest else " (nothing near is known)")
             for u in unknown]
    return f"the models never saw {', '.join(named)}: expect the picture to miss {'it' if len(named) == 1 else 'them'}"


@dataclass(frozen=True)
class View:
    """Where a prompt says it is seen from; degrees."""

    azimuth_deg: float
    elevation_deg: float
    said: bool


DEFAULT_ELEVATION_DEG = 20.0
TOP_ELEVATION_DEG = 55.0
_AZIMUTHS = {"front": 0.0, "side": 90.0, "right": 90.0, "back": 180.0, "left": 270.0}


def view_of(prompt: str) -> View:
    """Azimuth and elevation from a prompt's view words ("side view", "from behind", "from above", ...).

    Without any, the front at 20 degrees. The words mean what they meant in the training captions: front 0, side and
    right 90, back 180, left 270; top 55 degrees up.
    """
    text = " ".join(words(prompt))
    azimuth, elevation, said = 0.0, DEFAULT_ELEVATION_DEG, False
    for word, angle in _AZIMUTHS.items():
        if re.search(rf"\b{word}( side)? view\b|\b(from|view from|seen from) (the )?{word}\b", text):
            azimuth, said = angle, True
    if re.search(r"\bfrom behind\b", text):
        azimuth, said = 180.0, True
    if re.search(r"\btop view\b|\bfrom (the )?(top|above)\b", text):
        elevation, said = TOP_ELEVATION_DEG, True
    return View(azimuth, elevation, said)


def token_ids(tokenizer: Any, texts: Sequence[str], device: Any = "cpu", length: int | None = None) -> Tensor:
    """-> (b, tokens) int64, padded and cut to ``length`` or the tokenizer's own; no attention mask, as Stable Diffusion
    reads."""
    made = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt",
                     max_length=length or tokenizer.model_max_length)
    return made.input_ids.to(device)


def encode(text_encoder: Any, tokenizer: Any, texts: Sequence[str], device: Any = "cpu") -> Tensor:
    """-> (b, tokens, d), CLIP's last hidden state: the context of the U-Net's cross-attention."""
    return text_encoder(input_ids=token_ids(tokenizer, texts, device)).last_hidden_state


def cut_off(tokenizer: Any, prompt: str) -> str:
    """What of a prompt lies beyond the tokenizer's length and is not seen; "" when all is seen."""
    ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
    limit = tokenizer.model_max_length
    if len(ids) <= limit:
        return ""
    end = tokenizer.num_special_tokens_to_add() // 2  # the tokens after the text (the end token)
    return str(tokenizer.decode(ids[limit - end:], skip_special_tokens=True)).strip()
