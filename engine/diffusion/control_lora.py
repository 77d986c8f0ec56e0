"""Control-LoRA: a ControlNet (Zhang et al. 2023) kept as what sets it apart from the U-Net it controls.

A ControlNet is a copy of its base's encoder half that also sees a map, and adds what it finds to the base's skip
connections through 1 x 1 convolutions that start at zero. Its copied weights differ from the base's by little:

    W_control = W_base + B A,   A (r, in), B (out, r)     (convolutions: A r x in x k x k, B out x r x 1 x 1)

so only A, B and what the base has no counterpart of are kept. Put together again it is a plain diffusers
ControlNetModel, and whatever takes one takes it.

Keys of ``control_lora.safetensors`` (half precision as shipped):

- ``controlnet_cond_embedding.*``, ``controlnet_down_blocks.N.{weight,bias}``, ``controlnet_mid_block.{weight,bias}``:
  whole, under ControlNetModel's own names;
- ``<module>.lora_A.weight``, ``<module>.lora_B.weight``: the difference of a layer of ``down_blocks``, ``mid_block``,
  ``conv_in`` or ``time_embedding``;
- any other ControlNetModel key: that tensor whole, in the base's place (norms and biases, where they differ).

``control.json`` beside it holds kind, rank, the hint embedding's channels, and the base's digest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from engine.diffusion import lora
from engine.diffusion.lora import Lora
from engine.errors import BadInput
from engine.runs import files

RANK = 16
HINT_CHANNELS = (8, 16, 32, 64)
"""Of the built-in controls' hint embedding: 128 px to 16 cells, about as much work on each level."""
WHOLE = ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.")
"""What a ControlNet has and its base has not."""
TARGETS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
           "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv")
"""Endings of the layers that training adapts. Reading the text and the time step stays the base's."""
WEIGHTS, SETTINGS = "control_lora.safetensors", "control.json"
HINT = "restore the folder, or train the control again on this base"


@dataclass(frozen=True)
class ControlLora:
    """A control without its base.

    kind : "edges", "depth", "pose", "parts", ...; whole : key -> tensor; pairs : module -> (A, B)
    hint_channels : of the hint embedding; unet_sha256 : ``lora.base_digest`` of its base, "" where unknown
    """

    kind: str
    whole: dict[str, Tensor]
    pairs: dict[str, tuple[Tensor, Tensor]]
    hint_channels: tuple[int, ...] = HINT_CHANNELS
    unet_sha256: str = ""
    name: str = field(default="the control", compare=False)


# -- from a base and back --------------------------------------------------------------------------------------------

def bare(base: Any, hint_channels: Sequence[int] = HINT_CHANNELS) -> Any:
    """A ControlNetModel on the base's own weights, not copies; what the base has not is zero.

    base : UNet2DConditionModel. It adds nothing yet: every residual is exactly 0.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel
    with torch.device("meta"):
        net = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=tuple(hint_channels),
                                        load_weights_from_unet=False)
    shared, like = base.state_dict(), next(base.parameters())
    tensors = {}
    for key, value in net.state_dict().items():
        tensors[key] = torch.zeros(value.shape, dtype=like.dtype, device=like.device) if key.startswith(WHOLE) \
            else shared[key]
    net.load_state_dict(tensors, assign=True)
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def fresh(base: Any, rank: int = RANK, seed: int = 0, hint_channels: Sequence[int] = HINT_CHANNELS) -> Any:
    """A ControlNetModel that can be trained: the base's weights locked, differences, hint embedding and zero
    convolutions free. Until its first step it changes nothing."""
    net = bare(base, hint_channels)
    _draw_hint(net, seed)
    lora.attach(net, rank, rank, seed, TARGETS)
    for key, parameter in net.named_parameters():
        if key.startswith(WHOLE):
            parameter.requires_grad_(True)
    return net


def _draw_hint(net: Any, seed: int) -> None:
    """The hint embedding as He et al. 2015 start convolutions, its last one too.

    Zhang et al. start that one at zero as well, to spare the copied features; the differences and the zero
    convolutions behind it do that here, and they learn at once when the map is there from the first step.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = net.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
        spread = (2 / layer.weight[0].numel()) ** 0.5
        drawn = torch.randn(layer.weight.shape, generator=generator) * spread
        layer.weight.data.copy_(drawn)


def taken(net: Any, kind: str, unet_sha256: str = "") -> ControlLora:
    """The control that a net from :func:`fresh` has become, copied out of it, on the CPU."""
    whole = {k: _own(v) for k, v in net.state_dict().items() if k.startswith(WHOLE)}
    return ControlLora(kind, whole, lora.taken(net, {}).pairs, _channels(net), unet_sha256)


