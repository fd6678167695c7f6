"""Reading what cameras write: positions against hand-made records, boxes against an own reader, and bytes that mean harm."""

from __future__ import annotations

import hashlib
import struct
import xml.etree.ElementTree as ET
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from camera_boxes import (
    BLACKVUE,
    BLACKVUE_TEXT,
    GOPRO,
    add_to_moov,
    box,
    children,
    gps9_packet,
    klv,
    nmea,
    novatek_block,
    walk,
    with_loose_blocks,
    with_novatek,
)
from clips import make_clip, remux
from hypothesis import given
from hypothesis import strategies as st
from oracles import ffprobe

from pipeline.telemetry import found as found_module
from pipeline.telemetry.companions import plan_companions
from pipeline.telemetry.fixes import GpsFix
from pipeline.telemetry.found import find_boxes
from pipeline.telemetry.gpmf import gpmf_fixes
from pipeline.telemetry.gpx import made_by_us, write_gpx
from pipeline.telemetry.keep import LAST_OFFSET, plan_boxes, settle
from pipeline.telemetry.nmea import MAX_LINE_BYTES, lines_of, nmea_fixes
from pipeline.telemetry.novatek import novatek_fix
from pipeline.telemetry.tags import tag_entries
from pipeline.telemetry.unowned import _gaps

MOMENT = datetime(2024, 5, 6, 7, 8, 9)
GPX = "{http://www.topografix.com/GPX/1/1}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "drive.mp4", frames=4)


@pytest.mark.parametrize("base", [48, 16])
def test_a_novatek_block_says_where_and_when(base: int) -> None:
    fix = novatek_fix(novatek_block(3, base=base))
    assert fix is not None
    assert (fix.latitude, fix.longitude) == pytest.approx((51 + 30.5 / 60, -(7 + 30.25 / 60)), abs=1e-6)
    assert fix.utc == MOMENT + timedelta(seconds=3)


@pytest.mark.parametrize(
    "bad",
    [
        novatek_block(0, active=b"V"),
        novatek_block(0, latitude=5175.0),
        novatek_block(0, latitude=9130.0),
        novatek_block(0, longitude=float("nan")),
        novatek_block(0, longitude=float("inf")),
        novatek_block(60),
        novatek_block(0)[:70],
        b"",
    ],
)
def test_a_novatek_block_without_a_sound_fix_gives_none(bad: bytes) -> None:
    assert novatek_fix(bad) is None


def test_nmea_sentences_of_a_moment_belong_together() -> None:
    first, second = nmea_fixes(BLACKVUE_TEXT.splitlines())
    assert (first.latitude, first.longitude) == pytest.approx((51 + 30.5 / 60, -(7 + 30.25 / 60)))
    assert (first.elevation_m, first.utc) == (123.4, MOMENT)
    assert (second.latitude, second.longitude) == pytest.approx((-(51 + 30.6 / 60), 7 + 30.25 / 60))
    assert (second.elevation_m, second.utc) == (None, MOMENT + timedelta(seconds=2.5))


@pytest.mark.parametrize(
    "line",
    [
        b"$GPRMC,070809,A,5130.500,N,00730.250,W,1,2,060524,,,A*00",  # wrong checksum
        nmea("GPRMC,070809,V,5130.500,N,00730.250,W,1,2,060524,,,A"),
        nmea("GPRMC,070809,A,5199.500,N,00730.250,W,1,2,060524,,,A"),
        nmea("GPRMC,070809,A,nan,N,00730.250,W,1,2,060524,,,A"),
        nmea("GPRMC,070809,A,1e9999,N,00730.250,W,1,2,060524,,,A"),
        nmea("GPGGA,070809,5130.500,N,00730.250,W,0,08,1.0,1,M,,M,,"),
        nmea("GPRMC,070809,A"),
    ],
)
def test_unsound_sentences_are_passed_over(line: bytes) -> None:
    assert list(nmea_fixes([line])) == []


def test_an_impossible_date_leaves_the_place() -> None:
    (fix,) = nmea_fixes([nmea("GPRMC,250809,A,5130.500,N,00730.250,W,1,2,310224,,,A")])
    assert fix.utc is None


def test_gps9_samples_have_their_own_time_and_fix() -> None:
    (fix,) = gpmf_fixes([(gps9_packet(), 1.0)])
    assert (fix.latitude, fix.longitude, fix.elevation_m) == pytest.approx((51.5083333, -7.5, 123.4))
    assert fix.utc == MOMENT + timedelta(seconds=0.5)


