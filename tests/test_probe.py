"""Probe: what it finds, what it calls each bad file, and what it takes untagged colours for."""

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

from pipeline.color import ColorSpec, PixelLayout
from pipeline.errors import InputError
from pipeline.probe import StreamInfo, hdr_reason, probe, read_color
from pipeline.source_color import LAYOUTS


def video(path: Path) -> StreamInfo:
    return probe(path).video_streams[0]


@pytest.mark.parametrize(
    ("codec", "suffix", "extra"),
    [
        ("libx264", "mp4", {"tags": {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1}}),
        ("libx264", "mkv", {"tags": {"color_primaries": 6, "color_trc": 6, "colorspace": 6, "color_range": 2}}),
        (
            "libx265",
            "mov",
            {"pix_fmt": "yuv420p10le", "tags": {"color_primaries": 9, "color_trc": 14, "colorspace": 9}},
        ),
        ("libx264", "ts", {"sample_aspect_ratio": Fraction(4, 3)}),
        ("mpeg4", "avi", {}),
        ("mjpeg", "avi", {"pix_fmt": "yuvj422p"}),
        ("libvpx-vp9", "webm", {"tags": {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1}}),
        ("libsvtav1", "mp4", {"pix_fmt": "yuv420p10le"}),
    ],
)
def test_agrees_with_ffprobe(tmp_path: Path, codec: str, suffix: str, extra: dict) -> None:
    path = clips.make_clip(tmp_path / f"a.{suffix}", codec, frames=6, **extra)
    command = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_streams",
        "-show_format",
        "-of",
        "json",
        str(path),
    ]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    told, info = answer["streams"][0], probe(path)
    found = info.video_streams[0]
    assert found.codec == told["codec_name"]
    assert (found.width, found.height) == (told["width"], told["height"])
    assert found.pix_fmt == told["pix_fmt"]
    assert found.primaries_tag == told.get("color_primaries")
    assert found.transfer_tag == told.get("color_transfer")
    assert found.matrix_tag == told.get("color_space")
    assert found.range_tag == {"tv": "limited", "pc": "full"}.get(told.get("color_range"))
    assert info.container == answer["format"]["format_name"]
    assert info.duration_seconds_from_header == pytest.approx(float(answer["format"]["duration"]), abs=1e-4)
    ratio = told.get("sample_aspect_ratio", "0:1").replace(":", "/")
    assert (found.sample_aspect_ratio or 1) == (Fraction(ratio) or 1)
    if told.get("chroma_location", "unspecified") != "unspecified":
        assert found.chroma_location_tag == told["chroma_location"]


def test_streams_tags_and_rotation(tmp_path: Path) -> None:
    path = clips.make_clip(
        tmp_path / "a.mp4",
        audio=True,
        rotation=90,
        frames=6,
        metadata={"title": "drive", "creation_time": "2024-05-01T10:00:00"},
    )
    info = probe(path)
    assert [stream.kind for stream in info.streams] == ["video", "audio"]
    assert info.video_streams == (info.streams[0],)
    assert info.metadata["title"] == "drive"
    assert info.size_bytes == path.stat().st_size
    assert info.chapters == 0
    assert not info.has_no_clock
    stream = info.streams[0]
    with av.open(str(path)) as container:
        assert stream.rotation_degrees == next(container.decode(video=0)).rotation != 0
    assert stream.layout == PixelLayout("420", 8)
    assert not stream.interlaced_from_content
    assert stream.avg_frame_rate_from_header == 25


def test_interlaced_from_content(tmp_path: Path) -> None:
    assert video(clips.make_clip(tmp_path / "a.mp4", interlaced=True, frames=8)).interlaced_from_content
    assert video(clips.make_clip(tmp_path / "b.mp4", "mpeg2video", interlaced=True, frames=8)).interlaced_from_content


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    picture = clips.make_clip(tmp_path / "c.mjpeg", "mjpeg", pix_fmt="yuvj420p", frames=1)
    source = clips.make_clip(tmp_path / "a.mp4", frames=4)
    subprocess.run(
        f"ffmpeg -v error -i {source} -i {picture} -map 0 -map 1 -c copy -disposition:v:1 attached_pic {path}".split(),
        check=True,
    )
    info = probe(path)
    assert [stream.attached_pic for stream in info.streams] == [False, True]
    assert [stream.index for stream in info.video_streams] == [0]


