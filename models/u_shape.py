"""The U-shape that HDRUNet and DCDR-UNet share; only the residual block differs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SFT, SLOPE, ConditionNetwork, Upsample
from models.convolution import Conv2d, Float32Conv2d, scale_weights

SIZE_MULTIPLE = 4
"""The network halves the size twice. Other sizes are padded by replication, inside."""

DEEP_SIZE_MULTIPLE = 16
"""The same with the two deeper scales."""

REACH_PX = 93
"""How far one output pixel sees with plain 3x3 convolutions throughout, 12 blocks of two each: 4 * 2 * 8 + 2 * 2 * 4 + 13."""

DEEP_REACH_PX = REACH_PX + 16 * 2 * 4 + 8 * 2 * 2 + 36
"""The same with the deeper scales: four blocks at 1/16 and two at 1/8, and the convolutions between them."""

Block = Callable[[int, int | None], nn.Module]
"""(width, channels of the condition or None) -> a block: forward((N, width, h, w), condition or None) -> same shape."""


class DeepScales(nn.Module):
    """What a quarter-size map looks like from further away: 1/8 and 1/16 of the picture's size, blocks 1 / 4 / 1, pixel shuffle up.

    Ours, not the paper's: with it the middle of a blown-out sky sees the sky's edges. It starts silent: the last layer is zero.
    """

    def __init__(self, width: int, block: Block, condition: int | None) -> None:
        super().__init__()
        self.down_eighth = Conv2d(width, width, 3, 2)
        self.down_sixteenth = Conv2d(width, width, 3, 2)
        self.condition_eighth = None if condition is None else Conv2d(condition, condition, 3, 2)
        self.condition_sixteenth = None if condition is None else Conv2d(condition, condition, 3, 2)
        self.block_eighth_in = block(width, condition)
        self.blocks_sixteenth = nn.ModuleList(block(width, condition) for _ in range(4))
        self.block_eighth_out = block(width, condition)
        self.up_eighth = Upsample(width)
        self.up_quarter = Upsample(width)
        scale_weights(self.up_quarter.conv, 0)

    def forward(self, quarter: Tensor, condition: Tensor | None) -> Tensor:
        """(N, width, h, w), h and w multiples of 4; condition (N, width / 2, h, w) or None -> (N, width, h, w), to be added."""
        eighth_c = None if self.condition_eighth is None else self.condition_eighth(condition)
        sixteenth_c = None if self.condition_sixteenth is None else self.condition_sixteenth(eighth_c)
        eighth = self.block_eighth_in(F.relu_(self.down_eighth(quarter)), eighth_c)
        x = sixteenth = F.relu_(self.down_sixteenth(eighth))
        for block in self.blocks_sixteenth:
            x = block(x, sixteenth_c)
        x = F.relu_(self.up_eighth(x + sixteenth)) + eighth
        return self.up_quarter(self.block_eighth_out(x, eighth_c))


class UShape(nn.Module):
    """Convolution in, two stride-2 convolutions, 2 / 8 / 2 blocks at 1/2, 1/4, 1/2, pixel shuffle up, skips by addition.

    Layer by layer HDRUNet's base network (Chen et al., CVPR Workshops 2021, section 3.1). `sft` adds its condition network and
    modulation, `deep` the two deeper scales, between the fourth and the fifth of the blocks at 1/4. The last layer is made zero: a
    fresh network adds nothing.
    """

    def __init__(self, width: int, block: Block, sft: bool, deep: bool = False) -> None:
        super().__init__()
        self.size_multiple = DEEP_SIZE_MULTIPLE if deep else SIZE_MULTIPLE
        condition = width // 2 if sft else None
        self.condition = ConditionNetwork(width) if sft else None
        self.conv_in = Float32Conv2d(3, width, 3)
        self.sft_in = SFT(width, width // 2) if sft else None
        self.conv_full_in = Conv2d(width, width, 3)
        self.down_half = Conv2d(width, width, 3, 2)
        self.down_quarter = Conv2d(width, width, 3, 2)
        self.blocks_half_in = nn.ModuleList(block(width, condition) for _ in range(2))
        self.blocks_quarter = nn.ModuleList(block(width, condition) for _ in range(8))
        self.deep_scales = DeepScales(width, block, condition) if deep else None
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
        x = _pad(coded, -height % self.size_multiple, -width % self.size_multiple)
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
        for number, block in enumerate(self.blocks_quarter):
            if number == 4 and self.deep_scales is not None:
                x = x + self.deep_scales(x, quarter_c)
            x = block(x, quarter_c)
        x = F.relu_(self.up_half(x + quarter)) + half
        for block in self.blocks_half_out:
            x = block(x, half_c)
        x = F.relu_(self.up_full(x)) + full
        x = x if self.sft_out is None else self.sft_out(x, full_c)
        x = F.leaky_relu_(self.conv_full_out(x), SLOPE)  # a plain ReLU before a layer of zeros dies in training
        return self.conv_out(x)[..., :height, :width]


def _pad(x: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last row and column so often."""
    return F.pad(x, (0, columns, 0, rows), mode="replicate")
