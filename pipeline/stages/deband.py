"""Deband: smooth skies of 8-bit codes become continuous before the network amplifies their steps.

A code stands for an interval of light. Where the picture is smooth, each pixel moves within its interval, towards the mean of a window as
wide as the bands: a pyramid of halved planes, coarse to fine, each level trusted where its means differ by a few codes at most. Edges and
detail of three codes or more are left out of the means and keep their bits; so does what is as restless as noise, which hides bands.

The same bits whatever the threads: tables, and operations that IEEE 754 rounds exactly, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import chroma
from pipeline.color import ColorSpec, PixelLayout
from pipeline.stages import signal

LEVELS = 6
"""Halvings of the pyramid: its coarsest pixels are 64 wide, enough for bands of 130 pixels."""

STEP_CODES = (2.0, 3.0)
"""Range of 3x3 pixels up to which they count as a band's step, and from which on as an edge."""

SLOPE_CODES = (2.0, 3.0)
"""Range of 3x3 means of a coarser level up to which it is trusted, and from which on not: steeper bands are narrower, and a finer level
serves them."""

RESTLESS = (0.5, 0.8)
"""Mean range of 3x3 pixels, each counted as one code at most, over about 12 pixels: up to the first there are bands, from the second on
noise, which hides them."""

LEAST_MOVE_CODES = 2**-8
"""Smaller moves are none, so that flat areas keep their bits."""

_DETAIL_WEIGHT = 1e-3


class Deband(nn.Module):
    """Working-space frames (N,3,H,W) in and out, made continuous within the source's quantisation.

    Works on Y', Cb and Cr as the source coded them (on R', G', B' where it coded these), in units of its code step. None of the three
    moves by more than half a code; where neighbouring pixels are two codes apart, by one. Light above white and below black is worked on
    like any other. A channel of a pixel that does not move keeps its bits.

    layout, spec: of the source, as for color.unpack. Raises InputError on names that are not known.
    """

    lead_in = 0
    lead_out = 0

    def __init__(self, layout: PixelLayout, spec: ColorSpec) -> None:
        super().__init__()
        how = chroma.coding(layout, spec)
        signal.check_transfer(spec.transfer)
        self.transfer = spec.transfer
        self._gray = layout.chroma == "gray"
        self._weights = how.luma_weights
        self._steps = (how.luma_scale,) * 3
        if how.luma_weights is not None:
            kr, kb = how.luma_weights
            self._steps = (how.luma_scale, 2 * (1 - kb) * how.chroma_scale, 2 * (1 - kr) * how.chroma_scale)

    def forward(self, linear: Tensor) -> Tensor:
        """(N, 3, H, W) float32 linear light, SDR white = 1.0 -> the same. New tensor; input untouched."""
        out = torch.empty_like(linear, memory_format=torch.contiguous_format)
        for frame, target in zip(linear, out, strict=True):
            coded = signal.encode(frame, self.transfer)
            target.copy_(signal.move(frame, coded, self._move(coded), self.transfer))
        return out

    def _move(self, coded: Tensor) -> Tensor:
        """(3, H, W) coded R', G', B' -> what to add to it."""
        red, green, blue = coded
        if self._gray:
            return moves(green / self._steps[0]).mul_(self._steps[0]).expand(3, -1, -1)
        if self._weights is None:
            return torch.stack([moves(channel / self._steps[0]).mul_(self._steps[0]) for channel in coded])
        kr, kb = self._weights
        luma = (red - green).mul_(kr).add_((blue - green).mul_(kb)).add_(green)
        planes = (luma, blue - luma, red - luma)
        move, to_blue, to_red = (
            moves(plane / step).mul_(step) for plane, step in zip(planes, self._steps, strict=True)
        )
        to_green = (to_red * (-kr / (1 - kr - kb))).sub_(to_blue * (kb / (1 - kr - kb)))
        return torch.stack([to_red.add_(move), to_green.add_(move), to_blue.add_(move)])


def moves(codes: Tensor) -> Tensor:
    """(H, W) float32 plane in units of its code step, any offset -> what to add to it, same shape; exactly 0 where it is left alone."""
    height, width = codes.shape
    spread = _around(codes, torch.maximum).sub_(_around(codes, torch.minimum))
    smooth = _falling(spread, STEP_CODES)
    smoother = _pyramid(codes, smooth)
    if smoother is None:
        return torch.zeros_like(codes)
    trust, estimate = smoother
    quiet, limit = _quiet_and_limit(spread)
    share = _double(trust, height, width).mul_(smooth).mul_(_double(quiet, height, width))
    limit = _double(limit, height, width)
    move = _double(estimate, height, width, slope=1.0).sub_(codes)
    return F.hardshrink(torch.minimum(torch.maximum(move, -limit), limit).mul_(share), LEAST_MOVE_CODES)


