"""The colour tags read from bitstreams and containers, with FFmpeg's ffprobe as the judge; and the light check's arithmetic."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bitstream_tags import AV1_CHROMA_LOCATIONS, BitReader, SignalTags, av1_tags, hevc_tags, obus
from pipeline.color import ColorSpec, OutputSpec, PixelLayout, pack, unpack
from pipeline.container_tags import read_container_tags
from pipeline.hdr10 import ContentLight, MasteringDisplay
from pipeline.light import LightLevels
from pipeline.nal import HEVC_PREFIX_SEI, hevc_type, join_hevc, split_hevc
from pipeline.verify_packets import MATROSKA_TICK, StreamPackets, find_copies
from pipeline.verify_picture import light_check
from pipeline.verify_seams import Brightness, brightness_of_hdr, brightness_of_sdr, seam_check
from pipeline.verify_tags import read_tags
from tests.clips import make_clip
from tests.conversion_maker import convert, rewrite
from tests.oracles import ffprobe, mediainfo

LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
NUMBERS = {"bt709": 1, "smpte170m": 6, "bt2020": 9, "bt2020nc": 9, "smpte2084": 16, "arib-std-b67": 18}


def encode(path: Path, codec: str, primaries: int, transfer: int, matrix: int, span: int, location: str) -> Path:
    pix_fmt = "yuv420p10le"
    tags = {"color_primaries": primaries, "color_trc": transfer, "colorspace": matrix, "color_range": span}
    return make_clip(
        path, codec, frames=3, pix_fmt=pix_fmt, tags=tags, gop=3, options={"chroma_sample_location": location}
    )


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
@pytest.mark.parametrize(
    ("primaries", "transfer", "matrix", "span", "location"),
    [(9, 16, 9, 1, "topleft"), (9, 18, 9, 1, "left"), (1, 1, 1, 2, "topleft"), (6, 6, 6, 1, "center")],
)
def test_tags_are_what_ffprobe_reads(
    tmp_path: Path, suffix: str, codec: str, primaries: int, transfer: int, matrix: int, span: int, location: str
) -> None:
    if codec == "libsvtav1" and location not in AV1_CHROMA_LOCATIONS.values():
        location = "left"  # AV1 has no number for the others
    path = encode(tmp_path / f"a.{suffix}", codec, primaries, transfer, matrix, span, location)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extradata, packet = bytes(stream.codec_context.extradata), bytes(next(container.demux(stream)))
    found = (hevc_tags if codec == "libx265" else av1_tags)(extradata, packet)
    assert found == SignalTags(primaries, transfer, matrix, span == 2, location)
    judge = ffprobe(path, "-show_frames", "-read_intervals", "%+#1")["frames"][0]
    assert found is not None
    assert [NUMBERS[judge[key]] for key in ("color_primaries", "color_transfer", "color_space")] == [
        found.primaries,
        found.transfer,
        found.matrix,
    ]
    assert judge["color_range"] == ("pc" if found.full_range else "tv")
    assert judge["chroma_location"] == found.chroma_location
    stated = read_container_tags(path, 0, 1)
    assert stated is not None
    assert stated.signal.primaries == primaries and stated.signal.transfer == transfer
    assert stated.signal.matrix == matrix and stated.signal.full_range is (span == 2)
    assert stated.signal.chroma_location in ((None,) if suffix == "mp4" else (None, location))
    assert stated.mastering is None and stated.light is None


def test_the_slowest_preset_with_its_reference_sets_is_read(tmp_path: Path) -> None:
    """Presets with many references, weighted prediction and scaling lists exercise the way to the VUI."""
    path = tmp_path / "a.mp4"
    params = "ref=5:bframes=4:b-adapt=0:scaling-list=default:log-level=none:info=0:chromaloc=2:colorprim=9:transfer=16:colormatrix=9:range=limited:sar=4:overscan=show"
    options = {"preset": "slow", "x265-params": params}
    make_clip(path, "libx265", frames=8, pix_fmt="yuv420p10le", options=options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = hevc_tags(bytes(stream.codec_context.extradata), b"")
    assert found == SignalTags(9, 16, 9, False, "topleft")


def test_matroska_metadata_is_what_mediainfo_reads(tmp_path: Path) -> None:
    """With the bitstream's own messages taken out, so that both can read the container's elements only."""

    def strip(packet: av.Packet, number: int) -> bytes:
        return join_hevc([unit for unit in split_hevc(bytes(packet)) if hevc_type(unit) != HEVC_PREFIX_SEI])

    made = convert(make_clip(tmp_path / "a.mp4", frames=6), tmp_path / "o.mkv", starts=(0,))
    path = rewrite(made.output, tmp_path / "b.mkv", "video", strip)
    stated, judge = read_container_tags(path, 0, 1), mediainfo(path)
    assert stated is not None and stated.mastering is not None and stated.light is not None
    assert stated.codec_tag == "" and stated.signal == SignalTags(9, 16, 9, False, "topleft")
    assert (judge["MaxCLL"], judge["MaxFALL"]) == (
        str(stated.light.max_cll_nits),
        str(stated.light.max_fall_nits),
    )
    assert judge["MasteringDisplay_ColorPrimaries"] == "Display P3"
    assert judge["MasteringDisplay_Luminance"] == "min: 0.0050 cd/m2, max: 1000 cd/m2"
    assert stated.mastering.matches(MasteringDisplay(1000.0))
    assert read_tags(path, 0).keyframes[0][2].mastering is None


def test_no_box_file_has_no_container_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    make_clip(path, frames=2)
    assert read_container_tags(path, 0, 1) is None
    path.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(40))
    assert read_container_tags(path, 0, 1) is None


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_exp_golomb_round_trip(values: list[int]) -> None:
    bits = "".join("0" * ((v + 1).bit_length() - 1) + format(v + 1, "b") for v in values)
    bits += "0" * (-len(bits) % 8)
    reader = BitReader(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    assert [reader.ue() for _ in values] == values


@given(st.binary(max_size=80))
def test_damaged_headers_never_hang_or_crash(data: bytes) -> None:
    for read in (hevc_tags, av1_tags):
        try:
            read(b"\x01" + data, data)
        except ValueError:
            continue
    assert sum(len(body) for _, body in obus(data)) <= len(data)


def levels(fall: float, percentile: float, brightest: float) -> LightLevels:
    return LightLevels(brightest, fall, percentile, 10)


@pytest.mark.parametrize(
    ("fall", "percentile", "brightest", "ok"),
    [
        (100, 1000, 1000, True),
        (103, 1000, 1000, True),
        (104, 1000, 1000, False),
        (96, 1000, 1000, False),
        (100, 905, 1000, True),
        (100, 1110, 1200, False),  # many pixels are brighter than the tag
        (100, 300, 1000, True),  # MaxCLL is one small highlight
        (100, 300, 1400, True),  # coding made it brighter
        (100, 300, 850, False),  # nothing is as bright as the tag
    ],
)
def test_light_check(fall: float, percentile: float, brightest: float, ok: bool) -> None:
    check = light_check(levels(fall, percentile, brightest), ContentLight(1000, 100))
    assert check.ok is ok, check.detail
    assert f"MaxFALL {fall:.1f}" in check.detail


def test_light_check_is_wider_for_small_pictures() -> None:
    found, tag = levels(100, 1200, 1200), ContentLight(1000, 100)
    assert light_check(found, tag, pixels=64 * 48).ok
    assert not light_check(found, tag, pixels=854 * 480).ok
    assert not light_check(levels(100, 1400, 1400), tag, pixels=64 * 48).ok


def test_light_check_holds_the_percentile_against_what_was_recorded() -> None:
    found, tag = levels(100, 300, 1000), ContentLight(1000, 100)
    assert light_check(found, tag, 310.0).ok
    assert "percentile is -25.0 % off" in light_check(found, tag, 400.0).detail


def test_small_pictures_of_source_and_output_show_the_same_light() -> None:
    """A gray ramp of SDR light, packed as HDR: the mean luminance of every block is the source's times 203 nits."""
    spec = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
    luma = torch.linspace(40, 235, 128).round().to(torch.uint8).expand(1, 96, 128).contiguous()
    chroma = torch.full((1, 48, 64), 128, dtype=torch.uint8)
    sdr = brightness_of_sdr((luma, chroma, chroma), PixelLayout("420", 8), spec)
    y, u, v = pack(
        unpack((luma, chroma, chroma), PixelLayout("420", 8), spec), OutputSpec("pq", 203.0, 1000.0), torch.tensor([0])
    )
    hdr = brightness_of_hdr(y, u, v, "pq")
    assert sdr.mean.shape == hdr.mean.shape
    assert torch.allclose(hdr.mean, sdr.mean * 203, rtol=0.02, atol=0.02)


