"""``maquette models`` on files of one's own, what it says of a file, which model plays a role, what a doctor finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import BadInput
from engine.models import catalogue, local
from engine.models.download import pull
from engine.models.reader import read_tensors
from engine.models.sets import model_set
from tests.fake_hub import Hub
from tests.model_helpers import CLIP, ONCE, SD15, ZERO123, maquette, one_line, small_hub
from tests.pickles import Payload


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    yield from small_hub(monkeypatch, tmp_path)


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