def _pyramid(codes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Trust (0 to 1) and estimate at half size; None where the plane is too small. weight: of each pixel in the means."""
    weight = weight.mul(1 - _DETAIL_WEIGHT).add_(_DETAIL_WEIGHT)
    total = codes * weight
    means = []
    for _ in range(LEVELS):
        if min(total.shape) < 4:
            break
        weight, total = _halve(weight), _halve(total)
        means.append(total / weight)
    if not means:
        return None
    trust = estimate = means[-1]
    for level, mean in enumerate(reversed(means)):
        smoothed = _binomial(mean)
        if level:
            smoothed.add_(_double(estimate, *mean.shape, slope=1.0).sub_(smoothed).mul_(_double(trust, *mean.shape)))
        trust = _falling(_around(mean, torch.maximum).sub_(_around(mean, torch.minimum)), SLOPE_CODES)
        estimate = smoothed.sub_(mean).mul_(trust).add_(mean)
    return trust, estimate


def _quiet_and_limit(spread: Tensor) -> tuple[Tensor, Tensor]:
    """spread (H, W): range of 3x3 pixels, in codes -> at half size: 1 where there are bands, 0 where noise; and how far a pixel may move."""
    half = tuple(-(-side // 2) for side in spread.shape)
    restless = _binomial(_halve(_halve(spread.clamp(max=1))))
    step = torch.where(spread < STEP_CODES[1], spread, 0.0)
    step = _around(_halve(_halve(step, torch.maximum), torch.maximum), torch.maximum)
    return _double(_falling(restless, RESTLESS), *half), _double(step.clamp_(1, 2).mul_(0.5), *half)


def _falling(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """1 up to the lower bound, 0 from the upper one on, a straight line between."""
    low, high = bounds
    return (high - x).mul_(1 / (high - low)).clamp_(0, 1)


def _add(a: Tensor, b: Tensor) -> Tensor:
    return (a + b).mul_(0.5)


def _halve(x: Tensor, combine: Callable[[Tensor, Tensor], Tensor] = _add) -> Tensor:
    """2x2 pixels of (H, W) combined, by default their mean; odd sizes repeat the last row or column."""
    height, width = x.shape
    if height % 2 or width % 2:
        x = F.pad(x[None, None], (0, width % 2, 0, height % 2), mode="replicate")[0, 0]
    rows = combine(x[0::2], x[1::2])
    return combine(rows[:, 0::2], rows[:, 1::2])


def _double(x: Tensor, height: int, width: int, slope: float = 0.0) -> Tensor:
    """(h, w) -> (height, width), twice as much or one less: linear, pixel i between 2i and 2i + 1; flat stays exactly flat.

    Beyond the edge the picture goes on as it came, slope 1, or stays as it is there, slope 0.
    """
    x = _extended(_extended(x, 0, slope), 1, slope)
    tall = x.new_empty(2 * (x.shape[0] - 2), x.shape[1])
    here = x[1:-1]
    for phase, near in enumerate((x[:-2], x[2:])):
        tall[phase::2] = (near - here).mul_(0.25).add_(here)
    tall = tall[:height]
    out = x.new_empty(height, 2 * (x.shape[1] - 2))
    here = tall[:, 1:-1]
    for phase, near in enumerate((tall[:, :-2], tall[:, 2:])):
        out[:, phase::2] = (near - here).mul_(0.25).add_(here)
    return out[:, :width]


def _around(x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine the 3x3 pixels around each one of (H, W), the edge repeated."""
    wide = _extended(x, 1, 0.0)
    x = combine(combine(wide[:, :-2], wide[:, 2:]), x)
    tall = _extended(x, 0, 0.0)
    return combine(combine(tall[:-2], tall[2:]), x)


def _binomial(x: Tensor) -> Tensor:
    """[1 2 1]/4 across and down (H, W), which goes on beyond the edge as it came there; flat stays exactly flat."""
    wide = _extended(x, 1, 1.0)
    x = (wide[:, :-2] - x).add_(wide[:, 2:] - x).mul_(0.25).add_(x)
    tall = _extended(x, 0, 1.0)
    return (tall[:-2] - x).add_(tall[2:] - x).mul_(0.25).add_(x)


def _extended(x: Tensor, dim: int, slope: float) -> Tensor:
    """(h, w) with one row (dim 0) or column (dim 1) more at either end, which goes on by `slope` times the last difference."""
    count = x.shape[dim]
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, count - 1, 1)
    if count == 1:
        return torch.cat([first, x, last], dim)
    before = (first - x.narrow(dim, 1, 1)).mul_(slope).add_(first)
    after = (last - x.narrow(dim, count - 2, 1)).mul_(slope).add_(last)
    return torch.cat([before, x, after], dim)
