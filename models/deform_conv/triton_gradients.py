"""Triton kernels of the modulated deformable convolution's gradients: of the map, of offset and mask, of the weights.

The gradient of a sample is a row of the output's gradient times the weights of its tap: one small product, which the first two
kernels each compute for themselves. Together they would need more registers than there are.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - arguments of kernels are tensors and numbers of the device, which have no Python types

from __future__ import annotations

import triton
import triton.language as tl

from models.deform_conv.triton_kernels import SIZES, aim, dot, pixels, sample, split


@triton.jit
def _samples_gradient(
    grad_ptr, weight_ptr, pixel, inside, tap, first,
    CHANNELS: tl.constexpr, END: tl.constexpr, OUTPUTS: tl.constexpr, TAPS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Gradient of the modulated samples, (pixels, BLOCK_C): rows of the output's gradient times the weights of a tap.

    weight_ptr: at the group's first channel; first: of the block of channels; END: the group's channels.
    """
    channel = first + tl.arange(0, BLOCK_C)
    gradient = tl.zeros((pixel.shape[0], BLOCK_C), tl.float32)
    for first_output in tl.static_range(0, OUTPUTS, BLOCK_O):
        output = first_output + tl.arange(0, BLOCK_O)
        grad_pointer = grad_ptr + (pixel * OUTPUTS)[:, None] + output[None, :]
        weight_pointer = weight_ptr + (output * (TAPS * CHANNELS))[:, None] + (tap * CHANNELS + channel)[None, :]
        if OUTPUTS % BLOCK_O == 0:
            grad = tl.load(grad_pointer, mask=inside[:, None], other=0.0)
        else:
            grad = tl.load(grad_pointer, mask=inside[:, None] & (output < OUTPUTS)[None, :], other=0.0)
        if OUTPUTS % BLOCK_O == 0 and END % BLOCK_C == 0:
            weight = tl.load(weight_pointer)
        else:
            weight = tl.load(weight_pointer, mask=(output < OUTPUTS)[:, None] & (channel < END)[None, :], other=0.0)
        gradient = dot(grad, weight, gradient, PRECISION, UPCAST)
    return gradient


