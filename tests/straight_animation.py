"""AnimateAnyone written out by hand, from state dicts and nothing else: what the tests compare ours with.

Every block stands here as the paper and the published files have it, in plain tensor operations. No class of diffusers
or of the engine is used, and nothing is fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


@dataclass
class Unet:
    """weights : by name; heads : of spatial attention; time_heads : of motion modules; groups : of GroupNorm

    frames : of a clip, 0 for single pictures
    kept : attention's name -> what it read (filled by a pass that writes); read : how many samples read it
    """

    weights: Weights
    heads: int
    groups: int
    time_heads: int = 1
    frames: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict)
    writes: bool = False
    read: int = 0

    def has(self, name: str) -> bool:
        return any(key.startswith(name + ".") for key in self.weights)

    def count(self, name: str) -> int:
        """How many numbered things of a name there are."""
        k = 0
        while self.has(f"{name}.{k}"):
            k += 1
        return k

    # -- layers ----------------------------------------------------------------------------------------------------

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        w = self.weights[f"{name}.weight"]
        return F.conv2d(x, w, self.weights[f"{name}.bias"], stride=stride, padding=w.shape[-1] // 2)

    def group_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        n, c, h, w = x.shape
        g = x.reshape(n, self.groups, -1)
        g = (g - g.mean(2, keepdim=True)) / (g.var(2, unbiased=False, keepdim=True) + eps).sqrt()
        scale, shift = (self.weights[f"{name}.{k}"].view(1, c, 1, 1) for k in ("weight", "bias"))
        return g.reshape(n, c, h, w) * scale + shift

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, name: str, asks: Tensor, tells: Tensor, heads: int) -> Tensor:
        q, k, v = (self.linear(f"{name}.to_{side}", x) for side, x in (("q", asks), ("k", tells), ("v", tells)))
        width = q.shape[-1] // heads
        out = []
        for i in range(heads):
            part = slice(i * width, (i + 1) * width)
            weight = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width), -1)
            out.append(weight @ v[..., part])
        return self.linear(f"{name}.to_out.0", torch.cat(out, -1))

    def feed(self, name: str, x: Tensor) -> Tensor:
        value, gate = self.linear(f"{name}.net.0.proj", x).chunk(2, -1)
        return self.linear(f"{name}.net.2", value * 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))))

    # -- blocks ----------------------------------------------------------------------------------------------------

    def resnet(self, name: str, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.group_norm(f"{name}.norm1", x, 1e-5)))
        h = h + self.linear(f"{name}.time_emb_proj", F.silu(time))[:, :, None, None]
        h = self.conv(f"{name}.conv2", F.silu(self.group_norm(f"{name}.norm2", h, 1e-5)))
        return h + (self.conv(f"{name}.conv_shortcut", x) if self.has(f"{name}.conv_shortcut") else x)

    def spatial(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        """Attention inside each picture, its self-attention with what was kept."""
        n, c, h, w = x.shape
        z = self.conv(f"{name}.proj_in", self.group_norm(f"{name}.norm", x, 1e-6))
        z = z.reshape(n, c, h * w).transpose(1, 2)
        for k in range(self.count(f"{name}.transformer_blocks")):
            block = f"{name}.transformer_blocks.{k}"
            seen = self.layer_norm(f"{block}.norm1", z)
            if self.writes:
                self.kept[f"{block}.attn1"] = seen
            rows = []
            for i in range(n):
                tells = seen[i:i + 1]
                if not self.writes and i < self.read:
                    clip = i // self.frames if self.frames else i
                    tells = torch.cat([tells, self.kept[f"{block}.attn1"][clip:clip + 1]], 1)
                rows.append(self.attention(f"{block}.attn1", seen[i:i + 1], tells, self.heads))
            z = z + torch.cat(rows)
            z = z + self.attention(f"{block}.attn2", self.layer_norm(f"{block}.norm2", z), context, self.heads)
            z = z + self.feed(f"{block}.ff", self.layer_norm(f"{block}.norm3", z))
        return x + self.conv(f"{name}.proj_out", z.transpose(1, 2).reshape(n, c, h, w))

    def motion(self, name: str, x: Tensor) -> Tensor:
        """Attention along time, each pixel for itself; the norm is each frame's own."""
        n, c, h, w = x.shape
        f = self.frames
        z = self.group_norm(f"{name}.norm", x, 1e-6)
        z = z.reshape(n // f, f, c, h * w).permute(0, 3, 1, 2).reshape(n // f * h * w, f, c)
        z = self.linear(f"{name}.proj_in", z)
        for k in range(self.count(f"{name}.transformer_blocks")):
            block = f"{name}.transformer_blocks.{k}"
            place = self.weights[f"{block}.pos_embed.pe"][:, :f]
            for norm, attention in (("norm1", "attn1"), ("norm2", "attn2")):
                seen = self.layer_norm(f"{block}.{norm}", z) + place
                z = z + self.attention(f"{block}.{attention}", seen, seen, self.time_heads)
            z = z + self.feed(f"{block}.ff", self.layer_norm(f"{block}.norm3", z))
        z = self.linear(f"{name}.proj_out", z)
        return x + z.reshape(n // f, h * w, f, c).permute(0, 2, 3, 1).reshape(n, c, h, w)

    def layer(self, block: str, k: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.resnet(f"{block}.resnets.{k}", x, time)
        if self.has(f"{block}.attentions.{k}"):
            x = self.spatial(f"{block}.attentions.{k}", x, context)
        if self.has(f"{block}.motion_modules.{k}"):
            x = self.motion(f"{block}.motion_modules.{k}", x)
        return x

    # -- the whole -------------------------------------------------------------------------------------------------

    def __call__(self, x: Tensor, t: float, context: Tensor, feature: Tensor | float = 0.0) -> Tensor:
        """x (n, c, h, w) at time t, context (n, tokens, d) -> (n, c, h, w); the last features where it has no end."""
        width = self.weights["conv_in.weight"].shape[0]
        # As published: the sines are taken in single precision.
        rate = torch.exp(-math.log(10000) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
        angle = torch.tensor([t], dtype=torch.float32)[:, None] * rate
        time = torch.cat([angle.cos(), angle.sin()], -1).to(x.dtype)
        time = self.linear("time_embedding.linear_2", F.silu(self.linear("time_embedding.linear_1", time)))
        time = time.expand(len(x), -1)
        x = self.conv("conv_in", x) + feature
        skips = [x]
        for i in range(self.count("down_blocks")):
            block = f"down_blocks.{i}"
            for k in range(self.count(f"{block}.resnets")):
                x = self.layer(block, k, x, time, context)
                skips.append(x)
            if self.has(f"{block}.downsamplers"):
                x = self.conv(f"{block}.downsamplers.0.conv", x, stride=2)
                skips.append(x)
        x = self.layer("mid_block", 0, x, time, context)
        x = self.resnet("mid_block.resnets.1", x, time)
        for i in range(self.count("up_blocks")):
            block = f"up_blocks.{i}"
            for k in range(self.count(f"{block}.resnets")):
                x = self.layer(block, k, torch.cat([x, skips.pop()], 1), time, context)
            if self.has(f"{block}.upsamplers"):
                x = self.conv(f"{block}.upsamplers.0.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        if not self.has("conv_out"):
            return x
        return self.conv("conv_out", F.silu(self.group_norm("conv_norm_out", x, 1e-5)))


def guide_poses(weights: Weights, poses: Tensor) -> Tensor:
    """The pose guider: poses (n, 3, h, w) -> features (n, width, h/8, w/8)."""
    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=1)

    x = F.silu(conv("conv_in", poses))
    for k in range(6):
        x = F.silu(conv(f"blocks.{k}", x, 1 + k % 2))
    return conv("conv_out", x)


def schedule(steps: int) -> tuple[list[int], Tensor]:
    """Moore's: linear betas .00085 to .012, rescaled so that the last step is pure noise, steps from the noisy end.

    -> (time steps, alpha bar of all 1000)
    """
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float32)
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root ** 2
    # Betas are what is kept; the products of what they say are used.
    again = 1 - torch.cat([bar[:1], bar[1:] / bar[:-1]])
    return [round(1000 - 1000 / steps * k) - 1 for k in range(steps)], (1 - again).cumprod(0)


def animate(denoising: Unet, reference: Unet, guider: Weights, seen: Tensor, token: Tensor, poses: Tensor,
            noise: Tensor, steps: int, guidance: float, windows: Callable[[int], list[list[int]]]) -> Tensor:
    """seen (1, c, h, w) scaled latents of the reference, token (1, 1, d), noise (n, c, h, w) -> clean latents."""
    reference.writes, reference.kept = True, {}
    reference(seen, 0, token)
    denoising.kept = reference.kept
    x = noise
    times, bar = schedule(steps)
    for number, t in enumerate(times):
        total, count = torch.zeros_like(x), torch.zeros(len(x), 1, 1, 1, dtype=x.dtype)
        for part in windows(number):
            f = len(part)
            feature = guide_poses(guider, poses[part])
            denoising.frames, denoising.read = f, f
            conditional = denoising(x[part], t, token.expand(f, -1, -1), feature)
            denoising.read = 0
            unconditional = denoising(x[part], t, 0 * token.expand(f, -1, -1), feature)
            for place, frame in enumerate(part):
                total[frame] += unconditional[place] + guidance * (conditional[place] - unconditional[place])
                count[frame] += 1
        v = total / count
        later = t - 1000 // steps
        # As published: the schedule's numbers are in single precision.
        a, b = bar[t], bar[later] if later >= 0 else torch.ones(())
        signal, sigma, signal_then, sigma_then = (q.sqrt().to(x.dtype) for q in (a, 1 - a, b, 1 - b))
        clean, eps = signal * x - sigma * v, signal * v + sigma * x
        x = signal_then * clean + sigma_then * eps
    return x
