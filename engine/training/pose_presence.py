"""Teaches the pose estimator what is no figure: ``python -m engine.training.pose_presence``.

The estimator was trained on figures; shown a mug, it sees one. Only its last layer of presence (``PoseNet.seen``, one
number a joint from 56 features) is fitted anew, by logistic regression on the features as they are, so that joints stay
where they were found, to the last bit. Figures: as they were trained on, also through the built-in VAE with noise on
the latents (as drawn clips are), and drawn by the text-to-image model with its domain adapter. None: backgrounds, and
props of the toybox in the figure's place and on white, through the VAE too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.clips.poses.estimate import has_figure
from engine.clips.poses.network import PoseNet, load_pose_net
from engine.models.sets import BUILTIN_FOLDER, model_set
from engine.training.data import Shards
from engine.training.pose_estimation import Clips, PoseEstimation, compose
from engine.training.soft import through

NONE = 0.4
"""Share of pictures without a figure among those that are composed."""
DECAY = 3e-5
"""Of the squared weights."""


def features(net: PoseNet, pictures: Tensor) -> Tensor:
    """(b, 3, 128, 128) in [0, 1] -> (b, d): what ``net.seen`` is told."""
    told: list[Tensor] = []
    handle = net.seen.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0].detach()))
    try:
        with torch.no_grad():
            net(pictures)
    finally:
        handle.remove()
    return told[0]


def fit(net: PoseNet, x: Tensor, inside: Tensor, weights: Tensor | None = None) -> PoseNet:
    """Set ``net.seen`` by logistic regression (L-BFGS); nothing else of the network changes.

    x : (n, d) features; inside : (n, 18), 1 where a joint is in the picture; weights : (n,) of the samples
    """
    middle, spread = x.mean(0), x.std(0) + 1e-6
    w = torch.zeros(inside.shape[1], x.shape[1], requires_grad=True)
    b = torch.zeros(inside.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        told = F.binary_cross_entropy_with_logits((x - middle) / spread @ w.T + b, inside, reduction="none")
        total = (told if weights is None else told * weights[:, None]).mean() + DECAY * w.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    with torch.no_grad():
        net.seen.weight.copy_(w / spread)
        net.seen.bias.copy_(b - (w / spread) @ middle)
    return net


def moved(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirrored, scaled by 0.77 to 1.25 and shifted a little, over white."""
    theta = torch.zeros(len(pictures), 2, 3)
    for one in theta:
        scale = rng.uniform(0.8, 1.3)
        one[0, 0], one[1, 1] = float(scale * rng.choice((-1, 1))), float(scale)
        one[:, 2] = torch.from_numpy(rng.uniform(-0.15, 0.15, 2)).float()
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return 1 - F.grid_sample(1 - pictures, grid, align_corners=False)


def things(props: Shards, n: int, rng: np.random.Generator) -> Tensor:
    """Props over white, (n, 3, 128, 128)."""
    rgba = props.rgba(rng.integers(len(props), size=n), rng.integers(props.views, size=n)).astype(np.float32) / 255
    return torch.from_numpy(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]).permute(0, 3, 1, 2).contiguous()


def drawn(count: int, first: int) -> Tensor:
    """Figures drawn of captions by the built-in text-to-image model with its domain adapter."""
    from engine.diffusion import lora, sampling
    from engine.toybox.characters import caption, sample_character
    models, made = model_set("builtin"), []
    model = models.load("text_to_image")
    model = model.changed(unet=lora.merged(model.unet, models.load("domain_adapter").lora, 1.0))
    shape = model.shape(None, None)
    for i in range(first, first + count):
        with torch.inference_mode():
            wanted, unwanted = model.pair(caption(sample_character("train", i)), "", None, None)
            noise = sampling.initial_noise([torch.Generator().manual_seed(i)], shape, model.device)
            latents = sampling.sample(model.scheduler, sampling.denoiser(model, wanted, unwanted, 3.0), noise, 12,
                                      "ddim", lambda step, guess: None, settings=model.sampling_settings(shape))
            made.append(model.decode(latents, 1, None).clamp(0, 1).clone())
    return torch.cat(made)


def gathered(net: PoseNet, figures: Clips, props: Shards, pictures: Tensor, rounds: int, seed: int = 99
             ) -> tuple[Tensor, Tensor, Tensor]:
    """Features, which joints are in each picture, and how much it counts. pictures : of drawn figures"""
    rng, vae = np.random.default_rng(seed), model_set("builtin").load("text_to_image").vae
    torch.manual_seed(seed)
    rows: list[tuple[Tensor, Tensor, float]] = []
    none = torch.zeros(32, 18)
    for k in range(rounds):
        x, _, inside, _ = compose(figures, rng, 32, props=props, empty=NONE, rough=k % 5 != 0)
        rows.append((features(net, x), inside, 1.0))
        if k % 4 == 0:
            rows.append((features(net, moved(things(props, 32, rng), rng)), none, 1.0))
        if k % 10 == 0:
            rows.append((features(net, through(vae, things(props, 32, rng), rng)), none, 1.0))
            x, _, inside, _ = compose(figures, rng, 32, rough=False)
            rows.append((features(net, through(vae, x, rng)), inside, 1.0))
    for _ in range(4 if len(pictures) else 0):
        rows.append((features(net, moved(pictures, rng)), torch.ones(len(pictures), 18), 1.5))
    return (torch.cat([x for x, _, _ in rows]), torch.cat([y for _, y, _ in rows]),
            torch.cat([torch.full((len(x),), w) for x, _, w in rows]))


def told_apart(net: PoseNet, figures: Clips, props: Shards, pictures: Tensor) -> dict[str, float]:
    """Shares, over white: of held-out figures and drawn ones that are missed, of held-out props taken for figures."""
    rng = np.random.default_rng(5)
    x, *_ = compose(figures, rng, 256, rough=False)
    with torch.no_grad():
        seen = {name: has_figure(net(one)[1].sigmoid().numpy()) for name, one in (
            ("missed_plain", x), ("missed_drawn", pictures), ("imagined_props", things(props, 300, rng))) if len(one)}
    return {name: float((~found if name.startswith("missed") else found).mean()) for name, found in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.training.pose_presence", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=Path, default=Path("scratch/characters"))
    parser.add_argument("--toybox", type=Path, default=Path("scratch/toybox"))
    parser.add_argument("--rounds", type=int, default=110, help="of 32 pictures")
    parser.add_argument("--drawn", type=int, default=112, help="figures drawn of captions; half as many to measure")
    parser.add_argument("--root", type=Path, default=BUILTIN_FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, held_out = (Clips(options.characters / split) for split in ("train", "held_out"))
    props, others = Shards(options.toybox / "train"), Shards(options.toybox / "held_out")
    net = load_pose_net(options.root / "pose_estimation", "cpu").eval()
    pictures, further = drawn(options.drawn, 5000), drawn(options.drawn // 2, 9000)
    print("before", told_apart(net, held_out, others, further), flush=True)
    fit(net, *gathered(net, train, props, pictures, options.rounds))
    found = told_apart(net, held_out, others, further)
    print("after", found, flush=True)
    task = PoseEstimation(train, held_out, props=others, root=options.root)
    card = json.loads((options.root / "pose_estimation" / "card.json").read_text(encoding="utf-8"))
    state: Any = SimpleNamespace(ema=net, step=int(card["steps"]), elapsed_s=60 * float(card["minutes"]),
                                 metrics={**task.evaluate(net), **found})
    print(task.export(state, options.root / "pose_estimation"))


if __name__ == "__main__":
    main()
