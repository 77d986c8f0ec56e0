"""LoRA on a U-Net: exact where nothing was learned, equal merged or not, read back by diffusers, refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.diffusion import adapting, lora, lora_files
from engine.diffusion.lora import Lora
from engine.errors import BadInput, RunFailed
from tests.lora_helpers import asked, same, scheduler, unet, weights


def learned(network: Any, rank: int = 3, alpha: float = 2.0, **card: Any) -> Lora:
    """A LoRA with random A and B, as if trained on ``network``, which stays as it is."""
    made = lora.twin(network)
    parameters = lora.attach(made, rank, alpha, seed=1)
    g = torch.Generator().manual_seed(2)
    for p in parameters:
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p) * 0.3
    return lora.taken(made, {"token": "zorb", "base": {"unet_sha256": lora.base_digest(network), "id": "a/base",
                                                       "revision": "3"}, **card})


def say(network: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x, t, context = asked(dtype)
    with torch.no_grad():
        return network(x, t, context).sample


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_fresh_one_changes_nothing_at_all(dtype: torch.dtype) -> None:
    network = unet(dtype)
    before, kept = say(network, dtype), weights(network)
    other = lora.twin(network)
    parameters = lora.attach(other, rank=4, alpha=4, seed=0)
    assert torch.equal(say(other, dtype), before)
    assert all(p.requires_grad and p.dtype == dtype for p in parameters) and len(parameters) == 2 * 8 * 4
    assert sum(p.requires_grad for p in other.parameters()) == len(parameters)
    assert same(weights(network), kept) and lora.adapters(network) == []


def test_a_half_precision_base_learns_in_single_precision() -> None:
    other = lora.twin(unet(torch.float16))
    assert all(p.dtype == torch.float32 for p in lora.attach(other, 2, 2, 0))


def test_peft_does_not_touch_the_global_generator_and_the_seed_decides() -> None:
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (lora.attach(lora.twin(unet()), 2, 2, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.rand(3), first)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) and not torch.equal(a[0], c[0])
    assert float(a[0].detach().abs().max()) <= 8 ** -0.5


def test_a_twin_shares_every_weight() -> None:
    network = unet()
    other = lora.twin(network)
    pairs = list(zip(network.parameters(), other.parameters(), strict=True))
    assert all(a is b for a, b in pairs) and other.conv_in is not network.conv_in


def test_merged_equals_applied_at_every_scale_and_removing_leaves_no_trace() -> None:
    network = unet()
    found, before, names = learned(network), say(network), list(network.state_dict())
    other = lora.apply(lora.twin(network), found)
    assert float((say(other) - before).abs().max()) > 1e-3
    for scale in (1.0, 0.5, -1.0):
        lora.rescale(other, scale)
        torch.testing.assert_close(say(other), say(lora.merged(network, found, scale)), rtol=0, atol=1e-12)
    lora.rescale(other, 0.0)
    assert torch.equal(say(other), before)
    lora.remove(other)
    assert list(other.state_dict()) == names and torch.equal(say(other), before)
    assert torch.equal(say(lora.apply(other, found)), say(lora.apply(lora.twin(network), found)))
    assert torch.equal(say(network), before)


def test_two_of_them_add_up() -> None:
    network = unet()
    found = learned(network)
    other = lora.apply(lora.apply(lora.twin(network), found, 0.75, "one"), found, 0.25, "two")
    assert lora.adapters(other) == ["one", "two"] and not any(p.requires_grad for p in other.parameters())
    torch.testing.assert_close(say(other), say(lora.merged(network, found)), rtol=0, atol=1e-12)
    with pytest.raises(BadInput, match="already"):
        lora.apply(other, found, name="two")


def test_the_update_is_alpha_over_rank_times_b_a() -> None:
    network = unet()
    found = learned(network, rank=3, alpha=2.0)
    module, (down, up) = next(iter(found.pairs.items()))
    made, x = lora.merged(network, found, 0.5), torch.randn(5, down.shape[1], dtype=torch.float64)
    layer = network.get_submodule(module)
    torch.testing.assert_close(made.get_submodule(module)(x) - layer(x), 0.5 * (2.0 / 3) * (x @ down.T) @ up.T,
                               rtol=0, atol=1e-12)


def test_a_base_is_known_by_its_weights_whatever_sits_in_it() -> None:
    network = unet(torch.float32)
    digest = lora.base_digest(network)
    assert digest == lora.base_digest(unet(torch.float16)) == lora.base_digest(unet())
    assert lora.base_digest(lora.apply(lora.twin(network), learned(network))) == digest
    network.conv_in.bias.data[0] += 1
    assert lora.base_digest(network) != digest


# -- files ---------------------------------------------------------------------------------------------------------

def test_saved_and_loaded_it_says_the_same_and_its_papers_travel(tmp_path: Path) -> None:
    network = unet(torch.float32)
    found = learned(network, steps=7, licence="Apache-2.0")
    lora_files.save(found, tmp_path / "z.safetensors")
    again = lora_files.read(tmp_path / "z.safetensors")
    assert again.card == found.card and again.alphas == found.alphas and again.token == "zorb"
    assert torch.equal(say(lora.apply(lora.twin(network), again), torch.float32),
                       say(lora.apply(lora.twin(network), found), torch.float32))
    beside = json.loads((tmp_path / "z.json").read_text())
    assert beside["sha256"] == lora_files.digest(tmp_path / "z.safetensors") and beside["licence"] == "Apache-2.0"
    assert beside["base"]["unet_sha256"] == lora.base_digest(network) and beside["steps"] == 7


def test_diffusers_reads_it_back(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    network = unet(torch.float32)
    found = learned(network, rank=3, alpha=2.0)
    lora_files.save(found, tmp_path / "z.safetensors")
    pipe = StableDiffusionPipeline(vae=None, text_encoder=None, tokenizer=None, unet=lora.twin(network),
                                   scheduler=scheduler(), safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)
    pipe.load_lora_weights(str(tmp_path), weight_name="z.safetensors")
    (adapter,) = pipe.get_list_adapters()["unet"]
    assert pipe.unet.peft_config[adapter].lora_alpha == 2.0
    assert torch.equal(say(pipe.unet, torch.float32), say(lora.apply(lora.twin(network), found), torch.float32))


@pytest.mark.parametrize("layout", ["kohya", "old processors", "bare"])
def test_layouts_of_others_are_read(layout: str, tmp_path: Path) -> None:
    network = unet(torch.float32)
    found = learned(network, rank=3, alpha=3.0 if layout != "kohya" else 1.5)
    tensors = {}
    for module, (down, up) in found.pairs.items():
        if layout == "kohya":
            name = "lora_unet_" + module.replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                        f"{name}.alpha": torch.tensor(1.5)}
        elif layout == "bare":
            tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        else:
            place, _, last = module.removesuffix(".0").rpartition(".")
            name = f"unet.{place}.processor.{last}_lora"
            tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    save_file(tensors, tmp_path / "other.safetensors")
    again = lora_files.read(tmp_path / "other.safetensors")
    assert again.card == {} and len(again.pairs) == len(found.pairs)
    torch.testing.assert_close(say(lora.apply(lora.twin(network), again), torch.float32),
                               say(lora.apply(lora.twin(network), found), torch.float32), rtol=0, atol=1e-6)


def test_parts_of_text_encoders_are_kept_and_what_nobody_takes_is_named(tmp_path: Path) -> None:
    network = unet(torch.float32)
    lora_files.save(learned(network), tmp_path / "z.safetensors")
    tensors = load_file(tmp_path / "z.safetensors")
    text = {f"text_encoder.layers.0.q_proj.lora_{s}.weight": torch.zeros(2, 2) for s in "AB"}
    save_file({**tensors, **text}, tmp_path / "both.safetensors")
    both = lora_files.read(tmp_path / "both.safetensors")
    assert list(both.text) == ["text_encoder"] and list(both.text["text_encoder"].pairs) == ["layers.0.q_proj"]
    assert both.alphas == dict.fromkeys(both.pairs, 3.0)  # the file lost its settings: alpha is the rank
    save_file(text, tmp_path / "text.safetensors")
    with pytest.raises(BadInput, match="holds no LoRA of a U-Net, only of text_encoder"):
        lora_files.read(tmp_path / "text.safetensors")
    save_file({**tensors, "unet.extra.thing": torch.zeros(1), "x.alpha": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadInput, match=r"odd.safetensors holds 2 tensors that belong to no layer.*unet.extra.thing"):
        lora_files.read(tmp_path / "odd.safetensors")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.safetensors", b"nothing"), ("b.safetensors", b""), ("c.pt", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match="no safetensors"):
            lora_files.digest(tmp_path / name)
        with pytest.raises(BadInput, match="pickle" if name == "c.pt" else "no safetensors file"):
            lora_files.read(tmp_path / name)
    save_file({"weight": torch.zeros(2)}, tmp_path / "d.safetensors")
    save_file({"down_blocks.0.to_q.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "e.safetensors")
    save_file({"x.lora_A.weight": torch.zeros(2, 2), "x.dora_scale": torch.zeros(2)}, tmp_path / "f.safetensors")
    with pytest.raises(BadInput, match="no low-rank layers"):
        lora_files.digest(tmp_path / "d.safetensors")
    with pytest.raises(BadInput, match="no lora_B"):
        lora_files.read(tmp_path / "e.safetensors")
    with pytest.raises(BadInput, match="dora_scale"):
        lora_files.read(tmp_path / "f.safetensors")
    for read in (lora_files.digest, lora_files.read):
        with pytest.raises(BadInput, match="there is no LoRA"):
            read(tmp_path / "none.safetensors")
        with pytest.raises(BadInput, match="is a folder"):
            read(tmp_path)


def test_another_base_or_family_is_refused_in_one_line_and_nothing_changes() -> None:
    network = unet()
    found = learned(network)
    changed = unet()
    changed.conv_in.bias.data[0] += 1
    wider = unet(width=12)
    stranger = Lora({"mid_block.attentions.9.to_q": next(iter(found.pairs.values()))},
                    {"mid_block.attentions.9.to_q": 3.0}, name="q.safetensors")
    broken = Lora({k: (a * float("nan"), b) for k, (a, b) in found.pairs.items()}, found.alphas)
    for other, given, words in ((changed, found, "another base, a/base 3: U-Net sha256 expected"),
                                (wider, found, r"another family: its .*attn2.to_k is 8 x 8, the U-Net's is 8 x 12"),
                                (network, stranger, "q.safetensors was trained on another family: the U-Net has no"),
                                (network, broken, "not finite"), (network, Lora({}, {}), "no layers of a U-Net")):
        for use in (lora.apply, lora.merged):
            with pytest.raises(BadInput, match=words) as caught:
                use(other, given)
            assert "\n" not in str(caught.value)
        assert lora.adapters(other) == []
    with pytest.raises(BadInput, match="no LoRA named"):
        lora.rescale(network, 0.5)
    with pytest.raises(BadInput, match="no layers named"):
        lora.attach(network, 2, 2, 0, targets=("nothing",))


# -- the loss and the steps ------------------------------------------------------------------------------------------

def test_weights_of_min_snr_by_hand() -> None:
    a = torch.tensor([0.0, 0.5, 0.9, 0.99], dtype=torch.float64).view(-1, 1, 1, 1)
    # SNR = a / (1 - a): 0, 1, 9, 99; gamma 5.
    expected = {"epsilon": [1, 1, 5 / 9, 5 / 99], "v_prediction": [1, 1, 0.5, 0.05], "sample": [0, 1, 5, 5]}
    for kind, values in expected.items():
        torch.testing.assert_close(adapting.min_snr(kind, a), torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_is_right_has_no_loss_and_one_that_is_off_by_d_has_d_squared(kind: str) -> None:
    s = scheduler(kind)
    g = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([10, 500, 990])
    a = s.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    truth = {"epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean, "sample": clean}[kind]

    def off(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(noisy, a.sqrt() * clean + (1 - a).sqrt() * noise)
        return truth + 0.5
    torch.testing.assert_close(adapting.losses(off, s, clean, noise, t, None), torch.full((3,), 0.25).double())
    torch.testing.assert_close(adapting.losses(off, s, clean, noise, t), 0.25 * adapting.min_snr(kind, a))
    with pytest.raises(BadInput, match="prediction_type is 'flow'"):
        adapting.target("flow", clean, noise, a)


def test_prior_preservation_by_hand() -> None:
    own, prior = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0, 7.0])
    assert float(adapting.preserved(own, prior, 0.5)) == 2.0 + 0.5 * 5.0
    assert float(adapting.preserved(own, None, 0.5)) == 2.0


def test_every_batch_sees_all_noise_levels() -> None:
    t = adapting.stratified(5, 1000, torch.Generator().manual_seed(0))
    assert [int(v) // 200 for v in t] == [0, 1, 2, 3, 4]


def test_an_adapter_learns_resumes_bit_for_bit_and_leaves_its_base(tmp_path: Path) -> None:
    from engine.runs.checkpoints import load_state, save_state
    network = unet(torch.float32)
    before = weights(network)
    x, t, context = asked(torch.float32)

    def loss(a: adapting.Adapter) -> torch.Tensor:
        return (a.unet(x, t, context).sample - 1).square().mean()

    whole, part = (adapting.Adapter(network, adapting.Adapting(2, learning_rate=1e-2)) for _ in range(2))
    told = []
    for i in range(6):
        told.append(float(loss(whole).detach()))
        whole.step(loss(whole), rate=1 - i / 10)
    for i in range(3):
        part.step(loss(part), rate=1 - i / 10)
    save_state(tmp_path / "s", tmp_path / "t", part.state_dict())
    part = adapting.Adapter(network, adapting.Adapting(2, learning_rate=1e-2, seed=9))
    kept = load_state(tmp_path / "s")
    assert kept is not None
    part.load_state_dict(kept)
    for i in range(3, 6):
        part.step(loss(part), rate=1 - i / 10)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, part.parameters, strict=True))
    assert told == sorted(told, reverse=True) and same(weights(network), before)
    with pytest.raises(BadInput, match="another adapter"):
        adapting.Adapter(network, adapting.Adapting(3)).load_state_dict(kept)
    with pytest.raises(RunFailed, match="not finite"):
        part.step(loss(part) * float("nan"))
