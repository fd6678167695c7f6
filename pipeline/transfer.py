"""Transfer functions: coded signal <-> light. Exact formulas, and fast tables of them for whole frames.

The exact functions take a float or a tensor and use torch's power, which is right to the last bits but not the same to the last bit at
every place of a tensor (its vector loops end with another routine). The tables (`Curve`) use only operations whose bits depend on a
pixel's value alone: not on batch, block or thread count. IEEE 754 rounds them exactly, all but torch's square root on a CPU, which is off in
the last bit for a fifth of all numbers, at every place alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

PQ_PEAK_NITS = 10000.0
"""Light of PQ signal 1.0 (SMPTE ST 2084)."""
HLG_PEAK_NITS = 1000.0
"""Peak of the display that our HLG is made for."""
HLG_GAMMA = 1.2
"""System gamma of that display (BT.2100 Table 5, note 5f: 1.2 at 1000 cd/m2)."""

_PQ_M1, _PQ_M2 = 2610 / 16384, 2523 / 4096 * 128
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_HLG_A = 0.17883277
_HLG_B = 1 - 4 * _HLG_A
_HLG_C = 0.5 - _HLG_A * math.log(4 * _HLG_A)
_CHUNK = 1 << 16
TINY = 1e-12


def _float_or_tensor(function: Callable[[Tensor], Tensor], x: Number) -> Number:
    if isinstance(x, Tensor):
        return function(x)
    return function(torch.tensor(x, dtype=torch.float64)).item()


def pq_eotf(signal: Number) -> Number:
    """PQ signal (any shape; clamped to [0, 1]) -> nits, 0 to 10000. BT.2100 Table 4, reference EOTF."""

    def function(x: Tensor) -> Tensor:
        root = x.clamp(0, 1) ** (1 / _PQ_M2)
        return PQ_PEAK_NITS * ((root - _PQ_C1).clamp(min=0) / (_PQ_C2 - _PQ_C3 * root)) ** (1 / _PQ_M1)

    return _float_or_tensor(function, signal)


def pq_inverse_eotf(nits: Number) -> Number:
    """Nits (any shape; clamped to 0 to 10000) -> PQ signal in [0, 1]. BT.2100 Table 4."""

    def function(x: Tensor) -> Tensor:
        root = (x / PQ_PEAK_NITS).clamp(0, 1) ** _PQ_M1
        return ((_PQ_C1 + _PQ_C2 * root) / (1 + _PQ_C3 * root)) ** _PQ_M2

    return _float_or_tensor(function, nits)


def hlg_oetf(scene: Number) -> Number:
    """Scene light, 0 to 1 (clamped) -> HLG signal in [0, 1]. BT.2100 Table 5, reference OETF."""

    def function(x: Tensor) -> Tensor:
        x = x.clamp(0, 1)
        upper = _HLG_A * torch.log((12 * x - _HLG_B).clamp(min=TINY)) + _HLG_C
        return torch.where(x <= 1 / 12, torch.sqrt(3 * x), upper)

    return _float_or_tensor(function, scene)


def hlg_inverse_oetf(signal: Number) -> Number:
    """HLG signal (clamped to [0, 1]) -> scene light, 0 to 1. BT.2100 Table 5."""

    def function(x: Tensor) -> Tensor:
        x = x.clamp(0, 1)
        return torch.where(x <= 0.5, x * x / 3, (torch.exp((x - _HLG_C) / _HLG_A) + _HLG_B) / 12)

    return _float_or_tensor(function, signal)


def hlg_ootf(scene: Number) -> Number:
    """Scene light of a neutral pixel, 0 to 1 -> nits on the 1000-nit display. BT.2100 Table 5, reference OOTF with R = G = B."""
    return _float_or_tensor(lambda x: HLG_PEAK_NITS * x.clamp(min=0) ** HLG_GAMMA, scene)


def hlg_inverse_ootf(nits: Number) -> Number:
    """Nits of a neutral pixel on the 1000-nit display -> scene light. Inverse of `hlg_ootf`."""
    return _float_or_tensor(lambda x: (x.clamp(min=0) / HLG_PEAK_NITS) ** (1 / HLG_GAMMA), nits)


def bt1886(signal: Number) -> Number:
    """SDR signal -> light with white = 1: gamma 2.4, black at 0 (BT.1886 Annex 1). Odd symmetric, so negatives keep their sign."""
    return _float_or_tensor(lambda x: torch.sign(x) * x.abs() ** 2.4, signal)


def bt1886_inverse(light: Number) -> Number:
    """Light with white = 1 -> SDR signal. Inverse of `bt1886`, negatives included."""
    return _float_or_tensor(lambda x: torch.sign(x) * x.abs() ** (1 / 2.4), light)


def srgb(signal: Number) -> Number:
    """sRGB signal -> light with white = 1 (IEC 61966-2-1), odd symmetric, not clipped above 1."""

    def function(x: Tensor) -> Tensor:
        size = x.abs()
        return torch.sign(x) * torch.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4)

    return _float_or_tensor(function, signal)


def srgb_inverse(light: Number) -> Number:
    """Light with white = 1 -> sRGB signal. Inverse of `srgb`, negatives included."""

    def function(x: Tensor) -> Tensor:
        size = x.abs()
        return torch.sign(x) * torch.where(size <= 0.0031308, size * 12.92, 1.055 * size ** (1 / 2.4) - 0.055)

    return _float_or_tensor(function, light)


class Curve:
    """A function of one variable as a table with linear interpolation, for whole frames.

    The argument is clamped to [low, high]. With `fourth_root` (low must be 0) the table is even in the fourth root of the argument:
    light spans many decades, and its fourth root is close to how PQ, HLG and gamma code it. steps: intervals of the table; per_unit: of
    them in one unit of the argument, or of its fourth root.
    """

    def __init__(
        self, exact: Callable[[Tensor], Tensor], low: float, high: float, steps: int, fourth_root: bool = False
    ) -> None:
        self.low = low
        self._fourth_root = fourth_root
        self.steps = steps
        self.per_unit = steps / (high**0.25 if fourth_root else high - low)
        axis = torch.arange(steps + 1, dtype=torch.float64) / self.per_unit
        values = exact(axis**4 if fourth_root else low + axis)
        slopes = torch.zeros_like(values)
        slopes[:-1] = values.diff()
        self._tables = {torch.device("cpu"): (values.float(), slopes.float())}

    def table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Values, and slopes to the next, at each step: (steps + 1,) float32 each, uploaded once."""
        if device not in self._tables:
            values, slopes = self._tables[torch.device("cpu")]
            self._tables[device] = (values.to(device), slopes.to(device))
        return self._tables[device]

    def apply_(self, x: Tensor) -> Tensor:
        """Replace every element of x (float32, contiguous, any shape) by the function of it; returns x. NaN stays NaN."""
        values, slopes = self.table(x.device)
        flat = x.view(-1)
        chunk = _CHUNK if x.device.type == "cpu" else max(1, flat.numel())
        for start in range(0, flat.numel(), chunk):
            part = flat[start : start + chunk]
            if self._fourth_root:
                part.clamp_(min=0).sqrt_().sqrt_()
            elif self.low:
                part.sub_(self.low)
            part.mul_(self.per_unit).clamp_(0, self.steps)
            index = part.to(torch.int32).clamp_(0, self.steps)
            part.sub_(index).mul_(slopes.index_select(0, index)).add_(values.index_select(0, index))
        return x


