"""What a user puts on a text-to-image model: LoRAs, several at once with their scales, and new words (textual
inversion).

``Adapted`` holds the parameters, for every stage that draws; ``adapted`` gives the model with them in, on twins, so
that the networks which other stages share stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from engine.diffusion import embeddings, lora, lora_files, prompt
from engine.diffusion.embeddings import Embedding
from engine.diffusion.lora import Lora
from engine.errors import BadInput
from engine.job import Job, Params
from engine.models import memory

T = TypeVar("T")
Names = str | tuple[str, ...]
FILES = ("lora", "embedding")
"""Parameters that are paths of files; beside each stands its digest."""


class Adapted(Params):
    """Parameters of what is put on the model."""

    lora: Names = Field("", exclude=True, description="LoRA files (.safetensors), one or a list: what `maquette train "
                        "lora` writes, or others' in the layouts of diffusers, peft and kohya; or ids of added ones. "
                        "Their digests stand for them in keys.")
    lora_digest: Names = Field("", description="SHA-256 of the LoRAs' files; taken from the files where not given.")
    lora_scale: float | tuple[float, ...] = Field(1.0, description="How much each counts, -2 to 2; 1 as trained.")
    embedding: Names = Field("", exclude=True, description="Textual inversion files, one or a list; the prompt may "
                                                           "then hold their words.")
    embedding_digest: Names = Field("", description="SHA-256 of their files; taken from the files where not given.")
    allow_pickle: bool = Field(False, exclude=True, description="Read LoRAs and embeddings that are kept as pickles "
                                                                "too: tensors only, nothing in them is run.")

    @field_validator("lora_scale")
    @classmethod
    def _scales(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if not all(-2 <= scale <= 2 for scale in _listed(value)):
            raise ValueError("a LoRA's scale must lie in -2 to 2")
        return value

    @model_validator(mode="before")
    @classmethod
    def _digests(cls, values: Any) -> Any:
        """The files are known, and found to be what they should be, before anything runs."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        if not values.get("lora") and (values.get("lora_digest") or values.get("lora_scale", 1) != 1):
            raise ValueError("lora_digest and lora_scale have no meaning without lora")
        if not values.get("embedding") and values.get("embedding_digest"):
            raise ValueError("embedding_digest has no meaning without embedding")
        pickles = values.get("allow_pickle") is True
        for name, digest in (("lora", lora_files.digest), ("embedding", _embedding_digest)):
            given = values.get(name)
            if isinstance(given, str | list | tuple) and given and not values.get(f"{name}_digest"):
                found = tuple(digest(str(place(path)), pickles) for path in _listed(given))
                values[f"{name}_digest"] = found[0] if isinstance(given, str) else found
        scales = values.get("lora_scale", 1)
        if isinstance(scales, list | tuple) and len(scales) != len(_listed(values.get("lora") or ())):
            raise ValueError(f"there are {len(scales)} scales for {len(_listed(values.get('lora') or ()))} LoRAs")
        return values

    @model_serializer(mode="wrap")
    def _without_absent_ones(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a LoRA or an embedding its parameters are no part of keys: those of before there were any stay."""
        values: dict[str, Any] = handler(self)
        if not self.lora:
            del values["lora_digest"], values["lora_scale"]
        if not self.embedding:
            del values["embedding_digest"]
        return values


@dataclass(frozen=True)
class OnTop:
    """What was put on a model: LoRAs with their scales, embeddings, and the digests of their files."""

    loras: tuple[tuple[Lora, float, str], ...] = ()
    embeddings: tuple[tuple[Embedding, str], ...] = ()

    def spelled(self, text: str) -> str:
        """A prompt as the tokenizer must be given it."""
        return embeddings.spelled(text, [e for e, _ in self.embeddings])

    @property
    def words(self) -> set[str]:
        """What prompts may hold now, beside the words that the model knows."""
        told = [one.token for one, *_ in self.loras] + [e.token for e, _ in self.embeddings]
        return {word for token in told for word in prompt.words(token)}

    @property
    def papers(self) -> dict[str, Any]:
        """For the picture's own record. One LoRA stands for itself, several in a list."""
        told = [{"sha256": digest, "scale": scale, **one.card} for one, scale, digest in self.loras]
        made: dict[str, Any] = {"lora": told[0] if len(told) == 1 else told} if told else {}
        if self.embeddings:
            made["embeddings"] = [{"token": e.token, "sha256": digest} for e, digest in self.embeddings]
        return made

    def warn(self, text: str, job: Job) -> None:
        """Say what drew along, under which licence, and whose word the prompt lacks."""
        for one, _, _ in self.loras:
            licence = (f"licence {one.card.get('licence') or 'unknown'}" if one.card else
                       "no papers: licence unknown")
            job.warn(f"drawn with the LoRA {one.name} ({licence})")
            if one.token and one.token not in prompt.words(text):
                job.warn(f"the prompt does not hold {one.token!r}, the word that {one.name} was taught")
        for new, _ in self.embeddings:
            job.warn(f"drawn with the embedding {new.name} (no papers: licence unknown)")
            if new.token.lower() not in text.lower():
                job.warn(f"the prompt does not hold {new.token!r}, the word of {new.name}")


def adapted(model: Any, p: Adapted) -> tuple[Any, OnTop]:
    """The model with all that the parameters put on it; the one that was given stays as it is.

    Raises BadInput for files that changed since they were named, of another family, and for names of layers that the
    model has not.
    """
    loras, found = _loras(p), _embeddings(p)
    if loras:
        model = _with_loras(model, loras)
    if found:
        texts = embeddings.taught(model.text_encoders, [e for e, _ in found], model.name)
        if not texts:
            raise BadInput(f"{model.name} reads no words that {found[0][0].name} could add to",
                           "leave the embedding out")
        model = model.with_text_encoders(texts)
    return model, OnTop(tuple(loras), tuple(found))


def _with_loras(model: Any, loras: list[tuple[Lora, float, str]]) -> Any:
    if memory.streams(model.unet):
        raise BadInput(f"a LoRA cannot be put on a network that goes through {model.device} block by block",
                       "free memory there, or use --device cpu")
    unet = lora.twin(model.unet)
    readers: dict[str, Any] = {}
    for i, (one, scale, _) in enumerate(loras):
        _same_family(model, one)
        name = lora.ADAPTER if len(loras) == 1 else f"{lora.ADAPTER}_{i}"
        lora.apply(unet, one, scale, name)
        for part, update in one.text.items():
            reader = readers.get(part) or getattr(model, part, None)
            if reader is None:
                raise BadInput(f"{one.name} was trained on another family: it changes {part}, which {model.name} has "
                               "not", lora.AGAIN)
            if part not in readers:
                reader = readers[part] = lora.twin(reader)
            lora.apply(reader, update, scale, name)
    return model.changed(unet=unet, **readers)


def _same_family(model: Any, one: Lora) -> None:
    """Layers of one name and shape may be of another family, and draw noise."""
    own = model.family.partition("_")[0]
    if one.family and own in _TOLD_APART and one.family != own:
        raise BadInput(f"{one.name} is a LoRA of {one.family}, and {model.name} is of {own}",
                       f"choose a model of the family {one.family} (`maquette models list`), or a LoRA of {own}")


_TOLD_APART = ("sd15", "sd21", "sdxl", "sd3")


def _loras(p: Adapted) -> list[tuple[Lora, float, str]]:
    """What the parameters name, as it was when they were resolved."""
    files = _listed(p.lora)
    scales = _listed(p.lora_scale)
    scales = scales * len(files) if len(scales) == 1 else scales
    return [(_unchanged(path, digest, lora_files.digest, lora_files.read, p.allow_pickle), scale, digest)
            for path, digest, scale in zip(files, _listed(p.lora_digest), scales, strict=True)]


def _embeddings(p: Adapted) -> list[tuple[Embedding, str]]:
    return [(_unchanged(path, digest, _embedding_digest, embeddings.read, p.allow_pickle), digest)
            for path, digest in zip(_listed(p.embedding), _listed(p.embedding_digest), strict=True)]


def _unchanged(path: str, digest: str, now: Callable[[str, bool], str], read: Callable[[Path, bool], T],
               allow_pickle: bool) -> T:
    path = str(place(path))
    if (found := now(path, allow_pickle)) != digest:
        raise BadInput(f"{path} changed since the run was planned: sha256 expected {digest}, found {found}",
                       "start again")
    return read(Path(path), allow_pickle)


def place(name: str) -> Path:
    """A file by its path, or by the id under which `maquette models add` keeps it. What is neither stays a path, and
    is refused as one."""
    path = Path(name)
    if not path.exists():
        from engine.models import catalogue, local
        found = catalogue.models().get(name)
        here = local.find(found) if found is not None and found.role == "lora" else None
        if here is not None and here.weights:
            return next(iter(here.weights.values()))
    return path


def _embedding_digest(path: str | Path, allow_pickle: bool = False) -> str:
    """SHA-256 of an embedding's file; what is none is refused here, before anything runs."""
    from engine.models import adapter_layouts
    from engine.models.reader import read_header
    from engine.runs.files import file_digest
    header = read_header(Path(path))
    if header.format == "pickle" and not allow_pickle:
        raise BadInput(f"{path} is a pickle; only safetensors are loaded by default",
                       "set allow_pickle=true: its tensors are then read and nothing in it is run")
    if any(adapter_layouts.lora_tensor(name) for name in header.tensors):
        raise BadInput(f"{path} is a LoRA, no textual inversion", "give it as lora")
    return file_digest(Path(path))


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) if value != "" else ()
