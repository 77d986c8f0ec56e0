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

from engine.errors import BadInput, RunFailed
from engine.models import catalogue, download, local
from engine.models.download import Settings, pull
from engine.models.sets import model_set
from tests.fake_hub import Hub, Repo
from tests.model_helpers import CLIP, LARGE_ONE, ONCE, SD15, ZERO123, maquette, one_line, small_hub, weights


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    yield from small_hub(monkeypatch, tmp_path)


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
