"""What radiance and signed-distance fields share: colour, normals, rendering along rays, queries, artifacts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine import artifacts
from engine.chunks import at_once
from engine.errors import BadInput
from engine.fields.encodings import SH_SIZE, Backend, FrequencyEncoding, HashEncoding, spherical_harmonics
from engine.kernels.hash_grid import HashGridShape
from engine.kernels.march import Samples
from engine.space import Frame


@dataclass
class Along:
    """A field at samples along rays. density : (m,) per field unit, rgb : (m, 3), gradient : (m, 3) or None.

    gradient is that of the field's potential: it points outward and is not of unit length.
    """

    density: torch.Tensor
    rgb: torch.Tensor
    gradient: torch.Tensor | None = None


@dataclass(frozen=True)
class FieldConfig:
    """What the configurations of all fields share.

    encoding : "hash" (levels, log2_table, base, finest) or "frequency" (frequencies)
    hidden : width of the networks; geometry : features that the first network hands to the colour network
    view_directions : colour depends on where it is seen from
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


def encoding_of(config: FieldConfig, backend: Backend) -> HashEncoding | FrequencyEncoding:
    """The encoding that a field's configuration names."""
    if config.encoding == "hash":
        return HashEncoding(HashGridShape(config.levels, config.log2_table, config.base, config.finest), backend)
    return FrequencyEncoding(config.frequencies)


