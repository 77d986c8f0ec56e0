"""The visual hull: what all silhouettes allow (Laurentini 1994), tolerant of a minority of wrong ones."""

from __future__ import annotations

import torch
from torch.nn import functional

from engine.artifacts import Views
from engine.chunks import at_once
from engine.fields.radiance import cell_centres


def visual_hull(views: Views, resolution: int, votes: float = 1.0, conservative: bool = False, seen: float = 0.25,
                device: str | torch.device = "cpu") -> torch.Tensor:
    """Occupancy of the cube's cells from the masks of the views that are not held out.

    votes : share of the views' weight, 0..1, that must agree that a cell is inside; 1 is the exact hull. A view in
        whose picture a cell does not appear says outside if its mask ends within the picture, else nothing.
    seen : share of the views' weight that must see a cell; one that fewer see is outside
    conservative : ask whether the mask touches the cell at all, not what it is at the cell's centre; the result
        then contains the object, which is what a fit must start from
    -> (r, r, r) float32 in z, y, x order: the largest alpha such that views with that alpha or more have enough
        votes; its level set at 0.5 is the hull's surface.
    """
    points = cell_centres(torch.arange(resolution**3, device=device), resolution)
    return torch.cat([hull_at(views, part, resolution, votes, conservative, seen)
                      for part in points.split(at_once(1 << 18))]).view(resolution, resolution, resolution)


def hull_at(views: Views, points: torch.Tensor, resolution: int, votes: float = 1.0, conservative: bool = False,
            seen: float = 0.25) -> torch.Tensor:
    """The same at points (n, 3) -> (n,); ``resolution`` is of the cells that ``conservative`` asks about."""
    chosen = torch.from_numpy(~views.held_out).nonzero()[:, 0]
    weights = torch.ones(len(views)) if views.weights is None else torch.from_numpy(views.weights).float()
    return _quantile(_alphas(views, chosen, points, resolution, conservative), weights[chosen].to(points.device),
                     votes, seen)


def _alphas(views: Views, chosen: torch.Tensor, points: torch.Tensor, resolution: int, conservative: bool
            ) -> torch.Tensor:
    """(views, n) alpha of each view's mask at the points; NaN where the view cannot know."""
    cameras, rows = views.cameras, []
    for i in chosen.tolist():
        pose = torch.from_numpy(cameras.camera_to_world[i]).to(points)
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        ahead = -local[:, 2]
        x = cameras.cx[i] + cameras.fx[i] * local[:, 0] / ahead  # in pixels; pixel j covers j .. j + 1
        y = cameras.cy[i] - cameras.fy[i] * local[:, 1] / ahead
        alpha = torch.from_numpy(views.images[i, :, :, 3]).to(points)[None, None]
        edges = torch.cat([alpha[..., 0, :], alpha[..., -1, :], alpha[..., 0], alpha[..., -1]], -1)
        elsewhere = torch.nan if bool((edges > 0.5).any()) else 0.0
        if conservative:
            radius = 0.5 * 3**0.5 * (2 / resolution) * float(max(cameras.fx[i], cameras.fy[i]))
            nearest = max(float(ahead[ahead > 0].min()) if bool((ahead > 0).any()) else 1.0, 1e-3)
            reach = min(int(radius / nearest + 1), 1 + min(alpha.shape[2:]) // 4)
            alpha = functional.max_pool2d(alpha, 2 * reach + 1, 1, reach)
        grid = torch.stack([2 * x / cameras.width - 1, 2 * y / cameras.height - 1], -1)
        value = functional.grid_sample(alpha, grid[None, None], padding_mode="border", align_corners=False)[0, 0, 0]
        seen = (ahead > 1e-3) & (grid.abs() <= 1).all(-1)
        rows.append(torch.where(seen, value, elsewhere))
    return torch.stack(rows)


def _quantile(alphas: torch.Tensor, weights: torch.Tensor, votes: float, enough_seen: float) -> torch.Tensor:
    """The largest a with: weight of alphas >= a is at least votes * weight of all that see the point."""
    seen = ~alphas.isnan()
    known = (weights[:, None] * seen).sum(0) > enough_seen * weights.sum() - 1e-6
    if votes >= 1:
        least = torch.where(seen & (weights[:, None] > 0), alphas, torch.inf).amin(0)
        return torch.where(least.isinf() | ~known, 0.0, least)
    order = torch.where(seen, alphas, -1.0).sort(0, descending=True)
    share = (weights[:, None] * seen).gather(0, order.indices)
    total = share.sum(0)
    enough = share.cumsum(0) >= votes * total - 1e-6 * total
    first = enough.to(torch.uint8).argmax(0, keepdim=True)
    value = order.values.gather(0, first)[0].clamp(min=0)
    return torch.where((total > 0) & known, value, 0.0)
