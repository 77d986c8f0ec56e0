"""The judge: a small classifier of kind, colour, material and pattern that scores generated pictures.

It is trained on true renders alone, apart from every model that it judges, and is used by the benchmarks only. Its
training pictures are blurred, grained, moved and scaled, so that a sampled picture's softness does not decide.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models import packed
from engine.models.cards import verify
from engine.models.sets import BUILTIN_FOLDER
from engine.training.clip import moved
from engine.training.data import Shards, over, to_tensor
from engine.training.export import export, half
from engine.training.loop import Draw, State

HEADS = ("kind", "color", "material", "pattern")


class JudgeNet(nn.Module):
    """Strided convolutions to 8 x 8, mean, and a linear head for each attribute.

    classes : attribute -> its values, in the order of the logits
    norm : "batch", which learns several times faster here as group norms blur how bright a picture is, or "group"
    """

    def __init__(self, classes: dict[str, list[str]], widths: tuple[int, ...] = (24, 48, 96, 128),
                 norm: str = "batch") -> None:
        super().__init__()
        self.classes, self.widths, self.norm = classes, widths, norm

        def normal(width: int) -> nn.Module:
            return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(8, width)

        layers: list[nn.Module] = []
        last = 3
        for width in widths:
            layers += [nn.Conv2d(last, width, 3, 2, 1), normal(width), nn.SiLU(),
                       nn.Conv2d(width, width, 3, 1, 1), normal(width), nn.SiLU()]
            last = width
        self.body = nn.Sequential(*layers)
        # Colour and material are means over the object, patterns and kinds need its strongest answer too.
        self.heads = nn.ModuleDict({name: nn.Linear(2 * last, len(values)) for name, values in classes.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """(b, 3, 128, 128) in [0, 1], over white -> attribute -> logits (b, classes)."""
        x = self.body(pictures * 2 - 1)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


def load_judge(folder: Path = BUILTIN_FOLDER / "judge") -> JudgeNet:
    """The exported judge, checked against its card."""
    verify(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    net = JudgeNet(config["classes"], tuple(config["widths"]), config.get("norm", "group"))
    net.load_state_dict({k: v.float() for k, v in packed.load(folder / "model.safetensors").items()})
    return net.eval().requires_grad_(False)


@torch.no_grad()
def verdicts(net: JudgeNet, pictures: np.ndarray, batch: int = 64) -> dict[str, list[str]]:
    """(n, 128, 128, 3) in [0, 1] -> attribute -> n words."""
    out: dict[str, list[str]] = {name: [] for name in net.classes}
    for i in range(0, len(pictures), batch):
        for name, y in net(to_tensor(pictures[i:i + batch], low=0.0)).items():
            out[name] += [net.classes[name][k] for k in y.argmax(1).tolist()]
    return out


def right(head: str, answer: str, spec: dict[str, Any]) -> bool:
    """Whether an answer is true of what is described. Checks show two colours in equal parts: either is right."""
    return answer == str(spec.get(head)) or (
        head == "color" and spec.get("pattern") == "checks" and answer == str(spec.get("color2")))


class Judge:
    """Cross-entropy on all attributes at once."""

    name = "judge"

    def __init__(self, train: Shards, held_out: Shards, batch: int = 64, model: JudgeNet | None = None,
                 root: Path = BUILTIN_FOLDER) -> None:
        self.train, self.held_out, self.batch, self.root = train, held_out, batch, root
        if model is None:
            known = [s for s in train.specs if all(h in s for h in HEADS)]
            model = JudgeNet({h: sorted({str(s[h]) for s in known}) for h in HEADS})
        self.classes = model.classes
        self.model: nn.Module = model.to(memory_format=torch.channels_last)

    def load_committed(self) -> None:
        self.model.load_state_dict(load_judge(self.root / "judge").state_dict())

    def labels(self, specs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Attribute -> (b,) class numbers, -100 (ignored) for what is not among the classes and the colour of checks,
        which have no first one."""
        def number(head: str, values: list[str], spec: dict[str, Any]) -> int:
            value = str(spec.get(head))
            open_ = head == "color" and spec.get("pattern") == "checks"
            return values.index(value) if value in values and not open_ else -100

        return {h: torch.tensor([number(h, values, s) for s in specs]) for h, values in self.classes.items()}

    def loss(self, model: nn.Module, draw: Draw) -> tuple[Tensor, dict[str, float], int]:
        rng = draw.rng
        objects = rng.integers(len(self.train), size=self.batch)
        views = np.where(rng.random(self.batch) < 0.5, rng.integers(min(2, self.train.views), size=self.batch),
                         rng.integers(self.train.views, size=self.batch))
        x = spoiled(to_tensor(over(self.train.rgba(objects, views)), low=0.0), rng)
        x = x.to(draw.device, memory_format=torch.channels_last)
        losses, figures = [], {}
        logits = model(x)
        for name, target in self.labels([self.train.specs[o] for o in objects]).items():
            target = target.to(draw.device)
            losses.append(F.cross_entropy(logits[name].float(), target, label_smoothing=0.02))
            known = target != -100
            figures[name] = float((logits[name].argmax(1) == target)[known].float().mean()) if known.any() else 1.0
        return torch.stack(losses).sum(), figures, self.batch

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Share of right answers on held-out renders from text-to-image views."""
        if not len(self.held_out):
            return {}
        n = min(300, len(self.held_out))
        pictures = over(self.held_out.rgba(np.arange(n), np.arange(n) % min(2, self.held_out.views)))
        said = verdicts(model.cpu(), pictures)  # type: ignore[arg-type]
        return {name: float(np.mean([right(name, a, s) for a, s in zip(said[name], self.held_out.specs[:n],
                                                                       strict=True)])) for name in self.classes}

    def sheet(self, model: nn.Module) -> Image.Image | None:
        return None

    def refresh(self) -> None:
        self.train.refresh()
        self.held_out.refresh()

    def export(self, state: State, folder: Path) -> Path:
        net = state.ema

        def save(path: Path) -> None:
            save_file({k: v.contiguous() for k, v in half(net).state_dict().items()}, path / "model.safetensors")
            config = {"classes": self.classes, "widths": list(net.widths), "norm": net.norm}  # type: ignore[arg-type]
            (path / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

        return export(
            "judge", save, steps=state.step, minutes=state.elapsed_s / 60, metrics=state.metrics,
            curve=folder / "curve.png", root=self.root,
            about="Classifier of kind, colour, material and pattern that scores generated pictures in the benchmarks.",
            data=f"True renders of {len(self.train)} toybox objects over white, blurred, grained, moved and scaled.",
            limits="For evaluation only; no pipeline uses it.")


def spoiled(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """What sampled pictures suffer: moved and scaled, blurred, grained, colours a little off."""
    x = pictures
    if rng.random() < 0.7:
        x = moved(x, rng, torch.ones(1, 1, 1, 1), scale=0.15, shift=0.06)
    if rng.random() < 0.5:
        factor = float(rng.uniform(1.3, 3.0))
        small = F.interpolate(x, scale_factor=1 / factor, mode="bilinear", antialias=True, align_corners=False)
        x = F.interpolate(small, x.shape[-2:], mode="bicubic", align_corners=False)
    if rng.random() < 0.5:
        cells = int(rng.choice([16, 32, 64, 128]))
        grain = torch.from_numpy(rng.standard_normal((len(x), 3, cells, cells), dtype=np.float32))
        x = x + float(rng.uniform(0.01, 0.05)) * F.interpolate(grain, x.shape[-2:], mode="bilinear",
                                                              align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.96, 1.04, (len(x), 3, 1, 1)).astype(np.float32))
    return (x * gain).clamp(0, 1)
