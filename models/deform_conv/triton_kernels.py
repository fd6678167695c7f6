"""Triton kernel of the modulated deformable convolution, forward, and what its gradients (`triton_gradients`) share with it.

One program computes a small square of output pixels for all outputs: it gathers the four neighbours of each sampled
position, weighs them in float32, rounds the sum to the operands' type and multiplies it with the weights of that tap.
Nothing like torchvision's column buffer is ever in memory. Maps are NHWC, the weights (O, kh*kw, C).

A row of a product depends on that row alone, so a pixel's bits do not depend on the batch or on the picture's size.
Importing this module imports Triton; `triton_call` does so at the first launch.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - arguments of kernels are tensors and numbers of the device, which have no Python types

from __future__ import annotations

import triton
import triton.language as tl

SIZES = [
    "height",
    "width",
    "out_height",
    "out_width",
    "offset_stride_n",
    "offset_stride_c",
    "offset_stride_y",
    "offset_stride_x",
    "mask_stride_n",
    "mask_stride_c",
    "mask_stride_y",
    "mask_stride_x",
]
"""Arguments that Triton shall not specialise on: a new picture size must not mean a new compilation."""


@triton.jit
def pixels(block, out_height, out_width, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Number of a square of output pixels -> rows, columns, and which of them exist; (BLOCK_Y * BLOCK_X,) each.

    Those that do not exist repeat the last row or column, so that reading for them needs no mask.
    """
    across = tl.cdiv(out_width, BLOCK_X)
    lane = tl.arange(0, BLOCK_Y * BLOCK_X)
    row = (block // across) * BLOCK_Y + lane // BLOCK_X
    column = (block % across) * BLOCK_X + lane % BLOCK_X
    inside = (row < out_height) & (column < out_width)
    return tl.minimum(row, out_height - 1), tl.minimum(column, out_width - 1), inside


@triton.jit
def aim(
    offset_ptr, offset_stride_c, mask_ptr, mask_stride_c, base_y, base_x, entry,
    TAPS: tl.constexpr, KERNEL_X: tl.constexpr, DILATION: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Where a tap of a group samples, and its modulation (1 without a mask, NaN where the offset is NaN)."""
    tap = entry % TAPS
    y = tl.load(offset_ptr + 2 * entry * offset_stride_c) + (base_y + (tap // KERNEL_X) * DILATION)
    x = tl.load(offset_ptr + (2 * entry + 1) * offset_stride_c) + (base_x + (tap % KERNEL_X) * DILATION)
    modulation = tl.load(mask_ptr + entry * mask_stride_c) if HAS_MASK else tl.full(y.shape, 1.0, tl.float32)
    return y, x, tl.where((y == y) & (x == x), modulation, float("nan"))


@triton.jit
def split(position, size, CLOSED: tl.constexpr):
    """Position -> the neighbour before it, how far beyond that it lies (0 to 1), which of the two neighbours are inside.

    Nothing is inside from `size` on, nor up to -1 (CLOSED: up to just before it, as torchvision has it in gradients alone),
    nor for a NaN. Infinity becomes a number.
    """
    position = tl.where(position >= -1.0, position, -2.0) if CLOSED else tl.where(position > -1.0, position, -2.0)
    position = tl.minimum(position, size)
    floor = tl.floor(position)
    before = floor.to(tl.int32)
    end = size.to(tl.uint32)  # as unsigned numbers, those before 0 are beyond it too
    before_in = before.to(tl.uint32, bitcast=True) < end
    return before, position - floor, before_in, (before + 1).to(tl.uint32, bitcast=True) < end


@triton.jit
def _corner(
    pointer, inside, real, lower, upper, weight, EVEN: tl.constexpr, PACKED: tl.constexpr
):  # fmt: skip
    """Add one neighbour times its weight to the sums. It counts as 0 outside of the map, whatever the memory holds."""
    read = inside[:, None] if EVEN else inside[:, None] & real
    value = tl.load(pointer, mask=read, other=0)
    if PACKED:  # two bfloat16: the lower half shifted up, the upper half with the lower half cleared, are float32
        lower += (value << 16).to(tl.float32, bitcast=True) * weight[:, None]
        upper += (value & -65536).to(tl.float32, bitcast=True) * weight[:, None]
    else:
        lower += value.to(tl.float32) * weight[:, None]
    return lower, upper


@triton.jit
def sample(
    x_ptr, y, x, modulation, height, width, first,
    CHANNELS: tl.constexpr, END: tl.constexpr, BLOCK_C: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Modulated bilinear samples of BLOCK_C channels from `first` on, (pixels, BLOCK_C) float32. END: the group's channels."""
    EVEN: tl.constexpr = END % BLOCK_C == 0
    WORD: tl.constexpr = 2 if PACKED else 1
    row, fy, top, bottom = split(y, height, False)
    column, fx, left, right = split(x, width, False)
    below = modulation * fy
    above = modulation - below
    above_right, below_right = above * fx, below * fx

    word = first // WORD + tl.arange(0, BLOCK_C // WORD)[None, :]
    real = word < END // WORD
    if PACKED:
        x_ptr = x_ptr.to(tl.pointer_type(tl.int32))
    pointer = x_ptr + ((row * width + column) * (CHANNELS // WORD))[:, None] + word
    sums = tl.zeros((y.shape[0], BLOCK_C // WORD), tl.float32)
    lower, upper = sums, sums
    lower, upper = _corner(pointer, top & left, real, lower, upper, above - above_right, EVEN, PACKED)
    lower, upper = _corner(pointer + CHANNELS // WORD, top & right, real, lower, upper, above_right, EVEN, PACKED)
    pointer += width * (CHANNELS // WORD)
    lower, upper = _corner(pointer, bottom & left, real, lower, upper, below - below_right, EVEN, PACKED)
    lower, upper = _corner(pointer + CHANNELS // WORD, bottom & right, real, lower, upper, below_right, EVEN, PACKED)
    return tl.interleave(lower, upper) if PACKED else lower


@triton.jit
def dot(a, b, accumulator, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """accumulator + a @ b in float32. UPCAST: in the interpreter only, whose product of bfloat16 matrices is wrong."""
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    x_ptr, offset_ptr, mask_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr,
    height, width, out_height, out_width,
    offset_stride_n, offset_stride_c, offset_stride_y, offset_stride_x,
    mask_stride_n, mask_stride_c, mask_stride_y, mask_stride_x,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr,
    TAPS: tl.constexpr, KERNEL_X: tl.constexpr,
    STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr, PACKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Grid: (squares of output pixels, blocks of outputs, pictures)."""
    GROUP_CHANNELS: tl.constexpr = CHANNELS // GROUPS
    EVEN_C: tl.constexpr = GROUP_CHANNELS % BLOCK_C == 0
    EVEN_O: tl.constexpr = OUTPUTS % BLOCK_O == 0
    picture = tl.program_id(2).to(tl.int64)
    row, column, inside = pixels(tl.program_id(0), out_height, out_width, BLOCK_Y, BLOCK_X)
    output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    x_ptr += picture * height * width * CHANNELS
    offset_ptr += picture * offset_stride_n + row * offset_stride_y + column * offset_stride_x
    mask_ptr += picture * mask_stride_n + row * mask_stride_y + column * mask_stride_x
    base_y = (row * STRIDE - PADDING).to(tl.float32)
    base_x = (column * STRIDE - PADDING).to(tl.float32)

    total = tl.zeros((BLOCK_Y * BLOCK_X, BLOCK_O), tl.float32)
    for entry in range(GROUPS * TAPS):
        y, x, modulation = aim(
            offset_ptr, offset_stride_c, mask_ptr, mask_stride_c, base_y, base_x, entry, TAPS, KERNEL_X, DILATION, HAS_MASK
        )  # fmt: skip
        group_channel = (entry // TAPS) * GROUP_CHANNELS
        for first in tl.static_range(0, GROUP_CHANNELS, BLOCK_C):
            channel = first + tl.arange(0, BLOCK_C)
            sampled = sample(
                x_ptr + group_channel, y, x, modulation, height, width, first, CHANNELS, GROUP_CHANNELS, BLOCK_C, PACKED
            )
            pointer = weight_ptr + (output * (TAPS * CHANNELS))[None, :]
            pointer += (entry % TAPS * CHANNELS + group_channel + channel)[:, None]
            if EVEN_C and EVEN_O:
                weight = tl.load(pointer)
            else:
                weight = tl.load(
                    pointer, mask=(channel < GROUP_CHANNELS)[:, None] & (output < OUTPUTS)[None, :], other=0.0
                )
            total = dot(sampled.to(weight.dtype), weight, total, PRECISION, UPCAST)

    if HAS_BIAS:
        total += tl.load(bias_ptr + output, mask=output < OUTPUTS, other=0.0).to(tl.float32)[None, :]
    place = (picture * out_height * out_width + row * out_width + column)[:, None] * OUTPUTS + output[None, :]
    written = inside[:, None] if EVEN_O else inside[:, None] & (output < OUTPUTS)[None, :]
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + place, mask=written, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=written)


INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)
"""Whether this process runs the kernels in Triton's interpreter (TRITON_INTERPRET=1 when Triton was imported), on CPU tensors."""
