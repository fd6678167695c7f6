"""describe tells a person and a program the same true things about a file."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.describe import describe, describe_text
from pipeline.errors import InputError
from tests.clips import make_clip, remux
from tests.conversion_maker import convert
from tests.oracles import ffprobe


def video(facts: dict) -> dict:
    return next(stream for stream in facts["streams"] if "width" in stream)


def test_a_plain_drive(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "drive.mp4", frames=24, gop=8, audio=True, metadata={"comment": "rear camera"})
    facts = describe(path)
    json.dumps(facts)
    seen = video(facts)
    judge = ffprobe(path, "-count_frames", "-show_streams", "-select_streams", "v")["streams"][0]
    assert seen["frames_from_content"] == int(judge["nb_read_frames"]) == 24
    assert (seen["width"], seen["height"], seen["pix_fmt"]) == (judge["width"], judge["height"], judge["pix_fmt"])
    assert seen["constant_rate"] and seen["rate"] == pytest.approx(25)
    assert (seen["keyframes"], seen["longest_gop_frames"]) == (3, 8)
    assert seen["color"]["matrix"] == {
        "value": "bt601",
        "reason": seen["color"]["matrix"]["reason"],
    }
    assert "not tagged" in seen["color"]["matrix"]["reason"]
    assert seen["becomes"]["action"] == "convert"
    sound = facts["streams"][1]
    assert (sound["codec"], sound["sample_rate"], sound["becomes"]["action"]) == ("aac", 48000, "copy")
    assert facts["metadata"]["comment"] == "rear camera"
    assert facts["provenance"] is None
    text = describe_text(facts)
    for words in (
        "64x48",
        "24 shown",
        "constant 25 a second",
        "rear camera",
        "packet for packet",
        "not tagged",
        "48000 Hz",
    ):
        assert words in text


def test_variable_rate_rotation_and_pixel_shape(tmp_path: Path) -> None:
    pts = [0, 3, 4, 9, 10, 11]
    path = make_clip(
        tmp_path / "a.mp4",
        frames=6,
        pts=pts,
        time_base=Fraction(1, 100),
        start=50,
        rotation=90,
        sample_aspect_ratio=Fraction(4, 3),
        tags={"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1},
    )
    seen = video(describe(path))
    assert not seen["constant_rate"]
    assert (seen["shortest_frame_seconds"], seen["longest_frame_seconds"]) == (0.01, 0.05)
    assert abs(seen["rotation_degrees"]) == 90 and seen["sample_aspect_ratio"] == "4/3"
    assert seen["first_frame_seconds"] == pytest.approx(0.5)
    assert seen["color"]["matrix"]["reason"] == "tagged bt709"
    text = describe_text(describe(path))
    for words in ("variable rate", "10.0 to 50.0 ms", "pixel aspect 4/3", "rotation", "first at 0.500 s"):
        assert words in text


def test_interlaced_and_odd(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=6, interlaced=True)
    facts = describe(path)
    assert video(facts)["interlaced"]
    assert any("interlaced" in text for text in facts["warnings"])
    odd = describe(make_clip(tmp_path / "b.mkv", frames=3, width=65, height=47, pix_fmt="yuv444p"))
    assert any("65x47 is odd" in text for text in odd["warnings"])


def test_one_keyframe_for_a_long_time(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=13, fps=1, gop=250)
    facts = describe(path)
    assert (video(facts)["keyframes"], video(facts)["longest_gop_seconds"]) == (1, 13.0)
    assert any("between keyframes" in text for text in facts["warnings"])


def test_a_raw_stream_has_no_clock(tmp_path: Path) -> None:
    path = remux(make_clip(tmp_path / "a.mp4", frames=9), tmp_path / "a.h264", container="h264")
    facts = describe(path)
    assert video(facts)["frames_from_content"] == 9 and video(facts)["rate"] is None
    assert any("--fps" in text for text in facts["warnings"])
    assert "no clock" in describe_text(facts)
    assert video(describe(path, fps=Fraction(20)))["rate"] == pytest.approx(20)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_our_own_output(tmp_path: Path, transfer: str) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=12)
    made = convert(source, tmp_path / "o.mp4", starts=(0, 6), transfer=transfer)
    facts = describe(made.output)
    json.dumps(facts)
    seen = video(facts)
    assert seen["already_hdr"] and seen["becomes"]["action"] == "refuse"
    assert seen["hdr"]["transfer"] == transfer and seen["color"] is None
    assert facts["provenance"]["version"] == "test"
    text = describe_text(facts)
    assert "made by Sunvisor test" in text and "12 frames in 2 spans" in text
    if transfer == "pq":
        for where in ("container", "bitstream"):
            assert (seen["hdr"][where]["max_cll_nits"], seen["hdr"][where]["max_fall_nits"]) == (
                made.max_cll,
                made.max_fall,
            )
            assert seen["hdr"][where]["mastering_display"]["peak_nits"] == 1000
        assert seen["hdr"]["keyframes_with_metadata"] == 2
        assert f"MaxCLL {made.max_cll}, MaxFALL {made.max_fall}" in text
    else:
        assert seen["hdr"]["container"]["mastering_display"] is None
        assert "no mastering display" in text


@pytest.mark.parametrize("content", [b"", b"hello " * 50])
def test_no_video_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mp4"):
        describe(path)


def test_real_telemetry_is_named(real_clips: Path) -> None:
    facts = describe(real_clips / "gopro_gpmd_854x480.mp4")
    data = [stream for stream in facts["streams"] if stream["kind"] == "data"]
    assert {stream["becomes"]["action"] for stream in data} == {"copy", "tag"}
    assert video(facts)["frames_from_content"] == 48
