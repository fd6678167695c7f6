"""Invented: how much of each pixel's light came from the network instead of the camera."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 16
"""Shares are told in 16ths: what the network does everywhere (a few hundredths of a pixel's light) is 0, and files stay small."""
LUMA_709 = (0.2126, 0.7152, 0.0722)


def invented(sdr: Tensor, restored: Tensor) -> Tensor:
    """(N, 3, H, W) linear light before and after the network -> (N, H, W) uint8: 0 all camera, 255 all network.

    The share is |a - b| / max(a, b) of their luminances a and b (BT.709), in 16ths. Negative light counts as none.
    """
    before, after = _luminance(sdr), _luminance(restored)
    share = (after - before).abs_().div_(torch.maximum(before, after).clamp_(min=1e-6))
    steps = share.mul_(STEPS).round_()
    return steps.mul_(256 / STEPS).clamp_(0, 255).to(torch.uint8)


def _luminance(light: Tensor) -> Tensor:
    red, green, blue = (light[:, channel] * weight for channel, weight in enumerate(LUMA_709))
    return red.add_(green).add_(blue).clamp_(min=0)
