"""The demo's scene and camera: known light, lost by the camera, with thin structure in what is lost."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from demo.dashcam import AutoExposure, DashcamOptions, glare, record, respond, to_yuv420
from demo.demo import run_demo
from demo.scene import Drive, DriveOptions
from evaluation.nits import read_nits
from pipeline.errors import InputError

SMALL = DriveOptions(width=192, height=108, frames=3)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("film")
    return record(Drive(SMALL), folder), folder


def test_the_scene_is_the_same_every_time_and_moves() -> None:
    first, second = Drive(SMALL), Drive(SMALL)
    assert np.array_equal(first.frame(2), second.frame(2))
    assert first.frame(0).dtype == np.float32 and first.frame(0).shape == (108, 192, 3)
    assert np.abs(first.frame(0) - first.frame(2)).mean() > 0.005
    other = Drive(replace(SMALL, seed=8))
    assert not np.array_equal(first.frame(0), other.frame(0))


def test_light_is_finite_and_the_sun_is_far_above_white() -> None:
    light = np.stack(list(Drive(SMALL)))
    assert np.isfinite(light).all() and light.min() >= 0
    assert light.max() > 20 * np.quantile(light.max(-1), 0.88)


def test_the_camera_loses_the_share_it_should(film: tuple) -> None:
    recording, _ = film
    lost = (recording.truth.max(-1) >= 1.0).mean()
    assert 0.05 < lost < 0.2
    assert recording.truth.shape == (3, 108, 192, 3) and recording.gain.shape == (3,)
    nits = np.stack(list(read_nits(recording.sdr)))
    assert nits.shape == recording.truth.shape
    bright = recording.truth.min(-1) > 1.5
    assert np.median(nits[bright]) == pytest.approx(203, rel=0.03)
    mid = (recording.truth.max(-1) > 0.05) & (recording.truth.max(-1) < 0.9)
    stops = np.log2(nits.mean(-1)[mid] / 203) - np.log2(recording.truth.astype(np.float32).mean(-1)[mid])
    assert abs(stops.mean()) < 0.05


def test_wires_cross_the_sky_that_the_sdr_lost() -> None:
    drive = Drive(DriveOptions(frames=1))
    with_wires = drive.frame(0)
    drive._wires = []
    bare = drive.frame(0)
    white = np.quantile(bare.max(-1), 0.88)
    dimmed = (bare.max(-1) > 1.2 * white) & (with_wires.max(-1) < 0.9 * bare.max(-1))
    assert dimmed.sum() > 150
    still_lost = dimmed & (with_wires.min(-1) > white)
    assert still_lost.sum() > 40, "some of the wire must be invisible in the SDR, or there is nothing to restore"


def test_recording_twice_gives_the_same_bytes(film: tuple, tmp_path: Path) -> None:
    _, folder = film
    record(Drive(SMALL), tmp_path)
    digests = [hashlib.sha256((place / "sdr.mp4").read_bytes()).hexdigest() for place in (folder, tmp_path)]
    assert digests[0] == digests[1]
    with np.load(folder / "truth.npz") as a, np.load(tmp_path / "truth.npz") as b:
        assert set(a) == {"hdr", "gain"} and all(np.array_equal(a[key], b[key]) for key in a)


def test_ffprobe_sees_a_dashcam_clip(film: tuple) -> None:
    recording, _ = film
    command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(recording.sdr)]
    video, audio = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["streams"]
    assert (video["codec_name"], video["pix_fmt"], video["nb_frames"]) == ("h264", "yuv420p", "3")
    assert (video["color_range"], video["color_space"], video["chroma_location"]) == ("tv", "bt709", "left")
    assert (video["color_transfer"], video["color_primaries"], video["r_frame_rate"]) == ("bt709", "bt709", "24/1")
    assert audio["codec_name"] == "aac"


def _ffmpeg_chroma(rgb: np.ndarray, horizontal: int) -> tuple[np.ndarray, np.ndarray]:
    """Luma and chroma codes by FFmpeg's scale filter. Its `area` kernel is the camera's own, so matrix and siting are compared alone."""
    height, width = rgb.shape[:2]
    scale = f"scale=in_range=full:out_range=limited:out_color_matrix=bt709:out_v_chr_pos=128:out_h_chr_pos={horizontal}"
    command = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-i", "-"]
    command += ["-vf", f"{scale}:flags=accurate_rnd+full_chroma_inp+area", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"]
    raw = subprocess.run(command, input=rgb.tobytes(), check=True, capture_output=True).stdout
    codes = np.frombuffer(raw, np.uint8).astype(int)
    return codes[: height * width], codes[height * width :]


def test_yuv_agrees_with_ffmpegs_scale_filter() -> None:
    cells = np.random.default_rng(0).integers(30, 220, (8, 11, 3))
    rgb = np.kron(cells, np.ones((6, 6, 1), int)).astype(np.uint8)[:48, :64]
    luma, *chroma = (plane.reshape(-1).astype(int) for plane in to_yuv420(rgb))
    left, centre = _ffmpeg_chroma(rgb, 0), _ffmpeg_chroma(rgb, 128)
    assert np.abs(luma - left[0]).max() <= 1
    assert np.abs(np.concatenate(chroma) - left[1]).max() <= 1
    assert np.abs(np.concatenate(chroma) - centre[1]).mean() > 1.5, "the pattern must tell left from centre"


def test_glare_spreads_light_and_keeps_its_sum() -> None:
    light = np.zeros((90, 160, 3), np.float32)
    light[45, 80] = 1000.0
    spread = glare(light)
    assert spread.sum() == pytest.approx(light.sum(), rel=0.05)
    assert spread[45, 80, 0] < 1000 and spread[45, 95, 0] > 0


def test_exposure_lags_and_the_sensor_saturates() -> None:
    expose = AutoExposure(clipped=0.12, lag=0.08)
    scene = np.linspace(0, 2, 3000, dtype=np.float32).reshape(20, 50, 3)
    first = expose(scene)
    assert first == pytest.approx(1 / 1.76, rel=0.01)
    assert first > expose(4 * scene) > first / 4
    codes = respond(np.full((8, 8, 3), 3.0, np.float32), np.random.default_rng(0))
    assert (codes == 255).all()
    grey = respond(np.full((64, 64, 3), 0.18, np.float32), np.random.default_rng(0))
    assert grey.mean() == pytest.approx(255 * 0.18 ** (1 / 2.4), abs=1) and grey.std() > 0.5


def test_the_camera_refuses_an_empty_scene(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        record(iter(()), tmp_path, DashcamOptions())


def _as_hdr10(source: Path, output: Path) -> SimpleNamespace:
    """A stand-in for the converter: the same light in PQ, lossless."""
    import torch

    from pipeline.color import OutputSpec, pack

    with av.open(str(output), "w") as container:
        stream = container.add_stream("libx265", rate=24, options={"x265-params": "lossless=1:log-level=none"})
        stream.width, stream.height, stream.pix_fmt = SMALL.width, SMALL.height, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1
        count = 0
        for count, nits in enumerate(read_nits(source), 1):
            linear = torch.from_numpy(nits / 203.0).permute(2, 0, 1)[None]
            planes = pack(linear, OutputSpec("pq", 203.0, 1000.0), torch.tensor([count - 1]))
            packed = np.concatenate([plane.numpy().reshape(-1) for plane in planes]).reshape(-1, nits.shape[1])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(packed, format="yuv420p10le")))
        container.mux(stream.encode())
    return SimpleNamespace(
        frames=count,
        max_cll_nits=203,
        max_fall_nits=90,
        restores_highlights=False,
        warnings=["checkpoint 'neutral' is not trained"],
    )


def test_the_demo_leaves_what_it_promises_and_nothing_stale(tmp_path: Path) -> None:
    (tmp_path / "drive_hdr10.mp4.work").mkdir()
    (tmp_path / "compare.png").write_bytes(b"stale")
    result = run_demo(tmp_path, _as_hdr10, options=SMALL)
    assert all(path.stat().st_size > 1000 or path.suffix == ".md" for path in result["files"].values())
    assert not (tmp_path / "drive_hdr10.mp4.work").exists()
    report = (tmp_path / "report.md").read_text()
    assert "Highlights are not restored" in report and "MaxCLL 203" in report and "'neutral' is not trained" in report
    assert str(tmp_path / "compare.png") in result["text"]
    assert result["hdr"]["frames"] == 3
    assert result["hdr"]["hl_stops"] == pytest.approx(result["sdr"]["hl_stops"], abs=0.05)
    assert result["hdr"]["mid_stops"] == pytest.approx(result["sdr"]["mid_stops"], abs=0.03)


def test_the_demo_names_a_folder_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="--output"):
        run_demo(tmp_path / "file", _as_hdr10, options=SMALL)
