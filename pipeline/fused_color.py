"""Colour on a GPU in one pass each way: `unpack` and `pack` of pipeline.color as Triton kernels.

Bytes moved per pixel of 8-bit 4:2:0: unpack 1.5 in and 12 out (24 with the network's input), pack 12 in and 3 out. The kernels
(fused_kernels.py) know every PixelLayout, matrix, range, location, transfer and primaries that pipeline.color knows. Where they cannot
run, pipeline.color's functions do the work: `backend` says which, and why.

"To the bit" below holds where torch rounds square roots exactly. On a CPU its own differs in the last bit for a fifth of all
numbers. Unpacked light has no square root in it; coded signals then differ by 1.2e-7 at most, packed codes hardly ever, by one code.

All work goes to the current CUDA stream; nothing waits for the GPU. The first call on a device compiles, uploads the tables and may
take seconds. For a CUDA graph make the same call once before the capture, with the frame numbers in an int64 tensor on the device.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline import chroma, color, dither, transfer
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.errors import InputError

MIN_CAPABILITY = (8, 0)
"""Oldest CUDA compute capability that the kernels are compiled for ahead of time in the tests."""
UNPACK_BLOCK = 512
"""Pixels of a row that one program unpacks."""
PACK_BLOCK, PACK_ROWS = 128, 4
"""Chroma samples across and down that one program packs."""
LAUNCH = {"num_warps": 4, "enable_fp_fusion": False}
"""Fused multiply-adds would change last bits."""


@dataclass(frozen=True)
class Backend:
    """What does the colour work on a device: name "triton" (these kernels) or "torch" (pipeline.color), and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"colour by {self.name}: {self.reason}"


@dataclass(frozen=True)
class Table:
    """A transfer.Curve on a device. entries: (steps + 1,) int64, value's float32 bits below, slope's above."""

    entries: Tensor
    low: float
    per_unit: float
    steps: float


@lru_cache(maxsize=64)
def table(curve: transfer.Curve, device: torch.device) -> Table:
    """The curve's table as the kernels read it; uploaded once per device."""
    pairs = torch.stack(curve.table(torch.device("cpu")), dim=-1).contiguous()
    return Table(pairs.view(torch.int64).view(-1).to(device), curve.low, curve.per_unit, float(curve.steps))


@lru_cache(maxsize=16)
def _noise(device: torch.device) -> Tensor:
    return dither.blue_noise().contiguous().to(device)


def interpreting() -> bool:
    """Whether Triton runs its kernels in its interpreter, on CPU tensors (TRITON_INTERPRET=1, for tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=16)
def backend(device: torch.device) -> Backend:
    """Which functions work on this device; found out once, by packing and unpacking a picture of 2x2 pixels there."""
    if device.type != "cuda" and not interpreting():
        return Backend("torch", f"a {device.type} has no fused kernels")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return Backend("torch", f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0")
    try:
        from triton.errors import TritonError
    except ImportError as error:
        return Backend("torch", f"triton cannot be imported ({error})")
    layout, spec = PixelLayout("420", 8), ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
    planes = tuple(torch.full((1, side, side), 128, dtype=torch.uint8, device=device) for side in (2, 1, 1))
    try:
        linear = _unpack(planes, layout, spec, None)[0]
        _pack(linear, OutputSpec("pq", 203.0, 1000.0), torch.zeros(1, dtype=torch.int64, device=device))
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError, TritonError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return Backend("torch", f"Triton does not work here ({words[0]})")
    return Backend("triton", "the kernels compile and run here")


def unpack(planes: tuple[Tensor, ...], layout: PixelLayout, spec: ColorSpec) -> Tensor:
    """Code planes -> working space, (N, 3, H, W) float32, linear light of BT.709 primaries, SDR white = 1.0.

    As color.unpack, to the bit, errors included. Planes may have any strides (those of a GPU decoder's surface, interleaved chroma
    too); what does not fit the kernel's two sets of strides, one for the first plane and one for the others, is copied first.
    """
    if backend(planes[0].device).name == "torch":
        return color.unpack(planes, layout, spec)
    return _unpack(planes, layout, spec, None)[0]


def unpack_coded(
    planes: tuple[Tensor, ...], layout: PixelLayout, spec: ColorSpec, encoding: str
) -> tuple[Tensor, Tensor]:
    """`unpack`, and in the same pass the network's input: two (N, 3, H, W) float32, linear light and the coded signal in [0, 1].

    encoding: the checkpoint's input encoding, "bt1886", "srgb" or "linear". The second is color.coded_signal of the first, to the
    bit. Raises InputError and ValueError as color.unpack and color.coded_signal.
    """
    if encoding != "linear" and encoding not in transfer.ENCODE:
        raise InputError(f"transfer {encoding!r} is not known; legal are {', '.join(transfer.ENCODE)}, linear.")
    if backend(planes[0].device).name == "torch":
        linear = color.unpack(planes, layout, spec)
        return linear, color.coded_signal(linear, encoding)
    linear, coded = _unpack(planes, layout, spec, encoding)
    return linear, coded


def pack(linear: Tensor, out: OutputSpec, frame_numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Working space -> 10-bit limited BT.2020 NCL 4:2:0 with top-left chroma: (N, H, W) and twice (N, H/2, W/2), uint16.

    As color.pack, to the bit: odd sizes padded to even, NaN becomes black, codes 4 to 1019, dither by place and absolute frame number.
    linear: (N, 3, H, W) float32, any strides. frame_numbers: (N,) integers; numbers on the CPU are uploaded, so inside a CUDA graph
    they must be an int64 tensor on the device, which is read at every replay. Raises InputError on an unknown transfer, ValueError
    on another dtype, count or chroma layout.
    """
    if out.chroma != "420":
        raise ValueError(f"the kernels pack 4:2:0, not {out.chroma}; color.pack does")
    if backend(linear.device).name == "torch":
        return color.pack(linear, out, frame_numbers)
    return _pack(linear, out, frame_numbers)


