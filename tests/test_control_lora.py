"""Control-LoRA and the built-in image prompt: what they add to a U-Net, and the files they are kept in."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from engine.diffusion import control_lora, ip_adapter, lora
from engine.diffusion.control_lora import Controlled
from engine.errors import BadInput
from engine.models.sets import BUILTIN_FOLDER
from tests.real_files import shapes_of

CHANNELS = (4, 8, 8, 8)


def unet(seed: int = 0, channels: tuple[int, ...] = (16, 16, 24, 24), dtype: torch.dtype = torch.float64
         ) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    made = UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, block_out_channels=channels,
                                layers_per_block=1, cross_attention_dim=12, attention_head_dim=2, norm_num_groups=4)
    return made.to(dtype).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base() -> UNet2DConditionModel:
    return unet()


def inputs(n: int = 2, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, steps, context, and maps of half as many pictures (guidance shows each twice)."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, 4, 8, 8, generator=g, dtype=torch.float64), torch.tensor([900, 40][:n]),
            torch.randn(n, 5, 12, generator=g, dtype=torch.float64),
            torch.rand(max(1, n // 2), 3, 64, 64, generator=g, dtype=torch.float64))


def moved(net: ControlNetModel, seed: int = 5, by: float = 0.1) -> ControlNetModel:
    """Every trainable parameter somewhere else, as training leaves it."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(by * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p))
    return net


# -- controls --------------------------------------------------------------------------------------------------------

def test_a_fresh_control_changes_nothing_and_trains_only_its_own(base: UNet2DConditionModel) -> None:
    x, t, c, shown = inputs()
    net = control_lora.fresh(base, 4, hint_channels=CHANNELS)
    down, mid = control_lora.residuals([net], x, t, c, [shown], [1.0])
    assert all(not r.any() for r in (*down, mid))
    assert torch.equal(Controlled(base, [net], [shown])(x, t, c).sample, base(x, t, c).sample)
    free = {k for k, p in net.named_parameters() if p.requires_grad}
    assert free == {k for k, _ in net.named_parameters() if k.startswith(control_lora.WHOLE) or ".lora_" in k}
    assert not any(p.requires_grad for p in base.parameters())
    # The map reaches the zero convolutions from the first step on.
    features = [net.controlnet_cond_embedding(s) for s in (shown, torch.zeros_like(shown))]
    assert float((features[0] - features[1]).detach().abs().max()) > 1e-3
    # The layers that read the text and the time step are the base's own.
    assert not any("attn2.to_k" in k or "attn2.to_v" in k or "time_emb_proj" in k for k in free)


def test_what_is_not_changed_shares_the_bases_memory(base: UNet2DConditionModel) -> None:
    before = lora.base_digest(base)
    own = {p.data_ptr() for p in base.parameters()}
    bare = control_lora.bare(base, CHANNELS)
    shared = [k for k, p in bare.named_parameters() if not k.startswith(control_lora.WHOLE)]
    assert all(bare.get_parameter(k).data_ptr() in own for k in shared if bare.get_parameter(k).ndim < 4)
    net = control_lora.apply(base, control_lora.taken(moved(control_lora.fresh(base, 4, 0, CHANNELS)), "edges"))
    assert net.time_embedding.linear_1.weight.data_ptr() in own
    assert net.down_blocks[0].resnets[0].conv1.weight.data_ptr() not in own
    assert lora.base_digest(base) == before


def test_taken_saved_read_and_applied_it_is_the_trained_net(base: UNet2DConditionModel, tmp_path: Path) -> None:
    x, t, c, shown = inputs()
    trained = moved(control_lora.fresh(base, 4, 0, CHANNELS))
    control = control_lora.taken(trained, "depth", lora.base_digest(base))
    control_lora.save(control, tmp_path)
    again = control_lora.read(tmp_path)
    assert (again.kind, again.hint_channels, again.unet_sha256) == ("depth", CHANNELS, lora.base_digest(base))
    assert again.whole.keys() == control.whole.keys() and again.pairs.keys() == control.pairs.keys()
    assert all(torch.equal(again.whole[k], v) for k, v in control.whole.items())
    assert all(torch.equal(a, b) for k, pair in control.pairs.items()
               for a, b in zip(again.pairs[k], pair, strict=True))

    net = control_lora.load_control(tmp_path, base)
    assert type(net) is ControlNetModel and not any(p.requires_grad for p in net.parameters())
    name = "down_blocks.1.resnets.0.conv1"
    a, b = control.pairs[name]
    weight = base.get_submodule(name).weight
    by_hand = weight + (b.flatten(1) @ a.flatten(1)).view(weight.shape)
    torch.testing.assert_close(net.get_submodule(name).weight, by_hand, rtol=0, atol=1e-12)
    ours = Controlled(base, [net], [shown])(x, t, c).sample
    theirs = Controlled(base, [trained], [shown])(x, t, c).sample
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert float((ours - base(x, t, c).sample).abs().max()) > 1e-3

    # And a training goes on from it, bit for bit.
    started = control_lora.put(control_lora.fresh(base, 4, 9, CHANNELS), again)
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in started.state_dict().items())
    with pytest.raises(BadInput, match="cannot be trained on"):
        control_lora.put(control_lora.fresh(base, 2, 0, CHANNELS), again)


