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
