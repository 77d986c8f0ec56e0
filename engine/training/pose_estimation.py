"""Pose estimation: a small network that finds the joints of toybox figures, from clips whose joints are known exactly.

Shards as ``engine.training.clip_data`` writes them. Every picture is turned a little, scaled, moved, mirrored (left and
right change places), set over another background, blurred and grained; some hold no figure at all, so that the network
knows one when it sees it. Many go through the built-in VAE, so that it reads what the built-in models draw.
"""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from engine.clips.poses.joints import MIRROR
from engine.clips.poses.network import CELLS, SIZE, PoseNet, expected, load_pose_net, save_pose_net
from engine.models.cards import verify
from engine.models.loading import load_vae
from engine.models.sets import BUILTIN_FOLDER
from engine.toybox.backgrounds import random_background
from engine.training import denoise
from engine.training.data import Shards, to_tensor
from engine.training.export import export
from engine.training.loop import Draw, State
from engine.training.soft import through

FILES = ("rgba.npy", "references.npy", "joints.npy", "reference_joints.npy", "cameras.npy", "specs.json")
EMPTY = 0.08
"""Share of pictures without a figure."""
DECOYS = 0.7
"""Share of those in which a prop stands where the figure would."""
SOFT = 0.5
"""Share of the batches that go through the VAE."""
SPREAD = 1.0
"""Standard deviation of the blot that a heat map shall be, in cells."""


class Clips:
    """All complete shards of one split; :meth:`refresh` takes in those that have appeared since."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.names: list[str] = []
        self._arrays: list[dict[str, np.ndarray]] = []
        self._rows: list[tuple[int, int]] = []
        self.refresh()

    def __len__(self) -> int:
        """Figures."""
        return len(self._rows)

    @property
    def frames(self) -> int:
        """Pictures of a figure: those of its clip, then its references."""
        first = self._arrays[0]
        return int(first["rgba"].shape[1] + first["references"].shape[1])

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("shard_*")) if self.folder.is_dir() else []:
            if path.name in self.names or path.suffix or not all((path / name).exists() for name in FILES):
                continue
            found = {name.removesuffix(".npy"): np.load(path / name, mmap_mode="r") for name in FILES[:-1]}
            if len(json.loads((path / "specs.json").read_text(encoding="utf-8"))) == len(found["rgba"]):
                self._rows += [(len(self._arrays), row) for row in range(len(found["rgba"]))]
                self._arrays.append(found)
                self.names.append(path.name)

    def take(self, figures: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> rgba (b, h, w, 4) uint8, joints (b, 18, 2) pixels, the standing figure's height (b,) pixels."""
        rgba, joints, heights = [], [], []
        for figure, frame in zip(figures, frames, strict=True):
            shard, row = self._rows[int(figure)]
            a = self._arrays[shard]
            n = a["rgba"].shape[1]
            picture = a["rgba"][row, frame] if frame < n else a["references"][row, frame - n]
            rgba.append(picture)
            joints.append(a["joints"][row, frame] if frame < n else a["reference_joints"][row, frame - n])
            _, _, distance, fov = a["cameras"][row, max(0, frame - n + 1)]
            # A figure is 1.5 high, and 2 distance tan(fov / 2) is what the picture shows at its place.
            heights.append(picture.shape[0] * 0.75 / (distance * np.tan(np.radians(fov) / 2)))
        return np.stack(rgba), np.stack(joints).astype(np.float32), np.array(heights, np.float32)


