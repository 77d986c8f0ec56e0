"""Reference attention: a network looks at a picture by attending to what it itself saw in it.

A first pass over the reference keeps what every self-attention read; in the second, over what is being drawn, each
self-attention reads that too, behind its own. Nothing is trained for it in the network's shape: the same U-Net does
both. Source: Zhang 2023 (ControlNet's "reference only"), Hu et al. 2023 (AnimateAnyone), Shi et al. 2023 (Zero123++).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor


class Bank:
    """What the self-attentions of one U-Net read in the last written pass: name -> (b, tokens, width).

    reading : how many samples, from the first, read it (the conditional ones); None: all. Where there are more of them
    than were written, each written one serves as many in a row: the frames of its clip.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.mode: Literal["off", "write", "read"] = "off"
        self.reading: int | None = None


class ReferenceAttention:
    """An attention processor that writes to a bank or reads from it, in front of the one that computes."""

    def __init__(self, inner: Any, bank: Bank, name: str) -> None:
        self.inner, self.bank, self.name = inner, bank, name

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None) -> Tensor:
        """hidden_states : (b, tokens, width), what the attention is asked about and, without another context, reads"""
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.bank.mode == "write":
            self.bank.kept[self.name] = read
        elif self.bank.mode == "read":
            n = len(read) if self.bank.reading is None else self.bank.reading
            if n == 0:
                return self.inner(attn, hidden_states, read, attention_mask, temb)
            kept = self.bank.kept[self.name]
            both = torch.cat([read[:n], kept.repeat_interleave(n // len(kept), 0)], 1)
            if n == len(read):
                return self.inner(attn, hidden_states, both, attention_mask, temb)
            with_, without = hidden_states[:n], hidden_states[n:]
            return torch.cat([self.inner(attn, with_, both, None, temb),
                              self.inner(attn, without, read[n:], None, temb)])
        return self.inner(attn, hidden_states, read, attention_mask, temb)


def attach(unet: Any, bank: Bank | None = None) -> Bank:
    """Put reference attention into every self-attention (``attn1``) of a U-Net; -> its bank, switched off.

    bank : of another U-Net with the same names, which this one shall read; None: a bank of its own
    Motion modules, which attend over time, have none. The U-Net is changed: give a twin
    (``engine.diffusion.lora.twin``) of one that others use.
    """
    bank = bank or Bank()
    unet.set_attn_processor({
        name: ReferenceAttention(inner, bank, name) if name.endswith("attn1.processor") and "motion_modules" not in name
        else inner for name, inner in unet.attn_processors.items()})
    return bank
