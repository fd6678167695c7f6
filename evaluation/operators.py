"""The two tone-mapping operators of the paper's Table 2: Reinhard et al. 2002, global, and Kim and Kautz 2008.

Both map luminance and scale the three channels alike; the result is linear display light, 0 to 1. They look at the picture they
map (its mean, its extremes), so result and truth are each mapped by their own statistics, as viewers of each would see them.
"""

from __future__ import annotations

import numpy as np

from evaluation.metrics import LUMA_709

Array = np.ndarray
DARKEST = 1e-6
"""Luminance added before a logarithm is taken, relative light."""

REINHARD_KEY = 0.18
KIM_KAUTZ_C1 = 3.0
KIM_KAUTZ_C2 = 0.5
KIM_KAUTZ_DISPLAY_NITS = (0.3, 300.0)
KIM_KAUTZ_PERCENTILES = (1.0, 99.0)


def reinhard(light: Array, key: float = REINHARD_KEY) -> Array:
    """Photographic tone reproduction, the global operator (Reinhard et al. 2002, equations 1, 2 and 4).

    light: (H, W, 3) linear, BT.709 primaries, any unit, at least 0. The log-average luminance comes at `key`; the brightest pixel
    at 1 (the paper's default for L_white). Returns (H, W, 3) float64, linear, clipped to [0, 1].
    """
    luminance = light @ LUMA_709
    scaled = key / np.exp(np.mean(np.log(DARKEST + luminance))) * luminance
    white = max(float(scaled.max()), DARKEST)
    return _with_luminance(light, luminance, scaled * (1.0 + scaled / white**2) / (1.0 + scaled))


def kim_kautz(light: Array, c1: float = KIM_KAUTZ_C1, c2: float = KIM_KAUTZ_C2) -> Array:
    """Consistent tone reproduction (Kim and Kautz 2008): a Gaussian of log luminance decides how much contrast each level keeps.

    light: (H, W, 3) linear, BT.709 primaries, any unit, at least 0. Luminance L is taken in natural logarithms, m is its mean and d
    its range. k1 is the display's range (0.3 to 300 nits) over d; w = exp(-(L - m)^2 / 2 s^2) with s = d / c1; k2 = (1 - k1) w + k1;
    the result exp(c2 k2 (L - m) + m) is stretched from its 1st and 99th percentiles to [0, 1]. A picture of one luminance, which has
    no range to map, becomes mid grey (0.5). Returns (H, W, 3) float64, linear, clipped to [0, 1].
    """
    luminance = light @ LUMA_709
    log = np.log(luminance + DARKEST)
    mean, span = log.mean(), log.max() - log.min()
    if span < 1e-9:
        return _with_luminance(light, luminance, np.full(luminance.shape, 0.5))
    dark, bright = np.log(KIM_KAUTZ_DISPLAY_NITS)
    k1 = (bright - dark) / span
    weight = np.exp(-((log - mean) ** 2) / (2.0 * (span / c1) ** 2))
    shown = np.exp(c2 * ((1.0 - k1) * weight + k1) * (log - mean) + mean)
    low, high = np.percentile(shown, KIM_KAUTZ_PERCENTILES)
    return _with_luminance(light, luminance, (shown - low) / max(high - low, 1e-12))


def _with_luminance(light: Array, old: Array, new: Array) -> Array:
    """The picture with luminance `new` (clipped to [0, 1]) and its own ratios of channels; black stays black."""
    ratio = np.clip(new, 0.0, 1.0) / np.maximum(old, 1e-12)
    return np.clip(light * ratio[..., None], 0.0, 1.0)