def shown(stops: float) -> Brightness:
    light = torch.full((6, 8), 0.2) * 2**stops
    return Brightness(light, light.clone(), light.clone())


@given(st.floats(-0.5, 0.5), st.floats(0, 0.2), st.integers(3, 12))
def test_a_step_is_measured_to_a_hundredth_of_a_stop(step: float, flicker: float, border: int) -> None:
    """Output = source + flicker in every frame, and a step at the border: the check sees |step| beyond the flicker."""
    source = {frame: shown(0.1 * (frame % 3)) for frame in range(border - 3, border + 3)}
    output = {}
    for frame, picture in source.items():
        stops = flicker / 2 * (-1) ** frame + (step if frame >= border else 0)
        output[frame] = Brightness(picture.mean * 203 * 2**stops, picture.top, picture.least)
    check = seam_check([border], source, output, white_nits=203.0, rate=25.0)
    beyond = abs(step + flicker * (-1) ** border) - flicker
    if abs(beyond - 0.05) > 0.01:
        assert check.ok is (beyond < 0.05), (check.detail, beyond)


def stream(index: int, *digests: int, kind: str = "audio", pts: tuple[int, ...] | None = None) -> StreamPackets:
    found = StreamPackets(index, kind, "aac", MATROSKA_TICK, False, None)
    found.digests = [struct.pack(">I", digest) for digest in digests]
    found.pts = list(pts or range(len(digests)))
    return found


def test_streams_are_matched_by_content_not_by_place() -> None:
    ours = [stream(0, 9, 9), stream(1, 1, 2, 3), stream(2, 4, 5), stream(3)]
    theirs = [stream(0, 4, 5), stream(1, 7, 7), stream(2, 1, 2, 3)]
    found = find_copies(ours, theirs, {0}, shift=Fraction(0), matroska=False, sidecars=[])
    assert [copy.ok for copy in found] == [True, True, True]
    assert [copy.place.index if copy.place else None for copy in found] == [2, 0, None]
    moved = [stream(0, 1, 2, 3, pts=(500, 501, 503))]
    late = find_copies([ours[1]], moved, set(), shift=Fraction(1, 2), matroska=False, sidecars=[])
    assert late[0].ok and "rounded by at most 1.000 ms" in late[0].detail
    gone = find_copies([ours[1]], moved, set(), shift=Fraction(0), matroska=True, sidecars=[])
    assert not gone[0].ok and "501.000 ms off" in gone[0].detail
