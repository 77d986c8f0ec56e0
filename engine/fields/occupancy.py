"""Which cells of the cube may hold matter, kept beside a field while it is fitted and rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from engine import artifacts
from engine.chunks import at_once
from engine.kernels import occupancy as kernel

if TYPE_CHECKING:
    from engine.fields.base import FieldModule


class Occupancy:
    """An occupancy grid over [-1, 1]^3.

    allowed : (r, r, r) uint8; cells that are 0 stay empty for ever (outside the visual hull)
    values : (r, r, r) float32, decayed maximum of the densities seen in each cell
    states : (r, r, r) uint8, what the ray march reads
    threshold : density below which a cell is empty
    """

    def __init__(self, allowed: torch.Tensor, threshold: float = 1.0) -> None:
        self.allowed = allowed.to(torch.uint8).contiguous()
        self.threshold = threshold
        self.values = torch.zeros(self.allowed.shape, device=allowed.device)
        self.states = self.allowed.clone()  # until the first update every allowed cell is open

    @property
    def resolution(self) -> int:
        return len(self.states)

    def update(self, field: FieldModule, generator: torch.Generator | None = None, decay: float = 0.95) -> None:
        """Ask the field for the density at a random point (the centre without generator) of each allowed cell.

        Of a SurfaceField nothing is remembered, and the threshold must be below 1.9: see its cell_density.
        """
        from engine.fields.base import cell_centres
        cells = self.allowed.view(-1).nonzero()[:, 0]
        points = cell_centres(cells, self.resolution)
        if generator is not None:
            shift = torch.rand(points.shape, generator=generator).to(points.device) - 0.5
            points = points + shift * (2 / self.resolution)
        with torch.no_grad():
            parts = points.split(at_once(1 << 17))
            fresh = (torch.cat([field.cell_density(part, 2 / self.resolution) for part in parts])
                     if len(cells) else points[:, 0])
        kernel.update(self.values, cells, fresh, decay if field.REMEMBERED else 0.0)
        self.states = kernel.classify(self.values, self.allowed, self.threshold)

    def state(self) -> dict[str, Any]:
        return {"allowed": self.allowed, "values": self.values, "states": self.states}

    def restore(self, state: dict[str, Any]) -> None:
        device = self.values.device
        self.allowed, self.values, self.states = (state[k].to(device) for k in ("allowed", "values", "states"))

    @staticmethod
    def from_artifact(field: artifacts.Field, device: str | torch.device = "cpu", resolution: int = 64) -> Occupancy:
        """The grid kept with a field, or one that allows everything where the field has none."""
        kept = field.tensors.get("occupancy")
        if kept is None:
            return Occupancy(torch.ones((resolution,) * 3, dtype=torch.uint8, device=device))
        return Occupancy(torch.from_numpy(kept.copy()).to(device))
