"""Reconstruct at half size: gains along edges, nothing shifted, nothing changed by a network that changes nothing, dark pixels untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.scale import draw_lines, measure_lines
from configs.schema import load_config, result_settings, settings_hash
from models import checkpoints
from models.encodings import decode
from pipeline import gain_map
from pipeline.color import coded_signal
from pipeline.errors import InputError
from pipeline.stages.reconstruct import Reconstruct, network_size

SIZES = [(1, 1), (1, 7), (2, 2), (31, 47), (32, 48), (33, 64)]
SCALES = [1.0, 0.5]


@dataclass
class FakeSpec:
    halo_px: int = 16
    input_encoding: str = "bt1886"


@dataclass
class FakeModel:
    """A network that is a function of light and coded signal, (N,3,h,w) each."""

    answer: Callable[[Tensor, Tensor], Tensor]
    spec: FakeSpec = field(default_factory=FakeSpec)

    def restore(self, coded: Tensor, precision: str) -> Tensor:
        return self.answer(decode(coded.contiguous(), "bt1886"), coded)


def saturated_sky(stops: float) -> FakeModel:
    """A network that makes white brighter and leaves the rest alone."""
    return FakeModel(lambda light, coded: torch.where(coded.amax(1, True) > 0.98, light * 2**stops, light))


def noise(height: int, width: int, frames: int = 1) -> Tensor:
    """Working-space frames from below black to above white."""
    return (
        torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(height * 997 + width)) * 1.3 - 0.05
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_network_that_changes_nothing_changes_no_bit(height: int, width: int, scale: float) -> None:
    frames = noise(height, width, 2)
    stage = Reconstruct(checkpoints.load("neutral", "cpu"), "fp32", 0, scale)
    assert torch.equal(stage(frames), frames)


@pytest.mark.parametrize("scale", SCALES)
def test_nor_in_tiles(scale: float) -> None:
    frames = noise(150, 211)
    assert torch.equal(Reconstruct(checkpoints.load("neutral", "cpu"), "fp32", 64, scale)(frames), frames)


@pytest.mark.parametrize("light", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_constant_picture_gets_the_networks_light(height: int, width: int, light: float) -> None:
    stage = Reconstruct(FakeModel(lambda sdr, coded: sdr * 3), "fp32", 0, 0.5)
    out = stage(torch.full((1, 3, height, width), light))
    assert torch.allclose(out, torch.full_like(out, 3 * light), rtol=1e-4)


def test_gains_of_the_three_channels_are_their_own() -> None:
    factors = torch.tensor([1.5, 2.0, 4.0]).view(1, 3, 1, 1)
    out = Reconstruct(FakeModel(lambda sdr, coded: sdr * factors), "fp32", 0, 0.5)(torch.full((1, 3, 8, 8), 0.7))
    assert torch.allclose(out, 0.7 * factors.expand_as(out), rtol=1e-4)


def test_light_recorded_above_white_stays_on_top() -> None:
    out = Reconstruct(FakeModel(lambda sdr, coded: sdr * 2), "fp32", 0, 0.5)(torch.full((1, 3, 6, 6), 1.2))
    assert torch.allclose(out, torch.full_like(out, 2.2), rtol=1e-4)


@pytest.mark.parametrize("edge", range(21, 29))
@pytest.mark.parametrize("across", [True, False])
def test_an_edge_stays_on_its_pixel(edge: int, across: bool) -> None:
    """Sky of two more stops beside a wall, on both phases of the half-size grid. Linear upsampling alone misses by 1.5 stops."""
    frames = torch.full((1, 3, 48, 48), 0.35)
    frames[..., edge:] = 1.0
    want = frames.clone()
    want[..., edge:] = 4.0
    if not across:
        frames, want = frames.mT.contiguous(), want.mT
    out = Reconstruct(saturated_sky(2.0), "fp32", 0, 0.5)(frames)
    error = (out / want).log2().abs()
    assert error.max() < (0.2 if edge % 2 == 0 else 0.65)
    assert error.mean() < 0.02
    assert ((out / want).log2().abs() > 0.01).any(
        (0, 1, 2 if across else 3)
    ).sum() <= 3  # no halo: three columns at most


@pytest.mark.parametrize(("height", "width"), [(40, 56), (41, 57)])
def test_nothing_is_shifted(height: int, width: int) -> None:
    """A gain that rises evenly comes out where it was: half a pixel's shift would be 0.01 stops."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    light = torch.exp2((x + y) * 0.01 - 1.2).expand(1, 3, height, width)
    stage = Reconstruct(FakeModel(lambda sdr, coded: sdr * sdr), "fp32", 0, 0.5)
    error = (stage(light.contiguous()) / (light * light)).log2()[..., 4:-4, 4:-4]
    assert error.abs().max() < 0.002
    assert error.mean().abs() < 0.0005


