"""Image prompts: a picture that says what shall be drawn, beside the words (IP-Adapter, Ye et al. 2023).

    model = apply(model, [adapter])                         a twin of its U-Net, which looks at image tokens too
    wanted, unwanted = tokens(adapter, picture)             (1, 1, n, d) each
    model.predict(..., image_embeds=[tokens of each row])

Each cross-attention gets keys and values of its own for the image tokens; what they bring is added:

    softmax(Q K^T) V + scale softmax(Q K_ip^T) V_ip,   K_ip = tokens W_k,   V_ip = tokens W_v

Tokens come from CLIP's image embedding by one linear layer (base), from the patches of its last but one layer by a
perceiver (plus) or one by one (full), or from a face's identity vector by the same perceiver (face; InstantID, Wang et
al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.diffusion import lora, pictures
from engine.errors import BadInput

HEAD = 64
"""Width of a perceiver's attention heads, in every published adapter."""
FACE = 512
"""Numbers of a face's identity vector (ArcFace)."""


# -- from a published file's names to modules --------------------------------------------------------------------------

def projection(weights: Mapping[str, Tensor], name: str = "the image prompt") -> nn.Module:
    """The module that makes tokens of an embedding, from a file's ``image_proj`` tensors, every one accounted for.

    (b, d) -> (b, n, width) for the linear one; (b, m, d) -> (b, n, width) for a perceiver, n = m for "full". Raises
    BadInput for other layouts.
    """
    from diffusers.models.embeddings import ImageProjection, IPAdapterFullImageProjection, IPAdapterPlusImageProjection
    module: nn.Module
    if "proj.weight" in weights and "norm.weight" in weights:
        width = weights["norm.weight"].shape[0]
        count, source = weights["proj.weight"].shape[0] // width, weights["proj.weight"].shape[1]
        with torch.device("meta"):
            module = ImageProjection(source, width, count)
        tensors = {key.replace("proj.", "image_embeds."): value for key, value in weights.items()}
    elif "proj.3.weight" in weights and "proj.0.weight" in weights:
        with torch.device("meta"):
            module = IPAdapterFullImageProjection(weights["proj.0.weight"].shape[1], weights["proj.3.weight"].shape[0])
        names = (("proj.0.", "ff.net.0.proj."), ("proj.2.", "ff.net.2."), ("proj.3.", "norm."))
        tensors = {next((new + key.removeprefix(old) for old, new in names if key.startswith(old)), key): value
                   for key, value in weights.items()}
    elif "latents" in weights and "proj_in.weight" in weights:
        hidden, source = weights["proj_in.weight"].shape
        depth = len({key.split(".")[1] for key in weights if key.startswith("layers.")})
        tensors = {}
        for key, value in weights.items():
            for place, part in _perceiver_names(key, value):
                tensors[place] = part
        query, hidden_ff = tensors.get("layers.0.attn.to_q.weight"), tensors.get("layers.0.ff.1.net.0.proj.weight")
        if query is None or hidden_ff is None:
            raise BadInput(f"{name} has a perceiver without attention", "give a published IP-Adapter file")
        with torch.device("meta"):
            module = IPAdapterPlusImageProjection(source, weights["proj_out.weight"].shape[0], hidden, depth, HEAD,
                                                  query.shape[0] // HEAD, weights["latents"].shape[1],
                                                  hidden_ff.shape[0] / hidden)
    else:
        raise BadInput(f"{name} is in a layout that is not known: its image_proj holds "
                       f"{', '.join(sorted(weights)[:4]) or 'nothing'}",
                       "give an IP-Adapter (base or plus) or InstantID's ip-adapter file")
    try:
        module.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise BadInput(f"{name} does not fit its own layout: {' '.join(str(error).split())[:200]}",
                       "give the file as published") from error
    return module.eval().requires_grad_(False)


_LAYER = re.compile(r"layers\.(\d+)\.([01])\.(.+)")


