"""Y'CbCr codes <-> R'G'B' signals: matrices, ranges, and chroma samples put where they belong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.color import ColorSpec, PixelLayout

SUBSAMPLING = {
    "420": (2, 2),
    "422": (2, 1),
    "444": (1, 1),
    "440": (1, 2),
    "411": (4, 1),
    "410": (4, 4),
    "gray": (1, 1),
}
"""Luma samples per chroma sample, across and down."""
LUMA_WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}
"""Kr and Kb: BT.709 3.2, BT.601 2.5.1, BT.2020 Table 4 (non-constant luminance)."""
_LOCATIONS = {
    "left": (0.0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0.0, 0.0),
    "top": (0.5, 0.0),
    "bottomleft": (0.0, 1.0),
    "bottom": (0.5, 1.0),
}
"""Place of a chroma sample between the first (0) and the last (1) of its luma samples, across and down (H.273 clause 8.7)."""


@dataclass(frozen=True)
class Coding:
    """Numbers that turn codes into signals: signal = (code - offset) * scale."""

    across: int
    down: int
    across_offset: float
    down_offset: float
    luma_offset: int
    luma_scale: float
    chroma_offset: int
    chroma_scale: float
    luma_weights: tuple[float, float] | None


def _choose(value: str, legal: dict, name: str) -> object:
    if value not in legal:
        raise InputError(f"{name} {value!r} is not known; legal are {', '.join(legal)}.")
    return legal[value]


def coding(layout: PixelLayout, spec: ColorSpec) -> Coding:
    """Everything but transfer and primaries that a layout and a colour spec say. Raises InputError on names that are not known."""
    across, down = _choose(layout.chroma, SUBSAMPLING, "chroma layout")
    where_across, where_down = _choose(spec.chroma_location, _LOCATIONS, "chroma location")
    weights = _choose(spec.matrix, {**LUMA_WEIGHTS, "rgb": None}, "matrix")
    limited = _choose(spec.range, {"limited": True, "full": False}, "range")
    if not 8 <= layout.bit_depth <= 16:
        raise InputError(f"bit depth {layout.bit_depth} is not known; legal are 8 to 16.")
    if weights is None and layout.chroma not in ("444", "gray"):
        raise InputError(f"matrix 'rgb' needs chroma layout 444, not {layout.chroma}.")
    unit, top = 1 << (layout.bit_depth - 8), (1 << layout.bit_depth) - 1
    return Coding(
        across=across,
        down=down,
        across_offset=where_across * (across - 1),
        down_offset=where_down * (down - 1),
        luma_offset=16 * unit if limited else 0,
        luma_scale=1 / (219 * unit) if limited else 1 / top,
        chroma_offset=128 * unit,
        chroma_scale=1 / (224 * unit) if limited else 1 / top,
        luma_weights=weights,
    )


def _mix(near: Tensor, far: Tensor, weight: float) -> Tensor:
    """near + weight * (far - near): a flat picture stays exactly flat. Returns a new tensor, or near itself for weight 0."""
    return near if weight == 0 else (far - near).mul_(weight).add_(near)


def _upsample_across(rows: Tensor, width: int, factor: int, offset: float) -> Tensor:
    if factor == 1:
        return rows
    padded = torch.cat((rows[:, :1], rows, rows[:, -1:]), dim=1)
    out = rows.new_empty(rows.shape[0], width)
    for phase in range(min(factor, width)):
        place = (phase - offset) / factor
        first = math.floor(place) + 1
        count = -(-(width - phase) // factor)
        near, far = padded[:, first : first + count], padded[:, first + 1 : first + 1 + count]
        out[:, phase::factor] = _mix(near, far, place - math.floor(place))
    return out


def upsample_rows(plane: Tensor, first_row: int, last_row: int, width: int, how: Coding) -> Tensor:
    """Rows first_row <= y < last_row of a chroma plane (h, w) at luma size: (rows, width) float32, in codes about the neutral code.

    Linear interpolation between sample places, edges repeated: what FFmpeg's scale filter does with flags=bilinear.
    """
    luma_rows = torch.arange(first_row, last_row, dtype=torch.float64)
    place = (luma_rows - how.down_offset) / how.down
    near = place.floor()
    weight = (place - near).to(torch.float32)
    near = near.to(torch.int64)
    top, bottom = near.clamp(0, plane.shape[0] - 1), (near + 1).clamp(0, plane.shape[0] - 1)
    base, end = int(top[0]), int(bottom[-1]) + 1
    codes = plane[base:end].to(torch.float32).sub_(how.chroma_offset)
    wide = _upsample_across(codes, width, how.across, how.across_offset)
    if how.down == 1:
        return wide[: last_row - first_row]
    device = wide.device
    upper = wide.index_select(0, (top - base).to(device))
    lower = wide.index_select(0, (bottom - base).to(device))
    return lower.sub_(upper).mul_(weight[:, None].to(device)).add_(upper)


def signal_rows(
    planes: tuple[Tensor, ...], how: Coding, first_row: int, last_row: int, out: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Write rows first_row <= y < last_row of one frame's R', G', B' into out, three (rows, W) float32 tensors.

    planes: 2-D code planes of the frame. Signals are 0 to 1 between nominal black and white, and beyond where the codes are.
    """
    red, green, blue = out

    def luma_like(plane: Tensor, target: Tensor) -> Tensor:
        return target.copy_(plane[first_row:last_row]).sub_(how.luma_offset).mul_(how.luma_scale)

    if len(planes) == 1:
        luma_like(planes[0], red)
        green.copy_(red)
        blue.copy_(red)
        return
    if how.luma_weights is None:
        for plane, target in zip(planes, (green, blue, red), strict=True):
            luma_like(plane, target)
        return
    kr, kb = how.luma_weights
    kg = 1 - kr - kb
    red_scale, blue_scale = 2 * (1 - kr) * how.chroma_scale, 2 * (1 - kb) * how.chroma_scale
    luma = luma_like(planes[0], green)
    u = upsample_rows(planes[1], first_row, last_row, luma.shape[1], how)
    v = upsample_rows(planes[2], first_row, last_row, luma.shape[1], how)
    torch.mul(v, red_scale, out=red).add_(luma)
    torch.mul(u, blue_scale, out=blue).add_(luma)
    luma.sub_(u.mul_(blue_scale * kb / kg)).sub_(v.mul_(red_scale * kr / kg))


