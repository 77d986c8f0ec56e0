"""3MF, the core of it: a zip with one model in millimetres. https://github.com/3MFConsortium/spec_core

Unlike STL it says its unit, its name and its papers, and vertices are shared, so that closed stays closed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from engine.export.papers import as_text
from engine.export.stl import Solid

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
PAPERS = "https://maquette.invalid/papers"
"""A namespace of our own: names that the core does not know must have one."""
TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>
"""
RELATIONS = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Target="/3D/3dmodel.model" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>
"""


def threemf_bytes(solid: Solid, name: str, papers: Mapping[str, Any] | None = None) -> bytes:
    """The file's bytes; equal input makes equal bytes. Positions with nine digits: float32 loses nothing."""
    told = [f'<metadata name="Title">{escape(name)}</metadata>', '<metadata name="Application">Maquette</metadata>']
    if papers:
        told += [f'<metadata name="maquette:papers">{escape(_clean(as_text(dict(papers))))}</metadata>']
    vertices = "\n".join(f'<vertex x="{x:.9g}" y="{y:.9g}" z="{z:.9g}"/>' for x, y, z in solid.vertices.tolist())
    triangles = "\n".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in solid.faces.tolist())
    model = (f'<?xml version="1.0" encoding="UTF-8"?>\n<model unit="millimeter" xml:lang="en-US" xmlns="{CORE}" '
             f'xmlns:maquette="{PAPERS}">\n' + "\n".join(told) + f'\n<resources>\n<object id="1" type="model" '
             f'name={quoteattr(name)}>\n<mesh>\n<vertices>\n{vertices}\n</vertices>\n<triangles>\n{triangles}\n'
             '</triangles>\n</mesh>\n</object>\n</resources>\n<build>\n<item objectid="1"/>\n</build>\n</model>\n')
    return zipped({"[Content_Types].xml": TYPES.encode(), "_rels/.rels": RELATIONS.encode(),
                   "3D/3dmodel.model": model.encode()})


def zipped(files: Mapping[str, bytes], compress: bool = True) -> bytes:
    """A zip without times or owners, in the order given: equal files make equal bytes."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as target:
        for path, data in files.items():
            about = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            about.external_attr = 0o644 << 16
            about.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            target.writestr(about, data)
    return memory.getvalue()


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c for c in text if c >= " " or c in "\t\n")
