"""Reference animation: ours against AnimateAnyone written out by hand, windows against hand-worked ones, loops, one
frame, resuming byte for byte, Moore's files layer over layer, and bad input in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import straight_animation as straight
import torch
from diffusers import AutoencoderKL, UNetMotionModel
from real_files import marked, shapes_of, write
from torch import Tensor, nn

from engine.diffusion.animate_networks import PoseGuider, ReferenceUNet
from engine.diffusion.reference_animation import (
    Networks,
    ReferenceAnimation,
    animate,
    decoded,
    denoised,
    norm_frames,
    windows,
)
from engine.errors import BadInput
from engine.models.open_checkpoint import load_scheduler

WIDTHS, CONTEXT, HEADS, GROUPS, TIME_HEADS = (8, 8, 16, 16), 12, 2, 4, 4
PUBLISHED: dict[str, Any] = {"layers_per_block": 2}
BUILT_IN: dict[str, Any] = {"layers_per_block": 1, "use_motion_mid_block": False,
                            "temporal_transformer_layers_per_block": [1, 1, 0, 0]}


class Eyes(nn.Module):
    """An image encoder that tells the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, CONTEXT)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(image_embeds=self.project(pixel_values.mean((2, 3))))


def shaken(module: nn.Module, seed: int) -> Any:
    """Random weights everywhere, also where a network begins with zeros; in float64."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 25
        parameter.data = around + drawn / fan ** 0.5 * (1.0 if parameter.ndim > 1 else 0.5)
    return module.double().eval().requires_grad_(False)


def made(kind: dict[str, Any] = PUBLISHED, seed: int = 0) -> ReferenceAnimation:
    shared = {"sample_size": 8, "block_out_channels": WIDTHS, "cross_attention_dim": CONTEXT, "norm_num_groups": GROUPS}
    denoising = norm_frames(UNetMotionModel(**shared, num_attention_heads=HEADS, motion_num_attention_heads=TIME_HEADS,
                                            motion_max_seq_length=32, **kind))
    reference = ReferenceUNet(**shared, attention_head_dim=HEADS, layers_per_block=kind["layers_per_block"])
    vae = AutoencoderKL(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, down_block_types=["DownEncoderBlock2D"] * 4,
                        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=1)
    return ReferenceAnimation(
        shaken(denoising, seed), shaken(reference, seed + 1), shaken(PoseGuider(3, (4, 6, 8, 10), WIDTHS[0]), seed + 2),
        shaken(Eyes(), seed + 3), 16, shaken(vae, seed + 4), load_scheduler(None, "animate_anyone"), 64, 4, 2, 2.0, 2)


@cache
def published() -> ReferenceAnimation:
    return made()


def picture(seed: int = 0, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skeletons(frames: int, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def noise(frame: int, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(4, height, width, generator=torch.Generator().manual_seed(frame), dtype=torch.float64)


def by_hand(model: ReferenceAnimation, reference: Tensor, poses: Tensor, steps: int, guidance: float,
            parts: Callable[[int], list[list[int]]]) -> Tensor:
    """The same clip by the page that knows no class of ours. Autoencoder and eyes are other models."""
    seen = model.vae.encode(reference[None] * 2 - 1).latent_dist.mean * model.vae.config.scaling_factor
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    small = nn.functional.interpolate(reference[None], (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    token = model.image_encoder((small - mean) / std).image_embeds[:, None]
    height, width = seen.shape[2:]
    drawn = torch.stack([noise(i, height, width) for i in range(len(poses))])
    unets = [straight.Unet(net.state_dict(), HEADS, GROUPS, TIME_HEADS) for net in (model.denoising, model.reference)]
    return straight.animate(unets[0], unets[1], model.guider.state_dict(), seen, token, poses, drawn, steps, guidance,
                            parts)


@pytest.mark.parametrize("kind", [PUBLISHED, BUILT_IN], ids=["as published", "as built in"])
def test_a_clip_is_what_the_paper_says_written_out_by_hand(kind: dict[str, Any]) -> None:
    """Reference attention, guidance, skeletons, motion modules, overlapping windows and the sampler, in float64."""
    model, reference, poses = made(kind, 20), picture(), skeletons(6)
    ours = denoised(model, reference, poses, steps=3, guidance=2.5, noise=noise)
    expected = by_hand(model, reference, poses, 3, 2.5, lambda _: [[0, 1, 2, 3], [2, 3, 4, 5]])
    assert ours.dtype == torch.float64 and float((ours - expected).abs().max()) < 1e-6
    if kind is PUBLISHED:
        return
    # What is compared depends on every condition: the check can fail.
    plain: dict[str, Any] = {"steps": 3, "noise": noise}
    for other in (denoised(model, picture(1), poses, guidance=2.5, **plain),
                  denoised(model, reference, poses.flip(0), guidance=2.5, **plain),
                  denoised(model, reference, poses, guidance=1.0, **plain),
                  denoised(model, reference, poses, guidance=2.5, overlap=3, **plain),
                  denoised(model, reference, poses, guidance=2.5, loop=True, **plain)):
        assert float((other - expected).abs().max()) > 1e-3


def test_loops_and_pictures_that_are_not_square_by_hand() -> None:
    model, reference, poses = published(), picture(2, 64, 128), skeletons(5, 64, 128)

    def tall(frame: int) -> Tensor:
        return noise(frame, 8, 16)

    ours = denoised(model, reference, poses, steps=2, guidance=2.0, noise=tall, loop=True, window=3, overlap=1)
    turned = [[[0, 1, 2], [1, 2, 3], [3, 4, 0]], [[3, 4, 0], [4, 0, 1], [1, 2, 3]]]  # 5 x .618 = 3.09: 3 further on
    assert float((ours - by_hand(model, reference, poses, 2, 2.0, lambda step: turned[step])).abs().max()) < 1e-6


def test_without_guidance_the_second_half_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = published(), []
    predict = Networks.predict
    monkeypatch.setattr(Networks, "predict", lambda self, x, *a, **k: sizes.append(len(x)) or predict(self, x, *a, **k))
    ours = denoised(model, picture(), skeletons(3), steps=2, guidance=1.0, noise=noise)
    assert sizes == [3, 3]
    two = denoised(model, picture(), skeletons(3), steps=2, guidance=1.0 + 1e-12, noise=noise)
    assert sizes[2:] == [6, 6] and float((ours - two).abs().max()) < 1e-9


# -- windows -----------------------------------------------------------------------------------------------------------


def test_windows_by_hand() -> None:
    assert windows(1, 24, 4) == [[0]] and windows(3, 4, 2) == [[0, 1, 2]]
    assert windows(7, 4, 2) == [[0, 1, 2, 3], [1, 2, 3, 4], [3, 4, 5, 6]]
    assert windows(6, 3, 0) == [[0, 1, 2], [3, 4, 5]]
    assert windows(4, 4, 2, loop=True) == [[0, 1, 2, 3]]
    assert windows(4, 4, 2, loop=True, step=1) == [[2, 3, 0, 1]]  # int(4 x .618) = 2
    assert windows(5, 3, 1, loop=True) == [[0, 1, 2], [1, 2, 3], [3, 4, 0]]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("frames, window, overlap", [(240, 24, 4), (25, 24, 4), (48, 16, 15), (10_000, 24, 4),
                                                     (5, 1, 0)])
def test_windows_hold_every_frame_and_meet(frames: int, window: int, overlap: int, loop: bool) -> None:
    parts = windows(frames, window, overlap, loop, step=3)
    assert {frame for part in parts for frame in part} == set(range(frames))
    assert all(len(set(part)) == len(part) == min(window, frames) for part in parts)
    neighbours = zip(parts, parts[1:] + parts[:1] if loop else parts[1:], strict=False)
    assert all(len(set(a) & set(b)) >= overlap for a, b in neighbours)
    assert len(parts) <= -(-frames // (window - overlap)) + 1  # work grows with the frames and no faster


def test_predictions_are_averaged_where_windows_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window predicts its own number: 1 then 3 for frames (0 1 2) and (1 2 3) give 1, 2, 2, 3."""
    model, calls = published(), []

    def numbered(self: Networks, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        calls.append(len(x))
        return torch.full_like(x, 2.0 * len(calls) - 1)

    monkeypatch.setattr(Networks, "predict", numbered)
    ours = denoised(model, picture(), skeletons(4), steps=1, guidance=1.0, noise=noise, window=3, overlap=2)
    assert calls == [3, 3]
    # One step from pure noise: the clean latents are minus the prediction of v.
    assert torch.allclose(ours[:, 0, 0, 0], -torch.tensor([1.0, 2.0, 2.0, 3.0]).double(), atol=1e-6)


def test_a_loop_has_no_first_frame() -> None:
    """Turned skeletons and noise give the turned clip, when windows are turned alike: nothing else tells frames apart.
    """
    model, poses, reference = replace(published(), window=3, overlap=1), skeletons(6), picture()
    plain = denoised(model, reference, poses, steps=1, guidance=1.0, noise=noise, loop=True)
    turned = denoised(model, reference, poses.roll(-2, 0), steps=1, guidance=1.0, loop=True,
                      noise=lambda i: noise((i + 2) % 6))
    assert windows(6, 3, 1, loop=True) == [[0, 1, 2], [2, 3, 4], [4, 5, 0]]
    assert torch.allclose(turned, plain.roll(-2, 0), atol=1e-9)


# -- one frame, memory, resuming ---------------------------------------------------------------------------------------


def test_one_frame_and_progress_and_pictures() -> None:
    model, told = published(), []
    frames = animate(model, picture(), skeletons(1), steps=2, guidance=2.0, noise=noise, progress=told.append)
    assert frames.shape == (1, 3, 64, 64) and float(frames.min()) >= 0 and float(frames.max()) <= 1
    assert told == sorted(told) and told[-1] == 1.0
    latents = denoised(model, picture(), skeletons(1), steps=2, guidance=2.0, noise=noise)
    assert torch.equal(next(decoded(model, latents)), frames[0])
    expected = by_hand(model, picture(), skeletons(1), 2, 2.0, lambda _: [[0]])
    assert float((latents - expected).abs().max()) < 1e-6


def test_the_networks_never_see_more_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, guided = published(), [], []
    predict, guider = Networks.predict, PoseGuider.forward
    monkeypatch.setattr(Networks, "predict", lambda self, x, *a, **k: seen.append(len(x)) or predict(self, x, *a, **k))
    monkeypatch.setattr(PoseGuider, "forward", lambda self, x: guided.append(len(x)) or guider(self, x))
    latents = denoised(model, picture(), skeletons(40), steps=1, guidance=2.0, noise=noise)
    assert max(seen) == 8 and max(guided) == 4 and len(latents) == 40
    shapes = [frame.shape for frame in decoded(model, latents[:3])]  # one by one
    assert shapes == [(3, 64, 64)] * 3


def test_a_stopped_clip_goes_on_to_the_same_bytes() -> None:
    model, kept = published(), []
    whole = denoised(model, picture(), skeletons(6), steps=3, guidance=2.0, noise=noise, loop=True,
                     keep=lambda state: kept.append(state))
    assert [state["step"] for state in kept] == [1, 2, 3]

    def unasked(frame: int) -> Tensor:
        raise AssertionError("a resumed clip draws no noise")

    for state in kept:
        again = denoised(model, picture(), skeletons(6), steps=3, guidance=2.0, noise=unasked, loop=True, state=state)
        assert torch.equal(again, whole)
    with pytest.raises(BadInput, match="no clip of 5 frames"):
        denoised(model, picture(), skeletons(5), steps=3, guidance=2.0, noise=noise, state=kept[0])


def test_noise_that_frames_share() -> None:
    from engine.diffusion.reference_animation import _noise
    assert torch.equal(_noise(noise, 3, 0.0), torch.stack([noise(0), noise(1), noise(2)]))
    assert torch.equal(_noise(noise, 2, 1.0), torch.stack([noise(0), noise(0)]))
    half = _noise(noise, 2, 0.25)
    assert torch.allclose(half[1], 0.5 * noise(0) + 0.75 ** 0.5 * noise(2))


def test_the_model_that_is_lent_is_not_changed() -> None:
    model = published()
    before = {name: type(p).__name__ for name, p in model.denoising.attn_processors.items()}
    denoised(model, picture(), skeletons(2), steps=1, guidance=2.0, noise=noise)
    assert {name: type(p).__name__ for name, p in model.denoising.attn_processors.items()} == before
    assert not model.denoising.conv_in._forward_hooks


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change, words", [
    ({"reference": torch.zeros(4, 64, 64)}, "reference picture of 4 x 64 x 64"),
    ({"reference": torch.zeros(64, 64)}, "reference picture of 64 x 64"),
    ({"poses": torch.zeros(0, 3, 64, 64)}, "skeletons of 0 x 3 x 64 x 64"),
    ({"poses": torch.zeros(2, 3, 16, 64)}, "skeletons of 2 x 3 x 16 x 64 for a picture of 3 x 64 x 64"),
    ({"reference": torch.zeros(3, 62, 64), "poses": torch.zeros(1, 3, 62, 64)}, "64 x 62 pixels"),
    ({"poses": torch.full((1, 3, 64, 64), float("nan"))}, "not finite"),
    ({"steps": 0}, "0 steps"), ({"window": 33}, "windows of 33 frames.*32 at once"),
    ({"window": 2, "overlap": 2}, "windows of 2 frames that share 2"),
    ({"noise": lambda i: torch.zeros(4, 9, 8)}, "noise of 4 x 9 x 8 for latents of 4 x 8 x 8")])