def gps5_packet(fix: int, scales: tuple[int, ...] = (10000000, 10000000, 1000, 1000, 100)) -> bytes:
    samples = b"".join(struct.pack(">5i", 515000000 + n, -75000000, 1000, 0, 0) for n in range(4))
    stream = klv(b"GPSF", b"L", 4, struct.pack(">I", fix)) + klv(b"GPSU", b"U", 16, b"240506070809.250")
    stream += klv(b"SCAL", b"l", 4, struct.pack(f">{len(scales)}i", *scales)) + klv(b"GPS5", b"l", 20, samples)
    return klv(b"DEVC", b"\0", 1, klv(b"STRM", b"\0", 1, stream))


def test_gps5_samples_lie_evenly_over_the_packet() -> None:
    fixes = list(gpmf_fixes([(gps5_packet(3), 1.0)]))
    assert [fix.utc for fix in fixes] == [MOMENT + timedelta(seconds=0.25 + 0.25 * n) for n in range(4)]
    assert [fix.latitude for fix in fixes] == pytest.approx([51.5 + n / 1e7 for n in range(4)], abs=1e-9)


@pytest.mark.parametrize("bad", [gps5_packet(0), gps5_packet(3, (0, 1, 1, 1, 1)), gps5_packet(3, (5, 7))])
def test_gps5_without_fix_or_divisors_gives_none(bad: bytes) -> None:
    assert list(gpmf_fixes([(bad, 1.0)])) == []


@pytest.mark.parametrize("seconds", [1e18, -1.0, float("inf"), float("nan")])
def test_a_packet_that_claims_to_last_for_ever_keeps_its_places(seconds: float) -> None:
    assert [fix.utc for fix in gpmf_fixes([(gps5_packet(3), seconds)])] == [MOMENT + timedelta(seconds=0.25)] * 4


@given(st.binary(max_size=400), st.integers(0, 400))
def test_hostile_bytes_never_crash_a_reader(noise: bytes, place: int) -> None:
    for sound in (novatek_block(1), gps9_packet(), gps5_packet(3), BLACKVUE_TEXT):
        at = min(place, len(sound))
        for data in (noise, sound[:at] + noise + sound[at:], sound[:at] + noise + sound[at + len(noise) :]):
            found = [fix for fix in (novatek_fix(data),) if fix is not None]
            found += gpmf_fixes([(data, 1.0)])
            found += nmea_fixes(lines_of([data]))
            assert all(abs(fix.latitude) <= 90 and abs(fix.longitude) <= 180 for fix in found)


def test_a_tower_of_nested_entries_ends() -> None:
    tower = b""
    for _ in range(4000):
        tower = klv(b"DEVC", b"\0", 1, tower[:60000])
    assert list(gpmf_fixes([(tower, 1.0)])) == []


def test_a_line_without_end_is_cut() -> None:
    assert max(len(line) for line in lines_of(b"x" * 1000 for _ in range(100))) <= MAX_LINE_BYTES + 1000


def test_gpx_is_what_the_schema_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "a.gpx"
    fixes = [GpsFix(51.5, -7.25, 12.0, MOMENT), GpsFix(51.6, -7.25)]
    assert write_gpx(path, [("none", []), ("a <b> & c", fixes)]) == {"a <b> & c": 2}
    root = ET.parse(path).getroot()
    assert (root.tag, root.get("version")) == (f"{GPX}gpx", "1.1")
    assert [name.text for name in root.iter(f"{GPX}name")] == ["a <b> & c"]
    first, second = root.iter(f"{GPX}trkpt")
    assert (first.get("lat"), first.get("lon")) == ("51.5000000", "-7.2500000")
    assert [child.tag.removeprefix(GPX) for child in first] == ["ele", "time"]  # the schema's order
    assert first.find(f"{GPX}time").text == "2024-05-06T07:08:09.000Z"
    assert list(second) == []
    assert made_by_us(path)


def test_no_position_leaves_no_file(tmp_path: Path) -> None:
    assert write_gpx(tmp_path / "a.gpx", [("none", [])]) == {}
    assert list(tmp_path.iterdir()) == []


def found_in(path: Path, data: bytes) -> dict[str, tuple[str, int, str]]:
    path.write_bytes(data)
    return {found.name: (found.nature, found.size, found.sha256) for found in find_boxes(path)}


def fact(nature: str, raw: bytes) -> tuple[str, int, str]:
    return nature, len(raw), hashlib.sha256(raw).hexdigest()


