"""AnimateDiff on tiny networks: equal to diffusers' own, for one frame and many; what is put on top; resuming."""

from __future__ import annotations

from typing import Any

import motion_helpers as helpers
import numpy as np
import pytest
import tiny_families as tiny
import torch

from engine.diffusion import lora, motion, sparse_control
from engine.diffusion.clip_drawing import ClipDrawing, noise_of, said, window_of
from engine.diffusion.lora import Lora
from engine.diffusion.motion_windows import windows
from engine.errors import BadInput, RunFailed
from engine.models.motion import MotionLora, SparseControl
from engine.stages.image_to_clip import ImageToClip, image_to_clip
from engine.stages.text_to_clip import TextToClip, text_to_clip

PROMPT, NEGATIVE = "a red mug", "blue chair"


def drawn(which: Any, noise: torch.Tensor, steps: int = 3, guidance: float = 4.0, sampler: str = "own",
          plan: Any = None, **more: Any) -> torch.Tensor:
    """Our clean latents (f, c, h, w) of tiny networks."""
    model = motion.assembled(helpers.base().ours, which)
    wanted, unwanted = model.pair(PROMPT, NEGATIVE)
    with torch.no_grad():
        denoise = motion.denoiser(model, wanted, unwanted, guidance, more=more.pop("more", None))
        return motion.sample(model.scheduler, denoise, noise, steps, sampler,  # type: ignore[arg-type]
                             plan or (lambda step: windows(len(noise), len(noise), 0)), **more)


def theirs(which: Any, noise: torch.Tensor, steps: int = 3, guidance: float = 4.0, output: str = "latent") -> Any:
    return helpers.pipeline(which)(
        PROMPT, negative_prompt=NEGATIVE, num_frames=len(noise), num_inference_steps=steps, guidance_scale=guidance,
        latents=noise.transpose(0, 1)[None], output_type=output).frames


@pytest.mark.parametrize("frames", [1, 16])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_equals_diffusers_pipeline(frames: int, kind: str) -> None:
    which, noise = helpers.motion(scheduler=helpers.scheduler(kind)), helpers.noise(frames)
    found = theirs(which, noise)[0].transpose(0, 1)
    assert float((drawn(which, noise) - found).abs().max()) <= 1e-5 * float(found.abs().max())


def test_without_guidance_one_half_is_asked() -> None:
    which, noise = helpers.motion(), helpers.noise(4)
    assert torch.allclose(drawn(which, noise, guidance=1.0), theirs(which, noise, guidance=1.0)[0].transpose(0, 1),
                          atol=1e-5)


def test_halves_in_two_calls_are_the_same() -> None:
    model = motion.assembled(helpers.base().ours, helpers.motion())
    wanted, unwanted = model.pair(PROMPT, NEGATIVE)
    x, t = helpers.noise(5), torch.tensor(500)
    with torch.no_grad():
        both, one = (motion.denoiser(model, wanted, unwanted, 4.0, together=b)(x, t, range(5)) for b in (True, False))
    assert torch.allclose(both, one, atol=1e-5)


