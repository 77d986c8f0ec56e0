"""LoRA on a U-Net (Hu et al. 2021): attach, apply, scale, remove and merge low-rank updates of its attention layers.

    W' x = W x + s (alpha / r) B A x,   A (r, in), B (out, r), s the user's scale

peft puts the layers in; the base weights are never touched and never copied. ``twin`` gives a U-Net of its own modules
on the same weights, so that a network which other stages share can be adapted without their noticing.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import BadInput

ADAPTER = "lora"
"""peft's name of an adapter where the caller gives none."""
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of self- and cross-attention, as diffusers' own trainers adapt them."""
AGAIN = "train it again with `maquette train lora`, or choose the model set it was trained on with --models"


@dataclass(frozen=True)
class Lora:
    """A low-rank update of a U-Net.

    pairs : module's name -> (A (r, in) or (r, in, k, k), B (out, r) or (out, r, 1, 1)), on the CPU
    alphas : module's name -> alpha; the update is alpha / r B A
    card : its papers (token, base, steps, licence, ...); {} where the file has none
    name : what messages call it
    text : its updates of text encoders: "text_encoder", "text_encoder_2"
    family : whose it is, by its shapes ("sd15", "sdxl", ...); "" where they do not tell
    Modules are named with dots, or flat (kohya's ``down_blocks_0_...``): :func:`named` finds them in a network.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    alphas: dict[str, float]
    card: dict[str, Any] = field(default_factory=dict)
    name: str = "the LoRA"
    text: dict[str, Lora] = field(default_factory=dict)
    family: str = ""

    @property
    def token(self) -> str:
        """The word that stands for what it learned; "" where its papers do not say."""
        return str(self.card.get("token", ""))

    def rank(self, module: str) -> int:
        return int(self.pairs[module][0].shape[0])


# -- networks that share weights -------------------------------------------------------------------------------------

def twin(unet: Any) -> Any:
    """A U-Net with modules of its own on the very same weights: what is attached to one is not seen by the other."""
    shared = {id(t): t for t in [*unet.parameters(), *unet.buffers()]}
    return copy.deepcopy(unet, shared)


def base_digest(unet: Any) -> str:
    """SHA-256 of a U-Net's own weights in half precision, adapters left out.

    The same weights loaded in float16 and in float32 give the same digest. (Weights of bfloat16 do not.)
    """
    tensors = {name.replace(".base_layer.", "."): value for name, value in unet.state_dict().items()
               if ".lora_" not in name}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().to("cpu", torch.float16).contiguous()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy())
    return digest.hexdigest()


# -- attach, apply, scale, remove ------------------------------------------------------------------------------------

def attach(unet: Any, rank: int, alpha: float, seed: int, targets: Sequence[str] = TARGETS, name: str = ADAPTER
           ) -> list[nn.Parameter]:
    """Put a fresh, trainable LoRA in: B = 0, so that nothing changes yet; A uniform as a Linear's own weights.

    targets : endings of module names. -> its parameters, float32 or wider, in the order of the modules. The base
    weights are frozen. Raises BadInput when nothing fits ``targets``.
    """
    modules = [key for key, module in unet.named_modules()
               if any(key == t or key.endswith("." + t) for t in targets) and isinstance(module, nn.Linear | nn.Conv2d)]
    if not modules:
        raise BadInput(f"the U-Net has no layers named {', '.join(targets)}", "name others with targets")
    _inject(unet, dict.fromkeys(modules, rank), dict.fromkeys(modules, float(alpha)), name)
    generator = torch.Generator().manual_seed(seed)
    parameters: list[nn.Parameter] = []
    for _, down, up in _pairs(unet, name):
        bound = down.weight[0].numel() ** -0.5  # Kaiming-uniform with a = sqrt(5), torch's and peft's own start
        drawn = (2 * torch.rand(down.weight.shape, generator=generator) - 1) * bound
        for layer, value in ((down, drawn), (up, torch.zeros(up.weight.shape))):
            # Small steps vanish in half precision: what is trained has at least float32.
            wide = torch.promote_types(layer.weight.dtype, torch.float32)
            layer.weight = nn.Parameter(value.to(layer.weight.device, wide))
            parameters.append(layer.weight)
    return parameters


def apply(unet: Any, lora: Lora, scale: float = 1.0, name: str = ADAPTER) -> Any:
    """Put a trained LoRA in, frozen, beside those that are there; the U-Net itself is returned.

    scale : 0 nothing, 1 as trained; other values over- or understate it
    Raises BadInput when it was trained on another base or does not fit, before anything is changed.
    """
    lora = check(unet, lora)
    if name in adapters(unet):
        raise BadInput(f"the U-Net has a LoRA named {name!r} already", "remove it first, or give another name")
    _inject(unet, {module: lora.rank(module) for module in lora.pairs}, lora.alphas, name)
    for module, down, up in _pairs(unet, name):
        for layer, value in zip((down, up), lora.pairs[module], strict=True):
            value = value.reshape(layer.weight.shape)
            layer.weight = nn.Parameter(value.to(layer.weight.device, layer.weight.dtype, copy=True),
                                        requires_grad=False)
    unet.set_adapter(adapters(unet))  # adding one makes it the only active one
    for parameter in (p for n in adapters(unet) for _, d, u in _pairs(unet, n) for p in (d.weight, u.weight)):
        parameter.requires_grad_(False)  # and activating makes all of them trainable
    rescale(unet, scale, name)
    return unet


def rescale(unet: Any, scale: float, name: str = ADAPTER) -> None:
    """Let an applied LoRA count ``scale`` times as much as trained. Raises BadInput where there is none."""
    if name not in adapters(unet):
        raise BadInput(f"the U-Net has no LoRA named {name!r}", "apply it first")
    for _, layer in _layers(unet, name):
        layer.set_scale(name, scale)


def remove(unet: Any) -> Any:
    """Take every LoRA out; the modules that were there before are there again. The U-Net itself is returned."""
    for key, layer in list(_layers(unet)):
        parent, _, last = key.rpartition(".")
        setattr(unet.get_submodule(parent), last, layer.get_base_layer())
    if hasattr(unet, "peft_config"):
        del unet.peft_config
    unet._hf_peft_config_loaded = False
    return unet


def merged(unet: Any, lora: Lora, scale: float = 1.0) -> Any:
    """A twin with the update added into weights of its own: as quick as without. Only adapted layers are copied."""
    lora = check(unet, lora)
    made = twin(unet)
    with torch.no_grad():
        for module, (down, up) in lora.pairs.items():
            layer = made.get_submodule(module)
            layer = getattr(layer, "base_layer", layer)
            wide = torch.promote_types(layer.weight.dtype, torch.float32)
            update = up.to(wide).flatten(1) @ down.to(wide).flatten(1)  # 1 x 1 on k x k convolutions is this too
            update = update.view(layer.weight.shape).to(layer.weight.device)
            weight = layer.weight.to(wide) + scale * lora.alphas[module] / lora.rank(module) * update
            layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    return made


def taken(unet: Any, card: dict[str, Any], name: str = ADAPTER) -> Lora:
    """The LoRA that sits in a U-Net now, copied out of it."""
    pairs, alphas = {}, {}
    for module, layer in _layers(unet, name):
        pairs[module] = (layer.lora_A[name].weight.detach().cpu().clone().contiguous(),
                         layer.lora_B[name].weight.detach().cpu().clone().contiguous())
        alphas[module] = float(layer.lora_alpha[name])
    return Lora(pairs, alphas, card)


def adapters(unet: Any) -> list[str]:
    """Names of the LoRAs that sit in a U-Net."""
    return list(getattr(unet, "peft_config", {}))


def named(network: Any, lora: Lora) -> Lora:
    """A LoRA under the very names that a network's modules have. Raises BadInput where it has none of that name."""
    found = {_flat(key): key for key in _weighted(network)}
    names = {}
    for module in lora.pairs:
        name = found.get(_flat(module))
        if name is None:
            raise BadInput(f"{lora.name} was trained on another family: the {_what(network)} has no layer {module}",
                           AGAIN)
        names[module] = name
    return replace(lora, pairs={names[m]: pair for m, pair in lora.pairs.items()},
                   alphas={names[m]: alpha for m, alpha in lora.alphas.items()})


