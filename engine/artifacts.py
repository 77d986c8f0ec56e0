"""What stages hand on. Each artifact saves itself as a folder of ordinary files and loads back equal.

Images are float32 (height, width, channel) in [0, 1], sRGB; four channels mean straight (not premultiplied) alpha.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from engine.space import Cameras, Frame


class Artifact(Protocol):
    """Anything a stage returns."""

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...


def save_png(path: Path, image: np.ndarray) -> None:
    """image : (h, w), (h, w, 3) or (h, w, 4) float in [0, 1] -> 8-bit PNG."""
    from PIL import Image
    Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(path)


def load_png(path: Path) -> np.ndarray:
    """-> float32 (h, w[, c]) in [0, 1]."""
    from PIL import Image
    with Image.open(path) as file:
        return np.asarray(file, dtype=np.float32) / 255


def over_white(rgba: np.ndarray) -> np.ndarray:
    """(..., 4) straight alpha -> (..., 3) composited over white, in sRGB as diffusion and fitting expect it."""
    if rgba.shape[-1] == 3:
        return rgba
    return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass
class Picture:
    """One picture of one subject.

    image : (h, w, 3) or (h, w, 4) float32; pixels are kept to 8 bits on disk
    caption : what it shows, "" if unknown
    azimuth_deg, elevation_deg : where it was taken from; None if unknown
    meta : figures that belong to the report (scores, crop box, warnings under "warnings")
    """

    image: np.ndarray
    caption: str = ""
    azimuth_deg: float | None = None
    elevation_deg: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        save_png(folder / "picture.png", self.image)
        write_json(folder / "picture.json", {"caption": self.caption, "azimuth_deg": self.azimuth_deg,
                                             "elevation_deg": self.elevation_deg, "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> Picture:
        return cls(load_png(folder / "picture.png"), **read_json(folder / "picture.json"))


@dataclass
class Candidates:
    """Several pictures for one prompt, each with its score; ``best`` is the index that goes on."""

    pictures: list[Picture]
    scores: list[float]
    best: int

    def save(self, folder: Path) -> None:
        for i, picture in enumerate(self.pictures):
            part = folder / f"{i:02d}"
            part.mkdir()
            picture.save(part)
        write_json(folder / "candidates.json", {"scores": self.scores, "best": self.best})

    @classmethod
    def load(cls, folder: Path) -> Candidates:
        data = read_json(folder / "candidates.json")
        return cls([Picture.load(folder / f"{i:02d}") for i in range(len(data["scores"]))], **data)


@dataclass
class ControlMaps:
    """What ControlNets are shown, all of one size.

    kinds : "edges", "depth", ... (``engine.diffusion.control_maps``), each once
    images : (n, h, w, 3) float32, kept to 8 bits on disk; meta : how each was made
    """

    kinds: list[str]
    images: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        for kind, image in zip(self.kinds, self.images, strict=True):
            save_png(folder / f"{kind}.png", image)
        write_json(folder / "maps.json", {"kinds": self.kinds, "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> ControlMaps:
        data = read_json(folder / "maps.json")
        return cls(data["kinds"], np.stack([load_png(folder / f"{kind}.png") for kind in data["kinds"]]), data["meta"])


@dataclass
class Face:
    """Who a face is: an identity vector, (512,) float32, and five points (5, 2) in shares of a picture's width and
    height (eyes, nose, corners of the mouth), None where they are not known."""

    identity: np.ndarray
    points: np.ndarray | None = None

    def save(self, folder: Path) -> None:
        write_json(folder / "face.json", {"identity": np.asarray(self.identity, dtype=float).tolist(),
                                          "points": None if self.points is None else self.points.tolist()})

    @classmethod
    def load(cls, folder: Path) -> Face:
        data = read_json(folder / "face.json")
        return cls(np.asarray(data["identity"], dtype=np.float32),
                   None if data["points"] is None else np.asarray(data["points"], dtype=np.float32))


@dataclass
class Views:
    """Pictures of one object from known cameras.

    images : (n, h, w, 4) float32, straight alpha, sRGB
    cameras : n cameras in *field* coordinates (object inside [-1, 1]^3)
    held_out : (n,) bool; these views are scored, never fitted
    frame : field coordinates -> metres
    names : one file stem a view
    reference : index of the picture the user gave, or None
    weights : (n,) float32, trust in each view
    """

    images: np.ndarray
    cameras: Cameras
    held_out: np.ndarray
    frame: Frame = field(default_factory=Frame)
    names: list[str] = field(default_factory=list)
    reference: int | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def save(self, folder: Path) -> None:
        names = self.names or [f"{i:03d}" for i in range(len(self))]
        for i in range(len(self)):
            save_png(folder / f"{i:03d}.png", self.images[i])
        write_json(folder / "views.json", {
            "cameras": self.cameras.to_json(), "held_out": np.asarray(self.held_out, dtype=bool).tolist(),
            "frame": self.frame.to_json(), "names": names, "reference": self.reference,
            "weights": None if self.weights is None else np.asarray(self.weights, dtype=float).tolist()})

    @classmethod
    def load(cls, folder: Path) -> Views:
        data = read_json(folder / "views.json")
        images = np.stack([load_png(folder / f"{i:03d}.png") for i in range(len(data["held_out"]))])
        return cls(images, Cameras.from_json(data["cameras"]), np.asarray(data["held_out"], dtype=bool),
                   Frame.from_json(data["frame"]), data["names"], data["reference"],
                   None if data["weights"] is None else np.asarray(data["weights"], dtype=np.float32))


@dataclass
class Field:
    """A fitted field: its network's configuration, its tensors (numpy, by name), and where it stands in the world.

    meta : figures for the report (psnr, iou, iterations)
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    frame: Frame = field(default_factory=Frame)
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file
        save_file({k: np.ascontiguousarray(v) for k, v in self.tensors.items()}, folder / "field.safetensors")
        write_json(folder / "field.json", {"config": self.config, "frame": self.frame.to_json(), "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> Field:
        from safetensors.numpy import load_file
        data = read_json(folder / "field.json")
        return cls(data["config"], load_file(folder / "field.safetensors"), Frame.from_json(data["frame"]),
                   data["meta"])


@dataclass
class Mesh:
    """A triangle mesh in field coordinates.

    vertices : (v, 3) float32; faces : (f, 3) int32, counter-clockwise seen from outside
    meta : figures for the report (watertight, components, ...)
    """

    vertices: np.ndarray
    faces: np.ndarray
    frame: Frame = field(default_factory=Frame)
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file
        save_file({"vertices": np.ascontiguousarray(self.vertices), "faces": np.ascontiguousarray(self.faces)},
                  folder / "mesh.safetensors")
        write_json(folder / "mesh.json", {"frame": self.frame.to_json(), "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> Mesh:
        from safetensors.numpy import load_file
        data, arrays = read_json(folder / "mesh.json"), load_file(folder / "mesh.safetensors")
        return cls(arrays["vertices"], arrays["faces"], Frame.from_json(data["frame"]), data["meta"])


@dataclass
class TexturedMesh:
    """A mesh with one UV set and a metallic-roughness material, in field coordinates.

    vertices : (v, 3) float32, split at UV seams; faces : (f, 3) int32
    uvs : (v, 2) float32 in [0, 1], glTF's origin (top left)
    normals : (v, 3) float32, unit
    base_color : (t, t, 3) float32 sRGB
    metallic, roughness : factors in [0, 1]
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    normals: np.ndarray
    base_color: np.ndarray
    metallic: float = 0.0
    roughness: float = 0.7
    frame: Frame = field(default_factory=Frame)
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file
        arrays = {k: np.ascontiguousarray(getattr(self, k)) for k in ("vertices", "faces", "uvs", "normals")}
        save_file(arrays, folder / "mesh.safetensors")
        save_png(folder / "base_color.png", self.base_color)
        write_json(folder / "mesh.json", {"frame": self.frame.to_json(), "meta": self.meta,
                                          "metallic": self.metallic, "roughness": self.roughness})

    @classmethod
    def load(cls, folder: Path) -> TexturedMesh:
        from safetensors.numpy import load_file
        data, arrays = read_json(folder / "mesh.json"), load_file(folder / "mesh.safetensors")
        return cls(**arrays, base_color=load_png(folder / "base_color.png"), metallic=data["metallic"],
                   roughness=data["roughness"], frame=Frame.from_json(data["frame"]), meta=data["meta"])


@dataclass
class Files:
    """Finished files as the user gets them. paths : name inside the folder -> role ("mesh", "clip", "sheet", ...)."""

    folder: Path
    roles: dict[str, str]
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        import shutil
        for name in self.roles:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, folder / name)
        write_json(folder / "files.json", {"roles": self.roles, "meta": self.meta})

    @classmethod
    def load(cls, folder: Path) -> Files:
        data = read_json(folder / "files.json")
        return cls(folder, data["roles"], data["meta"])
