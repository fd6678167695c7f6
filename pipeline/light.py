"""Light levels of HDR frames, after CTA-861.3 Annex P: MaxCLL and MaxFALL, and what verify needs beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline import color, transfer

_STEPS = 16
"""Levels of the histogram to a code of 10 bits. One is 0.07 % of light wide at 1000 nits, 0.14 % at 1 nit; a neutral pixel's is exact."""
LEVELS = 876 * _STEPS
NITS = transfer.pq_eotf(torch.arange(LEVELS + 1, dtype=torch.float64) / LEVELS)


@dataclass(frozen=True)
class LightLevels:
    """Light of a run of frames in nits (cd/m2). Levels of spans merge into levels of the file with `|`.

    max_cll_nits: brightest max(R, G, B) of any pixel (CTA-861.3 MaxCLL)
    max_fall_nits: largest frame average of max(R, G, B) (CTA-861.3 MaxFALL)
    p9999_nits: largest 99.99th percentile of max(R, G, B) within one frame
    frames: how many frames were measured
    """

    max_cll_nits: float
    max_fall_nits: float
    p9999_nits: float
    frames: int

    def __or__(self, other: LightLevels) -> LightLevels:
        return LightLevels(
            max(self.max_cll_nits, other.max_cll_nits),
            max(self.max_fall_nits, other.max_fall_nits),
            max(self.p9999_nits, other.p9999_nits),
            self.frames + other.frames,
        )


def measure(y: Tensor, u: Tensor, v: Tensor, transfer_name: str) -> list[LightLevels]:
    """Light levels of every frame, after CTA-861.3 Annex P, from the 10-bit planes that go to the encoder (`color.pack`'s).

    transfer_name: "pq", or "hlg" as seen on the 1000-nit display. Chroma is interpolated to every pixel; max(R, G, B) is counted
    in a histogram 16 times finer than the codes, from which all three figures come. The 99.99th percentile is the lowest level that
    at least 99.99 % of the pixels do not exceed. Light is clipped to [0, 10000]. Raises InputError on another transfer.
    """
    frames = []
    for frame in range(y.shape[0]):
        one = (y[frame : frame + 1], u[frame : frame + 1], v[frame : frame + 1])
        if transfer_name == "pq":
            signal = color.hdr_maximum(*one)
        else:
            signal = transfer.PQ_ENCODE.apply_(color.unpack_hdr(*one, transfer_name).amax(dim=1))
        frames.append(_levels(signal))
    return frames


def _levels(signal: Tensor) -> LightLevels:
    """Levels of one frame from max(R', G', B') as PQ signals, which are overwritten."""
    level = signal.mul_(LEVELS).round_().clamp_(0, LEVELS).to(torch.int32).view(-1)
    return levels_of(torch.bincount(level, minlength=LEVELS + 1).cpu())


def levels_of(histogram: Tensor) -> LightLevels:
    """Levels of one frame from the number of its pixels at each level: (LEVELS + 1,) int64 on the CPU."""
    below = histogram.cumsum(0)
    pixels = int(below[-1])
    brightest = int(torch.searchsorted(below, pixels))
    percentile = int(torch.searchsorted(below, -(-9999 * pixels // 10000)))
    return LightLevels(
        max_cll_nits=float(NITS[brightest]),
        max_fall_nits=float((histogram * NITS).sum()) / pixels,
        p9999_nits=float(NITS[percentile]),
        frames=1,
    )
