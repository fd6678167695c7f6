"""Reconstruct: the network that restores what over-exposure took, on the whole picture or at half its size, whole frames or
overlapping tiles, never a non-finite pixel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from models.encodings import decode
from models.model import Model
from pipeline import gain_map
from pipeline.color import coded_signal
from pipeline.heartbeat import beat

RAMP_PX = 32
"""Width of the blend between two tiles, where the overlap has room for it."""

ALIGN_PX = 16
"""Tiles start on multiples of this; every network's size multiple divides it."""


class Reconstruct(nn.Module):
    """Working-space frames (N,3,H,W) float32 in and out; SDR white = 1.0; highlights in the result rise above it.

    The network reads the SDR signal in [0, 1], coded as its checkpoint was trained to read it, and returns linear light. What it changes
    is added to the frames, less of it where they are dark (`gain_map.protection`): light that the camera recorded above nominal
    white (limited-range codes 236-254) stays on top, and a network that changes nothing changes no bit.

    model: a loaded checkpoint
    precision: "fp32", "bf16" or "fp16"
    tile: side of the tiles in pixels of the network's picture (`network_size`), a multiple of ALIGN_PX from 64 up; 0 = whole frames
    scale: 1 = the network sees the picture; 0.5 = it sees the half-size picture, and pipeline/gain_map.py carries its answer to full size
    """

    lead_in = 0
    lead_out = 0

    def __init__(self, model: Model, precision: str, tile: int, scale: float = 1.0) -> None:
        super().__init__()
        if scale not in (1.0, 0.5):
            raise ValueError(f"scale is {scale}; legal are 1 and 0.5")
        self.model = model
        self.precision = precision
        self.tile = tile
        self.scale = scale
        self.redone_frames = 0
        self._count = threading.Lock()

    def forward(self, frames: Tensor) -> Tensor:
        """Restore frames. A frame for which the network gives a non-finite pixel is redone in float32 and counted in `redone_frames`;
        where such a pixel stays, the SDR's does."""
        return self._restore(frames, self._finite_change)

    def attempt(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` without asking the host anything: the frames, and (N,) bool on their device, whether each was finite throughout.

        Frames for which it is False are not to be used; `forward` redoes them.
        """
        good: list[Tensor] = []

        def change(coded: Tensor) -> Tensor:
            found = self._change(coded, self.precision)
            good.append(_finite(found))
            return found

        return self._restore(frames, change), good[0]

    @torch.no_grad()
    def _restore(self, frames: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """change: coded (N,3,h,w) -> what the network adds to its light."""
        encoding = self.model.spec.input_encoding
        if self.scale == 1.0:
            coded = coded_signal(frames, encoding)
            return change(coded).mul_(gain_map.protection(coded.amax(dim=1, keepdim=True))).add_(frames)
        half = gain_map.shrink(frames, encoding)
        sdr = decode(half.coded, encoding)
        return gain_map.apply(frames, gain_map.fit(half, sdr, change(half.coded).add_(sdr)), encoding)

    def _finite_change(self, coded: Tensor) -> Tensor:
        change = self._change(coded, self.precision)
        for number in torch.nonzero(~_finite(change)).flatten().tolist():
            with self._count:
                self.redone_frames += 1
            again = self._change(coded[number : number + 1], "fp32")
            change[number] = torch.where(torch.isfinite(again), again, 0.0)[0]
        return change

    def _change(self, coded: Tensor, precision: str) -> Tensor:
        """(N,3,h,w) coded signal -> the network's light less the signal's own, decoded alike: exactly 0 where the code is the same."""

        def change(part: Tensor) -> Tensor:
            return self.model.restore(part, precision) - decode(part.contiguous(), self.model.spec.input_encoding)

        if self.tile == 0 or max(coded.shape[-2:]) <= self.tile:
            return change(coded)
        return run_tiled(change, coded, self.tile, self.model.spec.halo_px)


def network_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width of the picture that the network sees of one of that size: the same, or the half rounded up."""
    return (height, width) if scale == 1.0 else gain_map.half_size(height, width)


def _finite(frames: Tensor) -> Tensor:
    return torch.isfinite(frames).flatten(1).all(dim=1)


def tile_overlap(tile: int, halo_px: int) -> int:
    """Pixels that neighbouring tiles share: a halo each, and between them the ramp, where both are right; at most three
    quarters of a tile (small tiles get a narrower ramp, and a smaller margin than the halo)."""
    return min(2 * halo_px + RAMP_PX, tile * 3 // 4) // 4 * 4


def run_tiled(restore: Callable[[Tensor], Tensor], coded: Tensor, tile: int, halo_px: int) -> Tensor:
    """Apply `restore` ((N,3,h,w) -> same) to overlapping tiles of (N,3,H,W) and blend them linearly in the middle of each overlap.

    Tile corners lie on multiples of ALIGN_PX, so that the network's strides fall as they do on the whole frame.
    """
    height, width = coded.shape[-2:]
    overlap = tile_overlap(tile, halo_px)
    ramp = min(overlap, RAMP_PX, max(4, overlap - 2 * halo_px))
    result = torch.zeros_like(coded)
    weight = coded.new_zeros(1, 1, height, width)
    for top, bottom in _spread(height, tile, overlap):
        for left, right in _spread(width, tile, overlap):
            part = restore(coded[..., top:bottom, left:right])
            beat()
            rows = _ramp(top, bottom, height, overlap, ramp, coded)
            columns = _ramp(left, right, width, overlap, ramp, coded)
            window = rows[:, None] * columns[None, :]
            result[..., top:bottom, left:right] += part * window
            weight[..., top:bottom, left:right] += window
    return result / weight


def choose_tile(model: Model, height: int, width: int, precision: str, budget_bytes: int) -> int:
    """Side of the tiles so that the network's working memory stays below `budget_bytes`; 0 when a whole frame does.

    height, width: of the picture that the network sees (`network_size`). Depends on the model, the picture and the setting alone, never on
    the machine, so that the bytes do not either.
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
