"""pipeline.stages.deband: bands go, within the source's quantisation; edges, detail and noise stay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline import color
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.errors import InputError
from pipeline.stages.deband import Deband, moves
from pipeline.stages.grade import Grade

LAYOUT = PixelLayout("420", 8)
SPEC = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
PQ = OutputSpec("pq", 203.0, 1000.0)
FRAMES = 4
EDGE = 16
"""Columns at either side that are not judged."""


def unpacked(*codes: Tensor) -> Tensor:
    """Y (and U, V) codes, float, (H, W) each -> working space; neutral where U and V are missing."""
    planes = [plane.round().to(torch.uint8)[None] for plane in codes]
    if len(planes) == 1:
        planes += [torch.full((1, *(-(-side // 2) for side in codes[0].shape)), 128, dtype=torch.uint8)] * 2
    return color.unpack(tuple(planes), LAYOUT, SPEC)


def source_codes(linear: Tensor) -> Tensor:
    """(1, 3, H, W) working space -> its Y', Cb, Cr in 8-bit codes, (3, H, W) float64."""
    red, green, blue = (linear[0].double().abs() ** (1 / 2.4)).mul(linear[0].sign())
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return torch.stack([16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748])


def lit(linear: Tensor, gain: float) -> Tensor:
    """What a network might add: light times `gain` at white, less of it down to 0.7 of the signal, smoothly."""
    place = ((color.coded_signal(linear.amax(dim=1, keepdim=True), "bt1886") - 0.7) / 0.3).clamp(0, 1)
    return linear * (1 + (gain - 1) * place * place * (3 - 2 * place))


def largest_step(linear: Tensor, gain: float) -> float:
    """Largest difference of neighbouring columns, in 10-bit PQ codes of luma: means over the rows of several frames' dither."""
    graded = Grade(203, 1000)(lit(linear, gain)).expand(FRAMES, -1, -1, -1)
    y = color.pack(graded, PQ, torch.arange(FRAMES))[0].double()
    return y.mean(dim=(0, 1)).diff()[EDGE:-EDGE].abs().max().item()


@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(("low", "high", "width"), [(200, 250, 512), (215, 236, 512), (225, 237, 640), (100, 130, 512)])
def test_a_sky_ramp_shows_no_step_of_ten_bits(low: float, high: float, width: int, gain: float) -> None:
    """8-bit codes, unpack, Deband, highlights, Grade, pack: hardly larger steps than a sky that never was 8-bit."""
    true = torch.linspace(low, high, width, dtype=torch.float64).expand(64, width)
    light = (((true - 16) / 219) ** 2.4).float().expand(1, 3, 64, width).contiguous()
    source = unpacked(true)
    continuous = largest_step(light, gain)
    assert largest_step(source, gain) > 0.8 + continuous  # without it there are bands
    assert largest_step(Deband(LAYOUT, SPEC)(source), gain) < 0.15 + continuous


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2])
@pytest.mark.parametrize(("band_px", "left"), [(8, 0.2), (20, 0.2), (50, 0.2), (120, 0.4)])
def test_ramps_come_back(angle: float, band_px: float, left: float) -> None:
    """Bands of any width and direction: a fifth of the rounding error is left at most, more where the picture has but three bands."""
    y, x = torch.meshgrid(torch.arange(320.0), torch.arange(384.0), indexing="ij")
    true = 100 + (x * math.cos(angle) + y * math.sin(angle)) / band_px
    codes = true.round()
    assert (codes + moves(codes) - true).square().mean() < left**2 * (codes - true).square().mean()


def test_coloured_skies_come_back() -> None:
    """Bands of Cb and Cr too; no plane moves by more than half a code."""
    across = torch.linspace(0, 1, 384).expand(128, 384)
    true = [120 + 16 * across, (140 + 9 * across)[::2, ::2], (122 - 7 * across)[::2, ::2]]
    source = unpacked(*true)
    result = source_codes(Deband(LAYOUT, SPEC)(source))
    before = source_codes(source)
    assert (result - before).abs().max() < 0.5 + 1e-3
    for plane, ramp in enumerate((120 + 16 * across, 140 + 9 * across, 122 - 7 * across)):
        was, now = ((codes[plane] - ramp)[8:-8, 8:-8].square().mean().sqrt() for codes in (before, result))
        assert now < 0.35 * was


def test_steps_of_two_codes_go_too() -> None:
    true = (100 + torch.arange(400.0) / 8).expand(64, 400)
    codes = (true / 2).round() * 2
    move = moves(codes)
    assert 0.9 < move.abs().max() <= 1
    assert (codes + move - true)[:, EDGE:-EDGE].square().mean() < 0.3**2 * (codes - true).square().mean()


def test_the_result_rounds_to_the_source() -> None:
    """Where neighbours are one code apart no pixel leaves the interval of its own code."""
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(300.0), indexing="ij")
    codes = (90 + 30 * torch.sin(x / 90) * torch.cos(y / 70)).round()
    assert (codes.diff().abs().max(), codes.diff(dim=0).abs().max()) == (1, 1)
    assert 0.3 < moves(codes).abs().max() <= 0.5