def test_boxes_that_ffmpeg_does_not_see_are_found(clip: Path, tmp_path: Path) -> None:
    gps0, xmp, spare = box(b"gps0", b"\x01" * 64), box(b"uuid", bytes(range(16)) + b"<x/>"), box(b"skip", bytes(99))
    data = add_to_moov(clip.read_bytes(), gps0, udta=GOPRO, track_udta=box(b"cam ", b"left")) + BLACKVUE + xmp + spare
    found = found_in(tmp_path / "a.mp4", data + b"end of file")
    firmware = walk(GOPRO)[0]
    assert found["moov/udta/FIRM"] == fact("vendor", GOPRO[firmware[1] : firmware[2]])
    assert {"moov/udta/LENS", "moov/udta/GPMF", "moov/udta/MUID"} <= found.keys()
    assert found["moov/gps0"] == fact("vendor", gps0)
    assert found["trak 1/udta/cam"] == fact("vendor", box(b"cam ", b"left"))
    assert found["file/uuid"] == fact("vendor", xmp)
    assert found["file/skip"] == fact("padding", spare)
    assert found["file, bytes that are no box"] == fact("rest", b"end of file")
    (vue,) = [one for one in find_boxes(tmp_path / "a.mp4") if one.what.startswith("BlackVue")]
    assert (vue.name, vue.size, vue.sha256) == ("file/free", *fact("", BLACKVUE)[1:])


def test_a_novatek_index_leads_to_its_blocks(clip: Path, tmp_path: Path) -> None:
    blocks = [novatek_block(number) for number in range(5)]
    found = found_in(tmp_path / "a.mp4", with_novatek(clip, blocks, wrong=2))
    assert found["mdat/free"] == fact("blocks", b"".join(blocks))
    assert found["moov/gps"][0] == "index"
    assert sum(name.startswith("file/free") for name in found) <= 1  # the muxer's own padding, not the blocks once more


def test_a_block_that_is_named_again_and_again_is_there_once(clip: Path, tmp_path: Path) -> None:
    data = with_novatek(clip, [novatek_block(0)])
    entry = next(part for part in children(data, b"moov") if part[4:8] == b"gps ")[16:24]
    index = box(b"gps ", bytes(8) + entry * 50_000)
    found = found_in(tmp_path / "a.mp4", add_to_moov(data[: walk(data)[-1][1]] + box(b"moov", b"".join(
        part for part in children(data, b"moov") if part[4:8] != b"gps "
    )), index))  # fmt: skip
    assert found["mdat/free"][1] == len(novatek_block(0))


def test_blocks_that_nothing_leads_to_are_found(clip: Path, tmp_path: Path) -> None:
    blocks = [novatek_block(number) for number in range(3)]
    found = found_in(tmp_path / "a.mp4", with_loose_blocks(clip, blocks))
    assert found["mdat, bytes that are no box"] == fact("rest", b"".join(blocks))
    assert "mdat, bytes that are no box" not in found_in(tmp_path / "b.mp4", clip.read_bytes())
    spare = found_in(tmp_path / "c.mp4", with_loose_blocks(clip, [bytes(300)]))
    assert spare["mdat, bytes that are no box"] == fact("padding", bytes(300))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=8), st.integers(0, 30), st.integers(0, 30))
def test_gaps_are_what_is_in_no_interval(spans: list[tuple[int, int]], start: int, length: int) -> None:
    spans = sorted(spans)
    first, size = (np.array([span[which] for span in spans], np.int64) for which in (0, 1))
    gaps = _gaps(first, first + size, start, start + length)
    taken = {place for one, count in spans for place in range(one, one + count)}
    assert [place for one, count in gaps for place in range(one, one + count)] == [
        place for place in range(start, start + length) if place not in taken
    ]


def test_more_boxes_than_a_camera_writes_are_called_impossible(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_module, "MAX_BOXES", 5)
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes() + box(b"cam ", b"x") * 9)
    plans = plan_boxes(find_boxes(tmp_path / "a.mp4"), "mp4", {1})
    assert [plan.outcome for plan in plans if plan.box.nature == "uncounted"] == ["impossible"]


def test_other_containers_have_no_boxes(tmp_path: Path) -> None:
    assert find_boxes(make_clip(tmp_path / "a.mkv", frames=2)) == []


