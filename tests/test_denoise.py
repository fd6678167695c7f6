"""pipeline.stages.denoise: nearer the truth on blocky pictures, hardly anything on clean ones; and blocks are recognised."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import color
from pipeline.color import ColorSpec, PixelLayout
from pipeline.errors import InputError
from pipeline.stages.denoise import BLOCKY, Denoise, blockiness

HEIGHT, WIDTH, FRAMES = 144, 256, 3
LAYOUT = PixelLayout("420", 8)
LIMITED = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
FULL = ColorSpec("bt709", "full", "bt1886", "bt709", "center")


def street(number: int) -> np.ndarray:
    """A drawn street, (H, W, 3) R'G'B' in [0, 1]: sky, houses with windows, road with grain, a lamp, all moving with the frame."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    x = x + 1.7 * number
    picture = np.stack([0.55 + 0.3 * y / HEIGHT, 0.7 + 0.2 * y / HEIGHT, 0.95 - 0.1 * y / HEIGHT], axis=-1)
    roof = 50 + 18 * np.sign(np.sin(x / 31)) + 6 * np.sin(x / 9)
    shade = 0.35 + 0.1 * np.sin(x / 23) + 0.12 * ((x // 7 % 2) * (y // 9 % 2))
    houses = np.stack([shade, 0.9 * shade, 0.75 * shade], axis=-1)
    picture = np.where((y > roof)[..., None], houses, picture)
    grain = np.random.default_rng(0).normal(0, 0.012, (HEIGHT, WIDTH))
    road = 0.3 + 0.12 * (y - 100) / 44 + grain + 0.4 * (np.abs(x - 128 - 2.1 * (y - 100)) < 3)
    picture = np.where((y > 100)[..., None], road[..., None] * np.array([1.0, 1.0, 1.04]), picture)
    lamp = (x - 60) ** 2 + (y - 80) ** 2 < 30
    return np.where(lamp[..., None], [0.95, 0.25, 0.1], picture).clip(0, 1)


def compressed(codec: str, **options: str) -> tuple[Tensor, Tensor, np.ndarray]:
    """The drawn frames through a codec: decoded and true working space (N,3,H,W), and decoded luma codes (N,H,W)."""
    full = codec == "mjpeg"
    how = FULL if full else LIMITED
    file = io.BytesIO()
    with av.open(file, "w", "matroska") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p" if full else "yuv420p"
        stream.thread_count = 1
        sources = [planes(street(number), full) for number in range(FRAMES)]
        for number, source in enumerate(sources):
            frame = av.VideoFrame.from_ndarray(
                np.concatenate([p.ravel() for p in source]).reshape(-1, WIDTH), stream.pix_fmt
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        found = [frame.to_ndarray().reshape(-1) for frame in container.decode(video=0)]
    area = HEIGHT * WIDTH
    decoded = [(f[:area], f[area : area * 5 // 4], f[area * 5 // 4 :]) for f in found]
    truth = torch.from_numpy(np.stack([street(n) for n in range(FRAMES)])).permute(0, 3, 1, 2)
    return (
        light(decoded, how),
        (truth**2.4).float().contiguous(),
        np.stack([d[0].reshape(HEIGHT, WIDTH) for d in decoded]),
    )


def planes(picture: np.ndarray, full: bool) -> tuple[np.ndarray, ...]:
    """R'G'B' -> 8-bit Y, U, V codes, chroma the mean of 2x2."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    luma_scale, chroma_scale, offset = (255, 255, 0) if full else (219, 224, 16)
    halves = [
        d.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(1, 3)) * chroma_scale + 128
        for d in ((blue - luma) / 1.8556, (red - luma) / 1.5748)
    ]
    return tuple(p.round().clip(0, 255).astype(np.uint8) for p in (luma * luma_scale + offset, *halves))


def light(decoded: list[tuple[np.ndarray, ...]], how: ColorSpec) -> Tensor:
    sizes = ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2))
    stacked = [torch.from_numpy(np.stack([d[i].reshape(size) for d in decoded])) for i, size in enumerate(sizes)]
    return color.unpack(tuple(stacked), LAYOUT, how)


def psnr(one: Tensor, other: Tensor) -> float:
    """Of the coded signals, in dB."""
    first, second = (color.coded_signal(x, "bt1886").double() for x in (one, other))
    return float(-10 * torch.log10((first - second).square().mean()))


@pytest.mark.parametrize(("q", "gain"), [(8, 0.25), (16, 0.25), (24, 0.25)])
def test_motion_jpeg_comes_nearer_the_truth(q: int, gain: float) -> None:
    source, truth, luma = compressed("mjpeg", qmin=str(q), qmax=str(q))
    assert blockiness(luma) > BLOCKY
    assert psnr(Denoise(1, "bt1886")(source), truth) > psnr(source, truth) + gain


@pytest.mark.parametrize("crf", ["35", "40"])
def test_strong_h264_gains_little_and_loses_nothing(crf: str) -> None:
    source, truth, _ = compressed("libx264", crf=crf, preset="fast", threads="1")
    assert psnr(Denoise(1, "bt1886")(source), truth) > psnr(source, truth)


def test_clean_pictures_are_hardly_touched_and_found_clean() -> None:
    source, _, luma = compressed("libx264", crf="12", preset="fast", threads="1")
    assert blockiness(luma) < 1.5 < BLOCKY
    assert psnr(Denoise(0.5, "bt1886")(source), source) > 46
    assert psnr(Denoise(1, "bt1886")(source), source) > 41


def test_edges_and_flat_areas_keep_their_bits() -> None:
    """Contrasts of 16 codes or more stand, whatever is beside them; above white and below black too."""
    codes = torch.full((1, 48, 64), 60, dtype=torch.uint8)
    codes[:, :, 20:] = 77
    codes[:, 20:24] = 252
    codes[:, 30:32] = 3
    chroma = torch.full((1, 24, 32), 128, dtype=torch.uint8)
    source = color.unpack((codes, chroma, chroma), LAYOUT, LIMITED)
    assert source.max() > 1.1 and source.min() < 0
    assert torch.equal(Denoise(1, "bt1886")(source), source)


@pytest.mark.parametrize("transfer", ["bt1886", "srgb", "linear"])
def test_it_is_the_filter_it_says(transfer: str) -> None:
    """Against the formula, pixel by pixel, in double precision."""
    generator = torch.Generator().manual_seed(0)
    signal = 0.5 + 0.05 * torch.randn(3, 9, 11, generator=generator).double()
    encoding = {"bt1886": lambda s: s**2.4, "srgb": lambda s: ((s + 0.055) / 1.055) ** 2.4, "linear": lambda s: s}[
        transfer
    ]
    result = Denoise(1.5, transfer)(encoding(signal).float()[None])[0]
    expected = torch.empty_like(signal)
    for y in range(9):
        for x in range(11):
            total, weights = torch.zeros(3).double(), 0.0
            for v in range(max(0, y - 2), min(9, y + 3)):
                for u in range(max(0, x - 2), min(11, x + 3)):
                    apart = (signal[:, v, u] - signal[:, y, x]).square().mean() / (1.5 * 16 / 219) ** 2
                    weight = max(0.0, 1 - float(apart)) ** 2 * np.exp(-((v - y) ** 2 + (u - x) ** 2) / 4.5)
                    total, weights = total + weight * signal[:, v, u], weights + weight
            expected[:, y, x] = total / weights
    assert (result.double() - encoding(expected)).abs().max() < 3e-6


def test_bits_do_not_depend_on_batch_or_threads() -> None:
    source = torch.rand(3, 3, 150, 333, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1
    kept = source.clone()
    denoise = Denoise(2, "bt1886")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = denoise(source)
        torch.set_num_threads(3)
        assert torch.equal(one, denoise(source))
        assert torch.equal(one[1:2], denoise(source[1:2]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(source, kept)


def test_tiny_pictures() -> None:
    for size in ((1, 1), (1, 5), (2, 2), (5, 1)):
        source = torch.rand(1, 3, *size)
        assert torch.isfinite(Denoise(1, "bt1886")(source)).all()
    assert blockiness(np.zeros((1, 8, 8), np.uint8)) == 1
    assert blockiness(np.zeros((2, 64, 64), np.uint8)) == 1


def test_blocks_are_counted_on_their_grid() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(60, 80, (2, 10, 12)).repeat(8, axis=1).repeat(8, axis=2)
    noise = rng.integers(0, 3, blocks.shape)
    luma = (blocks + noise).astype(np.uint8)
    assert blockiness(luma) > 3
    assert blockiness(luma[:, 3:, 5:]) < 1
    assert 0.9 < blockiness((noise + 100).astype(np.uint8)) < 1.1


def test_misuse_is_refused() -> None:
    for strength in (0, -1, 2.5, float("nan")):
        with pytest.raises(InputError, match=r"denoise\.strength"):
            Denoise(strength, "bt1886")
    with pytest.raises(InputError, match="transfer 'log'"):
        Denoise(1, "log")
    with pytest.raises(ValueError, match="uint8"):
        blockiness(np.zeros((2, 64, 64), np.float32))
