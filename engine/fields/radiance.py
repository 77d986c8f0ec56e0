"""The radiance field: points (and directions) in the cube [-1, 1]^3 -> density and colour."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine import artifacts
from engine.errors import BadInput
from engine.fields.encodings import SH_SIZE, Backend, FrequencyEncoding, HashEncoding, spherical_harmonics
from engine.kernels.hash_grid import HashGridShape
from engine.space import Frame


@dataclass(frozen=True)
class RadianceConfig:
    """How a field is built; kept in the artifact.

    encoding : "hash" (levels, log2_table, base, finest) or "frequency" (frequencies)
    hidden : width of both networks; geometry : features that the density network hands to the colour network
    view_directions : colour depends on where it is seen from
    density_bias : natural logarithm of the density, per field unit, where the network says 0
    """

    encoding: Literal["hash", "frequency"] = "hash"
    levels: int = 8
    log2_table: int = 15
    base: int = 16
    finest: int = 256
    frequencies: int = 6
    hidden: int = 32
    geometry: int = 15
    view_directions: bool = False
    density_bias: float = 0.0


class _Exp(torch.autograd.Function):
    """exp whose gradient is bounded (Instant-NGP's truncated exponential): an outlier must not end the fit."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        value = x.clamp(max=11).exp()
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.saved_tensors[0]


class RadianceField(nn.Module):
    """Encoding, a density network with one hidden layer, a colour network with one hidden layer."""

    def __init__(self, config: RadianceConfig, backend: Backend = "warp") -> None:
        super().__init__()
        self.config = config
        if config.encoding == "hash":
            shape = HashGridShape(config.levels, config.log2_table, config.base, config.finest)
            self.encoding: HashEncoding | FrequencyEncoding = HashEncoding(shape, backend)
        else:
            self.encoding = FrequencyEncoding(config.frequencies)
        colour_inputs = config.geometry + (SH_SIZE if config.view_directions else 0)
        self.density_in = nn.Linear(self.encoding.size, config.hidden)
        self.density_out = nn.Linear(config.hidden, 1 + config.geometry)
        self.colour_in = nn.Linear(colour_inputs, config.hidden)
        self.colour_out = nn.Linear(config.hidden, 3)

    def _geometry(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = functional.relu(self.density_in(self.encoding(points)))
        raw, features = self.density_out(hidden).split((1, self.config.geometry), 1)
        return _Exp.apply(raw[:, 0] + self.config.density_bias), features

    def density(self, points: torch.Tensor) -> torch.Tensor:
        """points : (n, 3) in [-1, 1] -> (n,) >= 0, per field unit. Outside the cube it is 0 (see render)."""
        hidden = functional.relu(self.density_in(self.encoding(points)))
        raw = functional.linear(hidden, self.density_out.weight[:1], self.density_out.bias[:1])
        return _Exp.apply(raw[:, 0] + self.config.density_bias)

    def forward(self, points: torch.Tensor, directions: torch.Tensor | None = None
                ) -> tuple[torch.Tensor, torch.Tensor]:
        """density (n,) and sRGB colour (n, 3) in [0, 1] at points (n, 3), seen along unit directions (n, 3).

        Without directions a view-dependent field answers with no direction's features, its view-free colour.
        """
        density, features = self._geometry(points)
        if self.config.view_directions:
            view = (features.new_zeros(len(points), SH_SIZE) if directions is None
                    else spherical_harmonics(directions))
            features = torch.cat([features, view], 1)
        return density, torch.sigmoid(self.colour_out(functional.relu(self.colour_in(features))))

    @torch.no_grad()
    def query(self, points: torch.Tensor, directions: torch.Tensor | None = None, chunk: int = 1 << 17
              ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like a call, without gradients, in chunks, on any device; points (n, 3) -> density (n,), rgb (n, 3)."""
        device = self.density_in.weight.device
        parts = [self(points[i:i + chunk].to(device, torch.float32),
                      None if directions is None else directions[i:i + chunk].to(device, torch.float32))
                 for i in range(0, len(points), chunk)]
        if not parts:
            return torch.zeros(0, device=device), torch.zeros(0, 3, device=device)
        return torch.cat([d for d, _ in parts]), torch.cat([c for _, c in parts])

    @torch.no_grad()
    def density_grid(self, resolution: int, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """Density at the centres of resolution^3 cells of the cube: (r, r, r) float32, z, y, x order.

        allowed : (a, a, a), where 0 the density is 0 without asking the network
        """
        device = self.density_in.weight.device
        result = torch.zeros(resolution**3, device=device)
        if allowed is None:
            cells = torch.arange(resolution**3, device=device)
        else:
            nearest = ((torch.arange(resolution, device=device) + 0.5) * (len(allowed) / resolution)).long()
            fine = allowed.to(device)[nearest][:, nearest][:, :, nearest]
            cells = fine.reshape(-1).nonzero()[:, 0]
        for part in cells.split(1 << 17):
            result[part] = self.density(cell_centres(part, resolution))
        return result.view(resolution, resolution, resolution)

    def to_artifact(self, frame: Frame | None = None, extra: dict[str, np.ndarray] | None = None,
                    meta: dict[str, Any] | None = None) -> artifacts.Field:
        """extra : further tensors that travel with the field ("occupancy", ...)."""
        tensors = {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}
        return artifacts.Field({"kind": "radiance", **asdict(self.config)}, tensors | (extra or {}),
                               frame or Frame(), meta or {})

    @staticmethod
    def from_artifact(field: artifacts.Field, device: str | torch.device = "cpu", backend: Backend = "warp"
                      ) -> RadianceField:
        """Raises BadInput when the artifact is of another kind, lacks a tensor or holds one of a wrong shape."""
        if field.config.get("kind") != "radiance":
            raise BadInput(f'the field is of kind "{field.config.get("kind")}", not "radiance"', "fit it again")
        known = {f.name for f in fields(RadianceConfig)}
        module = RadianceField(RadianceConfig(**{k: v for k, v in field.config.items() if k in known}), backend)
        for name, expected in module.state_dict().items():
            found = field.tensors.get(name)
            if found is None or found.shape != tuple(expected.shape):
                raise BadInput(f'the field\'s tensor "{name}" is missing or has a wrong shape', "fit it again")
        module.load_state_dict({name: torch.from_numpy(np.array(field.tensors[name])) for name in module.state_dict()})
        return module.to(device)


def cell_centres(cells: torch.Tensor, resolution: int) -> torch.Tensor:
    """Positions in [-1, 1]^3 of the centres of cells given by flat z, y, x index: (m,) -> (m, 3) as x, y, z."""
    x, y, z = cells % resolution, cells // resolution % resolution, cells // resolution**2
    return (torch.stack([x, y, z], -1).float() + 0.5) * (2 / resolution) - 1
