"""The built-in tokenizer: one token for each word of the frozen vocabulary, bytes for everything else.

A piece of text becomes "▁" + word; what the vocabulary does not hold falls apart into "▁" and its UTF-8 bytes, so
every text has ids and every id means the same for ever: the order of the list is the order of the ids.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from engine.models.sets import BUILTIN_FOLDER
from engine.toybox.vocabulary import PUNCTUATION, WORDS

PAD, BOS, UNK, EOS = "<pad>", "<bos>", "<unk>", "<eos>"
SPECIALS = (PAD, BOS, UNK, EOS)
"""Ids 0 to 3. The end is not id 2: transformers' CLIP takes that for an old configuration and pools elsewhere."""
LENGTH = 32
SPACE = "▁"


def vocabulary(words: tuple[str, ...] = WORDS) -> dict[str, int]:
    """Token -> id: specials, 256 bytes, the lone space mark, punctuation, words."""
    tokens = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256)), SPACE, *(SPACE + p for p in PUNCTUATION),
              *(SPACE + w for w in words)]
    return {token: i for i, token in enumerate(tokens)}


def build(words: tuple[str, ...] = WORDS, length: int = LENGTH) -> Any:
    """-> transformers' PreTrainedTokenizerFast: <bos> words <eos>, cut and padded to ``length`` by whoever asks."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    ids = vocabulary(words)
    core = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=UNK, byte_fallback=True, ignore_merges=True))
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Split(Regex(r"[\p{L}\p{N}\p{M}]+|[^\p{L}\p{N}\p{M}]"), "isolated"),
        pre_tokenizers.Metaspace(SPACE, "always", False)])
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=length, pad_token=PAD, bos_token=BOS, unk_token=UNK, eos_token=EOS,
        padding_side="right", truncation_side="right", clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"])


def export_tokenizer(root: Path = BUILTIN_FOLDER) -> Path:
    """Write ``root/tokenizer`` with its card."""
    from engine.training.export import export

    def save(folder: Path) -> None:
        build().save_pretrained(folder)
        for extra in folder.iterdir():  # nothing but the two files of the layout
            if extra.name not in ("tokenizer.json", "tokenizer_config.json"):
                shutil.rmtree(extra) if extra.is_dir() else extra.unlink()

    return export(
        "tokenizer", save, about="Tokenizer of the built-in models: whole words of a frozen list, bytes for the rest.",
        data=f"No training: {len(WORDS)} words of engine/toybox/vocabulary.py in their frozen order.",
        limits=f"English, case-insensitive, {LENGTH} tokens; a word outside the list costs one token a byte.",
        extra={"words": len(WORDS)}, root=root)
