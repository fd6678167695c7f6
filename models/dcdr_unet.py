"""DCDR-UNet: a tone network plus a U-shaped restoration network of deformable-convolution residual blocks.

Kim, Zhu, Bau, Liu: "DCDR-UNet: Deformable Convolution Based Detail Restoration via U-shape Network for Single Image HDR
Reconstruction", CVPR Workshops 2024. The paper's: I_hdr = Net_T(I_ldr) + Net_R(I_ldr), the U-shape, offsets estimated on
a block's input path, the deformable convolution on its residual path. Ours, where the supplement is silent: the
layers inside Net_T, modulation (DCNv2), where in the residual path the deformable convolution stands, initial weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SFT
from models.convolution import Conv2d, Float32Conv2d, scale_weights
from models.deform_conv import deform_conv2d
from models.encodings import recode
from models.u_shape import DEEP_REACH_PX, REACH_PX, Block, UShape

TAPS = 9

HALO_PX = 128
"""Context that a tile needs around it: U-shape's 93 px and 35 px for what learned offsets add; a multiple of SIZE_MULTIPLE."""
assert HALO_PX >= REACH_PX

DEEP_HALO_PX = 320
"""The same with the deeper scales, whose convolutions see 289 px; a multiple of their size multiple."""
assert DEEP_HALO_PX >= DEEP_REACH_PX


class DCRB(nn.Module):
    """Deformable-convolution residual block: out = in + residual, aimed with offsets that are predicted from `in`.

    Offsets are free (in pixels of the map), the modulation mask is a sigmoid. Both start at "sample the plain 3x3
    neighbourhood at half weight", as in DCNv2.
    """

    def __init__(self, width: int, condition: int | None) -> None:
        super().__init__()
        self.aim = Conv2d(width, 3 * TAPS, 3)
        self.sft_first = None if condition is None else SFT(width, condition)
        self.conv = Conv2d(width, width, 3)
        self.sft_second = None if condition is None else SFT(width, condition)
        self.deform = Conv2d(width, width, 3)  # holds the weights; the sampling is deform_conv2d's
        scale_weights(self.aim, 0)
        scale_weights(self.deform, 0.1)

    def offsets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Block input (N, width, h, w) -> offsets (N, 18, h, w), y and x in turn, and mask (N, 9, h, w) in (0, 1); both float32."""
        aim = self.aim(x).float()
        # The slice is not contiguous: PyTorch computes all of this sigmoid with scalar code, so its bits do not depend on threads.
        return aim[:, : 2 * TAPS], aim[:, 2 * TAPS :].sigmoid()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, width, h, w) -> same shape; condition (N, width / 2, h, w) or None."""
        offset, mask = self.offsets(x)
        residual = x if self.sft_first is None else self.sft_first(x, condition)
        residual = F.relu_(self.conv(residual))
        residual = residual if self.sft_second is None else self.sft_second(residual, condition)
        return deform_conv2d(residual, offset, mask, self.deform.weight, self.deform.bias, residual=x)


class ToneNetwork(nn.Module):
    """Net_T: a tone curve that sees 3x3 pixels, in float32. Starts as the identity: light comes out as it was coded."""

    def __init__(self, width: int, input_encoding: str, output_encoding: str) -> None:
        super().__init__()
        self.input_encoding, self.output_encoding = input_encoding, output_encoding
        self.look = Float32Conv2d(3, width, 3, padding=0)
        self.mix = Float32Conv2d(width, width, 1)
        self.out = Float32Conv2d(width, 3, 1)
        scale_weights(self.out, 0)

    def forward(self, coded: Tensor) -> Tensor:
        """(N, 3, H, W) coded signal -> (N, 3, H, W) in the output encoding."""
        x = F.pad(coded, (1, 1, 1, 1), mode="replicate").contiguous(memory_format=torch.channels_last)
        change = self.out(F.relu_(self.mix(F.relu_(self.look(x)))))
        return recode(coded, self.input_encoding, self.output_encoding) + change


class Inspection(NamedTuple):
    """What the figures show: both summands (N, 3, H, W), and of the last DCRB its offsets (N, 18, H/2, W/2) in pixels of
    that map, its mask (N, 9, H/2, W/2) and its feature maps (N, width, H/2, W/2). Sizes are of the padded frame."""

    tone: Tensor
    restored: Tensor
    offsets: Tensor
    mask: Tensor
    features: Tensor


class DCDRUNet(nn.Module):
    """I_hdr = Net_T(I) + Net_R(I), summed in float32, in the output encoding. See the module's docstring.

    block: what Net_R's residual blocks are; deep: whether it has the two deeper scales.
    """

    def __init__(
        self,
        width: int,
        sft: bool,
        input_encoding: str,
        output_encoding: str,
        block: Block = DCRB,
        deep: bool = False,
    ) -> None:
        super().__init__()
        self.net_t = ToneNetwork(width, input_encoding, output_encoding)
        self.net_r = UShape(width, block, sft, deep)

    def parts(self, coded: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) float32 coded signal in [0, 1] -> Net_T(I), Net_R(I): (N, 3, H, W) float32, output encoding."""
        return self.net_t(coded), self.net_r(coded)

    def forward(self, coded: Tensor) -> Tensor:
        """(N, 3, H, W) float32 coded signal in [0, 1] -> (N, 3, H, W) float32, output encoding."""
        tone, restored = self.parts(coded)
        return tone + restored

    def inspect(self, coded: Tensor) -> Inspection:
        """Both summands, and what the last DCRB aims at and gives. Same input as `forward`."""
        last = self.net_r.blocks_half_out[-1]
        seen: list[tuple[Tensor, Tensor]] = []
        hook = last.register_forward_hook(lambda _block, inputs, output: seen.append((inputs[0], output)))
        try:
            tone, restored = self.parts(coded)
        finally:
            hook.remove()
        block_input, features = seen[0]
        return Inspection(tone, restored, *last.offsets(block_input), features)
