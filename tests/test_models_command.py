"""``maquette models`` against a hub on this machine: what is pulled is whole, goes on, is checked; what cannot be is
said in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.cli import main
from engine.errors import BadInput, RunFailed
from engine.models import catalogue, download, local
from engine.models.download import Settings, pull
from engine.models.reader import read_tensors
from engine.models.sets import model_set
from tests.fake_hub import Hub, Repo, serving

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CLIP = "openai/clip-vit-large-patch14"
ZERO123 = "ashawkey/zero123-xl-diffusers"
ONCE = Settings(attempts=1, pause_s=0.0)
LARGE_ONE = "unet/diffusion_pytorch_model.fp16.safetensors"


def weights(seed: int, numbers: int = 5000) -> bytes:
    from safetensors.torch import save
    return save({"w": torch.randn(numbers, generator=torch.Generator().manual_seed(seed))})


def diffusers_files(*components: str, seed: int = 0) -> dict[str, bytes]:
    files = {"model_index.json": b"{}", "README.md": b"# a model", "LICENSE.md": b"be good"}
    for place, part in enumerate(components):
        if part in ("scheduler", "tokenizer", "feature_extractor"):
            files[f"{part}/{part}_config.json"] = b'{"a": 1}'
            continue
        stem = "model" if "encoder" in part else "diffusion_pytorch_model"
        files |= {f"{part}/config.json": b"{}", f"{part}/{stem}.safetensors": weights(seed + place),
                  f"{part}/{stem}.fp16.safetensors": weights(seed + place + 50, 2500), f"{part}/{stem}.bin": b"pickle"}
    return files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    told = Hub({SD15: Repo(diffusers_files("scheduler", "tokenizer", "text_encoder", "unet", "vae"), "a" * 40,
                           "creativeml-openrail-m"),
                CLIP: Repo({"config.json": b"{}", "vocab.json": b"{}", "merges.txt": b"a b",
                            "model.safetensors": weights(7), "pytorch_model.bin": b"x" * 2000, "tf_model.h5": b"y"}),
                ZERO123: Repo(diffusers_files("unet", "vae", "image_encoder", "clip_camera_projection", "scheduler",
                                              "feature_extractor", seed=20), licence="mit")})
    with serving(told):
        monkeypatch.setenv("HF_ENDPOINT", told.url + "/")
        yield told


def maquette(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return int(caught.value.code or 0)


def one_line(capsys: pytest.CaptureFixture[str], code: int, line: str, *words: str) -> str:
    capsys.readouterr()
    assert maquette(*words) == code
    told = [text for text in capsys.readouterr().err.splitlines() if text.startswith("maquette: ")]
    assert len(told) == 1 and line in told[0], told
    return told[0]


def large_file() -> Path:
    return local.folder_of(SD15) / LARGE_ONE


# -- pull --------------------------------------------------------------------------------------------------------------

def test_pull_takes_one_precision_checks_it_and_records_it(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert maquette("models", "pull", "sd15") == 0
    told = capsys.readouterr().out
    assert f"{SD15}: pulled" in told and "maquette/builtin-matting: built-in" in told and "note" not in told
    folder = local.folder_of(SD15)
    held = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    record = json.loads(held.pop(".pulled.json"))
    wanted = {name for name in hub.repos[SD15].files
              if name != "README.md" and not name.endswith(".bin") and ("fp16" in name or ".safe" not in name)}
    assert held == {name: hub.repos[SD15].files[name] for name in wanted}
    assert record["revision"] == "a" * 40 and {f["against"] for f in record["files"].values()} == {"hub"}
    here = model_set("sd15").located("text_to_image")
    assert here.origin == "models folder" and set(here.weights) == {name for name in held if ".safe" in name}
    assert (local.folder_of(CLIP) / "model.safetensors").exists()
    assert not (local.folder_of(CLIP) / "pytorch_model.bin").exists()
    # Once here, nobody is asked again, and every byte is as it should be.
    count = len(hub.seen)
    assert maquette("models", "pull", "sd15") == 0 and len(hub.seen) == count
    assert maquette("models", "verify", SD15, CLIP, ZERO123) == 0
    assert maquette("models", "pull", SD15, "--full") == 0
    assert (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes() == hub.repos[SD15].files[
        "unet/diffusion_pytorch_model.safetensors"]


def test_a_set_is_ready_for_a_run_once_it_is_pulled(hub: Hub) -> None:
    models = model_set("sd15")
    with pytest.raises(BadInput, match=r"the weights of stable-diff.* are not here\. Run: maquette models pull sd15$"):
        models.digest("text_to_image")
    with pytest.raises(BadInput, match=r"pull sd15 --role control\.edges$"):
        models.digest("control.edges")
    pull([SD15])
    info = models.info("text_to_image")
    assert (info.id, info.revision, info.licence) == (SD15, "a" * 40, "CreativeML-OpenRAIL-M")
    assert info.commercial.startswith("yes: use restrictions") and info.sha256 == models.digest("text_to_image")
    assert set(info.parts) == {f"{SD15}: {part}" for part in (
        LARGE_ONE, "text_encoder/model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors")}
    (local.folder_of(SD15) / "scheduler/scheduler_config.json").write_text("{}")
    assert models.digest("text_to_image") != info.sha256


def test_a_cut_connection_is_named_and_the_same_command_goes_on(hub: Hub) -> None:
    content = hub.repos[SD15].files[LARGE_ONE]
    hub.cuts = [4000] * 10
    with pytest.raises(RunFailed, match=r"the network failed after 0\.0 of 0\.0 MB of text_encoder/model\.fp16.*: the "
                                        r"connection was closed.*the same command goes on from there"):
        pull([SD15], ONCE)
    hub.cuts.clear()
    folder = local.folder_of(SD15)
    assert (folder / "text_encoder/model.fp16.safetensors.part").stat().st_size == 4000
    assert not (folder / "text_encoder/model.fp16.safetensors").exists()
    assert local.find(catalogue.model(SD15)) is None
    hub.seen.clear()
    pull([SD15], ONCE)
    ranged = [(path, asked) for _, path, asked, _, host in hub.seen if asked and host == "far"]
    assert ranged == [(f"/{SD15}/resolve/{'a' * 40}/text_encoder/model.fp16.safetensors", "bytes=4000-")]
    assert large_file().read_bytes() == content and not list(folder.rglob("*.part*"))


def test_a_pull_mends_broken_connections_by_itself(hub: Hub) -> None:
    steps: list[download.Progress] = []
    hub.cuts, hub.busy = [1000, 2000, 0, 3000], 2
    pull([SD15], Settings(attempts=3, pause_s=0.0), steps.append)
    assert large_file().read_bytes() == hub.repos[SD15].files[LARGE_ONE] and hub.cuts == []
    done = [step.done for step in steps]
    assert done == sorted(done) and done[-1] == steps[-1].total
    total = sum(p.stat().st_size for p in local.folder_of(SD15).rglob("*") if p.is_file() and p.name != ".pulled.json")
    assert steps[-1].total == total


def test_without_ranges_a_file_begins_anew(hub: Hub) -> None:
    hub.cuts = [4000]
    with pytest.raises(RunFailed):
        pull([SD15], ONCE)
    hub.ranges = False
    pull([SD15], ONCE)
    assert maquette("models", "verify", SD15) == 0


def test_a_file_that_changed_meanwhile_is_not_put_together_from_two(hub: Hub) -> None:
    hub.cuts = [4000]
    with pytest.raises(RunFailed):
        pull([SD15], ONCE)
    name = "text_encoder/model.fp16.safetensors"
    hub.repos[SD15].files[name] = weights(99, 2600)
    hub.seen.clear()
    pull([SD15], ONCE)
    assert (local.folder_of(SD15) / name).read_bytes() == hub.repos[SD15].files[name]
    assert not any(asked for _, path, asked, _, _ in hub.seen if name in path)


def test_a_part_that_is_longer_than_the_file_is_thrown_away(hub: Hub) -> None:
    hub.cuts = [4000]
    with pytest.raises(RunFailed):
        pull([SD15], ONCE)
    part = local.folder_of(SD15) / "text_encoder/model.fp16.safetensors.part"
    part.write_bytes(bytes(100_000))
    pull([SD15], ONCE)
    assert maquette("models", "verify", SD15) == 0


def test_wrong_bytes_never_get_the_name(hub: Hub) -> None:
    for name in ("unet/config.json", LARGE_ONE):  # held against git's SHA-1, and against a SHA-256
        hub.wrong = {name}
        with pytest.raises(RunFailed, match=rf"{name} of {SD15} did not come as it should.*what came was deleted"):
            pull([SD15], ONCE)
        folder = local.folder_of(SD15)
        assert not (folder / name).exists() and not (folder / f"{name}.part").exists()
    hub.wrong = set()
    pull([SD15], ONCE)
    assert maquette("models", "verify", SD15) == 0


def test_a_killed_pull_leaves_no_file_under_its_name(hub: Hub) -> None:
    code = f"from engine.models.download import pull; pull([{SD15!r}])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MAQUETTE_FAULT": "pull:rename@3"},
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == -9
    folder = local.folder_of(SD15)
    finished = [p for p in folder.rglob("*") if p.is_file() and ".part" not in p.name and p.name != ".pulled.json"]
    assert len(finished) == 2 and len(list(folder.rglob("*.part"))) == 1
    assert all(p.read_bytes() == hub.repos[SD15].files[p.relative_to(folder).as_posix()] for p in finished)
    pull([SD15])
    assert maquette("models", "verify", SD15) == 0


def test_hubs_that_list_no_hashes_tell_them_by_their_headers(hub: Hub) -> None:
    hub.bare = True
    pull([SD15], ONCE)
    record = local.record_of(SD15)["files"]
    assert {about["against"] for about in record.values()} == {"hub"}
    hub.wrong = {LARGE_ONE}
    large_file().unlink()
    with pytest.raises(RunFailed, match="did not come as it should"):
        pull([SD15], ONCE)


# -- who may, and from where -------------------------------------------------------------------------------------------

def test_gated_repositories_say_what_they_want(hub: Hub, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    hub.repos[SD15].gated = True
    told = one_line(capsys, 2, f"{SD15} is gated", "models", "pull", SD15)
    assert "no HF_TOKEN is set" in told and f"{hub.url}/{SD15}" in told and "/settings/tokens" in told
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    told = one_line(capsys, 2, "the account of your HF_TOKEN may not download it", "models", "pull", SD15)
    assert "hf_stranger" not in told
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    hub.members = {"hf_member"}
    assert maquette("models", "pull", SD15) == 0
    # The token is told to the hub and to nobody that it forwards to.
    assert {who for *_, who, host in hub.seen if host == "far"} == {""}
    assert "Bearer hf_member" in {who for *_, who, host in hub.seen if host == "hub"}


def test_a_token_is_found_where_the_hubs_own_tool_leaves_it(hub: Hub, tmp_path: Path) -> None:
    hub.repos[SD15].gated, hub.members = True, {"hf_kept"}
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_kept\n")
    pull([SD15], ONCE)
    assert large_file().exists()


def test_what_is_not_there_is_named(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    one_line(capsys, 2, "there is no repository stabilityai/sd-turbo at", "models", "pull", "stabilityai/sd-turbo")
    del hub.repos[SD15].files["unet/diffusion_pytorch_model.fp16.safetensors"]
    del hub.repos[SD15].files["unet/diffusion_pytorch_model.safetensors"]
    del hub.repos[SD15].files["unet/diffusion_pytorch_model.bin"]
    one_line(capsys, 2, f"{SD15} has no unet/", "models", "pull", "sd15")
    one_line(capsys, 2, "unknown model or set 'sd51'. Did you mean sd15?", "models", "pull", "sd51")


def test_offline_and_unreachable(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one_line(capsys, 2, "HF_HUB_OFFLINE is set", "models", "pull", SD15)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    pull([SD15], ONCE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert maquette("models", "pull", SD15) == 0  # what is here needs nobody
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunFailed, match=r"the network failed: http://127\.0\.0\.1:9 cannot be reached.*HF_ENDPOINT"):
        pull([CLIP], ONCE)
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    with pytest.raises(BadInput, match="HF_ENDPOINT is 'nonsense', which is no address"):
        pull([CLIP], ONCE)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.busy = 9
    with pytest.raises(RunFailed, match="answers 503"):
        pull([CLIP], ONCE)


def test_no_space_is_known_before_a_byte_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage
    monkeypatch.setattr(download.shutil, "disk_usage", lambda p: real(p)._replace(free=download.SPARE + 1000))
    with pytest.raises(RunFailed, match=r"takes another 0\.0 GB, and .* GB free\. Free .* MAQUETTE_MODELS"):
        pull([SD15], ONCE)
    assert hub.asked("/resolve/") == []


def test_a_disk_that_fills_up_keeps_what_came(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *rest: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.file.write(data[:1234])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            self.file.flush()

    def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = real(self, mode, *rest, **more)
        return Full(file) if mode == "ab" and "unet" in str(self) and "json" not in str(self) else file
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(RunFailed, match="the disk is full while writing the model"):
        pull([SD15], ONCE)
    monkeypatch.setattr(Path, "open", real)
    assert not large_file().exists() and large_file().with_name(large_file().name + ".part").stat().st_size == 1234
    pull([SD15], ONCE)
    assert maquette("models", "verify", SD15) == 0


def test_a_listing_cannot_lead_out_of_the_folder(hub: Hub) -> None:
    hub.repos[CLIP].files["..\\evil.json"] = b"{}"
    with pytest.raises(RunFailed, match="nothing was written"):
        pull([CLIP], ONCE)
    assert not list(local.folder_of(CLIP).rglob("*evil*"))


# -- verify, list, remove ----------------------------------------------------------------------------------------------

def test_verify_names_what_changed_and_pull_mends_it(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pull([SD15], ONCE)
    content = bytearray(large_file().read_bytes())
    content[-1] ^= 1
    large_file().write_bytes(bytes(content))
    capsys.readouterr()
    assert maquette("models", "verify", "--json") == 1
    told = {(f["id"], f["name"]): f for f in json.loads(capsys.readouterr().out)["files"]}
    assert {key for key, f in told.items() if f["state"] != "ok"} == {(SD15, LARGE_ONE)}
    text = told[SD15, LARGE_ONE]["text"]
    assert local.record_of(SD15)["files"][LARGE_ONE]["sha256"] in text and "pull" in text
    assert ("maquette/builtin-clip", "clip") in told
    large_file().unlink()
    assert maquette("models", "pull", SD15, "--update") == 0 and maquette("models", "verify", SD15) == 0
    assert maquette("models", "verify", CLIP) == 1  # not here


def test_list_tells_licence_fit_and_presence(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pull([SD15], ONCE)
    capsys.readouterr()
    assert maquette("models", "list", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["id"]: row for row in told["models"]}
    assert told["schema"] == 1 and set(rows) == set(catalogue.models())
    assert rows[SD15]["here"] == "models folder" and rows[CLIP]["here"] == "" and rows[SD15]["revision"] == "a" * 40
    assert rows["maquette/builtin-clip"]["here"] == "built-in"
    assert rows["DeepFloyd/IF-I-XL-v1.0"]["gated"] and rows["DeepFloyd/IF-I-XL-v1.0"]["commercial"] == "no"
    assert {row["fits"] for row in rows.values()} <= {"yes", "in turns", "no", "unknown"}
    sets = {row["set"]: row for row in told["sets"]}
    assert sets["sd15"]["lacking"] == [CLIP, ZERO123] and sets["builtin"]["lacking"] == []
    assert [line.partition(":")[0] for line in sets["deepfloyd"]["not_commercial"]] == ["DeepFloyd/IF-I-XL-v1.0"]
    assert maquette("models", "list") == 0
    assert f"{SD15} " in capsys.readouterr().out
    assert maquette("models", "list", "--role", "control", "--commercial-only", "--json") == 0
    assert {row["role"].partition(".")[0] for row in json.loads(capsys.readouterr().out)["models"]} == {"control"}
    one_line(capsys, 2, "unknown role 'text_to_imgae'", "models", "list", "--role", "text_to_imgae")


def test_remove_deletes_what_was_pulled_and_nothing_else(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    from engine.models.hub import repository
    hub.repos["h94/IP-Adapter"] = Repo({
        "models/ip-adapter_sd15.safetensors": weights(1), "models/ip-adapter-plus_sd15.safetensors": weights(2),
        "models/image_encoder/config.json": b"{}", "models/image_encoder/model.safetensors": weights(3)})
    assert set(repository("h94/IP-Adapter").files) == set(hub.repos["h94/IP-Adapter"].files)
    pull(["h94/IP-Adapter/sd15", "h94/IP-Adapter/sd15-plus", CLIP], ONCE)
    assert len(hub.asked("image_encoder/model.safetensors")) == 2  # once, forwarded
    folder = local.folder_of("h94/IP-Adapter")
    assert maquette("models", "remove", "h94/IP-Adapter/sd15") == 0
    assert not (folder / "models/ip-adapter_sd15.safetensors").exists()
    assert local.find(catalogue.model("h94/IP-Adapter/sd15-plus")) is not None
    assert maquette("models", "remove", "h94/IP-Adapter/sd15-plus") == 0 and not folder.exists()
    assert local.folder_of(CLIP).exists()
    one_line(capsys, 2, "was not pulled", "models", "remove", SD15)
    one_line(capsys, 2, "ships inside", "models", "remove", "maquette/builtin-clip")


# -- the Hugging Face cache --------------------------------------------------------------------------------------------

def test_the_hugging_face_cache_is_used_where_it_lies(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib
    root = local.hub_cache() / f"models--{CLIP.replace('/', '--')}"
    snapshot = root / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("b" * 40)
    for name, content in hub.repos[CLIP].files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    here = local.find(catalogue.model(CLIP))
    assert here is not None and here.origin == "Hugging Face cache" and here.folder == snapshot
    assert local.revision_of(catalogue.model(CLIP)) == "b" * 40
    assert maquette("models", "pull", CLIP) == 0 and not hub.seen
    assert maquette("models", "verify", CLIP) == 0
    one_line(capsys, 2, "lies in the Hugging Face cache", "models", "remove", CLIP)
    (snapshot / "model.safetensors").resolve().write_bytes(b"other")
    assert maquette("models", "verify", CLIP) == 1


# -- licences ----------------------------------------------------------------------------------------------------------

def test_commercial_only_refuses_before_anything(hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = one_line(capsys, 2, "--commercial-only rules out DeepFloyd/IF-I-XL-v1.0", "models", "pull", "deepfloyd",
                    "--commercial-only")
    assert "deepfloyd-if-license, no commercial use (the DeepFloyd IF licence is for research only)" in told
    one_line(capsys, 2, "rules out stabilityai/sdxl-turbo (text_to_image): sai-nc-community", "make", "mug",
                    "--models", "sdxl_turbo", "--commercial-only", "--out", str(tmp_path / "out"), "--device", "cpu")
    one_line(capsys, 2, "rules out facebook/DiT-XL-2-256: CC-BY-NC-4.0", "models", "pull",
                    "facebook/DiT-XL-2-256", "--commercial-only")
    one_line(capsys, 2, "rules out wangfuyun/AnimateLCM: no known licence, terms unknown", "models", "pull",
             "wangfuyun/AnimateLCM", "--commercial-only")
    assert not hub.seen and not (tmp_path / "out").exists()


def test_a_card_that_says_another_licence_is_told(hub: Hub) -> None:
    hub.repos[CLIP].licence = "cc-by-nc-4.0"
    with pytest.raises(BadInput, match="says licence 'cc-by-nc-4.0', the catalogue says 'MIT': it is not known"):
        pull([CLIP], Settings(commercial_only=True))
    (done,) = pull([CLIP], ONCE)
    assert done.notes == [f"the card of {CLIP} says licence 'cc-by-nc-4.0', the catalogue says 'MIT': the card decides"]


# -- pickles -----------------------------------------------------------------------------------------------------------

def test_a_pickle_is_pulled_and_loaded_only_where_allowed(hub: Hub, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(400)}, tmp_path / "x.ckpt")
    hub.repos["cvlab/zero123-weights"] = Repo({"105000.ckpt": (tmp_path / "x.ckpt").read_bytes()}, licence="mit")
    pull(["cvlab/zero123-weights/105000"], ONCE)
    roles = {"novel_view": "cvlab/zero123-weights/105000"}
    with pytest.raises(BadInput, match=r"is kept as a pickle \(105000\.ckpt\).*--allow-pickle"):
        model_set("sd15", roles).digest("novel_view")
    assert len(model_set("sd15", roles, allow_pickle=True).digest("novel_view")) == 64


# -- one's own ---------------------------------------------------------------------------------------------------------

def vae_file(path: Path) -> Path:
    from engine.models.blueprints import blueprint
    save_like = {name: torch.full((1,) * len(shape), 0.5).expand(shape)
                 for name, shape in blueprint("sd15", "vae").shapes.items()}
    torch.save(save_like, path)
    return path


def test_a_file_of_ones_own_is_added_used_and_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = vae_file(tmp_path / "my vae.ckpt")
    one_line(capsys, 2, "is for the role vae, not text_to_image. Give --role vae", "models", "add", str(path), "--role",
             "text_to_image")
    one_line(capsys, 2, "unknown role 'vea'", "models", "add", str(path), "--role", "vea")
    assert maquette("models", "add", str(path), "--role", "vae", "--licence", "CC0-1.0", "--commercial", "yes") == 0
    mine = catalogue.model("local/my-vae")
    assert (mine.role, mine.family, mine.path, mine.licence, mine.commercial) == (
        "vae", "sd15", str(path), "CC0-1.0", "yes")
    assert mine.memory_mb == 168  # 83,653,863 numbers, two bytes each
    here = local.find(mine)
    assert here is not None and here.files == {"my vae.ckpt": path} and here.origin == "your own"
    one_line(capsys, 2, "there is a model local/my-vae already", "models", "add", str(path), "--role", "vae")
    assert maquette("models", "verify", "local/my-vae") == 0
    path.write_bytes(path.read_bytes() + b"x")
    assert maquette("models", "verify", "local/my-vae") == 1
    path.unlink()
    with pytest.raises(BadInput, match="the files of the model local/my-vae are gone"):
        local.require(mine)
    vae_file(path)
    assert maquette("models", "remove", "local/my-vae") == 0 and path.exists()
    assert "local/my-vae" not in catalogue.models()
    assert maquette("models", "add", str(path), "--role", "vae", "--id", "mine", "--copy") == 0
    copied = Path(catalogue.model("mine").path)
    assert copied != path and copied.read_bytes() == path.read_bytes()
    assert maquette("models", "remove", "mine") == 0 and not copied.exists() and path.exists()


def test_what_cannot_be_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"strange": torch.ones(3)}, tmp_path / "strange.safetensors")
    one_line(capsys, 2, "its family is not known", "models", "add", str(tmp_path / "strange.safetensors"), "--role",
             "text_to_image")
    vae_file(tmp_path / "vae.ckpt")
    one_line(capsys, 2, "is of the family sd15, not sd3", "models", "add", str(tmp_path / "vae.ckpt"), "--role", "vae",
             "--family", "sd3")
    one_line(capsys, 2, "there is no file", "models", "add", str(tmp_path / "none.ckpt"), "--role", "vae")
    assert local.added() == {}


# -- inspect -----------------------------------------------------------------------------------------------------------

def test_inspect_prints_a_stable_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = vae_file(tmp_path / "model.safetensors")
    capsys.readouterr()
    assert maquette("models", "inspect", str(path), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["schema", "path", "format", "wrapper", "family", "families", "role", "layout", "parts",
                          "precision", "dtypes", "tensors", "elements", "missing", "unexpected", "wrong", "spare",
                          "nearest", "note", "metadata", "files"]
    assert (told["schema"], told["format"], told["family"], told["role"], told["layout"], told["precision"]) == (
        1, "pickle", "sd15", "vae", "diffusers", "float32")
    assert told["missing"] == told["unexpected"] == told["wrong"] == [] and told["tensors"] == 248
    assert told["elements"] == told["dtypes"]["float32"] == 83_653_863
    assert maquette("models", "inspect", str(path)) == 0
    assert "sd15" in capsys.readouterr().out
    tensors = read_tensors(path, allow_pickle=True)
    del tensors["decoder.conv_in.bias"]
    torch.save({**tensors, "surprise": torch.ones(1)}, path)
    assert maquette("models", "inspect", str(path), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["missing"] == ["vae/decoder.conv_in.bias"] and told["unexpected"] == ["surprise"]


def test_inspect_refuses_what_is_no_weights_or_a_payload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_reader import Payload
    canary = tmp_path / "canary"
    torch.save({"w": torch.ones(1), "x": Payload(canary)}, tmp_path / "model.safetensors")
    told = one_line(capsys, 2, "asks for", "models", "inspect", str(tmp_path / "model.safetensors"), "--json")
    assert "nothing of it was run" in told and not canary.exists()
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html>")
    one_line(capsys, 2, "is a web page", "models", "inspect", str(tmp_path / "page.ckpt"))
    (tmp_path / "empty").mkdir()
    one_line(capsys, 2, "holds no file of weights", "models", "inspect", str(tmp_path / "empty"))
    one_line(capsys, 2, "there is no file", "models", "inspect", str(tmp_path / "none.safetensors"))


# -- any role from elsewhere -------------------------------------------------------------------------------------------

def test_roles_are_overridden_by_name_and_must_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chosen = model_set("sd15", {"text_to_image": "SimianLuo/LCM_Dreamshaper_v7"})
    assert chosen.entry("text_to_image").id == "SimianLuo/LCM_Dreamshaper_v7"
    assert chosen.entry("control.edges").family == "sd15"
    other = model_set("sd15", {"text_to_image": "stabilityai/sd-turbo"})
    with pytest.raises(BadInput, match=r"control_v11p_sd15_canny \(control\.edges\) is of the family sd15, and "
                                       r"stabilityai/sd-turbo, which it must fit, of sd21_base"):
        other.entry("control.edges")
    make = ["make", "mug", "--models", "sd15", "--out", str(tmp_path / "out"), "--device", "cpu", "--model"]
    one_line(capsys, 2, "is for the role novel_view, not text_to_image", *make, f"text_to_image={ZERO123}")
    one_line(capsys, 2, "there is no model 'stabilityai/sd-trubo'. Did you mean stabilityai/sd-turbo?", *make,
             "text_to_image=stabilityai/sd-trubo")
    one_line(capsys, 2, "unknown role 'text'", *make, "text=stabilityai/sd-turbo")
    one_line(capsys, 2, "is not of the form ROLE=ID", *make, "sd-turbo")
    one_line(capsys, 2, "the weights of stabilityai/sd-turbo are not here. Run: maquette models pull "
             "stabilityai/sd-turbo", *make, "text_to_image=stabilityai/sd-turbo")
    one_line(capsys, 2, "google/siglip-base-patch16-224 cannot be loaded for image_text", *make,
             "image_text=google/siglip-base-patch16-224", "--model", "text_to_image=maquette/builtin-text-to-image")


# -- the doctor --------------------------------------------------------------------------------------------------------

def test_doctor_tells_what_each_set_takes_and_lacks(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engine.doctor import examine
    found = {f.what: f for f in examine(str(tmp_path / "store"), "builtin")}
    assert found["set sd15"].state == "note" and "3 of its models are not here" in found["set sd15"].text
    assert found["set sd15"].mend == "maquette models pull sd15" and "HF_TOKEN" in found["hub"].text
    assert "gated" in found["set sd3"].mend or "does not fit" in found["set sd3"].text
    pull([SD15, CLIP, ZERO123], ONCE)
    found = {f.what: f for f in examine(str(tmp_path / "store"), "builtin")}
    assert found["set sd15"].text.endswith("weights here")
    lacks = [f for f in examine(str(tmp_path / "store"), "sdxl") if f.state == "lack"]
    assert [f.what for f in lacks] == ["weights"] and lacks[0].mend.endswith("maquette models pull sdxl")
    program = tmp_path / "blender"
    program.write_text("")
    monkeypatch.setenv("MAQUETTE_BLENDER", str(program))
    assert {f.what: f for f in examine(str(tmp_path / "store"))}["Blender"].text == str(program)
