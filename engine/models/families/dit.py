"""DiT (Peebles & Xie 2023): a diffusion transformer told one of ImageNet's thousand classes instead of a text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.models.families.base import Conditions, TextToImage, refuse


@dataclass(frozen=True)
class DiT(TextToImage):
    """unet : DiTTransformer2DModel; it has no text encoder

    labels : class -> its names with commas between them, as the model's folder lists them (``id2label``)
    The class after the last one stands for none.
    """

    labels: Mapping[int, str] = field(default_factory=dict)
    family: str = "dit"

    @property
    def classes(self) -> dict[str, int]:
        """Every name of every class, lower case."""
        return {name.strip().lower(): int(number) for number, names in self.labels.items()
                for name in names.split(",")}

    def class_of(self, text: str) -> int:
        """The class that a text names: a class's name alone or inside a longer text, the longest one that fits.

        Raises BadInput with the nearest names where there is none.
        """
        said, known = " ".join(text.lower().split()), self.classes
        if said in known:
            return known[said]
        words = f" {' '.join(''.join(c if c.isalnum() else ' ' for c in said).split())} "
        inside = [name for name in known if f" {name} " in words]
        if inside:
            longest = max(len(name) for name in inside)
            best = sorted({known[name] for name in inside if len(name) == longest})
            if len(best) == 1:
                return best[0]
        near = difflib.get_close_matches(said, known, n=4, cutoff=0.5) or inside[:4] or list(known)[:4]
        raise BadInput(f"{self.name} draws ImageNet's classes, and {text[:60]!r} names none of them",
                       f"give one, for instance {', '.join(near)}" if near else "choose another model set")

    @property
    def text_encoders(self) -> tuple[tuple[Any, Any], ...]:
        return ()

    def unseen(self, text: str) -> tuple[str, int]:
        return "", 0

    def condition(self, texts: Sequence[str], *, negative: bool = False, height: int | None = None,
                  width: int | None = None) -> Conditions:
        none = int(self.unet.config.num_embeds_ada_norm)
        numbers = [none if negative else self.class_of(text) for text in texts]
        return Conditions({"labels": torch.tensor(numbers, device=self.device)})

    def pair(self, text: str, negative: str = "", height: int | None = None, width: int | None = None
             ) -> tuple[Conditions, Conditions]:
        """Raises BadInput for a negative prompt: the model has no words to keep away from."""
        if negative.strip():
            raise BadInput(f"{self.name} draws classes and takes no negative prompt", "leave the negative prompt out")
        return self.condition([text]), self.condition([""], negative=True)

    def predict(self, latents: Tensor, t: Tensor, conditions: Conditions, *, beside: Tensor | None = None,
                down: Sequence[Tensor] | None = None, mid: Tensor | None = None,
                image_embeds: Sequence[Tensor] | None = None, guidance: float | None = None) -> Tensor:
        """As ``TextToImage.predict``."""
        refuse(self, beside=beside, down=down, mid=mid, image_embeds=image_embeds)
        said = self.use(self.unet)(latents.to(self.dtype), timestep=t.expand(len(latents)),
                                   class_labels=conditions.tensors["labels"]).sample
        return self._wanted_channels(said, latents).to(latents.dtype)
