"""Image prompts as IP-Adapter gives them (Ye et al. 2023): a picture's CLIP embedding as a few more context tokens.

Each cross-attention layer reads them through keys and values of its own, beside the text's and added to it:

    out = Attention(Q, K_text, V_text) + scale Attention(Q, K_image, V_image)

The base is locked; what is learned are the projection to tokens and to_k_ip, to_v_ip. Keys are those of the public
files: ``image_proj.proj.{weight,bias}``, ``image_proj.norm.{weight,bias}``, ``ip_adapter.N.to_k_ip.weight`` and
``to_v_ip``, N = 1, 3, 5, ... counting the U-Net's attention layers in the order down, up, mid.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from engine.diffusion import lora
from engine.errors import BadInput
from engine.runs import files

TOKENS = 4
WEIGHTS, SETTINGS = "ip_adapter.safetensors", "image_prompt.json"
HINT = "restore the file, or choose an IP-Adapter of this model's family"


class ImageProjection(nn.Module):
    """A picture's embedding (b, d) -> context tokens (b, tokens, width)."""

    def __init__(self, embedding: int, width: int, tokens: int = TOKENS) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.proj = nn.Linear(embedding, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.norm(self.proj(embeds).view(len(embeds), self.tokens, self.width))


class KeyValue(nn.Module):
    """One cross-attention layer's keys and values of the picture; context width -> layer width."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(context, width, bias=False)
        self.to_v_ip = nn.Linear(context, width, bias=False)


class IPAdapter(nn.Module):
    """All that an IP-Adapter adds to a U-Net; its state dict has the public files' keys.

    widths : number N of the attention layer -> its width; see :func:`cross_attentions`
    """

    def __init__(self, embedding: int, context: int, widths: dict[int, int], tokens: int = TOKENS) -> None:
        super().__init__()
        self.image_proj = ImageProjection(embedding, context, tokens)
        self.ip_adapter = nn.ModuleDict({str(n): KeyValue(context, w) for n, w in widths.items()})

    def layer(self, n: int) -> KeyValue:
        """Keys and values of attention layer N."""
        return cast(KeyValue, self.ip_adapter[str(n)])

    def tokens(self, embeds: Tensor) -> Tensor:
        """Pictures' embeddings (b, d), projected and not normalised; zeros for none -> (b, tokens, context)."""
        return self.image_proj(embeds.to(self.image_proj.proj.weight))


def cross_attentions(unet: Any) -> dict[int, str]:
    """Number N in the files -> the layer's name: all attention layers counted down, up, mid; cross ones are odd."""
    names = [n.removesuffix(".processor") for n in unet.attn_processors]
    return {n: name for n, name in enumerate(names) if name.endswith("attn2")}


def widths_of(unet: Any) -> dict[int, int]:
    """Number N -> width of that layer's keys."""
    return {n: int(unet.get_submodule(name).to_k.weight.shape[0]) for n, name in cross_attentions(unet).items()}


def fresh(unet: Any, embedding: int, seed: int = 0, tokens: int = TOKENS) -> IPAdapter:
    """An adapter to train: keys and values start as the text's own (Ye et al. 2023), the projection is random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = IPAdapter(embedding, int(unet.config.cross_attention_dim), widths_of(unet), tokens)
    with torch.no_grad():
        for n, name in cross_attentions(unet).items():
            layer, own = unet.get_submodule(name), adapter.layer(n)
            own.to_k_ip.weight.copy_(layer.to_k.weight)
            own.to_v_ip.weight.copy_(layer.to_v.weight)
    return adapter


def install(unet: Any, adapter: IPAdapter, scale: float = 1.0) -> Any:
    """A twin of the U-Net, on the same weights, whose cross-attention also reads picture tokens.

    scale : how much the picture counts; 0: the base's own numbers. The twin is called with
    ``encoder_hidden_states=context_of(text, tokens)``; the U-Net itself stays as it is.
    Raises BadInput when the adapter is of another family.
    """
    check(unet, adapter)
    context = int(unet.config.cross_attention_dim)
    made = lora.twin(unet)
    numbers = {name: n for n, name in cross_attentions(made).items()}
    processors = dict(made.attn_processors)
    for key in processors:
        n = numbers.get(key.removesuffix(".processor"))
        if n is not None:
            processors[key] = _processor(adapter, n, context, scale)
    made.set_attn_processor(processors)
    return made


def check(unet: Any, adapter: IPAdapter) -> None:
    """Raises BadInput in one line where an adapter does not fit a U-Net's cross-attention."""
    wanted, found = widths_of(unet), {int(n): int(adapter.layer(int(n)).to_k_ip.weight.shape[0])
                                      for n in adapter.ip_adapter}
    context = int(unet.config.cross_attention_dim)
    if wanted != found or adapter.image_proj.width != context:
        raise BadInput(f"the IP-Adapter is of another family: {len(found)} layers, context {adapter.image_proj.width}; "
                       f"the U-Net has {len(wanted)}, context {context}", HINT)


def _processor(adapter: IPAdapter, n: int, context: int, scale: float) -> Any:
    """diffusers' processor on the adapter's own layers, not copies: it may be trained, and shares memory."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    layers = adapter.layer(n)
    with torch.device("meta"):
        made = IPAdapterAttnProcessor2_0(layers.to_k_ip.out_features, context,
                                         (adapter.image_proj.tokens,), scale)
    made.to_k_ip, made.to_v_ip = nn.ModuleList([layers.to_k_ip]), nn.ModuleList([layers.to_v_ip])
    return made


def context_of(text: Tensor, tokens: Tensor | Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What an installed twin takes as context: text (b, n, d), tokens (b, k, d) -> both, as its processors want them.
    """
    return text, [tokens] if isinstance(tokens, Tensor) else list(tokens)


# -- files -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Loaded:
    """An adapter with its papers. unet_sha256 : digest of its base, "" where unknown."""

    adapter: IPAdapter
    unet_sha256: str = ""


def of_tensors(tensors: dict[str, Tensor], name: str = "the IP-Adapter") -> IPAdapter:
    """An adapter from tensors under the public keys, "." or "/" between a nested file's parts.

    Raises BadInput for keys and shapes that are not the base IP-Adapter's (the "plus" one has a resampler).
    """
    tensors = {k.replace("/", "."): v for k, v in tensors.items()}
    try:
        embedding = int(tensors["image_proj.proj.weight"].shape[1])
        context = int(tensors["image_proj.norm.weight"].shape[0])
        tokens = int(tensors["image_proj.proj.weight"].shape[0]) // context
        widths = {int(k.split(".")[1]): int(v.shape[0]) for k, v in tensors.items() if k.endswith("to_k_ip.weight")}
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(f"{name} is no base IP-Adapter: {error!r}", HINT) from error
    with torch.device("meta"):
        adapter = IPAdapter(embedding, context, dict(sorted(widths.items())), tokens)
    try:
        adapter.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise BadInput(f"{name} is no base IP-Adapter: {' '.join(str(error).split())[:300]}", HINT) from error
    return adapter


def save(adapter: IPAdapter, folder: Path, unet_sha256: str = "", dtype: torch.dtype | None = None) -> None:
    """Write ``folder``/ip_adapter.safetensors, in the public layout, and image_prompt.json."""
    from safetensors.torch import save as packed
    tensors = {k: (v if dtype is None else v.to(dtype)).detach().cpu().contiguous()
               for k, v in adapter.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_file(folder / WEIGHTS, packed(tensors, {"format": "pt"}))
    files.write_file(folder / SETTINGS, json.dumps({"unet_sha256": unet_sha256}, indent=1) + "\n")


def read(folder: Path) -> Loaded:
    """What :func:`save` wrote. Raises BadInput where it is missing, damaged or not finite."""
    from safetensors import SafetensorError

    from engine.models.packed import load
    try:
        tensors = load(folder / WEIGHTS)
        about = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        base = str(about["unet_sha256"])
    except FileNotFoundError as error:
        raise BadInput(f"there is no image prompt in {folder}: {Path(str(error.filename or WEIGHTS)).name} is missing",
                       HINT) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadInput(f"cannot read the image prompt in {folder}: {error!r}", HINT) from error
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise BadInput(f"{folder / WEIGHTS} holds numbers that are not finite, in {key}", HINT)
    return Loaded(of_tensors(tensors, f"the image prompt {folder.name}"), base)


def weights_of(adapter: IPAdapter) -> dict[str, dict[str, Tensor]]:
    """{"image_proj": ..., "ip_adapter": ...}, tensors by name: how :mod:`engine.diffusion.image_prompt` takes them."""
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in adapter.state_dict().items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    return parts


def load_image_prompt(folder: Path, base_unet: Any, device: str = "cpu") -> dict[str, dict[str, Tensor]]:
    """The built-in image prompt in ``folder``, as ``engine.models.loading.ImagePrompt.weights`` wants it, in the
    base's precision, on ``device``.

    Raises BadInput as :func:`read` does, for another family, and for another base than the one it was trained on.
    """
    loaded = read(folder)
    if loaded.unet_sha256 and loaded.unet_sha256 != (found := lora.base_digest(base_unet)):
        raise BadInput(f"the image prompt {folder.name} was trained on another base: U-Net sha256 expected "
                       f"{loaded.unet_sha256[:12]}, found {found[:12]}",
                       "choose the model set it was trained on, or train it again")
    adapter = loaded.adapter.to(device, next(base_unet.parameters()).dtype).requires_grad_(False)
    check(base_unet, adapter)
    return weights_of(adapter)
