"""The U-shape that HDRUNet and DCDR-UNet share; only the residual block differs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SFT, ConditionNetwork, Upsample
from models.convolution import Conv2d, Float32Conv2d, scale_weights

SIZE_MULTIPLE = 4
"""The network halves the size twice. Other sizes are padded by replication, inside."""

REACH_PX = 93
"""How far one output pixel sees with plain 3x3 convolutions throughout, 12 blocks of two each: 4 * 2 * 8 + 2 * 2 * 4 + 13."""

Block = Callable[[int, int | None], nn.Module]
"""(width, channels of the condition or None) -> a block: forward((N, width, h, w), condition or None) -> same shape."""


class UShape(nn.Module):
    """Convolution in, two stride-2 convolutions, 2 / 8 / 2 blocks at 1/2, 1/4, 1/2, pixel shuffle up, skips by addition.

    Layer by layer HDRUNet's base network (Chen et al., CVPR Workshops 2021, section 3.1). `sft` adds its condition network and
    modulation. The last layer is made zero: a fresh network adds nothing.
    """

    def __init__(self, width: int, block: Block, sft: bool) -> None:
        super().__init__()
        condition = width // 2 if sft else None
        self.condition = ConditionNetwork(width) if sft else None
        self.conv_in = Float32Conv2d(3, width, 3)
        self.sft_in = SFT(width, width // 2) if sft else None
        self.conv_full_in = Conv2d(width, width, 3)
        self.down_half = Conv2d(width, width, 3, 2)
        self.down_quarter = Conv2d(width, width, 3, 2)
        self.blocks_half_in = nn.ModuleList(block(width, condition) for _ in range(2))
        self.blocks_quarter = nn.ModuleList(block(width, condition) for _ in range(8))
        self.blocks_half_out = nn.ModuleList(block(width, condition) for _ in range(2))
        self.up_half = Upsample(width)
        self.up_full = Upsample(width)
        self.sft_out = SFT(width, width // 2) if sft else None
        self.conv_full_out = Conv2d(width, width, 3)
        self.conv_out = Float32Conv2d(width, 3, 3)
        scale_weights(self.conv_out, 0)

    def forward(self, coded: Tensor) -> Tensor:
        """(N, 3, H, W) float32 coded signal, any H, W >= 1 -> (N, 3, H, W) float32."""
        height, width = coded.shape[2:]
        x = F.pad(coded, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        full_c, half_c, quarter_c = (None, None, None) if self.condition is None else self.condition(x)

        full = F.relu_(self.conv_in(x)).to(self.conv_full_in.weight.dtype)
        full = full if self.sft_in is None else self.sft_in(full, full_c)
        full = F.relu_(self.conv_full_in(full))
        half = F.relu_(self.down_half(full))
        for block in self.blocks_half_in:
            half = block(half, half_c)
        quarter = F.relu_(self.down_quarter(half))
        x = quarter
        for block in self.blocks_quarter:
            x = block(x, quarter_c)
        x = F.relu_(self.up_half(x + quarter)) + half
        for block in self.blocks_half_out:
            x = block(x, half_c)
        x = F.relu_(self.up_full(x)) + full
        x = x if self.sft_out is None else self.sft_out(x, full_c)
        x = F.relu_(self.conv_full_out(x))
        return self.conv_out(x)[..., :height, :width]
