"""AnimateDiff (Guo et al. 2023): a text-to-image U-Net whose frames speak with each other through motion modules.

    net = moving(model.unet, adapter)                 a UNetMotionModel on the very modules of both
    said = predict(net, latents, t, context)          (b, f, c, h, w) latents, one context a clip

Frames go through the U-Net as samples of one batch; only the motion modules, behind every ResNet (and its attention),
look along time: at each place a transformer attends from frame to frame, with the frame's number in a sinusoid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engine.diffusion import lora, sampling
from engine.diffusion.motion_windows import averaged
from engine.diffusion.sampling import Steps, scheduler_for
from engine.errors import BadInput, RunFailed
from engine.models import memory
from engine.models.families.base import guidance_embedding

BLOCKS = ("resnets", "attentions", "downsamplers", "upsamplers")
"""What of a block sees one frame at a time."""
WHOLE = ("conv_in", "time_proj", "time_embedding", "add_time_proj", "add_embedding", "encoder_hid_proj",
         "conv_norm_out", "conv_act", "conv_out")


def moving(unet: Any, adapter: Any) -> Any:
    """A UNetMotionModel on the modules of a UNet2DConditionModel and of a MotionAdapter: nothing is copied, and LoRAs
    and image prompts that sit in the U-Net work in it.

    What is then attached to it would be seen by the U-Net's other users: give a twin (``engine.diffusion.lora.twin``)
    where that matters. Raises BadInput where the two are of different families.
    """
    from diffusers.models.unets.unet_motion_model import UNetMotionModel
    check_fits(unet, adapter)
    with torch.device("meta"):  # only the adapter's settings are asked; given itself, it would be moved
        net = UNetMotionModel.from_unet2d(unet, SimpleNamespace(config=adapter.config, to=lambda device: None),
                                          load_weights=False)
    for name in WHOLE:
        if getattr(unet, name, None) is not None:
            setattr(net, name, getattr(unet, name))
    pairs = [*zip(net.down_blocks, unet.down_blocks, adapter.down_blocks, strict=True),
             *zip(net.up_blocks, unet.up_blocks, adapter.up_blocks, strict=True),
             (net.mid_block, unet.mid_block, adapter.mid_block)]
    for made, still, motion in pairs:
        for name in BLOCKS:
            if getattr(made, name, None) is not None:
                setattr(made, name, getattr(still, name))
        if motion is not None:
            made.motion_modules = motion.motion_modules
    given = {id(t) for part in (unet, adapter) for t in [*part.parameters(), *part.buffers()]}
    left = [name for name, t in [*net.named_parameters(), *net.named_buffers()] if id(t) not in given]
    if left:
        raise RuntimeError(f"{len(left)} tensors of the motion U-Net come from neither part: {left[:3]}")
    return net.train(adapter.training)


def check_fits(unet: Any, adapter: Any, name: str = "the motion adapter", base: str = "the text-to-image model"
               ) -> None:
    """Raises BadInput where a motion adapter was made for a U-Net of other widths or another number of layers."""
    own, wanted = tuple(adapter.config.block_out_channels), tuple(unet.config.block_out_channels)
    layers, held = adapter.config.motion_layers_per_block, unet.config.layers_per_block
    if own != wanted or _each(layers, len(own)) != _each(held, len(wanted)):
        raise BadInput(f"{name} is made for a U-Net of widths {_said(own)} with {_said(_each(layers, len(own)))} layers"
                       f" a block; {base} has {_said(wanted)} with {_said(_each(held, len(wanted)))}",
                       "choose both of one family: maquette models list --role motion")


def _each(layers: int | Sequence[int], blocks: int) -> tuple[int, ...]:
    return (int(layers),) * blocks if isinstance(layers, int) else tuple(layers)


def _said(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def predict(net: Any, latents: Tensor, t: Tensor, context: Tensor, **more: Any) -> Tensor:
    """One call of a motion U-Net: latents (b, f, c, h, w), t () or (b,), context (b, tokens, d) -> (b, f, c, h, w).

    Every frame reads its clip's context: UNetMotionModel itself does not repeat it.
    """
    frames = latents.shape[1]
    said = net(latents.transpose(1, 2), t, context.repeat_interleave(frames, 0), **more).sample
    return said.transpose(1, 2)


def mixed_noise(frames: Tensor, shared: Tensor, share: float) -> Tensor:
    """Unit noise of frames (..., f, c, h, w) of which a ``share`` of the variance is the clip's own, shared
    (..., 1, c, h, w): sqrt(share) shared + sqrt(1 - share) frames (Ge et al. 2023, "mixed noise").

    share 0: every frame for itself, as AnimateDiff was trained
    """
    return share**0.5 * shared + (1 - share) ** 0.5 * frames


# -- what is put together for a clip -----------------------------------------------------------------------------------

def assembled(model: Any, motion: Any, adapter_scale: float = 1.0, motion_lora: Any = None,
              motion_lora_scale: float = 1.0) -> Any:
    """A text-to-image model whose network draws clips: its own U-Net (with what a user put on it), the motion's domain
    adapter and a MotionLoRA in the weights, the motion modules between. All that was given stays as it is.

    model : ``families.base.TextToImage``; motion : ``engine.models.motion.Motion``; adapter_scale : 0 leaves the
    domain adapter out; motion_lora : ``engine.models.motion.MotionLora``
    Raises BadInput where they are of different families.
    """
    if memory.streams(model.unet):
        raise BadInput(f"motion modules cannot be put into a network that goes through {model.device} block by block",
                       "free memory there, or use --device cpu")
    if not hasattr(model.unet, "down_blocks"):
        raise BadInput(f"motion modules are for U-Nets; {model.name} ({model.family}) is none", "give another --models")
    check_fits(model.unet, motion.adapter, motion.name, model.name)
    unet, adapter = model.unet, motion.adapter
    if motion.domain is not None and adapter_scale:
        unet = lora.merged(unet, motion.domain, adapter_scale)
    if motion_lora is not None and motion_lora_scale:
        if adapter.mid_block is None and any(name.startswith("mid_block") for name in motion_lora.lora.pairs):
            raise BadInput(f"{motion_lora.name} moves a middle block, as AnimateDiff v2 has it, and {motion.name} has "
                           "none", "choose a motion model that has one, for instance "
                                   "guoyww/animatediff-motion-adapter-v1-5-2")
        adapter = lora.merged(adapter, motion_lora.lora, motion_lora_scale)
    return model.changed(unet=moving(lora.twin(unet), adapter), scheduler=motion.scheduler or model.scheduler)


# -- sampling ----------------------------------------------------------------------------------------------------------

More = Callable[[Tensor, Tensor, Sequence[int], Tensor], Mapping[str, Any]]
"""(latents (b, f, c, h, w) as the network takes them, t, the window's frames, context (b, tokens, d)) -> further
arguments of the network: SparseCtrl's residuals."""
_MEMORY = ("_step_index", "model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order", "ets",
           "cur_sample", "counter", "cur_model_output", "sample")
"""What diffusers' schedulers remember from step to step."""


def denoiser(model: Any, wanted: Any, unwanted: Any, scale: float, *, together: bool = True, more: More | None = None,
             image_embeds: Sequence[tuple[Tensor, Tensor]] = ()) -> Callable[[Tensor, Tensor, Sequence[int]], Tensor]:
    """(latents of a window (f, c, h, w), t, its frames) -> the guided prediction, of that shape.

    model : of :func:`assembled`; wanted, unwanted : its conditions, one row each
    scale : of classifier-free guidance; 0 and 1 ask the conditional half alone, and a network that is told its guidance
    together : both halves in one call; in two where memory is short
    image_embeds : (wanted, unwanted) image tokens of each image prompt that sits in the network
    """
    single = model.embeds_guidance or scale in (0, 1)
    halves = [(wanted, 0)] if single else [(wanted, 0), (unwanted, 1)]
    groups = [halves] if together else [[half] for half in halves]

    def ask(group: Sequence[tuple[Any, int]], x: Tensor, t: Tensor, frames: Sequence[int]) -> Tensor:
        told = type(wanted).cat([conditions for conditions, _ in group])
        context, kind = told.tensors["context"], model.dtype
        clips = x[None].expand(len(group), *x.shape)
        args: dict[str, Any] = {} if more is None else dict(more(clips, t, frames, context))
        added = model._added(told)
        if image_embeds:
            added["image_embeds"] = [torch.cat([pair[half] for _, half in group]).to(kind) for pair in image_embeds]
        if added:
            args["added_cond_kwargs"] = added
        if model.embeds_guidance:
            args["timestep_cond"] = guidance_embedding(scale, len(group), int(
                model.unet.config.time_cond_proj_dim)).to(x.device, kind)
        return predict(model.use(model.unet), clips.to(kind), t, context.to(kind), **args).to(x.dtype)

    def denoise(x: Tensor, t: Tensor, frames: Sequence[int]) -> Tensor:
        said = torch.cat([ask(group, x, t, frames) for group in groups])
        return said[0] if single else sampling.guide(said[0], said[1], scale)
    return denoise


def sample(trained: Any, denoise: Callable[[Tensor, Tensor, Sequence[int]], Tensor], noise: Tensor, steps: int,
           sampler: sampling.Sampler, plan: Callable[[int], Sequence[Sequence[int]]], *,
           settings: Mapping[str, Any] | None = None, draw: Callable[[int], torch.Generator] | None = None,
           start: Tensor | None = None, strength: float = 1.0,
           after: Callable[[Steps, int, Tensor], Tensor] | None = None,
           watch: Callable[[int, int, Tensor], None] | None = None, state: Mapping[str, Any] | None = None,
           keep: Callable[[Callable[[], dict[str, Any]]], None] | None = None) -> Tensor:
    """Noise (f, c, h, w) of all frames -> clean latents; every step is one of the whole clip.

    plan : step -> the windows that the network is asked about (``motion_windows.windows``)
    draw : step -> a generator, for samplers that add noise of their own: one a step, so that a resumed clip draws the
        same; start, strength, after, settings : as in ``sampling.sample``; ``after`` is asked before the first step
        too, with step -1
    watch : (steps done, steps in all, that step's guess of the clean latents)
    state, keep : where an earlier call stood; ``keep`` is handed, before each step, how to ask for that
    Raises RunFailed when the numbers run away.
    """
    begun = Steps(scheduler_for(trained, sampler), steps, noise.device, settings=settings,
                  first=0 if start is None else sampling.begun_at(steps, strength))
    first, x = 0, begun.begin(noise, start)
    if state is not None:
        first, x = int(state["step"]), state["latents"].to(noise)
        for name, value in state["memory"].items():
            setattr(begun.scheduler, name, _moved(value, noise.device))
    elif after is not None:
        x = after(begun, -1, x)
    for i in range(first, len(begun)):
        if keep is not None:
            keep(lambda i=i, x=x: {"step": i, "latents": x, "memory": {  # type: ignore[misc]
                name: getattr(begun.scheduler, name) for name in _MEMORY if hasattr(begun.scheduler, name)}})
        t, scaled = begun.timesteps[i], begun.scaled(x, i)
        said = averaged(lambda part, frames, t=t: denoise(part, t, frames), scaled, plan(i))  # type: ignore[misc]
        guess = begun.clean(said, x, i) if watch is not None else x
        x = begun.step(said, x, i, None if draw is None else [draw(i)] * len(x))
        if after is not None:
            x = after(begun, i, x)
        if watch is not None:
            watch(i + 1, len(begun), guess)
    if not torch.isfinite(x).all():
        raise RunFailed("the sampler made numbers that are not finite", "lower the guidance, or check the weights")
    return x.clone()


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(one, device) for one in value]
    return value.to(device) if isinstance(value, Tensor) else value
