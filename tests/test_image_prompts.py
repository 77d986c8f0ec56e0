"""Pictures that are like others, or show a given face, around tiny random networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_helpers import (
    Given,
    adapter_weights,
    controlnet,
    image_encoder,
    image_prompt,
    model,
    picture,
)
from tiny_models import CONTEXT, SIZE

from engine.artifacts import Face, Picture
from engine.diffusion import image_prompt as prompts
from engine.errors import BadInput
from engine.models.loading import Control
from engine.stages.find_face import FindFace, find_face
from engine.stages.image_prompt import ImagePrompt
from engine.stages.image_prompt import image_prompt as draw_like
from engine.stages.load_face import LoadFace, face_digest, load_face


def like(kind: str, shown: Picture, **params: Any) -> Picture:
    p = ImagePrompt(**{"prompt": "a mug", "steps": 3, "like_scale": 1.0, **params})
    return draw_like(shown, None, None, p, Given(image_prompt=image_prompt(kind)))


def test_the_picture_that_is_given_counts() -> None:
    a, b = (like("base", Picture(picture(seed))).image for seed in (1, 2))
    assert a.shape == (SIZE, SIZE, 3) and np.abs(a - b).max() > 0.02
    assert np.array_equal(a, like("base", Picture(picture(1))).image)


def test_what_stands_beside_a_cut_out_subject_does_not_count() -> None:
    rgba = np.zeros((80, 60, 4), np.float32)
    rgba[20:60, 10:50] = (0.8, 0.2, 0.1, 1)
    moved = np.zeros((80, 60, 4), np.float32)
    moved[30:70, 15:55] = (0.8, 0.2, 0.1, 1)
    assert np.array_equal(like("base", Picture(rgba)).image, like("base", Picture(moved)).image)


def test_projections_hold_every_tensor_of_their_files() -> None:
    for kind in ("base", "plus", "face"):
        weights = adapter_weights(kind)["image_proj"]
        made = prompts.projection(weights)
        assert sum(p.numel() for p in made.parameters()) == sum(t.numel() for t in weights.values())
    for change, words in (({"extra": torch.zeros(1)}, "does not fit its own layout"), (None, "not known")):
        weights = {**adapter_weights()["image_proj"], **change} if change else {"something": torch.zeros(1)}
        with pytest.raises(BadInput, match=words):
            prompts.projection(weights, "x.bin")


def test_full_adapters_take_every_patch() -> None:
    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) / shape[-1] ** 0.5
    proj = {"proj.0.weight": rand(CONTEXT, CONTEXT), "proj.0.bias": rand(CONTEXT),
            "proj.2.weight": rand(CONTEXT, CONTEXT), "proj.2.bias": rand(CONTEXT), "proj.3.weight": rand(CONTEXT),
            "proj.3.bias": rand(CONTEXT)}
    adapter = image_prompt("full", weights={**adapter_weights(), "image_proj": proj})
    wanted, _ = prompts.tokens(adapter, torch.from_numpy(picture()).permute(2, 0, 1)[None])
    assert wanted.shape == (1, 1, 5, CONTEXT)  # 2 x 2 patches of 16 pixels, and the class token
    x = image_encoder()(prompts.pictures.clip_input(torch.from_numpy(picture()).permute(2, 0, 1)[None], 32),
                        output_hidden_states=True).hidden_states[-2]
    hidden = torch.nn.functional.gelu(x @ proj["proj.0.weight"].T + proj["proj.0.bias"])
    out = torch.nn.functional.layer_norm(hidden @ proj["proj.2.weight"].T + proj["proj.2.bias"], (CONTEXT,),
                                         proj["proj.3.weight"], proj["proj.3.bias"])
    torch.testing.assert_close(wanted[0], out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "family"])
def test_image_prompts_of_another_family_are_refused(change: str) -> None:
    weights = adapter_weights()
    ip = weights["ip_adapter"]
    changes: dict[str, Any] = {"name": "ip-sdxl"}
    if change == "missing":
        del ip["3.to_k_ip.weight"]
    elif change == "extra":
        ip["99.to_k_ip.weight"] = ip["1.to_k_ip.weight"]
    elif change == "shape":
        ip["1.to_v_ip.weight"] = torch.zeros(8, CONTEXT + 8)
    else:
        changes["family"] = "sdxl"
    with pytest.raises(BadInput, match="ip-sdxl is for"):
        prompts.apply(model(), [image_prompt("base", weights=weights, **changes)], [1.0])


def face(seed: int = 0, points: bool = True) -> Face:
    where = np.array([[.4, .4], [.6, .4], [.5, .5], [.42, .62], [.58, .62]], np.float32)
    return Face(np.random.default_rng(seed).normal(size=512).astype(np.float32), where if points else None)


def test_a_face_reaches_the_unet_and_its_own_controlnet_sees_its_tokens() -> None:
    own = Control(controlnet(4), "face", model().family, "face net")
    adapter = image_prompt("face", image_encoder=None, control=own)
    seen: list[torch.Tensor] = []
    forward = own.net.forward

    def spy(sample: Any, t: Any, encoder_hidden_states: torch.Tensor, **more: Any) -> Any:
        seen.append(encoder_hidden_states)
        return forward(sample, t, encoder_hidden_states=encoder_hidden_states, **more)
    own.net.forward = spy
    p = ImagePrompt(prompt="a mug", steps=3, face_scale=0.8)
    made = draw_like(None, None, face(), p, Given(face_prompt=adapter)).image
    identity = torch.from_numpy(face().identity)[None, None]
    projection = prompts.projection(adapter.weights["image_proj"])
    with torch.no_grad():
        wanted = torch.cat([projection(identity), projection(torch.zeros_like(identity))])
    torch.testing.assert_close(seen[0], wanted, atol=1e-5, rtol=1e-5)  # 5 tokens a row, no text
    other = draw_like(None, None, face(1), p, Given(face_prompt=adapter)).image
    plain = draw_like(None, None, face(points=False), p, Given(face_prompt=adapter)).image
    assert np.abs(made - other).max() > 0.01 and np.abs(made - plain).max() > 0.01


def test_faces_equal_diffusers_adapter_on_the_same_weights() -> None:
    """diffusers loads the same tensors as an IP-Adapter Plus whose patches are one row of 512 numbers."""
    from image_helpers import pipe

    from engine.diffusion.lora import twin
    made = pipe("StableDiffusionPipeline", image_encoder=None, unet=twin(model().unet))
    made.load_ip_adapter(adapter_weights("face"), subfolder="", weight_name="x.bin", image_encoder_folder=None)
    made.set_ip_adapter_scale(0.8)
    identity = torch.from_numpy(face().identity)[None, None, None]
    wanted = made(prompt="a mug", negative_prompt="", num_inference_steps=3, guidance_scale=3.0, height=SIZE,
                  width=SIZE, generator=[torch.Generator().manual_seed(1000)], output_type="np",
                  ip_adapter_image_embeds=[torch.cat([torch.zeros_like(identity), identity])]).images[0]
    p = ImagePrompt(prompt="a mug", steps=3, face_scale=0.8)
    ours = draw_like(None, None, face(points=False), p, Given(face_prompt=image_prompt("face", image_encoder=None)))
    np.testing.assert_allclose(ours.image, wanted, atol=0.5 / 255 + 2e-5)


def test_face_files(tmp_path: Path) -> None:
    vector = face().identity
    np.save(tmp_path / "a.npy", vector[None])
    (tmp_path / "b.json").write_text(json.dumps({"identity": vector.tolist(), "points": face().points.tolist()}))  # type: ignore[union-attr]
    for name in ("a.npy", "b.json"):
        p = LoadFace(path=str(tmp_path / name), digest=face_digest(tmp_path / name))
        found = load_face(p, Given())
        np.testing.assert_allclose(found.identity, vector, rtol=1e-6)
        folder = tmp_path / f"kept_{name}"
        folder.mkdir()
        found.save(folder)
        np.testing.assert_allclose(Face.load(folder).identity, vector, rtol=1e-6)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(BadInput, match="changed since"):
        load_face(p, Given())
    bad = {"c.npy": b"", "d.json": b"[1, 2]", "e.json": b'{"identity": "x"}', "f.npy": b"\x93NUMPY junk",
           "g.json": json.dumps({"identity": vector.tolist(), "points": [[2, 2]] * 5}).encode(),
           "h.json": json.dumps([0.0] * 512).encode()}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=name):
            face_digest(tmp_path / name)
    pickled = tmp_path / "p.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"p\.npy is no face"):
        face_digest(pickled)
    with pytest.raises(BadInput, match=r"cannot read the face .*none\.npy"):
        face_digest(tmp_path / "none.npy")


def test_a_face_is_found_by_the_role_face() -> None:
    where = np.array([[[10, 20], [30, 20], [20, 30], [12, 40], [28, 40]]], np.float32)

    def finder(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return face().identity[None], where
    found = find_face(Picture(picture()), FindFace(), Given(face=finder))
    np.testing.assert_allclose(found.points, where[0] / SIZE)
    with pytest.raises(BadInput, match="no face is seen"):
        find_face(Picture(picture()), FindFace(), Given(face=lambda image: (np.zeros((0, 512)), np.zeros((0, 5, 2)))))
