"""The final file: every time, every copied packet, every tag, and the same bytes each time. Oracles: ffprobe, the source's packets."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import make_clip
from joinery import Joined, ffmpeg, ffprobe, join, packets, shown_times, streams, tags, wanted_times

from pipeline.assemble import assemble
from pipeline.copied_packets import StreamStart, movie_timescale, shift_needed
from pipeline.errors import ConversionError
from pipeline.sidecars import write_sidecars
from pipeline.track_packets import TrackPackets

CONTAINERS = ("mp4", "mov", "mkv")
VFR = [0, 3003, 12012, 12013, 15015, 30030, 33333, 40040, 40041, 50050, 60061, 63063]
HALF_MILLISECOND = Fraction(1, 2000)


def assert_times(joined: Joined, stream: int = 0) -> None:
    """Every shown frame of a converted track is at its source's time: exactly, or in Matroska to the nearest millisecond."""
    track = next(spans for spans in joined.tracks if spans.track.stream_index == stream)
    found = shown_times(joined.path, joined.report.output_streams[stream])
    wanted = wanted_times(track, joined.report.shift_seconds)
    if joined.path.suffix == ".mkv":
        assert len(found) == len(wanted)
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= HALF_MILLISECOND
    else:
        assert found == wanted


def assert_copied(joined: Joined, stream: int, worst: Fraction = Fraction(0)) -> None:
    """Every packet of a copied stream is there, the same bytes at the same time."""
    sent = packets(joined.source, stream)
    back = packets(joined.path, joined.report.output_streams[stream])
    assert [digest for digest, _ in back] == [digest for digest, _ in sent]
    shift = joined.report.shift_seconds
    limit = HALF_MILLISECOND if joined.path.suffix == ".mkv" else worst
    assert max(abs(a[1] + shift - b[1]) for a, b in zip(sent, back, strict=True)) <= limit
    assert joined.report.packets[stream] == len(sent)


def with_data(path: Path, source: Path) -> Path:
    """`source` plus a telemetry track as action cams write it: mp4 data tagged gpmd, one packet a half second."""
    with av.open(str(source)) as opened, av.open(str(path), "w") as out:
        made = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in opened.streams}
        data = out.add_data_stream("bin_data")
        data.time_base = Fraction(1, 1000)
        for number in range(3):
            packet = av.Packet(bytes([number]) * (50 + number))
            packet.pts = packet.dts = number * 500
            packet.duration, packet.time_base, packet.stream = 500, Fraction(1, 1000), data
            out.mux_one(packet)
        for packet in opened.demux():
            if packet.size:
                packet.stream = made[packet.stream_index]
                out.mux_one(packet)
    return path


@pytest.mark.parametrize("container", CONTAINERS)
def test_vfr_times_exact_with_reordered_frames(tmp_path: Path, container: str) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=12, pts=VFR, time_base=Fraction(1, 90000), audio=True)
    joined = join(clip, tmp_path / "j", container, spans=3)
    assert_times(joined)
    assert_copied(joined, 1)
    found = ffprobe(joined.path, "-select_streams", "0", "-show_entries", "packet=pts,dts")["packets"]
    decode = [packet["dts"] for packet in found if "dts" in packet]
    assert decode == sorted(decode)
    assert container == "mkv" or len(set(decode)) == 12
    assert all(packet["dts"] <= packet["pts"] for packet in found if "dts" in packet)
    rounded = [text for text in joined.report.warnings if "millisecond" in text]
    assert bool(rounded) == (container == "mkv")


@pytest.mark.parametrize(
    ("source", "start", "container"),
    [
        ("a.ts", 333_333, "mp4"),
        ("a.mp4", 111_111, "mp4"),
        ("a.mp4", 111_111, "mov"),
        ("a.mkv", 12_345 * 90, "mp4"),
        ("a.ts", 333_333, "mkv"),
    ],
)
def test_start_after_zero_is_kept(tmp_path: Path, source: str, start: int, container: str) -> None:
    clip = make_clip(
        tmp_path / source,
        frames=10,
        time_base=Fraction(1, 90000),
        pts=[3000 * number + (number % 3) for number in range(10)],
        start=start,
        container_options={"movie_timescale": "90000", "video_track_timescale": "90000"} if source == "a.mp4" else None,
    )
    joined = join(clip, tmp_path / "j", container)
    assert joined.report.shift_seconds == 0
    assert wanted_times(joined.tracks[0])[0] > 1
    assert_times(joined)