@triton.jit(do_not_specialize=SIZES)
def map_gradient_kernel(
    grad_ptr, offset_ptr, mask_ptr, weight_ptr, grad_x_ptr,
    height, width, out_height, out_width,
    offset_stride_n, offset_stride_c, offset_stride_y, offset_stride_x,
    mask_stride_n, mask_stride_c, mask_stride_y, mask_stride_x,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr,
    TAPS: tl.constexpr, KERNEL_X: tl.constexpr,
    STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr, HAS_MASK: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Gradient of x, added to a float32 NHWC map with atomics. Grid: (squares of output pixels, pictures)."""
    GROUP_CHANNELS: tl.constexpr = CHANNELS // GROUPS
    EVEN: tl.constexpr = GROUP_CHANNELS % BLOCK_C == 0
    picture = tl.program_id(1).to(tl.int64)
    row, column, inside = pixels(tl.program_id(0), out_height, out_width, BLOCK_Y, BLOCK_X)
    pixel = picture * out_height * out_width + row * out_width + column
    grad_x_ptr += picture * height * width * CHANNELS
    offset_ptr += picture * offset_stride_n + row * offset_stride_y + column * offset_stride_x
    mask_ptr += picture * mask_stride_n + row * mask_stride_y + column * mask_stride_x
    base_y = (row * STRIDE - PADDING).to(tl.float32)
    base_x = (column * STRIDE - PADDING).to(tl.float32)

    for entry in range(GROUPS * TAPS):
        y, x, modulation = aim(
            offset_ptr, offset_stride_c, mask_ptr, mask_stride_c, base_y, base_x, entry, TAPS, KERNEL_X, DILATION, HAS_MASK
        )  # fmt: skip
        row_before, fy, top, bottom = split(y, height, False)
        column_before, fx, left, right = split(x, width, False)
        top, bottom = top & inside, bottom & inside
        below = modulation * fy
        above = modulation - below
        above_right, below_right = above * fx, below * fx
        group_channel = (entry // TAPS) * GROUP_CHANNELS
        corner = grad_x_ptr + ((row_before * width + column_before) * CHANNELS + group_channel)[:, None]
        for first in range(0, GROUP_CHANNELS, BLOCK_C):
            gradient = _samples_gradient(
                grad_ptr, weight_ptr + group_channel, pixel, inside, entry % TAPS, first,
                CHANNELS, GROUP_CHANNELS, OUTPUTS, TAPS, BLOCK_C, BLOCK_O, PRECISION, UPCAST,
            )  # fmt: skip
            channel = first + tl.arange(0, BLOCK_C)[None, :]
            real = channel < GROUP_CHANNELS
            pointer = corner + channel
            _push(pointer, top & left, real, gradient, above - above_right, EVEN)
            _push(pointer + CHANNELS, top & right, real, gradient, above_right, EVEN)
            pointer += width * CHANNELS
            _push(pointer, bottom & left, real, gradient, below - below_right, EVEN)
            _push(pointer + CHANNELS, bottom & right, real, gradient, below_right, EVEN)


@triton.jit(do_not_specialize=SIZES)
def aim_gradient_kernel(
    grad_ptr, x_ptr, offset_ptr, mask_ptr, weight_ptr, grad_offset_ptr, grad_mask_ptr,
    height, width, out_height, out_width,
    offset_stride_n, offset_stride_c, offset_stride_y, offset_stride_x,
    mask_stride_n, mask_stride_c, mask_stride_y, mask_stride_x,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr,
    TAPS: tl.constexpr, KERNEL_X: tl.constexpr,
    STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr, HAS_MASK: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Gradients of offset and mask, float32 NHWC. Grid: (squares of output pixels, pictures).

    The sums over channels of the samples' gradient times each of the four neighbours give all of them.
    """
    GROUP_CHANNELS: tl.constexpr = CHANNELS // GROUPS
    EVEN: tl.constexpr = GROUP_CHANNELS % BLOCK_C == 0
    picture = tl.program_id(1).to(tl.int64)
    row, column, inside = pixels(tl.program_id(0), out_height, out_width, BLOCK_Y, BLOCK_X)
    pixel = picture * out_height * out_width + row * out_width + column
    x_ptr += picture * height * width * CHANNELS
    offset_ptr += picture * offset_stride_n + row * offset_stride_y + column * offset_stride_x
    mask_ptr += picture * mask_stride_n + row * mask_stride_y + column * mask_stride_x
    grad_offset_ptr += pixel * (2 * GROUPS * TAPS)
    grad_mask_ptr += pixel * (GROUPS * TAPS)
    base_y = (row * STRIDE - PADDING).to(tl.float32)
    base_x = (column * STRIDE - PADDING).to(tl.float32)

    for entry in range(GROUPS * TAPS):
        y, x, modulation = aim(
            offset_ptr, offset_stride_c, mask_ptr, mask_stride_c, base_y, base_x, entry, TAPS, KERNEL_X, DILATION, HAS_MASK
        )  # fmt: skip
        row_before, fy, top, bottom = split(y, height, True)
        column_before, fx, left, right = split(x, width, True)
        group_channel = (entry // TAPS) * GROUP_CHANNELS
        corner = x_ptr + ((row_before * width + column_before) * CHANNELS + group_channel)[:, None]
        nothing = tl.zeros((BLOCK_Y * BLOCK_X,), tl.float32)
        sum_tl, sum_tr, sum_bl, sum_br = nothing, nothing, nothing, nothing
        for first in range(0, GROUP_CHANNELS, BLOCK_C):
            gradient = _samples_gradient(
                grad_ptr, weight_ptr + group_channel, pixel, inside, entry % TAPS, first,
                CHANNELS, GROUP_CHANNELS, OUTPUTS, TAPS, BLOCK_C, BLOCK_O, PRECISION, UPCAST,
            )  # fmt: skip
            channel = first + tl.arange(0, BLOCK_C)[None, :]
            real = channel < GROUP_CHANNELS
            pointer = corner + channel
            sum_tl += _pull(pointer, top & left, real, gradient, EVEN)
            sum_tr += _pull(pointer + CHANNELS, top & right, real, gradient, EVEN)
            pointer += width * CHANNELS
            sum_bl += _pull(pointer, bottom & left, real, gradient, EVEN)
            sum_br += _pull(pointer + CHANNELS, bottom & right, real, gradient, EVEN)

        down, across = sum_bl - sum_tl, sum_tr - sum_tl
        twist = sum_br - sum_tr - down
        tl.store(grad_offset_ptr + 2 * entry, modulation * (down + fx * twist), mask=inside)
        tl.store(grad_offset_ptr + 2 * entry + 1, modulation * (across + fy * twist), mask=inside)
        if HAS_MASK:
            tl.store(grad_mask_ptr + entry, sum_tl + fy * down + fx * (across + fy * twist), mask=inside)


@triton.jit
def _push(pointer, inside, real, gradient, weight, EVEN: tl.constexpr):
    """Add one neighbour's share of the gradient to the gradient of x."""
    write = inside[:, None] if EVEN else inside[:, None] & real
    tl.atomic_add(pointer, gradient * weight[:, None], mask=write, sem="relaxed")


@triton.jit
def _pull(pointer, inside, real, gradient, EVEN: tl.constexpr):
    """Sum over channels of the gradient times one neighbour, (pixels,); 0 where that is outside of the map."""
    read = inside[:, None] if EVEN else inside[:, None] & real
    return tl.sum(tl.load(pointer, mask=read, other=0.0).to(tl.float32) * gradient, axis=1)


@triton.jit(do_not_specialize=[*SIZES, "squares", "parts"])
def weight_gradient_kernel(
    grad_ptr, x_ptr, offset_ptr, mask_ptr, grad_weight_ptr,
    height, width, out_height, out_width,
    offset_stride_n, offset_stride_c, offset_stride_y, offset_stride_x,
    mask_stride_n, mask_stride_c, mask_stride_y, mask_stride_x,
    squares, parts,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr,
    TAPS: tl.constexpr, KERNEL_X: tl.constexpr,
    STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr, HAS_MASK: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr, PACKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Gradient of the weights over one part of the pixels, (parts, kh*kw, C, O) float32. Grid: (taps and blocks of channels, blocks of outputs, parts).

    `squares` counts the squares of output pixels of the whole batch; part p takes every parts-th of them, from p on.
    """
    GROUP_CHANNELS: tl.constexpr = CHANNELS // GROUPS
    BLOCKS: tl.constexpr = (GROUP_CHANNELS + BLOCK_C - 1) // BLOCK_C
    EVEN_C: tl.constexpr = GROUP_CHANNELS % BLOCK_C == 0
    EVEN_O: tl.constexpr = OUTPUTS % BLOCK_O == 0
    entry, first = tl.program_id(0) // BLOCKS, (tl.program_id(0) % BLOCKS) * BLOCK_C
    group_channel = (entry // TAPS) * GROUP_CHANNELS
    channel = first + tl.arange(0, BLOCK_C)
    output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    part = tl.program_id(2)
    squares_each = tl.cdiv(out_height, BLOCK_Y) * tl.cdiv(out_width, BLOCK_X)

    total = tl.zeros((BLOCK_C, BLOCK_O), tl.float32)
    for square in range(part, squares, parts):
        picture = (square // squares_each).to(tl.int64)
        row, column, inside = pixels(square % squares_each, out_height, out_width, BLOCK_Y, BLOCK_X)
        y, x, modulation = aim(
            offset_ptr + picture * offset_stride_n + row * offset_stride_y + column * offset_stride_x, offset_stride_c,
            mask_ptr + picture * mask_stride_n + row * mask_stride_y + column * mask_stride_x, mask_stride_c,
            (row * STRIDE - PADDING).to(tl.float32), (column * STRIDE - PADDING).to(tl.float32), entry,
            TAPS, KERNEL_X, DILATION, HAS_MASK,
        )  # fmt: skip
        sampled = sample(
            x_ptr + picture * height * width * CHANNELS + group_channel, y, x, modulation, height, width, first,
            CHANNELS, GROUP_CHANNELS, BLOCK_C, PACKED,
        )  # fmt: skip
        pixel = picture * out_height * out_width + row * out_width + column
        pointer = grad_ptr + (pixel * OUTPUTS)[:, None] + output[None, :]
        if EVEN_O:
            grad = tl.load(pointer, mask=inside[:, None], other=0.0)
        else:
            grad = tl.load(pointer, mask=inside[:, None] & (output < OUTPUTS)[None, :], other=0.0)
        total = dot(tl.trans(sampled.to(grad.dtype)), grad, total, PRECISION, UPCAST)

    place = ((part * TAPS + entry % TAPS) * CHANNELS + group_channel + channel)[:, None] * OUTPUTS + output[None, :]
    if EVEN_C and EVEN_O:
        tl.store(grad_weight_ptr + place, total)
    else:
        tl.store(grad_weight_ptr + place, total, mask=(channel < GROUP_CHANNELS)[:, None] & (output < OUTPUTS)[None, :])
