"""Colour: YUV <-> RGB <-> linear light, on tensors.

Working space: float32 (N, 3, H, W), linear light, BT.709 primaries, 1.0 = SDR white. Frames are worked on one at a time and, on a
CPU, some rows at a time: fast because the rows stay in the cache, and the same bits whatever the batch and the thread count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pipeline import chroma, dither, transfer
from pipeline.errors import InputError


@dataclass(frozen=True)
class ColorSpec:
    """How the codes of a video become light. Every field is resolved (no "auto").

    matrix: "bt709", "bt601", "bt2020" or "rgb" (planes are G, B, R as FFmpeg's gbrp)
    range: "limited" or "full"
    transfer: "bt1886" (gamma 2.4, black at 0), "srgb" or "linear"
    primaries: "bt709", "bt601-525", "bt601-625" or "bt2020"
    chroma_location: "left", "center", "topleft", "top", "bottomleft" or "bottom"
    """

    matrix: str
    range: str
    transfer: str
    primaries: str
    chroma_location: str


@dataclass(frozen=True)
class PixelLayout:
    """Shape of the planes: chroma "420", "422", "444", "440", "411", "410" or "gray"; bit_depth 8 to 16."""

    chroma: str
    bit_depth: int


@dataclass(frozen=True)
class OutputSpec:
    """The HDR signal to make: transfer "pq" or "hlg"; white_nits and peak_nits in cd/m2; chroma "420" or "422"."""

    transfer: str
    white_nits: float
    peak_nits: float
    chroma: str = "420"


PRIMARIES = {
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt601-525": ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    "bt601-625": ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
}
"""CIE x, y of red, green, blue (H.273 Table 2); white is D65 for all."""
_D65 = (0.3127, 0.3290)
HDR_LAYOUTS = {name: PixelLayout(name, 10) for name in ("420", "422")}
HDR_SPEC = ColorSpec("bt2020", "limited", "linear", "bt2020", "topleft")
_BLOCK_PIXELS = 1 << 16
EXTREME = 1e4
TOP_SIGNAL = {"limited": (254 - 16) / 219, "full": 1.0}
"""The highest R', G' or B' that a video interface carries (BT.709 clause 4.8, BT.1886): a display shows no more, whatever Cb and Cr say."""


@lru_cache(maxsize=16)
def primaries_matrix(source: str, target: str) -> tuple[tuple[float, float, float], ...]:
    """3x3 matrix, rows first, from linear RGB of one set of primaries to another's, in double precision (SMPTE RP 177)."""

    def to_xyz(name: str) -> np.ndarray:
        columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[name]]).T
        x, y = _D65
        return columns * np.linalg.solve(columns, np.array((x / y, 1, (1 - x - y) / y)))

    for name in (source, target):
        if name not in PRIMARIES:
            raise InputError(f"primaries {name!r} are not known; legal are {', '.join(PRIMARIES)}.")
    return tuple(tuple(row) for row in np.linalg.solve(to_xyz(target), to_xyz(source)).tolist())


def _convert_primaries_(r: Tensor, g: Tensor, b: Tensor, source: str, target: str) -> None:
    """In place. Rows of the matrix sum to 1, so each is applied as two differences: neutral light stays exactly neutral."""
    if source == target:
        return
    matrix = primaries_matrix(source, target)
    g_r, b_r, b_g = g - r, b - r, b - g
    b.sub_(b_r * matrix[2][0]).sub_(b_g.mul(matrix[2][1]))
    g.sub_(g_r * matrix[1][0]).add_(b_g.mul_(matrix[1][2]))
    r.add_(g_r.mul_(matrix[0][1])).add_(b_r.mul_(matrix[0][2]))


