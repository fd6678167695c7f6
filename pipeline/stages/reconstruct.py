"""Reconstruct: the network that restores what over-exposure took, whole frames or overlapping tiles, never a non-finite pixel."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.model import Model
from pipeline.color import coded_signal

RAMP_PX = 32
"""Width of the blend between two tiles, where the overlap has room for it."""

ALIGN_PX = 16
"""Tiles start on multiples of this; every network's size multiple divides it."""


class Reconstruct(nn.Module):
    """Working-space frames (N,3,H,W) float32 in and out; SDR white = 1.0; highlights in the result rise above it.

    The network reads the SDR signal in [0, 1], coded as its checkpoint was trained to read it, and returns linear light. Light that the camera recorded above nominal white
    (limited-range codes 236-254) is added back on top, so that a network which changes nothing changes nothing.

    model: a loaded checkpoint
    precision: "fp32", "bf16" or "fp16"
    tile: side of the tiles in pixels, a multiple of ALIGN_PX from 64 up; 0 = whole frames
    """

    lead_in = 0
    lead_out = 0

    def __init__(self, model: Model, precision: str, tile: int) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.tile = tile
        self.redone_frames = 0
        self._count = threading.Lock()

    def forward(self, frames: Tensor) -> Tensor:
        """Restore frames. A frame with a non-finite pixel is redone in float32 and counted in `redone_frames`."""
        coded = coded_signal(frames, self.model.spec.input_encoding)
        restored = self._run(coded, self.precision)
        finite = torch.isfinite(restored).flatten(1).all(dim=1)
        for number in torch.nonzero(~finite).flatten().tolist():
            with self._count:
                self.redone_frames += 1
            again = self._run(coded[number : number + 1], "fp32")
            sdr = frames[number : number + 1].clamp(0, 1)
            restored[number] = torch.where(torch.isfinite(again), again, sdr)[0]
        return restored.add_(frames).sub_(frames.clamp(0, 1))

    def _run(self, coded: Tensor, precision: str) -> Tensor:
        if self.tile == 0 or max(coded.shape[-2:]) <= self.tile:
            return self.model.restore(coded, precision)
        return run_tiled(lambda part: self.model.restore(part, precision), coded, self.tile, self.model.spec.halo_px)


def tile_overlap(tile: int, halo_px: int) -> int:
    """Pixels that neighbouring tiles share: a halo each, and between them the ramp, where both are right; at most three
    quarters of a tile (small tiles get a narrower ramp, and a smaller margin than the halo)."""
    return min(2 * halo_px + RAMP_PX, tile * 3 // 4) // 4 * 4


def run_tiled(restore: object, coded: Tensor, tile: int, halo_px: int) -> Tensor:
    """Apply `restore` to overlapping tiles of (N,3,H,W) and blend them linearly in the middle of each overlap.

    Tile corners lie on multiples of ALIGN_PX, so that the network's strides fall as they do on the whole frame.
    """
    height, width = coded.shape[-2:]
    overlap = tile_overlap(tile, halo_px)
    ramp = min(overlap, RAMP_PX, max(4, overlap - 2 * halo_px))
    result = torch.zeros_like(coded)
    weight = coded.new_zeros(1, 1, height, width)
    for top, bottom in _spread(height, tile, overlap):
        for left, right in _spread(width, tile, overlap):
            part = restore(coded[..., top:bottom, left:right])  # type: ignore[operator]
            rows = _ramp(top, bottom, height, overlap, ramp, coded)
            columns = _ramp(left, right, width, overlap, ramp, coded)
            window = rows[:, None] * columns[None, :]
            result[..., top:bottom, left:right] += part * window
            weight[..., top:bottom, left:right] += window
    return result / weight


def choose_tile(model: Model, height: int, width: int, precision: str, budget_bytes: int) -> int:
    """Side of the tiles so that the network's working memory stays below `budget_bytes`; 0 when a whole frame does.

    Depends on the model, the picture and the setting alone, never on the machine, so that the bytes do not either.
    """
    if model.activation_bytes(height, width, precision) <= budget_bytes:
        return 0
    tile = 4096
    while tile > 128 and model.activation_bytes(min(tile, height), min(tile, width), precision) > budget_bytes:
        tile -= 64
    return tile


def _spread(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `tile` that cover 0..length, each starting on a multiple of ALIGN_PX and sharing at least
    `overlap` with the last."""
    start = 0
    while True:
        end = min(start + tile, length)
        yield start, end
        if end == length:
            return
        start = (end - overlap) // ALIGN_PX * ALIGN_PX


def _ramp(start: int, end: int, length: int, overlap: int, ramp: int, like: Tensor) -> Tensor:
    """Weights of one tile along one side: 1 inside, a linear ramp in the middle of each overlap, 0 beyond it."""
    weights = torch.ones(end - start, dtype=like.dtype, device=like.device)
    margin = (overlap - ramp) // 2
    rise = (torch.arange(ramp, dtype=like.dtype, device=like.device) + 0.5) / max(ramp, 1)
    if start > 0:
        weights[:margin] = 0
        weights[margin : margin + ramp] = rise
    if end < length:
        weights[len(weights) - margin :] = 0
        weights[len(weights) - margin - ramp : len(weights) - margin] = rise.flip(0)
    return weights
