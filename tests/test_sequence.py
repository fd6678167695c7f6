"""Numbered pictures as one video file: which belong together, that their bytes are kept, and what is refused."""

from __future__ import annotations

import hashlib
import struct
import zlib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import load_config
from pipeline.convert import Conversion, start
from pipeline.decode import decode_span
from pipeline.errors import InputError
from pipeline.index import build_index
from pipeline.probe import probe, read_color
from pipeline.sequence import CITYSCAPES_FPS, Run, find_runs, group_runs, wrap
from pipeline.span import Span
from pipeline.span_job import run_span
from run_pipeline import main

WIDTH, HEIGHT = 96, 64


def pixels(number: int, channels: int = 3) -> np.ndarray:
    """A picture that differs from every other one, in OpenCV's order B, G, R; or grey."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [(x * 2 + number * 9) % 256, (y * 3 + number * 5) % 256, (x + y + number) % 256]
    return np.stack(planes, -1).astype(np.uint8) if channels == 3 else planes[0].astype(np.uint8)


def write(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    return path


def run_of(folder: Path, count: int = 5, suffix: str = ".png", channels: int = 3) -> Run:
    for number in range(count):
        write(folder / f"f_{number + 7:04d}{suffix}", pixels(number, channels))
    (run,) = find_runs(folder)
    return run


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def names(runs: list[Run]) -> list[list[str]]:
    return [[file.name for file in run.files] for run in runs]


def test_a_gap_another_clip_folder_or_codec_begins_a_new_run() -> None:
    files = ["a/x9.png", "a/x10.png", "a/x12.png", "a/x11.jpg", "a/y11.png", "b/x11.png", "a/7.png", "a/notes.png"]
    runs = group_runs(map(Path, files))
    assert sorted(names(runs)) == sorted(
        [["x9.png", "x10.png"], ["x12.png"], ["x11.jpg"], ["y11.png"], ["x11.png"], ["7.png"]]
    )
    assert {run.kind for run in runs} == {"numbered"} and {run.fps for run in runs} == {None}


def test_cityscapes_names_are_known_with_their_rate_and_cameras_are_kept_apart() -> None:
    def name(sequence: int, frame: int, camera: str) -> Path:
        return Path(f"{camera}Img8bit/val/ulm/ulm_{sequence:06d}_{frame:06d}_{camera}Img8bit.png")

    files = [name(0, 0, "left"), name(0, 1, "left"), name(1, 2, "left"), name(0, 1, "right"), name(0, 0, "right")]
    runs = group_runs(files)
    assert [run.files for run in runs] == [tuple(files[:2]), (files[2],), (files[4], files[3])]
    assert {run.kind for run in runs} == {"cityscapes"} and {run.fps for run in runs} == {Fraction(17)}
    assert runs[0].name == "ulm_000000_000000_leftImg8bit"


@given(st.sets(st.integers(0, 60), min_size=1), st.randoms())
def test_every_picture_is_in_one_run_and_runs_have_no_gap(numbers: set[int], random) -> None:  # noqa: ANN001
    files = [Path(f"{number}.png") for number in numbers]
    random.shuffle(files)
    runs = group_runs(files)
    found = [[int(file.stem) for file in run.files] for run in runs]
    assert [number for run in found for number in run] == sorted(numbers)
    assert all(run == list(range(run[0], run[0] + len(run))) for run in found)
    assert all(left[-1] + 1 < right[0] for left, right in pairwise(found))


def test_the_rate_is_asked_for_where_nothing_says_it() -> None:
    numbered, city = (
        Run("a", (Path("a.png"),), "numbered", None),
        Run("b", (Path("b.png"),), "cityscapes", CITYSCAPES_FPS),
    )
    assert city.rate(None) == 17 and city.rate(Fraction(20)) == 20 == numbered.rate(Fraction(20))
    with pytest.raises(InputError, match=r"a\.png: numbered pictures have no timestamps; .*--fps 20"):
        numbered.rate(None)
    for rate in (Fraction(-1), Fraction(1001)):
        with pytest.raises(InputError, match="legal: above 0, at most 1000"):
            numbered.rate(rate)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("fps", [Fraction(17), Fraction(30000, 1001), Fraction(5, 2)])
def test_packets_are_the_files_at_exact_times(tmp_path: Path, suffix: str, fps: Fraction) -> None:
    run = run_of(tmp_path / "in", suffix=suffix)
    target = wrap(run, fps, tmp_path / "a.mov")
    digests = [digest for _, digest in oracles.packets(target, 0)]
    assert digests == [hashlib.md5(file.read_bytes()).hexdigest() for file in run.files]
    assert oracles.frame_times(target) == [number / fps for number in range(5)]
    facts = oracles.ffprobe(target, "-show_streams")["streams"]
    assert [Fraction(one["avg_frame_rate"]) for one in facts] == [fps]
    assert oracles.digest([target]) == oracles.digest([wrap(run, fps, tmp_path / "b.mov")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mov", "b.mov", "in"]


@pytest.mark.parametrize(("suffix", "channels"), [(".png", 3), (".png", 1), (".jpg", 3)])
@pytest.mark.parametrize("count", [1, 5])
def test_the_pipeline_reads_it_as_full_range_pictures(tmp_path: Path, suffix: str, channels: int, count: int) -> None:
    run = run_of(tmp_path / "in", count, suffix, channels)
    target = wrap(run, Fraction(17), tmp_path / "a.mov")
    stream = probe(target).video_streams[0]
    color, _ = read_color(stream)
    assert (stream.width, stream.height, color.range, color.transfer) == (WIDTH, HEIGHT, "full", "bt1886")
    assert color.matrix == {(".png", 3): "rgb"}.get((suffix, channels), "bt601")
    index = build_index(target, 0)
    assert index.frame_pts.tolist() == list(range(count)) and index.time_base == Fraction(1, 17)
    assert index.frame_duration.tolist() == [1] * count and index.keyframe.all()
    frames = list(
        decode_span(target, 0, index, Span(0, 0, count, 0, count, 0, 0, 0, count), deinterlace=False, strict=True)
    )
    assert len(frames) == count
    for frame, file in zip(frames, run.files, strict=True):
        stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if suffix == ".png":
            wanted = [stored[..., place] for place in (1, 0, 2)] if channels == 3 else [stored]
            assert all((plane.numpy() == want).all() for plane, want in zip(frame.planes, wanted, strict=True))
        else:
            assert (
                abs(float(frame.planes[0].float().mean()) - float(cv2.cvtColor(stored, cv2.COLOR_BGR2GRAY).mean())) < 1
            )


def test_pictures_of_other_sizes_or_colours_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    write(run.files[3], pixels(3)[:32])
    with pytest.raises(InputError, match=r"f_0010\.png: is 96x32 RGB PNG, but .*f_0007\.png is 96x64 RGB PNG"):
        wrap(run, Fraction(17), tmp_path / "a.mov")
    write(run.files[3], pixels(3, 1))
    with pytest.raises(InputError, match=r"f_0010\.png: is 96x64 grey PNG"):
        wrap(run, Fraction(17), tmp_path / "a.mov")
    assert not list(tmp_path.glob("*a.mov*"))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_damaged_picture_is_named(tmp_path: Path, suffix: str) -> None:
    run = run_of(tmp_path, suffix=suffix)
    whole = run.files[2].read_bytes()
    for broken in (b"", b"nothing of the kind", whole[:20], whole[: len(whole) // 2], whole[:-2]):
        run.files[2].write_bytes(broken)
        with pytest.raises(InputError, match=r"f_0009\.\w+: this is not a whole (PNG|JPEG) picture"):
            wrap(run, Fraction(17), tmp_path / "a.mov")
    run.files[2].unlink()
    with pytest.raises(InputError, match=r"f_0009\.\w+: cannot be read"):
        wrap(run, Fraction(17), tmp_path / "a.mov")


def test_a_flipped_bit_of_a_png_is_found(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    data = bytearray(run.files[1].read_bytes())
    data[len(data) // 2] ^= 1
    run.files[1].write_bytes(data)
    with pytest.raises(InputError, match=r"f_0008\.png: this is not a whole PNG"):
        wrap(run, Fraction(17), tmp_path / "a.mov")


def test_what_is_no_sdr_picture_of_8_bits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f_0001.png"
    transparent = np.dstack([pixels(0), pixels(1, 1)])
    plain = cv2.imencode(".png", pixels(0))[1].tobytes()
    cases = {
        "RGB at 16 bits": cv2.imencode(".png", pixels(0).astype(np.uint16))[1].tobytes(),
        "grey at 16 bits": cv2.imencode(".png", pixels(0, 1).astype(np.uint16))[1].tobytes(),
        "RGB with transparency at 8 bits": cv2.imencode(".png", transparent)[1].tobytes(),
        "RGB with transparency at 8": plain[:33] + chunk(b"tRNS", bytes(6)) + plain[33:],
        "grey at 1 bits": cv2.imencode(".png", pixels(0, 1), [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes(),
    }
    for told, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"f_0001\.png: is a PNG of {told}.*legal are"):
            wrap(find_runs(tmp_path)[0], Fraction(17), tmp_path / "a.mov")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    write(tmp_path / ".thumbs" / "0001.png", pixels(0))
    with pytest.raises(InputError, match="no numbered picture there"):
        find_runs(tmp_path)


def test_a_second_driver_leaves_the_pictures_of_the_first_alone(tmp_path: Path) -> None:
    """The file that stands for the pictures is made inside the lock: written anew, the first driver would find its source changed."""
    run = run_of(tmp_path / "in")
    config = load_config("cityscapes", None, ["model=neutral", "input.fps=10"])
    output = tmp_path / "o.mp4"
    first = start(run.files[0], output, config, run=run)
    assert isinstance(first, Conversion)
    before = (first.workdir / "pictures.mov").stat()
    with pytest.raises(InputError, match="another Sunvisor is working on this output"):
        start(run.files[0], output, config, run=run)
    assert (first.workdir / "pictures.mov").stat() == before
    first.close()


def test_pictures_that_cannot_be_converted_leave_no_work_folder(tmp_path: Path) -> None:
    run = run_of(tmp_path / "in")
    run.files[2].write_bytes(run.files[2].read_bytes()[:-30])
    with pytest.raises(InputError, match="not a whole PNG"):
        start(
            run.files[0],
            tmp_path / "o.mp4",
            load_config("cityscapes", None, ["model=neutral", "input.fps=10"]),
            run=run,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("named", ["folder", "picture"])
def test_verify_takes_the_pictures_as_the_source(
    tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "in")
    config = load_config("cityscapes", None, ["model=neutral", "input.fps=30000/1001"])
    conversion = start(run.files[0], tmp_path / "o.mp4", config, run=run)
    assert isinstance(conversion, Conversion)
    line = run_span(str(conversion.workdir), 0, 0, threads=1, on_frames=lambda _: None, should_stop=lambda: False)
    conversion.span_done(line)
    conversion.finish()
    source = run.files[0].parent if named == "folder" else run.files[3]
    assert main(["verify", str(source), str(tmp_path / "o.mp4"), "--full"]) == 0
    assert "verified" in capsys.readouterr().out
    write(run.files[1], pixels(11))
    assert main(["verify", str(source), str(tmp_path / "o.mp4")]) == 1