def test_edges_and_detail_keep_their_bits() -> None:
    """A lamp post, wires, a chessboard: pixels that touch a contrast of three codes or more are untouched to the bit."""
    sky = (180 + torch.arange(256.0) / 14).expand(192, 256).clone()
    sky[60:62] -= 3
    sky[:, 100:103] -= 90
    sky[120:] = 60 + 8.0 * ((torch.arange(72)[:, None] // 3 + torch.arange(256)[None] // 3) % 2)
    codes = sky.round()
    source = unpacked(codes)
    result = Deband(LAYOUT, SPEC)(source)
    same = (result == source).all(dim=1)[0]
    assert same[59:63].all() and same[:, 99:104].all() and same[119:].all()
    assert not same[10:50, 10:90].all()
    true = (180 + torch.arange(256.0) / 14).expand(192, 256)
    move = moves(codes)
    for part in (
        (slice(4, 56), slice(4, 96)),
        (slice(66, 116), slice(108, 250)),
    ):  # the sky between them is smooth all the same
        assert (codes + move - true)[part].square().mean() < 0.4**2 * (codes - true)[part].square().mean()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_noise_stays(sigma: float) -> None:
    noise = sigma * torch.randn(192, 256, generator=torch.Generator().manual_seed(0))
    codes = (120 + torch.arange(256.0) / 20 + noise).round()
    move = moves(codes)
    assert move.square().mean().sqrt() < 0.01
    assert (move == 0).float().mean() > 0.98


def test_flat_pictures_and_what_is_beyond_white_and_black() -> None:
    flat = torch.full((64, 96), 235.0)
    flat[:, 48:] = 200
    source = unpacked(flat)
    assert torch.equal(Deband(LAYOUT, SPEC)(source), source)
    for low, high in ((236, 252), (2, 15)):
        true = torch.linspace(low, high, 256).expand(64, 256)
        source = unpacked(true)
        result = Deband(LAYOUT, SPEC)(source)
        error = [(source_codes(light)[0] - true)[:, EDGE:-EDGE].abs().max() for light in (source, result)]
        assert error[1] < 0.3 * error[0]
        assert ((result > 1) == (source > 1)).all() and ((result < 0) == (source < 0)).all()


@pytest.mark.parametrize(
    ("layout", "spec", "step"),
    [
        (PixelLayout("444", 8), ColorSpec("rgb", "full", "srgb", "bt709", "left"), 1 / 255),
        (PixelLayout("gray", 8), ColorSpec("bt709", "full", "linear", "bt709", "left"), 1 / 255),
        (PixelLayout("422", 10), ColorSpec("bt601", "limited", "bt1886", "bt601-625", "left"), 1 / 876),
        (PixelLayout("420", 8), ColorSpec("bt2020", "limited", "srgb", "bt2020", "topleft"), 1 / 219),
    ],
)
def test_every_kind_of_source(layout: PixelLayout, spec: ColorSpec, step: float) -> None:
    """A neutral ramp of twenty of the source's own codes, in the middle of its range."""
    unit = 1 << (layout.bit_depth - 8)
    true = torch.linspace(100 * unit, 100 * unit + 20, 320).expand(64, 320)
    kind = torch.uint8 if layout.bit_depth == 8 else torch.uint16
    luma = true.round().to(kind)[None]
    if layout.chroma == "gray":
        planes: tuple[Tensor, ...] = (luma,)
    elif spec.matrix == "rgb":
        planes = (luma, luma, luma)
    else:
        size = (1, 64 if layout.chroma == "422" else 32, 160)
        planes = (luma, *[torch.full(size, 128 * unit).to(kind)] * 2)
    result = Deband(layout, spec)(color.unpack(planes, layout, spec))
    signal = color.coded_signal(result, spec.transfer).double()
    expected = (true - (16 * unit if spec.range == "limited" else 0)) * step
    error = (signal - expected)[..., EDGE:-EDGE] / step
    assert error.abs().max() < 0.15


def test_small_and_odd_pictures() -> None:
    for height, width in ((1, 1), (1, 40), (3, 3), (5, 4), (33, 47), (67, 129)):
        codes = (100 + torch.arange(float(width)) / 9).expand(height, width)
        source = unpacked(codes)
        result = Deband(LAYOUT, SPEC)(source)
        assert result.shape == source.shape and torch.isfinite(result).all()
        assert (source_codes(result) - source_codes(source)).abs().max() < 0.5 + 1e-3


def test_bits_do_not_depend_on_batch_or_threads() -> None:
    generator = torch.Generator().manual_seed(1)
    ramp = 150 + torch.arange(700.0) / 11 + torch.arange(300.0)[:, None] / 17
    noise = torch.randn(3, 300, 700, generator=generator) * torch.linspace(-1, 1, 700).clamp(min=0)
    source = torch.cat([unpacked((ramp + n).clamp(max=254)) for n in noise])
    kept = source.clone()
    deband = Deband(LAYOUT, SPEC)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = deband(source)
        torch.set_num_threads(3)
        assert torch.equal(one, deband(source))
        assert torch.equal(one[1:2], deband(source[1:2]))
        assert torch.equal(one[2:], deband(source[2:].contiguous(memory_format=torch.channels_last)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(source, kept)
    assert not torch.equal(one, source)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="range 'wide'"):
        Deband(LAYOUT, ColorSpec("bt709", "wide", "bt1886", "bt709", "left"))
    with pytest.raises(InputError, match="transfer 'log'"):
        Deband(LAYOUT, ColorSpec("bt709", "limited", "log", "bt709", "left"))
