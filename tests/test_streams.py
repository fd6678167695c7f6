"""Which streams a container can hold, and the files beside the output for those that it cannot. Oracle: the source's packets."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
from clips import make_clip
from joinery import ffmpeg, ffprobe, packets

from pipeline.errors import InputError
from pipeline.sidecars import write_sidecars
from pipeline.streams import CopyPlan, plan_copies, sentence

SOUND = ("-f", "lavfi", "-i", "sine=r=48000:d=0.3")
PICTURE = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=0.3")
HELD = {
    "aac": {"mp4": "copy", "mov": "copy", "mkv": "copy"},
    "pcm_s16le": {"mp4": "copy", "mov": "copy", "mkv": "copy"},
    "libopus": {"mp4": "copy", "mov": ".mka", "mkv": "copy"},
    "flac": {"mp4": "copy", "mov": ".mka", "mkv": "copy"},
    "mp2": {"mp4": "copy", "mov": "copy", "mkv": "copy"},
    "ac3": {"mp4": "copy", "mov": "copy", "mkv": "copy"},
    "pcm_mulaw": {"mp4": ".mov", "mov": "copy", "mkv": ".mov"},
}
SUBTITLE = "1\n00:00:00,050 --> 00:00:00,200\nhello\n\n"


def fate(plan: CopyPlan) -> str:
    """ "copy", or a sidecar's file name ending."""
    return plan.action if plan.action != "sidecar" else Path(plan.where).suffix


@pytest.mark.parametrize("codec", HELD)
def test_each_audio_codec_is_tried(tmp_path: Path, codec: str) -> None:
    clip = tmp_path / "a.mkv"
    ffmpeg(*PICTURE, *SOUND, "-c:v", "mpeg4", "-c:a", codec, clip)
    for container, wanted in HELD[codec].items():
        (plan,) = plan_copies(clip, container, {0})
        assert (plan.stream, plan.kind) == (1, "audio")
        assert fate(plan) == wanted, (container, plan.reason)
        assert (sentence(plan) is None) == (wanted == "copy")


@pytest.mark.parametrize(
    ("codec", "source", "container", "ending"), [("srt", "a.mkv", "mp4", ".mks"), ("mov_text", "a.mp4", "mkv", ".mp4")]
)
def test_subtitles_that_cannot_stay_are_saved(
    tmp_path: Path, codec: str, source: str, container: str, ending: str
) -> None:
    words, clip = tmp_path / "w.srt", tmp_path / source
    words.write_text(SUBTITLE)
    ffmpeg(*PICTURE, "-i", words, "-c:v", "mpeg4", "-c:s", codec, "-metadata:s:s:0", "language=fin", clip)
    plans = plan_copies(clip, container, {0})
    assert [fate(plan) for plan in plans] == [ending]
    (saved,) = write_sidecars(clip, plans, tmp_path / "out.mp4")
    assert saved == tmp_path / f"out{plans[0].where}"
    empty = "c4103f122d27677c9db144cae1394a66"  # md5 of two zero bytes: mp4's sample for "no text now"
    sent, back = ([one for one in packets(path, index) if one[0] != empty] for path, index in ((clip, 1), (saved, 0)))
    assert [digest for digest, _ in sent] == [digest for digest, _ in back]
    assert [float(time) for _, time in sent] == pytest.approx([float(time) for _, time in back], abs=0.0005)
    (stream,) = ffprobe(saved, "-show_streams")["streams"]
    assert stream["tags"]["language"] == "fin"


def test_shift_reaches_the_sidecar(tmp_path: Path) -> None:
    words, clip = tmp_path / "w.srt", tmp_path / "a.mkv"
    words.write_text(SUBTITLE)
    ffmpeg(*PICTURE, "-i", words, "-c:v", "mpeg4", "-c:s", "srt", clip)
    plans = plan_copies(clip, "mp4", {0})
    (saved,) = write_sidecars(clip, plans, tmp_path / "out.mp4", Fraction(1, 2))
    assert packets(saved, 0)[0][1] == packets(clip, 1)[0][1] + Fraction(1, 2)


