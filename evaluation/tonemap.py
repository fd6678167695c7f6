"""HDR light made fit for an 8-bit picture, for reports."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def encode_srgb(linear: Array) -> Array:
    """Linear light, 1.0 = display white, to uint8 sRGB (IEC 61966-2-1); what is outside [0, 1] is clipped."""
    x = np.clip(linear, 0.0, 1.0)
    signal = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    return np.round(255.0 * signal).astype(np.uint8)


def tone_map(nits: Array, white_nits: float = 203.0, white_point: float = 16.0, knee: float = 0.4) -> Array:
    """Light in nits (..., 3), BT.709 primaries, to uint8 sRGB with highlights folded in.

    Up to `knee` of SDR white nothing changes. Above, extended Reinhard (Reinhard et al. 2002, equation 4) carries on with the same
    slope and reaches display white at `white_point` times SDR white. It works on the largest channel, so hue stays.
    """
    rgb = np.maximum(np.asarray(nits, np.float32) / white_nits, 0.0)
    largest = np.maximum(rgb.max(-1, keepdims=True), 1e-6)
    room = 1.0 - knee
    above, full = np.maximum(largest - knee, 0.0) / room, (white_point - knee) / room
    folded = knee + room * above * (1.0 + above / full**2) / (1.0 + above)
    return encode_srgb(rgb * np.where(largest > knee, folded / largest, 1.0))


def exposure(nits: Array, stops: float, white_nits: float = 203.0) -> Array:
    """Light in nits (..., 3) as a plain picture taken `stops` brighter (or, negative, darker): scale, clip, uint8 sRGB."""
    return encode_srgb(np.asarray(nits, np.float32) / white_nits * np.float32(2.0**stops))