@pytest.mark.parametrize("container", CONTAINERS)
def test_start_before_zero_shifts_everything_by_one_exact_amount(tmp_path: Path, container: str) -> None:
    clip = tmp_path / "a.ts"  # its 33-bit clock wraps half a second in: FFmpeg counts the start down from the wrap
    ffmpeg(
        *(
            "-f",
            "lavfi",
            "-i",
            "testsrc=s=64x48:r=25:d=0.8",
            "-f",
            "lavfi",
            "-i",
            "sine=r=48000:d=0.8",
            "-c:v",
            "libx264",
        ),
        *("-bf", "2", "-c:a", "aac", "-muxdelay", "0", "-muxpreload", "0", "-output_ts_offset", "95443.3", clip),
    )
    joined = join(clip, tmp_path / "j", container)
    shift = joined.report.shift_seconds
    earliest = min(wanted_times(joined.tracks[0])[0], packets(clip, 1)[0][1])
    assert earliest < -0.4
    assert 0 <= shift + earliest < Fraction(1, 900)
    assert_times(joined)
    assert shown_times(joined.path, 0)[0] >= 0
    gap = packets(clip, 1)[0][1] - wanted_times(joined.tracks[0])[0]
    assert abs(packets(joined.path, 1)[0][1] - shown_times(joined.path, 0)[0] - gap) <= Fraction(1, 1000)
    assert any("before time 0" in text for text in joined.report.warnings)
    assert Fraction(json.loads(tags(joined.path)["sunvisor"])["shift_seconds"]) == shift


@pytest.mark.parametrize("container", CONTAINERS)
def test_edit_list_keeps_sound_in_step(tmp_path: Path, container: str) -> None:
    """A cut without re-encoding: video begins mid-GOP, sound mid-packet; both are hidden up to time 0 by edit lists."""
    whole, clip = make_clip(tmp_path / "w.mp4", frames=80, gop=16, audio=True), tmp_path / "cut.mp4"
    ffmpeg("-ss", "0.5", "-i", whole, "-map", "0", "-c", "copy", clip)
    joined = join(clip, tmp_path / "j", container)
    assert joined.report.shift_seconds == 0
    assert_times(joined)
    assert_copied(joined, 1)
    sent, back = (sound_samples(path) for path in (clip, joined.path))
    assert abs(sent[0] - back[0]) <= 0.001
    if container != "mkv":
        assert sent == back


def sound_samples(path: Path) -> tuple[float, int]:
    """When the first sample that is heard comes, in seconds, and how many there are."""
    with av.open(str(path)) as opened:
        frames = list(opened.decode(audio=0))
    return frames[0].time, sum(frame.samples for frame in frames)


def test_hidden_sound_of_a_late_track_stays_hidden(tmp_path: Path) -> None:
    """Priming of a track that starts at 1 s lies after time 0, where mp4 would play it but for the edit list."""
    whole, clip = make_clip(tmp_path / "w.mp4", frames=80, gop=16, audio=True), tmp_path / "late.mp4"
    ffmpeg("-itsoffset", "1", "-i", whole, "-i", whole, "-map", "1:v", "-map", "0:a", "-c", "copy", clip)
    joined = join(clip, tmp_path / "j", "mp4")
    assert_copied(joined, 1)
    assert sound_samples(joined.path) == sound_samples(clip)


@pytest.mark.parametrize("container", CONTAINERS)
def test_same_bytes_twice(tmp_path: Path, container: str) -> None:
    base = make_clip(
        tmp_path / "b.mp4", frames=8, audio=True, metadata={"title": "Drive", "creation_time": "2020-02-02T02:02:02Z"}
    )
    clip = with_data(tmp_path / "a.mp4", base)
    first, second = (join(clip, tmp_path / name, container, name=name) for name in ("one", "two"))
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_telemetry_is_copied_where_it_can_be(tmp_path: Path, container: str) -> None:
    clip = with_data(tmp_path / "a.mp4", make_clip(tmp_path / "b.mp4", frames=30, audio=True))
    joined = join(clip, tmp_path / "j", container)
    assert_copied(joined, 2)
    found = streams(joined.path)[joined.report.output_streams[2]]
    assert (found["codec_tag_string"], found["codec_type"]) == ("gpmd", "data")
    assert not joined.report.warnings