def test_attachments_stay_in_matroska_and_are_files_beside_mp4(tmp_path: Path) -> None:
    font, clip = tmp_path / "Road Sign.ttf", tmp_path / "a.mkv"
    font.write_bytes(bytes(range(256)) * 5)
    ffmpeg(*PICTURE, "-c:v", "mpeg4", "-attach", font, "-metadata:s:t", "mimetype=font/ttf", clip)
    assert [plan.action for plan in plan_copies(clip, "mkv", {0})] == ["attachment"]
    plans = plan_copies(clip, "mp4", {0})
    (saved,) = write_sidecars(clip, plans, tmp_path / "out.mp4")
    assert saved.name == "out.stream1.attachment.ttf"
    assert saved.read_bytes() == font.read_bytes()
    assert "holds no attachments" in sentence(plans[0])


def test_data_from_a_transport_stream_is_saved_raw(tmp_path: Path) -> None:
    clip = tmp_path / "a.ts"
    with av.open(str(make_clip(tmp_path / "b.mp4", frames=6))) as opened, av.open(str(clip), "w") as out:
        made = out.add_stream_from_template(opened.streams.video[0], opaque=True)
        data = out.add_data_stream("klv")
        data.time_base = Fraction(1, 90000)
        for number in range(3):
            packet = av.Packet(b"\x06\x0e\x2b\x34" + bytes([number]) * 20)
            packet.pts = packet.dts = 9000 * number
            packet.time_base, packet.stream = Fraction(1, 90000), data
            out.mux_one(packet)
        for packet in opened.demux(opened.streams.video[0]):
            if packet.size:
                packet.stream = made
                out.mux_one(packet)
    for container in ("mp4", "mov", "mkv"):
        (plan,) = plan_copies(clip, container, {0})
        assert fate(plan) == ".bin"
    raw, notes = write_sidecars(clip, [plan], tmp_path / "out.mkv")
    told = json.loads(notes.read_text())["packets"]
    with av.open(str(clip)) as opened:
        sent = [packet for packet in opened.demux(opened.streams[1]) if packet.size]
        assert len(sent) == 3
        assert told == [{"pts": packet.pts, "dts": packet.dts, "size": packet.size} for packet in sent]
        assert raw.read_bytes() == b"".join(map(bytes, sent))
    assert not list(tmp_path.glob("*.part"))


def test_timecode_and_chapter_tracks_are_made_again(tmp_path: Path) -> None:
    base, chapters = make_clip(tmp_path / "b.mp4", frames=10), tmp_path / "c.txt"
    chapters.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=City\n")
    ffmpeg("-i", base, "-c", "copy", "-timecode", "01:02:03:04", tmp_path / "time.mov")
    ffmpeg("-i", base, "-i", chapters, "-map_metadata", "1", "-c", "copy", tmp_path / "chapters.mov")
    for source, told in (("time.mov", "01:02:03:04"), ("chapters.mov", "chapters")):
        (plan,) = plan_copies(tmp_path / source, "mp4", {0})
        assert plan.action == "tag"
        assert told in plan.reason
        assert sentence(plan) is None


def test_every_stream_is_accounted_for(tmp_path: Path) -> None:
    words, clip = tmp_path / "w.srt", tmp_path / "a.mkv"
    words.write_text(SUBTITLE)
    ffmpeg(
        *PICTURE, *SOUND, *SOUND, "-i", words, "-map", "0", "-map", "1", "-map", "2", "-map", "3", "-c:v", "mpeg4", clip
    )
    for container in ("mp4", "mov", "mkv"):
        assert [plan.stream for plan in plan_copies(clip, container, {0})] == [1, 2, 3]
        assert [plan.stream for plan in plan_copies(clip, container, set())] == [0, 1, 2, 3]
    assert plan_copies(make_clip(tmp_path / "v.mp4", frames=4), "mp4", {0}) == []


def test_not_a_video(tmp_path: Path) -> None:
    text = tmp_path / "a.mp4"
    text.write_text("hello, I am no video at all")
    with pytest.raises(InputError, match="text file"):
        plan_copies(text, "mp4", {0})
