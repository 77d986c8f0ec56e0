"""Names and shapes of latent diffusion's networks, built as its code builds them (openaimodel.py, model.py, CLIP).

Written from the structure of those networks and not from the converter under test; held against the manifests of real
files where those are at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Shapes = dict[str, tuple[int, ...]]


def _weights(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": tuple(shape), **({f"{name}.bias": (shape[0],)} if bias else {})}


def _norm(name: str, n: int) -> Shapes:
    return {f"{name}.weight": (n,), f"{name}.bias": (n,)}


def _resnet(name: str, before: int, after: int, time: int) -> Shapes:
    made = {**_norm(f"{name}.in_layers.0", before), **_weights(f"{name}.in_layers.2", after, before, 3, 3),
            **_weights(f"{name}.emb_layers.1", after, time), **_norm(f"{name}.out_layers.0", after),
            **_weights(f"{name}.out_layers.3", after, after, 3, 3)}
    return made if before == after else {**made, **_weights(f"{name}.skip_connection", after, before, 1, 1)}


def _attention(name: str, width: int, depth: int, context: int, linear: bool, cross: bool = False) -> Shapes:
    one = () if linear else (1, 1)
    made = {**_norm(f"{name}.norm", width), **_weights(f"{name}.proj_in", width, width, *one),
            **_weights(f"{name}.proj_out", width, width, *one)}
    for i in range(depth):
        place = f"{name}.transformer_blocks.{i}"
        for k, seen in (("attn1", context if cross else width), ("attn2", context)):
            made |= {**_weights(f"{place}.{k}.to_q", width, width, bias=False),
                     **_weights(f"{place}.{k}.to_k", width, seen, bias=False),
                     **_weights(f"{place}.{k}.to_v", width, seen, bias=False),
                     **_weights(f"{place}.{k}.to_out.0", width, width)}
        made |= {**_weights(f"{place}.ff.net.0.proj", 8 * width, width), **_weights(f"{place}.ff.net.2", width,
                                                                                   4 * width),
                 **_norm(f"{place}.norm1", width), **_norm(f"{place}.norm2", width), **_norm(f"{place}.norm3", width)}
    return made


def unet(ch: int = 320, mult: Sequence[int] = (1, 2, 4, 4), depth: Sequence[int] = (1, 1, 1, 0), middle: int = 1,
         context: int = 768, ins: int = 4, outs: int = 4, linear: bool = False, label: int = 0, classes: int = 0,
         blocks: int = 2, decoder: bool = True, cross: Sequence[bool] = (False,) * 4) -> Shapes:
    """A U-Net without its prefix. depth : transformer layers a level; label : numbers of an embedding beside time;
    cross : levels without self-attention"""
    time = 4 * ch
    made = {**_weights("time_embed.0", time, ch), **_weights("time_embed.2", time, time)}
    if label:
        made |= {**_weights("label_emb.0.0", time, label), **_weights("label_emb.0.2", time, time)}
    if classes:
        made["label_emb.weight"] = (classes, time)
    made |= _weights("input_blocks.0.0", ch, ins, 3, 3)
    kept, now, number = [ch], ch, 1
    for level, (m, layers) in enumerate(zip(mult, depth, strict=True)):
        for _ in range(blocks):
            made |= _resnet(f"input_blocks.{number}.0", now, m * ch, time)
            now = m * ch
            if layers:
                made |= _attention(f"input_blocks.{number}.1", now, layers, context, linear, cross[level])
            kept.append(now)
            number += 1
        if level < len(mult) - 1:
            made |= _weights(f"input_blocks.{number}.0.op", now, now, 3, 3)
            kept.append(now)
            number += 1
    made |= {**_resnet("middle_block.0", now, now, time), **_attention("middle_block.1", now, middle, context, linear),
             **_resnet("middle_block.2", now, now, time)}
    if not decoder:
        return made
    number = 0
    for level in reversed(range(len(mult))):
        for i in range(blocks + 1):
            made |= _resnet(f"output_blocks.{number}.0", now + kept.pop(), mult[level] * ch, time)
            now, sub = mult[level] * ch, 1
            if depth[level]:
                made |= _attention(f"output_blocks.{number}.1", now, depth[level], context, linear, cross[level])
                sub = 2
            if level and i == blocks:
                made |= _weights(f"output_blocks.{number}.{sub}.conv", now, now, 3, 3)
            number += 1
    return {**made, **_norm("out.0", now), **_weights("out.2", outs, now, 3, 3)}


def controlnet(**settings: int) -> Shapes:
    """The encoder with zero convolutions and the hint's own, without ``control_model.``"""
    made = unet(decoder=False, **settings)  # type: ignore[arg-type]
    ch = settings.get("ch", 320)
    hint = [3, 16, 16, 32, 32, 96, 96, 256, ch]
    for i, (before, after) in enumerate(pairwise(hint)):
        made |= _weights(f"input_hint_block.{2 * i}", after, before, 3, 3)
    widths = [ch] * 4 + [2 * ch] * 3 + [4 * ch] * 5
    for i, width in enumerate(widths):
        made |= _weights(f"zero_convs.{i}.0", width, width, 1, 1)
    return {**made, **_weights("middle_block_out.0", 4 * ch, 4 * ch, 1, 1)}


