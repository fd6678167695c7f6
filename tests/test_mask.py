"""Masks: what counts as invented, exact times, lossless pictures, joined files."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from pipeline.invented import invented
from pipeline.mask import MaskWriter, join_masks, mask_path

SIZE = {"width": 50, "height": 38, "time_base": Fraction(1, 90000), "rate": Fraction(30000, 1001)}


def masks(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (38, 50), dtype=torch.uint8, generator=generator) for _ in range(count)]


def write(path: Path, pictures: list[torch.Tensor], pts: list[int]) -> Path:
    with MaskWriter(path, **SIZE) as writer:
        for picture, one in zip(pictures, pts, strict=True):
            writer.write(picture, one, 3003)
    return path


def read(path: Path) -> list[tuple[int, np.ndarray]]:
    with av.open(str(path)) as file:
        return [(frame.pts, frame.to_ndarray()[: frame.height]) for frame in file.decode(video=0)]


@pytest.mark.parametrize(
    ("before", "after", "value"), [(1.0, 1.0, 0), (1.0, 1.01, 0), (1.0, 2.0, 128), (1.0, 8.0, 224), (0.0, 5.0, 255)]
)
def test_share_of_the_network(before: float, after: float, value: int) -> None:
    sdr, restored = torch.full((1, 3, 2, 2), before), torch.full((1, 3, 2, 2), after)
    assert invented(sdr, restored).unique().tolist() == [value]
    assert invented(restored, sdr).unique().tolist() == [value]


def test_negative_light_is_none() -> None:
    assert invented(torch.full((1, 3, 1, 1), -0.2), torch.full((1, 3, 1, 1), -0.1)).item() == 0


def test_joined_masks_have_every_frame_at_its_time_bit_for_bit(tmp_path: Path) -> None:
    one, two = masks(3, 1), masks(2, 2)
    files = [write(tmp_path / "a.mp4", one, [0, 3003, 6007]), write(tmp_path / "b.mp4", two, [0, 2990])]
    join_masks(files, [40, 9010], tmp_path / "all.mp4")
    found = read(tmp_path / "all.mp4")
    assert [pts for pts, _ in found] == [40, 3043, 6047, 9010, 12000]
    for (_, picture), wanted in zip(found, one + two, strict=True):
        assert np.array_equal(picture, wanted.numpy())


def test_ffprobe_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", masks(2, 3), [0, 3003])
    words = [
        "ffprobe",
        "-v",
        "error",
        "-show_entries",
        "stream=codec_name,pix_fmt,width,height,color_range",
        "-of",
        "json",
    ]
    told = json.loads(subprocess.run([*words, str(path)], check=True, capture_output=True, text=True).stdout)
    assert told["streams"] == [
        {"codec_name": "h264", "width": 50, "height": 38, "pix_fmt": "yuvj420p", "color_range": "pc"}
    ]


def test_the_same_bytes_each_time_and_nothing_left_of_a_failure(tmp_path: Path) -> None:
    first = write(tmp_path / "a.mp4", masks(4, 4), [0, 1, 2, 3]).read_bytes()
    assert write(tmp_path / "b.mp4", masks(4, 4), [0, 1, 2, 3]).read_bytes() == first
    with pytest.raises(ZeroDivisionError), MaskWriter(tmp_path / "c.mp4", **SIZE) as writer:
        writer.write(masks(1, 1)[0], 0, 1)
        raise ZeroDivisionError
    assert not (tmp_path / "c.mp4").exists()


def test_its_name() -> None:
    assert mask_path(Path("x/drive_hdr.mp4")) == Path("x/drive_hdr.mask.mp4")