def test_bad_shapes_are_named(change: dict[str, Any], words: str) -> None:
    asked: dict[str, Any] = {"reference": picture(), "poses": skeletons(2), "steps": 1, "guidance": 1.0, "noise": noise}
    with pytest.raises(BadInput, match=words) as caught:
        denoised(published(), **{**asked, **change})
    assert "\n" not in str(caught.value)


# -- Moore's files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def moore(tmp_path: Path) -> Path:
    for name in ("denoising_unet", "motion_module", "reference_unet", "pose_guider"):
        write(tmp_path / f"{name}.pth", marked(shapes_of(f"moore-animateanyone-{name}")))
    base = {f"model.diffusion_model.{k.removeprefix('model.diffusion_model.')}": v for k, v in
            marked(shapes_of("sd-v1-5-pruned-emaonly")).items() if k.startswith("model.diffusion_model.")}
    write(tmp_path / "base" / "v1-5.ckpt", base, "state_dict")
    return tmp_path


def test_moore_s_denoising_unet_is_three_layers(moore: Path) -> None:
    """Nothing missing, nothing left over; what the later files lack comes from Stable Diffusion 1.5."""
    from engine.models.reference_animation import load_denoising
    files = [moore / "denoising_unet.pth", moore / "motion_module.pth", moore / "base" / "v1-5.ckpt"]
    whole = load_denoising(*files, allow_pickle=True).state_dict()
    told = marked(shapes_of("moore-animateanyone-denoising_unet"))
    assert sum(".motion_modules." in name for name in whole) == 567 and len(whole) == 567 + 686
    assert all(float(whole[name].flatten()[0]) == float(value.flatten()[0]) for name, value in told.items())
    gone = "mid_block.resnets.1.conv2.weight"
    write(files[0], {name: value for name, value in told.items() if name != gone})
    mended = load_denoising(*files, allow_pickle=True).state_dict()
    base = marked(shapes_of("sd-v1-5-pruned-emaonly"))["model.diffusion_model.middle_block.2.out_layers.3.weight"]
    assert float(mended[gone].flatten()[0]) not in (float(told[gone].flatten()[0]), 0.0)
    assert mended[gone].shape == base.shape
    del mended[gone]
    assert all(torch.equal(mended[name].flatten()[:1], whole[name].flatten()[:1]) for name in mended)
    write(files[0], {**told, "down_blocks.9.odd.weight": torch.zeros(1)})
    with pytest.raises(BadInput, match=r"1 unexpected.*down_blocks\.9\.odd"):
        load_denoising(*files, allow_pickle=True)
    motion = marked(shapes_of("moore-animateanyone-motion_module"))
    write(files[0], told)
    write(files[1], {name: value for i, (name, value) in enumerate(motion.items()) if i})
    with pytest.raises(BadInput, match=r"1 missing.*motion_modules"):
        load_denoising(*files, allow_pickle=True)


