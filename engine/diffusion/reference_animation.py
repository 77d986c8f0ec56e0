"""AnimateAnyone (Hu et al. 2023): a picture of a figure and a row of skeletons -> the figure, frame by frame.

    frames = animate(model, reference, poses, steps=20, guidance=3.5, noise=draw)          (n, 3, h, w)

Three networks work together (:class:`Networks`). The reference U-Net sees the picture once, at t = 0, and keeps what
each of its self-attentions read; the denoising U-Net's self-attentions read that too (spatial attention). What the pose
guider makes of a frame's skeleton is added behind the first convolution. CLIP's embedding of the picture is the one
token of the cross-attention, and motion modules attend along time. Without the condition, the token is zeros and
nothing of the reference is read; the skeleton stays.

Clips of any length are denoised in windows that overlap; where they do, predictions are averaged. In a loop windows
wrap round, and begin elsewhere at each step, so that no frame is always the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionModel
from torch import Tensor, nn

from engine.diffusion import pictures
from engine.diffusion.animate_networks import PoseGuider, ReferenceUNet
from engine.diffusion.lora import twin
from engine.diffusion.reference_attention import attach
from engine.diffusion.sampling import Steps, guide, scheduler_for
from engine.errors import BadInput, RunFailed

GOLDEN = 0.6180339887498949
"""Share of a loop by which its windows move on at each step: never twice to the same place."""


KEPT = 256_000_000
"""Bytes of what the pose guider makes that are kept from step to step."""


class Skeletons(Protocol):
    """(n, 3, h, w) in [0, 1]: a tensor, or what answers as one without holding all of it
    (``engine.clips.poses.drawing.Skeletons``)."""

    @property
    def shape(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, frames: Any) -> Tensor: ...


class FrameNorm(nn.GroupNorm):
    """GroupNorm of each frame by itself, (b, c, f, h, w): AnimateAnyone's, where AnimateDiff's is over all frames."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, f, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * f, c, h, w)
        return super().forward(frames).view(b, f, c, h, w).transpose(1, 2)


def norm_frames(unet: UNetMotionModel) -> UNetMotionModel:
    """Give every motion module the norm by frames, on its own weights. The U-Net is changed and returned."""
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D) and not isinstance(module.norm, FrameNorm):
            norm = FrameNorm(module.norm.num_groups, module.norm.num_channels, module.norm.eps, device="meta")
            norm.weight, norm.bias = module.norm.weight, module.norm.bias
            module.norm = norm
    return unet


class Added:
    """A forward hook that adds ``feature`` to what a module gives, where there is one."""

    def __init__(self) -> None:
        self.feature: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output if self.feature is None else output + self.feature


class Networks(nn.Module):
    """The three networks, joined: what one keeps, the other reads.

    The U-Nets are changed: give twins of ones that others use. ``denoising`` is a UNetMotionModel, or a
    UNet2DConditionModel in the first step of training.
    """

    def __init__(self, reference: ReferenceUNet, denoising: Any, guider: PoseGuider) -> None:
        super().__init__()
        self.reference, self.denoising, self.guider = reference, denoising, guider
        self.bank, self.pose = attach(reference), Added()
        attach(denoising, self.bank)
        denoising.conv_in.register_forward_hook(self.pose)

    def look(self, latents: Tensor, token: Tensor) -> None:
        """See the pictures: latents (b, c, h, w) scaled, token (b, 1, d). Kept until the next look."""
        self.bank.kept, self.bank.mode = {}, "write"
        try:
            self.reference(latents, torch.zeros(len(latents), dtype=torch.long, device=latents.device), token)
        finally:
            self.bank.mode = "off"

    def predict(self, x: Tensor, t: Tensor, token: Tensor, feature: Tensor, frames: int, reading: int | None = None
                ) -> Tensor:
        """The denoising U-Net's answer, of x's shape.

        x : (n, c, h, w), ``frames`` in a row of each clip; t : (n,), one for all of a clip; token : (n, 1, d)
        feature : (n, width, h, w), what the guider makes of the skeletons
        reading : so many samples, from the first, read what was seen; None: all
        """
        self.bank.mode, self.bank.reading, self.pose.feature = "read", reading, feature
        try:
            if not isinstance(self.denoising, UNetMotionModel):
                return self.denoising(x, t, token).sample
            clips = x.unflatten(0, (-1, frames)).transpose(1, 2)
            return self.denoising(clips, t[::frames], token).sample.transpose(1, 2).flatten(0, 1)
        finally:
            self.bank.mode, self.bank.reading, self.pose.feature = "off", None, None

    def forget(self) -> None:
        """Drop what was seen, and the memory it holds."""
        self.bank.kept = {}