def vae(ch: int = 128, mult: Sequence[int] = (1, 2, 4, 4), z: int = 4, blocks: int = 2, quant: bool = True) -> Shapes:
    """The autoencoder without its prefix."""
    def resnet(name: str, before: int, after: int) -> Shapes:
        made = {**_norm(f"{name}.norm1", before), **_weights(f"{name}.conv1", after, before, 3, 3),
                **_norm(f"{name}.norm2", after), **_weights(f"{name}.conv2", after, after, 3, 3)}
        return made if before == after else {**made, **_weights(f"{name}.nin_shortcut", after, before, 1, 1)}

    def middle(side: str, n: int) -> Shapes:
        made = {**resnet(f"{side}.mid.block_1", n, n), **_norm(f"{side}.mid.attn_1.norm", n)}
        for k in ("q", "k", "v", "proj_out"):
            made |= _weights(f"{side}.mid.attn_1.{k}", n, n, 1, 1)
        return {**made, **resnet(f"{side}.mid.block_2", n, n)}

    top = ch * mult[-1]
    made, now = _weights("encoder.conv_in", ch, 3, 3, 3), ch
    for level, m in enumerate(mult):
        for i in range(blocks):
            made |= resnet(f"encoder.down.{level}.block.{i}", now, m * ch)
            now = m * ch
        if level < len(mult) - 1:
            made |= _weights(f"encoder.down.{level}.downsample.conv", now, now, 3, 3)
    made |= {**middle("encoder", top), **_norm("encoder.norm_out", top),
             **_weights("encoder.conv_out", 2 * z, top, 3, 3), **_weights("decoder.conv_in", top, z, 3, 3),
             **middle("decoder", top)}
    now = top
    for level in reversed(range(len(mult))):
        for i in range(blocks + 1):
            made |= resnet(f"decoder.up.{level}.block.{i}", now, mult[level] * ch)
            now = mult[level] * ch
        if level:
            made |= _weights(f"decoder.up.{level}.upsample.conv", now, now, 3, 3)
    made |= {**_norm("decoder.norm_out", now), **_weights("decoder.conv_out", 3, now, 3, 3)}
    if quant:
        made |= {**_weights("quant_conv", 2 * z, 2 * z, 1, 1), **_weights("post_quant_conv", z, z, 1, 1)}
    return made


def _blocks(prefix: str, width: int, layers: int) -> Shapes:
    made: Shapes = {}
    for i in range(layers):
        place = f"{prefix}.resblocks.{i}"
        made |= {**_norm(f"{place}.ln_1", width), f"{place}.attn.in_proj_weight": (3 * width, width),
                 f"{place}.attn.in_proj_bias": (3 * width,), **_weights(f"{place}.attn.out_proj", width, width),
                 **_norm(f"{place}.ln_2", width), **_weights(f"{place}.mlp.c_fc", 4 * width, width),
                 **_weights(f"{place}.mlp.c_proj", width, 4 * width)}
    return made


def open_clip_text(width: int, layers: int, words: int = 49408, tokens: int = 77) -> Shapes:
    """OpenCLIP's text tower as it lies in Stable Diffusion 2 and XL."""
    return {"positional_embedding": (tokens, width), "text_projection": (width, width), "logit_scale": (),
            "token_embedding.weight": (words, width), **_blocks("transformer", width, layers),
            **_norm("ln_final", width)}


