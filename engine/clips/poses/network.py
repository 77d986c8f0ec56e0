"""The built-in pose estimator: a small U-Net that points at a toybox figure's 18 joints.

A heat map a joint, whose softmax's mean is where the joint is (Sun et al. 2018, Integral Human Pose Regression; Nibali
et al. 2018, DSNT): no argmax, so that 32 x 32 cells tell places between them. Beside it, how surely each joint is in
the picture at all; a picture without a figure says no to every one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.clip_artifacts import JOINTS
from engine.errors import BadInput
from engine.models.cards import REPAIR

SIZE = 128
"""Side of the pictures that the network takes."""
CELLS = 32
"""Side of its heat maps."""


class PoseNet(nn.Module):
    """Down to 8 x 8, where the whole figure is seen at once, and back up to 32 x 32 with what was seen on the way.

    widths : channels at 64, 32, 16 and 8 pixels a side
    """

    def __init__(self, widths: tuple[int, int, int, int] = (16, 24, 40, 56)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        a, b, c, d = widths
        self.stem = _conv(3, a, 5, 2)
        self.down1, self.mix1 = _conv(a, b, 3, 2), Residual(b)
        self.down2, self.mix2 = _conv(b, c, 3, 2), Residual(c)
        self.down3, self.mix3 = _conv(c, d, 3, 2), nn.Sequential(Residual(d), Residual(d))
        self.narrow2, self.join2 = _conv(d, c, 1), Residual(c)
        self.narrow1, self.join1 = _conv(c, b, 1), Residual(b)
        self.heat = nn.Conv2d(b, JOINTS, 1)
        self.seen = nn.Linear(d, JOINTS)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """pictures : (b, 3, 128, 128) in [0, 1] -> logits of the heat maps (b, 18, 32, 32) and of each joint's being in
        the picture (b, 18)."""
        x1 = self.mix1(self.down1(self.stem(pictures * 2 - 1)))
        x2 = self.mix2(self.down2(x1))
        x3 = self.mix3(self.down3(x2))
        y = self.join2(x2 + _twice(self.narrow2(x3)))
        y = self.join1(x1 + _twice(self.narrow1(y)))
        return self.heat(y), self.seen(x3.mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_conv(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False),
                                   nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU(inplace=True))


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def expected(heat: Tensor) -> Tensor:
    """Logits (b, k, h, w) -> (b, k, 2): column and row of each softmax's mean, in shares of the picture."""
    height, width = heat.shape[-2:]
    share = heat.flatten(2).softmax(-1).unflatten(2, (height, width))
    columns = (torch.arange(width, device=heat.device, dtype=heat.dtype) + 0.5) / width
    rows = (torch.arange(height, device=heat.device, dtype=heat.dtype) + 0.5) / height
    return torch.stack([(share.sum(2) * columns).sum(-1), (share.sum(3) * rows).sum(-1)], -1)


def save_pose_net(net: PoseNet, folder: Path) -> None:
    """Write config.json and model.safetensors, in half precision, into ``folder`` (made where it is not there)."""
    import copy

    from safetensors.torch import save_file
    folder.mkdir(parents=True, exist_ok=True)
    tensors = copy.deepcopy(net).cpu().half().state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    config = {"widths": list(net.widths), "size": SIZE, "cells": CELLS}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_pose_net(folder: Path, device: str = "cpu") -> PoseNet:
    """The network of a part's folder: config.json beside model.safetensors. Raises BadInput when they do not fit."""
    from safetensors.torch import load_file
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (config["size"], config["cells"]) != (SIZE, CELLS):
            raise ValueError("its sizes are not those of engine.clips.poses.network")
        net = PoseNet(tuple(config["widths"]))
        net.load_state_dict({k: v.float() if v.is_floating_point() else v
                             for k, v in load_file(folder / "model.safetensors").items()})
    except Exception as error:  # a missing or damaged file, keys that do not fit: one answer for the user
        raise BadInput(f"cannot read the pose estimator in {folder}: {' '.join(str(error).split())[:300]}",
                       REPAIR) from error
    return net.to(device).eval().requires_grad_(False)
