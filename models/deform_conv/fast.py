"""The fast CPU backend, in plain PyTorch: gather with `embedding_bag`, multiply with a 1xK convolution.

The map is laid out as a table of pixels (NHWC, with a border of zeros). One sampled value is the weighted sum of four
neighbouring rows of that table, which is what `embedding_bag` computes: vectorised, threaded and in float32 or bfloat16.
The K sampled pixels of one output pixel are laid side by side, in a map K times as wide, and a 1xK convolution with
stride K does the matrix product. (`addmm`, and a 1x1 convolution too, run in MKL, which in float32 on an AMD processor
takes 1.6 to 2.4 times as long as oneDNN, which gets this form.)

Without gradients the work goes by tiles of rows, so that the columns stay in the cache and take little memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.convolution import conv2d

TILE_PIXELS = 2048
"""Output pixels in one tile (at least one row). Measured: 1k to 4k pixels are within a few per cent of each other."""

BAGS_AT_ONCE = 1024
"""Bags that a backward pass takes at a time, so that what it gathers stays in the cache."""

BORDER_BEFORE, BORDER_AFTER = 1, 2
"""Zero rows and columns around the map, so that positions clamped to [-1, size] need no test for each corner."""


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
    """Shapes as in `models.deform_conv.deform_conv2d`; arguments are checked there. The result is in channels_last.

    Each sample of the batch is computed alone: its bits do not depend on the batch.
    """
    inputs = (x, offset, mask, weight, bias)
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    columns_weight = _columns_weight(weight.to(x.dtype))
    bias = None if bias is None else bias.to(x.dtype)
    sampler = _Sampler(x, offset, weight.shape[2:], stride, padding, dilation)
    offset = offset.permute(0, 2, 3, 1)
    mask = None if mask is None else mask.permute(0, 2, 3, 1)
    rows, columns = offset.shape[1:3]
    tile_rows = rows if training else min(rows, max(1, TILE_PIXELS // columns))
    samples = []
    for n in range(x.shape[0]):
        table = sampler.table(x[n])
        tiles = []
        for top in range(0, rows, tile_rows):
            part = slice(top, min(top + tile_rows, rows))
            sampled = sampler.sample(table, offset[n, part], None if mask is None else mask[n, part], top)
            tiles.append(conv2d(sampled, columns_weight, bias, stride=(1, sampler.taps), padding=(0, 0)))
        samples.append(tiles[0] if len(tiles) == 1 else torch.cat(tiles, dim=2))
    return samples[0] if len(samples) == 1 else torch.cat(samples)


def _columns_weight(weight: Tensor) -> Tensor:
    """(O, C, kh, kw) -> (O, C, 1, kh*kw): the order in which `_Sampler.sample` lays out the taps of a pixel."""
    return weight.flatten(2).unsqueeze(2).contiguous(memory_format=torch.channels_last)


class _Sampler:
    """Turns offsets into sampled columns; holds what does not change from tile to tile."""

    def __init__(self, x: Tensor, offset: Tensor, kernel: torch.Size, stride: int, padding: int, dilation: int) -> None:
        self.height, self.width = x.shape[2:]
        self.table_width = self.width + BORDER_BEFORE + BORDER_AFTER
        self.taps = kernel[0] * kernel[1]
        self.groups = offset.shape[1] // (2 * self.taps)
        self.stride = stride
        # Positions need more than bfloat16's 8 bits of mantissa: they are float32 (float64 for float64 maps).
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        columns = offset.shape[3]
        tap_y = torch.arange(kernel[0], dtype=self.dtype).mul_(dilation).repeat_interleave(kernel[1]) - padding
        tap_x = torch.arange(kernel[1], dtype=self.dtype).mul_(dilation).repeat(kernel[0]) - padding
        out_x = torch.arange(columns, dtype=self.dtype).mul_(stride)
        self.tap_y = tap_y.view(1, 1, self.taps, 1)
        self.base_x = (out_x.view(1, columns, 1, 1) + tap_x.view(1, 1, self.taps, 1)).contiguous()

    def table(self, x: Tensor) -> Tensor:
        """(C, H, W) -> (pixels * groups, C / groups): the map as a table of rows, with its border of zeros."""
        around = (0, 0, BORDER_BEFORE, BORDER_AFTER, BORDER_BEFORE, BORDER_AFTER)
        return F.pad(x.permute(1, 2, 0), around).reshape(-1, x.shape[0] // self.groups)

    def sample(self, table: Tensor, offset: Tensor, mask: Tensor | None, top: int) -> Tensor:
        """Offsets (rows, columns, 2*G*K) and mask (rows, columns, G*K) of a tile -> (1, C, rows, columns * K)."""
        rows, columns = offset.shape[:2]
        offset = offset.unflatten(2, (self.groups, self.taps, 2)).to(self.dtype)
        out_y = torch.arange(top, top + rows, dtype=self.dtype).mul_(self.stride).view(rows, 1, 1, 1)
        y = offset[..., 0].transpose(2, 3) + (out_y + self.tap_y).expand(rows, columns, -1, 1).contiguous()
        x = offset[..., 1].transpose(2, 3) + self.base_x
        # Beyond [-1, size] everything is zero, and so is every corner that a clamped position reaches.
        y, x = y.clamp(-1, self.height), x.clamp(-1, self.width)
        y_low, x_low = y.detach().floor(), x.detach().floor()
        fy, fx = y - y_low, x - x_low

        first = (
            y_low.to(torch.int32)
            .add_(BORDER_BEFORE)
            .mul_(self.table_width)
            .add_(x_low.to(torch.int32))
            .add_(BORDER_BEFORE)
        )
        # A NaN position has no index. It reads some row with the weight NaN, so the result is NaN, as torchvision's is.
        first.clamp_(0, (self.height + 1) * self.table_width + self.width + 1)
        corners = (first, first + 1, first + self.table_width, first + (self.table_width + 1))
        if self.groups > 1:
            group = torch.arange(self.groups, dtype=torch.int32)
            corners = tuple(corner * self.groups + group for corner in corners)
        indices = _interleave(corners, torch.int32)

        if mask is None:
            below, above = fy, 1 - fy
        else:
            m = mask.unflatten(2, (self.groups, self.taps)).transpose(2, 3).to(self.dtype)
            below = fy * m
            above = m - below
        above_right, below_right = above * fx, below * fx
        weights = _interleave((above - above_right, above_right, below - below_right, below_right), table.dtype)

        bags = _Bags.apply(table, indices, weights) if _trained(table, weights) else _bags(table, indices, weights)
        return bags.view(1, rows, columns * self.taps, -1).permute(0, 3, 1, 2)


def _trained(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _bags(table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """(rows, C), four indices and weights a bag -> (bags, C): weighted sums of rows."""
    starts = torch.arange(0, indices.numel(), 4, dtype=torch.int32)
    return F.embedding_bag(indices, table, starts, mode="sum", per_sample_weights=weights)


class _Bags(torch.autograd.Function):
    """`_bags` with a backward pass of its own, which takes half the time of `embedding_bag`'s (that one sorts the indices)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:  # noqa: ANN401 - PyTorch does not name it
        ctx.save_for_backward(table, indices, weights)
        return _bags(table, indices, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # noqa: ANN401
        table, indices, weights = ctx.saved_tensors
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))  # many rows add up: not in bfloat16
        of_table, of_weights = gradient.new_zeros(table.shape), gradient.new_empty(weights.shape)
        bags = (
            gradient.split(BAGS_AT_ONCE),
            indices.view(-1, 4).split(BAGS_AT_ONCE),
            weights.view(-1, 4).split(BAGS_AT_ONCE),
        )
        for part, four, shares, target in zip(*bags, of_weights.view(-1, 4).split(BAGS_AT_ONCE), strict=True):
            corners = four.flatten().long()
            if ctx.needs_input_grad[0]:
                of_table.index_add_(0, corners, (part.unsqueeze(1) * shares.unsqueeze(2)).flatten(0, 1))
            if ctx.needs_input_grad[2]:
                rows = table.index_select(0, corners).view(-1, 4, table.shape[1]).to(gradient.dtype)
                target.copy_(torch.bmm(rows, part.unsqueeze(2)).squeeze(2))
        of_table = of_table.to(table.dtype) if ctx.needs_input_grad[0] else None
        of_weights = of_weights.to(weights.dtype) if ctx.needs_input_grad[2] else None
        return of_table, None, of_weights


def _interleave(parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Four tensors of one shape -> one flat tensor a0 b0 c0 d0 a1 b1 ... of the given dtype."""
    if any(part.requires_grad for part in parts):
        return torch.stack(parts, dim=-1).to(dtype).view(-1)
    out = torch.empty((*parts[0].shape, len(parts)), dtype=dtype)  # filled in place: five times as fast as torch.stack
    for i, part in enumerate(parts):
        out[..., i] = part
    return out.view(-1)