def test_telemetry_goes_beside_matroska(tmp_path: Path) -> None:
    clip = with_data(tmp_path / "a.mp4", make_clip(tmp_path / "b.mp4", frames=30, audio=True))
    joined = join(clip, tmp_path / "j", "mkv")
    assert any("stream 2" in text and "saved beside" in text for text in joined.report.warnings)
    raw, notes = write_sidecars(clip, joined.copies, joined.path)
    assert raw.name == "out.stream2.bin_data.bin"
    told = json.loads(notes.read_text())
    with av.open(str(clip)) as opened:
        sent = [packet for packet in opened.demux(opened.streams[2]) if packet.size]
        assert raw.read_bytes() == b"".join(bytes(packet) for packet in sent)
        assert told["packets"] == [{"pts": p.pts, "dts": p.dts, "size": p.size} for p in sent]
    assert told["time_base"] == "1/1000"


@pytest.mark.parametrize("container", CONTAINERS)
def test_subtitles_chapters_languages_and_dispositions(tmp_path: Path, container: str) -> None:
    words, chapters, clip = tmp_path / "w.srt", tmp_path / "c.txt", tmp_path / "a.mp4"
    words.write_text("1\n00:00:00,100 --> 00:00:00,500\nfirst\n\n2\n00:00:00,700 --> 00:00:00,900\nsecond\n\n")
    chapters.write_text(
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=City\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=1000\ntitle=Tunnel\n"
    )
    base = make_clip(tmp_path / "b.mp4", frames=25, audio=True)
    if container == "mkv":
        clip = tmp_path / "a.mkv"
    ffmpeg(
        *(
            "-i",
            base,
            "-i",
            words,
            "-i",
            chapters,
            "-map",
            "0:v",
            "-map",
            "0:a",
            "-map",
            "0:a",
            "-map",
            "1",
            "-map_metadata",
            "2",
        ),
        *("-c", "copy", "-c:s", "srt" if container == "mkv" else "mov_text", "-metadata:s:a:1", "language=fin"),
        *("-disposition:a:0", "0", "-disposition:a:1", "default", "-metadata:s:s:0", "language=deu", clip),
    )
    joined = join(clip, tmp_path / "j", container)
    for stream in (1, 2, 3):
        assert_copied(joined, stream)
    found = streams(joined.path)
    assert [one["tags"].get("language") for one in found[2:4]] == ["fin", "deu"]
    assert [one["disposition"]["default"] for one in found[1:3]] == [0, 1]
    marks = ffprobe(joined.path, "-show_chapters")["chapters"]
    assert [(float(mark["start_time"]), float(mark["end_time"]), mark["tags"]["title"]) for mark in marks] == [
        (0.0, 0.4, "City"),
        (0.4, 1.0, "Tunnel"),
    ]


@pytest.mark.parametrize(
    ("source", "container"), [("a.mp4", "mp4"), ("a.mp4", "mkv"), ("a.mkv", "mov"), ("a.mkv", "mkv")]
)
def test_cover_art(tmp_path: Path, source: str, container: str) -> None:
    base, clip, picture = make_clip(tmp_path / "b.mp4", frames=8, audio=True), tmp_path / source, tmp_path / "cover.png"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32", "-frames:v", "1", picture)
    if source == "a.mp4":
        ffmpeg(
            "-i", base, "-i", picture, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic", clip
        )
    else:
        ffmpeg("-i", base, "-map", "0", "-c", "copy", "-attach", picture, "-metadata:s:t", "mimetype=image/png", clip)
    joined = join(clip, tmp_path / "j", container)
    assert [plan.action for plan in joined.copies] == ["copy", "cover"]
    covers = [one for one in streams(joined.path) if one["disposition"]["attached_pic"]]
    assert [one["codec_name"] for one in covers] == ["png"]
    assert packets(joined.path, covers[0]["index"])[0][0] == packets(clip, 2)[0][0]
    assert_times(joined)
    assert_copied(joined, 1)
    assert json.loads(tags(joined.path)["sunvisor"])["version"] == "test"


