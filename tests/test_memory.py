"""What a model takes, what is free, and what follows: decided by a fake machine's memory, carried out on real parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_families as tiny
import torch
from tiny_models import tiny_set
from torch import nn

from engine.diffusion import sampling
from engine.errors import BadInput, RunFailed
from engine.models import memory
from engine.models.families import build
from engine.models.memory import MEGABYTE as MB
from engine.models.pool import BUDGET, Pool

PARTS = {"text_encoder": 500 * MB, "unet": 1700 * MB, "vae": 160 * MB}
BLOCKS = {"text_encoder": 40 * MB, "unet": 200 * MB, "vae": 30 * MB}
ROW, DECODE, TILE = 100 * MB, 1600 * MB, 400 * MB


class Fake:
    """A machine with so many megabytes; None: nobody knows."""

    def __init__(self, free: float | None, total: float | None = None) -> None:
        self.mb, self.all = free, total

    def free(self, device: str) -> int | None:
        return None if self.mb is None else int(self.mb * MB)

    def total(self, device: str) -> int | None:
        return None if self.all is None else int(self.all * MB)


def planned(free: float | None, device: str = "cuda", **changes: Any) -> memory.Arrangement:
    told: dict[str, Any] = {"tile": TILE, "rows": 8, "pictures": 4, **changes}
    return memory.arrange(PARTS, BLOCKS, ROW, DECODE, device, probe=Fake(free), **told)


def of(usable: float) -> float:
    """Megabytes of which so many are counted on, on a GPU."""
    return (usable + 256) / 0.95 + 0.01


def test_all_of_it_stays_where_it_fits() -> None:
    """2,360 MB of weights; beside them 8 rows of 100 MB, or 4 pictures of 1,600."""
    assert planned(of(2360 + 6400)) == memory.Arrangement() == planned(None)


def test_fewer_at_a_time_and_tiles_where_the_work_does_not_fit() -> None:
    assert planned(of(2360 + 6399)) == memory.Arrangement(pictures=3)  # costs nothing, so nothing is said
    tiles = planned(of(2360 + 450))
    assert (tiles.mode, tiles.rows, tiles.pictures, tiles.tiles) == ("whole", 4, 1, True)
    assert tiles.said == ("450 MB are free beside the weights; 4 of 8 samples go through the network at a time; "
                          "pictures are decoded in tiles")


def test_parts_take_turns_where_only_the_largest_fits() -> None:
    """A whole model needs 2,360 and 400 of work (a tile); 1,700 and 400 are enough for turns."""
    assert planned(of(2360 + 400)).mode == "whole"
    turns = planned(of(2360 + 399))
    assert (turns.mode, turns.rows, turns.tiles) == ("parts", None, True)
    assert turns.said == ("the model takes 2.3 GB and 2.7 GB of cuda are free: its parts take turns there, which is "
                          "slower; pictures are decoded in tiles")
    tight = planned(of(1700 + 400))
    assert (tight.mode, tight.rows) == ("parts", 4)


def test_the_largest_are_streamed_where_not_even_one_fits() -> None:
    blocks = planned(of(1000))
    assert (blocks.mode, blocks.streamed, blocks.rows) == ("blocks", ("unet",), 5)  # 500 of text beside 500 of work
    assert "unet go through it block by block, which is much slower" in blocks.said
    both = planned(of(700))
    assert (both.mode, both.streamed, both.rows) == ("blocks", ("text_encoder", "unet"), 5)  # 200 beside 500


def test_a_device_that_is_too_small_is_named_with_the_remedy() -> None:
    with pytest.raises(RunFailed, match=r"takes 2.3 GB and 599 MB of cuda are free; its largest block does not fit "
                                        r"beside 400 MB.*smaller width and height, or use --device cpu"):
        planned(of(599))
    assert planned(of(600)).mode == "blocks"


def test_what_lies_on_the_device_already_is_not_counted_twice() -> None:
    assert planned(of(2760) - 2000, held=2000 * MB).mode == "whole"
    assert planned(of(2760) - 2000).mode == "blocks"


def test_the_cpu_is_never_refused_and_never_offloaded() -> None:
    small = planned(10, device="cpu")
    assert (small.mode, small.rows, small.pictures, small.tiles) == ("whole", 4, 1, True)  # 400 for a tile, at least


def test_bytes_of_parts_and_blocks() -> None:
    linear = nn.Linear(10, 10, bias=False)  # 400 bytes
    shared = nn.ModuleDict({"a": linear, "b": linear})
    assert memory.bytes_of(linear, shared, object()) == 400
    stack = nn.Sequential(nn.Linear(10, 1, bias=False), nn.ModuleList([nn.ModuleList([linear, nn.Linear(10, 20)])]))
    assert memory.bytes_of(stack) == 40 + 400 + 880 and memory.largest_block(stack) == 1280
    assert memory.largest_block(nn.Linear(10, 10)) == 440


def test_free_memory_of_this_machine_is_a_number_or_nobody_knows() -> None:
    free, total = memory.MACHINE.free("cpu"), memory.MACHINE.total("cpu")
    assert (free is None and total is None) or (free is not None and total is not None and 0 < free <= total)


def test_precision() -> None:
    assert memory.precision("cpu") == "float32" and memory.precision("cpu", "bfloat16") == "bfloat16"
    models = tiny_set()
    assert models.computes_in("cuda") == "float32"  # the built-in ones, whatever the device


# -- parts that take turns ---------------------------------------------------------------------------------------------

class Away(nn.Module):
    """A part that knows where it was sent."""

    def __init__(self, log: list[str], name: str, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self._log, self._name = inner, log, name

    def to(self, *where: Any, **more: Any) -> Any:
        self._log.append(f"{self._name} -> {where[0]}")
        return self


def test_bringing_one_sends_the_others_away_once() -> None:
    log: list[str] = []
    parts = {name: Away(log, name, nn.Linear(2, 2)) for name in ("text", "unet", "vae")}
    home = memory.Residency("cuda", parts)
    assert home.bring(parts["text"]) is parts["text"]
    for _ in range(3):  # the steps
        home.bring(parts["unet"])
    home.bring(parts["vae"])
    assert log == ["unet -> cpu", "vae -> cpu", "text -> cuda", "text -> cpu", "vae -> cpu", "unet -> cuda",
                   "text -> cpu", "unet -> cpu", "vae -> cuda"]


@pytest.mark.parametrize("streamed", [(), ("unet",)])
def test_turns_and_streams_change_no_number(streamed: tuple[str, ...]) -> None:
    """Every use goes through ``use``: with parts that are only there when they were brought, nothing is missed."""
    twin = tiny.sd15()

    def picture(model: Any) -> torch.Tensor:
        wanted, unwanted = model.pair("a red mug", "ugly")
        noise = sampling.initial_noise([torch.Generator().manual_seed(0)], model.shape())
        with torch.inference_mode():
            made = sampling.sample(model.scheduler, sampling.denoiser(model, wanted, unwanted, 5.0), noise, 2)
            return model.decode(made)
    before = picture(twin.ours)
    brought: list[str] = []

    class Watched(memory.Residency):
        def bring(self, part: Any) -> Any:
            brought.append(next(n for n, p in self.parts.items() if p is part))
            return super().bring(part)
    model = twin.ours.changed(home=Watched("cpu", twin.ours.parts, streamed))
    torch.testing.assert_close(picture(model), before, atol=0, rtol=0)
    assert brought == ["text_encoder", "unet", "unet", "vae"]


def test_a_twin_takes_its_originals_turn() -> None:
    """A changed model's home knows its own parts, so that the others make room for an adapted network as well."""
    from engine.diffusion import lora
    model = tiny.sd15().ours
    model = model.changed(home=memory.Residency("cpu", model.parts))
    other = model.changed(unet=lora.twin(model.unet))
    assert model.home.parts["unet"] is model.unet and other.home.parts == {**model.parts, "unet": other.unet}
    assert other.use(other.unet) is other.unet and other.home._here == "unet" and model.home._here == ""


