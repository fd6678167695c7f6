"""pipeline.dither: blue noise, fair, bounded, and fixed by place, plane and frame number."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from pipeline import color, dither
from pipeline.color import OutputSpec

SIDE = 256


def rounding_noise(level: float, frame: int = 0, plane: int = 0) -> Tensor:
    """What dithered rounding adds to a flat field of this code, (SIDE, SIDE) float64."""
    return dither.round_(torch.full((SIDE, SIDE), level), 0, frame, plane, SIDE).double() - level


def low_frequency_share(noise: Tensor) -> float:
    """Mean power below 0.1 cycles a pixel over mean power of all frequencies but the mean: 1 for white noise."""
    power = torch.fft.fft2(noise - noise.mean()).abs() ** 2
    frequency = torch.fft.fftfreq(SIDE, dtype=torch.float64)
    radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt()
    return float(power[(radius > 0) & (radius < 0.1)].mean() / power[radius > 0].mean())


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.7, 0.9])
def test_noise_is_blue(fraction: float) -> None:
    """Ten times less energy at low frequencies than white noise that rounds the same field."""
    assert low_frequency_share(rounding_noise(100 + fraction)) < 0.1
    white = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert 0.9 < low_frequency_share((100 + fraction + white).floor() - 100 - fraction) < 1.1


def test_the_tile_itself_is_blue() -> None:
    assert low_frequency_share(dither.blue_noise().double().repeat(4, 4)) < 0.1


@pytest.mark.parametrize("level", [64.0, 511.003, 600.1, 700.5, 939.999])
def test_mean_stays_and_no_pixel_moves_by_a_code(level: float) -> None:
    for frame in (0, 1, 12345):
        noise = rounding_noise(level, frame)
        assert noise.abs().max() < 1
        assert abs(float(noise.mean())) <= 1 / 4096 + 1e-4  # 4096 levels of the tile, and float32 at this code
    assert level % 1 or not rounding_noise(level).any()


def test_a_pixel_is_right_over_time() -> None:
    """Frames that follow one another do not repeat the grain: the mean of 64 of them comes near the level at every pixel."""
    frames = torch.stack([rounding_noise(100.5, frame)[:64, :64] for frame in range(64)])
    assert frames.mean(dim=0).abs().max() < 0.3  # 4.8 standard deviations of 64 fair coins
    assert frames.mean(dim=0).std() < 1.1 * 0.5 / 8


def test_planes_and_frames_have_noise_of_their_own() -> None:
    kinds = [rounding_noise(100.5, frame, plane).flatten() for frame in range(3) for plane in range(3)]
    for i, one in enumerate(kinds):
        for other in kinds[:i]:
            assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.15


def test_blocks_of_rows_do_not_show() -> None:
    codes = torch.rand(100, 150, generator=torch.Generator().manual_seed(1)) * 876 + 64
    whole = dither.round_(codes.clone(), 0, 7, 1, 100)
    for rows in (1, 3, 64, 99):
        parts = [dither.round_(codes[y : y + rows].clone(), y, 7, 1, rows) for y in range(0, 100, rows)]
        assert torch.equal(torch.cat(parts), whole)


def test_noise_is_the_same_on_every_machine() -> None:
    """The tile's bytes and the moves of some frames, as they were when this was written."""
    ranks = (dither.blue_noise() * 4096 - 0.5).round().to(torch.int16).numpy().astype("<i2")
    assert hashlib.sha256(ranks.tobytes()).hexdigest() == TILE_SHA256
    assert [dither.hash64(number) for number in (0, 1)] == [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]


def test_packed_planes_are_blue() -> None:
    """The whole way through pack: luma of a flat grey that lies between two codes."""
    flat = torch.full((1, 3, SIDE, SIDE), 0.5031)
    y = color.pack(flat, OutputSpec("pq", 203, 1000), torch.tensor([3]))[0][0].double()
    assert y.max() - y.min() == 1
    assert low_frequency_share(y) < 0.1


TILE_SHA256 = "c8267b59d2656e52183362dffc39d35886e853e6f393c4cd63e8142a241cf87b"