@pytest.mark.parametrize("container", CONTAINERS)
def test_tags_rotation_and_pixel_shape(tmp_path: Path, container: str) -> None:
    clip, base = tmp_path / "a.mov", tmp_path / "b.mov"
    make_clip(base, frames=6, rotation=90, sample_aspect_ratio=Fraction(4, 3))
    ffmpeg(
        *(
            "-i",
            base,
            "-c",
            "copy",
            "-movflags",
            "use_metadata_tags",
            "-metadata",
            "creation_time=2021-05-06T07:08:09Z",
        ),
        *("-metadata", "com.apple.quicktime.make=Dash", "-metadata", "location=+48.1+011.5/", clip),
    )
    joined = join(clip, tmp_path / "j", container, sample_aspect_ratio=Fraction(4, 3))
    found = tags(joined.path)
    assert found["creation_time"].startswith("2021-05-06T07:08:09")
    assert found["com.apple.quicktime.make"] == "Dash"
    assert found["location"] == tags(clip)["location"]
    assert json.loads(found["sunvisor"]) == {"shift_seconds": "0", "tracks": [1, 2], "version": "test"}
    if container == "mp4":
        assert found["major_brand"] == "isom"
    video = streams(joined.path)[0]
    assert video["sample_aspect_ratio"] == "4:3"
    with av.open(str(clip)) as before, av.open(str(joined.path)) as after:
        assert next(before.decode(video=0)).rotation == next(after.decode(video=0)).rotation != 0


def test_mirrored_picture_keeps_its_matrix(tmp_path: Path) -> None:
    clip, base = tmp_path / "a.mp4", make_clip(tmp_path / "b.mp4", frames=6)
    with av.open(str(base)) as opened, av.open(str(clip), "w") as out:
        made = out.add_stream_from_template(opened.streams.video[0], opaque=True)
        made.set_display_rotation(180, hflip=True)
        for packet in opened.demux(opened.streams.video[0]):
            if packet.size:
                packet.stream = made
                out.mux_one(packet)
    joined = join(clip, tmp_path / "j", "mp4")
    matrices = [
        next(data["displaymatrix"] for data in streams(path)[0]["side_data_list"] if "displaymatrix" in data)
        for path in (clip, joined.path)
    ]
    assert matrices[0] == matrices[1]


@pytest.mark.parametrize("container", CONTAINERS)
def test_several_video_tracks(tmp_path: Path, container: str) -> None:
    front = make_clip(tmp_path / "f.mp4", frames=10, time_base=Fraction(1, 90000), pts=[3600 * n for n in range(10)])
    rear = make_clip(tmp_path / "r.mp4", frames=12, fps=30, start=5)
    clip = tmp_path / "a.mkv"
    ffmpeg("-i", front, "-i", rear, "-map", "0", "-map", "1", "-map", "0", "-c", "copy", clip)
    joined = join(clip, tmp_path / "j", container, videos=[0, 1])
    assert_times(joined, 0)
    assert_times(joined, 1)
    assert [(plan.stream, plan.action) for plan in joined.copies] == [(2, "copy")]
    assert [digest for digest, _ in packets(joined.path, 2)] == [digest for digest, _ in packets(clip, 2)]
    assert shown_times(joined.path, 2) == pytest.approx(shown_times(clip, 2))


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "hevc"), ("mov", "hevc"), ("mkv", "hevc"), ("mp4", "av1"), ("mkv", "av1")]
)
def test_hdr10_metadata_in_every_keyframe_and_in_the_container(tmp_path: Path, container: str, codec: str) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=10)
    joined = join(clip, tmp_path / "j", container, codec=codec, name="o")
    told = subprocess.run(["mediainfo", joined.path], check=True, capture_output=True, text=True).stdout
    assert "SMPTE ST 2086, HDR10 compatible" in told or "HDR10" in told
    assert "987 cd/m2" in told
    assert "123 cd/m2" in told
    frames = ffprobe(joined.path, "-select_streams", "v", "-show_frames")["frames"]
    assert len(frames) == 10
    for frame in frames:
        if frame["key_frame"]:
            light = next(data for data in frame["side_data_list"] if "max_content" in data)
            assert (light["max_content"], light["max_average"]) == (987, 123)
    if container != "mkv":
        assert streams(joined.path)[0]["codec_tag_string"] == {"hevc": "hvc1", "av1": "av01"}[codec]


