"""Textual inversion (Gal et al. 2022): new words for a text encoder, each one or several rows of its embedding table.

Files of diffusers ({token: rows}), of A1111 (``emb_params``, or ``string_to_param``) and of SDXL (``clip_l``,
``clip_g``). The encoder and tokenizer that are given stay as they are: twins of them learn the word.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.diffusion.lora import twin
from engine.errors import BadInput

HINT = "give a textual inversion of the model's own family, as diffusers or A1111 save it"
_NO_WORDS = ("emb_params", "clip_l", "clip_g", "string_to_param", "string_to_token", "*")


@dataclass(frozen=True)
class Embedding:
    """token : the word in prompts; rows : width of an encoder's table -> (n, width), float32; name : the file's"""

    token: str
    rows: dict[int, Tensor]
    name: str = "the embedding"

    @property
    def tokens(self) -> list[str]:
        """One token a row: "cat", "cat_1", "cat_2", ..."""
        n = len(next(iter(self.rows.values())))
        return [self.token, *(f"{self.token}_{i}" for i in range(1, n))]


def read(path: Path, allow_pickle: bool = False) -> Embedding:
    """An embedding from a file. Its word is the one that the file names, else the file's own name.

    Raises BadInput where it is none, or a pickle that was not allowed.
    """
    from engine.models.reader import read_tensors
    tensors = read_tensors(path, allow_pickle=allow_pickle)
    rows: dict[int, Tensor] = {}
    token = ""
    for name, value in tensors.items():
        if value.ndim not in (1, 2) or not value.is_floating_point():
            raise BadInput(f"{path} is no textual inversion: {name} has the shape {list(value.shape)}", HINT)
        value = value.reshape(-1, value.shape[-1]).float()
        if value.shape[-1] in rows:
            raise BadInput(f"{path} is no textual inversion: it holds several embeddings of {value.shape[-1]} numbers",
                           HINT)
        rows[value.shape[-1]] = value
        if not name.startswith(_NO_WORDS) and "string_to_param" not in name:
            token = name
    if not rows or len({len(value) for value in rows.values()}) != 1:
        raise BadInput(f"{path} is no textual inversion", HINT)
    return Embedding(token or re.sub(r"\s+", "_", path.stem), rows, path.name)


def taught(pairs: Sequence[tuple[Any, Any]], embeddings: Sequence[Embedding], model: str = "the model"
           ) -> list[tuple[Any, Any]]:
    """(text encoder, tokenizer) pairs -> twins that know the embeddings' words.

    Raises BadInput where an embedding has no rows for one of them, and where a word is known already.
    """
    if not embeddings:
        return list(pairs)
    made = []
    for shared, words in pairs:
        encoder, tokenizer = twin(shared), copy.deepcopy(words)
        rows = encoder.get_input_embeddings().weight.detach()
        for embedding in embeddings:
            own = embedding.rows.get(rows.shape[1])
            if own is None:
                held = ", ".join(str(width) for width in sorted(embedding.rows))
                raise BadInput(f"{embedding.name} is of another family: its rows have {held} numbers, the text encoder "
                               f"of {model} reads {rows.shape[1]}", HINT)
            known = tokenizer.get_vocab()
            if twice := [token for token in embedding.tokens if token in known]:
                raise BadInput(f"{model} knows the word {twice[0]!r} of {embedding.name} already",
                               "rename the file, or leave one of the two out")
            first = len(tokenizer)
            if first > len(rows):
                raise BadInput(f"the tokenizer of {model} has more words than its text encoder",
                               "pull the model again")
            tokenizer.add_tokens(embedding.tokens)
            rows = torch.cat([rows[:first], own.to(rows)])  # a table may have been longer than the list of words
        encoder.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=True))
        made.append((encoder, tokenizer))
    return made


def spelled(text: str, embeddings: Sequence[Embedding]) -> str:
    """A prompt with each word of several rows written as all of its tokens: "a cat" -> "a cat cat_1 cat_2"."""
    for embedding in embeddings:
        if len(embedding.tokens) > 1:
            text = re.sub(rf"(?<!\w){re.escape(embedding.token)}(?!\w)",
                          lambda _, e=embedding: " ".join(e.tokens), text)  # type: ignore[misc]
    return text