class PoseEstimation:
    """Figures over random backgrounds; their joints are the answer."""

    name = "pose_estimation"

    def __init__(self, train: Clips, held_out: Clips, batch: int = 16, model: PoseNet | None = None,
                 props: Shards | None = None, root: Path = BUILTIN_FOLDER) -> None:
        self.train, self.held_out, self.batch, self.props, self.root = train, held_out, batch, props, root
        self.model: nn.Module = (model or PoseNet()).to(memory_format=torch.channels_last)

    @cached_property
    def vae(self) -> Any:
        return load_vae(self.root / "vae", "cpu")

    def load_committed(self) -> None:
        verify(self.root / self.name)
        self.model.load_state_dict(load_pose_net(self.root / self.name).state_dict())

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        pictures, joints, inside, heights = compose(self.train, draw.rng, self.batch, props=self.props)
        if draw.rng.random() < SOFT:
            pictures = through(self.vae, pictures, draw.rng)
        x = pictures.to(draw.device, memory_format=torch.channels_last)
        joints, inside, heights = joints.to(draw.device), inside.to(draw.device), heights.to(draw.device)
        heat, seen = model(x)
        count = inside.sum().clamp(min=1)
        off = (expected(heat.float()) - joints).abs().sum(-1) / heights[:, None]
        place = (off * inside).sum() / count
        told = -(blots(joints) * heat.float().flatten(2).log_softmax(-1)).sum(-1)
        shape = (told * inside).sum() / count
        known = F.binary_cross_entropy_with_logits(seen.float(), inside)
        figures = {"place": float(place.detach()), "shape": float(shape.detach()), "seen": float(known.detach())}
        return 10 * place + 0.5 * shape + 0.5 * known, figures, len(x)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Distance of held-out joints from where they are, in percent of the standing figure's height: over white as
        clips are, these through the VAE, and under all that training does to pictures; and how often a figure is seen
        that is not there."""
        if not len(self.held_out):
            return {}
        plain = errors(model, self.held_out, rough=False)
        rough, soft = errors(model, self.held_out, rough=True), errors(model, self.held_out, rough=False, vae=self.vae)
        return {"median_percent": float(np.median(plain)), "mean_percent": float(plain.mean()),
                "soft_median_percent": float(np.median(soft)), "soft_mean_percent": float(soft.mean()),
                "over_5_percent": float((plain > 5).mean()), "rough_median_percent": float(np.median(rough)),
                "rough_mean_percent": float(rough.mean()), **presence(model, self.held_out, self.props)}

    def sheet(self, model: nn.Module) -> Image.Image | None:
        from engine.diffusion.skeleton_drawing import draw_skeleton
        source = self.held_out if len(self.held_out) else self.train
        pictures, *_ = compose(source, np.random.default_rng(1), 16, props=self.props, empty=0)
        with torch.no_grad():
            heat, _ = model(pictures.to(next(model.parameters()).device))
        found = (expected(heat.float()).cpu() * SIZE).numpy()
        shown = pictures.permute(0, 2, 3, 1).numpy()
        drawn = np.stack([np.where(line.max(-1, keepdims=True) > 0.05, line, picture) for picture, line in zip(
            shown, (draw_skeleton(joints[None], (SIZE, SIZE)) for joints in found), strict=True)])
        return Image.fromarray(denoise.grid(np.concatenate([shown[:8], drawn[:8], shown[8:], drawn[8:]]), 8))

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        assert isinstance(state.ema, PoseNet)
        net = state.ema
        return export(
            self.name, lambda path: save_pose_net(net, path), steps=state.step, minutes=state.elapsed_s / 60,
            metrics=state.metrics, curve=folder / "curve.png", root=self.root,
            about=f"Pose estimation at {SIZE} px: a picture in [0, 1] -> 18 heat maps of {CELLS} x {CELLS} whose "
                  "softmax's mean is a joint's place, and a logit a joint of its being in the picture "
                  "(OpenPose's order; joints that the body hides are told too).",
            data=f"{len(self.train)} toybox figures in motion, {self.train.frames} pictures each, turned, scaled, "
                 "moved, mirrored, over white, flat colours, gradients, noise and clutter, blurred and grained; half "
                 "of them through the built-in VAE.",
            limits="One toybox figure, mostly seen from the front; people, photographs and several figures at once "
                   "were never seen.")


def blots(places: Tensor) -> Tensor:
    """(b, k, 2) in shares of the picture -> (b, k, cells): Gaussians about them that sum to 1."""
    centres = (torch.arange(CELLS, device=places.device) + 0.5)
    columns, rows = ((-0.5 * ((centres - CELLS * places[..., i, None]) / SPREAD) ** 2).exp() for i in (0, 1))
    blot = (rows[..., :, None] * columns[..., None, :]).flatten(2)
    return blot / blot.sum(-1, keepdim=True).clamp(min=1e-6)


def compose(clips: Clips, rng: np.random.Generator, n: int, props: Shards | None = None, empty: float = EMPTY,
            rough: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """n pictures -> pictures (n, 3, 128, 128) in [0, 1], joints (n, 18, 2) and figures' heights (n,) in shares of the
    side, and which joints are in the picture (n, 18), 0 or 1.

    rough : False leaves everything as it was drawn, over white
    """
    rgba, joints, heights = clips.take(rng.integers(len(clips), size=n), rng.integers(clips.frames, size=n))
    side = rgba.shape[1]
    absent = rng.random(n) < (empty if rough else 0)
    decoys = absent & (rng.random(n) < (DECOYS if props is not None and len(props) else 0))
    if props is not None and decoys.any():
        count = int(decoys.sum())
        rgba[decoys] = props.rgba(rng.integers(len(props), size=count), rng.integers(props.views, size=count))
    x = rgba.astype(np.float32) / 255
    x[..., :3] *= x[..., 3:]  # premultiplied, so that moving it bleeds nothing
    premultiplied = to_tensor(x, low=0.0)
    places = torch.from_numpy(joints / side)
    tall = torch.from_numpy(heights / side)
    if not rough:
        inside = ((places > 0) & (places < 1)).all(-1).float()
        return premultiplied[:, :3] + 1 - premultiplied[:, 3:], places, inside, tall
    mirrored = torch.from_numpy(rng.random(n) < 0.5)
    scale = torch.from_numpy(rng.uniform(0.6, 1.25, n)).float()
    turn = torch.from_numpy(np.radians(rng.normal(0, 6, n))).float()
    shift = torch.from_numpy(rng.uniform(-0.2, 0.2, (n, 2))).float() * torch.clamp(1.4 - scale, min=0.25)[:, None]
    flip = torch.where(mirrored, -1.0, 1.0)
    # Of points about the middle: mirrored, turned, scaled, moved. The picture is drawn by the inverse.
    forward = torch.stack([torch.stack([scale * turn.cos() * flip, -scale * turn.sin()], -1),
                           torch.stack([scale * turn.sin() * flip, scale * turn.cos()], -1)], -2)
    back = torch.linalg.inv(forward)
    theta = torch.cat([back, -2 * (back @ shift[..., None])], -1)  # a grid's coordinates run from -1 to 1
    moved = F.grid_sample(premultiplied, F.affine_grid(theta, [n, 4, SIZE, SIZE], align_corners=False),
                          align_corners=False)
    places = (places - 0.5) @ forward.transpose(1, 2) + 0.5 + shift[:, None]
    places = torch.where(mirrored[:, None, None], places[:, list(MIRROR)], places)
    moved = moved * torch.from_numpy(~absent | decoys)[:, None, None, None]
    inside = ((places > 0) & (places < 1)).all(-1).float() * torch.from_numpy(~absent)[:, None]
    pictures = moved[:, :3] + to_tensor(_backgrounds(rng, n, props), low=0.0) * (1 - moved[:, 3:])
    return _worn(pictures, rng), places, inside, tall * scale


def _backgrounds(rng: np.random.Generator, n: int, props: Shards | None) -> np.ndarray:
    """Half of them white, as clips are; the others from a stock, mirrored, their channels exchanged."""
    stock, out = _stock(props), []
    for white in rng.random(n) < 0.5:
        picture = stock[int(rng.integers(len(stock)))][:, ::int(rng.choice((-1, 1)))][..., rng.permutation(3)]
        out.append(np.ones((SIZE, SIZE, 3), np.float32) if white else picture.astype(np.float32) / 255)
    return np.stack(out)


@cache
def _stock(props: Shards | None, count: int = 320) -> np.ndarray:
    """Backgrounds of every kind, (count, 128, 128, 3) uint8; always the same, so that a training can go on."""
    rng, out = np.random.default_rng(5), []
    for _ in range(count):
        pieces = None
        if props is not None and len(props) and rng.random() < 0.6:
            pieces = props.rgba(rng.integers(len(props), size=2), rng.integers(props.views, size=2))
        out.append(np.round(255 * random_background(rng, SIZE, pieces)).astype(np.uint8))
    return np.stack(out)


def _worn(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Light and contrast change; many lose detail as decoded latents do, or gain grain as sensors give."""
    n = len(pictures)
    gain = torch.from_numpy(rng.uniform(0.8, 1.15, (n, 1, 1, 1))).float()
    lift = torch.from_numpy(rng.uniform(-0.06, 0.06, (n, 3, 1, 1))).float()
    change = torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.5)
    pictures = torch.where(change, pictures * gain + lift, pictures)
    if rng.random() < 0.4:
        small = int(rng.integers(40, SIZE))
        pictures = F.interpolate(F.interpolate(pictures, (small, small), mode="bilinear", antialias=True),
                                 (SIZE, SIZE), mode="bicubic")
    if rng.random() < 0.5:
        pictures = pictures + float(rng.uniform(0, 0.06)) * torch.from_numpy(
            rng.standard_normal(pictures.shape, dtype=np.float32))
    return pictures.clamp(0, 1)