def test_hlg_has_no_light_levels(tmp_path: Path) -> None:
    joined = join(make_clip(tmp_path / "a.mp4", frames=8), tmp_path / "j", "mp4", hdr=False)
    assert b"mdcv" not in joined.path.read_bytes()
    assert b"clli" not in joined.path.read_bytes()


def test_odd_size_is_cropped_by_a_tag(tmp_path: Path) -> None:
    joined = join(make_clip(tmp_path / "a.mp4", frames=8), tmp_path / "j", "mp4", width=63, height=61)
    assert b"clap" in joined.path.read_bytes()


def test_span_with_wrong_times_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=10)
    joined = join(clip, tmp_path / "j", "mp4")
    spans = joined.tracks[0]
    spans.frame_pts[7] += 1
    with pytest.raises(ConversionError, match=r"span_0_1\.mp4: stream 0: the frame of 0\.28"):
        TrackPackets(spans)


def test_failed_join_leaves_no_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=10)
    joined = join(clip, tmp_path / "j", "mp4")
    joined.tracks[0].files[1].write_bytes(b"broken")
    target = tmp_path / "again.mp4"
    with pytest.raises(ConversionError, match=r"span_0_1\.mp4"):
        assemble(
            clip,
            target,
            joined.tracks,
            joined.copies,
            container="mp4",
            codec="hevc",
            mastering=None,
            light=None,
            provenance_key="sunvisor",
            provenance={},
        )
    assert not target.exists()


def test_movie_clock_holds_every_start(tmp_path: Path) -> None:
    spans = join(make_clip(tmp_path / "a.mp4", frames=8), tmp_path / "j", "mp4").tracks[0]
    late = StreamStart(Fraction(1, 3), Fraction(0), 44100, 44100, None, True)
    zero = StreamStart(Fraction(0), Fraction(0), 48000, 48000, None, True)
    den = spans.track.time_base_den
    assert movie_timescale([spans], {1: late}, Fraction(0)) % np.lcm(den, 44100) == 0
    assert movie_timescale([spans], {1: zero}, Fraction(0)) % 44100 != 0
    assert movie_timescale([spans], {1: zero}, Fraction(0)) >= 1000
    early = StreamStart(Fraction(-1, 2), Fraction(0), 1000, 48000, None, True)
    shift = shift_needed([spans], {1: early}, "mp4")
    assert shift >= Fraction(1, 2)
    assert all((shift * ticks).denominator == 1 for ticks in (den, 1000, 48000))


def test_real_clips(tmp_path: Path, real_clips: Path) -> None:
    frames = {"highway_960x540": 221, "highway_shadows": 38, "highway_concrete": 160, "gopro": 48, "park_street": 171}
    for name, count in frames.items():
        clip = next(real_clips.glob(f"{name}*.mp4"))
        joined = join(clip, tmp_path / name, "mp4")
        (stream,) = [spans.track.stream_index for spans in joined.tracks]
        assert len(joined.tracks[0].frame_pts) == count
        assert_times(joined, stream)
        assert joined.report.warnings == []
        assert joined.report.shift_seconds == 0
        for plan in joined.copies:
            if plan.action == "copy":
                assert_copied(joined, plan.stream)
        assert sound_samples(joined.path)[0] == sound_samples(clip)[0]
        before, after = streams(clip), streams(joined.path)
        assert [one["codec_type"] for one in after] == [one["codec_type"] for one in before]
        if name == "gopro":
            assert [one.get("codec_tag_string") for one in after] == ["hvc1", "mp4a", "gpmd", "tmcd"]
            assert packets(joined.path, 3) == packets(clip, 3)
            assert tags(joined.path)["location"] == tags(clip)["location"]


def test_timecode_that_no_video_names_is_kept(tmp_path: Path) -> None:
    """The track reference is cut out of the file, so that FFmpeg tells the timecode on the timecode track alone."""
    clip = tmp_path / "a.mov"
    ffmpeg("-i", make_clip(tmp_path / "b.mp4", frames=10), "-c", "copy", "-timecode", "01:02:03:04", clip)
    clip.write_bytes(clip.read_bytes().replace(b"tref", b"free"))
    with av.open(str(clip)) as opened:
        assert "timecode" not in opened.streams.video[0].metadata
    joined = join(clip, tmp_path / "j", "mp4")
    assert packets(joined.path, 1)[0] == packets(clip, 1)[0]
