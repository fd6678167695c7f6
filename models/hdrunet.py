"""HDRUNet, the baseline: Chen, Liu, Zhang, Qiao, Dong: "HDRUNet: Single Image HDR Reconstruction with Denoising and
Dequantization", CVPR Workshops 2021. Base network with SFT residual blocks, condition network, weighting network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SFT
from models.convolution import Conv2d, Float32Conv2d, scale_weights
from models.encodings import recode
from models.u_shape import UShape

HALO_PX = 96
"""Context that a tile needs around it: U-shape's 93 px, rounded up to a multiple of SIZE_MULTIPLE."""


class SFTResidualBlock(nn.Module):
    """out = in + conv(SFT(relu(conv(SFT(in))))) (section 3.2 of the paper)."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.sft_first = SFT(width, condition)
        self.conv_first = Conv2d(width, width, 3)
        self.sft_second = SFT(width, condition)
        self.conv_second = Conv2d(width, width, 3)
        scale_weights(self.conv_first, 0.1)
        scale_weights(self.conv_second, 0.1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, width, h, w), (N, width / 2, h, w) -> (N, width, h, w)."""
        residual = F.relu_(self.conv_first(self.sft_first(x, condition)))
        return x + self.conv_second(self.sft_second(residual, condition))


class WeightingNetwork(nn.Module):
    """What the input is multiplied with before the sum (section 3.3). Starts as 1 everywhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = Float32Conv2d(3, width, 3)
        self.conv_wide = Conv2d(width, width, 3)
        self.conv_mix = Conv2d(width, width, 1)
        self.conv_out = Float32Conv2d(width, 3, 1)
        scale_weights(self.conv_out, 0)
        nn.init.ones_(self.conv_out.bias)

    def forward(self, coded: Tensor) -> Tensor:
        """(N, 3, H, W) -> weights (N, 3, H, W), float32."""
        x = coded.contiguous(memory_format=torch.channels_last)
        x = F.relu_(self.conv_in(x)).to(self.conv_wide.weight.dtype)
        return self.conv_out(F.relu_(self.conv_mix(F.relu_(self.conv_wide(x)))))


class HDRUNet(nn.Module):
    """weight(I) * I + base(I), summed in float32. 1.65 million parameters at width 64, as published.

    The paper's output is in the encoding of its data; where that is not the input's, I is recoded before the product.
    """

    def __init__(self, width: int, sft: bool, input_encoding: str, output_encoding: str) -> None:
        super().__init__()
        if not sft:
            raise ValueError("HDRUNet always has its SFT condition branch: sft must be true")
        self.input_encoding, self.output_encoding = input_encoding, output_encoding
        self.weighting = WeightingNetwork(width)
        self.base = UShape(width, SFTResidualBlock, sft=True)

    def parts(self, coded: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) float32 coded signal in [0, 1] -> weighted input, base network: (N, 3, H, W) float32, output encoding."""
        return self.weighting(coded) * recode(coded, self.input_encoding, self.output_encoding), self.base(coded)

    def forward(self, coded: Tensor) -> Tensor:
        """(N, 3, H, W) float32 coded signal in [0, 1] -> (N, 3, H, W) float32, output encoding."""
        weighted, base = self.parts(coded)
        return weighted + base