def put(net: Any, control: ControlLora) -> Any:
    """A net from :func:`fresh`, filled with a control that was trained before; the net itself is returned.

    Raises BadInput where ranks, targets or the hint embedding are others.
    """
    own = net.state_dict()
    tensors = dict(control.whole)
    for module, pair in control.pairs.items():
        tensors |= {f"{module}.lora_{side}.{lora.ADAPTER}.weight": t for side, t in zip("AB", pair, strict=True)}
    wanted = {k for k in own if k.startswith(WHOLE) or ".lora_" in k}
    wrong = sorted(wanted ^ set(tensors)) or [k for k in tensors if own[k].shape != tensors[k].shape]
    if wrong:
        raise BadInput(f"{control.name} cannot be trained on: it differs in {wrong[0]} and {len(wrong) - 1} more",
                       "train it from the start")
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)
    return net


def extract(net: Any, base: Any, kind: str, rank: int = RANK) -> ControlLora:
    """Any ControlNetModel as a Control-LoRA of ``base``: each layer's difference cut to ``rank`` by its singular
    values, the best such matrix in least squares (Eckart & Young 1936); exact where its rank is no higher.

    Layers without a difference are left out. Raises BadInput when the net is no copy of the base's encoder.
    """
    shared = base.state_dict()
    whole: dict[str, Tensor] = {}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for key, value in net.state_dict().items():
        if key.startswith(WHOLE):
            whole[key] = _own(value)
            continue
        if key not in shared or shared[key].shape != value.shape:
            raise BadInput(f"the ControlNet is of another family: the base has no {key} of shape {tuple(value.shape)}",
                           "give the U-Net that it was made from")
        difference = value.detach().double().cpu() - shared[key].detach().double().cpu()
        if not difference.any():
            continue
        if value.ndim < 2:
            whole[key] = _own(value)
        else:
            pairs[key.removesuffix(".weight")] = _cut(difference, rank, value.dtype)
    return ControlLora(kind, whole, pairs, _channels(net), lora.base_digest(base))


