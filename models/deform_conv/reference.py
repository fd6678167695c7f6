"""The reference backend: torchvision's kernel, on any device. Slow on a CPU (serial there), and the oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor

FAR_OUTSIDE_PX = 1e8
"""An offset that leaves any map."""


def forward(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    """Shapes as in `models.deform_conv.deform_conv2d`; arguments are checked there.

    torchvision wants one dtype for everything and computes sampling positions in it: in float16 a position near column
    500 would be rounded to half a pixel, and bfloat16 has no kernel. So anything narrower than float32 is computed in float32.
    Its CPU kernel reads outside the map, and crashes, at a NaN offset (0.29.2; tested). So such a sample is sent outside
    the map, where it is zero, and its mask made NaN: the outputs that use it come out NaN.
    """
    from torchvision.ops import deform_conv2d  # here, so that a machine without torchvision can use the other backend

    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    lost = offset.isnan().unflatten(1, (-1, 2)).any(dim=2)
    offset = offset.nan_to_num(nan=FAR_OUTSIDE_PX, posinf=FAR_OUTSIDE_PX, neginf=-FAR_OUTSIDE_PX)
    mask = torch.ones_like(lost, dtype=dtype) if mask is None else mask
    mask = mask.masked_fill(lost, torch.nan)
    out = deform_conv2d(
        x.to(dtype),
        offset.to(dtype),
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        stride=stride,
        padding=padding,
        dilation=dilation,
        mask=mask.to(dtype),
    )
    return out.to(x.dtype)