def test_modules_are_shared_and_change_nothing_while_they_are_zero() -> None:
    """A fresh adapter's ways out are zero: every frame is what the U-Net alone says, and the weights are its own."""
    from engine.training.motion import fresh
    unet = tiny.unet()
    adapter = fresh(unet)
    net = motion.moving(unet, adapter)
    own = {id(p) for p in [*unet.parameters(), *adapter.parameters()]}
    assert {id(p) for p in net.parameters()} == own
    x, context = helpers.noise(3), torch.randn(1, 12, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(321)
    with torch.no_grad():
        moved = motion.predict(net, x[None], t, context)[0]
        alone = unet(x, t, encoder_hidden_states=context.expand(3, -1, -1)).sample
    assert torch.allclose(moved, alone, atol=1e-5)
    assert "motion_modules" not in " ".join(unet.state_dict())


def test_frames_speak_with_each_other() -> None:
    """And only through the motion modules: what one frame shows moves the others."""
    model = motion.assembled(helpers.base().ours, helpers.motion())
    context, t = model.pair(PROMPT)[0].tensors["context"], torch.tensor(321)
    x = helpers.noise(4)[None]
    other = x.clone()
    other[:, 3] += 1
    with torch.no_grad():
        a, b = (motion.predict(model.unet, v, t, context) for v in (x, other))
    assert float((a - b)[:, 0].abs().max()) > 1e-4


def test_adapters_of_another_family_are_refused() -> None:
    wide = helpers.motion(adapter=helpers.adapter(widths=(8, 16, 16)), name="the SDXL adapter")
    with pytest.raises(BadInput, match=r"the SDXL adapter is made for a U-Net of widths 8, 16, 16 with 1, 1, 1 layers a"
                                       r" block; the model has 8, 8, 16, 16 with 1, 1, 1, 1\. choose both of one"):
        motion.assembled(helpers.base().ours, wide)


# -- what is put on top ------------------------------------------------------------------------------------------------

def update(network: Any, seed: int, part: str) -> Lora:
    """A random LoRA of the layers whose name holds ``part`` and ends as attention's do."""
    g = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, module in network.named_modules():
        if part in name and name.endswith(("to_q", "to_v")):
            out, width = module.weight.shape
            pairs[name] = torch.randn(2, width, generator=g), torch.randn(out, 2, generator=g)
    return Lora(pairs, dict.fromkeys(pairs, 2.0))


def test_domain_adapter_and_motion_lora_count_as_they_are_scaled() -> None:
    """In the weights: W + s B A by hand; at 0 nothing is touched; what was given stays as it was."""
    ours, which = helpers.base().ours, helpers.motion()
    domain, moves = update(ours.unet, 1, "attn2"), update(which.adapter, 2, "attn1")
    which = helpers.motion(adapter=which.adapter, domain=domain)
    extra = MotionLora(moves, "sd15")
    before = {k: v.clone() for k, v in [*ours.unet.state_dict().items(), *which.adapter.state_dict().items()]}
    made = motion.assembled(ours, which, 0.5, extra, -1.5).unet
    for one, scale, source in ((domain, 0.5, ours.unet), (moves, -1.5, which.adapter)):
        for name, (a, b) in one.pairs.items():
            expected = source.get_submodule(name).weight + scale * b @ a
            assert torch.allclose(made.get_submodule(name).weight, expected, atol=1e-6)
    off = motion.assembled(ours, which, 0.0, extra, 0.0).unet
    plain = motion.assembled(ours, helpers.motion(adapter=which.adapter)).unet
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in off.state_dict().items())
    after = {**ours.unet.state_dict(), **which.adapter.state_dict()}
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_a_users_lora_draws_in_clips_too() -> None:
    """A LoRA that sits in the U-Net as peft's layers gives the very clip that the merged one gives."""
    ours, which = helpers.base().ours, helpers.motion()
    style = update(ours.unet, 3, "attn1")
    sitting = ours.changed(unet=lora.apply(lora.twin(ours.unet), style, 0.7))
    merged = ours.changed(unet=lora.merged(ours.unet, style, 0.7))
    context, t, x = ours.pair(PROMPT)[0].tensors["context"], torch.tensor(100), helpers.noise(3)[None]
    with torch.no_grad():
        a, b, c = (motion.predict(motion.assembled(m, which).unet, x, t, context) for m in (sitting, merged, ours))
    assert torch.allclose(a, b, atol=1e-5) and float((a - c).abs().max()) > 1e-3


def test_a_motion_lora_of_v2_needs_a_middle_block() -> None:
    moves = MotionLora(update(helpers.adapter(), 2, "mid_block"), "sd15", "zoom-in")
    with pytest.raises(BadInput, match=r"zoom-in moves a middle block, as AnimateDiff v2 has it, and the motion "
                                       r"adapter has none"):
        motion.assembled(helpers.base().ours, helpers.motion(adapter=helpers.adapter(mid=False)), 1.0, moves)