def converter(source: str, target: str) -> tuple[float, ...]:
    """Entries of color.primaries_matrix beside its diagonal, in the kernels' order: rg, rb, gr, gb, br, bg."""
    matrix = color.primaries_matrix(source, target)
    return matrix[0][1], matrix[0][2], matrix[1][0], matrix[1][2], matrix[2][0], matrix[2][1]


def signal_scales(how: chroma.Coding) -> tuple[float, float, float, float]:
    """Factors of v in R', u in B', u in G' and v in G', as chroma.signal_rows uses them."""
    kr, kb = how.luma_weights or (0.0, 0.0)
    kg = 1 - kr - kb
    red, blue = 2 * (1 - kr) * how.chroma_scale, 2 * (1 - kb) * how.chroma_scale
    return red, blue, blue * kb / kg, red * kr / kg


def _unpack(
    planes: tuple[Tensor, ...], layout: PixelLayout, spec: ColorSpec, encoding: str | None
) -> tuple[Tensor, Tensor]:
    """Linear light, and the coded signal (or linear light again where encoding is None)."""
    from pipeline import fused_kernels

    n, height, width = chroma.check_planes(planes, layout)
    how = chroma.coding(layout, spec)
    if spec.transfer != "linear" and spec.transfer not in transfer.DECODE:
        raise InputError(f"transfer {spec.transfer!r} is not known; legal are {', '.join(transfer.DECODE)}, linear.")
    matrix = converter(spec.primaries, "bt709")
    device = planes[0].device
    linear = torch.empty(n, 3, height, width, dtype=torch.float32, device=device)
    coded = torch.empty_like(linear) if encoding else linear
    if n == 0:
        return linear, coded
    first, second, third = planes if len(planes) == 3 else planes * 3
    if second.stride() != third.stride():
        second, third = second.contiguous(), third.contiguous()
    decode = table(transfer.DECODE.get(spec.transfer, transfer.DECODE["bt1886"]), device)
    encode = table(transfer.ENCODE.get(encoding or "", transfer.ENCODE["bt1886"]), device)
    kind = "gray" if len(planes) == 1 else "rgb" if how.luma_weights is None else "yuv"
    with torch.cuda.device_of(linear):
        fused_kernels.unpack_kernel[(-(-width // UNPACK_BLOCK), height, n)](
            first, second, third, linear, coded, decode.entries, encode.entries,
            height, width, second.shape[1], second.shape[2], *first.stride(), *second.stride(),
            float(how.luma_offset), how.luma_scale, float(how.chroma_offset), *signal_scales(how),
            color.TOP_SIGNAL[spec.range], decode.low, decode.per_unit, decode.steps, encode.per_unit, encode.steps,
            *matrix,
            KIND=kind, ACROSS=how.across, DOWN=how.down,
            ACROSS_EIGHTHS=int(how.across_offset * 8 / how.across), DOWN_EIGHTHS=int(how.down_offset * 8 / how.down),
            DECODE=spec.transfer != "linear", CONVERT=spec.primaries != "bt709",
            CODED="none" if encoding is None else "linear" if encoding == "linear" else "curve",
            BLOCK=UNPACK_BLOCK, **LAUNCH,
        )  # fmt: skip
    return linear, coded


def _pack(linear: Tensor, out: OutputSpec, frame_numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from pipeline import fused_kernels

    color.check_output(out.transfer)
    n, _, height, width = linear.shape
    if frame_numbers.shape != (n,):
        raise ValueError(f"{n} frames need {n} frame numbers, not {tuple(frame_numbers.shape)}")
    if linear.dtype != torch.float32:
        raise ValueError(f"the working space is float32, not {linear.dtype}")
    device = linear.device
    numbers = frame_numbers.to(device, torch.int64, non_blocking=True).contiguous()
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    sizes = ((n, 2 * half_height, 2 * half_width), *[(n, half_height, half_width)] * 2)
    y, u, v = (torch.empty(size, dtype=torch.uint16, device=device) for size in sizes)
    if n == 0:
        return y, u, v
    hlg = out.transfer == "hlg"
    curve = table(transfer.HLG_OETF if hlg else transfer.PQ_ENCODE, device)
    ootf = table(transfer.HLG_INVERSE_OOTF, device)
    kr, kb = chroma.LUMA_WEIGHTS["bt2020"]
    grid = (-(-half_width // PACK_BLOCK), -(-half_height // PACK_ROWS), n)
    with torch.cuda.device_of(linear):
        fused_kernels.pack_kernel[grid](
            linear, y, u, v, numbers, _noise(device), curve.entries, ootf.entries, height, width, *linear.stride(),
            color.EXTREME, float(out.white_nits), float(out.peak_nits), curve.per_unit, curve.steps,
            ootf.per_unit, ootf.steps, transfer.HLG_PEAK_NITS, transfer.TINY, *converter("bt709", "bt2020"),
            896 / (2 * (1 - kb)), 896 / (2 * (1 - kr)), HLG=hlg, ROWS=PACK_ROWS, BLOCK=PACK_BLOCK, **LAUNCH,
        )  # fmt: skip
    return y, u, v
