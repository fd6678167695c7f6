"""Frames as picture files: their values against OpenCV and OpenEXR, what they say of themselves, and how spans keep them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # before OpenCV's first picture

import av
import cv2
import numpy as np
import OpenEXR
import oracles
import pytest
import torch

from datasets.cityscapes import read_truth
from datasets.images import read_light
from pipeline.errors import ConversionError, InputError
from pipeline.frame_files import ENDINGS, FrameWriter, encode_frame, frame_paths, refuse_frames, unpack_frames
from pipeline.transfer import pq_inverse_eotf

NITS = {"white_nits": 203.0, "peak_nits": 1000.0}
TO_BT2020 = np.array([[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]])
"""BT.2087, clause 4, to six digits."""


def light(height: int = 61, width: int = 97, seed: int = 1) -> torch.Tensor:
    """Light over many decades, with negatives, beyond any range, and what is no number."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.exp(torch.randn(3, height, width, generator=generator) * 3)
    made[:, :3] *= -1
    made[:, 3, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 6e-8])
    return made


def written(path: Path, kind: str, linear: torch.Tensor, **nits: float) -> Path:
    path.write_bytes(encode_frame(linear, kind, **(NITS | nits)))
    return path


def test_png16_is_what_the_cityscapes_loader_reads_as_light(tmp_path: Path) -> None:
    linear = light()
    read = read_truth(written(tmp_path / "a.png", "png16", linear)).transpose(2, 0, 1)
    wanted = linear.nan_to_num(nan=0.0, posinf=1e9, neginf=-1e9).double().numpy() * 203 / 1000
    assert np.array_equal(np.rint(read.astype(np.float64) * 65535), np.rint(wanted.clip(0, 1) * 65535))
    white = read_truth(written(tmp_path / "b.png", "png16", torch.ones(3, 2, 2), white_nits=500.0))
    assert np.abs(white - 0.5).max() < 1 / 65535
    assert np.array_equal(read_light(tmp_path / "a.png"), read.transpose(1, 2, 0))


def test_png16pq_is_pq_of_bt2020(tmp_path: Path) -> None:
    linear = light().clamp(0, 20).nan_to_num(nan=0.0)
    codes = cv2.imread(str(written(tmp_path / "a.png", "png16pq", linear)), cv2.IMREAD_UNCHANGED)[..., ::-1]
    nits = (np.einsum("ij,jhw->ihw", TO_BT2020, linear.double().numpy()) * 203).clip(0, 1000)
    wanted = pq_inverse_eotf(torch.from_numpy(nits)).numpy().transpose(1, 2, 0) * 65535
    bright = nits.transpose(1, 2, 0) > 0.1
    assert np.abs(codes - wanted)[bright].max() < 2  # of 65535: what six digits of the matrix and the table leave
    grey = torch.linspace(0, 4, 97).expand(3, 5, 97)
    codes = cv2.imread(str(written(tmp_path / "b.png", "png16pq", grey)), cv2.IMREAD_UNCHANGED)
    assert (codes == codes[..., :1]).all()


def test_exr_is_half_float_rounded_to_the_nearest_and_says_what_white_is(tmp_path: Path) -> None:
    linear = light()
    file = OpenEXR.File(str(written(tmp_path / "a.exr", "exr", linear)))
    wanted = linear.nan_to_num(nan=0.0).clamp(-65504, 65504).numpy().astype(np.float16)
    pixels = file.channels()["RGB"].pixels
    assert pixels.dtype == np.float16 and np.array_equal(pixels.transpose(2, 0, 1), wanted)
    header = file.header()
    assert header["whiteLuminance"] == 203 and header["compression"] == OpenEXR.ZIP_COMPRESSION
    assert header["chromaticities"] == pytest.approx((0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329))
    assert np.array_equal(read_light(tmp_path / "a.exr").transpose(2, 0, 1), wanted.astype(np.float32))


