"""How files of weights are called: which names are one model in one precision, alone or in shards. Names only."""

from __future__ import annotations

import re
from collections.abc import Iterable

KINDS = (".safetensors", ".bin")
"""Endings of weights within a component, the preferred one first."""
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
PICKLES = (".ckpt", ".pth", ".pt", ".bin")
USUAL = ("diffusion_pytorch_model", "model", "pytorch_model", "pytorch_lora_weights")
"""Stems that the libraries write; another name beside one of these is an extra."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_PRECISION = re.compile(r"\d*[a-z][a-z0-9_]*")


def split(name: str) -> tuple[str, str, str, bool, bool] | None:
    """(stem, kind, variant, is an index, is a shard) of a file name of weights; None for any other.

    "model.fp16-00001-of-00002.safetensors" -> ("model", ".safetensors", "fp16", False, True)
    """
    plain = _SHARD.sub("", name)
    index = plain.endswith(".json") and ".index" in plain
    if index:
        plain = plain.removesuffix(".json").replace(".index", "")
    kind = next((kind for kind in KINDS if plain.endswith(kind) or f"{kind}." in plain), "")
    if not kind or not (index or plain.endswith(kind)):
        return None
    stem, *middle = plain.replace(kind, "", 1).split(".")
    variants = [part for part in middle if _PRECISION.fullmatch(part)]
    versions = [part for part in middle if part not in variants]
    return ".".join([stem, *versions]), kind, ".".join(variants), index, bool(_SHARD.search(name))


def pick(names: Iterable[str], variant: str = "") -> list[list[str]]:
    """The weights that a folder's names offer in the wanted precision: each choice as [file] or [index, shards...].

    variant : "fp16", ...; where the folder has none, full precision is taken, else half. Safetensors come before .bin.
    Several choices: the folder holds several models; none: no weights.
    """
    held = {name: told for name in sorted(names) if (told := split(name))}
    for precision in dict.fromkeys((variant, "", "fp16")):
        for kind in KINDS:
            mine = {name: told for name, told in held.items() if told[1] == kind and told[2] == precision}
            found: dict[str, list[str]] = {}
            for name, (stem, _, _, index, shard) in mine.items():
                if index:
                    shards = [other for other, told in mine.items() if told[0] == stem and told[4]]
                    found[stem] = [name, *shards]
                elif not shard and stem not in found:
                    found[stem] = [name]
            usual = [stem for stem in USUAL if stem in found]
            if usual:
                return [found[usual[0]]]
            if found:
                return list(found.values())
    return []


def is_weights(name: str) -> bool:
    """Whether a file holds weights (or says in which files they lie)."""
    return name.endswith(SUFFIXES) or split(name) is not None


NO_WEIGHTS = re.compile(r"(.*_)?scheduler|tokenizer(_\d)?|feature_extractor.*|processor")
"""Components that are settings only."""


def choose(names: Iterable[str], wanted: Iterable[str], variant: str = "") -> tuple[list[str], list[str]]:
    """(the files that a catalogue entry means, what of it is not there).

    names : all files of a repository or folder, with forward slashes; wanted : names, "folder/", or "./" for the top
    """
    every = set(names)
    chosen: list[str] = []
    missing: list[str] = []
    for item in wanted:
        if not item.endswith("/"):
            (chosen if item in every else missing).append(item)
            continue
        prefix = "" if item == "./" else item
        members = [name for name in every if name.startswith(prefix) and "/" not in name[len(prefix):]]
        offers = pick([name[len(prefix):] for name in members], variant)
        settings = [name for name in members if name.endswith((".json", ".txt", ".model")) and not is_weights(name)]
        needs_weights = not NO_WEIGHTS.fullmatch(item.rstrip("/").rpartition("/")[2])
        if needs_weights and len(offers) != 1:
            missing.append(item + ("" if not offers else " (several files of weights: "
                                   + ", ".join(offer[0] for offer in offers) + ")"))
        elif not needs_weights and not settings:
            missing.append(item)
        else:
            chosen += sorted(settings) + [prefix + name for offer in offers for name in offer if needs_weights]
    return list(dict.fromkeys(chosen)), missing