def test_what_goes_block_by_block_stays_so_and_takes_no_lora(tmp_path: Any) -> None:
    from test_adapters import ATTENTION, diffusers_file, update

    from engine.diffusion import adapters
    from engine.diffusion.guidance.priors import text_prior
    from engine.stages.text_to_image import TextToImage
    model = tiny.sd15().ours
    path = diffusers_file(tmp_path / "o.safetensors", update(model.unet, ATTENTION, 1))
    for _ in range(2):  # the second time it is so already
        model = model.changed(home=memory.Residency("cpu", model.parts, ("unet",)))
    assert memory.streams(model.unet) and not memory.streams(model.vae)
    with pytest.raises(BadInput, match="LoRA cannot be put on a network that goes through cpu block by block"):
        adapters.adapted(model, TextToImage(prompt="a mug", lora=str(path)))
    with pytest.raises(BadInput, match="does not fit cpu as a whole, and guidance asks"):
        text_prior(model)


def test_a_cascade_needs_what_its_largest_step_needs() -> None:
    first, second = tiny.deepfloyd_()
    x4 = tiny.x4_upscaler().ours
    cascade = build.cascade(first.ours, [second.ours, x4])
    row, decode = memory.needs(cascade, 256, 256)
    assert row == 40 * 64 * 64 * 8 * 4 == memory.row_bytes(second.ours, 64, 64)  # and 64 x 64 cells of the third's
    assert decode == memory.decode_bytes(x4, 256, 256) and memory.needs(first.ours.changed(upscalers=()), 16, 16) == (
        40 * 16 * 16 * 8 * 4, 0)