class FieldModule(nn.Module):
    """A function over the cube [-1, 1]^3. A subclass has encoding, colour_in, colour_out and the five first methods.

    The *potential* grows outward: the signed distance, or minus what the density's activation is applied to. Its
    gradient gives the normals.
    """

    KIND: ClassVar[str]
    CONFIG: ClassVar[type]
    LATER: ClassVar[tuple[str, ...]] = ()
    """Options of the configuration that artifacts carry only where they are not the default (older ones lack them)."""

    REMEMBERED: ClassVar[bool] = True
    """The occupancy grid keeps a decaying maximum of what cell_density says, which is one sample of each cell."""

    config: Any
    encoding: HashEncoding | FrequencyEncoding
    colour_in: nn.Linear
    colour_out: nn.Linear

    def _head(self, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """encoded : (n, size) -> what the network says (n,), which is not yet the potential, and features (n, g)."""
        raise NotImplementedError

    def _potential(self, raw: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """The potential (n,) from what the network says."""
        raise NotImplementedError

    def _gradient(self, raw_gradient: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """The potential's gradient (n, 3) from that of what the network says."""
        raise NotImplementedError

    def _density(self, potential: torch.Tensor) -> torch.Tensor:
        """Density (n,) per field unit where the potential is (n,)."""
        raise NotImplementedError

    def cell_density(self, points: torch.Tensor, width: float) -> torch.Tensor:
        """What the occupancy grid keeps of cells of this width, asked at points (n, 3) in them: (n,) >= 0."""
        raise NotImplementedError

    def potential(self, points: torch.Tensor) -> torch.Tensor:
        """points : (n, 3) -> (n,), larger outside. Differentiable twice."""
        return self._potential(self._head(self.encoding(points))[0], points)

    def density(self, points: torch.Tensor) -> torch.Tensor:
        """points : (n, 3) in [-1, 1] -> (n,) >= 0, per field unit. Outside the cube it is 0 (see render)."""
        return self._density(self.potential(points))

    def gradient(self, points: torch.Tensor) -> torch.Tensor:
        """Gradient of the potential at points (n, 3): (n, 3), outward, differentiable once more (losses on it)."""
        return self._with_gradient(points)[2]

    def _with_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Potential (n,), features (n, g) and the potential's gradient (n, 3), for one asking of the encoding."""
        create = torch.is_grad_enabled()
        encoded = self.encoding(points)
        with torch.enable_grad():  # the head's gradient is wanted even where the caller wants none
            if not encoded.requires_grad:
                encoded = encoded.detach().requires_grad_()
            raw, features = self._head(encoded)
            # Only as far as the encoding, whose own part has a kernel that does not touch the table's gradient.
            over_encoded = torch.autograd.grad(raw.sum(), encoded, create_graph=create, retain_graph=True)[0]
        if not create:
            raw, features = raw.detach(), features.detach()
        gradient = self._gradient(self.encoding.pull(points, over_encoded), points)
        return self._potential(raw, points), features, gradient

    def _colour(self, features: torch.Tensor, directions: torch.Tensor | None) -> torch.Tensor:
        if self.config.view_directions:
            view = (features.new_zeros(len(features), SH_SIZE) if directions is None
                    else spherical_harmonics(directions))
            features = torch.cat([features, view], 1)
        return torch.sigmoid(self.colour_out(functional.relu(self.colour_in(features))))

    def forward(self, points: torch.Tensor, directions: torch.Tensor | None = None
                ) -> tuple[torch.Tensor, torch.Tensor]:
        """density (n,) and sRGB colour (n, 3) in [0, 1] at points (n, 3), seen along unit directions (n, 3).

        Without directions a view-dependent field answers with no direction's features, its view-free colour.
        """
        raw, features = self._head(self.encoding(points))
        return self._density(self._potential(raw, points)), self._colour(features, directions)

    def along(self, samples: Samples, points: torch.Tensor, directions: torch.Tensor | None, gradient: bool = False
              ) -> Along:
        """The field as rays meet it at samples, whose points are (m, 3) and directions (m, 3) or None."""
        if not gradient:
            return Along(*self(points, directions))
        potential, features, outward = self._with_gradient(points)
        return Along(self._density(potential), self._colour(features, directions), outward)

    def density_along(self, samples: Samples, points: torch.Tensor) -> torch.Tensor:
        """The density alone of ``along``: (m,)."""
        return self.density(points)

    @torch.no_grad()
    def query(self, points: torch.Tensor, directions: torch.Tensor | None = None, chunk: int = 1 << 17
              ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like a call, without gradients, in chunks, on any device; points (n, 3) -> density (n,), rgb (n, 3)."""
        device = self.colour_in.weight.device
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
        return self._grid(self.density, resolution, allowed, 0.0)

    def _grid(self, function: Any, resolution: int, allowed: torch.Tensor | None, elsewhere: float) -> torch.Tensor:
        device = self.colour_in.weight.device
        result = torch.full((resolution**3,), elsewhere, device=device)
        if allowed is None:
            cells = torch.arange(resolution**3, device=device)
        else:
            nearest = ((torch.arange(resolution, device=device) + 0.5) * (len(allowed) / resolution)).long()
            fine = allowed.to(device)[nearest][:, nearest][:, :, nearest]
            cells = fine.reshape(-1).nonzero()[:, 0]
        for part in cells.split(at_once(1 << 17)):
            result[part] = function(cell_centres(part, resolution))
        return result.view(resolution, resolution, resolution)

    def to_artifact(self, frame: Frame | None = None, extra: dict[str, np.ndarray] | None = None,
                    meta: dict[str, Any] | None = None) -> artifacts.Field:
        """extra : further tensors that travel with the field ("occupancy", ...)."""
        tensors = {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}
        usual = asdict(self.CONFIG())
        config = {k: v for k, v in asdict(self.config).items() if k not in self.LATER or v != usual[k]}
        return artifacts.Field({"kind": self.KIND, **config}, tensors | (extra or {}), frame or Frame(), meta or {})

    @classmethod
    def from_artifact(cls, field: artifacts.Field, device: str | torch.device = "cpu", backend: Backend = "warp"
                      ) -> Self:
        """Raises BadInput when the artifact is of another kind, lacks a tensor, holds one of a wrong shape, or has
        an option that this version does not know."""
        if field.config.get("kind") != cls.KIND:
            raise BadInput(f'the field is of kind "{field.config.get("kind")}", not "{cls.KIND}"', "fit it again")
        options = {k: v for k, v in field.config.items() if k != "kind"}
        if unknown := sorted(options.keys() - {f.name for f in fields(cls.CONFIG)}):
            raise BadInput(f"the field has an option that this version does not know: {', '.join(unknown)}",
                           "use the version of Maquette that made it, or fit it again")
        module = cls(cls.CONFIG(**options), backend)  # type: ignore[call-arg]
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