def check_planes(planes: tuple[Tensor, ...], layout: PixelLayout) -> tuple[int, int, int]:
    """(N, H, W) of planes that fit the layout; raises ValueError, a caller's mistake, when they do not."""
    if len(planes) != (1 if layout.chroma == "gray" else 3):
        raise ValueError(f"chroma layout {layout.chroma} does not come in {len(planes)} planes")
    n, height, width = planes[0].shape
    across, down = SUBSAMPLING[layout.chroma]
    for plane in planes[1:]:
        if tuple(plane.shape) != (n, -(-height // down), -(-width // across)):
            raise ValueError(f"plane {tuple(plane.shape)} does not fit {layout.chroma} luma {(n, height, width)}")
    for plane in planes:
        if plane.dtype not in (torch.uint8, torch.uint16):
            raise ValueError(f"planes are uint8 or uint16, not {plane.dtype}")
    return n, height, width


def halve_across(signal: Tensor) -> Tensor:
    """(rows, W), W even -> (rows, W/2) at the even columns: [1 2 1]/4, edges repeated."""
    even, odd = signal[:, 0::2], signal[:, 1::2]
    return _halve(even, odd, torch.cat((even[:, :1], odd[:, :-1]), dim=1))


def halve_down(signal: Tensor) -> Tensor:
    """(H, W), H even -> (H/2, W) at the even rows: [1 2 1]/4, edges repeated."""
    even, odd = signal[0::2], signal[1::2]
    return _halve(even, odd, torch.cat((even[:1], odd[:-1])))


def _halve(even: Tensor, after: Tensor, before: Tensor) -> Tensor:
    # Written as differences from the centre, so that a flat picture stays exactly flat.
    return (before - even).add_(after - even).mul_(0.25).add_(even)