def _perceiver_names(key: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """One tensor of a published perceiver -> its names and parts in diffusers' class."""
    found = _LAYER.fullmatch(key)
    if found is None:
        return [(key, value)]
    layer, half, rest = f"layers.{found[1]}", found[2], found[3]
    if half == "1":  # the feed-forward: norm, Linear, GELU, Linear
        index, _, kind = rest.partition(".")
        place = {"1": "1.net.0.proj", "3": "1.net.2"}.get(index, index)
        return [(f"{layer}.ff.{place}.{kind}", value)]
    if rest == "to_kv.weight":
        k, v = value.chunk(2)
        return [(f"{layer}.attn.to_k.weight", k), (f"{layer}.attn.to_v.weight", v)]
    for old, new in (("norm1.", "ln0."), ("norm2.", "ln1."), ("to_out.", "attn.to_out.0."), ("to_q.", "attn.to_q.")):
        if rest.startswith(old):
            return [(f"{layer}.{new}{rest.removeprefix(old)}", value)]
    return [(key, value)]


def layers(unet: Any, weights: Mapping[str, Tensor], name: str = "the image prompt"
           ) -> dict[str, tuple[Tensor, Tensor]]:
    """The file's ``ip_adapter`` tensors by module: name of a cross-attention's processor -> (W_k, W_v).

    A file numbers the attentions of a U-Net in the order of its processors, self- and cross-attention alike: the
    cross-attentions are the odd ones. Raises BadInput where one is missing, left over or of another shape.
    """
    again = "give an image prompt of the model's family, or another --models"
    modules = [key for key in unet.attn_processors if key.endswith("attn2.processor")]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    unused = set(weights)
    for place, module in enumerate(modules):
        names = [f"{2 * place + 1}.to_{part}_ip.weight" for part in "kv"]
        if not unused.issuperset(names):
            raise BadInput(f"{name} is for another family: it has no {names[0]} for {module}", again)
        unused.difference_update(names)
        attention = unet.get_submodule(module.removesuffix(".processor"))
        inner, width = int(attention.inner_dim), int(attention.cross_attention_dim)
        k, v = (weights[n] for n in names)
        if tuple(k.shape) != (inner, width) or tuple(v.shape) != (inner, width):
            raise BadInput(f"{name} is for another family: its {names[0]} is {tuple(k.shape)}, {module} takes "
                           f"{(inner, width)}", again)
        found[module] = (k, v)
    if unused:
        raise BadInput(f"{name} is for another family: it holds {sorted(unused)[0]}, the U-Net has "
                       f"{len(modules)} cross-attentions", again)
    return found


# -- on a model --------------------------------------------------------------------------------------------------------

def apply(model: Any, adapters: Sequence[Any], scales: Sequence[float]) -> Any:
    """The model with a twin of its U-Net that looks at every adapter's image tokens; the U-Net itself is untouched.

    adapters : ``engine.models.loading.ImagePrompt``; scales : how much each counts, 0 nothing, 1 as trained
    Raises BadInput where one is for another family.
    """
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import MultiIPAdapterImageProjection
    if not hasattr(model.unet, "attn_processors") or not hasattr(model.unet, "down_blocks"):
        raise BadInput(f"image prompts are for U-Nets; {model.name} ({model.family}) is none", "give another --models")
    for adapter in adapters:
        if adapter.family and model.family and adapter.family != model.family:
            raise BadInput(f"{adapter.name} is for {adapter.family}, and {model.name} is of the family {model.family}",
                           f"give an image prompt for {model.family}, or another --models")
    pairs = [layers(model.unet, adapter.weights["ip_adapter"], adapter.name) for adapter in adapters]
    counts = [_token_count(adapter) for adapter in adapters]
    unet = lora.twin(model.unet)
    like = next(unet.parameters())
    processors: dict[str, Any] = dict(unet.attn_processors)
    for module in pairs[0]:
        inner, width = pairs[0][module][0].shape
        with torch.device("meta"):
            processor = IPAdapterAttnProcessor2_0(inner, width, num_tokens=counts, scale=list(scales))
        for i, found in enumerate(pairs):
            for part, value in zip((processor.to_k_ip, processor.to_v_ip), found[module], strict=True):
                part[i].weight = nn.Parameter(value.to(like.device, like.dtype), requires_grad=False)
        processors[module] = processor
    unet.set_attn_processor(processors)
    # Tokens are made once, not at every step: what the U-Net is handed are tokens already.
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([nn.Identity() for _ in adapters])
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    return model.changed(unet=unet)


def _token_count(adapter: Any) -> int:
    """How many tokens it makes. (diffusers' processors tell by it where the text ends only where both come in one.)"""
    made = adapter.weights["image_proj"]
    if "latents" in made:
        return int(made["latents"].shape[1])
    if "proj.weight" in made:
        return int(made["proj.weight"].shape[0] // made["norm.weight"].shape[0])
    return (adapter.image_size // int(adapter.image_encoder.config.patch_size)) ** 2 + 1


def tokens(adapter: Any, given: Tensor) -> tuple[Tensor, Tensor]:
    """(wanted, unwanted) image tokens, (1, 1, n, width) each: of what is given, and of nothing.

    given : a picture (1, 3, h, w) in [0, 1] over white; for a face adapter an identity vector (1, 512). What stands
    for nothing is the zero embedding (base, face), or the patches of a grey picture (plus, full), as they were trained.
    """
    made = projection(adapter.weights["image_proj"], adapter.name).float().to(given.device)
    with torch.no_grad():
        if adapter.kind == "face":
            if tuple(given.shape) != (1, FACE):
                raise BadInput(f"{adapter.name} takes a face's {FACE} numbers, got {tuple(given.shape)}",
                               "give --face a .npy or .json file of one face's identity vector")
            embedding = given.float()[:, None]
            nothing = torch.zeros_like(embedding)
        else:
            encoder = adapter.image_encoder
            kind = next(encoder.parameters()).dtype
            pixels = pictures.clip_input(given, adapter.image_size).to(kind)
            if adapter.kind in ("plus", "full"):
                seen = encoder(pixel_values=torch.cat([pixels, torch.zeros_like(pixels)]), output_hidden_states=True)
                embedding, nothing = seen.hidden_states[-2].float().chunk(2)
            else:
                embedding = encoder(pixel_values=pixels).image_embeds.float()
                nothing = torch.zeros_like(embedding)
        return made(embedding)[None], made(nothing)[None]


def rows(pair: tuple[Tensor, Tensor], conditional: Tensor) -> Tensor:
    """The tokens of each row of a batch: (n, 1, tokens, width). conditional : (n,) bool, as guidance lays it out"""
    wanted, unwanted = pair
    return torch.where(conditional.to(wanted.device)[:, None, None, None], wanted, unwanted)