@pytest.mark.parametrize("size", [(1, 1), (16, 5), (17, 300), (33, 64)])
@pytest.mark.parametrize("kind", ENDINGS)
def test_any_size(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    linear = torch.rand(3, *size, generator=torch.Generator().manual_seed(2))
    path = written(tmp_path / f"a{ENDINGS[kind]}", kind, linear)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (*size, 3)
    if kind == "exr":
        assert OpenEXR.File(str(path)).channels()["RGB"].pixels.shape == (*size, 3)


@pytest.mark.parametrize(
    ("kind", "chunk", "primaries", "transfer"),
    [("png16", b"\x01\x08\x00\x01", "bt709", "linear"), ("png16pq", b"\x09\x10\x00\x01", "bt2020", "smpte2084")],
)
def test_a_png_says_what_it_is(tmp_path: Path, kind: str, chunk: bytes, primaries: str, transfer: str) -> None:
    path = written(tmp_path / "a.png", kind, light())
    data = path.read_bytes()
    assert data[data.index(b"cICP") + 4 :][:4] == chunk and data.index(b"cICP") < data.index(b"IDAT")
    (facts,) = oracles.ffprobe(path, "-show_streams")["streams"]
    assert (facts["pix_fmt"], facts["color_range"]) == ("rgb48be", "pc")
    assert (facts["width"], facts["height"]) == (97, 61)


@pytest.mark.parametrize("kind", ENDINGS)
def test_the_bytes_do_not_depend_on_threads(kind: str) -> None:
    threads = torch.get_num_threads()
    linear = light(200, 320)
    try:
        made = []
        for count in (1, 3):
            torch.set_num_threads(count)
            made.append(encode_frame(linear, kind, **NITS))
    finally:
        torch.set_num_threads(threads)
    assert made[0] == made[1]


def spans(folder: Path, kind: str) -> tuple[list[Path], list[bytes]]:
    """Two spans of two frames and one."""
    files, data = [folder / "0.zip", folder / "1.zip"], []
    for file, seeds in zip(files, ((1, 2), (3,)), strict=True):
        with FrameWriter(file, kind, **NITS) as writer:
            for seed in seeds:
                writer.write(light(seed=seed))
                data.append(encode_frame(light(seed=seed), kind, **NITS))
    return files, data


@pytest.mark.parametrize("kind", ENDINGS)
def test_spans_come_out_as_files_of_the_given_names(tmp_path: Path, kind: str) -> None:
    files, data = spans(tmp_path, kind)
    targets = [tmp_path / "out" / f"{name}{ENDINGS[kind]}" for name in ("a/x", "a/y", "b/x")]
    unpack_frames(files, targets)
    assert [target.read_bytes() for target in targets] == data
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == targets
    again, _ = spans(tmp_path / "out", kind)
    assert oracles.digest(files) == oracles.digest(again)


def test_a_span_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), FrameWriter(tmp_path / "a.zip", "exr", **NITS) as writer:
        writer.write(light())
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_spans_that_do_not_fit_are_told(tmp_path: Path) -> None:
    files, _ = spans(tmp_path, "png16")
    targets = [tmp_path / f"{number}.png" for number in range(4)]
    with pytest.raises(ConversionError, match="hold 3 frames where 4 are wanted"):
        unpack_frames(files, targets)
    with pytest.raises(ConversionError, match="hold 3 frames where 2 are wanted"):
        unpack_frames(files, targets[:2])
    data = bytearray(files[0].read_bytes())
    with zipfile.ZipFile(files[0]) as pictures:
        start = pictures.infolist()[1].header_offset
    data[start + 200] ^= 1
    files[0].write_bytes(data)
    with pytest.raises(ConversionError, match=r"0\.zip: the frames of this span cannot be read"):
        unpack_frames(files, targets[:3])


def test_frames_of_a_video_have_a_folder_and_files_are_not_replaced_unasked(tmp_path: Path) -> None:
    targets = frame_paths(tmp_path / "drive.mp4", 2, "exr")
    assert targets == (tmp_path / "drive_frames/000000.exr", tmp_path / "drive_frames/000001.exr")
    refuse_frames(targets, overwrite=False)
    targets[1].parent.mkdir()
    targets[1].write_bytes(b"x")
    refuse_frames(targets, overwrite=True)
    with pytest.raises(InputError, match=r"000001\.exr: there is a file already \(1 of 2 frames\)"):
        refuse_frames(targets, overwrite=False)


def test_a_picture_that_ffmpeg_does_not_take_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise av.error.InvalidDataError(1, "no")

    monkeypatch.setattr(av.CodecContext, "create", lambda *_: type("Refusing", (), {"encode": refuse})())
    told = pytest.raises(
        ConversionError, match=r"a\.zip: frame 0 cannot be written as png16 \(FFmpeg's png does not take"
    )
    with told, FrameWriter(tmp_path / "a.zip", "png16", **NITS) as writer:
        writer.write(light())
    assert not list(tmp_path.iterdir())
