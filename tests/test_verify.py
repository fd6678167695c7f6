"""verify passes a true conversion and names what is wrong with a broken one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.index import build_index
from pipeline.nal import hevc_type, join_hevc, split_hevc
from pipeline.sidecars import write_sidecars
from pipeline.verify import Check, VerifyReport, verify
from tests.clips import cut, damage_packets, make_clip
from tests.conversion_maker import Made, convert, patch, rewrite


def same(packet: av.Packet, number: int) -> bytes:
    return bytes(packet)


def named(report: VerifyReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def only_fails(report: VerifyReport, *names: str) -> Check:
    """Exactly these checks fail; returns the first of them."""
    assert {check.name for check in report.failed} == set(names), [f"{c.name}: {c.detail}" for c in report.failed]
    assert not report.ok
    return named(report, names[0])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "drive.mp4"
    return make_clip(path, frames=30, width=96, height=64, audio=True, gop=12)


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return convert(source, tmp_path_factory.mktemp("made") / "drive.mp4")


def test_a_true_conversion_passes_both_ways(made: Made) -> None:
    cheap, told = verify(made.source, made.output), []
    full = verify(made.source, made.output, full=True, on_frames=told.append)
    assert cheap.ok and full.ok, [f"{c.name}: {c.detail}" for c in (*cheap.failed, *full.failed)]
    assert sum(told) == 30
    assert {check.name for check in full.checks} - {check.name for check in cheap.checks} == {"light"}
    assert "all 30 times are the source's, exactly" in named(cheap, "times").detail
    assert "packets identical, at the same times" in named(cheap, "stream 1").detail
    assert "2 borders" in named(cheap, "seams").detail
    assert f"MaxFALL {made.max_fall}, MaxCLL {made.max_cll}" in named(full, "light").detail
    assert cheap.to_dict()["checks"][0]["name"] == "provenance"


def test_a_dropped_frame(made: Made, tmp_path: Path) -> None:
    """The last packet of the first span is dropped: nothing else refers to it."""
    broken = rewrite(made.output, tmp_path / "b.mp4", "video", lambda p, n: None if n == 9 else bytes(p))
    report = verify(made.source, broken)
    assert {"frames", "times"} <= {check.name for check in report.failed}
    assert "29 frames, the source shows 30" in named(report, "frames").detail


def test_a_moved_frame(made: Made, tmp_path: Path) -> None:
    broken = rewrite(made.output, tmp_path / "b.mp4", "video", same, later=(15, 1))
    failed = only_fails(verify(made.source, broken), "times")
    assert "instead of" in failed.detail and "1 of 30 frames are off" in failed.detail


def test_a_missing_audio_packet(made: Made, tmp_path: Path) -> None:
    broken = rewrite(made.output, tmp_path / "b.mp4", "audio", lambda p, n: None if n == 20 else bytes(p))
    failed = only_fails(verify(made.source, broken), "stream 1")
    assert "audio aac" in failed.detail and "the first that differs is packet 20" in failed.detail


def test_a_changed_audio_byte(made: Made, tmp_path: Path) -> None:
    def flip(packet: av.Packet, number: int) -> bytes:
        data = bytearray(packet)
        data[-1] ^= number == 7
        return bytes(data)

    failed = only_fails(verify(made.source, rewrite(made.output, tmp_path / "b.mp4", "audio", flip)), "stream 1")
    assert "the first that differs is packet 7" in failed.detail


def test_audio_left_out(made: Made, tmp_path: Path) -> None:
    broken = rewrite(made.output, tmp_path / "b.mp4", "audio", lambda p, n: None)
    failed = only_fails(verify(made.source, broken), "stream 1")
    assert "neither in the output nor in a file beside it" in failed.detail


def test_moved_audio(made: Made, tmp_path: Path) -> None:
    broken = rewrite(made.output, tmp_path / "b.mp4", "audio", same, later=(29, 400))
    failed = only_fails(verify(made.source, broken), "stream 1")
    assert "all 58 packets are there, but packet 29" in failed.detail


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ((9, 16, 9), (9, 1, 9), "transfer is 1 (BT.709) instead of 16 (PQ)"),
        ((9, 16, 9), (1, 16, 9), "primaries are 1"),
        ((9, 16, 9), (9, 16, 1), "matrix is 1"),
    ],
)
def test_a_wrong_container_tag(
    made: Made, tmp_path: Path, old: tuple[int, ...], new: tuple[int, ...], words: str
) -> None:
    def nclx(codes: tuple[int, ...]) -> bytes:
        return b"nclx" + b"".join(code.to_bytes(2, "big") for code in codes)

    broken = patch(made.output, tmp_path / "b.mp4", nclx(old), nclx(new))
    assert words in only_fails(verify(made.source, broken), "container tags").detail


def test_a_wrong_range(made: Made, tmp_path: Path) -> None:
    right = b"nclx\x00\x09\x00\x10\x00\x09"
    broken = patch(made.output, tmp_path / "b.mp4", right + b"\x00", right + b"\x80")
    assert "range is full" in only_fails(verify(made.source, broken), "container tags").detail


def test_a_wrong_sample_entry(made: Made, tmp_path: Path) -> None:
    broken = patch(made.output, tmp_path / "b.mp4", b"hvc1\x00\x00\x00\x00", b"hev1\x00\x00\x00\x00")
    assert "hev1 instead of hvc1" in only_fails(verify(made.source, broken), "container tags").detail


def test_the_wrong_transfer_in_container_and_bitstream(source: Path, tmp_path: Path) -> None:
    """The encoder is told HLG while everything else says PQ."""
    wrong = convert(source, tmp_path / "o.mp4", coded_transfer="hlg")
    report = verify(source, wrong.output)
    assert {"container tags", "bitstream tags"} <= {check.name for check in report.failed}
    assert "transfer is 18 (HLG) instead of 16 (PQ)" in named(report, "bitstream tags").detail


@pytest.mark.parametrize(("kind", "words"), [(137, "no mastering display"), (144, "no MaxCLL/MaxFALL")])
def test_a_keyframe_without_sei(made: Made, tmp_path: Path, kind: int, words: str) -> None:
    def strip(packet: av.Packet, number: int) -> bytes:
        if number != 10:
            return bytes(packet)
        units = split_hevc(bytes(packet))
        kept = [unit for unit in units if not (hevc_type(unit) == 39 and unit[2] == kind)]
        assert len(kept) == len(units) - 1
        return join_hevc(kept)

    broken = rewrite(made.output, tmp_path / "b.mp4", "video", strip)
    failed = only_fails(verify(made.source, broken), "HDR10 metadata")
    assert words in failed.detail and "keyframe at 0.400 s" in failed.detail


@pytest.mark.parametrize("box", [b"mdcv", b"clli"])
def test_a_missing_box(made: Made, tmp_path: Path, box: bytes) -> None:
    broken = patch(made.output, tmp_path / "b.mp4", box, b"free")
    assert "the container states no" in only_fails(verify(made.source, broken), "HDR10 metadata").detail


def test_light_tags_that_disagree(made: Made, tmp_path: Path) -> None:
    stated = b"clli" + made.max_cll.to_bytes(2, "big") + made.max_fall.to_bytes(2, "big")
    other = b"clli" + (made.max_cll + 1).to_bytes(2, "big") + made.max_fall.to_bytes(2, "big")
    broken = patch(made.output, tmp_path / "b.mp4", stated, other)
    assert "the provenance recorded" in only_fails(verify(made.source, broken), "HDR10 metadata").detail


def test_max_fall_ten_percent_off_is_found_by_the_full_check(source: Path, tmp_path: Path) -> None:
    wrong = convert(source, tmp_path / "o.mp4", fall_factor=1.1)
    assert verify(source, wrong.output).ok
    failed = only_fails(verify(source, wrong.output, full=True), "light")
    assert "MaxFALL is -" in failed.detail and "3 % are allowed" in failed.detail


def test_a_seam(source: Path, tmp_path: Path) -> None:
    """The second span is 0.3 stop brighter, tags and all: only the seam check can see it."""
    wrong = convert(source, tmp_path / "o.mp4", gain=lambda frame: 2**0.3 if 10 <= frame < 20 else 1.0)
    failed = only_fails(verify(source, wrong.output, full=True), "seams")
    step = float(failed.detail.split("a step of ")[1].split()[0])
    assert 0.25 < step < 0.32
    assert "frame 10" in failed.detail or "frame 20" in failed.detail


def test_brightness_that_drifts_everywhere_is_no_seam(source: Path, tmp_path: Path) -> None:
    drift = convert(source, tmp_path / "o.mp4", gain=lambda frame: 2 ** (0.15 * (-1) ** frame))
    assert named(verify(source, drift.output), "seams").ok


def test_a_scene_cut_at_a_border_is_no_seam(tmp_path: Path) -> None:
    """The source goes from dark to half blown out exactly where a span begins, and the blown-out half is restored to 3 times white."""
    source = tmp_path / "cut.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "4", "x264-params": "threads=1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(20):
            luma = np.full((64, 96), 60 if number < 10 else 140, np.uint8)
            luma += (np.arange(96) % 16 + number).astype(np.uint8)
            if number >= 10:
                luma[:32] = 235
            planes = np.concatenate([luma.ravel(), np.full(2 * 32 * 48, 128, np.uint8)]).reshape(96, 96)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(planes, "yuv420p")))
        out.mux(stream.encode(None))

    made = convert(source, tmp_path / "o.mp4", starts=(0, 10), restore=3.0)
    check = named(verify(source, made.output), "seams")
    assert check.ok, check.detail


def test_flipped_bytes_in_the_picture_are_found_by_the_full_check(made: Made, tmp_path: Path) -> None:
    def flip(packet: av.Packet, number: int) -> bytes:
        data = bytearray(packet)
        if number == 15:
            data[4] |= 0x80  # the forbidden bit of the NAL unit header
        return bytes(data)

    broken = rewrite(made.output, tmp_path / "b.mp4", "video", flip)
    report = verify(made.source, broken, full=True)
    assert "decode" in {check.name for check in report.failed}


@pytest.mark.parametrize("part", [0.3, 0.8, 0.99])
def test_a_truncated_output_is_an_input_error(made: Made, tmp_path: Path, part: float) -> None:
    data = made.output.read_bytes()
    broken = tmp_path / "b.mp4"
    broken.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=r"b\.mp4: the output cannot be opened .*cut short"):
        verify(made.source, broken)


@pytest.mark.parametrize("content", [None, b"", b"hello " * 100])
def test_no_output_at_all(made: Made, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "b.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"b\.mp4: the output"):
        verify(made.source, path)


def test_another_source(made: Made, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "other.mp4", frames=30, width=96, height=64, audio=True, gop=9)
    report = verify(other, made.output)
    assert "made from another source" in named(report, "source").detail
    assert not report.ok


def test_the_source_itself_is_no_conversion(made: Made) -> None:
    failed = verify(made.source, made.source).failed
    assert [check.name for check in failed] == ["HDR track"]


def test_matroska_rounds_and_says_so(tmp_path: Path) -> None:
    pts = [0, 1001, 2003, 4100, 5005, 7777, 9999, 11001, 12001, 13013]
    source = make_clip(
        tmp_path / "vfr.mp4", frames=10, width=96, height=64, pts=pts, time_base=Fraction(1, 30000), audio=True
    )
    made = convert(source, tmp_path / "o.mkv", starts=(0, 5))
    report = verify(source, made.output, full=True)
    assert report.ok, [f"{c.name}: {c.detail}" for c in report.failed]
    assert "rounded to Matroska's millisecond" in named(report, "times").detail
    broken = rewrite(made.output, tmp_path / "b.mkv", "video", same, later=(5, 1))
    assert "times" in {check.name for check in verify(source, broken).failed}


@pytest.mark.parametrize(
    ("suffix", "codec", "transfer"),
    [("mp4", "av1", "pq"), ("mkv", "av1", "pq"), ("mov", "hevc", "hlg"), ("mkv", "hevc", "hlg")],
)
def test_other_codecs_containers_and_transfers(
    source: Path, tmp_path: Path, suffix: str, codec: str, transfer: str
) -> None:
    made = convert(source, tmp_path / f"o.{suffix}", codec=codec, transfer=transfer)
    report = verify(source, made.output, full=True)
    assert report.ok, [f"{c.name}: {c.detail}" for c in report.failed]


def test_negative_start_odd_size_and_rotation(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "odd.mkv", frames=12, width=65, height=47, pix_fmt="yuv444p", rotation=90, start=2)
    made = convert(source, tmp_path / "o.mp4", starts=(0, 6))
    report = verify(source, made.output, full=True)
    assert report.ok, [f"{c.name}: {c.detail}" for c in report.failed]


def test_two_videos(tmp_path: Path) -> None:
    """Two cameras in one file: both converted, or one of them copied."""
    source = tmp_path / "two.mkv"
    one = make_clip(tmp_path / "a.mkv", frames=12, width=64, height=48)
    two = make_clip(tmp_path / "b.mkv", frames=14, width=96, height=64, audio=True)
    with av.open(str(one)) as left, av.open(str(two)) as right, av.open(str(source), "w") as out:
        pairs = [(stream, out.add_stream_from_template(stream)) for stream in [*left.streams, *right.streams]]
        for stream, copy in pairs:
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
            stream.container.seek(0)
    both = verify(source, convert(source, tmp_path / "both.mp4", starts=(0, 6)).output, full=True)
    assert both.ok, [f"{c.name}: {c.detail}" for c in both.failed]
    assert named(both, "stream 1: frames").ok
    second = verify(source, convert(source, tmp_path / "second.mp4", starts=(0, 6), videos=[1]).output)
    assert second.ok, [f"{c.name}: {c.detail}" for c in second.failed]
    assert "packets identical" in named(second, "stream 0").detail


def test_a_stream_beside_the_output(tmp_path: Path) -> None:
    """FLAC stays in mp4, subtitles in SubRip do not: they go into a file beside the output."""
    plain = make_clip(tmp_path / "plain.mkv", frames=12)
    texts, source = tmp_path / "texts.srt", tmp_path / "source.mkv"
    texts.write_text("1\n00:00:00,000 --> 00:00:00,200\nhello\n\n2\n00:00:00,300 --> 00:00:00,400\nworld\n")
    with av.open(str(plain)) as video, av.open(str(texts)) as words, av.open(str(source), "w") as out:
        pairs = [(stream, out.add_stream_from_template(stream)) for stream in [*video.streams, *words.streams]]
        for stream, copy in pairs:
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    made = convert(source, tmp_path / "o.mp4", starts=(0, 6))
    saved = {plan.stream for plan in made.copies if plan.action == "sidecar"}
    assert saved == {1}
    only_fails(verify(source, made.output), "stream 1")
    assert verify(source, made.output, to_be_saved=saved).ok
    write_sidecars(source, made.copies, made.output, made.shift_seconds)
    report = verify(source, made.output)
    assert report.ok and "kept beside the output in o.stream1" in named(report, "stream 1").detail
    elsewhere = made.output.rename(tmp_path / "final.mp4")
    assert not verify(source, elsewhere).ok
    assert verify(source, elsewhere, sidecar_stem=tmp_path / "o.mp4").ok


def test_damaged_source_frames_at_a_border_are_no_seam(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", frames=30, width=96, height=64, gop=10)
    source = damage_packets(whole, tmp_path / "hurt.mp4", [10, 11])
    report = verify(source, convert(source, tmp_path / "o.mp4").output)
    assert report.ok, [f"{c.name}: {c.detail}" for c in report.failed]
    assert "damaged ones repeat the last good frame" in named(report, "frames").detail
    brighter = convert(source, tmp_path / "b.mp4", gain=lambda frame: 2**0.3 if frame >= 20 else 1.0)
    only_fails(verify(source, brighter.output), "seams")


def test_a_second_camera_from_a_transport_stream(tmp_path: Path) -> None:
    """H.264 and AAC lose their framing on the way from .ts to .mp4; what they say stays the same."""
    one = make_clip(tmp_path / "a.ts", frames=12, audio=True)
    two = make_clip(tmp_path / "b.ts", frames=12, width=96, height=64)
    source = tmp_path / "two.ts"
    with av.open(str(one)) as left, av.open(str(two)) as right, av.open(str(source), "w") as out:
        streams = [*left.streams, *right.streams]
        pairs = [(stream, out.add_stream_from_template(stream, opaque=True)) for stream in streams]
        for stream, copy in pairs:
            stream.container.seek(0)
            for packet in list(stream.container.demux(stream)):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    made = convert(source, tmp_path / "o.mp4", starts=(0, 6), videos=[0])
    report = verify(source, made.output)
    assert report.ok, [f"{c.name}: {c.detail}" for c in report.failed]
    assert [named(report, f"stream {n}").detail.split(": ")[1].split(" packets")[0] for n in (1, 2)] == ["24", "12"]


def test_a_cut_source_is_held_against_what_it_still_holds(tmp_path: Path) -> None:
    whole = make_clip(
        tmp_path / "whole.mp4", frames=40, audio=True, container_options={"movflags": "faststart"}, width=96, height=64
    )
    source = cut(whole, tmp_path / "cut.mp4", 0.7)
    with pytest.raises(InputError):
        build_index(source, 0)
    frames = len(build_index(source, 0, salvage=True).frame_pts)
    assert 0 < frames < 40
    made = convert(whole, tmp_path / "o.mp4")
    report = verify(source, made.output)
    assert not report.ok and f"the source shows {frames}" in named(report, "frames").detail
