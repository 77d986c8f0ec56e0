"""What a file or folder of weights is: the answer of ``maquette models inspect``. Headers only, nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.models.reader import Header, component_headers, read_header

SCHEMA = 1


@dataclass(frozen=True)
class Inspection:
    """One answer; :meth:`to_json` is the schema that ``--json`` prints.

    format : "safetensors", "pickle" or "mixed"; wrapper : name under which a pickle keeps its tensors, "" at the top
    family, role, layout, parts, missing, unexpected, wrong, spare, nearest, note : ``engine.models.layouts.Layout``
    families : other families that the same names and shapes serve
    precision : type of most of the numbers; dtypes : type -> numbers; elements : numbers in all; tensors : how many
    files : the files looked at
    """

    path: str
    format: str
    wrapper: str
    family: str
    families: tuple[str, ...]
    role: str
    layout: str
    parts: tuple[str, ...]
    precision: str
    dtypes: dict[str, int]
    tensors: int
    elements: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[str, ...]
    spare: Mapping[str, int]
    nearest: str
    note: str
    metadata: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all of it is known and nothing is missing."""
        return self.family != "unknown" and not (self.missing or self.unexpected or self.wrong)

    def to_json(self) -> dict[str, Any]:
        """Schema 1: keys stay, in this order."""
        told = {"schema": SCHEMA, **asdict(self)}
        return {key: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
                for key, value in told.items()}


def examine(path: Path) -> Inspection:
    """Look at a file, an ``*.index.json``, or a folder (one model, or diffusers' components). BadInput as the reader's.
    """
    from engine.models.layouts import recognise
    headers: dict[str, Header] = component_headers(path) if path.is_dir() else {"": read_header(path)}
    one = next(iter(headers.values()))
    layout = recognise(one if list(headers) == [""] else headers)
    dtypes: dict[str, int] = {}
    for header in headers.values():
        for kind, count in header.dtypes.items():
            dtypes[kind] = dtypes.get(kind, 0) + count
    dtypes = dict(sorted(dtypes.items(), key=lambda item: -item[1]))
    formats = {header.format for header in headers.values()}
    seen = [file for header in headers.values() for file in (header.path, *header.shards)]
    return Inspection(
        path=str(path), format=formats.pop() if len(formats) == 1 else "mixed", wrapper=one.wrapper,
        family=layout.family, families=_kin(layout.family), role=layout.role, layout=layout.layout,
        parts=tuple(layout.parts), precision=next(iter(dtypes), ""), dtypes=dtypes,
        tensors=sum(len(header.tensors) for header in headers.values()),
        elements=sum(header.elements for header in headers.values()), missing=tuple(layout.missing),
        unexpected=tuple(layout.unexpected), wrong=tuple(layout.wrong), spare=dict(layout.spare),
        nearest=layout.nearest, note=layout.note, metadata=dict(one.metadata), files=tuple(str(file) for file in seen))


def _kin(family: str) -> tuple[str, ...]:
    """Families that are the same networks used otherwise: they stand on it, or it stands on them."""
    from engine.models.blueprints import BASES
    return tuple(sorted({name for name, base in BASES.items() if base == family}
                        | ({BASES[family]} if family in BASES else set())))
