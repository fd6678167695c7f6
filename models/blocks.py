"""The parts that the networks share: SFT modulation, the condition network, upsampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.convolution import Conv2d, Float32Conv2d, scale_weights

SLOPE = 0.1
"""Of the leaky ReLUs: in the condition branch, as in HDRUNet, and before the last layer, which is ours."""


class Pointwise(nn.Module):
    """Two 1x1 convolutions with a leaky ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = Conv2d(inputs, hidden, 1)
        self.second = Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h, w)."""
        return self.second(F.leaky_relu_(self.first(x), SLOPE))


class SFT(nn.Module):
    """Spatial feature transform: features * (scale + 1) + shift, both predicted from the condition (HDRUNet, section 3.2)."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.scale = Pointwise(condition, condition, width)
        self.shift = Pointwise(condition, condition, width)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(N, width, h, w), (N, condition, h, w) -> (N, width, h, w)."""
        return torch.addcmul(features + self.shift(condition), features, self.scale(condition))


class PlainBlock(nn.Module):
    """The same block as a DCRB with a plain convolution in the deformable one's place: what DCRBs are measured against."""

    def __init__(self, width: int, condition: int | None) -> None:
        super().__init__()
        self.sft_first = None if condition is None else SFT(width, condition)
        self.conv = Conv2d(width, width, 3)
        self.sft_second = None if condition is None else SFT(width, condition)
        self.conv_second = Conv2d(width, width, 3)
        scale_weights(self.conv_second, 0.1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, width, h, w) -> same shape; condition (N, width / 2, h, w) or None."""
        residual = x if self.sft_first is None else self.sft_first(x, condition)
        residual = F.relu_(self.conv(residual))
        residual = residual if self.sft_second is None else self.sft_second(residual, condition)
        return x + self.conv_second(residual)


class ConditionNetwork(nn.Module):
    """The image -> what modulates the blocks, at full, half and quarter size (HDRUNet, section 3.2). 64 -> 32 channels there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        out = width // 2
        self.look = Float32Conv2d(3, width, 3)
        self.mix = Pointwise(width, width, width)
        self.to_full = Pointwise(width, width, out)
        self.to_half_down = Conv2d(width, width, 3, 2)
        self.to_half = Conv2d(width, out, 1)
        self.to_quarter_down = Conv2d(width, width, 3, 2)
        self.to_quarter = Conv2d(width, out, 3, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> conditions (N, width/2, ...) at 1, 1/2 and 1/4 of the size."""
        shared = F.leaky_relu_(self.look(image), SLOPE).to(self.mix.first.weight.dtype)
        shared = F.leaky_relu_(self.mix(shared), SLOPE)
        half = self.to_half(F.leaky_relu_(self.to_half_down(shared), SLOPE))
        quarter = self.to_quarter(F.leaky_relu_(self.to_quarter_down(shared), SLOPE))
        return self.to_full(shared), half, quarter


class Upsample(nn.Module):
    """Doubles the size: a 3x3 convolution to four times the channels, then pixel shuffle.

    The four filters that fill a 2x2 cell begin alike, so that a fresh network draws no grid (Aitken et al. 2017, ICNR).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, 4 * width, 3)
        with torch.no_grad():
            for parameter in (self.conv.weight, self.conv.bias):
                parameter.copy_(parameter[:width].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, width, 2h, 2w)."""
        return F.pixel_shuffle(self.conv(x), 2)
