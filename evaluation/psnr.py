"""The measures of one picture against its truth: PSNR in five encodings, and SSIM in one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from kornia.metrics import ssim

from evaluation import operators
from evaluation.metrics import LUMA_709, limit, pu21
from evaluation.tonemap import MU_METRICS, compress, srgb_signal

Array = np.ndarray
SSIM_WINDOW = 11
"""Side in pixels of SSIM's Gaussian window (sigma 1.5; Wang et al. 2004)."""
PEAK = 1.0
"""The peak of PSNR-L, of PSNR-mu and of the two after tone mapping: the full scale of the light, and of the codes."""


@dataclass(frozen=True)
class Viewing:
    """mu: of PSNR-mu. unit_nits: luminance of light 1.0 on the display. limit_nits: the brightest that is compared in nits (PU21, the
    VDPs): both sides are limited to it, hue kept."""

    mu: float = MU_METRICS
    unit_nits: float = 203.0
    limit_nits: float = 1000.0


def measure(result: Array, truth: Array, viewing: Viewing) -> dict[str, float]:
    """psnr_l, psnr_mu, psnr_pu21, ssim_pu21, psnr_reinhard and psnr_kim_kautz of one picture.

    result, truth: (H, W, 3) linear light, BT.709 primaries, normalised as the data set is; negative light counts as none. PSNR is in dB
    and infinite for equal pictures:
    - psnr_l: of the light itself, peak 1
    - psnr_mu: after log(1 + mu tanh(I)) / log(1 + mu), peak 1 (supplement, Eq. 1)
    - psnr_pu21, ssim_pu21: PU21 (banding_glare) of nits; the peak is the code of limit_nits. SSIM is over the three channels and all
      windows that lie whole in the picture; NaN for pictures smaller than the window
    - psnr_reinhard, psnr_kim_kautz: after these operators, each side by its own statistics, coded as sRGB, peak 1
    """
    result, truth = (np.maximum(np.asarray(light, np.float64), 0.0) for light in (result, truth))
    codes = [pu21(limit(light * viewing.unit_nits, viewing.limit_nits)) for light in (result, truth)]
    peak_code = float(pu21(np.array(viewing.limit_nits)))
    return {
        "psnr_l": psnr(result, truth, PEAK),
        "psnr_mu": psnr(compress(result, viewing.mu), compress(truth, viewing.mu), PEAK),
        "psnr_pu21": psnr(codes[0], codes[1], peak_code),
        "ssim_pu21": structural_similarity(codes[0], codes[1], peak_code),
        "psnr_reinhard": psnr(*(srgb_signal(operators.reinhard(light)) for light in (result, truth)), PEAK),
        "psnr_kim_kautz": psnr(*(srgb_signal(operators.kim_kautz(light)) for light in (result, truth)), PEAK),
    }


def psnr(a: Array, b: Array, peak: float) -> float:
    """10 log10(peak^2 / mean squared difference) in dB; infinite when there is none."""
    square = float(np.mean((a - b) ** 2, dtype=np.float64))
    return 10.0 * math.log10(peak**2 / square) if square > 0 else math.inf


def structural_similarity(a: Array, b: Array, peak: float) -> float:
    """Mean SSIM (Wang et al. 2004, kornia's) of two (H, W, 3) pictures of codes up to `peak`; NaN when they are smaller than the window."""
    if min(a.shape[:2]) < SSIM_WINDOW:
        return math.nan
    tensors = (torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None] for x in (a, b))
    return float(ssim(*tensors, window_size=SSIM_WINDOW, max_val=float(peak), eps=0.0, padding="valid").mean())


def fitted_scale(result: Array, truth: Array, floor: float = 1e-4) -> float:
    """The number to multiply the result by so that it is as bright as the truth: the median of the ratio of luminances (BT.709),
    over pixels where both are above `floor`; 1.0 when there is none."""
    ours, theirs = (np.asarray(light, np.float64) @ LUMA_709 for light in (result, truth))
    known = (ours > floor) & (theirs > floor)
    return float(np.exp(np.median(np.log(theirs[known] / ours[known])))) if known.any() else 1.0
