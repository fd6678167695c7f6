"""HDR10 metadata bytes: round trips, known bytes, and ffprobe and mediainfo reading what was put in."""

from __future__ import annotations

import hashlib
import json
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import hdr10, nal
from pipeline.boxes import CleanAperture, append_to_sample_entry, make_box, read_boxes, read_moov, template_stream
from pipeline.encode import SpanEncoder
from pipeline.encoder_choice import resolve_encoder
from pipeline.errors import ConversionError
from pipeline.hdr10 import ContentLight, MasteringDisplay, StaticMetadata
from pipeline.light import LightLevels

MASTERING = MasteringDisplay(1000.0)
LIGHT = ContentLight(987, 123)
PTS = [0, 3003, 3500, 9009, 12012, 12013, 20000, 21000]
FINALS = [("hevc", "mp4"), ("hevc", "mov"), ("hevc", "mkv"), ("av1", "mp4"), ("av1", "mkv")]

coordinate = st.integers(0, 50000).map(lambda step: step / 50000)
point = st.tuples(coordinate, coordinate)
displays = st.builds(
    MasteringDisplay,
    st.integers(0, 10000 * 10000).map(lambda step: step / 10000),
    st.integers(0, 50000).map(lambda step: step / 10000),
    point,
    point,
    point,
    point,
)
lights = st.builds(ContentLight, st.integers(0, 65535), st.integers(0, 65535))
zero_rich = st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 255]), max_size=40).map(bytes)


def make_span(path: Path, codec: str, transfer: str = "pq") -> None:
    """Eight 64x48 frames with irregular times and 4:3 pixels."""
    output = SimpleNamespace(transfer=transfer, codec=codec, encoder="auto", crf=None, preset=None, container="auto")
    shape = {"width": 64, "height": 48, "time_base": Fraction(1, 90000), "rate": Fraction(30000, 1001)}
    noise = torch.Generator().manual_seed(5)
    with SpanEncoder(
        path,
        resolve_encoder(output, "cpu"),
        **shape,
        sample_aspect_ratio=Fraction(4, 3),
        transfer=transfer,
        threads=1,
    ) as encoder:
        for pts in PTS:
            y = torch.randint(64, 940, (48, 64), generator=noise).to(torch.uint16)
            u, v = (torch.randint(300, 700, (24, 32), generator=noise).to(torch.uint16) for _ in range(2))
            encoder.write(y, u, v, pts, 1001)


def finish(span: Path, final: Path, codec: str, clap: CleanAperture | None = None) -> None:
    """A small stand-in for assemble: template, metadata in every keyframe packet, packets copied."""
    container = final.suffix[1:]
    options = {} if container == "mkv" else {"video_track_timescale": "90000", "movie_timescale": "90000"}
    with av.open(str(span)) as source, av.open(str(final), "w", options=options) as out:
        stream = source.streams.video[0]
        holder, template = template_stream(stream, MASTERING, LIGHT, clap, container)
        made = out.add_stream_from_template(template, opaque=True)
        made.codec_context.sample_aspect_ratio = Fraction(4, 3)
        if codec == "hevc" and container != "mkv":
            made.codec_context.codec_tag = "hvc1"
        for old in source.demux(stream):
            if not old.size:
                continue
            packet = av.Packet(hdr10.insert(codec, bytes(old), MASTERING, LIGHT) if old.is_keyframe else bytes(old))
            packet.pts, packet.dts, packet.duration = old.pts, old.dts, old.duration
            packet.time_base, packet.is_keyframe, packet.stream = old.time_base, old.is_keyframe, made
            out.mux(packet)
    holder.close()


