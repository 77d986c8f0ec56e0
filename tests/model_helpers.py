"""What the tests of ``maquette models`` share: a hub with small files of a set, and the command in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.cli import main
from engine.models.download import Settings
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


def small_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Body of a fixture: the set sd15's three public models with files of some kB, and HF_ENDPOINT leading there."""
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
