"""pipeline.stages.grade: identity below the knee, smooth, monotone, under the peak, hue kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.stages.grade import Grade


def gray(nits: torch.Tensor, white: float) -> torch.Tensor:
    return (nits / white).to(torch.float32).expand(1, 3, 1, -1).contiguous()


def test_identity_up_to_the_knee() -> None:
    linear = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)) * 800 / 203 - 0.05
    linear[0, 0, 0, 0] = -0.2
    kept = linear.clone()
    graded = Grade(203, 1000)(linear)
    assert torch.equal(graded, linear) and torch.equal(linear, kept)
    assert graded.data_ptr() != linear.data_ptr()


@pytest.mark.parametrize(("white", "peak"), [(203.0, 1000.0), (203.0, 230.0), (100.0, 4000.0)])
def test_shoulder_is_smooth_monotone_and_below_peak(white: float, peak: float) -> None:
    nits = torch.linspace(0, 6 * peak, 60001, dtype=torch.float64)
    graded = Grade(white, peak)(gray(nits, white))[0, 0, 0].double() * white
    steps = graded.diff()
    assert steps.min() > -1e-3
    assert graded.max() <= peak * (1 + 1e-6)
    assert graded[-1] > 0.97 * peak
    knee = max(0.8 * peak, white)
    step = nits[1].item()
    near = (nits[1:] - knee).abs() < 0.02 * (peak - knee)
    assert (steps[near] / step - 1).abs().max() < 0.02 + 2e-6 * peak / step
    assert torch.equal(graded[nits < knee - step], gray(nits, white)[0, 0, 0].double()[nits < knee - step] * white)


@given(st.lists(st.floats(-0.5, 500, width=32), min_size=3, max_size=3))
def test_hue_is_kept(rgb: list[float]) -> None:
    pixel = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)
    graded = Grade(203, 1000)(pixel)
    largest = pixel.max().item()
    gain = (
        graded.max().item() / largest if largest > 1e-6 else 1.0
    )  # below that a quotient of two tiny numbers says nothing
    assert torch.allclose(graded, pixel * gain, rtol=1e-5, atol=1e-6)
    assert graded.max().item() * 203 <= 1000.001


def test_extremes_stay_under_the_peak() -> None:
    graded = Grade(203, 1000)(torch.tensor([1e4, 1e20, 3e38]).view(1, 1, 1, 3).expand(1, 3, 1, 3))
    assert torch.allclose(graded * 203, torch.full_like(graded, 1000.0), rtol=1e-3)


def test_peak_equal_to_white_clips() -> None:
    graded = Grade(203, 203)(gray(torch.tensor([100.0, 203.0, 400.0]), 203))
    assert torch.allclose(graded[0, 0, 0] * 203, torch.tensor([100.0, 203.0, 203.0]))


def test_bits_do_not_depend_on_batch_or_threads() -> None:
    linear = torch.rand(3, 3, 130, 333, generator=torch.Generator().manual_seed(1)) * 20
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Grade(203, 1000)(linear)
        torch.set_num_threads(3)
        assert torch.equal(one, Grade(203, 1000)(linear))
        assert torch.equal(one[1:2], Grade(203, 1000)(linear[1:2]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("white", "peak"), [(0, 1000), (203, 100), (203, 20000), (float("nan"), 1000)])
def test_impossible_levels_are_refused(white: float, peak: float) -> None:
    with pytest.raises(InputError, match="legal are"):
        Grade(white, peak)


def test_defaults_of_the_further_settings_change_no_bit() -> None:
    linear = torch.rand(2, 3, 20, 33, generator=torch.Generator().manual_seed(2)) * 12 - 0.1
    plain = Grade(203, 1000)(linear)
    spelled = Grade(203, 1000, exposure_stops=0, highlights=1, saturation=1, shoulder=0.8)
    assert torch.equal(plain, spelled(linear))
    largest = linear.double().amax(dim=1, keepdim=True)
    knee, room = 800 / 203, 200 / 203
    over = (largest - knee).clamp(min=0) / room
    gain = torch.where(largest > knee, (knee + room * over / (1 + over**2).sqrt()) / largest, 1.0)
    assert (plain.double() - linear.double() * gain).abs().max() < 2e-6  # the formula that was there before them


@pytest.mark.parametrize("highlights", [0.0, 0.5, 1.3, 2.0])
def test_highlights_scale_the_stops_above_white(highlights: float) -> None:
    stops = torch.linspace(-6, 2.2, 4001, dtype=torch.float64)
    light = (2**stops).to(torch.float32)
    linear = torch.stack([light, 0.5 * light, 0.25 * light]).view(1, 3, 1, -1)
    graded = Grade(100, 10000, highlights=highlights)(linear)
    below = light <= 1
    assert torch.equal(graded[..., below], linear[..., below])
    expected = torch.where(below, stops, stops * highlights)
    assert (torch.log2(graded[0, 0, 0].double()) - expected).abs().max() < 1e-5
    assert graded[0, 0, 0].diff().min() > -1e-6
    assert torch.allclose(graded[0, 1] / graded[0, 0], torch.tensor(0.5), rtol=1e-6)


def test_exposure_moves_everything_and_stays_under_the_peak() -> None:
    linear = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 1.9
    linear[..., 0, 0] = 0.0
    linear[..., 0, 1] = -0.05
    for stops in (-1.5, 1.0):
        graded = Grade(203, 1000, exposure_stops=stops)(linear)
        assert torch.equal(graded, linear * 2.0**stops)  # below the knee: 1.9 * 2 * 203 nits
    assert (Grade(203, 1000, exposure_stops=4)(linear) * 203).max() <= 1000.001


def test_saturation_keeps_luminance_and_grey() -> None:
    linear = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    linear[..., :4, :] = linear[:, :1, :4, :].expand(1, 3, 4, 16)
    weights = torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64).view(1, 3, 1, 1)
    before = (linear.double() * weights).sum(dim=1)
    for saturation in (0.0, 0.6, 1.5):
        graded = Grade(203, 1000, saturation=saturation)(linear)
        assert torch.equal(graded[..., :4, :], linear[..., :4, :])
        assert ((graded.double() * weights).sum(dim=1) - before).abs().max() < 1e-6
        expected = before[:, None] + saturation * (linear.double() - before[:, None])
        assert (graded - expected).abs().max() < 1e-6
    grey = Grade(203, 1000, saturation=0)(linear)
    assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6) and torch.allclose(grey[:, 0], grey[:, 2], atol=1e-6)


def test_shoulder_moves_the_knee() -> None:
    nits = torch.linspace(0, 3000, 3001, dtype=torch.float64)
    soft = Grade(203, 1000, shoulder=0.5)(gray(nits, 203))[0, 0, 0] * 203
    hard = Grade(203, 1000, shoulder=1.0)(gray(nits, 203))[0, 0, 0] * 203
    assert torch.allclose(soft[:500].double(), nits[:500], rtol=1e-6) and soft[600] < 599
    assert torch.allclose(hard.double(), nits.clamp(max=1000), rtol=1e-6, atol=1e-4)
    low = Grade(203, 1000, shoulder=0.1)(gray(nits, 203))[0, 0, 0] * 203
    assert torch.allclose(low[:203].double(), nits[:203], rtol=1e-6)  # never below white


def test_bits_of_every_setting_do_not_depend_on_batch_or_threads() -> None:
    linear = torch.rand(3, 3, 130, 333, generator=torch.Generator().manual_seed(1)) * 20 - 0.5
    grade = Grade(203, 1000, exposure_stops=0.37, highlights=0.8, saturation=1.2, shoulder=0.6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = grade(linear)
        assert torch.equal(one[:, :, 50:60, 100:117], grade(linear[:, :, 50:60, 100:117]))
        torch.set_num_threads(3)
        assert torch.equal(one, grade(linear))
        assert torch.equal(one[1:2], grade(linear[1:2]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "setting",
    [{"exposure_stops": 5}, {"highlights": -0.1}, {"saturation": 2.5}, {"shoulder": 0}, {"shoulder": float("nan")}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"grade\.{next(iter(setting))}.*legal are"):
        Grade(203, 1000, **setting)
