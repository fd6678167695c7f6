"""Light levels on a GPU: the histogram of pipeline.light counted in one pass over the packed planes, 3 bytes a pixel, and brought down.

The counts are whole numbers and each pixel's level has the same bits as on the CPU, so the figures are light.measure's exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline import chroma, color, fused_color, light, transfer
from pipeline.light import LightLevels

LIGHT_BLOCK = 1024
"""Pixels of a row that one program counts."""


def histogram(y: Tensor, u: Tensor, v: Tensor, transfer_name: str) -> Tensor:
    """Planes as `pack` makes them -> (N, 14017) int32 on their device: pixels of each frame at each level of max(R', G', B').

    A level is a sixteenth of a 10-bit code of PQ; index 14016 is 10000 nits. transfer_name: "pq" or "hlg". Works on the current
    stream and waits for nothing. Needs the kernels (fused_color.backend); raises InputError on another transfer.
    """
    from pipeline import fused_kernels

    color.check_output(transfer_name)
    planes = tuple(plane.contiguous() for plane in (y, u, v))
    n, height, width = chroma.check_planes(planes, color.HDR_LAYOUTS["420"])
    how = chroma.coding(color.HDR_LAYOUTS["420"], color.HDR_SPEC)
    counts = torch.zeros(n, light.LEVELS + 1, dtype=torch.int32, device=y.device)
    if n == 0:
        return counts
    pq = fused_color.table(transfer.PQ_ENCODE, y.device)
    oetf = fused_color.table(transfer.HLG_INVERSE_OETF, y.device)
    ootf = fused_color.table(transfer.HLG_OOTF, y.device)
    with torch.cuda.device_of(y):
        fused_kernels.light_kernel[(-(-width // LIGHT_BLOCK), height, n)](
            *planes, counts, pq.entries, oetf.entries, ootf.entries, height, width, how.luma_scale,
            *fused_color.signal_scales(how), pq.per_unit, pq.steps, oetf.per_unit, oetf.steps, ootf.per_unit,
            ootf.steps, transfer.TINY, LEVELS=light.LEVELS, HLG=transfer_name == "hlg", BLOCK=LIGHT_BLOCK,
            **fused_color.LAUNCH,
        )  # fmt: skip
    return counts


def levels(counts: Tensor) -> list[LightLevels]:
    """`histogram`'s counts, brought to the CPU -> light levels of every frame, equal to light.measure's."""
    return [light.levels_of(frame) for frame in counts.to(torch.int64)]


def measure(y: Tensor, u: Tensor, v: Tensor, transfer_name: str) -> list[LightLevels]:
    """As light.measure, figure for figure, with the pixels counted where the planes are. Waits for the GPU."""
    if fused_color.backend(y.device).name == "torch":
        return light.measure(y, u, v, transfer_name)
    return levels(histogram(y, u, v, transfer_name).cpu())
