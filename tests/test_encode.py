"""Span files: which encoder is chosen, exact times, bytes that do not depend on cores, and a check that notices damage."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

from pipeline import encode, encoder_choice
from pipeline.encode import SpanEncoder, check_span, publish
from pipeline.encoder_choice import EncoderChoice, resolve_encoder
from pipeline.errors import ConversionError, InputError
from pipeline.hardware import GPU, HOST, encoder_memory, p010_planes

PTS = [0, 3003, 3500, 9009, 12012, 12013, 20000, 21000]
SETTINGS = {"transfer": "pq", "codec": "hevc", "encoder": "auto", "crf": None, "preset": None, "container": "auto"}
PROBED_STREAM = "stream=width,height,sample_aspect_ratio,time_base,codec_tag_string,color_transfer,chroma_location"


def choose(device: str = "cpu", **changes: object) -> EncoderChoice:
    return resolve_encoder(SimpleNamespace(**{**SETTINGS, **changes}), device)


def frames(count: int, width: int, height: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """A texture that moves, with noise: something for motion search and rate control to decide on."""
    noise = torch.Generator().manual_seed(11)
    coarse = torch.rand((1, 1, height // 4 + count, width // 4 + count), generator=noise)
    texture = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")[0, 0] * 700 + 100
    made = []
    for number in range(count):
        moved = texture[number : number + height, 2 * number : 2 * number + width]
        y = (moved + torch.randn((height, width), generator=noise) * 4).clamp(64, 940).to(torch.uint16).contiguous()
        u, v = (torch.full((height // 2, width // 2), code, dtype=torch.uint16) for code in (480, 540 + number))
        made.append((y, u, v))
    return made


def write(path: Path, choice: EncoderChoice, planes: list, pts: list[int] | None = None, **changes: object) -> Path:
    height, width = planes[0][0].shape if planes else (0, 0)
    shape = {
        "width": width,
        "height": height,
        "time_base": Fraction(1, 90000),
        "rate": Fraction(30),
        "sample_aspect_ratio": None,
        "transfer": "pq",
        "threads": 1,
    }
    with SpanEncoder(path, choice, **(shape | changes)) as encoder:
        for number, (y, u, v) in enumerate(planes):
            encoder.write(y, u, v, pts[number] if pts else 3000 * number, 3000)
    return path


def may_be_real_time() -> bool:
    code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_be_real_time(), reason="nothing here may become real-time, which root usually may")
@pytest.mark.parametrize("guarded", [True, False])
def test_svt_av1_does_not_take_the_machine(tmp_path: Path, guarded: bool) -> None:
    """In a process of its own; without the guard the same look finds what the guard is for."""
    code = f"""
import contextlib, os, pathlib
import pipeline.encode, pipeline.encoder_choice as choices
from tests import test_encode
if not {guarded}:
    pipeline.encode.usual_priority = choices.usual_priority = contextlib.nullcontext
with pipeline.encode.SpanEncoder(pathlib.Path({str(tmp_path / "b.mp4")!r}), test_encode.choose(codec="av1"), width=128, height=64,
        time_base=test_encode.Fraction(1, 30), rate=test_encode.Fraction(30), sample_aspect_ratio=None, transfer="pq", threads=1) as encoder:
    for number, planes in enumerate(test_encode.frames(3, 128, 64)):
        encoder.write(*planes, number, 1)
    policies = {{os.sched_getscheduler(int(one.name)) for one in pathlib.Path("/proc/self/task").iterdir()}}
print(sorted(policies))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    policies = run.stdout.strip().splitlines()[-1]
    assert (policies == str([os.SCHED_OTHER])) is guarded, policies


def luma_means(planes: list) -> list[float]:
    return [float(y.float().mean()) for y, _, _ in planes]


def test_defaults_on_cpu_are_software_and_go_through_json() -> None:
    for codec, name in (("hevc", "libx265"), ("av1", "libsvtav1")):
        choice = choose(codec=codec)
        assert choice.encoder == name
        assert "cpu" in choice.reason
        assert EncoderChoice(**json.loads(json.dumps(asdict(choice)))) == choice
        assert f"crf={choice.crf}" in str(choice)
        assert choice.reason not in str(choice)


def test_cuda_without_nvenc_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_choice, "_why_not_open", lambda name: "no such device" if "nvenc" in name else "")
    choice = choose("cuda:0")
    assert choice.encoder == "libx265"
    assert "hevc_nvenc does not open (no such device)" in choice.reason


