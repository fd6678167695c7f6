"""The curve that folds highlights into the range of an SDR picture, for proxies, reports and figures."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

Light = TypeVar("Light", np.ndarray, Tensor)

KNEE = 0.4
"""Of SDR white: mid-tones up to here stay where the SDR picture had them."""


def roll_off(largest: Light, white_point: float, knee: float = KNEE) -> Light:
    """Largest channel of each pixel (any shape, 1.0 = SDR white) -> what becomes of it; meant for those above `knee` alone.

    Extended Reinhard (Reinhard et al. 2002, equation 4), carried on from the knee with the same slope; `white_point` (at least 1, times
    SDR white) becomes 1. Where all channels are scaled alike, hue stays. Only operations that round alike everywhere.
    """
    room = 1.0 - knee
    above, full = (largest - knee).clip(0.0, None) / room, (white_point - knee) / room
    return knee + room * above * (1.0 + above / full**2) / (1.0 + above)