@given(st.data())
def test_a_damaged_file_is_scanned_to_its_end(
    clip: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sound = bytearray(data.draw(st.sampled_from([_sound(), clip.read_bytes(), with_loose_blocks(clip, [_sound()])])))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(sound) - 1) | st.integers(max(0, len(sound) - 1500), len(sound) - 1))
        sound[at] = data.draw(st.sampled_from([0, 1, 7, 8, 16, 127, 255]))
    cut = bytes(sound[: data.draw(st.integers(0, len(sound)))])
    path = tmp_path_factory.getbasetemp() / "damaged.mp4"
    path.write_bytes(cut)
    for found in find_boxes(path):
        assert all(start >= 0 and start + size <= len(cut) for start, size in found.spans)


def _sound() -> bytes:
    blocks = novatek_block(0) + novatek_block(1)
    head = box(b"ftyp", b"isom\0\0\0\0") + box(b"mdat", blocks)
    entries = struct.pack(">4I", 24, len(novatek_block(0)), 24 + len(novatek_block(0)), len(novatek_block(1)))
    track = box(b"trak", box(b"tkhd", bytes(84)) + box(b"udta", GOPRO))
    meta = box(
        b"meta", bytes(4) + box(b"hdlr", bytes(8) + b"mdir" + bytes(12)) + box(b"ilst", box(b"\xa9nam", bytes(20)))
    )
    return head + box(b"moov", track + box(b"gps ", bytes(8) + entries) + box(b"udta", meta)) + BLACKVUE


def test_an_index_that_cannot_count_so_far_is_moved(clip: Path, tmp_path: Path) -> None:
    found_in(tmp_path / "a.mp4", with_novatek(clip, [novatek_block(0)]))
    plans = plan_boxes(find_boxes(tmp_path / "a.mp4"), "mp4", {1})
    fates = {plan.box.nature: plan.outcome for plan in settle(plans, 1000)}
    assert (fates["index"], fates["blocks"]) == ("remade", "kept")
    late = {plan.box.nature: plan for plan in settle(plans, LAST_OFFSET)}
    assert (late["index"].outcome, late["blocks"].outcome) == ("moved", "moved")
    assert late["blocks"].at == late["index"].box.size


def test_companions_go_by_stem_and_ending(tmp_path: Path) -> None:
    source = tmp_path / "drive.mp4"
    for name in (
        "drive.gpx",
        "drive.NMEA",
        "drive.SRT",
        "drive.json",
        "drive.evidence.json",
        "drive.txt",
        "drive2.gpx",
    ):
        (tmp_path / name).write_text(name)
    (tmp_path / "drive.log").mkdir()
    out = tmp_path / "hdr" / "d.mp4"
    out.parent.mkdir()
    plans = {plan.path.name: (plan.outcome, plan.target.name) for plan in plan_companions(source, out)}
    assert plans == {
        "drive.gpx": ("copied", "d.gpx"),
        "drive.NMEA": ("copied", "d.NMEA"),
        "drive.SRT": ("copied", "d.SRT"),
        "drive.json": ("copied", "d.json"),
    }
    (out.parent / "d.json").write_text("another")
    (out.parent / "d.SRT").write_text("drive.SRT")
    plans = {plan.path.name: plan.outcome for plan in plan_companions(source, out)}
    assert (plans["drive.json"], plans["drive.SRT"]) == ("impossible", "copied")
    assert {plan.outcome for plan in plan_companions(source, tmp_path / "drive.mkv")} == {"kept"}
    write_gpx(tmp_path / "drive.gpx", [("ours", [GpsFix(1.0, 2.0)])])
    assert "drive.gpx" not in {plan.path.name for plan in plan_companions(source, out)}


def test_a_language_that_nobody_named_is_not_lost(tmp_path: Path) -> None:
    """Matroska keeps no language `und`; it says nothing, so nothing is lost."""
    clip = make_clip(tmp_path / "c.mp4", frames=4)
    assert ffprobe(clip, "-show_entries", "stream_tags")["streams"][0]["tags"]["language"] == "und"
    bare = remux(clip, tmp_path / "c.mkv")
    assert [entry.outcome for entry in tag_entries(clip, bare, {0: 0}) if "language" in entry.what] == []


def test_tags_of_a_track_that_is_not_read_back_are_called_lost(clip: Path, tmp_path: Path) -> None:
    """A sound track whose tables name no packet: the muxer writes it, the demuxer does not show it."""
    source = make_clip(tmp_path / "source.mp4", frames=2, audio=True)
    entries = tag_entries(source, clip, {0: 0, 1: 1})
    assert {entry.outcome for entry in entries if entry.name == "tags of stream 1"} >= {"impossible"}
    assert {entry.outcome for entry in entries if entry.name == "tags of stream 0"} <= {"kept", "remade"}