def test_cuda_with_nvenc_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_choice, "_why_not_open", lambda name: "")
    assert choose("cuda").encoder == "hevc_nvenc"
    assert choose("cuda", codec="av1").encoder == "av1_nvenc"
    assert choose("cpu").encoder == "libx265"
    assert choose("cuda", encoder="libx265").encoder == "libx265"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codec": "h264"}, "hevc, av1"),
        ({"transfer": "gamma"}, "pq, hlg"),
        ({"container": "webm"}, "auto, mp4, mov, mkv"),
        ({"encoder": "x265"}, "auto, libx265, libsvtav1, hevc_nvenc, av1_nvenc"),
        ({"encoder": "libsvtav1"}, "auto, libx265, hevc_nvenc"),
        ({"crf": 52}, "0 to 51"),
        ({"codec": "av1", "crf": 0}, "1 to 63"),
        ({"preset": "8"}, "ultrafast"),
        ({"codec": "av1", "preset": "fast"}, "0, 1, 2"),
        ({"codec": "av1", "container": "mov"}, "auto, mp4, mkv"),
    ],
)
def test_illegal_settings_name_the_legal_ones(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match="legal values") as caught:
        choose(**changes)
    assert says in str(caught.value)


def test_a_pyav_without_the_software_encoder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_choice, "_why_not_open", lambda name: "Unknown codec")
    with pytest.raises(InputError, match=r"libx265 does not open in this PyAV \(Unknown codec\)"):
        choose()


def test_encoder_asked_for_that_does_not_open_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_choice, "_why_not_open", lambda name: "no such device")
    with pytest.raises(InputError, match="hevc_nvenc does not open"):
        choose("cuda", encoder="hevc_nvenc")


