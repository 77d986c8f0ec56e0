"""Weights at a byte a number: what is kept, what comes back, and that every reader sees the layout's own names."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import BadInput
from engine.models import packed
from engine.models.loading import load_diffusers
from engine.models.reader import read_header, read_tensors


def some() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {"conv.weight": torch.randn(8, 16, 3, 3, generator=g), "conv.bias": torch.randn(8, generator=g),
            "zero.weight": torch.zeros(32, 64), "small.weight": torch.randn(4, 4, generator=g)}


def test_hand_worked_row() -> None:
    row = torch.zeros(1, 1024)
    row[0, :4] = torch.tensor([127.0, -127.0, 63.4, 0.4])
    kept = packed.pack({"w": row})
    assert kept["w"].dtype == torch.int8 and kept["w"][0, :4].tolist() == [127, -127, 63, 0]
    assert kept["w::scale"].tolist() == [1.0]
    assert packed.unpack(kept)["w"][0, :4].tolist() == [127.0, -127.0, 63.0, 0.0]


def test_error_is_at_most_half_a_step() -> None:
    tensors = some()
    kept = packed.pack(tensors)
    assert set(kept) == {*tensors, "conv.weight::scale", "zero.weight::scale"}
    back = packed.unpack(kept)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in tensors.items()}
    step = tensors["conv.weight"].flatten(1).abs().amax(1) / 127
    # The scale is itself rounded to half precision: 127 steps of it may fall short of the largest value by 2^-11 of it.
    most = step * (0.5 + 127 * 2.0 ** -11)
    assert ((back["conv.weight"] - tensors["conv.weight"]).flatten(1).abs().amax(1) <= most).all()
    assert torch.equal(back["zero.weight"], tensors["zero.weight"])
    assert torch.equal(back["conv.bias"], tensors["conv.bias"].half())
    assert torch.equal(back["small.weight"], tensors["small.weight"].half())


def test_packing_what_was_unpacked_changes_nothing() -> None:
    kept = packed.pack(some())
    again = packed.pack(packed.unpack(kept))
    assert all(torch.equal(kept[k], again[k]) for k in kept)


def test_files_and_readers(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(some(), path, metadata={"format": "pt"})
    packed.pack_file(path)
    size = path.stat().st_size
    packed.pack_file(path)
    assert path.stat().st_size == size and not path.with_name("model.safetensors.part").exists()
    assert read_header(path).tensors.keys() == some().keys()
    assert read_header(path).metadata == {"format": "pt", "packing": packed.PACKING}
    direct, read = packed.load(path), read_tensors(path)
    assert direct.keys() == read.keys() == some().keys()
    assert all(torch.equal(direct[k], read[k]) for k in direct)
    assert torch.equal(read_tensors(path, ["conv.weight"])["conv.weight"], direct["conv.weight"])
    plain = tmp_path / "plain.safetensors"
    save_file(some(), plain)
    assert all(torch.equal(packed.load(plain)[k], v) for k, v in load_file(plain).items())


def test_a_packing_of_later_days_is_named(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(some(), path, metadata={"packing": "int4 blocks"})
    with pytest.raises(BadInput, match="packed as 'int4 blocks'"):
        read_header(path)


def test_a_packed_network_loads_by_the_same_code(tmp_path) -> None:
    from diffusers import UNet2DModel
    torch.manual_seed(0)
    net = UNet2DModel(sample_size=8, in_channels=3, out_channels=1, block_out_channels=(16, 32), layers_per_block=1,
                      down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
                      norm_num_groups=8)
    net.save_pretrained(tmp_path)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 3])
    before = load_diffusers(UNet2DModel, tmp_path, "cpu")(x, t).sample
    packed.pack_file(tmp_path / "diffusion_pytorch_model.safetensors")
    after = load_diffusers(UNet2DModel, tmp_path, "cpu")(x, t).sample
    assert 0 < float((after - before).abs().mean()) < 0.02 * float(before.abs().mean())
