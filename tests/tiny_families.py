"""Tiny randomly filled networks of each family's real classes: our model of them, and diffusers' bare pipeline around
the very same networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from engine.models.families import base, deepfloyd, dit, pixart, sd3, sdxl, upscaling

WIDTH, TOKENS = 16, 12
SIZE = 64
"""Pixels of the latent families."""
NAMES = ["<s>", "</s>", "<unk>", "<pad>", ",", "a", "red", "mug", "blue", "chair", "of", "glass", "not", "ugly"]


@dataclass
class Twin:
    """ours : the family's model; bare : diffusers' pipeline of the same networks"""

    ours: Any
    bare: Any


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    """A network filled from one seed, in float32, ready."""
    torch.manual_seed(seed)
    return make().eval().requires_grad_(False)


def tokenizer(pad: str = "</s>", length: int = TOKENS, starts: bool = True) -> Any:
    """Whole words; starts : with a start token, as CLIP's does and T5's does not."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    made = Tokenizer(models.WordLevel({n: i for i, n in enumerate(NAMES)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if starts else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token=pad,
                                   unk_token="<unk>", model_max_length=length)


def clip_text(projection: int | None = None, width: int = WIDTH, seed: int = 1) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    config = CLIPTextConfig(hidden_size=width, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                            vocab_size=len(NAMES), max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1,
                            pad_token_id=1, projection_dim=projection or width)
    return seeded(lambda: (CLIPTextModelWithProjection if projection else CLIPTextModel)(config), seed)


def t5(width: int = WIDTH, seed: int = 2) -> Any:
    from transformers import T5Config, T5EncoderModel
    return seeded(lambda: T5EncoderModel(T5Config(vocab_size=len(NAMES), d_model=width, d_kv=4, d_ff=24, num_layers=2,
                                                  num_heads=2, pad_token_id=3, eos_token_id=1, is_gated_act=True,
                                                  feed_forward_proj="gated-gelu")), seed)


def vae(channels: int = 4, factor: int = 8, seed: int = 3, **more: Any) -> Any:
    from diffusers import AutoencoderKL
    n = factor.bit_length()
    settings = {"block_out_channels": (8,) * n, "norm_num_groups": 4, "layers_per_block": 1,
                "latent_channels": channels, "sample_size": SIZE, "scaling_factor": 0.18215,
                "down_block_types": ("DownEncoderBlock2D",) * n, "up_block_types": ("UpDecoderBlock2D",) * n, **more}
    return seeded(lambda: AutoencoderKL(**settings), seed)


def unet(seed: int = 4, **more: Any) -> Any:
    """Stable Diffusion 1.5's, in little."""
    from diffusers import UNet2DConditionModel
    settings: dict[str, Any] = {
        "sample_size": SIZE // 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": WIDTH,
        "attention_head_dim": 2, "block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), **more}
    return seeded(lambda: UNet2DConditionModel(**settings), seed)


BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                         "steps_offset": 1}