# -- long clips and resuming -------------------------------------------------------------------------------------------

def test_windows_are_the_mean_of_their_answers_at_every_step() -> None:
    """One step by hand: 6 frames in windows of 4 that overlap by two."""
    which, noise = helpers.motion(), helpers.noise(6)
    model = motion.assembled(helpers.base().ours, which)
    wanted, unwanted = model.pair(PROMPT, NEGATIVE)
    denoise = motion.denoiser(model, wanted, unwanted, 4.0)
    plan = model.scheduler
    plan.set_timesteps(1)
    with torch.no_grad():
        a, b = denoise(noise[:4], plan.timesteps[0], range(4)), denoise(noise[2:], plan.timesteps[0], range(2, 6))
    mean = torch.cat([a[:2], (a[2:] + b[:2]) / 2, b[2:]])
    expected = plan.step(mean, plan.timesteps[0], noise).prev_sample
    found = drawn(which, noise, 1, plan=lambda step: windows(6, 4, 2))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("sampler", ["own", "dpm", "lcm", "euler_a"])
def test_a_stopped_clip_goes_on_bit_for_bit(sampler: str) -> None:
    models = {"text_to_image": helpers.base().ours, "motion": helpers.motion()}
    p = TextToClip(prompt=PROMPT, frames=10, steps=4, sampler=sampler, loop=True)  # type: ignore[arg-type]
    whole = text_to_clip(p, helpers.Job(models))
    first = helpers.Job(models, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        text_to_clip(p, first)
    assert first.kept is not None and first.kept["step"] == 2
    again = helpers.Job(models, state=first.kept)
    assert np.array_equal(text_to_clip(p, again).frames, whole.frames) and again.calls == 2


def test_kept_states_can_be_written(tmp_path: Any) -> None:
    from engine.runs.checkpoints import load_state, save_state
    models = {"text_to_image": helpers.base().ours, "motion": helpers.motion()}
    p = TextToClip(prompt=PROMPT, frames=3, steps=4, sampler="dpm")
    first = helpers.Job(models, stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        text_to_clip(p, first)
    assert first.kept is not None
    save_state(tmp_path / "kept", tmp_path / "trash", first.kept)
    found = text_to_clip(p, helpers.Job(models, state=load_state(tmp_path / "kept")))
    assert np.array_equal(found.frames, text_to_clip(p, helpers.Job(models)).frames)


def test_numbers_that_run_away_are_told() -> None:
    model = motion.assembled(helpers.base().ours, helpers.motion())
    with pytest.raises(RunFailed, match="not finite"):
        motion.sample(model.scheduler, lambda x, t, frames: x * float("inf"), helpers.noise(2), 2, "own",
                      lambda step: [[0, 1]])


# -- the stages --------------------------------------------------------------------------------------------------------

def job(seed: int = 0, **more: Any) -> helpers.Job:
    return helpers.Job({"text_to_image": helpers.base().ours, **({"motion": helpers.motion()} | more)}, seed)


def test_a_clip_of_words_is_diffusers_clip() -> None:
    """Through the stage: the same prompt, noise, steps and guidance; frames differ by rounding to 8 bits alone."""
    which = helpers.motion()
    p = TextToClip(prompt=PROMPT, negative=NEGATIVE, frames=8, steps=3, guidance=4.0)
    j = job()
    clip = text_to_clip(p, j)
    noise = torch.randn(8, 4, 8, 8, generator=j.generator(0))
    found = theirs(which, noise, output="np")[0]
    assert clip.frames.shape == (8, 64, 64, 4) and np.array_equal(clip.frames[..., 3], np.ones((8, 64, 64)))
    assert float(np.abs(clip.frames[..., :3] - found).max()) <= 0.5 / 255 + 1e-4
    assert clip.meta["method"] == "AnimateDiff" and clip.meta["windows"] == 1 and (clip.fps, clip.loop) == (12, False)
    steps = [float(np.abs(b - a).mean()) for a, b in zip(clip.frames[:-1, ..., :3], clip.frames[1:, ..., :3],
                                                         strict=True)]
    assert j.metrics == {"frame_step": pytest.approx(np.mean(steps), rel=1e-5)} and j.fractions[-1] == 1.0


def test_seeds_repeat_and_differ() -> None:
    p = TextToClip(prompt=PROMPT, frames=3, steps=2)
    a, b, c = (text_to_clip(p, job(seed)).frames for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_one_frame_and_many() -> None:
    one = text_to_clip(TextToClip(prompt=PROMPT, frames=1, steps=1, loop=True), j := job())
    assert one.frames.shape == (1, 64, 64, 4) and j.metrics == {}
    long = text_to_clip(TextToClip(prompt=PROMPT, frames=33, steps=1, loop=True, noise="free"), j := job())
    assert len(long) == 33 and long.loop and long.meta["windows"] == 6  # ceil(33 / (8 - 2))
    assert set(j.metrics) == {"frame_step", "seam_step"}


def test_only_a_window_goes_through_the_network_at_once() -> None:
    sizes: list[int] = []
    which = helpers.motion()
    handle = which.adapter.down_blocks[0].motion_modules[0].register_forward_pre_hook(
        lambda module, args: sizes.append(args[0].shape[0]))
    models = {"text_to_image": helpers.base().ours, "motion": which}
    text_to_clip(TextToClip(prompt=PROMPT, frames=40, steps=1), helpers.Job(models))
    handle.remove()
    assert sizes == [16] * 7  # both halves of 8 frames; 1 + ceil(32 / 6) = 7 windows


def test_a_model_of_whole_cycles_says_where_a_loop_does_not_close() -> None:
    cyclic = helpers.motion(period=8)
    for frames, loop, told in ((8, True, 0), (16, True, 0), (12, True, 1), (12, False, 0)):
        j = job(motion=cyclic)
        text_to_clip(TextToClip(prompt=PROMPT, frames=frames, steps=1, loop=loop), j)
        assert len([w for w in j.warnings if "a loop of 12 does not close as well as one of 16" in w]) == told


def test_sizes_are_drawn_as_asked() -> None:
    clip = text_to_clip(TextToClip(prompt=PROMPT, frames=2, steps=1, width=128), job())
    assert clip.frames.shape == (2, 64, 128, 4)


@pytest.mark.parametrize(("values", "line"), [
    ({"frames": 0}, "frames"), ({"frames": 10_001}, "less than or equal to 10000"), ({"fps": 0}, "fps"),
    ({"window": 4, "overlap": 4}, "an overlap of 4 frames is no less than the window of 4"),
    ({"width": 100}, "100 pixels are not divisible by 8; 96 and 104 are"), ({"fraems": 3}, "fraems")])
def test_bad_numbers_are_named(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        TextToClip(**{"prompt": PROMPT, **values})


def test_bad_input_of_the_models_is_named() -> None:
    taught = helpers.motion(motions=("walk", "wave"), family="builtin")
    with pytest.raises(BadInput, match="unknown motion 'wlak'. Did you mean walk?"):
        said(ClipDrawing(prompt="a knight", motion="wlak"), taught)
    assert said(ClipDrawing(prompt="a knight", motion="Walk"), taught) == "a knight, walking"
    assert said(ClipDrawing(prompt="a knight, walking", motion="walk"), taught) == "a knight, walking"
    assert said(ClipDrawing(prompt="a knight", motion="moonwalk"), helpers.motion()) == "a knight, moonwalk"
    spin = MotionLora(Lora({}, {}), "builtin", motion="spin")
    assert said(ClipDrawing(prompt="a knight", motion="spin"), taught, spin) == "a knight, spin"
    with pytest.raises(BadInput, match="numbers 32 frames at most, not a window of 40"):
        window_of(ClipDrawing(prompt="a", frames=64, window=40), helpers.motion())
    assert window_of(ClipDrawing(prompt="a", frames=16, window=40), helpers.motion()) == (40, 2)
    with pytest.raises(BadInput, match="an overlap of 9 frames is no less than the motion adapter's window of 8"):
        window_of(ClipDrawing(prompt="a", overlap=9), helpers.motion())


def test_noise_of_a_longer_clip_begins_alike() -> None:
    def made(frames: int, shared: float, kind: str = "own") -> torch.Tensor:
        return noise_of(torch.Generator().manual_seed(5), frames, (4, 2, 2), 8, 2, shared, kind)

    assert torch.equal(made(8, 0.0), torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(5)))
    for shared in (0.0, 0.5):
        assert torch.equal(made(30, shared)[:8], made(8, shared))
        free = made(30, shared, "free")
        assert torch.equal(free[:8], made(8, shared, "free")) and len(free) == 30


# -- a picture to begin with -------------------------------------------------------------------------------------------

def picture(seed: int = 0) -> Any:
    from engine.artifacts import Picture
    g = np.random.default_rng(seed)
    small = g.random((8, 8, 3))
    return Picture((np.kron(small, np.ones((8, 8, 1))) * 255).round().astype(np.float32) / 255)


def test_the_first_frame_is_held_on_the_schedule() -> None:
    """Before each step the network sees the picture's latents in frame 0, at exactly the level of that step; what comes
    out is the picture as the VAE shows it."""
    seen: list[torch.Tensor] = []
    ours, which = helpers.base().ours, helpers.motion()
    hook = ours.unet.conv_in.register_forward_pre_hook(lambda module, args: seen.append(args[0][:3].clone()))
    p = ImageToClip(prompt=PROMPT, frames=3, steps=4)
    j = helpers.Job({"text_to_image": ours, "motion": which})
    try:
        clip = image_to_clip(picture(), p, j)
    finally:
        hook.remove()
    known = ours.encode(torch.from_numpy(picture().image).permute(2, 0, 1)[None])
    noise = torch.randn(3, 4, 8, 8, generator=j.generator(0))
    plan = helpers.scheduler()
    plan.set_timesteps(4)
    assert len(seen) == 4
    for t, x in zip(plan.timesteps, seen, strict=True):
        a = plan.alphas_cumprod[t]
        assert torch.allclose(x[0], a.sqrt() * known[0] + (1 - a).sqrt() * noise[0], atol=1e-5)
    with torch.no_grad():
        shown = ours.decode(known)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert float(np.abs(clip.frames[0, ..., :3] - shown).max()) <= 0.5 / 255 + 1e-4
    assert {"first_frame_db", "frame_step"} <= set(j.metrics)


def test_a_clip_that_begins_near_the_picture() -> None:
    """At a strength below 1 fewer steps are taken, and what the first one sees of every frame is the picture, noised to
    that step's level."""
    seen: list[torch.Tensor] = []
    ours = helpers.base().ours
    hook = ours.unet.conv_in.register_forward_pre_hook(lambda module, args: seen.append(args[0][:3].clone()))
    j = job()
    try:
        image_to_clip(picture(), ImageToClip(prompt=PROMPT, frames=3, steps=4, strength=0.5), j)
    finally:
        hook.remove()
    known = ours.encode(torch.from_numpy(picture().image).permute(2, 0, 1)[None])
    noise = torch.randn(3, 4, 8, 8, generator=j.generator(0))
    plan = helpers.scheduler()
    plan.set_timesteps(4)
    a = plan.alphas_cumprod[plan.timesteps[2]]
    assert len(seen) == 2 and torch.allclose(seen[0], a.sqrt() * known + (1 - a).sqrt() * noise, atol=1e-5)


def sparse(latents: bool) -> SparseControl:
    from diffusers import SparseControlNetModel
    net = tiny.seeded(lambda: SparseControlNetModel(
        in_channels=4, conditioning_channels=4 if latents else 3, block_out_channels=(8, 8, 16, 16),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=tiny.WIDTH, attention_head_dim=2,
        num_attention_heads=2, motion_num_attention_heads=2, conditioning_embedding_out_channels=(4, 4, 8, 8),
        use_simplified_condition_embedding=latents), 11)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():  # its ways out are zero at first, and would hide every mistake
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    return SparseControl(net, "sd15")


def test_sparse_control_equals_diffusers_pipeline() -> None:
    """RGB: shown the latents of one picture, at frame 2 of 5."""
    which, noise, control = helpers.motion(), helpers.noise(5), sparse(latents=True)
    shown = torch.from_numpy(picture().image).permute(2, 0, 1)[None]
    pipe = helpers.pipeline(which, "AnimateDiffSparseControlNetPipeline", controlnet=control.net)
    from PIL import Image
    torch.manual_seed(0)
    import copy
    vae = copy.deepcopy(pipe.vae)
    with torch.no_grad():  # its draw from the posterior is the mode
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -60
    pipe.vae = vae
    found = pipe(PROMPT, negative_prompt=NEGATIVE, num_frames=5, num_inference_steps=3, guidance_scale=4.0,
                 latents=noise.transpose(0, 1)[None], output_type="latent", controlnet_frame_indices=[2],
                 conditioning_frames=[Image.fromarray((picture().image * 255).round().astype(np.uint8))],
                 controlnet_conditioning_scale=0.8).frames[0].transpose(0, 1)
    ours = helpers.base().ours
    told = sparse_control.steered(control, sparse_control.shown_to(ours, control, shown), (2,), 0.8)
    made = drawn(which, noise, more=told)
    assert float((made - found).abs().max()) <= 2e-5 * float(found.abs().max())
    assert float((made - drawn(which, noise)).abs().max()) > 1e-3


def test_sparse_control_in_the_stage() -> None:
    p = ImageToClip(prompt=PROMPT, frames=12, steps=1, hold="sparse", sparse_scale=0.0)
    without = image_to_clip(picture(), p, job(sparse_control=sparse(True)))
    plain = text_to_clip(TextToClip(prompt=PROMPT, frames=12, steps=1), job())
    assert np.abs(without.frames - plain.frames).max() <= 1.01 / 255  # at a scale of 0 it says nothing
    p = p.model_copy(update={"sparse_scale": 1.0})
    assert np.abs(image_to_clip(picture(), p, job(sparse_control=sparse(True))).frames - plain.frames).max() > 1.5 / 255
    other = SparseControl(sparse(False).net, "sdxl", "another")
    assert image_to_clip(picture(), p, job(sparse_control=other)).frames.shape == (12, 64, 64, 4)  # scribbles: pixels


def test_an_image_prompt_moves_along() -> None:
    """Its tokens reach every frame: at a scale of nearly 0 the clip is nearly the one without."""
    from image_helpers import adapter_weights

    from engine.models.loading import ImagePrompt
    ours = helpers.base().ours
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    tower = tiny.seeded(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=16)), 21)
    weights = adapter_weights(unet=ours.unet)
    weights["image_proj"]["proj.weight"] = weights["image_proj"]["proj.weight"][:, :16]
    like = ImagePrompt(weights, tower, 32, "base", "sd15")
    p = ImageToClip(prompt=PROMPT, frames=3, steps=2)
    plain = image_to_clip(picture(), p, job(image_prompt=like))
    near, far = (image_to_clip(picture(), p.model_copy(update={"like_scale": s}), job(image_prompt=like)).frames
                 for s in (1e-4, 1.0))
    assert np.abs(near - plain.frames).max() <= 2.01 / 255 and np.abs(far - plain.frames)[1:].max() > 0.02
