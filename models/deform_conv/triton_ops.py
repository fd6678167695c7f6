"""The Triton backend as PyTorch operators, so that torch.compile, torch.export, autograd and CUDA graphs see through it.

Importing this module needs torch alone; the first launch imports Triton. Kernels run on PyTorch's current stream. Before a CUDA
graph is captured, call the same shapes and types once: the first call compiles.

Bits: the forward pass, and the gradients of offset, mask and weight, come out the same each time on the same kind of GPU with the
same Triton, whatever the batch. The gradient of x does not: programs add to it in the order in which they finish.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from models.deform_conv import triton_launch
from models.deform_conv.triton_call import Call

MOST_ELEMENTS = 2**31
"""Indices within one picture are 32-bit."""


def forward(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
    residual: Tensor | None = None,
) -> Tensor:
    """Shapes as in `models.deform_conv.deform_conv2d`; arguments are checked there. The result is in channels_last.

    x: float32, bfloat16 or float16. ValueError for other types and for pictures of 2^31 elements or more.
    """
    if x.dtype not in triton_launch.DTYPES:
        raise ValueError(
            f"the triton backend computes float32, bfloat16 and float16, not {x.dtype}; use backend='reference'"
        )
    for name, tensor in (("x", x), ("offset", offset)):
        if tensor.shape[1] * tensor.shape[2] * tensor.shape[3] >= MOST_ELEMENTS:
            raise ValueError(
                f"a picture of {name} {tuple(tensor.shape[1:])} has 2^31 elements or more; cut it into tiles"
            )
    return deform_conv(
        x,
        offset.float(),
        None if mask is None else mask.float(),
        weight.to(x.dtype),
        bias,
        None if residual is None else residual.to(x.dtype),
        stride,
        padding,
        dilation,
    )


@torch.library.custom_op(
    "sunvisor::deform_conv",
    mutates_args=(),
    schema="(Tensor x, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, Tensor? residual, int stride, int padding, int dilation) -> Tensor",
)
def deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    """The convolution. x, weight, residual of one type; offset and mask float32; bias of any."""
    call = Call.of(x, offset, mask, weight, stride, padding, dilation)
    out = _new_map(x, weight.shape[0], offset)
    if out.numel() == 0:
        return out
    blocks = triton_launch.forward_blocks(x.dtype, call.group_channels, weight.shape[0])
    grid = (call.squares(blocks), -(-weight.shape[0] // blocks.outputs), x.shape[0])
    with call.device():
        call.kernels.forward_kernel[grid](
            call.x,
            offset,
            call.mask,
            call.weight,
            call.x if bias is None else bias,
            call.x if residual is None else residual.contiguous(memory_format=torch.channels_last),
            out,
            **call.arguments(blocks),
            HAS_BIAS=bias is not None,
            HAS_RESIDUAL=residual is not None,
            PACKED=call.packed(),
        )
    return out


@deform_conv.register_fake
def _(x: Tensor, offset: Tensor, _mask: Tensor | None, weight: Tensor, *_: object) -> Tensor:
    return _new_map(x, weight.shape[0], offset)


@torch.library.custom_op(
    "sunvisor::deform_conv_map_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor offset, Tensor? mask, Tensor weight, int stride, int padding, int dilation) -> Tensor",
)
def map_gradient(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    """Gradient of x, in its type, summed in float32 and in any order."""
    _alert_not_deterministic()
    call = Call.of(x, offset, mask, weight, stride, padding, dilation)
    total = _new_map(x, x.shape[1], x, torch.float32).zero_()
    if grad.numel() > 0:
        blocks = triton_launch.sampled_gradient_blocks(x.dtype, call.group_channels, weight.shape[0])
        with call.device():
            call.gradients.map_gradient_kernel[call.squares(blocks), x.shape[0]](
                grad.to(x.dtype).contiguous(memory_format=torch.channels_last),
                offset,
                call.mask,
                call.weight,
                total,
                **call.arguments(blocks),
            )
    return total.to(x.dtype)


@map_gradient.register_fake
def _(_grad: Tensor, x: Tensor, *_: object) -> Tensor:
    return _new_map(x, x.shape[1], x)


@torch.library.custom_op(
    "sunvisor::deform_conv_aim_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor offset, Tensor? mask, Tensor weight, int stride, int padding, int dilation) -> (Tensor, Tensor)",
)
def aim_gradient(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: int,
    padding: int,
    dilation: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of offset and mask, float32; that of the mask is empty where there is none."""
    call = Call.of(x, offset, mask, weight, stride, padding, dilation)
    grad_offset, grad_mask = _new_aim(offset, mask)
    if grad.numel() > 0:
        blocks = triton_launch.sampled_gradient_blocks(x.dtype, call.group_channels, weight.shape[0])
        with call.device():
            call.gradients.aim_gradient_kernel[call.squares(blocks), x.shape[0]](
                grad.to(x.dtype).contiguous(memory_format=torch.channels_last),
                call.x,
                offset,
                call.mask,
                call.weight,
                grad_offset,
                grad_mask,
                **call.arguments(blocks),
            )
    return grad_offset, grad_mask