def sd15(scheduler: Any = None, **unet_changes: Any) -> Twin:
    """As published, with PNDM; ``unet_changes``: a consistency model's ``time_cond_proj_dim`` for instance."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    parts = {"unet": unet(**unet_changes), "vae": vae(), "text_encoder": clip_text(), "tokenizer": tokenizer(),
             "scheduler": scheduler or PNDMScheduler(**BETAS, skip_prk_steps=True)}
    bare = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)
    return Twin(base.TextToImage(**parts, size=SIZE, defaults=base.Defaults(50, 7.5)), bare)


def sd21() -> Twin:
    """v-prediction, with DDIM, and heads of a width instead of a number."""
    from diffusers import DDIMScheduler
    made = sd15(DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False),
                attention_head_dim=(2, 2, 4, 4), use_linear_projection=True)
    made.ours = made.ours.changed(family="sd21")
    return made


def sd_turbo() -> Twin:
    from diffusers import EulerAncestralDiscreteScheduler
    made = sd15(EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing"))
    made.ours = made.ours.changed(defaults=base.Defaults(1, 0.0))
    return made


def lcm() -> Twin:
    from diffusers import LCMScheduler
    made = sd15(LCMScheduler(**BETAS), time_cond_proj_dim=8)
    made.ours = made.ours.changed(defaults=base.Defaults(4, 8.5))
    return made


def sdxl_(scheduler: Any = None, zeros: bool = True) -> Twin:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    parts = {"unet": unet(seed=5, cross_attention_dim=2 * WIDTH, addition_embed_type="text_time",
                          addition_time_embed_dim=4, transformer_layers_per_block=(1, 2, 2), use_linear_projection=True,
                          projection_class_embeddings_input_dim=24 + 6 * 4, attention_head_dim=(2, 2, 4),
                          block_out_channels=(8, 8, 16),
                          down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                          up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")),
             "vae": vae(scaling_factor=0.13025, force_upcast=True), "text_encoder": clip_text(),
             "tokenizer": tokenizer(), "text_encoder_2": clip_text(24, seed=6), "tokenizer_2": tokenizer("<pad>"),
             "scheduler": scheduler or EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")}
    bare = StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    return Twin(sdxl.StableDiffusionXL(**parts, size=SIZE, zeros_for_empty=zeros, defaults=base.Defaults(50, 5.0)),
                bare)


def sdxl_turbo() -> Twin:
    from diffusers import EulerAncestralDiscreteScheduler
    return sdxl_(EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing"))


def sd3_(with_t5: bool = True) -> Twin:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    transformer = seeded(lambda: SD3Transformer2DModel(
        sample_size=SIZE // 8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=4, num_attention_heads=4,
        joint_attention_dim=3 * WIDTH, caption_projection_dim=16, pooled_projection_dim=16 + 24, out_channels=16,
        pos_embed_max_size=16), 7)
    parts = {"vae": vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
                        use_post_quant_conv=False),
             "text_encoder": clip_text(16, seed=8), "tokenizer": tokenizer(),
             "text_encoder_2": clip_text(24, seed=6), "tokenizer_2": tokenizer("<pad>"),
             "text_encoder_3": t5(3 * WIDTH) if with_t5 else None,
             "tokenizer_3": tokenizer("<pad>", 512, starts=False) if with_t5 else None,
             "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    bare = StableDiffusion3Pipeline(transformer=transformer, **parts)
    return Twin(sd3.StableDiffusion3(unet=transformer, **parts, size=SIZE, defaults=base.Defaults(28, 7.0)), bare)


def pixart_(alpha: bool = True) -> Twin:
    """alpha : told the size of the picture, 120 tokens; else Sigma, 300 tokens."""
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )
    transformer = seeded(lambda: PixArtTransformer2DModel(
        num_attention_heads=3, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=24, sample_size=128, caption_channels=WIDTH, use_additional_conditions=alpha,
        norm_num_groups=4), 9)
    parts = {"vae": vae(), "text_encoder": t5(), "tokenizer": tokenizer("<pad>", 512, starts=False),
             "scheduler": DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02,
                                                      algorithm_type="dpmsolver++")}
    bare = (PixArtAlphaPipeline if alpha else PixArtSigmaPipeline)(transformer=transformer, **parts)
    return Twin(pixart.PixArt(unet=transformer, **parts, size=1024, tokens=120 if alpha else 300,
                              family="pixart_alpha" if alpha else "pixart_sigma", defaults=base.Defaults(20, 4.5)),
                bare)


def dit_() -> Twin:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
    transformer = seeded(lambda: DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        sample_size=SIZE // 8, num_embeds_ada_norm=1000), 10)
    labels = {504: "coffee mug", 423: "barber chair", 765: "rocking chair, rocker"}
    parts = {"vae": vae(), "scheduler": DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02,
                                                      clip_sample=False)}
    bare = DiTPipeline(transformer=transformer, **parts, id2label={str(k): v for k, v in labels.items()})
    return Twin(dit.DiT(unet=transformer, **parts, text_encoder=None, tokenizer=None, size=SIZE, labels=labels,
                        defaults=base.Defaults(50, 4.0)), bare)


def _if_unet(seed: int, side: int, **more: Any) -> Any:
    return unet(seed, sample_size=side, in_channels=more.pop("in_channels", 3), out_channels=6, cross_attention_dim=32,
                encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj", addition_embed_type="text",
                addition_embed_type_num_heads=2, act_fn="gelu", resnet_time_scale_shift="scale_shift",
                down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"), attention_head_dim=4,
                cross_attention_norm="group_norm", only_cross_attention=False, **more)


def _ddpm(**more: Any) -> Any:
    from diffusers import DDPMScheduler
    return DDPMScheduler(**{"beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range",
                            "thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5, **more})


def deepfloyd_() -> tuple[Twin, Twin]:
    """The first and the second network of the cascade; the first of ours has the second as its upscaler."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline
    words = {"text_encoder": t5(), "tokenizer": tokenizer("<pad>", 512, starts=False)}
    none = {"safety_checker": None, "feature_extractor": None, "watermarker": None, "requires_safety_checker": False}
    first, second = _if_unet(11, 16), _if_unet(12, 64, in_channels=6, class_embed_type="timestep")
    low = _ddpm(variance_type="fixed_small", thresholding=False)
    up = deepfloyd.DeepFloydUpscaler(unet=second, vae=None, **words, scheduler=_ddpm(), low_scheduler=low, size=64,
                                     defaults=base.Defaults(50, 4.0))
    ours = deepfloyd.DeepFloyd(unet=first, vae=None, **words, scheduler=_ddpm(), size=16, upscalers=(up,),
                               defaults=base.Defaults(100, 7.0))
    return (Twin(ours, IFPipeline(unet=first, **words, scheduler=_ddpm(), **none)),
            Twin(up, IFSuperResolutionPipeline(unet=second, **words, scheduler=_ddpm(), image_noising_scheduler=low,
                                               **none)))


def x4_upscaler() -> Twin:
    from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline
    parts = {"unet": unet(13, in_channels=7, num_class_embeds=1000, sample_size=16, use_linear_projection=True),
             "vae": vae(factor=4, scaling_factor=0.08333),
             "text_encoder": clip_text(), "tokenizer": tokenizer(),
             "low_scheduler": DDPMScheduler(**BETAS), "scheduler": DDIMScheduler(**BETAS, clip_sample=False,
                                                                                 prediction_type="v_prediction")}
    names = {"low_scheduler": "low_res_scheduler"}
    bare = StableDiffusionUpscalePipeline(**{names.get(k, k): v for k, v in parts.items()}, safety_checker=None)
    return Twin(upscaling.Upscaler(**parts, size=64, defaults=base.Defaults(75, 9.0)), bare)