def test_moore_s_model_is_put_together_whole(moore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the role's own way from files to a model. The networks that other models lend are built on the meta device."""
    from engine.models import blueprints, catalogue, reference_animation
    from engine.models.local import Located
    lent: dict[str, Any] = {}
    load = reference_animation.load_part

    def part(source: Any, family: str, name: str, **more: Any) -> Any:
        if name in ("vae", "image_encoder"):
            lent[name] = (family, Path(source).name)
            return blueprints.blueprint(family, name).build()
        return load(source, family, name, **more)

    monkeypatch.setattr(reference_animation, "load_part", part)
    entry = catalogue.model("patrolli/AnimateAnyone")

    def located(model: catalogue.Model, folder: Path, needs: tuple[Located, ...] = ()) -> Located:
        return Located(model, folder, {p.name: p for p in sorted(folder.iterdir()) if p.is_file()}, "here", needs)

    for name in ("vae", "eyes"):
        (moore / name).mkdir()
        (moore / name / "diffusion_pytorch_model.safetensors").touch()
    needs = tuple(located(catalogue.model(id), moore / folder) for id, folder in zip(
        entry.needs, ("base", "vae", "eyes"), strict=True))

    def put_together() -> ReferenceAnimation:
        return reference_animation.public(located(entry, moore, needs), lambda _: lambda _, load: load(),
                                          torch.float32, True)

    made = put_together()
    assert lent == {"vae": ("sd15", "vae"), "image_encoder": ("sd15", "eyes")}
    assert (made.size, made.window, made.overlap, made.guidance, made.steps) == (512, 24, 4, 3.5, 30)
    assert type(made.reference).__name__ == "ReferenceUNet" and made.reference.conv_norm_out is None
    assert made.scheduler.config.rescale_betas_zero_snr and made.image_size == 224
    norms = [type(m.norm).__name__ for m in made.denoising.modules() if type(m).__name__ == "AnimateDiffTransformer3D"]
    assert norms == ["FrameNorm"] * 21
    # Every self-attention of one finds its twin in the other, and the guider fits behind the first convolution.
    own, other = ({n for n in net.attn_processors if n.endswith("attn1.processor") and "motion" not in n}
                  for net in (made.denoising, made.reference))
    assert own == other and len(own) == 16
    assert made.guider.conv_out.out_channels == made.denoising.conv_in.out_channels == 320
    (moore / "pose_guider.pth").unlink()
    with pytest.raises(BadInput, match="lacks pose_guider"):
        put_together()