def test_the_files_keys_are_those_of_the_page(base: UNet2DConditionModel, tmp_path: Path) -> None:
    control_lora.save(control_lora.taken(control_lora.fresh(base, 4, 0, CHANNELS), "parts"), tmp_path, torch.float16)
    tensors = load_file(tmp_path / control_lora.WEIGHTS)
    assert {v.dtype for v in tensors.values()} == {torch.float16}
    plain = set(control_lora.bare(base, CHANNELS).state_dict())
    for key in tensors:
        if key.startswith(control_lora.WHOLE):
            assert key in plain
        else:
            module, _, half = key.partition(".lora_")
            assert f"{module}.weight" in plain and half in ("A.weight", "B.weight")
    assert json.loads((tmp_path / control_lora.SETTINGS).read_text())["rank"] == 4


def test_any_controlnet_becomes_differences_the_best_of_their_rank(base: UNet2DConditionModel) -> None:
    x, t, c, shown = inputs()
    full = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=CHANNELS).to(torch.float64).eval()
    g = torch.Generator().manual_seed(1)
    name = "mid_block.resnets.0.conv2"
    with torch.no_grad():
        for key, p in full.named_parameters():
            if key.startswith("controlnet_") or p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=torch.float64))
        weight = full.get_submodule(name).weight
        left, right = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((24, 3), (3, 24 * 9)))
        weight.add_((left @ right).view(weight.shape))
    wanted = full(x, t, c, shown.repeat(2, 1, 1, 1), return_dict=False)
    control = control_lora.extract(full, base, "edges", rank=3)
    assert list(control.pairs) == [name] and control.pairs[name][0].shape == (3, 24, 3, 3)
    got = control_lora.apply(base, control)(x, t, c, shown.repeat(2, 1, 1, 1), return_dict=False)
    for a, b in zip((*got[0], got[1]), (*wanted[0], wanted[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    # Of a lower rank: what is lost are the smallest singular values, and no matrix of that rank loses less.
    a, b = control_lora.extract(full, base, "edges", rank=2).pairs[name]
    lost = float((left @ right - b.flatten(1) @ a.flatten(1)).square().sum())
    assert lost == pytest.approx(float(torch.linalg.svdvals(left @ right)[2] ** 2), rel=1e-9)
    with pytest.raises(BadInput, match="another family"):
        control_lora.extract(full, unet(channels=(16, 16, 16, 16)), "edges")


def test_several_controls_add_up_and_scales_count(base: UNet2DConditionModel) -> None:
    x, t, c, shown = inputs()
    nets = [control_lora.apply(base, control_lora.taken(moved(control_lora.fresh(base, 4, s, CHANNELS), s), "edges"))
            for s in (1, 2)]
    other = 1 - shown
    parts = [net(x, t, c, m.repeat(2, 1, 1, 1), conditioning_scale=s, return_dict=False)
             for net, m, s in zip(nets, (shown, other), (1.0, 0.5), strict=True)]
    down = [a + b for a, b in zip(parts[0][0], parts[1][0], strict=True)]
    wanted = base(x, t, c, down_block_additional_residuals=down,
                  mid_block_additional_residual=parts[0][1] + parts[1][1]).sample
    got = Controlled(base, nets, [shown, other], [1.0, 0.5])(x, t, c).sample
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert torch.equal(Controlled(base, nets, [shown, other], [0.0, 0.0])(x, t, c).sample, base(x, t, c).sample)
    with pytest.raises(ValueError, match="2 controls, 1 maps"):
        Controlled(base, nets, [shown])


def test_damaged_and_foreign_controls_are_refused_in_one_line(base: UNet2DConditionModel, tmp_path: Path) -> None:
    control = control_lora.taken(control_lora.fresh(base, 4, 0, CHANNELS), "pose", lora.base_digest(base))
    control_lora.save(control, tmp_path)
    with pytest.raises(BadInput, match="trained on another base"):
        control_lora.load_control(tmp_path, unet(1))
    wide = control_lora.ControlLora("pose", control.whole, control.pairs, CHANNELS)
    with pytest.raises(BadInput, match="another family"):
        control_lora.apply(unet(channels=(16, 16, 16, 16)), wide)
    path, whole = tmp_path / control_lora.WEIGHTS, load_file(tmp_path / control_lora.WEIGHTS)
    some = next(k for k in whole if ".lora_A." in k)
    hint = "controlnet_cond_embedding.conv_in.bias"
    for wrong, said in (({**whole, hint: torch.full_like(whole[hint], float("nan"))}, "not finite"),
                        ({k: v for k, v in whole.items() if k != some}, "one half"),
                        ({k: v for k, v in whole.items() if k != hint}, "incomplete")):
        save_file(wrong, path)
        with pytest.raises(BadInput, match=said):
            control_lora.load_control(tmp_path, base)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInput, match="cannot read the weights"):
        control_lora.read(tmp_path)
    (tmp_path / control_lora.SETTINGS).unlink()
    with pytest.raises(BadInput, match="is missing"):
        control_lora.read(tmp_path)


# -- the image prompt ------------------------------------------------------------------------------------------------

def test_adapter_keys_and_shapes_are_the_public_files() -> None:
    wanted = {k.replace("/", "."): s for k, s in shapes_of("ip-adapter_sd15").items()}
    with torch.device("meta"):
        full = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        adapter = ip_adapter.IPAdapter(1024, 768, ip_adapter.widths_of(full))
    assert {k: tuple(v.shape) for k, v in adapter.state_dict().items()} == wanted
    assert list(adapter.state_dict()) == list(wanted)


def test_attention_layers_are_numbered_down_up_mid(base: UNet2DConditionModel) -> None:
    names = ip_adapter.cross_attentions(base)
    assert list(names) == list(range(1, 20, 2))
    assert [n.split("_")[0] for n in names.values()] == ["down"] * 3 + ["up"] * 6 + ["mid"]
    assert list(ip_adapter.widths_of(base).values()) == [16, 16, 24, 24, 24, 16, 16, 16, 16, 24]


def test_an_installed_prompt_is_the_librarys_own(base: UNet2DConditionModel) -> None:
    """Against diffusers' loader of IP-Adapters and its image projection, on the same tensors."""
    x, t, c, _ = inputs()
    adapter = ip_adapter.fresh(base, 6, seed=2).to(torch.float64).eval()
    embeds = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = lora.twin(base)
    theirs._load_ip_adapter_weights([ip_adapter.weights_of(adapter)])
    wanted = theirs.to(torch.float64)(x, t, c, added_cond_kwargs={"image_embeds": [embeds[:, None]]}).sample
    made = ip_adapter.install(base, adapter)
    got = made(x, t, ip_adapter.context_of(c, adapter.tokens(embeds))).sample
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert float((got - base(x, t, c).sample).detach().abs().max()) > 1e-3
    nothing = ip_adapter.install(base, adapter, scale=0.0)
    assert torch.equal(nothing(x, t, ip_adapter.context_of(c, adapter.tokens(embeds))).sample, base(x, t, c).sample)
    # Installed layers are the adapter's own: training reaches them, and only them.
    got.square().mean().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    assert all(p.grad is None for p in base.parameters())


def test_image_prompts_are_kept_exactly_and_foreign_ones_refused(base: UNet2DConditionModel, tmp_path: Path) -> None:
    adapter = ip_adapter.fresh(base, 6).to(torch.float64)
    ip_adapter.save(adapter, tmp_path, lora.base_digest(base))
    weights = ip_adapter.load_image_prompt(tmp_path, base)
    for part, tensors in ip_adapter.weights_of(adapter).items():
        assert weights[part].keys() == tensors.keys()
        assert all(torch.equal(weights[part][k], v) for k, v in tensors.items())
    with pytest.raises(BadInput, match="trained on another base"):
        ip_adapter.load_image_prompt(tmp_path, unet(1))
    ip_adapter.save(adapter, tmp_path)
    with pytest.raises(BadInput, match="another family"):
        ip_adapter.load_image_prompt(tmp_path, unet(channels=(16, 16, 16, 16)))
    path, whole = tmp_path / ip_adapter.WEIGHTS, load_file(tmp_path / ip_adapter.WEIGHTS)
    key = "ip_adapter.1.to_v_ip.weight"
    for wrong, said in (({**whole, key: torch.full_like(whole[key], float("inf"))}, "not finite"),
                        ({k: v for k, v in whole.items() if k != key}, "no base IP-Adapter")):
        save_file(wrong, path)
        with pytest.raises(BadInput, match=said):
            ip_adapter.read(tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match="is missing"):
        ip_adapter.read(tmp_path)


# -- what ships ------------------------------------------------------------------------------------------------------

def test_the_shipped_controls_and_image_prompt_are_at_most_five_megabytes() -> None:
    folders = [BUILTIN_FOLDER / f"control_{kind}" for kind in ("edges", "depth", "pose", "parts")]
    files = [f / control_lora.WEIGHTS for f in folders] + [BUILTIN_FOLDER / "image_prompt" / ip_adapter.WEIGHTS]
    assert all(f.is_file() for f in files)
    assert sum(f.stat().st_size for f in files) <= 5_000_000


@pytest.mark.parametrize("kind", ["edges", "depth", "pose", "parts"])
def test_every_shipped_control_fits_its_base(kind: str) -> None:
    from engine.models.cards import verify
    from engine.models.loading import load_unet
    card = verify(BUILTIN_FOLDER / f"control_{kind}")
    assert card.trained_on == {"text_to_image": verify(BUILTIN_FOLDER / "text_to_image").sha256}
    net = control_lora.load_control(BUILTIN_FOLDER / f"control_{kind}",
                                    load_unet(BUILTIN_FOLDER / "text_to_image" / "unet", "cpu"))
    assert net.controlnet_mid_block.weight.any()