@settings(max_examples=25)
@given(st.integers(3, 20), st.integers(3, 20), st.booleans())
def test_a_mirrored_picture_gives_the_mirrored_result(height: int, width: int, across: bool) -> None:
    """Even sizes only: an odd one is completed at its far end."""
    frames, axis = noise(2 * height, 2 * width), -1 if across else -2
    stage = Reconstruct(saturated_sky(1.5), "fp32", 0, 0.5)
    assert torch.allclose(stage(frames.flip(axis)), stage(frames).flip(axis), atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_dark_pixels_keep_the_sdrs_light(scale: float) -> None:
    light = torch.linspace(-0.01, 1.0, 4096).view(1, 1, 64, 64).expand(1, 3, 64, 64).contiguous()
    out = Reconstruct(FakeModel(lambda sdr, coded: sdr * 2 + 0.3), "fp32", 0, scale)(light)
    largest = coded_signal(light, "bt1886").amax(1, True).expand_as(light)
    dark = largest <= gain_map.DARK_BELOW
    assert dark.any() and torch.equal(out[dark], light[dark])
    between = (largest > gain_map.DARK_BELOW + 0.02) & (largest < gain_map.DARK_UNTIL)
    assert (out[between] > light[between]).all()
    if scale == 1.0:
        whole = largest >= gain_map.DARK_UNTIL + 1e-6
        assert torch.allclose(out[whole], light[whole] * 2 + 0.3, atol=1e-5)


def test_protection_is_smooth_and_rises() -> None:
    place = torch.linspace(0, 1, 2001)
    share = gain_map.protection(place)
    assert share[place <= 0.1].abs().max() == 0
    assert torch.equal(share[place >= 0.3001], torch.ones_like(share[place >= 0.3001]))
    assert (share.diff() >= 0).all() and share.diff().max() < 0.0005 * 7.6


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38, -1e38])
def test_every_pixel_is_finite(scale: float, value: float) -> None:
    def broken(light: Tensor, coded: Tensor) -> Tensor:
        light = light * 2
        light[..., ::5, ::3] = value
        return light

    frames = noise(33, 47, 2).clamp_min_(0.3)
    stage = Reconstruct(FakeModel(broken), "fp32", 0, scale)
    assert torch.isfinite(stage(frames)).all()
    assert stage.redone_frames == (0 if abs(value) == 1e38 else 2)


@pytest.mark.parametrize("scale", SCALES)
def test_an_attempt_is_the_frame_or_says_that_it_is_not_good(scale: float) -> None:
    def broken(light: Tensor, coded: Tensor) -> Tensor:
        light = light * 2
        light[coded.amax((1, 2, 3)) < 0.5] = float("nan")
        return light

    frames = torch.stack([torch.full((3, 8, 8), 0.8), torch.full((3, 8, 8), 0.1)])
    stage = Reconstruct(FakeModel(broken), "fp32", 0, scale)
    out, good = stage.attempt(frames)
    assert good.tolist() == [True, False]
    assert torch.equal(out[0], stage(frames)[0])


@pytest.mark.parametrize("scale", SCALES)
def test_bits_depend_neither_on_threads_nor_on_the_batch(scale: float) -> None:
    frames = noise(121, 181, 2)  # above 32768 elements PyTorch shares work out
    stage = Reconstruct(saturated_sky(1.7), "fp32", 0, scale)
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results += [stage(frames), torch.cat([stage(frame) for frame in frames.split(1)])]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(result, results[0]) for result in results)


def test_blocks_of_rows_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, stage = noise(61, 33), Reconstruct(saturated_sky(1.0), "fp32", 0, 0.5)
    whole = stage(frames)
    monkeypatch.setattr(gain_map, "_BLOCK_PIXELS", 100)
    assert torch.equal(stage(frames), whole)


def test_tiles_of_the_half_size_picture_show_no_seam() -> None:
    frames = noise(300, 420)
    whole, tiled = (Reconstruct(saturated_sky(1.2), "fp32", tile, 0.5)(frames) for tile in (0, 96))
    assert torch.allclose(whole, tiled, atol=1e-5)


def test_thin_lines_before_a_saturated_sky_neither_vanish_nor_get_halos() -> None:
    light, share = draw_lines()
    sdr = torch.from_numpy(light).clamp(max=1).permute(2, 0, 1)[None].contiguous()
    out = Reconstruct(saturated_sky(2.0), "fp32", 0, 0.5)(sdr)[0].permute(1, 2, 0).numpy()
    wanted = Reconstruct(saturated_sky(2.0), "fp32", 0, 1.0)(sdr)[0].permute(1, 2, 0).numpy()
    found, whole = measure_lines(light, share, out), measure_lines(light, share, wanted)
    flat = measure_lines(light, share, sdr[0].permute(1, 2, 0).numpy())
    assert flat["contrast"] + 1.2 < found["contrast"] < whole["contrast"] + 0.1
    assert found["halo"] == pytest.approx(whole["halo"], abs=0.02)


def test_size_of_the_networks_picture() -> None:
    assert network_size(271, 480, 1.0) == (271, 480)
    assert network_size(271, 480, 0.5) == (136, 240)
    assert gain_map.shrink(noise(271, 33), "bt1886").coded.shape == (1, 3, 136, 17)


def test_legal_scales() -> None:
    assert load_config().reconstruct.scale == 1.0
    half = load_config(overrides=["reconstruct.scale=0.5"])
    assert half.reconstruct.scale == 0.5
    assert settings_hash(result_settings(half)) != settings_hash(result_settings(load_config()))
    with pytest.raises(InputError, match=r"reconstruct\.scale=0\.7: not a legal value; legal: 1, 0\.5"):
        load_config(overrides=["reconstruct.scale=0.7"])
    with pytest.raises(ValueError, match=r"legal are 1 and 0\.5"):
        Reconstruct(saturated_sky(1.0), "fp32", 0, 0.25)