def test_the_pool_makes_room_on_a_device(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device: others' parts are let go before a model that needs their place comes."""
    from engine.models.sets import model_set
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    from engine.models import local
    for name, twin in (("one", tiny.sd15()), ("two", tiny.lcm())):
        twin.bare.save_pretrained(tmp_path / name)
        local.add(tmp_path / name, "text_to_image")
    for free, stays in ((1e6, True), (200.0, False)):  # 256 MB are always left
        pool = Pool(budget=1 << 40, probe=Fake(free))
        first = pool.get(model_set("local/one"), "text_to_image", "meta")
        assert memory.is_on(first.unet, "meta")
        second = pool.get(model_set("local/two"), "text_to_image", "meta")
        held = {id(part) for part in pool._parts.values()}
        assert id(second.unet) in held and (id(first.unet) in held) is stays


def test_words_of_a_model_without_come_from_its_family(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from engine.models import assemble, local
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    one = local.Located(SimpleNamespace(path=str(tmp_path / "x.safetensors"), family="sd15", id="local/x",
                                        format="single_file"), tmp_path, {}, "your own")  # type: ignore[arg-type]
    assert assemble.words_for(one) is None
    tiny.sd15().bare.save_pretrained(tmp_path / "whole")
    local.add(tmp_path / "whole", "text_to_image")
    assert assemble.words_for(one) == tmp_path / "whole"
    (tmp_path / "tokenizer").mkdir()
    assert assemble.words_for(one) is None  # its own, beside it


def test_a_model_settles_as_its_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which stands for a GPU here: its weights say where they are and cost nothing."""
    twin = tiny.sdxl_()
    sizes = {name: memory.bytes_of(part) for name, part in twin.ours.parts.items()}
    assert set(sizes) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    work = max(memory.row_bytes(twin.ours, 64, 64), memory.decode_bytes(twin.ours, 64, 64))
    enough = Fake((sum(sizes.values()) + work) / 0.95 / MB + 0.01)
    settled = build.settle(tiny.sdxl_().ours, "meta", enough)
    assert settled.home is None and all(memory.is_on(p, "meta") for p in settled.parts.values())
    turns = build.settle(twin.ours, "meta", Fake((max(sizes.values()) + work) / 0.95 / MB + 0.01))
    assert turns.home is not None and str(turns.device) == "meta" and "take turns" in turns.notes[0]
    turns.use(turns.text_encoder_2)
    assert [n for n, p in turns.parts.items() if memory.is_on(p, "meta")] == ["text_encoder_2"]
    assert build.settle(twin.ours, "cpu", Fake(0)) is twin.ours


def test_work_is_fitted_to_what_is_free_now() -> None:
    model = tiny.sd15().ours
    row, decode = memory.row_bytes(model, 64, 64), memory.decode_bytes(model, 64, 64)
    assert (row, decode) == (40 * 64 * 8 * 4, 12 * 64 * 64 * 8 * 4)  # 64 cells of 8 channels; 4,096 pixels of 8
    assert memory.work(model, 64, 64, 4, probe=Fake(None)) == memory.Arrangement()
    assert memory.work(model, 64, 64, 4, probe=Fake(100)) == memory.Arrangement()
    tight = memory.work(model, 64, 64, 4, probe=Fake(2.5 * row / 0.95 / MB))
    assert (tight.rows, tight.pictures, tight.tiles) == (2, 1, True)
    assert memory.work(model, 64, 64, 2, 1, Fake(2.5 * row / 0.95 / MB)).rows is None
    assert memory.row_bytes(tiny.sd3_().ours, 64, 64) == 24 * 16 * 16 * 4  # 4 x 4 patches of 16
    assert memory.decode_bytes(tiny.deepfloyd_()[0].ours, 64, 64) == 0


@pytest.mark.parametrize("family, network, told", [("sd15", "unet", {}), pytest.param(
    "sdxl", "unet", {"added_cond_kwargs": {"text_embeds": (1, 1280), "time_ids": (1, 6)}}, marks=pytest.mark.slow)])
def test_estimates_hold_for_networks_of_real_size(family: str, network: str, told: dict[str, Any]) -> None:
    """Tensors alone, counted as they live and die on the meta device: at least two thirds of the estimate is left for
    them, and no more than four times too much is asked for."""
    from types import SimpleNamespace

    from engine.diffusion.guidance.memory import FusedAttention, LiveBytes
    from engine.models.blueprints import blueprint
    half = {"device": "meta", "dtype": torch.float16}
    unet, vae = blueprint(family, network).build().half(), blueprint("sd15", "vae").build().half()
    model = SimpleNamespace(unet=unet, vae=vae, factor=8, dtype=torch.float16, upscalers=())
    added = {k: {n: torch.empty(s, **half) for n, s in v.items()} for k, v in told.items()}  # type: ignore[call-overload]
    with torch.no_grad(), FusedAttention(), LiveBytes() as live:
        unet(torch.empty(1, 4, 64, 64, **half), torch.zeros(1, device="meta"),  # type: ignore[call-overload]
             torch.empty(1, 77, unet.config.cross_attention_dim, **half), **added)  # type: ignore[call-overload]
    assert live.peak <= memory.row_bytes(model, 512, 512) / 1.5 <= 4 * live.peak
    if family == "sd15":
        with torch.no_grad(), LiveBytes() as live:
            vae.decode(torch.empty(1, 4, 64, 64, **half))  # type: ignore[call-overload]
        assert live.peak <= memory.decode_bytes(model, 512, 512) / 1.5 <= 4 * live.peak


def test_tiles_are_on_only_while_they_are_needed() -> None:
    twin = tiny.sd15()
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole, tiled = twin.ours.decode(x), twin.ours.decode(x, tiles=True)
        assert not twin.ours.vae.use_tiling
        twin.bare.vae.enable_tiling()
        theirs = twin.bare.vae.decode(x / twin.bare.vae.config.scaling_factor).sample / 2 + 0.5
    assert torch.equal(tiled, theirs) and not torch.equal(tiled, whole)


def test_the_stage_draws_in_less_memory_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures, to rounding: a row at a time, one picture decoded at a time."""
    import numpy as np
    from test_families import FamilyJob

    from engine.stages.text_to_image import TextToImage, text_to_image
    model = tiny.sd15().ours
    p = TextToImage(prompt="a red mug", candidates=3, steps=2)
    usual = FamilyJob(model)
    before = text_to_image(p, usual)
    monkeypatch.setattr(memory, "MACHINE", Fake(2.5 * memory.row_bytes(model, 64, 64) / 0.95 / MB))
    job = FamilyJob(model)
    after = text_to_image(p, job)
    assert usual.warnings == []
    assert job.warnings == ["0 MB are free beside the weights; 2 of 6 samples go through the network at a time; "
                            "pictures are decoded in tiles"]
    for a, b in zip(before.pictures, after.pictures, strict=True):
        np.testing.assert_allclose(a.image, b.image, atol=1e-5)


# -- the pool ----------------------------------------------------------------------------------------------------------

def test_the_pool_keeps_to_its_budget_and_forgets_the_longest_unused() -> None:
    tiny_ = tiny_set()
    everything = Pool(budget=1 << 40)
    for role in ("text_to_image", "image_text", "novel_view", "matting", "view_judge"):
        everything.get(tiny_, role, "cpu")
    whole = everything.held("cpu")
    views, matting = (memory.bytes_of(*_networks(everything.get(tiny_, r, "cpu"))) for r in ("novel_view", "matting"))
    pool = Pool(budget=whole - matting // 2)
    first = pool.get(tiny_, "matting", "cpu")
    for role in ("view_judge", "text_to_image", "image_text"):
        pool.get(tiny_, role, "cpu")
    assert pool.get(tiny_, "matting", "cpu") is first  # used again: now the judge is the oldest
    pool.get(tiny_, "novel_view", "cpu")
    assert pool.held("cpu") <= whole - matting // 2 and views <= pool.held("cpu")
    assert pool.get(tiny_, "matting", "cpu") is first
    small = Pool(budget=1)  # what is in use stays
    t2i = small.get(tiny_, "text_to_image", "cpu")
    assert small.get(tiny_, "text_to_image", "cpu").unet is t2i.unet
    small.get(tiny_, "matting", "cpu")
    assert small.get(tiny_, "text_to_image", "cpu").unet is not t2i.unet


def _networks(made: Any) -> list[nn.Module]:
    return [v for v in vars(made).values() if isinstance(v, nn.Module)]


def test_the_budget_follows_the_machine_or_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pool(probe=Fake(1, 1000))._limit("cpu") == 500 * MB and Pool(probe=Fake(1))._limit("cpu") is None
    monkeypatch.setenv(BUDGET, "2")
    assert Pool()._limit("cpu") == 2 << 30 and Pool(budget=7)._limit("cpu") == 7
    monkeypatch.setenv(BUDGET, "much")
    with pytest.raises(BadInput, match=f"{BUDGET}='much' is no number.*gigabytes"):
        Pool()._limit("cpu")


# -- what is told ------------------------------------------------------------------------------------------------------

def one_stage(folder: Path, models: Any = None) -> tuple[Any, Any]:
    """A run of one stage, which opens a picture."""
    from engine.artifacts import save_png
    from engine.pipelines import open_picture
    from engine.runs.run import Run
    from engine.runs.store import Store
    if not (folder / "x.png").exists():
        save_png(folder / "x.png", torch.rand(16, 16, 3).numpy())
    run = Run(Store(folder / "store"), models, device="cpu")
    return run, open_picture(run, folder / "x.png")


def test_the_peak_of_a_stage_is_in_its_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.runs import devices
    from engine.runs.report import build_report
    told: list[str] = []
    monkeypatch.setattr(devices, "reset_peak_memory", told.append)
    monkeypatch.setattr(devices, "peak_memory", lambda device: 7 * MB)
    run, handle = one_stage(tmp_path)
    report = build_report(run, run.perform(handle), asset="a", pipeline="p", files=[], seconds=1.0)
    assert report.stages[0].device_peak_bytes == 7 * MB == report.figure("run.device_peak_bytes") and told == ["cpu"]
    assert report.figure("run.peak_bytes") == report.stages[0].peak_bytes
    monkeypatch.undo()
    assert devices.peak_memory("cpu") == 0


def test_what_networks_compute_in_is_part_of_the_key(tmp_path: Path) -> None:
    class Half:
        name = "half"

        def computes_in(self, device: str) -> str:
            return "bfloat16"
    one, plain = one_stage(tmp_path)
    two, half = one_stage(tmp_path, Half())
    assert (one.ground.precision, two.ground.precision) == ("float32", "bfloat16") and plain.key != half.key


@pytest.mark.slow
def test_compiled_blocks_say_the_same() -> None:
    model = tiny.sd15().ours
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(10)
    wanted, _ = model.pair("a red mug")
    with torch.no_grad():
        before = model.predict(x, t, wanted)
        compiled = memory.compile_blocks(model.unet, "aot_eager")
        assert memory.compile_blocks(compiled) is model.unet  # the second time nothing is done
        torch.testing.assert_close(model.predict(x, t, wanted), before, atol=1e-5, rtol=1e-5)


@pytest.mark.cuda
def test_on_a_gpu_parts_take_turns_in_half_precision() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    twin = tiny.sd15()
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(10)
    with torch.inference_mode():
        before = twin.ours.predict(x, t, twin.ours.pair("a red mug")[0])
        for streamed in ((), ("unet",)):
            model = tiny.sd15().ours
            model = model.changed(home=memory.Residency("cuda", model.parts, streamed))
            wanted, _ = model.pair("a red mug")
            said = model.predict(x.cuda(), t.cuda(), wanted)
            torch.testing.assert_close(said.cpu(), before, atol=1e-3, rtol=1e-3)
            assert not memory.is_on(model.text_encoder, "cuda")
            model.decode(x.cuda())
            assert memory.is_on(model.vae, "cuda") and (streamed or not memory.is_on(model.unet, "cuda"))