@dataclass(frozen=True)
class ReferenceAnimation:
    """denoising : UNetMotionModel (``norm_frames``); reference : ReferenceUNet; guider : PoseGuider

    image_encoder : CLIPVisionModelWithProjection, or what answers like it; image_size : pixels that it takes
    vae : AutoencoderKL; scheduler : as trained; size : native pixels
    window, overlap : frames seen at once, and shared by neighbours; guidance, steps : where the user says nothing
    noise_shared : share of the noise's variance that a clip's frames have in common (0: published ones)
    family : "builtin", or that of the published model
    """

    denoising: Any
    reference: Any
    guider: Any
    image_encoder: Any
    image_size: int
    vae: Any
    scheduler: Any
    size: int
    window: int = 24
    overlap: int = 4
    guidance: float = 3.5
    steps: int = 30
    noise_shared: float = 0.0
    name: str = "the reference animation"
    family: str = ""

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoising.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.denoising.parameters()).device


# -- windows -----------------------------------------------------------------------------------------------------------

def windows(frames: int, window: int, overlap: int, loop: bool = False, step: int = 0) -> list[list[int]]:
    """Which frames are seen together; every frame is in at least one window.

    A clip's windows are evenly spread from its first frame to its last. A loop's wrap round, and begin elsewhere at
    each ``step``; one that fits into a window is one window, turned.

    >>> windows(6, 4, 2)
    [[0, 1, 2, 3], [2, 3, 4, 5]]
    >>> windows(6, 4, 2, loop=True)
    [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 0, 1]]
    """
    if window < 1 or not 0 <= overlap < window:
        raise BadInput(f"windows of {window} frames that share {overlap}",
                       "give an overlap from 0 to the window less 1")
    size = min(window, frames)
    first = int(frames * (step * GOLDEN % 1)) if loop else 0
    if size == frames:
        starts = [0]
    elif loop:
        count = -(-frames // (window - overlap))
        starts = [i * frames // count for i in range(count)]
    else:
        count = -(-(frames - window) // (window - overlap)) + 1
        starts = [i * (frames - window) // (count - 1) for i in range(count)]
    return [[(first + start + k) % frames for k in range(size)] for start in starts]


# -- the loop over steps -----------------------------------------------------------------------------------------------

def animate(model: ReferenceAnimation, reference: Tensor, poses: Skeletons, *, steps: int, guidance: float,
            noise: Callable[[int], Tensor], loop: bool = False, window: int | None = None, overlap: int | None = None,
            progress: Callable[[float], None] = lambda _: None, state: dict[str, Any] | None = None,
            keep: Callable[[dict[str, Any]], None] | None = None) -> Tensor:
    """-> frames (n, 3, h, w) float32 in [0, 1] on the CPU; see :func:`denoised` for what it takes.

    To have the frames one by one, and never all of them in memory: ``decoded(model, denoised(...))``.
    """
    latents = denoised(model, reference, poses, steps=steps, guidance=guidance, noise=noise, loop=loop, window=window,
                       overlap=overlap, progress=lambda part: progress(0.95 * part), state=state, keep=keep)
    frames = torch.empty(len(latents), *reference.shape)
    for i, frame in enumerate(decoded(model, latents)):
        frames[i] = frame
        progress(0.95 + 0.05 * (i + 1) / len(latents))
    return frames


def denoised(model: ReferenceAnimation, reference: Tensor, poses: Skeletons, *, steps: int, guidance: float,
             noise: Callable[[int], Tensor], loop: bool = False, window: int | None = None,
             overlap: int | None = None, progress: Callable[[float], None] = lambda _: None,
             state: dict[str, Any] | None = None, keep: Callable[[dict[str, Any]], None] | None = None) -> Tensor:
    """The clip's clean scaled latents (n, c, h/8, w/8), on the CPU.

    reference : (3, h, w) in [0, 1], the figure over white; poses : (n, 3, h, w) in [0, 1], skeletons as
        ``skeleton_drawing`` draws them; a tensor, or what draws them when they are asked for (``Skeletons``)
    steps, guidance : of the sampler (DDIM as trained) and of the condition; 1: none, and half the work
    noise : number -> (c, h/8, w/8) unit noise, drawn on the CPU: a frame's; where the model wants frames to share
        some, 0 is all frames' and a frame's own is that of its number + 1
    loop : the last frame is followed by the first; window, overlap : frames, None: the model's
    keep : called after each step with a state that ``state`` takes to go on from; all it holds is on the CPU
    The networks see one window at a time; of the others only latents are held. Raises BadInput, RunFailed.
    """
    window, overlap = model.window if window is None else window, model.overlap if overlap is None else overlap
    _check(model, reference, poses, steps, window)
    n, device, dtype = len(poses), model.device, model.dtype
    net = Networks(twin(model.reference), twin(model.denoising), model.guider)
    plan = Steps(scheduler_for(model.scheduler, "own"), steps, device)
    with torch.inference_mode():
        token = _token(model, reference)
        clean = model.vae.encode(pictures.vae_input(reference[None]).to(device, model.vae.dtype)).latent_dist.mean
        net.look((clean * model.vae.config.scaling_factor).to(dtype), token)
        features = _Features(model, poses)
        wide = torch.promote_types(dtype, torch.float32)  # steps are too small for half precision
        latents = _noise(noise, n, model.noise_shared).to(wide) if state is None else _resumed(state, n)
        if latents.shape[1:] != clean.shape[1:]:
            raise BadInput(f"noise of {_shape(latents.shape[1:])} for latents of {_shape(clean.shape[1:])}",
                           "give noise of the latents' shape, one frame at a time")
        latents = plan.begin(latents) if state is None else latents
        for i in range(0 if state is None else int(state["step"]), len(plan)):
            parts = windows(n, window, overlap, loop, i)
            total, count = torch.zeros_like(latents), torch.zeros(n, 1, 1, 1, dtype=wide)
            for k, part in enumerate(parts):
                x = plan.scaled(latents[part].to(device), i).to(dtype)
                told = _guided(net, x, plan.timesteps[i].to(device), token, features(part), guidance)
                total[part] += told.to("cpu", wide)  # no window holds a frame twice
                count[part] += 1
                progress((i + (k + 1) / len(parts)) / len(plan))
            latents = plan.step(total / count, latents, i)
            if not torch.isfinite(latents).all():
                raise RunFailed("the sampler made numbers that are not finite", "lower the guidance, or check the "
                                                                                "weights")
            if keep is not None:
                keep({"step": i + 1, "latents": latents.clone()})
    return latents.clone()  # a plain tensor again, after inference mode


def decoded(model: ReferenceAnimation, latents: Tensor) -> Iterator[Tensor]:
    """Frames (3, h, w) float32 in [0, 1] on the CPU, decoded one by one as they are asked for."""
    for one in latents:
        with torch.inference_mode():
            frame = pictures.decode(model.vae, one[None].to(model.device, model.vae.dtype))[0]
        yield frame.float().clamp(0, 1).cpu().clone()


def _noise(draw: Callable[[int], Tensor], frames: int, shared: float) -> Tensor:
    """Unit noise (n, c, h, w), ``shared`` of its variance the same in all frames."""
    if not shared:
        return torch.stack([draw(i) for i in range(frames)])
    same = draw(0)
    own = torch.stack([draw(i + 1) for i in range(frames)]) if shared < 1 else torch.zeros_like(same)
    return (shared ** 0.5 * same + (1 - shared) ** 0.5 * own).expand(frames, *same.shape).clone()


def _guided(net: Networks, x: Tensor, t: Tensor, token: Tensor, feature: Tensor, scale: float) -> Tensor:
    """One window's prediction: both halves in one batch, the conditional one first."""
    f = len(x)
    if scale in (0, 1):
        return net.predict(x, t.expand(f), token.expand(f, -1, -1), feature, f)
    tokens = torch.cat([token.expand(f, -1, -1), torch.zeros_like(token).expand(f, -1, -1)])
    both = net.predict(torch.cat([x, x]), t.expand(2 * f), tokens, torch.cat([feature, feature]), f, reading=f)
    return guide(both[:f], both[f:], scale)


class _Features:
    """What the guider makes of the skeletons: those that came first are kept, as far as KEPT bytes reach; others are
    made anew."""

    def __init__(self, model: ReferenceAnimation, poses: Skeletons) -> None:
        self.model, self.poses = model, poses
        self._kept: dict[int, Tensor] = {}

    def __call__(self, part: list[int]) -> Tensor:
        if all(i in self._kept for i in part):
            return torch.stack([self._kept[i] for i in part])
        drawn = self.poses[part]
        if not torch.isfinite(drawn).all():
            raise BadInput("skeletons with numbers that are not finite", "check what made them")
        made = self.model.guider(drawn.to(self.model.device, self.model.dtype))
        each = made[0].numel() * made.element_size()
        for i, feature in zip(part, made, strict=True):
            if i in self._kept or (len(self._kept) + 1) * each <= KEPT:
                self._kept[i] = feature
        return made


def _token(model: ReferenceAnimation, reference: Tensor) -> Tensor:
    """CLIP's projected, not normalised embedding of the picture (1, 1, d)."""
    encoder = model.image_encoder
    kind = next(itertools.chain(encoder.parameters(), encoder.buffers()))
    seen = pictures.clip_input(reference[None].to(kind.device), model.image_size).to(kind.dtype)
    return encoder(pixel_values=seen).image_embeds[:, None].to(model.device, model.dtype)


def _check(model: ReferenceAnimation, reference: Tensor, poses: Skeletons, steps: int, window: int) -> None:
    if reference.ndim != 3 or reference.shape[0] != 3:
        raise BadInput(f"a reference picture of {_shape(reference.shape)}", "give (3, height, width) in [0, 1]")
    if len(poses.shape) != 4 or not len(poses) or tuple(poses.shape[1:]) != tuple(reference.shape):
        raise BadInput(f"skeletons of {_shape(poses.shape)} for a picture of {_shape(reference.shape)}",
                       "draw one or more, each of the picture's size")
    factor = 2 ** (len(model.vae.config.block_out_channels) - 1)
    if any(side % factor for side in reference.shape[1:]):
        raise BadInput(f"a picture of {reference.shape[2]} x {reference.shape[1]} pixels",
                       f"give sides that are multiples of {factor}")
    if not torch.isfinite(reference).all():
        raise BadInput("a reference picture with numbers that are not finite", "check what made it")
    if steps < 1:
        raise BadInput(f"{steps} steps", "give 1 or more")
    most = int(model.denoising.config.motion_max_seq_length)
    if window > most:
        raise BadInput(f"windows of {window} frames: {model.name} sees {most} at once", "give a smaller window")


def _resumed(state: dict[str, Any], frames: int) -> Tensor:
    latents = state.get("latents")
    if not isinstance(latents, Tensor) or len(latents) != frames or not isinstance(state.get("step"), int):
        raise BadInput(f"a kept state that is of no clip of {frames} frames", "begin anew")
    return latents.clone()


def _shape(shape: Any) -> str:
    return " x ".join(str(int(side)) for side in shape) or "no sides"
