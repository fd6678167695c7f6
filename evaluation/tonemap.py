"""HDR light made fit for an 8-bit picture, for reports; and the paper's tone curve, which metrics and training share."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.tone_curve import KNEE, roll_off

Array = np.ndarray
Light = TypeVar("Light", Array, Tensor)

MU_FIGURES = 10.0
"""mu of the paper's tone-mapped pictures (supplement, Eq. 1)."""

MU_METRICS = 5000.0
"""mu of PSNR-mu (Kalantari and Ramamoorthi 2017, HDRUNet); in pictures it hides what was restored, says the supplement."""


def compress(light: Light, mu: float = MU_FIGURES) -> Light:
    """The paper's Eq. 1 (supplement, section 4): log(1 + mu tanh(I)) / log(1 + mu), made odd so that negative light has a value too.

    light: any shape, a NumPy array or a tensor, relative linear light (in the paper divided by the data set's full scale); the result
    is of the same kind, shape and floating type, 0 to 1 for light from 0 up. Differentiable everywhere on tensors, at 0 too.
    Raises ValueError for a mu that is not above 0.
    """
    if not mu > 0:
        raise ValueError(f"mu is {mu}; it must be above 0")
    scale = math.log1p(mu)
    if isinstance(light, Tensor):
        below = light < 0
        size = torch.where(below, -light, light)
        code = torch.log1p(mu * torch.tanh(size)) / scale
        return torch.where(below, -code, code)
    return np.copysign(np.log1p(mu * np.tanh(np.abs(light))) / scale, light)


def srgb_signal(linear: Array) -> Array:
    """Linear light, 1.0 = display white, clipped to [0, 1], to the sRGB signal in [0, 1] (IEC 61966-2-1), not rounded to codes."""
    x = np.clip(linear, 0.0, 1.0)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)


def encode_srgb(linear: Array) -> Array:
    """Linear light, 1.0 = display white, to uint8 sRGB; what is outside [0, 1] is clipped."""
    return np.round(255.0 * srgb_signal(linear)).astype(np.uint8)


def tone_map(nits: Array, white_nits: float = 203.0, white_point: float = 16.0, knee: float = KNEE) -> Array:
    """Light in nits (..., 3), BT.709 primaries, to uint8 sRGB with highlights folded in.

    Up to `knee` of SDR white nothing changes; above, pipeline/tone_curve.py reaches display white at `white_point` times SDR white. It
    works on the largest channel, so hue stays.
    """
    rgb = np.maximum(np.asarray(nits, np.float32) / white_nits, 0.0)
    largest = np.maximum(rgb.max(-1, keepdims=True), 1e-6)
    folded = roll_off(largest, white_point, knee)
    return encode_srgb(rgb * np.where(largest > knee, folded / largest, 1.0))


def exposure(nits: Array, stops: float, white_nits: float = 203.0) -> Array:
    """Light in nits (..., 3) as a plain picture taken `stops` brighter (or, negative, darker): scale, clip, uint8 sRGB."""
    return encode_srgb(np.asarray(nits, np.float32) / white_nits * np.float32(2.0**stops))
