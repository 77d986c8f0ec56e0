"""A model set of tiny random networks in the built-in set's layout, for tests of everything around the weights."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.models.cards import part_digest
from engine.models.known import Known, write_known
from engine.models.sets import ModelSet
from engine.toybox.vocabulary import WORDS

TOKENS = 32
CONTEXT = 16
SIZE = 64


def write_card(folder: Path, *, trained_on: dict[str, str], **fields: object) -> None:
    """The card of the weights that lie in ``folder`` now, as ``engine.training.export`` writes it."""
    card = {"part": folder.name, "sha256": part_digest(folder), "trained_on": trained_on, "licence": "Apache-2.0",
            "commercial": "yes", **fields}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def _tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    names = ["<|startoftext|>", "<|endoftext|>", "<unk>", *WORDS, ",", "."]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|startoftext|>", eos_token="<|endoftext|>",
                            pad_token="<|endoftext|>", unk_token="<unk>", model_max_length=TOKENS
                            ).save_pretrained(folder)
    return len(names)


def make_tiny_set(folder: Path, seed: int = 0) -> ModelSet:
    """Write every part of a built-in set under ``folder`` (half precision, with cards) and return the set."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPModel

    from engine.clips.poses.network import PoseNet, save_pose_net
    from engine.diffusion.novel_view import CCProjection
    from engine.diffusion.view_judge import ViewJudgeNet
    from engine.diffusion.view_judge import save_view_judge as export_view_judge
    torch.manual_seed(seed)
    vocabulary = _tokenizer(folder / "tokenizer")
    write_card(folder / "tokenizer", trained_on={})
    digests = {"tokenizer": part_digest(folder / "tokenizer")}

    tower = {"hidden_size": CONTEXT, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(CLIPConfig(
        text_config={**tower, "vocab_size": vocabulary, "max_position_embeddings": TOKENS, "bos_token_id": 0,
                     "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**tower, "image_size": SIZE, "patch_size": 16}, projection_dim=CONTEXT))
    clip.half().save_pretrained(folder / "clip")
    write_card(folder / "clip", trained_on=dict(digests))
    digests["clip"] = part_digest(folder / "clip")

    blocks = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                        latent_channels=4, sample_size=SIZE, scaling_factor=0.5, **blocks)
    vae.half().save_pretrained(folder / "vae")
    write_card(folder / "vae", trained_on={})
    digests["vae"] = part_digest(folder / "vae")

    scheduler = DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear", beta_start=0.00085,
                              beta_end=0.012, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    for part, channels in (("text_to_image", 4), ("novel_view", 8)):
        unet = UNet2DConditionModel(sample_size=SIZE // 8, in_channels=channels, out_channels=4,
                                    cross_attention_dim=CONTEXT, attention_head_dim=2, **blocks)
        unet.half().save_pretrained(folder / part / "unet")
        scheduler.save_pretrained(folder / part / "scheduler")
        if part == "novel_view":
            CCProjection(CONTEXT + 4, CONTEXT).half().save_pretrained(folder / part / "cc_projection")
        write_card(folder / part, trained_on=dict(digests), words=["a", "red", "blue", "mug", "chair", "view", "front"])
    write_known(folder, digests["clip"], Known(("mug", "chair"), np.zeros(CONTEXT), np.eye(CONTEXT), 1e6))

    _matting(folder / "matting")

    export_view_judge(ViewJudgeNet((8, 8, 8, 8), 16), folder / "view_judge")
    write_card(folder / "view_judge", trained_on={})
    save_pose_net(PoseNet((8, 8, 8, 8)), folder / "pose_estimation")
    write_card(folder / "pose_estimation", trained_on={})
    _controls(folder, digests["clip"])
    with torch.random.fork_rng(devices=[]):  # what is added here changes no number of what is drawn elsewhere
        torch.manual_seed(seed + 1)
        _clips(folder, {name: digests[name] for name in ("clip", "vae")})
        _matting(folder / "drawn_alpha")
    return ModelSet("builtin", folder)


def _matting(part: Path) -> None:
    from diffusers import UNet2DModel
    UNet2DModel(sample_size=SIZE, in_channels=3, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
                layers_per_block=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
                ).half().save_pretrained(part)
    write_card(part, trained_on={})


def _controls(folder: Path, clip: str) -> None:
    """ControlNets and an image prompt that do something: what starts at zero in training is random here."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    from engine.diffusion import control_lora, ip_adapter
    from engine.diffusion.lora import base_digest
    trained_on = {"text_to_image": part_digest(folder / "text_to_image")}
    base = UNet2DConditionModel.from_pretrained(folder / "text_to_image" / "unet", torch_dtype=torch.float32)
    net = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=(4, 8, 8, 8))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith("controlnet_"):
                p.copy_(0.3 * torch.randn(p.shape))
    for kind in ("edges", "depth", "pose", "parts"):
        part = folder / f"control_{kind}"
        control_lora.save(control_lora.extract(net, base, kind, rank=2), part, torch.float16)
        write_card(part, trained_on=trained_on)
    ip_adapter.save(ip_adapter.fresh(base, CONTEXT), folder / "image_prompt", base_digest(base), torch.float16)
    write_card(folder / "image_prompt", trained_on={**trained_on, "clip": clip})


def _clips(folder: Path, trained_on: dict[str, str]) -> None:
    """Reference animation, and AnimateDiff's domain adapter, motion modules and motion LoRA. Nothing is zero."""
    from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

    from engine.diffusion import lora_files
    from engine.diffusion.animate_networks import PoseGuider, ReferenceUNet
    from engine.diffusion.reference_animation import norm_frames
    from engine.models.motion import DOMAIN_FILE, LORA_FILE
    from engine.training import denoise
    widths = {"sample_size": SIZE // 8, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4,
              "layers_per_block": 1, "cross_attention_dim": CONTEXT}
    part = folder / "reference_animation"
    for name, network in (
            ("denoising_unet", norm_frames(UNetMotionModel(**widths, num_attention_heads=2,
                                                           motion_num_attention_heads=2, use_motion_mid_block=False))),
            ("reference_unet", ReferenceUNet(**widths, attention_head_dim=2)),
            ("pose_guider", PoseGuider(3, (4, 4, 8, 8), 8))):
        _without_zeros(network).half().save_pretrained(part / name)
    denoise.scheduler().save_pretrained(part / "scheduler")
    write_card(part, trained_on=trained_on, window=8, overlap=2, guidance=1.0, sampling_steps=2)

    base = {**trained_on, "text_to_image": part_digest(folder / "text_to_image")}
    unet = UNet2DConditionModel.from_pretrained(folder / "text_to_image" / "unet", torch_dtype=torch.float32)
    part = folder / "domain_adapter"
    part.mkdir()
    lora_files.save(random_lora(unet), part / DOMAIN_FILE)
    write_card(part, trained_on=base, words=DOMAIN_WORDS)

    adapter = MotionAdapter(block_out_channels=(8, 8, 8, 8), motion_layers_per_block=1, motion_num_attention_heads=2,
                            motion_norm_num_groups=4, use_motion_mid_block=False)
    motion = _without_zeros(adapter)
    motion.half().save_pretrained(folder / "motion")
    write_card(folder / "motion", trained_on={**base, "domain_adapter": part_digest(part)}, window=8, period=8,
               noise_shared=0.0, guidance=2.0, sampling_steps=2, motions=["walk", "wave"])

    part = folder / "motion_lora"
    part.mkdir()
    lora_files.save(random_lora(motion), part / LORA_FILE)
    write_card(part, trained_on={"motion": part_digest(folder / "motion")}, motion="spin")


DOMAIN_WORDS = ["a", "red", "knight", "standing", "walking"]


def _without_zeros(network: Any) -> Any:
    """What starts at zero in training, and would hide every mistake, is random."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return network


def random_lora(network: Any, seed: int = 11) -> Any:
    """A LoRA of rank 2 of a network's queries and values."""
    from engine.diffusion.lora import Lora
    g = torch.Generator().manual_seed(seed)
    shapes = {name: p.weight.shape for name, p in network.named_modules() if name.endswith(("to_q", "to_v"))}
    pairs = {name: (torch.randn(2, width, generator=g) / width, torch.randn(out, 2, generator=g))
             for name, (out, width) in shapes.items()}
    return Lora(pairs, dict.fromkeys(pairs, 2.0))


@cache
def tiny_domain_adapter() -> Any:
    """The set's domain adapter, also where the built-in set names no model for that role."""
    from engine.diffusion import lora_files
    from engine.models.motion import DOMAIN_FILE, DomainAdapter
    path = tiny_set().folder / "domain_adapter" / DOMAIN_FILE
    return DomainAdapter(lora_files.read(path), "builtin", words=tuple(DOMAIN_WORDS))


@cache
def tiny_set() -> ModelSet:
    """One tiny set for a whole test process; tests that change files copy it first."""
    folder = Path(tempfile.mkdtemp(prefix="maquette-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_tiny_set(folder)


def rewrite_card(folder: Path, **fields: object) -> None:
    """Change fields of a card in place."""
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


class ListJob:
    """A job that keeps what a stage tells: ``warnings``, ``metrics``, ``fractions``, ``previews``."""

    device = "cpu"

    def __init__(self, models: ModelSet | None = None, seed: int = 0, label: str = "stage") -> None:
        self.label = label
        self.warnings: list[str] = []
        self.metrics: dict[str, float] = {}
        self.fractions: list[float] = []
        self.previews: list[np.ndarray] = []
        self._models, self._seed = models, seed

    def seed(self, candidate: int = 0) -> int:
        return self._seed * 1000 + candidate

    def generator(self, candidate: int = 0) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(self.seed(candidate))

    def folder(self) -> Path:
        from mesh_helpers import Notes
        return Notes().folder()

    def model(self, role: str) -> Any:
        assert self._models is not None
        return self._models.load(role, self.device)

    def progress(self, fraction: float, preview: np.ndarray | None = None) -> None:
        self.fractions.append(fraction)
        if preview is not None:
            self.previews.append(preview)

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        return None

    def resume(self) -> dict[str, Any] | None:
        return None

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def metric(self, name: str, value: float, unit: str = "", against: str = "") -> None:
        self.metrics[name] = value