@aim_gradient.register_fake
def _(_grad: Tensor, _x: Tensor, offset: Tensor, mask: Tensor | None, *_: object) -> tuple[Tensor, Tensor]:
    return _new_aim(offset, mask)


@torch.library.custom_op(
    "sunvisor::deform_conv_weight_gradient",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor offset, Tensor? mask, Tensor weight, int stride, int padding, int dilation) -> Tensor",
)
def weight_gradient(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: int,
    padding: int,
    dilation: int,
) -> Tensor:
    """Gradient of the weights, summed in float32, in the type of `weight`."""
    if grad.numel() == 0:
        return torch.zeros_like(weight, memory_format=torch.contiguous_format)
    call = Call.of(x, offset, mask, weight, stride, padding, dilation)
    outputs, channels, *kernel = weight.shape
    blocks = triton_launch.weight_gradient_blocks(x.dtype, call.group_channels, outputs)
    squares = call.squares(blocks) * x.shape[0]
    rows = call.groups * call.taps * -(-call.group_channels // blocks.channels)
    columns = -(-outputs // blocks.outputs)
    parts = triton_launch.weight_gradient_parts(rows * columns, squares)
    sums = torch.empty(parts, *kernel, channels, outputs, dtype=torch.float32, device=x.device)
    with call.device():
        call.gradients.weight_gradient_kernel[rows, columns, parts](
            grad.to(x.dtype).contiguous(memory_format=torch.channels_last),
            call.x,
            offset,
            call.mask,
            sums,
            squares=squares,
            parts=parts,
            **call.arguments(blocks),
            PACKED=call.packed(),
        )
    return sums.sum(0).permute(3, 2, 0, 1).to(weight.dtype).contiguous()


@weight_gradient.register_fake
def _(_grad: Tensor, _x: Tensor, _offset: Tensor, _mask: Tensor | None, weight: Tensor, *_: object) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401 - PyTorch does not name it
    x, offset, mask, weight, bias, _, *geometry = inputs
    ctx.save_for_backward(x, offset, mask, weight)
    ctx.geometry = geometry
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    x, offset, mask, weight = ctx.saved_tensors
    arguments = (grad, x, offset, mask, weight, *ctx.geometry)
    grad_x = grad_offset = grad_mask = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = map_gradient(*arguments)
    if any(ctx.needs_input_grad[1:3]):
        grad_offset, grad_mask = aim_gradient(*arguments)
    if ctx.needs_input_grad[3]:
        grad_weight = weight_gradient(*arguments)
    if ctx.needs_input_grad[4]:
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(ctx.bias_dtype)
    grad_residual = grad if ctx.needs_input_grad[5] else None
    return (
        grad_x,
        grad_offset,
        None if mask is None else grad_mask,
        grad_weight,
        grad_bias,
        grad_residual,
        None,
        None,
        None,
    )


deform_conv.register_autograd(_backward, setup_context=_setup_context)


def _new_map(like: Tensor, channels: int, size_of: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty channels_last map: batch, device and type of `like`, rows and columns of `size_of`."""
    shape = (like.shape[0], channels, size_of.shape[2], size_of.shape[3])
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)


def _new_aim(offset: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    grad_offset = _new_map(offset, offset.shape[1], offset)
    return grad_offset, offset.new_empty(0) if mask is None else _new_map(mask, mask.shape[1], mask)


def _alert_not_deterministic() -> None:
    """As PyTorch's own operations do it: an error, or a warning, where the caller asked for deterministic ones."""
    if torch.are_deterministic_algorithms_enabled():
        message = (
            "the gradient of x of the triton deformable convolution is summed in any order; use backend='fast' on a CPU"
        )
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(message)
        warnings.warn(message, stacklevel=2)
