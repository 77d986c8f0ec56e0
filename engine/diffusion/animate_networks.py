"""AnimateAnyone's own networks: the reference U-Net and the pose guider (Hu et al. 2023), in the layout of
Moore-AnimateAnyone's files.

Source of the facts: MooreThreads/Moore-AnimateAnyone, ``src/models`` (class layout, sizes, key names), read for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from itertools import pairwise
from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn


class ReferenceUNet(UNet2DConditionModel):  # type: ignore[misc]
    """Stable Diffusion's U-Net without its last norm and convolution: it is asked for its features, never for noise.

    Exactly the four tensors of ``conv_norm_out`` and ``conv_out`` are gone; the output is the last block's features.
    """

    @wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]  # diffusers reads the settings' names off it
    def __init__(self, *args: Any, **config: Any) -> None:
        super().__init__(*args, **config)
        self.conv_norm_out, self.conv_out = None, nn.Identity()


class PoseGuider(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Pose pictures -> what is added to the denoising U-Net's features after its first convolution.

    A 3 x 3 convolution, then for each further width one that keeps the width and one of stride 2, SiLU after each; the
    last convolution starts at zero, so that the guider begins by changing nothing.
    """

    @register_to_config
    def __init__(self, conditioning_channels: int = 3, block_out_channels: Sequence[int] = (16, 32, 96, 256),
                 embedding_channels: int = 320) -> None:
        super().__init__()
        widths = list(block_out_channels)
        self.conv_in = nn.Conv2d(conditioning_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for before, after in pairwise(widths):
            self.blocks += [nn.Conv2d(before, before, 3, padding=1), nn.Conv2d(before, after, 3, padding=1, stride=2)]
        self.conv_out = nn.Conv2d(widths[-1], embedding_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, poses: Tensor) -> Tensor:
        """poses : (b, 3, h, w) in [0, 1] -> (b, embedding_channels, h / 8, w / 8)"""
        x = nn.functional.silu(self.conv_in(poses))
        for block in self.blocks:
            x = nn.functional.silu(block(x))
        return self.conv_out(x)
