"""Roles played by public checkpoints, from folders as they are published: every part there, in the role's dataclass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import real_files
import tiny_families as tiny
import torch

from engine.errors import BadInput
from engine.models import local
from engine.models.pool import Pool
from engine.models.sets import model_set

SIDE = 32


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))


def played(folder: Path, role: str, **told: Any) -> Any:
    """A role by a folder of the user's own."""
    added = local.add(folder, role, **told)
    drawn = {"text_to_image": local.add(tiny_base(folder.parent), "text_to_image").id} if role.startswith(
        ("control.", "image_prompt")) else {}
    return Pool().get(model_set("builtin", {role: added.id, **drawn}, allow_pickle=True), role, "cpu")


def tiny_base(folder: Path) -> Path:
    tiny.sd15().bare.save_pretrained(folder / "base")
    return folder / "base"


def vision(projection: int = tiny.WIDTH) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    return tiny.seeded(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=16, projection_dim=projection)), 21)


def equal(found: Any, theirs: Any) -> bool:
    a, b = found.state_dict(), theirs.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)


def test_a_controlnet(tmp_path: Path) -> None:
    from diffusers import ControlNetModel
    net = tiny.seeded(lambda: ControlNetModel.from_unet(tiny.sd15().ours.unet,
                                                        conditioning_embedding_out_channels=(4, 8)), 20)
    net.save_pretrained(tmp_path / "canny")
    control = played(tmp_path / "canny", "control.edges")
    assert (control.kind, control.family, control.name) == ("edges", "sd15", "local/canny") and equal(control.net, net)
    with pytest.raises(BadInput, match="is of the family sd15, and maquette/builtin-text-to-image, which it must fit, "
                                       "of built-in"):
        model_set("builtin", {"control.edges": "local/canny"}).load("control.edges")


def test_clip_that_judges(tmp_path: Path) -> None:
    """Its numbers are transformers' own; what is no CLIP of both towers is refused."""
    from transformers import CLIPConfig, CLIPModel

    from engine.diffusion import pictures
    from engine.stages.text_to_image import _scores
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = tiny.seeded(lambda: CLIPModel(CLIPConfig(
        text_config={**tower, "vocab_size": len(tiny.NAMES), "max_position_embeddings": tiny.TOKENS, "bos_token_id": 0,
                     "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**tower, "image_size": SIDE, "patch_size": 16}, projection_dim=8)), 22)
    clip.save_pretrained(tmp_path / "clip")
    tiny.tokenizer().save_pretrained(tmp_path / "clip")
    judge = played(tmp_path / "clip", "image_text", family="clip")
    assert equal(judge.clip, clip) and judge.known is None
    drawn = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    words = tiny.tokenizer()(["a red mug"], padding="max_length", max_length=tiny.TOKENS, return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = clip(input_ids=words, pixel_values=pictures.clip_input(drawn, SIDE)).logits_per_image[:, 0]
        ours = _scores(judge, drawn, "a red mug")
    assert ours == pytest.approx((theirs / clip.logit_scale.exp()).tolist(), abs=2e-6)


def test_zero_one_to_three(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    from engine.diffusion.novel_view import CCProjection
    parts = {"unet": tiny.unet(23, in_channels=8), "vae": tiny.vae(), "image_encoder": vision(),
             "cc_projection": tiny.seeded(lambda: CCProjection(tiny.WIDTH + 4, tiny.WIDTH), 24)}
    for name, part in parts.items():
        part.save_pretrained(tmp_path / "zero123" / name)
    DDIMScheduler(**tiny.BETAS, clip_sample=False).save_pretrained(tmp_path / "zero123" / "scheduler")
    model = played(tmp_path / "zero123", "novel_view", family="zero123")
    for name in ("unet", "vae", "cc_projection"):
        assert equal(getattr(model, name), parts[name])
    assert (model.size, model.image_size, model.scheduler.config.beta_end) == (tiny.SIZE, SIDE, 0.012)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model.image_encoder(pixels), parts["image_encoder"](pixel_values=pixels).image_embeds)
    import shutil
    shutil.rmtree(tmp_path / "zero123" / "image_encoder")
    with pytest.raises(BadInput, match=r"zero123 lacks the component 'image_encoder'"):
        Pool().get(model_set("builtin", {"novel_view": "local/zero123"}), "novel_view", "cpu")


def test_an_image_prompt(tmp_path: Path) -> None:
    """IP-Adapter's real file, each tensor one number, beside a small image encoder."""
    shapes = real_files.shapes_of("ip-adapter_sd15")
    folder = tmp_path / "ip"
    real_files.write(folder / "ip-adapter_sd15.bin", real_files.marked(shapes))
    vision(1024).save_pretrained(folder / "models" / "image_encoder")
    from engine.models.catalogue import Model
    from engine.models.local import Located
    from engine.runs.files import files_under
    here = Located(Model("local/ip", "image_prompt", family="sd15", path=str(folder), format="ip_adapter"), folder,
                   {name: folder / name for name in files_under(folder)}, "your own")
    from engine.models import assemble
    prompt = assemble.public(here, "image_prompt", "cpu", torch.float32, lambda _: lambda part, load: load(), True)
    assert (prompt.kind, prompt.family, prompt.image_size, prompt.control) == ("base", "sd15", SIDE, None)
    assert sum(len(part) for part in prompt.weights.values()) == len(shapes)
    assert equal(prompt.image_encoder, vision(1024))
    import shutil
    shutil.rmtree(folder / "models")
    alone = Located(here.model, folder, {name: folder / name for name in files_under(folder)}, "your own")
    with pytest.raises(BadInput, match="local/ip lacks its image_encoder folder"):
        assemble.public(alone, "image_prompt", "cpu", torch.float32, lambda _: lambda part, load: load(), True)


def test_a_role_that_no_public_model_plays(tmp_path: Path) -> None:
    from engine.models import assemble
    from engine.models.catalogue import Model
    from engine.models.local import Located
    here = Located(Model("a/b", "matting", family="birefnet"), tmp_path, {}, "your own")
    with pytest.raises(BadInput, match=r"a/b cannot be loaded for matting by this version.*list --role matting"):
        assemble.public(here, "matting", "cpu", torch.float32, lambda _: lambda part, load: load())
