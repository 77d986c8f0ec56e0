"""LoRAs, several at once, LCM-LoRA and textual inversion: with them too, pictures are the bare pipeline's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_files
import tiny_families as tiny
import torch
from safetensors.torch import save_file
from test_families import NEGATIVE, TEXT, TOLERANCE, FamilyJob, bare, drawn
from torch import Tensor, nn

from engine.diffusion import adapters, embeddings, lora, lora_files
from engine.errors import BadInput
from engine.stages.text_to_image import TextToImage, text_to_image

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def update(network: nn.Module, ends: tuple[str, ...], seed: int, rank: int = 2) -> dict[str, tuple[Tensor, Tensor]]:
    """module -> random (A, B) of every layer whose name ends so."""
    g = torch.Generator().manual_seed(seed)
    made = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and name.endswith(ends):
            out, *others = module.weight.shape
            made[name] = (0.3 * torch.randn(rank, *others, generator=g),
                          0.3 * torch.randn(out, rank, *[1] * (len(others) - 1), generator=g))
    assert made
    return made


def diffusers_file(path: Path, unet: dict[str, tuple[Tensor, Tensor]]) -> Path:
    tensors = {f"unet.{m}.lora_{s}.weight": t for m, pair in unet.items() for s, t in zip("AB", pair, strict=True)}
    save_file(tensors, path)
    return path


def kohya(unet: dict[str, tuple[Tensor, Tensor]], text: dict[str, tuple[Tensor, Tensor]] | None = None,
          alpha: float = 1.0) -> dict[str, Tensor]:
    tensors = {}
    for before, pairs in (("lora_unet_", unet), ("lora_te_text_model_", text or {})):
        for module, (down, up) in pairs.items():
            name = before + module.replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                        f"{name}.alpha": torch.tensor(alpha)}
    return tensors


def test_two_loras_with_their_scales(tmp_path: Path) -> None:
    twin = tiny.sd15()
    one = diffusers_file(tmp_path / "one.safetensors", update(twin.ours.unet, ATTENTION, 1))
    two = tmp_path / "two.safetensors"
    save_file(kohya(update(twin.ours.unet, ("to_q", "proj_in"), 2), alpha=3.0), two)
    plain = drawn(twin.ours, steps=2, guidance=3.0)
    ours = drawn(twin.ours, steps=2, guidance=3.0, lora=[str(one), str(two)], lora_scale=[0.7, -0.4])
    assert np.abs(ours - plain).max() > 0.01
    np.testing.assert_array_equal(drawn(twin.ours, steps=2, guidance=3.0), plain)  # the networks stayed as they are
    for path, name in ((one, "one"), (two, "two")):
        twin.bare.load_lora_weights(tmp_path, weight_name=path.name, adapter_name=name)
    twin.bare.set_adapters(["one", "two"], [0.7, -0.4])
    np.testing.assert_allclose(ours, bare(twin.bare, num_inference_steps=2, guidance_scale=3.0), atol=TOLERANCE, rtol=0)


def test_a_lora_of_the_text_encoder_too(tmp_path: Path) -> None:
    """W + (alpha / r) B A, by hand, in every layer of both networks."""
    twin = tiny.sd15()
    unet, text = update(twin.ours.unet, ATTENTION, 3), update(twin.ours.text_encoder, ("q_proj", "fc1"), 4)
    save_file(kohya(unet, {m.removeprefix("text_model."): pair for m, pair in text.items()}, alpha=0.5),
              tmp_path / "both.safetensors")
    ours = drawn(twin.ours, steps=2, guidance=3.0, lora=str(tmp_path / "both.safetensors"))
    for network, pairs in ((twin.bare.unet, unet), (twin.bare.text_encoder, text)):
        for module, (down, up) in pairs.items():
            weight = network.get_submodule(module).weight
            weight.data += (0.25 * up.flatten(1) @ down.flatten(1)).view(weight.shape)
    np.testing.assert_allclose(ours, bare(twin.bare, num_inference_steps=2, guidance_scale=3.0), atol=TOLERANCE, rtol=0)


def test_an_lcm_lora_changes_convolutions_and_time_too(tmp_path: Path) -> None:
    from diffusers import LCMScheduler
    twin = tiny.sd15()
    ends = (*ATTENTION, "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "ff.net.0.proj",
            "ff.net.2", "downsamplers.0.conv", "upsamplers.0.conv")
    save_file(kohya(update(twin.ours.unet, ends, 5)), tmp_path / "lcm.safetensors")
    ours = drawn(twin.ours, steps=4, guidance=1.0, sampler="lcm", lora=str(tmp_path / "lcm.safetensors"))
    twin.bare.load_lora_weights(tmp_path, weight_name="lcm.safetensors")
    twin.bare.scheduler = LCMScheduler.from_config(twin.bare.scheduler.config)
    np.testing.assert_allclose(ours, bare(twin.bare, num_inference_steps=4, guidance_scale=1.0), atol=TOLERANCE, rtol=0)


def test_the_real_lcm_lora_fits_the_real_network_to_the_last_name() -> None:
    from engine.models.blueprints import blueprint
    shapes = real_files.shapes_of("lcm-lora-sdv1-5")
    found = lora_files.of_tensors(real_files.marked(shapes), Path("lcm.safetensors"))
    assert found.family == "sd15" and not found.text and 3 * len(found.pairs) == len(shapes)
    fitted = lora.check(blueprint("sd15", "unet").build(), found)
    assert len(set(fitted.pairs)) == len(found.pairs) and "conv_in" not in fitted.pairs
    assert tuple(fitted.pairs["down_blocks.0.resnets.0.conv1"][0].shape[1:]) == (320, 3, 3)


def test_sdxls_loras_with_latent_diffusions_numbers() -> None:
    from engine.models.blueprints import blueprint
    places = {"input_blocks_4_1": "down_blocks.1.attentions.0", "input_blocks_8_1": "down_blocks.2.attentions.1",
              "middle_block_1": "mid_block.attentions.0", "output_blocks_2_1": "up_blocks.0.attentions.2",
              "output_blocks_3_1": "up_blocks.1.attentions.0"}
    unet = blueprint("sdxl", "unet").build()
    tensors = {}
    for old, new in places.items():
        out, width = unet.get_submodule(f"{new}.transformer_blocks.0.attn2.to_k").weight.shape
        name = f"lora_unet_{old}_transformer_blocks_0_attn2_to_k"
        tensors |= {f"{name}.lora_down.weight": torch.ones(1, width), f"{name}.lora_up.weight": torch.ones(out, 1)}
    tensors |= {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 1280),
                "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(5120, 1)}
    found = lora_files.of_tensors(tensors, Path("x.safetensors"))
    assert found.family == "sdxl"
    assert list(lora.check(unet, found).pairs) == [f"{p}.transformer_blocks.0.attn2.to_k" for p in places.values()]
    text = lora.check(blueprint("sdxl", "text_encoder_2").build(), found.text["text_encoder_2"])
    assert [m.removeprefix("text_model.") for m in text.pairs] == ["encoder.layers.0.mlp.fc1"]


def test_the_wrong_family_is_refused_with_file_and_remedy(tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    save_file({f"{name}.lora_down.weight": torch.ones(1, 2048), f"{name}.lora_up.weight": torch.ones(640, 1)},
              tmp_path / "style_xl.safetensors")
    with pytest.raises(BadInput, match=r"style_xl.safetensors is a LoRA of sdxl, and the model is of sd15.*choose a "
                                       r"model of the family sdxl.*or a LoRA of sd15"):
        drawn(tiny.sd15().ours, lora=str(tmp_path / "style_xl.safetensors"))
    foreign = diffusers_file(tmp_path / "o.safetensors", {"down_blocks.7.to_q": (torch.ones(1, 2), torch.ones(2, 1))})
    with pytest.raises(BadInput, match=r"o.safetensors was trained on another family.*no layer down_blocks.7.to_q"):
        drawn(tiny.sd15().ours.changed(family="builtin"), lora=str(foreign))
    two = tmp_path / "te2.safetensors"
    sdxl = tiny.sdxl_().ours
    save_file({**kohya(update(tiny.sd15().ours.unet, ("attn2.to_q",), 6)),
               "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 16),
               "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(24, 1)}, two)
    with pytest.raises(BadInput, match="te2.safetensors was trained on another family: it changes text_encoder_2"):
        drawn(tiny.sd15().ours.changed(family="builtin"), lora=str(two))
    assert lora.adapters(sdxl.unet) == []


@pytest.mark.parametrize("rows", [1, 3])
def test_textual_inversion(rows: int, tmp_path: Path) -> None:
    twin = tiny.sd15()
    made = torch.randn(rows, tiny.WIDTH, generator=torch.Generator().manual_seed(7))
    save_file({"<zorb>": made if rows > 1 else made[0]}, tmp_path / "zorb.safetensors")
    told = {"prompt": "a red <zorb> mug", "steps": 2, "guidance": 3.0, "negative": NEGATIVE}
    without = drawn(twin.ours, **told)
    ours = drawn(twin.ours, **told, embedding=str(tmp_path / "zorb.safetensors"))
    assert np.abs(ours - without).max() > 1e-3
    np.testing.assert_array_equal(drawn(twin.ours, **told), without)
    twin.bare.load_textual_inversion(tmp_path, weight_name="zorb.safetensors")
    twin.bare.set_progress_bar_config(disable=True)
    theirs = twin.bare(prompt=["a red <zorb> mug"] * 2, negative_prompt=[NEGATIVE] * 2, num_inference_steps=2,
                       guidance_scale=3.0, output_type="pt",
                       generator=[torch.Generator().manual_seed(i) for i in range(2)]).images
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=TOLERANCE, rtol=0)


def test_words_of_sdxl_have_rows_for_both_encoders(tmp_path: Path) -> None:
    """A1111's and kohya's names; the file's own name is the word."""
    twin = tiny.sdxl_()
    wide = tiny.clip_text(24, width=24, seed=6)  # of another width than the first, as SDXL's
    model = twin.ours.changed(text_encoder_2=wide)
    rows = {w: torch.randn(2, w, generator=torch.Generator().manual_seed(w)) for w in (tiny.WIDTH, 24)}
    save_file({"clip_l": rows[tiny.WIDTH], "clip_g": rows[24]}, tmp_path / "my style.safetensors")
    found = embeddings.read(tmp_path / "my style.safetensors")
    assert found.token == "my_style" and found.tokens == ["my_style", "my_style_1"]
    pairs = embeddings.taught(model.text_encoders, [found])
    for (encoder, words), (before, known) in zip(pairs, model.text_encoders, strict=True):
        ids = words(embeddings.spelled("a my_style mug", [found])).input_ids
        table = encoder.get_input_embeddings().weight
        assert torch.equal(table[ids[2:4]], rows[table.shape[1]]) and ids[4] == known("mug").input_ids[1]
        assert before.get_input_embeddings().weight.shape[0] == len(known) == len(words) - 2
    with pytest.raises(BadInput, match=r"my style.safetensors is of another family: its rows have 16, 24 numbers, the "
                                       r"text encoder of x reads 40"):
        embeddings.taught([(tiny.clip_text(width=40), tiny.tokenizer())], [found], "x")
    save_file({"mug": torch.zeros(tiny.WIDTH)}, tmp_path / "m.safetensors")
    with pytest.raises(BadInput, match="the model knows the word 'mug' of m.safetensors already"):
        drawn(tiny.sd15().ours, embedding=str(tmp_path / "m.safetensors"))
    with pytest.raises(BadInput, match="reads no words that m.safetensors could add to"):
        drawn(tiny.pixart_().ours, embedding=str(tmp_path / "m.safetensors"), height=64, width=64)