def open_clip_vision(width: int, layers: int, out: int, patch: int = 14, size: int = 224) -> Shapes:
    """OpenAI's and OpenCLIP's image tower, after ``visual.``"""
    return {"class_embedding": (width,), "positional_embedding": ((size // patch) ** 2 + 1, width),
            "proj": (width, out), "conv1.weight": (width, 3, patch, patch), **_norm("ln_pre", width),
            **_blocks("transformer", width, layers), **_norm("ln_post", width)}


def clip_text(width: int, layers: int, words: int = 49408, tokens: int = 77) -> Shapes:
    """transformers' CLIP text tower under its published prefix."""
    made: Shapes = {"text_model.embeddings.token_embedding.weight": (words, width),
                    "text_model.embeddings.position_embedding.weight": (tokens, width)}
    for i in range(layers):
        place = f"text_model.encoder.layers.{i}"
        for k in ("k", "v", "q", "out"):
            made |= _weights(f"{place}.self_attn.{k}_proj", width, width)
        made |= {**_norm(f"{place}.layer_norm1", width), **_weights(f"{place}.mlp.fc1", 4 * width, width),
                 **_weights(f"{place}.mlp.fc2", width, 4 * width), **_norm(f"{place}.layer_norm2", width)}
    return {**made, **_norm("text_model.final_layer_norm", width)}


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def sd1(ins: int = 4) -> Shapes:
    return {**prefixed("model.diffusion_model.", unet(ins=ins)), **prefixed("first_stage_model.", vae()),
            **prefixed("cond_stage_model.transformer.", clip_text(768, 12))}


def sd2(ins: int = 4) -> Shapes:
    return {**prefixed("model.diffusion_model.", unet(context=1024, linear=True, ins=ins)),
            **prefixed("first_stage_model.", vae()),
            **prefixed("cond_stage_model.model.", open_clip_text(1024, 24))}


def sdxl(ins: int = 4) -> Shapes:
    return {**prefixed("model.diffusion_model.", unet(mult=(1, 2, 4), depth=(0, 2, 10), middle=10, context=2048,
                                                      linear=True, label=2816, ins=ins)),
            **prefixed("first_stage_model.", vae()),
            **prefixed("conditioner.embedders.0.transformer.", clip_text(768, 12)),
            **prefixed("conditioner.embedders.1.model.", open_clip_text(1280, 32))}


def sdxl_refiner() -> Shapes:
    return {**prefixed("model.diffusion_model.", unet(ch=384, depth=(0, 4, 4, 0), middle=4, context=1280, linear=True,
                                                      label=2560)),
            **prefixed("first_stage_model.", vae()),
            **prefixed("conditioner.embedders.0.model.", open_clip_text(1280, 32))}


def zero123() -> Shapes:
    return {**prefixed("model.diffusion_model.", unet(ins=8)), **prefixed("first_stage_model.", vae()),
            **prefixed("cond_stage_model.model.visual.", open_clip_vision(1024, 24, 768)),
            "cc_projection.weight": (768, 772), "cc_projection.bias": (768,)}


def sd3(layers: int = 24, dual: int = 0, normed: bool = False, position: int = 192) -> Shapes:
    """The transformer of Stable Diffusion 3 (width 64 a layer) without its prefix."""
    width = 64 * layers
    made: Shapes = {"pos_embed": (1, position ** 2, width), **_weights("x_embedder.proj", width, 16, 2, 2),
                    **_weights("t_embedder.mlp.0", width, 256), **_weights("t_embedder.mlp.2", width, width),
                    **_weights("y_embedder.mlp.0", width, 2048), **_weights("y_embedder.mlp.2", width, width),
                    **_weights("context_embedder", width, 4096),
                    **_weights("final_layer.linear", 64, width),
                    **_weights("final_layer.adaLN_modulation.1", 2 * width, width)}
    for i in range(layers):
        last = i == layers - 1
        for side in ("context", "x"):
            place = f"joint_blocks.{i}.{side}_block"
            parts = 2 if last and side == "context" else 9 if side == "x" and i < dual else 6
            made |= {**_weights(f"{place}.attn.qkv", 3 * width, width),
                     **_weights(f"{place}.adaLN_modulation.1", parts * width, width)}
            if normed:
                made |= {f"{place}.attn.ln_q.weight": (64,), f"{place}.attn.ln_k.weight": (64,)}
            if not (last and side == "context"):
                made |= {**_weights(f"{place}.attn.proj", width, width),
                         **_weights(f"{place}.mlp.fc1", 4 * width, width),
                         **_weights(f"{place}.mlp.fc2", width, 4 * width)}
            if side == "x" and i < dual:
                made |= {**_weights(f"{place}.attn2.qkv", 3 * width, width), **_weights(f"{place}.attn2.proj", width,
                                                                                       width),
                         f"{place}.attn2.ln_q.weight": (64,), f"{place}.attn2.ln_k.weight": (64,)}
    return made
