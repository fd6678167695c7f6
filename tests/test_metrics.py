"""The scores: known answers on known errors, and agreement with the project's bench where it is at hand."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation.figure import brightest_window, compare, save_png
from evaluation.metrics import limit, pu21, score
from evaluation.tonemap import exposure, tone_map
from pipeline.errors import InputError

BENCH = Path(os.environ.get("SUNVISOR_BENCH", Path(__file__).parents[2] / "shared" / "bench")) / "score.py"


def _truth(frames: int = 2, height: int = 48, width: int = 64) -> np.ndarray:
    """Light from 0.02 to about 3 times white, smooth with some structure."""
    rng = np.random.default_rng(3)
    field = np.stack([cv2.GaussianBlur(rng.standard_normal((height, width, 3)), (0, 0), 4) for _ in range(frames)])
    ramp = np.linspace(-4.0, 1.4, width)[None, None, :, None]
    return np.exp2(ramp + 1.5 * field).clip(0.02, 3.5).astype(np.float16)


def test_the_truth_itself_scores_perfect() -> None:
    truth = _truth()
    s = score(truth, (f.astype(np.float64) * 203 for f in truth))
    assert (s.frames, s.hl_stops, s.hl_bias, s.mid_stops) == (2, 0.0, 0.0, 0.0)
    assert s.hl_detail == pytest.approx(1.0) and math.isinf(s.pu_psnr)
    assert 0.05 < s.lost_share < 0.6


@pytest.mark.parametrize("stops", [-1.0, -0.25])
def test_an_even_error_is_measured_in_stops(stops: float) -> None:
    truth = _truth()
    s = score(truth, (f.astype(np.float64) * 203 * 2**stops for f in truth), peak_nits=10_000)
    assert s.hl_stops == pytest.approx(-stops, abs=1e-4) and s.hl_bias == pytest.approx(stops, abs=1e-4)
    assert s.mid_stops == pytest.approx(-stops, abs=1e-4) and s.hl_detail == pytest.approx(1.0, abs=1e-4)


def test_clipping_loses_highlights_and_no_mid_tones() -> None:
    truth = _truth()
    s = score(truth, (np.minimum(f.astype(np.float64), 1.0) * 203 for f in truth))
    assert s.hl_stops > 0.2 and s.hl_bias == pytest.approx(-s.hl_stops) and s.mid_stops == 0
    assert s.hl_detail < 0.9 and 10 < s.pu_psnr < 60


def test_light_above_the_limit_costs_nothing() -> None:
    truth = np.full((1, 16, 16, 3), 50.0, np.float16)
    s = score(truth, [np.full((16, 16, 3), 900.0)])
    assert s.hl_stops == 0 and math.isinf(s.pu_psnr) and math.isnan(s.mid_stops)
    assert np.allclose(limit(np.array([1600.0, 800.0, 400.0]), 800.0), [800, 400, 200])


def test_missing_extra_and_misshapen_frames_are_refused() -> None:
    truth = _truth()
    nits = [f.astype(np.float64) * 203 for f in truth]
    for frames in (nits[:1], [*nits, nits[0]]):
        with pytest.raises(InputError, match="frames"):
            score(truth, frames)
    with pytest.raises(InputError, match="like sizes"):
        score(truth, [nits[0][:-1], nits[1]])


def test_pu21_meets_its_published_anchors() -> None:
    """Mantiuk and Azimi 2021: 0.005 nits maps to 0, 100 nits to 256, and the code rises all the way to 10000 nits."""
    assert pu21(np.array(0.005)) == pytest.approx(0, abs=0.1)
    assert pu21(np.array(100.0)) == pytest.approx(256, abs=1)
    assert (np.diff(pu21(np.geomspace(0.005, 10_000, 200))) > 0).all()


@pytest.mark.skipif(not BENCH.exists(), reason="the bench lives outside the repository; this is an extra check")
def test_the_bench_agrees(tmp_path: Path) -> None:
    truth = _truth()
    zeros = np.zeros(len(truth), np.float32)
    np.savez(tmp_path / "gt.npz", hdr=truth, gain=zeros, yaw=zeros, pitch=zeros, roll=zeros, fov=np.float32(90))
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(5)
    frames = [np.minimum(f.astype(np.float32), 1.6) * np.exp2(0.2 * rng.standard_normal(f.shape)) for f in truth]
    for number, frame in enumerate(frames):
        np.save(folder / f"{number:04d}.npy", frame.astype(np.float32))
    command = [sys.executable, str(BENCH), str(tmp_path / "gt.npz"), str(folder), "--json", "--no-vdp"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    s = score(truth, (frame.astype(np.float32) * 203.0 for frame in frames))
    for name in ("hl_stops", "hl_bias", "hl_detail", "mid_stops", "pu_psnr"):
        assert getattr(s, name) == pytest.approx(told[name], rel=1e-3, abs=1e-4), name


def test_tone_mapping_keeps_mid_tones_and_orders_highlights() -> None:
    grey = np.array([[0.05, 0.05, 0.05], [0.3, 0.3, 0.3]]) * 203
    assert np.array_equal(tone_map(grey), exposure(grey, 0.0))
    ramp = np.geomspace(0.01, 16, 300)[:, None].repeat(3, 1) * 203
    codes = tone_map(ramp).astype(int)
    assert (np.diff(codes[:, 0]) >= 0).all() and codes[-1, 0] == 255 and codes[-40, 0] < 255
    orange = tone_map(np.array([8.0, 4.0, 1.0]) * 203) / 255.0
    linear = ((orange + 0.055) / 1.055) ** 2.4
    assert linear[1] / linear[0] == pytest.approx(0.5, abs=0.02)


def test_exposure_is_in_stops() -> None:
    assert (exposure(np.full(3, 4 * 203.0), -2.0) == 255).all()
    assert exposure(np.full(3, 203.0), -2.0)[0] == round(255 * (1.055 * 0.25 ** (1 / 2.4) - 0.055))


def test_the_figure_shows_lost_light_as_flat_and_kept_light_as_not(tmp_path: Path) -> None:
    truth = np.full((90, 160, 3), 30.0, np.float32)
    truth[5:85, 20:140] = 300 + 400 * np.random.default_rng(1).random((80, 120, 1), np.float32)
    sdr = np.minimum(truth, 203.0)
    x0, y0, x1, y1 = brightest_window(truth / 203)
    assert (truth[y0:y1, x0:x1].min(-1) >= 203).mean() > 0.7 and x1 - x0 == 54 and y1 - y0 == 30
    picture = compare(sdr, truth, truth, note="a note")
    save_png(picture, tmp_path / "c.png")
    back = cv2.imread(str(tmp_path / "c.png"))
    assert np.array_equal(back[..., ::-1], picture)
    crops = picture[186 + 20 : 186 + 60]
    spread = [crops[:, 14 + i * 174 + 60 : 14 + i * 174 + 100].std() for i in range(3)]
    assert spread[0] < 1 < 10 < spread[1] and spread[1] == pytest.approx(spread[2])
