"""Gain map: the network's answer at half size, carried to full size along the edges of the full-size picture.

The network runs on the half-size picture; how much light it adds is a log gain, one for each of R, G and B. Gains of bright pixels are
not those of dark ones, and an edge lies finer than the half-size pixels: so each half-size pixel gets a line, gain = slope * guide +
offset, by a guided filter (He, Sun, Tang 2013; its coefficients at low resolution as in He, Sun 2015), whose guide says how near to
saturation a pixel is. Both coefficients are upsampled, and each full-size pixel reads its gain off by its own guide. What the fit leaves of
the gain is kept, so nothing is blurred. Thin dark lines before a saturated sky are taken out of the half-size picture first: the network
would darken the sky around them; their own pixels keep their light.

The same bits whatever the threads: tables, and operations that IEEE 754 rounds exactly, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.color import coded_signal
from pipeline.transfer import Curve

FLOOR_LIGHT = 1e-3
"""Added to both sides of the ratio (1.0 = SDR white), so that the gain of black is small and not the ratio of two noises."""

TOP_LIGHT = 1024.0
"""Light above it counts as this: ten stops over white, more than any output carries."""

TOP_STOPS = 10.0
"""Largest gain either way."""

GUIDE_FROM = 0.7
"""Coded signal at which the guide begins to rise; it is 1 at white. Below it gains differ little, and are upsampled as they are."""

GUIDE_NOISE = 1e-3
"""Variance of the guide (0 to 1) that counts as noise and not as an edge: the guided filter's epsilon."""

GUIDE_STEP = 1e-3
"""Smaller differences of the guide are none."""

LINES_BEFORE = 0.9
"""Thin dark structures are taken out where what stands around them is coded above this, wholly where it is white."""

LINE_SEEN = (0.02, 0.10)
"""Change of coded signal by taking a line out: below the first there was none; from the second on the pixel is one of a line."""

DARK_BELOW, DARK_UNTIL = 0.10, 0.30
"""Largest coded channel up to which the SDR's light stays as it is, and from which on the network's answer is whole. Over-exposure
takes nothing from dark pixels, so what a network does there is noise that a viewer sees in the shadows."""

_BLOCK_PIXELS = 1 << 16
_STOPS = Curve(lambda light: torch.log2(light + FLOOR_LIGHT), 0, TOP_LIGHT, 8192, fourth_root=True)
_GROWTH = Curve(lambda stops: torch.exp2(stops) - 1, -TOP_STOPS, TOP_STOPS, 20480)  # 1024 a stop: exactly 0 at 0


class HalfSize(NamedTuple):
    """The picture for the network. coded (N,3,h,w): its signal in [0, 1], thin dark lines taken out; guide, least, most (N,1,h,w): mean,
    lowest and highest guide of the full-size pixels under each one, lines left in; lines (N,1,h,w): 1 where one was taken out, 0 where none."""

    coded: Tensor
    guide: Tensor
    least: Tensor
    most: Tensor
    lines: Tensor


class Gains(NamedTuple):
    """Log gain of full-size pixels, in stops: slope * guide + offset; (N,3,h,w) each, at half size."""

    slope: Tensor
    offset: Tensor