def check(unet: Any, lora: Lora) -> Lora:
    """The LoRA under the network's names (:func:`named`).

    Raises BadInput in one line where it cannot be used with a network: another family, or another base.
    """
    if not lora.pairs:
        raise BadInput(f"{lora.name} holds no layers of a U-Net", "give a LoRA of a text-to-image U-Net")
    modules, lora = _weighted(unet), named(unet, lora)
    for module, (down, up) in lora.pairs.items():
        layer = modules[module]
        # A Linear's (out, in) weight or a convolution's (out, in, k, k): B carries the first axis, A the others.
        if not _fits((up.shape[0], *down.shape[1:]), tuple(layer.weight.shape)) or up.shape[1] != down.shape[0]:
            raise BadInput(f"{lora.name} was trained on another family: its {module} is "
                           f"{_shape((up.shape[0], *down.shape[1:]))}, the {_what(unet)}'s is "
                           f"{_shape(layer.weight.shape)}", AGAIN)
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise BadInput(f"{lora.name} holds numbers that are not finite, in {module}", "train it again")
    about = lora.card.get("base", {})
    wanted = about.get("unet_sha256", "")
    if wanted and wanted != (found := base_digest(unet)):
        said = " ".join(str(about[k]) for k in ("id", "revision") if about.get(k))
        raise BadInput(f"{lora.name} was trained on another base{f', {said}' if said else ''}: "
                       f"U-Net sha256 expected {wanted[:12]}, found {found[:12]}", AGAIN)
    return lora


