"""VideoIndex: what it says of real files, what it says of cut ones, and packets_for on any structure of pictures."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode import decode_span
from pipeline.errors import ConversionError, InputError
from pipeline.index import VideoIndex, build_index, content_hash, frame_durations, frame_packets, packets_for
from pipeline.keyframes import is_clean_start
from pipeline.span import Span


def equal(one: VideoIndex, other: VideoIndex) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(VideoIndex)
    )


def ffprobe_packets(path: Path) -> list[dict]:
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_packets", "-of", "json", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["packets"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
def test_packets_agree_with_ffprobe(tmp_path: Path, suffix: str) -> None:
    path = clips.make_clip(tmp_path / f"a.{suffix}", audio=suffix != "ts")
    index = build_index(path, 0)
    packets = ffprobe_packets(path)
    assert index.pts.tolist() == [packet["pts"] for packet in packets]
    assert index.size.tolist() == [int(packet["size"]) for packet in packets]
    assert index.keyframe.tolist() == [packet["flags"].startswith("K") for packet in packets]
    assert index.loss is None
    assert not index.restamped
    assert len(index.frame_pts) == 24
    assert (np.diff(index.frame_pts) > 0).all()


def test_save_and_load(tmp_path: Path) -> None:
    index = build_index(clips.make_clip(tmp_path / "a.mp4", fps=Fraction(30000, 1001)), 0)
    index = dataclasses.replace(index, loss="the end is missing: — 3 s")
    index.save(tmp_path / "index.npz")
    again = VideoIndex.load(tmp_path / "index.npz")
    assert equal(index, again)
    assert content_hash(index) == content_hash(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "index.npz"]
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(ConversionError, match=r"bad\.npz: this is not a readable video index"):
        VideoIndex.load(tmp_path / "bad.npz")


def test_hash_sees_every_field(tmp_path: Path) -> None:
    index = build_index(clips.make_clip(tmp_path / "a.mp4", frames=4), 0)
    hashes = {content_hash(index)}
    for field in dataclasses.fields(VideoIndex):
        value = getattr(index, field.name)
        if isinstance(value, np.ndarray):
            value = value.copy()
            value.flat[-1] = ~value.flat[-1] if value.dtype != np.int64 else value.flat[-1] + 1
        elif isinstance(value, Fraction):
            value = value / 2
        else:
            value = "lost" if value is None else not value
        hashes.add(content_hash(dataclasses.replace(index, **{field.name: value})))
    assert len(hashes) == 1 + len(dataclasses.fields(VideoIndex))


def test_raw_stream_without_fps_names_the_option(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.hevc", "libx265")
    with pytest.raises(InputError, match=r"a\.hevc: a raw hevc stream has no clock.*--fps"):
        build_index(path, 0)


def test_wrong_stream_lists_the_legal_ones(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mp4", audio=True)
    with pytest.raises(InputError, match="stream 1 is not a video stream; video streams are 0"):
        build_index(path, 1)


@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize("part", [0.35, 0.7, 0.97])
def test_mp4_cut_within_its_data(tmp_path: Path, part: float, audio: bool) -> None:
    source = clips.make_clip(tmp_path / "a.mp4", frames=60, audio=audio, container_options={"movflags": "faststart"})
    whole = build_index(source, 0)
    path = clips.cut(source, tmp_path / "cut.mp4", part)
    with pytest.raises(
        InputError, match=r"cut\.mp4: the file is cut: its last good frame is at \d\.\d{3} s.*--salvage"
    ):
        build_index(path, 0)
    index = build_index(path, 0, salvage=True)
    assert "packets are missing" in index.loss
    count = len(index.pts)
    assert 0 < count < 60 or (audio and count <= 60)
    assert np.array_equal(index.digest, whole.digest[:count])
    assert np.array_equal(index.pts, whole.pts[:count])
    seek, end = packets_for(index, 0, len(index.frame_pts), 0, 0)
    span = Span(0, 0, 10**9, 0, len(index.frame_pts), 0, 0, seek, end)
    frames = list(decode_span(path, 0, index, span, deinterlace=False))
    assert len(frames) == len(index.frame_pts) == count
    assert not any(frame.repeated for frame in frames)


def test_salvaged_frames_have_no_holes(tmp_path: Path) -> None:
    """The end of a cut file may hold a P frame but not the B frames shown before it; those are lost, and later ones too."""
    source = clips.make_clip(tmp_path / "a.mp4", frames=60, bframes=3, container_options={"movflags": "faststart"})
    step = 512
    for part in (0.5, 0.55, 0.6, 0.65):
        index = build_index(clips.cut(source, tmp_path / "cut.mp4", part), 0, salvage=True)
        gaps = np.diff(index.frame_pts)
        assert gaps.max() <= 4 * step


def test_cut_matroska(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "a.mkv", frames=60)
    path = clips.cut(source, tmp_path / "cut.mkv", 0.5)
    with pytest.raises(
        InputError, match=r"the file is cut: its last good frame is at .*header claims are missing.*--salvage"
    ):
        build_index(path, 0)
    index = build_index(path, 0, salvage=True)
    assert "header claims" in index.loss
    assert 10 < len(index.frame_pts) < 50


def test_whole_files_report_no_loss(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv", "mov", "avi", "ts"):
        path = clips.make_clip(tmp_path / f"a.{suffix}", "mpeg4", audio=suffix != "ts", frames=30)
        assert build_index(path, 0).loss is None
    fragmented = clips.make_clip(
        tmp_path / "f.mp4", frames=40, container_options={"movflags": "frag_keyframe+empty_moov"}
    )
    assert build_index(fragmented, 0).loss is None
    assert len(build_index(fragmented, 0).frame_pts) == 40


def test_durations() -> None:
    pts = np.array([0, 40, 90, 100], np.int64)
    assert frame_durations(pts, 25).tolist() == [40, 50, 10, 25]
    assert frame_durations(pts, None).tolist() == [40, 50, 10, 40]
    assert frame_durations(pts[:1], 0).tolist() == [1]


def test_clean_starts() -> None:
    def packet(*nals: bytes) -> memoryview:
        return memoryview(b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals))

    recovery_0, recovery_9 = b"\x06\x06\x01\xc4\x80", b"\x06\x06\x02\x14\x40\x80"
    idr, inter = b"\x65\x88\x80", b"\x41\x9a\x00"
    assert is_clean_start("h264", packet(idr))
    assert is_clean_start("h264", packet(recovery_0, inter))
    assert not is_clean_start("h264", packet(recovery_9, inter))
    assert not is_clean_start("h264", memoryview(b"\0\0\0\1\x09\x10\0\0\1" + recovery_9 + b"\0\0\1" + inter))
    assert is_clean_start("hevc", packet(recovery_9))


@st.composite
def structures(draw: st.DrawFn) -> VideoIndex:
    """A stream of mini groups of pictures, each an anchor and the B frames shown before it; some anchors are keyframes."""
    pts, keyframe, shown = [], [], 0
    for group in range(draw(st.integers(1, 12))):
        bframes = draw(st.integers(0, 4)) if group else 0
        pts.append(shown + bframes)
        keyframe.append(group == 0 or draw(st.booleans()))
        order = draw(st.permutations(range(shown, shown + bframes)))
        pts += order
        keyframe += [False] * bframes
        shown += bframes + 1
    ticks = np.array(pts, np.int64) * 7 - draw(st.integers(-50, 50))
    hidden = draw(st.integers(0, min(3, shown - 1)))
    discard = np.isin(np.array(pts), np.arange(hidden))
    frame_pts = np.sort(ticks[~discard])
    size = np.full(len(pts), 10, np.int64)
    digest = np.zeros((len(pts), 16), np.uint8)
    durations = frame_durations(frame_pts, 7)
    return VideoIndex(ticks, np.array(keyframe), discard, size, digest, frame_pts, durations, Fraction(1, 90000), False)


@settings(max_examples=200, deadline=None)
@given(structures(), st.data())
def test_packets_for_covers_what_is_wanted(index: VideoIndex, data: st.DataObject) -> None:
    total = len(index.frame_pts)
    first = data.draw(st.integers(0, total - 1))
    frames = data.draw(st.integers(1, total - first))
    lead_in, lead_out = data.draw(st.integers(0, first)), data.draw(st.integers(0, total - first - frames))
    seek, end = packets_for(index, first, frames, lead_in, lead_out)
    wanted = frame_packets(index)[first - lead_in : first + frames + lead_out]
    assert [index.pts[number] for number in wanted] == index.frame_pts[
        first - lead_in : first + frames + lead_out
    ].tolist()
    assert index.keyframe[seek]
    assert seek <= wanted.min()
    assert end == wanted.max() + 1
    assert index.pts[seek] <= index.pts[wanted].min(), "a leading picture of the keyframe is wanted"
    later = [k for k in np.flatnonzero(index.keyframe) if seek < k <= wanted.min()]
    assert all(index.pts[k] > index.pts[wanted].min() for k in later), "decoding starts earlier than it needs to"


def test_packets_for_refuses_frames_that_are_not_there(tmp_path: Path) -> None:
    index = build_index(clips.make_clip(tmp_path / "a.mp4", frames=10), 0)
    for wanted in ((0, 11, 0, 0), (0, 5, 1, 0), (8, 2, 0, 1), (0, 0, 0, 0)):
        with pytest.raises(ValueError, match="not all within"):
            packets_for(index, *wanted)


def test_recorder_that_wrote_decode_times_as_presentation_times(tmp_path: Path) -> None:
    """B frames in a file whose every packet says pts = dts: the order of the frames is the decoder's, the times are kept."""
    source = clips.make_clip(tmp_path / "a.mp4", frames=40, bframes=2)
    path = tmp_path / "b.mp4"
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(inp.streams.video[0], opaque=True)
        for number, packet in enumerate(inp.demux(video=0)):
            if packet.size:
                packet.stream = stream
                packet.pts = packet.dts = number * 512
                out.mux(packet)
    index = build_index(path, 0)
    assert index.restamped
    assert index.frame_pts.tolist() == [number * 512 for number in range(40)]
    span = Span(0, 0, 40 * 512, 0, 40, 0, 0, *packets_for(index, 0, 40, 0, 0))
    got = [frame.planes[0].numpy().copy() for frame in decode_span(path, 0, index, span, deinterlace=False)]
    with av.open(str(source)) as container:
        expected = [frame.to_ndarray()[:48] for frame in container.decode(video=0)]
    assert all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("second_start", [0, 20])
def test_joined_transport_streams(tmp_path: Path, second_start: int) -> None:
    """Two recordings in one file, the second with a clock of its own: all frames are there, and the time goes on."""
    source = clips.make_clip(tmp_path / "a.mp4", frames=40)
    first = clips.remux(source, tmp_path / "a.ts")
    second = clips.remux(source, tmp_path / "b.ts", offset=second_start * 512)
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    index = build_index(path, 0)
    assert index.restamped
    assert len(index.frame_pts) == 80
    assert np.diff(index.frame_pts).tolist() == pytest.approx([3600] * 79, abs=1)
    seek, end = packets_for(index, 35, 10, 1, 1)
    got = list(decode_span(path, 0, index, Span(0, 0, 1, 35, 10, 1, 1, seek, end), deinterlace=False))
    with av.open(str(source)) as container:
        pictures = [frame.to_ndarray()[:48] for frame in container.decode(video=0)]
    expected = (pictures + pictures)[34:46]
    assert all(np.array_equal(frame.planes[0].numpy(), one) for frame, one in zip(got, expected, strict=True))
