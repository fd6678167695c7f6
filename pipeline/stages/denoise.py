"""Denoise: blocks and ringing of strong compression, smoothed where neighbours differ little; edges stay.

A bilateral filter (Tomasi and Manduchi, ICCV 1998) on the coded signal. It is for Motion JPEG and other codecs without a deblocking filter
of their own: on four clips 0.1 to 0.65 dB nearer the truth. H.264's own filter has been over what it leaves, and this gives 0.1 dB at
most there (crf 35 and 40); at crf 20 it costs 0.1 to 0.3 dB. `blockiness` tells the two apart, so that it is left off where it does not help.

The same bits whatever the threads: operations that IEEE 754 rounds exactly, in a fixed order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.stages import signal

STRENGTH = (0.0, 2.0)
"""Legal strengths, ends included."""

BLOCKY = 2.0
"""`blockiness` of key frames from which on strength 1 helps. Measured on five real clips scaled down, so that the truth was clean, and
compressed again: Motion JPEG (FFmpeg's q 8 to 24) 2.1 to 11, 1.4 to 2.6 on one full of leaves; key frames of x264 1.1 to 1.6 at crf 20 and
28, 1.4 to 2.3 at crf 35 and 40; the clips as they are, H.264, 1.1 to 1.7. At 2.0 no picture was found that strength 1 harms."""

REACH_PX = 2
"""Neighbours up to this many rows and columns away count."""

_SIGMA_PX = 1.5
_ALIKE = 16 / 219
_BLOCK_PX = 8
_HIGHEST_STEP = 16
_STILL = 0.02


class Denoise(nn.Module):
    """Working-space frames (N,3,H,W) in and out; SDR white = 1.0.

    strength: above 0, 2 at most: pixels whose R', G', B' differ by 16 * strength 8-bit codes or more (root of the mean square) do not count
    for each other. 1 suits Motion JPEG as dashcams write it; at 0 leave the stage out. transfer: the source's, "bt1886", "srgb" or "linear".
    Raises InputError on others. Flat areas keep their bits, light above white and below black is worked on like any other.
    """

    lead_in = 0
    lead_out = 0

    def __init__(self, strength: float, transfer: str) -> None:
        super().__init__()
        if not 0 < strength <= STRENGTH[1]:
            raise InputError(f"denoise.strength={strength:g}: out of range; legal are 0 (off) to {STRENGTH[1]:g}.")
        signal.check_transfer(transfer)
        self.transfer = transfer
        self._per_square = 1 / (3 * (strength * _ALIKE) ** 2)

    def forward(self, linear: Tensor) -> Tensor:
        """(N, 3, H, W) float32 linear light -> the same. New tensor; input untouched."""
        out = torch.empty_like(linear, memory_format=torch.contiguous_format)
        for frame, target in zip(linear, out, strict=True):
            coded = signal.encode(frame, self.transfer)
            target.copy_(signal.move(frame, coded, self._change(coded), self.transfer))
        return out

    def _change(self, coded: Tensor) -> Tensor:
        """(3, H, W) coded signal -> what to add to it. Each pair of pixels is looked at once, and counts for both."""
        height, width = coded.shape[1:]
        total = torch.zeros_like(coded)
        weights = torch.ones_like(coded[0])
        for down in range(REACH_PX + 1):
            for across in range(-REACH_PX if down else 1, REACH_PX + 1):
                if down >= height or abs(across) >= width:
                    continue
                left, right = max(0, -across), width - max(0, across)
                here = (slice(0, height - down), slice(left, right))
                there = (slice(down, height), slice(left + across, right + across))
                difference = coded[:, *there] - coded[:, *here]
                red, green, blue = difference
                share = (red * red).add_(green * green).add_(blue * blue).mul_(-self._per_square).add_(1).clamp_(min=0)
                share.mul_(share).mul_(float(np.exp(-(down**2 + across**2) / (2 * _SIGMA_PX**2))))
                difference.mul_(share)
                total[:, *here].add_(difference)
                total[:, *there].sub_(difference)
                weights[here].add_(share)
                weights[there].add_(share)
        return total.div_(weights)


def blockiness(luma: np.ndarray) -> float:
    """How much more the luma of frames steps at borders of 8x8 blocks than elsewhere: 1 = no blocks.

    luma: (N, H, W) uint8 codes of decoded frames, uncropped at the top and left, so that blocks begin there. Steps are second differences
    between neighbouring columns and rows, at most 16 codes counted; sums are of whole numbers, so they are exact. Pictures of less than three
    blocks give 1. At `BLOCKY` or more, strength 1 helps. Raises ValueError on another type or shape.
    """
    if luma.ndim != 3 or luma.dtype != np.uint8:
        raise ValueError(f"luma is (N, H, W) uint8, not {luma.shape} {luma.dtype}")
    ratios = []
    for frames in (luma, luma.transpose(0, 2, 1)):
        length = frames.shape[2]
        if length < 3 * _BLOCK_PX or frames.shape[1] == 0 or frames.shape[0] == 0:
            return 1.0
        step = np.abs(np.diff(frames.astype(np.int16), axis=2))
        excess = (2 * step[:, :, 1:-1] - step[:, :, :-2] - step[:, :, 2:]).clip(0, 2 * _HIGHEST_STEP)
        columns = excess.sum(axis=(0, 1), dtype=np.int64)
        border = (np.arange(length - 3) + 2) % _BLOCK_PX == 0
        count = 2 * frames.shape[0] * frames.shape[1]
        at, off = (int(columns[which].sum()) / (count * int(which.sum())) for which in (border, ~border))
        ratios.append((at + _STILL) / (off + _STILL))
    return sum(ratios) / 2
