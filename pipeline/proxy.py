"""Proxy pictures: graded light made small, for a video beside the result that plays on anything. The video itself: proxy_file.py.

    sdr   8-bit BT.709: mid-tones where the SDR had them, highlights folded in (tone_curve.py)
    hlg   10-bit HLG for a 1000-nit display, as output.transfer=hlg makes it

Only operations whose bits do not depend on threads, and sums in fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline import chroma, dither
from pipeline.color import EXTREME, OutputSpec, pack
from pipeline.stages.grade import Grade
from pipeline.tone_curve import KNEE, roll_off
from pipeline.transfer import ENCODE, HLG_PEAK_NITS

KINDS = ("sdr", "hlg")
PREFIX = "proxy_"
Planes = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Proxy:
    """Which proxy is wanted. kind: one of KINDS; width: the most pixels across of the stored picture (before any rotation tag)."""

    kind: str
    width: int

    @property
    def name(self) -> str:
        """proxy_sdr_1280: its word in Plan.extras and in ledger lines; another width is another proxy."""
        return f"{PREFIX}{self.kind}_{self.width}"


def proxy_in(names: Iterable[str]) -> Proxy | None:
    """The proxy among what is wanted beside a result, by name."""
    for name in names:
        if name.startswith(PREFIX):
            kind, width = name.removeprefix(PREFIX).split("_")
            return Proxy(kind, int(width))
    return None


def proxy_size(width: int, height: int, most: int) -> tuple[int, int]:
    """(width, height) of the proxy of a picture: even, at most `most` pixels wide, and no larger than the picture (2 at least)."""
    wide = max(2, min(width, most) // 2 * 2)
    if wide >= width - 1:
        return wide, max(2, height // 2 * 2)
    return wide, max(2, 2 * round(height * wide / (2 * width)))


def make_proxy(linear: Tensor, proxy: Proxy, out: OutputSpec, number: int) -> Planes:
    """Planes Y, Cb, Cr of one frame: (h, w) and twice (h/2, w/2), contiguous; uint8 (BT.709, chroma left) for "sdr", uint16 (as
    color.pack's) for "hlg".

    linear: (3, H, W) float32, graded: linear light, BT.709 primaries, 1.0 = SDR white; out: of the result, for its white and peak
    number: the frame's within the track (dither)
    """
    width, height = proxy_size(linear.shape[2], linear.shape[1], proxy.width)
    if proxy.kind == "hlg":
        if out.peak_nits > HLG_PEAK_NITS:
            linear = Grade(out.white_nits, HLG_PEAK_NITS)(linear[None])[0]
        small = resize(linear, height, width)[None]
        hlg = OutputSpec("hlg", out.white_nits, HLG_PEAK_NITS)
        y, u, v = pack(small, hlg, torch.tensor([number]))
        return y[0], u[0], v[0]
    small = resize(tone_mapped(linear, out.peak_nits / out.white_nits), height, width)
    return _bt709_codes(ENCODE["bt1886"].apply_(small.clamp_(0, 1)), number)


def tone_mapped(linear: Tensor, white_point: float) -> Tensor:
    """(3, H, W) linear light, 1.0 = SDR white -> the same in [0, 1]: up to the knee as it is, above folded so that `white_point` is 1."""
    light = linear.clamp(0, EXTREME).nan_to_num_(nan=0.0)
    largest = torch.maximum(torch.maximum(light[0], light[1]), light[2])
    gain = torch.where(largest > KNEE, roll_off(largest, white_point).div_(largest), 1.0)
    return light.mul_(gain).clamp_(0, 1)


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) float32 -> (C, height, width), each at most as large: a triangle filter as wide as the reduction (no ringing, no aliasing)."""
    if tuple(picture.shape[1:]) == (height, width):
        return picture.clone(memory_format=torch.contiguous_format)
    return _along(_along(picture, 1, height), 2, width)


def _along(picture: Tensor, axis: int, size: int) -> Tensor:
    if picture.shape[axis] == size:
        return picture
    shape = [1, 1, 1]
    shape[axis] = size
    out = None
    for places, weights in _taps(picture.shape[axis], size):
        part = picture.index_select(axis, places.to(picture.device)).mul_(weights.to(picture.device).view(shape))
        out = part if out is None else out.add_(part)
    return out


@lru_cache(maxsize=16)
def _taps(before: int, after: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """For each tap: where it reads (after,) int64, and its weight (after,) float32. Weights of a pixel add up to 1; edges take less taps."""
    scale = max(before / after, 1.0)
    centre = (torch.arange(after, dtype=torch.float64) + 0.5) * (before / after) - 0.5
    first = (centre - scale).floor().to(torch.int64) + 1
    places = [first + tap for tap in range(math.ceil(2 * scale) + 1)]
    inside = [(place >= 0) & (place < before) for place in places]
    weights = [
        (1 - (place - centre).abs() / scale).clamp(min=0) * within for place, within in zip(places, inside, strict=True)
    ]
    total = sum(weights)
    return tuple(
        (place.clamp(0, before - 1), (weight / total).to(torch.float32))
        for place, weight in zip(places, weights, strict=True)
    )


def _bt709_codes(signal: Tensor, number: int) -> Planes:
    """(3, H, W) R', G', B' in [0, 1] -> dithered 8-bit limited-range codes, chroma at the left site (H.273 figure, type 0)."""
    r, g, b = signal
    kr, kb = chroma.LUMA_WEIGHTS["bt709"]
    luma = (r - g).mul_(kr).add_((b - g).mul_(kb)).add_(g)
    planes = [_rounded(luma * 219 + 16, number, 0)]
    for index, (channel, weight) in enumerate(((b, kb), (r, kr)), start=1):
        across = chroma.halve_across(channel - luma)
        upper, lower = across[0::2], across[1::2]
        between = (lower - upper).mul_(0.5).add_(upper)
        planes.append(_rounded(between.mul_(224 / (2 * (1 - weight))).add_(128), number, index))
    return planes[0], planes[1], planes[2]


def _rounded(codes: Tensor, number: int, plane: int) -> Tensor:
    return dither.round_(codes, 0, number, plane, codes.shape[0]).clamp_(1, 254).to(torch.uint8)