@torch.no_grad()
def errors(model: nn.Module, clips: Clips, rough: bool, pictures: int = 480, seed: int = 11, vae: Any = None
           ) -> np.ndarray:
    """Distances of ``pictures`` x 18 joints (those in the picture) from where they are, percent of figures' heights.

    vae : pictures are shown as it shows them, without noise
    """
    device = next(model.parameters()).device
    rng, out = np.random.default_rng(seed), []
    for _ in range(pictures // 32):
        x, joints, inside, heights = compose(clips, rng, 32, empty=0, rough=rough)
        if vae is not None:
            x = through(vae, x, rng, noise=0, blur=False)
        off = (expected(model(x.to(device))[0].float()).cpu() - joints).norm(dim=-1) / heights[:, None]
        out.append(off[inside > 0].numpy())
    return np.concatenate(out) * 100


@torch.no_grad()
def presence(model: nn.Module, clips: Clips, props: Shards | None, pictures: int = 256, seed: int = 12
             ) -> dict[str, float]:
    """How often a figure is missed, and how often one is seen where there is none; the same rule as in use."""
    from engine.clips.poses.estimate import has_figure
    device = next(model.parameters()).device
    rng, told = np.random.default_rng(seed), {}
    for name, empty in (("missed", 0.0), ("imagined", 1.0)):
        votes = []
        for _ in range(pictures // 32):
            x, *_ = compose(clips, rng, 32, props=props, empty=empty)
            votes.append(has_figure(model(x.to(device))[1].sigmoid().cpu().numpy()))
        share = float(np.mean(np.concatenate(votes)))
        told[name] = 1 - share if name == "missed" else share
    return told


def task(characters: Path, batch: int, props: Any = None) -> PoseEstimation:
    """The trainer on the shards under ``characters``."""
    return PoseEstimation(Clips(characters / "train"), Clips(characters / "held_out"), batch, props=props)