def _cut(difference: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    u, s, v = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    r = min(rank, len(s))
    root = s[:r].sqrt()
    down = (root[:, None] * v[:r]).view(r, *difference.shape[1:])
    up = (u[:, :r] * root).view(len(u), r, *(1,) * (difference.ndim - 2))
    return down.to(dtype).contiguous(), up.to(dtype).contiguous()


def apply(base: Any, control: ControlLora) -> Any:
    """The plain ControlNetModel: the base's encoder with the differences added in. The base stays as it is.

    Layers without a difference share the base's memory. Raises BadInput for another base or another family.
    """
    if control.unet_sha256 and control.unet_sha256 != (found := lora.base_digest(base)):
        raise BadInput(f"{control.name} was trained on another base: U-Net sha256 expected {control.unet_sha256[:12]}, "
                       f"found {found[:12]}", "choose the model set it was trained on, or train it again")
    net = bare(base, control.hint_channels)
    like = next(base.parameters())
    tensors = net.state_dict()
    for key, value in control.whole.items():
        if key not in tensors or tensors[key].shape != value.shape:
            raise BadInput(f"{control.name} is of another family: a ControlNet of this base has no {key} of shape "
                           f"{tuple(value.shape)}", HINT)
        tensors[key] = value.to(like.device, like.dtype, copy=True)
    missing = [k for k in tensors if k.startswith(WHOLE) and k not in control.whole]
    if missing:
        raise BadInput(f"{control.name} is incomplete: it has no {missing[0]} and {len(missing) - 1} more", HINT)
    net.load_state_dict(tensors, assign=True)
    if control.pairs:
        learned = Lora(control.pairs, {m: float(a.shape[0]) for m, (a, _) in control.pairs.items()}, {}, control.name)
        net = lora.merged(net, learned)
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _own(value: Tensor) -> Tensor:
    return value.detach().cpu().clone().contiguous()


def _channels(net: Any) -> tuple[int, ...]:
    return tuple(int(c) for c in net.config.conditioning_embedding_out_channels)


# -- files -----------------------------------------------------------------------------------------------------------

def save(control: ControlLora, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``folder``/control_lora.safetensors and control.json; ``dtype``: what the tensors become, None: as is."""
    from safetensors.torch import save as packed
    tensors = dict(control.whole)
    for module, pair in control.pairs.items():
        tensors |= {f"{module}.lora_{side}.weight": t for side, t in zip("AB", pair, strict=True)}
    tensors = {k: (v if dtype is None else v.to(dtype)).contiguous() for k, v in tensors.items()}
    about = {"kind": control.kind, "hint_channels": list(control.hint_channels), "unet_sha256": control.unet_sha256,
             "rank": max((a.shape[0] for a, _ in control.pairs.values()), default=0)}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_file(folder / WEIGHTS, packed(tensors, {"format": "pt"}))
    files.write_file(folder / SETTINGS, json.dumps(about, indent=1, sort_keys=True) + "\n")


def read(folder: Path) -> ControlLora:
    """A control from its folder. Raises BadInput where a file is missing, damaged or is no Control-LoRA."""
    from safetensors import SafetensorError

    from engine.models.packed import load
    try:
        about = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        kind, channels = str(about["kind"]), tuple(int(c) for c in about["hint_channels"])
        base = str(about["unet_sha256"])
    except FileNotFoundError as error:
        raise BadInput(f"there is no control in {folder}: {SETTINGS} is missing", HINT) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"cannot read {folder / SETTINGS}: {error!r}", HINT) from error
    try:
        tensors = load(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot read the weights {folder / WEIGHTS}: {error}", HINT) from error
    whole, halves = {}, {}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise BadInput(f"{folder / WEIGHTS} holds numbers that are not finite, in {key}", HINT)
        if key.endswith((".lora_A.weight", ".lora_B.weight")):
            halves[key] = value
        else:
            whole[key] = value
    pairs = {}
    for key in halves:
        module = key.rsplit(".lora_", 1)[0]
        both = [halves.get(f"{module}.lora_{side}.weight") for side in "AB"]
        if both[0] is None or both[1] is None:
            raise BadInput(f"{folder / WEIGHTS} holds one half of a difference: {key}", HINT)
        pairs[module] = (both[0], both[1])
    return ControlLora(kind, whole, pairs, channels, base, f"the control {folder.name}")


def load_control(folder: Path, base_unet: Any, device: str = "cpu") -> Any:
    """The ControlNetModel in ``folder`` for a loaded base U-Net, in the base's precision, on ``device``.

    Takes what :func:`save` wrote; raises BadInput as :func:`read` and :func:`apply` do.
    """
    return apply(base_unet, read(folder)).to(device)


# -- in use ----------------------------------------------------------------------------------------------------------

class Controlled(nn.Module):
    """A base U-Net under one or more controls, called as the U-Net is: (latents, t, context) -> ``.sample``.

    controls : ControlNetModels; maps : of each, (b, 3, h, w) in [0, 1]; a batch of 2 b latents (guidance) sees each
    map twice, in the same order. scales : how much each counts, 1 as trained. Residuals of several controls add up.
    """

    def __init__(self, base: Any, controls: Sequence[Any], maps: Sequence[Tensor],
                 scales: Sequence[float] | None = None) -> None:
        super().__init__()
        if not len(controls) == len(maps) == len(scales if scales is not None else maps):
            raise ValueError(f"{len(controls)} controls, {len(maps)} maps")
        self.base, self.controls = base, nn.ModuleList(controls)
        self.maps, self.scales = list(maps), list(scales) if scales is not None else [1.0] * len(maps)
        self.config = base.config

    def forward(self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor, **more: Any) -> Any:
        down, mid = residuals(self.controls, latents, t, encoder_hidden_states, self.maps, self.scales)
        return self.base(latents, t, encoder_hidden_states=encoder_hidden_states, down_block_additional_residuals=down,
                         mid_block_additional_residual=mid, **more)


def residuals(controls: Any, latents: Tensor, t: Tensor, context: Tensor, maps: Sequence[Tensor],
              scales: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """What the controls add to a base's skip connections and to its middle: summed over the controls.

    latents : (n, c, h, w), n a multiple of each map's batch; context : (n, tokens, d)
    """
    total: SimpleNamespace | None = None
    for net, shown, scale in zip(controls, maps, scales, strict=True):
        like = next(net.parameters())
        repeats = len(latents) // len(shown)
        seen = shown.to(like.device, like.dtype).repeat(repeats, 1, 1, 1)
        down, mid = net(latents, t, encoder_hidden_states=context, controlnet_cond=seen, conditioning_scale=scale,
                        return_dict=False)
        total = SimpleNamespace(down=down, mid=mid) if total is None else SimpleNamespace(
            down=[a + b for a, b in zip(total.down, down, strict=True)], mid=total.mid + mid)
    if total is None:
        raise ValueError("no control")
    return total.down, total.mid
