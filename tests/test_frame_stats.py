"""pipeline.frame_stats against pipeline.light and plain numpy on decoded light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import frame_stats, light
from pipeline.color import OutputSpec, pack, unpack_hdr
from pipeline.errors import ConversionError, InputError
from pipeline.frame_stats import FrameStats


def packed(seed: int, name: str = "pq", height: int = 64, width: int = 96) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 8, 12, generator=generator) ** 3 * 4
    linear = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return tuple(plane[0] for plane in pack(linear, OutputSpec(name, 203, 1000), torch.tensor([seed])))


def stats_of(*seeds: int) -> list[FrameStats]:
    return [frame_stats.measure_frame(*packed(seed), "pq", restored_share=seed / 100) for seed in seeds]


@pytest.mark.parametrize("name", ["pq", "hlg"])
def test_levels_are_those_of_light_measure(name: str) -> None:
    planes = packed(3, name)
    (wanted,) = light.measure(*(plane[None] for plane in planes), name)
    assert frame_stats.measure_frame(*planes, name).levels == wanted


@pytest.mark.parametrize("name", ["pq", "hlg"])
def test_figures_agree_with_numpy_on_decoded_light(name: str) -> None:
    planes = packed(5, name)
    found = frame_stats.measure_frame(*planes, name)
    nits = unpack_hdr(*(plane[None] for plane in planes), name)[0].numpy().astype(np.float64)
    brightest = nits.max(axis=0)
    assert found.max_scl_nits == pytest.approx(nits.reshape(3, -1).max(axis=1), rel=1e-3)
    assert max(found.max_scl_nits) == found.max_cll_nits
    for place, value in zip(frame_stats.PERCENTILES, found.percentiles_nits, strict=True):
        assert value == pytest.approx(np.percentile(brightest, place / 100, method="inverted_cdf"), rel=1e-3)
    assert found.fall_nits == pytest.approx(brightest.mean(), rel=1e-3)
    assert found.upto_100_nits_share == pytest.approx((brightest <= 100).mean(), abs=2e-3)
    counts, _ = np.histogram(brightest, frame_stats.BIN_EDGES_NITS)
    assert sum(found.histogram) == brightest.size
    assert np.abs(np.cumsum(counts) - np.cumsum(found.histogram)).max() <= 0.005 * brightest.size


def test_super_white_light_falls_into_the_last_bin() -> None:
    y = torch.full((4, 4), 1019, dtype=torch.uint16)
    grey = torch.full((2, 2), 512, dtype=torch.uint16)
    found = frame_stats.measure_frame(y, grey, grey, "pq")
    assert found.max_scl_nits == (10000.0,) * 3
    assert found.histogram[-1] == 16
    assert found.upto_100_nits_share == 0


def test_an_unknown_transfer_is_refused() -> None:
    with pytest.raises(InputError, match="legal are pq, hlg"):
        frame_stats.measure_frame(*packed(1), "gamma")


def test_restored_share_counts_what_was_raised_beyond_the_bound() -> None:
    before = torch.full((3, 4, 10), 0.8)
    after = before.clone()
    after[1, 0] = 0.8 * 1.25 + 0.02  # one channel of ten pixels, beyond
    after[:, 1] = 0.8 * 1.2  # ten pixels, raised but within
    after[:, 2] = 0.1  # darker is not restored
    assert frame_stats.restored_share(before, after) == 0.25
    assert frame_stats.restored_share(before, before) == 0
    both = frame_stats.restored_pixels(torch.stack([before, before]), torch.stack([after, before]))
    assert both.tolist() == [10, 0]


def test_restored_share_leaves_its_tensors_alone_and_black_noise_out() -> None:
    before, after = torch.full((3, 2, 2), -0.01), torch.full((3, 2, 2), 0.009)
    kept = before.clone(), after.clone()
    assert frame_stats.restored_share(before, after) == 0
    assert torch.equal(before, kept[0])
    assert torch.equal(after, kept[1])


def test_the_planes_are_not_changed_and_threads_do_not_matter() -> None:
    planes = packed(7, height=128, width=192)
    kept = [plane.clone() for plane in planes]
    one = frame_stats.measure_frame(*planes, "pq")
    torch.set_num_threads(2)
    try:
        assert frame_stats.measure_frame(*planes, "pq") == one
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(plane, old) for plane, old in zip(planes, kept, strict=True))


def test_spans_are_saved_loaded_and_merged_in_any_order(tmp_path: Path) -> None:
    whole = stats_of(0, 1, 2, 3, 4)
    frame_stats.save(tmp_path / "a.npy", frame_stats.table(0, whole[:2]))
    frame_stats.save(tmp_path / "b.npy", frame_stats.table(2, whole[2:]))
    rows = frame_stats.merge(frame_stats.load(tmp_path / name) for name in ("b.npy", "a.npy"))
    assert rows.tobytes() == frame_stats.table(0, whole).tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy"]
    row = rows[3]
    assert row["restored_share"] == 0.03
    assert tuple(row["max_scl_nits"]) == whole[3].max_scl_nits
    assert tuple(row["percentiles_nits"]) == whole[3].percentiles_nits
    assert tuple(row["histogram"]) == whole[3].histogram


def test_saved_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        frame_stats.save(tmp_path / name, frame_stats.table(0, stats_of(1, 2)))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_missing_or_doubled_frame_is_told() -> None:
    rows = frame_stats.table(0, stats_of(0, 1, 2))
    with pytest.raises(ConversionError, match="frame 1 is missing"):
        frame_stats.merge([rows[:1], rows[2:]])
    with pytest.raises(ConversionError, match="there twice"):
        frame_stats.merge([rows, rows[1:2]])
    assert len(frame_stats.merge([])) == 0


def test_files_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with pytest.raises(ConversionError, match="cannot be read"):
        frame_stats.load(path)
    path.write_bytes(b"no numpy")
    with pytest.raises(ConversionError, match="cannot be read"):
        frame_stats.load(path)
    np.save(path, np.zeros(3))
    with pytest.raises(ConversionError, match="another version"):
        frame_stats.load(path)


def test_flicker_is_a_leap_and_not_a_rise() -> None:
    rows = np.zeros(7, frame_stats.TABLE)
    rows["fall_nits"] = 2.0 ** np.arange(7) - 0.1
    assert frame_stats.flicker_stops(rows) == pytest.approx(np.zeros(7), abs=1e-12)
    rows["fall_nits"][3] *= 2
    assert int(np.argmax(frame_stats.flicker_stops(rows))) == 3
    assert len(frame_stats.flicker_stops(rows[:1])) == 1
