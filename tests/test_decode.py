"""Decode: every span, however cut, gives the frames of one sequential decode; damage costs frames nothing but their content."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import torch

from pipeline.decode import DecodeReport, decode_span, packets_needed
from pipeline.encoder_choice import X265_SMALL_PICTURE
from pipeline.errors import ConversionError
from pipeline.index import VideoIndex, build_index, packets_for
from pipeline.planes import frame_planes
from pipeline.span import Span


def md5(planes: tuple[torch.Tensor, ...]) -> str:
    digest = hashlib.md5()
    for plane in planes:
        digest.update(np.ascontiguousarray(plane.numpy()).tobytes())
    return digest.hexdigest()


def sequential(path: Path, stream_index: int = 0) -> list[tuple[int, str]]:
    """(pts, md5) of every frame by PyAV's own to_ndarray in one go: the oracle."""
    result = []
    with av.open(str(path)) as container:
        stream = container.streams[stream_index]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            result.append((frame.pts, _frame_md5(frame)))
    return result


def _frame_md5(frame: av.VideoFrame) -> str:
    """md5 of the visible samples of each plane, by numpy from the raw buffers."""
    digest = hashlib.md5()
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        samples = 2 if "le" in frame.format.name else 1
        digest.update(np.ascontiguousarray(rows[:, : plane.width * samples]).tobytes())
    return digest.hexdigest()


def make_span(index: VideoIndex, first: int, frames: int, lead: int = 0, number: int = 0) -> Span:
    lead_in = min(lead, first)
    lead_out = min(lead, len(index.frame_pts) - first - frames)
    seek, end = packets_for(index, first, frames, lead_in, lead_out)
    pts = index.frame_pts
    stop = int(pts[-1] + index.frame_duration[-1]) if first + frames == len(pts) else int(pts[first + frames])
    return Span(number, int(pts[first]), stop, first, frames, lead_in, lead_out, seek, end)


def by_spans(path: Path, index: VideoIndex, length: int, lead: int = 0, stream_index: int = 0, **kw: object) -> list:
    frames = []
    for number, first in enumerate(range(0, len(index.frame_pts), length)):
        span = make_span(index, first, min(length, len(index.frame_pts) - first), lead, number)
        got = list(decode_span(path, stream_index, index, span, deinterlace=bool(kw.get("deinterlace"))))
        assert len(got) == span.lead_in + span.frames + span.lead_out
        assert [frame.pts for frame in got] == list(
            index.frame_pts[first - span.lead_in : first + span.frames + span.lead_out]
        )
        assert not any(frame.repeated for frame in got)
        frames += [(frame.pts, md5(frame.planes)) for frame in got[span.lead_in : span.lead_in + span.frames]]
    return frames


def check(path: Path, length: int = 5, lead: int = 1, fps: Fraction | None = None, stream_index: int = 0) -> VideoIndex:
    index = build_index(path, stream_index, fps)
    expected = sequential(path, stream_index)
    got = by_spans(path, index, length, lead, stream_index)
    if index.restamped:
        assert [digest for _, digest in got] == [digest for _, digest in expected]
    else:
        assert got == expected
    return index


