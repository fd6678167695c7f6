"""Dither: a fixed blue-noise tile, so that rounding to 10 bits leaves fine grain instead of bands."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

TILE = 64
"""Side of the tile in pixels."""
_START_POINTS = TILE * TILE // 10


def hash64(number: int) -> int:
    """A well mixed 64-bit value of an integer (the finaliser of splitmix64: Steele, Lea and Flood, OOPSLA 2014)."""
    mask = (1 << 64) - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)


@lru_cache(maxsize=1)
def blue_noise() -> Tensor:
    """(64, 64) float32 in (0, 1), each of (k + 0.5) / 4096 once: void-and-cluster (Ulichney, SPIE 1913, 1993).

    The kernel is a Gaussian (sigma 1.5 pixels) on the torus, in integers: every sum is exact, so every machine makes the same tile.
    """
    step = torch.arange(TILE, dtype=torch.float64)
    step = torch.minimum(step, TILE - step)
    kernel = torch.exp(-(step[:, None] ** 2 + step[None, :] ** 2) / (2 * 1.5**2)).mul(1 << 40).round().to(torch.int64)
    wide = kernel.repeat(2, 2)
    energy = torch.zeros(TILE, TILE, dtype=torch.int64)
    filled = torch.zeros(TILE * TILE, dtype=torch.bool)

    def toggle(place: int, sign: int) -> None:
        row, column = divmod(place, TILE)
        energy.add_(wide[TILE - row : 2 * TILE - row, TILE - column : 2 * TILE - column], alpha=sign)
        filled[place] = sign > 0

    def tightest_cluster() -> int:
        return int(energy.view(-1).masked_fill(~filled, -1).argmax())

    def largest_void() -> int:
        return int(energy.view(-1).masked_fill(filled, torch.iinfo(torch.int64).max).argmin())

    for place in sorted(range(TILE * TILE), key=hash64)[:_START_POINTS]:
        toggle(place, 1)
    while True:
        cluster = tightest_cluster()
        toggle(cluster, -1)
        void = largest_void()
        toggle(void, 1)
        if void == cluster:
            break
    rank = torch.zeros(TILE * TILE)
    start = filled.clone()
    for k in range(_START_POINTS - 1, -1, -1):
        place = tightest_cluster()
        toggle(place, -1)
        rank[place] = k
    for place in start.nonzero().flatten().tolist():
        toggle(place, 1)
    for k in range(_START_POINTS, TILE * TILE):
        place = largest_void()
        toggle(place, 1)
        rank[place] = k
    return rank.add_(0.5).div_(TILE * TILE).view(TILE, TILE)


@lru_cache(maxsize=8)
def _spread(rows: int, width: int, device: torch.device) -> Tensor:
    repeats = (-(-rows // TILE) + 1, -(-width // TILE) + 1)
    return blue_noise().to(device).repeat(*repeats)


def round_(codes: Tensor, first_row: int, frame_number: int, plane: int, block_rows: int) -> Tensor:
    """Dithered rounding in place: adds the noise, in (0, 1), and takes the floor. A whole code always stays what it is.

    codes: (rows, W) float32, rows `first_row` onwards of a plane. The tile is moved by a hash of frame_number (any integer) and plane
    (0 to 2), so the noise of a pixel depends on x, y, plane and frame number alone. block_rows: the most rows any call of this frame passes.
    """
    rows, width = codes.shape
    moves = hash64(3 * frame_number + plane)
    top = (first_row + moves % TILE) % TILE
    left = (moves // TILE) % TILE
    noise = _spread(max(rows, block_rows), width, codes.device)
    return codes.add_(noise[top : top + rows, left : left + width]).floor_()