def test_bad_files(tmp_path: Path) -> None:
    def message(name: str, data: bytes | None) -> str:
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            probe(path)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 2
        return str(caught.value)

    good = clips.make_clip(tmp_path / "good.mp4", frames=10).read_bytes()
    assert "no such file" in message("missing.mp4", None)
    assert "is empty" in message("empty.mp4", b"")
    assert "text file" in message("text.mp4", b"Dear diary, today I drove.\n" * 40)
    assert "text file" in message("notes.txt", b"Dear diary, today I drove.\n" * 40)
    assert "truncated" in message("no_moov.mp4", good[: len(good) // 2])
    assert "'moov'" in message("no_moov.mp4", good[: len(good) // 2])
    assert "begins with zeros" in message("zeros.mp4", bytes(9000))
    assert "recognises no video" in message("noise.mp4", np.random.default_rng(0).bytes(9000))
    assert "playlist" in message(
        "list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n"
    )
    remote = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    assert "list2.m3u8" in message("list2.m3u8", remote)
    assert "list3.txt" in message("list3.txt", b"ffconcat version 1.0\nfile good.mp4\n")
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder" in message("folder.mp4", None)


def test_a_name_with_a_colon_is_a_file(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mp4", frames=4)
    assert video(path.rename(tmp_path / "http:drive 10:30%03d.mp4")).width == 64


def test_audio_only(tmp_path: Path) -> None:
    for name in ("a.wav", "a.m4a"):
        path = tmp_path / name
        codec = ["-c:a", "pcm_s16le"] if name == "a.wav" else []
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2", *codec, str(path)], check=True
        )
        with pytest.raises(InputError, match="only audio"):
            probe(path)


def test_zero_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    with pytest.raises(InputError, match=r"no frame|only|no video|damaged"):
        probe(path)


def test_unsupported_pixel_format_lists_the_legal_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=d=0.2:s=64x48",
            "-c:v",
            "qtrle",
            "-pix_fmt",
            "argb",
            str(path),
        ],
        check=True,
    )
    with pytest.raises(
        InputError, match="pixel format 'argb' of stream 0 is not supported; legal are gray, gbrp, rgb24, yuv420p"
    ):
        probe(path)


def test_absurd_size(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.avi", "mjpeg", pix_fmt="yuvj420p", width=16400, height=16, frames=1)
    with pytest.raises(InputError, match="is 16400x16; at most 16384 pixels a side"):
        probe(path)


def test_unknown_codec(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mp4", frames=4)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(InputError, match="codec of video stream 0 is unknown"):
        probe(path)


def stream(**changes: object) -> StreamInfo:
    base = StreamInfo(
        0, "video", "h264", "avc1", False, None, Fraction(1, 25), 0, 10, {}, 1920, 1080, "yuv420p", LAYOUTS["yuv420p"]
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ColorSpec("bt709", "limited", "bt1886", "bt709", "left")),
        ({"height": 719}, ColorSpec("bt601", "limited", "bt1886", "bt601-625", "left")),
        ({"height": 480}, ColorSpec("bt601", "limited", "bt1886", "bt601-525", "left")),
        ({"height": 576}, ColorSpec("bt601", "limited", "bt1886", "bt601-625", "left")),
        ({"pix_fmt": "yuvj420p"}, ColorSpec("bt709", "full", "bt1886", "bt709", "left")),
        ({"pix_fmt": "yuvj420p", "range_tag": "limited"}, ColorSpec("bt709", "limited", "bt1886", "bt709", "left")),
        ({"range_tag": "full"}, ColorSpec("bt709", "full", "bt1886", "bt709", "left")),
        ({"matrix_tag": "smpte170m"}, ColorSpec("bt601", "limited", "bt1886", "bt601-525", "left")),
        ({"matrix_tag": "bt470bg"}, ColorSpec("bt601", "limited", "bt1886", "bt601-625", "left")),
        (
            {"matrix_tag": "smpte170m", "primaries_tag": "bt709"},
            ColorSpec("bt601", "limited", "bt1886", "bt709", "left"),
        ),
        (
            {"codec": "mjpeg", "pix_fmt": "yuvj420p", "matrix_tag": "bt470bg", "range_tag": "full"},
            ColorSpec("bt601", "full", "bt1886", "bt709", "center"),
        ),
        ({"primaries_tag": "bt2020"}, ColorSpec("bt2020", "limited", "bt1886", "bt2020", "left")),
        ({"chroma_location_tag": "topleft"}, ColorSpec("bt709", "limited", "bt1886", "bt709", "topleft")),
        ({"pix_fmt": "gbrp"}, ColorSpec("rgb", "full", "bt1886", "bt709", "left")),
        ({"transfer_tag": "iec61966-2-1"}, ColorSpec("bt709", "limited", "bt1886", "bt709", "left")),
    ],
)
def test_colour_policy(changes: dict, expected: ColorSpec) -> None:
    spec, reasons = read_color(stream(**changes))
    assert spec == expected
    assert set(reasons) == {field.name for field in dataclasses.fields(ColorSpec)}
    assert all(reasons.values())


def test_overrides_win_and_are_checked() -> None:
    spec, reasons = read_color(
        stream(matrix_tag="bt709"), {"matrix": "bt601", "range": "full", "transfer": "srgb", "primaries": "auto"}
    )
    assert (spec.matrix, spec.range, spec.transfer, spec.primaries) == ("bt601", "full", "srgb", "bt601-625")
    assert reasons["matrix"] == "given by input.matrix (the tag is bt709)"
    with pytest.raises(
        InputError, match=r"input\.matrix=bt7o9 is not legal; legal are auto, bt709, bt601, bt2020, rgb"
    ):
        read_color(stream(), {"matrix": "bt7o9"})
    with pytest.raises(InputError, match=r"input\.gamma is no colour setting; legal are matrix, range"):
        read_color(stream(), {"gamma": "2.2"})
    with pytest.raises(InputError, match=r"tag 'smpte432' is not supported.*input\.primaries="):
        read_color(stream(primaries_tag="smpte432"))
    assert read_color(stream(primaries_tag="smpte432"), {"primaries": "bt709"})[0].primaries == "bt709"


def test_hdr_is_recognised() -> None:
    assert "PQ" in hdr_reason(stream(transfer_tag="smpte2084"))
    assert "HLG" in hdr_reason(stream(transfer_tag="arib-std-b67"))
    assert "Dolby" in hdr_reason(stream(codec_tag="dvh1"))
    ten = {"layout": PixelLayout("420", 10), "primaries_tag": "bt2020"}
    assert "BT.2020" in hdr_reason(stream(**ten))
    assert hdr_reason(stream(**ten, transfer_tag="bt2020-10")) is None
    assert hdr_reason(stream(layout=PixelLayout("420", 10))) is None
    assert hdr_reason(stream(primaries_tag="bt2020")) is None


def test_hdr_file(tmp_path: Path) -> None:
    tags = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
    assert "PQ" in hdr_reason(
        video(clips.make_clip(tmp_path / "a.mp4", "libx265", pix_fmt="yuv420p10le", tags=tags, frames=4))
    )