def _blocks(height: int, width: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Row ranges of a frame to work on at a time: an even count of rows, sized for the cache on a CPU, the whole frame on a GPU."""
    rows = height if device.type != "cpu" else max(2, _BLOCK_PIXELS // width // 2 * 2)
    for first in range(0, height, rows):
        yield first, min(first + rows, height)


def _unpack_frame(planes: tuple[Tensor, ...], how: chroma.Coding, spec: ColorSpec, out: Tensor) -> None:
    for first, last in _blocks(out.shape[1], out.shape[2], out.device):
        r, g, b = (out[channel, first:last] for channel in range(3))
        chroma.signal_rows(planes, how, first, last, (r, g, b))
        for channel in (r, g, b):
            channel.clamp_(max=TOP_SIGNAL[spec.range])
        if spec.transfer != "linear":
            for channel in (r, g, b):
                transfer.DECODE[spec.transfer].apply_(channel)
        _convert_primaries_(r, g, b, spec.primaries, "bt709")


def unpack(planes: tuple[Tensor, ...], layout: PixelLayout, spec: ColorSpec) -> Tensor:
    """Code planes -> working space, (N, 3, H, W) float32.

    planes: (N, h, w) uint8 or uint16, Y Cb Cr (or G B R, or gray alone); chroma planes of odd sizes are rounded up. Range comes from
    spec alone. Codes above nominal white become light above 1, up to code 254 of 8 bits; negative signals become negative light. Raises InputError on names
    that are not known, ValueError on planes that do not fit the layout.
    """
    n, height, width = chroma.check_planes(planes, layout)
    how = chroma.coding(layout, spec)
    if spec.transfer != "linear" and spec.transfer not in transfer.DECODE:
        raise InputError(f"transfer {spec.transfer!r} is not known; legal are {', '.join(transfer.DECODE)}, linear.")
    primaries_matrix(spec.primaries, "bt709")
    out = torch.empty(n, 3, height, width, dtype=torch.float32, device=planes[0].device)
    for frame in range(n):
        _unpack_frame(tuple(plane[frame] for plane in planes), how, spec, out[frame])
    return out


def coded_signal(linear: Tensor, transfer_name: str) -> Tensor:
    """Working space -> what the camera's file coded, clamped to [0, 1]: the input of the network. New tensor, float32, same shape.

    transfer_name: "bt1886", "srgb" or "linear", the ColorSpec's. NaN stays NaN.
    """
    signal = linear.to(torch.float32, copy=True, memory_format=torch.contiguous_format).clamp_(0, 1)
    if transfer_name == "linear":
        return signal
    if transfer_name not in transfer.ENCODE:
        raise InputError(f"transfer {transfer_name!r} is not known; legal are {', '.join(transfer.ENCODE)}, linear.")
    return transfer.ENCODE[transfer_name].apply_(signal)


def check_output(name: str) -> None:
    if name not in ("pq", "hlg"):
        raise InputError(f"output transfer {name!r} is not known; legal are pq, hlg.")


def _hdr_signals(light: Tensor, out: OutputSpec) -> tuple[Tensor, Tensor, Tensor]:
    """(3, rows, W) of the working space -> R', G', B' of BT.2020, new tensors."""
    r, g, b = (light[channel].clamp(-EXTREME, EXTREME).nan_to_num_(nan=0.0) for channel in range(3))
    _convert_primaries_(r, g, b, "bt709", "bt2020")
    for channel in (r, g, b):
        channel.mul_(out.white_nits).clamp_(0, out.peak_nits)
    if out.transfer == "hlg":
        transfer.hlg_encode_(r, g, b)
    else:
        for channel in (r, g, b):
            transfer.PQ_ENCODE.apply_(channel)
    return r, g, b


def _write_codes(codes: Tensor, target: Tensor) -> None:
    target.view(torch.int16).copy_(codes.clamp_(4, 1019))


def _pack_frame(light: Tensor, out: OutputSpec, number: int, planes: tuple[Tensor, Tensor, Tensor]) -> None:
    height, width = light.shape[1:]
    kr, kb = chroma.LUMA_WEIGHTS["bt2020"]
    halves = [torch.empty(height, width // 2, dtype=torch.float32, device=light.device) for _ in range(2)]
    blocks = list(_blocks(height, width, light.device))
    block_rows = blocks[0][1]
    for first, last in blocks:
        r, g, b = _hdr_signals(light[:, first:last], out)
        luma = (r - g).mul_(kr).add_((b - g).mul_(kb)).add_(g)
        for half, signal in zip(halves, (b, r), strict=True):
            half[first:last] = chroma.halve_across(signal.sub_(luma))
        luma.mul_(876).add_(64)
        _write_codes(dither.round_(luma, first, number, 0, block_rows), planes[0][first:last])
    down = chroma.SUBSAMPLING[out.chroma][1]
    for index, (half, weight) in enumerate(zip(halves, (kb, kr), strict=True), start=1):
        codes = (half if down == 1 else chroma.halve_down(half)).mul_(896 / (2 * (1 - weight))).add_(512)
        for first, last in blocks:
            start, end = first // down, last // down
            _write_codes(dither.round_(codes[start:end], start, number, index, block_rows), planes[index][start:end])


def pack(linear: Tensor, out: OutputSpec, frame_numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Working space -> 10-bit limited BT.2020 NCL with top-left chroma: (N, H, W) and twice (N, H/2, W/2), or (N, H, W/2) for "422", uint16.

    Chroma lies on the even columns, and in 4:2:0 on the even rows, as BT.2100 has it.
    frame_numbers: (N,) integers, the frames' places in the whole video: with x and y they choose the dither, so how frames are
    batched does not matter. Light 1.0 comes at white_nits; what is outside BT.2020 or above peak_nits is clipped (Grade leaves none
    above). HLG is for a 1000-nit display, where 203 nits code as 75 %. NaN becomes black; the engine catches it before. Odd H or W
    are padded to even by repeating the edge. Codes are clipped to 4 to 1019. Raises InputError on an unknown transfer.
    """
    check_output(out.transfer)
    n, _, height, width = linear.shape
    if frame_numbers.shape != (n,):
        raise ValueError(f"{n} frames need {n} frame numbers, not {tuple(frame_numbers.shape)}")
    high, wide = height + height % 2, width + width % 2
    down = chroma.SUBSAMPLING[out.chroma][1]
    sizes = ((n, high, wide), (n, high // down, wide // 2), (n, high // down, wide // 2))
    planes = tuple(torch.empty(size, dtype=torch.uint16, device=linear.device) for size in sizes)
    for frame, number in enumerate(frame_numbers.tolist()):
        light = linear[frame]
        if (high, wide) != (height, width):
            light = torch.nn.functional.pad(light[None], (0, wide - width, 0, high - height), mode="replicate")[0]
        _pack_frame(light, out, number, tuple(plane[frame] for plane in planes))
    return planes


def hdr_layout(y: Tensor, u: Tensor) -> PixelLayout:
    """Which layout planes of `pack`, (..., H, W), have: in 4:2:2 chroma is as high as luma."""
    return HDR_LAYOUTS["422" if u.shape[-2] == y.shape[-2] > 1 else "420"]


def unpack_hdr(y: Tensor, u: Tensor, v: Tensor, transfer_name: str) -> Tensor:
    """Planes as `pack` makes them -> (N, 3, H, W) float32 nits, BT.2020 primaries.

    transfer_name: "pq" (0 to 10000 nits) or "hlg" (0 to 1000, on the 1000-nit display). Raises InputError on another.
    """
    check_output(transfer_name)
    layout = hdr_layout(y, u)
    n, height, width = chroma.check_planes((y, u, v), layout)
    how = chroma.coding(layout, HDR_SPEC)
    out = torch.empty(n, 3, height, width, dtype=torch.float32, device=y.device)
    for frame in range(n):
        for first, last in _blocks(height, width, y.device):
            r, g, b = (out[frame, channel, first:last] for channel in range(3))
            chroma.signal_rows((y[frame], u[frame], v[frame]), how, first, last, (r, g, b))
            if transfer_name == "hlg":
                transfer.hlg_decode_(r, g, b)
            else:
                for channel in (r, g, b):
                    transfer.PQ_DECODE.apply_(channel)
    return out


def hdr_maximum(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Planes as `pack` makes them -> (N, H, W) float32: the largest of the signals R', G', B' of every pixel, not clipped."""
    layout = hdr_layout(y, u)
    n, height, width = chroma.check_planes((y, u, v), layout)
    how = chroma.coding(layout, HDR_SPEC)
    out = torch.empty(n, height, width, dtype=torch.float32, device=y.device)
    for frame in range(n):
        for first, last in _blocks(height, width, y.device):
            r = out[frame, first:last]
            g, b = torch.empty_like(r), torch.empty_like(r)
            chroma.signal_rows((y[frame], u[frame], v[frame]), how, first, last, (r, g, b))
            torch.maximum(r, g, out=r)
            torch.maximum(r, b, out=r)
    return out


def bt2020_to_bt709(light: Tensor) -> Tensor:
    """(N, 3, H, W) linear light, BT.2020 primaries -> BT.709 primaries, not clipped. New tensor."""
    out = light.clone(memory_format=torch.contiguous_format)
    for frame in out:
        _convert_primaries_(frame[0], frame[1], frame[2], "bt2020", "bt709")
    return out
