"""What a pose file is, by its content, and its digest: asked before anything runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from engine.clips.poses import armature
from engine.clips.poses.openpose import numbered
from engine.clips.poses.video import PICTURES, is_picture_folder
from engine.errors import BadInput

KINDS = ("openpose", "bvh", "armature", "video", "pictures")
MOVING = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".ogv", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
HINT = "give OpenPose JSON (a file or a folder), a BVH, an armature's JSON, a video, or a folder of pictures"
_SEEN = 65536


def pose_source(path: str | Path) -> dict[str, Any]:
    """Parameters of ``load_poses`` that a file or folder decides: path, digest (SHA-256) and kind.

    Raises BadInput for what is not there, cannot be read, or is none of the kinds.
    """
    found = Path(path)
    kind = kind_of(found)
    return {"path": str(found), "kind": kind, "digest": digest_of(found, kind)}


def kind_of(path: Path) -> str:
    """One of KINDS, by the first bytes of a file or by what a folder holds."""
    if not path.exists():
        raise BadInput(f"there are no poses {path}", "check the path")
    if path.is_dir():
        return "pictures" if is_picture_folder(path) else "openpose"
    try:
        with path.open("rb") as file:
            head = file.read(_SEEN)
    except OSError as error:
        raise BadInput(f"cannot read the poses {path}: {error.strerror or error}", "check the path") from error
    if not head:
        raise BadInput(f"{path} is empty", HINT)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:9].upper() == b"HIERARCHY" or path.suffix.lower() == ".bvh":
        return "bvh"
    if text[:1] in (b"{", b"[") or path.suffix.lower() == ".json":
        return "armature" if _is_armature(path, text) else "openpose"
    if path.suffix.lower() in PICTURES:
        raise BadInput(f"{path} is one picture", "give a folder of numbered pictures, or a video")
    if path.suffix.lower() in MOVING or b"\0" in head:
        return "video"  # what is no video after all, its reader names
    raise BadInput(f"{path} is no pose file that is known", HINT)


def _is_armature(path: Path, text: bytes) -> bool:
    if text[:1] != b"{" or b'"people"' in text:
        return False
    if armature.SCHEMA.encode() in text:
        return True
    try:  # the key may stand behind the numbers
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("schema") == armature.SCHEMA


def files_of(path: Path, kind: str) -> list[Path]:
    """The files that poses are read from, in their order."""
    if not path.is_dir():
        return [path]
    return numbered(path, PICTURES if kind == "pictures" else (".json",))


def digest_of(path: Path, kind: str) -> str:
    """SHA-256 of a file; of a folder, that of its files' names and digests, in their order."""
    total = hashlib.sha256()
    for file in files_of(path, kind):
        try:
            with file.open("rb") as opened:
                own = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror or error}", "check the file") from error
        if not path.is_dir():
            return own
        total.update(f"{file.name}\0{own}\n".encode())
    return total.hexdigest()