def _signed(exact: Callable[[Tensor], Tensor]) -> Curve:
    """A curve on the signals that any matrix can make of legal codes (-1.14 to 2.16), 4096 steps a unit."""
    return Curve(exact, -1.25, 2.25, 14336)


# Errors against the exact formulas, as tests/test_color.py measures them: below 5e-7 of white for the two SDR decoders, below 0.001 code
# of 10 bits for every encoder, below 2e-5 of the light itself for the PQ decoder above 0.01 nit.
DECODE = {"bt1886": _signed(bt1886), "srgb": _signed(srgb)}
"""SDR signal -> light, in [-1.25, 2.25]."""
ENCODE = {
    "bt1886": Curve(bt1886_inverse, 0, 1, 8192, fourth_root=True),
    "srgb": Curve(srgb_inverse, 0, 1, 8192, fourth_root=True),
}
"""Light in [0, 1] -> SDR signal."""
# PQ's formula gives 7e-7 for no light; the table gives 0, so that dithered black is one code throughout.
PQ_ENCODE = Curve(lambda nits: pq_inverse_eotf(nits) * (nits > 0), 0, PQ_PEAK_NITS, 16384, fourth_root=True)
PQ_DECODE = Curve(pq_eotf, 0, 1, 14016)
HLG_OETF = Curve(hlg_oetf, 0, 1, 8192, fourth_root=True)
HLG_INVERSE_OETF = Curve(hlg_inverse_oetf, 0, 1, 14016)
HLG_OOTF = Curve(hlg_ootf, 0, 1, 16384, fourth_root=True)
HLG_INVERSE_OOTF = Curve(hlg_inverse_ootf, 0, HLG_PEAK_NITS, 16384, fourth_root=True)


def _luminance(r: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return (r * 0.2627).add_(g * 0.6780).add_(b * 0.0593)


def hlg_encode_(r: Tensor, g: Tensor, b: Tensor) -> None:
    """BT.2020 nits, three contiguous float32 tensors of one shape -> HLG signals, in place (BT.2100 Table 5; gain of one luminance for
    all three channels, so hue stays). Light is clamped to 0 to 1000 nits first."""
    for channel in (r, g, b):
        channel.clamp_(0, HLG_PEAK_NITS)
    luminance = _luminance(r, g, b)
    gain = HLG_INVERSE_OOTF.apply_(luminance.clone()).div_(luminance.add_(TINY))
    for channel in (r, g, b):
        HLG_OETF.apply_(channel.mul_(gain))


def hlg_decode_(r: Tensor, g: Tensor, b: Tensor) -> None:
    """HLG signals, three contiguous float32 tensors of one shape -> BT.2020 nits on the 1000-nit display, in place (BT.2100 Table 5)."""
    for channel in (r, g, b):
        HLG_INVERSE_OETF.apply_(channel)
    luminance = _luminance(r, g, b)
    gain = HLG_OOTF.apply_(luminance.clone()).div_(luminance.add_(TINY))
    for channel in (r, g, b):
        channel.mul_(gain)
