"""The pose estimator's presence, fitted anew: only its last layer changes, and it tells apart what can be."""

from __future__ import annotations

import numpy as np
import torch

from engine.clips.poses.estimate import has_figure
from engine.clips.poses.network import PoseNet
from engine.training.pose_presence import features, fit, moved


def net() -> PoseNet:
    torch.manual_seed(0)
    return PoseNet((4, 4, 8, 8)).eval()


def pictures(n: int, kind: str) -> torch.Tensor:
    """Upright red bars on white, or lying blue ones, of many shades: what random features can tell apart."""
    rng, out = np.random.default_rng(len(kind)), torch.ones(n, 3, 128, 128)
    for one in out:
        at, long = int(rng.integers(40, 80)), int(rng.integers(60, 90))
        hue = (1.0, 0.2, 0.1) if kind == "upright" else (0.1, 0.2, 1.0)
        colour = torch.tensor(hue)[:, None, None] * float(rng.uniform(0.4, 0.9))
        if kind == "upright":
            one[:, 20:20 + long, at:at + 24] = colour
        else:
            one[:, at:at + 24, 20:20 + long] = colour
    return out


def test_only_the_last_layer_changes_and_it_tells_figures_from_things() -> None:
    made = net()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    upright, lying = pictures(96, "upright"), pictures(96, "lying")
    x = torch.cat([features(made, upright[:64]), features(made, lying[:64])])
    fit(made, x, torch.cat([torch.ones(64, 18), torch.zeros(64, 18)]))
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"seen.weight", "seen.bias"}
    with torch.no_grad():
        told = [has_figure(made(x)[1].sigmoid().numpy()).mean() for x in (upright[64:], lying[64:])]
    assert told[0] > 0.9 and told[1] < 0.1


def test_features_are_what_the_layer_is_told() -> None:
    made, x = net(), pictures(3, "upright")
    with torch.no_grad():
        assert torch.allclose(made.seen(features(made, x)), made(x)[1])


def test_weights_of_samples_count() -> None:
    """Two samples of one feature that contradict each other: the logit is the logarithm of their weights' ratio."""
    made = net()
    x = torch.cat([torch.zeros(2, 8), torch.eye(8)[:1]])
    fit(made, x, torch.cat([torch.ones(1, 18), torch.zeros(1, 18), torch.ones(1, 18)]), torch.tensor([3.0, 1.0, 1.0]))
    with torch.no_grad():
        assert torch.allclose(made.seen(torch.zeros(1, 8)), torch.full((1, 18), float(np.log(3))), atol=0.05)


def test_moving_keeps_white_white() -> None:
    out = moved(torch.ones(4, 3, 32, 32), np.random.default_rng(0))
    assert torch.allclose(out, torch.ones_like(out))