KINDS = {
    "h264_closed": {},
    "h264_open": {
        "options": {"x264-params": "keyint=8:min-keyint=8:scenecut=0:bframes=3:b-adapt=0:open-gop=1:threads=1:mbtree=0"}
    },
    "h264_one_key": {"gop": 250},
    "h264_intra_refresh": {
        "bframes": 0,
        "options": {"x264-params": "keyint=8:min-keyint=8:intra-refresh=1:bframes=0:threads=1:mbtree=0"},
    },
    "h264_444_odd": {"width": 641, "height": 359, "pix_fmt": "yuv444p", "frames": 6},
    "h264_10bit": {"pix_fmt": "yuv420p10le"},
    "h264_422": {"pix_fmt": "yuv422p"},
    "h264_gray": {"pix_fmt": "gray"},
    "hevc_open": {"codec": "libx265", "bframes": 3},
    "hevc_closed": {
        "codec": "libx265",
        "options": {
            "x265-params": "keyint=8:min-keyint=8:open-gop=0:bframes=2:b-adapt=0:pools=none:frame-threads=1:log-level=none"
            + X265_SMALL_PICTURE
        },
    },
    "hevc_10bit": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "mpeg4": {"codec": "mpeg4"},
    "mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
    "mjpeg_odd": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "width": 641, "height": 359, "frames": 6},
    "vp9": {"codec": "libvpx-vp9"},
    "vp9_alt_ref": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "12", "auto-alt-ref": "1", "deadline": "good"}},
    "av1": {"codec": "libsvtav1"},
    "av1_10bit": {"codec": "libsvtav1", "pix_fmt": "yuv420p10le"},
    "mpeg2": {"codec": "mpeg2video"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_spans_equal_sequential_decode(tmp_path: Path, kind: str, suffix: str) -> None:
    path = clips.make_clip(tmp_path / f"clip.{suffix}", **KINDS[kind])
    index = check(path)
    assert not index.restamped


def test_open_gop_needs_the_keyframe_before(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "open.mp4", "libx265", bframes=3)
    index = build_index(path, 0)
    keys = np.flatnonzero(index.keyframe)
    assert len(keys) == 3
    leading = int(keys[1]) + 1
    assert index.pts[leading] < index.pts[keys[1]], "the clip has no leading pictures: the test would prove nothing"
    first = int(np.searchsorted(index.frame_pts, index.pts[leading]))
    assert packets_for(index, first, 1, 0, 0)[0] == keys[0]
    key_rank = int(np.searchsorted(index.frame_pts, index.pts[keys[1]]))
    assert packets_for(index, key_rank, 1, 0, 0) == (keys[1], keys[1] + 1)


def test_gradual_refresh_is_no_keyframe(tmp_path: Path) -> None:
    index = build_index(clips.make_clip(tmp_path / "a.mp4", **KINDS["h264_intra_refresh"]), 0)
    assert list(np.flatnonzero(index.keyframe)) == [0]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0)) > 1


@pytest.mark.parametrize("kind", ["h264_closed", "h264_open", "hevc_open", "mpeg2"])
@pytest.mark.parametrize("seconds", [0.0, 12.345])
def test_transport_stream(tmp_path: Path, kind: str, seconds: float) -> None:
    source = clips.make_clip(tmp_path / "a.mp4", frames=40, **KINDS[kind])
    with av.open(str(source)) as container:
        ticks = round(seconds / container.streams.video[0].time_base)
    path = clips.remux(source, tmp_path / "a.ts", offset=ticks)
    assert not check(path).restamped