def ffprobe(path: Path, *arguments: str) -> dict:
    """ffprobe's JSON; a missing ffprobe raises, which fails the test."""
    command = ["ffprobe", "-v", "error", "-of", "json", *arguments, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def mediainfo(path: Path) -> dict[str, str]:
    """mediainfo's video track."""
    command = ["mediainfo", "--Output=JSON", str(path)]
    tracks = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["media"]["track"]
    return next(track for track in tracks if track["@type"] == "Video")


def decoded(path: Path) -> list[tuple[Fraction, str]]:
    """(time, digest of the planes) of every frame."""
    with av.open(str(path)) as file:
        return [
            (frame.pts * frame.time_base, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())
            for frame in file.decode(video=0)
        ]


@pytest.fixture(scope="module")
def finals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with span_CODEC.mp4 and final_CODEC.CONTAINER files."""
    folder = tmp_path_factory.mktemp("hdr10")
    for codec in ("hevc", "av1"):
        make_span(folder / f"span_{codec}.mp4", codec)
    for codec, container in FINALS:
        finish(folder / f"span_{codec}.mp4", folder / f"final_{codec}.{container}", codec)
    return folder


@given(displays)
def test_mastering_payload_round_trip(display: MasteringDisplay) -> None:
    assert MasteringDisplay.from_payload(display.payload()) == display
    assert display.matches(MasteringDisplay.from_av1_payload(display.av1_payload()))


@given(lights)
def test_light_payload_round_trip(light: ContentLight) -> None:
    assert ContentLight.from_payload(light.payload()) == light


def test_known_bytes_of_p3_d65_1000_nits() -> None:
    """The integers that x265's manual gives for this display, in the box's order."""
    numbers = [13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450]
    expected = b"".join(number.to_bytes(2, "big") for number in numbers) + (10_000_000).to_bytes(4, "big")
    assert MASTERING.payload() == expected + (50).to_bytes(4, "big")
    assert LIGHT.payload() == bytes.fromhex("03db007b")
    assert hdr10.hevc_nals(MASTERING, LIGHT)[1] == bytes.fromhex("4e01900403db007b80")
    assert hdr10.av1_obus(MASTERING, LIGHT)[0] == bytes.fromhex("2a060103db007b80")


def test_light_is_rounded_to_the_nearest_and_never_unknown() -> None:
    assert ContentLight.from_levels(LightLevels(1000.0001, 40.6, 0.0, 1)) == ContentLight(1000, 41)
    assert ContentLight.from_levels(LightLevels(0.01, 0.001, 0.0, 1)) == ContentLight(1, 1)
    assert ContentLight.from_levels(LightLevels(1e6, 1e6, 0.0, 1)) == ContentLight(65535, 65535)


def test_matches_tells_displays_apart() -> None:
    assert not MASTERING.matches(MasteringDisplay(1001.0))
    assert not MASTERING.matches(MasteringDisplay(1000.0, 0.006))
    assert not MASTERING.matches(MasteringDisplay(1000.0, red=(0.708, 0.292)))


@given(zero_rich)
def test_emulation_prevention_round_trip(payload: bytes) -> None:
    guarded = nal.add_emulation_prevention(payload + b"\x80")
    assert nal.remove_emulation_prevention(guarded) == payload + b"\x80"
    assert not any(guarded[i : i + 2] == b"\0\0" and guarded[i + 2] <= 2 for i in range(len(guarded) - 2))


@given(displays, lights, st.lists(zero_rich.filter(len), max_size=3))
def test_hevc_insertion_reads_back_and_moves_nothing(
    display: MasteringDisplay, light: ContentLight, pictures: list[bytes]
) -> None:
    before = [b"\x46\x01\x50", *(bytes([0x26, 1]) + picture for picture in [b"\xaf", *pictures])]
    after = hdr10.insert("hevc", nal.join_hevc(before), display, light)
    assert hdr10.read_packet("hevc", after) == StaticMetadata(display, light)
    units = nal.split_hevc(after)
    assert [units[0], *units[3:]] == before
    assert [nal.hevc_type(unit) for unit in units[1:4]] == [39, 39, 19]


@given(displays, lights, st.booleans(), st.booleans(), zero_rich)
def test_av1_insertion_reads_back_and_moves_nothing(
    display: MasteringDisplay, light: ContentLight, delimiter: bool, sequence: bool, picture: bytes
) -> None:
    head = (nal.make_obu(2, b"") if delimiter else b"") + (nal.make_obu(1, b"\x08\x00\x80") if sequence else b"")
    frame = nal.make_obu(6, picture)
    after = hdr10.insert("av1", head + frame, display, light)
    assert after.startswith(head)
    assert after.endswith(frame)
    found = hdr10.read_packet("av1", after)
    assert found.light == light
    assert found.mastering is not None
    assert found.mastering.matches(display)


@given(st.integers(0, 2**56 - 1))
def test_leb128_round_trip(value: int) -> None:
    assert nal.read_leb128(b"\xff" + nal.leb128(value) + b"\xff", 1) == (value, 1 + len(nal.leb128(value)))


@given(st.binary(max_size=40))
def test_damaged_packets_raise_conversion_error_or_read(data: bytes) -> None:
    for codec in ("hevc", "av1"):
        try:
            hdr10.read_packet(codec, data)
        except ConversionError:
            continue


def test_packet_without_picture_is_refused() -> None:
    with pytest.raises(ConversionError, match="no picture"):
        hdr10.insert("hevc", nal.join_hevc([b"\x46\x01\x50"]), MASTERING, LIGHT)
    with pytest.raises(ConversionError, match="hevc, av1"):
        hdr10.insert("h264", b"", MASTERING, LIGHT)


@given(st.integers(1, 8192), st.integers(1, 8192), st.integers(0, 1), st.integers(0, 1))
def test_clean_aperture_round_trip(width: int, height: int, right: int, bottom: int) -> None:
    clap = CleanAperture.top_left((width, height), (width + right, height + bottom))
    assert CleanAperture.from_payload(clap.payload()) == clap
    left = clap.x_offset + Fraction(width + right - 1, 2) - Fraction(width - 1, 2)
    top = clap.y_offset + Fraction(height + bottom - 1, 2) - Fraction(height - 1, 2)
    assert (left, top) == (0, 0)


@pytest.mark.parametrize(("codec", "container"), FINALS)
def test_ffprobe_sees_hdr10(finals: Path, codec: str, container: str) -> None:
    path = finals / f"final_{codec}.{container}"
    stream = ffprobe(path, "-show_streams")["streams"][0]
    names = ("color_primaries", "color_transfer", "color_space", "color_range", "chroma_location", "pix_fmt")
    assert [stream[name] for name in names] == ["bt2020", "smpte2084", "bt2020nc", "tv", "topleft", "yuv420p10le"]
    if container != "mkv":
        assert stream["codec_tag_string"] == {"hevc": "hvc1", "av1": "av01"}[codec]
    if (codec, container) != ("av1", "mkv"):
        assert stream["sample_aspect_ratio"] == "4:3"
    frame = ffprobe(path, "-show_frames", "-read_intervals", "%+#1")["frames"][0]
    for place in (stream, frame):
        found = {data["side_data_type"]: data for data in place["side_data_list"]}
        light, mastering = found["Content light level metadata"], found["Mastering display metadata"]
        assert (light["max_content"], light["max_average"]) == (987, 123)
        values = [float(Fraction(mastering[name])) for name in ("red_x", "green_y", "white_point_x", "max_luminance")]
        assert values == pytest.approx([0.68, 0.69, 0.3127, 1000], abs=2e-5)
        assert float(Fraction(mastering["min_luminance"])) == pytest.approx(0.005, abs=1e-5)


@pytest.mark.parametrize(("codec", "container"), FINALS)
def test_mediainfo_calls_it_hdr10(finals: Path, codec: str, container: str) -> None:
    video = mediainfo(finals / f"final_{codec}.{container}")
    assert video["HDR_Format"] == "SMPTE ST 2086"
    assert video["HDR_Format_Compatibility"] == "HDR10"
    assert video["MasteringDisplay_ColorPrimaries"] == "Display P3"
    assert video["MasteringDisplay_Luminance"] == "min: 0.0050 cd/m2, max: 1000 cd/m2"
    assert video["MaxCLL"].split()[0] == "987"
    assert video["MaxFALL"].split()[0] == "123"
    assert (video["colour_primaries"], video["transfer_characteristics"]) == ("BT.2020", "PQ")
    assert video["matrix_coefficients"] == "BT.2020 non-constant"
    assert video["colour_range"] == "Limited"
    if codec == "hevc":
        assert video["ChromaSubsampling_Position"] == "Type 2"


@pytest.mark.parametrize(("codec", "container"), FINALS)
def test_own_readers_find_the_same(finals: Path, codec: str, container: str) -> None:
    path = finals / f"final_{codec}.{container}"
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        for packet in packets:
            found = hdr10.read_packet(codec, bytes(packet))
            assert (found.light == LIGHT and MASTERING.matches(found.mastering)) == packet.is_keyframe
    if container == "mkv":
        return
    boxes = read_boxes(read_moov(path))
    assert (boxes.mastering, boxes.light, boxes.clap) == (MASTERING, LIGHT, None)
    assert (boxes.colour.primaries, boxes.colour.transfer, boxes.colour.matrix) == (9, 16, 9)
    assert boxes.colour.full_range is (None if container == "mov" else False)


@pytest.mark.parametrize(("codec", "container"), FINALS)
def test_decoded_bits_and_times_are_those_of_the_span(finals: Path, codec: str, container: str) -> None:
    span, final = decoded(finals / f"span_{codec}.mp4"), decoded(finals / f"final_{codec}.{container}")
    assert [digest for _, digest in final] == [digest for _, digest in span]
    assert [time for time, _ in span] == [Fraction(pts, 90000) for pts in PTS]
    slack = Fraction(1, 2000) if container == "mkv" else 0
    assert all(abs(one - other) <= slack for (one, _), (other, _) in zip(final, span, strict=True))


@pytest.mark.parametrize(("codec", "container"), FINALS)
def test_clean_aperture_reaches_the_file(finals: Path, tmp_path: Path, codec: str, container: str) -> None:
    clap = CleanAperture.top_left((63, 47), (64, 48))
    final = tmp_path / f"odd.{container}"
    finish(finals / f"span_{codec}.mp4", final, codec, clap)
    if container == "mkv":
        video = mediainfo(final)
        assert (video["Width"], video["Height"]) == ("63", "47")
    else:
        assert read_boxes(read_moov(final)).clap == clap


def test_hlg_is_tagged_hlg_without_static_metadata(tmp_path: Path) -> None:
    for codec in ("hevc", "av1"):
        span = tmp_path / f"{codec}.mp4"
        make_span(span, codec, "hlg")
        stream = ffprobe(span, "-show_streams")["streams"][0]
        assert (stream["color_transfer"], stream["chroma_location"]) == ("arib-std-b67", "topleft")
        assert "side_data_list" not in stream
        assert mediainfo(span)["transfer_characteristics"] == "HLG"
        with av.open(str(span)) as file:
            packet = next(packet for packet in file.demux(video=0) if packet.is_keyframe)
            assert hdr10.read_packet(codec, bytes(packet)) == StaticMetadata(None, None)


def test_boxes_refuse_what_they_cannot_do(finals: Path, tmp_path: Path) -> None:
    with av.open(str(finals / "span_av1.mp4")) as span:
        stream = span.streams.video[0]
        with pytest.raises(ConversionError, match="mp4, mov, mkv"):
            template_stream(stream, None, None, None, "avi")
        with pytest.raises(ConversionError, match="mov"):
            template_stream(stream, None, None, None, "mov")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(make_box("ftyp", b"isom") + make_box("mdat", b"12345678"))
    with pytest.raises(ConversionError, match="no moov box"):
        read_moov(broken)
    with pytest.raises(ConversionError, match="no number 1"):
        read_boxes(read_moov(finals / "final_hevc.mp4"), track=1)
    with pytest.raises(ConversionError, match="moov"):
        append_to_sample_entry(broken.read_bytes(), b"")