def half_size(height: int, width: int) -> tuple[int, int]:
    """Size of the half-size picture: rounded up."""
    return -(-height // 2), -(-width // 2)


def protection(largest_coded: Tensor) -> Tensor:
    """Largest coded channel in [0, 1], any shape -> share of the network's change that is let through, [0, 1]: 0 up to DARK_BELOW, 1 from
    DARK_UNTIL on, smooth between. New tensor."""
    place = (largest_coded - DARK_BELOW).mul_(1 / (DARK_UNTIL - DARK_BELOW)).clamp_(0, 1)
    return (place * -2).add_(3).mul_(place).mul_(place)


def shrink(frames: Tensor, encoding: str) -> HalfSize:
    """Working-space frames (N,3,H,W) -> what the network gets. encoding: of its input, "bt1886", "srgb" or "linear".

    Light, clipped as a camera clips it, is averaged over 2x2 pixels: pixel i lies between the full-size pixels 2i and 2i + 1. Odd sizes
    are completed by repeating the last row or column.
    """
    coded = coded_signal(_four(_even(frames.clamp(0, 1)), torch.add).mul_(0.25), encoding)
    guide = _even(_guide(coded_signal(frames.amax(dim=1, keepdim=True), encoding)))
    closed = _three(_three(coded, torch.maximum), torch.minimum)
    share = (closed.amax(dim=1, keepdim=True) - LINES_BEFORE).mul_(1 / (1 - LINES_BEFORE)).clamp_(0, 1)
    raised = closed.sub_(coded).mul_(share)
    low, high = LINE_SEEN
    lines = (raised.amax(dim=1, keepdim=True) - low).mul_(1 / (high - low)).clamp_(0, 1)
    mean, least, most = _four(guide, torch.add).mul_(0.25), _four(guide, torch.minimum), _four(guide, torch.maximum)
    return HalfSize(coded.add_(raised).clamp_(0, 1), mean, least, most, lines)


def fit(half: HalfSize, sdr: Tensor, restored: Tensor) -> Gains:
    """The gains around each half-size pixel.

    sdr, restored (N,3,h,w): light of half.coded, and the network's; finite. Where they are the same bits, all gains are exactly 0.
    """
    gain = _stops(restored).sub_(_stops(sdr))
    seen = _guide(half.coded.amax(dim=1, keepdim=True))  # as the network saw it; the fit is of its answer
    mean_seen, mean_gain = _mean(seen), _mean(gain)
    variance = _mean(seen * seen).sub_(mean_seen * mean_seen).add_(GUIDE_NOISE)
    slope = _mean(seen * gain).sub_(mean_seen * mean_gain).div_(variance)
    offset = _mean(mean_gain.sub_(slope * mean_seen))
    slope = _mean(slope)
    pure = (half.guide * 2 - 1).square_()  # 0 where saturated and other pixels are mixed: the gain there is of neither
    offset.add_((gain - slope * half.guide).sub_(offset).mul_(pure))
    slope, offset = _within(slope, offset, gain, half)
    slope.add_((gain - slope).mul_(half.lines))  # what is behind a line has the gain of the sky around it,
    offset.sub_(offset * half.lines)  # the line itself has none
    return Gains(slope, offset)


def _within(slope: Tensor, offset: Tensor, gain: Tensor, half: HalfSize) -> tuple[Tensor, Tensor]:
    """Slope and offset so that no guide around gives a gain beyond those around: a line through few points must not overshoot."""
    least, most = _three(half.least, torch.minimum), _three(half.most, torch.maximum)
    lowest, highest = _three(gain, torch.minimum), _three(gain, torch.maximum)
    first = (slope * least).add_(offset).clamp_(lowest, highest)
    last = slope.mul_(most).add_(offset).clamp_(lowest, highest)
    slope = last.sub_(first).div_((most - least).clamp_(min=GUIDE_STEP))
    return slope, first.sub_(slope * least)


def apply(frames: Tensor, gains: Gains, encoding: str) -> Tensor:
    """Frames (N,3,H,W) with the gains of their half-size picture; new tensor. Recorded light above white and below black stays on top.

    Dark pixels stay as they are (`protection`); where the gain is 0 every pixel keeps its bits.
    """
    height, width = frames.shape[-2:]
    out = torch.empty_like(frames, memory_format=torch.contiguous_format)
    for number, frame in enumerate(frames):
        maps = F.pad(torch.cat([gains.slope[number], gains.offset[number]])[None], (1, 1, 1, 1), mode="replicate")[0]
        half_rows = max(1, _BLOCK_PIXELS // width // 2) if frames.device.type == "cpu" else -(-height // 2)
        for first in range(0, height, 2 * half_rows):
            rows = slice(first, min(first + 2 * half_rows, height))
            light = frame[:, rows]
            fine = _double(maps[:, first // 2 : first // 2 + half_rows + 2])[:, : light.shape[1], :width]
            largest = coded_signal(light.amax(dim=0), encoding)
            stops = fine[:3].mul(_guide(largest)).add_(fine[3:])
            change = _GROWTH.apply_(stops).mul_(protection(largest))
            torch.add(light, change.mul_(light.clamp(0, 1).add_(FLOOR_LIGHT)), out=out[number, :, rows])
    return out


def _guide(largest_coded: Tensor) -> Tensor:
    return (largest_coded - GUIDE_FROM).mul_(1 / (1 - GUIDE_FROM)).clamp_(0, 1)


def _stops(light: Tensor) -> Tensor:
    return _STOPS.apply_(light.clone(memory_format=torch.contiguous_format))


def _even(x: Tensor) -> Tensor:
    """Odd sizes completed by repeating the last row or column."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else x


def _double(padded: Tensor) -> Tensor:
    """(C, h+2, w+2) with one pixel of context all around -> (C, 2h, 2w): linear, pixel i between 2i and 2i + 1; flat stays exactly flat."""
    channels, high, wide = padded.shape
    broad = padded.new_empty(channels, high, 2 * (wide - 2))
    here = padded[..., 1:-1]
    for phase, near in enumerate((padded[..., :-2], padded[..., 2:])):
        broad[..., phase::2] = (near - here).mul_(0.25).add_(here)
    out = padded.new_empty(channels, high - 2, 2, broad.shape[2])
    here = broad[:, 1:-1]
    for phase, near in enumerate((broad[:, :-2], broad[:, 2:])):
        torch.sub(near, here, out=out[:, :, phase]).mul_(0.25).add_(here)
    return out.flatten(1, 2)


def _four(x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine each 2x2 pixels of (N,C,H,W), H and W even -> half the size."""
    rows = combine(x[..., 0::2, :], x[..., 1::2, :])
    return combine(rows[..., 0::2], rows[..., 1::2])


def _three(x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine the 3x3 pixels around each one, across and then down, the edge repeated."""
    wide = F.pad(x, (1, 1, 0, 0), mode="replicate")
    x = combine(combine(wide[..., :-2], wide[..., 2:]), wide[..., 1:-1])
    tall = F.pad(x, (0, 0, 1, 1), mode="replicate")
    return combine(combine(tall[..., :-2, :], tall[..., 2:, :]), tall[..., 1:-1, :])


def _mean(x: Tensor) -> Tensor:
    return _three(x, torch.add).div_(9)