def test_matroska_with_late_start(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mkv", time_base=Fraction(1, 1000), pts=range(0, 960, 40), start=12345)
    index = check(path)
    assert index.frame_pts[0] == 12345


def test_negative_start(tmp_path: Path) -> None:
    """A transport stream whose 33-bit clock is about to wrap: FFmpeg counts the time before the wrap as negative."""
    source = clips.make_clip(tmp_path / "a.mp4", frames=40)
    path = clips.remux(source, tmp_path / "b.ts", offset=(2**33 - 80_000) * 12800 // 90000)
    index = check(path)
    assert index.frame_pts[0] < 0 < index.frame_pts[-1]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    ticks = np.cumsum(np.random.default_rng(3).integers(900, 9000, 30)) // 90 * 90
    path = clips.make_clip(
        tmp_path / f"a.{suffix}", frames=30, pts=[int(t) for t in ticks], time_base=Fraction(1, 90000)
    )
    index = check(path)
    assert list(index.frame_pts * index.time_base) == pytest.approx([Fraction(int(t), 90000) for t in ticks], abs=1e-3)
    if suffix == "mp4":
        assert [pts * index.time_base for pts in index.frame_pts.tolist()] == [Fraction(int(t), 90000) for t in ticks]
    assert (index.frame_duration[:-1] == np.diff(index.frame_pts)).all()


def test_edit_list_that_starts_within_a_gop(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "a.mp4", frames=40)
    path = clips.remux(source, tmp_path / "b.mp4", offset=-5 * 512)  # negative times become an edit list
    index = build_index(path, 0)
    assert index.discard.sum() == 5 or index.discard.any()
    assert len(check(path).frame_pts) == len(sequential(path)) == 35


@pytest.mark.parametrize(("kind", "suffix"), [("h264_closed", "h264"), ("h264_open", "h264"), ("hevc_open", "hevc")])
@pytest.mark.parametrize("fps", [Fraction(20), Fraction(30000, 1001)])
def test_raw_streams_take_their_clock_from_fps(tmp_path: Path, kind: str, suffix: str, fps: Fraction) -> None:
    path = clips.make_clip(tmp_path / f"a.{suffix}", **KINDS[kind])
    index = check(path, fps=fps)
    assert index.restamped
    assert [pts * index.time_base for pts in index.frame_pts.tolist()] == [number / fps for number in range(24)]
    assert index.frame_duration.tolist() == [fps.denominator] * 24


@pytest.mark.parametrize("kind", ["h264_open", "hevc_open", "mpeg2"])
def test_stream_that_begins_within_a_gop(tmp_path: Path, kind: str) -> None:
    """A recording cut out of a longer one: what cannot be decoded at its start is not shown, and is no damage."""
    options = dict(KINDS[kind])
    if kind == "h264_open":  # parameter sets at every keyframe, as recorders of transport streams write them
        options["options"] = {"x264-params": options["options"]["x264-params"] + ":repeat-headers=1"}
    source = clips.make_clip(tmp_path / "a.ts", frames=40, **options)
    whole = build_index(source, 0)
    key = int(np.flatnonzero(whole.keyframe)[1])
    leading = sum(whole.pts[key:] < whole.pts[key])
    assert leading > 0
    path = clips.remux(source, tmp_path / "b.ts", first_packet=key)
    index = build_index(path, 0)
    assert len(index.frame_pts) == 40 - key - leading
    got = by_spans(path, index, 5, 1)
    assert got == [(pts, digest) for pts, digest in sequential(path) if pts in set(index.frame_pts.tolist())]


@pytest.mark.parametrize("kind", ["mpeg4", "mjpeg", "h264_open"])
def test_avi(tmp_path: Path, kind: str) -> None:
    path = clips.make_clip(tmp_path / "a.avi", **KINDS[kind])
    index = check(path)
    assert len(index.frame_pts) == 24
    gaps = np.diff(index.frame_pts) * index.time_base
    assert [float(gap) for gap in gaps] == pytest.approx([0.04] * 23)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "mp4"), ("libx264", "ts"), ("mpeg2video", "ts"), ("mpeg4", "avi")]
)
def test_interlaced_spans_equal_an_uncut_run(tmp_path: Path, codec: str, suffix: str) -> None:
    path = clips.make_clip(tmp_path / f"a.{suffix}", codec, interlaced=True, frames=20)
    index = build_index(path, 0)
    whole = by_spans(path, index, 20, deinterlace=True)
    assert by_spans(path, index, 6, deinterlace=True) == whole
    assert by_spans(path, index, 1, 2, deinterlace=True) == whole
    assert [pts for pts, _ in whole] == index.frame_pts.tolist()
    woven = by_spans(path, index, 20)
    assert all(first[1] != second[1] for first, second in zip(whole, woven, strict=True))


