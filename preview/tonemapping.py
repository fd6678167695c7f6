"""Tone mapping: packed 10-bit HDR frames as an SDR screen can show them.

What is shown is made of the planes that go to the encoder and of nothing else. Mid-tones stay where the SDR picture has them; above half of
SDR white, highlights are rolled in up to the peak, by the largest channel alone, so that hues stay.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from pipeline import transfer
from pipeline.color import OutputSpec, bt2020_to_bt709, unpack_hdr
from pipeline.engine import PackedFrame
from pipeline.tone_curve import roll_off
from pipeline.transfer import Curve

KNEE = 0.5
"""Share of SDR white up to which nothing changes; higher than in reports (pipeline/tone_curve.py), whose highlights reach higher too."""

_STEPS = 8192
_TOP = 64.0  # times SDR white: 10000 nits and two stops more, for SDR white at 203


def nits_of(frame: PackedFrame, out: OutputSpec, height: int, width: int) -> Tensor:
    """Packed planes -> (3, height, width) float32 nits, BT.2020 primaries. height, width: the visible picture's."""
    planes = (plane[None].cpu() for plane in (frame.y, frame.u, frame.v))
    return unpack_hdr(*planes, out.transfer)[0, :, :height, :width]


def tone_mapped(nits: Tensor, out: OutputSpec, exposure_stops: float = 0.0) -> Tensor:
    """Light of `nits_of` -> (H, W, 3) uint8 sRGB. exposure_stops: brighter (or, negative, darker) before the curve, to look into highlights."""
    light = bt2020_to_bt709(nits[None])[0].mul_(2.0**exposure_stops / out.white_nits)
    largest = torch.maximum(torch.maximum(light[0], light[1]), light[2])
    light.mul_(_roll(out.peak_nits / out.white_nits).apply_(largest))
    return srgb_codes(light)


def srgb_codes(light: Tensor) -> Tensor:
    """(3, H, W) linear light, 1.0 = white, clipped -> (H, W, 3) uint8 sRGB (IEC 61966-2-1). New tensor; the light is not changed."""
    signal = light.clamp(0, 1).contiguous()
    codes = transfer.ENCODE["srgb"].apply_(signal).mul_(255).add_(0.5).to(torch.uint8)
    return codes.permute(1, 2, 0).contiguous()


@functools.lru_cache(maxsize=16)
def _roll(peak: float) -> Curve:
    """Largest channel, 1.0 = SDR white -> factor: 1 up to the knee, then pipeline/tone_curve.py, which brings `peak` to 1."""
    full = max(peak, 1.0)

    def factor(largest: Tensor) -> Tensor:
        folded = roll_off(largest, full, KNEE).clamp(max=1)
        return torch.where(largest > KNEE, folded / largest.clamp(min=KNEE), torch.ones_like(largest))

    return Curve(factor, 0, _TOP, _STEPS, fourth_root=True)
