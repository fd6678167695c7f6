"""What every launch of a Triton kernel has in common: the tensors as the kernels want them, sizes, strides, constants."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.deform_conv.triton_launch import Blocks


class Call(NamedTuple):
    """What the kernels have in common: tensors in the order that they want, and what is computed from shapes."""

    kernels: ModuleType
    gradients: ModuleType
    x: Tensor
    offset: Tensor
    mask: Tensor
    weight: Tensor
    has_mask: bool
    geometry: tuple[int, int, int]

    @classmethod
    def of(
        cls, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, stride: int, padding: int, dilation: int
    ) -> Call:
        """ValueError on a CPU, except in Triton's interpreter."""
        from models.deform_conv import (
            triton_gradients,
            triton_kernels,
        )  # here, so that a machine without Triton can do without

        if x.device.type != "cuda" and not triton_kernels.INTERPRETED:
            raise ValueError(f"the triton backend runs on CUDA only, not on {x.device.type}; use backend='auto'")
        return cls(
            triton_kernels,
            triton_gradients,
            x.contiguous(memory_format=torch.channels_last),
            offset,
            offset if mask is None else mask,
            weight.contiguous(memory_format=torch.channels_last),
            mask is not None,
            (stride, padding, dilation),
        )

    @property
    def taps(self) -> int:
        return self.weight.shape[2] * self.weight.shape[3]

    @property
    def groups(self) -> int:
        return self.offset.shape[1] // (2 * self.taps)

    @property
    def group_channels(self) -> int:
        return self.x.shape[1] // self.groups

    def squares(self, blocks: Blocks) -> int:
        """Blocks of output pixels in one picture."""
        return -(-self.offset.shape[2] // blocks.rows) * -(-self.offset.shape[3] // blocks.columns)

    def packed(self) -> bool:
        """Whether bfloat16 channels can be read in pairs."""
        return self.x.dtype == torch.bfloat16 and self.group_channels % 2 == 0 and self.x.data_ptr() % 4 == 0

    def device(self) -> contextlib.AbstractContextManager:
        """Makes the tensors' device the current one: Triton launches there."""
        return torch.cuda.device(self.x.device) if self.x.is_cuda else contextlib.nullcontext()

    def arguments(self, blocks: Blocks) -> dict[str, Any]:
        """Sizes, strides and constants. Fusing of multiplication and addition is spelled out: versions of Triton differ in the default."""
        stride, padding, dilation = self.geometry
        names = ("n", "c", "y", "x")
        return {
            "height": self.x.shape[2],
            "width": self.x.shape[3],
            "out_height": self.offset.shape[2],
            "out_width": self.offset.shape[3],
            **{f"offset_stride_{name}": size for name, size in zip(names, self.offset.stride(), strict=True)},
            **{f"mask_stride_{name}": size for name, size in zip(names, self.mask.stride(), strict=True)},
            "CHANNELS": self.x.shape[1],
            "OUTPUTS": self.weight.shape[0],
            "GROUPS": self.groups,
            "TAPS": self.taps,
            "KERNEL_X": self.weight.shape[3],
            "STRIDE": stride,
            "PADDING": padding,
            "DILATION": dilation,
            "HAS_MASK": self.has_mask,
            "PRECISION": self.precision(),
            "UPCAST": self.kernels.INTERPRETED and self.x.dtype == torch.bfloat16,
            "enable_fp_fusion": True,
            **blocks.arguments(),
        }

    def precision(self) -> str:
        """How float32 matrices are multiplied: three TF32 products (error near 1e-6), or one where PyTorch is allowed that."""
        if self.x.dtype != torch.float32:
            return "ieee"
        return "tf32" if self.x.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
