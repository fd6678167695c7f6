"""pipeline.light against a plain double precision reading of CTA-861.3."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import light, transfer
from pipeline.color import OutputSpec, pack
from pipeline.errors import InputError


def reference(y: torch.Tensor, u: torch.Tensor, v: torch.Tensor, name: str) -> np.ndarray:
    """max(R, G, B) in nits of every pixel of one frame, by np.interp and the exact formulas."""
    height, width = y.shape

    def full_size(plane: torch.Tensor) -> np.ndarray:
        codes = plane.numpy().astype(np.float64)
        rows = np.stack([np.interp(np.arange(width), np.arange(codes.shape[1]) * 2, row) for row in codes])
        return np.stack([np.interp(np.arange(height), np.arange(codes.shape[0]) * 2, col) for col in rows.T], axis=1)

    luma = (y.numpy().astype(np.float64) - 64) / 876
    cb, cr = ((full_size(plane) - 512) / 896 for plane in (u, v))
    r, b = luma + 1.4746 * cr, luma + 1.8814 * cb
    g = (luma - 0.2627 * r - 0.0593 * b) / 0.6780
    rgb = torch.from_numpy(np.stack([r, g, b]))
    if name == "pq":
        return transfer.pq_eotf(rgb).amax(0).numpy()
    scene = transfer.hlg_inverse_oetf(rgb).numpy()
    luminance = np.tensordot([0.2627, 0.6780, 0.0593], scene, 1)
    return (1000 * scene * luminance**0.2).max(0)


def picture(seed: int, height: int = 90, width: int = 160) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 9, 16, generator=generator) ** 3 * 4
    return torch.nn.functional.interpolate(small, (height, width), mode="bicubic")


@pytest.mark.parametrize("name", ["pq", "hlg"])
def test_levels_agree_with_double_precision(name: str) -> None:
    linear = torch.cat([picture(seed) for seed in range(3)])
    y, u, v = pack(linear, OutputSpec(name, 203, 1000), torch.arange(3))
    levels = light.measure(y, u, v, name)
    assert len(levels) == 3
    for frame, level in enumerate(levels):
        nits = reference(y[frame], u[frame], v[frame], name)
        assert level.frames == 1
        assert level.max_cll_nits == pytest.approx(nits.max(), rel=1e-3)
        assert level.max_fall_nits == pytest.approx(nits.mean(), rel=1e-3)
        expected = np.percentile(nits, 99.99, method="inverted_cdf")
        assert level.p9999_nits == pytest.approx(expected, rel=1e-3)


def test_flat_white_and_black() -> None:
    for value, nits in ((0.0, 0.0), (1.0, 203.0), (4.0, 812.0)):
        planes = pack(torch.full((1, 3, 64, 64), value), OutputSpec("pq", 203, 1000), torch.arange(1))
        (level,) = light.measure(*planes, "pq")
        assert level.max_fall_nits == pytest.approx(nits, rel=2e-3, abs=1e-9)
        assert level.max_cll_nits == pytest.approx(nits, rel=0.012, abs=1e-9)


def test_whole_codes_of_gray_are_exact_and_one_bright_pixel_counts() -> None:
    y = torch.full((1, 100, 100), 400, dtype=torch.int32)
    y[0, 3, 5] = 700
    neutral = torch.full((1, 50, 50), 512, dtype=torch.int32).to(torch.uint16)
    (level,) = light.measure(y.to(torch.uint16), neutral, neutral, "pq")
    assert level.max_cll_nits == pytest.approx(transfer.pq_eotf((700 - 64) / 876), rel=1e-12)
    assert level.p9999_nits == pytest.approx(transfer.pq_eotf((400 - 64) / 876), rel=1e-12)
    mean = (9999 * transfer.pq_eotf((400 - 64) / 876) + transfer.pq_eotf((700 - 64) / 876)) / 10000
    assert level.max_fall_nits == pytest.approx(mean, rel=1e-12)


def test_batches_and_threads_do_not_matter_and_codes_beyond_range_are_clipped() -> None:
    generator = torch.Generator().manual_seed(4)
    sizes = ((2, 200, 300), (2, 100, 150), (2, 100, 150))
    y, u, v = (torch.randint(4, 1020, size, generator=generator).to(torch.uint16) for size in sizes)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for name in ("pq", "hlg"):
                together = light.measure(y, u, v, name)
                assert together == [light.measure(y[i : i + 1], u[i : i + 1], v[i : i + 1], name)[0] for i in (0, 1)]
                found.append(together)
    finally:
        torch.set_num_threads(threads)
    assert found[:2] == found[2:]
    assert found[0][0].max_cll_nits == 10000
    assert found[1][0].max_cll_nits == pytest.approx(1000, rel=1e-3)


def test_merging_and_unknown_transfer() -> None:
    a, b = light.LightLevels(900.0, 100.0, 800.0, 3), light.LightLevels(500.0, 200.0, 850.0, 4)
    assert a | b == b | a == light.LightLevels(900.0, 200.0, 850.0, 7)
    plane = torch.full((1, 2, 2), 512, dtype=torch.int32).to(torch.uint16)
    with pytest.raises(InputError, match="legal are pq, hlg"):
        light.measure(plane, plane[:, :1, :1], plane[:, :1, :1], "bt1886")