def test_what_drew_along_is_told_and_enters_the_papers(tmp_path: Path) -> None:
    twin = tiny.sd15()
    path = diffusers_file(tmp_path / "o.safetensors", update(twin.ours.unet, ATTENTION, 8))
    save_file({"zorb": torch.zeros(tiny.WIDTH)}, tmp_path / "z.safetensors")
    job = FamilyJob(twin.ours)
    p = TextToImage(prompt=TEXT, view="", candidates=1, steps=1, lora=(str(path), str(path)), lora_scale=(1, 0.5),
                    embedding=str(tmp_path / "z.safetensors"))
    made = text_to_image(p, job).pictures[0]
    digest = lora_files.digest(path)
    assert made.meta["lora"] == [{"sha256": digest, "scale": 1.0}, {"sha256": digest, "scale": 0.5}]
    assert made.meta["embeddings"][0]["token"] == "zorb"
    assert job.warnings == ["drawn with the LoRA o.safetensors (no papers: licence unknown)"] * 2 + [
        "drawn with the embedding z.safetensors (no papers: licence unknown)",
        "the prompt does not hold 'zorb', the word of z.safetensors"]


def test_files_are_known_before_anything_runs(tmp_path: Path) -> None:
    twin = tiny.sd15()
    pairs = update(twin.ours.unet, ATTENTION, 9)
    torch.save(kohya(pairs), tmp_path / "old.bin")
    save_file({"zorb": torch.zeros(16)}, tmp_path / "z.safetensors")
    good = str(diffusers_file(tmp_path / "o.safetensors", pairs))

    def params(**told: Any) -> TextToImage:
        return TextToImage(prompt=TEXT, **told)
    digest = lora_files.digest(good)
    dumped = params(lora=[good, good], lora_scale=0.5).model_dump(mode="json")
    assert dumped["lora_digest"] == [digest, digest] and "lora" not in dumped and "embedding_digest" not in dumped
    for told, words in (({"lora": [good], "lora_scale": [1, 1]}, "there are 2 scales for 1 LoRAs"),
                        ({"lora": good, "lora_scale": 3}, "must lie in -2 to 2"),
                        ({"embedding_digest": "x"}, "no meaning without embedding")):
        with pytest.raises(ValueError, match=words):
            params(**told)
    for told, words in (({"lora": str(tmp_path / "old.bin")}, "old.bin is no safetensors file"),
                        ({"embedding": good}, "o.safetensors is a LoRA, no textual inversion"),
                        ({"embedding": str(tmp_path / "old.bin")}, "old.bin is a pickle.*allow_pickle=true")):
        with pytest.raises(BadInput, match=words):
            params(**told)
    allowed = drawn(twin.ours, steps=1, lora=str(tmp_path / "old.bin"), allow_pickle=True)
    save_file(kohya(pairs), tmp_path / "new.safetensors")
    np.testing.assert_array_equal(allowed, drawn(twin.ours, steps=1, lora=str(tmp_path / "new.safetensors")))
    p = params(embedding=str(tmp_path / "z.safetensors"), steps=1)
    save_file({"zorb": torch.ones(16)}, tmp_path / "z.safetensors")
    with pytest.raises(BadInput, match="z.safetensors changed since the run was planned"):
        adapters.adapted(twin.ours, p)