def test_deinterlacing_leaves_progressive_frames_alone(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mp4", pix_fmt="yuv420p10le", tags={"color_range": 1, "colorspace": 1})
    index = build_index(path, 0)
    assert by_spans(path, index, 7, deinterlace=True) == sequential(path)


def test_deinterlacing_reads_a_neighbour_more(tmp_path: Path) -> None:
    index = build_index(clips.make_clip(tmp_path / "a.mp4"), 0)
    span = make_span(index, 8, 8)
    assert packets_needed(index, span, deinterlace=False) == (span.seek_packet, span.end_packet)
    seek, end = packets_needed(index, span, deinterlace=True)
    assert seek < span.seek_packet
    assert end > span.end_packet


@pytest.mark.parametrize("kind", ["h264_open", "hevc_open", "vp9"])
def test_threads_change_nothing(tmp_path: Path, kind: str) -> None:
    path = clips.make_clip(tmp_path / "a.mp4", frames=40, **KINDS[kind])
    index = build_index(path, 0)
    span = make_span(index, 10, 20, 2)
    one, three = (
        [
            (frame.pts, md5(frame.planes))
            for frame in decode_span(path, 0, index, span, deinterlace=False, threads=threads)
        ]
        for threads in (1, 3)
    )
    assert one == three


def test_second_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=25, options={"preset": "veryfast"}) for _ in range(2)]
        for stream, width in zip(streams, (64, 96), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        for number in range(12):
            for stream, width in zip(streams, (64, 96), strict=True):
                frame = clips.picture(number, width, 48)
                frame.pts = number
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    index = check(path, stream_index=1)
    span = make_span(index, 3, 2)
    assert next(decode_span(path, 1, index, span, deinterlace=False)).planes[0].shape == (48, 96)


def test_planes_outlive_the_iterator(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mp4", frames=40)
    index = build_index(path, 0)
    kept = list(decode_span(path, 0, index, make_span(index, 0, 40), deinterlace=False))
    assert [(frame.pts, md5(frame.planes)) for frame in kept] == sequential(path)
    assert {plane.dtype for frame in kept for plane in frame.planes} == {torch.uint8}


@pytest.mark.parametrize("pix_fmt", ["nv12", "nv21", "nv16", "nv24", "p010le"])
def test_interleaved_chroma_is_split(pix_fmt: str) -> None:
    frame = av.VideoFrame(22, 14, pix_fmt)
    random = np.random.default_rng(1)
    wide = pix_fmt == "p010le"
    codes = []
    for plane in frame.planes:
        values = random.integers(0, 1024 if wide else 256, (plane.height, plane.line_size // (2 if wide else 1)))
        codes.append(values)
        plane.update((values << 6).astype(np.uint16).tobytes() if wide else values.astype(np.uint8).tobytes())
    y, u, v = frame_planes(frame)
    first = codes[1][: u.shape[0], 0 : 2 * u.shape[1] : 2]
    second = codes[1][: u.shape[0], 1 : 2 * u.shape[1] : 2]
    if pix_fmt == "nv21":
        first, second = second, first
    assert np.array_equal(y.numpy(), codes[0][:14, :22])
    assert np.array_equal(u.numpy(), first)
    assert np.array_equal(v.numpy(), second)


def test_damaged_packets_are_concealed_at_the_same_count(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "a.mp4", "mpeg4", frames=40, width=96, height=64)
    path = clips.damage_packets(source, tmp_path / "b.mp4", [10, 21, 22])
    index = build_index(path, 0)
    report = DecodeReport()
    runs = []
    for _ in range(2):
        got = list(decode_span(path, 0, index, make_span(index, 0, 40), deinterlace=False, report=report))
        runs.append([(frame.pts, md5(frame.planes), frame.repeated) for frame in got])
    assert runs[0] == runs[1]
    assert [pts for pts, _, _ in runs[0]] == index.frame_pts.tolist()
    repeated = [number for number, run in enumerate(runs[0]) if run[2]]
    assert repeated
    for number in repeated:
        assert runs[0][number][1] == runs[0][number - 1][1]
    assert len(report.repeated_pts) == 2 * len(repeated)
    with pytest.raises(ConversionError, match=r"b\.mp4: the frame at \d+\.\d+ s \(packet \d+ of stream 0\) is damaged"):
        list(decode_span(path, 0, index, make_span(index, 0, 40), deinterlace=False, strict=True))


@pytest.mark.parametrize("kind", ["h264_closed", "h264_open", "hevc_open", "av1", "mjpeg", "vp9"])
def test_wiped_packets_are_concealed_at_the_same_count(tmp_path: Path, kind: str) -> None:
    """Packets overwritten with noise from the start, the first keyframe among them: no codec can make sense of these."""
    source = clips.make_clip(tmp_path / "a.mkv", frames=40, **KINDS[kind])
    data = bytearray(source.read_bytes())
    index = build_index(source, 0)
    with av.open(str(source)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number in (0, 11, 19):
                at = data.find(bytes(packet))
                data[at : at + packet.size] = np.random.default_rng(5).bytes(packet.size)
    path = tmp_path / "b.mkv"
    path.write_bytes(data)
    index = build_index(path, 0)
    for length in (40, 7):
        for number, first in enumerate(range(0, 40, length)):
            span = make_span(index, first, min(length, 40 - first), 1, number)
            got = list(decode_span(path, 0, index, span, deinterlace=False))
            assert len(got) == span.lead_in + span.frames + span.lead_out
    with pytest.raises(ConversionError, match="is damaged"):
        list(decode_span(path, 0, index, make_span(index, 0, 40), deinterlace=False, strict=True))


def test_nothing_decodable_is_an_error(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "a.mp4", "libx264", frames=10)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                at = data.find(bytes(packet))
                data[at : at + packet.size] = bytes(packet.size)
    path = tmp_path / "b.mp4"
    path.write_bytes(data)
    index = build_index(path, 0)
    with pytest.raises(ConversionError, match="not one frame of stream 0 can be decoded"):
        list(decode_span(path, 0, index, make_span(index, 0, 10), deinterlace=False))


def test_changed_file_is_noticed(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mp4")
    index = build_index(path, 0)
    clips.make_clip(path, bframes=0)
    with pytest.raises(ConversionError, match="changed"):
        list(decode_span(path, 0, index, make_span(index, 0, 24), deinterlace=False))


def test_size_change_on_the_way_is_an_error(tmp_path: Path) -> None:
    first = clips.make_clip(tmp_path / "a.h264", frames=8)
    second = clips.make_clip(tmp_path / "b.h264", frames=8, width=96)
    path = tmp_path / "c.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    index = build_index(path, 0, Fraction(25))
    with pytest.raises(ConversionError, match=r"changes at 0\.320 s to 96x48 yuv420p from 64x48"):
        list(decode_span(path, 0, index, make_span(index, 0, 16), deinterlace=False))
    assert len(list(decode_span(path, 0, index, make_span(index, 0, 8), deinterlace=False))) == 8
    with pytest.raises(ConversionError, match=r"changes at 0\.320 s to 96x48 yuv420p from 64x48"):
        list(decode_span(path, 0, index, make_span(index, 9, 5), deinterlace=False))


@pytest.mark.parametrize("suffix", ["h264", "avi"])
def test_damage_in_files_without_times_costs_no_time(tmp_path: Path, suffix: str) -> None:
    codec = "libx264" if suffix == "h264" else "mpeg4"
    source = clips.make_clip(tmp_path / f"a.{suffix}", codec, frames=40)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    at = data.find(packets[11])
    data[at + 5 : at + len(packets[11])] = np.random.default_rng(7).bytes(len(packets[11]) - 5)
    path = tmp_path / f"b.{suffix}"
    path.write_bytes(data)
    index = build_index(path, 0, Fraction(25))
    assert index.restamped
    assert len(index.frame_pts) == 40
    got = list(decode_span(path, 0, index, make_span(index, 0, 40), deinterlace=False))
    assert sum(frame.repeated for frame in got) >= 1


@pytest.mark.skipif(not clips.REAL_CLIPS.is_dir(), reason="the real clips are not on this machine")
@pytest.mark.parametrize("name", clips.REAL_FRAMES)
def test_real_clips(name: str) -> None:
    path = clips.REAL_CLIPS / name
    with av.open(str(path)) as container:
        stream_index = container.streams.video[0].index
    index = build_index(path, stream_index)
    assert len(index.frame_pts) == clips.REAL_FRAMES[name]
    expected = sequential(path, stream_index)
    assert [pts for pts, _ in expected] == index.frame_pts.tolist()
    middle = len(index.frame_pts) // 2
    span = make_span(index, middle, 8, 1)
    got = list(decode_span(path, stream_index, index, span, deinterlace=False))
    assert [(frame.pts, md5(frame.planes)) for frame in got] == expected[middle - 1 : middle + 9]
