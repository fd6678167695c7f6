"""The colour contract, from file to file: grey and coloured patches of an SDR clip, decoded by FFmpeg from the HDR file we wrote."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from configs.schema import load_config
from models import checkpoints
from pipeline.convert import convert

SIZE, PATCH = 192, 64
CODES = [16, 27, 60, 100, 140, 180, 213, 235, 245]  # 0, 5, 20 ... 90 %, white and above


def write_patches(path: Path, planes: list[tuple[int, int, int]]) -> Path:
    """Nine flat patches of Y, Cb, Cr codes, BT.709 limited, close to lossless."""
    y, u, v = (np.zeros((SIZE, SIZE), np.uint8) for _ in range(3))
    for number, codes in enumerate(planes):
        place = np.s_[number // 3 * PATCH : (number // 3 + 1) * PATCH, number % 3 * PATCH : (number % 3 + 1) * PATCH]
        y[place], u[place], v[place] = codes
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "1", "preset": "veryfast"})
        stream.width = stream.height = SIZE
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
        frame = av.VideoFrame(SIZE, SIZE, "yuv420p")
        for plane, codes in zip(frame.planes, (y, u[::2, ::2], v[::2, ::2]), strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            rows[:, : codes.shape[1]] = codes
            plane.update(rows.tobytes())
        for number in range(6):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def patches_in_nits(path: Path) -> np.ndarray:
    """(9, 3) mean BT.2020 light of each patch's middle, by formulas of BT.2100 written out here."""
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=0)]
    planes = []
    for frame in frames:
        full = frame.reformat(format="yuv444p10le") if frame.format.name != "yuv420p10le" else frame
        rows = [np.frombuffer(p, np.uint16).reshape(p.height, -1)[:, : p.width].astype(np.float64) for p in full.planes]
        planes.append([rows[0], *(np.repeat(np.repeat(row, 2, 0), 2, 1) for row in rows[1:])])
    y, u, v = np.mean(planes, axis=0)
    y, u, v = (y - 64) / 876, (u - 512) / 896, (v - 512) / 896
    r, b = y + 1.4746 * v, y + 1.8814 * u
    g = (y - 0.2627 * r - 0.0593 * b) / 0.6780
    e = np.clip(np.stack([r, g, b], -1), 0, 1) ** (1 / 78.84375)
    nits = 10000 * (np.maximum(e - 0.8359375, 0) / (18.8515625 - 18.6875 * e)) ** (1 / 0.1593017578125)
    middle = [nits[row + 16 : row + 48, column + 16 : column + 48] for row in (0, 64, 128) for column in (0, 64, 128)]
    return np.array([patch.mean((0, 1)) for patch in middle])


def test_greys_come_at_the_light_a_reference_display_shows(tmp_path: Path) -> None:
    clip = write_patches(tmp_path / "grey.mp4", [(code, 128, 128) for code in CODES])
    convert(clip, tmp_path / "hdr.mp4", load_config(overrides=["model=neutral"]))
    nits = patches_in_nits(tmp_path / "hdr.mp4")
    want = 203 * (np.maximum(np.array(CODES) - 16, 0) / 219) ** 2.4
    assert nits[7].mean() == pytest.approx(203, rel=0.01)
    stops = np.abs(np.log2(nits[1:7].mean(1) / want[1:7]))
    assert stops.mean() < 0.02 and stops.max() < 0.05
    assert nits[8].mean() == pytest.approx(want[8], rel=0.02)
    assert nits[0].max() < 0.02
    assert np.ptp(nits[1:], axis=1).max() / nits[1:].max() < 0.01


@pytest.mark.parametrize("name", [name for name in checkpoints.available() if name != "neutral"])
def test_trained_checkpoints_leave_mid_tones_where_the_sdr_had_them(name: str) -> None:
    """Flat greys of 10 to 85 % of the code range within a tenth of a stop of what a reference display shows; white may rise, never fall."""
    model = checkpoints.load(name)
    for code in (26, 40, 64, 90, 128, 160, 192, 216):
        light = model.restore(torch.full((1, 3, 96, 160), code / 255), "fp32")
        stops = torch.log2(light / (code / 255) ** 2.4).abs()
        assert float(stops.mean()) < 0.1, code
    assert float(model.restore(torch.ones(1, 3, 96, 160), "fp32").mean()) > 0.98


def test_colours_keep_their_hue_and_light(tmp_path: Path) -> None:
    chroma = [
        (128, 150),
        (128, 106),
        (150, 128),
        (106, 128),
        (145, 145),
        (110, 110),
        (145, 110),
        (110, 145),
        (128, 160),
    ]
    clip = write_patches(tmp_path / "colour.mp4", [(120, u, v) for u, v in chroma])
    convert(clip, tmp_path / "hdr.mp4", load_config())
    nits = patches_in_nits(tmp_path / "hdr.mp4")
    u, v = (np.array(chroma).T - 128) / 224
    y = (120 - 16) / 219
    rgb = np.stack([y + 1.5748 * v, y - 0.187324 * u - 0.468124 * v, y + 1.8556 * u], -1) ** 2.4 * 203
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
    np.testing.assert_allclose(nits, rgb @ to_2020.T, rtol=0.03, atol=0.3)