def test_the_command_takes_several_and_recipes_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.recipe import load_recipe, merge_settings, parse_loras
    monkeypatch.chdir(tmp_path)
    a, b = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    assert parse_loras([]) == {} and parse_loras(["a.safetensors"]) == {"lora": a}
    assert parse_loras(["a.safetensors:0.5"]) == {"lora": a, "lora_scale": 0.5}
    assert parse_loras(["a.safetensors:-1", "b.safetensors"]) == {"lora": [a, b], "lora_scale": [-1.0, 1.0]}
    assert parse_loras(["local/style", "c:x.safetensors"])["lora"][0] == "local/style"  # an id is no file
    told = merge_settings({}, ['text_to_image.embedding=["b.safetensors"]', "text_to_image.lora=local/style"])
    assert told["text_to_image"] == {"embedding": [b], "lora": "local/style"}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "r.toml").write_text('format = 1\npipeline = "text_to_mesh"\nprompt = "a mug"\n'
                                             '[stages.text_to_image]\nlora = ["x.safetensors", "/y.safetensors"]\n')
    drawn_ = load_recipe(tmp_path / "sub" / "r.toml").stages["text_to_image"]
    assert drawn_["lora"] == [str(tmp_path / "sub" / "x.safetensors"), "/y.safetensors"]


def test_a_lora_that_was_added_goes_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.models import local
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    path = tmp_path / "real.safetensors"
    width = 320
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_"
    save_file({f"{name}{x}.lora_{side}.weight": torch.ones(*shape) for x, read in (("k", 768), ("q", width))
               for side, shape in (("down", (1, read)), ("up", (width, 1)))}, path)
    local.add(path, "lora", id="local/style")
    p = TextToImage(prompt=TEXT, lora="local/style")
    assert p.lora_digest == lora_files.digest(path) and adapters.place("local/style") == path
    with pytest.raises(BadInput, match="there is no LoRA local/none"):
        TextToImage(prompt=TEXT, lora="local/none")
