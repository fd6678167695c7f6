"""Times other block sizes than the table's on this machine's GPU: `python -m models.deform_conv.triton_tune`.

It writes one line for each kernel, type and width with the table's entry and the fastest one, for people to put into
`triton_launch`. Nothing reads its output: what a conversion computes must not depend on a timing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from unittest import mock

import torch
from torch import Tensor

from models.deform_conv import triton_launch, triton_ops
from models.deform_conv.triton_launch import Blocks

ROWS, COLUMNS = 270, 480
"""Of the maps: a quarter of 1080p, where most deformable layers are."""

RUNS = 20
"""Timed runs of each choice; the median counts."""


def candidates(blocks: Blocks) -> Iterator[Blocks]:
    """The table's entry, then what is worth a try beside it."""
    yield blocks
    for rows, columns, warps in ((8, 8, 4), (8, 8, 8), (8, 16, 8), (4, 16, 4)):
        for channels in sorted({16, blocks.channels, 2 * blocks.channels}):
            for stages in (1, 2):
                other = replace(blocks, rows=rows, columns=columns, channels=channels, warps=warps, stages=stages)
                if other != blocks:
                    yield other


def arguments(dtype: torch.dtype, width: int, rows: int, columns: int, device: str) -> tuple[Tensor, ...]:
    """grad, x, offset, mask, weight of a 3x3 convolution; offsets spread by one pixel."""
    g = torch.Generator(device).manual_seed(1)
    new = {"generator": g, "device": device}
    x, grad = (torch.randn(1, width, rows, columns, **new).to(dtype) for _ in range(2))
    offset, mask = torch.randn(1, 18, rows, columns, **new), torch.rand(1, 9, rows, columns, **new)
    weight = torch.randn(width, width, 3, 3, **new).to(dtype) / (3 * width**0.5)
    nhwc = torch.channels_last
    return tuple(tensor.contiguous(memory_format=nhwc) for tensor in (grad, x, offset, mask, weight))


def timed_on_cuda(work: Callable[[], object]) -> float:
    """Microseconds of one call on the GPU; the median of RUNS after three that are not timed."""
    spans = []
    for _ in range(RUNS + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        spans.append(begin.elapsed_time(end) * 1e3)
    return median(spans[3:])


def tune(
    dtype: torch.dtype,
    width: int,
    timed: Callable[[Callable[[], object]], float] = timed_on_cuda,
    rows: int = ROWS,
    columns: int = COLUMNS,
    device: str = "cuda",
) -> Iterator[str]:
    """One line for each kernel: microseconds of the table's entry and of the fastest candidate."""
    grad, x, offset, mask, weight = arguments(dtype, width, rows, columns, device)
    sampled = (grad, x, offset, mask, weight, 1, 1, 1)
    works = {
        ("forward", "forward_blocks"): lambda: triton_ops.deform_conv(x, offset, mask, weight, None, grad, 1, 1, 1),
        ("map gradient", "sampled_gradient_blocks"): lambda: triton_ops.map_gradient(*sampled),
        ("aim gradient", "sampled_gradient_blocks"): lambda: triton_ops.aim_gradient(*sampled),
        ("weight gradient", "weight_gradient_blocks"): lambda: triton_ops.weight_gradient(*sampled),
    }
    for (name, table), work in works.items():
        ours = getattr(triton_launch, table)(dtype, width, width)
        times = {}
        for blocks in candidates(ours):
            with mock.patch.object(triton_launch, table, lambda *_, blocks=blocks: blocks):
                times[blocks] = timed(work)
        best = min(times, key=times.__getitem__)
        kind = f"{name}, {str(dtype).removeprefix('torch.')}, {width}"
        yield f"{kind}: table {times[ours]:.1f} us, fastest {times[best]:.1f} us with {best}"


if __name__ == "__main__":
    for dtype in triton_launch.DTYPES:
        for width in (16, 32, 64):
            for line in tune(dtype, width):
                sys.stdout.write(f"{line}\n")