@pytest.mark.parametrize("codec", ["hevc", "av1"])
@pytest.mark.parametrize("time_base", [Fraction(1, 90000), Fraction(1, 12800), Fraction(1, 1000), Fraction(1, 30)])
def test_irregular_times_are_exact(tmp_path: Path, codec: str, time_base: Fraction) -> None:
    planes = frames(len(PTS), 64, 48)
    path = write(tmp_path / "span.part", choose(codec=codec), planes, PTS, time_base=time_base)
    check_span(path, PTS, luma_means(planes))
    command = [
        "ffprobe",
        "-v",
        "error",
        "-of",
        "json",
        "-show_entries",
        f"packet=pts,duration:{PROBED_STREAM}",
        str(path),
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert sorted(packet["pts"] for packet in found["packets"]) == PTS
    stream = found["streams"][0]
    assert Fraction(stream["time_base"]) == time_base
    assert (stream["color_transfer"], stream["chroma_location"]) == ("smpte2084", "topleft")
    assert stream["codec_tag_string"] == ("hvc1" if codec == "hevc" else "av01")


@pytest.mark.parametrize("codec", ["hevc", "av1"])
@pytest.mark.parametrize("size", [(64, 48), (66, 50), (64, 16), (160, 90)])
def test_small_and_awkward_sizes(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    planes = frames(3, *size)
    path = write(tmp_path / "span.mp4", choose(codec=codec), planes, sample_aspect_ratio=Fraction(8, 9))
    check_span(path, [0, 3000, 6000], luma_means(planes))
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height) == size
        assert stream.sample_aspect_ratio == Fraction(8, 9)


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_planes_come_back_nearly_as_they_went_in(tmp_path: Path, codec: str) -> None:
    """40 dB of PSNR-Y on noise that no encoder can predict; chroma planes in their places, within a code of 8 bits (4 of 10)."""
    planes = frames(4, 128, 96)
    path = write(tmp_path / "span.mp4", choose(codec=codec), planes)
    with av.open(str(path)) as file:
        for (y, u, v), frame in zip(planes, file.decode(video=0), strict=True):
            got = [torch.from_dlpack(plane).float() for plane in frame.planes]
            assert float((got[0] - y.float()).square().mean()) < (1023 / 100) ** 2
            assert float((got[1] - u.float()).abs().mean()) < 4
            assert float((got[2] - v.float()).abs().mean()) < 4


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_group_is_closed_and_keyframes_come_every_two_seconds(tmp_path: Path, codec: str) -> None:
    planes = frames(14, 64, 48)
    path = write(tmp_path / "span.mp4", choose(codec=codec), planes, rate=Fraction(3))
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    keys = [packet.pts for packet in packets if packet.is_keyframe]
    assert keys[:2] == [0, 6 * 3000]
    behind = 0
    for packet in packets:
        behind = max(behind, packet.pts if packet.is_keyframe else 0)
        assert packet.pts >= behind


def bytes_in_child(codec: str, threads: int, core: int | None) -> str:
    """Digest of a span file made in a process of its own, held to one core or not."""
    code = (
        "import sys, os; sys.path[:0] = [os.getcwd(), os.path.join(os.getcwd(), 'tests')]\n"
        f"core = {core}\n"
        "if core is not None: os.sched_setaffinity(0, {core})\n"
        "import pathlib, tempfile, hashlib, test_encode as t\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'span.mp4'\n"
        f"t.write(path, t.choose(codec={codec!r}), t.frames(16, 256, 192), threads={threads})\n"
        "print(hashlib.md5(path.read_bytes()).hexdigest()); path.unlink(); path.parent.rmdir()\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    return done.stdout.split()[-1]


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_bytes_depend_on_neither_threads_nor_cores(tmp_path: Path, codec: str) -> None:
    """In-process with 1, 2, 3 and 8 threads, and in a process that sees one core only."""
    planes = frames(16, 256, 192)
    digests = {
        hashlib.md5(write(tmp_path / f"{n}.mp4", choose(codec=codec), planes, threads=n).read_bytes()).hexdigest()
        for n in (1, 2, 3, 8)
    }
    core = min(os.sched_getaffinity(0))
    digests.add(bytes_in_child(codec, 2, core))
    assert len(digests) == 1


def test_frames_too_small_for_x265_are_refused(tmp_path: Path) -> None:
    """Below 50 pixels of width x265 corrupts memory; SVT-AV1 takes them."""
    planes = frames(3, 16, 16)
    with pytest.raises(InputError, match=r"use output\.codec=av1"):
        write(tmp_path / "tiny.mp4", choose(), planes)
    assert list(tmp_path.iterdir()) == []
    check_span(write(tmp_path / "tiny.mp4", choose(codec="av1"), planes), [0, 3000, 6000], luma_means(planes))


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_spans_share_one_set_of_headers(tmp_path: Path, codec: str) -> None:
    """Spans are joined by packets, so the codec's headers may not depend on content or length."""
    one = write(tmp_path / "one.mp4", choose(codec=codec), frames(3, 64, 48))
    two = write(tmp_path / "two.mp4", choose(codec=codec), frames(9, 64, 48)[::-1], threads=2)
    headers = []
    for path in (one, two):
        with av.open(str(path)) as file:
            headers.append(bytes(file.streams.video[0].codec_context.extradata))
    assert headers[0] == headers[1]
    assert b"x265" not in one.read_bytes()


def test_check_span_notices_what_is_wrong(tmp_path: Path) -> None:
    planes = frames(6, 64, 48)
    pts, luma = [3000 * number for number in range(6)], luma_means(planes)
    path = write(tmp_path / "span.mp4", choose(), planes)
    check_span(path, pts, luma, threads=2)
    with pytest.raises(ConversionError, match="6 frames come out, 7"):
        check_span(path, [*pts, 18000], [*luma, 100.0])
    with pytest.raises(ConversionError, match="more than the 5"):
        check_span(path, pts[:-1], luma[:-1])
    with pytest.raises(ConversionError, match="frame 2 has pts 6000, not 6001"):
        check_span(path, [*pts[:2], 6001, *pts[3:]], luma)
    with pytest.raises(ConversionError, match="frame 3 has mean luma"):
        check_span(path, pts, [*luma[:3], luma[3] + 20, *luma[4:]])
    with pytest.raises(ConversionError, match="frame 0 has mean luma"):
        check_span(path, pts, [float("nan")] * 6)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConversionError, match=r"does not decode|frames come out"):
        check_span(damaged, pts, luma)


def test_mean_luma_stays_within_tolerance_at_the_worst_quality(tmp_path: Path) -> None:
    planes = frames(6, 128, 96)
    for codec, crf in (("hevc", 51), ("av1", 63)):
        path = write(tmp_path / f"{codec}.mp4", choose(codec=codec, crf=crf), planes)
        check_span(path, [3000 * number for number in range(6)], luma_means(planes))


def test_nothing_is_left_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "span.part"
    y, u, v = frames(1, 64, 48)[0]
    shape = {"width": 64, "height": 48, "time_base": Fraction(1, 30), "rate": Fraction(30)}
    with (
        pytest.raises(RuntimeError, match="stop"),
        SpanEncoder(path, choose(), **shape, sample_aspect_ratio=None, transfer="pq", threads=1) as encoder,
    ):
        encoder.write(y, u, v, 0, 1)
        raise RuntimeError("stop")
    with (
        pytest.raises(ConversionError, match="frame 1 has pts 0, not after 0"),
        SpanEncoder(path, choose(), **shape, sample_aspect_ratio=None, transfer="pq", threads=1) as encoder,
    ):
        encoder.write(y, u, v, 0, 1)
        encoder.write(y, u, v, 0, 1)
    with (
        pytest.raises(ConversionError, match="0 frames went in"),
        SpanEncoder(path, choose(), **shape, sample_aspect_ratio=None, transfer="pq", threads=1),
    ):
        pass
    with pytest.raises(ConversionError, match="even sizes"):
        SpanEncoder(path, choose(), **(shape | {"width": 63}), sample_aspect_ratio=None, transfer="pq", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_stays_an_oserror(tmp_path: Path) -> None:
    """/dev/full takes no byte; span_job tells the user of ENOSPC by its number."""
    target = tmp_path / "full"
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(target, choose(), frames(3, 64, 48))
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, av.FFmpegError)


def test_an_encoder_that_opens_with_its_first_frame_writes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does for frames in GPU memory; here with memory of the host in its place, and a software encoder."""
    planes = frames(9, 128, 96)
    wanted = write(tmp_path / "host.mp4", choose(), planes).read_bytes()
    monkeypatch.setattr(
        encode, "gpu_frame", lambda *three: av.VideoFrame.from_dlpack(p010_planes(*three), format="p010le")
    )
    assert write(tmp_path / "gpu.mp4", choose(), planes, on_gpu=True).read_bytes() == wanted
    with pytest.raises(ConversionError, match="0 frames went in"):
        write(tmp_path / "none.mp4", choose(), [], width=64, height=48, on_gpu=True)
    assert not (tmp_path / "none.mp4").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_gpu_frames_give_nvencs_file_from_either_memory(tmp_path: Path, codec: str) -> None:
    choice = choose("cuda", codec=codec)
    memory = encoder_memory(choice)
    if choice.encoder not in encoder_choice.HARDWARE.values():
        assert memory.taken == HOST and "does not open" in choice.reason, "A100, H100 and H200 have no NVENC"
        return
    assert memory.taken == GPU, memory
    planes = frames(90, 256, 192)
    wanted = write(tmp_path / "host.mp4", choice, planes).read_bytes()
    for name in ("one.mp4", "two.mp4"):
        there = [tuple(plane.cuda() for plane in three) for three in planes]
        path = write(tmp_path / name, choice, there, on_gpu=True)
        check_span(path, [3000 * number for number in range(90)], luma_means(planes))
        assert path.read_bytes() == wanted


def test_publish_renames(tmp_path: Path) -> None:
    partial, final = tmp_path / "a.part", tmp_path / "a.mp4"
    partial.write_bytes(b"new")
    final.write_bytes(b"old")
    publish(partial, final)
    assert final.read_bytes() == b"new"
    assert not partial.exists()


@pytest.mark.parametrize("width", [64, 72])
@pytest.mark.parametrize("preset", ["veryfast", "medium"])
def test_the_same_bytes_each_time_at_presets_that_look_ahead(tmp_path: Path, preset: str, width: int) -> None:
    """Noise at one and at two coding tree units of width: x265 gave another file nearly every time at one."""
    generator = torch.Generator().manual_seed(1)
    grey = torch.full((32, width // 2), 512, dtype=torch.int32).to(torch.uint16)
    noise = [
        torch.randint(100, 900, (64, width), generator=generator, dtype=torch.int32).to(torch.uint16) for _ in range(9)
    ]
    planes = [(y, grey, grey.clone()) for y in noise]
    files = [write(tmp_path / f"{number}.mp4", choose(preset=preset), planes) for number in range(6)]
    assert len({file.read_bytes() for file in files}) == 1


def small_pictures_in_child(garbage: int) -> list[str]:
    """Digests of fading clips one coding tree unit high or wide, encoded where fresh memory is filled with a byte made from `garbage`."""
    code = (
        "import hashlib, pathlib, tempfile, torch, tests.test_encode as t\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "for width, height in ((96, 64), (256, 48), (64, 96), (128, 16)):\n"
        "    planes = [((y.float() * (1 - 0.07 * n)).to(torch.uint16), u, v)\n"
        "              for n, (y, u, v) in enumerate(t.frames(9, width, height))]\n"
        "    path = t.write(folder / 'span.mp4', t.choose(), planes)\n"
        "    print(hashlib.md5(path.read_bytes()).hexdigest()); path.unlink()\n"
        "folder.rmdir()\n"
    )
    root, variables = Path(__file__).resolve().parents[1], os.environ | {"MALLOC_PERTURB_": str(garbage)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root, env=variables
    )
    return done.stdout.split()


def test_what_memory_held_before_is_in_no_small_picture() -> None:
    """x265 reads weighted reference pictures where it never wrote them, when they are one coding tree unit high or wide."""
    digests = small_pictures_in_child(1)
    assert len(digests) == 4
    assert small_pictures_in_child(170) == digests
