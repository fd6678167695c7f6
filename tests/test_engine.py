"""Engine and reconstruct stage: tiles without seams, non-finite output, light above white, batches that do not matter."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from models import checkpoints
from pipeline.color import ColorSpec, OutputSpec, PixelLayout, unpack_hdr
from pipeline.engine import Engine
from pipeline.errors import InputError
from pipeline.stages.reconstruct import Reconstruct, choose_tile, run_tiled

BT709 = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
HDR10 = OutputSpec("pq", 203.0, 1000.0)


@dataclass
class FakeSpec:
    halo_px: int = 16
    input_encoding: str = "bt1886"


@dataclass
class FakeModel:
    """A network that scales light, and breaks where it is told to."""

    gain: float = 1.0
    broken_in: tuple[str, ...] = ()
    spec: FakeSpec = field(default_factory=FakeSpec)

    def restore(self, coded: Tensor, precision: str) -> Tensor:
        light = coded.pow(2.4) * self.gain
        if precision in self.broken_in:
            light[..., 0, 0] = float("nan")
        return light


def neighbours(coded: Tensor) -> Tensor:
    """Stands for a network with strides: a quarter-size mean added to the picture; its reach is 16 pixels."""
    height, width = coded.shape[-2:]
    padded = pad(coded, (0, -width % 4, 0, -height % 4), mode="replicate")
    small = avg_pool2d(padded, 4)
    small = avg_pool2d(pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return coded + interpolate(small, scale_factor=4, mode="nearest")[..., :height, :width]


@given(st.integers(40, 150), st.integers(40, 150), st.sampled_from([64, 80, 96]))
def test_tiles_show_no_seam(height: int, width: int, tile: int) -> None:
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * 151 + width))
    assert torch.allclose(run_tiled(neighbours, picture, tile, halo_px=16), neighbours(picture), atol=1e-5)


def test_a_frame_that_is_not_finite_is_redone_in_float32_and_counted() -> None:
    stage = Reconstruct(FakeModel(gain=2.0, broken_in=("bf16",)), "bf16", 0)
    out = stage(torch.full((2, 3, 4, 4), 0.5))
    assert torch.isfinite(out).all()
    assert torch.allclose(out, torch.full_like(out, 1.0), atol=1e-5)
    assert stage.redone_frames == 2


def test_pixels_not_finite_even_in_float32_keep_the_sdr_picture() -> None:
    stage = Reconstruct(FakeModel(gain=2.0, broken_in=("bf16", "fp32")), "bf16", 0)
    out = stage(torch.full((1, 3, 4, 4), 0.5))
    assert torch.allclose(out[..., 0, 0], torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(out[..., 1, 1], torch.tensor(1.0), atol=1e-5)


def test_light_recorded_above_white_is_kept() -> None:
    linear = torch.full((1, 3, 2, 2), 1.2)
    assert torch.allclose(Reconstruct(FakeModel(), "fp32", 0)(linear), linear, atol=1e-5)


def test_tile_choice_depends_on_the_budget_and_fits_it() -> None:
    model = checkpoints.load("neutral", "cpu")
    assert choose_tile(model, 1080, 1920, "fp32", 1 << 40) == 0

    class Hungry(FakeModel):
        def activation_bytes(self, height: int, width: int, precision: str) -> int:
            return 100 * height * width

    tile = choose_tile(Hungry(), 4320, 7680, "fp32", 100_000_000)
    assert tile % 4 == 0
    assert 900 * 900 < tile * tile <= 1_000_000


def grey_frames(codes: list[int], height: int = 16, width: int = 24) -> list[tuple[Tensor, ...]]:
    """4:2:0 frames of one grey code each."""
    half = torch.full((height // 2, width // 2), 128, dtype=torch.uint8)
    return [(torch.full((height, width), code, dtype=torch.uint8), half, half.clone()) for code in codes]


def make_engine(stages: tuple[str, ...] = ("reconstruct", "grade")) -> Engine:
    return Engine(
        model=checkpoints.load("neutral", "cpu"),
        stage_names=stages,
        layout=PixelLayout("420", 8),
        color=BT709,
        out=HDR10,
        precision="fp32",
        tile=0,
        device="cpu",
    )


def test_neutral_puts_sdr_white_at_203_nits_and_greys_where_bt1886_has_them() -> None:
    codes = [16, 60, 120, 180, 235]
    for code, frame in zip(codes, make_engine().process(grey_frames(codes), 0), strict=True):
        nits = unpack_hdr(frame.y[None], frame.u[None], frame.v[None], "pq").mean(dim=(0, 2, 3)).numpy()
        want = 203 * ((code - 16) / 219) ** 2.4
        np.testing.assert_allclose(nits, want, rtol=0.01, atol=0.01)
    assert frame.levels.max_cll_nits == pytest.approx(203, rel=0.02)


def test_bytes_do_not_depend_on_batches() -> None:
    frames = grey_frames([30, 90, 150, 210])
    together = list(make_engine().process(frames, 7))
    alone = [next(iter(make_engine().process([frame], 7 + number))) for number, frame in enumerate(frames)]
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(getattr(one, plane), getattr(other, plane)) for plane in "yuv")
        assert one.levels == other.levels


def test_asking_for_cuda_without_a_gpu_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; there is nothing to refuse")
    from pipeline.engine import resolve_device

    with pytest.raises(InputError, match="sees no CUDA device"):
        resolve_device("cuda")