def _weighted(network: Any) -> dict[str, Any]:
    """Modules that a LoRA can change, by their names without adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    return {key.replace(".base_layer", ""): m for key, m in network.named_modules()
            if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv1d | nn.Embedding) and ".lora_" not in key
            and not isinstance(m, BaseTunerLayer)}


def _flat(module: str) -> str:
    return module.removeprefix("text_model.").replace(".", "_")


def _fits(update: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Equal shapes, or a 1 x 1 convolution for a linear layer and back, as families differ in their projections."""
    def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:2] if shape[2:] == (1, 1) else shape
    return update == weight or bare(update) == bare(weight)


def _what(network: Any) -> str:
    kind = type(network).__name__
    return "U-Net" if "UNet" in kind else "text encoder" if "Text" in kind or "T5" in kind else "transformer"


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(str(int(n)) for n in shape)


def _inject(unet: Any, ranks: dict[str, int], alphas: dict[str, float], name: str) -> None:
    """peft's layers around ``ranks``'s modules, with values that are still to be set."""
    from peft import LoraConfig
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = LoraConfig(r=int(rank), lora_alpha=alpha, target_modules=list(ranks), lora_dropout=0.0, bias="none",
                        rank_pattern={k: v for k, v in ranks.items() if v != rank},
                        alpha_pattern={k: v for k, v in alphas.items() if v != alpha})
    # peft draws from the global generator; nobody's draws may change by that. Its word on several adapters is known.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        if hasattr(unet, "add_adapter"):
            unet.add_adapter(config, name)
        else:  # motion modules alone, outside of a U-Net
            from peft import inject_adapter_in_model
            inject_adapter_in_model(config, unet, name)


def _layers(unet: Any, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """(module's name, peft's layer) of an adapter, or of all."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    for key, module in unet.named_modules():
        if isinstance(module, BaseTunerLayer) and (name is None or name in module.lora_A):
            yield key, module


def _pairs(unet: Any, name: str) -> Iterator[tuple[str, nn.Linear, nn.Linear]]:
    for key, layer in _layers(unet, name):
        yield key, layer.lora_A[name], layer.lora_B[name]
